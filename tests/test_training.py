"""Learning: batches, resuming after SIGKILL, folders that fill up, losses that blow up."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import drmm
from drmm.batches import Batches
from drmm.errors import InputError, RunError
from drmm.loop import checkpoint_of
from drmm.runs import error_percent
from drmm.storage import Recipe, load_model, save_model
from drmm.training import Training, train

CLASSES = ("0", "1", "2")


def images(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of bright thirds, two labelled images of each."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = 0.2 * torch.rand(n, 1, 12, 12, generator=generator)
    for i in range(n):
        x[i, 0, 4 * int(y[i]) : 4 * int(y[i]) + 4] += 0.7
    return x, torch.where(torch.arange(n) < 6, y, -1)


def small_model(seed: int = 0) -> drmm.DRMM:
    torch.manual_seed(seed)
    return drmm.presets.conv_small(3, (1, 12, 12), width=2)


def test_training_learns_what_a_few_labels_show() -> None:
    x, y = images(48)
    model = train(
        small_model(), x, y, config=Training(epochs=40, batch_size=24, labelled_per_batch=6), progress=False
    )
    wrong = (model(x).argmax(1) != torch.arange(48) % 3).float().mean()
    assert wrong < 0.1
    assert not model.training


def test_every_term_is_logged(tmp_path: Path) -> None:
    x, y = images()
    train(
        small_model(),
        x,
        y,
        config=Training(epochs=2),
        folder=tmp_path,
        validation=(x, y.clamp(min=0)),
        progress=False,
    )
    header = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[0]
    for name in ("cross_entropy", "reconstruction", "kl", "balance", "nonnegativity", "loss"):
        assert f"train/{name}" in header
    assert "val/error" in header
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_the_error_that_is_watched_is_the_error_that_comes_out(tmp_path: Path) -> None:
    """Averaged weights are judged with their own statistics, during training as after it."""
    x, y = images(48)
    truth = torch.arange(48) % 3
    config = Training(epochs=3, batch_size=24, labelled_per_batch=6, learning_rate=0.01)
    model = train(small_model(), x, y, config=config, folder=tmp_path, validation=(x, truth), progress=False)
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        watched = [float(row["val/error"]) for row in csv.DictReader(file) if row["val/error"]]
    assert watched[-1] == pytest.approx(error_percent(model, x, truth), abs=1e-3)


SCRIPT = """
import sys, time, torch, warnings
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training import images, small_model
from drmm.runs import error_percent
from drmm.storage import Recipe, save_model
from drmm.training import Training, train
import drmm.loop
if {slow}:
    step = drmm.loop._Learner.training_step
    drmm.loop._Learner.training_step = lambda *a: (time.sleep(0.15), step(*a))[1]
torch.set_num_threads(1)
x, y = images()
model = train(small_model(), x, y, config=Training(epochs=6, batch_size=8, labelled_per_batch=2),
              folder=Path({folder!r}), resume=True, progress=False)
