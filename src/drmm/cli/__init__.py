"""The command line, thin: every command calls one function of the library."""

import os

import lazy_loader  # type: ignore[import-untyped]

# Commands write files and open no window: whatever backend a user chose for windows, broken or not, is no matter.
os.environ["MPLBACKEND"] = "agg"

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"app": ["main"]})
