"""Which operation of torch is which rendering: the dictionary from the one language to the other."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from drmm.lifting.arguments import Arguments, Call, Hole
from drmm.lifting.functions import function_rendering, hardsigmoid, threshold
from drmm.lifting.shadows import shadow, torch_type, twin
from drmm.lifting.tracing import LiftError, kind_of, name_of
from drmm.rendering import Affine, AffineJoin, Clip, Join, LocalJoin, LocalLinear, Rendering

__all__ = ["LOOKS_AT_SIZE", "TUPLES", "rendering_of", "whole_module"]

LOOKS_AT_SIZE = {"size", "dim", "ndimension", "numel", "len", "stride", "is_floating_point", "get_device"}
TUPLES = {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "MultiheadAttention"}

# Increasing in every feature, so that bounds pass through.
_INCREASING = {
    "AdaptiveAvgPool1d", "AdaptiveAvgPool3d", "AvgPool1d", "AvgPool3d", "ChannelShuffle", "CircularPad1d",
    "CircularPad2d", "ConstantPad1d", "ConstantPad2d", "Flatten", "Fold", "PixelShuffle", "PixelUnshuffle",
    "ReflectionPad1d", "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "Unflatten", "Unfold",
    "UpsamplingBilinear2d", "UpsamplingNearest2d", "ZeroPad1d", "ZeroPad2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "channel_shuffle",
    "chunk", "clone", "contiguous", "diagonal", "double", "expand", "expand_as", "flatten", "flip", "float",
    "fold", "getitem", "half", "index_select", "mean", "moveaxis", "movedim", "narrow",
    "native_channel_shuffle", "pad", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat",
    "repeat_interleave", "reshape", "reshape_as", "roll", "rot90", "select", "split", "split_with_sizes",
    "squeeze", "sum", "swapaxes", "swapdims", "t", "tensor_split", "tile", "to", "transpose", "type", "type_as",
    "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as",
}  # fmt: skip
_AFFINE = _INCREASING | {
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d",
    "ConvTranspose2d", "ConvTranspose3d", "Linear", "Upsample", "cat", "concat", "concatenate", "cumsum",
    "diff", "dstack", "hstack", "interpolate", "neg", "negative", "rsub", "stack", "upsample",
}  # fmt: skip
_SUMS = {"add", "sub", "subtract"}
# Linear in each argument, so affine where one of them alone holds features; of the second set, the first one.
_PRODUCTS = {"bmm", "einsum", "matmul", "mm", "mul", "multiply", "tensordot"}
_QUOTIENTS = {
    "batch_norm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "div",
    "divide", "linear", "true_divide", "truediv",
}  # fmt: skip
# Their features may leave the first dimension to other things than images, so that a module is taken as a whole.
_ATTENTION = {"baddbmm", "bmm", "einsum", "matmul", "scaled_dot_product_attention", "softmax"}
_OVER_ALL = {"amax", "cumsum", "flip", "mean", "sum"}
_MOVES = {"movedim", "moveaxis", "swapaxes", "swapdims", "transpose"}
_DIM_LAST = {"cat", "concat", "concatenate", "stack", "unbind"}
_OUT_OF_PLACE = {"iadd": "add", "imul": "mul", "isub": "sub", "itruediv": "truediv"}

_SMOOTH = "its slope changes with its input, so that no switch can hold it"
_SCALED = "it divides by a scale that changes with the image"
_GATED = "it multiplies features by features"
_SCORED = "it turns logits into probabilities: let the net return the logits"
_REASONS = {
    _SMOOTH: "celu elu exp gelu hardswish log logsigmoid mish pow rsqrt selu sigmoid silu softmin softplus "
    "softsign sqrt square tanh",
    _SCALED: "group_norm groupnorm instance_norm instancenorm1d instancenorm2d layer_norm layernorm "
    "local_response_norm localresponsenorm norm normalize rms_norm rmsnorm softmax softmax2d",
    _SCORED: "log_softmax logsoftmax",
    _GATED: " ".join(["multiheadattention", "scaled_dot_product_attention", *_PRODUCTS, *_QUOTIENTS]),
}


def rendering_of(node: fx.Node, net: nn.Module, call: Arguments, inputs: int, *, strict: bool) -> Rendering | Join:
    """The rendering or join that an operation is.

    Args:
        node: the operation.
        net: where its layer is.
        call: its arguments, with a `Hole` for each of the features, and a `Setting` for other values.
        inputs: how many holes hold features.
        strict: whether an operation that is not piecewise linear is an error; else it becomes a local linear map.

    Raises:
        LiftError: if it has no rendering; the message names it and says why.
    """
    name = kind_of(node, net)
    if _mixes_images(node, net):
        raise LiftError(f"{name_of(node, net)} mixes images: keep them in the first dimension, alone")
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        known: Rendering | Join | None = twin(layer) or _layer(layer)
        function: Any = None if known is not None else _layer_function(layer, call)
    else:
        name = _OUT_OF_PLACE.get(name, name.strip("_"))
        known = function_rendering(name, call) if _is_torch(node) else None
        function = None if known is not None else Call(_function(node, name), _without_inplace(call))
    if known is not None:
        return known
    if _is_affine(name, net, node, call, inputs):
        increasing = name in _INCREASING or (name == "add" and inputs == 1)
        return Affine(function, increasing=increasing) if inputs == 1 else AffineJoin(function, inputs)
    if strict:
        reasons = (why for why, names in _REASONS.items() if name.lower() in names.split())
        reason = next(reasons, "drmm knows no rendering of it")
        raise LiftError(
            f"{name_of(node, net)} has no exact rendering: {reason}; replace it, write a rendering "
            "(docs/new_rendering.md), or lift with strict=False for its local linear map"
        )
    return LocalLinear(function) if inputs == 1 else LocalJoin(function, inputs)


def whole_module(node: fx.Node, net: nn.Module, inputs: int) -> bool:
    """Whether an approximation should take all of the module that an operation is in, as with attention."""
    name = kind_of(node, net)
    return _mixes_images(node, net) or (name in _ATTENTION and (inputs > 1 or name == "softmax"))


def _mixes_images(node: fx.Node, net: nn.Module) -> bool:
    """Whether an operation takes the first dimension for anything but the images."""
    name = kind_of(node, net)
    if node.op == "call_module":
        return name == "Flatten" and bool(net.get_submodule(str(node.target)).start_dim == 0)
    numbers: list[Any] = [*node.args[1:], *node.kwargs.values()]
    if name == "permute":
        order = numbers[0] if isinstance(numbers[0], list | tuple) else numbers
        return bool(order[0] != 0)
    over_all, last = name in _OVER_ALL, name in _DIM_LAST
    moved = (name in _MOVES and _has_zero(numbers)) or (over_all and (not numbers or _has_zero(numbers[0])))
    return _is_torch(node) and (moved or (last and (not numbers or _has_zero(numbers[-1]))))


def _has_zero(value: Any) -> bool:
    return 0 in value if isinstance(value, list | tuple) else value == 0 and not isinstance(value, bool)


def _is_affine(name: str, net: nn.Module, node: fx.Node, call: Arguments, inputs: int) -> bool:
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        return name in _AFFINE and torch_type(layer) is not None and getattr(layer, "mode", "") != "bicubic"
    if not _is_torch(node):
        return False
    if name in _AFFINE or (name in _SUMS and inputs <= 2):
        return True
    return inputs == 1 and (name in _PRODUCTS or (name in _QUOTIENTS and _leads(call)))


def _leads(call: Arguments) -> bool:
    """Whether the features are the first argument."""
    args, kwargs = call
    lead = args[0] if args else kwargs.get("input")
    return isinstance(lead, Hole) and lead.index == 0


def _is_torch(node: fx.Node) -> bool:
    """Whether a function is torch's or Python's own, so that its name tells what it does."""
    if node.op != "call_function":
        return node.op == "call_method"
    module = getattr(node.target, "__module__", None)
    return module is None or module.split(".")[0] in {"torch", "_operator", "operator", "builtins", "math"}


def _function(node: fx.Node, name: str) -> Callable[..., Any]:
    """An operation's function, the one that does not write in place."""
    if node.op == "call_method":
        return getattr(torch.Tensor, name)  # type: ignore[no-any-return]
    target: Any = node.target
    if target.__name__ == name:
        return target  # type: ignore[no-any-return]
    home = next(module for module in (operator, torch, F) if hasattr(module, name))
    function: Callable[..., Any] = getattr(home, name)
    return function


