"""Rendered scenes with known latents: pictures of which class, pose, light and background are known exactly."""

__all__ = [
    "CLASSES",
    "CONDITIONS",
    "TEXTURES",
    "Condition",
    "Latents",
    "Ranges",
    "Renderer",
    "Scenes",
    "backgrounds",
    "load",
    "render",
    "sample",
    "write",
]

from drmm.studies.scenes.files import Scenes, load, write
from drmm.studies.scenes.latents import CONDITIONS, Condition, Latents, Ranges, sample
from drmm.studies.scenes.objects import CLASSES
from drmm.studies.scenes.renderer import Renderer, render
from drmm.studies.scenes.textures import TEXTURES, backgrounds
