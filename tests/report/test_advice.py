"""What to do next: what stands out is said, most urgent first, and nothing else."""

import pytest

from drmm.data.base import Skipped
from drmm.report.advice import State, advice
from drmm.report.health import skipped_files
from drmm.trust.assessment import Surest

SHOWN = Surest(0.9, promised=True, labels=149)
WELL = State({"cat": 100, "dog": 100}, 0.98, SHOWN, {"cat": (19, 20), "dog": (20, 20)}, unfamiliar=(1, 100))


def test_where_all_is_well_nothing_is_said() -> None:
    assert advice(WELL) == ()
    assert advice(State()) == ()  # a model alone


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"labels": {"cat": 2, "dog": 3}}, "Label more of cat (2): fewer than 3"),
        ({"labels": {f"c{i}": 1 for i in range(5)}}, "c0 (1), c1 (1), c2 (1) and 2 more: fewer"),
        ({"recall": {"cat": (3, 9), "dog": (6, 9), "cow": (7, 10)}}, "too rarely: cat (3 of 9), dog (6 of 9)."),
        ({"doubtful": 5}, "Correct the labels that are wrong, of 5"),
        ({"leaks": 4}, "4 are in both"),
        ({"surest": Surest(0, promised=False, labels=249)}, "Label 49 more, drawn at random: 200"),
        ({"surest": Surest(0.5, promised=False, labels=149)}, "the 200 labels do not show that 98 % are right"),
        ({"surest": Surest(0.5, promised=False, labels=None)}, "no number of labels"),
        ({"strangers": 0.13}, "Label some of each class, drawn at random: 13 % of the unlabelled"),
        ({"unfamiliar": (6, 100)}, "6 of 100 pictures that are unlike"),
        ({"unreadable": 20}, "cannot be read: 20"),
        ({"sorted_into": "out"}, "drmm audit out"),
        ({"unsure": 7}, "Label some of the 7 pictures in _unsure/"),
    ],
)  # fmt: skip
def test_what_stands_out_is_one_sentence_more(changed, says: str) -> None:
    fields = {name: getattr(WELL, name) for name in State.__dataclass_fields__}
    (said,) = advice(State(**{**fields, **changed}))
    assert says in said


def test_a_class_that_hardly_anybody_has_seen_is_not_judged() -> None:
    rare = State(recall={"cat": (0, 4)})
    assert advice(rare) == ()
    assert advice(State(recall={"cat": (0, 5)})) != (), "control"


def test_labels_come_before_the_promise_and_pictures() -> None:
    state = State({"cat": 1, "dog": 1}, 0.98, Surest(0, promised=False, labels=149), unreadable=3, unsure=9)
    first = [sentence.split()[0:2] for sentence in advice(state)]
    assert first == [["Label", "more"], ["Label", "147"], ["Copy", "the"]], (
        "labels of the unsure are not a random draw"
    )


def test_no_number_of_labels_is_asked_for_where_pictures_are_not_like_those_that_have_one() -> None:
    few = {"labels": {"cat": 9, "dog": 9}, "surest": Surest(0.9, promised=False, labels=149)}
    (said,) = advice(State(**few, strangers=0.2))
    assert "nothing can be promised" in said
    (control,) = advice(State(**few))
    assert "149 at the least might" in control


def test_what_to_do_about_a_file_is_not_cut_off() -> None:
    reason = "holds floats with no set black and white: save it with 8 or 16 unsigned bits"
    [_, table] = skipped_files([Skipped("a.tif", reason, is_loss=True)])
    assert table.rows == (("a.tif", reason),)


def test_names_are_one_line() -> None:
    (said,) = advice(State({"a\nb\x1b[31m": 1, "dog": 9}))
    assert "\n" not in said
    assert "\x1b" not in said
