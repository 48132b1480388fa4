"""Structure selection: which width, depth or preset, by what images say that were not learned from.

Slide "Model Selection for learning structure/architectural parameters … all the good stuff that comes with
generative model". Every candidate learns from the same four fifths of the images; the others judge it:

- "error": share of the held-out labelled images that are classified wrongly, in percent; lower is better.
- "picture": log p(I | ĉ, ĝ) of the held-out images, in nats per image; higher is better. ĉ and ĝ are inferred from
  the image itself and cost nothing, so that only templates that do not carry over to new images count against a
  structure.
- "heldout": the complete-data log-joint log p(I, ĉ, ĝ) of the held-out images, likewise.
- "bic": k ln N - 2 Σ_n log p(I_n, ĉ_n, ĝ_n) over the N images that were learned from; lower is better.

All but the error are densities over images: brightness has a prior, fitted to the images that were learned from,
and is integrated over (`drmm.model.brightness`).

The last two are complete-data criteria, like the ICL of mixture models: class and switches are maximised over, not
summed out. They bound the log-likelihood from below, and the bound is the length of the whole message (I, ĉ, ĝ):
every unit pays for its switches, about their entropy, whether the picture depends on them or not. Where switches
are few beside the pixels, that finds a planted number of templates (`tests/learning/test_selection.py`). A convnet
has thousands of them at some tenths of a nat each, while a picture of MNIST is worth some hundred nats in all:
there both choose the narrowest and shallowest net, which errs most. "picture" agrees with the error about width
where learning is by backprop, and not about depth: with fewer levels the switches keep more of the image. The
default is therefore "error" where some held-out image has a label, and else "picture".
"""

from __future__ import annotations

import itertools
import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from drmm.data import holdout
from drmm.data.images import pixels
from drmm.errors import InputError, RunError
from drmm.files import read_json, write_json
from drmm.model.brightness import BrightnessPrior, best_fit, compare
from drmm.model.constraints import free_parameters
from drmm.model.deep import DRMM, Latents, evaluation
from drmm.model.presets import resolve
from drmm.records import Record
from drmm.storage.models import Recipe

__all__ = ["Criterion", "Grid", "Learn", "Selection", "Trial", "check_selection", "held_out", "select"]

Criterion = Literal["error", "picture", "heldout", "bic"]
Learn = Callable[[Recipe, Tensor, Tensor], DRMM]

_LOWER = {"error", "bic"}  # is better
_SHARE = 0.2  # of the images are held out
_CHUNK = 250  # images inferred at once


@dataclass(frozen=True)
class Grid(Record):
    """Structures to choose between; an empty one leaves the model as it is.

    Attributes:
        preset: names of architectures, "auto" among them.
        width: templates of the first level.
        depth: levels.
        criterion: what chooses: "error", "picture", "heldout" or "bic"; none is "error" where some held-out image
            has a label, and else "picture".
    """

    preset: tuple[str, ...] = ()
    width: tuple[int, ...] = ()
    depth: tuple[int, ...] = ()
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        if any(n < 1 for n in (*self.width, *self.depth)):
            raise InputError("widths and depths are whole numbers of 1 or more")

    def __bool__(self) -> bool:
        """Whether there is anything to choose between."""
        return bool(self.preset or self.width or self.depth)

    def candidates(self, base: Recipe) -> tuple[Recipe, ...]:
        """Every combination of the settings, in their order.

        Args:
            base: has everything else.
        """
        presets = [resolve(name, base.image_shape) for name in self.preset] or [base.preset]
        grid = itertools.product(presets, self.width or (base.width,), self.depth or (base.depth,))
        return tuple(replace(base, preset=preset, width=width, depth=depth) for preset, width, depth in grid)


@dataclass(frozen=True)
class Trial:
    """A candidate after learning.

    Attributes:
        recipe: the candidate.
        parameters: k, the free parameters of p(I, c, g): what learning moves (dictionaries, norms, templates and
            biases; amplitude and direction are as many as the template), σ², the mean and spread of brightness,
            the class prior, and a probability for each on/off switch and for all but one of the positions of each
            pooled unit. The priors are fitted to the images like the rest, so that they count.
        seconds: of learning and scoring.
        bic: on the images that were learned from, in nats.
        images: for "error", "picture" and "heldout" the score of each held-out image that has one.
    """

    recipe: Recipe
    parameters: int
    seconds: float
    bic: float
    images: Mapping[str, tuple[float, ...]]

    def score(self, criterion: Criterion) -> float | None:
        """In the criterion's unit; None where no held-out image has a label to err on."""
        if criterion == "bic":
            return self.bic
        return float(np.mean(self.images[criterion])) if self.images[criterion] else None

    def standard_error(self, criterion: Criterion) -> float | None:
        """Of the score, over the held-out images; None where fewer than two have one."""
        values = () if criterion == "bic" else self.images[criterion]
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


