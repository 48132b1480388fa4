"""A lifted model answers for itself: its logits against the net's, and those of an image against its company."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, final
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from drmm.errors import InputError, LiftError
from drmm.lifting.diagnosis import Case, differ
from drmm.lifting.untouched import untouched
from drmm.model.deep import DRMM, evaluation

__all__ = ["Verification"]

_ALONE = 32  # images of a batch that are run alone: all of most batches


@final
class Verification:
    """Compares a lifted model with its net, on the first images of each shape and type.

    Logits are equal to the bit where the model is exact and the device's sums have one order, to rounding
    otherwise. An image's logits alone and in a batch are equal to rounding: a batch is computed in another order.

    A copy or a pickle is `None`, because the net is not part of the model: it may hold what cannot be copied.

    Args:
        net: run in evaluation mode, and left as it was.
        strict: as the model was lifted.
    """

    def __init__(self, net: nn.Module, *, strict: bool) -> None:
        self._net, self._strict = net, strict
        self._seen: set[tuple[object, ...]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __call__(self, model: DRMM, x: Tensor) -> None:
        """Check, unless images like these were checked before.

        Args:
            model: the lifted model.
            x: images (N, C, H, W).

        Raises:
            LiftError: if logits differ; it says where from.
        """
        if not _has_values(x):
            return
        kind = (x.shape[1:], x.dtype, x.device, len(x) > 1)  # what mixes images may not show on one
        if kind in self._seen:
            return
        try:
            self.check(model, x)
        except LiftError:
            if (error := self._error(x)) is None:
                raise
            if _error(partial(_inferred, model), x) is None:
                raise LiftError(f"the net itself fails on images of shape {tuple(x.shape)}: {error}") from None
            return  # the pass that follows refuses images that fit neither, in its own words
        self._seen.add(kind)

    def check(self, model: DRMM, images: Tensor) -> None:
        """Check on images (N, C, H, W) that fit the net, whether any like these were checked before or not.

        Raises:
            LiftError: as above.
        """
        with torch.no_grad(), evaluation(model), untouched(self._net, training=False):
            self._compare(model, _with_a_stranger(images.detach()))

    def begin(self, model: DRMM, example: Tensor | None) -> None:
        """Check at once.

        Args:
            model: the lifted model.
            example: images (N, C, H, W); None is noise of the model's image shape, or else of a square that the
                net takes, if one is found.

        Raises:
            LiftError: as above.
        """
        if example is not None:
            self.check(model, example)
            return
        shape = model.image_shape or self._shape(model)
        if shape is not None and not model.noise.is_meta:
            with suppress(InputError):  # a model that takes no images says so when it gets them
                self.check(model, model.noise.new_zeros(2, *shape))

    def require(self, images: Tensor, name: str) -> None:
        """Images (N, C, H, W) must fit the net.

        Raises:
            InputError: if they do not; it calls them by the name.
        """
        if not (isinstance(images, Tensor) and images.ndim > 1 and len(images)):
            raise InputError(f"{name} must be a tensor of images (N, C, H, W)")
        if (error := self._error(images)) is not None:
            raise InputError(f"{name} does not fit the net: {error}")

    def _error(self, images: Tensor) -> str | None:
        """What the net says to images that it fails on."""
        with torch.no_grad(), untouched(self._net, training=False):
            return _error(self._net, images)

    def _shape(self, model: DRMM) -> tuple[int, int, int] | None:
        """The first image shape of which the net makes logits, or what are no logits of any."""
        with catch_warnings(), torch.no_grad(), untouched(self._net, training=False):
            simplefilter("ignore")
            for shape in _shapes(self._net):
                with suppress(Exception):
                    logits = self._net(model.noise.new_zeros(2, *shape))
                    if not isinstance(logits, Tensor) or logits.shape == (2, model.n_classes):
                        return shape
        return None

    def _compare(self, model: DRMM, images: Tensor) -> None:
        case = Case(self._net, images, strict=self._strict)
        theirs = case.logits(images)
        ordered = images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        rounding = torch.finfo(theirs.dtype if ordered else torch.half).eps ** 0.5
        last = len(images) - 1
        for i in sorted({*range(0, last, -(-last // _ALONE)), last}):
            alone, beside = case.logits(images[i : i + 1]), theirs[i : i + 1]
            if differ(alone, beside, rounding) and not case.only_rounds(alone, beside):
                raise LiftError(case.mixing(i, rounding))
        try:
            mine = _inferred(model, images.clone())
        except InputError:
            raise
        except Exception as error:
            raise LiftError(
                f"the lifted model fails where the net does not ({' '.join(str(error).split())}): if the net "
                "has changed since it was lifted, lift it again"
            ) from error
        if not mine.shape == theirs.shape == (len(images), model.n_classes):
            raise LiftError(
                f"the net returns {tuple(theirs.shape)} for images of shape {tuple(images.shape)}, and must "
                f"return logits ({len(images)}, {model.n_classes}), a row for every image"
            )
        tolerance = 0 if ordered and not model.approximations else rounding
        if differ(mine, theirs, tolerance):
            raise LiftError(case.difference(mine, tolerance))
        if (hooked := case.backward_hook(rounding)) is not None:
            raise LiftError(hooked)


def _inferred(model: DRMM, images: Tensor) -> Tensor:
    """The logits of the pass that keeps switches, in which hooks on all modules there are do not run."""
    return model.templates(model.levels.infer(images)[0])  # type: ignore[no-any-return]


def _error(function: Callable[[Tensor], object], images: Tensor) -> str | None:
    """What a function says that fails on images."""
    try:
        function(images.clone())
    except Exception as error:  # noqa: BLE001  (to be told, or left to others)
        return " ".join(str(error).split())
    return None


def _shapes(net: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Image shapes (C, H, W) that nets take, likely ones first."""
    first = next((p.shape[1] for p in net.parameters() if p.ndim == 4), 1)
    for size in (32, 28, 8, 12, 16, 64, 224, *range(48, 0, -1)):
        for channels in dict.fromkeys((first, 3, 1)):
            yield channels, size, size


def _has_values(x: object) -> bool:
    """Whether there are numbers to compare: not while a compiler, a tracer or a transform of torch looks on."""
    return (
        isinstance(x, Tensor)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # noqa: SLF001
        and type(x) in {Tensor, nn.Parameter}
        and x.layout == torch.strided
        and x.device.type != "meta"
        and x.ndim > 1
        and x.numel() > 0
    )


def _with_a_stranger(x: Tensor) -> Tensor:
    """The images, and below them one of noise: no two of a black or a single image could change places."""
    seen = x.masked_fill(~x.isfinite(), 0)
    noise = torch.rand(x.shape[1:], generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    return torch.cat([seen, torch.empty_like(seen[:1]).copy_(noise * max(1.0, float(seen.max())))])
