"""The command line, thin: every command calls one function of the library."""

import os

# Commands write files and open no window: whatever backend a user chose for windows, broken or not, is no matter.
os.environ["MPLBACKEND"] = "agg"
