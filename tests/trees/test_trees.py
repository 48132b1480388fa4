"""Evolutionary trees as scikit-learn classifiers: conventions, layouts, growth, pruning, pictures, exports."""

import copy
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree import export_text as sklearn_text
from sklearn.utils.estimator_checks import parametrize_with_checks

from drmm import EvolutionaryClassifier
from drmm.errors import InputError, RunError
from drmm.learning.em.loop import run_em
from drmm.trees.discriminative import Relaxation, _SoftTree, relaxed
from drmm.trees.em import TreeLearner
from drmm.trees.growth import Examples, Shape, grow
from drmm.trees.tree import EvolutionaryTree, breadth_first, from_leaves, pruned

QUICK = {"max_leaves": 12, "epochs": 1, "min_steps": 60, "random_state": 0}

EXPECTED_FAILURES = {
    "check_classifiers_classes": "the check uses -1 as a class; here it means unlabelled, as in semi_supervised",
}


@parametrize_with_checks(
    [EvolutionaryClassifier(8, epochs=2, min_steps=40, random_state=0)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_conventions(estimator, check) -> None:
    check(estimator)


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), y


def bars(n: int = 90, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of a bright bar in either of two shades, uint8."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.integers(0, 40, (n, 6, 9) if channels is None else (n, 6, 9, channels))
    for i in range(n):
        x[i, 2 * y[i] : 2 * y[i] + 2] += 90 + 90 * (i % 2)
    return x.astype(np.uint8), y


@pytest.fixture(scope="module")
def fitted() -> EvolutionaryClassifier:
    x, y = digits()
    return EvolutionaryClassifier(60, min_steps=600, random_state=0).fit(x[:1200], y[:1200])


@pytest.fixture(scope="module")
def forest() -> EvolutionaryClassifier:
    return EvolutionaryClassifier(**QUICK, n_trees=3).fit(*bars())


# --- learning ------------------------------------------------------------------------------------------------


def test_it_beats_a_decision_tree_of_as_many_leaves(fitted: EvolutionaryClassifier) -> None:
    x, y = digits()
    flat = x.reshape(len(x), -1)
    axes = DecisionTreeClassifier(max_leaf_nodes=60, random_state=0).fit(flat[:1200], y[:1200])
    theirs = axes.score(flat[1200:], y[1200:])
    assert fitted.n_leaves_ <= 60
    assert fitted.score(x[1200:], y[1200:]) > theirs + 0.1
    greedy = copy.deepcopy(fitted).set_params(inference="greedy")
    assert greedy.score(x[1200:], y[1200:]) > theirs + 0.1
    generative = EvolutionaryClassifier(60, learning="em", random_state=0).fit(x[:1200], y[:1200])
    assert generative.score(x[1200:], y[1200:]) > theirs + 0.05


def test_discriminative_learning_helps_both_inferences(fitted: EvolutionaryClassifier) -> None:
    x, y = digits()
    generative = EvolutionaryClassifier(60, learning="em", random_state=0).fit(x[:1200], y[:1200])
    for inference, gain in (("exact", 0.0), ("greedy", 0.03)):
        scores = [
            copy.deepcopy(one).set_params(inference=inference).score(x[1200:], y[1200:])
            for one in (generative, fitted)
        ]
        assert scores[1] > scores[0] + gain


def test_posteriors_are_those_of_the_leaves(fitted: EvolutionaryClassifier) -> None:
    x, _ = digits()
    probabilities, leaves = fitted.predict_proba(x[:200]), fitted.apply(x[:200])
    assert leaves.shape == (200, 1)
    tree = fitted.model_.trees[0]
    assert set(leaves[:, 0]) <= set(tree.leaves.tolist())
    np.testing.assert_array_equal(probabilities, tree.classes[leaves[:, 0]])
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(x[:200]))


def test_agreement_is_the_share_of_equal_leaves(fitted: EvolutionaryClassifier) -> None:
    x, _ = digits()
    greedy = copy.deepcopy(fitted).set_params(inference="greedy")
    share = (fitted.apply(x) == greedy.apply(x)).mean()
    assert fitted.agreement(x) == share
    assert 0.3 < share < 1


def test_a_forest_averages_its_trees(forest: EvolutionaryClassifier) -> None:
    x, y = bars()
    assert forest.apply(x).shape == (90, 3)
    trees = forest.model_.trees
    assert any(
        not np.array_equal(trees[0].templates, one.templates) for one in trees[1:]
    )  # each has its own bootstrap sample
    mean = sum(tree.classes[tree.best_leaf(forest._images(x).flatten(1).numpy())[0]] for tree in trees) / 3
    np.testing.assert_allclose(forest.predict_proba(x), mean)
    assert forest.score(x, y) == 1
    assert forest.n_leaves_ == sum(len(tree.leaves) for tree in trees)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_classes_of_a_few_numbers_that_no_line_tells_apart(scale: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = EvolutionaryClassifier(12, min_steps=300, random_state=0).fit(scale * x[:400], y[:400])
    assert model.score(scale * x[400:], y[400:]) > 0.9
    assert model.set_params(inference="greedy").score(scale * x[400:], y[400:]) > 0.9


def test_images_without_differences_are_one_leaf() -> None:
    model = EvolutionaryClassifier(**QUICK).fit(np.zeros((20, 6, 6)), np.arange(20) % 2)
    assert model.n_leaves_ == 1
    np.testing.assert_allclose(model.predict_proba(np.zeros((1, 6, 6))), 0.5, atol=0.2)


def test_unlabelled_images_help() -> None:
    x, y = digits()
    few = np.where(np.arange(len(y)) < 40, y, -1)[:1200]
    options = {"max_leaves": 30, "learning": "em", "label_weight": 1.0, "random_state": 0}
    alone = EvolutionaryClassifier(**options).fit(x[:40], y[:40]).score(x[1200:], y[1200:])
    helped = EvolutionaryClassifier(**options).fit(x[:1200], few)
    assert helped.score(x[1200:], y[1200:]) > alone + 0.03
    assert list(helped.classes_) == list(range(10))


def test_a_forest_of_few_labels_keeps_them() -> None:
    x, y = bars()
    few = np.where(np.arange(90) < 3, y, -1)
    model = EvolutionaryClassifier(**QUICK, n_trees=4).fit(x, few)
    assert set(model.predict(x)) <= {0, 1, 2}


def test_names_of_classes_come_back() -> None:
    x, y = bars()
    names = np.array(["low", "mid", "top"], dtype=object)[y]
    names[30:] = -1
    model = EvolutionaryClassifier(**QUICK).fit(x, names)
    assert (model.predict(x) == np.array(["low", "mid", "top"])[y]).mean() > 0.9


def test_a_seed_decides_everything() -> None:
    x, y = bars()
    one, two = (EvolutionaryClassifier(**QUICK, n_trees=2).fit(x, y) for _ in range(2))
    np.testing.assert_array_equal(one.templates(1), two.templates(1))
    other = EvolutionaryClassifier(**{**QUICK, "random_state": 1}, n_trees=2).fit(x, y)
    assert not np.array_equal(one.templates(1), other.templates(1))


def test_verbose_says_nothing_where_nobody_watches(capsys) -> None:
    x, y = bars()
    for n_trees in (1, 2):
        EvolutionaryClassifier(**QUICK, n_trees=n_trees, verbose=1).fit(x, y)
    assert capsys.readouterr() == ("", "")


# --- growth and pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("branching", [2, 3, 5])
def test_trees_keep_their_limits(branching: int) -> None:
    x, y = digits()
    model = EvolutionaryClassifier(20, max_depth=3, branching=branching, learning="em", random_state=0)
    tree = model.fit(x[:600], y[:600]).model_.trees[0]
    assert 7 < len(tree.leaves) <= 20
    assert tree.depth == model.depth_ <= 3
    assert tree.n_children.max() == branching


def test_one_leaf_is_a_tree_too() -> None:
    x, y = bars()
    model = EvolutionaryClassifier(1, random_state=0, min_steps=20).fit(x, y)
    assert model.n_nodes_ == 1
    assert set(model.predict(x)) == {0}
    np.testing.assert_array_equal(model.to_sklearn().predict(x), model.predict(x))
    assert model.export_text().count("\n") == 1


def test_growth_splits_first_what_differs_most() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]], 300, axis=0) + rng.standard_normal((900, 2))
    data = Examples(x, np.full(900, -1), 2, label_weight=1.0, smoothing=1.0)
    parent, leaf = grow(data, Shape(3, None, 2), rng)
    assert len(parent) == 5
    groups = [set(leaf[i : i + 300].tolist()) for i in (0, 300, 600)]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 3  # a leaf for each cluster


