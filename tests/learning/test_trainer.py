"""The loop: it does not wait for the device, ends on a broken loss, and draws from streams of its own."""

import re
import time
import traceback
from collections import Counter
from threading import Thread

import numpy as np
import pytest
import torch
from stripes import SHAPE, images
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import drmm
from drmm.errors import InputError
from drmm.learning import callbacks
from drmm.learning import trainer as loop
from drmm.learning.callbacks import moving_average
from drmm.learning.checkpoints import checkpoint_of
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.train import train
from drmm.model.presets import conv_small
from drmm.rendering import Conv2d, Dropout, Flatten, Level, Linear, Sequential

EVERYTHING = Objective(mixup=1.0, translation=1, cutmix=0.5, warm_up=0.5, cool_down=0.5)
CPU = Machine(accelerator="cpu")


def small(**options):
    torch.manual_seed(0)
    return conv_small(3, SHAPE, width=2, **options)


def dropping():
    torch.manual_seed(0)
    return drmm.DRMM(
        Sequential(Level(Conv2d(1, 4, 5, bias=False)), Dropout(0.5), Flatten()), Linear(256, 3), image_shape=SHAPE
    )


def learned(model, objective=EVERYTHING, **options):
    x, y = images()
    config = Training(**{"epochs": 2, "batch_size": 12, "labelled_per_batch": 3, "min_steps": 0, **options})
    return train(model, x, y, objective=objective, config=config, machine=CPU, progress=False)


# --- no step waits for the device ---


class Waits(TorchDispatchMode):
    """Operations for which the host would wait for a GPU: those whose result it has to know.

    The optimiser's are left out: it counts its steps on the CPU wherever the weights are.
    """

    CALLERS = ("torch/optim/adam", "lightning", "drmm", "tests")
    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2")

    def __init__(self):
        super().__init__()
        self.where = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in args[1])
        if name in self.NAMES or masked:
            lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_stack(None)][1:]
            asking = next(line for line in lines if any(part in line for part in self.CALLERS))
            self.where[asking] += "torch/optim/adam" not in asking
        return func(*args, **(kwargs or {}))


def waits(steps, *, progress=False):
    """What an epoch of so many steps waits for."""
    x, y = images()
    x, y = x.repeat(steps // 4, 1, 1, 1), y.repeat(steps // 4)
    config = Training(epochs=1, batch_size=12, labelled_per_batch=0, min_steps=0)
    with Waits() as mode:
        loop.run_loop(small().train(), x, y, EVERYTHING, config, CPU, progress=progress)
    return sum(mode.where.values()), mode.where


def test_an_epoch_waits_as_often_however_many_steps_it_has():
    few, where = waits(4)
    many, everywhere = waits(40)
    assert many == few, everywhere - where
    assert few <= 12, where


def test_what_is_shown_is_seldom_asked_for(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    few, many = waits(4, progress=True)[0], waits(20, progress=True)[0]
    assert many == few
    seconds = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(40 * next(seconds)))
    assert waits(20, progress=True)[0] >= few + 16  # control: time flies


def test_how_far_it_is_is_a_line_where_there_is_no_terminal(monkeypatch, capsys):
    waits(4, progress=True)
    assert capsys.readouterr() == ("", "")
    seconds = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(20 * next(seconds)))
    waits(4, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"(training, epoch 1 of 1, loss -?\d+\.\d{3}: [1-4] of 4(, about \d+ seconds left)?\n)+", err
    ), err
    monkeypatch.setattr(time, "monotonic", lambda: float(20 * next(seconds)))
    waits(4)
    assert capsys.readouterr().err == "", "control"


def test_control_a_step_that_asks_is_counted(monkeypatch):
    step = loop._Learner.training_step

    def asking(self, batch, index):
        loss = step(self, batch, index)
        assert torch.isfinite(loss)
        return loss

    monkeypatch.setattr(loop._Learner, "training_step", asking)
    assert waits(40)[0] >= waits(4)[0] + 36


# --- losses that are not finite ---


def break_at(monkeypatch, step):
    """Let the loss of one step be infinite; returns how many steps were made."""
    made, call = [], Objective.__call__

    def broken(self, model, x, y, progress=None, of_labels=None, e_step=None):
        terms = call(self, model, x, y, progress)
        made.append(len(made))
        return {**terms, "loss": terms["loss"] / 0} if made[-1] == step else terms

    monkeypatch.setattr(Objective, "__call__", broken)
    return made


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing_of_it(tmp_path, monkeypatch, epoch):
    x, y = images()
    made = break_at(monkeypatch, 4 * epoch + 1)
    config = Training(epochs=3, batch_size=12, labelled_per_batch=0, min_steps=0)
    with pytest.raises(
        InputError, match=r"^the loss is not finite: lower the learning rate, or check the images$"
    ):
        train(small(), x, y, config=config, machine=CPU, folder=tmp_path, progress=False)
    assert len(made) == 4 * (epoch + 1)  # to the end of its epoch
    saved = checkpoint_of(tmp_path)
    if epoch == 0:
        assert saved is None
    else:
        state = torch.load(saved, weights_only=True)
        assert state["epoch"] == 0
        assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_control_a_finite_run_is_saved(tmp_path):
    x, y = images()
    train(small(), x, y, config=Training(epochs=1, min_steps=0), machine=CPU, folder=tmp_path, progress=False)
    assert checkpoint_of(tmp_path) is not None


