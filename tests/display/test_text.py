"""Text from elsewhere is shown letter by letter, whatever it says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import drmm
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


WRITERS = {"set_title", "suptitle", "set_xlabel", "set_ylabel", "supxlabel", "supylabel", "text", "annotate"}


def is_literal(name: str, tree: ast.Module) -> bool:
    """Whether a name is given what `literal` returned, somewhere in the module."""
    given = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return any(
        f"{name}" in ast.unparse(node.targets[0]) and "literal(" in ast.unparse(node.value) for node in given
    )


def unguarded(source: str) -> Iterator[str]:
    """Text that a figure is given without `literal`, but for our own words and the stages of a dynamic program."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS:
            text = node.args[0 if node.func.attr == "annotate" else -1]
            shown = ast.unparse(text)
            names = [name.id for name in ast.walk(text) if isinstance(name, ast.Name)]
            named = names and all(is_literal(name, tree) or name == "hidden" for name in names)
            if not (isinstance(text, ast.Constant) or shown.startswith(("literal(", "f'ℓ = ")) or named):
                yield shown


def test_every_figure_of_the_package_writes_literal_text():
    sources = {path: path.read_text(encoding="utf-8") for path in Path(drmm.__file__).parent.rglob("*.py")}
    assert {str(path): found for path, source in sources.items() if (found := list(unguarded(source)))} == {}
    assert sum("literal(" in source for source in sources.values()) > 5
    assert list(unguarded("axis.set_title(name); axis.text(0, 1, f'{name}')")) == ["name", "f'{name}'"], "control"