def test_labels_take_part_in_growth() -> None:
    """Shades differ more than classes do; labels turn the split around, if it starts with images of both."""
    rng = np.random.default_rng(0)
    shade, y = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    x = np.stack([10.0 * shade, 4.0 * y], 1) + 0.5 * rng.standard_normal((400, 2))

    def starts_that_split_by(decisive: np.ndarray, weight: float) -> int:
        count = 0
        for seed in range(20):
            _, leaf = grow(Examples(x, y, 2, weight, 1.0), Shape(2, None, 2), np.random.default_rng(seed))
            agree = ((leaf == leaf.max()) == (decisive == 1)).mean()
            count += max(agree, 1 - agree) > 0.95
        return count

    assert starts_that_split_by(shade, 0.0) == 20
    assert starts_that_split_by(y, 100.0) >= 5


def leaves_only(parent: list[int], mass: list[float]) -> EvolutionaryTree:
    rng = np.random.default_rng(0)
    return from_leaves(
        np.array(parent),
        np.array(mass),
        rng.standard_normal((len(mass), 3)),
        rng.dirichlet([1, 1], len(mass)),
        1.0,
    )


def test_inner_nodes_are_means_of_their_leaves() -> None:
    tree = leaves_only([-1, 0, 0, 1, 1], [2.0, 1.0, 1.0])  # leaves 2, 3, 4
    np.testing.assert_allclose(tree.prior, [1, 0.5, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(tree.templates[1], 0.5 * (tree.templates[3] + tree.templates[4]))
    np.testing.assert_allclose(tree.templates[0], 0.5 * tree.templates[2] + 0.5 * tree.templates[1])
    np.testing.assert_allclose(tree.classes[0], tree.prior[[2, 3, 4]] @ tree.classes[[2, 3, 4]])


def test_pruning_removes_rare_leaves_and_what_they_leave_behind() -> None:
    tree = leaves_only([-1, 0, 0, 1, 1, 2, 2], [50, 1, 20, 29])  # leaves 3, 4, 5, 6
    assert len(pruned(tree, 0.0).parent) == 7
    found = pruned(tree, 0.05)
    np.testing.assert_array_equal(found.parent, [-1, 0, 0, 2, 2])  # node 1 is a leaf in place of its children
    np.testing.assert_allclose(found.templates[found.leaves], tree.templates[[1, 5, 6]])
    np.testing.assert_allclose(found.prior[found.leaves], [0.51, 0.2, 0.29])
    np.testing.assert_allclose(pruned(tree, 0.25).templates[1:], tree.templates[[1, 2]])
    np.testing.assert_allclose(pruned(tree, 0.9).templates, tree.templates[[0]])


def test_a_subtree_takes_the_place_of_its_parent() -> None:
    tree = leaves_only([-1, 0, 0, 1, 1, 3, 3], [40, 2, 28, 30])  # leaves 2, 4, 5, 6
    found = pruned(tree, 0.05)  # 4 goes, 1 gives way to 3
    np.testing.assert_array_equal(found.parent, [-1, 0, 0, 2, 2])
    np.testing.assert_allclose(found.templates[found.leaves], tree.templates[[2, 5, 6]])
    np.testing.assert_allclose(found.prior[found.leaves], np.array([40, 28, 30]) / 98)


def test_min_prior_makes_smaller_trees() -> None:
    x, y = digits()
    sizes = [
        EvolutionaryClassifier(60, min_prior=share, learning="em", random_state=0).fit(x, y)
        for share in (0.0, 0.01, 0.05)
    ]
    assert sizes[0].n_leaves_ > sizes[1].n_leaves_ > sizes[2].n_leaves_ > 1
    for model, share in zip(sizes[1:], (0.01, 0.05), strict=True):
        tree = model.model_.trees[0]
        assert tree.prior[tree.leaves].min() > 0.8 * share  # fitted anew, a leaf may lose some


def test_a_leaf_without_labels_is_like_its_relatives() -> None:
    x = np.repeat([[0.0], [1.0], [10.0], [11.0]], 20, axis=0)
    y = np.repeat([0, -1, 1, 1], 20)
    parent, leaf = np.array([-1, 0, 0, 1, 1, 2, 2]), np.repeat([3, 4, 5, 6], 20)
    learner = TreeLearner(Examples(x, y, 2, 1.0, 1.0), parent, leaf)
    learner.prune(0.0)
    assert learner.tree.classes[4, 0] > 0.9


def test_numbering_is_breadth_first() -> None:
    order = breadth_first(np.array([2, 0, -1, 2, 3, 0]))
    np.testing.assert_array_equal(order, [2, 0, 3, 1, 5, 4])


@pytest.mark.parametrize("parent", [[0, 0], [-1, 1], [-1, 0, -1], [-1, 0, 1, 0]])
def test_parents_that_are_no_tree_are_refused(parent: list[int]) -> None:
    zeros = np.zeros((len(parent), 2))
    with pytest.raises(InputError, match="put the root first"):
        EvolutionaryTree(np.array(parent), zeros, zeros[:, 0], zeros[:, 0], zeros, 1.0)
    with pytest.raises(InputError, match="one row"):
        EvolutionaryTree(np.array([-1]), zeros, zeros[:, 0], zeros[:, 0], zeros, 1.0)


def test_means_of_what_reaches_a_node() -> None:
    tree = leaves_only([-1, 0, 0, 1, 1], [1.0, 1.0, 1.0])
    x = np.arange(12.0).reshape(4, 3)
    found = tree.means(x, np.array([3, 3, 2, 3]))
    np.testing.assert_allclose(found[[3, 1]], [x[[0, 1, 3]].mean(0)] * 2)
    np.testing.assert_allclose(found[[0, 2, 4]], [x.mean(0), x[2], np.zeros(3)])


# --- the discriminative relaxation ---------------------------------------------------------------------------


def soft_and_data() -> tuple[_SoftTree, EvolutionaryTree, Examples]:
    x, y = digits()
    data = Examples(x[:300].reshape(300, -1) / 255.0, y[:300], 10, 2.0, 1.0)
    learner = TreeLearner(data, *grow(data, Shape(15, None, 3), np.random.default_rng(0)))
    return _SoftTree(learner.tree, 0.7), learner.tree, data


def test_the_soft_tree_is_two_posteriors() -> None:
    soft, tree, data = soft_and_data()
    x, y = data.x[:40], data.y[:40]
    scores = tree.leaf_scores(x) / 0.7
    exact = np.exp(scores - scores.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    evidence = np.exp(tree.evidence(x) / 0.7)
    greedy = np.ones((40, len(tree.leaves)))
    for place, leaf in enumerate(tree.leaves):
        for above, node in zip(tree.path(int(leaf)), tree.path(int(leaf))[1:], strict=False):
            greedy[:, place] *= evidence[node] / evidence[list(tree.children(above))].sum(0)
    np.testing.assert_allclose(greedy.sum(1), 1)
    wanted = -sum(np.log((walk * tree.classes[tree.leaves][:, y].T).sum(1)) for walk in (exact, greedy)).mean()
    assert soft(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(wanted, rel=1e-9)


def test_the_relaxation_lowers_its_loss_and_leaves_unlabelled_images_out() -> None:
    soft, tree, data = soft_and_data()
    how = Relaxation(epochs=1, min_steps=80, batch_size=64, learning_rate=3e-3, missing=0.0)
    learnt = relaxed(tree, data, how, np.random.default_rng(0))
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    assert _SoftTree(learnt, learnt.noise)(x, y).item() < 0.8 * soft(x, y).item()
    twice = Examples(
        np.concatenate([data.x, data.x + 1]), np.concatenate([data.y, -np.ones(300, int)]), 10, 2.0, 1
    )
    again = relaxed(tree, twice, how, np.random.default_rng(0))
    np.testing.assert_array_equal(again.increments, learnt.increments)
    np.testing.assert_allclose(learnt.classes[0], learnt.prior[learnt.leaves] @ learnt.classes[learnt.leaves])


# --- layouts, pickles, exports -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHW", "NHWC1", "NCHW3", "NHWC3", "ND", "tensor", "float", "float255", "int"])
def test_every_layout_is_welcome_and_comes_back(layout: str) -> None:
    x, y = bars(channels=3 if "3" in layout else None)
    options = dict(QUICK)
    if layout == "NHWC1":
        x = x[..., None]
    elif layout == "NCHW3":
        x = x.transpose(0, 3, 1, 2)
    elif layout == "ND":
        x, options["image_shape"] = x.reshape(len(x), -1), (6, 9)
    elif layout == "float":
        x = x / 255
    elif layout == "float255":
        x, options["pixel_range"] = x.astype(float), (-5, 255)
    elif layout == "int":
        x = x.astype(np.int64)
    data = torch.from_numpy(x) if layout == "tensor" else x
    model = EvolutionaryClassifier(**options).fit(data, y)
    assert model.score(data, y) == 1
    assert model.templates().shape == (model.n_nodes_, *x.shape[1:])
    model.set_params(inference="greedy")
    exported = model.to_sklearn()
    for given in (data, data.reshape(len(x), -1)):
        np.testing.assert_array_equal(exported.predict_proba(given), model.predict_proba(data))


def test_templates_are_means_in_the_units_of_x() -> None:
    x, y = bars()
    for data in (x / 255, 7.0 * x.reshape(90, -1)):
        model = EvolutionaryClassifier(6, learning="em", random_state=0).fit(data, y)
        np.testing.assert_allclose(model.templates()[0], data.mean(0), rtol=0.2, atol=0.02 * data.max())
        leaf = model.apply(data)[:, 0]
        for node in set(leaf):
            np.testing.assert_allclose(
                model.templates()[node], data[leaf == node].mean(0), rtol=0.01, atol=0.01 * data.max()
            )


def test_the_export_needs_scikit_learn_alone(fitted: EvolutionaryClassifier) -> None:
    x, _ = digits()
    pipeline = fitted.to_sklearn()
    dumped = pickle.dumps(pipeline)
    assert b"drmm" not in dumped
    greedy = copy.deepcopy(fitted).set_params(inference="greedy")
    np.testing.assert_array_equal(pickle.loads(dumped).predict_proba(x), greedy.predict_proba(x))
    inside = pipeline["tree"]
    assert (inside.get_n_leaves(), inside.get_depth()) == (fitted.n_leaves_, fitted.depth_)
    assert inside.tree_.n_node_samples[0] == 1200
    assert sklearn_text(inside, max_depth=2).count("feature_") == 2 * 7


def test_a_forest_exports_each_tree(forest: EvolutionaryClassifier) -> None:
    x, _ = bars()
    greedy = copy.deepcopy(forest).set_params(inference="greedy")
    mean = sum(forest.to_sklearn(tree).predict_proba(x) for tree in range(3)) / 3
    np.testing.assert_allclose(mean, greedy.predict_proba(x))


def test_pickle_copy_and_clone(fitted: EvolutionaryClassifier, forest: EvolutionaryClassifier) -> None:
    vectors = EvolutionaryClassifier(**QUICK).fit(np.eye(6), np.arange(6) % 2)
    for model, x in ((fitted, digits()[0]), (forest, bars()[0]), (vectors, np.eye(6))):
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            np.testing.assert_array_equal(twin.predict_proba(x), model.predict_proba(x))
            np.testing.assert_array_equal(twin.templates(0), model.templates(0))
    fresh = clone(fitted)
    assert not hasattr(fresh, "model_")
    assert fresh.get_params() == fitted.get_params()


def test_grid_search() -> None:
    x, y = bars()
    search = GridSearchCV(EvolutionaryClassifier(**QUICK), {"max_leaves": [1, 6]}, cv=2, error_score="raise")
    assert search.fit(x, y).best_params_ == {"max_leaves": 6}


# --- words and pictures --------------------------------------------------------------------------------------


def test_text_has_a_line_for_each_node(fitted: EvolutionaryClassifier) -> None:
    lines = fitted.export_text().splitlines()
    assert len(lines) == fitted.n_nodes_
    numbers = [int(re.match(r"[│├└─ ]*(\d+):", line)[1]) for line in lines]
    assert sorted(numbers) == list(range(fitted.n_nodes_))
    above = fitted.export_text(max_depth=1).splitlines()
    assert len(above) == 3
    hidden = [int(re.search(r"\[(\d+) leaves below\]", line)[1]) for line in above[1:]]
    assert sum(hidden) == fitted.n_leaves_


def test_graphviz_shows_templates(fitted: EvolutionaryClassifier, tmp_path) -> None:
    x, _ = digits()
    text = fitted.export_graphviz(tmp_path / "new", max_depth=2)
    assert (tmp_path / "new" / "tree.dot").read_text() == text
    assert text.count("->") == 6
    sources = re.findall(r'IMG SRC="([^"]+)"', text)
    assert len(sources) == 7
    for source in sources:
        with Image.open(tmp_path / "new" / source) as picture:
            assert picture.size == (24, 24)
    assert "IMG" not in fitted.export_graphviz()
    fitted.export_graphviz(tmp_path, max_depth=0, images=x[:1200])
    with Image.open(tmp_path / "node_0.png") as picture:
        np.testing.assert_allclose(np.asarray(picture)[::3, ::3], x[:1200].mean(0), atol=1)


def test_graphviz_escapes_names() -> None:
    x, y = bars()
    model = EvolutionaryClassifier(**QUICK).fit(x, np.array(["<a>", 'b"', "c&d"])[y])
    text = model.export_graphviz()
    assert "&lt;a&gt;" in text
    assert "<a>" not in text


@pytest.mark.parametrize("channels", [None, 3])
def test_pictures_of_trees(channels: int | None) -> None:
    x, y = bars(channels=channels)
    model = EvolutionaryClassifier(**QUICK).fit(x, y)
    for figure in (model.plot_tree(max_depth=1), model.plot_tree(max_depth=1, images=x)):
        assert isinstance(figure, Figure)
        axis = figure.axes[0]
        assert len(axis.images) == 3
        assert len(axis.lines) == 2
        assert len(axis.texts) == 3
    assert len(model.plot_tree(max_depth=None).axes[0].images) == model.n_nodes_


def test_names_of_classes_are_only_text() -> None:
    x, y = bars()
    names = np.array(["$\\frac{1}{$", "two\nlines\x1b[31m", "\U0001f642 \U00013000 [/bold]"])
    model = EvolutionaryClassifier(**QUICK).fit(x, names[y])
    figure = model.plot_tree()
    figure.canvas.draw()
    assert not any(text._preprocess_math(text.get_text())[1] for text in figure.findobj(Text))
    lines = model.export_text().splitlines()
    assert len(lines) == model.n_nodes_
    assert "\x1b" not in model.export_text() + model.export_graphviz()
    assert any("two lines [31m" in line for line in lines)


def test_vectors_are_drawn_as_curves() -> None:
    x, y = bars()
    model = EvolutionaryClassifier(4, learning="em", random_state=0).fit(1.0 * x.reshape(90, -1), y)
    axis = model.plot_tree(max_depth=1).axes[0]
    assert (len(axis.images), len(axis.lines)) == (0, 2 + 3)
    with pytest.raises(InputError, match="no pictures"):
        model.export_graphviz("nowhere")


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": "lucky"}, "'inference' parameter of EvolutionaryClassifier must be a str among"),
        ({"learning": "sgd"}, "'learning' parameter"),
        (
            {"max_leaves": 0},
            "'max_leaves' parameter of EvolutionaryClassifier must be an int in the range [1, inf). Got 0",
        ),
        ({"branching": 1}, "must be an int in the range [2, inf). Got 1"),
        ({"n_trees": 0}, "'n_trees' parameter"),
        ({"max_iter": 0}, "'max_iter' parameter"),
        ({"max_depth": -1}, "an int in the range [0, inf) or None. Got -1"),
        ({"smoothing": 0.0}, "a float in the range (0.0, inf). Got 0.0"),
        ({"label_weight": -1.0}, "a float in the range [0.0, inf) or None. Got -1.0"),
        ({"min_prior": 1.0}, "a float in the range [0.0, 1.0). Got 1.0"),
        ({"missing": -0.1}, "'missing' parameter"),
        ({"learning_rate": 0.0}, "'learning_rate' parameter"),
        ({"learning_rate": float("inf")}, "'learning_rate' parameter"),
        ({"label_weight": float("nan")}, "'label_weight' parameter"),
        ({"max_leaves": "many"}, "Got 'many'"),
        ({"batch_size": 2.5}, "Got 2.5"),
        ({"n_trees": 1.5}, "Got 1.5"),
        ({"tol": float("nan")}, "Got nan"),
        ({"image_shape": 6}, "an array-like or None. Got 6"),
        ({"random_state": -1}, "Got -1"),
    ],
)
def test_options_that_cannot_be_used(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        EvolutionaryClassifier(**options).fit(*bars())


def test_what_cannot_be_asked(fitted: EvolutionaryClassifier) -> None:
    x, _ = digits()
    with pytest.raises(InputError, match="there is no tree 1"):
        fitted.export_text(1)
    for level in (-1, "top", float("nan")):
        with pytest.raises(InputError, match=f"max_depth={level} must be 0 or more, or None for all"):
            fitted.plot_tree(max_depth=level)
    for tree in (-1, 1, 0.5, "first"):
        with pytest.raises(InputError, match=f"there is no tree {tree}: there are 1"):
            fitted.templates(tree)
    with pytest.raises(InputError, match="'inference' parameter of EvolutionaryClassifier must be"):
        copy.deepcopy(fitted).set_params(inference="lucky").predict(x)
    with pytest.raises(InputError, match="but the model was fitted on"):
        fitted.predict(x[:, :7])
    with pytest.raises(InputError, match="all images are unlabelled"):
        EvolutionaryClassifier(**QUICK).fit(x, np.full(len(x), -1))


def test_a_learner_refuses_another_trees_state() -> None:
    _, tree, data = soft_and_data()
    learner = TreeLearner(data, tree.parent, np.full(300, tree.leaves[0]))
    state = learner.state()
    learner.restore({**tree.state(), "leaf": state["leaf"]})
    np.testing.assert_array_equal(learner.tree.increments, tree.increments)
    narrow = replace(tree, increments=tree.increments[:, :3])
    for other in ({**narrow.state(), "leaf": state["leaf"]}, {**state, "leaf": state["leaf"][:9]}, tree.state()):
        with pytest.raises(RunError, match="another tree or other images: remove it and train again"):
            learner.restore(other)


def digits_learner() -> TreeLearner:
    x, y = digits()
    few = np.where(np.arange(300) < 60, y[:300], -1)
    data = Examples(x[:300].reshape(300, -1).astype(float), few, 10, 1.0, 1.0)
    return TreeLearner(data, *grow(data, Shape(12, None, 2), np.random.default_rng(0)))


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_em_stopped_and_resumed_equals_uninterrupted_em(tmp_path: Path, stop: int) -> None:
    whole, again = digits_learner(), digits_learner()
    options = {"tolerance": 0.0, "progress": False}
    trace = run_em(whole, max_iter=6, **options)
    run_em(digits_learner(), max_iter=stop, folder=tmp_path, **options)
    resumed = run_em(again, max_iter=6, folder=tmp_path, resume=True, **options)
    assert resumed.objective == trace.objective
    assert list(trace.objective) == sorted(trace.objective)
    assert trace.objective[-1] > trace.objective[0]
    np.testing.assert_array_equal(again.leaf, whole.leaf)
    np.testing.assert_array_equal(again.tree.increments, whole.tree.increments)


def test_control_from_the_first_leaves_the_objective_falls() -> None:
    """What a resumed run did before: it knew the tree alone."""
    learner, fresh = digits_learner(), digits_learner()
    reached = run_em(learner, max_iter=6, tolerance=0.0, progress=False).objective[-1]
    learner.restore({**learner.state(), "leaf": fresh.state()["leaf"]})
    learner.m_step()
    assert learner.e_step() < reached


def frame(x: np.ndarray) -> object:
    """A data frame, in little: pandas is no dependency."""

    class Frame:
        shape = x.shape
        ndim = 2
        iloc = columns = None

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return x.astype(dtype) if dtype is not None else x

        def __len__(self) -> int:
            return len(x)

    return Frame()


@pytest.mark.parametrize("kind", ["list", "frame", "uint8", "int64", "channels last, flat", "bool"])
def test_the_export_measures_as_fit_did(kind: str) -> None:
    x, y = bars(channels=3 if kind.startswith("channels") else None)
    options = dict(QUICK)
    flat = x.reshape(len(x), -1)
    data: object = {"list": flat.astype(int).tolist(), "frame": frame(flat), "int64": x.astype(np.int64)}.get(
        kind, x
    )
    if kind == "bool":
        data = x > 64
    if kind in {"list", "frame"} or kind.startswith("channels"):
        options["image_shape"] = x.shape[1:]
        data = flat if kind.startswith("channels") else data
    model = EvolutionaryClassifier(**options).fit(data, y).set_params(inference="greedy")
    exported = model.to_sklearn()
    np.testing.assert_array_equal(exported.predict_proba(data), model.predict_proba(data))
    assert exported.score(data, y) > 0.9
    wrong = np.asarray(data).astype(float) / 7 - 3  # control: other units, other answers
    assert (exported.predict_proba(wrong) != model.predict_proba(data)).any()


def test_a_forest_exports_as_a_whole(forest: EvolutionaryClassifier) -> None:
    x, _ = bars()
    greedy = copy.deepcopy(forest).set_params(inference="greedy")
    exported = forest.to_sklearn()
    np.testing.assert_allclose(exported.predict_proba(x), greedy.predict_proba(x), atol=1e-15)
    np.testing.assert_array_equal(exported.predict(x), greedy.predict(x))
    dumped = pickle.dumps(exported)
    assert b"drmm" not in dumped
    np.testing.assert_array_equal(pickle.loads(dumped).predict(x), greedy.predict(x))
    alone = forest.to_sklearn(0).predict_proba(x)
    assert not np.allclose(alone, greedy.predict_proba(x))  # control: one tree is not the forest
    for single in (forest.templates, forest.export_text, forest.export_graphviz, forest.plot_tree):
        with pytest.raises(InputError, match="a forest has no single tree: say which, tree=0 to 2"):
            single()


def test_templates_of_em_are_pictures_that_the_trees_take() -> None:
    x, y = bars()
    model = EvolutionaryClassifier(6, learning="em", random_state=0).fit(x, y)
    templates = model.templates()
    assert templates.dtype == np.uint8
    assert templates.max() > 100
    leaves = model.model_.trees[0].leaves
    np.testing.assert_array_equal(model.apply(templates[leaves])[:, 0], leaves)
    filters = EvolutionaryClassifier(6, random_state=0).fit(x, y).templates()
    assert filters.min() < 0  # control: these are no pictures


# --- what is fitted stays fitted -----------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["em", "discriminative"])
def test_other_options_for_the_next_fit_leave_this_one_alone(learning: str) -> None:
    x, y = bars()
    model = EvolutionaryClassifier(**QUICK, learning=learning).fit(x, y)
    templates, probabilities = model.templates(), model.predict_proba(x)
    other = {"em": "discriminative", "discriminative": "em"}[learning]
    model.set_params(learning=other, max_leaves=3, n_trees=2, missing=0.5)
    for twin in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin.templates().dtype == templates.dtype == (np.uint8 if learning == "em" else float)
        np.testing.assert_array_equal(twin.templates(), templates)
        np.testing.assert_array_equal(twin.predict_proba(x), probabilities)
    assert model.fit(x, y).templates(0).dtype != templates.dtype  # control: the next fit heeds them


@pytest.mark.parametrize("seed", [2**32 - 1, np.int64(7), np.random.RandomState(3)])
def test_trees_in_threads_are_trees_alone(seed: object) -> None:
    x, y = bars()
    models = [
        EvolutionaryClassifier(**{**QUICK, "random_state": copy.deepcopy(seed)}, n_trees=2) for _ in range(3)
    ]
    numpys = np.random.get_state()[1].copy()  # noqa: NPY002  (which fit must leave alone)
    torchs = torch.get_rng_state()
    alone = clone(models[0]).fit(x, y).predict_proba(x)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda model: model.fit(x, y).predict_proba(x), models))
    for probabilities in found:
        np.testing.assert_array_equal(probabilities, alone)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torchs)
    other = EvolutionaryClassifier(**{**QUICK, "random_state": 5}, n_trees=2).fit(x, y).predict_proba(x)
    assert (other != alone).any()  # control


def test_log_probabilities_are_finite(fitted: EvolutionaryClassifier) -> None:
    x, _ = digits()
    np.testing.assert_array_equal(np.exp(fitted.predict_log_proba(x)).argmax(1), fitted.predict(x))
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(x)).sum(1), 1)
    assert np.isfinite(fitted.predict_log_proba(x)).all()


def test_numbers_that_do_not_vary_tell_nothing_but_for_rounding() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), np.arange(30) % 2
    x[y == 1] += 3
    constant = np.c_[x, np.full(30, 0.1)]
    assert constant.std(0)[2] > 0  # control: by rounding alone
    model = EvolutionaryClassifier(**QUICK).fit(constant, y)
    assert model.scale_[2] == 1
    np.testing.assert_array_equal(model.predict(constant), EvolutionaryClassifier(**QUICK).fit(x, y).predict(x))
    with pytest.raises(InputError, match="squares are not finite: divide X"):
        model.fit(1e200 * x, y)
