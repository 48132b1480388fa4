"""T9 (deep). EM without derivatives: the E-step infers, the M-step regresses, and no step does harm.

Slide "Hard EM Interpretation yields New Derivative-Free M-step", algorithm 1:

    E-step  ĉ_n, ĝ_n = argmax γ_ncg,
    M-step  Λ̂^(ℓ) = GLS(I_n^(ℓ-1) ~ ẑ_n^(ℓ) | ĝ_n^(ℓ)),
    G-step  Δ Λ̂^(ℓ) ∝ ∇ ℓ_DRMM(θ),

and its remark that the weights of a linear net are the "OLS solution projected onto subspace spanned by first L
layers" (Lu & Kawaguchi 2017, "Depth creates no bad local minima"). For the complete-data objective

    J = 1/N (Σ_n log N(I_n; α_n μ_ĉĝ, σ²) + log π_ĉ + Σ_c log π_c):

1. neither a dictionary's regression, nor σ² and π, nor an E-step lowers it, in hard and in soft EM (there with the
   entropy of the responsibilities). Controls: new latents that are always taken lower it, and so does the formula
   as it is printed, a regression of the features I^(ℓ-1), where the levels below are not orthonormal;
2. many sweeps solve the normal equations of the pictures, as brute force writes them down: one column for each
   entry of a dictionary, drawn alone. Control: one sweep does not;
3. where Λ_gᵀΛ_g = 1 below, the printed formula gives the same dictionary, up to the length that amplitudes make
   free. Controls: levels that are not orthonormal, and gates that switch units off;
4. in a linear net the picture of a fitted level is the OLS solution projected onto what the levels below can draw.
   Control: OLS alone, with nothing below it, cannot be drawn;
5. a dictionary that drew the images is found again, with switches and positions to be inferred. Control: from
   images of noise it is not, whatever the start;
6. the G-step is the derivative of the log-likelihood at frozen latents, and 0 at the M-step's solution. A unit
   that was never on has none, and keeps its template. Control: before the M-step it is not 0.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from drmm import DRMM, lift
from drmm.learning.em import MStep, e_step, fit_em, g_step, m_step
from drmm.learning.em.chain import Chain
from drmm.learning.em.deep import fit_site
from drmm.learning.initialisation import initialise
from drmm.model.constraints import set_weight
from drmm.model.presets import build
from drmm.rendering import (
    Abs,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from drmm.testing import random_net

LAW = 1e-9
CLASSES = 3


def net(shape, units, *levels):
    return DRMM(Sequential(*levels), Linear(units, CLASSES), image_shape=shape).eval()


def strided():
    first = Level(Conv2d(1, 4, 3, padding=2, bias=False), BatchNorm2d(4), MaxPool2d(2))
    return net((1, 6, 6), 20, first, Level(Conv2d(4, 5, 2, stride=2)), Flatten())


def grouped():
    first = Level(Conv2d(2, 4, 3, dilation=2, padding=1, groups=2), None, MaxPool2d(2, stride=1))
    second = Level(Conv2d(4, 6, (1, 2), stride=(1, 2), groups=2), BatchNorm2d(6))
    return net((2, 6, 7), 6, first, second, AvgPool2d(2), Flatten())


def plain():
    pixels = Conv2d(1, 4, 3, padding=1), ReLU(), MaxPool2d(3, 2, 1)
    return net(
        (1, 6, 6), 6, *pixels, Conv2d(4, 5, 2), LeakyReLU(0.1), AvgPool2d(2), Flatten(), Linear(5, 6), Abs()
    )


def nested():
    pixels = Sequential(Conv2d(1, 3, 3), BatchNorm2d(3), ReLU())
    return net((1, 6, 6), 6, pixels, Sequential(Sequential(MaxPool2d(2)), Flatten()), Linear(12, 6), ReLU())


def lifted():
    first = nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)
    second = nn.Dropout(0.3), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES)
    return lift(nn.Sequential(*first, *second).eval(), image_shape=(1, 6, 6))


def preset(name, shape, constraint="soft"):
    return build(name, CLASSES, shape, constraint=constraint, width=2).eval()


NETS = {
    "strided": strided,
    "grouped": grouped,
    "plain": plain,
    "nested": nested,
    "lifted": lifted,
    "conv_small": lambda: preset("conv_small", (1, 8, 8)),
    "conv_large": lambda: preset("conv_large", (1, 12, 12)),
    "dense": lambda: preset("dense", (1, 3, 3)),
    "weight_norm": lambda: preset("conv_small", (1, 8, 8), "weight_norm"),
}
SMALL = ["strided", "grouped", "plain", "nested", "lifted", "dense"]


def begin(name, seed, n=14):
    """A net whose templates are cut out of images, the images, and labels of some."""
    torch.manual_seed(seed)
    model = NETS[name]()
    x, y = torch.rand(n, *model.image_shape), torch.randint(-1, CLASSES, (n,))
    return initialise(model, "data", x=x, y=y, seed=seed), x, y


@torch.no_grad()
def free_energy(model, x, posterior):
    """J on the stored configurations, plus the entropy of their responsibilities."""
    images, latents, weight = posterior.configurations(x)
    joint = model.log_likelihood(images, latents) + model.class_prior.log()[latents.label] - weight.log()
    return float(((weight * joint).sum() + model.class_prior.log().sum()) / len(x))


def stream_of(posterior, x):
    return lambda: iter([posterior.configurations(x)])


def sites(model):
    return Chain(model).sites


# --- 1. nothing lowers the objective ---


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_no_step_lowers_the_objective(name, soft):
    gains = {"dictionary": [], "M-step": [], "E-step": []}
    for seed in range(2):
        model, x, y = begin(name, seed)
        posterior = None
        for _ in range(3):
            before = -torch.inf if posterior is None else free_energy(model, x, posterior)
            posterior = e_step(model, x, y, previous=posterior, soft=soft)
            gains["E-step"].append(free_energy(model, x, posterior) - before)
            for site in sites(model):
                before = free_energy(model, x, posterior)
                fit_site(site, stream_of(posterior, x), MStep())
                gains["dictionary"].append(free_energy(model, x, posterior) - before)
            before = free_energy(model, x, posterior)
            m_step(model, stream_of(posterior, x), MStep())
            gains["M-step"].append(free_energy(model, x, posterior) - before)
    for gained in gains.values():
        assert min(gained) >= -LAW
        assert sorted(gained)[len(gained) // 2] > 1e-3  # and most steps do good


@pytest.mark.parametrize("soft", [False, True])
def test_no_step_lowers_the_objective_of_random_nets(soft):
    for seed in range(20):
        model = random_net(seed, signed=(True, True, True, True))
        model.noise.fill_(0.05)
        x = torch.rand(8, *model.image_shape)
        assert drops(model, x, torch.full((8,), -1), soft=soft, steps=8) == 0


def drops(model, x, y, *, soft=False, rule="gls", keep=True, steps=6):
    """How many of the E-steps find a lower objective than the one before."""
    posterior, objective = None, []
    for _ in range(steps):
        posterior = e_step(model, x, y, previous=posterior if keep else None, soft=soft)
        objective.append(free_energy(model, x, posterior))
        m_step(model, stream_of(posterior, x), MStep(rule=rule))
    return sum(after < before - LAW for before, after in pairwise(objective))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", [*SMALL, "conv_small"])
def test_the_whole_loop_climbs(name, soft):
    """`fit_em` as it is used: norms centred and class templates rescaled between the steps."""
    model, x, y = begin(name, 0)
    trace = fit_em(model, x, y, max_iter=8, tolerance=0, soft=soft, progress=False)
    rises = torch.tensor(trace.objective).diff()
    assert rises.min() >= -LAW
    assert rises[0] > 0.1


def test_the_class_prior_alone_would_fall():
    """Why Σ_c log π_c belongs to J: with one image of every class added, π is not the classes' share."""
    model, x = linear_chain()
    x, y = torch.zeros_like(x[:10]), torch.zeros(10, dtype=torch.long)  # nothing to draw: π is all there is
    m_step(model, stream_of(e_step(model, x, y), x))
    y[0] = 1
    posterior = e_step(model, x, y)
    before, prior = free_energy(model, x, posterior), model.class_prior.log().sum() / 10
    m_step(model, stream_of(posterior, x))
    after, other = free_energy(model, x, posterior), model.class_prior.log().sum() / 10
    assert after > before + 1e-3
    assert after - other < before - prior - 1e-3  # the control


