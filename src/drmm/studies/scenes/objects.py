"""The things that scenes show: two scans that come with PyVista, and models put together from solids.

Object coordinates are right-handed: x is the front, z is up. Every object ends up in a sphere of radius 1 around
the origin, its longest axis known, as shades of grey: the colour is a latent of the scene and added later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from drmm.errors import InputError

__all__ = ["CLASSES", "Model", "build_model", "pyvista"]

Point = tuple[float, float, float]

_LIGHT, _MIDDLE, _DARK = 1.0, 0.65, 0.3  # shades of an object's parts
_SMOOTH = 40.0  # degrees: where faces meet at a larger angle there is an edge


def pyvista() -> Any:
    """PyVista, imported when first needed.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module("pyvista")
    except ImportError:
        raise InputError("scenes need PyVista: pip install 'drmm[scenes]'") from None


@dataclass(frozen=True)
class Model:
    """An object in the unit sphere.

    Attributes:
        mesh: a `pyvista.PolyData` with normals and the colours `shade`.
        longest: which of the object's axes is the longest.
    """

    mesh: Any
    longest: int


def build_model(name: str) -> Model:
    """The mesh of a class.

    Raises:
        InputError: if PyVista is not installed.
    """
    kit = _Kit(pyvista())
    _BUILDERS[name](kit)
    return kit.finished()


class _Kit:
    """Solids, collected."""

    def __init__(self, pv: Any) -> None:
        self.pv = pv
        self._parts: list[Any] = []

    def add(self, mesh: Any, shade: float = _LIGHT) -> None:
        """Any surface, in one shade."""
        part = mesh.triangulate().clean()
        part.clear_data()
        part = part.compute_normals(
            cell_normals=False, split_vertices=True, feature_angle=_SMOOTH, auto_orient_normals=True
        )
        part.point_data["shade"] = np.full((part.n_points, 3), round(255 * shade), np.uint8)
        self._parts.append(part)

    def box(self, centre: Point, lengths: Point, shade: float = _LIGHT) -> None:
        """An upright box."""
        x, y, z = lengths
        self.add(self.pv.Cube(center=centre, x_length=x, y_length=y, z_length=z), shade)

    def rod(self, start: Point, end: Point, radius: float, shade: float = _LIGHT) -> None:
        """A round rod between two points."""
        line = np.subtract(end, start)
        length = float(np.linalg.norm(line))
        middle = np.add(start, end) / 2
        self.add(
            self.pv.Cylinder(center=middle, direction=line, radius=radius, height=length, resolution=20), shade
        )

    def ball(self, centre: Point, radii: Point, shade: float = _LIGHT) -> None:
        """An upright ellipsoid."""
        sphere = self.pv.Sphere(radius=1.0, theta_resolution=20, phi_resolution=14)
        sphere.points = sphere.points * np.asarray(radii) + np.asarray(centre)
        self.add(sphere, shade)

    def ring(self, centre: Point, radius: float, width: float, shade: float = _LIGHT) -> None:
        """An upright ring that one looks through along y; `width` is the radius of its round."""
        torus = self.pv.ParametricTorus(
            ringradius=radius, crosssectionradius=width, u_res=32, v_res=12, w_res=2
        ).rotate_x(90)
        self.add(torus.translate(centre), shade)

    def hull(self, points: Sequence[Point], shade: float = _LIGHT) -> None:
        """The convex hull of some points."""
        corners = np.asarray(points, float)
        self.add(self.pv.PolyData.from_regular_faces(corners, ConvexHull(corners).simplices), shade)

    def finished(self) -> Model:
        """All of it, moved and shrunk into the unit sphere."""
        mesh = self.pv.merge(self._parts, merge_points=False)
        points: npt.NDArray[np.float64] = np.asarray(mesh.points, float)
        low, high = points.min(0), points.max(0)
        points = points - (low + high) / 2
        mesh.points = points / np.linalg.norm(points, axis=1).max()
        return Model(mesh, int(np.argmax(high - low)))


def _mirrored(points: Sequence[Point]) -> list[Point]:
    """Points, and the same on the other side of the plane y = 0."""
    return [*points, *((x, -y, z) for x, y, z in points)]


def _airplane(kit: _Kit) -> None:
    kit.add(kit.pv.examples.load_airplane().rotate_z(90))


def _ant(kit: _Kit) -> None:
    kit.add(kit.pv.examples.load_ant().rotate_z(-90).rotate_y(90).rotate_x(180))


def _boat(kit: _Kit) -> None:
    kit.hull(_mirrored([(-1, 0.3, 0), (0.4, 0.35, 0), (1.2, 0, 0.1), (-0.9, 0.15, -0.35), (0.7, 0.05, -0.35)]))
    kit.rod((0.1, 0, 0), (0.1, 0, 1.7), 0.04, _DARK)
    kit.hull(_mirrored([(0, 0.02, 0.2), (0, 0.02, 1.6), (-0.9, 0.02, 0.2)]), _MIDDLE)
    kit.hull(_mirrored([(0.2, 0.02, 0.2), (0.2, 0.02, 1.3), (0.9, 0.02, 0.2)]), _MIDDLE)


