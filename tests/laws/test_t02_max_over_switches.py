"""T2. The max over "which elements are on" is a ReLU.

Slide "Exercise: solve this optimization": for z, u ∈ R^D and M_a = diag(a),

    max_{a ∈ {0,1}^D} zᵀ M_a u = 1ᵀ ReLU(z ⊙ u),    reached at â = [z ⊙ u > 0].

Part (b): if z is non-negative, z comes out of the ReLU, zᵀ ReLU(u), so that the max over a can be taken
before z is known. That is the step by which inference becomes a bottom-up pass. Control: with z of either
sign it fails.
"""

import itertools

import pytest
import torch

from drmm.rendering import ReLU


def best_by_enumeration(z, u):
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=z.shape[-1])))
    return ((z * u) @ masks.T).amax(1)


@pytest.fixture
def pair():
    return torch.randn(200, 10), torch.randn(200, 10)


def test_max_over_all_masks_is_a_relu(pair):
    z, u = pair
    torch.testing.assert_close(best_by_enumeration(z, u), (z * u).relu().sum(1), rtol=1e-12, atol=1e-12)


def test_the_best_mask_is_where_z_and_u_agree(pair):
    z, u = pair
    best = ((z * u > 0) * z * u).sum(1)
    torch.testing.assert_close(best, best_by_enumeration(z, u), rtol=1e-12, atol=1e-12)


def test_nonnegative_z_comes_out_of_the_relu(pair):
    z, u = pair[0].abs(), pair[1]
    y, switches = ReLU().infer(u)
    torch.testing.assert_close((z * y).sum(1), best_by_enumeration(z, u), rtol=1e-12, atol=1e-12)
    # Top-down, the same switches turn z into the template whose match with u is that maximum.
    template = ReLU().render(z, switches)
    torch.testing.assert_close((template * u).sum(1), best_by_enumeration(z, u), rtol=1e-12, atol=1e-12)


def test_control_signed_z_does_not(pair):
    z, u = pair
    gap = best_by_enumeration(z, u) - (z * u.relu()).sum(1)
    assert (gap > 1e-3).all()
