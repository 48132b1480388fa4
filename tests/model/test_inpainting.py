"""Missing pixels: what they are filled in with, that their values have no part in it, and what is refused."""

import math

import pytest
import torch

from drmm import DRMM
from drmm.errors import InputError
from drmm.model.deep import fit_amplitude, per_image
from drmm.model.inpainting import complete, from_neighbours, hold_out, observed_pixels, trust
from drmm.model.presets import conv_small
from drmm.rendering import BatchNorm2d, Conv2d, Dropout, Flatten, Level, Linear, Sequential
from drmm.studies.corruptions import occlude

SHAPE = (2, 12, 14)
EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture
def model(float64):
    torch.manual_seed(0)
    model = conv_small(4, SHAPE, width=3)
    model.prior.update(model.eval().infer(torch.randn(32, *SHAPE)).switches)
    model.noise.fill_(0.3)
    return model


@pytest.fixture
def x(model):
    return torch.rand(6, *SHAPE)


@pytest.fixture
def seen(x):
    return torch.rand(x.shape) < 0.5


def assert_same(one, other):
    """Every field of two latents, but for what was seen."""
    for name in ("label", "score", "logits", "upper_bound", "amplitude"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **EXACT)
    for mine, theirs in zip(one.switches.leaves(), other.switches.leaves(), strict=True):
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(mine.choices(), theirs.choices(), strict=True))


# --- what infer promises ---


def test_nothing_missing_is_plain_inference(model, x):
    plain, told = model.infer(x), model.infer(x, observed=torch.ones(x.shape, dtype=torch.bool))
    assert_same(plain, told)
    assert plain.observed is plain.completed is None
    assert torch.equal(told.completed, x)
    assert torch.equal(model.log_joint(x, told), model.log_joint(x, plain))


def test_one_image_with_gaps_changes_no_other(model, x, seen):
    seen[1:] = True
    plain, told = model.infer(x), model.infer(x, observed=seen)
    assert_same(plain.select(slice(1, None)), told.select(slice(1, None)))
    assert not torch.equal(plain.logits[0], told.logits[0]), "control: its own pixels matter"


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e300, 7.0])
@pytest.mark.parametrize("label", [None, 2])
def test_what_was_not_seen_does_not_matter(model, x, seen, value, label):
    hidden = torch.where(seen, x, value)
    one, other = model.infer(x, label, observed=seen), model.infer(hidden, label, observed=seen)
    assert_same(one, other)
    assert torch.equal(one.completed, other.completed)
    assert one.logits.isfinite().all()
    assert one.completed.isfinite().all()
    assert torch.equal(model.log_joint(x, one), model.log_joint(hidden, other))
    assert torch.equal(model.sum_over_paths(x, one).pixels, model.sum_over_paths(hidden, other).pixels)
    moved = torch.where(seen, x + 0.1, x)
    assert not torch.equal(model.infer(moved, label, observed=seen).logits, one.logits), "control: what was, does"


def test_an_image_is_inferred_alike_alone_and_in_a_batch(model, x, seen):
    one, all_ = model.infer(x[2:3], observed=seen[2:3]), model.infer(x, observed=seen)
    torch.testing.assert_close(one.completed, all_.completed[2:3])
    torch.testing.assert_close(one.logits, all_.logits[2:3])


@pytest.mark.parametrize("shape", [(12, 14), (1, 1, 12, 14), (6, 1, 12, 14), (1, 2, 12, 14), (6, 2, 1, 14)])
def test_masks_of_fewer_dimensions(model, x, shape):
    seen = torch.rand(shape) < 0.5
    whole = model.infer(x, observed=seen.expand(x.shape).clone())
    told = model.infer(x, observed=seen)
    assert_same(told, whole)
    assert torch.equal(told.observed, whole.observed)


