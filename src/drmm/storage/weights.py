"""Weights that somebody else has saved: which of them are a net's own, by names and shapes."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from drmm.errors import InputError, RunError
from drmm.files import read_bytes

__all__ = ["Loaded", "load_weights", "sha256_of"]

_SHOWN = 5  # names in a list
_COUNTER = "num_batches_tracked"  # which decides nothing

Names = dict[str, str]
"""What a file calls a tensor, by what the net calls it."""


@dataclass(frozen=True)
class Loaded:
    """What became of a file of weights.

    Attributes:
        source: the file.
        prefix: where in it the net's tensors are, such as "state_dict.module."; "" is everywhere.
        found: what the file calls the tensors that the net got, by what the net calls them.
        missing: those that it did not find.
        reshaped: those of which the file has others, of another shape, with both shapes.
        unexpected: what the file calls the tensors beside them that the net does not have.
    """

    source: Path
    prefix: str
    found: Names
    missing: tuple[str, ...]
    reshaped: Mapping[str, str]
    unexpected: tuple[str, ...]

    def account(self) -> str:
        """In one line."""
        total = len(self.found) + len(self.missing) + len(self.reshaped)
        where = f" ({self.prefix}*)" if self.prefix else ""
        left = {
            "missing": self.missing,
            "of another shape": [f"{name} ({shapes})" for name, shapes in self.reshaped.items()],
            "not used": self.unexpected,
        }
        rest = [f"{why}: {_some(names)}" for why, names in left.items() if names]
        return "; ".join([f"{len(self.found)} of the net's {total} tensors are from {self.source}{where}", *rest])

    def require(self, net: nn.Module, used: nn.Module) -> None:
        """Refuse weights that are not all of what is used.

        Args:
            net: that they were loaded into.
            used: some of its layers.

        Raises:
            InputError: if one of their tensors was not found.
        """
        ids = {id(tensor) for tensor in _tensors(used).values()}
        own = _tensors(net)
        below = [name for name, tensor in own.items() if id(tensor) in ids]
        got = {id(own[name]) for name in self.found if name in own}
        lacking = [name for name in (*self.missing, *self.reshaped) if name in below and id(own[name]) not in got]
        remedy = "give the weights of this very net"
        if lacking:
            shown = _some([f"{n} ({self.reshaped[n]})" if n in self.reshaped else n for n in lacking])
            what = f"{len(lacking)} of the {len(below)} tensors below the class templates"
            raise InputError(f"{self.source} lacks {what}, {shown}: {remedy}")
        if more := _of_a_deeper_net([self.found[name] for name in self.found if name in below], self.unexpected):
            raise InputError(f"{self.source} is of a deeper net, which has {_some(more)} too: {remedy}")


def load_weights(net: nn.Module, source: Path, digest: str = "") -> Loaded:
    """Copy what a file holds into a net: by name, whatever stands before all names, and by shape.

    Args:
        net: changed in place.
        source: safetensors, or a file of torch's with nothing but tensors, however deep in it.
        digest: SHA-256 of the file, where that is known.

    Raises:
        InputError: if it has several sets of weights for this net, or numbers that are not finite.
        RunError: if it cannot be read, is another file than it was, or holds more than tensors.
    """
    content = read_bytes(source)
    if digest and digest != hashlib.sha256(content).hexdigest():
        raise RunError(f"{source} holds other weights than before: put the former file back, or train anew")
    theirs = _read(content, source)
    mine = {n: t for n, t in net.state_dict().items() if isinstance(t, Tensor) and not n.endswith(_COUNTER)}
    own_prefix, prefix, names = _matched(theirs, mine, source)
    if bad := [name for name in names.values() if not bool(theirs[name].isfinite().all())]:
        raise InputError(f"{bad[0]} in {source} holds numbers that are not finite: get the file again")
    net.load_state_dict({own: theirs[name] for own, name in names.items()}, strict=False)
    alike = {
        own: prefix + own.removeprefix(own_prefix) for own in mine.keys() - names if own.startswith(own_prefix)
    }
    reshaped = {own: alike[own] for own in mine if alike.get(own) in theirs}
    used = {*names.values(), *reshaped.values()}
    return Loaded(
        source,
        prefix,
        names,
        tuple(own for own in mine if own not in names and own not in reshaped),
        {own: f"{_shape(theirs[name])} for {_shape(mine[own])}" for own, name in reshaped.items()},
        tuple(name for name in theirs if name.startswith(prefix) and name not in used),
    )


def sha256_of(source: Path) -> str:
    """Of a file, in hexadecimal.

    Raises:
        RunError: if it cannot be read.
    """
    return hashlib.sha256(read_bytes(source)).hexdigest()


def _read(content: bytes, source: Path) -> dict[str, Tensor]:
    """Every tensor of a file, by the names on the way to it."""
    try:
        if content[8:9] == b"{":
            held = load(content)
        else:
            held = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except SafetensorError as error:
        raise RunError(f"{source} is damaged ({error}): get it again") from error
    except Exception as error:  # torch raises a dozen kinds, and says how to unpickle what should not be
        raise RunError(
            f"{source} is damaged, or holds more than tensors: let it hold the net's state_dict alone"
        ) from error
    tensors = {name: tensor for name, tensor in _flat(held) if not name.endswith(_COUNTER)}
    if not tensors:
        raise RunError(f"{source} holds no named tensors: give a net's state_dict")
    return tensors


def _flat(held: object, above: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of mappings within mappings, such as a checkpoint's."""
    if isinstance(held, Mapping):
        for name, value in held.items():
            yield from _flat(value, f"{above}.{name}" if above else str(name))
    elif isinstance(held, Tensor) and held.layout is torch.strided and above:
        yield above, held


