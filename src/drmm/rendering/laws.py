"""The laws of a rendering, as checks to run on a new one: see `drmm.testing`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.rendering.base import NoBoundError, Rendering, Switches
from drmm.rendering.kinds import AffineRendering, Gate, Norm, Pool

__all__ = ["check_rendering", "dot_product_gap"]


@torch.no_grad()
def dot_product_gap(rendering: Rendering, x: Tensor, generator: torch.Generator | None = None) -> float:
    """Law 0 for one rendering: how far ⟨A_g v, z⟩ and ⟨v, A_gᵀ z⟩ are apart, relative to ‖A_g v‖ ‖z‖.

    A_g v is the derivative of `infer` at x in a random direction v (torch.func.jvp), A_gᵀ z what `render` draws
    from a random z with the same switches. About 1e-16 in float64; authors of renderings should see < 1e-10.
    A rendering that draws (dropout) gets the same randomness twice; one that normalises by the statistics of
    the batch must be in evaluation mode.

    Args:
        rendering: what to test.
        x: (N, ...), in float64 and without ties.
        generator: source of randomness.

    Raises:
        InputError: if `render` draws on a canvas of another shape than x's.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    v = torch.randn(x.shape, generator=generator, dtype=x.dtype)

    def infer(value: Tensor) -> tuple[Tensor, Switches]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return rendering.infer(value)

    y, switches = infer(x)
    z = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    canvas = rendering.render(z, switches)
    if canvas.shape != x.shape:
        raise InputError(f"render drew a canvas of {tuple(canvas.shape)} for an input of {tuple(x.shape)}")
    with warnings.catch_warnings():  # torch's forward mode calls its own deprecated torch.jit.script
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        up = torch.func.jvp(lambda value: infer(value)[0], (x,), (v,))[1]
    gap = ((up * z).sum() - (v * canvas).sum()).abs()
    scale = torch.maximum(up.norm() * z.norm(), v.norm() * canvas.norm())
    return float(gap / scale.clamp(min=torch.finfo(x.dtype).tiny))


