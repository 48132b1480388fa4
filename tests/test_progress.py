"""Progress: nothing for what is quick, a bar on a terminal, a line every 30 seconds elsewhere."""

import pytest

from drmm import progress
from drmm.progress import DownloadBar, Meter, track

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
    assert capsys.readouterr().err == "[/bold] $a$ [31m b: 7 of 10\n"
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
    assert capsys.readouterr().err == "file.gz: 1.5 MB of 3.0 MB\nfile.gz: 3.0 MB of 3.0 MB\n"


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
    assert capsys.readouterr().err == "training, loss [/b] [31m 1.5: 7 of 10\na� line\n"
    assert len(asked) == 1
