"""Why a lifted model and its net differ, or an image and its batch: the first operation where they part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from drmm.errors import LiftError
from drmm.lifting.shadows import computes_weight
from drmm.lifting.tracing import kind_of, name_of, record
from drmm.lifting.translation import Translation, translated
from drmm.lifting.untouched import GLOBAL_HOOKS

__all__ = ["Case", "differ"]

_CHANGES = (
    "the net's logits change from call to call in evaluation: let what draws random numbers or counts calls do so "
    "in training alone (self.training)"
)

_AMPLE = 30  # times what four last bits of the images do, for the sums in between


class Case:
    """A net, and images that it is run on. What is found is told in one line.

    Args:
        net: in evaluation mode. What a run leaves on it is for others to put back.
        images: (N, C, H, W), at least two.
        strict: as it was lifted.
    """

    def __init__(self, net: nn.Module, images: Tensor, *, strict: bool) -> None:
        self._net, self._images, self._strict = net, images, strict

    def logits(self, images: Tensor) -> Tensor:
        """The net's logits.

        Raises:
            LiftError: if the net fails, which names the operation; or returns something else.
        """
        try:
            logits = self._net(images.clone())
        except Exception as error:
            raise LiftError(
                f"{self._failing(images)} fails on images of shape {tuple(images.shape)} "
                f"({' '.join(str(error).split())}): the net must take any number of images, so write x.shape[0] "
                "or -1 in place of a fixed number"
            ) from error
        if not (isinstance(logits, Tensor) and logits.is_floating_point()):
            raise LiftError(
                f"the net returns {type(logits).__name__} where its forward returns logits: let no hook or "
                "__call__ of its own change them"
            )
        return logits

    def only_rounds(self, one: Tensor, other: Tensor) -> bool:
        """Whether logits are no further apart than those of images that differ in their last bits."""
        if one.shape != other.shape or not self._images.is_floating_point() or self._changes(0):
            return False
        nudged = self._images * (1 + 4 * torch.finfo(self._images.dtype).eps)
        sway = (self.logits(nudged) - self.logits(self._images)).abs().max()
        return bool((one - other).abs().max() <= _AMPLE * sway)

    def difference(self, mine: Tensor, tolerance: float) -> str:
        """Where the lifted model's logits come to differ from the net's.

        Args:
            mine: the model's, (N, classes).
            tolerance: as for `differ`.
        """
        if self._changes(tolerance):
            return _CHANGES
        forward = ("_forward_pre_hooks", "_forward_hooks")
        if (place := self._hooked(forward, lambda: self.logits(self._images), mine, tolerance)) is not None:
            return (
                f"a hook on {place} changes a value, and hooks are not lifted: let the net's forward do what it "
                "does, or remove it"
            )
        theirs = self.logits(self._images)
        try:
            translation, opaque, _ = translated(self._net, strict=self._strict, shape=self._images.shape[1:])
        except LiftError as error:
            return f"the net has changed since it was lifted: {error}"
        model = _values(translation, self._images)
        if not differ(model[translation.output.name], theirs, tolerance):
            return "the net has changed since it was lifted: lift it again"
        replay = _Replay(self._net, record(self._net, opaque, self._images.shape[1:])[0])
        replay.run(self._images.clone())
        for node, value in replay.made.items():
            if node.name in model and differ(model[node.name], value, tolerance):
                return self._parting(node, replay.rewritten.get(node))
        return f"{type(self._net).__name__} is called by a __call__ of its own: let its forward do all"

    def mixing(self, image: int, tolerance: float) -> str:
        """Where an image comes to have other values alone than in the batch.

        Args:
            image: its place in the batch.
            tolerance: as for `differ`.
        """
        if self._changes(tolerance):
            return _CHANGES
        graph, _ = record(self._net, shape=self._images.shape[1:])
        batch, alone = (_Replay(self._net, graph) for _ in range(2))
        batch.run(self._images.clone())
        alone.run(self._images[image : image + 1].clone())
        n = len(self._images)
        features = set[fx.Node]()
        for node, value in batch.made.items():
            other = alone.made[node]
            if isinstance(value, Tensor | tuple) and (
                node.op == "placeholder" or features & {*node.all_input_nodes}
            ):
                features.add(node)
            if node in features and isinstance(other, Tensor) and differ(value, other, 0):
                whole = value.numel() != n * other.numel()
                if whole or differ(value.reshape(n, -1)[image], other.flatten(), tolerance):
                    return (
                        f"{name_of(node, self._net)} mixes images: alone, an image has other logits than in a "
                        "batch; let it work on each image by itself (a batch norm by running statistics)"
                    )
        return "the net mixes images, by a hook or a __call__ of its own: alone, an image has other logits"

    def backward_hook(self, tolerance: float) -> str | None:
        """Whose hook changes gradients, if any does: what the model draws is the gradient without it."""
        try:
            place = self._hooked(("_backward_pre_hooks", "_backward_hooks"), self._gradient, None, tolerance)
        except RuntimeError:  # the net itself has no gradient
            return None
        return place and f"a hook on {place} changes gradients, and hooks are not lifted: remove it"

    def _changes(self, tolerance: float) -> bool:
        """Whether logits differ from call to call."""
        return differ(self.logits(self._images), self.logits(self._images), tolerance)

    def _failing(self, images: Tensor) -> str:
        with suppress(LiftError):  # a net that has changed may not be traced any more
            replay = _Replay(self._net, record(self._net, shape=images.shape[1:])[0])
            try:
                replay.run(images.clone())
            except Exception:  # noqa: BLE001  (the one that is being told)
                return name_of(replay.at, self._net)
        return "the net"

    def _gradient(self) -> Tensor:
        with torch.enable_grad():
            images = self._images.clone().requires_grad_()
            return torch.autograd.grad(self._net(images.clone()).sum(), images)[0]

    def _hooked(
        self, kinds: Sequence[str], run: Callable[[], Tensor], goal: Tensor | None, tolerance: float
    ) -> str | None:
        """Whose hooks lead away from a value, by default the one without any; those that do not are left off."""
        tables = [("every module", GLOBAL_HOOKS[kind]) for kind in kinds]
        for path, module in self._net.named_modules():
            place = f"layer {path!r} ({type(module).__name__})" if path else "the net"
            tables += [(place, vars(module)[kind]) for kind in kinds]
        hooks = [
            (place, table, {k: h for k, h in table.items() if not computes_weight(h)}) for place, table in tables
        ]
        hooks = [(place, table, own) for place, table, own in hooks if own]
        for _, table, own in hooks:
            for key in own:
                del table[key]
        if not hooks or (goal is not None and differ(run(), goal, tolerance)):
            return None
        goal = run() if goal is None else goal
        for place, table, own in hooks:
            table.update(own)
            if differ(run(), goal, tolerance):
                return place
        return None

    def _parting(self, node: fx.Node, rewritten: fx.Node | None) -> str:
        name = name_of(node, self._net)
        if rewritten is not None:
            return (
                f"{name} reads what {kind_of(rewritten, self._net)!r} ({rewritten.name}) has made, after an "
                "in-place operation has written to it: clone it before, or do not work in place"
            )
        return f"{name} has other values in the lifted model than in the net: write it another way, and report it"


class _Replay(fx.Interpreter):
    """Runs a recorded net, one operation after the other.

    Attributes:
        at: the operation that ran last.
        made: what each has made.
        rewritten: of those that read what is no longer as it was made: what they read.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph) -> None:
        super().__init__(net, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.at = next(iter(graph.nodes))
        self.made: dict[fx.Node, Any] = {}
        self.rewritten: dict[fx.Node, fx.Node] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        for source in n.all_input_nodes:
            if isinstance(self.env[source], Tensor) and differ(self.env[source], self.made[source], 0):
                self.rewritten[n] = source
        value = n.meta["value"] if "value" in n.meta else super().run_node(n)
        self.made[n] = fx.node.map_aggregate(
            value, lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf
        )
        return value


def differ(one: object, other: object, tolerance: float) -> bool:
    """Whether tensors are further apart than a share of the largest value; NaN is NaN."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    if one.shape != other.shape or one.dtype != other.dtype:
        return True
    if not other.numel() or not other.is_floating_point():
        return not torch.equal(one, other)
    size = float(other.nan_to_num(0, 0, 0).abs().max())
    return not torch.allclose(one, other, rtol=0, atol=tolerance * size, equal_nan=True)


def _values(translation: Translation, images: Tensor) -> dict[str, Any]:
    """The value of every operation in the model, by its node's name."""
    values: dict[fx.Node, Any] = {translation.images: images}
    for node, item in translation.items.items():
        inputs = [values[source] for source in item.sources]
        if item.function is not None:
            values[node] = item.function(*inputs)
        else:
            copies = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
            values[node] = translation.operations[translation.name(node)].infer(*copies)[0]
    return {node.name: value for node, value in values.items()}
