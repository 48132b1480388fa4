"""How frequent classes are: estimates against shares that are known, and what the objective makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from drmm import Objective
from drmm.errors import InputError
from drmm.learning.class_prior import bbse_prior, class_prior, em_prior, estimate_shares
from drmm.learning.objective import balance, cross_entropy, kl_divergence
from drmm.model.presets import dense

TRUE = np.array([0.9, 0.1])
EQUAL = np.array([0.5, 0.5])


def drawn(shares, n, generator):
    """Classes, and posteriors of unit Gaussians 2 apart by a classifier that takes both for equally frequent."""
    y = (generator.random(n) > shares[0]).astype(int)
    x = generator.normal(2 * y)
    likelihood = norm.pdf(x[:, None], [0, 2])
    return y, likelihood / likelihood.sum(1, keepdims=True)


def test_em_and_bbse_find_shares_that_counting_does_not():
    generator = np.random.default_rng(0)
    _, posterior = drawn(TRUE, 20_000, generator)
    y, held_out = drawn(EQUAL, 20_000, generator)
    assert em_prior(posterior, EQUAL) == pytest.approx(TRUE, abs=0.01)
    assert bbse_prior(held_out, y, posterior) == pytest.approx(TRUE, abs=0.02)
    assert abs(posterior.mean(0) - TRUE).max() > 0.1, (
        "control: the mean posterior is drawn to the classifier's prior"
    )


def test_em_leaves_a_prior_that_is_right():
    _, posterior = drawn(EQUAL, 20_000, np.random.default_rng(1))
    assert em_prior(posterior, EQUAL) == pytest.approx(EQUAL, abs=0.02)


def test_a_class_that_is_not_there_has_share_0_and_no_estimate_is_negative():
    generator = np.random.default_rng(2)
    _, posterior = drawn([1.0, 0.0], 2000, generator)
    y, held_out = drawn(EQUAL, 200, generator)
    for shares in (em_prior(posterior, EQUAL), bbse_prior(held_out, y, posterior)):
        assert shares.min() >= 0
        assert shares.sum() == pytest.approx(1)
        assert shares[1] < 0.1


def pictures(counts, labelled, seed=0):
    """Squares of two kinds, bright above or below, in noise; so many of each, some of them labelled."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    x = 0.3 * torch.rand(len(truth), 1, 6, 6, generator=generator)
    x[truth == 0, :, :3] += 0.3 * torch.rand(counts[0], 1, 3, 6, generator=generator)
    x[truth == 1, :, 3:] += 0.3 * torch.rand(counts[1], 1, 3, 6, generator=generator)
    y = torch.full_like(truth, -1)
    for c, n in enumerate(labelled):
        y[torch.nonzero(truth == c)[:n, 0]] = c
    return x, y


def test_the_unlabelled_images_tell_shares_that_the_labels_do_not():
    x, y = pictures((370, 50), (10, 10))
    shares = estimate_shares(x, y, 2)
    true = np.array([360, 40]) / 400
    assert shares.em == pytest.approx(true, abs=0.03)
    assert shares.bbse == pytest.approx(true, abs=0.05)
    assert (shares.low <= true).all()
    assert (true <= shares.high).all()
    assert shares.high[1] < 0.5, "control: the labels' share is refuted"
    again = estimate_shares((255 * x).round().to(torch.uint8), y, 2)
    assert again.em == pytest.approx(shares.em, abs=0.02), "levels are images too"


@pytest.mark.parametrize("labelled", [(10, 1), (10, 0), (0, 0)])
def test_too_few_labels_estimate_nothing(labelled):
    x, y = pictures((30, 20), labelled)
    assert estimate_shares(x, y, 2) is None
    assert torch.equal(class_prior(x, y, 2, "estimate"), class_prior(x, y, 2)), "the labels' shares in its place"


def test_nothing_is_estimated_where_every_image_is_labelled():
    x, y = pictures((20, 10), (20, 10))
    assert estimate_shares(x, y, 2) is None


def test_images_without_any_contrast_end_in_no_error():
    x, y = torch.zeros(40, 1, 6, 6), torch.tensor([0, 1] * 4 + [-1] * 32)
    assert estimate_shares(x, y, 2).em == pytest.approx(EQUAL, abs=0.01)


def test_the_prior_keeps_every_class_possible():
    x, y = pictures((370, 50), (10, 10))
    priors = {how: class_prior(x, y, 2, how) for how in ("labels", "estimate", "uniform")}
    assert priors["labels"].tolist() == pytest.approx([0.5, 0.5])
    assert priors["uniform"].tolist() == pytest.approx([0.5, 0.5])
    assert 0.8 < priors["estimate"][0] < 0.95
    y[y == 1] = -1
    assert class_prior(x, y, 2).tolist() == pytest.approx([11 / 12, 1 / 12]), "one image of each class is added"
    assert class_prior(x, y, 2, "uniform").tolist() == pytest.approx([0.5, 0.5]), "control"


