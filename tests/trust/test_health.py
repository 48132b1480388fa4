"""What is found among pictures in which everything that can be wrong has been made wrong, and nothing more."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drmm.data.duplicates import blank
from drmm.trust.health import Pictures, examine, look_features, outlyingness, suspicion


@pytest.fixture(scope="module")
def digits():
    """400 sound pictures of ten classes."""
    levels, labels = load_digits(return_X_y=True)
    looks = np.kron(levels[:400].reshape(-1, 1, 8, 8), np.ones((4, 4))) * 255 / 16
    return sound(looks.astype(np.uint8), labels[:400])


def sound(looks, labels):
    n = len(looks)
    return Pictures(
        looks,
        labels.astype(np.int64),
        [f"digit {c}" for c in range(10)],
        np.zeros(n, bool),
        [f"{row:04}" for row in range(n)],
        np.full((n, 2), 32),
        look_features(looks),
    )


def found(pictures, kind):
    (finding,) = (finding for finding in examine(pictures) if finding.kind == kind)
    return finding.found


def test_sound_pictures_are_left_in_peace(digits):
    findings = {finding.kind: finding.found for finding in examine(digits)}
    assert len(findings.pop("label")) < 10
    assert not any(findings.values())


def test_wrong_labels_come_first(digits):
    generator = np.random.default_rng(0)
    flipped = generator.choice(400, 20, replace=False)
    labels = digits.labels.copy()
    labels[flipped] = (labels[flipped] + generator.integers(1, 10, 20)) % 10
    first = [one.index for one in found(replace(digits, labels=labels), "label")][:20]
    assert np.isin(first, flipped).mean() >= 0.7
    doubt, other, agreement = suspicion(digits.features, labels, np.arange(400))
    order = np.argsort(-doubt)[:20]
    assert np.isin(order, flipped).mean() >= 0.7
    assert 0.8 < agreement < 0.96
    assert (other[flipped] == digits.labels[flipped]).mean() > 0.8, "and the class that it is, is named"
    assert np.isin(generator.permutation(400)[:20], flipped).mean() < 0.3, "control: chance"


def test_a_posterior_judges_labels_where_there_is_one(digits):
    """Features that tell nothing show that it is the posterior which decides."""
    flipped = np.arange(0, 400, 20)
    labels = digits.labels.copy()
    labels[flipped] = (labels[flipped] + 1) % 10
    blind = replace(digits, labels=labels, features=np.random.default_rng(0).normal(size=(400, 3)))
    posterior = np.full((400, 10), 0.01)
    posterior[np.arange(400), digits.labels] = 0.91
    assert [one.index for one in found(replace(blind, posterior=posterior), "label")] == flipped.tolist()
    assert not found(blind, "label"), "control"
    posterior[: len(posterior) // 2] = np.nan
    told = [one.index for one in found(replace(blind, posterior=posterior), "label")]
    assert told == [row for row in flipped if row >= 200], "what it does not know it does not judge"


def test_copies_do_not_speak_for_each_other(digits):
    """A wrong label that was copied five times is seen; in folds that split the copies it would be believed."""
    rows = np.concatenate([np.arange(400), np.repeat(7, 5)])
    labels = digits.labels[rows]
    labels[rows == 7] = (labels[7] + 3) % 10
    together = np.where(rows == 7, 7, np.arange(405))
    doubt, *_ = suspicion(digits.features[rows], labels, together)
    assert (doubt[rows == 7] > np.quantile(doubt, 0.9)).all()
    apart, *_ = suspicion(digits.features[rows], labels, np.arange(405))
    assert (apart[rows == 7] <= np.median(apart)).all(), "control"


def test_labels_of_too_few_are_not_judged(digits):
    labels = np.full(400, -1)
    assert not found(replace(digits, labels=labels), "label")
    labels[:2] = 0, 1
    assert not found(replace(digits, labels=labels), "label")
    same, *_ = suspicion(digits.features[:6], np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, int))
    assert not same.any(), "all are copies of one picture"


def test_neighbours_that_know_nothing_refute_nothing(digits):
    shuffled = replace(digits, labels=np.random.default_rng(0).permutation(digits.labels))
    (finding,) = (finding for finding in examine(shuffled) if finding.kind == "label")
    assert not finding.found
    assert "of the time" in finding.unknown


def with_copy(digits, row, *, digest, **changed):
    """One more picture, a copy of one that is there."""
    rows = np.append(np.arange(400), row)
    more = {"labels": digits.labels[rows], "is_test": digits.is_test[rows]}
    for name, value in changed.items():
        more[name][-1] = value
    return Pictures(
        digits.looks[rows],
        more["labels"],
        digits.classes,
        more["is_test"],
        [*digits.digests, digest],
        digits.sizes[rows],
        digits.features[rows],
    )


def test_copies_and_near_copies_are_told_apart(digits):
    exact = with_copy(digits, 5, digest=digits.digests[5])
    assert [one.index for one in found(exact, "copy")] == [5, 400]
    assert not found(exact, "near copy")
    near = with_copy(digits, 5, digest="other bytes")
    assert [one.index for one in found(near, "near copy")] == [5, 400]
    assert not found(near, "copy")
    assert {one.group for one in found(near, "near copy")} == {1}


@pytest.mark.parametrize("digest", ["0005", "other bytes"])
def test_a_picture_on_both_sides_of_a_border_is_named(digits, digest):
    leak = with_copy(digits, 5, digest=digest, is_test=True)
    assert [one.index for one in found(leak, "leak")] == [5, 400]
    assert "to test with" in found(leak, "leak")[1].note
    two = with_copy(digits, 5, digest=digest, labels=(digits.labels[5] + 1) % 10)
    assert [one.index for one in found(two, "contradiction")] == [5, 400]
    assert len({one.note for one in found(two, "contradiction")}) == 2
    neither = with_copy(digits, 5, digest=digest, labels=-1)
    assert not found(neither, "contradiction"), "control: no label contradicts none"
    assert not found(neither, "leak")


def test_blank_pictures_are_no_copies_of_each_other_unless_their_bytes_are(digits):
    looks = digits.looks.copy()
    looks[3], looks[4] = 255, 7
    looks[5] = np.where(np.arange(32) % 2, 100, 101)
    blanks = replace(digits, looks=looks)
    assert [one.index for one in found(blanks, "blank")] == [3, 4, 5]
    assert not found(blanks, "near copy")
    dot = np.zeros((1, 32, 32), np.uint8)
    dot[0, 10:13, 10:13] = 255
    assert not blank(dot).any(), "control: a picture with a dot on it"


def test_a_stranger_is_far_from_all_others_and_a_pair_of_copies_is_no_company(digits):
    generator = np.random.default_rng(0)
    noise = (255 * (generator.random((1, 1, 32, 32)) > 0.5)).astype(np.uint8)
    noise[:, :, ::2, ::2] = 255
    looks = np.concatenate([digits.looks, 255 - digits.looks[:1], 255 - digits.looks[:1]])
    far = outlyingness(look_features(looks))
    assert far[400:].min() > 5
    assert far[:400].max() < 5, "control"
    assert np.isfinite(outlyingness(np.zeros((10, 3)))).all()


def test_odd_sizes_are_by_the_median(digits):
    sizes = digits.sizes.copy()
    sizes[1], sizes[2], sizes[3], sizes[4] = (32, 300), (4, 32), (100, 100), (1000, 1000)
    odd = found(replace(digits, sizes=sizes), "size")
    assert [one.index for one in odd] == [4, 1, 2]
    assert "1000 x 1000" in odd[0].note
    [remedy] = [one.remedy for one in examine(replace(digits, sizes=sizes)) if one.kind == "size"]
    assert remedy == "a side is over 4 times the usual 32 x 32, or under 1/4 of it: crop or remove them"
