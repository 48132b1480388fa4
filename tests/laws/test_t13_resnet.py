"""T13. Max-sum inference in the preconditioned DRMM is a residual net.

Slide "Inference in the Pre-Conditioned DRMM yields Deep ResNets": Λ_g = 1 + Δ_t ⊙ a, coarse to fine: keep the
picture, and add a detail where a unit is on. Read out by z ≥ 0 (law T2), with the switches a and the positions t,

    max_{a,t} ⟨z, Λ_gᵀ x⟩ = ⟨z, x⟩ + max_{a,t} ⟨z, a ⊙ W_t x⟩ = ⟨z, x + ReLU(max_t W_t x)⟩,

and x ↦ x + ReLU(W x) is increasing where W ≥ 0, so that blocks stack: the forward pass is the joint maximum over
all masks of all blocks. For those masks the net is Π_ℓ (1 + M_ℓ W_ℓ), which multiplies out into 2^L paths, each
through some blocks and around the others; and it draws z + Wᵀ M_a z.

What the slide leaves out: z ≥ 0, without which nothing can be taken through the maximum; that its residual,
ReLU(W x), is never negative, while a ResNet's ends in another dictionary, V ReLU(W x), which keeps the law where
V ≥ 0 only; and that the 2^L paths are no ensemble: they share switches, which depend on all of the net.

Controls: signed weights above the first switch; no skip; paths with switches of their own.
"""

import itertools
from math import prod

import pytest
import torch
from torch import nn

from drmm import branch_and_bound, lift
from drmm.rendering import Graph

LAW = {"rtol": 1e-10, "atol": 1e-10}
D, CLASSES, IMAGES = 4, 3, 5


class Block(nn.Module):
    """The slide's: x + ReLU(W x)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(D, D)

    def forward(self, x):
        return x + self.w(x).relu()

    def all(self, x):
        """What every choice of the switches makes of x (N, D), (N, K, D)."""
        return x[:, None] + masks(D) * self.w(x)[:, None]


class Branch(Block):
    """A ResNet's, whose residual ends in a dictionary: x + V ReLU(W x)."""

    def __init__(self):
        super().__init__()
        self.v = nn.Linear(D, D)

    def forward(self, x):
        return x + self.v(self.w(x).relu())

    def all(self, x):
        return x[:, None] + self.v(masks(D) * self.w(x)[:, None])


class Post(Branch):
    """The first ResNet's, with a switch after the sum as well: ReLU(x + V ReLU(W x))."""

    def forward(self, x):
        return super().forward(x).relu()

    def all(self, x):
        return (masks(D)[:, None] * super().all(x)[:, None]).flatten(1, 2)


class Pooled(Block):
    """With positions: unit i has one of two places, x + ReLU(max_t (W x)_{i + t})."""

    def __init__(self):
        super().__init__()
        self.w = nn.Conv2d(1, 1, (1, 2), padding=(0, 1))
        self.pool = nn.MaxPool2d((1, 2), stride=1)

    def forward(self, x):
        x = x.reshape(-1, 1, 1, D)
        return (x + self.pool(self.w(x)).relu()).flatten(1)

    def all(self, x):
        u = self.w(x.reshape(-1, 1, 1, D)).flatten(1)
        places = (torch.arange(D) + masks(D)).long()
        return x[:, None] + (masks(D)[:, None] * u[:, places][:, None]).flatten(1, 2)


def masks(n):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)))


def everything(blocks, x):
    """The features of every configuration of all switches of all blocks, (N, K, D)."""
    features = x[:, None]
    for block in blocks:
        features = block.all(features.flatten(0, 1)).reshape(len(x), -1, D)
    return features


@torch.no_grad()
def net(kind, depth, *, signed=False):
    """Blocks, class templates, the lifted model, and images; every weight above the first switch is ≥ 0."""
    blocks = [kind() for _ in range(depth)]
    templates = nn.Linear(D, CLASSES)
    for module in nn.Sequential(*blocks, templates).modules():
        for name, parameter in module.named_parameters(recurse=False):
            nn.init.normal_(parameter)
            first = module is blocks[0].w or name == "bias"
            if not first and not signed:
                parameter.abs_()
    model = lift(nn.Sequential(nn.Flatten(), *blocks, templates).eval())
    return blocks, templates, model, torch.randn(IMAGES, 1, 1, D)


STACKS = [
    (Block, 1),
    (Block, 2),
    (Block, 3),
    (Branch, 2),
    (Branch, 3),
    (Post, 1),
    (Post, 2),
    (Pooled, 1),
    (Pooled, 2),
]


