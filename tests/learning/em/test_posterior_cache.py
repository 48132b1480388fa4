"""Posteriors between the steps: nothing is lost on disk, and what is damaged is noticed."""

import pytest
import torch

from drmm import DRMM
from drmm.errors import RunError
from drmm.learning.em import PosteriorCache, e_step
from drmm.learning.em.posterior_cache import PosteriorStore
from drmm.rendering import Abs, BatchNorm2d, Conv2d, Flatten, LeakyReLU, Level, Linear, MaxPool2d, ReLU, Sequential

pytestmark = pytest.mark.usefixtures("float64")


def model_with(*levels, shape=(1, 6, 6)):
    body = Sequential(*levels, Flatten())
    features = body(torch.zeros(2, *shape)).shape[1]
    return DRMM(body, Linear(features, 3), image_shape=shape).eval()


MODELS = {
    "2x2": lambda: model_with(Level(Conv2d(1, 3, 3, padding=1), BatchNorm2d(3), MaxPool2d(2))),
    "3x3": lambda: model_with(Conv2d(1, 5, 2), MaxPool2d(3, 2), ReLU()),
    "1x1": lambda: model_with(Level(Conv2d(1, 3, 3), None, MaxPool2d(1))),
    "16x16": lambda: model_with(Level(Conv2d(1, 2, 1), None, MaxPool2d(16)), shape=(1, 16, 16)),
    "17x17": lambda: model_with(Level(Conv2d(1, 2, 1), None, MaxPool2d(17, 1)), shape=(1, 18, 18)),
    "signs": lambda: model_with(Conv2d(1, 3, 3), Abs(), LeakyReLU(0.1)),
    "two levels": lambda: model_with(
        Sequential(Conv2d(1, 2, 3), ReLU()), Level(Conv2d(2, 3, 2), None, MaxPool2d(3))
    ),
    "no switches": lambda: model_with(Conv2d(1, 2, 3)),
}


def posterior_of(name, n=7, soft=True):
    model = MODELS[name]()
    return model, e_step(model, torch.randn(n, *model.image_shape), soft=soft)


def choices(posterior):
    return [choice for leaf in posterior.switches.leaves() for _, choice in leaf.choices()]


def same(one, other):
    assert torch.equal(one.responsibilities, other.responsibilities)
    assert torch.equal(one.amplitude, other.amplitude)
    mine, theirs = choices(one), choices(other)
    assert len(mine) == len(theirs)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 16])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_bit_for_bit(name, n, dtype, tmp_path):
    model, posterior = posterior_of(name, n)
    posterior = PosteriorCache(
        posterior.responsibilities.to(dtype),
        posterior.amplitude.to(dtype),
        posterior.switches,
        posterior.objective,
    )
    store = PosteriorStore(tmp_path)
    store.write(0, posterior)
    store.advance()
    found = store.read(0, model.blank_switches())
    same(found, posterior)
    x = torch.randn(n, *model.image_shape)
    _, one, _ = posterior.configurations(x)
    _, other, _ = found.configurations(x)
    torch.testing.assert_close(model.picture(one), model.picture(other), rtol=1e-12, atol=1e-12)


def test_every_position_of_a_window_survives(tmp_path):
    model, posterior = posterior_of("17x17", 9)
    (leaf,) = posterior.switches.leaves()
    assert leaf.t.dtype == torch.int32  # 289 positions
    leaf.t.flatten().copy_(torch.linspace(0, 288, leaf.t.numel()).int())
    assert leaf.t.max() == 288
    store = PosteriorStore(tmp_path)
    store.write(0, posterior)
    store.advance()
    same(store.read(0, model.blank_switches()), posterior)


def test_a_bit_for_each_bit_of_choice(tmp_path):
    """8 images of 96 units, each on or off and at one of four positions."""
    model = model_with(Level(Conv2d(1, 6, 3, padding=1), None, MaxPool2d(2)), shape=(1, 8, 8))
    posterior = e_step(model, torch.randn(8, 1, 8, 8))
    PosteriorStore(tmp_path).write(0, posterior)
    (file,) = tmp_path.iterdir()
    assert posterior.switches.nbytes() == 2 * 8 * 96
    assert file.stat().st_size < 3 * 8 * 96 / 8 + 1000


def test_memory_layouts_do_not_matter(tmp_path):
    model, posterior = posterior_of("2x2")
    last = posterior.switches.map(lambda choice: choice.to(memory_format=torch.channels_last))
    other = PosteriorCache(posterior.responsibilities, posterior.amplitude, last, posterior.objective)
    store = PosteriorStore(tmp_path)
    store.write(0, other)
    store.advance()
    same(store.read(0, model.blank_switches()), posterior)


# --- generations ---


