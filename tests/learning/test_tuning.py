"""Upper levels learn from what lower ones made once of pictures and of views of them."""

import pytest
import torch
from stripes import SHAPE, images

from drmm.errors import InputError, RunError
from drmm.learning import kept, tuning
from drmm.learning.config import Training
from drmm.learning.kept import features_of_views
from drmm.learning.objective import Objective
from drmm.learning.train import steps_in
from drmm.learning.tuning import UpperLevels
from drmm.learning.views import N_VIEWS
from drmm.model.presets import conv_small

AGREEING = Objective(views=("brightness", "flip")).resolved(learning="tune")
UPPER = Training(learning="tune", rate_decay=0.4)  # the last two levels that have weights


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept._KEPT.clear()


def net():
    torch.manual_seed(0)
    return conv_small(3, SHAPE, width=2).eval()


def upper(model, x=None, y=None, objective=AGREEING, config=UPPER):
    if x is None:
        x, y = images()
    return UpperLevels(model, x, y, objective, config, progress=False)


def test_upper_levels_on_what_is_kept_are_the_whole_net():
    model, x = net(), images()[0]
    part = upper(model)
    assert part.x.shape[:2] == (len(x), N_VIEWS)
    assert len(part.model.levels) < len(model.levels)
    found = part.model(part.x.float().flatten(0, 1)).reshape(len(x), N_VIEWS, -1)
    torch.testing.assert_close(found[:, 0], model(x), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found[:, 1], model(x.flip(3)), atol=1e-4, rtol=1e-3)
    rounded, changed = ((found[:, i] - model(x)).abs().max() for i in (0, 2))
    assert changed > 10 * rounded, "control: a changed view"
    torch.testing.assert_close(part.model(part.features(x)), model(x))


def test_a_view_is_drawn_for_each_picture_and_agrees_with_the_picture():
    model, (_, y) = net(), images()
    part = upper(model)
    torch.manual_seed(1)
    terms = part.objective(part.model, part.x, part.y)
    torch.manual_seed(1)
    chosen = part.x.float()[torch.arange(len(y)), torch.randint(N_VIEWS, (len(y),))]
    expected = AGREEING.of_views(part.model, part.x[:, 0].float(), chosen, y, AGREEING.weights())
    assert terms.keys() == expected.keys()
    assert all(torch.equal(terms[name], expected[name]) for name in terms)
    assert (
        terms["agreement"] != AGREEING.of_views(part.model, chosen, chosen, y, AGREEING.weights())["agreement"]
    ), "control"


def test_folds_share_what_is_kept_and_another_net_does_not(monkeypatch):
    passes = []
    several = kept.several_views
    monkeypatch.setattr(kept, "several_views", lambda x, *given: passes.append(len(x)) or several(x, *given))
    model, (x, y) = net(), images()
    first = upper(model).x
    with torch.no_grad():
        model.templates.weight.add_(1)  # which is learned
    fewer = y.clone()
    fewer[0] = -1
    assert upper(model, x, fewer).x is first
    assert passes == [len(x)]
    with torch.no_grad():
        model.levels[0].dictionary.weight.add_(1)
    assert upper(model).x is not first
    assert passes == [len(x), len(x)]


def test_fewer_levels_learn_where_too_much_would_be_kept(monkeypatch):
    whole = Training(learning="tune", rate_decay=1.0)
    model, (x, _) = net(), images()
    assert len(upper(model, config=whole).model.levels) == len(model.levels)
    monkeypatch.setattr(tuning, "_BYTES", x[0].numel() * 2 * N_VIEWS * len(x) - 1)
    assert 0 < len(upper(model, config=whole).model.levels) < len(model.levels)
    monkeypatch.setattr(tuning, "_BYTES", 0)
    assert len(upper(model, config=whole).model.levels) == 0, "the class templates alone"


def test_of_many_pictures_the_labelled_ones_and_some_others(monkeypatch):
    monkeypatch.setattr(tuning, "_MOST", 7)
    x, y = images()
    part = upper(net(), x, y)
    assert int((part.y < 0).sum()) == min(7, int((y < 0).sum()))
    assert int((part.y >= 0).sum()) == int((y >= 0).sum())


def test_steps_are_counted_of_these(monkeypatch):
    _, y = images()
    config = Training(learning="tune", epochs=2, batch_size=12, labelled_per_batch=3, min_steps=0)
    assert steps_in(y, config) == 2 * round(48 / 9)
    monkeypatch.setattr(tuning, "_MOST", 9)
    assert steps_in(y, config) == 2 * round(18 / 9)


def test_large_features_are_kept_in_more_bits():
    levels, x = net().levels[:1], torch.rand(4, *SHAPE)
    assert features_of_views(levels, x, (), progress=False).dtype == torch.float16
    found = features_of_views(levels, 1e6 * x, (), progress=False)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, 0], levels(1e6 * x), rtol=1e-5, atol=1)


def test_a_full_disk_is_named(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "TemporaryFile", full)
    with pytest.raises(RunError, match="No space left on device"):
        upper(net())


def test_what_draws_is_refused():
    with pytest.raises(InputError, match="leave reconstruction and nonnegativity at 0"):
        upper(net(), objective=Objective(reconstruction=1.0))
