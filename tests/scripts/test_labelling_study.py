from PIL import Image

from scripts.labelling import LARGE, table, write_set

LABEL = {
    "labels": 70,
    "first_picture_seconds": 2.34,
    "next_picture_p95_ms": 90,
    "next_picture_median_ms": 40,
    "learned_seconds": 3.2,
    "ctrl_c_seconds": 0.5,
    "server_mb": [300, 310],
    "person_seconds": 175,
    "machine_seconds": 30.0,
    "processor_seconds": 30.0,
}


def test_what_was_measured_is_told():
    whole = {
        "pictures": 5000,
        "label": LABEL,
        "sort": {"pictures": 4000, "wrong": 60, "seconds": 240.0, "processor_seconds": 330.0},
    }
    told = table({"sets": {"digits": whole, LARGE: {"pictures": 100_000, "label": LABEL}}})
    assert "| digits | 5,000 | 70 | 2.3 s | 90 ms | 40 ms | 3.2 s | 0.5 s | 300 to 310 MB |" in told
    assert "| digits | 2.9 | 0.5 | 4.0 | 6.0 | 80.0 % | 1.5 % |" in told
    assert told.count(LARGE) == 1, "it is not sorted"
    assert len(table({"sets": {LARGE: {"pictures": 1, "label": LABEL}}}).splitlines()) == 3


def test_a_large_folder_is_of_different_pictures(tmp_path):
    truth = write_set(tmp_path / LARGE, LARGE, 12, None)
    contents = {(tmp_path / LARGE / name).read_bytes() for name in truth}
    assert len(contents) == 12
    with Image.open(tmp_path / LARGE / "000000.png") as shown:
        assert shown.size == (16, 16)
