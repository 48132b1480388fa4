"""Which operation of torch is which rendering: the dictionary from the one language to the other."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from drmm.lifting.arguments import Arguments, Call, Hole, Parts
from drmm.lifting.functions import function_rendering, hardsigmoid, padded, threshold
from drmm.lifting.shadows import shadow, torch_type, twin
from drmm.lifting.signatures import named, names_dimensions, works_along_images
from drmm.lifting.tracing import LiftError, kind_of, name_of
from drmm.rendering import (
    Affine,
    AffineJoin,
    Clip,
    Identity,
    Join,
    LeakyReLU,
    LocalJoin,
    LocalLinear,
    Rendering,
)

__all__ = [
    "attends",
    "draws",
    "gives_tuple",
    "is_flat",
    "mixes_images",
    "out_of_place",
    "read",
    "rendering_of",
    "stacks",
    "unstacks",
    "uses_batch",
]

_LOOKS_AT_SIZE = {
    "device", "dim", "dtype", "full_like", "get_device", "is_cuda", "is_floating_point", "layout", "len", "ndim",
    "ndimension", "new_full", "new_ones", "new_tensor", "new_zeros", "numel", "ones_like", "shape", "size",
    "stride", "zeros_like",
}  # fmt: skip
_LIKE = {"expand_as", "reshape_as", "to", "type_as", "view_as"}  # at that of all but the first argument
# Several outputs; of the second set the other one says where the first is found, if a dimension is named.
_TUPLES = {
    "GRU", "LSTM", "MultiheadAttention", "RNN", "aminmax", "chunk", "dsplit", "hsplit", "split",
    "split_with_sizes", "std_mean", "tensor_split", "unbind", "var_mean",
}  # fmt: skip
_WITH_PLACES = {"cummax", "cummin", "kthvalue", "max", "median", "min", "mode", "nanmedian", "sort", "topk"}
# Constant but for jumps.
_FLAT = {
    "and", "argmax", "argmin", "argsort", "bool", "ceil", "eq", "floor", "floor_divide", "floordiv", "ge",
    "greater", "greater_equal", "gt", "invert", "isfinite", "isinf", "isnan", "le", "less", "less_equal",
    "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne", "not_equal", "or", "round", "sgn",
    "sign", "signbit", "trunc", "xor",
}  # fmt: skip

# Increasing in every feature, so that bounds pass through.
_INCREASING = {
    "AdaptiveAvgPool1d", "AdaptiveAvgPool3d", "AvgPool1d", "AvgPool3d", "ChannelShuffle", "CircularPad1d",
    "CircularPad2d", "ConstantPad1d", "ConstantPad2d", "Flatten", "Fold", "PixelShuffle", "PixelUnshuffle",
    "ReflectionPad1d", "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "Unflatten", "Unfold",
    "UpsamplingBilinear2d", "UpsamplingNearest2d", "ZeroPad1d", "ZeroPad2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "broadcast_to", "cat",
    "channel_shuffle", "chunk", "clone", "column_stack", "concat", "concatenate", "contiguous", "cumsum",
    "diagonal", "double", "dsplit", "dstack", "expand", "expand_as", "flatten", "flip", "fliplr", "float", "fold",
    "gather", "getitem", "half", "hsplit", "hstack", "index_select", "mT", "masked_fill", "mean", "moveaxis",
    "movedim", "narrow", "native_channel_shuffle", "pad", "permute", "pixel_shuffle", "pixel_unshuffle", "pos",
    "positive", "repeat", "repeat_interleave", "reshape", "reshape_as", "roll", "rot90", "select", "split",
    "split_with_sizes", "squeeze", "stack", "sum", "swapaxes", "swapdims", "take_along_dim", "tensor_split",
    "tile", "to", "transpose", "tril", "triu", "type", "type_as", "unbind", "unflatten", "unfold", "unsqueeze",
    "view", "view_as", "where",
}  # fmt: skip
_AFFINE = _INCREASING | {
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d",
    "ConvTranspose2d", "ConvTranspose3d", "Linear", "MaxUnpool1d", "MaxUnpool2d", "Upsample", "diff", "index_add",
    "index_copy", "index_fill", "interpolate", "max_unpool1d", "max_unpool2d", "neg", "negative", "rsub",
    "scatter", "scatter_add", "select_scatter", "slice_scatter", "upsample", "upsample_bilinear",
    "upsample_nearest",
}  # fmt: skip
_SUMS = {"add", "sub", "subtract"}
# Linear in each argument, so affine where one of them alone holds features; of the second set, one but the first.
_PRODUCTS = {"bilinear", "bmm", "einsum", "matmul", "mul", "multiply", "tensordot"}
_ADDED_PRODUCTS = {"addcmul", "baddbmm"}
# Affine in so many arguments, the first ones.
_LEADING = {
    "addcdiv": 2, "addmm": 2, "addmv": 2, "batch_norm": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1,
    "conv_transpose1d": 1, "conv_transpose2d": 1, "conv_transpose3d": 1, "div": 1, "divide": 1, "inner": 1,
    "lerp": 2, "linear": 1, "mm": 1, "mv": 1, "true_divide": 1, "truediv": 1,
}  # fmt: skip
# Of affine pieces, whose choice shows in the features: their derivative is all that they do to a picture.
_PIECEWISE = {
    "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "Hardshrink", "MaxPool1d", "MaxPool2d",
    "MaxPool3d", "Softshrink", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax",
    "amin", "aminmax", "clamp", "clamp_max", "clamp_min", "clip", "cummax", "cummin", "fmax", "fmin", "fmod",
    "frac", "hardshrink", "hardtanh", "kthvalue", "leaky_relu", "max", "max_pool1d", "max_pool2d", "max_pool3d",
    "maximum", "median", "min", "minimum", "mod", "msort", "nan_to_num", "nanmedian", "prelu", "remainder",
    "rrelu", "softshrink", "sort", "threshold", "topk",
}  # fmt: skip
# Of those, in their first argument alone.
_IN_THE_FIRST = {"fmod", "leaky_relu", "mod", "prelu", "remainder"}
# Their features may leave the first dimension to other things than images, so that a module is taken as a whole.
_ATTENTION = {"baddbmm", "bmm", "einsum", "matmul", "scaled_dot_product_attention", "softmax"}
_OUT_OF_PLACE = {"iadd": "add", "imul": "mul", "isub": "sub", "itruediv": "truediv"}

_RANDOM = {
    "bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal", "poisson", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "uniform",
}  # fmt: skip
_RANDOM_IN_TRAINING = {
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "feature_dropout",
    "rrelu",
}  # fmt: skip
_SMOOTH = "its slope changes with its input, so that no switch can hold it"
_SCALED = "it divides by a scale that changes with the image"
_GATED = "it multiplies features by features"
_BY_FEATURES = "it multiplies or divides by features"
_SCORED = "it turns logits into probabilities: let the net return the logits"
_REASONS = {
    _SMOOTH: "celu elu cos exp gelu hardswish log logsigmoid logsumexp mish pow rsqrt selu sigmoid silu softmin "
    "softplus sin softsign sqrt square tanh",
    _SCALED: "group_norm groupnorm instance_norm instancenorm1d instancenorm2d layer_norm layernorm "
    "local_response_norm localresponsenorm norm normalize rms_norm rmsnorm softmax softmax2d std var",
    _SCORED: "log_softmax logsoftmax",
    _GATED: " ".join(["glu", "multiheadattention", "scaled_dot_product_attention", *_PRODUCTS, *_ADDED_PRODUCTS]),
    _BY_FEATURES: " ".join(_LEADING),
}


def rendering_of(node: fx.Node, net: nn.Module, parts: Parts, *, strict: bool) -> Rendering | Join:
    """The rendering or join that an operation is.

    Args:
        node: the operation.
        net: where its layer is.
        parts: its arguments, with a `Hole` for each of the features, and a `Setting` for other values.
        strict: whether an operation that is not piecewise linear is an error; else it becomes a local linear map.

    Raises:
        LiftError: if it has no rendering; the message names it and says why.
    """
    function: Callable[..., Any]
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        known: Rendering | Join | None = twin(layer) or _layer(layer)
        function = _layer_function(layer, parts.call)
    else:
        known = _known(node, net, parts)
        function = out_of_place(node, net, parts.call)
    if known is not None:
        return known
    odd = [part for part, flow in parts.flows.items() if not _is_affine(part, net, flow)]
    unknown = [part for part in odd if not _is_piecewise(part, net, parts.flows[part])]
    if unknown and strict:
        raise LiftError(_refusal(unknown[0], net))
    inputs = len(parts.features)
    if odd or parts.gated:
        exact = not unknown
        return LocalLinear(function, exact=exact) if inputs == 1 else LocalJoin(function, inputs, exact=exact)
    increasing = all(_is_increasing(part, net) for part in parts.flows)
    if inputs == 1:
        return Affine(function, increasing=increasing)
    return AffineJoin(function, inputs, increasing=increasing)


def draws(node: fx.Node, net: nn.Module) -> bool:
    """Whether a function draws at random in evaluation."""
    name = _name(node, net)
    if node.op == "call_module" or not _is_torch(node) or name not in _RANDOM | _RANDOM_IN_TRAINING:
        return False
    arguments = named(*_spelled(node, name))
    return name in _RANDOM or bool(arguments.get("training", arguments.get("train")))


def read(node: fx.Node, net: nn.Module) -> Sequence[Any]:
    """The arguments of an operation of which it takes more than the size or the type."""
    name = _name(node, net) if _is_torch(node) else ""
    return () if name in _LOOKS_AT_SIZE else node.args[:1] if name in _LIKE else (node.args, node.kwargs)


def gives_tuple(node: fx.Node, net: nn.Module) -> bool:
    """Whether an operation has several outputs."""
    name = _name(node, net)
    if node.op == "call_module":
        return name in _TUPLES or bool(getattr(net.get_submodule(str(node.target)), "return_indices", False))
    with_places = name in _WITH_PLACES and names_dimensions(*_spelled(node, name))
    return name in _TUPLES or with_places or name.endswith("_with_indices") or stacks(node, net)


def stacks(node: fx.Node, net: nn.Module) -> bool:
    """Whether features are put into a new first dimension: another way to write a tuple of them."""
    return _name(node, net) == "stack" and mixes_images(node, net)


def unstacks(node: fx.Node, net: nn.Module) -> bool:
    """Whether an operation takes the first dimension away, and looks at no other."""
    arguments = named(*_spelled(node, name := _name(node, net)))
    index = node.args[1] if name == "getitem" else None
    only = arguments.get("dim") in (0, [0], (0,)) and not arguments.get("keepdim")
    return isinstance(index, int) or (name in {"amax", "amin", "max", "mean", "min", "sum", "unbind"} and only)


def is_flat(node: fx.Node, net: nn.Module) -> bool:
    """Whether an operation is constant but for jumps, as a comparison or places: no picture flows through it."""
    name, lead = _name(node, net), node.args[0] if node.args else None
    if name == "getitem" and isinstance(lead, fx.Node) and lead.op != "placeholder" and gives_tuple(lead, net):
        return _name(lead, net) not in _TUPLES and node.args[1] in (1, -1, "indices")
    return name in _FLAT or node.kwargs.get("rounding_mode") is not None


def attends(node: fx.Node, net: nn.Module, inputs: int) -> bool:
    """Whether an operation may be the heart of an attention, which an approximation should take as a whole."""
    name = _name(node, net)
    return name in _ATTENTION and (inputs > 1 or name == "softmax")


def uses_batch(node: fx.Node, net: nn.Module) -> bool:
    """Whether a function normalises with the batch in evaluation."""
    name = _name(node, net)
    return name == "batch_norm" and bool(named(*_spelled(node, name)).get("training"))


def mixes_images(node: fx.Node, net: nn.Module) -> bool:
    """Whether an operation takes the first dimension for anything but the images."""
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        return torch_type(layer) is not None and 0 in (getattr(layer, "dim", 1), getattr(layer, "start_dim", 1))
    return _is_torch(node) and works_along_images(*_spelled(node, _name(node, net)))


def _refusal(node: fx.Node, net: nn.Module) -> str:
    """Why an operation has no exact rendering, and what would help."""
    name = _name(node, net).lower()
    reason = next(
        (why for why, names in _REASONS.items() if name in names.split()), "drmm knows no rendering of it"
    )
    return (
        f"{name_of(node, net)} has no exact rendering: {reason}; replace it, write a rendering "
        "(docs/new_rendering.md), or lift with strict=False for its local linear map"
    )


def _name(node: fx.Node, net: nn.Module) -> str:
    """Name of an operation, the one that does not write in place; attributes of several outputs are picks."""
    name = kind_of(node, net)
    if node.op == "call_module":
        return name
    if node.target is getattr:
        name = str(node.args[1])
        return "getitem" if name in {"indices", "max", "min", "values"} else name
    return _OUT_OF_PLACE.get(name, name.strip("_"))


def _spelled(node: fx.Node, name: str) -> tuple[Any, str, Arguments]:
    return node.target, name, (node.args, node.kwargs)


def _known(node: fx.Node, net: nn.Module, parts: Parts) -> Rendering | Join | None:
    """A function's rendering if it has a class of its own."""
    name, call = _name(node, net), parts.call
    lead = call[0][0] if call[0] else None
    if name == "getitem" and isinstance(lead, Call) and lead.__name__ in {"max", "min"}:
        name, call = "a" + lead.__name__, lead.arguments
    if parts.gated or len(parts.flows) > 1 + (call is not parts.call):
        return None
    return function_rendering(name, call) if _is_torch(node) else None


