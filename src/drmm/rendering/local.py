"""Any affine map is a rendering, and any smooth one can be made one near a picture.

Both get their transpose from automatic differentiation. For an affine function it is exact. For any other function
it is the transpose at the features that were seen: a local linear map, which explains that picture and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from drmm.errors import InputError
from drmm.rendering.base import Rendering, Switches, chosen
from drmm.rendering.joins import Join, shapes_of
from drmm.rendering.kinds import AffineRendering, pull_back

__all__ = ["Affine", "AffineJoin", "LocalJoin", "LocalLinear", "is_approximate", "is_local"]

Function = Callable[..., Tensor]


@final
class Affine(AffineRendering):
    """A function that is affine in its first argument: a reshape, slice, mean or resizing, any convolution.

    Args:
        function: features (N, ...) to features (N, ...); further arguments are settings, see `infer`. A module's
            parameters become this rendering's.
        increasing: whether no output falls when an input grows, so that bounds pass through.
        transpose: of the function: from z (N, ...), the shape of the canvas and the settings to the canvas. None
            leaves it to automatic differentiation, which has to go up before it comes down.
    """

    def __init__(self, function: Function, *, increasing: bool = False, transpose: Function | None = None) -> None:
        super().__init__()
        self.function = function
        self.increasing = increasing
        self.transpose = transpose

    def infer(self, x: Tensor, *settings: object) -> tuple[Tensor, Switches]:
        """Apply the function.

        Args:
            x: (N, ...).
            settings: what else it depends on, such as sizes; the same go to `render`.

        Raises:
            InputError: if the function moves images away from the first dimension.
        """
        return _per_image(self.function(x, *settings), x), Switches(tuple(x.shape[1:]))

    def forward(self, x: Tensor, *settings: object) -> Tensor:
        """The features alone."""
        return self.function(x, *settings)

    def render(self, z: Tensor, switches: Switches, *settings: object) -> Tensor:
        """Its transpose; by a vector-Jacobian product at a blank canvas, if none is given."""
        if self.transpose is not None:
            return self.transpose(z, switches.shape, *settings)
        blank = z.new_zeros(()).expand(z.shape[0], *switches.shape)
        return pull_back(lambda x: self.function(x, *settings), (blank,), z)[0]

    def given(self, *settings: object) -> Affine:
        """The function of its first argument alone."""
        if not settings:
            return self
        down = self.transpose
        return Affine(
            lambda x: self.function(x, *settings),
            increasing=self.increasing,
            transpose=None if down is None else lambda z, shape: down(z, shape, *settings),
        )

    @property
    def name(self) -> str:
        """With the function's name."""
        return f"Affine({_name(self.function)})"


@final
class LocalLinear(Rendering):
    """An approximation: a smooth function (GELU, attention, layer norm) by its derivative where it was evaluated.

    It draws the gradient, so that active paths still sum up, but it draws nothing that was not seen: no prior, no
    bound. The features are kept for it, not a bit for each unit.

    Args:
        function: features (N, ...) to features (N, ...). A module's parameters become this rendering's.
        exact: whether the function consists of affine pieces (a sort, a mask of what is positive), so that the
            derivative is all that it does to a picture, and this is no approximation.
    """

    def __init__(self, function: Function, *, exact: bool = False) -> None:
        super().__init__()
        self.function = function
        self.exact = exact

    def infer(self, x: Tensor, *settings: object) -> tuple[Tensor, Switches]:
        """Apply the function, and keep x; arguments as in `Affine`."""
        return _per_image(self.function(x, *settings), x), Switches(tuple(x.shape[1:]), point=x.detach())

    def forward(self, x: Tensor, *settings: object) -> Tensor:
        """The features alone."""
        return self.function(x, *settings)

    def render(self, z: Tensor, switches: Switches, *settings: object) -> Tensor:
        """The transpose of the derivative at x."""
        point = chosen(switches.point, "point")
        return pull_back(lambda x: self.function(x, *settings), (point,), z)[0]

    def given(self, *settings: object) -> LocalLinear:
        """The function of its first argument alone."""
        if not settings:
            return self
        return LocalLinear(lambda x: self.function(x, *settings), exact=self.exact)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """None: its entries are those of one picture."""
        del paths, switches, every
        raise InputError(f"{_name(self.function)} has no paths to count: it is drawn by a local linear map")