def check_rendering(rendering: Rendering, x: Tensor, *, seed: int = 0) -> None:
    """All laws that a rendering's kind rests on, checked on some images, in evaluation mode.

    What a rendering refuses by an error of its own (a bound, path counts) is not checked: that is no law broken.

    Args:
        rendering: what to test; run it on a few sizes.
        x: (N, ...) with N ≥ 2, in float64 and without ties; small, for the matrix of the whole map is built.
        seed: of everything that is drawn.

    Raises:
        InputError: if it breaks a law: the message names all that it breaks.
    """
    if len(x) < 2 or x.dtype != torch.float64:
        raise InputError(f"check a rendering on two or more images in float64, got {x.dtype} {tuple(x.shape)}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        tested = copy.deepcopy(rendering).eval()
        broken = [law for law, holds in _LAWS.items() if not holds(tested, x)]
    if broken:
        raise InputError(f"{rendering.name} breaks {len(broken)} of {len(_LAWS)} laws: {'; '.join(broken)}")


# --- what a rendering's kind rests on ---


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool(((one - other).abs() <= 1e-9 * (1 + other.abs().max())).all())


def _twice(rendering: Rendering, x: Tensor) -> tuple[Tensor, Switches]:
    """`infer` with the same randomness each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return rendering.infer(x)


def _leaves_its_input(rendering: Rendering, x: Tensor) -> bool:
    before = x.clone()
    rendering.infer(x)
    return torch.equal(x, before) or bool(getattr(rendering, "inplace", False))


def _takes_images_one_by_one(rendering: Rendering, x: Tensor) -> bool:
    y, switches = _twice(rendering, x)
    z = torch.randn_like(y)
    drawn = rendering.render(z, switches)
    alone = rendering.render(z[1:], switches.select(slice(1, None)))
    first = y if switches.kept is not None else _twice(rendering, x[1:])[0]
    return len(y) == len(x) and _same(first[-1:], y[-1:]) and _same(alone, drawn[1:])


def _is_transposed(rendering: Rendering, x: Tensor) -> bool:
    return dot_product_gap(rendering, x) < 1e-10


def _is_affine(rendering: Rendering, x: Tensor) -> bool:
    if not isinstance(rendering, AffineRendering):
        return True
    offset, other = rendering(torch.zeros_like(x)), torch.randn_like(x)
    return _same(rendering(x + 2 * other), rendering(x) + 2 * (rendering(other) - offset))


def _is_enclosed(rendering: Rendering, x: Tensor) -> bool:
    reach = torch.rand_like(x)
    try:
        ends = [rendering.bounds(x, x), rendering.bounds(x - reach, x + reach)]
    except NoBoundError:
        return True
    for (lower, upper), span in zip(ends, (0.0, 1.0), strict=True):
        slack = 1e-9 * (1 + torch.maximum(lower.abs(), upper.abs()))
        for _ in range(20):
            inside = x + span * reach * (2 * torch.rand_like(x) - 1).sign() * torch.rand_like(x).round()
            y, switches = _twice(rendering, inside)
            for value in (y, rendering.reinfer(inside, switches, torch.randn_like(y))[0]):
                if bool(((value < lower - slack) | (value > upper + slack)).any()):
                    return False
    return True


def _is_relaxed(rendering: Rendering, x: Tensor) -> bool:
    """One unit at a time, at corners and inside; for all switches, and for those that `infer` finds."""
    reach = torch.rand_like(x)
    y, own = _twice(rendering, x)
    for switches in (None, own):
        try:
            (lower, upper), down = rendering.relaxed(x - reach, x + reach, switches)
        except NoBoundError:
            return True
        for _ in range(10):
            unit = torch.randint(y[0].numel(), (len(y), 1))
            size = torch.randn(len(y), 1, dtype=y.dtype)
            z = y.new_zeros(len(y), y[0].numel()).scatter(1, unit, size).reshape(y.shape)
            draw = 2 * torch.rand_like(x) - 1
            inside = x + reach * draw.where(torch.rand(()) < 0.5, draw.sign())
            value, found = _twice(rendering, inside)
            value = rendering.reinfer(inside, found, z)[0] if switches is None else value
            (w, b), slack = down(z), 1e-9 * (1 + value.abs().max())
            above = (w * inside).flatten(1).sum(1) + b - (z * value).flatten(1).sum(1)
            if bool((above < -slack).any() or ((value < lower - slack) | (value > upper + slack)).any()):
                return False
    return True


def _is_counted(rendering: Rendering, x: Tensor) -> bool:
    """Against the derivative of `infer`, entry by entry; of a single kind, whose entries are its paths."""
    if not isinstance(rendering, AffineRendering | Gate | Pool | Norm):
        return True
    y, switches = _twice(rendering, x[:1])
    paths = torch.randint(1, 9, y.shape).double()
    try:
        active, every = (rendering.count(paths, switches, every=every) for every in (False, True))
    except InputError:
        return True
    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(lambda image: _twice(rendering, image)[0], x[:1])
    matrix = jacobian.reshape(-1, x[0].numel())
    rounding = 1e-12 * matrix.abs().max()
    entries = (matrix.abs() > rounding).double()
    right = (paths.flatten() @ entries).reshape(active.shape)
    whole = _same(every, right) if isinstance(rendering, AffineRendering | Norm) else bool((every >= right).all())
    return _same(active, right) and whole


def _never_lowers(rendering: Rendering, x: Tensor) -> bool:
    y, switches = _twice(rendering, x)
    z = torch.randn_like(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        again, new = rendering.reinfer(x, switches, z)
        same = rendering.reinfer(x, switches, torch.zeros_like(z))[0]
    gain = (z * (again - y)).flatten(1).sum(1)
    return _same(same, y) and bool((gain >= -1e-9).all()) and rendering.render(z, new).shape == x.shape


_LAWS: dict[str, Callable[[Rendering, Tensor], bool]] = {
    "infer leaves its input as it is": _leaves_its_input,
    "images go through one by one, and so do their switches": _takes_images_one_by_one,
    "render is the transpose of infer (dot-product test)": _is_transposed,
    "an AffineRendering is affine": _is_affine,
    "bounds enclose every value, whatever the switches": _is_enclosed,
    "what comes down relaxed lies above every value": _is_relaxed,
    "count is the number of entries of the matrix that are not 0": _is_counted,
    "reinfer never lowers ⟨z, y⟩, and keeps the choice where z is 0": _never_lowers,
}
