"""The published tables, run again: fixed protocol, several label draws, one JSON a run."""

from drmm.reproduce.cells import Cell, Failure, cells, run_cells, run_one
from drmm.reproduce.dry import DryRun, dry_run
from drmm.reproduce.machine import Machine
from drmm.reproduce.protocol import METHODS, PROTOCOLS, PUBLISHED, Method, Protocol, protocol
from drmm.reproduce.summary import Row, figure, markdown, rows

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "PUBLISHED",
    "Cell",
    "DryRun",
    "Failure",
    "Machine",
    "Method",
    "Protocol",
    "Row",
    "cells",
    "dry_run",
    "figure",
    "markdown",
    "protocol",
    "rows",
    "run_cells",
    "run_one",
]
