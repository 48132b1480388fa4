"""A folder as people have them, and what is wrong with it: `python -m scripts.messy_folder FOLDER`.

Pictures of a data set in six formats, grey and in colour, of many sizes, in nested folders. Of all files 5 %
are broken, and 5 % each have the suffix of another format, are exact copies, are the same picture in another size
and compression, or have a wrong label; 1 % are blank. The same seed writes the same bytes with the same Pillow.
Written beside FOLDER: FOLDER.labels.csv, what a user has, and FOLDER.truth.csv, what is true of each file.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from drmm.data import Dataset, load
from drmm.files import new_folder, write_csv

FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "webp": "WEBP", "tif": "TIFF"}
SIDES = (24, 32, 40, 64, 100, 160)
SHARES = {"broken": 0.05, "misnamed": 0.05, "copy": 0.05, "near copy": 0.05, "wrong label": 0.05, "blank": 0.01}


class Piece(NamedTuple):
    """A file of the folder.

    Attributes:
        file: its relative path.
        content: its bytes.
        kind: what is wrong with it; "" if nothing is.
        label: what it is said to be.
        truth: what it is.
        of: the file of which it is a copy.
    """

    file: str
    content: bytes
    kind: str
    label: str
    truth: str
    of: str = ""


def pieces(data: Dataset, n: int, seed: int) -> Iterator[Piece]:
    """So many files with pictures of a data set's training part, in an order that says nothing."""
    generator = np.random.default_rng(seed)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * n))]
    kinds = generator.permutation([*kinds, *[""] * (n - len(kinds))]).tolist()
    rows = generator.choice(len(data.x_train), n, replace=n > len(data.x_train))
    sound: list[tuple[Piece, np.ndarray]] = []
    for number, (kind, row) in enumerate(zip(kinds, rows.tolist(), strict=True)):
        levels, truth = data.x_train[row], data.classes[data.y_train[row]]
        of = ""
        if kind in {"copy", "near copy"} and sound:
            original, levels = sound[generator.integers(len(sound))]
            of, truth = original.file, original.truth
        elif kind == "blank":
            levels = np.full_like(levels, generator.integers(256))
        suffix = str(generator.choice(list(FORMATS)))
        content = _encoded(levels, suffix, generator)
        if kind == "copy" and sound:
            content, suffix = original.content, Path(original.file).suffix[1:]
        if kind == "broken":
            content = _broken(content, generator)
        if kind == "misnamed":
            suffix = str(generator.choice([other for other in FORMATS if other != suffix]))
        label = truth
        if kind == "wrong label":
            label = str(generator.choice([name for name in data.classes if name != truth]))
        folder = generator.choice(["", "camera/", "camera/2024/", "from Anna/", "scans (old)/"])
        piece = Piece(f"{folder}IMG_{number:05}.{suffix}", content, kind, label, truth, of)
        if not kind:
            sound.append((piece, levels))
        yield piece


def _encoded(levels: np.ndarray, suffix: str, generator: np.random.Generator) -> bytes:
    """A picture (C, H, W) in a format, at some size, grey or in colour."""
    picture = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, 2))
    side = int(generator.choice(SIDES))
    picture = picture.resize((round(side * generator.choice([0.75, 1, 1, 1.33])), side), Image.Resampling.BICUBIC)
    if len(levels) == 1 and generator.random() < 0.3:
        picture = picture.convert("RGB")
    file = BytesIO()
    options = {"quality": int(generator.integers(60, 95))} if suffix in {"jpg", "webp"} else {}
    picture.save(file, FORMATS[suffix], **options)
    return file.getvalue()


def _broken(content: bytes, generator: np.random.Generator) -> bytes:
    """Cut off, emptied, overwritten, or no picture at all."""
    how = generator.integers(4)
    if how == 0:
        return content[: len(content) // 3]
    if how == 1:
        return b""
    if how == 2:
        return bytes(len(content))
    return b"<html><body>404 not found</body></html>"


def write(folder: Path, data: Dataset, *, n: int, labels: int, seed: int, by_class: bool) -> None:
    """Write the folder, and beside it the two tables.

    Args:
        folder: a new one.
        data: whose pictures.
        n: how many files.
        labels: how many of them have one, drawn at random among those that are not broken.
        seed: of all that is drawn.
        by_class: whether folders are classes, and every file has a label.
    """
    made = list(pieces(data, n, seed))
    known = [piece for piece in made if piece.kind != "broken"]
    drawn = np.random.default_rng([seed, 1]).permutation(len(known))[: len(known) if by_class else labels]
    place = {piece.file: f"{piece.label}/{Path(piece.file).name}" if by_class else piece.file for piece in made}
    with new_folder(folder) as temporary:
        for piece in made:
            path = temporary / place[piece.file]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(piece.content)
    rows = [(place[known[i].file], known[i].label) for i in np.sort(drawn)]
    write_csv(folder.with_name(f"{folder.name}.labels.csv"), ["file", "label"], rows)
    truth = [(place[p.file], p.kind, p.label, p.truth, place.get(p.of, "")) for p in made]
    write_csv(folder.with_name(f"{folder.name}.truth.csv"), ["file", "kind", "label", "truth", "copy of"], truth)


if __name__ == "__main__":
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="mnist-5k", help="whose pictures")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by-class", action="store_true", help="folders are classes, and every file has a label")
    asked = parser.parse_args()
    source = load(asked.data, data_dir=asked.data_dir)
    write(asked.folder, source, n=asked.files, labels=asked.labels, seed=asked.seed, by_class=asked.by_class)
