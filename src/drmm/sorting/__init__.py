"""Pictures into a folder of sorted ones, and back: planned, written down, then done, so that a stop loses nothing.

It deals with files alone, and imports neither torch nor matplotlib.
"""
