"""Pages of the docs site that are made when it is built (`make docs`): mkdocs calls the functions named on_*.

Documents link to files of the repository, so that they can be read where the code is. The site carries these files
as pages of its own: README is its home, a law is its source, the command line is described by itself.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from drmm.cli.app import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LAWS = ROOT / "tests" / "laws"

LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what documents link to, and what is generated."""
    made = {"cli.md": command_line(), "index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    waiting, seen = [ROOT / "README.md", *DOCS.rglob("*.md"), LAWS], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".md":
            waiting += targets(path)
        elif path.is_dir():
            waiting += path.glob("*.py")
        if not path.is_relative_to(DOCS) and path != ROOT / "README.md":
            made[uri(path)] = content(path)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links to files of the repository into links to their pages."""
    source = origin(page.file.src_uri)
    if source.suffix != ".md":
        return markdown

    def on_the_site(match: re.Match[str]) -> str:
        if "://" in match[1]:
            return match[1]
        return os.path.relpath(uri(resolved(source, match[1])), Path(page.file.src_uri).parent)

    return LINK.sub(on_the_site, markdown)


def targets(document: Path) -> Iterator[Path]:
    """The files that a document links to."""
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" not in link:
            path = resolved(document, link)
            if path.exists():  # mkdocs warns of the others
                yield path


def resolved(document: Path, link: str) -> Path:
    """The file that a link leads to."""
    return Path(os.path.normpath(document.parent / link))


def uri(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = f"repository/{path.relative_to(ROOT).as_posix()}"
    if path.is_dir():
        return f"{name}/index.md"
    return name if path.suffix in {".md", ".json", ".png"} else f"{name}.md"


def origin(src_uri: str) -> Path:
    """The file of the repository from which a page is made."""
    if src_uri == "index.md":
        return ROOT / "README.md"
    return ROOT / src_uri.removeprefix("repository/") if src_uri.startswith("repository/") else DOCS / src_uri


def content(path: Path) -> str | bytes:
    """The page of a file: Markdown and data as they are, code with its title, a folder as a list."""
    if path.is_dir():
        return listing(path)
    if path.suffix in {".md", ".json", ".png"}:
        return path.read_bytes()
    language = "python" if path.suffix == ".py" else "text"
    head = "---\nsearch:\n  exclude: true\n---\n"  # words of the handbook are found in the handbook
    return (
        f"{head}# {path.relative_to(ROOT).as_posix()}\n\n````{language}\n{path.read_text(encoding='utf-8')}````\n"
    )


def listing(folder: Path) -> str:
    """Each file of a folder by the first paragraph of its docstring."""
    rows = [f"# {'The laws' if folder == LAWS else folder.relative_to(ROOT).as_posix()}", ""]
    for path in sorted(folder.glob("test_*.py")):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append(f"- [{path.stem}]({path.name}.md): {' '.join(said.split(chr(10) * 2)[0].split())}")
    return "\n".join(rows)


def command_line() -> str:
    """What typer says of every command, without its list of their first words."""
    command = typer.main.get_command(cli)
    said = get_docs_for_click(obj=command, ctx=typer.Context(command), name="drmm", title="Command line")
    return re.sub(r"\*\*Commands\*\*:.*?(?=^## )", "", said, count=1, flags=re.DOTALL | re.MULTILINE)
