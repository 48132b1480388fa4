"""The model's contract: what each public method takes, gives and refuses."""

import math

import pytest
import torch
from torch import nn

import drmm
from drmm import DRMM
from drmm.errors import InputError
from drmm.model.deep import evaluation, fit_amplitude
from drmm.model.presets import conv_small
from drmm.rendering import BatchNorm2d, Conv2d, Dropout, Flatten, Level, Linear, MaxPool2d, ReLU, Sequential

SHAPE = (1, 12, 12)


@pytest.fixture
def model(float64):
    torch.manual_seed(0)
    model = conv_small(4, SHAPE, width=3)
    model.prior.update(model.eval().infer(torch.randn(32, *SHAPE)).switches)
    return model


@pytest.fixture
def x(model):
    return torch.randn(6, *SHAPE)


# --- infer ---


@pytest.mark.parametrize("grad", [True, False])
def test_no_images_have_no_answers(model, x, grad):
    lifted = drmm.lift(
        nn.Sequential(nn.AvgPool2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(36, 4)).double(), strict=False
    )
    for net in (model, lifted):
        with torch.set_grad_enabled(grad):
            some, none = (net.infer(images) for images in (x, x[:0]))
            answers = [
                (one.logits, one.gap, one.certified(), one.amplitude, net.reconstruct(images))
                for one, images in ((some, x), (none, x[:0]))
            ]
        for full, empty in zip(*answers, strict=True):
            assert (len(empty), empty.shape[1:], empty.dtype) == (0, full.shape[1:], full.dtype)
    assert model.log_joint(x[:0], model.infer(x[:0])).shape == (0,)


def test_logits_scores_and_label_agree(model, x):
    latents = model.infer(x)
    torch.testing.assert_close(latents.logits, model(x))
    assert torch.equal(latents.label, latents.logits.argmax(1))
    assert torch.equal(latents.score, latents.logits.amax(1))


@pytest.mark.parametrize(
    "label", [2, torch.tensor(2), torch.tensor([2]), torch.tensor([2] * 6, dtype=torch.int32)]
)
def test_a_label_for_all(model, x, label):
    latents = model.infer(x, label)
    assert latents.label.tolist() == [2] * 6
    assert latents.label.dtype == torch.long
    torch.testing.assert_close(latents.score, model(x)[:, 2])
    torch.testing.assert_close(latents.upper_bound, model.upper_bound(x)[:, 2])


def test_a_label_for_each(model, x):
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    latents = model.infer(x, label)
    assert torch.equal(latents.label, label)
    torch.testing.assert_close(latents.score, model(x).gather(1, label[:, None]).squeeze(1))


@pytest.mark.parametrize(
    "label", [-1, 4, 1.5, True, torch.tensor([0, 1]), torch.tensor([0, 1, 2, 3, 0, 9]), torch.zeros(6)]
)
def test_bad_labels(model, x, label):
    with pytest.raises(InputError, match="one or 6 class indices from 0 to 3"):
        model.infer(x, label)
    with pytest.raises(InputError, match="class indices"):
        model.sample(6, label)


def test_one_image(model, x):
    one, all_ = model.infer(x[2:3]), model.infer(x)
    assert one.score.shape == (1,)
    torch.testing.assert_close(one.score[0], all_.score[2])
    torch.testing.assert_close(model.render(one), model.render(all_)[2:3])


def test_top_k(model, x):
    scores, labels = model.infer(x).top_k(3)
    logits = model(x)
    assert scores.shape == labels.shape == (6, 3)
    torch.testing.assert_close(logits.gather(1, labels), scores)
    assert (scores.diff(dim=1) <= 0).all()
    assert torch.equal(labels[:, 0], logits.argmax(1))


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([4, 0]), torch.tensor([True, False] * 3)])
def test_select(model, x, index):
    latents, some = model.infer(x), model.infer(x).select(index)
    assert torch.equal(some.label, latents.label[index])
    assert torch.equal(some.gap, latents.gap[index])
    torch.testing.assert_close(model.render(some), model.render(latents)[index])
    torch.testing.assert_close(model.log_joint(x[index], some), model.log_joint(x, latents)[index])


