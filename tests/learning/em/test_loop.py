"""The loop that every model shares: its order, when it stops, and what survives a stop."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drmm.errors import InputError, RunError
from drmm.learning.em import Learner
from drmm.learning.em.loop import run_em


class Ladder(Learner):
    """A learner whose objective is a given sequence, and which counts its steps."""

    def __init__(self, *objective, patience=None):
        self.objective, self.place, self.calls, self.patience = objective, torch.tensor(0), "", patience

    def e_step(self):
        if self.patience is not None and len(self.calls) >= self.patience:
            raise KeyboardInterrupt
        self.calls += "E"
        return self.objective[int(self.place)]

    def m_step(self):
        self.calls += "M"
        self.place += 1

    def state(self):
        return {"place": self.place}

    def restore(self, state):
        self.place = state["place"].clone()


def run(learner, **options):
    return run_em(learner, **{"max_iter": 10, "tolerance": 0.01, "progress": False, **options})


def test_steps_alternate_and_an_e_step_is_last():
    learner = Ladder(1.0, 2.0, 3.0, 4.0)
    trace = run(learner, max_iter=4)
    assert learner.calls == "EMEMEME"
    assert trace.objective == (1.0, 2.0, 3.0, 4.0)
    assert not trace.converged
    assert len(trace.seconds) == 4
    assert list(trace.seconds) == sorted(trace.seconds)


@pytest.mark.parametrize(
    ("objective", "tolerance", "steps"),
    [
        ((1.0, 2.0, 2.005, 9.0), 0.01, 3),  # a share of the objective's size …
        ((-400.0, -300.0, -298.0, 0.0), 0.01, 3),
        ((0.0, 0.5, 0.509, 9.0), 0.01, 3),  # … or of 1, where this is larger
        ((1.0, 2.0, 2.0, 9.0), 0.01, 3),
        ((1.0, 1.0, 1.0, 1.0), 0, 4),  # a tolerance of 0 stops at nothing but a fall
        ((1.0, 2.0, 1.5, 9.0), 0, 3),
    ],
)
def test_it_stops_when_the_objective_stands_still(objective, tolerance, steps):
    trace = run(Ladder(*objective), tolerance=tolerance, max_iter=4)
    assert len(trace.objective) == steps
    assert trace.converged is (steps < 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_objective_that_is_not_finite_is_refused(bad, tmp_path):
    with pytest.raises(InputError, match=r"objective became .*check the images"):
        run(Ladder(1.0, bad), folder=tmp_path)
    assert load_file(tmp_path / "em.safetensors")["trace.objective"].tolist() == [1.0]


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Ladder(1.0, 2.0), max_iter=2)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    ladder = (1.0, 2.0, 3.0, 4.0, 5.0)
    stopped = Ladder(*ladder, patience=4)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, max_iter=5, folder=tmp_path)
    resumed = Ladder(*ladder)
    trace = run(resumed, max_iter=5, folder=tmp_path, resume=True)
    assert (stopped.calls, resumed.calls) == ("EMEM", "MEMEME")
    assert trace.objective == ladder
    assert list(trace.seconds) == sorted(trace.seconds)


def test_time_goes_on_too(tmp_path):
    run(Ladder(1.0, 2.0), max_iter=2, folder=tmp_path)
    state = load_file(tmp_path / "em.safetensors")
    state["trace.seconds"] = torch.tensor([100.0, 200.0]).double()
    save_file(state, tmp_path / "em.safetensors")
    assert run(Ladder(1.0, 2.0, 3.0), max_iter=3, folder=tmp_path, resume=True).seconds[2] > 200


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    first = run(Ladder(1.0, 2.0, 2.001, 9.0), folder=tmp_path)
    learner = Ladder(1.0, 2.0, 2.001, 9.0)
    assert run(learner, folder=tmp_path, resume=True) == first
    assert learner.calls == ""
    assert run(Ladder(1.0), max_iter=1, folder=tmp_path, resume=True) == first


def test_without_resume_it_begins_again(tmp_path):
    run(Ladder(1.0, 2.0), max_iter=2, folder=tmp_path)
    learner = Ladder(5.0, 6.0)
    assert run(learner, max_iter=2, folder=tmp_path).objective == (5.0, 6.0)
    assert run(Ladder(5.0), max_iter=1, folder=tmp_path / "new", resume=True).objective == (5.0,)


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "another file"])
def test_a_damaged_state_is_one_clear_line(damage, tmp_path):
    run(Ladder(1.0, 2.0), max_iter=2, folder=tmp_path)
    path = tmp_path / "em.safetensors"
    content = path.read_bytes()
    if damage == "another file":
        save_file({"weight": torch.ones(2)}, path)
    else:
        path.write_bytes({"empty": b"", "truncated": content[:-3], "garbage": b"\x80\x04\x95"}[damage])
    with pytest.raises(RunError, match=r"em\.safetensors") as caught:
        run(Ladder(1.0, 2.0), folder=tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_one_clear_line():
    with pytest.raises(RunError, match="cannot write"):
        run(Ladder(1.0, 2.0), folder=Path("/proc/none"))
