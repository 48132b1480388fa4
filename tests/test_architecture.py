"""The map of the package: imports point one way, and nothing is asserted or printed.

A module may import from layers above its own line only. A new module has to be placed here before the tests pass.
"""

import ast
from pathlib import Path

import drmm

SOURCE = Path(__file__).parents[1] / "src" / "drmm"

# From what knows nothing to what knows everything. A package imports from those before it; those of one line do
# not know each other.
ORDER = (
    ("errors",),
    ("files", "records"),
    ("display",),
    ("progress",),
    ("rendering",),
    ("data",),
    ("model",),
    ("testing", "lifting"),
    ("storage",),
    ("learning",),
    ("trees", "pruning"),
    ("explain",),
    ("trust",),
    ("runs",),
    ("estimators", "predicting"),
    ("report", "sorting"),
    ("labelling",),
    ("studies",),
    ("export",),
    ("cli",),
    ("__main__",),
)


def imports(path):
    """Names of the packages of drmm that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "a relative import"
        elif isinstance(node, ast.ImportFrom) and node.module == "drmm":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom | ast.Import):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for name in [module] if module else [alias.name for alias in node.names]:
                if name.startswith("drmm."):
                    yield name.split(".")[1]


def packages():
    """Every package or flat module by name, and its files; `__init__` is the front door and may show anything."""
    for path in sorted(SOURCE.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield path.name, sorted(path.rglob("*.py"))
        elif path.suffix == ".py" and path.stem != "__init__":
            yield path.stem, [path]


def test_imports_point_one_way():
    rank = {name: number for number, names in enumerate(ORDER) for name in names}
    unplaced = {name for name, _ in packages()} - set(rank)
    assert not unplaced, f"place {unplaced} in the order of {__file__}"
    wrong = {
        (str(path.relative_to(SOURCE)), target)
        for name, paths in packages()
        for path in paths
        for target in imports(path)
        if target != name and rank.get(target, len(ORDER)) >= rank[name]
    }
    assert wrong == set()


def test_few_modules_lie_flat():
    assert len([path for path in SOURCE.glob("*.py") if not path.stem.startswith("__")]) <= 5


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


def test_no_figure_is_made_through_pyplot():
    # Pyplot asks for a backend with windows, and keeps figures alive.
    users = [
        f"{path}:{node.lineno}"
        for path, node in nodes()
        if (isinstance(node, ast.Import) and any(name.name.startswith("matplotlib.pyplot") for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "matplotlib.pyplot")
        or (isinstance(node, ast.ImportFrom) and node.module == "matplotlib" and "pyplot" in str(ast.dump(node)))
    ]
    assert users == []


def test_every_module_says_what_it_is_for():
    missing = [
        str(path) for path in SOURCE.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert missing == []


def test_every_public_name_exists():
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed = [
            [element.value for element in node.value.elts if isinstance(element, ast.Constant)]
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


def test_every_name_of_the_stub_exists():
    assert {"DRMM", "DRMMClassifier", "__version__"} <= set(drmm.__all__)
    assert all(hasattr(drmm, name) for name in drmm.__all__)
    assert not hasattr(drmm, "nothing"), "control"
