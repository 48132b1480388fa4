"""Scenes drawn: the object by PyVista without a screen, the background apart from it, and both put together.

One plotter draws all scenes; the object of each class stays on the graphics card and is only made visible, moved
and lit. What it draws is a shade of grey and a coverage for each pixel. Colour, background, contrast and occlusion
are then plain arithmetic, so a scene with another background has exactly the same object in it:

    picture = (1 − κα) background + κ α shade · colour,    α the coverage, κ the contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb
from PIL import Image

from drmm.errors import InputError, RunError
from drmm.studies.scenes.latents import Latents
from drmm.studies.scenes.objects import build_model, pyvista
from drmm.studies.scenes.textures import backgrounds

__all__ = ["Renderer", "render"]

Images = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_FINER = 4  # a pixel is the mean of so many by so many: thin parts do not break up
_CHUNK = 250  # scenes that are put together at a time
_AMBIENT = 0.35  # share of the light that comes from everywhere
_SATURATION, _VALUE = 0.65, 1.0  # of the object's colour
_CARD = 0.5  # the occluder's grey
_LARGEST = 512

# Object axes (x front, z up) on the screen (X right, Y up, Z to the viewer).
_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def render(latents: Latents, size: int = 64) -> tuple[Images, Masks]:
    """Draw scenes once. A `Renderer` saves its start, of about a second, where there are more calls.

    Args:
        latents: N scenes.
        size: side of the pictures in pixels.

    Returns:
        As `Renderer.render`.

    Raises:
        InputError: if the size is out of range, or PyVista is not installed.
        RunError: if this computer cannot draw without a screen.
    """
    with Renderer(size) as renderer:
        return renderer.render(latents)


class Renderer:
    """A plotter without a screen, to be closed after use or used in a `with` statement.

    Args:
        size: side of the pictures in pixels, 8 to 512.

    Raises:
        InputError: if the size is out of range, or PyVista is not installed.
        RunError: if this computer cannot draw without a screen.
    """

    def __init__(self, size: int = 64) -> None:
        check_size(size)
        self.size = size
        self._plotter = _plotter(size * _FINER)
        self._window = self._plotter.render_window
        self._light = pyvista().Light(light_type="scene light", position=(0, 0, 1), focal_point=(0, 0, 0))
        self._plotter.add_light(self._light)
        self._actors: dict[str, tuple[Any, int]] = {}
        self._pixels = _vtk().vtkUnsignedCharArray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the plotter's memory back."""
        self._plotter.close()

    def render(self, latents: Latents) -> tuple[Images, Masks]:
        """Draw scenes.

        Args:
            latents: N scenes.

        Returns:
            Pictures uint8 (N, 3, size, size), and masks bool (N, size, size): the pixels that the object covers,
            at least in part, and no card hides. Elsewhere, but for the card, a picture is exactly its background.
        """
        images = np.empty((len(latents), 3, self.size, self.size), np.uint8)
        masks = np.empty((len(latents), self.size, self.size), np.bool_)
        for start in range(0, len(latents), _CHUNK):
            part = slice(start, start + _CHUNK)
            images[part], masks[part] = self._chunk(latents[part])
        return images, masks

    def _chunk(self, latents: Latents) -> tuple[Images, Masks]:
        shade, coverage = self._objects(latents)
        card = _cards(latents, coverage)
        shade, coverage = np.where(card, 0, shade), np.where(card, 0, coverage)
        contrast = latents.contrast.astype(np.float32)[:, None, None, None]
        picture = backgrounds(latents.texture, latents.texture_seed, self.size)
        picture *= 1 - contrast * coverage[:, None]
        picture += contrast * shade[:, None] * _colours(latents)[:, :, None, None]
        picture = np.where(card[:, None], np.float32(_CARD), picture)
        return (255 * picture + 0.5).astype(np.uint8), coverage > 0

    def _objects(self, latents: Latents) -> tuple[Floats, Floats]:
        """Shade (times coverage) and coverage of each pixel, (N, size, size) in [0, 1]."""
        drawn = np.stack([self._drawn(latents, i) for i in range(len(latents))])
        levels = np.asarray(drawn, np.float32) / np.float32(255)
        return levels[..., 0], levels[..., 3]

    def _drawn(self, latents: Latents, i: int) -> Images:
        """Levels (size, size, 4) of one object on nothing; the last is its coverage."""
        actor, longest = self._actor(latents.classes[latents.label[i]])
        actor.user_matrix = _placed(latents, i, longest)
        actor.visibility = True
        self._light.position = _direction(latents.light_azimuth[i], latents.light_elevation[i])
        self._window.Render()
        side = self.size * _FINER
        self._window.GetRGBACharPixelData(0, 0, side - 1, side - 1, 0, self._pixels)
        actor.visibility = False
        # Rows come from the bottom up. As "RGBX" the fourth channel is averaged like the others; as "RGBA" it
        # would weight them.
        fine = Image.frombuffer("RGBX", (side, side), np.frombuffer(self._pixels, np.uint8), "raw", "RGBX", 0, -1)
        return np.asarray(fine.reduce(_FINER))

    def _actor(self, name: str) -> tuple[Any, int]:
        if name not in self._actors:
            model = build_model(name)
            actor = self._plotter.add_mesh(
                model.mesh,
                scalars="shade",
                rgb=True,
                ambient=_AMBIENT,
                diffuse=1 - _AMBIENT,
                specular=0.0,
                smooth_shading=False,  # normals are the model's own
                render=False,
                reset_camera=False,
            )
            actor.prop.interpolation = "gouraud"
            actor.visibility = False
            self._actors[name] = actor, model.longest
        return self._actors[name]


