"""T23. Shortest paths and convnets are one dynamic program.

Slides "Review of DP with an Example: The Shortest Path Problem" to "Connection between Unrolled DP and Deep
Convnets". One engine, one recursion, two problems:

- (min, +) on a graph, where every step has one tail: shortest paths, as Dijkstra's algorithm finds them, and the
  slides' tables to the letter.
- (max, +) on a net, where a unit collects its pixels and a ReLU with max-pooling chooses "off" or a position: the
  class, the score and the rendering of the DRMM, and the joint MAP that enumeration finds (T1).

What is a semiring and what is not: choosing is ⊕ and collecting is ⊗, but a weight *scales* a message, which is no
operation of a semiring. Scaling by w > 0 commutes with max and +, so that the max can still be pushed to the
right; scaling by w < 0 turns max into min. That is the theory's condition, and the engine names the steps that
break it.

Controls, measured on these draws: one edge of Dijkstra's graph changed; Γ^(2) of both signs, where the engine
still does what the convnet does, and agrees with the maximum in 0.73 of the classes; min-sum for max-sum (0.48).
"""

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import bellman_ford, dijkstra

from drmm.studies.dynamic import SLIDES_EDGES, MaxSum, MinSum, network, paths, solve, unroll
from drmm.testing import enumerate_configurations, random_net

INF = float("inf")


def graph(seed, acyclic):
    """Up to 20 nodes and 60 edges of weight 0.01 to 1, some nodes out of reach; no loops, no parallel edges."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 21))
    ends = {tuple(int(i) for i in rng.integers(0, n, 2)) for _ in range(int(rng.integers(1, 3 * n + 1)))}
    ends = {tuple(sorted(pair)) for pair in ends} if acyclic else ends
    return n, [(i, j, float(rng.uniform(0.01, 1))) for i, j in sorted(ends) if i != j]


def matrix(n, edges):
    """From each node to each, for scipy."""
    heads, tails, weights = zip(*edges, strict=True) if edges else ((), (), ())
    return coo_array((weights, (heads, tails)), shape=(n, n), dtype=float).tocsr()


def to_node_0(n, edges, algorithm):
    """Scipy's distances to node 0: those from it, on the turned graph."""
    return algorithm(matrix(n, edges).T.tocsr(), indices=0)


@pytest.mark.parametrize("acyclic", [True, False])
def test_shortest_paths_are_dijkstras(acyclic):
    out_of_reach, longest = 0, 0
    for seed in range(500):
        n, edges = graph(seed, acyclic)
        edges = [(n - 1 - i, n - 1 - j, w) for i, j, w in edges]  # towards 0 where edges go one way
        tables = unroll(paths(edges, 0, nodes=range(n)), MinSum())
        truth = to_node_0(n, edges, dijkstra)
        np.testing.assert_allclose([tables.value(node) for node in range(n)], truth, rtol=1e-12)
        if acyclic:
            once = solve(tables.problem, MinSum())
            assert [once.value(node) for node in range(n)] == [tables.value(node) for node in range(n)]
        weight = {(i, j): w for i, j, w in edges}
        for node in np.flatnonzero(np.isfinite(truth)).tolist():
            walked = sum(weight[link] for link in itertools.pairwise(tables.path(node)))
            assert walked == pytest.approx(truth[node], rel=1e-12)
        out_of_reach, longest = out_of_reach + int(np.isinf(truth).sum()), max(longest, tables.lengths)
    assert out_of_reach > 1000
    assert longest >= 5


def test_negative_edges_are_bellman_and_fords():
    # Potentials make edges negative and no cycle negative: the slides' recursion needs no more.
    rng, negative = np.random.default_rng(0), 0
    for seed in range(200):
        n, edges = graph(seed, acyclic=False)
        height = rng.normal(size=n)
        edges = [(i, j, w + float(height[i] - height[j])) for i, j, w in edges]
        negative += sum(w < 0 for _, _, w in edges)
        tables = unroll(paths(edges, 0, nodes=range(n)), MinSum())
        truth = to_node_0(n, edges, bellman_ford)
        np.testing.assert_allclose([tables.value(node) for node in range(n)], truth, rtol=1e-9, atol=1e-9)
    assert negative > 1000


def test_control_another_graph():
    # The graph of the tables and the graph of Dijkstra differ in one edge of the shortest path.
    differ = 0
    for seed in range(50):
        n, edges = graph(seed, acyclic=False)
        tables = unroll(paths(edges, 0, nodes=range(n)), MinSum())
        start = max(range(n), key=lambda node: tables.value(node) if tables.value(node) < INF else -1)
        if start != 0:
            first = tables.path(start)[:2]
            changed = [(i, j, w + 0.5 * ((i, j) == first)) for i, j, w in edges]
            differ += not np.isclose(to_node_0(n, changed, dijkstra)[start], tables.value(start))
    assert differ > 30