def _car(kit: _Kit) -> None:
    kit.box((0, 0, 0.3), (2.2, 0.9, 0.36))
    kit.hull(
        _mirrored([(-0.95, 0.42, 0.48), (0.55, 0.42, 0.48), (-0.75, 0.34, 0.85), (0.15, 0.34, 0.85)]), _MIDDLE
    )
    for x in (-0.65, 0.65):
        for y in (-0.46, 0.36):
            kit.rod((x, y, 0.15), (x, y + 0.1, 0.15), 0.22, _DARK)


def _chair(kit: _Kit) -> None:
    kit.box((0, 0, 0.5), (0.6, 0.6, 0.1))
    for x in (-0.25, 0.25):
        for y in (-0.25, 0.25):
            kit.box((x, y, 0.25), (0.08, 0.08, 0.5), _MIDDLE)
    kit.box((-0.26, 0, 0.9), (0.08, 0.6, 0.7))


def _dog(kit: _Kit) -> None:
    kit.ball((0, 0, 0.75), (0.75, 0.3, 0.3))
    kit.ball((0.85, 0, 1.15), (0.28, 0.24, 0.26))
    kit.ball((1.12, 0, 1.05), (0.24, 0.11, 0.11), _MIDDLE)
    kit.rod((0.55, 0, 0.85), (0.8, 0, 1.1), 0.16)
    for y in (-0.2, 0.2):
        kit.ball((0.75, 1.1 * y, 1.25), (0.1, 0.05, 0.26), _DARK)
        for x in (-0.5, 0.5):
            kit.rod((x, y, 0.7), (x, y, 0), 0.09)
    kit.rod((-0.65, 0, 0.85), (-1.05, 0, 1.3), 0.06, _DARK)


def _house(kit: _Kit) -> None:
    kit.box((0, 0, 0.5), (1.4, 1.1, 1))
    kit.hull(_mirrored([(-0.8, 0.65, 1), (0.8, 0.65, 1), (-0.8, 0, 1.7), (0.8, 0, 1.7)]), _MIDDLE)
    kit.box((-0.4, 0.25, 1.6), (0.2, 0.2, 0.6), _DARK)
    kit.box((0.7, 0, 0.35), (0.06, 0.3, 0.6), _DARK)
    for y in (-0.56, 0.56):
        for x in (-0.35, 0.35):
            kit.box((x, y, 0.6), (0.3, 0.04, 0.35), _DARK)


def _lamp(kit: _Kit) -> None:
    kit.rod((0, 0, 0), (0, 0, 0.12), 0.4, _DARK)
    kit.rod((0, 0, 0.1), (-0.4, 0, 0.9), 0.05, _MIDDLE)
    kit.rod((-0.4, 0, 0.9), (0.5, 0, 1.5), 0.05, _MIDDLE)
    shade = kit.pv.Cone(center=(0.68, 0, 1.3), direction=(-0.5, 0, 0.85), height=0.55, radius=0.42, resolution=24)
    kit.add(shade)


def _letter_opener(kit: _Kit) -> None:
    blade = [(0, 0, 0.05), (0, 0, -0.05), (1.5, 0, 0)]
    kit.hull([*blade, *_mirrored([(0.1, 0.14, 0), (1.0, 0.12, 0)])])
    kit.rod((0.05, 0.3, 0), (0.05, -0.3, 0), 0.06, _MIDDLE)
    kit.rod((0, 0, 0), (-0.7, 0, 0), 0.1, _DARK)


def _loupe(kit: _Kit) -> None:
    kit.ring((0.7, 0, 0), 0.6, 0.09)
    kit.rod((0.05, 0, 0), (-1.1, 0, 0), 0.1, _DARK)


def _mug(kit: _Kit) -> None:
    kit.rod((0, 0, 0), (0, 0, 1.2), 0.5)
    kit.rod((0, 0, 1.2), (0, 0, 1.21), 0.42, _DARK)  # what is in it
    kit.ring((0.55, 0, 0.6), 0.3, 0.08)


def _table(kit: _Kit) -> None:
    kit.box((0, 0, 0.75), (1.6, 0.9, 0.08))
    for x in (-0.7, 0.7):
        for y in (-0.36, 0.36):
            kit.box((x, y, 0.36), (0.09, 0.09, 0.72), _MIDDLE)
    kit.box((0.4, 0, 0.58), (0.5, 0.8, 0.26), _DARK)  # a drawer, so that it has a front


_BUILDERS: Mapping[str, Callable[[_Kit], None]] = MappingProxyType(
    {
        "airplane": _airplane,
        "ant": _ant,
        "boat": _boat,
        "car": _car,
        "chair": _chair,
        "dog": _dog,
        "house": _house,
        "lamp": _lamp,
        "letter_opener": _letter_opener,
        "loupe": _loupe,
        "mug": _mug,
        "table": _table,
    }
)
CLASSES = tuple(_BUILDERS)