def check_size(size: int) -> None:
    """Refuse a side that cannot be drawn.

    Raises:
        InputError: if it is not 8 to 512.
    """
    if not 8 <= size <= _LARGEST:
        raise InputError(f"size must be 8 to {_LARGEST} pixels: got {size}")


def _plotter(side: int) -> Any:
    """A square view from afar along −Z onto [−1, 1]², without light and on nothing."""
    with _quiet():
        plotter = pyvista().Plotter(off_screen=True, window_size=(side, side), lighting="none")
        plotter.render_window.SetMultiSamples(0)
        plotter.render_window.SetAlphaBitPlanes(1)
        plotter.render_window.Initialize()
        if not plotter.render_window.IsCurrent():
            raise RunError("cannot draw: no OpenGL without a screen here; install Mesa's libEGL or libOSMesa")
    plotter.set_background("black")  # what is not covered has no shade
    plotter.renderer.SetBackgroundAlpha(0.0)
    camera = plotter.camera
    camera.position, camera.focal_point, camera.up = (0, 0, 10), (0, 0, 0), (0, 1, 0)
    camera.parallel_projection, camera.parallel_scale = True, 1.0
    camera.clipping_range = (1, 20)
    return plotter


@contextmanager
def _quiet() -> Iterator[None]:
    """VTK tries a screen first, and would tell that there is none."""
    logger = _vtk().vtkLogger
    before = logger.GetCurrentVerbosityCutoff()
    logger.SetStderrVerbosity(logger.VERBOSITY_OFF)
    try:
        yield
    finally:
        logger.SetStderrVerbosity(before)


def _vtk() -> Any:
    return import_module("vtkmodules.vtkCommonCore")


def _placed(latents: Latents, i: int, longest: int) -> npt.NDArray[np.float64]:
    """The matrix (4, 4) that takes the object in its unit sphere onto the screen [−1, 1]²."""
    lengths = np.full(3, latents.thickness[i])
    lengths[longest] = 1.0
    turned = _turn(2, latents.roll[i]) @ _turn(0, latents.elevation[i]) @ _turn(1, latents.azimuth[i]) @ _UPRIGHT
    matrix = np.eye(4)
    matrix[:3, :3] = latents.scale[i] * turned * lengths  # columns are the object's own axes
    matrix[:2, 3] = 2 * latents.x[i], -2 * latents.y[i]
    return matrix


def _turn(axis: int, degrees: float) -> npt.NDArray[np.float64]:
    """Rotation (3, 3) about an axis, counterclockwise seen from its tip."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[one, one] = matrix[two, two] = cos
    matrix[one, two], matrix[two, one] = -sin, sin
    return matrix


def _direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Where light comes from, on the screen's axes."""
    a, e = np.radians(azimuth), np.radians(elevation)
    return float(np.sin(a) * np.cos(e)), float(np.sin(e)), float(np.cos(a) * np.cos(e))


def _colours(latents: Latents) -> Floats:
    """(N, 3)."""
    hsv = np.stack([latents.hue, np.full(len(latents), _SATURATION), np.full(len(latents), _VALUE)], 1)
    return np.asarray(hsv_to_rgb(hsv), np.float32)


def _cards(latents: Latents, coverage: Floats) -> Masks:
    """Pixels (N, size, size) under a straight card that hides the wanted share of each object from one side."""
    cards = np.zeros(coverage.shape, np.bool_)
    rows, columns = np.indices(coverage.shape[1:])
    for i in np.flatnonzero(latents.occlusion > 0):
        angle = np.radians(latents.occluder_angle[i])
        along = np.cos(angle) * columns - np.sin(angle) * rows
        across = np.sin(angle) * columns + np.cos(angle) * rows
        seen = coverage[i] > 0
        if seen.any():
            edge = _edge(along[seen], coverage[i][seen], latents.occlusion[i])
            low, high = across[seen].min() - 1, across[seen].max() + 1
            inside = (along >= edge) & (along <= along[seen].max() + 1) & (across >= low) & (across <= high)
            cards[i] = inside
    return cards


def _edge(position: npt.NDArray[np.float64], weight: Floats, share: float) -> float:
    """Where to begin so that the places from there on come closest to that share of the weight."""
    lines, line = np.unique(-position.round(6), return_inverse=True)  # pixels of one line are hidden together
    beyond = np.cumsum(np.bincount(line, weight.astype(np.float64)))
    hidden = int(np.argmin(np.abs(np.concatenate([[0.0], beyond]) - share * beyond[-1])))
    return -float(lines[hidden - 1]) - 1e-6 if hidden else np.inf
