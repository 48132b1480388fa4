"""Which processes train together is what their parent says, not what a launcher left in the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from drmm.errors import InputError
from drmm.learning.config import Machine
from drmm.learning.processes import LOST, follow, is_leader, lead, local_rank, of_torchrun
from drmm.learning.trainer import device_of

RANKS = {"LOCAL_RANK": "2", "RANK": "junk", "WORLD_SIZE": "4", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "x"}


@pytest.fixture(autouse=True)
def _left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process within somebody else's job; it is as before after the test."""
    monkeypatch.setattr(os, "environ", {**os.environ, **RANKS})
    os.environ.pop("DRMM_LEADER", None)


def test_a_rank_that_was_left_over_is_none() -> None:
    assert is_leader()
    os.environ["DRMM_LEADER"] = "1"  # of another time
    assert is_leader()
    os.environ["DRMM_LEADER"] = str(os.getppid())
    assert (is_leader(), local_rank()) == (False, 2), "control"


def test_who_leads_forgets_other_launchers_once() -> None:
    lead()
    assert not RANKS.keys() & os.environ.keys()
    assert is_leader()
    os.environ["LOCAL_RANK"] = "0"  # Lightning's own, after the first launch
    lead()
    assert os.environ["LOCAL_RANK"] == "0"


def test_who_follows_does_not_lead() -> None:
    follow(1, 29_500)
    assert (local_rank(), is_leader()) == (1, False)
    lead()
    assert (local_rank(), os.environ["MASTER_PORT"]) == (1, "29500")
    assert "RANK" not in os.environ


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="parents are looked up in /proc")
@pytest.mark.parametrize("name", ["torchrun", "control"])
def test_torchrun_leads_those_that_it_started_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "4"
    with subprocess.Popen([name, "60"], executable=shutil.which("sleep")) as parent:
        monkeypatch.setattr(os, "getppid", lambda: parent.pid)
        while not Path(f"/proc/{parent.pid}/cmdline").read_bytes():
            sleep(0.01)  # until it has begun
        by_torchrun = name == "torchrun"
        assert (of_torchrun(), local_rank()) == ((4, 2) if by_torchrun else (0, 0))
        if by_torchrun:
            with pytest.raises(InputError, match=r"torchrun started 4 .* for 2 devices: set machine\.devices=4"):
                device_of(Machine("cpu", 2))
        lead()
        assert (RANKS.keys() <= os.environ.keys()) == by_torchrun
        parent.kill()


WATCHING = """
import os, subprocess, sys, time
from drmm.learning.processes import watch
how = sys.argv[1]
if how == "helper":
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    over = watch(children, patience=0.1)
    children[1].kill()
elif how == "leader":  # whose helper goes on
    if os.fork():
        time.sleep(0.5)
        os._exit(0)
    watch([], patience=0.1)
elif how == "it sees for itself":
    children = [subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])]
    over = watch(children, patience=0.1)
    over.set()
elif how == "it ends well":
    children = [subprocess.Popen([sys.executable, "-c", ""])]
    watch(children, patience=0.1)
time.sleep(3)
print("still there")
"""


@pytest.mark.parametrize(
    ("how", "is_over"),
    [("helper", True), ("leader", True), ("it sees for itself", False), ("it ends well", False)],
)
def test_who_waits_for_one_that_is_gone_is_ended(how: str, is_over: bool, monkeypatch) -> None:
    """What is started writes to the same pipes: they end when nobody is left."""
    monkeypatch.undo()  # the environment as it is
    command = [sys.executable, "-c", WATCHING, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == (f"error: {LOST}\n" if is_over else "")
    assert done.stdout == ("" if is_over else "still there\n")
