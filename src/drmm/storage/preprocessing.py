"""What a net was trained on: pictures of a size, whose channels were shifted and scaled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drmm.errors import InputError
from drmm.files import expanded, read_json

__all__ = ["EXAMPLE", "Preprocessing"]

EXAMPLE = "size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
_NAMES = ("size", "mean", "std")
# What an image processor of Hugging Face may do besides, which is no mean and deviation of each channel.
_BESIDES = ("do_flip_channel_order", "rescale_offset", "include_top")


@dataclass(frozen=True)
class Preprocessing:
    """How pictures in [0, 1] become what a net takes: (picture - mean) / std.

    Attributes:
        mean: of each channel, or one number for all.
        std: likewise, in the same unit.
        size: height and width that they are resized to; None where nothing says.

    Raises:
        InputError: if a number is out of range: those of pictures in 0 to 255 are.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len({1, len(self.mean), len(self.std)}) > 2:
            raise InputError(f"mean and std are of {len(self.mean)} and {len(self.std)} channels: give as many")
        if not all(0 <= mean <= 1 for mean in self.mean) or not all(0 < std <= 1 for std in self.std):
            raise InputError(
                f"mean lies in [0, 1], and std above 0, as pictures do, not {_said(self.mean)} and "
                f"{_said(self.std)}: divide them by 255 if they are of levels"
            )
        if self.size is not None and min(self.size) < 4:
            raise InputError(f"pictures of {_said(self.size, 'x')} pixels are too small: use a size of 4 or more")

    def __str__(self) -> str:
        """As it is read again."""
        said = {"mean": _said(self.mean), "std": _said(self.std)}
        if self.size is not None:
            said = {"size": _said(self.size, "x"), **said}
        return ",".join(f"{name}={value}" for name, value in said.items())

    @property
    def channels(self) -> int | None:
        """How many the net takes; None where one number stands for all."""
        return max(len(self.mean), len(self.std)) if len(self.mean) + len(self.std) > 2 else None

    @classmethod
    def read(cls, asked: object) -> Preprocessing:
        """As it is written by hand, or by others.

        Args:
            asked: text such as `EXAMPLE`; a mapping of the same names, or as timm (`mean`, `std`, `input_size`) or
                Hugging Face (`image_mean`, `image_std`, `size`, `crop_size`) have it; or a JSON file of one.

        Raises:
            InputError: if it says no mean and std, something unknown, or what these cannot do.
            RunError: if the file cannot be read.
        """
        if isinstance(asked, Preprocessing):
            return asked
        if isinstance(asked, str):
            return cls.read(dict(_pairs(asked)) if "=" in asked else read_json(expanded(asked), "get it again"))
        if not isinstance(asked, Mapping):
            raise InputError(f"a preprocessing is text such as {EXAMPLE}, or a dictionary, not {asked!r}")
        plain = _plain(asked)
        if unknown := [name for name in plain if name not in _NAMES]:
            raise InputError(f"no preprocessing {unknown[0]!r}: choose from {', '.join(_NAMES)}, as in {EXAMPLE}")
        if missing := [name for name in ("mean", "std") if plain.get(name) is None]:
            raise InputError(f"the preprocessing says no {missing[0]}: write all of it, as in {EXAMPLE}")
        size = plain.get("size")
        return cls(_numbers("mean", plain["mean"]), _numbers("std", plain["std"]), size and _size(size))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of `name=value,name=value`; commas within a value are left to it."""
    seen = set()
    for part in re.split(r",(?=[^,=]*=)", text):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name in seen:
            raise InputError(f"cannot read the preprocessing {text!r}: write it once each, as in {EXAMPLE}")
        seen.add(name)
        yield name, value


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Size, mean and std of what timm and Hugging Face keep beside their weights; anything else as it is."""
    config = config.get("pretrained_cfg", config)
    if "input_size" in config:
        return {"size": config["input_size"][-2:], "mean": config.get("mean"), "std": config.get("std")}
    if not {"image_mean", "image_processor_type", "feature_extractor_type"} & config.keys():
        return dict(config)
    odd = [name for name in _BESIDES if config.get(name)]
    if not config.get("do_rescale", True) or abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        odd.append("do_rescale")
    if odd:
        raise InputError(
            f"{odd[0]} of the image processor is no mean and std: write what the net takes, as in {EXAMPLE}"
        )
    cropped = config.get("do_center_crop", "crop_size" in config) and config.get("crop_size")
    normalised = config.get("do_normalize", True)
    return {
        "size": cropped or config.get("size"),
        "mean": config.get("image_mean") if normalised else 0,
        "std": config.get("image_std") if normalised else 1,
    }


def _size(value: Any) -> tuple[int, int]:
    """Height and width, of a number, of two, or of a mapping as Hugging Face has it."""
    if isinstance(value, Mapping):
        side = value.get("shortest_edge")
        value = [value.get("height", side), value.get("width", side)]
    sides = _numbers("size", value)
    if len(sides) > 2 or any(side != int(side) for side in sides):
        raise InputError(f"size is a number of pixels or HxW, not {value}")
    return int(sides[0]), int(sides[-1])


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """One number or several, of which text has "/" between them."""
    words: Any = re.split(r"[\s/,;x×]+", value.strip()) if isinstance(value, str) else value
    try:
        numbers = tuple(map(float, words if hasattr(words, "__iter__") else [words]))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or not all(abs(number) < float("inf") for number in numbers):
        raise InputError(f"{name} of a preprocessing is a number or several, as in {EXAMPLE}, not {value!r}")
    return numbers


def _said(numbers: Sequence[float], between: str = "/") -> str:
    return between.join(str(number) for number in numbers)
