"""What the E-step takes its switches from: where it changes what is learned, and where it is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import drmm
from drmm import Objective
from drmm.errors import InputError
from drmm.learning.compiling import Compiled
from drmm.learning.config import Machine, Training
from drmm.learning.e_steps import E_STEPS, bottom_up
from drmm.learning.em import fit_em
from drmm.learning.train import train
from drmm.model.brightness import BestFit
from drmm.model.deep import evaluation
from drmm.model.shallow import RMM
from drmm.rendering import BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential
from drmm.runs.experiment import Experiment, Trust

OTHERS = ["traceback", "gaussian"]
TERMS_THAT_DRAW = {"reconstruction", "nonnegativity", "loss"}


def signed_net(seed: int = 0) -> drmm.DRMM:
    """In training mode, its norms having seen other batches than the one to come."""
    torch.manual_seed(seed)
    model = drmm.presets.conv_small(3, (1, 12, 12), width=4).train()
    for _ in range(3):
        model(torch.rand(8, 1, 12, 12))
    return model


def batch(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 12, 12, generator=generator), torch.arange(n) % 4 - 1


def choices(switches: drmm.rendering.Switches) -> list[torch.Tensor]:
    return [choice for leaf in switches.leaves() for _, choice in leaf.choices()]


def same(one: drmm.rendering.Switches, other: drmm.rendering.Switches) -> bool:
    return all(torch.equal(a, b) for a, b in zip(choices(one), choices(other), strict=True))


def gains(switches: drmm.rendering.Switches) -> list[torch.Tensor]:
    own = [] if switches.gain is None else [switches.gain]
    return own + [gain for part in switches.parts for gain in gains(part)]


def learned(x: torch.Tensor, y: torch.Tensor, machine: Machine | None = None, **settings: object) -> dict:
    config = Training(min_steps=0, epochs=2, batch_size=8, labelled_per_batch=4, **settings)
    torch.manual_seed(0)
    model = drmm.presets.conv_small(3, (1, 12, 12), width=2)
    return train(model, x, y, config=config, machine=machine, progress=False).state_dict()


# --- what they choose ---


def test_the_traceback_chooses_what_sign_traceback_does_at_the_scales_of_the_pass_up() -> None:
    model, (x, _) = signed_net(), batch()
    features, found = model.levels.infer(x)
    label = model.templates(features).argmax(1)
    chosen = E_STEPS["traceback"](model, x, label, found, BestFit())
    with evaluation(model):
        expected = drmm.sign_traceback(model, x, label).switches
    assert same(chosen, expected)
    assert not same(chosen, found), "control: in a signed net the pass up chooses otherwise"
    assert all(map(torch.equal, gains(chosen), gains(found)))
    assert not all(map(torch.equal, gains(chosen), gains(expected))), "control: running scales are others"


@pytest.mark.parametrize("name", E_STEPS)
def test_an_e_step_leaves_the_model_alone(name: str) -> None:
    model, (x, _) = signed_net(), batch()
    features, found = model.levels.infer(x)
    label = model.templates(features).argmax(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    E_STEPS[name](model, x, label, found, BestFit())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", OTHERS)
def test_only_the_terms_that_draw_change(name: str) -> None:
    x, y = batch()
    terms = [Objective()(signed_net(), x, y, None, None, e_step) for e_step in (bottom_up, E_STEPS[name])]
    changed = {key for key, term in terms[0].items() if not torch.equal(term, terms[1][key])}
    assert changed == TERMS_THAT_DRAW


@pytest.mark.parametrize("name", OTHERS)
def test_labels_are_what_is_drawn(name: str) -> None:
    """Two labels give two sets of switches; a control that takes the best class for all has one."""
    model, (x, _) = signed_net(), batch()
    found = model.levels.infer(x)[1]
    one, other = (E_STEPS[name](model, x, torch.full((len(x),), c), found, BestFit()) for c in (0, 1))
    assert not same(one, other)
    assert same(*(bottom_up(model, x, torch.full((len(x),), c), found, BestFit()) for c in (0, 1)))


# --- what is learned with them ---


@pytest.mark.parametrize("learning", ["sgd", "eg", "em"])
def test_bottom_up_is_what_it_was_and_the_others_are_not(learning: str) -> None:
    x, y = batch(16)
    default, given, *others = (
        learned(x, y, learning=learning, **how)
        for how in ({}, {"e_step": "bottom-up"}, {"e_step": "traceback"}, {"e_step": "gaussian"})
    )
    assert all(torch.equal(default[key], given[key]) for key in default)
    weights = [[value for key, value in state.items() if "weight" in key] for state in (default, *others)]
    for other in weights[1:]:
        assert not all(map(torch.equal, weights[0], other)), "control: the setting is not ignored"
        assert all(bool(value.isfinite().all()) for value in other)


@pytest.mark.parametrize("learning", ["sgd", "em"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_lifted_net_learns_too(name: str, learning: str) -> None:
    torch.manual_seed(0)
    below = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)
    model = drmm.lift(nn.Sequential(*below, nn.Flatten(), nn.Linear(75, 3)), image_shape=(1, 12, 12))
    x, y = batch(16)
    train(model, x, y, config=Training(learning=learning, e_step=name, epochs=2, min_steps=0), progress=False)
    assert bool(model(x).isfinite().all())


@pytest.mark.parametrize("name", OTHERS)
def test_a_mixed_precision_learns_too(name: str) -> None:
    x, y = batch(16)
    state = learned(x, y, Machine(precision="bf16-mixed"), learning="eg", e_step=name)
    assert all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize("name", OTHERS)
def test_a_compiled_model_has_them_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled are the two passes; an E-step calls for others."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model, (x, _) = signed_net().eval(), batch()
    found = model.levels.infer(x)[1]
    label = model(x).argmax(1)
    whole, compiled = (E_STEPS[name](one, x, label, found, BestFit()) for one in (model, Compiled(model)))
    assert same(whole, compiled)


# --- what is refused ---


@pytest.mark.parametrize("learning", ["head", "tune"])
def test_what_draws_nothing_has_no_e_step(learning: str) -> None:
    with pytest.raises(InputError, match="draws nothing"):
        Training(learning=learning, e_step="traceback")
    assert Training(learning=learning).e_step == "bottom-up"


def test_an_unknown_word_is_one_line() -> None:
    with pytest.raises(InputError, match="no e_step 'down': choose from bottom-up, traceback, gaussian"):
        Training(e_step="down")
    with pytest.raises(InputError, match="e_step cannot be 'down': it is bottom-up"):
        Experiment().set("training.e_step=down")


@pytest.mark.parametrize(
    "settings",
    [
        ["model.constraint=hard"],
        ["objective.reconstruction=0", "objective.nonnegativity=0"],
        ["model.constraint=hard", "training.learning=eg"],
    ],
)
def test_an_e_step_that_changes_nothing_is_refused_before_anything_is_learned(settings: list[str]) -> None:
    with pytest.raises(InputError, match="chooses what is drawn, and nothing is"):
        Experiment().set("training.e_step=traceback", *settings).resolved()
    Experiment().set("training.e_step=bottom-up", *settings).resolved()
    drawn = ["objective.reconstruction=1", *settings]
    if "objective.reconstruction=0" not in settings:
        Experiment().set("training.e_step=traceback", *drawn).resolved()


def test_a_norm_without_statistics_is_one_line() -> None:
    levels = Sequential(Conv2d(1, 3, 3), BatchNorm2d(3, track_running_stats=False), ReLU(), Flatten())
    model = drmm.DRMM(levels, Linear(300, 3), image_shape=(1, 12, 12))
    x, y = batch()
    with pytest.raises(InputError, match="keeps no statistics") as error:
        train(model, x, y, config=Training(learning="eg", e_step="traceback"), progress=False)
    assert "\n" not in str(error.value)


def test_the_shallow_model_has_its_own() -> None:
    with pytest.raises(InputError, match="leave y, how and choose out"):
        fit_em(RMM(2, (1, 12, 12)), batch()[0], choose=E_STEPS["traceback"], progress=False)


def test_nets_that_learn_without_drawing_have_no_e_step() -> None:
    """Those without some labels learn without drawing, where they can."""
    trust, training = Trust(), Training(e_step="traceback")
    lesson, objective = trust.lesson(training, Objective().resolved())
    assert lesson.e_step == "bottom-up"
    objective.resolved(e_step=lesson.e_step)
    for rule in ("eg", "em"):
        lesson, _ = trust.lesson(replace(training, learning=rule), Objective().resolved("soft", rule))
        assert lesson.e_step == "traceback"
