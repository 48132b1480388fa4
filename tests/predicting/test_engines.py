"""The blocks of docs/scale.md for engines, as they stand there: what a page says, runs where the engine is."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

import drmm

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
BROKEN = "03.png"


@pytest.fixture
def expected(run, pictures, tmp_path, monkeypatch) -> dict[str, dict[str, Any]]:
    """What the run says of each picture, one of them broken; the page's folders are where its blocks look."""
    monkeypatch.chdir(tmp_path)
    (pictures / BROKEN).write_bytes(b"no picture")
    shutil.copytree(run, "runs/a")
    photos = shutil.move(pictures, tmp_path / "photos")
    names = sorted(file.name for file in photos.iterdir())
    found = drmm.Predictor(run)({"image": [photos / name for name in names]})
    said = [{column: str(found[column][row]) for column in found} for row in range(len(names))]
    return dict(zip(names, said, strict=True))


def block(begin: str) -> str:
    """The page's block that has a line that begins so."""
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    [one] = [text for text in blocks if re.search(f"^{re.escape(begin)}", text, flags=re.MULTILINE)]
    return one


def check(rows: Iterator[tuple[str, Mapping[str, Any]]], expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Each picture once, with the answers of a `Predictor` alone, and the broken one's reason."""
    found = {Path(path).name: row for path, row in rows}
    assert sorted(found) == list(expected)
    for name, row in found.items():
        for column in ("label", "confidence", "decision", "reason"):
            said = "nan" if row[column] is None else str(row[column])
            assert said == expected[name][column], (name, column)
    assert [name for name, row in found.items() if row["reason"]] == [BROKEN], "control"


def test_hugging_face(expected, tmp_path) -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs Hugging Face's datasets: pip install datasets")
    # In a process of its own: after it no test here sees a progress bar any more.
    keep = "\nimport json\nfor row in (rows := list(answers)): row['image'] = row['image']['path']"
    keep += "\nopen('rows.json', 'w').write(json.dumps(rows))"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", block("import datasets") + keep], check=True, env=environment)
    rows = json.loads(Path("rows.json").read_text())
    said = ({name.removeprefix("drmm_"): value for name, value in row.items()} for row in rows)
    check(((row["image"], row) for row in said), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own ways with pandas
def test_dask(expected) -> None:
    pytest.importorskip("dask.dataframe", reason="needs Dask: pip install 'dask[dataframe]'")
    Path("pictures").mkdir()
    files = sorted(Path("photos").iterdir())
    for part, some in enumerate((files[:4], files[4:])):
        table = pd.DataFrame({"path": map(str, some), "image": [file.read_bytes() for file in some]})
        table.to_parquet(f"pictures/{part}.parquet")
    exec(block("import dask"), {})
    rows = parquet.read_table("answers").to_pylist()
    check(((row["path"], row) for row in rows), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings
def test_ray_data(expected) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'drmm[ray]'")
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        exec(block("import ray"), {})
    finally:
        ray.shutdown()
    rows = parquet.read_table("answers").to_pylist()
    check(((row["path"], row) for row in rows), expected)


@pytest.mark.filterwarnings("ignore")  # of its own
def test_spark(expected, monkeypatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # of the workers
    sql = pytest.importorskip("pyspark.sql", reason="needs Spark, 450 MB, and Java: pip install pyspark")
    spark = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        exec(block("from pyspark"), {})
    finally:
        spark.stop()
    rows = parquet.read_table("answers").to_pylist()
    check(((row["path"], row) for row in rows), expected)
