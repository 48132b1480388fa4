"""Max-pooling: torch's values, one winner per window, positions that survive every geometry."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from drmm.rendering import Conv2d, Level, MaxPool2d
from drmm.rendering.pooling import add_at, best_place, place_of, position_of, window_of

small = st.integers(1, 3)
pair = st.tuples(small, small)


def value_at(x, t, window):
    """What stands at the positions t, read window by window: the slow twin of the look-up."""
    padded = F.pad(x, (9, 9, 9, 9), value=float("nan"))
    y = torch.empty(t.shape)
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(s) for s in t.shape)).reshape(-1, 4).tolist():
        row, column = divmod(int(t[n, c, i, j]), window.kernel[1])
        row = i * window.stride[0] - window.padding[0] + row * window.dilation[0]
        column = j * window.stride[1] - window.padding[1] + column * window.dilation[1]
        y[n, c, i, j] = padded[n, c, row + 9, column + 9]
    return y


@given(data=st.data(), seed=st.integers(0, 2**31))
def test_t_says_where_the_maximum_is(data, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, 2, data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7)))
    kernel = data.draw(pair)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    pool = MaxPool2d(kernel, data.draw(pair), padding, data.draw(pair), ceil_mode=data.draw(st.booleans()))
    try:
        expected = F.max_pool2d(x, kernel, pool.stride, padding, pool.dilation, pool.ceil_mode)
    except RuntimeError:
        assume(False)
    assume(expected.isfinite().all())  # a dilated window can lie in the padding altogether
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    y, switches = pool.infer(x)
    assert torch.equal(y, expected)
    assert torch.equal(value_at(x, switches.t, switches.window), y)


@pytest.mark.parametrize(
    "pool",
    [MaxPool2d(2), MaxPool2d(3, 2, 1), MaxPool2d(3, 1), MaxPool2d(2, 2, 0, 2, ceil_mode=True), MaxPool2d((1, 4))],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_constant_image_has_one_winner_in_every_window(pool, channels_last):
    x = torch.ones(2, 3, 8, 8)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    y, switches = pool.infer(x)
    drawn = pool.render(torch.ones_like(y), switches)
    assert drawn.sum() == y.numel()  # every unit is drawn exactly once, not once for each tie
    # The rule: the first position in row-major order that lies inside the picture.
    inside = [~value_at(x, torch.full_like(switches.t, k), switches.window).isnan() for k in range(4)]
    first = torch.stack(inside).double().argmax(0)  # with padding of 1, one of the first positions is inside
    assert (switches.t == first)[inside[0]].all()
    assert (switches.t > 0)[~inside[0]].all()


def test_ties_are_broken_as_autograd_breaks_them():
    x = torch.randint(0, 2, (3, 2, 9, 9)).double().requires_grad_()
    for pool in (MaxPool2d(2), MaxPool2d(3, 2, 1)):
        y, switches = pool.infer(x)
        z = torch.randn_like(y)
        expected = torch.autograd.grad(F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding), x, z)[0]
        torch.testing.assert_close(pool.render(z, switches), expected)


def test_a_level_breaks_ties_like_its_slow_twin():
    level = Level(Conv2d(1, 2, 3, padding=1), None, MaxPool2d(2))
    x = torch.ones(2, 1, 8, 8)
    _, switches = level.infer(x)
    assert (switches.t[:, :, 1:-1, 1:-1] == 0).all()
    y, slow = level.unfused().infer(x)
    z = torch.randn_like(y)
    torch.testing.assert_close(level.render(z, switches), level.unfused().render(z, slow))


def test_positions_of_a_huge_window():
    x = torch.zeros(1, 1, 20, 20)
    x[0, 0, 17, 18] = 1
    y, switches = MaxPool2d(20).infer(x)
    assert switches.t.item() == 17 * 20 + 18
    assert switches.t.dtype == torch.int32
    assert torch.equal(MaxPool2d(20).render(y, switches), x)


def test_positions_take_a_byte():
    assert MaxPool2d(16).infer(torch.randn(1, 1, 16, 16))[1].t.dtype == torch.uint8


def test_overlapping_windows_add_up():
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 5
    y, switches = MaxPool2d(2, 1).infer(x)
    assert torch.equal(MaxPool2d(2, 1).render(torch.ones_like(y), switches), x / 5 * 4)


def test_what_is_drawn_in_the_padding_is_lost():
    pool = MaxPool2d(3, 2, 1)
    y, switches = pool.infer(torch.randn(1, 1, 4, 4))
    outside = switches.map(torch.zeros_like)  # a prior may put every unit in the upper left corner
    assert pool.render(torch.ones_like(y), outside).sum() == 1


# --- integers of one byte, of two, of eight ---

WIDTHS = (7, 126, 127, 254, 255, 256, 257, 300, 16_383, 16_384, 33_000)


def position_by_division(place, pool, width):
    """The definition: row and column of the place, less those of the window's corner; no padding."""
    window = window_of(pool)
    row, column = (torch.arange(n) * s for n, s in zip(place.shape[2:], window.stride, strict=True))
    down, along = (place // width - row[:, None]), (place % width - column)
    return down // window.dilation[0] * window.kernel[1] + along // window.dilation[1]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "pool", [MaxPool2d(2), MaxPool2d(3, 1), MaxPool2d(2, 1, 0, 3), MaxPool2d((2, 5), 2), MaxPool2d((1, 3))]
)
def test_positions_in_pictures_of_every_width(width, pool):
    place = best_place(torch.randn(2, 1, 7, width), pool)[1]
    t = position_of(place, window_of(pool), width)
    assert torch.equal(t.long(), position_by_division(place, pool, width))
    before = t.clone()
    assert torch.equal(place_of(t, window_of(pool), width), place)
    assert torch.equal(t, before)


def test_a_byte_would_not_do_for_wide_pictures(monkeypatch):
    pool, width = MaxPool2d(2), 256
    place = best_place(torch.randn(2, 1, 7, width), pool)[1]
    monkeypatch.setattr("drmm.rendering.pooling._narrow", lambda _: torch.uint8)
    assert not torch.equal(
        position_of(place, window_of(pool), width).long(), position_by_division(place, pool, width)
    )


@pytest.mark.parametrize("window", [(9, 9), (12, 1), (1, 12)])
def test_positions_of_windows_with_many_rows(window):
    pool = MaxPool2d(window)
    place = best_place(torch.randn(2, 3, 27, 26), pool)[1]
    t = position_of(place, window_of(pool), 26)
    assert torch.equal(t.long(), position_by_division(place, pool, 26))
    assert torch.equal(place_of(t, window_of(pool), 26), place)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_adding_at_places(memory_format):
    x = torch.randn(2, 3, 7, 6).contiguous(memory_format=memory_format)
    y, place = best_place(x, MaxPool2d(3, 1))
    canvas = torch.randn_like(x)
    expected = canvas.clone()
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(s) for s in y.shape)).tolist():
        row, column = divmod(int(place[n, c, i, j]), 6)
        expected[n, c, row, column] += y[n, c, i, j]
    assert add_at(canvas, place, y) is canvas
    torch.testing.assert_close(canvas, expected)
