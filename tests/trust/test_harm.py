"""Whether more was learned in vain, by labels that neither knew."""

import numpy as np
import pytest
import torch

from drmm.trust.crossfit import Fold, does_harm

Y = torch.arange(40) % 2
EQUAL = torch.ones(2)


def folds(wrong, parts=2):
    """Answers for every image, mistaken for some."""
    logits = np.eye(2)[np.where(np.isin(np.arange(40), list(wrong)), 1 - Y.numpy(), Y.numpy())]
    indices = np.array_split(np.random.default_rng(parts).permutation(40), parts)
    return [Fold(index, logits[index], np.zeros((1, 2))) for index in indices]


@pytest.mark.parametrize(
    ("made", "without", "harm"),
    [
        (range(4), range(10), False),
        (range(10), range(10), False),
        (range(11), range(10), False),  # one more: chance
        (range(20), range(10), True),
        (range(8, 22), range(10), False),  # twelve made and eight saved
        (range(4, 20), range(4), True),
    ],
)
def test_harm_is_more_mistakes_than_chance_would_make(made, without, harm):
    assert does_harm(folds(made), folds(without, parts=5), Y, EQUAL) == harm, "whatever the folds were"


def test_mistakes_of_a_rare_class_count_for_less():
    of_rare, of_frequent = range(1, 31, 2), range(0, 16, 2)  # fifteen and eight
    rare = torch.tensor([1.8, 0.2])
    assert does_harm(folds(of_rare), folds(of_frequent), Y, EQUAL), "control: as frequent as among the labels"
    assert not does_harm(folds(of_rare), folds(of_frequent), Y, rare)
    assert does_harm(folds(of_frequent), folds(of_rare), Y, rare)
