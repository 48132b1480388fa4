"""Class templates on features that stay as they are."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from drmm.errors import InputError
from drmm.learning import head
from drmm.learning import train as learning
from drmm.learning.config import Training
from drmm.learning.head import learn_head, train_head
from drmm.learning.objective import Objective
from drmm.learning.train import train
from drmm.model.deep import DRMM
from drmm.model.presets import conv_small

UNIFORM = torch.full((3,), 1 / 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path)


def clusters(n=300, labels=2, seed=0, spread=1.0):
    """Features of three classes, on scales of their own, and a few of their labels."""
    generator = np.random.default_rng(seed)
    truth = np.arange(n) % 3
    x = 2.5 * np.eye(8)[truth] + spread * generator.normal(size=(n, 8))
    y = np.where(np.arange(n) < 3 * labels, truth, -1)
    return torch.from_numpy(x * np.logspace(-2, 2, 8) + 7).float(), torch.from_numpy(y), truth


def error(found, x, truth):
    return 100 * float((found(x).argmax(1).numpy() != truth).mean())


def test_without_unlabelled_images_it_is_logistic_regression():
    x, y, _ = clusters(labels=20)
    known = y >= 0
    found, errors = learn_head(x[known], y[known], UNIFORM, Objective(), seed=0)
    assert set(errors) == {"labels 0.001", "labels 0.01"}
    decay = min((errors[name], float(name.split()[1])) for name in errors)[1]
    standard = (x[known] - x[known].mean(0)) / x[known].std(0)
    by_sklearn = LogisticRegression(C=1 / (2 * decay * int(known.sum())), tol=1e-8, max_iter=1000)
    want = by_sklearn.fit(standard, y[known]).predict_log_proba(standard)
    got = found(x[known]).log_softmax(1).detach().numpy()
    np.testing.assert_allclose(got, want, atol=5e-3)


def test_rare_classes_stay_rare_where_as_many_of_each_have_a_label():
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [260, 20, 20])
    x = torch.from_numpy(1.6 * np.eye(8)[truth] + generator.normal(size=(300, 8))).float()
    y = torch.full((300,), -1)
    for c in range(3):
        y[torch.from_numpy(np.flatnonzero(truth == c)[:8])] = c
    shares = torch.tensor([0.8667, 0.0667, 0.0667])
    known, by_labels = (learn_head(x, y, prior, Objective(), seed=0)[0] for prior in (shares, UNIFORM))
    assert error(known, x, truth) < error(by_labels, x, truth) - 5, "control: the labels' shares"


def test_unlabelled_images_help_where_classes_are_clusters():
    errors = {"labels": [], "kl": []}
    for seed in range(4):
        x, y, truth = clusters(150, seed=seed)
        for name, objective in (("labels", Objective(kl=0.0, balance=0.0)), ("kl", Objective())):
            errors[name].append(error(learn_head(x, y, UNIFORM, objective, seed=seed)[0], x, truth))
    assert np.mean(errors["kl"]) < np.mean(errors["labels"]) - 1, errors


def held_out(mistakes: list[int], loss: float = 1.0) -> head._Mistakes:
    wrong = torch.zeros(40, dtype=torch.bool)
    wrong[mistakes] = True
    return head._Mistakes(wrong, loss)


@pytest.mark.parametrize(
    ("alone", "shared", "is_taken"),
    [
        (range(10), range(4), True),  # fewer mistakes
        (range(10), range(10), True),  # as many
        (range(10), range(1, 12), True),  # one more: chance
        (range(10), range(7), True),
        (range(10), range(20), False),  # ten more
        (range(10), range(8, 22), True),  # twelve made and eight saved: by chance
        (range(4), range(4, 20), False),
    ],
)
def test_unlabelled_images_are_left_out_only_where_they_do_harm(alone, shared, is_taken, monkeypatch):
    made = {False: held_out(list(alone)), True: held_out(list(shared))}
    monkeypatch.setattr(head._Task, "mistakes", lambda _, way, __: made[way.is_shared])
    x, y, _ = clusters(labels=20)
    found, errors = learn_head(x, y, UNIFORM, Objective(), seed=0)
    by_labels, _ = learn_head(x, y, UNIFORM, Objective(kl=0.0), seed=0)
    assert errors["kl 0.1"] == made[True].error == pytest.approx(100 * len(shared) / 40)
    assert torch.equal(found.weight, by_labels.weight) == (not is_taken)


def test_the_seed_decides_all(monkeypatch):
    monkeypatch.setattr(head, "_MOST", 20)
    x, y, _ = clusters(150)
    one, other, again = (learn_head(x, y, UNIFORM, Objective(), seed=seed)[0].weight for seed in (0, 1, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, other), "other images without a label"


def model():
    torch.manual_seed(0)
    return conv_small(3, (1, 12, 12), width=2)


def pictures(n=60):
    generator = np.random.default_rng(0)
    truth = np.arange(n) % 3
    x = generator.integers(0, 60, (n, 1, 12, 12)) + 180 * (np.arange(12) // 4 == truth[:, None])[:, None, None, :]
    return torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(np.where(np.arange(n) < 30, truth, -1)), truth


def test_a_model_learns_its_class_templates_and_nothing_else():
    x, y, truth = pictures()
    before, net = model().state_dict(), train(model(), x, y, config=Training(learning="head"), progress=False)
    levels = {name for name in before if name.startswith("levels")}
    assert all(torch.equal(before[name], net.state_dict()[name]) for name in levels)
    assert error(net, x.float() / 255, truth) < 10 < error(model().eval(), x.float() / 255, truth)
    assert float(net.noise) != 1, "it is settled: it can draw"


@pytest.mark.parametrize(("numbers", "pictures_seen"), [(2**26, 60), (2 * 16 * 144, 32), (1, 16)])
def test_priors_are_measured_on_fewer_pictures_where_they_are_large(monkeypatch, numbers, pictures_seen):
    seen = []
    monkeypatch.setattr(learning, "_SETTLING_NUMBERS", numbers)
    monkeypatch.setattr(DRMM, "settle", lambda _, batches: seen.extend(len(batch) for batch in batches))
    x, y, _ = pictures()
    train(model(), x, y, config=Training(learning="head", batch_size=16), progress=False)
    assert abs(sum(seen) - pictures_seen) <= 2, "batches of an epoch differ by one"


def test_what_it_cannot_learn_is_refused():
    x, y, _ = pictures(9)
    with pytest.raises(InputError, match="no image has a label"):
        train_head(model(), x, torch.full_like(y, -1), Objective(), Training(), progress=False)
    lifted = model()
    lifted.templates = nn.Identity()
    with pytest.raises(InputError, match="no class templates of its own"):
        train_head(lifted, x, y, Objective(), Training(), progress=False)
