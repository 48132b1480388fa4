"""The Gaussian objective: never below max-sum, never above enumeration, and nearer to what drew the picture.

The slides drop ½‖μ_cg‖². With it no pass is exact, so that what is found has to be held against what max-sum
found: `log_joint` never falls below that of the max-sum configuration, with the brightness of each image fitted
and with the one that all pictures were drawn with. And it is the log-joint of a configuration: none lies above
the best of all, found by trying each. Of pictures that small nets draw, the class that drew them is found more
often, nearly as often as by the best of all. Control: what a step proposes is far below max-sum in many images,
so that taking it unconditionally breaks the law.
"""

import pytest
import torch

from drmm.model.brightness import BestFit, BrightnessPrior
from drmm.model.gaussian import Gaussian, _Candidate
from drmm.testing import enumerate_configurations, random_net

KINDS = {
    "non-negative": {"signed": (False, False, False), "bias": False},
    "signed pixels": {"signed": (True, False, False), "bias": False},
    "signed": {"signed": (True, True, True), "bias": True},
}
NOISE, ROUNDING = 0.1, 1e-8
SAME = BrightnessPrior(1.0, 0.0)


def pictures(kind, seed, n=25):
    """A net, what it drew with one brightness for all, and the latents."""
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, **KINDS[kind])
    latents = model.sample_latents(n, generator=generator)
    picture = model.picture(latents).detach()
    model.noise.fill_(NOISE**2)
    return model, picture + NOISE * torch.randn(picture.shape, generator=generator), latents


def below(value, other):
    """Whether it is less by more than rounding, bool (N,)."""
    return value < other - ROUNDING * (1 + other.abs())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("brightness", [None, BestFit(), BrightnessPrior(1.0, 0.3)])
@torch.no_grad()
def test_never_below_max_sum(kind, brightness):
    risen = 0
    for seed in range(3):
        model, x, _ = pictures(kind, seed)
        inner, found = model.infer(x), model.infer(x, objective=Gaussian(brightness, steps=4, redraws=8))
        own = brightness or SAME
        for known in (None, own):
            before = model.log_joint(x, inner, brightness=known)
            assert not below(model.log_joint(x, found, brightness=known), before).any()
        risen += (found.score > model.log_joint(x, inner, brightness=own) + 1).sum()
        torch.testing.assert_close(found.score, model.log_joint(x, found, brightness=own))
    assert risen > 20


@torch.no_grad()
def test_control_taking_every_proposal_falls_below(monkeypatch):
    monkeypatch.setattr(_Candidate, "or_better", lambda _, other: other)
    model, x, _ = pictures("non-negative", 0)
    inner, found = model.infer(x), model.infer(x, objective=Gaussian(steps=2, redraws=0))
    assert below(model.log_joint(x, found), model.log_joint(x, inner)).sum() > 5


@pytest.fixture(scope="module")
def recovered():
    """Whether each rule finds the class that drew each picture, and the best configuration of all, by net."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return [recovery(seed) for seed in range(6)]
    finally:
        torch.set_default_dtype(dtype)


@torch.no_grad()
def recovery(seed):
    model, x, latents = pictures("non-negative", seed)
    found, best = model.infer(x, objective="gaussian"), enumerate_configurations(model, x, "gaussian")
    inner, most = model.infer(x), best.score.amax(1)

    def nats(one):  # all classes and switches are as probable
        return -(x - model.render(one)).square().flatten(1).sum(1) / 2

    torch.testing.assert_close(nats(best), most)
    return {
        "above": below(most, nats(found)),
        "optimum": ~below(nats(found), most),
        "inner optimum": ~below(nats(inner), most),
        "inner": inner.label == latents.label,
        "gaussian": found.label == latents.label,
        "all": best.label == latents.label,
    }


def share(recovered, name):
    return float(torch.cat([net[name] for net in recovered]).double().mean())


def test_never_above_the_best_of_all_configurations(recovered):
    assert share(recovered, "above") == 0
    assert share(recovered, "optimum") > share(recovered, "inner optimum") + 0.15


def test_the_class_that_drew_the_picture_is_found_more_often(recovered):
    assert share(recovered, "gaussian") > share(recovered, "inner") + 0.15
    assert share(recovered, "gaussian") > share(recovered, "all") - 0.15
