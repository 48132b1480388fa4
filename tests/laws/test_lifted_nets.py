"""Any convnet is a DRMM. The laws on nets that nobody here wrote, lifted from torch as they are.

For each net: logits are the net's to the bit; Law 0 holds for the whole stack of levels; T3: what the model draws
is the gradient of the score, and the pixels' evidence and what the paths that end in a bias contribute sum to the
logit. The bias paths are added up independently, from the net's own biases and running means times the templates
that come down to them, and from the units that a clip has saturated. The net is left as it was, and switches take
at most a byte for each unit of a ReLU and of a pool.

Weights are random, with norms that have seen something, and biases everywhere. Controls: without the biases the
sum is not the logit; the switches of another image draw another picture.
"""

import copy

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import nn

import drmm
from drmm.testing import dot_product_gap

NETS = ["resnet18", "resnet50", "bn_vgg11", "densenet121", "mobilenetv2_w1", "resnext50_32x4d", "shufflenetv2_w1"]
SMALL = [
    "resnet20_cifar10",
    "preresnet20_cifar10",
    "pyramidnet110_a48_cifar10",
    "shakeshakeresnet20_2x16d_cifar10",
]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@torch.no_grad()
def seen(net):
    """Norms and biases as after some training."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.uniform_(0.5, 1.5, generator=generator)
        if getattr(module, "bias", None) is not None:
            module.bias.normal_(0, 0.1, generator=generator)
    return net.eval()


def make(name):
    size = 32 if "cifar" in name else 224
    net = seen(get_model(name, pretrained=False).double())
    return net, torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module", params=NETS + SMALL)
def lifted(request):
    """A net, its twin that is never lifted, an image and the model."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    net, x = make(request.param)
    twin = copy.deepcopy(net)
    yield net, twin, x, drmm.lift(net)
    torch.set_default_dtype(before)


@torch.no_grad()
def test_logits_are_the_nets_to_the_bit(lifted):
    net, twin, x, model = lifted
    logits = twin(x)
    assert torch.equal(model(x), logits)
    assert torch.equal(model.max_sum(x, None)[1], logits)
    assert torch.equal(net(x), logits)
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}


def test_law_0(lifted):
    _, _, x, model = lifted
    assert dot_product_gap(model.levels, x, torch.Generator().manual_seed(3)) <= 1e-10


def paths(net, x, label):
    """Gradient of a class's logit, and the sum of its bias paths, from the net's parameters and activations."""
    units = []

    def watch(module, inputs, output):
        output = output.clone()
        output.retain_grad()
        units.append((module, inputs[0].detach().clone(), output))
        return output.clone()  # in-place layers come next

    kinds = nn.BatchNorm2d | nn.ReLU6
    handles = [m.register_forward_hook(watch) for m in net.modules() if isinstance(m, kinds)]
    images = x.clone().requires_grad_()
    score = net(images)[0, label]
    biases = [m.bias for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None]
    templates = torch.autograd.grad(score, biases, retain_graph=True) if biases else ()
    score.backward()
    for handle in handles:
        handle.remove()
    total = sum((b * z).sum() for b, z in zip(biases, templates, strict=True))
    for module, features, output in units:
        if isinstance(module, nn.ReLU6):
            total = total + (6 * output.grad * (features >= 6)).sum()
        else:
            scale = module.weight * (module.running_var + module.eps).rsqrt()
            offset = module.bias - scale * module.running_mean
            total = total + (offset * output.grad.sum((0, 2, 3))).sum()
    return images.grad, total.detach()


def test_t3_and_completeness(lifted):
    _, twin, x, model = lifted
    with torch.no_grad():
        label, logits, switches = model.max_sum(x, None)
        picture = model.levels.render(model.templates.weight[label], switches)
    gradient, bias = paths(twin, x, int(label))
    torch.testing.assert_close(picture, gradient, rtol=1e-8, atol=1e-8 * float(gradient.abs().max()))
    score, pixels = logits[0, label], (picture * x).sum()
    assert abs(pixels + bias - score) <= 1e-6 * max(1, abs(score))
    assert abs(pixels - score) > 1e-4  # the control: biases matter here
    with torch.no_grad():
        stranger = model.levels.render(model.templates.weight[label], model.max_sum(x.flip(3), None)[2])
    assert (stranger - picture).norm() > 0.1 * picture.norm()


def test_switches_take_a_byte_a_unit(lifted):
    net, _, x, model = lifted
    units = []
    counted = nn.ReLU | nn.ReLU6 | nn.MaxPool2d
    handles = [
        m.register_forward_hook(lambda _, __, y: units.append(y.numel()))
        for m in net.modules()
        if isinstance(m, counted)
    ]
    with torch.no_grad():
        net(x)
        switches = model.max_sum(x, None)[2]
    for handle in handles:
        handle.remove()
    assert 0 < switches.nbytes() <= sum(units)
    assert all(leaf.point is None for leaf in switches.leaves())


def test_hooks_and_modes_are_left_as_found():
    net, x = make("resnet20_cifar10")
    net.features.stage1.train()
    net.features.stage2.unit1.body.conv1.bn.eval()
    calls = []
    for module in net.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    modes = [module.training for module in net.modules()]
    attributes = [set(vars(module)) for module in net.modules()]
    generator = torch.get_rng_state()
    model = drmm.lift(net)
    assert [module.training for module in net.modules()] == modes
    assert [set(vars(module)) for module in net.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), generator)
    model.max_sum(x, None)
    model(x)
    assert calls == []
    net(x)
    assert len(calls) > 100


def test_residual_blocks_are_levels():
    model = drmm.lift(make("resnet20_cifar10")[0])
    graphs = [name for name, level in model.levels.named_children() if type(level).__name__ == "Graph"]
    assert graphs[0] == "features_stage1_unit1"
    assert len(graphs) == 9
