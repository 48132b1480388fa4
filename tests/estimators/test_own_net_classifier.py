"""The classifier learns on a net of one's own, which stays as it was; copies and pickles go on as others do."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_predict

import lookalikes as nets
from drmm import DRMMClassifier, load_model, save_model
from drmm.errors import InputError, LiftError

PREPROCESS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
QUICK = {"kl": 0, "balance": 0}  # the labels alone
NET = nets.lively(nets.resnet18())
RNG = np.random.default_rng(0)
Y = np.array(["blue", "red"] * 10)
X = RNG.integers(0, 80, (20, 16, 16, 3)).astype(np.uint8)
X[Y == "blue", ..., 2] += 150
X[Y == "red", ..., 0] += 150
SOME = Y.astype(object)
SOME[12:] = -1


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path / "cache")


def fitted(net: Any = NET, **options: Any) -> DRMMClassifier:
    asked = {"preprocess": PREPROCESS, "objective": QUICK, "random_state": 0, **options}
    return DRMMClassifier(net=net, **asked).fit(X, SOME)


@pytest.mark.parametrize("net", [NET, nets.resnet18, nets.ResNet, "lookalikes:resnet18", nets.Smooth])
def test_it_learns_class_templates_on_the_net(net: Any) -> None:
    before = copy.deepcopy(NET.state_dict())
    classifier = fitted(net)
    assert classifier.score(X, Y) >= 0.9
    if net is NET:
        mean, std = (torch.tensor(PREPROCESS[name])[:, None, None] for name in ("mean", "std"))
        body = copy.deepcopy(NET)
        body.fc = torch.nn.Identity()
        with torch.no_grad():
            features = body((torch.from_numpy(X).permute(0, 3, 1, 2) / 255 - mean) / std)
        np.testing.assert_allclose(classifier.transform(X), features.numpy(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dict(NET.state_dict()), dict(before), rtol=0, atol=0)
    if net is nets.Smooth:
        with pytest.raises(InputError, match="nothing else can be drawn"):
            classifier.sample(2)
    else:
        assert classifier.sample(2, label="red", random_state=0)[0].shape == (2, 16, 16, 3)


def test_clone_and_parameters() -> None:
    classifier = DRMMClassifier(net=NET, preprocess=PREPROCESS, objective=QUICK, random_state=0)
    assert classifier.get_params()["net"] is NET
    assert classifier.get_params()["preprocess"] is PREPROCESS
    twin = clone(classifier)
    assert twin.net is not NET
    np.testing.assert_array_equal(twin.fit(X, SOME).predict_proba(X), fitted().predict_proba(X))
    with pytest.warns(UserWarning, match="every image is labelled"):
        assert len(cross_val_predict(classifier, X, Y, cv=2)) == len(X)


@pytest.mark.parametrize("net", [NET, nets.resnet18, "lookalikes:resnet18"])
def test_pickles_and_copies_answer_the_same(net: Any) -> None:
    classifier = fitted(net)
    expected = classifier.predict_proba(X)
    for twin in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)):
        np.testing.assert_array_equal(twin.predict_proba(X), expected)
        np.testing.assert_array_equal(twin.fit(X, SOME).predict_proba(X), expected)


def test_it_is_saved_as_a_folder(tmp_path: Path) -> None:
    for net in ("lookalikes:resnet18", nets.resnet18, NET):
        classifier, folder = fitted(net), tmp_path / str(id(net))
        save_model(classifier.model_, classifier.recipe_, folder)
        x = torch.from_numpy(X).permute(0, 3, 1, 2) / 255
        again, _ = load_model(folder, net=nets.resnet18) if net is NET else load_model(folder)
        with torch.no_grad():
            torch.testing.assert_close(again(x), classifier.model_(x), rtol=0, atol=0)
        if net is not NET:
            opened = DRMMClassifier.load(folder)
            np.testing.assert_array_equal(opened.predict(x.numpy()), classifier.predict(X))


def test_it_is_calibrated_and_fitted_to_the_end_by_other_rules() -> None:
    assert set(fitted(calibrate=True).decide(X)) <= {"sorted", "unsure", "unfamiliar"}
    training = {"learning": "sgd", "min_steps": 0, "batch_size": 8, "labelled_per_batch": 4}
    learned = fitted(training=training, epochs=1)
    assert not np.allclose(learned.model_.state_dict()["levels.conv1.weight"], NET.conv1.weight.detach()), (
        "trained"
    )


def test_grey_images_and_the_texts_of_a_preprocessing() -> None:
    grey = X.mean(3).astype(np.uint8)
    by_text = DRMMClassifier(net=NET, preprocess="size=16,mean=0.485/0.456/0.406,std=0.229/0.224/0.225")
    by_text.set_params(random_state=0, objective=QUICK).fit(grey, SOME)
    by_names = DRMMClassifier(net=NET, objective=QUICK, random_state=0)
    by_names.set_params(preprocess={"image_mean": PREPROCESS["mean"], "image_std": PREPROCESS["std"]}).fit(
        grey, SOME
    )
    np.testing.assert_array_equal(by_text.transform(grey), by_names.transform(grey))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preprocess": None}, "is not guessed: say preprocess"),
        ({"net": None}, "preprocess is for a net of your own"),
        ({"model": {"preset": "conv_small"}}, "leave out preset"),
        ({"model": {"width": 4}}, "leave out preset"),
        ({"preprocess": "size=224,mean=0,std=1"}, "X holds images of 16x16 pixels"),
        ({"preprocess": 3}, "text such as"),
        ({"net": 3}, "which makes no net"),
        ({"net": "nowhere_at_all:f"}, "No module named"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises((InputError, LiftError), match=says) as raised:
        fitted(**{"net": NET, **options})
    assert "\n" not in str(raised.value)
