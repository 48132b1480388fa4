"""From a traced graph to a DRMM: translate every operation, and cut the graph into levels where it is narrow."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn

from drmm.errors import InputError, LiftError
from drmm.lifting.levels import levels_of
from drmm.lifting.shadows import is_torch_layer
from drmm.lifting.translation import translated
from drmm.lifting.verification import Verification
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import AffineRendering, Choice, Graph, Linear, Sequential, Switches

__all__ = ["assemble", "lift"]


def lift(
    net: nn.Module,
    *,
    image_shape: tuple[int, int, int] | None = None,
    strict: bool = True,
    example: Tensor | None = None,
    check: bool = True,
) -> DRMM:
    """The DRMM of a convnet: its logits are the net's to the bit, its parameters are the net's own.

    The net is traced by `torch.fx`, in evaluation mode, and left as it was: see `drmm.lifting.untouched`. Training
    either trains both. A level is what the net does between two places that every path goes through, such as a
    residual block. If the net ends with an `nn.Linear`, its rows are the class templates; otherwise logits are
    features, and class c draws through logit c.

    The model answers for itself. On the first images of each shape it runs the net beside itself, in evaluation
    mode, and compares logits, those of each image alone too; this costs about three forward passes, once. So does
    `lift`, on noise, where it finds a size that the net takes. Hooks that watch the net stay on it and are no part
    of the model; hooks that change a value are an error. Copies and pickles go without the net, and do not check.

    Slides "Inference in the DRMM yields Deep Convnets" and "…the Pre-Conditioned DRMM yields Deep ResNets".

    Args:
        net: images (N, C, H, W) to logits (N, classes). Layers, functions and methods of torch that are affine or
            piecewise linear, branches and skip connections; control flow must not depend on features.
        image_shape: (C, H, W), needed for `sample` and `log_joint`, for a net that ends with neither a linear
            layer nor a convolution, and for one that asks for the size of its images.
        strict: False draws what has no exact rendering (GELU, attention, layer norm) by its local linear map;
            `DRMM.approximations` then lists those levels.
        example: images (N, C, H, W) to compare logits on at once, in place of noise.
        check: False never compares logits.

    Raises:
        LiftError: a `TypeError`; if an operation has no exact rendering, the net cannot be traced, or logits
            differ. It names the operation and says why. The model raises it too, on the first images of a shape.
        InputError: if the image shape or the example does not fit the net.
    """
    model, verification = assemble(net, image_shape=image_shape, strict=strict)
    if not check:
        model.verify = None
    if example is not None:
        verification.require(example, "example")
    if check:
        verification.begin(model, example)
    return model


def assemble(
    net: nn.Module, *, image_shape: tuple[int, int, int] | None = None, strict: bool = True
) -> tuple[DRMM, Verification]:
    """The DRMM of a convnet, which checks logits when it gets images, and its check; arguments as for `lift`."""
    net = _unwrapped(net)
    translation, _, difference = translated(net, strict=strict, shape=image_shape)
    verification = Verification(net, strict=strict)
    if image_shape is not None:
        verification.require(_example(net).new_zeros(1, *image_shape), "image_shape")
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
    _take_over_mode(model, net)
    model.verify = verification
    return model, verification


def _take_over_mode(model: DRMM, net: nn.Module) -> None:
    """Put what holds the net's layers into the net's own mode."""
    graphs = [level for level in model.levels if isinstance(level, Graph)]
    made = [level for level in (*model.levels, model.templates) if isinstance(level, _EvaluationOnly | Choice)]
    for container in (
        model,
        model.levels,
        *graphs,
        *made,
        *(part for graph in graphs for part in graph.children()),
    ):
        container.training = net.training


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
    if type(net).__module__.startswith("torch._dynamo."):
        return _unwrapped(getattr(net, "_orig_mod", None))
    if isinstance(net, torch.jit.ScriptModule):
        raise LiftError("a scripted module cannot be traced: lift the module that it was made of")
    if not isinstance(net, nn.Module):
        raise LiftError(f"lift takes an nn.Module, got {type(net).__name__}")
    if is_torch_layer(net) or "forward" in vars(net):  # fx looks up the forward of a root in its class
        wrapped = nn.Sequential(net)
        wrapped.training = net.training
        return wrapped
    return net


def _choice(
    body: Sequential, net: nn.Module, classes: int | None, image_shape: tuple[int, int, int] | None
) -> Choice:
    """The templates of a net whose logits are features."""
    like = _example(net)
    if image_shape is not None:
        with torch.no_grad(), evaluation(body):
            logits = body(like.new_zeros(1, *image_shape))
        if logits.ndim != 2:
            raise LiftError(
                f"the net returns {tuple(logits.shape)} for one image, and must return logits (1, classes): let "
                "it end with a mean over places, or flatten"
            )
        classes = logits.shape[1]
    if classes is None:
        raise LiftError("cannot tell how many classes the net has: lift it with image_shape=(C, H, W)")
    return Choice(classes).to(like)


def _example(net: nn.Module) -> Tensor:
    """A tensor of the net's precision and device."""
    return next((p.detach() for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