def test_bound_gap_and_certificate(model, x):
    latents = model.infer(x)
    assert (latents.upper_bound >= latents.score).all()
    torch.testing.assert_close(latents.upper_bound, model.upper_bound(x).amax(1))
    torch.testing.assert_close(latents.gap, latents.upper_bound - latents.score)
    assert not latents.certified().any()
    assert latents.certified(math.inf).all()


def modes(model):
    return [module.training for module in model.modules()]


def test_training_mode_has_no_certificate_and_stays(model, x):
    model.train()
    model.levels.renderings[1].eval()
    before = modes(model)
    latents = model.infer(x)
    assert latents.upper_bound.isposinf().all()
    assert not latents.certified().any()
    assert modes(model) == before


def test_a_norm_without_running_statistics_has_no_certificate():
    levels = Sequential(Level(Conv2d(1, 2, 3), BatchNorm2d(2, track_running_stats=False)), Flatten())
    model = DRMM(levels, Linear(200, 3)).eval()
    assert model.upper_bound(torch.randn(2, 1, 12, 12)).isposinf().all()
    plain = Sequential(Conv2d(1, 2, 3), BatchNorm2d(2, track_running_stats=False), ReLU(), Flatten())
    assert DRMM(plain, Linear(200, 3)).eval().upper_bound(torch.randn(2, 1, 12, 12)).isposinf().all()


def test_a_generator_decides_what_dropout_draws():
    model = DRMM(Sequential(Dropout(0.5), Conv2d(1, 2, 3), ReLU(), Flatten()), Linear(200, 3)).train()
    x = torch.randn(3, 1, 12, 12)
    state = torch.random.get_rng_state()
    runs = [model.infer(x, generator=torch.Generator().manual_seed(seed)).score for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.random.get_rng_state(), state)


# --- render ---


def test_rendering_reconstruction_and_amplitude(model, x):
    latents = model.infer(x)
    template = model.render(latents)
    assert template.shape == x.shape
    torch.testing.assert_close(model.reconstruct(x), latents.amplitude[:, None, None, None] * template)
    best = ((x - model.reconstruct(x)) ** 2).flatten(1).sum(1)
    for factor in (0.9, 1.1):
        other = ((x - factor * model.reconstruct(x)) ** 2).flatten(1).sum(1)
        assert (other >= best).all()


def test_amplitude_is_never_negative_and_zero_for_nothing():
    x = torch.randn(3, 1, 4, 4)
    rendering = torch.stack([2 * x[0], -x[1], torch.zeros(1, 4, 4)]).requires_grad_()
    amplitude = fit_amplitude(x, rendering)
    torch.testing.assert_close(amplitude, torch.tensor([0.5, 0.0, 0.0]))
    assert not amplitude.requires_grad


def test_latents_conditioned_on_a_class_render_that_class(model, x):
    one, other = model.infer(x, 1), model.infer(x, 2)
    assert not torch.allclose(model.render(one), model.render(other))
    torch.testing.assert_close(model.reconstruct(x, 1), one.amplitude[:, None, None, None] * model.render(one))


# --- the probabilistic side ---


def test_log_joint_by_hand(model, x):
    model.noise.fill_(0.5)
    latents = model.infer(x)
    mean = model.reconstruct(x)
    expected = torch.distributions.Normal(mean, math.sqrt(0.5)).log_prob(x).flatten(1).sum(1)
    expected = expected + math.log(1 / 4)
    for i, leaf in enumerate(latents.switches.leaves()):
        p = model.prior.probability(i, "a").clamp(1e-6, 1 - 1e-6)
        expected = expected + torch.where(leaf.a, p, 1 - p).log().flatten(1).sum(1)
        if leaf.t is not None:
            q = model.prior.probability(i, "t").clamp(1e-6, 1 - 1e-6)
            for k in range(4):
                expected = expected + ((leaf.t == k) * q[k].log()).flatten(1).sum(1)
    torch.testing.assert_close(model.log_joint(x, latents), expected)