@pytest.mark.parametrize("seed", range(5))
def test_one_block_is_the_max_over_masks(seed):
    """Straight from the slide: all Λ_g = 1 + Wᵀ M_a as matrices, and z that is fixed."""
    torch.manual_seed(seed)
    w, x, z = torch.randn(D, D), torch.randn(D), torch.rand(D)
    scores = [z @ (torch.eye(D) + w.T @ a.diag()).T @ x for a in masks(D)]
    torch.testing.assert_close(max(scores), z @ (x + (w @ x).relu()), **LAW)


@pytest.mark.parametrize("seed", range(5))
def test_one_block_with_positions_is_a_max_pool(seed):
    """Each unit has three places t of its own to take its detail from: all 2^D 3^D choices."""
    torch.manual_seed(seed)
    w, x, z = torch.randn(3, D, D), torch.randn(D), torch.rand(D)
    best = max(
        z @ (x + a * torch.stack([w[t, i] @ x for i, t in enumerate(places)]))
        for a in masks(D)
        for places in itertools.product(range(3), repeat=D)
    )
    torch.testing.assert_close(best, z @ (x + (w @ x).amax(0).relu()), **LAW)


@pytest.mark.parametrize(("kind", "depth"), STACKS)
@torch.no_grad()
def test_a_stack_is_the_joint_max_over_all_masks(kind, depth):
    blocks, templates, model, x = net(kind, depth)
    features = everything(blocks, x.flatten(1))
    assert 2 ** (D * depth) <= features.shape[1] <= 1e5
    best = templates(features).amax(1)
    latents = model.infer(x)
    torch.testing.assert_close(latents.logits, best, **LAW)
    torch.testing.assert_close(latents.score, best.amax(1), **LAW)
    assert torch.equal(latents.label, best.argmax(1))
    assert latents.gap.abs().max() <= 1e-10
    assert latents.certified(1e-10).all()


@pytest.mark.parametrize(("kind", "depth"), STACKS)
@torch.no_grad()
def test_it_draws_the_transpose(kind, depth):
    """Each block draws z + Fᵀ z, F being the residual with the switches that inference found."""
    blocks, _, _, x = net(kind, depth, signed=True)
    values, templates = x.flatten(1), torch.randn(IMAGES, D)
    for block, maps in zip(blocks, residual_maps(blocks, values), strict=True):
        level = graph_of(block)
        switches = level.infer(values)[1]
        gate = (block(values) > 0).to(templates) if kind is Post else torch.ones_like(templates)
        above = gate * templates
        torch.testing.assert_close(level.render(templates, switches), above + (above[:, None] @ maps)[:, 0], **LAW)
        values = block(values)


def graph_of(block):
    """A block alone, lifted."""
    levels = lift(nn.Sequential(block, nn.Linear(D, 1))).levels
    assert any(isinstance(module, Graph) for module in levels.modules())
    return levels


def residual_maps(blocks, x):
    """F of each block as a matrix for each image, (N, D, D), from the weights and what is on, by hand."""
    found = []
    for block in blocks:
        if isinstance(block, Pooled):
            left, right = block.w.weight.flatten()
            dense = torch.zeros(D + 1, D)
            dense[torch.arange(1, D + 1), torch.arange(D)] = left
            dense[torch.arange(D), torch.arange(D)] = right
            u = x @ dense.T + block.w.bias
            place = torch.arange(D) + (u[:, 1:] > u[:, :-1])
            found.append((u.gather(1, place) > 0)[:, :, None] * dense[place])
        else:
            gated = (x @ block.w.weight.T + block.w.bias > 0)[:, :, None] * block.w.weight
            found.append(block.v.weight @ gated if isinstance(block, Branch) else gated)
        x = block(x)
    return found


def along(maps, chosen):
    """The linear map of one path: F_ℓ through the blocks in `chosen`, 1 around the others."""
    path = torch.eye(D).expand(IMAGES, D, D)
    for i in chosen:
        path = maps[i] @ path
    return path


def subsets(depth):
    return [s for k in range(depth + 1) for s in itertools.combinations(range(depth), k)]


def without_biases(blocks):
    for block in blocks:
        for layer in block.children():
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)


@pytest.mark.parametrize(("kind", "depth"), [(Block, 4), (Branch, 5), (Pooled, 3)])
@torch.no_grad()
def test_the_logit_is_a_sum_over_paths_through_or_around_blocks(kind, depth):
    """2^L of them, of any signs; L choose k are k blocks long; so is the picture."""
    blocks, templates, model, x = net(kind, depth, signed=True)
    without_biases(blocks)
    maps, latents = residual_maps(blocks, x.flatten(1)), model.infer(x)
    pictures = [
        (templates.weight[latents.label][:, None] @ along(maps, chosen))[:, 0] for chosen in subsets(depth)
    ]
    assert len(pictures) == 2**depth
    torch.testing.assert_close(sum(pictures), model.render(latents).flatten(1), **LAW)
    logits = sum((picture * x.flatten(1)).sum(1) for picture in pictures) + templates.bias[latents.label]
    torch.testing.assert_close(logits, latents.score, **LAW)


