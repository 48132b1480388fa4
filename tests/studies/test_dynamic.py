"""The dynamic programming engine: semirings, tables, backtrace, and the errors of each."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from rich.console import Console

from drmm import DRMM
from drmm.errors import InputError
from drmm.rendering import AvgPool2d, BatchNorm2d, Conv2d, Flatten, LeakyReLU, Level, Linear, MaxPool2d, ReLU
from drmm.rendering import Sequential as Chain
from drmm.studies.dynamic import (
    SEMIRINGS,
    SLIDES_EDGES,
    Boolean,
    Counting,
    KBest,
    LogSumExp,
    MaxProduct,
    MaxSum,
    MinSum,
    Problem,
    Step,
    SumProduct,
    edge,
    network,
    paths,
    solve,
    unroll,
    walkthrough,
)
from drmm.studies.dynamic.drawing import Caption, draw_network

# Whole numbers, on which floating-point arithmetic is exact, so that axioms hold to the bit.
whole = st.integers(-8, 8).map(float)
positive = st.integers(0, 8).map(float)
VALUES = {
    "min-sum": st.one_of(whole, st.just(math.inf)),
    "max-sum": st.one_of(whole, st.just(-math.inf)),
    "max-product": positive,
    "sum-product": whole,
    "log-sum-exp": st.one_of(whole, st.just(-math.inf)),
    "counting": st.integers(0, 9),
    "boolean": st.booleans(),
    "k-best": st.lists(whole, max_size=3).map(lambda values: tuple(sorted(values))),
}
EVERY = [*SEMIRINGS.values(), KBest(3)]


def dag(seed, n=8, low=-1.0, p=0.4):
    """A random graph without cycles: edges go up in the number of the node."""
    rng = np.random.default_rng(seed)
    return [(i, j, float(rng.uniform(low, 2))) for i in range(n) for j in range(i + 1, n) if rng.random() < p]


def walks(edges, start, end, most):
    """Every walk of at most `most` edges from start to end, as its list of weights: the oracle."""
    if start == end:
        yield []
    if most:
        for head, tail, weight in edges:
            if head == start:
                for rest in walks(edges, tail, end, most - 1):
                    yield [weight, *rest]


ORACLES = {
    "min-sum": lambda found: min((sum(w) for w in found), default=math.inf),
    "max-sum": lambda found: max((sum(w) for w in found), default=-math.inf),
    "max-product": lambda found: max((math.prod(w) for w in found), default=0.0),
    "sum-product": lambda found: sum(math.prod(w) for w in found),
    "log-sum-exp": lambda found: float(np.logaddexp.reduce([sum(w) for w in found])) if found else -math.inf,
    "counting": len,
    "boolean": bool,
    "k-best": lambda found: tuple(sorted(sum(w) for w in found)[:3]),
}


@pytest.mark.parametrize("semiring", EVERY, ids=lambda s: s.name)
@given(data=st.data())
def test_semiring_axioms(semiring, data):
    a, b, c = (data.draw(VALUES[semiring.name]) for _ in range(3))
    plus, times, zero, one = semiring.plus, semiring.times, semiring.zero, semiring.one
    close = pytest.approx if semiring.name == "log-sum-exp" else lambda value: value
    assert plus(a, b) == plus(b, a)
    assert times(a, b) == times(b, a)
    assert plus(plus(a, b), c) == close(plus(a, plus(b, c)))
    assert times(times(a, b), c) == times(a, times(b, c))
    assert times(a, plus(b, c)) == close(plus(times(a, b), times(a, c)))
    assert plus(a, zero) == a
    assert times(a, one) == a
    assert times(a, zero) == zero
    assert semiring.total([]) == zero
    assert semiring.total([a, b, c]) == close(plus(plus(a, b), c))
    won = semiring.winner([a, b, c])
    assert won is None or [a, b, c][won] == plus(plus(a, b), c)


def test_control_subtraction_is_no_semiring():
    # (max, -): ⊗ does not commute, and the recursion would mean nothing.
    a, b, c = 1.0, 2.0, 3.0
    assert a - max(b, c) != max(a - b, a - c)


@given(a=whole, b=whole, gain=st.integers(1, 5).map(float))
def test_positive_gains_distribute_over_both_operations(a, b, gain):
    for semiring in (MinSum(), MaxSum()):
        assert semiring.distributes(gain)
        scaled = semiring.scale(semiring.plus(a, b), gain)
        assert scaled == semiring.plus(semiring.scale(a, gain), semiring.scale(b, gain))
        assert semiring.scale(semiring.zero, gain) == semiring.zero


def test_control_negative_gains_do_not():
    best = MaxSum()
    assert not best.distributes(-1)
    assert best.scale(best.plus(1, 2), -1) != best.plus(best.scale(1, -1), best.scale(2, -1))
    assert not best.distributes(0)  # 0 · -inf would be 1̄: what cannot be reached would be


@pytest.mark.parametrize("semiring", EVERY, ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(8))
def test_every_semiring_equals_enumeration(semiring, seed):
    edges = dag(seed, low=0.1 if semiring.name == "max-product" else -1.0)
    problem = paths(edges, 7, nodes=range(8))
    tables, once = unroll(problem, semiring), solve(problem, semiring)
    for node, length in itertools.product(range(8), range(8)):
        truth = ORACLES[semiring.name](list(walks(edges, node, 7, length)))
        assert tables.value(node, length) == pytest.approx(truth)
    for node in range(8):
        assert (
            tables.value(node)
            == once.value(node)
            == pytest.approx(ORACLES[semiring.name](list(walks(edges, node, 7, 7))))
        )


def test_control_longest_path_is_not_the_shortest():
    problem = paths(dag(0, p=1.0), 7)
    assert solve(problem, MaxSum()).value(0) > solve(problem, MinSum()).value(0)


@pytest.mark.parametrize("seed", range(20))
def test_counting_is_powers_of_the_adjacency_matrix(seed):
    # On graphs with cycles and parallel edges too: Σ_{k ≤ ℓ} Aᵏ counts the walks of at most ℓ edges.
    rng = np.random.default_rng(seed)
    adjacency = rng.integers(0, 3, (6, 6))
    edges = [(i, j, 1.0) for i, j in np.ndindex(6, 6) for _ in range(adjacency[i, j])]
    tables = unroll(paths(edges, 0, nodes=range(6)), Counting(), lengths=6)
    power, total = np.eye(6, dtype=int), np.eye(6, dtype=int)
    for length in range(7):
        assert [tables.value(i, length) for i in range(6)] == total[:, 0].tolist()
        power = adjacency @ power
        total = total + power


def test_sum_product_is_powers_of_the_weights():
    weights = np.random.default_rng(0).normal(size=(5, 5))
    edges = [(i, j, float(weights[i, j])) for i, j in np.ndindex(5, 5)]
    tables = unroll(paths(edges, 0), SumProduct(), lengths=6)
    truth = sum(np.linalg.matrix_power(weights, k) for k in range(7))
    np.testing.assert_allclose([tables.value(i) for i in range(5)], truth[:, 0], rtol=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_the_backtrace_has_the_length_of_the_table(seed):
    edges = dag(seed)
    weight = {(head, tail): w for head, tail, w in edges}
    tables = unroll(paths(edges, 7, nodes=range(8)), MinSum())
    for node, length in itertools.product(range(8), range(tables.lengths + 1)):
        if tables.value(node, length) < math.inf:
            path = tables.path(node, length)
            assert (path[0], path[-1]) == (node, 7)
            assert len(path) - 1 <= length
            assert sum(weight[link] for link in itertools.pairwise(path)) == pytest.approx(
                tables.value(node, length)
            )


def test_ties_go_to_the_older_hypothesis_and_then_to_the_step_given_first():
    edges = [("a", "b", 1), ("a", "c", 1), ("b", "d", 1), ("c", "d", 1), ("a", "d", 2)]
    assert unroll(paths(edges, "d"), MinSum()).path("a") == ("a", "d")
    assert solve(paths(edges[:4], "d"), MinSum()).path("a") == ("a", "b", "d")
    turned = [edges[1], edges[0], *edges[2:4]]
    assert solve(paths(turned, "d"), MinSum()).path("a") == ("a", "c", "d")


def test_a_cycle_of_no_length_ends():
    tables = unroll(paths([("a", "b", 0), ("b", "a", 0), ("b", "c", 1)], "c"), MinSum())
    assert tables.path("a") == ("a", "b", "c")


def test_collecting_nodes_share_what_is_below_them():
    # y = 1 + 2 u - 3 v, u = max(x, 0), v = x: the value, and how it grows with x.
    steps = [
        Step("x", (), 5.0),
        Step("u", (), 0.0),
        Step("u", ("x",)),
        Step("y", ("u", "x"), 1.0, (2.0, -3.0)),
    ]
    found = solve(Problem(steps), MaxSum()).best("y")
    assert found.value == 1 + 2 * 5 - 3 * 5
    assert found.shares() == {"y": 1.0, "u": 2.0, "x": -1.0}
    assert [h.node for h in found.backtrace()] == ["y", "u", "x"]
    assert Problem(steps).violations(MaxSum()) == ()  # nothing is chosen below x
    assert len(Problem([*steps, Step("z", ("u",), None, (-1.0,))]).violations(MaxSum())) == 1


def test_the_early_hypothesis_off_is_superseded_by_on():
    tables = unroll(Problem([Step("u", (), 0.0), Step("u", ("x",)), Step("x", (), 5.0)]), MaxSum())
    assert [(h.value, h.length) for h in tables.history["u"]] == [(0.0, 0), (5.0, 1)]
    assert [row.superseded for row in tables.rows("u")] == [True, False]


def two_kinds():
    plain = Chain(Conv2d(2, 3, 2, padding=1), BatchNorm2d(3), ReLU(), MaxPool2d(3, 2, 1), AvgPool2d(2), Flatten())
    yield DRMM(plain, Linear(3, 4))
    level = Level(Conv2d(2, 2, 3, stride=2, padding=1, groups=2), BatchNorm2d(2), MaxPool2d((1, 2)))
    yield DRMM(Chain(level, Flatten(), Linear(2 * 2, 5), ReLU()), Linear(5, 3))


@pytest.mark.parametrize("kind", [0, 1])
def test_a_network_has_the_scores_of_the_model(float64, kind):
    model = list(two_kinds())[kind].eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    for x in torch.randn(3, 2, 4, 4):
        net = network(model, x)
        tables = solve(net.problem, MaxSum())
        scores = torch.tensor([tables.value(unit) for unit in net.stages[-1].flat])
        torch.testing.assert_close(scores, model(x[None])[0].detach())
        assert unroll(net.problem, MaxSum()).value(net.root) == pytest.approx(tables.value(net.root))


def test_a_network_of_something_else():
    tiny = Linear(9, 2)
    with pytest.raises(InputError, match="LeakyReLU has no steps"):
        network(DRMM(Chain(LeakyReLU(0.1), Flatten()), tiny), torch.zeros(1, 3, 3))
    with pytest.raises(InputError, match="one image"):
        network(DRMM(Chain(Flatten()), tiny), torch.zeros(2, 1, 3, 3))
    with pytest.raises(InputError, match="ceil_mode"):
        network(DRMM(Chain(MaxPool2d(2, ceil_mode=True), Flatten()), tiny), torch.zeros(1, 3, 3))


CYCLE = [("a", "b", -1.0), ("b", "a", 0.5), ("b", "c", 1.0)]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: solve(paths(CYCLE, "c"), MinSum()), r"cycle (a → b → a|b → a → b) has no order: use unroll"),
        (lambda: unroll(paths(CYCLE, "c"), MinSum()), r"for ever on the cycle (a → b → a|b → a → b)"),
        (lambda: unroll(paths(CYCLE, "c"), Counting()), "changes for ever on a cycle: pass lengths="),
        (lambda: paths([("a", "b", math.nan)], "b"), "weight of a → b must be a finite number"),
        (lambda: paths([("a", "b", math.inf)], "b"), "weight of a → b must be a finite number"),
        (lambda: Step("a", ("b",), 1.0, (math.nan,)), "gains of a → b must be finite"),
        (lambda: Step("a", ("b", "c"), 1.0, (1.0,)), "one gain for each of its 2 tails"),
        (lambda: paths([("a", "b", 1.0)], "z"), "no node z: the nodes are a, b"),
        (lambda: paths([("a", "b", 1.0)], "a", nodes="a"), "no node b"),
        (lambda: unroll(paths([("a", "b", 1.0)], "b"), MinSum()).value("z"), "no node z"),
        (lambda: unroll(paths([("a", "b", 1.0)], "b"), MinSum()).rows("z"), "no node z"),
        (lambda: unroll(paths([("a", "b", 1.0)], "a"), MinSum()).path("b"), "nothing is reached from b"),
        (lambda: unroll(paths([("a", "b", 1.0)], "b"), Counting()).path("a"), "counting pools all paths"),
        (lambda: unroll(paths([("a", "b", -1.0)], "b"), MaxProduct()), "weights of at least 0, got -1.0"),
        (lambda: unroll(Problem([Step("x", (), 1.0), Step("y", ("x",), None, (2.0,))]), LogSumExp()), "no gains"),
        (lambda: KBest(0), "k must be at least 1"),
        (lambda: edge("a:b"), "an edge is FROM:TO:WEIGHT"),
        (lambda: edge("a:b:c"), "an edge is FROM:TO:WEIGHT"),
        (lambda: edge("a:b:1:2"), "an edge is FROM:TO:WEIGHT"),
    ],
)
def test_bad_input_is_one_line(act, message):
    with pytest.raises(InputError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_step_with_two_tails_is_no_path():
    steps = [Step("x"), Step("y"), Step("z", ("x", "y"))]
    with pytest.raises(InputError, match="collects 2 nodes and is no path"):
        unroll(Problem(steps), MinSum()).path("z")


def test_a_thousand_nodes_on_a_line():
    # The worst case for lengths; and no recursion that a long path would exhaust.
    tables = unroll(paths([(i, i + 1, 1.0) for i in range(1999)], 1999), MinSum())
    assert tables.value(0) == 1999
    assert len(tables.path(0)) == 2000
    assert solve(tables.problem, Boolean()).value(0) is True


def shown(tables, start):
    console = Console(width=110, file=io.StringIO())
    for part in walkthrough(tables, start):
        console.print(part)
    return console.file.getvalue()


def test_the_walkthrough_shows_each_update_and_the_backtrace():
    text = shown(unroll(paths(SLIDES_EDGES, "c", nodes="abc"), MinSum()), "a")
    titles = [line.split(":")[0] for line in text.splitlines() if line.startswith(("Init", "DP", "Back"))]
    assert titles == ["Initialise", "DP update 1", "DP update 2", "Backtrace from a"]
    assert "best path: a → b → c, dist 1" in text


def test_the_tables_of_a_large_graph_are_left_out():
    text = shown(unroll(paths([(i, i + 1, 1.0) for i in range(40)], 40), MinSum()), 0)
    assert "rows of tables are left out" in text
    assert "dist 40" in text
    assert "node" not in text


def test_a_walkthrough_needs_a_path():
    with pytest.raises(InputError, match="nothing is reached from b"):
        shown(unroll(paths([("a", "b", 1.0)], "a"), MinSum()), "b")


def test_the_command_line_finds_and_draws_a_path(run_drmm, tmp_path):
    picture = tmp_path / "a.png"
    code, out, _ = run_drmm("dp", "s:a:1", "s:b:4", "a:b:2", "b:b:1", "b:t:3", "--out", picture)
    assert code == 0
    assert "best path: s → a → b → t, dist 6" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run_drmm("dp", "--semiring", "max-sum")
    assert code == 0
    assert "best path: a → c, value 3" in out


def test_names_of_nodes_are_only_text(run_drmm, tmp_path):
    formula, strange = "$\\frac{1}{$", "[/bold]\x1b[31m\U00013000\n" + "w" * 300
    picture = tmp_path / "a.png"
    code, out, err = run_drmm("dp", f"{formula}:{strange}:1", f"{strange}:t:1", "--out", picture)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert formula in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a:b"], "an edge is FROM:TO:WEIGHT"),
        (["a:b:c"], "got a:b:c"),
        (["a:b:1", "--to", "z"], "there is no node z"),
        (["a:b:1", "--start", "z"], "there is no node z"),
        (["a:b:1", "--to", "a", "--start", "b"], "nothing is reached from b"),
        (["a:b:-1", "b:a:0", "b:c:1"], "for ever on the cycle"),
        ([f"{i}:{i + 1}:1" for i in range(40)], "too many for a picture"),
    ],
)
def test_the_command_line_says_what_is_wrong(run_drmm, tmp_path, words, message):
    code, _, err = run_drmm("dp", *words, "--out", tmp_path / "a.png")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def tiny():
    model = DRMM(Chain(Level(Conv2d(1, 2, 2), None, MaxPool2d(2)), Flatten()), Linear(2, 3)).eval()
    net = network(model, torch.randn(1, 3, 3))
    return net, solve(net.problem, MaxSum())


def test_a_network_is_drawn_with_its_active_paths_bold():
    net, found = tiny()
    axis = Figure().subplots()
    draw_network(axis, net, found, [Caption("pixels"), Caption("", ("u", "v")), Caption(""), Caption("", "abc")])
    every, active = (c for c in axis.collections if isinstance(c, LineCollection))
    assert len(every.get_segments()) == 2 * 4 * 4 + 2 * 4 + 3 * 2  # conv, pool, templates
    kept = [h for h in found.best(net.root).tails[0].backtrace() if h.step is not None]
    assert len(active.get_segments()) == sum(len(h.tails) for h in kept) < len(every.get_segments())
    assert {"u", "v", "pixels"} <= {text.get_text() for text in axis.texts}


def test_a_network_needs_its_captions():
    net, found = tiny()
    captions = [Caption("")] * 4
    with pytest.raises(InputError, match="4 stages need as many captions, got 3"):
        draw_network(Figure().subplots(), net, found, captions[:3])
    with pytest.raises(InputError, match="stage 1 has 2 channels, got 1 names"):
        draw_network(
            Figure().subplots(), net, found, [Caption(""), Caption("", "u"), Caption(""), Caption("", "abc")]
        )
    with pytest.raises(InputError, match="3 classes need as many names, got 0"):
        draw_network(Figure().subplots(), net, found, captions)
