"""Graphs: values, transposes and bounds where branches meet."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drmm
from drmm.rendering import Affine, Clip, Concat, Conv2d, Graph, LocalLinear, Maximum, ReLU, Step, Sum
from drmm.rendering.bounds import NoBoundError, bound


class Block(nn.Module):
    """A residual block, a dense one and maxout, in one net."""

    def __init__(self, *, bias):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1, bias=bias) for _ in range(2))
        self.dense = nn.Conv2d(4, 3, 3, padding=1, bias=bias)
        self.top = nn.Linear(7, 3, bias=bias)

    def forward(self, x):
        x = self.stem(x).relu()
        x = F.max_pool2d(x + self.second(self.first(x).relu()), 2).relu()
        x = torch.maximum(x, self.second(x).relu())
        x = torch.cat([x, F.leaky_relu(self.dense(x), 0.1)], 1)
        return self.top(x.amax((2, 3)))


def make(*, nonnegative, bias=False):
    net = Block(bias=bias).eval()
    if nonnegative:
        for name, weight in net.named_parameters():
            if name.endswith("weight") and not name.startswith("stem"):
                weight.data.abs_()
    return drmm.lift(net, image_shape=(2, 6, 6)), torch.randn(5, 2, 6, 6)


@pytest.mark.parametrize("bias", [False, True])
def test_where_upper_templates_are_nonnegative_the_bound_is_tight(bias):
    model, x = make(nonnegative=True, bias=bias)
    latents = model.infer(x)
    torch.testing.assert_close(latents.upper_bound, latents.score, rtol=1e-9, atol=1e-9)
    assert latents.certified().all()


def test_no_configuration_scores_above_the_bound():
    model, x = make(nonnegative=False)
    ceiling = model.upper_bound(x)
    best = torch.full_like(ceiling, -torch.inf)
    for _ in range(200):
        switches = model.sample_latents(len(x)).switches
        for c in range(model.n_classes):
            template = model.templates.weight[c].expand(len(x), -1)
            best[:, c] = torch.maximum(best[:, c], (model.levels.render(template, switches) * x).flatten(1).sum(1))
    assert (best <= ceiling + 1e-9).all()
    logits = model(x)
    assert (logits <= ceiling + 1e-9).all()
    assert (ceiling - logits).min() > 0.1  # the control: with signs it is loose


def test_a_difference_turns_the_bound_of_what_it_takes_away():
    low, high = torch.tensor([[1.0]]), torch.tensor([[2.0]])
    graph = Graph({"up": Sum((1, 1)), "down": Sum((1, -1))}, [Step("up", (0, 0)), Step("down", (1, 0))], 2)
    lower, upper = bound(graph, low, high)
    assert (lower.item(), upper.item()) == (0.0, 3.0)


@pytest.mark.parametrize("level", [Clip(0, 6), LocalLinear(torch.tanh)])
def test_without_a_bound_there_is_no_certificate(level):
    graph = Graph({"level": level}, [Step("level", (0,))], 1)
    with pytest.raises(NoBoundError):
        bound(graph, torch.zeros(1, 2), torch.ones(1, 2))


def test_an_affine_function_that_falls_has_a_bound():
    graph = Graph({"level": Affine(lambda x: 1 - x)}, [Step("level", (0,))], 1)
    lower, upper = bound(graph, torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(lower, torch.tensor([[0.0, -2.0]]))
    torch.testing.assert_close(upper, torch.ones(1, 2))


def test_a_tie_between_branches_goes_to_the_first():
    x = torch.zeros(1, 3)
    _, switches = Maximum().infer(x, x)
    one, other = Maximum().render(torch.ones(1, 3), switches)
    assert one.sum() == 3
    assert other.sum() == 0


def test_templates_of_every_value():
    x = torch.randn(2, 3, 5, 5)
    conv, gate = Conv2d(3, 3, 3, padding=1), ReLU()
    graph = Graph(
        {"conv": conv, "gate": gate, "sum": Sum(), "cat": Concat()},
        [Step("conv", (0,)), Step("gate", (1,)), Step("sum", (0, 2)), Step("cat", (3, 0))],
        4,
    )
    y, switches = graph.infer(x)
    z = torch.randn_like(y)
    templates = graph.render_values(z, switches)
    assert set(templates) == {0, 1, 2, 3, 4}
    torch.testing.assert_close(templates[0], graph.render(z, switches))
    torch.testing.assert_close(templates[3], z[:, :3])
    torch.testing.assert_close(templates[1], z[:, :3] * (conv(x) > 0))


def test_branches_that_nobody_joins_draw_nothing():
    graph = Graph({"conv": Conv2d(1, 1, 1), "other": ReLU()}, [Step("conv", (0,)), Step("other", (0,))], 2)
    y, switches = graph.infer(torch.randn(2, 1, 3, 3))
    assert graph.render(torch.ones_like(y), switches).abs().sum() > 0
    assert 1 not in graph.render_values(torch.ones_like(y), switches)
