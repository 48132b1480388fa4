"""Learning by every rule: batches, resuming after SIGKILL, folders that fill up, losses that blow up."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import drmm
from drmm.errors import InputError, RunError
from drmm.learning.batches import Batches
from drmm.learning.checkpoints import checkpoint_of
from drmm.learning.config import Machine, Training
from drmm.learning.em import relax
from drmm.learning.initialisation import initialise
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.learning.trainer import device_of, run_loop
from drmm.storage.models import Recipe, load_model, save_model

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


def exactly(**settings: object) -> Training:
    """In as many epochs as asked for, however few the steps."""
    return Training(min_steps=0, **settings)  # type: ignore[arg-type]


def test_training_learns_what_a_few_labels_show() -> None:
    x, y = images(48)
    model = train(
        small_model(), x, y, config=exactly(epochs=40, batch_size=24, labelled_per_batch=6), progress=False
    )
    wrong = (model(x).argmax(1) != torch.arange(48) % 3).float().mean()
    assert wrong < 0.1
    assert not model.training


# --- other rules than backprop ---


QUICK = {"epochs": 8, "batch_size": 24, "labelled_per_batch": 6}


def learned(learning: str, y: torch.Tensor, width: int = 4, **options: object) -> tuple[drmm.DRMM, float]:
    """A model of the 48 images, and the share of them that it gets right."""
    x, _ = images(48)
    torch.manual_seed(0)
    model = drmm.presets.conv_small(3, (1, 12, 12), width=width)
    config = exactly(**{"learning": learning, **QUICK, **options})  # type: ignore[arg-type]
    train(model, x, y, config=config, progress=False)
    return model, float((model(x).argmax(1) == torch.arange(48) % 3).float().mean())


@pytest.mark.parametrize("labelled", [9, 48])
@pytest.mark.parametrize("learning", ["em", "eg"])
def test_every_rule_learns_with_few_labels_and_with_all(learning: str, labelled: int) -> None:
    y = torch.where(torch.arange(48) < labelled, torch.arange(48) % 3, -1)
    options = {} if learning == "em" else {"epochs": 40, "learning_rate": 0.01}
    model, right = learned(learning, y, **options)
    assert right > 0.8
    assert not model.training
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.sample(2).isfinite().all()


@pytest.mark.parametrize("learning", ["em", "eg"])
def test_without_labels_the_classes_are_clusters_of_the_features(learning: str) -> None:
    x, _ = images(48)
    hidden = torch.full((48,), -1)
    model, _ = learned(learning, hidden)
    logits = model(x).detach()
    assert len(logits.argmax(1).unique()) == 3
    torch.testing.assert_close(relax(model, x, hidden)(x).softmax(1), logits.softmax(1), rtol=0, atol=1e-3)
    control, _ = learned("sgd", hidden)
    before = control(x).detach()
    assert (relax(control, x, hidden)(x).softmax(1) - before.softmax(1)).abs().max() > 0.05


def test_em_measures_noise_amplitude_and_priors_of_the_model_that_comes_out() -> None:
    x, y = images(48)
    model, _ = learned("em", y)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.settle(iter([x]))
    for name in ("noise", "amplitude", "prior.a0"):
        torch.testing.assert_close(before[name], model.state_dict()[name], rtol=0.2, atol=0.05)
    assert before["noise"] < 1


def test_em_writes_its_trace_and_removes_the_latents(tmp_path: Path) -> None:
    x, y = images()
    config = Training(learning="em", epochs=3, tolerance=0)
    train(small_model(), x, y, config=config, folder=tmp_path, progress=False)
    with (tmp_path / "logs" / "em.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["iteration", "objective", "seconds"]
    assert [row["iteration"] for row in rows] == ["0", "1", "2"]
    objective = [float(row["objective"]) for row in rows]
    assert objective == sorted(objective)
    assert objective[-1] > objective[0]
    assert [path.name for path in (tmp_path / "em").iterdir()] == ["em.safetensors"]


def test_a_finished_em_run_resumes_to_itself(tmp_path: Path) -> None:
    x, y = images()
    config = Training(learning="em", epochs=3)
    one = train(small_model(), x, y, config=config, folder=tmp_path, progress=False)
    trace = (tmp_path / "logs" / "em.csv").read_bytes()
    other = train(small_model(1), x, y, config=config, folder=tmp_path, resume=True, progress=False)
    assert all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())
    assert (tmp_path / "logs" / "em.csv").read_bytes() == trace


@pytest.mark.parametrize("moment", range(7))
def test_an_em_run_stopped_and_resumed_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Stopped at each of its writes: before there is any checkpoint too, when it starts from images again."""
    x, y = images()
    config = Training(learning="em", epochs=3, tolerance=0)
    reference = train(small_model(), x, y, config=config, progress=False).state_dict()
    written = [0]

    def deadly(write: Callable[..., None]) -> Callable[..., None]:
        def dies(*what: object) -> None:
            if written[0] == moment:
                raise KeyboardInterrupt
            written[0] += 1
            write(*what)

        return dies

    writers = [(module, "write_bytes") for module in (drmm.learning.em.loop, drmm.learning.em.posterior_cache)]
    with monkeypatch.context() as patch:
        for module, name in [*writers, (drmm.learning.train, "write_csv")]:
            patch.setattr(module, name, deadly(getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            train(small_model(), x, y, config=config, folder=tmp_path, progress=False)
    resumed = train(small_model(), x, y, config=config, folder=tmp_path, resume=True, progress=False)
    assert all(torch.equal(reference[name], value) for name, value in resumed.state_dict().items())


@pytest.mark.parametrize("how", ["data", "orthonormal", "glorot"])
@pytest.mark.parametrize("learning", ["sgd", "em"])
def test_learning_starts_where_it_is_told(learning: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images()
    started = []

    def spy(model: drmm.DRMM, name: str, **given: object) -> drmm.DRMM:
        started.append((name, given["seed"]))
        return initialise(model, name, **given)  # type: ignore[arg-type]

    monkeypatch.setattr("drmm.learning.train.initialise", spy)
    config = {"learning": learning, "epochs": 1, "seed": 5}
    train(small_model(), x, y, config=exactly(**config, initialisation=how), progress=False)  # type: ignore[arg-type]
    train(small_model(), x, y, config=exactly(**config), progress=False)  # type: ignore[arg-type]
    assert started == [(how, 5), ("data", 5)][: 2 if learning == "em" else 1]


def test_the_initialisation_matters() -> None:
    x, y = images()
    weights = [
        train(small_model(), x, y, config=exactly(epochs=1, initialisation=how), progress=False).templates.weight
        for how in (None, "default", "data", "orthonormal")
    ]
    assert torch.equal(weights[0], weights[1])
    assert len({tuple(w.flatten().tolist()) for w in weights[1:]}) == 3


def test_weight_normalised_models_learn_by_every_rule() -> None:
    x, y = images(48)
    for learning in ("sgd", "eg", "em"):
        model = drmm.presets.conv_small(3, (1, 12, 12), width=2, constraint="weight_norm")
        before = model.levels[0].dictionary.weight.detach().clone()
        train(model, x, y, config=exactly(learning=learning, epochs=2), progress=False)
        assert model(x).isfinite().all()
        assert not torch.equal(model.levels[0].dictionary.weight, before)


def test_hard_models_learn_by_eg_and_not_by_em() -> None:
    x, y = images()
    model = drmm.presets.conv_small(3, (1, 12, 12), width=2, constraint="hard")
    train(model, x, y, config=exactly(learning="eg", epochs=1), progress=False)
    assert model.infer(x).certified().all()
    with pytest.raises(InputError, match="learn a hard model by 'sgd' or 'eg'"):
        train(model, x, y, config=Training(learning="em", epochs=1), progress=False)


@pytest.mark.parametrize("learning", ["sgd", "eg", "em"])
def test_double_precision_images_are_welcome(learning: str) -> None:
    x, y = images()
    config = exactly(learning=learning, epochs=1)  # type: ignore[arg-type]
    validation = (x.double(), torch.arange(24) % 3)
    one = train(small_model(), x.double(), y, config=config, validation=validation, progress=False).state_dict()
    other = train(small_model(), x, y, config=config, progress=False).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_em_needs_a_label_of_every_class_or_of_none(tmp_path: Path) -> None:
    x, y = images()
    config = Training(learning="em", epochs=1)
    with pytest.raises(InputError, match="class 1 has no label"):
        train(small_model(), x, torch.where(y == 1, -1, y), config=config, folder=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []  # nothing was learned in vain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning": "backprop"}, "no learning 'backprop': choose from sgd, eg, em"),
        ({"initialisation": "zeros"}, "no initialisation 'zeros': choose from default, data, orthonormal, glorot"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Training(**options)  # type: ignore[arg-type]


def test_em_resuming_another_architecture_is_one_clear_line(tmp_path: Path) -> None:
    x, y = images()
    config = Training(learning="em", epochs=2)
    train(small_model(), x, y, config=config, folder=tmp_path, progress=False)
    other = drmm.presets.conv_small(3, (1, 12, 12), width=3)
    with pytest.raises(RunError, match="another architecture"):
        train(other, x, y, config=config, folder=tmp_path, resume=True, progress=False)


# --- the gradient rules' loop ---


def test_every_term_is_logged(tmp_path: Path) -> None:
    x, y = images()
    train(
        small_model(),
        x,
        y,
        config=exactly(epochs=2),
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
    config = exactly(epochs=3, batch_size=24, labelled_per_batch=6, learning_rate=0.01)
    model = train(small_model(), x, y, config=config, folder=tmp_path, validation=(x, truth), progress=False)
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        watched = [float(row["val/error"]) for row in csv.DictReader(file) if row["val/error"]]
    assert watched[-1] == pytest.approx(error_percent(model, x, truth), abs=1e-3)


SCRIPT = """
import sys, time, torch, warnings
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_train import exactly, images, small_model
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.storage.models import Recipe, save_model
import drmm.learning.trainer
if {slow}:
    step = drmm.learning.trainer._Learner.training_step
    drmm.learning.trainer._Learner.training_step = lambda *a: (time.sleep(0.15), step(*a))[1]
torch.set_num_threads(1)
x, y = images()
model = train(small_model(), x, y, config=exactly(epochs=6, batch_size=8, labelled_per_batch=2),
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
    train(small_model(), x, y, config=exactly(epochs=1), folder=tmp_path, progress=False)
    other = drmm.presets.conv_small(3, (1, 12, 12), width=3)
    with pytest.raises(RunError, match="another architecture"):
        train(other, x, y, config=exactly(epochs=2), folder=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_resuming_from_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, size: int) -> None:
    x, y = images()
    train(small_model(), x, y, config=exactly(epochs=1), folder=tmp_path, progress=False)
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RunError, match="damaged"):
        train(small_model(), x, y, config=exactly(epochs=2), folder=tmp_path, resume=True, progress=False)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    x, y = images()
    model = small_model()
    with torch.no_grad():
        model.templates.weight.fill_(float("inf"))
    with pytest.raises(InputError, match="not finite"):
        train(model, x, y, config=exactly(epochs=1), progress=False)


def test_training_leaves_the_global_randomness_alone() -> None:
    x, y = images()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(small_model_without_seed(), x, y, config=exactly(epochs=1), progress=False)
    assert torch.equal(torch.rand(1), expected)


def small_model_without_seed() -> drmm.DRMM:
    with torch.random.fork_rng():
        return small_model()


def test_the_same_seed_gives_the_same_weights() -> None:
    x, y = images()
    config = exactly(epochs=2, batch_size=8, labelled_per_batch=2)
    one, other = (train(small_model(), x, y, config=config, progress=False).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    control = train(
        small_model(), x, y, config=exactly(epochs=2, batch_size=8, labelled_per_batch=2, seed=1), progress=False
    )
    assert any(not torch.equal(one[name], tensor) for name, tensor in control.state_dict().items())


def test_patience_stops_early(tmp_path: Path) -> None:
    x, y = images()
    config = exactly(epochs=60, patience=1, learning_rate=1e-9)
    train(small_model(), x, y, config=config, folder=tmp_path, validation=(x, y.clamp(min=0)), progress=False)
    epochs = {line.split(",")[0] for line in (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[1:]}
    assert len(epochs) < 60


@pytest.mark.parametrize(("labelled", "epochs"), [(2, 4), (0, 7)])
def test_few_images_are_seen_more_often(labelled: int, epochs: int, tmp_path: Path) -> None:
    """Half of the images a step, or all of them where none is shown for its label."""
    x, y = images()
    size = len(x) // 2 + 2 if labelled else len(x)
    config = Training(epochs=1, min_steps=7, batch_size=size, labelled_per_batch=labelled)
    train(small_model(), x, y, config=config, folder=tmp_path, progress=False)
    lines = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[1:]
    assert len(lines) == epochs
    assert config.enough_for(100).epochs == 1, "many are seen as often as is asked"
    assert replace(config, learning="em").enough_for(1) == replace(config, learning="em")


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"min_steps": -1},
        {"batch_size": 1},
        {"labelled_per_batch": -1},
        {"seed": -1},
        {"gradient_clip": -1.0},
        {"tolerance": math.inf},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_average": 1.0},
        {"patience": 0},
    ],
)
def test_impossible_training_is_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=name):
        Training(**options)  # type: ignore[arg-type]


def test_by_default_at_least_two_hundred_steps_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("drmm.learning.trainer.run_loop", lambda *given, **_: asked.append(given[4].epochs))
    x, y = images()
    for config in (Training(epochs=2, batch_size=14, labelled_per_batch=2), exactly(epochs=2)):
        train(small_model(), x, y, config=config, progress=False)
    assert asked == [100, 2]


# --- from labels alone ---


def changed_where_hidden(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where((y >= 0)[:, None, None, None], x, 1 - x)


@pytest.mark.parametrize("learning", ["sgd", "eg", "em"])
def test_from_labels_alone_the_other_images_say_nothing(learning: str) -> None:
    x, y = images()
    for labels_only in (True, False):
        config = exactly(learning=learning, epochs=2, initialisation="data", labels_only=labels_only)
        one, other = (
            train(small_model(), given, y, config=config, progress=False).state_dict()
            for given in (x, changed_where_hidden(x, y))
        )
        same = all(torch.equal(one[name], other[name]) for name in one)
        assert same == labels_only, "control: as a rule they do"


@pytest.mark.parametrize("labelled_per_batch", [2, 8])
def test_from_labels_alone_as_many_steps_are_made(labelled_per_batch: int) -> None:
    x, y = images()

    def steps(*, labels_only: bool) -> int:
        made = Counter()
        config = exactly(epochs=3, batch_size=8, labelled_per_batch=labelled_per_batch, labels_only=labels_only)
        hook = torch.optim.Adam.step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", lambda *a, **o: (made.update(["step"]), hook(*a, **o))[1])
            train(small_model(), x, y, config=config, progress=False)
        return made["step"]

    assert steps(labels_only=True) == steps(labels_only=False) == 3 * round(24 / max(8 - labelled_per_batch, 1))


@pytest.mark.parametrize("learning", ["sgd", "em"])
def test_without_any_label_there_is_nothing_to_learn_from_labels_alone(learning: str) -> None:
    x, y = images()
    config = exactly(learning=learning, epochs=1, labels_only=True)
    with pytest.raises(
        InputError, match=r"no image has a label: label some, or set training.labels_only to false"
    ):
        train(small_model(), x, torch.full_like(y, -1), config=config, progress=False)


# --- machines ---


@pytest.mark.parametrize("sizes", [(128, 30), (126, 32)])
def test_a_batch_that_cannot_be_shared_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"batches of {sizes[0]} images, {sizes[1]} of them labelled, cannot be"):
        Machine(devices=4).check_shares(Training(batch_size=sizes[0], labelled_per_batch=sizes[1]))


def test_a_machine_has_a_device() -> None:
    with pytest.raises(InputError, match="cannot be trained on 0 devices: use 1 or more"):
        Machine(devices=0)
    assert device_of(Machine(accelerator="cpu")) == torch.device("cpu")


@pytest.mark.parametrize("machine", [Machine(accelerator="abacus"), Machine(precision="3-true")])
def test_what_a_machine_does_not_have_is_one_clear_line(machine: Machine) -> None:
    x, y = images()
    for use in (
        lambda: device_of(machine),
        lambda: train(small_model(), x, y, config=exactly(epochs=1), machine=machine, progress=False),
    ):
        with pytest.raises(InputError, match="this machine cannot train so") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_training_asks_for_the_precision_of_the_machine() -> None:
    """Also where the loop is run alone, as a dry run does."""
    x, y = images()
    weights = []
    for precision in ("32-true", "bf16-mixed"):
        model, machine = small_model(), Machine(accelerator="cpu", precision=precision)
        run_loop(model.train(), x, y, drmm.Objective(), exactly(epochs=1), machine)
        weights.append(model.templates.weight)
    assert all(weight.dtype == torch.float32 for weight in weights)
    assert not torch.equal(*weights)


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


@pytest.mark.parametrize("labelled", [2, 0])
@pytest.mark.parametrize("n", [96, 97, 24])
def test_processes_share_each_batch(n: int, labelled: int) -> None:
    """Of the same batches as one process has, each image in one share; as many with a label in each."""
    x, y = images(n)
    plan = {"batch_size": 8, "labelled": labelled, "seed": 0, "epoch": 0}
    shares = [Batches(x, y, **plan, rank=rank, world_size=2).indices for rank in range(2)]
    together = [sorted([*a, *b]) for a, b in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in Batches(x, y, **plan).indices]
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(*shares, strict=True))
    assert all((y[batch[: labelled // 2]] >= 0).all() for share in shares for batch in share)
    assert not any(np.array_equal(a, b) for a, b in zip(*shares, strict=True)), "control"


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