@pytest.mark.parametrize("naive", [{"keep": False}, {"rule": "ols"}])
def test_control_the_naive_loops_fall(naive):
    """New latents always taken, or the features regressed in place of the pictures."""
    fallen = [drops(*begin(name, seed), **naive) > 0 for name in SMALL for seed in range(4)]
    assert sum(fallen) > len(fallen) / 3


# --- 2. the normal equations ---


@torch.no_grad()
def design(model, site, x, latents, weight):
    """The pictures as a matrix times the dictionary: a column for each entry, drawn alone; and the images."""
    root, kept = weight.sqrt()[:, None], site.dictionary.weight.clone()
    columns = []
    for entry in torch.eye(kept.numel()):
        set_weight(site.dictionary, entry.reshape(kept.shape))
        columns.append((root * model.picture(latents).flatten(1)).flatten())
    set_weight(site.dictionary, kept)
    return torch.stack(columns, 1), (root * x.flatten(1)).flatten()


def misfit(model, site, configurations):
    """How far the normal equations are from holding, and the pictures from those of a dense solver; relative."""
    matrix, target = design(model, site, *configurations)
    drawn = matrix @ site.dictionary.weight.detach().flatten()
    best = matrix @ torch.linalg.pinv(matrix, rtol=1e-12) @ target
    residual = (matrix.T @ (target - drawn)).norm() / (matrix.T @ target).norm()
    return residual.item(), ((drawn - best).norm() / target.norm()).item()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_many_sweeps_solve_the_normal_equations(name, soft):
    model, x, y = begin(name, 1)
    configurations = e_step(model, x, y, soft=soft).configurations(x)
    for site in sites(model):
        fit_site(site, lambda: iter([configurations]), MStep(sweeps=300))
        residual, apart = misfit(model, site, configurations)
        assert residual <= 1e-8
        assert apart <= 1e-6


