"""The certificate is lazy, and never that of other weights or images."""

import copy
import pickle

import pytest
import torch
from torch import nn

from drmm import DRMM
from drmm.errors import InputError
from drmm.model.deep import Latents
from drmm.model.presets import conv_small
from drmm.model.traceback import sign_traceback
from drmm.rendering import Conv2d, Dropout, Flatten, Level, Linear, Rendering, Sequential, Switches

SHAPE = (1, 12, 12)
STALE = "weights or the images have changed since inference"


@pytest.fixture
def model(float64):
    model = conv_small(4, SHAPE, width=3).eval()
    assert model.levels.renderings[0].norm.num_batches_tracked == 0
    return model


@pytest.fixture
def x(model):
    return torch.randn(6, *SHAPE)


@pytest.fixture
def calls(monkeypatch):
    """How often the bound was computed."""
    counted = []
    bound = DRMM.upper_bound
    monkeypatch.setattr(DRMM, "upper_bound", lambda self, x: counted.append(len(x)) or bound(self, x))
    return counted


def test_nothing_is_computed_before_it_is_read_and_then_once(model, x, calls):
    latents = model.infer(x)
    assert calls == []
    gap, certified = latents.gap, latents.certified()
    assert calls == [6]
    assert torch.equal(gap, model.upper_bound(x).amax(1) - latents.score)
    assert torch.equal(certified, gap <= 1e-5 * (1 + latents.score.abs()))


def test_at_once_where_it_is_asked_for(model, x, calls):
    latents = model.infer(x, certify=True)
    assert calls == [6]
    expected = model.upper_bound(x).amax(1)
    with torch.no_grad():
        model.templates.weight.add_(1.0)
    assert torch.equal(latents.upper_bound, expected)


def descend(model):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, *SHAPE)).sum().backward()
    optimizer.step()


def swap_two_rows(model):
    model.templates.weight.data.copy_(model.templates.weight.data[[1, 0, 2, 3]])


CHANGES = {
    "step": descend,
    "loaded": lambda model: model.load_state_dict(conv_small(4, SHAPE, width=3).state_dict()),
    "edit": lambda model: nn.init.constant_(model.levels.renderings[0].dictionary.weight, 0.1),
    "data": lambda model: model.templates.bias.data.neg_(),
    "rows": swap_two_rows,
    "replaced": lambda model: setattr(model.templates, "weight", nn.Parameter(model.templates.weight + 1e-9)),
    "statistics": lambda model: model.train()(torch.randn(4, *SHAPE)),
    "precision": lambda model: model.float(),
    "one bit": lambda model: model.levels.renderings[2].norm.running_mean.data.view(-1)[:1].add_(1e-12),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_weights_are_refused(model, x, change):
    latents, kept = model.infer(x), model.infer(x)
    expected = kept.upper_bound
    change(model)
    for read in (lambda: latents.upper_bound, lambda: latents.gap, latents.certified):
        with pytest.raises(InputError, match=STALE):
            read()
    assert torch.equal(kept.upper_bound, expected)  # what was read stays


def test_control_what_the_bound_does_not_depend_on_may_change(model, x):
    latents, expected = model.infer(x), model.upper_bound(x).amax(1)
    model.noise.fill_(3.0)
    model.prior.update(latents.switches)
    model.train()  # and another mode is no other weight
    assert torch.equal(latents.upper_bound, expected)
    assert model.training
    assert all(module.training for module in model.modules())


def test_other_images_are_refused(model, x):
    latents, untouched = model.infer(x), model.infer(x.clone())
    x.numpy()[3] += 1e-9  # not even torch can see this
    with pytest.raises(InputError, match=STALE):
        _ = latents.upper_bound
    torch.testing.assert_close(latents.select(slice(0, 3)).upper_bound, untouched.upper_bound[:3])


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([4, 0]), torch.tensor([True, False] * 3)])
@pytest.mark.parametrize("label", [None, torch.tensor([0, 1, 2, 3, 0, 1])])
def test_some_images(model, x, index, label):
    expected = model.infer(x, label).upper_bound[index]
    torch.testing.assert_close(model.infer(x, label).select(index).upper_bound, expected)
    latents = model.infer(x, label, certify=True)
    assert torch.equal(latents.select(index).upper_bound, latents.upper_bound[index])


def test_one_or_the_other(model, x):
    mask = torch.tensor([True, False] * 3)
    one, other = model.infer(x, 1), model.infer(x, 2)
    chosen = one.certificate.where(mask, other.certificate).read()
    bound = model.upper_bound(x)
    assert torch.equal(chosen, torch.where(mask, bound[:, 1], bound[:, 2]))
    assert not torch.equal(chosen, bound[:, 1])


def test_the_sign_traceback_computes_none(model, x, calls):
    latents = sign_traceback(model, x)
    assert calls == []
    assert (latents.upper_bound >= latents.score).all()
    assert calls == [6]


def test_missing_pixels(model, x):
    seen = torch.rand_like(x) < 0.7
    latents = model.infer(torch.where(seen, x, torch.nan), observed=seen)
    assert torch.equal(latents.upper_bound, model.upper_bound(latents.completed).amax(1))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda latents: pickle.loads(pickle.dumps(latents))])
def test_copies_answer_whatever_becomes_of_the_model(model, x, copied):
    with torch.no_grad():
        latents = model.infer(x)
    twin, expected = copied(latents), model.upper_bound(x).amax(1)
    swap_two_rows(model)
    descend(model)
    assert torch.equal(twin.upper_bound, expected)
    late = copied(stale(model, x))
    with pytest.raises(InputError, match=STALE):
        _ = late.upper_bound


def stale(model, x):
    with torch.no_grad():
        latents = model.infer(x)
    swap_two_rows(model)
    return latents


def test_a_copy_does_not_carry_the_model(model, x):
    with torch.no_grad():
        latents = model.infer(x[:1]).select(slice(0, 1))
    latents = Latents.without_score(latents.label, latents.amplitude, Switches(SHAPE), 4)
    assert len(pickle.dumps(latents)) < 4000
    assert latents.upper_bound.isnan().all()


def plain(*more):
    return DRMM(Sequential(Level(Conv2d(1, 2, 3)), *more, Flatten()), Linear(200, 3))


class Stranger(Rendering):
    def infer(self, x):
        return x, Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return z


def test_training_mode_has_a_certificate_where_nothing_depends_on_the_batch(float64):
    x = torch.randn(2, *SHAPE)
    model = plain(Dropout(0.0)).train()
    latents = model.infer(x)
    bound = latents.upper_bound
    torch.testing.assert_close(bound, model.upper_bound(x).amax(1))
    torch.testing.assert_close(bound, model.eval().infer(x).upper_bound)
    assert bound.isfinite().all()
    for varying in (plain(Dropout(0.5)), plain(Stranger()), conv_small(3, SHAPE, width=2)):
        assert varying.train().infer(x).upper_bound.isposinf().all()
