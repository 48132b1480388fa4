"""The sheet that explains one picture: every kind of net, and what it says."""

import subprocess
import sys

import pytest
import torch
from matplotlib.text import Text
from torch import nn

import drmm
from drmm.display.figure import canvas
from drmm.explain.figures import explanation, shown_levels
from drmm.explain.passes import activations, as_drmm
from drmm.explain.plots import overview, samples_sheet

FLAT = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
GATED = [
    layer for i in range(9) for layer in (nn.Conv2d(4 if i else 3, 4, 3, stride=1 + i % 2, padding=1), nn.ReLU())
]
DEEP = nn.Sequential(*GATED, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
NETS = {
    "model": (lambda: drmm.presets.conv_small(3, width=4), (1, 28, 28)),
    "flat": (lambda: FLAT, (1, 6, 6)),
    "deep, in colour": (lambda: DEEP, (3, 70, 40)),
}


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_net(name):
    make, shape = NETS[name]
    net, x = make(), torch.rand(shape)
    best = int(net.eval()(x[None]).argmax())
    figure = explanation(
        net, x, ["cat", "<b>dog</b>", "a name that is far too long for a title"], best, (best + 1) % 3
    )
    figure.canvas.draw()
    titles = [axis.get_title() for axis in figure.axes]
    assert {"picture", "reconstruction", "gradient", "guided backprop"} <= set(titles)
    assert " %" in figure.get_suptitle()


def test_at_most_six_levels_are_drawn_the_last_of_each_size():
    passed = activations(as_drmm(DEEP), torch.rand(1, 3, 70, 40))
    shown = shown_levels(passed)
    assert 2 < len(shown) <= 6
    sizes = [tuple(passed.features[n].shape[2:]) for n in shown]
    assert sizes == sorted(set(sizes), reverse=True)


HOSTILE = (
    "$\\frac{1}{$",
    "a_b^{c}",
    "two\nlines\x1b[31m",
    "[/bold]",
    "\U0001f642 \U00013000",
    "_",
    "w" * 300,
    "\ud800",
)


def shown(figure):
    """All text that a figure shows, as matplotlib reads it."""
    return [text._preprocess_math(text.get_text()) for text in figure.findobj(Text)]


def test_names_of_classes_are_only_text():
    model = drmm.presets.conv_small(len(HOSTILE), width=2).eval()
    x, y = torch.rand(len(HOSTILE), 1, 28, 28), torch.arange(len(HOSTILE))
    for figure in (
        explanation(model, x[0], HOSTILE, 0, 1),
        overview(model, x, y, HOSTILE),
        samples_sheet(x, HOSTILE),
    ):
        figure.canvas.draw()
        lines = [line for text, _ in shown(figure) for line in text.split("\n")]
        assert not any(math for _, math in shown(figure))
        assert any("$\\frac{1}{$" in line for line in lines)
        assert max(map(len, lines)) < 80


def test_names_that_are_not_escaped_stop_the_drawing():
    axis = canvas(2, 2).subplots()
    axis.set_title(HOSTILE[0])
    with pytest.raises(ValueError, match="frac"):
        axis.figure.canvas.draw()


def test_figures_are_not_loaded_before_they_are_needed():

    code = "import sys, drmm; print('matplotlib' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
