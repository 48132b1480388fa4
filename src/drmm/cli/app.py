"""The command line: `drmm --help` reads like a table of contents.

Commands are added here, in the order in which help lists them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any

import typer

from drmm import __version__
from drmm.cli.commands import models, pictures, theory
from drmm.cli.console import abandon_output, complain, say, show_what_can_be_shown
from drmm.cli.unforeseen import in_one_line
from drmm.errors import DrmmError
from drmm.learning.processes import is_leader

__all__ = ["cli", "main"]

_PANELS = {
    "Your pictures": (pictures.sort, pictures.label, pictures.audit, pictures.check),
    "Your models": (
        models.demo,
        models.fit,
        models.settings,
        models.predict,
        models.explain,
        models.report,
        models.card,
        models.sample,
        models.prune,
        models.export,
    ),
    "The theory": (theory.scenes, theory.reproduce, theory.bench, theory.dp),
}
_STOPPED = (130, 143)  # what typer makes of Ctrl-C, and what is made of a request to end

cli = typer.Typer(
    name="drmm",
    help="The Deep Rendering Mixture Model: few-label image classification that can draw what it saw.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="What goes wrong is one line; with DRMM_DEBUG=1 in the environment it is all that Python says.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _panel, _commands in _PANELS.items():
    for _command in _commands:
        cli.command(rich_help_panel=_panel)(_command)


def main() -> None:
    """Run the command line.

    An error is one line: exit code 2 for what its reader can mend, 1 for what nobody foresaw, 130 or 143 for what
    was stopped.
    """
    show_what_can_be_shown()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which warns of its cache
    with suppress(ValueError):  # a thread other than the first one is told of no signals
        signal.signal(signal.SIGTERM, _stop)
    try:
        _run()
    except DrmmError as error:
        if is_leader():  # processes that train together say the same
            complain("error", str(error))
        sys.exit(2)
    except Exception as error:
        if os.environ.get("DRMM_DEBUG"):
            raise
        abandon_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # who looks at the first lines alone misses nothing
        line, code = in_one_line(error)
        complain("error", line)
        sys.exit(code)


def _run() -> None:
    """The command, and the end of what it prints: a full disk or a closed pipe is told here."""
    try:
        cli()
    except SystemExit as leave:
        if leave.code in _STOPPED:
            complain(
                "interrupted",
                "a run of fit goes on with drmm fit --out RUN --resume, a sort with the same command, "
                "and so do shards",
                "bold",
            )
        if sys.stdout is not None:
            sys.stdout.flush()
        raise


def _stop(*_: Any) -> None:
    """Leave by way of what tidies up, as after Ctrl-C."""
    sys.exit(_STOPPED[1])


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        say(f"drmm {__version__}")
        raise typer.Exit


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """A warning meant for users as one line; those for developers stay out of their way."""
    if issubclass(category, UserWarning):
        complain("warning", str(message), "bold yellow")
