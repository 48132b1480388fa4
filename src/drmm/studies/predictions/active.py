"""T5 on your own net: only active paths matter.

Slide "Implications of the DP Interpretation": only the sparse set of optimal active paths matter for the final
decision of the convnet. A path is inactive if a gate on it is off, or a pool on it takes another position.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.explain import as_drmm
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import Gate, Pool, Rendering, Switches
from drmm.studies.predictions.verdict import MARGINS, Verdict, interval, judge

__all__ = ["ActivePaths", "active_paths_matter"]

Floats = npt.NDArray[np.float64]

_HARMLESS = 1e-6


@dataclass(frozen=True, slots=True)
class ActivePaths:
    """What units count, by whether paths through them are active.

    A change is the largest one of all logits, relative to the largest logit.

    Attributes:
        inactive: how many units a gate or a pool shuts off, of each image, (N,).
        active: how many it lets through, (N,).
        without_inactive: change when all that are shut off are set to 0 before the gate, (N,).
        shares: of as many active units, (S,).
        without_active: change when that share of as many active units, drawn at random, is set to 0, (N, S).
    """

    inactive: npt.NDArray[np.int64]
    active: npt.NDArray[np.int64]
    without_inactive: Floats
    shares: tuple[float, ...]
    without_active: Floats

    def verdict(self, command: str) -> Verdict:
        """Confirmed if no inactive unit matters, and as many active ones matter a hundred times as much.

        The first is algebra, for any weights; the interval is over the images of this one net.

        Args:
            command: what measures it again.

        Raises:
            InputError: if there are fewer than two images.
        """
        worst, control = float(self.without_inactive.max()), self.without_active[:, -1]
        times = interval(np.log10(np.maximum(control, 1e-30) / np.maximum(self.without_inactive, _HARMLESS)))
        share = float((self.inactive / (self.inactive + self.active)).mean())
        smallest = float(np.median(self.without_active[:, 0]))
        return Verdict(
            claim="Only the active paths matter for the decision of a trained net",
            slide="Implications of the DP Interpretation",
            law="T5",
            verdict="refuted" if worst > _HARMLESS else judge(times, MARGINS["a hundred times"]),
            says="What is off adds 0 already, whatever the weights: a trained net could not say otherwise, and "
            "the figures check the masks alone. "
            f"Setting all inactive units ({100 * share:.0f} %) to 0 changes logits by {worst:.1g} of the "
            f"largest at most; as many active ones, or all if there are fewer, by {np.median(control):.2g} "
            f"(median), and {100 * self.shares[0]:g} % of as many by {smallest:.2g}. {len(control)} images.",
            command=command,
            kind="algebra",
        )


@torch.no_grad()
def active_paths_matter(
    model: nn.Module, x: Tensor, *, shares: Sequence[float] = (0.01, 0.1, 1.0), seed: int = 0
) -> ActivePaths:
    """Set units to 0 at every gate and pool: those that it shuts off, then as many of those that it lets through.

    The net is run again each time and decides anew. What is shut off adds nothing where a gate is 0 when it is
    off, as ReLU, and where pools have such a gate below or above. With others (a max-pool of signed features that
    goes on to a sum, say) a 0 can win, and the change shows it.

    Args:
        model: a `DRMM` or a convnet.
        x: images (N, C, H, W).
        shares: of as many active units, in (0, 1], ascending; the last is what the verdict compares.
        seed: of the draw.

    Raises:
        InputError: if the model has no gate or pool that shuts anything off, or shares are out of range.
    """
    if not shares or list(shares) != sorted(shares) or not 0 < shares[0] <= shares[-1] <= 1:
        raise InputError(f"shares must be in (0, 1] and ascend, got {tuple(shares)}")
    drmm, generator = copy.deepcopy(as_drmm(model)), torch.Generator().manual_seed(seed)
    gates: dict[nn.Module, _Cut] = {}
    _cut_gates(drmm.levels, gates)
    cuts = list(gates.values())
    with evaluation(drmm):
        logits = _logits(drmm, x)
        shut = [mask for cut in cuts for mask in cut.shut_off]
        if not shut or not bool(torch.stack([mask.any() for mask in shut]).any()):
            raise InputError("no gate or pool shuts anything off here: there are no inactive paths")
        without_inactive = _change(drmm, cuts, x, logits, shut)
        without_active = [
            _change(drmm, cuts, x, logits, [_as_many(mask, share, generator) for mask in shut]) for share in shares
        ]
    return ActivePaths(
        inactive=np.sum([_count(mask) for mask in shut], 0),
        active=np.sum([_count(~mask) for mask in shut], 0),
        without_inactive=without_inactive,
        shares=tuple(shares),
        without_active=np.stack(without_active, 1),
    )


@final
class _Cut(Rendering):
    """A gate or pool that is told which of its inputs to set to 0.

    Attributes:
        shut_off: what it shuts off, bool of its inputs' shape, for each time that it was used.
        removed: what to set to 0 likewise; None notes what is shut off instead.
    """

    def __init__(self, gate: Rendering) -> None:
        super().__init__()
        self.gate = gate
        self.shut_off: list[Tensor] = []
        self.removed: list[Tensor] | None = None

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """As the gate, of what is left."""
        if self.removed is not None:
            return self.gate.infer(torch.where(self.removed.pop(0), 0.0, x))
        y, switches = self.gate.infer(x.clone())
        self.shut_off.append(self.gate.shut(y, switches))
        return y, switches

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """As the gate."""
        return self.gate.render(z, switches)


def _cut_gates(module: nn.Module, known: dict[nn.Module, _Cut]) -> None:
    """Wrap every gate and pool below a module, in place, and note it; one that is used twice has one wrapper."""
    every = module.named_modules(remove_duplicate=False)
    for name, child in [(name, child) for name, child in every if name and "." not in name]:
        part: nn.Module = child.unfused() if isinstance(child, Rendering) else child
        if isinstance(part, Gate | Pool) and part.shuts:
            part = known.setdefault(part, _Cut(part))
        elif not isinstance(part, _Cut):
            _cut_gates(part, known)
        if part is not child:
            setattr(module, name, part)


def _logits(model: DRMM, x: Tensor) -> Tensor:
    """By way of `infer`, where the cuts are."""
    return model.templates(model.levels.infer(x)[0])  # type: ignore[no-any-return]


def _change(model: DRMM, cuts: Sequence[_Cut], x: Tensor, logits: Tensor, removed: Sequence[Tensor]) -> Floats:
    """Largest change of a logit, relative to the largest logit, (N,)."""
    left = iter(removed)
    for cut in cuts:
        cut.removed = [next(left) for _ in cut.shut_off]
    scale = logits.abs().amax(1).clamp(min=torch.finfo(logits.dtype).tiny)
    values: Floats = ((_logits(model, x) - logits).abs().amax(1) / scale).double().cpu().numpy()
    return values


def _as_many(shut: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A share of as many units as are shut off, out of those that are not, at random; all if there are fewer."""
    flat = shut.flatten(1)
    order = torch.rand(flat.shape, generator=generator).to(flat.device).masked_fill(flat, 2.0).argsort(1)
    number = (share * flat.sum(1, keepdim=True)).ceil().long()
    drawn = torch.arange(flat.shape[1], device=flat.device) < number
    return (torch.zeros_like(flat).scatter(1, order, drawn) & ~flat).reshape(shut.shape)


def _count(mask: Tensor) -> npt.NDArray[np.int64]:
    """How many, of each image, (N,)."""
    values: npt.NDArray[np.int64] = mask.flatten(1).sum(1).cpu().numpy()
    return values
