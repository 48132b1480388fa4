import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from picture_folders import pictures
from PIL import Image
from sklearn.datasets import load_digits

from drmm.data import index
from drmm.errors import InputError, RunError
from drmm.labelling import pool as pool_module
from drmm.labelling.answering import answers_of, learned
from drmm.labelling.asking import is_reserved
from drmm.labelling.features import Seen, untaught
from drmm.labelling.learner import Answers, Learner
from drmm.labelling.pool import Pool
from drmm.labelling.session import Session
from drmm.labelling.store import State, Store

N = 160
LEVELS, TRUTH = load_digits(return_X_y=True)
LEVELS = np.rint(LEVELS[:N].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
TRUTH = np.append(TRUTH[:N], TRUTH[:2])  # with copy.png and near.png


class Told:
    """A learner that learns at once, when it is asked to."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.answers, self.trouble = seen, None, ""

    def learn(self, state: State) -> None:
        while not self.seen.is_done:
            self.seen.look()
        self.answers = answers_of(self.seen, state)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "pictures"
    folder.mkdir()
    for i, levels in enumerate(LEVELS):
        Image.fromarray(levels).save(folder / f"{i:03}.png")
    Image.fromarray(LEVELS[0]).save(folder / "copy.png")
    brighter = Image.fromarray((40 + LEVELS[1] // 2).astype(np.uint8))
    brighter.resize((16, 16)).save(folder / "near.png")
    return folder


@pytest.fixture
def session(folder, tmp_path):
    pool = Pool(folder)
    assert pool.digests
    with Store(tmp_path / "labels.sqlite") as store:
        for c in range(10):
            store.add_class(str(c))
        yield Session(pool, store, Told(Seen(pool.files, pool.known)))


def label(session: Session, question) -> None:
    truth = int(TRUTH[question.picture])
    session.store.label(session.pool.digest(question.picture), truth, drawn=question.is_drawn)


def test_the_same_picture_is_asked_for_once_in_whatever_form(session):
    asked = []
    while questions := session.next(7):
        for one in questions:
            asked.append(one.picture)
            session.store.label(session.pool.digest(one.picture), 0, drawn=one.is_drawn)
        session.learn()
    assert len(set(asked)) == len(asked)
    names = [session.pool.files[i].name for i in asked]
    assert len({"000.png", "copy.png"} & set(names)) == 1, "one of a copy's two files"
    assert len({"001.png", "near.png"} & set(names)) == 1, "one of two that are nearly the same"
    groups = session.learner.answers.groups
    assert len(asked) == len(np.unique(groups)), "control: of everything else, all"


def test_every_tenth_is_random_and_nothing_else_of_the_reserve_is_asked_for(session):
    asked = []
    for _ in range(5):
        asked += session.next(10)
        for one in asked[-10:]:
            label(session, one)
        session.learn()
    assert [i for i, one in enumerate(asked, 1) if one.is_drawn] == [10, 20, 30, 40, 50]
    digests = session.pool.digests
    assert [is_reserved(digests[one.picture]) for one in asked] == [one.is_drawn for one in asked]
    drawn = {digests[one.picture] for one in asked if one.is_drawn}
    assert session.store.state.drawn == drawn
    assert session.standing().error.n == len(drawn)


def test_what_is_before_the_person_is_not_asked_for_again(session):
    first = session.next(9)
    second = session.next(9, but=[one.picture for one in first])
    assert not {one.picture for one in first} & {one.picture for one in second}
    assert second[0].is_drawn, "the tenth"
    assert session.next(9) == first, "control"


def test_random_labels_are_not_learned_but_counted(session):
    for one in session.next(30):
        label(session, one)
    session.learn()
    before = session.learner.answers
    for digest in session.store.state.drawn:
        session.store.label(digest, 9)  # wrong ones, say
    session.learn()
    np.testing.assert_array_equal(session.learner.answers.probability, before.probability)
    assert session.standing().error.n == 3
    assert session.standing().counts == {c: list(session.store.labels.values()).count(c) for c in range(10)}
    drawn = session.store.state.drawn
    other = min(one for one, number in session.store.labels.items() if one not in drawn and number != 9)
    session.store.label(other, 9)
    session.learn()
    assert not np.array_equal(session.learner.answers.probability, before.probability), "control: others are"


def test_answers_follow_merges_and_undoing(session):
    for one in session.next(30):
        label(session, one)
    session.learn()
    picture = session.next()[0].picture
    answer = session.answer(picture)
    assert sum(answer.values()) == pytest.approx(1, abs=1e-5)
    first, second, *_ = answer
    session.store.merge_classes(second, first)
    assert session.answer(picture)[first] == pytest.approx(answer[first] + answer[second])
    session.store.undo()
    assert session.answer(picture) == answer


def test_wrong_labels_are_shown_until_they_are_looked_at(session):
    for one in session.next(100):
        label(session, one)
    number = next(i for i in range(N) if session.pool.digest(i) in session.store.labels and TRUTH[i] == 0)
    digest = session.pool.digest(number)
    session.store.label(digest, 1)
    session.learn()
    doubted = {one.picture: one.proposal for one in session.doubts()}
    assert doubted.get(number) == 0
    session.store.label(digest, 1)  # the person insists
    assert number not in [one.picture for one in session.doubts()]


def test_an_audit_is_of_what_nobody_has_labelled(session):
    for one in session.next(60):
        label(session, one)
    session.learn()
    audit = session.audit(0.8)
    assert audit.sorted
    assert not audit.sorted.keys() & session.store.labels.keys()
    assert all(not is_reserved(digest) for digest in audit.sorted)
    number = {digest: i for i, digest in enumerate(session.pool.digests)}
    right = [TRUTH[number[digest]] == label for digest, label in audit.sorted.items()]
    assert np.mean(right) > 0.8
    assert len(session.audit(0.5).sorted) >= len(audit.sorted)


def test_error_on_random_pictures_is_unbiased_and_counting_what_was_learned_is_not():
    generator = np.random.default_rng(0)
    bias = {"held out": [], "control": []}
    for _ in range(12):
        y = generator.integers(0, 3, 300)
        x = generator.normal(size=(300, 20)) + 0.9 * np.eye(3, 20)[y]
        chosen, drawn = np.split(generator.permutation(300)[:60], [40])
        others = np.setdiff1d(np.arange(300), np.concatenate([chosen, drawn]))
        for name, known in (("held out", chosen), ("control", np.concatenate([chosen, drawn]))):
            told = np.full(300, -1)
            told[known] = y[known]
            wrong = learned(x, told).probability.argmax(1) != y
            bias[name].append(wrong[drawn].mean() - wrong[others].mean())
    (held_out, error), (control, _) = (
        (np.mean(values), np.std(values) / np.sqrt(len(values))) for values in bias.values()
    )
    assert abs(held_out) < 3 * error
    assert control < -6 * error


def test_before_there_is_a_model_questions_are_spread_over_the_folder(session, monkeypatch):
    session.learner.answers = None
    pictures = [one.picture for one in session.next(4)]
    assert len({i * 4 // len(session.pool) for i in pictures}) >= 3
    monkeypatch.setattr(Pool, "is_ready", False)
    early = [one.picture for one in session.next(4)]
    assert len({i * 4 // len(session.pool) for i in early}) >= 3
    session.store.label(session.pool.digest(early[0]), 0)
    assert early[0] not in [one.picture for one in session.next(4)]
    assert (session.doubts(), session.strangers(), session.answer(0)) == ([], [], {})


def test_features_that_nothing_was_learned_for_tell_digits_apart():
    x = torch.from_numpy(LEVELS[:, None])
    with torch.no_grad():
        features = untaught(x).eval()(x.float() / 255)
    known = np.where(np.arange(N) < 100, TRUTH[:N], -1)
    error = (learned(features, known).probability.argmax(1) != TRUTH[:N])[100:].mean()
    assert features.shape == (N, 1024)
    assert error < 0.3, "of ten classes"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_pictures_are_enough(tmp_path, n):
    folder = pictures(tmp_path / "pictures", n)
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "black.png")
    pool = Pool(folder)
    state = State(1, {0: "a", 1: "b"}, {pool.digest(0): 0, pool.digest(n): 1})  # black.png
    seen = Seen(pool.files, pool.known)
    seen.look()
    answers = answers_of(seen, state)
    assert answers.classes == (0, 1)
    assert np.isfinite(answers.probability).all()
    np.testing.assert_array_equal(answers.probability[0], answers.probability[n + 1])  # copy.png


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 64)])
def test_pictures_of_any_size_have_features(shape):
    x = torch.randint(0, 256, (7, *shape), dtype=torch.uint8)
    assert untaught(x)(x.float() / 255).isfinite().all()


def test_it_learns_in_a_process_of_its_own_and_stops_when_told(folder, tmp_path):
    pool = Pool(folder)
    learner = Learner(pool)
    with Store(tmp_path / "labels.sqlite") as store:
        for c in (0, 1):
            store.add_class(str(c), [pool.digest(i) for i in np.flatnonzero(c == TRUTH)[:5]])
        start = time.perf_counter()
        learner.learn(State())
        learner.learn(store.state)
        assert time.perf_counter() - start < 1, "nobody waits"
        answers = awaited(learner, store.version)
        assert answers.classes == (0, 1)
        assert answers.probability.shape == (len(pool), 2)
        other = pool.path(7).read_bytes()
        (best, share), _ = sorted(learner.answer(other, store.state).items(), key=lambda one: -one[1])
        assert best == answers.probability[7].argmax()
        assert share == pytest.approx(answers.probability[7].max(), abs=1e-4)
        with pytest.raises(RunError, match="picture"):
            learner.answer(b"no picture", store.state)
        with pytest.raises(InputError, match="two classes"):
            learner.answer(other, State())
        learner.close()
        learner._process.join(60)
        assert not learner._process.is_alive()
        assert learner.trouble == ""
        with pytest.raises(RunError, match="start again"):
            learner.answer(other, store.state)


def test_the_page_does_not_wait_for_torch():
    said = "print('torch' in sys.modules)"
    code = f"import sys, drmm.cli.label; {said}; import drmm.labelling.answering; {said}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "True"], "the learner's process has it"


def test_a_folder_is_looked_at_once(tmp_path, monkeypatch):
    folder, looks = pictures(tmp_path / "pictures", 3), []
    real = pool_module.indexed
    for module in (pool_module, index):
        monkeypatch.setattr(module, "indexed", lambda found: looks.append(found) or real(found))
    pool = Pool(folder)
    seen = Seen(*pickle.loads(pickle.dumps((pool.files, pool.known))))  # as the learner's process gets them
    seen.look()
    assert len(seen.number) == 3
    assert len(looks) == 1


def test_pictures_that_cannot_be_read_are_told_in_a_line(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError, match="can be read"):
        Seen((pool := Pool(tmp_path)).files, pool.known)


def test_a_process_that_ends_is_told_in_a_line(tmp_path):
    learner = Learner(Pool(pictures(tmp_path / "pictures", 3)))
    learner.learn(State())
    while learner._process.pid is None:
        time.sleep(0.01)
    learner._process.kill()
    end = time.monotonic() + 60
    while not learner.trouble and time.monotonic() < end:
        time.sleep(0.01)
    assert "all labels are kept" in learner.trouble
    assert "\n" not in learner.trouble


def awaited(learner: Learner, version: int) -> Answers:
    end = time.monotonic() + 300
    while (found := learner.answers) is None or found.version < version:
        assert not learner.trouble
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
