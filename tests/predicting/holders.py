"""Pictures, and files that hold them as others write them."""

import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet


def write_pictures(folder: Path, n: int, size: tuple[int, int] = (12, 12)) -> Path:
    """Noise in colour."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


def write_tar(path: Path, members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


def table_of(pictures: Mapping[str, bytes], column: str = "image", *, as_struct: bool = True) -> pa.Table:
    """As Hugging Face has it, or plain bytes; beside labels."""
    rows: list[Any] = [{"bytes": content, "path": name} for name, content in pictures.items()]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array(rows, kind) if as_struct else pa.array([row["bytes"] for row in rows], pa.binary())
    return pa.table({column: images, "label": list(range(len(rows)))})


def write_parquet(path: Path, pictures: Mapping[str, bytes], **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table_of(pictures, **how), path, row_group_size=3)
    return path


def write_arrow(path: Path, pictures: Mapping[str, bytes], *, is_stream: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table_of(pictures)
    with (pa.ipc.new_stream if is_stream else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path
