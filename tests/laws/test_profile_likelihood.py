"""`log_joint` with the best brightness of each image is a profile likelihood, and no density over images.

p(I, c, g) = N(I; α μ_cg, σ²) π_c p(g | c). For one α it integrates to 1 over images, classes and switches. With
the α ≥ 0 that suits each image best, all images on the ray along μ_cg are as likely: what is left is a Gaussian
across the ray, and the mass in a box grows with its side. Checked by quadrature over images of two pixels.
Control: the model's own α for every image. With a prior of α it is a density again
(tests/laws/test_brightness_is_a_density.py), of which "heldout" and "bic" are made.
"""

from dataclasses import replace

import pytest
import torch

from drmm import DRMM
from drmm.rendering import Flatten, Linear, Sequential

STEP = 0.1


@pytest.fixture
def model():
    """Three classes of two pixels, σ = 1/2, without switches."""
    templates = Linear(2, 3, bias=False)
    with torch.no_grad():
        templates.weight.copy_(torch.tensor([[1.0, 2.0], [2.0, 0.5], [-1.0, 1.0]]))
    model = DRMM(
        Sequential(Flatten()), templates, image_shape=(1, 1, 2), class_prior=torch.tensor([0.5, 0.3, 0.2])
    )
    model.noise.fill_(0.25)
    return model.eval()


@torch.no_grad()
def mass(model, side, best):
    """∫ Σ_c p(I, c) dI over the box [-side, side]², with each image's best brightness or with the model's own."""
    axis = torch.arange(-side, side + STEP / 2, STEP)
    x = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    total = 0.0
    for label in range(model.n_classes):
        latents = model.infer(x, label=label)
        if not best:
            latents = replace(latents, amplitude=model.amplitude.expand(len(x)))
        total += model.log_joint(x, latents).exp().sum().item() * STEP**2
    return total


def test_for_one_brightness_it_integrates_to_one(model):
    assert mass(model, 8, best=False) == pytest.approx(1, abs=1e-6)
    assert mass(model, 16, best=False) == pytest.approx(1, abs=1e-6)


def test_with_the_best_brightness_its_mass_grows_with_the_box(model):
    masses = [mass(model, side, best=True) for side in (8, 16, 32)]
    assert masses[0] > 3, "control: a density has no more than 1"
    # A ray of length side / max|μ_x| · ‖μ_c‖ and the Gaussian across it, of mass 1 / (√(2π) σ).
    templates = model.templates.weight.detach()
    rays = templates.norm(dim=1) / templates.abs().amax(1)
    slope = float((model.class_prior * rays).sum()) / (2 * torch.pi * model.noise.item()) ** 0.5
    growth = [(masses[1] - masses[0]) / 8, (masses[2] - masses[1]) / 16]
    assert growth == pytest.approx([slope, slope], rel=1e-3)
