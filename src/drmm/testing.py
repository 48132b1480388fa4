"""The oracle: small nets by brute force, scores path by path, and the dot-product test for new renderings.

It shares no code with what it checks. A dictionary becomes a dense matrix by pushing every unit image through
torch's own layer, a pooling window becomes the list of its positions, and every configuration is drawn from the
class template down. `render`, `bound` and the fused levels are never called. Of a gate or pool of your own it
takes what the class declares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.deep import DRMM, Latents, evaluation
from drmm.rendering import (
    Abs,
    Choice,
    Conv2d,
    Flatten,
    Gate,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    Pool,
    ReLU,
    Rendering,
    Sequential,
    Switches,
)
from drmm.rendering.bounds import NoBoundError
from drmm.rendering.laws import check_rendering, dot_product_gap

__all__ = [
    "Enumeration",
    "Paths",
    "ScoreObjective",
    "check_rendering",
    "count_configurations",
    "dot_product_gap",
    "enumerate_configurations",
    "enumerate_paths",
    "random_net",
]

ScoreObjective = Literal["max-sum", "gaussian"]

_LINEAR = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
)


@dataclass(frozen=True, slots=True)
class Enumeration:
    """The best of all configurations, found by trying each.

    Attributes:
        score: the best value of the objective for each class, (N, C).
        label: the class of the best one, (N,).
        switches: those of the best one; a switch that no path reaches is as it was tried first.
        configurations: how many were tried: joint switch configurations times classes.
    """

    score: Tensor
    label: Tensor
    switches: Switches
    configurations: int


@dataclass(frozen=True, slots=True)
class Paths:
    """Every path from one class template down to a pixel or a bias (slide "The Sum-over-Paths Formulation").

    Attributes:
        gamma: γ_p, the product of the dictionary entries along the path, (P,).
        switch: t_p a_p, the product of the switches along it, (P,); 0 where the path is inactive.
        end: flat index of the pixel where it ends, or -1 where it ends in a bias, (P,).
        shape: (C, H, W) of the picture.
    """

    gamma: Tensor
    switch: Tensor
    end: Tensor
    shape: tuple[int, ...]

    @property
    def active(self) -> Tensor:
        """Whether every switch along the path is on, bool (P,)."""
        return self.switch != 0

    def image(self) -> Tensor:
        """I_x = Σ_{p: c→x} t_p a_p γ_p, of shape `shape`."""
        ends = self.end >= 0
        canvas = self.gamma.new_zeros(math.prod(self.shape))
        canvas.index_add_(0, self.end[ends], (self.gamma * self.switch)[ends])
        return canvas.reshape(self.shape)

    def scores(self, x: Tensor) -> Tensor:
        """What each path adds to the score of one image x of shape `shape`, (P,): t_p a_p γ_p I_x."""
        inputs = torch.cat([x.flatten(), x.new_ones(1)])  # a bias is a pixel that is always 1
        return self.gamma * self.switch * inputs[self.end]


@dataclass(frozen=True, slots=True)
class _Affine:
    """matrix (D_out, D_in), offset (D_out,)."""

    matrix: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True)
class _Choice:
    """One switch a unit, of K options: source, factor and value are (D_out, K); the first `options` are real.

    Option k links the unit to unit `source` below, times `factor`, and switches record it as `value`.
    """

    name: str
    leaf: int
    below: int
    source: Tensor
    factor: Tensor
    value: Tensor
    options: Tensor


_Stage = _Affine | _Choice


def count_configurations(model: DRMM, image_shape: Sequence[int] | None = None) -> int:
    """How many joint configurations of class and switches a net has.

    Args:
        model: levels as in `enumerate_configurations`.
        image_shape: (C, H, W), the model's own by default.

    Raises:
        InputError: if the shape is unknown, or a rendering cannot be enumerated.
    """
    shape = model.image_shape if image_shape is None else tuple(image_shape)
    if shape is None:
        raise InputError("the model does not know its image shape: pass image_shape=(C, H, W)")
    return _count(_stages(model, shape)) * model.n_classes


@torch.no_grad()
def enumerate_configurations(
    model: DRMM, x: Tensor, objective: ScoreObjective = "max-sum", *, limit: int = 100_000
) -> Enumeration:
    """The best class and switches by brute force, in evaluation mode: what `DRMM.infer` has to find.

    Tries every class, every a of every gate (on or off; the sign of `Abs`, the slope of `LeakyReLU`) and every
    position t of every pooling window.

    Args:
        model: levels of `Level`, plain renderings, and renderings of your own of a kind.
        x: images (N, C, H, W).
        objective: "max-sum" is ⟨μ_cg, I⟩ plus the bias paths and the class bias (slide "Inference in the DRMM
            yields Deep Convnets"); "gaussian" is -½‖I - μ_cg‖², with the ½‖μ_cg‖² that the slides drop.
        limit: refuse more configurations than this.

    Raises:
        InputError: if there are too many configurations, or a rendering cannot be enumerated.
    """
    if objective not in {"max-sum", "gaussian"}:
        raise InputError(f"objective must be 'max-sum' or 'gaussian', not {objective!r}")
    stages = _stages(model, tuple(x.shape[1:]))
    total, classes = _count(stages), model.n_classes
    if total * classes > limit:
        raise InputError(f"{total * classes} configurations are more than the limit of {limit}: use a smaller net")
    images = x.flatten(1)
    best = x.new_full((len(x), classes), -math.inf)
    found = torch.zeros_like(best, dtype=torch.long)
    batch = max(1, 4_000_000 // (classes * _widest(stages)))
    for first in range(0, total, batch):
        number = torch.arange(first, min(first + batch, total), device=x.device)
        templates, offset = _draw(stages, model.templates, number)
        score = images @ templates.flatten(0, 1).T  # (N, K·C)
        score = score.reshape(len(x), *offset.shape)
        if objective == "max-sum":
            score += offset
        else:
            score -= 0.5 * (templates.square().sum(2) + images.square().sum(1)[:, None, None])
        most, place = score.max(1)
        found = torch.where(most > best, first + place, found)
        best = torch.maximum(best, most)
    label = best.argmax(1)
    switches = _switches(stages, model, x, found.gather(1, label[:, None]).squeeze(1))
    return Enumeration(best, label, switches, total * classes)


@torch.no_grad()
def enumerate_paths(model: DRMM, latents: Latents, *, limit: int = 100_000) -> Paths:
    """Every path of a tiny net, with the switches of one image: the picture is the sum of t_p a_p γ_p.

    Args:
        model: as in `enumerate_configurations`.
        latents: of one image, from `DRMM.infer` in evaluation mode.
        limit: refuse more paths than this.

    Raises:
        InputError: if there are several images or too many paths, or a rendering cannot be enumerated.
    """
    if len(latents.label) != 1:
        raise InputError(
            f"paths belong to one image, got {len(latents.label)}: use latents.select(slice(i, i + 1))"
        )
    shape, leaves = latents.switches.shape, list(latents.switches.leaves())
    gamma = model.templates.weight[latents.label[0]]
    walk = _Walk(gamma, torch.ones_like(gamma), torch.arange(len(gamma), device=gamma.device), limit)
    ends = [] if model.templates.bias is None else [(model.templates.bias[latents.label], gamma.new_ones(1))]
    for stage in reversed(_stages(model, shape)):
        if isinstance(stage, _Affine):
            ends.append(walk.biases(stage))
            walk.follow(stage)
        else:
            walk.switch(stage, leaves[stage.leaf])
    biases = torch.cat([walk.gamma[:0], *(end[0] for end in ends)])
    strengths = torch.cat([walk.strength[:0], *(end[1] for end in ends)])
    return Paths(
        gamma=torch.cat([walk.gamma, biases]),
        switch=torch.cat([walk.strength, strengths]),
        end=torch.cat([walk.unit, walk.unit.new_full((len(biases),), -1)]),
        shape=shape,
    )


def random_net(
    generator: torch.Generator | int,
    *,
    signed: Sequence[bool] = (True, False, False),
    n_classes: int = 3,
    bias: bool = True,
    pool: bool | None = None,
    limit: int = 20_000,
) -> DRMM:
    """A small net in evaluation mode, small enough to enumerate: geometry and weights are drawn at random.

    Args:
        generator: source of randomness, or a seed.
        signed: whether each dictionary, pixels first, has both signs, and the class templates last; one level
            less than its length. Where only the first is signed, max-sum inference is exact.
        n_classes: number of class templates.
        bias: whether levels and classes have biases, of either sign.
        pool: whether every level (True), none (False) or each at random (None) has max-pooling.
        limit: at most this many configurations.

    Raises:
        InputError: if `signed` is shorter than 2, or no such net was found within the limit.
    """
    if len(signed) < 2:
        raise InputError("signed needs one entry a level and one for the class templates")
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    for _ in range(200):
        shape = (_integer(1, 2, generator), _integer(3, 4, generator), _integer(3, 5, generator))
        levels, size = _random_levels(shape, len(signed) - 1, generator, bias=bias, pool=pool)
        templates = Linear(math.prod(size), n_classes, bias=bias)
        model = DRMM(Sequential(*levels, Flatten()), templates, image_shape=shape).eval()
        if count_configurations(model) <= limit:
            _randomize([*levels, templates], signed, generator)
            return model
    raise InputError(
        f"found no net of {len(signed) - 1} levels with at most {limit} configurations: raise the limit"
    )


# --- a net as a chain of dense matrices and choices ---


def _stages(model: DRMM, shape: tuple[int, ...]) -> list[_Stage]:
    """The net, pixels first, on pictures of (C, H, W)."""
    stages: list[_Stage] = []
    blank = model.templates.weight.new_zeros(1, *shape)
    leaf = 0
    with torch.no_grad(), evaluation(model.levels):
        for group in _groups(model.levels):
            for module in group:
                stage, blank = _stage(module, blank, leaf)
                stages.append(stage)
            leaf += any(isinstance(stage, _Choice) for stage in stages[-len(group) :])
    return stages


def _groups(rendering: nn.Module) -> Iterator[list[nn.Module]]:
    """Modules in the order of inference; those that share one `Switches` together."""
    if isinstance(rendering, Sequential):
        for part in rendering:
            yield from _groups(part)
    elif isinstance(rendering, Level):
        # The position is chosen first; that the gate then acts on the pooled units leaves the maximum as it is.
        parts = (rendering.dictionary, rendering.norm, rendering.pool, ReLU())
        yield [part for part in parts if part is not None]
    else:
        yield [rendering]


def _stage(module: nn.Module, blank: Tensor, leaf: int) -> tuple[_Stage, Tensor]:
    """One module as a stage on inputs like `blank` (1, ...), and a blank output."""
    if isinstance(module, MaxPool2d):
        return _windows(module, blank, leaf)
    if isinstance(module, LeakyReLU | ReLU):
        return _gate(blank, "a", (getattr(module, "negative_slope", 0.0), 1.0), leaf), blank
    if isinstance(module, Abs):
        return _gate(blank, "s", (-1.0, 1.0), leaf), blank
    if isinstance(module, Gate) and not module.drawn:
        return _declared_gate(module, blank, leaf), blank
    if isinstance(module, Pool) and not module.drawn:
        return _declared_pool(module, blank, leaf)
    return _dense(module, blank)


def _dense(module: nn.Module, blank: Tensor) -> tuple[_Affine, Tensor]:
    """The matrix of an affine module: its answer to every unit image."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is None:
        raise InputError("cannot enumerate a norm without running statistics: it depends on the batch")
    units = blank.numel()
    basis = torch.eye(units, dtype=blank.dtype, device=blank.device).reshape(units, *blank.shape[1:])
    offset = _answer(module, blank)
    matrix = (_answer(module, basis) - offset).flatten(1).T
    return _Affine(matrix, offset.flatten()), torch.zeros_like(offset)


def _answer(module: nn.Module, x: Tensor) -> Tensor:
    for kind in _LINEAR:
        if isinstance(module, kind):
            forward = cast("Callable[[nn.Module, Tensor], Tensor]", kind.forward)
            return forward(module, x)
    if isinstance(module, Rendering):
        y, switches = module.infer(x)
        if not any(True for _ in switches.leaves()):
            return y
    raise InputError(f"cannot enumerate {type(module).__name__}: it makes a choice that the oracle does not know")


def _gate(blank: Tensor, name: str, factors: tuple[float, float], leaf: int) -> _Choice:
    """Off or on: the unit itself, times the first factor or the second."""
    units = blank.numel()
    own = torch.arange(units, device=blank.device)
    factor = blank.new_tensor(factors).expand(units, 2)
    value = torch.tensor([0, 1], device=blank.device).expand(units, 2)
    options = torch.full_like(own, 2)
    return _Choice(name, leaf, units, own[:, None].expand(units, 2), factor, value, options)


def _windows(pool: MaxPool2d, blank: Tensor, leaf: int) -> tuple[_Choice, Tensor]:
    """Every position of every window that lies inside the picture."""
    _, channels, height, width = blank.shape
    y = F.max_pool2d(blank, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    kernel, stride = _pair(pool.kernel_size), _pair(pool.stride)
    padding, dilation = _pair(pool.padding), _pair(pool.dilation)
    rows: list[list[tuple[int, int]]] = []
    for c, i, j in _grid(channels, y.shape[2], y.shape[3]):
        rows.append([])
        for _, k, m in _grid(1, kernel[0], kernel[1]):
            row = i * stride[0] - padding[0] + k * dilation[0]
            column = j * stride[1] - padding[1] + m * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                rows[-1].append(((c * height + row) * width + column, k * kernel[1] + m))
    return _table(rows, blank, leaf), y


def _table(rows: list[list[tuple[int, int]]], blank: Tensor, leaf: int) -> _Choice:
    """The choice of a pool, from the unit below and the recorded value of each option of each unit."""
    most = max(len(row) for row in rows)
    table = torch.tensor([row + [(0, -1)] * (most - len(row)) for row in rows], device=blank.device)
    options = torch.tensor([len(row) for row in rows], device=blank.device)
    factor = blank.new_ones(len(rows), most)
    return _Choice("t", leaf, blank.numel(), table[..., 0], factor, table[..., 1], options)


def _declared_gate(gate: Gate, blank: Tensor, leaf: int) -> _Choice:
    """A gate of one's own, by the slopes that it declares."""
    pieces, (y, switches) = gate.pieces(blank), gate.infer(blank)
    name, choice = next(switches.choices())
    offsets = [offset for _, offset in pieces if bool((torch.as_tensor(offset) != 0).any())]
    try:
        gate.bounds(blank, blank)
    except NoBoundError:
        offsets.append(None)
    if offsets or choice.shape != y.shape:
        raise InputError(f"cannot enumerate {gate.name}: its pieces have offsets or ends, or units share a choice")
    units = blank.numel()
    own = torch.arange(units, device=blank.device)
    factor = torch.stack([(slope * torch.ones_like(blank)).flatten() for slope, _ in pieces], 1)
    value = torch.arange(len(pieces), device=blank.device).expand(units, len(pieces))
    options = torch.full_like(own, len(pieces))
    return _Choice(name, leaf, units, own[:, None].expand(units, len(pieces)), factor, value, options)


def _declared_pool(pool: Pool, blank: Tensor, leaf: int) -> tuple[_Choice, Tensor]:
    """A pool of one's own, by the candidates that it declares."""
    numbers = torch.arange(blank.numel(), dtype=torch.float64, device=blank.device).reshape(blank.shape)
    listed = pool.candidates(numbers).flatten(0, -2)
    rows = [[(int(unit), k) for k, unit in enumerate(row) if unit >= 0] for row in listed.tolist()]
    return _table(rows, blank, leaf), torch.zeros_like(pool.infer(blank)[0])


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _grid(*sizes: int) -> Iterator[tuple[int, ...]]:
    yield from torch.cartesian_prod(*(torch.arange(size) for size in sizes)).tolist()


# --- configurations ---


def _count(stages: list[_Stage]) -> int:
    return math.prod(int(n) for stage in stages if isinstance(stage, _Choice) for n in stage.options)


def _widest(stages: list[_Stage]) -> int:
    return max([1, *(stage.matrix.shape[1] if isinstance(stage, _Affine) else stage.below for stage in stages)])


def _draw(stages: list[_Stage], top: Linear | Choice, number: Tensor) -> tuple[Tensor, Tensor]:
    """Top-down: μ_cg (K, C, D) and the bias paths (K, C) of the configurations with these numbers (K,)."""
    z = top.weight.expand(len(number), *top.weight.shape)
    offset = z.new_zeros(z.shape[:2]) if top.bias is None else top.bias.expand(z.shape[:2])
    for stage in reversed(stages):
        if isinstance(stage, _Affine):
            offset = offset + z @ stage.offset
            z = z @ stage.matrix
        else:
            number, k = _digits(number, stage.options)
            unit = torch.arange(len(stage.options), device=k.device)
            index = stage.source[unit, k][:, None].expand(z.shape)
            drawn = z * stage.factor[unit, k][:, None]
            z = z.new_zeros(*z.shape[:2], stage.below).scatter_add_(2, index, drawn)
    return z, offset


def _switches(stages: list[_Stage], model: DRMM, x: Tensor, number: Tensor) -> Switches:
    """Those of the configuration with a number (N,), for each image."""
    with evaluation(model.levels):
        like = model.levels.infer(x)[1]
    chosen: dict[int, dict[str, Tensor]] = {}
    for stage in reversed(stages):
        if isinstance(stage, _Choice):
            number, k = _digits(number, stage.options)
            value = stage.value[torch.arange(len(stage.options), device=k.device), k]
            chosen.setdefault(stage.leaf, {})[stage.name] = value
    place = itertools.count()

    def take(leaf: Switches) -> Switches:
        own = chosen[next(place)]
        values: dict[str, Any] = {name: own[name].reshape(old.shape).to(old.dtype) for name, old in leaf.choices()}
        return replace(leaf, **values)

    return like.map_leaves(take)


def _digits(number: Tensor, options: Tensor) -> tuple[Tensor, Tensor]:
    """Read one option for each unit off the numbers (K,): what is left of them, and (K, D)."""
    digits = []
    for n in options.tolist():
        digits.append(number % n)
        number = torch.div(number, n, rounding_mode="floor")
    return number, torch.stack(digits, 1)


# --- paths ---


@dataclass(slots=True)
class _Walk:
    """All paths so far: γ_p (P,), t_p a_p (P,) and the unit that each has reached (P,)."""

    gamma: Tensor
    strength: Tensor
    unit: Tensor
    limit: int

    def follow(self, stage: _Affine) -> None:
        """Split every path into one for each nonzero dictionary entry of its unit."""
        links = (stage.matrix != 0).sum(1)[self.unit].sum()
        if int(links) > self.limit:
            raise InputError(f"{int(links)} paths are more than the limit of {self.limit}: use a smaller net")
        entries = stage.matrix[self.unit]
        path, unit = entries.nonzero(as_tuple=True)
        self.gamma = self.gamma[path] * entries[path, unit]
        self.strength = self.strength[path]
        self.unit = unit

    def biases(self, stage: _Affine) -> tuple[Tensor, Tensor]:
        """γ and switches of the paths that leave here, into a bias."""
        offset = stage.offset[self.unit]
        leaves = offset != 0
        return (self.gamma * offset)[leaves], self.strength[leaves]

    def switch(self, stage: _Choice, switches: Switches) -> None:
        """Apply a gate to every path, or split every path over the positions of its window."""
        chosen = cast("Tensor", getattr(switches, stage.name)).flatten().long()
        picked = stage.value == chosen[:, None]
        if stage.name != "t":
            self.strength = self.strength * (picked * stage.factor).sum(1)[self.unit]
            return
        path, option = (stage.value[self.unit] >= 0).nonzero(as_tuple=True)
        above = self.unit[path]
        self.gamma = self.gamma[path]
        self.strength = self.strength[path] * picked[above, option]
        self.unit = stage.source[above, option]


# --- random nets ---


def _random_levels(
    shape: tuple[int, int, int], n: int, generator: torch.Generator, *, bias: bool, pool: bool | None
) -> tuple[list[Level], tuple[int, int, int]]:
    """Levels of random geometry on pictures of (C, H, W), and the shape of the features on top."""
    levels = []
    channels, height, width = shape
    for _ in range(n):
        kernel = _integer(1, min(2, height), generator), _integer(1, min(3, width), generator)
        height, width = height - kernel[0] + 1, width - kernel[1] + 1
        c_out = _integer(1, 3, generator)
        dictionary = Conv2d(channels, c_out, kernel, bias=bias)
        window = None
        if pool or (pool is None and _integer(0, 1, generator)):
            size = _integer(1, min(2, height), generator), _integer(1, min(2, width), generator)
            window = MaxPool2d(size)
            height, width = height // size[0], width // size[1]
        levels.append(Level(dictionary, None, window))
        channels = c_out
    return levels, (channels, height, width)


@torch.no_grad()
def _randomize(modules: list[nn.Module], signed: Sequence[bool], generator: torch.Generator) -> None:
    for module, both in zip(modules, signed, strict=True):
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            if name.endswith("weight") and not both:
                parameter.abs_()


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Uniform in low, …, high."""
    return int(torch.randint(low, high + 1, (), generator=generator))
