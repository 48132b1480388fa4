"""One run: the experiment that was asked for, its folder, and what can be read back from it."""