@dataclass(frozen=True)
class Selection:
    """What was tried, and what was chosen.

    Attributes:
        criterion: that decided.
        trials: one for each candidate, in the order given.
        winner: the candidate with the best score; in a tie the one with the fewest parameters.
    """

    criterion: Criterion
    trials: tuple[Trial, ...]
    winner: Recipe

    def rows(self) -> list[dict[str, Any]]:
        """One row for each candidate: settings, parameters, seconds, scores with standard errors, winner."""
        return [
            {
                **{name: getattr(trial.recipe, name) for name in ("preset", "width", "depth")},
                "parameters": trial.parameters,
                "seconds": trial.seconds,
                **{c: trial.score(c) for c in get_args(Criterion)},
                **{f"{c}_se": trial.standard_error(c) for c in get_args(Criterion) if c != "bic"},
                "winner": trial.recipe == self.winner,
            }
            for trial in self.trials
        ]


def check_selection(candidates: Sequence[Recipe], y: Tensor, criterion: Criterion | None, seed: int) -> Criterion:
    """Refuse what cannot be selected, before anything is learned; arguments and errors as `select`.

    Returns:
        The criterion.
    """
    if criterion not in {None, *get_args(Criterion)}:
        raise InputError(f"no criterion {criterion!r}: choose from {', '.join(get_args(Criterion))}")
    if len(candidates) < 2:
        raise InputError("one candidate is no choice: give at least two values, as in width=8,16")
    for i, recipe in enumerate(candidates):
        if recipe in candidates[:i]:
            raise InputError(f"{_name(recipe)} is a candidate twice: give each value once")
        recipe.build(seed=0)
    labelled = bool((y[held_out(y, seed)[0]] >= 0).any())
    if criterion == "error" and not labelled:
        raise InputError("no held-out image has a label to err on: label more, or use criterion 'picture'")
    return criterion or ("error" if labelled else "picture")


def select(
    candidates: Sequence[Recipe],
    learn: Learn,
    x: Tensor,
    y: Tensor,
    *,
    criterion: Criterion | None = None,
    seed: int,
    folder: Path | None = None,
    progress: bool = True,
) -> Selection:
    """Choose a structure. Follows from the arguments alone, if `learn` does.

    Args:
        candidates: what to choose from, at least two.
        learn: trains a candidate on images (N, C, H, W) and labels (N,), and returns it in evaluation mode.
        x: images (N, C, H, W), float in [0, 1] or uint8; a fifth of each class, and of the images without a
            label, is held out.
        y: class indices (N,), -1 where there is no label.
        criterion: see the module; None is "error" where some held-out image has a label, else "picture".
        seed: of the choice of the held-out images.
        folder: where finished candidates are kept; those that it holds are not learned again (`learn` is taken
            to be the same as then).
        progress: say on standard error which candidate it is at, and how it did.

    Raises:
        InputError: if there are too few candidates, or one comes twice or cannot be built; if the criterion is
            unknown or needs labels that are not there; if there are too few images to hold some out. Nothing has
            been learned then. If a score is not finite.
        RunError: if the folder cannot be read or written, or holds candidates of another selection.
    """
    chosen = check_selection(candidates, y, criterion, seed)
    held, kept = held_out(y, seed)
    console = Console(stderr=True, quiet=not progress)
    source = {"images": _checksum(x), "labels": _checksum(y), "seed": seed, "brightness": "integrated"}
    trials = []
    for i, recipe in enumerate(candidates):
        console.print(f"candidate {i + 1} of {len(candidates)}: {_name(recipe)}", highlight=False)
        path = None if folder is None else folder / f"{i}.json"
        about = {"recipe": asdict(recipe), **source}
        trial = None if path is None or not path.exists() else _read(path, recipe, about)
        if trial is None:
            start = time.perf_counter()
            model = learn(recipe, x[kept], y[kept])
            trial = _trial(recipe, model, (x[held], y[held]), x[kept], start)
            if path is not None:
                write_json(path, {"about": about, **{k: v for k, v in asdict(trial).items() if k != "recipe"}})
        trials.append(trial)
        console.print(f"  {chosen} {trial.score(chosen):.6g}", highlight=False)
    return Selection(chosen, tuple(trials), _winner(trials, chosen))