def test_sweeps_beyond_the_solution_do_no_harm():
    """Where nothing but rounding is left to follow, the regression stops."""
    for name, seed in (("plain", 1), ("plain", 7), ("nested", 6)):
        model, x, y = begin(name, seed)
        posterior = e_step(model, x, y)
        for site in sites(model):
            before = free_energy(model, x, posterior)
            fit_site(site, stream_of(posterior, x), MStep(sweeps=1000))
            assert free_energy(model, x, posterior) >= before - LAW
            assert site.dictionary.weight.abs().max() < 1e3


def test_batches_add_up():
    """The statistics of the images are sums: how they come makes no difference."""
    whole, x, y = begin("strided", 0)
    parts, _, _ = begin("strided", 0)
    posterior = e_step(whole, x, y)
    images, latents, weight = posterior.configurations(x)
    pieces = [slice(0, 5), slice(5, 6), slice(6, 14)]
    m_step(whole, stream_of(posterior, x))
    m_step(parts, lambda: ((images[i], latents.select(i), weight[i]) for i in pieces))
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=LAW, atol=LAW)


def test_weight_norm_is_another_name_for_the_same_dictionary():
    free, x, y = begin("conv_small", 0)
    normed, _, _ = begin("weight_norm", 0)
    traces = [fit_em(model, x, y, max_iter=4, progress=False).objective for model in (free, normed)]
    torch.testing.assert_close(*map(torch.tensor, traces), rtol=LAW, atol=LAW)


@pytest.mark.parametrize("name", SMALL)
def test_control_one_sweep_does_not_solve_them(name):
    model, x, y = begin(name, 1)
    posterior = e_step(model, x, y)
    upper = sites(model)[1:]
    residuals = []
    for site in upper:
        fit_site(site, stream_of(posterior, x), MStep())
        residuals.append(misfit(model, site, posterior.configurations(x))[0])
    assert max(residuals) > 1e-3


# --- 3. the printed formula ---


def orthonormal_below(gate, seed):
    """Non-overlapping orthonormal templates, positions, and perhaps a gate; above them two dictionaries."""
    torch.manual_seed(seed)
    pixels = Conv2d(1, 4, 2, stride=2, bias=False), *gate, MaxPool2d(2)
    model = net((1, 8, 8), 5, *pixels, Conv2d(4, 5, 2, stride=2, bias=False), Flatten())
    nn.init.orthogonal_(model.levels[0].weight)
    return model, torch.randn(40, 1, 8, 8)


def both_rules(make, index):
    """The direction of a dictionary fitted by the printed formula, and of the pictures' regression."""
    found = []
    for how in (MStep(rule="ols"), MStep(rule="gls", sweeps=300)):
        model, x = make()
        posterior = e_step(model, x)
        fit_site(sites(model)[index], stream_of(posterior, x), replace(how, ridge=0))
        found.append(F.normalize(sites(model)[index].dictionary.weight.detach().flatten(), dim=0))
    return found


def linear_chain(seed=0, *, orthonormal=False):
    """Twelve pixels, a level of five, a level of four, six classes: no switches."""
    torch.manual_seed(seed)
    levels = Sequential(Flatten(), Linear(12, 5, bias=False), Linear(5, 4, bias=False))
    model = DRMM(levels, Linear(4, 6), image_shape=(1, 3, 4)).eval()
    if orthonormal:
        for level in (levels[1], levels[2]):
            nn.init.orthogonal_(level.weight)
    return model, torch.randn(60, 1, 3, 4)


