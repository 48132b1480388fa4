"""The detectors of the study of familiarity tell what they are made for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scripts.familiarity import Seen, areas, literature

RNG = np.random.default_rng(0)
KNOWN = np.concatenate([RNG.normal(3 * np.eye(4, 8)[c], 0.3, (60, 8)) for c in range(2)])


@pytest.fixture
def net() -> SimpleNamespace:
    """Its logits are the first two features."""
    templates = SimpleNamespace(weight=torch.eye(2, 8), bias=torch.zeros(2))
    return SimpleNamespace(model_=SimpleNamespace(templates=templates))


def seen(features: np.ndarray) -> Seen:
    """Images that are their features."""
    return Seen(features, features[:, :2], SimpleNamespace())


@pytest.mark.parametrize(
    ("strange", "blind"),
    [
        (
            RNG.normal(3 * np.eye(8)[:2].sum(0), 0.3, (40, 8)),
            {"energy", "ViM"},
        ),  # both classes: surer of everything
        (RNG.normal(3 * np.eye(8)[5] + 3 * np.eye(8)[0], 0.3, (40, 8)), {"MSP", "energy"}),  # logits of class 0
        (RNG.normal(0, 0.3, (40, 8)), set()),  # nothing
    ],
)
def test_each_detector_sees_what_it_looks_at(net: SimpleNamespace, strange: np.ndarray, blind: set[str]) -> None:
    test = np.concatenate([RNG.normal(3 * np.eye(4, 8)[c], 0.3, (30, 8)) for c in range(2)])
    found = areas(literature(net, seen(KNOWN)), seen(test), {"strange": seen(strange)})["strange"]
    assert set(found) == {"MSP", "energy", "Mahalanobis", "neighbours", "ViM"}
    for name, area in found.items():
        assert area > 0.95 if name not in blind else area < 0.8, name
