"""The errors a user meets: each is one line that says what is wrong and what to do."""

__all__ = ["DrmmError", "InputError", "LiftError", "RunError", "UnlabelledWarning"]


class DrmmError(Exception):
    """Base of every error this library raises on purpose; the command line turns it into exit code 2."""


class InputError(DrmmError, ValueError):
    """Images, labels or options that the model cannot use."""


class LiftError(DrmmError, TypeError):
    """A net, or an operation in it, that is no rendering; the message names it."""


class RunError(DrmmError, RuntimeError):
    """A run folder, checkpoint or file that cannot be read or written."""


class UnlabelledWarning(UserWarning):
    """Images without a label were left out where only labels count."""
