"""Cross-fitting judges a net by labels that it did not know, and what is known of it survives its file."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from drmm.data.duplicates import copies
from drmm.data.images import pixels
from drmm.data.splits import label_folds
from drmm.errors import InputError
from drmm.model.deep import DRMM
from drmm.rendering import Sequential
from drmm.storage.models import Recipe
from drmm.trust.assessment import Answers, Assessment, assess
from drmm.trust.crossfit import cross_fit, pool_of

N, CLASSES = 120, 3


@pytest.fixture(scope="module")
def model() -> DRMM:
    return Recipe("dense", width=4, depth=1).fitted((1, 1, 6), ("a", "b", "c")).build(0).eval()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Bumps at the place of their class; two thirds have a label."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % CLASSES
    x = 0.2 * torch.rand(N, 1, 1, 6, generator=generator)
    x[torch.arange(N), 0, 0, 2 * y] += 0.8
    return x, torch.where(torch.arange(N) % 9 < 6, y, -1)


class Memory(torch.nn.Module):
    """Knows by heart the labels that it was given, and guesses the first class of all else."""

    def __init__(self, x: Tensor, y: Tensor, size: float = 1.0) -> None:
        super().__init__()
        self.known = {row.numpy().tobytes(): int(label) for row, label in zip(x, y, strict=True) if label >= 0}
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        label = torch.tensor([self.known.get(row.numpy().tobytes(), 0) for row in x])
        return self.size * torch.nn.functional.one_hot(label, CLASSES).float()


def by_heart(x: Tensor, size: float = 1.0) -> Callable[[str, Tensor], Memory]:
    return lambda _, labels: Memory(x, labels, size)


def test_what_was_learned_by_heart_does_not_count(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    whole = Memory(x, y)
    known = y >= 0
    assert (whole(x[known]).argmax(1) == y[known]).all(), "control: it is right of all that it has seen"
    error = assess(model, x, y, cross_fit(by_heart(x), whole, x, y, folds=5, seed=0)).error()
    assert error is not None
    assert error["labels"] == int(known.sum())
    assert error["error"] == pytest.approx(100 * float((y[known] != 0).double().mean()), abs=0.01)
    low, high = error["interval"]
    assert low < error["error"] < high


def test_shorter_schedules_speak_as_loudly(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    loud, soft = (cross_fit(by_heart(x, size), Memory(x, y, 7.0), x, y, folds=4, seed=0) for size in (3.0, 0.2))
    for one, other in zip(loud, soft, strict=True):
        assert one.logits == pytest.approx(other.logits, rel=1e-5)
        assert one.logits.max() == pytest.approx(7, rel=1e-5)


def test_it_survives_its_file(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    known = assess(model, x, y, cross_fit(by_heart(x), Memory(x, y), x, y, folds=5, seed=0))
    again = Assessment.of_tensors(known.tensors())
    assert again.summary() == known.summary()
    one, other = known.of_pictures(model, x), again.of_pictures(model, x)
    for name in ("probability", "familiarity", "parts", "rank"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
    assert one.probability.sum(1) == pytest.approx(1)
    with pytest.raises(KeyError):
        Assessment.of_tensors({})


def test_without_labels_there_is_no_error_and_no_promise(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    x, _ = images
    known = assess(model, x, torch.full((N,), -1), ())
    assert known.error() is None
    assert known.calibration.temperature == 1
    surest = known.surest(0.98)
    assert not surest.promised
    assert surest.labels == 149


def test_a_promise_that_the_labels_show(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    x, _ = images
    y = torch.arange(N) % CLASSES
    truth = {row.numpy().tobytes(): int(c) for row, c in zip(x, y, strict=True)}
    right = Memory(x, y)
    right.known = truth
    known = assess(model, x, y, cross_fit(lambda *_: right, right, x, y, folds=5, seed=0))
    assert known.surest(0.95).promised
    assert not known.surest(0.98).promised, "control: 120 labels do not show this"
    with pytest.raises(InputError, match="share of sorted pictures"):
        known.surest(1.0)


def test_decisions_sort_as_many_as_may_be(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    known = assess(model, x, y, ())
    decided = known.decide(known.of_pictures(model, x), 0.5)
    surest = known.surest(0.5)
    familiar = decided != "unfamiliar"
    assert set(decided.tolist()) <= {"sorted", "unsure", "unfamiliar"}
    assert abs((decided == "sorted")[familiar].mean() - surest.share) < 0.1
    noise = known.decide(known.of_pictures(model, 100 * torch.ones(3, 1, 1, 6)), 0.5)
    assert noise.tolist() == ["unfamiliar"] * 3


def test_where_nothing_may_be_sorted_nothing_is(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    """Not even what the model is surer of than of all that it has learned from."""
    x, y = images
    known = replace(assess(model, x, y, ()), pool=np.linspace(-3, -2, 50))
    assert known.surest(0.98).share == 0
    surer = Answers(np.eye(3)[:1], np.ones(1), np.ones((1, 4)), np.ones(1))
    assert known.decide(surer, 0.98).tolist() == ["unsure"]
    assert known.decide(surer, 0.01).tolist() == ["sorted"], "control"


def test_the_pool_is_of_unlabelled_images_where_there_are_enough() -> None:
    x = torch.arange(3000.0).reshape(-1, 1)
    few = pool_of(x[:100], torch.arange(100) % 2 - 1)
    assert len(few) == 100
    many = pool_of(x, torch.arange(3000) % 3 - 1)
    assert len(many) == 1000
    assert (many % 3 == 0).all()


@pytest.mark.parametrize(("labels", "folds"), [([0, 0, 1, 1], 5), ([0] * 7 + [1] * 3 + [2] * 2, 3), ([0, 0], 2)])
def test_folds_leave_each_class_a_label(labels: list[int], folds: int) -> None:
    y = np.array(labels * 1 + [-1] * 5)
    parts = label_folds(y, folds, seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert set(np.delete(y, part).tolist()) == {*labels, -1}


def test_no_fold_divides_copies(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    """A net that has learned a picture by heart is never asked for its copy."""
    x, y = images
    wrong = torch.where(y >= 0, (y + 1) % CLASSES, -1)
    x, y = torch.cat([x, x]), torch.cat([wrong, wrong])
    asked: list[float] = []
    for same in (copies, lambda images: np.arange(len(images))):
        folds = cross_fit(by_heart(x), Memory(x, y), x, y, folds=5, seed=0, same=same)
        index = np.concatenate([fold.index for fold in folds])
        assert sorted(index.tolist()) == np.flatnonzero(y >= 0).tolist()
        logits = np.concatenate([fold.logits for fold in folds])
        asked.append(float((logits.argmax(1) == y.numpy()[index]).mean()))
    guessed = float((wrong[wrong >= 0] == 0).double().mean())
    assert asked[0] == pytest.approx(guessed)
    assert asked[1] > guessed + 0.3, "control"


def test_near_copies_share_a_fold_whatever_their_labels() -> None:
    y = np.array([0, 0, 0, 1, 1, 1, 0, 1, -1, -1])
    groups = np.array([7, 7, 2, 3, 4, 3, 4, 5, 7, 2])
    parts = label_folds(y, 5, seed=0, groups=groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(8))
    for part in parts:
        assert not set(groups[part]) & set(np.delete(groups, part)[np.delete(y, part) >= 0])


def test_a_class_of_one_picture_and_its_copies_is_in_no_part() -> None:
    y, groups = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2])
    assert sorted(np.concatenate(label_folds(y, 5, seed=0, groups=groups)).tolist()) == [3, 4]
    assert label_folds(y[:4], 5, seed=0, groups=groups[:4]) == []


def test_folds_of_lone_labels_and_of_very_many() -> None:
    assert label_folds([0, 1, -1], 5, seed=0) == []
    assert label_folds([0, 0, 1, -1], 5, seed=0)[0].tolist() in ([0], [1])
    many = label_folds(np.arange(6000) % 10, 5, seed=0)
    assert [len(part) for part in many] == [1200]


def test_answers_do_not_depend_on_the_batch(model: DRMM, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    known = assess(model, x, y, ())
    with torch.no_grad():
        alone = known.answers(model, pixels(x[5:6]), model.infer(pixels(x[5:6])))
    together = known.of_pictures(model, x)
    assert alone.familiarity[0] == pytest.approx(together.familiarity[5], abs=0.05)
    assert alone.probability[0] == pytest.approx(together.probability[5], abs=1e-5)


@pytest.mark.parametrize("certified", [False, True])
def test_answers_take_one_pass_up_and_one_drawing(
    model: DRMM, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, certified: bool
) -> None:
    x, y = images
    known, passes = assess(model, x, y, ()), list[str]()
    for name in ("infer", "forward", "render"):
        whole = getattr(Sequential, name)
        monkeypatch.setattr(Sequential, name, lambda *a, w=whole, n=name: passes.append(n) or w(*a))
    with torch.no_grad():
        latents = model.infer(pixels(x), certify=certified)
        answers = known.answers(model, pixels(x), latents)
        model.log_joint(pixels(x), latents)
    assert passes == ["infer", "render"]
    monkeypatch.undo()
    with torch.no_grad():  # control: of latents that keep nothing, the same answers
        bare = replace(latents, features=None, amplitude=latents.amplitude.clone())
        assert np.array_equal(known.answers(model, pixels(x), bare).parts, answers.parts)
