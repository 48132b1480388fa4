"""The relaxation in closed form is linear discriminant analysis of the features, and leaves the pictures alone."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import adjusted_rand_score
from torch import nn
from torch.nn import functional as F

from drmm import DRMM
from drmm.errors import InputError
from drmm.learning.em import relax
from drmm.rendering import Flatten, LeakyReLU, Linear, Sequential

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (1, 2, 3)


def begin(n=60, classes=3, spread=0.15, together=1.0, seed=0):
    """Images about one of each class, whose pixels vary together, and a net of one level."""
    torch.manual_seed(seed)
    model = DRMM(Sequential(Flatten(), Linear(6, 5), LeakyReLU(0.3)), Linear(5, classes), image_shape=SHAPE).eval()
    nn.init.orthogonal_(model.levels[1].weight)
    y = torch.arange(n) % classes
    noise = together * torch.randn(n, 1) * torch.randn(6) + torch.randn(n, 6)
    return model, (torch.rand(classes, 6)[y] + spread * noise).reshape(n, *SHAPE), y


@torch.no_grad()
def features_of(model, x):
    return model.levels(x).numpy()


@torch.no_grad()
def posterior(model, x):
    return model(x).softmax(1)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_posterior_is_the_discriminant_analysis(classes):
    model, x, y = begin(classes=classes)
    features = features_of(model, x)
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, y.numpy())
    assert relax(model, x, y) is model
    found = posterior(model, x).numpy()
    np.testing.assert_allclose(found, expected.predict_proba(features), atol=1e-6)
    assert 0.6 < found.max(1).mean() < 1 - 1e-6  # the control: the posteriors are not all 0 or 1


def test_what_the_templates_have_in_common_is_kept_and_changes_no_posterior():
    model, x, y = begin()
    nn.init.uniform_(model.templates.weight)
    common = model.templates.weight.mean(0).detach()
    relax(model, x, y)
    before = posterior(model, x)
    cosine = F.cosine_similarity(model.templates.weight.mean(0), common, dim=0)
    assert cosine > 1 - 1e-6
    with torch.no_grad():
        model.templates.weight += 3 * common
    torch.testing.assert_close(posterior(model, x), before)
    with torch.no_grad():
        model.templates.weight[0] += common  # the control
    assert (posterior(model, x) - before).abs().max() > 0.01


def test_the_model_goes_on_drawing_about_what_it_drew():
    model, x, y = begin()
    nn.init.uniform_(model.templates.weight, 0.8, 1)  # templates that have much in common
    before = model.render(model.infer(x, y)).flatten(1)
    relax(model, x, y)
    after = model.render(model.infer(x, y)).flatten(1)
    assert F.cosine_similarity(before, after).min() > 0.9


def test_unlabelled_images_take_part():
    """With two labels a class, the covariance is known from the others."""
    few, all_of_them = [], []
    for seed in range(5):
        model, x, y = begin(n=300, seed=seed)
        shown = torch.where(torch.arange(300) < 6, y, -1)
        relax(model, x[:6], y[:6])
        few.append((model(x).argmax(1) == y).double().mean())
        relax(model, x, shown)
        all_of_them.append((model(x).argmax(1) == y).double().mean())
    assert torch.stack(all_of_them).mean() > torch.stack(few).mean() + 0.08


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("known", [3, 4, 5])
def test_a_single_image_of_a_class_is_enough(known):
    model, x, y = begin(spread=0.05, together=0)
    relax(model, x[:known], y[:known])
    assert (model(x).argmax(1) == y).double().mean() > 0.8
    shown = torch.where(torch.arange(60) < known, y, -1)
    relax(model, x, shown)
    assert (model(x).argmax(1) == y).double().mean() > 0.8
    assert model.templates.weight.isfinite().all()


def test_one_image_a_class_is_the_nearest_mean():
    model, x, y = begin()
    features = features_of(model, x)
    relax(model, x[:3], y[:3])
    distance = torch.cdist(torch.from_numpy(features), torch.from_numpy(features[:3]))
    assert torch.equal(model(x).argmax(1), distance.argmin(1))


def test_without_labels_the_classes_are_clusters():
    model, x, y = begin(spread=0.05, together=0)
    relax(model, x, torch.full_like(y, -1))
    clusters = model(x).argmax(1)
    assert adjusted_rand_score(y, clusters) > 0.95
    twin, _, _ = begin(spread=0.05, together=0)
    torch.testing.assert_close(relax(twin, x, torch.full_like(y, -1))(x), model(x), rtol=0, atol=0)


def test_clusters_are_k_means_in_white_features():
    model, x, y = begin(n=200, spread=0.04, together=0)
    features = features_of(model, x)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    white = (features - features.mean(0)) @ (vectors / np.sqrt(values))
    relax(model, x, torch.full_like(y, -1))
    expected = KMeans(3, n_init=20, random_state=1).fit_predict(white)
    assert adjusted_rand_score(expected, model(x).argmax(1)) > 0.9


def test_a_direction_without_variance_tells_nothing_apart():
    """Images that span four of sixteen directions; others that leave their span fall into the same clusters."""
    model = DRMM(Sequential(Flatten()), Linear(16, 3), image_shape=(1, 4, 4)).eval()
    y = torch.arange(60) % 3
    x = (torch.rand(3, 4)[y] + 0.02 * torch.randn(60, 4)) @ torch.randn(4, 16)
    x, new = (values.reshape(60, 1, 4, 4) for values in (x, x + 0.02 * torch.randn(60, 16)))
    relax(model, x, torch.full_like(y, -1))
    assert adjusted_rand_score(y, model(x).argmax(1)) == 1
    assert torch.equal(model(new).argmax(1), model(x).argmax(1))


@pytest.mark.parametrize("labels", ["none", "all", "few"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_images_are_no_nan(value, labels):
    model, x, y = begin()
    y = {"none": torch.full_like(y, -1), "all": y, "few": torch.where(torch.arange(60) < 4, y, -1)}[labels]
    relax(model, torch.full_like(x, value), y)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model(x).isfinite().all()


def test_templates_with_nothing_in_common_are_no_nan():
    model, x, y = begin()
    nn.init.zeros_(model.templates.weight)
    relax(model, x, y)
    assert model.templates.weight.isfinite().all()
    assert (model(x).argmax(1) == y).double().mean() > 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_precision_tells_apart_as_well(dtype):
    model, x, y = begin()
    reference = posterior(relax(model, x, y), x)
    model, _, _ = begin()
    model.float()
    relax(model, x.to(dtype), y)
    assert model.templates.weight.dtype == torch.float32
    torch.testing.assert_close(posterior(model, x.float()).double(), reference, rtol=0, atol=1e-3)


def test_uint8_levels_are_scaled():
    model, x, y = begin()
    levels = (255 * x.clamp(0, 1)).round().to(torch.uint8)
    model.float()
    relax(model, levels, y)
    found = model.templates.weight.detach().clone()
    relax(model, levels.float() / 255, y)
    assert F.cosine_similarity(found.flatten(), model.templates.weight.flatten(), dim=0) > 1 - 1e-4


def test_classes_without_a_label_are_refused():
    model, x, y = begin()
    before = model.templates.weight.detach().clone()
    with pytest.raises(InputError, match="class 2 has no label"):
        relax(model, x, torch.where(y == 2, -1, y))
    assert torch.equal(model.templates.weight, before)


def test_more_clusters_than_images_are_refused():
    model, x, _ = begin(classes=5)
    with pytest.raises(InputError, match="4 images cannot fall into 5 clusters"):
        relax(model, x[:4], torch.full((4,), -1))


def test_templates_without_a_bias_are_refused():
    model, x, y = begin()
    model.templates = Linear(5, 3, bias=False)
    with pytest.raises(InputError, match="bias"):
        relax(model, x, y)
    assert math.isfinite(model.templates.weight.sum().item())
