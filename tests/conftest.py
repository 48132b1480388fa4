"""What every test shares: one thread, a fixed seed, reproducible examples, double precision, commands."""

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from drmm.cli import app as cli

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

torch.set_num_threads(1)  # small nets: more threads only wait for each other


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of folders is no user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path_factory.getbasetemp() / "cache")
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision by default, in which the theory's equalities hold to 1e-10."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def run_drmm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """One command in this process, of the words given: its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["drmm", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
        out, err = capsys.readouterr()
        return code, out, err

    return run
