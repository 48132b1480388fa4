"""T20. Independent switches make poor samples, and a patch prior makes good ones.

The slides admit it: samples whose switches are drawn independently do not look like anything. A classifier that
knows real digits alone recognises nine in ten samples of the patch prior, and far fewer independent ones
(control). They are no copies of training images, unless there is one neighbour (control). `make samples` measures
the same on MNIST.

The prior itself: over all configurations of a net that is small enough to list, probabilities add up to 1 and are
the frequencies of 20,000 draws. They are not those of independent switches (control), unless ε = 1.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from sklearn.svm import SVC
from torch.nn.functional import normalize

from drmm import DRMM, Objective
from drmm.data import load
from drmm.data.images import pixels
from drmm.learning.config import Training
from drmm.learning.train import train
from drmm.model.patch_prior import PatchPrior, borrow
from drmm.model.presets import conv_small
from drmm.model.priors import SwitchPrior
from drmm.rendering import Conv2d, Flatten, Level, Linear, MaxPool2d, Sequential

N = 20_000
CLASSES = 2
CONFIGURATIONS = CLASSES * 2**4 * 2


@pytest.fixture
def model():
    """Four places with a unit each, and one unit above: 32 configurations of a class."""
    levels = Sequential(Level(Conv2d(1, 1, 2)), Level(Conv2d(1, 1, 2)), Flatten())
    return DRMM(levels, Linear(1, CLASSES), image_shape=(1, 3, 3)).eval()


@pytest.fixture
def trained(model):
    """Switches and classes of 40 images, whose units are on and off together."""
    x = torch.randn(40, 1, 3, 3) + 2 * torch.randn(40, 1, 1, 1)
    return model.infer(x).switches, torch.arange(40) % CLASSES


def every_configuration(model):
    table = torch.tensor(list(itertools.product(range(CLASSES), *[(False, True)] * 5)))
    choices = iter(
        [{"a": table[:, 1:5].reshape(-1, 1, 2, 2).bool()}, {"a": table[:, 5].reshape(-1, 1, 1, 1).bool()}]
    )
    return table[:, 0], model.blank_switches().map_leaves(lambda leaf: replace(leaf, **next(choices)))


def number(label, switches):
    digits = torch.cat([label[:, None], *(leaf.a.flatten(1).long() for leaf in switches.leaves())], 1)
    return (digits * 2 ** torch.arange(digits.shape[1]).flip(0)).sum(1)


@pytest.mark.parametrize(("neighbours", "backoff"), [(1, 0.0), (3, 0.0), (3, 0.2), (40, 0.2), (3, 1.0)])
def test_all_configurations_add_up_to_one(model, trained, neighbours, backoff):
    prior = PatchPrior(*trained, neighbours=neighbours, backoff=backoff)
    label, switches = every_configuration(model)
    p = prior.log_prob(switches, label).exp()
    assert number(label, switches).unique().numel() == len(label) == CONFIGURATIONS
    for c in range(CLASSES):
        assert p[label == c].sum().item() == pytest.approx(1.0, abs=1e-6)


def frequencies_fit(model, prior, log_p):
    label, switches = every_configuration(model)
    latents = model.sample_latents(N, generator=torch.Generator().manual_seed(1), prior=prior)
    seen = number(latents.label, latents.switches).bincount(minlength=len(label))[number(label, switches)]
    p = log_p.exp() / CLASSES
    rare = N * p < 20  # too few for a normal distribution: taken together
    p, seen = (torch.cat([values[~rare], values[rare].sum()[None]]) for values in (p, seen.double()))
    return bool(((seen / N - p).abs() <= 4 * (p * (1 - p) / N).sqrt() + 1e-6).all())


@pytest.mark.parametrize(("neighbours", "backoff"), [(3, 0.0), (3, 0.2), (40, 0.2)])
def test_samples_have_the_frequencies_that_log_prob_says(model, trained, neighbours, backoff):
    prior = PatchPrior(*trained, neighbours=neighbours, backoff=backoff)
    label, switches = every_configuration(model)
    assert frequencies_fit(model, prior, prior.log_prob(switches, label))


def test_control_they_are_not_those_of_independent_switches(model, trained):
    label, switches = every_configuration(model)
    independent = PatchPrior(*trained, backoff=1.0)
    patches = PatchPrior(*trained, neighbours=3)
    assert not frequencies_fit(model, patches, independent.log_prob(switches, label))


def test_independent_switches_are_the_special_case(model, trained):
    switches, label = trained
    alone = PatchPrior(switches, label, backoff=1.0)
    asked, every = every_configuration(model)
    for c in range(CLASSES):
        independent = SwitchPrior(switches)
        independent.update(switches.select(label == c))
        mine = asked == c
        expected = independent.log_prob(every.select(mine))
        torch.testing.assert_close(alone.log_prob(every, asked)[mine], expected, rtol=1e-5, atol=1e-5)
    # Control: with less than all of ε they are others.
    less = PatchPrior(switches, label, neighbours=3, backoff=0.5)
    assert (less.log_prob(every, asked) - alone.log_prob(every, asked)).abs().max() > 0.1


@pytest.fixture
def wide():
    """Nine places of eight units with positions, four places above: two images hardly ever agree anywhere."""
    levels = Sequential(Level(Conv2d(1, 8, 3), None, MaxPool2d(2)), Level(Conv2d(8, 8, 2)), Flatten())
    return DRMM(levels, Linear(32, 1), image_shape=(1, 8, 8)).eval()


def pieces(switches):
    """For each image the (a, t) of every place of the pixel level, (N, places, units)."""
    first = next(iter(switches.leaves()))
    return torch.stack([first.a.long(), first.t.long()], 1).flatten(1, 2).flatten(2).transpose(1, 2)


def test_each_patch_is_of_a_training_image_and_few_neighbours_copy(wide):
    x = torch.randn(60, 1, 8, 8)
    trained = wide.infer(x).switches
    found, copies = pieces(trained), {}
    for k in (1, 5, 60):
        drawn = pieces(wide.sample_latents(50, prior=borrow(wide, x, neighbours=k)).switches)
        same = (drawn[:, None] == found).all(3)  # (50, 60, places)
        assert same.any(1).all()  # every place is some training image's
        copies[k] = int(same.all(2).any(1).sum())
    assert copies[1] == 50  # control: one neighbour copies whole images
    assert copies[5] == copies[60] == 0


def test_all_as_neighbours_make_places_independent(wide):
    # What one place holds then tells nothing about another: the covariance of sums over units vanishes.
    x = torch.randn(60, 1, 8, 8) * torch.linspace(0.1, 3, 60).reshape(-1, 1, 1, 1) + torch.randn(60, 1, 1, 1)

    def correlation(k):
        latents = wide.sample_latents(4000, prior=borrow(wide, x, neighbours=k))
        on = next(iter(latents.switches.leaves())).a.sum(1).flatten(1).double()
        off_diagonal = torch.corrcoef(on.T)[~torch.eye(9, dtype=torch.bool)]
        return off_diagonal.abs().max().item()

    assert correlation(60) < 4 / 4000**0.5
    assert correlation(3) > 0.2  # control


@pytest.fixture(scope="module")
def digits():
    """A small net that has learned to draw 8×8 digits, a classifier that has not seen the net, and the images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        data = load("digits")
        x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
        config = Training(epochs=6, min_steps=0, seed=0)
        objective = Objective(reconstruction=10.0)
        model = train(conv_small(10, (1, 8, 8), width=8), x, y, objective=objective, config=config, progress=False)
    images, held_out = pixels(x), pixels(torch.from_numpy(data.x_test))
    judge = SVC().fit(images.flatten(1).numpy(), data.y_train)
    assert judge.score(held_out.flatten(1).numpy(), data.y_test) > 0.95
    return model, judge, images, y, held_out


