"""Planted nuisances are decoded where they are, and nowhere else; switches and features apart."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import cohen_kappa_score, r2_score
from torch import nn

import drmm
from drmm.errors import InputError
from drmm.explain.passes import activations
from drmm.studies.predictions import interval, judge
from drmm.studies.predictions.nuisances import Targets, decode, encode, scene_targets, stages
from drmm.studies.scenes import Ranges, sample

RNG = np.random.default_rng


def planted(n, seed):
    """Two numbers, an angle and a kind, and codes that hold the first number, the angle and the kind alone."""
    rng = RNG(seed)
    shown, hidden, angle = rng.standard_normal(n), rng.standard_normal(n), rng.uniform(0, 2 * np.pi, n)
    kind = rng.integers(0, 3, n)
    turn = np.stack([np.sin(angle), np.cos(angle)], 1)
    sources = np.hstack([shown[:, None], turn, np.eye(3)[kind]])
    codes = sources @ RNG(9).standard_normal((6, 20)) + 0.1 * rng.standard_normal((n, 20))
    numbers = {"shown": shown[:, None], "hidden": hidden[:, None], "angle": turn}
    return codes, Targets(numbers, {"kind": kind, "other kind": rng.integers(0, 3, n)})


def test_what_is_there_is_decoded_and_nothing_else():
    skill = decode(*planted(400, 0), *planted(300, 1))
    found = {name: interval(values) for name, values in skill.items()}
    assert all(found[name].low > 0.9 for name in ("shown", "angle", "kind"))
    assert all(found[name].high < 0.1 for name in ("hidden", "other kind")), "control: what is not there"
    assert judge(found["shown"], 0.05) == "confirmed"
    assert judge(found["hidden"], 0.05) != "confirmed"


def test_skill_is_r2_and_kappa():
    codes, targets = planted(400, 0)
    noisy = codes + 2 * RNG(2).standard_normal(codes.shape)
    learned, known = part(targets, slice(250)), part(targets, slice(250, None))
    skill = decode(noisy[:250], learned, noisy[250:], known)
    by_hand = RidgeCV(np.logspace(-1, 5, 13), alpha_per_target=True)

    def predicted(values):
        return by_hand.fit(scaled(noisy)[:250], values).predict(scaled(noisy)[250:])

    assert skill["shown"].mean() == pytest.approx(
        r2_score(known.numbers["shown"], predicted(learned.numbers["shown"][:, 0])), abs=1e-9
    )
    kinds = predicted(np.eye(3)[learned.kinds["kind"]]).argmax(1)
    kappa = cohen_kappa_score(known.kinds["kind"], kinds)
    assert 0.2 < kappa < 0.98, "control: neither chance nor perfect"
    assert skill["kind"].mean() == pytest.approx(kappa, abs=1e-9)


def scaled(codes):
    return (codes - codes[:250].mean(0)) / codes[:250].std(0)


def part(targets, rows):
    return Targets(
        {name: values[rows] for name, values in targets.numbers.items()},
        {name: values[rows] for name, values in targets.kinds.items()},
    )


def net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


def blobs(n, seed):
    """Bright squares at places that are to be decoded, with a contrast that no switch can know.

    Borders and the phase of the pool, which would tell something of the place, see nothing of them.
    """
    rng = RNG(seed)
    place, contrast = 2 * rng.integers(2, 5, (n, 2)), rng.uniform(0.2, 1, n)
    x = np.zeros((n, 1, 16, 16), np.float32)
    for image, (row, column), level in zip(x, place, contrast, strict=True):
        image[0, row : row + 4, column : column + 4] = level
    numbers = {
        "row": place[:, :1].astype(float),
        "column": place[:, 1:].astype(float),
        "contrast": contrast[:, None],
    }
    return torch.from_numpy(x), Targets(numbers, {})


@pytest.fixture(scope="module")
def skills():
    torch.manual_seed(0)
    model = net()
    with torch.no_grad():
        model[0].bias.zero_()
    (x, targets), (other, known) = blobs(150, 0), blobs(100, 1)
    codes, test_codes = encode(model, x, size=60), encode(model, other, size=60)
    return {
        kind: {
            name: {
                latent: values.mean()
                for latent, values in decode(code, targets, getattr(test_codes, kind)[name], known).items()
            }
            for name, code in getattr(codes, kind).items()
        }
        for kind in ("features", "switches")
    }


def test_place_is_in_features_until_places_are_averaged(skills):
    found = skills["features"]
    assert list(found) == ["pixels", "0", "4", "6", "logits"]
    assert all(found[name]["row"] > 0.7 for name in ("pixels", "0", "4"))
    assert found["6"]["row"] < 0.3 < 0.7 < found["6"]["contrast"], "control: a mean over places forgets the place"


def test_place_is_in_switches_and_contrast_is_not(skills):
    found = skills["switches"]
    assert list(found) == ["0", "4"]
    assert found["0"]["row"] > 0.7
    assert found["0"]["contrast"] < 0.2, "control: switches of a net without biases do not know the contrast"


def test_stages_are_cut_where_weights_follow_on_choices():
    model = drmm.lift(net())
    switches = activations(model, torch.rand(1, 1, 16, 16)).switches
    found = stages(model, switches)
    assert [(one.name, one.first, one.last) for one in found] == [("0", 1, 4), ("4", 5, 6), ("6", 7, 8)]
    assert all(after.first == before.last + 1 for before, after in pairwise(found))
    fused = drmm.presets.conv_small()
    assert [one.last for one in stages(fused, activations(fused, torch.rand(1, 1, 28, 28)).switches)][-1] == len(
        fused.levels.renderings
    )


def test_codes_have_one_size_and_one_seed():
    model, x = net(), torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8)
    codes = encode(model, x, size=12)
    assert {name: code.shape[1] for name, code in codes.features.items()} == {
        "pixels": 12,
        "0": 12,
        "4": 12,
        "6": 8,
        "logits": 3,
    }
    again, other = encode(model, x, size=12), encode(model, x, size=12, seed=1)
    np.testing.assert_array_equal(codes.features["4"], again.features["4"])
    assert not np.allclose(codes.features["4"], other.features["4"])
    np.testing.assert_allclose(codes.features["logits"], encode(model, x.float() / 255).features["logits"])
    with pytest.raises(InputError, match="at least one number"):
        encode(model, x, size=0)


def test_latents_that_vary_are_targets():
    targets = scene_targets(sample(30, seed=0))
    assert "roll" not in targets.numbers
    assert targets.numbers["azimuth"].shape == (30, 2)
    np.testing.assert_allclose(np.square(targets.numbers["azimuth"]).sum(1), 1)
    assert set(targets.kinds) == {"background", "class"}
    assert "roll" in scene_targets(sample(30, seed=0, ranges=Ranges(roll=(0, 90)))).numbers
    assert "scale" not in scene_targets(sample(30, seed=0, ranges=Ranges(scale=(0.5, 0.5)))).numbers


def test_what_cannot_be_decoded():
    codes, targets = planted(20, 0)
    with pytest.raises(InputError, match="a scene in each row"):
        decode(codes[:5], targets, codes, targets)
    with pytest.raises(InputError, match="one entry a scene"):
        Targets({"a": np.zeros((3, 1))}, {"b": np.zeros(4, np.int64)})
    with pytest.raises(InputError, match="one entry a scene"):
        Targets({}, {})


def test_a_gate_that_is_used_twice_is_in_two_stages():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.gate, self.head = nn.ReLU(), nn.Linear(4 * 16, 2)

        def forward(self, x):
            return self.head(self.gate(self.second(self.gate(self.first(x)))).flatten(1))

    model = drmm.lift(Reused().eval())
    found = stages(model, activations(model, torch.rand(1, 3, 8, 8)).switches)
    assert [(stage.first, stage.last) for stage in found][:2] == [(1, 2), (3, 4)]
    assert found[-1].last == len(model.levels)