def test_a_long_epoch_is_not_waited_for(monkeypatch):
    x, y = images()
    monkeypatch.setattr(loop, "_STEPS_UNSEEN", 5)
    made = break_at(monkeypatch, 1)
    config = Training(epochs=1, batch_size=2, labelled_per_batch=0, min_steps=0)
    with pytest.raises(InputError, match="the loss is not finite"):
        train(small(), x, y, config=config, machine=CPU, progress=False)
    assert len(made) == 5


def test_weights_that_break_at_the_last_step_are_not_saved(tmp_path, monkeypatch):
    x, y = images()
    step = torch.optim.Adam.step

    def breaking(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)
        return loss

    monkeypatch.setattr(torch.optim.Adam, "step", breaking)
    config = Training(epochs=1, batch_size=48, labelled_per_batch=0, min_steps=0)
    with pytest.raises(InputError, match="the loss is not finite"):
        train(small(), x, y, config=config, machine=CPU, folder=tmp_path, progress=False)
    assert checkpoint_of(tmp_path) is None


# --- patience ---


def epochs_made(monkeypatch, objective, term, **options):
    """How many epochs a run makes whose terms are `term(epoch)`."""
    call, epochs = Objective.__call__, set()

    def planned(self, model, x, y, progress=None, of_labels=None, e_step=None):
        terms = call(self, model, x, y, progress)
        epoch = planned.steps // 4
        planned.steps += 1
        epochs.add(epoch)
        fixed = {name: 0 * value + term(name, epoch) for name, value in terms.items() if name != "loss"}
        loss = torch.stack([self.weights(progress)[name] * value for name, value in fixed.items()]).sum()
        return {**fixed, "loss": loss + 0 * terms["loss"]}

    planned.steps = 0
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", planned)
        learned(small(), objective, batch_size=12, labelled_per_batch=0, patience=2, epochs=12, **options)
    return len(epochs)


def test_patience_watches_a_loss_whose_weights_do_not_move(monkeypatch):
    """Every term falls, while a positive term's weight rises: the loss of the moment rises."""
    warming = Objective(warm_up=1.0, kl=1.0, mixup=1.0)

    def falling(name, epoch):
        return (10.0 if name == "mixup" else 1.0) - 0.01 * epoch

    assert epochs_made(monkeypatch, warming, falling) == 12
    assert epochs_made(monkeypatch, warming, lambda name, epoch: 1.0) == 3  # control: nothing gets better
    # What weighs nothing in the end does not keep a run going.
    cooling = Objective(cool_down=1.0)
    assert epochs_made(monkeypatch, cooling, lambda name, epoch: 1.0 - 0.1 * epoch * (name == "balance")) == 3


# --- the default objective ---


@pytest.mark.parametrize(
    ("constraint", "learning"), [("hard", "sgd"), ("hard", "eg"), ("soft", "sgd"), ("soft", "eg")]
)
def test_the_default_objective_is_the_constraints(constraint, learning):
    weights = [
        learned(small(constraint=constraint), objective, learning=learning, epochs=1).state_dict()
        for objective in (None, Objective().resolved(constraint, learning), Objective().resolved())
    ]
    same = [all(torch.equal(weights[0][name], other[name]) for name in other) for other in weights[1:]]
    assert same == [True, (constraint, learning) == ("soft", "sgd")]


# --- randomness ---


def draws(monkeypatch, rank, epochs=2, seed=0):
    """What the first number of each step is, in a process of this rank."""
    drawn, call = [], Objective.__call__

    def drawing(self, model, x, y, progress=None, of_labels=None, e_step=None):
        drawn.append(float(torch.rand(())))
        return call(self, model, x, y, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", drawing)
        patch.setattr(loop.pl.Trainer, "global_rank", rank)
        learned(small(), epochs=epochs, seed=seed)
    return drawn


def test_every_process_and_epoch_draws_from_a_stream_of_its_own(monkeypatch):
    first = draws(monkeypatch, 0)
    assert len(set(first)) == len(first) > 4
    assert draws(monkeypatch, 0) == first
    assert draws(monkeypatch, 0, epochs=1) == first[: len(first) // 2]
    for other in (draws(monkeypatch, 1), draws(monkeypatch, 0, seed=1)):
        assert not set(other) & set(first)


@pytest.mark.parametrize("make", [small, dropping])
def test_learning_neither_hears_nor_moves_torchs_own_stream(make):
    model, twin = make(), make()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = learned(model).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other = learned(twin).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("make", [small, dropping])
def test_two_threads_that_learn_at_once_learn_as_one_after_the_other(make):
    alone = learned(make()).state_dict()
    models = [make() for _ in range(2)]
    failed = []

    def work(model):
        try:
            learned(model)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for model in models:
        assert all(torch.equal(alone[name], value) for name, value in model.state_dict().items())


def test_the_average_of_the_loop_is_torchs_with_the_same_update():
    net, decay = nn.Linear(2, 2), 0.9
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=moving_average(decay), use_buffers=True)
    mine = [parameter.detach().clone() for parameter in net.parameters()]
    for n in range(20):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(net)
        callbacks._average(mine, net.parameters(), n, decay)
    for one, other in zip(mine, average.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not np.allclose(mine[0].numpy(), net.weight.detach().numpy())
