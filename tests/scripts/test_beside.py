"""The study of a messy folder counts what it says it counts."""

import json

import numpy as np
import pytest
from PIL import Image

from drmm.data import Dataset
from scripts.beside import (
    METHODS,
    PROMISES,
    SHARES,
    SORT,
    Answer,
    answers_of,
    by_hand,
    figure,
    judged,
    learned,
    regression,
    rows_of,
    spreading,
    table,
    table_of,
)
from scripts.messy_folder import write

RNG = np.random.default_rng(0)
TRUTH = [
    {"file": f"{i}.png", "kind": kind, "truth": truth}
    for i, (kind, truth) in enumerate(
        [("", "a"), ("", "b"), ("copy", "a"), ("blank", "a"), ("broken", "b"), ("", "b")]
    )
]
RIGHT = [
    Answer("0.png", "a", 0.9, is_sorted=True),
    Answer("1.png", "b", 0.8, is_sorted=True),
    Answer("2.png", "b", 0.7, is_sorted=False),
]


def squares(n: int) -> Dataset:
    """Pictures that are bright on one side."""
    y = np.arange(n) % 2
    x = RNG.integers(0, 60, (n, 1, 8, 8)).astype(np.uint8)
    for c in range(2):
        x[y == c, :, :, 4 * c : 4 * c + 4] += 150
    return Dataset("squares", x, y, x[:0], y[:0], ("left", "right"))


def test_errors_are_of_sound_pictures_without_a_label():
    figures = judged(RIGHT, TRUTH, {"5.png"})
    assert figures["pictures"] == 3
    assert figures["error"] == 33.33
    assert (figures["sorted"], figures["sorted_error"]) == (66.67, 0)
    assert len(figures["surest_error"]) == len(SHARES)
    assert [figures["surest_error"][i] for i in (0, 65, 66, 99)] == [0, 0, 33.33, 33.33]
    assert (figures["lost"], figures["broken_sorted"], figures["blank_sorted"]) == (1, 0, 0)  # no answer for 3.png
    known = judged([*RIGHT, Answer("5.png", "a", 1.0, is_sorted=True)], TRUTH, {"5.png"})
    assert known == figures
    control = judged([*RIGHT, Answer("5.png", "a", 1.0, is_sorted=True)], TRUTH, set())
    assert control["error"] == 50


def test_what_is_sorted_though_it_is_broken_or_blank_is_counted():
    more = [Answer(f"{i}.png", "a", 0.99, is_sorted=True) for i in (3, 4)]
    figures = judged([*RIGHT, *more], TRUTH, {"5.png"})
    assert (figures["lost"], figures["broken_sorted"], figures["blank_sorted"]) == (0, 1, 1)
    assert figures["error"] == 33.33


def test_nothing_that_is_sorted_has_no_error():
    figures = judged([one._replace(is_sorted=False) for one in RIGHT], TRUTH, {"5.png"})
    assert (figures["sorted"], figures["sorted_error"]) == (0, None)


def test_a_loop_ends_at_the_first_broken_file(tmp_path):
    for name in "abc":
        Image.new("L", (9, 9)).save(tmp_path / f"{name}.png")
    assert by_hand(tmp_path) == {"first": None, "fails": 0}
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    assert by_hand(tmp_path) == {"first": 2, "fails": 2}


@pytest.mark.parametrize("learn", [regression, spreading])
def test_what_a_user_has_learns_from_few_labels(learn):
    data = squares(60)
    few = np.where(np.arange(60) < 20, data.y_train, -1)
    probability = learn(Dataset("few", data.x_train, few, *(data.x_test, data.y_test), data.classes), 0)
    assert probability.shape == (60, 2)
    assert (probability.argmax(1) == data.y_train).mean() > 0.95


def test_the_reader_answers_for_every_sound_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # so that it is put back
    folder = tmp_path / "pictures"
    write(folder, squares(60), n=60, labels=20, seed=0, by_class=False)
    truth, known = (rows_of(table_of(folder, name)) for name in ("truth", "labels"))
    with pytest.warns(UserWarning, match="cannot read picture"):
        answers = learned(regression, folder, 0)["answers"]
    figures = judged(answers, truth, {row["file"] for row in known})
    assert (figures["lost"], figures["broken_sorted"]) == (0, 0)
    assert figures["pictures"] >= 60 - 20 - 3 - 1  # labelled, broken, blank
    control = judged(answers[:-30], truth, set())
    assert control["lost"] == 30


def test_the_command_answers_for_the_pictures_without_a_label(tmp_path):
    folder, into = tmp_path / "pictures", tmp_path / "sorted"
    lines = ["file,sorted,decision,label,confidence,second,second_confidence,familiarity"]
    for name, decision, confidence in (("a", "sorted", 0.9), ("in/b", "unsure", 0.5), ("c", "labelled", "")):
        lines.append(f"{folder}/{name}.png,cat/x.png,{decision},cat,{confidence},dog,0.1,0.5")
    into.mkdir()
    (into / "sort.csv").write_text("\n".join(lines), encoding="utf-8")
    answers = list(answers_of(folder, into))
    assert answers == [
        Answer("a.png", "cat", 0.9, is_sorted=True),
        Answer("in/b.png", "cat", 0.5, is_sorted=False),
    ]


def test_the_table_and_the_picture_have_every_method():
    sorts = [f"{SORT}, {100 * promise:g} %" for promise in PROMISES]
    figures = {**judged(RIGHT, TRUTH, {"5.png"}), "processor_seconds": 3.0, "peak_mb": 400}
    nothing = figures | {"sorted": 0.0, "sorted_error": None}
    draw = {"by_hand": {"first": 2, "fails": 9}, "methods": dict.fromkeys((*METHODS, *sorts), figures)}
    results = {"files": 6, "idle_mb": 300, "sets": {"squares": [draw, draw]}}
    lines = table(results).splitlines()
    assert [line.split(" | ")[0][2:] for line in lines[3 : 3 + len(METHODS) + len(sorts)]] == [*METHODS, *sorts]
    assert lines[3].endswith("| 33.3 ± 0.0 | 66.7 ± 0.0 | 0.0 ± 0.0 | 33.3 ± 0.0 | 3 | 400 | 1, 0, 0 |")
    draw["methods"] = dict.fromkeys((*METHODS, *sorts), nothing)
    assert "| 33.3 ± 0.0 | 0.0 ± 0.0 | – | – |" in table(results)
    assert "ends at file 2 to 2" in lines[-1]
    figure(json.loads(json.dumps(results))).canvas.draw()
