"""The peers of the benchmark: each rule is what its paper says, on nets small enough to see it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from drmm.files import write_json
from drmm.learning.callbacks import moving_average
from scripts import peers

PEERS = vars(peers)
RULES = PEERS["RULES"]


def make(name, strength=None):
    torch.manual_seed(0)
    return PEERS["make_rule"](name, RULES[name].strengths[0] if strength is None else strength, width=3)


def top(net):
    """What makes scores of features, in a model or its plain twin."""
    return net[-1] if isinstance(net, nn.Sequential) else net.templates


def norms(net):
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(24, 1, 28, 28), torch.tensor([*range(10), *[-1] * 14])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_a_batch(name, batch):
    rule = make(name)
    optimizer = torch.optim.Adam(rule.parameters(), 3e-3)
    first = None
    for _ in range(40):
        loss = rule(*batch, 1.0)
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rule.stepped()
        first = float(loss.detach()) if first is None else first
    assert float(rule(*batch, 1.0).detach()) < first


@pytest.mark.parametrize("name", RULES)
def test_only_the_supervised_rule_does_not_see_what_has_no_label(name, batch):
    x, y = batch
    other = torch.where((y < 0)[:, None, None, None], torch.rand_like(x), x)

    def slope(images):
        torch.manual_seed(2)
        rule = make(name)
        torch.manual_seed(2)
        loss = rule(images, y, 1.0)
        return torch.autograd.grad(loss, next(rule.net.parameters()))[0]

    same = torch.allclose(slope(x), slope(other), atol=1e-7)
    assert same == (name == "supervised")


def test_labels_that_are_not_sure_are_not_taken(batch):
    x, y = batch
    rule = make("pseudo-label")
    unsure = rule(x, y, 1.0)
    torch.testing.assert_close(unsure, make("pseudo-label", 0.0)(x, y, 1.0))
    with torch.no_grad():
        top(rule.net).weight.mul_(60)
    assert rule(x, y, 1.0) > PEERS["cross_entropy"](rule.net(x), y) + 1e-4, "control: when sure, they are"


def test_the_teacher_is_an_average_and_learns_nothing(batch):
    rule = make("mean teacher")
    before = copy.deepcopy(rule.teacher.state_dict())
    rule(*batch, 1.0).backward()
    assert all(p.grad is None for p in rule.teacher.parameters())
    with torch.no_grad():
        for parameter in rule.net.parameters():
            parameter.add_(1)
    rule.stepped()
    weight = before["templates.weight"]
    torch.testing.assert_close(rule.teacher.templates.weight, weight + 0.01)


def test_the_adversarial_direction_is_worse_than_a_random_one(batch):
    """Of the same length: the power iteration finds a direction that changes the posterior more."""
    x, _ = batch
    rule = make("vat", 3.0)
    with torch.no_grad():
        top(rule.net).weight.mul_(30)
    rule.net.eval()
    target = rule.net(x).detach().log_softmax(1)
    direction = PEERS["_unit"](torch.randn_like(x)).requires_grad_()
    found = PEERS["_divergence"](target, rule.net(x + rule.finite * direction))
    (slope,) = torch.autograd.grad(found, direction)
    worst, chance = (
        PEERS["_divergence"](target, rule.net(x + 3 * PEERS["_unit"](step)))
        for step in (slope, torch.randn_like(x))
    )
    assert worst > 1.5 * chance


@pytest.mark.parametrize("name", ["vat", "ladder"])
def test_passes_under_noise_leave_running_statistics_alone(name, batch):
    rule, plain = make(name), make("entropy")
    rule(*batch, 1.0)
    plain(*batch, 1.0)
    for mine, theirs in zip(norms(rule.net), norms(plain.net), strict=True):
        torch.testing.assert_close(mine.running_mean, theirs.running_mean)
        torch.testing.assert_close(mine.running_var, theirs.running_var)
        assert mine.momentum == 0.1


def test_the_denoiser_starts_as_a_sigmoid_of_what_it_sees():
    rule = make("ladder")
    z = torch.randn(5, 10)
    torch.testing.assert_close(rule._denoise(z, z), torch.zeros_like(z))


def test_the_denoised_top_is_compared_in_units_of_its_own(batch):
    """The net gains nothing by smaller scores; the control is the cross-entropy, where it does."""
    distances, entropies = [], []
    for scale in (1.0, 5.0):
        losses = []
        for strength in (0.0, 1.0):
            rule = make("ladder", strength)
            with torch.no_grad():
                rule.combine[9] = 1.0  # let it see something
                for parameter in top(rule.net).parameters():
                    parameter.mul_(30 * scale)  # a fresh net's scores vary little beside the least deviation
            torch.manual_seed(2)
            losses.append(rule(*batch, 1.0).item())
        entropies.append(losses[0])
        distances.append(losses[1] - losses[0])
    assert distances[0] == pytest.approx(distances[1], rel=1e-2)
    assert entropies[0] != pytest.approx(entropies[1], rel=1e-1)


@pytest.mark.parametrize(("updates", "left"), [(moving_average, 0.0), (get_ema_multi_avg_fn, 0.95)])
def test_the_average_forgets_where_a_short_run_began(updates, left):
    """The control is torch's own: after 50 steps 95 % of it are the first weights."""
    net = nn.Linear(1, 1, bias=False)
    average = AveragedModel(net, multi_avg_fn=updates(0.999))
    nn.init.zeros_(net.weight)
    average.update_parameters(net)
    nn.init.ones_(net.weight)
    for _ in range(50):
        average.update_parameters(net)
    assert 1 - average.module.weight.item() == pytest.approx(left, abs=0.01)


