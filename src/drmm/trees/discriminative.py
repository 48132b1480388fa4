"""The discriminative relaxation: templates that tell classes apart, by gradient on log p(y | I).

The slides' way from the generative model to a trained classifier. It is lossy (law T16): a template becomes a
filter that tells classes apart, and is no longer the mean of its images, from which it began.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from drmm.progress import track
from drmm.trees.growth import Examples
from drmm.trees.tree import EvolutionaryTree, gathered

__all__ = ["Relaxation", "relaxed"]

Array = npt.NDArray[Any]

_PROBED = 2000  # images that the first temperature is measured on


@dataclass(frozen=True, slots=True)
class Relaxation:
    """How to learn by gradient.

    Attributes:
        epochs: passes over the labelled images.
        min_steps: steps at the least, however few the images.
        batch_size: images of a step.
        learning_rate: of the increments, at the start; it falls to 0 by a cosine.
        missing: share of the pixels that are missing at random in a step, as in dropout.
    """

    epochs: int
    min_steps: int
    batch_size: int
    learning_rate: float
    missing: float

    def n_steps(self, n_images: int) -> int:
        """Steps in all."""
        return max(self.min_steps, self.epochs * math.ceil(n_images / self.batch_size))


class _SoftTree(nn.Module):
    """Both inferences with a sum in place of the max, so that they have gradients.

    Exact inference becomes the posterior of the leaves, a softmax over all of them; the greedy tree a walk that
    takes each child with the softmax of its siblings. The two share all parameters, and hardly compete for them:
    what a path adds up to decides the first, how that is divided along the path the second.
    """

    def __init__(self, tree: EvolutionaryTree, temperature: float) -> None:
        super().__init__()
        dtype = torch.from_numpy(tree.increments).dtype
        paths = np.zeros((len(tree.leaves), len(tree.parent)))
        for row, leaf in enumerate(tree.leaves):
            paths[row, tree.path(int(leaf))] = 1
        self.paths = torch.from_numpy(paths).to(dtype)
        self.siblings = torch.from_numpy(tree.parent[1:].astype(np.int64))
        self.increments = nn.Parameter(torch.from_numpy(tree.increments.copy()))
        self.bias = nn.Parameter(torch.from_numpy(tree.bias.astype(tree.increments.dtype)))
        self.classes = nn.Parameter(torch.from_numpy(np.log(tree.classes[tree.leaves])).to(dtype))
        self.temperature = nn.Parameter(torch.tensor(math.log(temperature), dtype=dtype))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """-log p(y | I) of both walks, their sum, the mean over images."""
        evidence = (x @ self.increments.T + self.bias) / self.temperature.exp()
        exact = (evidence @ self.paths.T).log_softmax(1)
        greedy = self._among_siblings(evidence) @ self.paths.T
        classes = self.classes.softmax(1)[:, y].T
        tiny = torch.finfo(x.dtype).tiny
        likelihoods = [(walk.exp() * classes).sum(1).clamp(min=tiny).log() for walk in (exact, greedy)]
        return -(likelihoods[0] + likelihoods[1]).mean()

    def _among_siblings(self, evidence: Tensor) -> Tensor:
        """Log-probability of each node given its parent, (N, M)."""
        below, groups = evidence[:, 1:], self.siblings.expand(len(evidence), -1)
        top = torch.full_like(evidence, -math.inf).scatter_reduce(1, groups, below.detach(), "amax")
        below = below - top[:, self.siblings]
        total = torch.zeros_like(evidence).index_add(1, self.siblings, below.exp())
        return torch.cat([torch.zeros_like(evidence[:, :1]), below - total[:, self.siblings].log()], 1)


def relaxed(
    tree: EvolutionaryTree, data: Examples, how: Relaxation, rng: np.random.Generator, *, progress: bool = False
) -> EvolutionaryTree:
    """Learn increments, biases and leaves' classes from the labelled images; σ² becomes a temperature.

    Args:
        tree: to begin with.
        data: images; those without a label are left out.
        how: epochs, steps and rates.
        rng: of the order of images, and of missing pixels.
        progress: show a progress bar.
    """
    known = data.y >= 0
    x, y = torch.from_numpy(data.x[known]), torch.from_numpy(data.y[known])
    soft = _SoftTree(tree, _temperature(tree, data.x[known][:_PROBED]))
    rate, generator = how.learning_rate, torch.Generator().manual_seed(int(rng.integers(2**31)))
    parts = [([soft.increments], rate), ([soft.bias], 3 * rate), ([soft.classes, soft.temperature], 10 * rate)]
    groups = [{"params": part, "lr": lr} for part, lr in parts]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    steps = how.n_steps(len(x))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = _batches(len(x), how.batch_size, steps, generator)
    for index in track(batches, "gradient", steps) if progress else batches:
        images = x[index]
        if how.missing > 0:
            seen = torch.rand(images.shape, generator=generator) >= how.missing
            images = images * seen / (1 - how.missing)
        optimizer.zero_grad()
        soft(images, y[index]).backward()
        optimizer.step()
        schedule.step()
    return _hardened(tree, soft)


def _batches(n_images: int, size: int, steps: int, generator: torch.Generator) -> Iterable[Tensor]:
    """Indices of the images of each step."""
    done = 0
    while done < steps:
        for index in torch.randperm(n_images, generator=generator).split(size)[: steps - done]:
            yield index
            done += 1


def _temperature(tree: EvolutionaryTree, x: Array) -> float:
    """Half of the best class's usual lead: Gaussian posteriors of many pixels are too sure to learn from."""
    scores, classes = tree.leaf_scores(x), tree.classes[tree.leaves].argmax(1)
    best = scores.argmax(1)
    others = np.where(classes == classes[best][:, None], -np.inf, scores).max(1)
    lead = 0.5 * float(np.median(scores.max(1) - others))
    return lead if math.isfinite(lead) and lead > tree.noise else tree.noise


def _hardened(tree: EvolutionaryTree, soft: _SoftTree) -> EvolutionaryTree:
    """The tree of the learnt parameters; inner nodes have the mean classes of their leaves again."""
    with torch.no_grad():
        leaves = soft.classes.double().softmax(1).numpy()
    classes = np.zeros_like(tree.classes, dtype=float)
    classes[tree.leaves] = leaves * tree.prior[tree.leaves, None]
    classes = gathered(tree.parent, classes) / tree.prior[:, None]
    return EvolutionaryTree(
        tree.parent,
        soft.increments.detach().numpy(),
        soft.bias.detach().numpy(),
        tree.prior,
        classes,
        float(soft.temperature.detach().exp()),
    )
