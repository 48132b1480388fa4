"""Class templates on features that stay as they are: seconds, where learning a whole net takes an hour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.data.splits import label_folds
from drmm.errors import InputError
from drmm.learning.class_prior import class_prior
from drmm.learning.config import Training
from drmm.learning.features import features_of
from drmm.learning.metrics import is_worse
from drmm.learning.objective import Objective, balance, kl_divergence
from drmm.model.deep import DRMM
from drmm.rendering import Linear

__all__ = ["learn_head", "some_of", "train_head"]

# Weight of the squared templates, on standardised features. The KL makes templates grow, so it takes more: on
# development draws of 4 to 100 labels a class 0.1 was better than either of the others in every one.
_DECAYS, _SHARED_DECAY = (1e-3, 1e-2), 0.1
_FOLDS = 5
_MOST, _FEW = 10_000, 2_000  # images without a label that are learned from, and while choosing
_STEPS, _RATE = 150, 0.01
_ITERATIONS = 100


@dataclass(frozen=True)
class _Way:
    """A way to learn.

    Attributes:
        decay: weight of the squared templates.
        is_shared: whether images without a label are learned from, by the KL and the balance.
    """

    decay: float
    is_shared: bool


def train_head(
    model: DRMM, x: Tensor, y: Tensor, objective: Objective, config: Training, *, progress: bool
) -> None:
    """Learn a model's class templates on its own features, and take its class prior from the labels.

    Args:
        model: its levels stay as they are.
        x: images (N, C, H, W), float in [0, 1] or uint8.
        y: class indices (N,), -1 where there is no label.
        objective: as of `learn_head`.
        config: whose seed is taken.
        progress: show a progress bar while features are computed.

    Raises:
        InputError: if no image has a label, or the model's logits are features already.
    """
    if not isinstance(model.templates, Linear):
        raise InputError("this net has no class templates of its own: learn all of it, by sgd")
    if not bool((y >= 0).any()):
        raise InputError("no image has a label: label some, or choose another learning than head")
    features = features_of(model.levels, x, progress=progress)
    model.class_prior.copy_(class_prior(features, y, model.n_classes, objective.prior, seed=config.seed))
    head, _ = learn_head(features, y, model.class_prior, objective, seed=config.seed)
    model.templates.load_state_dict(head.state_dict())


def learn_head(
    features: Tensor, y: Tensor, prior: Tensor, objective: Objective, *, seed: int
) -> tuple[nn.Linear, dict[str, float]]:
    """Class templates by KL and balance too, unless cross-validation finds logistic regression better without.

    A few labels tell hardly which is better. So what the unlabelled images say is left out only where the mistakes
    that it makes outnumber those that it saves by more than their standard error.

    Both have the slides' cross-entropy; the features are standardised, and the templates' squares have a weight.

    Args:
        features: (N, D), float.
        y: class indices (N,), -1 where there is no label.
        prior: of the classes, (K,).
        objective: whose weights of cross-entropy, KL and balance are taken.
        seed: of the folds, and of which images are taken where they are many.

    Returns:
        The templates, for features as they were given, and the cross-validated errors by way, in percent.
    """
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    known, others = y >= 0, some_of(torch.nonzero(y < 0).flatten(), _MOST, seed)
    labelled, unlabelled = ((features[rows] - mean) / scale for rows in (known, others))
    task = _Task(labelled, y[known], unlabelled, prior, class_prior(labelled, y[known], len(prior)), objective)
    few = replace(task, others=task.others[:_FEW])
    found = {way: few.mistakes(way, seed) for way in (_Way(decay, is_shared=False) for decay in _DECAYS)}
    best = min(found, key=lambda way: (found[way].error, found[way].loss))
    if len(others) and objective.weights()["kl"]:
        shared = _Way(_SHARED_DECAY, is_shared=True)
        found[shared] = few.mistakes(shared, seed)
        best = best if is_worse(found[shared].wrong, found[best].wrong) else shared
    weight, bias = task.learned(best)
    head = nn.Linear(features.shape[1], len(prior))
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias - head.weight @ mean)
    return head, {f"{'kl' if way.is_shared else 'labels'} {way.decay:g}": found[way].error for way in found}


@dataclass(frozen=True, eq=False)
class _Mistakes:
    """Of a way, cross-validated.

    Attributes:
        wrong: labelled images that were held out, bool (n,).
        loss: log-loss in nats.
    """

    wrong: Tensor
    loss: float

    @property
    def error(self) -> float:
        """In percent."""
        return 100 * float(self.wrong.double().mean()) if len(self.wrong) else 0.0


@dataclass(frozen=True, eq=False)
class _Task:
    """What class templates are learned from.

    Attributes:
        x: standardised features with labels, (n, D).
        y: class indices, (n,).
        others: standardised features without, (m, D).
        prior: of the classes, (K,).
        of_labels: shares of the classes among the labels, (K,).
        objective: whose weights are taken.
    """

    x: Tensor
    y: Tensor
    others: Tensor
    prior: Tensor
    of_labels: Tensor
    objective: Objective

    def mistakes(self, way: _Way, seed: int) -> _Mistakes:
        """Of the images as they are, each held out once."""
        logits, held_out = [self.x.new_zeros(0, len(self.prior))], [self.y[:0]]
        for fold in map(torch.from_numpy, label_folds(self.y.numpy(), _FOLDS, seed=seed)):
            kept = torch.ones(len(self.y), dtype=torch.bool)
            kept[fold] = False
            others = torch.cat([self.others, self.x[fold]])
            task = replace(self, x=self.x[kept], y=self.y[kept], others=others)
            weight, bias = task.learned(way)
            logits.append(self.x[fold] @ weight.t() + bias)
            held_out.append(self.y[fold])
        found, truth = torch.cat(logits), torch.cat(held_out)
        loss = float(F.cross_entropy(found, truth)) if len(truth) else 0.0
        return _Mistakes(found.argmax(1) != truth, loss)

    def learned(self, way: _Way) -> tuple[Tensor, Tensor]:
        """Templates and biases."""
        weight = torch.zeros(len(self.prior), self.x.shape[1], requires_grad=True)
        bias = self.prior.log().clone().requires_grad_()
        self._regress(weight, bias, way.decay)
        if way.is_shared:
            self._share(weight, bias, way.decay)
        return weight.detach(), bias.detach()

    def _labelled(self, weight: Tensor, bias: Tensor, decay: float) -> Tensor:
        # Bayes' rule: labels that were drawn otherwise follow another posterior (logit adjustment).
        logits = self.x @ weight.t() + bias + (self.of_labels / self.prior).log()
        return F.cross_entropy(logits, self.y) + decay * weight.square().sum()

    def _regress(self, weight: Tensor, bias: Tensor, decay: float) -> None:
        """Logistic regression: convex."""
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = self._labelled(weight, bias, decay)
            loss.backward()
            return loss

        optimiser.step(closure)

    def _share(self, weight: Tensor, bias: Tensor, decay: float) -> None:
        """From there on with the KL and the balance, of all images that are as frequent as the prior says."""
        weights = self.objective.weights()
        optimiser = torch.optim.Adam([weight, bias], lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
        is_drawn = torch.allclose(self.of_labels, self.prior)
        pictures = torch.cat([self.x, self.others]) if is_drawn else self.others
        printed = self.objective.kl_sign == "printed"
        prior = self.prior if printed else torch.full_like(self.prior, 1 / len(self.prior))  # as in `Objective`
        for _ in range(_STEPS):
            optimiser.zero_grad()
            logits = pictures @ weight.t() + bias
            loss = self._labelled(weight, bias, decay)
            loss = loss + weights["kl"] * kl_divergence(logits, prior, self.objective.kl_sign)
            loss = loss + weights["balance"] * balance(logits, self.prior)
            loss.backward()
            optimiser.step()
            schedule.step()


def some_of(indices: Tensor, most: int, seed: int) -> Tensor:
    """So many of them at random, at the most."""
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))
    return indices[order[:most]]
