"""From a traced graph to a DRMM: translate every operation, and cut the graph into levels where it is narrow."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.lifting.levels import levels_of
from drmm.lifting.shadows import is_torch_layer
from drmm.lifting.tracing import LiftError, trace
from drmm.lifting.translation import TakeWhole, Translation
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import AffineRendering, Choice, Graph, Linear, Sequential, Switches

__all__ = ["lift"]


def lift(net: nn.Module, *, image_shape: tuple[int, int, int] | None = None, strict: bool = True) -> DRMM:
    """The DRMM of a convnet: its logits are the net's to the bit, its parameters are the net's own.

    The net is traced by `torch.fx`, in evaluation mode, and left as it was. Training either trains both. A level
    is what the net does between two places that every path goes through, such as a residual block. If the net
    ends with an `nn.Linear`, its rows are the class templates; otherwise logits are features, and class c draws
    through logit c.

    Slides "Inference in the DRMM yields Deep Convnets" and "…the Pre-Conditioned DRMM yields Deep ResNets".

    Args:
        net: images (N, C, H, W) to logits (N, classes). Layers, functions and methods of torch that are affine or
            piecewise linear, branches and skip connections; control flow must not depend on features.
        image_shape: (C, H, W), needed for `sample` and `log_joint`, and for a net that ends with neither a linear
            layer nor a convolution.
        strict: False draws what has no exact rendering (GELU, attention, layer norm) by its local linear map;
            `DRMM.approximations` then lists those levels.

    Raises:
        LiftError: a `TypeError`; if an operation has no exact rendering, or the net cannot be traced. It names the
            operation and says why.
    """
    net = _unwrapped(net)
    if is_torch_layer(net):
        net = nn.Sequential(net).train(net.training)
    opaque: frozenset[str] = frozenset()
    while True:
        graph, difference = trace(net, opaque)
        try:
            translation = Translation(net, graph, strict=strict, with_dropout=difference is None)
        except TakeWhole as request:
            opaque |= request.paths
        else:
            break
    levels = levels_of(translation)
    if difference is not None:
        levels = OrderedDict([("evaluation_only", _EvaluationOnly(difference)), *levels.items()])
    top = next(reversed(levels.values()))
    if isinstance(top, Linear):
        levels.popitem()
    body = Sequential(levels)
    templates = top if isinstance(top, Linear) else _choice(body, net, translation.classes, image_shape)
    model = DRMM(body, templates, image_shape=image_shape)
    for name in ("class_prior", "noise", "amplitude"):  # of the net's own precision, like what it draws
        model.register_buffer(name, model.get_buffer(name).to(_example(net)))
    containers: list[nn.Module] = [
        model,
        body,
        *(level for level in body if isinstance(level, Graph | _EvaluationOnly)),
    ]
    containers += [part for level in body if isinstance(level, Graph) for part in level.children()]
    for container in containers:
        container.training = net.training
    if isinstance(templates, Choice):
        templates.training = net.training
    return model


@final
class _EvaluationOnly(AffineRendering):
    """Nothing happens in evaluation; in training it refuses, because the net is another graph there.

    Args:
        difference: in what the graphs differ.
    """

    increasing = True

    def __init__(self, difference: str) -> None:
        super().__init__()
        self.difference = difference

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """X as it is.

        Raises:
            InputError: in training mode.
        """
        if self.training:
            raise InputError(
                f"the net is another graph in training (from {self.difference} on): train the net itself, its "
                "parameters are this model's, and call model.eval() here"
            )
        return x, Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Z as it is."""
        del switches
        return z


def _unwrapped(net: object) -> nn.Module:
    """The module itself, without what compiles it or spreads it over devices."""
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(net.module)
    net = getattr(net, "_orig_mod", net)
    if isinstance(net, torch.jit.ScriptModule):
        raise LiftError("a scripted module cannot be traced: lift the module that it was made of")
    if not isinstance(net, nn.Module):
        raise LiftError(f"lift takes an nn.Module, got {type(net).__name__}")
    return net


def _choice(
    body: Sequential, net: nn.Module, classes: int | None, image_shape: tuple[int, int, int] | None
) -> Choice:
    """The templates of a net whose logits are features."""
    like = _example(net)
    if image_shape is not None:
        with torch.no_grad(), evaluation(body):
            classes = int(body(like.new_zeros(1, *image_shape)).shape[-1])
    if classes is None:
        raise LiftError("cannot tell how many classes the net has: lift it with image_shape=(C, H, W)")
    return Choice(classes).to(like)


def _example(net: nn.Module) -> Tensor:
    """A tensor of the net's precision and device."""
    return next((p.detach() for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