def test_the_labels_shares_are_kept_unless_the_unlabelled_images_refute_them():
    x, y = pictures((370, 50), (10, 10))
    shares = estimate_shares(x, y, 2)
    auto = class_prior(x, y, 2, "auto")
    assert 0.5 < auto[0] < class_prior(x, y, 2, "estimate")[0], "no further than is sure"
    np.testing.assert_allclose(shares.nearest(EQUAL), np.clip(EQUAL, shares.low, shares.high), atol=0.02)
    assert shares.refuted.all()
    assert replace(shares, refuted=np.array([False, False])).nearest(EQUAL) is EQUAL
    x, y = pictures((370, 50), (4, 4))
    assert torch.equal(class_prior(x, y, 2, "auto"), class_prior(x, y, 2)), "so few labels refute nothing"
    x, y = pictures((200, 200), (10, 10))
    assert class_prior(x, y, 2, "estimate")[0] != 0.5, "control: an estimate is not exact"
    assert torch.equal(class_prior(x, y, 2, "auto"), class_prior(x, y, 2))


def test_a_classifier_that_finds_a_class_nowhere_refutes_nothing():
    """Kinds of noise that hardly differ, in equal parts: EM, and its bootstrap, find next to nothing of one."""
    generator, truth = torch.Generator().manual_seed(1), torch.arange(300) % 3
    x, y = torch.rand(300, 1, 6, 6, generator=generator), torch.where(torch.arange(300) < 18, truth, -1)
    x[torch.arange(300), 0, 2 * truth] += 0.1
    shares = estimate_shares(x, y, 3)
    assert (shares.high < 1 / 3).any(), "control: its interval alone refutes it"
    assert not shares.refuted.any()
    assert torch.equal(class_prior(x, y, 3, "auto"), class_prior(x, y, 3))


def test_features_tell_shares_as_images_do():
    x, y = pictures((370, 50), (10, 10))
    of_images, of_features = (estimate_shares(seen, y, 2) for seen in (x, x.flatten(1)))
    np.testing.assert_array_equal(of_features.em, of_images.em)


def test_a_prior_that_the_labels_have_changes_no_term(float64):
    model = dense(3, (1, 4, 4), width=4).train()
    x, y = torch.rand(8, 1, 4, 4), torch.tensor([0, 1, 2, 2, -1, -1, -1, -1])
    model.class_prior.copy_(torch.tensor([0.25, 0.25, 0.5]))
    objective = Objective(reconstruction=0, nonnegativity=0, kl=1, balance=1)

    def loss(prior, of_labels):
        return replace(objective, prior=prior)(model, x, y, None, of_labels)["loss"].item()

    same, other = model.class_prior.clone(), torch.tensor([0.4, 0.3, 0.3])
    assert loss("auto", same) == loss("labels", same)
    assert loss("auto", other) == loss("estimate", other) != loss("labels", other), "control: refuted"


def test_a_prior_that_is_none_is_refused():
    with pytest.raises(InputError, match="no prior 'equal': choose from labels, estimate, uniform, auto"):
        Objective(prior="equal")


def test_labels_that_were_drawn_otherwise_are_allowed_for(float64):
    model = dense(3, (1, 4, 4), width=4).train()
    model.class_prior.copy_(torch.tensor([0.7, 0.2, 0.1]))
    x, y = torch.rand(8, 1, 4, 4), torch.tensor([0, 1, 2, 2, -1, -1, -1, -1])
    of_labels = torch.tensor([0.25, 0.25, 0.5])
    objective = Objective(reconstruction=0, nonnegativity=0, kl=1, balance=1)
    logits = model(x)
    plain = objective(model, x, y, None, of_labels)
    assert plain["cross_entropy"].item() == pytest.approx(cross_entropy(logits, y).item()), "labels: as ever"
    assert plain["balance"].item() == pytest.approx(balance(logits, model.class_prior).item())
    ours = replace(objective, prior="estimate")(model, x, y, None, of_labels)
    as_labelled = logits.softmax(1) * of_labels / model.class_prior  # Bayes' rule
    by_hand = -(as_labelled / as_labelled.sum(1, keepdim=True))[torch.arange(4), y[:4]].log().mean()
    assert ours["cross_entropy"].item() == pytest.approx(by_hand.item())
    assert ours["cross_entropy"].item() != pytest.approx(plain["cross_entropy"].item()), "control"
    free = logits[4:]
    assert ours["kl"].item() == pytest.approx(kl_divergence(free, torch.full((3,), 1 / 3)).item())
    assert ours["balance"].item() == pytest.approx(balance(free, model.class_prior).item())
    y[4:] = 0
    assert replace(objective, prior="uniform")(model, x, y)["loss"].isfinite(), "a batch of labelled images alone"


def test_the_prior_decides_how_many_images_each_class_gets(float64):
    """KL and balance, descended alone: with KL(q‖p) in the first, p would cancel and classes become equal."""

    def share(first):
        prior = torch.tensor([0.9, 0.1])
        logits = torch.linspace(-2, 2, 40)[:, None] * torch.tensor([1.0, -1.0])
        logits.requires_grad_()
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(2000):
            optimizer.zero_grad()
            (kl_divergence(logits, first, "confident") + balance(logits, prior)).backward()
            optimizer.step()
        return float(logits.detach().softmax(1).mean(0)[0])

    assert share(torch.tensor([0.5, 0.5])) > 0.6
    assert share(torch.tensor([0.9, 0.1])) == pytest.approx(0.5, abs=0.02), "control"