@final
class AffineJoin(Join):
    """As `Affine`, of several inputs at once.

    Args:
        function: several features (N, ...) to one; further arguments are settings.
        inputs: how many features there are.
        increasing: whether no output falls when an input grows, so that bounds pass through.
    """

    def __init__(self, function: Function, inputs: int, *, increasing: bool = False) -> None:
        super().__init__()
        self.function = function
        self.inputs = inputs
        self.increasing = increasing

    def infer(self, *xs: Any) -> tuple[Tensor, Switches]:
        """Apply the function to the features and the settings."""
        return _per_image(self.function(*xs), xs[0]), shapes_of(xs[: self.inputs])

    def forward(self, *xs: Any) -> Tensor:
        """The features alone."""
        return self.function(*xs)

    def given(self, *settings: object) -> AffineJoin:
        """The function of the features alone."""
        if not settings:
            return self
        return AffineJoin(lambda *xs: self.function(*xs, *settings), self.inputs, increasing=self.increasing)

    def bounds(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The values at both ends, of a function that increases."""
        if not self.increasing:
            return super().bounds(lowers, uppers)
        return self.forward(*lowers), self.forward(*uppers)

    @property
    def name(self) -> str:
        """With the function's name."""
        return f"AffineJoin({_name(self.function)})"

    def render(self, z: Tensor, switches: Switches, *settings: object) -> tuple[Tensor, ...]:
        """The transpose for each input."""
        blanks = tuple(z.new_zeros(()).expand(z.shape[0], *part.shape) for part in switches.parts)
        return pull_back(lambda *xs: self.function(*xs, *settings), blanks, z)


@final
class LocalJoin(Join):
    """As `LocalLinear`, of several inputs: products of features, gates.

    Args:
        function: several features (N, ...) to one; further arguments are settings.
        inputs: how many features there are.
        exact: as for `LocalLinear`.
    """

    def __init__(self, function: Function, inputs: int, *, exact: bool = False) -> None:
        super().__init__()
        self.function = function
        self.inputs = inputs
        self.exact = exact

    def infer(self, *xs: Any) -> tuple[Tensor, Switches]:
        """Apply the function to the features and the settings, and keep the features."""
        switches = shapes_of(xs[: self.inputs])
        parts = (replace(part, point=x.detach()) for part, x in zip(switches.parts, xs, strict=False))
        return _per_image(self.function(*xs), xs[0]), replace(switches, parts=tuple(parts))

    def forward(self, *xs: Any) -> Tensor:
        """The features alone."""
        return self.function(*xs)

    def given(self, *settings: object) -> LocalJoin:
        """The function of the features alone."""
        if not settings:
            return self
        return LocalJoin(lambda *xs: self.function(*xs, *settings), self.inputs, exact=self.exact)

    @property
    def name(self) -> str:
        """With the function's name."""
        return f"LocalJoin({_name(self.function)})"

    def render(self, z: Tensor, switches: Switches, *settings: object) -> tuple[Tensor, ...]:
        """The transpose of the derivative with respect to each input."""
        points = tuple(chosen(part.point, "point") for part in switches.parts)
        return pull_back(lambda *xs: self.function(*xs, *settings), points, z)


def _per_image(y: Tensor, x: Tensor) -> Tensor:
    if y.ndim == 0 or y.shape[0] != x.shape[0]:
        raise InputError(
            f"an operation turns {len(x)} images into {tuple(y.shape)}: keep images in the first dimension"
        )
    return y


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def is_local(module: nn.Module) -> bool:
    """Whether a module draws by its derivative where it was evaluated, and so nothing that was not seen."""
    return isinstance(module, LocalLinear | LocalJoin)


def is_approximate(module: nn.Module) -> bool:
    """Whether a module draws by a local linear map which is not all that it does."""
    return isinstance(module, LocalLinear | LocalJoin) and not module.exact