def _is_affine(node: fx.Node, net: nn.Module, flow: Sequence[fx.Node]) -> bool:
    """Whether an operation is affine in all the arguments that pictures flow through, together."""
    name = _name(node, net)
    if node.op == "call_module":
        return name in _AFFINE and torch_type(net.get_submodule(str(node.target))) is not None
    if not _is_torch(node):
        return False
    if name in _AFFINE or (name in _SUMS and len(flow) <= 2):
        return True
    values = list(named(*_spelled(node, name)).values()) or [*node.args, *node.kwargs.values()]
    flows = [any(value is source for source in flow) for value in values]
    if name in _LEADING:
        return not any(flows[_LEADING[name] :])
    if name in _ADDED_PRODUCTS:
        return sum(flows[1:]) <= 1
    return name in _PRODUCTS and len(flow) == 1


def _is_piecewise(node: fx.Node, net: nn.Module, flow: Sequence[fx.Node]) -> bool:
    name = _name(node, net)
    if node.op == "call_module":
        return name in _PIECEWISE and torch_type(net.get_submodule(str(node.target))) is not None
    name = name.removesuffix("_with_indices")
    return _is_torch(node) and name in _PIECEWISE and (name not in _IN_THE_FIRST or len(flow) == 1)


def _is_increasing(node: fx.Node, net: nn.Module) -> bool:
    name = _name(node, net)
    return name in _INCREASING or (name == "add" and "alpha" not in node.kwargs)


