import json
import platform
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

from drmm.errors import RunError
from drmm.learning.allocator import tune_allocator
from drmm.model.presets import conv_small
from drmm.studies import benchmark


@pytest.mark.parametrize("mode", [True, False])
def test_plain_twin_is_the_same_convnet(mode):
    model = conv_small(width=4)
    with torch.no_grad():
        for level in list(model.levels)[:4]:
            level.norm.weight.normal_()
            level.norm.running_mean.normal_()
    twin = benchmark.plain_twin(model).train(mode)
    x = torch.rand(3, 1, 28, 28)
    assert torch.allclose(twin(x), model.train(mode)(x), atol=1e-4)
    assert not any(type(module).__module__.startswith("drmm") for module in twin.modules())


def test_run_and_table():
    threads, said = torch.get_num_threads(), []
    result = benchmark.run_benchmark(threads=(1,), batch_sizes=(2,), repeats=3, width=2, progress=said.append)
    assert torch.get_num_threads() == threads
    assert said
    (run,) = result["runs"]
    assert set(run["train_seconds"]) == set(run["predict_images_per_second"]) == set(benchmark.RIVALS)
    assert run["ratio"]["plain"]["train_to_plain"] == 1
    assert all(0 < result["convolution_share"][name] < 1 for name in benchmark.RIVALS)
    assert all(result["explanations"][name]["drmm_to_captum"] > 0 for name in ("active paths", "guided backprop"))
    assert 0 < result["convolution_share"]["drmm_bare"] < 1
    assert set(result["processes"]["images_per_second"]) == {"one", "two"}
    assert result["processes"]["two_to_one"] > 0
    assert {"cpu", "cores"} <= set(result["machine"])
    assert {"torch", "drmm", "python"} <= set(result["versions"])

    assert json.loads(json.dumps(result)) == result
    rows = benchmark.table(result).splitlines()
    assert rows[0].startswith("| threads |")
    assert sum(row.startswith("| 1 | 2 |") for row in rows) == len(benchmark.RIVALS)
    assert "Captum's" in benchmark.table(result)
    assert "Two processes" in benchmark.table(result)
    older = {name: value for name, value in result.items() if name != "processes"}
    older["convolution_share"] = {name: result["convolution_share"][name] for name in benchmark.RIVALS}
    assert "without rendering" in benchmark.table(result)
    assert not any(text in benchmark.table(older) for text in ("Two processes", "without rendering"))
    assert "Captum's" not in benchmark.table(result | {"explanations": None}), "nor without Captum"


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
def test_the_profiler_says_nothing_between_the_lines():
    """In a process of its own: the profiler's C++ code reads how much it may say once."""
    code = (
        "from drmm.studies.benchmark import _convolution_share, _Rival\n"
        "print(0 < _convolution_share(_Rival('plain', 4, 2), steps=1) < 1)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("True\n", "")


def test_tune_allocator_tunes_glibc_as_often_as_it_is_called():
    assert tune_allocator() is True
    assert tune_allocator() is True


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_tune_allocator_leaves_other_systems_alone(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    assert tune_allocator() is False


@pytest.mark.parametrize("library", [OSError("no such file"), AttributeError("mallopt")])
def test_tune_allocator_leaves_other_c_libraries_alone(library, monkeypatch):
    def missing(_):
        raise library

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("drmm.learning.allocator.ctypes.CDLL", missing)
    assert tune_allocator() is False


def test_a_trainer_does_what_it_is_asked_and_says_so():
    with ExitStack() as stack:
        trainers = benchmark._Trainers(stack, (1, 1), 2, 2, 0)
        trainers.train(1)
        trainers.processes[1].terminate()
        trainers.processes[1].wait()
        with pytest.raises(RunError, match="has ended"):
            trainers.train(1)
