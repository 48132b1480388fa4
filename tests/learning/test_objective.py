"""The objective's terms against the slides' formulas, written out by hand."""

import math
from typing import get_args

import pytest
import torch

from drmm import Objective
from drmm.errors import InputError
from drmm.learning import objective as objectives
from drmm.learning.config import Training
from drmm.learning.objective import (
    agreement,
    balance,
    cross_entropy,
    kl_divergence,
    mixup,
    nonnegativity,
    reconstruction,
)
from drmm.learning.train import train
from drmm.learning.views import View, random_views
from drmm.model.presets import conv_small, dense

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-3.0, 1.0, 4.0], [0.0, 5.0, 0.0]])
PRIOR = torch.tensor([0.5, 0.3, 0.2])


@pytest.fixture(autouse=True)
def _double(float64):
    """The slides' formulas to nine digits."""


def posterior(row):
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def test_cross_entropy_of_the_labelled_images():
    y = torch.tensor([0, -1, 2, 1])
    by_hand = -sum(math.log(posterior(LOGITS[n].tolist())[c]) for n, c in ((0, 0), (2, 2), (3, 1))) / 3
    assert cross_entropy(LOGITS.double(), y).item() == pytest.approx(by_hand, abs=1e-9)


def test_cross_entropy_without_labels_is_zero_and_has_a_gradient():
    logits = LOGITS.double().requires_grad_()
    loss = cross_entropy(logits, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_reconstruction_is_a_mean_over_pixels():
    x, image = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    by_hand = sum(float(((x[n] - image[n]) ** 2).sum()) for n in range(3)) / 3 / 40
    assert reconstruction(x, image).item() == pytest.approx(by_hand)


def test_kl_with_both_signs():
    rows = [posterior(row) for row in LOGITS.tolist()]
    by_hand = sum(q * math.log(q / p) for row in rows for q, p in zip(row, PRIOR.tolist(), strict=True)) / 4
    printed = kl_divergence(LOGITS.double(), PRIOR.double(), "printed")
    assert printed.item() == pytest.approx(by_hand, abs=1e-6)
    torch.testing.assert_close(kl_divergence(LOGITS.double(), PRIOR.double()), -printed)


def descend(term, steps=400):
    logits = (LOGITS.double() / 2).requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=2.0)
    for _ in range(steps):
        optimizer.zero_grad()
        term(logits).backward()
        optimizer.step()
    return logits.detach().softmax(1)


def test_the_printed_sign_makes_posteriors_uniform_the_codes_sign_makes_them_sure():
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    printed = descend(lambda logits: kl_divergence(logits, uniform, "printed"))
    confident = descend(lambda logits: kl_divergence(logits, uniform, "confident"))
    assert (printed - 1 / 3).abs().max() < 0.05
    assert confident.amax(1)[[0, 2, 3]].min() > 0.95


def test_balance_is_the_kl_of_the_mean_posterior():
    rows = torch.tensor([posterior(row) for row in LOGITS.tolist()])
    q = rows.mean(0).tolist()
    by_hand = sum(v * math.log(v / p) for v, p in zip(q, PRIOR.tolist(), strict=True))
    assert balance(LOGITS.double(), PRIOR.double()).item() == pytest.approx(by_hand, abs=1e-6)


def test_balance_is_zero_at_the_prior_and_finite_for_a_collapsed_batch():
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert balance(100 * torch.eye(3).double(), uniform).item() == pytest.approx(0, abs=1e-9)
    collapsed = (torch.tensor([[1e4, 0.0, 0.0]] * 4).double()).requires_grad_()
    loss = balance(collapsed, uniform)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert collapsed.grad.isfinite().all()


