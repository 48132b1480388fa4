"""A net that has learned before goes on: class templates first, then upper levels, its norms as they were."""

import pytest
import torch
from stripes import SHAPE, images

from drmm.errors import InputError
from drmm.learning import trainer
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.rates import rates
from drmm.learning.train import train
from drmm.model.presets import conv_small

AGREEING = Objective(kl=0.0, reconstruction=0.0, nonnegativity=0.0, agreement=1.0, views=("brightness",))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path)


def net():
    torch.manual_seed(0)
    return conv_small(3, SHAPE, width=2)


def tuned(learning="tune", **options):
    x, y = images()
    config = Training(learning=learning, epochs=4, batch_size=12, labelled_per_batch=3, min_steps=0, **options)
    return train(
        net(), x, y, objective=AGREEING, config=config, machine=Machine(accelerator="cpu"), progress=False
    )


def measured(model):
    return {name: tensor for name, tensor in model.levels.state_dict().items() if "running" in name}


def differing(model, other):
    """Levels whose parameters are others, from the pixels up."""
    pairs = zip(model.levels, other.levels, strict=True)
    return [
        i
        for i, (mine, theirs) in enumerate(pairs)
        if any(not torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    ]


def test_it_learns_and_the_statistics_of_norms_stay():
    x, truth = images()[0], torch.arange(48) % 3
    before, model = net(), tuned()
    assert bool((model(x).argmax(1) == truth).all())
    assert not model.training
    assert all(torch.equal(tensor, measured(before)[name]) for name, tensor in measured(model).items())
    others = measured(tuned(learning="sgd"))
    assert not any(torch.equal(tensor, measured(before)[name]) for name, tensor in others.items()), "control"


def test_it_starts_from_the_head(monkeypatch):
    started = []
    monkeypatch.setattr(trainer, "rates", lambda model, _: started.append(model.templates.weight.clone()) or [])
    with pytest.raises(ValueError, match="empty parameter list"):
        tuned()
    assert torch.equal(started[0], tuned_head().templates.weight)
    assert not torch.equal(started[0], net().templates.weight), "control"


def tuned_head():
    x, y = images()
    return train(net(), x, y, objective=AGREEING.of_head(), config=Training(learning="head"), progress=False)


def test_lower_levels_learn_more_slowly_and_the_lowest_not_at_all():
    model, config = net(), Training(learning="tune", learning_rate=1e-2, rate_decay=0.4)
    with_weights = [i for i, level in enumerate(model.levels) if list(level.parameters())]
    found = [group["lr"] for group in rates(model, config)]
    assert found == pytest.approx([1e-2 * 0.4**i for i in range(1 + len(with_weights))])
    slow, all_alike = tuned(rate_decay=0.4), tuned()
    assert differing(slow, net()) == with_weights[-2:], "0.4 and 0.16 of the rate; 0.064 is too little"
    assert differing(all_alike, net()) == with_weights, "control"
    assert all(parameter.requires_grad for parameter in slow.parameters()), "for whoever goes on"


def test_what_its_owner_has_frozen_stays_so():
    x, y = images()
    model = net()
    model.levels[0].requires_grad_(requires_grad=False)
    config = Training(learning="tune", epochs=1, batch_size=12, min_steps=0)
    train(model, x, y, objective=AGREEING, config=config, machine=Machine(accelerator="cpu"), progress=False)
    assert 0 not in differing(model, net())
    assert not any(parameter.requires_grad for parameter in model.levels[0].parameters())
    assert 0 in differing(tuned(), net()), "control"


def test_a_decay_is_a_share():
    for decay in (0, 1.5):
        with pytest.raises(InputError, match="rate_decay must be more than 0, and at most 1"):
            Training(rate_decay=decay)
