"""What all studies share: arguments, one thread, a JSON with its command and versions, a table and a picture.

A study is what it runs, its table and its picture. It is started from the repository's root as a module, such as
`python -m scripts.frontier`, which is what its target in the Makefile does.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure

from drmm.explain.plots import save_figure
from drmm.files import read_json, write_json
from drmm.learning.allocator import tune_allocator
from drmm.runs.run import versions
from drmm.studies.reproduce import Comparison

__all__ = ["Options", "Results", "difference", "kept", "mean_and_sd", "spread", "study"]

Results = dict[str, Any]
Options = Mapping[str, Mapping[str, Any]]  # what argparse wants, by option
RESULTS, PICTURES = Path("results"), Path("docs")
NO_FIGURES = {"data_dir", "out", "pictures", "redraw"}  # arguments that change where things are, and no figure


def study(
    run: Callable[[Namespace], Mapping[str, Any]],
    table: Callable[[Results], str] | None = None,
    figure: Callable[[Results], Figure] | None = None,
    *,
    name: str,
    target: str,
    picture: str = "",
    seeds: int = 3,
    options: Options | None = None,
) -> None:
    """Run a study, write its results, show its table and save its picture; or show again what was written.

    Args:
        run: makes the results, from the arguments; a picture that shows images is saved by it.
        table: results as Markdown.
        figure: results as a picture.
        name: of the JSON, below the folder of results.
        target: of the Makefile, which repeats the study.
        picture: name of the picture, without its ending; by default that of the JSON.
        seeds: how many by default.
        options: more arguments, such as {"--nets": {"type": int, "default": 400}}.
    """
    parser = _parser(sys.modules[run.__module__].__doc__, seeds, options or {})
    asked = parser.parse_args()
    file = asked.out / f"{name}.json"
    if not asked.redraw:
        torch.set_num_threads(1)
        tune_allocator()
        start = time.perf_counter()
        results = {"command": _command(target, parser, asked), **run(asked)}
        seconds = round(time.perf_counter() - start, 1)
        write_json(file, {**results, "seeds": asked.seeds, "seconds": seconds, "versions": versions()})
    results = read_json(file)
    if table is not None:
        sys.stdout.write(table(results) + "\n")
    if figure is not None:
        save_figure(figure(results), asked.pictures / f"{picture or file.stem}.png")


def _parser(description: str | None, seeds: int, options: Options) -> ArgumentParser:
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets; by default $DRMM_DATA")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many; they are 0, 1, ...")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument(
        "--redraw", action="store_true", help="run nothing: table and picture of the results there"
    )
    for option, keywords in options.items():
        parser.add_argument(option, **keywords)
    return parser


def _command(target: str, parser: ArgumentParser, asked: Namespace) -> str:
    """What repeats the study: the Makefile's target, and what was asked beside it."""
    changed = [
        f"--{key.replace('_', '-')} {value}"
        for key, value in vars(asked).items()
        if key not in NO_FIGURES and value != parser.get_default(key)
    ]
    return f"make {target}" + (f" ({' '.join(changed)})" if changed else "")


def kept(file: Path, make: Callable[[], Mapping[str, Any]]) -> Results:
    """What a JSON holds; it is made and written first if it is not there, so that a stopped study goes on."""
    if not file.exists():
        write_json(file, make())
    return read_json(file)


def mean_and_sd(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation, which is 0 for one value."""
    return {"mean": round(mean(values), 2), "sd": round(stdev(values), 2) if len(values) > 1 else 0.0}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as tables show them; or the value where there is but one."""
    return ("{mean:.1f} ± {sd:.1f}" if len(values) > 1 else "{mean:.1f}").format(**mean_and_sd(values))


def difference(errors: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Errors by label draw less others' of the same draws, with a 95 % interval where there are two or more."""
    shared = sorted(errors.keys() & others.keys())
    if errors is others or not shared:
        return "–"
    points = tuple(errors[seed] - others[seed] for seed in shared)
    return f"{points[0]:+.2f}" if len(points) == 1 else Comparison("", 0, "", "", points).text
