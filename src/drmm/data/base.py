"""What every loader returns."""

__all__ = ["Dataset", "Skipped", "digest", "digest_of", "joined", "summary"]

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from drmm.data.labels import UNLABELLED
from drmm.display.text import one_line

_SHOWN = 10  # classes whose pictures are counted in a line


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was not read.

    Attributes:
        file: its name in the folder or archive.
        reason: why; what differs from file to file is in brackets.
        is_loss: whether a picture that should have counted is lost with it.
    """

    file: str
    reason: str
    is_loss: bool = False


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split once and for all into training and test sets.

    Attributes:
        name: What to call it where a figure on it is quoted.
        x_train: Levels 0..255, uint8 (N, C, H, W).
        y_train: Indices into `classes`, int64 (N,); −1 means unlabelled.
        x_test: Like `x_train`; it has no images if the source has no test set.
        y_test: Like `y_train`.
        classes: Names of the K classes.
        files: Names of the training pictures' files in their folder or archive, (N,); () where images are arrays.
        content: Digest of the names and bytes of all files that were read; "" where images are arrays.
        skipped: All other files of the folder or archive.
        resized: From which sizes pictures have come to theirs, and how; empty where they had it.
        test_files: Like `files`, of the test pictures.
    """

    name: str
    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()
    content: str = ""
    skipped: tuple[Skipped, ...] = ()
    resized: str = ""
    test_files: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Says whether these are the same images with the same labels, in 32 hexadecimal digits."""
        if self.content:
            return self.content
        arrays = (self.x_train, self.y_train, self.x_test, self.y_test)
        sizes = " ".join(str(array.shape) for array in arrays)
        return digest_of(
            [(sizes + " ".join(self.classes)).encode(), *(np.ascontiguousarray(a).data for a in arrays)]
        )

    def account(self) -> str:
        """What was read and what was skipped, in one line."""
        counts = Counter(self.y_train.tolist())
        unlabelled = counts.pop(UNLABELLED, 0)
        each = [f"{one_line(name)}: {counts[code]:,}" for code, name in enumerate(self.classes)][:_SHOWN]
        each += [f"and {len(self.classes) - _SHOWN} more"] if len(self.classes) > _SHOWN else []
        said = [
            f"{counts.total():,} labelled images of {len(self.classes)} class{'es' * (len(self.classes) != 1)}"
        ]
        said[0] += f" ({', '.join(each)})" if each else ""
        said += [f"{unlabelled:,} unlabelled"] if unlabelled else []
        said += [f"{len(self.x_test):,} to test with" if len(self.x_test) else "no test part"]
        said += ["{}x{} pixels, {}".format(*self.x_train.shape[2:], self.resized)] if self.resized else []
        return ", ".join(said) + (f"; {summary(self.skipped)}" if self.skipped else "")


def summary(skipped: Sequence[Skipped]) -> str:
    """How many were skipped, and why: "12 skipped: 9 x not a picture (.csv), 3 x needs HEIC"."""
    details: dict[str, Counter[str]] = {}
    for one in skipped:
        reason, _, detail = one.reason.partition(" (")
        details.setdefault(reason, Counter())[detail.removesuffix(")")] += 1
    said = []
    for reason, found in sorted(details.items(), key=lambda item: -item[1].total()):
        some = ", ".join(detail for detail, _ in found.most_common(3) if detail)
        said.append(f"{found.total():,} x {reason}" + (f" ({some})" if some else ""))
    return f"{len(skipped):,} skipped: {', '.join(said)}"


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """One digest of several pieces in their order, 32 hexadecimal digits."""
    return joined(map(digest, parts))


def digest(part: bytes | memoryview) -> bytes:
    """Of one piece."""
    return hashlib.blake2b(part, digest_size=16).digest()


def joined(digests: Iterable[bytes]) -> str:
    """`digest_of` the pieces that have these digests."""
    total = hashlib.blake2b(digest_size=16)
    for one in digests:
        total.update(one)
    return total.hexdigest()
