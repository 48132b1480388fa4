"""The M-step's least squares against a design matrix by brute force."""

import pytest
import torch

from drmm.learning.em.regression import design_of, solve
from drmm.rendering import Conv2d, Flatten, Level, Linear, Switches
from drmm.rendering.convolution import feature_size

pytestmark = pytest.mark.usefixtures("float64")

EXACT = 1e-10

# Without a border every template lies on the canvas as a whole.
BORDERLESS = {
    "plain": (Conv2d(1, 3, 3), (1, 6, 5)),
    "strided": (Conv2d(2, 3, 3, stride=2), (2, 7, 5)),
    "disjoint": (Conv2d(1, 4, 2, stride=2), (1, 6, 4)),
    "wider stride": (Conv2d(1, 2, 2, stride=3), (1, 8, 5)),
    "rows never reached": (Conv2d(1, 2, 2, stride=2), (1, 7, 5)),
    "dilated": (Conv2d(1, 2, 3, dilation=2), (1, 7, 8)),
    "oblong": (Conv2d(2, 3, (1, 3), stride=(2, 1), dilation=(1, 2)), (2, 5, 9)),
    "grouped": (Conv2d(4, 6, 3, groups=2), (4, 5, 6)),
    "depthwise": (Conv2d(3, 3, 2, groups=3), (3, 4, 4)),
    "one pixel": (Conv2d(3, 4, 1), (3, 4, 4)),
    "one place": (Conv2d(2, 3, 4), (2, 4, 4)),
}
BORDERED = {
    "padded": (Conv2d(1, 3, 3, padding=1), (1, 5, 5)),
    "full": (Conv2d(1, 2, 5, padding=4), (1, 6, 6)),
    "same": (Conv2d(2, 2, 4, padding="same"), (2, 6, 5)),
    "strided and padded": (Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 7, 7)),
    "dilated and padded": (Conv2d(1, 2, 3, padding=2, dilation=2), (1, 6, 6)),
}
CONVOLUTIONS = {**BORDERLESS, **BORDERED}


def units(conv, shape, n=4):
    """Units of which some are off, and a whole template never on."""
    torch.manual_seed(1)
    v = torch.randn(n, conv.out_channels, *feature_size(conv, shape[1:])) * torch.randint(0, 2, (n, 1, 1, 1))
    v[:, -1] = 0
    return v


def matrix(dictionary, design, v, shape):
    """One column for each coefficient: what it draws alone; ((N, canvas), (G, P, Q))."""
    weight = dictionary.weight.double()
    like = design.coefficients(weight)
    columns = [
        design.draw(v, design.weight(entry.reshape(like.shape)), shape).flatten()
        for entry in torch.eye(like.numel())
    ]
    return torch.stack(columns, 1), like.shape


def true_gram(columns, shape):
    """Σ φ φᵀ of each group, (G, P, P), and what there is elsewhere in the Gram matrix of all coefficients."""
    groups, regressors, responses = shape
    whole = (columns.T @ columns).reshape(groups, regressors, responses, groups, regressors, responses)
    rest = whole.clone()
    for g in range(groups):
        for q in range(responses):
            rest[g, :, q, g, :, q] = 0
    return torch.stack([whole[g, :, 0, g, :, 0] for g in range(groups)]), whole, rest


@pytest.mark.parametrize("name", BORDERLESS)
def test_without_a_border_the_gram_matrix_is_exact(name):
    conv, shape = BORDERLESS[name]
    design, v = design_of(conv.double()), units(conv, shape)
    columns, sizes = matrix(conv, design, v, shape)
    expected, _, rest = true_gram(columns, sizes)
    assert rest.abs().max() <= EXACT  # responses and groups do not meet
    torch.testing.assert_close(design.gram(design.moments(v)), expected, rtol=EXACT, atol=EXACT)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("name", BORDERED)
