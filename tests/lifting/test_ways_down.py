"""Functions with a transpose of their own are drawn without going up again."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import lift
from drmm.rendering import local


@pytest.fixture(autouse=True)
def _double(float64):
    """See tests/conftest.py."""


class Padded(nn.Conv2d):
    """As published implementations of EfficientNet have it."""

    def __init__(self, *options, pad, **more):
        super().__init__(*options, **more)
        self.pad = nn.ZeroPad2d(pad) if isinstance(pad, int | tuple) else pad

    def forward(self, x):
        return F.conv2d(self.pad(x), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


PADS = {
    "by a module": (0, 1, 2, 1),
    "one for all": 1,
    "a constant": nn.ConstantPad2d((1, 2, 0, 1), 0.3),
    "by a function": lambda x: F.pad(x, (1, 0, 0, 2), value=0.7),
    "cropped": lambda x: F.pad(x, (-1, 1, 1, -1)),
    "other dimensions": lambda x: F.pad(x, (0, 1, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("pad", PADS.values(), ids=PADS)
@pytest.mark.parametrize("options", [{"stride": 2, "groups": 4}, {"dilation": 2}, {"bias": False, "groups": 2}])
def test_convolutions_and_paddings_are_drawn_by_their_transposes(pad, options, monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Padded(4, 8, 3, pad=pad, **options), nn.ReLU(), nn.Flatten())
    width = net(torch.zeros(1, 3, 9, 8)).shape[1]
    net.append(nn.Linear(width, 3))
    model = lift(net.eval())
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    with monkeypatch.context() as patch:
        patch.setattr(local, "pull_back", lambda *_: pytest.fail("went up again"))
        latents = model.infer(x)
        drawn = model.render(latents)
    torch.testing.assert_close(drawn, torch.autograd.grad(net(x).amax(1).sum(), x)[0])
    assert torch.equal(latents.logits, net(x))


def test_control_other_functions_are_drawn_by_their_derivative(monkeypatch):
    model = lift(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2), nn.Flatten(), nn.Linear(36, 2)))
    latents = model.infer(torch.randn(2, 3, 8, 8)[..., :5, :5])
    monkeypatch.setattr(local, "pull_back", lambda *_: pytest.fail("went up again"))
    with pytest.raises(pytest.fail.Exception):
        model.render(latents)