def test_latents_are_those_of_the_completed_image(model, x, seen):
    told = model.infer(x, observed=seen)
    assert torch.equal(told.completed, model.inpaint(x, seen))
    assert torch.equal(told.completed[seen], x[seen])
    plain = model.infer(told.completed)
    torch.testing.assert_close(plain.logits, told.logits)
    torch.testing.assert_close(model.render(plain), model.render(told))
    paths = model.sum_over_paths(x, told)
    torch.testing.assert_close(paths.pixels.flatten(1).sum(1) + paths.bias, told.score)
    assert (told.upper_bound >= told.score).all()


def test_amplitude_and_log_joint_are_of_what_was_seen(model, x, seen):
    told = model.infer(x, observed=seen)
    drawn = model.render(told)
    match = (x * drawn * seen).flatten(1).sum(1) / (drawn.square() * seen).flatten(1).sum(1)
    torch.testing.assert_close(told.amplitude, match.clamp(min=0))
    density = torch.distributions.Normal(model.picture(told), math.sqrt(0.3)).log_prob(x)
    by_hand = (density * seen).flatten(1).sum(1)
    torch.testing.assert_close(model.log_likelihood(x, told), by_hand)
    torch.testing.assert_close(model.log_joint(x, told), by_hand + model.log_prior(told))
    assert (by_hand - density.flatten(1).sum(1)).abs().min() > 1, "control: not of all pixels"


def test_inpainting_draws_with_the_amplitude_of_the_seen_pixels(model, x, seen):
    def draw(image, known):
        drawn = model.render(model.infer(image))
        return per_image(fit_amplitude(x, drawn, known)) * drawn

    filled = model.inpaint(x, seen)
    torch.testing.assert_close(filled, complete(x, seen, draw))
    assert not filled.requires_grad
    plain = complete(x, seen, lambda image, known: model.reconstruct(image))
    assert (filled - plain).abs().max() > 1e-4, "control: not that of the guess"


def test_a_class_that_is_given_draws(model, x, seen):
    told = model.infer(x, 3, observed=seen)
    assert told.label.tolist() == [3] * 6
    assert torch.equal(told.completed, model.inpaint(x, seen, 3))
    with pytest.raises(InputError, match="class indices"):
        model.inpaint(x, seen, 4)


def test_select(model, x, seen):
    some = model.infer(x, observed=seen).select(torch.tensor([4, 1]))
    assert torch.equal(some.observed, seen[[4, 1]])
    torch.testing.assert_close(some.completed, model.inpaint(x, seen)[[4, 1]])
    assert some.select(slice(1)).completed.shape == (1, *SHAPE)


def test_gradients_are_those_of_the_seen_pixels(model, x, seen):
    hidden = torch.where(seen, x, math.nan).requires_grad_()
    model.infer(hidden, observed=seen).score.sum().backward()
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[~seen] == 0).all()
    assert (hidden.grad[seen] != 0).any()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_in_training_mode_filling_in_measures_and_draws_nothing():
    levels = Sequential(Dropout(0.5), Level(Conv2d(1, 2, 3), BatchNorm2d(2)), Flatten())
    model, x = DRMM(levels, Linear(200, 3)).train(), torch.rand(4, 1, 12, 12)
    seen, state = torch.rand(x.shape) < 0.5, torch.random.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model.inpaint(x, seen)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert torch.equal(model.infer(x, observed=seen).completed, first)
    assert int(model.levels[1].norm.num_batches_tracked) == 1, "control: inference itself does"


def test_single_precision(model, x, seen):
    latents = model.float().infer(x.float(), observed=seen)
    assert latents.completed.dtype == latents.score.dtype == torch.float32
    assert model.log_joint(x.float(), latents).dtype == torch.float32