def recognised(judge, images, label):
    return judge.score(images.flatten(1).detach().numpy(), label.numpy())


def test_a_classifier_recognises_patch_samples_and_not_independent_ones(digits):
    model, judge, x, y, _ = digits
    label = torch.arange(200) % 10
    generator = torch.Generator().manual_seed(3)
    independent = model.sample_latents(200, label, generator)
    patchwise = model.sample_latents(200, label, generator, borrow(model, x, y))
    assert recognised(judge, model.picture(patchwise), label) >= 0.9
    assert recognised(judge, model.picture(independent), label) < 0.6


def test_patch_samples_are_as_far_from_what_was_learned_as_unseen_images(digits):
    # Against renderings of training images, all equally bright: any rendering is far from the images themselves.
    model, _, x, y, held_out = digits
    label = torch.arange(200) % 10

    def unit(images):
        return normalize(images.detach().flatten(1).double(), dim=1)

    drawn = unit(model.reconstruct(x))

    def nearest(images):
        return torch.cdist(unit(images), drawn).amin(1).median().item()

    def samples(k):
        prior = borrow(model, x, y, neighbours=k)
        return model.picture(model.sample_latents(200, label, torch.Generator().manual_seed(3), prior))

    unseen = nearest(model.reconstruct(held_out))
    assert nearest(samples(5)) > 0.7 * unseen
    assert nearest(samples(1)) < 0.01 * unseen  # control
