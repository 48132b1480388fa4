"""Progress: nothing for what is quick, a bar on a terminal, a line every 30 seconds elsewhere."""

import pytest

from drmm import progress
from drmm.progress import DownloadBar, Meter, Outlook, track

STRANGE = "[/bold] $a$ \x1b[31m\nb"


def watch(monkeypatch):
    """Let standard error pass for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


class Clock:
    """Seconds that pass between two looks at it."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def monotonic(self):
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch):
    def set_to(step):
        monkeypatch.setattr(progress, "time", Clock(step))

    return set_to


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("step", [0.01, 1.0, 100.0])
def test_every_item_passes(clock, monkeypatch, capsys, terminal, step):
    if terminal:
        watch(monkeypatch)
    clock(step)
    assert list(track(range(5), STRANGE)) == [0, 1, 2, 3, 4]
    assert list(track(iter(range(5)), STRANGE, 5)) == [0, 1, 2, 3, 4]
    assert list(track(iter(range(5)), STRANGE)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_without_a_terminal_a_line_every_thirty_seconds(clock, capsys):
    clock(4.0)
    assert list(track(range(10), STRANGE))
    assert capsys.readouterr().err == "[/bold] $a$ [31m b: 7 of 10, about 10 seconds left\n"
    clock(1.0)
    assert list(track(range(10), STRANGE))
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_a_bar_after_two_seconds(clock, monkeypatch, capsys):
    watch(monkeypatch)
    clock(1.0)
    assert list(track(range(2), "Counting")) == [0, 1]
    assert "Counting" not in capsys.readouterr().err
    assert list(track(range(20), STRANGE))
    assert "[/bold] $a$" in capsys.readouterr().err


def test_downloads_are_counted_in_bytes(clock, capsys):
    clock(40.0)
    bar = DownloadBar("file.gz")
    bar.total = 3_000_000
    bar.update(1_500_000)
    bar.reset()
    bar.update(3_000_000)
    bar.close()
    bar.close()
    assert capsys.readouterr().err == ("file.gz: 1.5 MB of 3.0 MB\nfile.gz: 3.0 MB of 3.0 MB\n")


def test_a_note_is_asked_for_when_it_is_shown(clock, capsys):
    asked = []

    def note():
        asked.append(1)
        return "loss [/b] \x1b[31m\n1.5"

    clock(4.0)
    meter = Meter("training")
    for step in range(10):
        meter.update(step, 10, note)
    meter.say("a\x1b line")
    meter.close()
    assert capsys.readouterr().err == ("training, loss [/b] [31m 1.5: 7 of 10, about 10 seconds left\na� line\n")
    assert len(asked) == 1


def test_what_has_no_end_is_counted(clock, monkeypatch, capsys):
    clock(40.0)
    Meter("predicting").update(300)
    assert capsys.readouterr().err == "predicting: 300\n"
    watch(monkeypatch)
    clock(2.5)
    meter = Meter("predicting")
    meter.update(300)
    meter.close()
    assert "predicting: 300" in capsys.readouterr().err


# --- how long it takes -------------------------------------------------------------------------------------------


def learned(outlook, stage, steps, start=0):
    """A stage of a job, from where it was stopped on."""
    meter = Meter("training", outlook=outlook.at(*stage))
    for step in range(start + 1, steps + 1):
        meter.update(step, steps)
    meter.close()


def test_all_stages_are_told_once_after_the_first_steps(clock, capsys):
    told = []
    outlook = Outlook([("to learn", 100, 1), ("to judge", 40, 0.5), ("to judge", 40, 0.5)], told.append)
    clock(10.0)
    learned(outlook, ("to learn",), 100)
    # The second step shows it: 98 are left at 10 seconds each, and 80 at half of that.
    assert told == ["training takes about 23 minutes: 98 steps to learn, then 2 x 40 steps to judge"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "training: 8 of 100, about 22 minutes left"
    assert lines[-1] == "training: 100 of 100, about 7 minutes left"
    learned(outlook, ("to judge", 1), 40)
    assert len(told) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "training: 40 of 40"


@pytest.mark.parametrize(("stopped", "says"), [(0, "55 seconds: 18"), (12, "20 seconds: 6")])
def test_what_was_done_before_a_stop_does_not_count(clock, stopped, says):
    told = []
    outlook = Outlook([("to learn", 100, 1), ("to judge", 20, 1), ("to judge", 20, 1)], told.append)
    clock(3.0)
    learned(outlook, ("to learn",), 100, start=100)  # done
    learned(outlook, ("to judge", 1), 20, start=stopped)
    assert told == [f"training takes about {says} steps to judge"]


def test_a_stage_that_was_not_foreseen_is_like_the_last():
    outlook = Outlook([("to learn", 100, 1), ("to judge", 20, 1), ("to judge", 20, 1)], print)
    assert [outlook.at("to judge", number).stage for number in range(4)] == [1, 2, 2, 2]


def test_a_terminal_sees_what_is_left_of_all_stages(clock, monkeypatch, capsys):
    watch(monkeypatch)
    clock(10.0)
    learned(Outlook([("to learn", 10, 1), ("to judge", 200, 1)], print), ("to learn",), 10)
    assert "training, about 33 minutes left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0, "5 seconds"), (44, "45 seconds"), (100, "2 minutes"), (5000, "83 minutes"), (9000, "2.5 hours")],
)
def test_a_time_is_said_as_people_say_it(seconds, says):
    assert progress._spoken(seconds) == says
