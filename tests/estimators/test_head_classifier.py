"""The classifier learns class templates on a pretrained net's features, and knows what it is worth."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from drmm import DRMMClassifier
from drmm.storage import models as storage
from drmm.trust import assessment


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path)


def pictures(n=90):
    generator = np.random.default_rng(0)
    truth = np.arange(n) % 3
    bars = 150 * (np.arange(12) // 4 == truth[:, None])[:, None, None, :]
    return (generator.integers(0, 90, (n, 1, 12, 12)) + bars).astype(np.uint8), truth


def test_levels_stay_as_they_are_and_confidence_is_cross_fitted():
    x, truth = pictures()
    y = np.where(np.arange(len(x)) < 45, truth, -1)
    settings = {"model": {"preset": "conv_small", "width": 2}, "training": {"learning": "head"}, "random_state": 0}
    found = DRMMClassifier(calibrate=True, **settings).fit(x, y)
    assert found.score(x, truth) > 0.9
    assert found.assessment_.error()["labels"] == 45
    other = DRMMClassifier(**settings).fit(x, np.roll(y, 1))
    own = found.model_.levels.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in other.model_.levels.state_dict().items())
    assert not torch.equal(found.model_.templates.weight, other.model_.templates.weight), "control"


def test_published_weights_are_what_it_starts_from(monkeypatch):
    asked = []

    def load(model, name):
        asked.append(name)
        with torch.no_grad():
            model.levels[0].dictionary.weight.fill_(0.5)
        return model

    monkeypatch.setattr(storage, "load_published", load)
    x, truth = pictures(30)
    truth[-3:] = -1
    settings = {"model": {"preset": "conv_small", "width": 2}, "training": {"learning": "head"}, "random_state": 0}
    DRMMClassifier(**settings).fit(x, truth)
    assert not asked, "control"
    settings["model"] = {**settings["model"], "weights": "published"}
    found = DRMMClassifier(**settings).fit(x, truth)
    assert asked == ["conv_small"]
    assert bool((found.model_.levels[0].dictionary.weight == 0.5).all())


@pytest.mark.parametrize("does_harm", [False, True])
def test_a_tuned_net_is_kept_unless_its_head_alone_is_better(does_harm, monkeypatch):
    x, truth = pictures(60)
    y = np.where(np.arange(len(x)) < 30, truth, -1)
    monkeypatch.setattr(assessment, "does_harm", lambda *_: does_harm)
    training = {"learning": "tune", "epochs": 2, "min_steps": 4}
    learner = DRMMClassifier(model={"preset": "conv_small", "width": 2}, training=training, random_state=0)
    head = clone(learner).set_params(training={"learning": "head"}).fit(x, y)
    learner.set_params(calibrate=True)
    if does_harm:
        with pytest.warns(UserWarning, match="such a head is kept"):
            learner.fit(x, y)
    else:
        learner.fit(x, y)
    before, after = (found.model_.levels[0].dictionary.weight for found in (head, learner))
    assert torch.equal(before, after) == does_harm
    assert learner.assessment_.error()["labels"] == 30
