"""A lifted model answers for itself: what would be wrong in silence is refused by name, or is not wrong."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import explain, lift
from drmm.errors import InputError, LiftError
from drmm.lifting import tracing, translation
from drmm.lifting.diagnosis import Case
from drmm.lifting.verification import Verification
from drmm.rendering import AffineRendering, Identity, Switches


class Net(nn.Module):
    """A function of the features of a convolution, and a linear layer."""

    def __init__(self, function, top=144):
        super().__init__()
        self.function, self.conv, self.top = function, nn.Conv2d(1, 4, 3), nn.Linear(top, 3)

    def forward(self, x):
        return self.top(self.function(self.conv(x)).flatten(1))


def plain():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def written(look):
    """A view is taken, then the tensor is overwritten, then the view is read."""

    def function(y):
        seen = look(y)
        y.relu_()
        return seen

    return function


@pytest.fixture
def x():
    return torch.rand(3, 1, 8, 8)


SPELLINGS = {
    "moveaxis": Net(written(lambda y: y.moveaxis(1, 3))),
    "swapdims": Net(written(lambda y: y.swapdims(2, 3))),
    "mT": Net(written(lambda y: y.mT)),
    "tensor_split": Net(written(lambda y: y.tensor_split(2, 1)[0]), 72),
    "hsplit": Net(written(lambda y: y.hsplit(2)[1]), 72),
    "unfold": Net(written(lambda y: y.unfold(2, 2, 2))),
    "type_as": Net(written(lambda y: y.type_as(y))),
    "type": Net(written(lambda y: y.type(torch.float32))),
    "detach": Net(written(lambda y: y.detach())),
    "ravel": Net(written(lambda y: y.ravel().view(-1, 144))),
    "a view that was written": Net(lambda y: (y.swapdims(2, 3).relu_(), y)[1]),
    "roll": Net(lambda y: y.roll(1, 0)),
    "roll by two": Net(lambda y: y.roll(2, 0)),
    "roll of all": Net(lambda y: torch.roll(y, 1)),
    "flip": Net(lambda y: y.flip(-4)),
    "permutation": Net(lambda y: y[[1, 0, 2]]),
    "index_select": Net(lambda y: y.index_select(0, torch.tensor([2, 0, 1]))),
    "reversed": Net(lambda y: y[torch.arange(y.shape[0] - 1, -1, -1)]),
    "mean": Net(lambda y: y + y.mean(-4, keepdim=True)),
    "cumsum": Net(lambda y: y.cumsum(-4)),
    "the first image": Net(lambda y: y - y[:1]),
    "the last image": Net(lambda y: torch.cat([y[:-1], y.mean(0, keepdim=True)])),
    "batch norm": Net(lambda y: F.batch_norm(y, None, None, training=True)),
    "share of the batch": Net(lambda y: y / y.shape[0]),
    "a fixed batch": Net(lambda y: y.reshape(3, 144)),
    "squeeze": Net(lambda y: y.flatten(1).squeeze()),
    "a weight for each image": Net(lambda y: torch.einsum("nchw,n->nchw", y, torch.ones(3))),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_equal_logits_of_each_image_or_refused(name, x):
    net = SPELLINGS[name].eval()
    with torch.no_grad():
        logits = net(x.clone())
        try:
            model = lift(net)
            model(x)
        except (LiftError, InputError):
            return
        assert torch.equal(model(x), logits)
        assert torch.equal(model.infer(x).logits, logits)
        alone = torch.cat([net(image[None]) for image in x])
    torch.testing.assert_close(alone, logits)


class Doubled(nn.Sequential):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Counting:
    calls = 1

    def __call__(self, _, __, y):
        self.calls += 1
        return y * self.calls


def hooked(register, hook, layer=0, **options):
    net = plain()
    getattr(net if layer is None else net[layer], register)(hook, **options)
    return net


FORWARD, BEFORE = "register_forward_hook", "register_forward_pre_hook"
ADDED = {
    "output": (partial(hooked, FORWARD, lambda _, __, y: 2 * y), r"hook on layer '0' \(Conv2d\)"),
    "output in place": (partial(hooked, FORWARD, lambda _, __, y: (y.mul_(2), None)[1]), "hook on layer '0'"),
    "output by keyword": (partial(hooked, FORWARD, lambda *a: 2 * a[-1], with_kwargs=True), "hook on layer '0'"),
    "input": (partial(hooked, BEFORE, lambda _, x: (x[0] + 1,), 1), r"hook on layer '1' \(ReLU\)"),
    "input by keyword": (
        partial(hooked, BEFORE, lambda _, x, k: ((x[0] + 1,), k), 1, with_kwargs=True),
        "hook on layer '1'",
    ),
    "logits": (partial(hooked, FORWARD, lambda _, __, y: y.softmax(1), None), "hook on the net"),
    "images": (partial(hooked, BEFORE, lambda _, x: (1 - x[0],), None), "hook on the net"),
    "a dictionary": (partial(hooked, FORWARD, lambda _, __, y: {"logits": y}, None), "returns dict"),
    "centred": (partial(hooked, FORWARD, lambda _, __, y: y - y.mean(0)), "mixes images"),
    "noise": (partial(hooked, FORWARD, lambda _, __, y: y + torch.rand_like(y)), "change from call to call"),
    "counted calls": (partial(hooked, FORWARD, Counting()), "change from call to call"),
    "a call of its own": (lambda: Doubled(*plain()).eval(), "__call__"),
}


@pytest.mark.parametrize("name", ADDED)
def test_what_is_not_in_forward_is_refused_by_name(name, x):
    make, message = ADDED[name]
    with pytest.raises(LiftError, match=message):
        lift(make())
    net = make()
    model, logits = lift(net, check=False), net(x)
    if name != "a dictionary":
        assert not torch.equal(model(x), logits)  # the control: without the check it is wrong in silence


def test_a_hook_on_every_module_is_refused(x):
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, y: 2 * y if isinstance(module, nn.Conv2d) else None
    )
    try:
        with pytest.raises(LiftError, match="every module"):
            lift(plain())
    finally:
        handle.remove()
    lift(plain())


def double(_, gradients, *__):
    return tuple(2 * gradient for gradient in gradients)


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_that_change_gradients_are_refused(register, x):
    with pytest.raises(LiftError, match=r"hook on layer '1' \(ReLU\) changes gradients"):
        lift(hooked(register, double, 1))
    seen = []
    lift(hooked(register, lambda *_: seen.append(1), 1)).infer(x)  # GradCAM's only watch
    assert seen == []


class Watch:
    def __init__(self):
        self.seen, self.calls = [], 0

    def __call__(self, _, __, y):
        self.seen.append(y)
        self.calls += 1


def test_hooks_that_watch_are_left_alone(x):
    net, watch, features, number = plain(), Watch(), {}, 0

    def count(_, __, y):
        nonlocal number
        number += 1
        features["top"] = y

    net[1].register_forward_hook(watch)
    net[1].register_forward_hook(watch.__call__)
    net[2].register_forward_hook(count)
    model = lift(net)
    assert torch.equal(model.infer(x).logits, model(x))
    assert (watch.seen, watch.calls, features, number) == ([], 0, {}, 0)
    net(x)
    assert (len(watch.seen), watch.calls, list(features), number) == (2, 2, ["top"], 1)


# --- what the check itself finds, whatever is refused before ---


def test_a_wrong_translation_is_found(monkeypatch):
    right = translation.rendering_of
    lift(Net(torch.relu))

    def wrong(node, *args, **kwargs):
        return Identity() if node.target is torch.relu else right(node, *args, **kwargs)

    monkeypatch.setattr(translation, "rendering_of", wrong)
    with pytest.raises(LiftError, match=r"'relu' \(relu\) has other values"):
        lift(Net(torch.relu))


def test_a_view_that_nobody_knows_is_found(monkeypatch):
    monkeypatch.setattr(tracing, "_functionalise", lambda *_: None)
    with pytest.raises(LiftError, match=r"'flatten' \(flatten\) reads what 'permute' .* after an in-place"):
        lift(Net(written(lambda y: y.permute(0, 2, 3, 1))))


class Centred(AffineRendering):
    """A rendering of a user that mixes images."""

    def infer(self, x):
        return x - x.mean(0), Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return z - z.mean(0)


@pytest.mark.parametrize("images", [torch.zeros(1, 1, 8, 8), torch.full((4, 1, 8, 8), math.nan)])
def test_mixed_images_are_found_on_images_that_are_alike(images):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), Centred(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with pytest.raises(LiftError, match=r"layer '1' \(Centred\) mixes images"):
        lift(net)
    model = lift(net, check=False)
    model(images)  # the control
    model.verify = Verification(net, strict=True)
    with pytest.raises(LiftError, match="mixes images"):
        model(images)


class Steep(nn.Module):
    """Forty layers, each of which makes a difference larger; with an argument that has a default."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1 + 3 * (i > 0), 4, 3, padding=1) for i in range(40))
        self.top = nn.Linear(256, 3)

    def forward(self, x, scale=3):
        for layer in self.layers:
            x = scale * (layer(x).relu() - 0.1)
        return self.top(x.flatten(1))


