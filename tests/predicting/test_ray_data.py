"""The block of docs/scale.md for Ray Data, as it stands there."""

import re
import shutil
from pathlib import Path

import pytest
from pyarrow import parquet

import drmm

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings
def test_the_block_of_the_page(run, pictures, tmp_path, monkeypatch) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'drmm[ray]'")
    [block] = re.findall(r"```py\n(files = ray\.data.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (pictures / "03.png").write_bytes(b"no picture")
    shutil.copytree(run, "runs/a")
    shutil.copytree(pictures, "photos")
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        exec(block, {"ray": ray, "drmm": drmm})
    finally:
        ray.shutdown()
    rows = sorted(parquet.read_table("answers").to_pylist(), key=lambda row: row["path"])
    assert [Path(row["path"]).name for row in rows] == [file.name for file in sorted(pictures.iterdir())]
    contents = [file.read_bytes() for file in sorted(pictures.iterdir())]
    expected = drmm.Predictor(run, image="bytes")({"bytes": contents})
    for name in ("label", "confidence", "decision", "reason"):
        assert [str(row[name]) for row in rows] == [str(value) for value in expected[name].tolist()], name
    assert sum(bool(row["reason"]) for row in rows) == 1, "control: the broken one is a row"
