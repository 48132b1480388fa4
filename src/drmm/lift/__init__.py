"""Any feed-forward net is a DRMM: the same parameters, seen from the other side."""

from drmm.lift.assembly import lift
from drmm.lift.tracing import LiftError

__all__ = ["LiftError", "lift"]
