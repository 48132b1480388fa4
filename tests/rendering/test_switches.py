"""Switches: what is chosen once is selected, merged, counted and replayed as one object."""

import pytest
import torch

from drmm.rendering import (
    Abs,
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Level,
    MaxPool2d,
    ReLU,
    Rendering,
    Sequential,
    Switches,
    Window,
)


@pytest.fixture
def net():
    return Sequential(
        Level(Conv2d(1, 2, 3), None, MaxPool2d(2)),
        Sequential(Conv2d(2, 3, 2), Abs()),
        Dropout(0.5),
        ReLU(),
        Flatten(),
    )


def same(one, other):
    return all(
        torch.equal(a, b)
        for mine, theirs in zip(one.leaves(), other.leaves(), strict=True)
        for (_, a), (_, b) in zip(mine.choices(), theirs.choices(), strict=True)
    )


def test_select_keeps_some_images(net):
    x = torch.randn(5, 1, 8, 8)
    y, switches = net.infer(x)
    index = torch.tensor([3, 0])
    z = torch.randn_like(y)
    torch.testing.assert_close(net.render(z[index], switches.select(index)), net.render(z, switches)[index])
    assert same(switches.select(slice(1, 3)), switches.select(torch.tensor([1, 2])))


def test_where_takes_each_image_from_one_or_the_other(net):
    net.eval()
    one, other = net.infer(torch.randn(4, 1, 8, 8))[1], net.infer(torch.randn(4, 1, 8, 8))[1]
    mask = torch.tensor([True, False, False, True])
    merged = one.where(mask, other)
    assert same(merged.select(mask), one.select(mask))
    assert same(merged.select(~mask), other.select(~mask))


def test_where_refuses_nothing_silently(net):
    # Dropped units are not a choice, but they have a batch dimension: merging must not lose or mix them up.
    one, other = net.infer(torch.randn(4, 1, 8, 8))[1], net.infer(torch.randn(4, 1, 8, 8))[1]
    merged = one.where(torch.tensor([True, False, False, True]), other)
    kept = merged.parts[2].kept
    assert torch.equal(kept[[0, 3]], one.parts[2].kept[[0, 3]])
    assert torch.equal(kept[[1, 2]], other.parts[2].kept[[1, 2]])


def test_leaves_are_bottom_up_and_choices_named(net):
    switches = net.infer(torch.randn(2, 1, 8, 8))[1]
    assert [[name for name, _ in leaf.choices()] for leaf in switches.leaves()] == [["a", "t"], ["s"], ["a"]]


def test_map_leaves_keeps_the_structure(net):
    switches = net.infer(torch.randn(2, 1, 8, 8))[1]
    seen = []
    again = switches.map_leaves(lambda leaf: (seen.append(leaf), leaf)[1])
    assert len(seen) == 3
    assert same(again, switches)
    assert [part.shape for part in again.parts] == [part.shape for part in switches.parts]


def test_nbytes_counts_one_byte_a_choice():
    _, switches = Level(Conv2d(1, 2, 3), None, MaxPool2d(2)).infer(torch.randn(5, 1, 8, 8))
    assert switches.nbytes() == 2 * (5 * 2 * 3 * 3)


def test_window_counts_its_positions():
    assert Window((2, 3), (1, 1), (0, 0), (1, 1)).positions == 6


def test_a_rendering_needs_both_directions():
    class Half(Rendering):
        def infer(self, x):
            return x, Switches(tuple(x.shape[1:]))

    with pytest.raises(TypeError, match="render"):
        Half()


def test_the_convnets_view_is_the_features_alone(net):
    net.eval()
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(net(x), net.infer(x)[0])


def test_a_sequence_takes_renderings_only():
    with pytest.raises(TypeError, match="ReLU is not a Rendering"):
        Sequential(torch.nn.ReLU())


def test_every_intermediate_template_comes_back():
    net = Sequential(Conv2d(1, 2, 3), ReLU(), MaxPool2d(2))
    y, switches = net.infer(torch.randn(3, 1, 8, 8))
    z = torch.randn_like(y)
    templates = net.render_levels(z, switches)
    assert [tuple(t.shape[1:]) for t in templates] == [(1, 8, 8), (2, 6, 6), (2, 6, 6), (2, 3, 3)]
    assert templates[-1] is z
    torch.testing.assert_close(templates[0], net.render(z, switches))


@pytest.mark.parametrize("module", [ReLU(), LeakyReLU(), Abs(), MaxPool2d(2), Level(Conv2d(1, 1, 1))])
def test_empty_switches_say_what_is_missing(module):
    with pytest.raises(ValueError, match="these switches hold no"):
        module.render(torch.zeros(1, 1, 2, 2), Switches((1, 4, 4)))
