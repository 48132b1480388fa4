"""The renderings are checked in double precision."""

import pytest


@pytest.fixture(autouse=True)
def _double(float64) -> None:
    """See tests/conftest.py."""