save_model(model, Recipe("conv_small", (1, 12, 12), ("0", "1", "2"), width=2), Path({folder!r}))
"""


def run_script(folder: Path, *, slow: bool) -> subprocess.Popen[bytes]:
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), slow=slow)
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.PIPE)


def test_a_run_killed_and_resumed_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = run_script(whole, slow=False)
    victim = run_script(killed, slow=True)
    deadline = time.monotonic() + 120
    while checkpoint_of(killed) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # well into the next epoch
    assert victim.poll() is None, victim.stderr.read() if victim.stderr else ""
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not (killed / "model.safetensors").exists()
    resumed = run_script(killed, slow=False)
    for process in (reference, resumed):
        _, error = process.communicate()
        assert process.returncode == 0, error.decode()
    one, other = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    fresh = small_model().state_dict()
    assert any(not torch.equal(one[name], fresh[name]) for name in one), "control: training changed the weights"


def test_resuming_another_architecture_is_one_clear_line(tmp_path: Path) -> None:
    x, y = images()
    train(small_model(), x, y, config=Training(epochs=1), folder=tmp_path, progress=False)
    other = drmm.presets.conv_small(3, (1, 12, 12), width=3)
    with pytest.raises(RunError, match="another architecture"):
        train(other, x, y, config=Training(epochs=2), folder=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_resuming_from_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, size: int) -> None:
    x, y = images()
    train(small_model(), x, y, config=Training(epochs=1), folder=tmp_path, progress=False)
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RunError, match="damaged"):
        train(small_model(), x, y, config=Training(epochs=2), folder=tmp_path, resume=True, progress=False)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    x, y = images()
    model = small_model()
    with torch.no_grad():
        model.templates.weight.fill_(float("inf"))
    with pytest.raises(InputError, match="not finite"):
        train(model, x, y, config=Training(epochs=1), progress=False)


def test_training_leaves_the_global_randomness_alone() -> None:
    x, y = images()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(small_model_without_seed(), x, y, config=Training(epochs=1), progress=False)
    assert torch.equal(torch.rand(1), expected)


def small_model_without_seed() -> drmm.DRMM:
    with torch.random.fork_rng():
        return small_model()


def test_the_same_seed_gives_the_same_weights() -> None:
    x, y = images()
    config = Training(epochs=2, batch_size=8, labelled_per_batch=2)
    one, other = (train(small_model(), x, y, config=config, progress=False).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    control = train(
        small_model(), x, y, config=Training(epochs=2, batch_size=8, labelled_per_batch=2, seed=1), progress=False
    )
    assert any(not torch.equal(one[name], tensor) for name, tensor in control.state_dict().items())


def test_patience_stops_early(tmp_path: Path) -> None:
    x, y = images()
    config = Training(epochs=60, patience=1, learning_rate=1e-9)
    train(small_model(), x, y, config=config, folder=tmp_path, validation=(x, y.clamp(min=0)), progress=False)
    epochs = {line.split(",")[0] for line in (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[1:]}
    assert len(epochs) < 60


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"weight_average": 1.0}]
)
def test_impossible_training_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Training(**options)  # type: ignore[arg-type]


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    x, y = images()
    plan = {"batch_size": 8, "labelled": 2}

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [index.tolist() for index in Batches(x, y, **plan, seed=seed, epoch=epoch).indices]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_batches_show_every_image_and_mix_labels_in() -> None:
    x, y = images()
    batches = Batches(x, y, batch_size=8, labelled=2, seed=0, epoch=0)
    assert set(np.concatenate(batches.indices)) == set(range(24))
    assert all((labels >= 0).sum() >= 2 for _, labels in batches)
    assert len(batches) == 4


def test_processes_share_the_batches_without_overlap() -> None:
    x, y = images(96)
    parts = [
        Batches(x, y, batch_size=8, labelled=2, seed=0, epoch=0, rank=rank, world_size=2).indices
        for rank in range(2)
    ]
    assert len(parts[0]) == len(parts[1])
    assert not {tuple(i) for i in parts[0]} & {tuple(i) for i in parts[1]}


def test_levels_become_pixels() -> None:
    x, y = images()
    levels = (x * 255).round().to(torch.uint8)
    for batch, _ in Batches(levels, y, batch_size=8, labelled=2, seed=0, epoch=0):
        assert batch.dtype == torch.float32
        assert batch.max() <= 1


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = small_model().eval()
    recipe = Recipe("conv_small", (1, 12, 12), CLASSES, width=2)
    save_model(model, recipe, tmp_path)
    again, read = load_model(tmp_path)
    x, _ = images()
    assert read == recipe
    assert torch.equal(model(x), again(x))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    recipe = Recipe("conv_small", (1, 12, 12), CLASSES, width=2)
    save_model(small_model(), recipe, tmp_path)
    save_model(drmm.presets.conv_small(3, (1, 12, 12), width=3), recipe, tmp_path)
    with pytest.raises(RunError, match="another architecture"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage"])
def test_a_damaged_model_is_one_clear_line(tmp_path: Path, name: str, damage: str) -> None:
    save_model(small_model(), Recipe("conv_small", (1, 12, 12), CLASSES, width=2), tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "truncated": content[: len(content) // 2], "garbage": b"\x80\x04\x95"}[damage]
        )
    with pytest.raises(RunError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("conv_small", (1, 12, 12), CLASSES, width=2)
    save_model(small_model(), recipe, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left"):
        save_model(small_model(1), recipe, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
