"""The guide "Add a rendering" runs as it is printed, and what it makes takes part in everything."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from drmm import DRMM
from drmm.rendering import Conv2d, Flatten, Level, Linear, Rendering, Sequential, Switches
from drmm.rendering.bounds import NoBoundError, bound
from drmm.testing import enumerate_configurations

GUIDE = Path(__file__).parents[2] / "docs" / "new_rendering.md"


@pytest.fixture
def guide(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names = {"__name__": "guide"}
    torch.set_default_dtype(torch.float32)  # as a reader's session has it
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    return names


def test_the_guide_runs(guide):
    assert guide["explanation"].shape == (1, 1, 8, 8)
    assert guide["latents"].gap.isfinite().all()


def test_it_is_one_page(guide):
    assert len(GUIDE.read_text(encoding="utf-8").splitlines()) < 100


def test_the_oracle_takes_a_rendering_of_ones_own(guide):
    levels = Sequential(guide["SpaceToDepth"](), Level(Conv2d(4, 2, (1, 2))), Flatten())
    model = DRMM(levels, Linear(4, 3)).double().eval()
    nn.init.uniform_(model.templates.weight)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(enumerate_configurations(model, x).score, model(x).detach())
    torch.testing.assert_close(model.upper_bound(x), model(x).detach())


def test_without_a_bound_nothing_is_certified():
    class Mirror(Rendering):
        def infer(self, x):
            return x.flip(-1), Switches(tuple(x.shape[1:]))

        def render(self, z, switches):
            return z.flip(-1)

    model = DRMM(Sequential(Mirror(), Flatten()), Linear(16, 3)).eval()
    x = torch.randn(2, 1, 4, 4)
    assert model.infer(x).upper_bound.isposinf().all()
    assert not model.infer(x).certified().any()
    with pytest.raises(NoBoundError, match="no bound for Mirror"):
        bound(Mirror(), x, x)
    assert bound(Flatten(), torch.zeros(1, 2, 2), torch.ones(1, 2, 2))[1].shape == (1, 4)
