"""T14: inference in the evolutionary DRMM is a decision tree.

Max-sum over the increments finds the best leaf, as enumeration does. Greedy inference is its relaxation, exact if
parents share their children's increments, and scikit-learn's own classes can express it. Hard EM learns it.

Slide "Inference in the Evolutionary DRMM yields Decision Trees".
"""

from dataclasses import replace

import numpy as np
import pytest

from drmm.trees.em import TreeLearner
from drmm.trees.export_sklearn import Units, as_pipeline
from drmm.trees.growth import Examples, Shape, grow
from drmm.trees.tree import EvolutionaryTree, telescoped

LAW = 1e-9
PIXELS = 12
CLASSES = 4


def complete(depth, branching):
    """Parents of a tree in which every path is as long."""
    nodes = sum(branching**level for level in range(depth + 1))
    return np.concatenate([[-1], np.repeat(np.arange((nodes - 1) // branching), branching)])


def ragged(rng):
    """Parents of a tree with leaves on many levels, and one to four children elsewhere."""
    parent, waiting = [-1], [0]
    for node in waiting:
        if node < 2 or (rng.random() < 0.6 and len(parent) < 60):
            children = range(len(parent), len(parent) + rng.integers(1, 5))
            parent += [node] * len(children)
            waiting += children
    return np.array(parent)


def random_tree(parent, rng, *, biases=True):
    nodes = len(parent)
    bias = rng.standard_normal(nodes) if biases else np.zeros(nodes)
    increments = rng.standard_normal((nodes, PIXELS))
    return EvolutionaryTree(parent, increments, bias, np.ones(nodes), rng.dirichlet(np.ones(CLASSES), nodes), 1.0)


def shared(tree, branching, rng):
    """The same tree with increments and biases that depend on the level and the child's place alone."""
    key = tree.level * branching + (np.arange(len(tree.parent)) - 1) % branching
    increments, bias = rng.standard_normal((key.max() + 1, PIXELS)), rng.standard_normal(key.max() + 1)
    return replace(tree, increments=increments[key], bias=bias[key])


def ragged_trees(n):
    for seed in range(n):
        rng = np.random.default_rng(seed)
        yield random_tree(ragged(rng), rng), rng.standard_normal((6, PIXELS))


def test_max_sum_is_enumeration():
    depths = set()
    for tree, x in ragged_trees(1000):
        scores = tree.leaf_scores(x)
        leaf, score = tree.best_leaf(x)
        np.testing.assert_array_equal(leaf, tree.leaves[scores.argmax(1)])
        np.testing.assert_allclose(score, scores.max(1), rtol=LAW, atol=LAW)
        depths |= set(tree.level[leaf].tolist())
    assert len(depths) >= 5


def test_enumeration_is_the_sum_down_every_path():
    tree, x = next(ragged_trees(1))
    for place, leaf in enumerate(tree.leaves):
        path = tree.path(int(leaf))
        assert path[0] == 0
        template, bias = sum(tree.increments[node] for node in path), sum(tree.bias[node] for node in path)
        np.testing.assert_allclose(tree.leaf_scores(x)[:, place], x @ template + bias, rtol=LAW, atol=LAW)


def test_control_greedy_is_not_enumeration():
    same = np.concatenate([tree.best_leaf(x)[0] == tree.greedy_leaf(x) for tree, x in ragged_trees(300)])
    assert 0.15 < same.mean() < 0.35


def agreement(make):
    """Share of draws, a tree and an image each, in which greedy inference finds the best leaf."""
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        tree, x = make(random_tree(complete(4, 3), rng, biases=False), rng), rng.standard_normal((1, PIXELS))
        found.append(tree.best_leaf(x)[0][0] == tree.greedy_leaf(x)[0])
    return np.mean(found)


def test_greedy_is_exact_where_a_level_shares_its_increments():
    assert agreement(lambda tree, rng: shared(tree, 3, rng)) == 1


def test_control_greedy_is_a_third_exact_where_increments_depend_on_the_parent():
    assert 0.25 < agreement(lambda tree, _: tree) < 0.45  # chance: 1 / 81


def gaussian(seed):
    """A tree of templates, with the biases of its Gaussians and its prior; and images that it draws."""
    rng = np.random.default_rng(seed)
    parent = ragged(rng)
    templates, noise = random_tree(parent, rng).templates, rng.uniform(0.5, 2)
    prior = np.zeros(len(parent))
    leaves = np.setdiff1d(np.arange(len(parent)), parent)
    prior[leaves] = rng.dirichlet(np.ones(len(leaves)))
    for node in range(len(parent) - 1, 0, -1):
        prior[parent[node]] += prior[node]
    tree = telescoped(parent, templates, prior, np.ones((len(parent), 1)), noise)
    drawn = rng.choice(leaves, 6, p=prior[leaves])
    return tree, templates[drawn] + np.sqrt(noise) * rng.standard_normal((6, PIXELS))


def log_joints(tree, x):
    """Log p(I, leaf) of all leaves, (N, L)."""
    return np.stack([tree.log_joint(x, np.full(len(x), leaf)) for leaf in tree.leaves], 1)


def test_the_biases_make_max_sum_exact_for_the_gaussian():
    for seed in range(300):
        tree, x = gaussian(seed)
        joint = log_joints(tree, x)
        leaf, score = tree.best_leaf(x)
        np.testing.assert_array_equal(leaf, tree.leaves[joint.argmax(1)])
        rest = 0.5 * (x**2).sum(1) / tree.noise + 0.5 * PIXELS * np.log(2 * np.pi * tree.noise)
        np.testing.assert_allclose(score / tree.noise - rest, joint.max(1), rtol=LAW, atol=LAW)


def test_control_without_biases_max_sum_is_not_exact_for_the_gaussian():
    same = []
    for seed in range(300):
        tree, x = gaussian(seed)
        bare = replace(tree, bias=np.zeros(len(tree.parent)))
        same.append(bare.best_leaf(x)[0] == tree.leaves[log_joints(tree, x).argmax(1)])
    assert np.mean(same) < 0.8


def test_inner_templates_decide_the_greedy_leaf_alone():
    greedy = []
    for seed in range(100):
        tree, x = gaussian(seed)
        moved = tree.templates + np.where(tree.n_children > 0, 1.0, 0.0)[:, None] * np.random.default_rng(
            seed
        ).standard_normal(tree.templates.shape)
        other = telescoped(tree.parent, moved, tree.prior, tree.classes, tree.noise)
        np.testing.assert_array_equal(other.best_leaf(x)[0], tree.best_leaf(x)[0])
        np.testing.assert_allclose(other.best_leaf(x)[1], tree.best_leaf(x)[1], rtol=LAW, atol=LAW)
        greedy.append(other.greedy_leaf(x) == tree.greedy_leaf(x))
    assert np.mean(greedy) < 0.95


def exported(tree, rng):
    """A tree of pixels in units of their own, as scikit-learn's pipeline, and images for it."""
    units = Units(rng.standard_normal(PIXELS), rng.uniform(0.5, 2, PIXELS), rng.permutation(PIXELS))
    x = rng.standard_normal((200, PIXELS))
    return as_pipeline(tree, np.arange(CLASSES), units, 1000), x, (units.mean + units.scale * x)[:, units.order]


@pytest.mark.parametrize("seed", range(30))
def test_the_exported_tree_predicts_identically(seed):
    rng = np.random.default_rng(seed)
    tree = random_tree(ragged(rng) if seed else complete(5, 2), rng)
    pipeline, x, raw = exported(tree, rng)
    np.testing.assert_array_equal(pipeline.predict_proba(raw), tree.classes[tree.greedy_leaf(x)])
    np.testing.assert_array_equal(pipeline.predict(raw), tree.classes[tree.greedy_leaf(x)].argmax(1))


def test_control_moved_thresholds_are_noticed():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        tree = random_tree(complete(5, 2), rng)
        pipeline, x, raw = exported(tree, rng)
        inside = pipeline["tree"].tree_
        state = inside.__getstate__()
        state["nodes"]["threshold"] += 0.5
        inside.__setstate__(state)
        assert np.any(pipeline.predict_proba(raw) != tree.classes[tree.greedy_leaf(x)])


def learner(seed):
    """Images of a random tree, a third of them unlabelled, and a learner that begins with a grown tree."""
    rng = np.random.default_rng(seed)
    tree = random_tree(complete(3, 2), rng)
    leaf = rng.choice(tree.leaves, 400)
    x = tree.templates[leaf] + 0.8 * rng.standard_normal((400, PIXELS))
    y = np.array([rng.choice(CLASSES, p=tree.classes[one]) for one in leaf])
    data = Examples(x, np.where(rng.random(400) < 1 / 3, -1, y), CLASSES, label_weight=2.0, smoothing=1.0)
    return TreeLearner(data, *grow(data, Shape(16, None, 2), rng))


def objectives(one, steps, spoil=lambda _: None):
    """The objective after each E-step."""
    found = [one.e_step()]
    for _ in range(steps):
        one.m_step()
        spoil(one)
        found.append(one.e_step())
    return np.array(found)


def test_hard_em_never_lowers_its_objective():
    gained = 0
    for seed in range(20):
        steps = np.diff(objectives(learner(seed), 8))
        assert steps.min() >= -LAW
        gained += steps.max() > 1e-3
    assert gained >= 15


def test_control_templates_that_are_no_means_lower_it():
    def forget(one):
        tree = one.tree
        one.tree = telescoped(tree.parent, 0.7 * tree.templates, tree.prior, tree.classes, tree.noise)

    for seed in range(5):
        assert np.diff(objectives(learner(seed), 1, forget)).min() < -0.1


def test_control_another_noise_lowers_it():
    def louder(one):
        tree = one.tree
        one.tree = telescoped(tree.parent, tree.templates, tree.prior, tree.classes, 2 * tree.noise)

    for seed in range(5):
        assert np.diff(objectives(learner(seed), 1, louder)).min() < -0.1