def test_a_border_only_takes_away(name):
    """The Gram matrix without borders, less the true one of any response, has no negative direction."""
    conv, shape = BORDERED[name]
    design, v = design_of(conv.double()), units(conv, shape)
    columns, (groups, regressors, responses) = matrix(conv, design, v, shape)
    _, whole, _ = true_gram(columns, (groups, regressors, responses))
    gram = design.gram(design.moments(v))
    beyond = [
        torch.linalg.eigvalsh(gram[g] - whole[g, :, q, g, :, q]) for g in range(groups) for q in range(responses)
    ]
    assert torch.stack(beyond).min() >= -EXACT
    assert torch.stack(beyond).max() > 0.1  # the control: the border did take something


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_cross_moments(name):
    conv, shape = CONVOLUTIONS[name]
    design, v, target = design_of(conv.double()), units(conv, shape), torch.randn(4, *shape)
    columns, sizes = matrix(conv, design, v, shape)
    expected = (columns.T @ target.flatten()).reshape(sizes)
    torch.testing.assert_close(design.cross(v, target), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_coefficients_are_the_weight_in_another_shape(name):
    conv, shape = CONVOLUTIONS[name]
    design, v = design_of(conv.double()), units(conv, shape)
    coefficients = design.coefficients(conv.weight.detach())
    assert torch.equal(design.weight(coefficients), conv.weight)
    columns, _ = matrix(conv, design, v, shape)
    drawn = design.draw(v, conv.weight.detach(), shape)
    torch.testing.assert_close(drawn, conv.render(v, Switches(shape)).detach(), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(drawn.flatten(), columns @ coefficients.flatten(), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("places", [(), (3,)])
def test_a_dictionary_without_places(places):
    linear = Linear(5, 4).double()
    design, v, target = design_of(linear), torch.randn(6, *places, 4), torch.randn(6, *places, 5)
    columns, sizes = matrix(linear, design, v, (*places, 5))
    expected, _, rest = true_gram(columns, sizes)
    assert rest.abs().max() <= EXACT
    torch.testing.assert_close(design.gram(design.moments(v)), expected)
    torch.testing.assert_close(design.cross(v, target), (columns.T @ target.flatten()).reshape(sizes))
    assert torch.equal(design.weight(design.coefficients(linear.weight)), linear.weight)


@pytest.mark.parametrize("name", ["padded", "grouped", "oblong"])
def test_moments_of_batches_add_up(name):
    conv, shape = CONVOLUTIONS[name]
    design, v = design_of(conv.double()), units(conv, shape, n=7)
    parts = design.moments(v[:3]) + design.moments(v[3:])
    assert parts.shape == design.moments(v[:1]).shape
    torch.testing.assert_close(design.gram(parts), design.gram(design.moments(v)), rtol=EXACT, atol=EXACT)


def test_single_precision_is_close():
    conv, shape = CONVOLUTIONS["full"]
    design, v = design_of(conv), units(conv, shape)
    exact, single = (design.gram(design.moments(u)).double() for u in (v, v.float()))
    assert (exact - single).norm() <= 1e-5 * exact.norm()


def test_only_dictionaries_have_a_design():
    assert design_of(Flatten()) is None
    assert design_of(Level(Conv2d(1, 2, 3))) is None


# --- the normal equations ---


def problem(rank, regressors=6, responses=4, groups=2):
    rows = torch.randn(groups, 50, rank) @ torch.randn(groups, rank, regressors)
    return rows.mT @ rows, rows.mT @ torch.randn(groups, 50, responses), rows


def test_a_regular_system_is_solved():
    gram, cross, _ = problem(6)
    torch.testing.assert_close(solve(gram, cross, ridge=0), torch.linalg.solve(gram, cross), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ridge", [0, 1e-12])
def test_a_singular_system_has_its_smallest_solution(ridge):
    gram, cross, rows = problem(3)
    found = solve(gram, cross, ridge=ridge)
    torch.testing.assert_close(gram @ found, cross, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, torch.linalg.pinv(gram, rtol=1e-10) @ cross, rtol=1e-6, atol=1e-8)
    nothing = torch.linalg.svd(rows, full_matrices=True).Vh[:, 3:]
    assert (nothing @ found).abs().max() <= 1e-8


def test_directions_that_never_occurred_stay_at_0():
    gram, cross, _ = problem(6)
    for part in (gram, gram.mT, cross):
        part[:, 2] = 0
    found = solve(gram, cross, ridge=1e-6)
    assert found.isfinite().all()
    assert found[:, 2].abs().max() <= 1e-14
    assert found[:, [0, 1, 3, 4, 5]].abs().min() > 0


def test_nothing_observed_is_no_solution_and_no_nan():
    gram, cross, _ = problem(6)
    gram[1], cross[1] = 0, 0
    found = solve(gram, cross, ridge=1e-6)
    assert not found[1].any()
    assert found[0].isfinite().all()
    assert not solve(torch.zeros(1, 3, 3), torch.zeros(1, 3, 2), ridge=0).any()


def test_the_ridge_is_a_share_of_the_largest_entry():
    gram, cross, _ = problem(6)
    scale = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    expected = torch.linalg.solve(gram + 0.1 * scale * torch.eye(6), cross)
    torch.testing.assert_close(solve(gram, cross, ridge=0.1), expected)
    assert solve(gram, cross, ridge=0.1).norm() < solve(gram, cross, ridge=0).norm()
    torch.testing.assert_close(solve(1e6 * gram, 1e6 * cross, ridge=0.1), expected)


def test_a_gram_matrix_that_rounding_made_indefinite():
    gram, cross, _ = problem(3)
    gram -= 1e-13 * gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] * torch.eye(6)
    assert solve(gram, cross, ridge=0).abs().max() < 1e3