@pytest.mark.parametrize("seed", range(5))
def test_over_orthonormal_levels_the_printed_formula_is_the_regression(seed):
    for index in (1, 2):  # each over orthonormal levels
        printed, regression = both_rules(lambda: linear_chain(seed, orthonormal=True), index)
        torch.testing.assert_close(printed, regression, rtol=LAW, atol=LAW)
    printed, regression = both_rules(lambda: orthonormal_below((), seed), 1)
    torch.testing.assert_close(printed, regression, rtol=LAW, atol=LAW)


@pytest.mark.parametrize(
    "make",
    [lambda: linear_chain(orthonormal=False), lambda: orthonormal_below((ReLU(),), 0)],
    ids=["not orthonormal", "gates"],
)
def test_control_otherwise_the_two_differ(make):
    printed, regression = both_rules(make, 1)
    assert (printed - regression).norm() > 0.05


# --- 4. the projection ---


def projected(seed):
    """A level's drawing Γ B after its regression, OLS of the images on what comes down, and B."""
    model, x = linear_chain(seed)
    posterior = e_step(model, x, torch.arange(len(x)) % model.n_classes)
    _, latents, _ = posterior.configurations(x)
    site, below = sites(model)[1], model.levels[1].weight.detach()
    units = site.units(latents)
    fit_site(site, stream_of(posterior, x), MStep(sweeps=300, ridge=0))
    return site.dictionary.weight.detach() @ below, torch.linalg.lstsq(units, x.flatten(1)).solution, below


@pytest.mark.parametrize("seed", range(10))
def test_a_fitted_level_draws_the_projected_ols_solution(seed):
    drawn, ols, below = projected(seed)
    projector = torch.linalg.pinv(below) @ below
    torch.testing.assert_close(drawn, ols @ projector, rtol=1e-8, atol=1e-8)


def test_control_unprojected_ols_cannot_be_drawn():
    drawn, ols, _ = projected(0)
    assert (drawn - ols).norm() > 0.1 * ols.norm()


# --- 5. a planted dictionary ---


def planted(seed, *, positions):
    """Elements that are on half of the time, at a grid's places or anywhere in a window, and the images."""
    torch.manual_seed(seed)
    model = empty(positions=positions)
    first, top = model.levels[0].dictionary, model.templates
    with torch.no_grad():
        first.weight.copy_(F.normalize(torch.randn(len(first.weight), 25)).view_as(first.weight))
        top.weight.uniform_(0.5, 1.5)
    latents = model.sample_latents(400)
    switches = latents.switches.map_leaves(lambda leaf: replace(leaf, a=torch.rand(leaf.a.shape) < 0.5))
    latents = replace(latents, switches=switches)
    x = model.render(latents)
    return first.weight.detach(), (x + 0.03 * torch.randn(x.shape)).detach(), latents.label


def empty(*, positions):
    if positions:
        return net((1, 12, 12), 16, Level(Conv2d(1, 4, 5, bias=False), None, MaxPool2d(4)), Flatten())
    return net((1, 10, 10), 24, Level(Conv2d(1, 6, 5, stride=5, bias=False), BatchNorm2d(6)), Flatten())


def perturbed(truth, x, y, *, positions):
    """A start at a cosine of about 0.9 to the truth, every element equally bright in every class."""
    model = initialise(empty(positions=positions), "data", x=x, y=y)
    set_weight(model.levels[0].dictionary, truth + 0.5 * F.normalize(torch.randn(len(truth), 25)).view_as(truth))
    set_weight(model.templates, torch.ones_like(model.templates.weight))
    return model


def cosines(model, truth):
    """Of the elements with those that drew the images, matched one to one; the worst of them."""
    found = F.normalize(model.levels[0].dictionary.weight.detach().flatten(1))
    cosine = (found @ F.normalize(truth.flatten(1)).T).abs()
    rows, columns = linear_sum_assignment(-cosine)
    return cosine[rows, columns].min().item()