def _without_inplace(call: Arguments) -> Arguments:
    args, kwargs = call
    return args, {key: value for key, value in kwargs.items() if key != "inplace"}


def _layer_function(layer: nn.Module, call: Arguments) -> nn.Module:
    """A layer as a function of the features."""
    args, kwargs = call
    module = shadow(layer)
    plain = len(args) == 1 and isinstance(args[0], Hole) and not kwargs
    return module if plain and not module._forward_pre_hooks else _LayerCall(module, call)  # noqa: SLF001


class _LayerCall(nn.Module):
    """A layer with some of its arguments filled in, or with hooks that compute its weight."""

    def __init__(self, layer: nn.Module, call: Arguments) -> None:
        super().__init__()
        self.layer = layer
        self.training = layer.training
        self._call = Call(layer, call)

    def forward(self, *values: Any) -> Any:
        before = dict(self.layer.__dict__)
        try:
            return self._call(*values)
        finally:  # what hooks have written onto the layer may belong to a derivative
            self.layer.__dict__.clear()
            self.layer.__dict__.update(before)


def _layer(layer: nn.Module) -> Rendering | None:
    """Renderings of layers that have no twin."""
    kind = torch_type(layer)
    if kind in {nn.ReLU6, nn.Hardtanh}:
        return Clip(float(layer.min_val), float(layer.max_val))  # type: ignore[arg-type]
    if kind is nn.Threshold:
        return threshold(None, layer.threshold, layer.value)  # type: ignore[arg-type]
    if kind is nn.Hardsigmoid:
        return hardsigmoid(None)
    return None
