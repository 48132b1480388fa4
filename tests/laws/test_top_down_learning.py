"""E↑, E↓, M. EM with the slides' top-down E-step, or the nearest picture's: no step lowers the objective either.

Slide "New DRMM Learning Algorithm with Top-Down Inference". For J, the complete-data log-joint that EM raises
(`drmm.learning.em.deep`):

1. whatever an E-step proposes, no E-step and no M-step lowers J, as an image keeps what explains it better.
   Control: where each proposal is taken, it falls;
2. the switches of "gaussian" explain no image worse than those of the pass up, and many better, as J is what it
   looks for; those of "traceback" maximise ⟨μ_cg, I⟩ and can explain one worse (control), but never score less;
3. classes are those of the labels, or else of the pass up.
"""

from itertools import pairwise

import pytest
import torch

from drmm.learning.e_steps import E_STEPS
from drmm.learning.em import e_step, fit_em, m_step
from drmm.testing import random_net

pytestmark = pytest.mark.usefixtures("float64")

LAW = 1e-9
SIGNED = (True, True, True)
OTHERS = ("traceback", "gaussian")


def begin(seed, n=12, *, bias=True):
    model = random_net(seed, signed=SIGNED, bias=bias)
    model.noise.fill_(0.05)
    x = torch.rand(n, *model.image_shape, generator=torch.Generator().manual_seed(seed))
    return model.eval(), x, torch.arange(n) % (model.n_classes + 1) - 1


def climbs(seed, name, *, keep=True, steps=6):
    """J after each E-step, less what the one before had."""
    model, x, y = begin(seed)
    posterior, found = None, []
    for _ in range(steps):
        posterior = e_step(model, x, y, previous=posterior if keep else None, choose=E_STEPS[name])
        found.append(float(posterior.objective.sum() + model.class_prior.log().sum()))
        m_step(model, lambda kept=posterior: iter([kept.configurations(x)]))
    return [after - before for before, after in pairwise(found)]


@pytest.mark.parametrize("name", OTHERS)
def test_no_step_lowers_the_objective(name):
    gained = [gain for seed in range(8) for gain in climbs(seed, name)]
    assert min(gained) >= -LAW
    assert max(gained) > 1


@pytest.mark.parametrize("name", OTHERS)
def test_control_taking_every_proposal_lowers_it(name):
    assert min(gain for seed in range(8) for gain in climbs(seed, name, keep=False)) < -1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_the_whole_loop_climbs(name):
    model, x, y = begin(0)
    trace = fit_em(model, x, y, max_iter=5, tolerance=0, choose=E_STEPS[name], progress=False)
    assert torch.tensor(trace.objective).diff().min() >= -LAW


def explained(name, seed):
    model, x, y = begin(seed, 30)
    return e_step(model, x, y, choose=E_STEPS[name])


def test_the_nearest_picture_explains_no_image_worse_than_the_pass_up():
    better, worse = 0, 0
    for seed in range(8):
        up, down, nearest = (explained(name, seed) for name in ("bottom-up", *OTHERS))
        assert (nearest.objective >= up.objective - LAW).all()
        better += int((nearest.objective > up.objective + 0.1).sum())
        worse += int((down.objective < up.objective - 0.1).sum())
    assert better > 50
    assert worse > 5, "control: the inner product is another objective"


@torch.no_grad()
def test_the_traceback_never_scores_less_than_the_pass_up():
    """In nets without biases, whose score is the inner product."""
    risen = 0
    for seed in range(8):
        model, x, y = begin(seed, 30, bias=False)
        best, _, found = model.max_sum(x, None)
        label = torch.where(y >= 0, y, best)
        chosen = e_step(model, x, y, choose=E_STEPS["traceback"]).switches
        rendered = [model.levels.render(model.templates.weight[label], one) for one in (found, chosen)]
        before, after = ((drawn * x).flatten(1).sum(1) for drawn in rendered)
        assert (after >= before - LAW).all()
        risen += int((after > before + 1e-3).sum())
    assert risen > 50


@pytest.mark.parametrize("name", OTHERS)
def test_classes_are_those_of_the_labels_or_of_the_pass_up(name):
    model, x, y = begin(3)
    label = torch.where(y >= 0, y, model.max_sum(x, None)[0])
    assert torch.equal(e_step(model, x, y, choose=E_STEPS[name]).responsibilities.argmax(1), label)
