"""What every test shares: one thread, a fixed seed, reproducible examples, double precision on request."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

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