def test_samples_have_the_right_shape_class_and_seed(model):
    images = model.sample(5, generator=torch.Generator().manual_seed(3))
    assert images.shape == (5, *SHAPE)
    assert torch.equal(images, model.sample(5, generator=torch.Generator().manual_seed(3)))
    latents = model.sample_latents(4, torch.tensor([3, 2, 1, 0]))
    assert latents.label.tolist() == [3, 2, 1, 0]
    assert latents.score.isnan().all()
    assert model.render(latents).isfinite().all()


def test_the_class_prior_is_normalised():
    model = DRMM(Sequential(Flatten()), Linear(4, 2), class_prior=torch.tensor([3.0, 1.0]))
    assert model.class_prior.tolist() == [0.75, 0.25]


@pytest.mark.parametrize("call", ["sample", "log_joint", "track", "blank_switches"])
def test_without_an_image_shape_there_is_no_prior(call):
    model = DRMM(Sequential(Conv2d(1, 2, 3), ReLU(), Flatten()), Linear(200, 3)).eval()
    x = torch.randn(2, 1, 12, 12)
    latents = model.infer(x)  # needs none
    arguments = {
        "sample": (2,),
        "log_joint": (x, latents),
        "track": (x, model.render(latents), latents.switches),
        "blank_switches": (),
    }
    with pytest.raises(InputError, match="image_shape"):
        getattr(model, call)(*arguments[call])


def test_tracking_starts_at_the_first_batch_and_averages_after(model, x):
    model = conv_small(4, SHAPE, width=3).eval()
    latents = model.infer(x)
    picture = model.render(latents)
    residual = (x - model.reconstruct(x)).square().mean()
    model.track(x, picture, latents.switches)
    torch.testing.assert_close(model.noise, residual)
    torch.testing.assert_close(model.amplitude, latents.amplitude.mean())
    leaf = next(iter(latents.switches.leaves()))
    torch.testing.assert_close(
        model.prior.probability(0, "a"), leaf.a.double().mean(0), rtol=1e-6, atol=1e-6, check_dtype=False
    )
    model.track(x, 0 * picture, latents.switches)  # the second batch counts as much as the first
    torch.testing.assert_close(model.noise, (residual + x.square().mean()) / 2)


def test_settling_forgets_what_came_before(model, x):
    model = conv_small(4, SHAPE, width=3).eval()
    other = torch.rand_like(x)
    model.settle([other, other])
    model.settle([x[:2], x[2:]])
    fresh = conv_small(4, SHAPE, width=3).eval()
    fresh.load_state_dict({**model.state_dict(), **{k: v for k, v in fresh.state_dict().items() if "prior" in k}})
    fresh.settle([x[:2], x[2:]])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, fresh.state_dict()[name])
    settled = model.noise.clone()
    model.settle([other])
    assert not torch.equal(model.noise, settled), "control: other images give another noise"


def test_buffers_travel_with_the_model(model, x):
    other = conv_small(4, SHAPE, width=3).eval()
    model.noise.fill_(0.3)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.log_joint(x, other.infer(x)), model.log_joint(x, model.infer(x)))


def test_evaluation_restores_every_mode():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.ReLU().eval(), nn.Dropout()))
    before = modes(net)

    def fail():
        with evaluation(net):
            assert not any(modes(net))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert modes(net) == before


def test_single_precision(x):
    model = conv_small(4, SHAPE, width=3).eval().float()
    images = x.float()
    latents = model.infer(images)
    assert latents.score.dtype == model.render(latents).dtype == torch.float32
    assert model.log_joint(images, latents).dtype == torch.float32
    assert model.sample(2).dtype == torch.float32


def test_one_tie_rule_for_a_constant_image():
    levels = Sequential(Conv2d(1, 2, 1), MaxPool2d(2), Level(Conv2d(2, 2, 1), None, MaxPool2d(3)), Flatten())
    model = DRMM(levels, Linear(8, 3), image_shape=SHAPE).eval()
    first, second = model.blank_switches().leaves()
    assert (first.t == 0).all()
    assert (second.t == 0).all()