def _matched(theirs: Mapping[str, Tensor], mine: Mapping[str, Tensor], source: Path) -> tuple[str, str, Names]:
    """What stands before all names, in the net and in the file; and each name there by that of the net.

    The most tensors decide. Of several that have as many, an average of weights (EMA) is meant to be used.
    """
    ways: dict[tuple[tuple[str, str], ...], tuple[str, str]] = {}
    here, there = _prefixes(mine), _prefixes(theirs)
    for own in (prefix for prefix, n in here.items() if 2 * n >= len(mine)):
        for other in (prefix for prefix, n in there.items() if 2 * n >= here[own]):
            pairs = ((name, other + name.removeprefix(own)) for name in mine if name.startswith(own))
            same = tuple((a, b) for a, b in pairs if b in theirs and theirs[b].shape == mine[a].shape)
            ways.setdefault(same, (own, other))
    most = max(map(len, ways), default=0)
    if not most:
        raise InputError(
            f"no tensor in {source} has a name and a shape of the net: it has {_some(list(theirs))}, and the net "
            f"{_some(list(mine))}"
        )
    best = [way for way in ways if len(way) == most]
    best = [way for way in best if "ema" in re.split(r"\W|_", ways[way][1].lower())] or best
    if len(best) > 1:
        several = _some([f"{ways[way][1]}*" for way in best])
        raise InputError(f"{source} holds several nets ({several}): save the one that is meant")
    return *ways[best[0]], dict(best[0])


def _of_a_deeper_net(used: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Weights of layers that a list of layers has besides, as layer1.2 after layer1.0 and layer1.1.

    Not those of the last list: a net may be cut off there.
    """
    known = {layer for name in used for layer in _layers(name)}
    last = {layer[:-1] for name in used[-1:] for layer in _layers(name)}
    lists = {layer[:-1] for layer in known} - last
    more = {n: [layer for layer in _layers(n) if layer[:-1] in lists and layer not in known] for n in beside}
    return [name for name, layers in more.items() if layers and name.endswith("weight")]


def _layers(name: str) -> list[tuple[str, ...]]:
    """The layers within lists of layers on the way to a tensor."""
    parts = tuple(name.split("."))
    return [parts[: i + 1] for i, part in enumerate(parts) if part.isdigit()]


def _prefixes(names: Mapping[str, Tensor]) -> Counter[str]:
    """How many names begin with each of what may stand before others."""
    return Counter("".join(parts[:i]) for name in names for parts in [re.findall(r"[^.]*\.|[^.]+$", name)]
                   for i in range(len(parts)))  # fmt: skip


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that numbers are learned in, by every name that they have."""
    named = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    return {name: tensor for name, tensor in named if not name.endswith(_COUNTER)}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