def learned(model, x, y):
    trace = fit_em(model, x, y, max_iter=40, tolerance=1e-4, progress=False)
    return model, trace.objective[-1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("positions", [False, True])
def test_a_planted_dictionary_is_recovered_from_nearby(seed, positions):
    truth, x, y = planted(seed, positions=positions)
    start = perturbed(truth, x, y, positions=positions)
    assert cosines(start, truth) < 0.95
    assert cosines(learned(start, x, y)[0], truth) >= 0.98


def from_images(x, y, starts):
    """The best of several starts, by its objective: no look at the truth."""
    models = [initialise(empty(positions=False), "data", x=x, y=y, seed=seed) for seed in range(starts)]
    return max((learned(model, x, y) for model in models), key=lambda found: found[1])[0]


@pytest.mark.parametrize(("seed", "starts"), [(0, 1), (3, 3)])
def test_a_planted_dictionary_is_recovered_from_images_alone(seed, starts):
    truth, x, y = planted(seed, positions=False)
    assert cosines(initialise(empty(positions=False), "data", x=x, y=y), truth) < 0.7
    assert cosines(from_images(x, y, starts), truth) >= 0.98


@pytest.mark.parametrize("positions", [False, True])
def test_control_from_images_of_noise_it_is_not(positions):
    truth, x, y = planted(0, positions=positions)
    noise = x.std() * torch.randn(x.shape)
    start = perturbed(truth, noise, y, positions=positions)
    assert cosines(learned(start, noise, y)[0], truth) < 0.9


# --- 6. the G-step ---


@torch.no_grad()
def slope(model, x, latents, entry, step=1e-5):
    """The derivative of the log-likelihood with respect to one entry of a parameter, by finite differences."""
    values = []
    for side in (step, -step):
        entry += side
        values.append(model.log_likelihood(x, latents).mean())
        entry -= side
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", NETS)
def test_the_g_step_is_the_derivative_at_frozen_latents(name):
    model, x, y = begin(name, 2)
    x, latents, _ = e_step(model, x, y).configurations(x)
    found = g_step(model, x, latents)
    drawing = 0
    for key, parameter in model.named_parameters():
        for index in torch.randint(parameter.numel(), (6,)).tolist():
            expected = slope(model, x, latents, parameter.detach().view(-1)[index])
            actual = found[key].flatten()[index] if key in found else torch.zeros(())
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
            drawing += bool(expected.abs() > 1e-3)
        assert key in found or key.endswith("bias")
    assert drawing > 10


def gradient_of(model, site, x, latents):
    """The G-step's gradient of one dictionary, whichever way it is parametrised."""
    named, found = dict(model.named_parameters()), g_step(model, x, latents)
    mine = {id(p) for p in site.dictionary.parameters()}
    return torch.cat([found[name].flatten() for name, p in named.items() if id(p) in mine and name in found])


@pytest.mark.parametrize("name", [*SMALL, "weight_norm"])
def test_the_m_step_is_where_the_g_step_stands_still(name):
    model, x, y = begin(name, 3)
    posterior = e_step(model, x, y)
    x, latents, _ = posterior.configurations(x)
    for site in sites(model)[:2]:
        before = gradient_of(model, site, x, latents).norm()
        fit_site(site, stream_of(posterior, x), MStep(sweeps=300))
        assert before > 1e-2  # the control
        assert gradient_of(model, site, x, latents).norm() <= 1e-7 * before


def test_the_m_step_and_the_g_step_agree_in_direction():
    model, x, y = begin("strided", 0)
    posterior = e_step(model, x, y)
    x, latents, _ = posterior.configurations(x)
    for site in sites(model):
        before, gradient = site.dictionary.weight.detach().clone(), gradient_of(model, site, x, latents)
        fit_site(site, stream_of(posterior, x), MStep())
        moved = site.dictionary.weight.detach() - before
        assert (moved.flatten() * gradient[: moved.numel()]).sum() > 0


@pytest.mark.parametrize("sweeps", [1, 300])
def test_a_unit_that_was_never_on_keeps_its_template(sweeps):
    model, x, y = begin("strided", 0)
    nn.init.constant_(model.levels[1].dictionary.bias[:2], -1e3)
    posterior = e_step(model, x, y)
    images, latents, _ = posterior.configurations(x)
    gradient = g_step(model, images, latents)["levels.1.dictionary.weight"]
    before = model.levels[1].dictionary.weight.detach().clone()
    m_step(model, stream_of(posterior, x), MStep(sweeps=sweeps))
    moved = (model.levels[1].dictionary.weight.detach() - before).flatten(1).norm(dim=1)
    assert not gradient[:2].any()
    assert moved[:2].max() <= 1e-12
    assert gradient[2:].flatten(1).norm(dim=1).min() > 1e-3  # the control: units that were on
    assert moved[2:].min() > 1e-3


def test_a_parametrised_dictionary_stays_so():
    model, x, y = begin("weight_norm", 0)
    m_step(model, stream_of(e_step(model, x, y), x))
    assert all(parametrize.is_parametrized(site.dictionary, "weight") for site in sites(model))