def test_the_slides_tables():
    tables = unroll(paths(SLIDES_EDGES, "c", nodes="abc"), MinSum())

    def rows(node, length):
        return [(row.length, row.value, row.next) for row in tables.rows(node, length)]

    none, end, b, c = None, (), ("b",), ("c",)
    initialise = {"a": [(0, INF, none)], "b": [(0, INF, none)], "c": [(0, 0, end)]}
    update_1 = {"a": [(1, 3, c)], "b": [(1, 1, c)], "c": [(1, 0, end)]}
    update_2 = {"a": [(2, 1, b)], "b": [(2, 1, c)], "c": [(2, 0, end)]}
    for node in "abc":
        assert rows(node, 0) == initialise[node]
        assert rows(node, 1) == initialise[node] + update_1[node]
        assert rows(node, 2) == initialise[node] + update_1[node] + update_2[node]
    assert tables.lengths == 2
    # "Early hypotheses can be superseded by others much later on": a → c, after update 2 and not before.
    assert [row.superseded for row in tables.rows("a", 1)] == [False, False]
    assert [row.superseded for row in tables.rows("a", 2)] == [False, True, False]
    assert tables.path("a") == ("a", "b", "c")
    assert tables.path("a", 1) == ("a", "c")


def draw(seed, signed):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=signed)
    return model, torch.randn(1, *model.image_shape, generator=generator)


@torch.no_grad()
def compare(nets, signed, semiring):
    """For each net: does the engine's class equal enumeration's, the score's relative error, is it certified."""
    same, errors, certified = [], [], []
    for seed in range(nets):
        model, x = draw(seed, signed)
        net = network(model, x[0])
        best = solve(net.problem, semiring).best(net.root)
        truth = enumerate_configurations(model, x)
        same.append(best.tails[0].node.position == (int(truth.label),))
        errors.append(abs(best.value - float(truth.score.max())) / (1 + abs(float(truth.score.max()))))
        certified.append(not net.problem.violations(semiring))
    return float(np.mean(same)), max(errors), float(np.mean(certified))


@pytest.mark.parametrize("signed", [(False, False, False), (True, False, False), (True, False, False, False)])
def test_the_same_engine_is_jmap_inference(signed):
    share, error, certified = compare(50, signed, MaxSum())
    assert share == 1.0
    assert error <= 1e-9
    assert certified == 1.0


def test_control_signed_upper_weights():
    share, error, certified = compare(60, (True, True, False), MaxSum())
    assert 0.3 < share < 0.9
    assert error > 0.1
    assert certified < 0.3


def test_a_certificate_is_never_wrong():
    # Now and then a signed net is small enough that nothing is chosen below its negative weights: still exact.
    certified = 0
    for seed in range(60):
        model, x = draw(seed, (True, True, True))
        net = network(model, x[0])
        if not net.problem.violations(MaxSum()):
            certified += 1
            truth = float(enumerate_configurations(model, x).score.max())
            assert solve(net.problem, MaxSum()).value(net.root) == pytest.approx(truth, rel=1e-9)
    assert certified >= 1


def test_control_min_sum_is_another_inference():
    share, error, _ = compare(40, (True, False, False), MinSum())
    assert share < 0.9
    assert error > 0.1


@pytest.mark.parametrize("signed", [(True, False, False), (True, True, True)])
@torch.no_grad()
def test_the_engine_is_the_convnet_and_its_backtrace_the_rendering(signed):
    # For any signs: the forward pass is the recursion, whether or not that is the maximum.
    for seed in range(40):
        model, x = draw(seed, signed)
        latents = model.infer(x)
        net = network(model, x[0])
        best = solve(net.problem, MaxSum()).best(net.root)
        assert best.tails[0].node.position == (int(latents.label),)
        assert best.value == pytest.approx(float(latents.score), rel=1e-9)
        shares = best.shares()
        drawn = torch.tensor([shares.get(pixel, 0.0) for pixel in net.stages[0].flat])
        torch.testing.assert_close(drawn, model.render(latents).flatten(), rtol=1e-9, atol=1e-9)


def test_levels_are_lengths():
    # Depth is the recursion variable (T21): by fewer steps than there are levels, the score is not known.
    model, x = draw(0, (True, False, False))
    net = network(model, x[0])
    tables = unroll(net.problem, MaxSum())
    final = solve(net.problem, MaxSum())
    assert tables.lengths == final.lengths == len(net.stages)
    for level, units in enumerate(net.stages):
        for unit in units.flat:
            assert tables.value(unit, level) == pytest.approx(final.value(unit))
    assert tables.value(net.root, tables.lengths - 1) != pytest.approx(final.value(net.root))