def test_rounding_that_grows_is_no_mixing(x):
    net = Steep().eval()
    for made, rounds in ((net, True), (plain(), False)):
        with torch.no_grad():
            case = Case(made, x, strict=True)
            logits = case.logits(x)
            assert case.only_rounds(1.001 * logits, logits) == rounds
            assert not case.only_rounds(100 * logits, logits)
    assert torch.equal(lift(net)(x), net(x))
    net.register_forward_pre_hook(lambda _, x: (x[0] - x[0].mean(0), 3))
    with pytest.raises(LiftError, match="mixes images"):
        lift(net)


def at_width_9(_, inputs, y):
    return 2 * y if inputs[0].shape[-1] == 9 else None


def pooled():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()


def test_each_shape_is_checked_once(monkeypatch):
    net, checked = pooled(), []
    compare = Verification._compare
    monkeypatch.setattr(
        Verification, "_compare", lambda *args: checked.append(tuple(args[2].shape[1:])) or compare(*args)
    )
    model = lift(net)
    for size in (8, 8, 10, 8):
        model(torch.rand(2, 1, size, size))
        model.max_sum(torch.rand(2, 1, size, size), None)
    assert checked[1:] == [(1, 8, 8), (1, 10, 10)]
    net[0].register_forward_hook(at_width_9)
    for _ in range(2):  # what has failed is not forgotten
        with pytest.raises(LiftError, match="changes a value"):
            model.infer(torch.rand(2, 1, 9, 9))


