"""The published tables, run again: fixed protocol, several label draws, one JSON a run."""

from drmm.studies.reproduce.cells import Cell, Failure, cells, run_cells, run_one
from drmm.studies.reproduce.dry import DryRun, dry_run
from drmm.studies.reproduce.machine import Machine
from drmm.studies.reproduce.protocol import COMPARED, METHODS, PROTOCOLS, PUBLISHED, Method, Protocol, protocol
from drmm.studies.reproduce.settings import OWN, settings
from drmm.studies.reproduce.summary import Comparison, Row, comparisons, figure, markdown, rows, spread

__all__ = [
    "COMPARED",
    "METHODS",
    "OWN",
    "PROTOCOLS",
    "PUBLISHED",
    "Cell",
    "Comparison",
    "DryRun",
    "Failure",
    "Machine",
    "Method",
    "Protocol",
    "Row",
    "cells",
    "comparisons",
    "dry_run",
    "figure",
    "markdown",
    "protocol",
    "rows",
    "run_cells",
    "run_one",
    "settings",
    "spread",
]
