"""`drmm label`: a page on which a person labels pictures, and what it leaves for `drmm sort`."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from contextlib import ExitStack, closing, suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from drmm.cli.console import complain, say
from drmm.cli.unforeseen import in_one_line
from drmm.errors import RunError
from drmm.files import check_absent
from drmm.labelling.learner import Learner
from drmm.labelling.pool import Pool
from drmm.labelling.server.app import pages
from drmm.labelling.server.desk import Desk
from drmm.labelling.server.guard import Guard, is_loopback
from drmm.labelling.server.serving import bound, serve
from drmm.labelling.session import Session
from drmm.labelling.store import Store, store_file

if TYPE_CHECKING:
    from drmm.labelling.server.explaining import Explainer

__all__ = ["label"]

_PATIENCE = 60.0  # seconds for a browser to start


def label(
    pictures: Path,
    *,
    store: Path | None,
    labels: Path | None,
    out: Path | None,
    run: Path | None,
    host: str,
    port: int | None,
    browser: bool,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        pictures: the folder.
        store: database of the labels; None is beside the folder.
        labels: table of labels to begin with.
        out: table that the labels are written into; None is beside the database.
        run: folder of a trained model, which explains pictures.
        host: address or name to listen at.
        port: likewise; None is a free one.
        browser: open the page, if there is a screen.

    Raises:
        InputError: if there are no pictures, or the table does not fit.
        RunError: if something cannot be read or written, or nothing can listen there.
    """
    file = store_file(pictures) if store is None else store
    table = _table(file, labels, out)
    explainer = None if run is None else _explainer(run)
    pool = Pool(pictures)
    with ExitStack() as opened:
        kept = opened.enter_context(Store(file))
        if labels is not None:
            say(f"{kept.import_table(labels, pool):,} labels taken from {labels}")
        listening = opened.enter_context(bound(host, port, file))
        learner = opened.enter_context(closing(Learner(pool)))
        desk = opened.enter_context(Desk(Session(pool, kept, learner), table, explainer))
        guard = Guard(pages(desk), listening.getsockname()[1], host, _report)
        if not is_loopback(host):
            complain(
                "warning",
                f"who reaches {host} over the network can read what is sent there, and with it see the pictures "
                "and write labels: leave --host out unless that is nobody else",
                "bold yellow",
            )
        serve(guard, listening, lambda: _show(guard, file.parent, browser=browser))
        desk.close()
        say(f"{desk.table_line}; labels are kept in {file}. Next:\n  {desk.command}")


def _table(file: Path, labels: Path | None, out: Path | None) -> Path:
    """Where the table of labels goes: over none that is not this page's."""
    table = file.with_suffix(".csv") if out is None else out
    check_absent(table, ".csv", force=True)
    if table.exists() and (
        not file.exists() or (labels is not None and labels.exists() and table.samefile(labels))
    ):
        raise RunError(
            f"{table} has labels from elsewhere, and would be replaced: begin with them and write into another "
            f"table, --labels {table} --out {table.with_stem(f'{table.stem}-new').name}, say"
        )
    return table


def _explainer(run: Path) -> Explainer:
    from drmm.labelling.server.explaining import Explainer  # noqa: PLC0415  # torch: the page does not wait for it
    from drmm.runs.run import Run  # noqa: PLC0415

    return Explainer(Run.open(run))


def _show(guard: Guard, beside: Path, *, browser: bool) -> None:
    say(f"open {guard.address} (once; Ctrl-C ends the page, and nothing is lost)")
    if browser and (sys.platform in {"win32", "darwin"} or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
        threading.Thread(target=_open, args=[guard, beside], daemon=True).start()


def _open(guard: Guard, beside: Path) -> None:
    """Open the page by way of a file that is nobody else's: all users see what a program is started with.

    It is no hidden one, nor in a folder for such files: browsers in a sandbox may read neither.
    """
    with suppress(OSError), TemporaryDirectory(prefix="drmm-label-", dir=beside) as folder:
        file = Path(folder, "open.html").absolute()
        file.write_text(f'<meta http-equiv="refresh" content="0;url={escape(guard.address)}">', encoding="utf-8")
        webbrowser.open(file.as_uri())
        guard.opened.wait(_PATIENCE)


def _report(error: Exception) -> None:
    complain("error", in_one_line(error)[0])