def _is_torch(node: fx.Node) -> bool:
    """Whether a function is torch's or Python's own, so that its name tells what it does."""
    if node.op != "call_function":
        return node.op == "call_method"
    module = getattr(node.target, "__module__", None)
    return module is None or module.split(".")[0] in {"torch", "_operator", "operator", "builtins", "math"}


def out_of_place(node: fx.Node, net: nn.Module, call: Arguments) -> Call:
    """An operation's function with its arguments, the one that does not write in place."""
    name, target = _name(node, net), cast("Any", node.target)
    if node.op == "call_method":
        if not hasattr(torch.Tensor, name):
            raise LiftError(f"{name_of(node, net)} writes in place, and torch has no form of it that does not")
        return Call(getattr(torch.Tensor, name), call)
    if kind_of(node, net) != name and target is not getattr:
        homes = [module for module in (operator, torch, F) if hasattr(module, name)]
        target = getattr(homes[0], name) if homes else target
    if "<locals>" in getattr(target, "__qualname__", ""):  # torch's choice by return_indices, which has no name
        target = getattr(F, f"_{name}")
    args, kwargs = call
    if inspect.isfunction(target) and "inplace" in (signature := inspect.signature(target)).parameters:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["inplace"] = False
        args, kwargs = bound.args, bound.kwargs
    return Call(target, (args, kwargs))


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
    if kind is nn.RReLU:
        return LeakyReLU((float(layer.lower) + float(layer.upper)) / 2)  # type: ignore[arg-type]
    if kind in {nn.ZeroPad2d, nn.ConstantPad2d}:
        return padded(Hole(0), layer.padding, value=layer.value)
    return Identity() if kind in {nn.AlphaDropout, nn.FeatureAlphaDropout} else None
