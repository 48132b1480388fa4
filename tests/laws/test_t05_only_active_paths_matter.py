"""T5. Only active paths matter.

Slide "Implications of the DP Interpretation": only the sparse set of optimal active paths matter for the
final decision of the convnet. A path is active if every switch on it is on. Leaving out all inactive paths
leaves every logit as it is; leaving out as many active ones (the control) changes it at least a hundred times
more. Checked path by path on small nets, and on a torch net whose inactive units are cut before their ReLU
and their pooling.
"""

import pytest
import torch
from torch import nn

from drmm import lift
from drmm.testing import enumerate_paths, random_net


@pytest.mark.parametrize("seed", range(30))
@torch.no_grad()
def test_path_by_path(seed):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=(True, True, True))
    x = torch.randn(1, *model.image_shape, generator=generator)
    logits = model(x)[0]
    without_inactive, without_active = [], []
    for c in range(model.n_classes):
        paths = enumerate_paths(model, model.infer(x, label=c))
        # Of every path, its weight times its input: switches only say which paths to keep.
        inputs = torch.cat([x.flatten(), torch.ones(1)])
        terms, active = paths.gamma * inputs[paths.end], paths.active.nonzero().squeeze(1)
        without_inactive.append(terms[active].sum())
        removed = min(int((~paths.active).sum()), len(active))
        kept = active[torch.randperm(len(active), generator=generator)][removed:]
        without_active.append(terms[kept].sum())
    harmless = (torch.stack(without_inactive) - logits).abs().max()
    harmful = (torch.stack(without_active) - logits).abs().max()
    assert harmless <= 1e-6 * (1 + logits.abs().max())
    assert harmful >= 100 * max(harmless.item(), 1e-6)


class Cut(nn.Module):
    """Sets the units outside a mask to 0."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return x * self.mask


@torch.no_grad()
def test_units_cut_out_of_a_torch_net():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 9, 10),
    )
    x = torch.randn(8, 1, 12, 12)
    model = lift(net)
    switches = model.infer(x).switches.parts
    active = {}
    for gate, pool in ((1, 2), (4, 5)):
        chosen = model.levels[pool].render(torch.ones_like(net[: pool + 1](x)), switches[pool])
        active[gate] = model.levels[gate].render(chosen, switches[gate]) > 0

    def cut(masks):
        layers = []
        for i, layer in enumerate(net):
            layers += [Cut(masks[i]), layer] if i in masks else [layer]
        return nn.Sequential(*layers)(x)

    logits = net(x)
    harmless = (cut(active) - logits).abs().max()
    assert harmless <= 1e-6
    # As many active units: at random, or all of them where fewer are active than not.
    shares = {i: min(1.0, float((~mask).double().mean() / mask.double().mean())) for i, mask in active.items()}
    masks = {i: mask & (torch.rand(mask.shape) >= shares[i]) for i, mask in active.items()}
    assert (cut(masks) - logits).abs().max() >= 100 * max(harmless.item(), 1e-6)