def test_every_way_in_is_checked(x):
    for way in (
        lambda model: model(x),
        lambda model: model.infer(x),
        lambda model: model.upper_bound(x),
        lambda model: model.reconstruct(x),
        lambda model: explain.level_relevance(model, x, -1),
        lambda model: explain.active_paths(model, x),
    ):
        net = plain()
        model = lift(net)
        net[0].register_forward_hook(lambda _, __, y: 2 * y)
        with pytest.raises(LiftError, match="changes a value"):
            way(model)
    with pytest.raises(LiftError, match="changes a value"):
        explain.active_paths(net, x)


def test_an_example_is_checked_at_once(x):
    net = hooked(FORWARD, at_width_9)
    net = nn.Sequential(net[0], *pooled()[1:]).eval()
    lift(net, example=x)
    with pytest.raises(LiftError, match="changes a value"):
        lift(net, example=torch.rand(2, 1, 9, 9))
    for example in (x.numpy(), x[:0], torch.tensor(1.0)):
        with pytest.raises(InputError, match=r"example must be a tensor of images \(N, C, H, W\)"):
            lift(net, example=example)
    with pytest.raises(InputError, match="example does not fit the net"):
        lift(net, example=torch.rand(2, 3, 8, 8))
    with pytest.raises(InputError, match="image_shape does not fit the net"):
        lift(net, image_shape=(3, 8, 8))


CHANGES = {
    "a layer": lambda net: net.__setitem__(0, nn.Conv2d(1, 4, 3)),
    "a forward": lambda net: setattr(net[0], "forward", lambda x: F.conv2d(x, net[0].weight)),
    "one more": lambda net: net.append(nn.Hardtanh(0, 0.1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_net_that_has_changed_must_be_lifted_again(name, x):
    net = plain()
    model = lift(net)
    CHANGES[name](net)
    with pytest.raises(LiftError, match="changed since it was lifted"):
        model(x)
    assert torch.equal(lift(net)(x), net(x))


def test_changed_weights_are_no_change(x):
    net = plain()
    model = lift(net)
    with torch.no_grad():
        net[0].weight.mul_(2)
    assert torch.equal(model(x), net(x))


def test_images_that_do_not_fit_are_refused_in_the_words_of_the_layer():
    with pytest.raises(RuntimeError, match="expected input"):
        lift(plain())(torch.rand(2, 3, 8, 8))
    net = pooled()
    model = lift(net)
    net.register_forward_pre_hook(lambda _, x: 1 / 0)
    with pytest.raises(
        LiftError, match=r"the net itself fails on images of shape \(2, 1, 8, 8\): division by zero"
    ):
        model(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_in_any_precision(kind, x):
    net = plain().to(kind)
    assert torch.equal(lift(net)(x.to(kind)), net(x.to(kind)))


def test_under_autocast_in_inference_mode_and_channels_last(x):
    net = plain()
    model = lift(net)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), net(x))
    with torch.inference_mode():
        assert torch.equal(lift(net)(x), net(x))
    x = x.expand(3, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(x), net(x))


def test_transforms_of_torch_look_through(x):
    net = plain()
    model = lift(net)
    assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), x), net(x))
    assert torch.func.jacrev(model)(x).shape == (3, 3, 3, 1, 8, 8)
    assert torch.equal(lift(lift(net))(x), net(x))
    with torch.device("meta"):
        skeleton = plain()
    assert lift(skeleton)(x.to("meta")).shape == (3, 3)


def test_the_net_is_no_part_of_the_model(x):
    net = plain()
    model = lift(net)
    bare = lift(net, check=False)
    for names in ("named_modules", "named_parameters", "named_buffers", "state_dict"):
        one, other = (
            list(dict(getattr(each, names)())) if names != "state_dict" else list(each.state_dict())
            for each in (model, bare)
        )
        assert one == other
    twin = copy.deepcopy(model)
    net[0].register_forward_hook(lambda _, __, y: 2 * y)
    assert twin(x).shape == (3, 3)
    with pytest.raises(LiftError, match="changes a value"):
        model(x)
