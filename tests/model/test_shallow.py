"""The shallow model and its EM: shapes, limits, starts, empty classes, checkpoints, degenerate images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drmm.data import load
from drmm.errors import InputError, RunError
from drmm.learning.em import shallow
from drmm.learning.em.loop import run_em
from drmm.learning.em.shallow import ShallowLearner, expect, grow, maximise, seed
from drmm.model.shallow import RMM


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.from_numpy(load("digits").x_train[:300])


def fresh(classes: int = 4, *, elements: int = 1, reach: int | tuple[int, int] = 1, shape=(1, 8, 8)) -> RMM:
    return RMM(classes, shape, elements=elements, reach=reach).double()


def seeded(x: torch.Tensor, classes: int = 4, *, number: int = 0, **options) -> RMM:
    model = fresh(classes, shape=tuple(x.shape[1:]), **options)
    seed(model, x, torch.Generator().manual_seed(number))
    return model


def learn(learner: ShallowLearner, max_iter: int = 20, **options):
    return run_em(learner, max_iter=max_iter, tolerance=1e-6, progress=False, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "one class or more"),
        ({"elements": 0}, "elements must be 1 to 6"),
        ({"elements": 7}, "elements must be 1 to 6"),
        ({"reach": -1}, "0 or more"),
        ({"reach": (0, 8)}, "less than the picture"),
    ],
)
def test_what_cannot_be_is_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        fresh(**options)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 5)])
def test_shapes(shape) -> None:
    model = fresh(3, elements=2, reach=(1, 2), shape=shape)
    x, latents = model.sample(7, torch.Generator().manual_seed(0))
    assert x.shape == (7, *shape)
    assert latents.switches.shape == latents.loadings.shape == (7, 2)
    assert model.templates.shape == (3, 2, *shape)
    assert model.means.shape == (3, *shape)
    assert model(x).shape == model.responsibilities(x).shape == (7, 3)
    assert model.log_joint(x).shape == (7, 3, 15, 4)
    assert model.visible().shape == (15, *shape[1:])
    assert model.n_parameters == 6 * np.prod(shape) + 6 + 6 + 1 + 2 + 14
    assert model.shifts[0].tolist() == [-1, -2]


def test_the_explanation_is_the_most_probable_configuration(digits) -> None:
    model = seeded(digits, elements=2)
    x = digits[:50].double() / 255
    best = model.explain(x)
    mask = (best.switches * torch.tensor([1, 2])).sum(1)
    chosen = (best.label * len(model.shifts) + best.position) * 4 + mask
    assert torch.equal(chosen, model.log_joint(x).flatten(1).argmax(1))
    prior = model.mean_loading[best.label]
    assert torch.equal(best.loadings[~best.switches], prior[~best.switches])


def test_explained_loadings_minimise_the_energy(digits) -> None:
    model = seeded(digits, elements=2)
    x = digits[:20].double() / 255
    best = model.explain(x)
    z = best.loadings.clone().requires_grad_()
    residual = x - model.render(replace(best, loadings=z))
    energy = residual.square().sum() / model.noise + (z - model.mean_loading[best.label]).square().sum()
    (slope,) = torch.autograd.grad(energy, z)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-7)


def test_aligning_undoes_the_shift_where_nothing_is_lost() -> None:
    model = fresh(1, reach=2)
    x = torch.zeros(25, 1, 8, 8, dtype=torch.float64)
    x[:, :, 2:6, 2:6] = torch.rand(25, 1, 4, 4, dtype=torch.float64)
    position = torch.arange(25)
    moved = torch.stack([torch.roll(x[i], tuple(model.shifts[i].tolist()), (1, 2)) for i in range(25)])
    torch.testing.assert_close(model.align(moved, position), x)


def test_neither_levels_nor_chunks_matter(digits, monkeypatch) -> None:
    model = seeded(digits, elements=2)
    objective, moments = expect(model, digits.double() / 255)
    levels = expect(model, digits)
    assert levels[0] == pytest.approx(objective, rel=1e-5)  # uint8 is scaled in single precision
    monkeypatch.setattr("drmm.model.shallow._CHUNK", 1)
    assert model.chunk == 1
    again = expect(model, digits.double() / 255)
    assert again[0] == pytest.approx(objective, rel=1e-12)
    torch.testing.assert_close(again[1].pictures, moments.pictures)
    torch.testing.assert_close(again[1].pairs, moments.pairs)


@pytest.mark.parametrize("soft", [True, False])
def test_single_precision_learns_the_same(digits, soft) -> None:
    exact = seeded(digits)
    quick = RMM(4, (1, 8, 8), reach=1)
    quick.load_state_dict(exact.state_dict())
    traces = [learn(ShallowLearner(model, digits, soft=soft), 10) for model in (exact, quick)]
    assert traces[1].objective[-1] == pytest.approx(traces[0].objective[-1], abs=0.1)


def test_colour_is_one_more_dimension(digits) -> None:
    x = digits.double().repeat(1, 3, 1, 1) / 255
    model = seeded(x)
    trace = learn(ShallowLearner(model, x), 10)
    assert np.diff(trace.objective).min() >= 0
    weight = model.templates[:, 0].detach()
    torch.testing.assert_close(weight[:, 0], weight[:, 2])


def test_seeds_are_far_apart_and_within_reach_of_most() -> None:
    # Two shapes at nine places: the seeds are one of each, in the middle of where they occur.
    shapes = torch.zeros(2, 1, 8, 8)
    shapes[0, :, 3, 2:6] = shapes[1, :, 2:6, 3] = 1
    shifts = fresh().shifts.tolist()
    x = torch.stack(
        [b * torch.roll(shape, tuple(s), (1, 2)) for b in (0.6, 1) for shape in shapes for s in shifts]
    )
    for number in range(5):
        model = seeded(x, 2, number=number)
        flat = model.templates.flatten(2).squeeze(1)
        cosine = torch.nn.functional.normalize(flat) @ torch.nn.functional.normalize(shapes.flatten(1)).double().T
        assert cosine.amax(1).min() > 0.99
        assert cosine.argmax(1).unique().numel() == 2


def test_growing_keeps_what_is_there_and_adds_what_is_left(digits) -> None:
    small = seeded(digits)
    learn(ShallowLearner(small, digits), 10)
    large = grow(small, digits, 3, torch.Generator().manual_seed(0))
    assert large.elements == 3
    torch.testing.assert_close(large.templates[:, 0], small.templates[:, 0])
    assert (large.mean_loading[:, 1:] == 0).all()
    assert (large.templates[:, 1:].flatten(2).norm(dim=2) > 0).all()
    before, after = (learn(ShallowLearner(model, digits), 10).objective[-1] for model in (small, large))
    assert after > before + 1


def test_an_empty_class_starts_again_and_the_trace_does_not_fall(digits) -> None:
    for soft in (True, False):
        model = seeded(digits)
        with torch.no_grad():
            model.templates[0] = 100.0
        learner = ShallowLearner(model, digits, soft=soft)
        trace = learn(learner)
        assert learner.reseeded == 1
        assert np.diff(trace.objective).min() >= 0
        assert (model.class_prior > 1 / len(digits)).all()


def test_a_start_that_does_not_help_is_taken_back(digits, monkeypatch) -> None:
    model = seeded(digits)
    with torch.no_grad():
        model.templates[0] = 100.0
    monkeypatch.setattr(shallow, "_reseed", lambda model, classes, images: model.noise.mul_(10))
    learner = ShallowLearner(model, digits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner.e_step()
    assert learner.reseeded == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert np.diff(learn(learner).objective).min() >= 0


def test_a_killed_run_goes_on_to_the_same_numbers(digits, tmp_path) -> None:
    whole, first = (ShallowLearner(seeded(digits, elements=2), digits) for _ in range(2))
    learn(whole, 8)
    learn(first, 5, folder=tmp_path)
    second = ShallowLearner(fresh(elements=2), digits)
    trace = learn(second, 8, folder=tmp_path, resume=True)
    assert len(trace.objective) == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    with pytest.raises(RunError, match="another mixture"):
        learn(ShallowLearner(fresh(3), digits), folder=tmp_path, resume=True)


def test_the_m_step_wants_an_e_step(digits) -> None:
    with pytest.raises(RunError, match="call e_step first"):
        ShallowLearner(fresh(), digits).m_step()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(digits, value) -> None:
    x = digits.double() / 255
    x[7, 0, 3, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        seed(fresh(), x)
    with pytest.raises(InputError, match="NaN or infinite"):
        ShallowLearner(fresh(), x)


def test_images_of_another_shape_are_refused(digits) -> None:
    for x in (digits[:, :, :7], digits[:, 0], digits[:0]):
        with pytest.raises(InputError, match="mixture is of"):
            ShallowLearner(fresh(), x)


@pytest.mark.parametrize("elements", [1, 2])
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("kind", ["one image", "constant", "black", "duplicates", "two images"])
def test_degenerate_images_do_no_harm(digits, kind, soft, elements) -> None:
    x = {
        "one image": digits[:1],
        "constant": torch.full((20, 1, 8, 8), 0.5),
        "black": torch.zeros(20, 1, 8, 8),
        "duplicates": digits[:1].expand(20, -1, -1, -1),
        "two images": digits[:2],
    }[kind]
    model = seeded(x, 3, elements=elements)
    trace = learn(ShallowLearner(model, x, soft=soft), 30)
    gains = np.diff(trace.objective)
    assert len(gains) == 0 or gains.min() >= -1e-9 * abs(trace.objective[-1])
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert float(model.noise) >= 1e-6
    assert bool(model.responsibilities(x[:2].double()).isfinite().all())


def test_what_no_image_tells_of_stays_as_it_was(digits) -> None:
    model = seeded(digits, 2, elements=2)
    with torch.no_grad():
        model.switch_prior[0, 1] = 0.0  # an element that is never on
        model.class_prior.copy_(torch.tensor([1.0, 0.0]))  # a class that never occurs
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maximise(model, expect(model, digits)[1])
    torch.testing.assert_close(model.templates[0, 1], before["dictionary.weight"].view_as(model.templates)[0, 1])
    torch.testing.assert_close(model.templates[1], before["dictionary.weight"].view_as(model.templates)[1])
    assert torch.equal(model.mean_loading[1], before["mean_loading"][1])
    assert model.switch_prior[0, 1] == 0
    assert not torch.equal(model.templates[0, 0], before["dictionary.weight"].view_as(model.templates)[0, 0])
