"""How a protocol is carried out: shared batches, mixed precision, compilation, dry runs; what JSON keeps of it."""

import json
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import drmm
from drmm.errors import InputError
from drmm.learning import trainer as loop
from drmm.learning.callbacks import Steps
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.studies.reproduce import Cell, benchmark, cells, dry_run, run_cells, run_one
from drmm.studies.reproduce.dry import drawn_images
from drmm.studies.reproduce.machine import device, threads, workers

TWO = Machine(accelerator="cpu", devices=2)


@pytest.fixture(scope="module")
def plan():
    return replace(benchmark("mnist-5k", epochs=1, width=2, images=200), labels=(20,))


# --- what the machine may change, and what not ---


def test_processes_share_each_batch(plan):
    training = plan.experiment("kl", 20, 0).training
    for machine in (Machine(), TWO):
        machine.check_shares(training)
    with pytest.raises(InputError, match="cannot be shared equally by 3 devices"):
        Machine(devices=3).check_shares(training)
    with pytest.raises(InputError, match="0 devices"):
        Machine(devices=0)


def test_one_cell_at_a_time_on_a_gpu(monkeypatch):
    cores = os.cpu_count()
    here = Machine(accelerator="cpu")
    assert (workers(here), threads(here)) == (cores, 1)
    assert workers(TWO) == max(1, cores // 2)
    monkeypatch.setattr(loop, "device_of", lambda machine: torch.device("cuda"))
    torch.set_num_threads(3)
    try:
        assert (workers(Machine()), workers(Machine(devices=8)), threads(Machine())) == (1, 1, 3)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_that_is_not_there():
    for machine, says in ((Machine("gpu"), "gpu"), (Machine("abacus"), "abacus"), (Machine(precision="7"), "'7'")):
        with pytest.raises(InputError, match=f"this machine cannot train so.*{says}"):
            device(machine)


def test_the_machine_is_kept_and_does_not_matter(plan, tmp_path):
    cell = Cell(plan, "kl", 20, 0)
    found = run_one(cell, tmp_path, machine=Machine(accelerator="cpu", precision="bf16-mixed"))
    assert found["machine"] | {"device": ""} == {
        "accelerator": "cpu", "devices": 1, "precision": "bf16-mixed", "compile": False, "device": "",
    }  # fmt: skip
    assert found["machine"]["device"]
    assert "machine" not in found["experiment"]
    assert found["machine"].keys().isdisjoint(found["experiment"]["training"])

    older = json.loads(json.dumps(found))
    del older["experiment"]["objective"]["translation"]
    cell.path(tmp_path).write_text(json.dumps(older))
    assert not run_cells([cell], tmp_path), "a term that came later, of weight 0, changes nothing"
    cell.path(tmp_path).write_text(json.dumps(found))

    before = cell.path(tmp_path).read_bytes()
    assert not run_cells([cell], tmp_path, machine=TWO), "another machine is no other experiment"
    tables = found["experiment"]
    wider, other = {**tables["model"], "width": 3}, {**tables["objective"], "kl": 0.4}
    for bad in (None, {"objective": None}, {**tables, "model": wider}, {**tables, "objective": other}):
        cell.path(tmp_path).write_text(json.dumps({**found, "experiment": bad}))
        with pytest.raises(InputError, match="run with other settings"):
            run_cells([cell], tmp_path)
    cell.path(tmp_path).write_bytes(before)


def test_a_cell_on_two_devices(plan, tmp_path):
    (cell,) = cells(plan, [20], ["rc+kl+nn"], 1)
    told = []
    assert not run_cells([cell], tmp_path, machine=TWO, done=lambda _, result: told.append(result))
    assert json.loads(json.dumps(told)) == [json.loads(cell.path(tmp_path).read_text())]
    assert told[0]["machine"]["devices"] == 2
    assert told[0]["experiment"]["training"]["batch_size"] == 128
    assert 0 < told[0]["test_error"] <= 95


# --- mixed precision ---


def steps(
    precision: str,
    *,
    width: int = 8,
    n: int = 10,
    rate: float = 3e-3,
    objective: Objective | None = None,
    **options: object,
):
    """The model, and the losses of some steps of the large net."""
    torch.manual_seed(0)
    model = drmm.presets.conv_large(width=width)
    x, y = drawn_images(12 * n, (3, 32, 32), labelled=8, seed=0)
    config = Training(
        epochs=1,
        batch_size=16,
        labelled_per_batch=4,
        learning_rate=rate,
    )
    machine, watch = Machine("cpu", precision=precision, **options), Steps()
    loop.run_loop(model.train(), x, y, objective or Objective(), config, machine, watching=[watch])
    assert len(watch.losses) == len(watch.seconds) == n
    return model, torch.tensor(watch.losses)


def test_bf16_descends_as_float32_does():
    full, mixed = steps("32-true")[1], steps("bf16-mixed")[1]
    still = steps("bf16-mixed", rate=1e-9)[1]
    assert mixed.isfinite().all()
    assert mixed[-1] < 0.8 * mixed[0]
    assert still[-3:].mean() > 0.95 * still[0], "control: nothing is learned"
    assert (mixed / full - 1).abs().max() < 0.1
    assert not torch.equal(mixed, full), "control: the precision is another one"


def test_bf16_keeps_weights_and_statistics_in_float32():
    model, _ = steps("bf16-mixed", width=2, n=2)
    kept = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    assert {value.dtype for value in kept.values()} == {torch.float32}
    assert any(name.endswith("running_var") for name in kept)
    assert all(value.isfinite().all() for value in kept.values())


class Spy(TorchDispatchMode):
    """Precision and memory layout of what goes through convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, bool]] = []
        self.statistics: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            channels_last = args[0].is_contiguous(memory_format=torch.channels_last)
            self.seen.append((args[0].dtype, channels_last))
        if function is torch.ops.aten.batch_norm_update_stats.default:
            self.statistics.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


def test_what_levels_see_in_mixed_precision():
    """16 bits in channels-last memory, but for the top of a rendering, whose canvas of 6×6 comes from averages."""
    model = drmm.presets.conv_large(width=4).train()
    x, y = drawn_images(6, (3, 32, 32), labelled=3, seed=0)
    x = x.float() / 255
    with Spy() as spy, torch.autocast("cpu", torch.bfloat16):
        terms = Objective()(model, x, y)
    up, down = spy.seen[:9], spy.seen[9:]
    assert up == [(torch.bfloat16, True)] * 9
    assert len(down) == 9
    assert down[1:] == [(torch.bfloat16, True)] * 8
    assert spy.statistics == {torch.float32}
    assert {name: term.dtype for name, term in terms.items()} == dict.fromkeys(terms, torch.float32)

    with Spy() as control:
        Objective()(model, x, y)
    assert {dtype for dtype, _ in control.seen} == {torch.float32}


# --- compilation ---


def compiling_with(backend, monkeypatch):
    """Let torch.compile use another backend: C++ kernels take a minute, and are checked by `make gpu-dry-run`."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


@pytest.mark.parametrize("objective", [Objective(), Objective(reconstruction=0, nonnegativity=0, mixup=1)])
def test_compiled_passes_learn_the_same(objective, monkeypatch):
    plain, expected = steps("32-true", width=2, n=2, objective=objective)
    counters.clear()
    compiling_with("aot_eager", monkeypatch)
    model, losses = steps("32-true", width=2, n=2, objective=objective, compile=True)
    assert counters["stats"]["unique_graphs"] > 0, "control: something was compiled"
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_an_error_of_the_compiler_is_one_line(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand much more to say about it")

    compiling_with(broken, monkeypatch)
    with pytest.raises(InputError, match=r"no compiler here.*: set machine.compile to false$") as told:
        steps("32-true", width=2, n=2, compile=True)
    assert "\n" not in str(told.value)


# --- dry runs ---


def test_a_dry_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = benchmark("cifar10", width=8)
    run = dry_run(small, "rc+kl+nn", Machine("cpu", 2, "bf16-mixed"), 3)
    assert len(run.losses) == len(run.seconds) == 3
    assert run.losses[-1] < run.losses[0]
    assert run.parameters == sum(p.numel() for p in drmm.presets.conv_large(width=8).parameters())
    assert run.memory is None or run.memory > 50 * 2**20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("steps", "row", "says"), [(0, "rc", "0 steps"), (-1, "rc", "-1 steps"), (2, "magic", "no row 'magic'")]
)
def test_what_a_dry_run_refuses(steps, row, says):
    with pytest.raises(InputError, match=says):
        dry_run(benchmark("svhn"), row, Machine("cpu"), steps)


def test_drawn_images():
    x, y = drawn_images(200, (3, 8, 8), labelled=30, seed=0)
    assert (x.shape, x.dtype, int((y >= 0).sum())) == ((200, 3, 8, 8), torch.uint8, 30)
    assert torch.equal(x, drawn_images(200, (3, 8, 8), labelled=30, seed=0)[0])
    assert not torch.equal(x, drawn_images(200, (3, 8, 8), labelled=30, seed=1)[0]), "control"
    within = (x[0::10].float() - x[0].float()).abs().mean()
    between = (x[1::10].float() - x[0].float()).abs().mean()
    assert within < between, "classes can be told apart"