@torch.no_grad()
def test_a_block_that_is_lesioned_takes_half_of_the_paths_with_it():
    """[Veit et al. 2016], for frozen switches: what is missing is Σ over the paths through the block."""
    blocks, templates, _, x = net(Block, 4, signed=True)
    without_biases(blocks)
    x, maps = x.flatten(1), residual_maps(blocks, x.flatten(1))
    for lost in range(4):
        whole = prod_of([torch.eye(D) + f for f in maps])
        rest = prod_of([torch.eye(D) + f for i, f in enumerate(maps) if i != lost])
        through = [chosen for chosen in subsets(4) if lost in chosen]
        assert len(through) == 2**4 // 2
        missing = ((whole - rest) @ x[..., None])[..., 0] @ templates.weight.T
        paths = (sum(along(maps, chosen) for chosen in through) @ x[..., None])[..., 0] @ templates.weight.T
        torch.testing.assert_close(missing, paths, **LAW)


def prod_of(maps):
    path = torch.eye(D).expand(IMAGES, D, D)
    for f in maps:
        path = f @ path
    return path


@torch.no_grad()
def test_preconditioned_means_close_to_the_identity():
    """Singular values of what is drawn lie within Π (1 ± ‖F_ℓ‖); without the skip a unit that is off is lost."""
    blocks, _, _, x = net(Block, 6, signed=True)
    for block in blocks:
        block.w.weight.mul_(0.1 / torch.linalg.matrix_norm(block.w.weight, 2))
    maps = residual_maps(blocks, x.flatten(1))
    norms = torch.stack([torch.linalg.matrix_norm(f, 2) for f in maps])
    values = torch.linalg.svdvals(prod_of([torch.eye(D) + f for f in maps]))
    assert (values <= (1 + norms).prod(0)[:, None] + 1e-12).all()
    assert (values >= (1 - norms).prod(0)[:, None] - 1e-12).all()
    assert (values.amax(1) / values.amin(1)).max() < prod([1.1 / 0.9] * 6)
    assert torch.linalg.svdvals(prod_of(maps)).amin(1).max() < 1e-12


@pytest.mark.parametrize(("kind", "depth"), [(Block, 2), (Block, 3), (Branch, 1), (Branch, 2), (Pooled, 2)])
@torch.no_grad()
def test_control_signed_upper_weights_can_do_better_than_the_forward_pass(kind, depth):
    blocks, templates, model, x = net(kind, depth, signed=True)
    best, logits = templates(everything(blocks, x.flatten(1))).amax(1), model(x)
    assert (best >= logits - 1e-10).all()
    assert (best - logits).max() > 1e-2
    assert (model.upper_bound(x) >= best - 1e-10).all()
    for c in range(CLASSES):  # lines through the branches, which share what comes from below
        linear = branch_and_bound(model, x, c, budget=0).upper_bound
        assert (linear >= best[:, c] - 1e-10).all()
        assert (linear <= model.upper_bound(x)[:, c] + 1e-10).all()
        assert depth == 1 or (linear < model.upper_bound(x)[:, c] - 1e-3).any()
    assert not all(model.infer(x, label).certified().all() for label in range(CLASSES))


@torch.no_grad()
def test_control_without_the_skip_scores_differ():
    """Λ = a ⊙ Δ is a plain level, whose maximum is another."""
    blocks, templates, model, x = net(Block, 2)
    plain = x.flatten(1)[:, None]
    for block in blocks:
        plain = (masks(D)[:, None] * block.w(plain)[:, None]).flatten(1, 2)
    best = templates(plain).amax((1, 2))
    skipless = nn.Sequential(nn.Flatten(), blocks[0].w, nn.ReLU(), blocks[1].w, nn.ReLU(), templates)
    torch.testing.assert_close(lift(skipless).infer(x).score, best, **LAW)
    assert ((model.infer(x).score - best).abs() > 1e-2).all()


@torch.no_grad()
def test_control_paths_do_not_choose_for_themselves():
    """Nets of their own, with their own switches, do not add up to the net: it is no ensemble of them."""
    blocks, templates, _, x = net(Block, 3, signed=True)
    without_biases(blocks)
    x, maps = x.flatten(1), residual_maps(blocks, x.flatten(1))
    shared = sum(along(maps, chosen) for chosen in subsets(3))
    own = sum(along(dict(zip(c, residual_maps([blocks[i] for i in c], x), strict=True)), c) for c in subsets(3))
    gap = ((own - shared) @ x[..., None])[..., 0] @ templates.weight.T
    assert gap.abs().max() > 1e-2
