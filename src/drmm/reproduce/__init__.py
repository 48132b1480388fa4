"""The published tables, run again: fixed protocol, several label draws, one JSON a run."""

from drmm.reproduce.cells import Cell, Failure, cells, run_cells, run_one
from drmm.reproduce.protocol import METHODS, PROTOCOLS, PUBLISHED, Method, Protocol, protocol
from drmm.reproduce.summary import Row, figure, markdown, rows

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "PUBLISHED",
    "Cell",
    "Failure",
    "Method",
    "Protocol",
    "Row",
    "cells",
    "figure",
    "markdown",
    "protocol",
    "rows",
    "run_cells",
    "run_one",
]
