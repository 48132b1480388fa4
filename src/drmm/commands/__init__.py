"""What the commands do, without the command line: demo, predict, explain, sample, prune, reproduce, bench."""

from drmm.commands.demo import CONTENDERS, DEMO_EPOCHS, Contender, demo, demo_table
from drmm.commands.prune import prune
from drmm.commands.tables import bench, dry_run, reproduce
from drmm.commands.use import explain, predict, sample

__all__ = [
    "CONTENDERS",
    "DEMO_EPOCHS",
    "Contender",
    "bench",
    "demo",
    "demo_table",
    "dry_run",
    "explain",
    "predict",
    "prune",
    "reproduce",
    "sample",
]
