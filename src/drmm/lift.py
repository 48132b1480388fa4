"""Any feed-forward net of supported layers is a DRMM: the same parameters, seen from the other side."""

from __future__ import annotations

from typing import cast

from torch import nn

from drmm.model import DRMM
from drmm.rendering import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Rendering,
    Sequential,
)

__all__ = ["lift"]

_TWINS: dict[type[nn.Module], type[Rendering]] = {
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.ReLU: ReLU,
    nn.LeakyReLU: LeakyReLU,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Dropout: Dropout,
    nn.Flatten: Flatten,
    nn.Identity: Identity,
}


def lift(net: nn.Sequential, *, image_shape: tuple[int, int, int] | None = None) -> DRMM:
    """The DRMM whose max-sum inference a convnet is; parameters are shared, so that training either trains both.

    Args:
        net: an `nn.Sequential` (nested ones too) of supported layers, whose last layer is `nn.Linear`: its rows
            become the class templates.
        image_shape: (C, H, W), needed for `sample` and `log_joint` only.

    Raises:
        TypeError: if a layer has no rendering, or the last one is not `nn.Linear`; the message names it.
    """
    layers = list(_flatten(net, ""))
    if not layers or type(layers[-1][1]) is not nn.Linear:
        raise TypeError("the last layer must be nn.Linear: its rows are the class templates")
    *levels, templates = [_twin(name, layer) for name, layer in layers]
    model = DRMM(Sequential(*levels), cast("Linear", templates), image_shape=image_shape)
    for (_, layer), twin in zip(layers, [*levels, templates], strict=True):
        twin.training = layer.training
    model.training = model.levels.training = net.training
    return model


def _flatten(net: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Every layer with its name, without the sequences around it."""
    if isinstance(net, Rendering) or not isinstance(net, nn.Sequential):
        return [(prefix, net)]
    # named_children would leave out the second place of a layer that is used twice.
    children = [
        (name, child) for name, child in net.named_modules(remove_duplicate=False) if name and "." not in name
    ]
    named = [(f"{prefix}.{name}".lstrip("."), child) for name, child in children]
    return [layer for name, child in named for layer in _flatten(child, name)]


def _twin(name: str, layer: nn.Module) -> Rendering:
    """A rendering with the very same parameters, buffers and settings as a torch layer."""
    if isinstance(layer, Rendering):
        return layer
    kind = _TWINS.get(type(layer))
    if kind is None:
        raise TypeError(f"layer {name!r} ({type(layer).__name__}) has no rendering: write one, or replace it")
    if option := _unsupported(layer):
        raise TypeError(f"layer {name!r} ({type(layer).__name__}) has no rendering with {option}")
    twin = kind.__new__(kind)
    # One shared dictionary of parameters and one of buffers: a parameter replaced in the net is replaced here.
    twin.__dict__.update({**layer.__dict__, **_hookless()})
    return twin


def _unsupported(layer: nn.Module) -> str:
    """The option of a supported layer that has no transpose here, or nothing."""
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r}"
    if isinstance(layer, nn.MaxPool2d) and layer.return_indices:
        return "return_indices=True"
    if isinstance(layer, nn.Flatten) and layer.start_dim != 1:
        return f"start_dim={layer.start_dim}"
    return ""


def _hookless() -> dict[str, object]:
    """Empty hook tables: the net's hooks stay on the net and do not run for its twin."""
    fresh = nn.Module()
    return {key: value for key, value in fresh.__dict__.items() if "hook" in key}