def test_nonnegativity_of_every_template():
    templates = [torch.randn(3, 2, 4, 4, requires_grad=True), torch.randn(3, 7, requires_grad=True)]
    by_hand = sum((z.clamp(max=0) ** 2).sum() / z.numel() for z in templates)
    loss = nonnegativity(templates)
    torch.testing.assert_close(loss, by_hand)
    for mine, theirs in zip(
        torch.autograd.grad(3 * loss, templates), torch.autograd.grad(3 * by_hand, templates), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    assert nonnegativity([t.abs() for t in templates]).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nonnegativity_is_not_rounded_to_the_bits_of_the_templates(dtype):
    z = (-torch.rand(64, 3, 9, 9)).to(dtype).requires_grad_()
    value = nonnegativity([z])
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(value.double(), z.detach().double().square().mean(), rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(value, z)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope.double(), 2 * z.detach().double() / z.numel(), rtol=1e-2, atol=0)


# --- the weighted sum ---


@pytest.fixture
def model():
    return conv_small(4, (1, 12, 12), width=3).train()


@pytest.fixture
def batch():
    return torch.rand(6, 1, 12, 12), torch.tensor([0, 1, -1, -1, 3, -1])


def test_the_loss_is_the_weighted_sum_of_the_slow_twin(model, batch):
    x, y = batch
    objective = Objective(1.5, 0.7, 0.3, 0.2, 0.9, "printed")
    terms = objective(model, x, y)
    latents = model.infer(x, torch.where(y >= 0, y, model(x).argmax(1)))
    templates = model.levels.render_levels(model.templates.weight[latents.label], latents.switches)
    expected = {
        "cross_entropy": cross_entropy(latents.logits, y),
        "reconstruction": ((x - templates[0]) ** 2).mean(),
        "kl": kl_divergence(latents.logits, model.class_prior, "printed"),
        "balance": balance(latents.logits, model.class_prior),
        "nonnegativity": sum(z.clamp(max=0).square().mean() for z in templates[1:5]),
    }
    assert set(terms) == {*expected, "loss"}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(terms["loss"], sum(getattr(objective, name) * v for name, v in expected.items()))


def test_labelled_images_are_reconstructed_from_their_class(model, batch):
    x = batch[0]
    model.eval()
    wrong = (model.infer(x).label + 1) % 4
    told = Objective()(model, x, wrong)["reconstruction"]
    free = Objective()(model, x, torch.full((6,), -1))["reconstruction"]
    torch.testing.assert_close(told, ((x - model.render(model.infer(x, wrong))) ** 2).mean())
    torch.testing.assert_close(free, ((x - model.render(model.infer(x))) ** 2).mean())


def test_without_rendering_terms_nothing_is_rendered(model, batch, monkeypatch):
    def forbidden(*_):
        raise AssertionError

    monkeypatch.setattr(type(model.levels), "render_levels", forbidden)
    monkeypatch.setattr(type(model.levels), "render", forbidden)
    objective = Objective(reconstruction=0, nonnegativity=0)
    terms = objective(model, *batch)
    assert set(terms) == {"cross_entropy", "kl", "balance", "loss"}
    terms["loss"].backward()
    with pytest.raises(AssertionError):
        Objective()(model, *batch)


@pytest.mark.parametrize("name", ["cross_entropy", "reconstruction", "kl", "balance", "nonnegativity"])
def test_a_weight_of_zero_leaves_a_term_out_of_the_loss(model, batch, name):
    terms = Objective(**{name: 0})(model, *batch)
    weights = Objective().weights()
    rest = sum(weights[other] * terms[other] for other in terms if other not in {name, "loss"})
    torch.testing.assert_close(terms["loss"], rest)


def test_rendering_updates_noise_amplitude_and_priors(model, batch):
    Objective()(model, *batch)
    assert int(model.prior.batches) == 1
    assert model.noise != 1
    assert model.amplitude != 1


def test_every_parameter_learns(model, batch):
    Objective()(model, *batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_flattened_picture_is_no_template():
    """The pixel dictionary may be signed: only what comes down to switches counts."""
    model = dense(3, (1, 4, 4), width=5)
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    value = Objective()(model, x, y)["nonnegativity"]
    with torch.no_grad():
        for norm in model.levels.renderings[2], model.levels.renderings[5]:
            norm.weight.abs_()
        model.levels.renderings[4].weight.abs_()
        model.templates.weight.abs_()
    assert value > 0
    assert Objective()(model, x, y)["nonnegativity"] == 0


# --- mixup ---


def test_the_posterior_of_a_mixed_image_is_to_be_the_mixture_of_posteriors(model, batch):
    x = batch[0]
    model.eval()
    logits = model(x)
    torch.manual_seed(3)
    value = mixup(model, x, logits)
    torch.manual_seed(3)
    partner, share = torch.randperm(6), 0.5 + 0.5 * torch.rand(6, 1, dtype=x.dtype)
    q, by_hand = logits.softmax(1), 0.0
    for n in range(6):
        mixture = share[n] * x[n] + (1 - share[n]) * x[partner[n]]
        target = share[n] * q[n] + (1 - share[n]) * q[partner[n]]
        by_hand = by_hand - (target * model(mixture[None])[0].log_softmax(0)).sum() / 6
    torch.testing.assert_close(value, by_hand)


def test_the_target_of_a_mixed_image_is_fixed(model, batch):
    """Otherwise the net would agree with itself by knowing nothing of either image."""
    logits = model(batch[0])
    logits.retain_grad()
    mixup(model, batch[0], logits).backward()
    assert logits.grad is None
    assert model.templates.weight.grad.any(), "control: mixup teaches"


def test_mixup_is_a_term_where_it_is_asked_for(model, batch):
    assert "mixup" not in Objective()(model, *batch)
    terms = Objective(mixup=0.7)(model, *batch)
    weights = Objective().weights()
    plain = sum(weights[name] * terms[name] for name in terms if name not in {"mixup", "loss"})
    torch.testing.assert_close(terms["loss"], plain + 0.7 * terms["mixup"])


@pytest.mark.parametrize("part", [{"translation": 2}, {"cutmix": 1.0}])
def test_the_parts_of_mixup_reach_the_mixed_images(model, batch, part):
    def mixup_term(**options):
        torch.manual_seed(3)
        return Objective(mixup=1, **options)(model.eval(), *batch)["mixup"]

    torch.manual_seed(3)
    by_hand = mixup(model.eval(), batch[0], model(batch[0]), **part)
    torch.testing.assert_close(mixup_term(**part), by_hand)
    assert mixup_term(**part) != mixup_term(), "control: without this part"


def test_what_is_not_mixed_is_not_translated():
    with pytest.raises(InputError, match="translation is a part of mixup, which has no weight: set mixup"):
        Objective(translation=2)
    assert Objective(translation=2, mixup=1).resolved().translation == 2
    with pytest.raises(InputError, match="number of pixels, 0 or more, not -1"):
        Objective(translation=-1)


def test_what_is_not_mixed_is_no_cutmix():
    with pytest.raises(InputError, match="cutmix is a part of mixup, which has no weight: set mixup"):
        Objective(cutmix=0.5)
    assert Objective(cutmix=0.5, mixup=1).resolved().cutmix == 0.5
    with pytest.raises(InputError, match=r"cutmix is a share of the mixed images, from 0 to 1, not 1\.5"):
        Objective(cutmix=1.5)


# --- agreement ---


def test_agreement_is_cross_entropy_from_the_sharpened_posterior_of_the_picture():
    seen, of_pictures = LOGITS.double(), LOGITS.double().flip(0)
    by_hand = 0.0
    for mine, theirs in zip(seen.tolist(), of_pictures.tolist(), strict=True):
        squared = [q * q for q in posterior(theirs)]  # temperature 1/2
        target = [q / sum(squared) for q in squared]
        by_hand -= sum(p * math.log(q) for p, q in zip(target, posterior(mine), strict=True)) / 4
    assert agreement(seen, of_pictures).item() == pytest.approx(by_hand, abs=1e-9)


def test_with_agreement_every_term_is_of_views_and_the_target_of_pictures(model, batch):
    x, y = batch
    model.eval()
    objective = Objective(agreement=0.7, views=("affine", "brightness"), kl=0.4)
    torch.manual_seed(3)
    terms = objective(model, x, y)
    torch.manual_seed(3)
    views = random_views(x, objective.views)
    logits = model(views)
    torch.testing.assert_close(terms["cross_entropy"], cross_entropy(logits, y))
    assert not torch.allclose(terms["cross_entropy"], cross_entropy(model(x), y)), "control"
    torch.testing.assert_close(terms["agreement"], agreement(logits, model(x)))
    plain = Objective(kl=0.4, reconstruction=5)(model, views, y)
    torch.testing.assert_close(terms["loss"], plain["loss"] + 0.7 * terms["agreement"])
    assert "agreement" not in plain


def test_agreement_moves_views_to_pictures_and_not_pictures_to_views(model, batch):
    """Otherwise the net would agree with itself by knowing nothing."""
    x, y = batch
    model.eval()
    torch.manual_seed(3)
    found = torch.autograd.grad(
        Objective(agreement=1, views=("crop",))(model, x, y)["agreement"], model.templates.weight
    )
    torch.manual_seed(3)
    logits = model(random_views(x, ("crop",)))
    fixed, free = (agreement(logits, target) for target in (model(x).detach(), model(x)))
    torch.testing.assert_close(found, torch.autograd.grad(fixed, model.templates.weight, retain_graph=True))
    assert not torch.allclose(found[0], torch.autograd.grad(free, model.templates.weight)[0]), "control"


@pytest.mark.parametrize(
    ("channels", "kinds"), [(1, {"affine", "brightness"}), (3, set(get_args(View)) - {"usual"})]
)
def test_usual_views_are_by_kind_of_picture(channels, kinds, monkeypatch):
    asked = []
    monkeypatch.setattr(objectives, "random_views", lambda x, views: asked.append(set(views)) or x)
    net = conv_small(3, (channels, 12, 12), width=2).eval()
    batch = torch.rand(4, channels, 12, 12), torch.tensor([0, 1, 2, -1])
    for objective in (Objective(views=("usual",)), Objective(views=("crop",)), Objective()):
        objective(net, *batch)
    Objective(views=("crop",), agreement=0)(net, *batch)
    assert asked == [kinds, {"crop"}], "without views, or agreement between them, pictures stay as they are"


@pytest.mark.parametrize(
    ("learning", "taught", "weight"),
    [("sgd", False, 1), ("tune", False, 1), ("eg", False, 0), ("head", False, 0), ("sgd", True, 0)],
)
def test_agreement_comes_with_views_unless_there_is_nothing_to_agree_on(learning, taught, weight):
    assert Objective(views=("crop",)).resolved(learning=learning, taught=taught).agreement == weight
    assert Objective(views=("crop",), agreement=0.3).resolved(learning=learning, taught=taught).agreement == 0.3
    assert Objective().resolved(learning=learning, taught=taught).agreement == 0


def test_usual_views_are_named_where_there_are_pictures_and_labels():
    usual = Objective(views=("usual",))
    assert usual.for_pictures((1, 8, 8), labelled=True).views == ("affine", "brightness")
    assert usual.for_pictures((1, 1, 8), labelled=True).views == (), "rows of numbers"
    assert usual.for_pictures((3, 8, 8), labelled=False).views == (), "all pictures in one cluster would agree"
    asked_for = Objective(views=("usual", "flip"), agreement=0.5)
    assert asked_for.for_pictures((1, 8, 8), labelled=False).views == ("affine", "brightness", "flip")


def test_beside_views_drawing_weighs_more():
    assert Objective(views=("crop",)).resolved().reconstruction == 5
    assert Objective(views=("crop",), reconstruction=1).resolved().reconstruction == 1
    assert Objective(views=("crop",)).resolved("hard").reconstruction == 0
    assert Objective(views=("crop",)).resolved(taught=True).reconstruction == 1, "nothing agrees there"
    assert Objective().resolved().reconstruction == 1, "control"


def test_a_head_is_learned_without_views_however_the_net_is_tuned():
    alone = Objective(views=("crop",), agreement=1, kl=0).of_head()
    assert (alone.views, alone.agreement, alone.kl) == ((), 0, Objective().resolved().kl)


def test_views_are_such_as_there_are():
    with pytest.raises(InputError, match="between views, and there are none: set views"):
        Objective(agreement=1)
    with pytest.raises(InputError, match="no views 'turn': choose from affine, brightness, crop, flip, usual"):
        Objective(views=("turn",))
    assert Objective().set_params(views="crop,flip").views == ("crop", "flip")
    with pytest.raises(InputError, match="it is some of affine, brightness, crop, flip, usual, with commas"):
        Objective().set_params(views="crop,turn")


# --- weights that depend on what is learned ---

SOFT = {"reconstruction": 1.0, "kl": 0.5, "balance": 0.5, "nonnegativity": 0.5}


@pytest.mark.parametrize(
    ("case", "weights"),
    [
        ({}, SOFT),
        ({"constraint": "weight_norm"}, SOFT),
        ({"constraint": "hard"}, {**SOFT, "reconstruction": 0, "nonnegativity": 0}),
        ({"learning": "eg"}, {**SOFT, "kl": 0, "balance": 0, "nonnegativity": 0}),
        ({"taught": True}, {**SOFT, "kl": 0, "balance": 0}),
        ({"constraint": "hard", "taught": True}, dict.fromkeys(SOFT, 0)),
    ],
)
def test_a_weight_that_nobody_gives_depends_on_the_case(case, weights):
    everything = {"cross_entropy": 1.0, "mixup": 0.0, "agreement": 0.0, **weights}
    assert Objective().resolved(**case).weights() == everything
    given = dict.fromkeys([*SOFT, "agreement"], 0.25) | {"views": ("crop",)}
    assert Objective(**given).resolved(**case) == Objective(**given), "what is given stays"
    assert Objective(kl=0.25).resolved(**case).weights() == {**everything, "kl": 0.25}


def test_called_directly_it_takes_the_weights_of_a_soft_model(model, batch):
    given, default = (one(model, *batch)["loss"] for one in (Objective(**SOFT), Objective()))
    torch.testing.assert_close(default, given)
    hard = Objective().resolved("hard")(model, *batch)["loss"]
    assert not torch.isclose(hard, default), "control: the constraint decides"


@pytest.mark.parametrize(
    "name", ["cross_entropy", "reconstruction", "kl", "balance", "nonnegativity", "mixup", "agreement"]
)
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_weight_is_a_number_that_is_not_negative(name, value):
    with pytest.raises(InputError, match=f"{name} is the weight of a term, 0 or more, not {value}"):
        Objective(**{name: value})


def test_a_sign_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="no kl_sign 'minus': choose from confident, printed"):
        Objective(kl_sign="minus")


# --- weights that change on the way ---


def test_the_kl_weight_rises_and_that_of_the_balance_falls():
    objective = Objective(kl=0.8, balance=0.6, mixup=0.4, warm_up=0.25, cool_down=0.5)
    weights = [objective.weights(progress) for progress in (0, 0.125, 0.25, 0.5, 1)]
    assert [one["kl"] for one in weights] == pytest.approx([0, 0.4, 0.8, 0.8, 0.8])
    assert [one["balance"] for one in weights] == pytest.approx([0.6, 0.45, 0.3, 0, 0])
    assert [one["mixup"] for one in weights] == pytest.approx([0, 0.2, 0.4, 0.4, 0.4])
    others = {"kl": 0.8, "balance": 0.6, "mixup": 0.4}
    assert all({**one, **others} == objective.weights() for one in weights)


def test_by_default_no_weight_changes():
    assert Objective().weights(0) == Objective().weights(1) == Objective().weights()


def test_the_loss_has_the_weights_of_the_moment(model, batch):
    objective = Objective(kl=0.8, balance=0.6, warm_up=0.25, cool_down=0.5)
    terms = objective(model.eval(), *batch, 0.125)
    weights = objective.weights(0.125)
    torch.testing.assert_close(terms["loss"], sum(weights[name] * terms[name] for name in terms if name != "loss"))
    assert not torch.isclose(terms["loss"], objective(model, *batch)["loss"]), "control: at no moment"


@pytest.mark.parametrize("name", ["warm_up", "cool_down"])
def test_no_weight_changes_for_longer_than_the_training(name):
    with pytest.raises(InputError, match=f"{name}.*from 0 to 1"):
        Objective(**{name: 2})


def test_the_loop_knows_how_far_it_is(monkeypatch):
    seen, weights = [], Objective.weights
    monkeypatch.setattr(
        Objective, "weights", lambda self, progress=None: (seen.append(progress), weights(self, progress))[1]
    )
    config = Training(epochs=2, min_steps=0, batch_size=4, labelled_per_batch=2)
    x, y = torch.rand(8, 1, 12, 12), torch.tensor([0, 1, 2, 3, -1, -1, -1, -1])
    train(conv_small(4, (1, 12, 12), width=2), x, y, config=config, progress=False)
    assert seen == [step / 8 for step in range(8)]
