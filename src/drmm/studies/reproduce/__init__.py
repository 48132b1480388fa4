"""The published tables, run again: fixed in advance, several label draws, one JSON a run."""

from drmm.studies.reproduce.cells import Cell, Failure, cells, run_cells, run_one
from drmm.studies.reproduce.dry import DryRun, dry_run
from drmm.studies.reproduce.summary import Comparison, Row, comparisons, figure, markdown, rows, spread
from drmm.studies.reproduce.tables import BENCHMARKS, COMPARED, PUBLISHED, ROWS, Benchmark, benchmark

__all__ = [
    "BENCHMARKS",
    "COMPARED",
    "PUBLISHED",
    "ROWS",
    "Benchmark",
    "Cell",
    "Comparison",
    "DryRun",
    "Failure",
    "Row",
    "benchmark",
    "cells",
    "comparisons",
    "dry_run",
    "figure",
    "markdown",
    "rows",
    "run_cells",
    "run_one",
    "spread",
]
