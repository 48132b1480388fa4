"""The two steps of deep EM, one by one; `tests/laws/test_t09_deep_em.py` shows what they are good for."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import DRMM, lift
from drmm.errors import InputError
from drmm.learning.em import DeepLearner, MStep, e_step, g_step, m_step
from drmm.learning.em.chain import Chain
from drmm.learning.em.deep import centre, equalise
from drmm.learning.initialisation import initialise
from drmm.model.presets import build
from drmm.rendering import BatchNorm2d, Conv2d, Flatten, Level, Linear, MaxPool2d, Sequential

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (1, 6, 6)


def begin(n=20, *, norm=True):
    level = Level(Conv2d(1, 4, 3, bias=False), BatchNorm2d(4) if norm else None, MaxPool2d(2))
    levels = Sequential(level, Flatten())
    model = DRMM(levels, Linear(16, 3), image_shape=SHAPE, class_prior=torch.tensor([1.0, 2.0, 3.0]))
    x, y = torch.rand(n, *SHAPE), torch.randint(-1, 3, (n,))
    initialise(model, "data", x=x, y=torch.arange(n) % 3)
    model.noise.fill_(0.05)
    return model.eval(), x, y


def stream_of(posterior, x):
    return lambda: iter([posterior.configurations(x)])


@torch.no_grad()
def joints(model, x, switches):
    """Log p(I, c, ĝ) of every class at its best amplitude, (N, C), written out."""
    columns = []
    for c in range(model.n_classes):
        rendering = model.levels.render(model.templates.weight[c].expand(len(x), -1), switches).flatten(1)
        scale = ((rendering * x.flatten(1)).sum(1) / rendering.square().sum(1)).clamp(min=0)[:, None]
        error = (x.flatten(1) - scale * rendering).square().sum(1)
        normaliser = x[0].numel() / 2 * math.log(2 * math.pi * float(model.noise))
        columns.append(-error / (2 * model.noise) - normaliser + model.class_prior[c].log())
    return torch.stack(columns, 1)


# --- E-step ---


def test_former_posteriors_are_judged_at_the_present_scales():
    """Where γ takes up a change of σ nothing else is drawn, so that no image is explained worse than before."""
    model, x, _ = begin()
    before = e_step(model, x)
    norm, factor = model.levels[0].norm, torch.tensor([1.0, 9.0, 0.2, 3.0])
    with torch.no_grad():
        norm.weight.mul_(
            torch.sqrt(norm.running_var * factor + norm.eps) / torch.sqrt(norm.running_var + norm.eps)
        )
        norm.running_var.mul_(factor)
        norm.running_mean.add_(1)  # other thresholds, and so other proposals
    after = e_step(model, x, previous=before)
    assert bool((after.objective >= before.objective - 1e-9).all())


def test_soft_responsibilities_are_the_posterior_at_the_best_switches():
    model, x, _ = begin()
    posterior = e_step(model, x, soft=True)
    expected = joints(model, x, posterior.switches)
    torch.testing.assert_close(posterior.responsibilities, expected.softmax(1))
    torch.testing.assert_close(posterior.objective, expected.logsumexp(1))
    assert posterior.responsibilities.amax(1).min() < 0.9  # the control: some images are in doubt


def test_a_hard_step_takes_the_joint_map_of_max_sum():
    model, x, _ = begin()
    posterior, latents = e_step(model, x), model.infer(x)
    assert torch.equal(posterior.responsibilities, F.one_hot(latents.label, 3).to(x))
    torch.testing.assert_close(posterior.amplitude.sum(1), latents.amplitude)
    expected = joints(model, x, latents.switches).gather(1, latents.label[:, None]).squeeze(1)
    torch.testing.assert_close(posterior.objective, expected)


@pytest.mark.parametrize("soft", [False, True])
def test_known_labels_are_not_inferred(soft):
    model, x, y = begin()
    model.noise.fill_(100)
    posterior = e_step(model, x, y, soft=soft)
    known = y >= 0
    assert torch.equal(posterior.responsibilities[known], F.one_hot(y[known], 3).to(x))
    expected = joints(model, x, posterior.switches)[known].gather(1, y[known, None]).squeeze(1)
    torch.testing.assert_close(posterior.objective[known], expected)
    free = e_step(model, x, soft=soft).responsibilities
    assert torch.equal(posterior.responsibilities[~known], free[~known])
    assert not torch.equal(posterior.responsibilities[known], free[known])  # the control


@pytest.mark.parametrize("soft", [False, True])
def test_an_image_keeps_its_latents_where_they_explain_it_better(soft):
    model, x, y = begin()
    before = e_step(model, x, y, soft=soft)
    initialise(model, "glorot", seed=1)  # the new parameters propose other latents
    fresh = e_step(model, x, y, soft=soft)
    kept = e_step(model, x, y, previous=before, soft=soft)
    assert (kept.objective >= fresh.objective).all()
    stays = kept.objective > fresh.objective
    assert 0 < stays.sum() < len(x)
    (old,), (new,), (found,) = (list(b.switches.leaves()) for b in (before, fresh, kept))
    assert torch.equal(found.t[stays], old.t[stays])
    assert torch.equal(found.a[~stays], new.a[~stays])
    if not soft:
        assert torch.equal(kept.responsibilities[stays], before.responsibilities[stays])


def test_an_e_step_leaves_the_model_alone():
    model, x, y = begin()
    before = copy.deepcopy(model.state_dict())
    posterior = e_step(model, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not posterior.objective.requires_grad


def test_amplitudes_are_never_negative():
    model, x, y = begin()
    posterior = e_step(model, -x, y, soft=True)
    assert posterior.amplitude.min() == 0
    assert posterior.objective.isfinite().all()


# --- M-step ---


@pytest.mark.parametrize("soft", [False, True])
def test_noise_and_class_prior_are_in_closed_form(soft):
    model, x, y = begin()
    posterior = e_step(model, x, y, soft=soft)
    m_step(model, stream_of(posterior, x))
    images, latents, weight = posterior.configurations(x)
    error = (images - model.picture(latents)).square().flatten(1).mean(1)
    torch.testing.assert_close(model.noise, ((weight * error).sum() / weight.sum()).detach())
    counts = posterior.responsibilities.sum(0) + 1
    torch.testing.assert_close(model.class_prior, counts / counts.sum(), rtol=1e-6, atol=1e-6)


def test_the_noise_has_a_floor():
    model, x, _ = begin()
    m_step(model, stream_of(e_step(model, 0 * x), 0 * x))
    assert float(model.noise) == pytest.approx(1 / 12 / 255**2)


def test_parameters_that_draw_nothing_stay():
    model, x, y = begin()
    nn.init.normal_(model.templates.bias)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    m_step(model, stream_of(e_step(model, x, y), x))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"levels.0.dictionary.weight", "templates.weight"}


def test_an_m_step_leaves_no_gradients():
    model, x, y = begin()
    m_step(model, stream_of(e_step(model, x, y), x))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_classes_without_images_keep_their_template():
    model, x, _ = begin()
    before = model.templates.weight.detach().clone()
    m_step(model, stream_of(e_step(model, x, torch.arange(20) % 2), x))
    assert torch.equal(model.templates.weight[2], before[2])
    assert (model.templates.weight[:2] != before[:2]).any()
    assert model.class_prior[2] == 1 / 23


@pytest.mark.parametrize("options", [{"rule": "wls"}, {"sweeps": 0}, {"ridge": -1.0}, {"ridge": math.nan}])
def test_an_impossible_m_step_is_refused(options):
    with pytest.raises(InputError, match="an M-step needs"):
        MStep(**options)


def test_statistics_that_are_not_finite_are_refused_before_anything_changes():
    model, x, y = begin()
    posterior = e_step(model, x, y)
    x[3, 0, 2, 2] = math.inf
    before = model.levels[0].dictionary.weight.detach().clone()
    with pytest.raises(InputError, match="not finite"):
        m_step(model, stream_of(posterior, x))
    assert torch.equal(model.levels[0].dictionary.weight, before)


def test_the_printed_rule_leaves_the_length_alone():
    model, x, y = begin()
    posterior = e_step(model, x, y)
    before = [site.coefficients().norm() for site in Chain(model).sites]
    m_step(model, stream_of(posterior, x), MStep(rule="ols"))
    torch.testing.assert_close([site.coefficients().norm() for site in Chain(model).sites], before)


# --- G-step ---


def test_a_g_step_names_what_draws_and_leaves_no_gradients():
    model, x, _ = begin()
    found = g_step(model, x, model.infer(x))
    assert found.keys() == {"levels.0.dictionary.weight", "levels.0.norm.weight", "templates.weight"}
    assert all(p.grad is None for p in model.parameters())
    assert all(found[name].shape == p.shape for name, p in model.named_parameters() if name in found)


def test_frozen_parameters_have_no_gradient():
    model, x, _ = begin()
    model.levels[0].norm.weight.requires_grad_(False)
    with torch.no_grad():
        found = g_step(model, x, model.infer(x))
    assert found.keys() == {"levels.0.dictionary.weight", "templates.weight"}


# --- between the steps ---


def with_norms(name):
    torch.manual_seed(0)
    if name == "lifted":
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
        return lift(net.eval(), image_shape=(1, 8, 8))
    return build(name, 3, (1, 8, 8), width=2).eval()


@pytest.mark.parametrize("name", ["conv_small", "dense", "lifted"])
def test_centring_moves_thresholds_and_no_picture(name):
    model, x = with_norms(name), torch.rand(30, 1, 8, 8)
    latents = model.infer(x)
    before, drawn = copy.deepcopy(model.state_dict()), model.render(latents)
    centre(model, iter([x]))
    switches = _with_gains(latents.switches, model.blank_switches())
    after = model.levels.render(model.templates.weight[latents.label], switches)
    torch.testing.assert_close(after, drawn)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.endswith("running_mean") for key in changed)
    assert not any(key.endswith(("templates.weight", "bias")) for key in changed)
    assert not model.training


def _with_gains(switches, like):
    """The switches of the images with the scales that the norms have now."""
    parts = tuple(_with_gains(mine, theirs) for mine, theirs in zip(switches.parts, like.parts, strict=True))
    return replace(switches, gain=like.gain, parts=parts)


def test_after_centring_the_norms_have_the_means_of_the_images():
    model, x, _ = begin()
    centre(model, iter([x]))
    norm, dictionary = model.levels[0].norm, model.levels[0].dictionary
    torch.testing.assert_close(norm.running_mean, dictionary(x).mean((0, 2, 3)))


def test_there_may_be_nothing_to_centre():
    model = DRMM(Sequential(Flatten()), Linear(4, 2), image_shape=(1, 2, 2)).eval()
    centre(model, iter(()))


@torch.no_grad()
def test_equalising_gives_every_class_the_same_length_and_no_other_picture():
    model, x, _ = begin()
    model.templates.weight[1] *= 50
    posterior = e_step(model, x, torch.arange(20) % 3)
    _, latents, _ = posterior.configurations(x)
    before = model.render(latents).flatten(1)
    equalise(model, stream_of(posterior, x))
    after = model.render(latents).flatten(1)
    torch.testing.assert_close(F.normalize(after), F.normalize(before))
    energy = after.square().sum(1)
    for c in range(3):
        torch.testing.assert_close(energy[latents.label == c].mean(), torch.tensor(1.0))
    assert before.square().sum(1)[latents.label == 1].mean() > 2


@torch.no_grad()
def test_a_class_that_draws_nothing_is_not_scaled():
    model, x, _ = begin()
    model.templates.weight[2] = 0
    before = model.templates.weight[1:].clone()
    posterior = e_step(model, x, torch.tensor([0, 2] * 10))
    equalise(model, stream_of(posterior, x))
    assert torch.equal(model.templates.weight[1:], before)


# --- the learner ---


def learner_of(tmp_path, *, norm=True, **options):
    model, x, y = begin(norm=norm)
    settings = {"how": MStep(), "soft": False, "folder": tmp_path, "chunk": 7, **options}
    return DeepLearner(model.train(), x, y, **settings), model


def test_a_learner_works_in_evaluation_mode(tmp_path):
    _, model = learner_of(tmp_path)
    assert not model.training


@pytest.mark.parametrize("soft", [False, True])
def test_the_chunks_make_no_difference(tmp_path, soft):
    traces = []
    for chunk in (7, 20):
        torch.manual_seed(0)
        learner, _ = learner_of(tmp_path / str(chunk), norm=False, chunk=chunk, soft=soft)
        objective = []
        for _ in range(3):
            objective.append(learner.e_step())
            learner.m_step()
        traces.append(objective)
    torch.testing.assert_close(*traces)


@pytest.mark.parametrize("soft", [False, True])
def test_an_e_step_returns_the_objective(tmp_path, soft):
    """Its last term is the image of every class that counts beforehand."""
    torch.manual_seed(0)
    model, x, y = begin(norm=False)
    posterior = e_step(model, x, y, soft=soft)
    expected = (posterior.objective.sum() + model.class_prior.log().sum()) / len(x)
    torch.manual_seed(0)
    learner, _ = learner_of(tmp_path, norm=False, soft=soft)
    assert learner.e_step() == pytest.approx(expected.item())


def test_one_generation_of_latents_is_kept_beside_the_new_one(tmp_path):
    learner, _ = learner_of(tmp_path)
    seen = []
    for _ in range(4):
        learner.e_step()
        seen.append({path.name.split("-")[0] for path in tmp_path.iterdir()})
        learner.m_step()
    assert seen == [{"1"}, {"1", "2"}, {"2", "3"}, {"3", "4"}]
    assert len(list(tmp_path.glob("4-*.safetensors"))) == 3


def test_a_learner_goes_on_from_its_state(tmp_path):
    torch.manual_seed(0)
    learner, _ = learner_of(tmp_path)
    learner.e_step()
    state = {name: value.clone() for name, value in learner.state().items()}
    learner.m_step()
    expected = learner.e_step()
    torch.manual_seed(0)
    other, _ = learner_of(tmp_path)
    initialise(other._model, "default", seed=5)
    other.restore(state)
    other.m_step()
    assert other.e_step() == expected
