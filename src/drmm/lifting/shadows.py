"""Layers seen from the other side: renderings that share a torch layer's parameters, buffers and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drmm.rendering import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Rendering,
)

__all__ = ["computes_weight", "holder", "is_torch_layer", "shadow", "torch_type", "twin"]

_TWINS: dict[type[nn.Module], type[Rendering]] = {
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d: AdaptiveMaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Conv2d: Conv2d,
    nn.Dropout: Dropout,
    nn.Dropout1d: Dropout2d,
    nn.Dropout2d: Dropout2d,
    nn.Dropout3d: Dropout2d,
    nn.Flatten: Flatten,
    nn.Identity: Identity,
    nn.LeakyReLU: LeakyReLU,
    nn.Linear: Linear,
    nn.MaxPool2d: MaxPool2d,
    nn.PReLU: PReLU,
    nn.ReLU: ReLU,
    nn.SyncBatchNorm: BatchNorm2d,
}


def is_torch_layer(module: nn.Module) -> bool:
    """Whether a module behaves as a layer of `torch.nn`: one of its own, or a subclass that changes nothing."""
    base = torch_type(module)
    if base is None or issubclass(base, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    own = {name for kind in type(module).__mro__[: type(module).__mro__.index(base)] for name in vars(kind)}
    changed = own.intersection(dir(base)) - {"extra_repr"}
    return "forward" not in vars(module) and not any(not name.startswith("__") for name in changed)


def torch_type(module: nn.Module) -> type[nn.Module] | None:
    """The first class of `torch.nn` that a module's class derives from; None for modules written by hand."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.nn.") and kind is not nn.Module and not _is_parametrized(kind):
            return kind
    return None


def twin(layer: nn.Module) -> Rendering | None:
    """A rendering with the very same parameters, buffers and settings as a torch layer; None if there is none.

    Layers whose weight is computed, by a parametrisation or a hook, have no twin: see `shadow`.
    """
    if isinstance(layer, Rendering):
        return layer
    base = torch_type(layer)
    kind = None if base is None else _TWINS.get(base)
    if kind is None or not is_torch_layer(layer) or _is_parametrized(type(layer)) or _has_odd_options(layer):
        return None
    if any(map(computes_weight, layer._forward_pre_hooks.values())):  # noqa: SLF001
        return None
    return _share(kind, layer)  # type: ignore[return-value]


def shadow(module: nn.Module) -> nn.Module:
    """The same module, sharing every parameter and buffer, but neither its hooks nor its training mode.

    A parameter replaced in one is replaced in the other. Hooks that compute a weight stay.
    """
    copy = _share(type(module), module)
    copy._modules = {name: child and shadow(child) for name, child in module._modules.items()}  # noqa: SLF001
    hooks = module._forward_pre_hooks  # noqa: SLF001
    copy._forward_pre_hooks.update({k: hook for k, hook in hooks.items() if computes_weight(hook)})  # noqa: SLF001
    return copy


def holder(module: nn.Module) -> nn.Module:
    """A bare module with the parameters and buffers of another one, without its children."""
    bare = nn.Module()
    shared = ("_parameters", "_buffers", "_non_persistent_buffers_set")
    bare.__dict__.update({name: module.__dict__[name] for name in shared})
    return bare


def _share(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    copy = kind.__new__(kind)
    # One dictionary of parameters and one of buffers for both. A weight that a hook has computed cannot be copied.
    own = {name: value.detach() if isinstance(value, Tensor) else value for name, value in vars(layer).items()}
    copy.__dict__.update({**own, **_hookless()})
    return copy


def _hookless() -> Mapping[str, Any]:
    """Empty hook tables: the net's hooks stay on the net and do not run for its twin."""
    return {key: value for key, value in nn.Module().__dict__.items() if "hook" in key}


def computes_weight(hook: object) -> bool:
    """Whether a hook is torch's weight norm, spectral norm or pruning, which are part of the layer."""
    return type(hook).__module__.startswith("torch.nn.utils.")


def _is_parametrized(kind: type[nn.Module]) -> bool:
    return kind.__module__ == torch.nn.utils.parametrize.__name__


def _has_odd_options(layer: nn.Module) -> bool:
    """Options of a twin's layer that its twin does not know."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode != "zeros"
    if isinstance(layer, nn.MaxPool2d | nn.AdaptiveMaxPool2d):
        return bool(layer.return_indices)
    return isinstance(layer, nn.Flatten) and layer.start_dim != 1
