"""What latents draw is drawn once, when it is read, and never by other weights in silence."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from drmm import DRMM
from drmm.errors import InputError
from drmm.model import modes
from drmm.model.deep import fit_amplitude, per_image
from drmm.model.efficientnet import efficientnet_lite
from drmm.model.moment import Moment
from drmm.model.presets import conv_small
from drmm.rendering import Dropout, Flatten, Linear, Sequential

SHAPE = (1, 12, 12)
STALE = "weights or the images have changed since inference, so that the amplitude is lost"


@pytest.fixture
def model(float64):
    return conv_small(4, SHAPE, width=3).eval()


@pytest.fixture
def x(model):
    return torch.randn(6, *SHAPE)


@pytest.fixture
def passes(monkeypatch):
    """The passes that models make: up, down."""
    made = []
    for name in ("infer", "forward", "render"):
        whole = getattr(Sequential, name)
        monkeypatch.setattr(Sequential, name, lambda *a, whole=whole, name=name: made.append(name) or whole(*a))
    return made


def amplitude_of(model, x):
    label, _, switches = model.max_sum(x, None)
    return fit_amplitude(x, model.levels.render(model.templates.weight[label], switches))


@torch.no_grad()
def test_it_is_drawn_when_it_is_read_and_once(model, x, passes):
    latents = model.infer(x)
    assert passes == ["infer"]
    want = model.picture(latents)
    assert passes == ["infer", "render"]
    assert torch.equal(model.picture(latents), want)
    model.log_joint(x, latents)
    assert passes == ["infer", "render"]
    assert torch.equal(latents.amplitude, amplitude_of(model, x))
    assert torch.equal(want, per_image(latents.amplitude) * model.render(latents))


@torch.no_grad()
def test_what_was_drawn_is_not_another_models_or_of_other_weights(model, x):
    latents, other = model.infer(x), conv_small(4, SHAPE, width=3).eval()
    model.picture(latents).zero_()  # and is nobody's to write in
    assert torch.equal(model.picture(latents), per_image(latents.amplitude) * model.render(latents))
    assert torch.equal(other.picture(latents), per_image(latents.amplitude) * other.render(latents))
    taught = DRMM(model.levels, Linear(model.templates.in_features, 4), image_shape=SHAPE).eval()
    assert torch.equal(taught.picture(latents), per_image(latents.amplitude) * taught.render(latents))
    before = model.picture(latents)
    model.templates.weight.data.neg_()
    assert torch.equal(model.picture(latents), -before)


def test_pictures_have_a_gradient(model, x):
    latents = model.infer(x)
    assert not latents.amplitude.requires_grad
    model.picture(latents).sum().backward()
    assert model.templates.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("change", ["weights", "images"])
def test_it_is_never_of_other_weights_or_images(model, x, change):
    latents, read, at_once = model.infer(x), model.infer(x), model.infer(x, certify=True)
    expected = read.amplitude
    if change == "weights":
        model.levels.renderings[0].dictionary.weight.data.view(-1)[:1].add_(1e-12)
    else:
        x.numpy()[3] += 1e-9
    for ask in (
        lambda: latents.amplitude,
        lambda: model.picture(latents),
        lambda: latents.select([0, 3]).amplitude,
    ):
        with pytest.raises(InputError, match=STALE):
            ask()
    assert torch.equal(read.amplitude, expected)
    assert torch.equal(at_once.amplitude, expected)


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([4, 0]), torch.tensor([True, False] * 3)])
@pytest.mark.parametrize("read", [True, False])
def test_some_images(model, x, index, read):
    want, latents = amplitude_of(model, x)[index], model.infer(x)
    if read:
        assert torch.equal(latents.amplitude[index], want)
    part = latents.select(index)
    torch.testing.assert_close(part.amplitude, want)
    torch.testing.assert_close(part.features, model.levels(x)[index])


def test_a_replaced_amplitude_is_the_one_that_is_drawn_with(model, x):
    latents = replace(model.infer(x), amplitude=torch.full((6,), 2.0))
    assert torch.equal(model.picture(latents), 2 * model.render(latents))
    other = replace(model.infer(x), label=torch.zeros(6, dtype=torch.long))
    assert torch.equal(other.amplitude, amplitude_of(model, x))
    assert torch.equal(model.picture(other), per_image(other.amplitude) * model.render(other))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda latents: pickle.loads(pickle.dumps(latents))])
def test_copies_answer_whatever_becomes_of_the_model(model, x, copied):
    with torch.no_grad():
        latents = model.infer(x)
    twin, expected = copied(latents), amplitude_of(model, x)
    with torch.no_grad():
        late = model.infer(x)
    model.templates.weight.data.neg_()
    assert torch.equal(twin.amplitude, expected)
    with pytest.raises(InputError, match=STALE):
        _ = copied(late).amplitude


def test_in_training_it_is_drawn_at_once(float64):
    x = torch.randn(4, *SHAPE)
    model = DRMM(Sequential(Dropout(0.5), Flatten()), Linear(144, 3)).train()
    latents = model.infer(x)
    model.templates.weight.data.neg_()
    kept = latents.switches.parts[0].kept
    rendering = -2 * kept * model.templates.weight[latents.label].reshape(x.shape)
    torch.testing.assert_close(latents.amplitude, fit_amplitude(x, rendering))


def test_missing_pixels_have_no_part_in_it(model, x):
    seen = torch.rand_like(x) < 0.7
    latents = model.infer(torch.where(seen, x, torch.nan), observed=seen)
    torch.testing.assert_close(latents.amplitude, fit_amplitude(x, model.render(latents), seen))


# --- checksums ---


EDITS = {
    "one bit": lambda w: w.view(-1)[12345:12346].mul_(1 + 2**-22),
    "all signs": lambda w: w.neg_(),
    "signs of every other input": lambda w: w[:, 1::2].neg_(),
    "two signs": lambda w: w.view(-1)[1:5:2].neg_(),
    "doubled, every other": lambda w: w[:, 1::2].mul_(2),
    "rows": lambda w: w.copy_(w[torch.arange(len(w)).flip(0)]),
    "columns": lambda w: w.copy_(w.flip(1)),
    "rolled": lambda w: w.copy_(w.view(-1).roll(2).view_as(w)),
    "two numbers": lambda w: w.view(-1).__setitem__([5, 70001], w.view(-1)[[70001, 5]]),
    "the last": lambda w: w[-1, -1:].neg_(),
    "a zero's sign": lambda w: w[0, :1].neg_(),
}


@pytest.mark.parametrize("outputs", [600, 3])  # large, and counted with others
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_edit_of_a_large_or_small_weight_is_seen(edit, dtype, outputs):
    torch.manual_seed(0)
    width = 301 * 600 // outputs
    model = DRMM(Sequential(Flatten()), Linear(width, outputs)).to(dtype)
    weight = model.templates.weight.data
    weight[0, 0] = 0
    if dtype == torch.bfloat16 and edit is EDITS["one bit"]:
        weight.view(-1)[12345] = 1.0
        edit = lambda w: w.view(-1)[12345:12346].add_(2**-7)  # noqa: E731
    moment, before = Moment.now(model, torch.zeros(1, 1)), weight.clone()
    assert moment.lasts
    edit(weight)
    assert not moment.lasts
    weight.copy_(before)
    assert moment.lasts  # control: the same bits again


def test_weights_of_any_size_and_kind_have_a_checksum():
    model = DRMM(Sequential(Flatten()), Linear(3, 2))
    model.levels.register_buffer("odd", torch.zeros(7, dtype=torch.uint8))
    model.levels.register_buffer("none", torch.zeros(0))
    model.levels.register_buffer("shifted", torch.zeros(2**17 + 1)[1:])
    model.levels.register_buffer("turned", torch.randn(300, 301).T)
    for edit in (
        lambda kept: kept.odd[-1:].add_(1),
        lambda kept: kept.shifted[-1:].add_(1),
        lambda kept: kept.turned[300, 299:].neg_(),
    ):
        moment = Moment.now(model, torch.zeros(1, 3))
        edit(model.levels)
        assert not moment.has_weights
    assert Moment.now(nn.Module.__new__(Bare), torch.zeros(1, 1)).lasts


class Bare(nn.Module):
    levels, templates = Sequential(), nn.Identity()


# --- in pieces ---


@torch.no_grad()
@pytest.mark.parametrize("numbers", [1, 300, 10**6])
def test_images_go_through_in_pieces(model, x, numbers, monkeypatch, passes):
    label, logits, switches = model.max_sum(x, None)
    drawn = model.levels.render(model.templates.weight[label], switches)
    passes.clear()
    monkeypatch.setattr(modes, "_NUMBERS", numbers)
    latents = model.infer(x)
    at_once = min(6, max(1, numbers // 144))
    assert passes.count("infer") == 6 // at_once
    torch.testing.assert_close(latents.logits, logits)
    for mine, whole in zip(latents.switches.leaves(), switches.leaves(), strict=True):
        for (_, one), (_, other) in zip(mine.choices(), whole.choices(), strict=True):
            assert torch.equal(one, other)
    torch.testing.assert_close(model.render(latents), drawn)
    torch.testing.assert_close(model.reconstruct(x), model.picture(latents))
    torch.testing.assert_close(latents.features, model.levels(x))


def test_all_at_once_where_a_gradient_is_wanted_or_the_batch_decides(model, x, monkeypatch, passes):
    monkeypatch.setattr(modes, "_NUMBERS", 1)
    model.infer(x)
    with torch.no_grad():
        model.train().max_sum(x, None)
    assert passes.count("infer") == 2


def test_no_image_is_a_batch_of_none(model):
    with torch.no_grad():
        assert model.reconstruct(torch.zeros(0, *SHAPE)).shape == (0, *SHAPE)


@torch.no_grad()
def test_photographs_go_through_in_channels_last_memory():
    net = efficientnet_lite("efficientnet_lite0", 3, (3, 64, 64)).eval()
    latents = net.infer(torch.rand(2, 3, 64, 64))
    masks = [leaf.a for leaf in latents.switches.leaves()]
    assert len(masks) > 30
    assert all(mask.is_contiguous(memory_format=torch.channels_last) for mask in masks)