def test_a_generation_counts_when_it_is_complete(tmp_path):
    model, old = posterior_of("2x2")
    _, new = posterior_of("2x2")
    like, store = model.blank_switches(), PosteriorStore(tmp_path)
    store.write(0, old)
    store.advance()
    store.write(0, new)  # and the process dies
    same(store.read(0, like), old)
    again = PosteriorStore(tmp_path)
    again.generation = 1
    same(again.read(0, like), old)
    again.write(0, new)
    again.advance()
    same(again.read(0, like), new)


def test_the_former_generation_stays_until_it_is_tidied_away(tmp_path):
    """Between the end of an E-step and the moment when its state is safe, a process may die too."""
    model, old = posterior_of("2x2")
    _, new = posterior_of("2x2")
    like, store = model.blank_switches(), PosteriorStore(tmp_path)
    for posterior in (old, new):
        store.write(0, posterior)
        store.advance()
    restarted = PosteriorStore(tmp_path)
    restarted.generation = 1
    same(restarted.read(0, like), old)
    store.tidy()
    same(store.read(0, like), new)
    assert [path.name for path in tmp_path.iterdir()] == ["2-0.safetensors"]
    with pytest.raises(RunError, match="missing"):
        restarted.read(0, like)


def test_a_fresh_store_leaves_nothing_of_a_former_run(tmp_path):
    _, posterior = posterior_of("2x2")
    store = PosteriorStore(tmp_path)
    store.write(3, posterior)
    store.advance()
    PosteriorStore(tmp_path).tidy()
    assert list(tmp_path.iterdir()) == []
    PosteriorStore(tmp_path / "none").tidy()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage", "another model's"])
def test_damage_is_one_clear_line(damage, tmp_path):
    model, posterior = posterior_of("2x2")
    store = PosteriorStore(tmp_path)
    store.write(0, posterior)
    store.advance()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.unlink()
    if damage == "another model's":
        model = MODELS["signs"]()
        path.write_bytes(content)
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": content[:-5], "garbage": b"\x80\x04\x95"}[damage])
    with pytest.raises(RunError, match=path.name) as caught:
        store.read(0, model.blank_switches())
    assert "\n" not in str(caught.value)


# --- what they say ---


def test_of_two_posteriors_each_image_keeps_the_better():
    model = MODELS["two levels"]()
    x = torch.randn(6, *model.image_shape)
    mine, theirs = e_step(model, x), e_step(model, torch.randn(6, *model.image_shape))
    better = torch.tensor([True, False, True, True, False, False])
    mine = PosteriorCache(mine.responsibilities, mine.amplitude, mine.switches, better.double())
    theirs = PosteriorCache(theirs.responsibilities, theirs.amplitude, theirs.switches, 1 - better.double())
    found = mine.better_of(theirs)
    assert torch.equal(found.objective, torch.ones(6))
    for part, one, other in zip(choices(found), choices(mine), choices(theirs), strict=True):
        assert torch.equal(part[better], one[better])
        assert torch.equal(part[~better], other[~better])
    assert torch.equal(found.amplitude[better], mine.amplitude[better])
    assert torch.equal(found.responsibilities[~better], theirs.responsibilities[~better])
    assert any(not torch.equal(a, b) for a, b in zip(choices(mine), choices(theirs), strict=True))


def test_in_a_tie_the_first_stays():
    model = MODELS["2x2"]()
    mine, theirs = (e_step(model, torch.randn(6, *model.image_shape)) for _ in range(2))
    theirs = PosteriorCache(theirs.responsibilities, theirs.amplitude, theirs.switches, mine.objective)
    same(mine.better_of(theirs), mine)


def test_hard_posteriors_are_one_configuration_an_image():
    model = MODELS["2x2"]()
    x = torch.randn(5, *model.image_shape)
    posterior = e_step(model, x)
    images, latents, weight = posterior.configurations(x)
    assert images is x
    assert torch.equal(weight, torch.ones(5))
    assert torch.equal(latents.label, posterior.responsibilities.argmax(1))
    assert torch.equal(latents.amplitude, posterior.amplitude.amax(1))


def test_soft_posteriors_are_one_for_each_class_that_counts():
    model = MODELS["2x2"]()
    model.noise.fill_(1e3)  # nothing is sure
    x = torch.randn(5, *model.image_shape)
    posterior = e_step(model, x, torch.tensor([-1, -1, 2, -1, -1]), soft=True)
    images, latents, weight = posterior.configurations(x)
    assert len(images) == 4 * 3 + 1
    image = torch.tensor([0] * 3 + [1] * 3 + [2] + [3] * 3 + [4] * 3)
    assert torch.equal(images, x[image])
    assert torch.equal(weight, posterior.responsibilities[image, latents.label])
    torch.testing.assert_close(torch.zeros(5).index_add(0, image, weight), torch.ones(5))
    for (_, mine), (_, theirs) in zip(
        next(latents.switches.leaves()).choices(), next(posterior.switches.leaves()).choices(), strict=True
    ):
        assert torch.equal(mine, theirs[image])