def _winner(trials: Sequence[Trial], criterion: Criterion) -> Recipe:
    """The best; in a tie the smallest."""
    # The rule of one standard error was tried: with 20 held-out labels it takes nets that are clearly worse.
    sign = 1 if criterion in _LOWER else -1
    return min(trials, key=lambda trial: (sign * (trial.score(criterion) or 0.0), trial.parameters)).recipe


def held_out(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Places of the images to hold out, and of the others; images without a label count as a class."""
    strata = torch.where(y >= 0, y, y.max() + 1)
    held = holdout(strata.numpy(), _SHARE, seed=seed)
    return torch.from_numpy(held), torch.from_numpy(np.setdiff1d(np.arange(len(y)), held))


def _trial(recipe: Recipe, model: DRMM, held: tuple[Tensor, Tensor], learned: Tensor, start: float) -> Trial:
    """Score a model on images that it has not seen, and for BIC on those that it has."""
    seen, own = (_explain(model, x) for x in (held[0], learned))
    brightness = BrightnessPrior.fit(best_fit(own.match, own.energy))
    picture = seen.alone + brightness.gain(seen.match, seen.energy, model.noise)
    joint = seen.prior + picture
    fit = float((own.prior + own.alone + brightness.gain(own.match, own.energy, model.noise)).sum())
    known = held[1] >= 0
    wrong = 100.0 * (seen.label != held[1])[known].double()
    images = {"error": wrong, "picture": picture, "heldout": joint}
    if not math.isfinite(fit + float(joint.sum())):
        raise InputError(f"the log-joint of {_name(recipe)} is not finite: check the images for constant ones")
    k = _free_parameters(model)
    bic = k * math.log(len(learned)) - 2 * fit
    scores = {name: tuple(values.tolist()) for name, values in images.items()}
    return Trial(recipe, k, round(time.perf_counter() - start, 1), bic, scores)


@dataclass(frozen=True)
class _Explained:
    """What a model makes of images: log p(ĉ, ĝ), log N(I; 0, σ²), match, energy, and ĉ; (N,) each, float64."""

    prior: Tensor
    alone: Tensor
    match: Tensor
    energy: Tensor
    label: Tensor


@torch.no_grad()
def _explain(model: DRMM, x: Tensor) -> _Explained:
    parts = []
    with evaluation(model):
        for part in map(pixels, x.split(_CHUNK)):
            label, _, switches = model.max_sum(part, None)
            match, energy = compare(part, model.levels.render(model.templates.weight[label], switches))
            prior = model.log_prior(Latents.without_score(label, match, switches, model.n_classes))
            alone = model.log_density(part, torch.zeros_like(part))
            parts.append((prior.double(), alone.double(), match.double(), energy.double(), label))
    return _Explained(*map(torch.cat, zip(*parts, strict=True)))


def _free_parameters(model: DRMM) -> int:
    """What `Trial.parameters` counts."""
    total = free_parameters(model) + 3 + model.n_classes - 1
    for leaf in model.blank_switches().leaves():
        for name, choice in leaf.choices():
            values = leaf.window.positions if name == "t" and leaf.window is not None else 2
            total += (values - 1) * choice[0].numel()
    return total


def _name(recipe: Recipe) -> str:
    sizes = [f"{name} {value}" for name in ("width", "depth") if (value := getattr(recipe, name)) is not None]
    return ", ".join([recipe.preset, *sizes])


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)


def _read(path: Path, recipe: Recipe, about: dict[str, Any]) -> Trial:
    record = read_json(path)
    if record.pop("about", None) != json.loads(json.dumps(about)):
        raise RunError(f"{path} is a candidate of another selection: choose another folder")
    try:
        images = {name: tuple(values) for name, values in record.pop("images").items()}
        return Trial(recipe, images=images, **record)
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): remove it and select again") from error
