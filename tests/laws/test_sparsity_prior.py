"""A price of being on is a bias, if it scales with what the element draws; any other leaves max-sum inexact.

Slide "Each Layer of the DRMM is a Sparse Coding Model". A prior that wants few elements on subtracts a price
from the objective. But the ReLU's max over a is pushed below the template: max_a z a u - ϱ a is z ReLU(u - ϱ /
z), and z is not known on the way up. With ϱ z a in its place it is z ReLU(u - ϱ): inference stays one bottom-up
pass, and exact where z ≥ 0. Checked against every configuration of two levels of four and three units. Controls:
the price that does not scale with the template, and templates of both signs.
"""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from drmm import DRMM
from drmm.rendering import Flatten, Linear, ReLU, Sequential

PRICES = (0.0, 0.1, 0.4, 1.0)
PIXELS, UNITS, CLASSES = 6, (4, 3), 3


def net(seed: int, price: float = 0.0, *, signed: bool = False) -> DRMM:
    """Two levels whose biases are lower by a price."""
    torch.manual_seed(seed)
    layers = [Linear(PIXELS, UNITS[0]), Linear(UNITS[0], UNITS[1]), Linear(UNITS[1], CLASSES)]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.normal_()
            if number and not signed:
                layer.weight.abs_()
            layer.bias.normal_(std=0.3)
        for layer in layers[:2]:
            layer.bias -= price
    levels = Sequential(Flatten(), layers[0], ReLU(), layers[1], ReLU())
    return DRMM(levels, layers[2], image_shape=(1, 2, 3)).eval()


def best_of_all(model: DRMM, x: Tensor, price: float, *, scaled: bool) -> Tensor:
    """max over all masks of each class's score less the price of every unit that is on, (N, C)."""
    (first, second), top = [m for m in model.levels if isinstance(m, Linear)], model.templates
    u = first(x.flatten(1))
    scores = []
    for masks in product(*(product((0.0, 1.0), repeat=n) for n in UNITS)):
        lower, upper = (torch.tensor(mask, dtype=x.dtype) for mask in masks)
        for_upper = top.weight * upper  # what comes down on the second level, (C, units)
        for_lower = (for_upper @ second.weight) * lower
        score = for_lower @ u.mT + (for_upper @ second.bias + top.bias)[:, None]
        paid = price * (for_upper.sum(1) + for_lower.sum(1)) if scaled else price * (upper.sum() + lower.sum())
        scores.append(score.mT - paid)
    return torch.stack(scores).amax(0)


@pytest.mark.parametrize("price", PRICES)
@torch.no_grad()
def test_a_price_that_scales_with_the_template_is_a_bias(price: float) -> None:
    for seed in range(10):
        model, x = net(seed), torch.randn(5, 1, 2, 3)
        truth = best_of_all(model, x, price, scaled=True)
        torch.testing.assert_close(net(seed, price)(x), truth, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_fewer_units_are_on_the_dearer_they_are() -> None:
    x = torch.randn(200, 1, 2, 3)
    shares = [
        torch.stack(
            [(features > 0).double().mean() for features in (net(seed, price).levels(x) for seed in range(10))]
        )
        for price in PRICES
    ]
    assert all((after <= before + 1e-12).all() for before, after in pairwise(shares))
    assert float(shares[-1].mean()) < float(shares[0].mean()) - 0.1


@pytest.mark.parametrize(("scaled", "signed"), [(False, False), (True, True)])
@torch.no_grad()
def test_control_any_other_price_or_template_is_not(scaled: bool, signed: bool) -> None:
    price, apart = 0.4, []
    for seed in range(10):
        model, x = net(seed, signed=signed), torch.randn(5, 1, 2, 3)
        truth = best_of_all(model, x, price, scaled=scaled)
        apart.append((net(seed, price, signed=signed)(x) - truth).abs().max())
    assert float(torch.stack(apart).median()) > 0.1
