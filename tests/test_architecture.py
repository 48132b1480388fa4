"""The map of the package: imports point one way, and nothing is asserted or printed.

A module may import from layers above its own line only. A new module has to be placed here before the tests pass.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "drmm"

# From what knows nothing to what knows everything; the modules of one line do not know each other.
LAYERS = (
    ("_version", "errors", "threads", "timing", "batches", "blending"),
    ("rendering",),
    ("labels", "priors", "exactness", "settings", "clusters", "corruptions", "missing"),
    ("data", "model"),
    ("images", "constraints", "inference", "objective", "lift", "testing", "rmm", "dynamic", "borrowing"),
    ("presets", "initialisation", "surgery"),
    ("storage", "pruning"),
    ("em", "pictures", "layout"),
    ("training", "mixture", "evolution", "selection", "scenes", "explain"),
    ("loop", "estimator", "runs", "benchmark", "predictions"),
    ("reproduce",),
    ("commands", "options", "report"),
    ("cli",),
)

# Within the rendering algebra likewise.
RENDERING = (
    ("base", "convolution"),
    ("affine", "gates", "norm", "pooling", "compose", "joins"),
    ("level", "local", "graph"),
)

# Imported inside a function, when training starts, so that `import drmm` does not wait for pytorch_lightning.
LAZY = {("training", "loop")}


def ranks(layers):
    return {name: rank for rank, names in enumerate(layers) for name in names}


def units(folder):
    """Each module, or whole package, and its files; `__init__` is the front door and may show anything."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            yield path.name, sorted(path.rglob("*.py"))
        elif path.suffix == ".py" and path.stem not in {"__init__", "__main__"}:
            yield path.stem, [path]


def imports(path, package):
    """Names of the package's units that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
            yield node.module.removeprefix(f"{package}.").split(".")[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(f"{package}."):
                    yield alias.name.removeprefix(f"{package}.").split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield f"a relative import in {path.name}"


def edges(folder, package, known):
    for name, files in units(folder):
        for path in files:
            for target in imports(path, package):
                if target != name:
                    yield name, target if target in known else f"unknown: {target}"


@pytest.mark.parametrize(
    ("folder", "package", "layers"),
    [(SOURCE, "drmm", LAYERS), (SOURCE / "rendering", "drmm.rendering", RENDERING)],
)
def test_imports_point_one_way(folder, package, layers):
    rank = ranks(layers)
    unplaced = {name for name, _ in units(folder)} - set(rank)
    assert not unplaced, f"place {unplaced} in the layers of {__file__}"
    wrong = {
        (name, target)
        for name, target in edges(folder, package, rank)
        if target not in rank or rank[target] >= rank[name]
    }
    assert wrong - LAZY == set()


def test_the_lazy_imports_are_lazy():
    for name, target in LAZY:
        tree = ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
        top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert f"drmm.{target}" not in top


def nodes():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def test_nothing_is_asserted():
    # `python -O` drops assert statements, and their errors say nothing to a user.
    found = [f"{path}:{node.lineno}" for path, node in nodes() if isinstance(node, ast.Assert)]
    assert found == []


def test_nothing_is_printed():
    found = [
        f"{path}:{node.lineno}"
        for path, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_every_module_says_what_it_is_for():
    missing = [
        str(path) for path in SOURCE.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert [name for name in missing if not name.endswith("_version.py")] == []


def test_every_public_name_exists():
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed = [
            [element.value for element in node.value.elts]
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ]
        defined = {getattr(node, "name", "") for node in tree.body}
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                defined |= {getattr(target, "id", "") for target in targets}
            elif isinstance(node, ast.ImportFrom | ast.Import):
                defined |= {alias.asname or alias.name for alias in node.names}
        assert {name for names in listed for name in names} <= defined, path
