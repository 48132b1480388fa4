"""Text from elsewhere is shown letter by letter, whatever it says."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drmm.display.text import literal, one_line

HOSTILE = (
    "$x",
    "$\\frac{1}{$",
    "a_b^{c}",
    "\\$5 or $5",
    "two\nlines",
    "_hidden",
    "\x1b[31mred\x00",
    "[bold]x[/]",
    "<b>&amp;",
    "\ud800",
    "$" * 200,
)


def drawn(text: str) -> bytes:
    """The pixels of a text."""
    figure = Figure(figsize=(6, 1))
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.5, text)
    figure.canvas.draw()
    return bytes(figure.canvas.buffer_rgba())


def unparsed(text: str) -> bytes:
    """The pixels of a text that matplotlib was told not to parse."""
    figure = Figure(figsize=(6, 1))
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.5, text, parse_math=False)
    figure.canvas.draw()
    return bytes(figure.canvas.buffer_rgba())


def test_one_short_line():
    assert one_line("a\nb\x00\tc\ud800") == "a b c?"
    assert one_line("x" * 100) == "x" * 59 + "…"
    assert one_line("x" * 100, 3) == "xx…"
    assert one_line("\u202egnp.exe") == "gnp.exe"


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_mathtext(text):
    shown = one_line(text)
    assert drawn(literal(shown)) == unparsed(shown)


def test_mathtext_is_what_it_would_have_been():
    assert drawn("$a_b$") != unparsed("$a_b$")
    with pytest.raises(ValueError, match="frac"):
        drawn("$\\frac{1}{$")


def test_lines_that_are_meant_stay():
    assert literal("a $\n b") == "a \\$\nb"
