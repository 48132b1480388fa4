"""README, docs and handbook: their code runs, their figures are the committed ones, what they name exists."""

import pkgutil
import re
import runpy
from pathlib import Path

import pytest
import torch
import typer

import drmm
from drmm.cli.app import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ("README.md", *PAGES)
CODE = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
SHELL = re.compile(r"```(?:sh)?\n((?:make|drmm) .*?)```", flags=re.DOTALL)


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A script's names; scripts import each other."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "docs")
    return lambda name: runpy.run_path(str(ROOT / "scripts" / "docs" / f"{name}.py"))


@pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning")  # advice on speed
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's, of torch
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if CODE.search(read(name))])
def test_the_code_runs(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    space: dict[str, object] = {}
    for block in CODE.finditer(read(document)):
        before = read(document).count("\n", 0, block.start(1))  # so that errors name the line
        exec(compile("\n" * before + block[1], document, "exec"), space)
    if document == "README.md":
        accuracy = float(capsys.readouterr().out.splitlines()[0])
        assert accuracy > 0.8


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_figures_are_the_committed_ones(document: str, script) -> None:
    assert script("fill_readme")["filled"](document, read(document)) == read(document)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", CODE.sub("", read(document))):
        if "://" not in target:
            assert (folder / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_exists(document: str) -> None:
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE)
    commands = {*typer.main.get_command(cli).commands, "--help"}  # type: ignore[attr-defined]
    said = [line for block in SHELL.findall(read(document)) for line in block.splitlines()]
    said += re.findall(r"`((?:make|drmm) [^`]+)`", read(document))
    for words in (line.split()[:2] for line in said if line.strip()):
        assert words[1] in (targets if words[0] == "make" else commands), words


def test_every_chapter_has_its_verdicts(script) -> None:
    for chapter, claims in script("verdicts")["CLAIMS"].items():
        quoted = re.findall(r"<!-- verdict: (.+?) -->", read(f"docs/handbook/{chapter}.md"))
        assert sorted(quoted) == sorted(claim["law"] for claim in claims), chapter


def test_every_public_package_has_its_reference() -> None:
    reference = "\n".join(read(page) for page in PAGES if page.startswith("docs/api/"))
    for module in pkgutil.iter_modules(drmm.__path__):
        if module.ispkg and module.name != "cli":  # the command line has its own page, made from its help
            assert f"::: drmm.{module.name}" in reference, module.name


def test_the_front_page_is_short() -> None:
    assert len(read("README.md").encode()) <= 6000


def test_every_package_is_in_the_tree_of_contributing() -> None:
    tree = re.findall(r"^    (\w+)/ ", read("CONTRIBUTING.md"), flags=re.MULTILINE)
    assert sorted(tree) == sorted(module.name for module in pkgutil.iter_modules(drmm.__path__) if module.ispkg)
