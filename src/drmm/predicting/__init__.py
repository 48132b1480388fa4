"""Answers for pictures without end: as rows, as columns for any engine, and from sources that are cut anywhere."""