def peer(name, seed, error, curve=((1.0, 9.0), (2.0, 5.0)), strength=1.0):
    return {
        "method": name, "strength": strength, "labels": 100, "seed": seed, "budget": 4, "images": 50,
        "command": "c", "versions": {}, "seconds": 2.0 + seed, "curve": [list(point) for point in curve],
        "validation_error": error + 1, "test_error": error,
    }  # fmt: skip


def test_the_summary_ranks_the_methods_and_averages_their_curves():
    runs = [peer("vat", 0, 4.0), peer("vat", 1, 2.0, ((3.0, 7.0), (4.0, 3.0))), peer("best", 0, 1.0)]
    runs.append(peer("label spreading", 0, 9.0, ()))
    found = PEERS["summary"](runs)
    assert list(found["methods"]) == ["best", "vat", "label spreading"]
    assert found["methods"]["vat"]["curve"] == [[2.0, 8.0], [3.0, 4.0]]
    assert found["methods"]["vat"]["test_error"] == [4.0, 2.0]
    assert found["methods"]["vat"]["seeds"] == [0, 1]
    assert found["methods"]["label spreading"]["curve"] == [[2.0, 10.0]], "a point, where there is no curve"
    PEERS["figure"](found).canvas.draw()


def test_a_rule_makes_as_many_steps_as_its_time_allows():
    """The label draws and batches are the same; half an epoch is half of its batches."""
    torch.manual_seed(0)
    task = SimpleNamespace(
        x=torch.randint(256, (600, 1, 28, 28)).byte(), y=torch.tensor([*range(10), *[-1] * 590])
    )
    task.validation = task.x[:20], torch.arange(20) % 10
    _, whole = PEERS["run_rule"]("entropy", 0.5, task, 1, 0)
    _, half = PEERS["run_rule"]("supervised", 0.0, task, 2.5, 0)
    assert whole["steps"] == len(PEERS["epoch"](task, 0, 0))
    assert half["steps"] == round(2.5 * whole["steps"])
    assert len(whole["curve"]) == min(6, whole["steps"])
    assert [point[0] for point in half["curve"]] == sorted(point[0] for point in half["curve"])


def test_others_are_tuned_and_the_model_is_not(tmp_path):
    assert PEERS["to_try"]("vat") == (1.5, 3.0, 6.0)
    assert all(PEERS["to_try"](name) == () for name in ("best", "supervised", "label spreading"))
    assert PEERS["chosen_strength"]("vat", tmp_path, 100) == 1.5, "the default, where nothing has been tried"
    for strength, error in ((1.5, 4.0), (3.0, 2.0), (6.0, 3.0)):
        write_json(tmp_path / "tuning" / f"100-vat-{strength:g}-100.json", peer("vat", 100, error, (), strength))
    assert PEERS["chosen_strength"]("vat", tmp_path, 100) == 3.0
    assert PEERS["chosen_strength"]("best", tmp_path, 100) == 0.0
