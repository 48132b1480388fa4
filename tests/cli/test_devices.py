"""`drmm fit` on two devices: DDP starts the command a second time, and whoever is killed, both end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import FIT, sets
from safetensors.torch import load_file

from drmm.files import read_json
from drmm.learning.processes import LOST
from drmm.storage.models import load_model

TWO = [*FIT, "--device", "cpu", *sets("machine.devices=2", "training.batch_size=128", "trust.folds=0")]
COMMAND = """
import os, signal, sys
from pathlib import Path
from drmm.cli.app import main
from drmm.learning.processes import local_rank
from drmm.learning.trainer import _Learner, _Together

def killing(method, moment):
    def wrapped(self):
        rank = str(local_rank())
        Path(rank).write_text(str(os.getpid()))
        epoch = str(self.current_epoch) if moment == "epoch" else ""
        if os.environ.get("KILLED") == moment + epoch + " of " + rank:
            os.kill(os.getpid(), signal.SIGKILL)
        method(self)
    return wrapped

_Learner.on_train_epoch_start = killing(_Learner.on_train_epoch_start, "epoch")
_Together.setup_environment = killing(_Together.setup_environment, "start")
main()
"""


def fitted(folder: Path, *words: str, killed: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "command.py").write_text(COMMAND)
    command = [sys.executable, "command.py", *TWO, "--out", "run", *words]
    # Without what a test that led before has left to its own children.
    environment = {name: value for name, value in os.environ.items() if name != "DRMM_LEADER"} | {"KILLED": killed}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=900, cwd=folder, env=environment
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = fitted(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test error") == 1, "only the first process writes the run"
    return folder / "run"


def lives(process: int) -> bool:
    """Whether it runs; one that has ended and waits to be collected does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_two_processes_train_one_model(undisturbed: Path) -> None:
    assert load_model(undisturbed)[1].classes == tuple("0123456789")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_both_and_the_run_goes_on(rank: int, undisturbed: Path, tmp_path: Path) -> None:
    killed = fitted(tmp_path, killed=f"epoch1 of {rank}")
    assert killed.returncode == (-signal.SIGKILL if rank == 0 else 2)
    said = [line for line in killed.stderr.splitlines() if not line.startswith("training")]
    assert said == [f"error: {LOST}"]
    assert not any(lives(int((tmp_path / name).read_text())) for name in "01")
    if rank == 0:
        return
    done = fitted(tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run" / "results.json")["resumed"], "control"
    mine, others = (load_file(run / "model.safetensors") for run in (tmp_path / "run", undisturbed))
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)