# --- what is refused ---


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(6, *SHAPE), "bool, True where a pixel was seen, got torch.float32"),
        (torch.ones(6, 12, 14, dtype=torch.bool), r"a mask for each image is \(N, 1, H, W\)"),
        (torch.ones(5, *SHAPE, dtype=torch.bool), r"fit \(N, C, H, W\) = \(6, 2, 12, 14\), got \(5, 2, 12, 14\)"),
        (torch.ones(14, 12, dtype=torch.bool), r"got \(14, 12\)"),
        (torch.ones(14, dtype=torch.bool), r"got \(14,\)"),
        (torch.ones(1, 6, *SHAPE, dtype=torch.bool), "got"),
    ],
)
def test_bad_masks(model, x, mask, says):
    for call in (lambda: model.infer(x, observed=mask), lambda: model.inpaint(x, mask)):
        with pytest.raises(InputError, match=says) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_mask_of_three_dimensions_is_never_guessed(model):
    """(3, H, W) would fit both 3 images and 3 channels."""
    with pytest.raises(InputError, match="N, 1, H, W"):
        observed_pixels(torch.rand(3, 3, 8, 8), torch.ones(3, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize("images", [torch.rand(1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)])
def test_bad_images(images):
    with pytest.raises(InputError, match="floats"):
        observed_pixels(images, torch.ones(8, 8, dtype=torch.bool))


# --- interpolation ---


@pytest.mark.parametrize("power", [4, 6, 8])
def test_neighbours_are_weighted_by_a_power_of_their_distance(power, float64):
    """One pixel is missing: its value is a mean of all others, whose weights are the derivatives."""
    x, seen = torch.rand(1, 1, 31, 41, requires_grad=True), torch.ones(31, 41, dtype=torch.bool)
    seen[15, 20] = False
    from_neighbours(x, seen.expand(x.shape), power)[0, 0, 15, 20].backward()
    weight = x.grad[0, 0]
    torch.testing.assert_close(weight.sum(), torch.ones(()))
    assert (weight[seen] > 0).all()
    down, right = torch.meshgrid(torch.arange(31) - 15, torch.arange(41) - 20, indexing="ij")
    ratio = (weight * (down.square() + right.square()) ** (power / 2))[seen]
    assert ratio.max() < 1.5 * ratio.min(), "of weights that differ by a factor of 10^5 to 10^11"


def test_interpolation_keeps_range_constants_and_what_was_seen(x, seen):
    filled = from_neighbours(x, seen)
    assert torch.equal(filled[seen], x[seen])
    for image, whole, mask in zip(x.flatten(0, 1), filled.flatten(0, 1), seen.flatten(0, 1), strict=True):
        assert whole.min() >= image[mask].min() - 1e-12
        assert whole.max() <= image[mask].max() + 1e-12
    torch.testing.assert_close(from_neighbours(torch.full_like(x, 0.3), seen), torch.full_like(x, 0.3))


def test_interpolation_is_linear_and_by_channel(x, seen):
    other = torch.rand(x.shape)
    both = from_neighbours(2 * x - other, seen)
    torch.testing.assert_close(both, 2 * from_neighbours(x, seen) - from_neighbours(other, seen))
    one = from_neighbours(x[:, 1:], seen[:, 1:])
    torch.testing.assert_close(one, from_neighbours(x, seen)[:, 1:])


@pytest.mark.parametrize("share", [0.0, 0.002, 0.02])
def test_hardly_anything_seen(model, x, share):
    seen = torch.rand(x.shape) < share
    latents = model.infer(torch.where(seen, x, math.nan), observed=seen)
    assert latents.completed.isfinite().all()
    assert latents.logits.isfinite().all()
    nothing = ~seen.flatten(1).any(1)
    assert (latents.completed[nothing] == 0).all()
    assert (latents.amplitude[nothing] == 0).all()


# --- trust ---


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_hidden_pixels_are_a_third_of_the_seen_ones_whatever_the_pattern(share):
    seen = torch.rand(50, 1, 20, 20) < share
    held = hold_out(seen)
    assert not (held & ~seen).any()
    torch.testing.assert_close(held.flatten(1).sum(1), seen.flatten(1).sum(1) // 3)
    grid = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    grid[..., ::6, ::6] = True  # pictures to be enlarged: hiding by coordinates could hide all of them
    assert hold_out(grid).sum() == 16 // 3
    colour = hold_out(torch.ones(2, 3, 7, 10, dtype=torch.bool))
    assert torch.equal(colour[:, 0], colour[:, 1])
    assert torch.equal(colour[:, 0], colour[:, 2])


@pytest.mark.parametrize("w", [0.2, 0.7, 1.0])
def test_trust_is_what_is_there(w, float64):
    detail, held = torch.randn(5, *SHAPE), torch.rand(5, *SHAPE) < 0.8
    torch.testing.assert_close(trust(w * detail, detail, held), torch.full((5,), w))
    noisy = w * detail + 0.05 * torch.randn(5, *SHAPE)
    torch.testing.assert_close(trust(noisy, detail, held), torch.full((5,), w), rtol=0, atol=0.02)
    wrong = torch.where(held, noisy, 1e9)
    torch.testing.assert_close(trust(wrong, detail, held), trust(noisy, detail, held))


def test_trust_is_the_posterior_mean(float64):
    """Against w on a grid: prior N(0, 1/10), noise of the variance that least squares leaves."""
    detail, error = 0.1 * torch.randn(1, 1, 5, 5), torch.randn(1, 1, 5, 5) + 0.05
    held = torch.ones(error.shape, dtype=torch.bool)
    best = (error * detail).sum() / detail.square().sum()
    variance = (error - best * detail).square().sum() / 24
    grid = torch.linspace(-4, 4, 4001)
    log = -0.5 * (error.flatten() - grid[:, None] * detail.flatten()).square().sum(1) / variance - 5 * grid**2
    mean = (log.softmax(0) * grid).sum()
    sign = mean.sign()
    torch.testing.assert_close(trust(sign * error, detail, held)[0], sign * mean, rtol=1e-6, atol=1e-6)
    assert abs(best) > 1.5 * abs(mean), "control: least squares alone trusts more"


def test_trust_has_limits(float64):
    detail, held = torch.randn(200, *SHAPE), torch.rand(200, *SHAPE) < 0.5
    assert (trust(-detail, detail, held) == 0).all()
    assert (trust(3 * detail, detail, held) == 1).all()
    assert trust(torch.randn(200, *SHAPE), detail, held).mean() < 0.06
    assert (trust(detail, 0 * detail, held) == 0).all()
    assert (trust(detail, detail, torch.zeros_like(held)) == 0).all()
    single = torch.zeros_like(held)
    single[:, 0, 0, 0] = True
    assert (trust(detail, detail, single) == 0).all(), "one pixel says nothing about noise"


# --- completion ---


@pytest.mark.parametrize(("factor", "offset"), [(1, 0), (4, 0), (2, 7), (30, -1)])
def test_a_model_that_draws_the_picture_recovers_it(x, seen, factor, offset):
    """Exactly, however bright: with S linear and S(1) = 1, w is 1 / factor and errors cancel."""
    torch.testing.assert_close(complete(x, seen, lambda image, known: factor * x + offset), x)


def test_control_a_model_that_draws_something_else_is_not_listened_to(x, seen):
    other = torch.rand(x.shape)
    filled, plain = complete(x, seen, lambda image, known: other), from_neighbours(x, seen)
    error, before = ((image - x).square().mean() for image in (filled, plain))
    full = plain + other - from_neighbours(other, seen)
    assert error < 1.1 * before
    assert (full - x).square().mean() > 1.5 * before


def test_the_model_never_sees_the_pixels_it_is_tested_on(x, seen):
    """The trust would be that in a copy of them, and not in the drawing of what is missing."""
    shown = []

    def copy(image, known):
        shown.append((image, known))
        return image

    complete(x, seen, copy)
    first, second = shown
    held = hold_out(seen)
    assert torch.equal(first[1], seen & ~held)
    assert torch.equal(second[1], seen)
    assert (first[0][held] != x[held]).all()
    assert torch.equal(second[0][seen], x[seen])


def test_a_square_is_filled_from_its_border():
    """Even where no seen pixel is near."""
    x = torch.linspace(0, 1, 28).expand(1, 1, 28, 28).clone()
    seen = occlude(torch.ones_like(x), 14, torch.Generator().manual_seed(0), value=0).bool()
    assert (from_neighbours(x, seen) - x).abs().max() < 0.3
    assert (from_neighbours(x, seen) - x)[~seen].abs().mean() < 0.1
