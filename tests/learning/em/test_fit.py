"""`fit_em` from outside: it climbs, it can be stopped and resumed, and it refuses what it cannot learn from."""

import math
import tempfile

import pytest
import torch
from torch import nn

import drmm.learning.em.loop
import drmm.learning.em.posterior_cache
from drmm import DRMM, lift
from drmm.errors import InputError, RunError
from drmm.learning.em import MStep, fit_em
from drmm.learning.initialisation import initialise
from drmm.model.presets import build

SHAPES = {"conv_small": (1, 8, 8), "conv_large": (1, 12, 12), "dense": (1, 3, 3)}


def images(name="dense", n=12):
    """Three classes of images, uint8, labels for some."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    pattern = torch.randint(0, 200, (3, *SHAPES[name]), generator=generator)
    noise = torch.randint(0, 56, (n, *SHAPES[name]), generator=generator)
    return (pattern[y] + noise).to(torch.uint8), torch.where(torch.arange(n) < 6, y, -1)


def model_of(name="dense", width=3, constraint="soft", seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = build(name, 3, SHAPES[name], width=width, constraint=constraint).to(dtype)
    x, y = images(name)
    return model if constraint == "hard" else initialise(model, "data", x=x, y=y, seed=seed)


def fit(model, x, y=None, **options):
    return fit_em(model, x, y, **{"max_iter": 4, "tolerance": 0, "progress": False, **options})


def finite(model):
    return all(value.isfinite().all() for value in model.state_dict().values())


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_the_objective_climbs(name, dtype, soft):
    x, y = images(name)
    model = model_of(name, width=2, dtype=dtype)
    trace = fit(model, x, y, soft=soft)
    rises = torch.tensor(trace.objective).diff()
    assert rises.min() >= -1e-3 if dtype == torch.float32 else rises.min() >= -1e-9
    assert rises.sum() > 1
    assert finite(model)
    assert not model.training


def test_it_draws_the_images_in_the_end():
    x, y = images("conv_small", n=60)
    model, pictures = model_of("conv_small", width=4).eval(), x.float() / 255
    before = (model.reconstruct(pictures) - pictures).square().mean()
    fit(model, x, y, max_iter=20)
    after = (model.reconstruct(pictures) - pictures).square().mean()
    assert model.noise < 0.2 * pictures.var()  # the error at the latents that EM settled for
    assert after < before  # and at those that max-sum finds, which are others


def test_the_tolerance_stops_it():
    x, y = images(n=60)
    short, long = (fit(model_of(), x, y, max_iter=50, tolerance=t) for t in (0.05, 0.001))
    assert short.converged
    assert len(short.objective) < len(long.objective) < 50
    assert short.objective == long.objective[: len(short.objective)]
    assert not fit(model_of(), x, y, max_iter=2).converged


def test_no_labels_at_all_is_the_default():
    x, _ = images()
    assert fit(model_of(), x).objective == fit(model_of(), x, torch.full((12,), -1)).objective


def test_levels_and_pixels_and_precisions_are_the_same_images():
    x, y = images()
    reference = fit(model_of(), x, y).objective
    assert fit(model_of(), x.float() / 255, y).objective == reference
    assert fit(model_of(), x.double() / 255, y).objective == pytest.approx(reference, abs=1e-3)
    double = model_of(dtype=torch.float64)
    assert fit(double, x, y).objective == pytest.approx(reference, abs=1e-3)
    assert double.templates.weight.dtype == torch.float64


def test_the_same_start_gives_the_same_model():
    x, y = images()
    one, other, control = model_of(), model_of(), model_of(seed=1)
    for model in (one, other, control):
        fit(model, x, y)
    assert same(one, other)
    assert not same(one, control)


def test_the_m_step_can_be_chosen():
    x, y = images("conv_small")
    default, one, many = (
        fit(model_of("conv_small", width=2), x, y, max_iter=2, how=how).objective
        for how in (None, MStep(sweeps=1), MStep(sweeps=30))
    )
    assert default == one
    assert abs(many[1] - one[1]) > 0.1


def test_a_large_image_set_is_taken_in_chunks():
    x, y = images(n=230)
    assert fit(model_of(), x, y).objective[-1] > fit(model_of(), x, y, max_iter=1).objective[0]


def test_nothing_is_printed(capsys):
    x, y = images()
    fit(model_of(), x, y, progress=True)
    assert capsys.readouterr().out == ""


# --- folders ---


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_temporary_latents_are_removed(temporary, monkeypatch):
    x, y = images()
    seen, write = [], drmm.learning.em.posterior_cache.write_bytes
    monkeypatch.setattr(
        drmm.learning.em.posterior_cache, "write_bytes", lambda path, data: (seen.append(path), write(path, data))
    )
    fit(model_of(), x, y)
    assert all(temporary in path.parents for path in seen)
    assert len(seen) == 4
    assert list(temporary.iterdir()) == []
    with pytest.raises(InputError):
        fit(model_of(), 1e25 * torch.rand(12, 1, 3, 3), y)
    assert list(temporary.iterdir()) == []


def test_a_folder_keeps_the_state_and_the_last_latents(temporary):
    x, y = images(n=230)
    model = model_of()
    fit(model, x, y, folder=temporary / "em")
    assert {path.name for path in (temporary / "em").iterdir()} == {"em.safetensors", "latents"}
    latents = {path.name for path in (temporary / "em" / "latents").iterdir()}
    assert latents == {f"{generation}-{chunk}.safetensors" for generation in (3, 4) for chunk in range(3)}


def test_a_run_stopped_at_any_moment_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """Killed at each of its writes in turn, before or after the file is there, and resumed."""
    x, y = images(n=110)  # two chunks
    whole = model_of()
    reference = fit(whole, x, y, max_iter=3, soft=True)
    write, moments = drmm.learning.em.loop.write_bytes, 3 * (2 + 1)
    for moment in range(2 * moments):
        left = [moment]

        def deadly(path, data, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            write(path, data)
            left[0] -= 2
            if left[0] == -1:
                raise KeyboardInterrupt

        for module in (drmm.learning.em.posterior_cache, drmm.learning.em.loop):
            monkeypatch.setattr(module, "write_bytes", deadly)
        folder = tmp_path / str(moment)
        with pytest.raises(KeyboardInterrupt):
            fit(model_of(), x, y, max_iter=3, soft=True, folder=folder)
        for module in (drmm.learning.em.posterior_cache, drmm.learning.em.loop):
            monkeypatch.setattr(module, "write_bytes", write)
        begun = (folder / "em.safetensors").exists()
        resumed = model_of(seed=9 if begun else 0)  # where there is a state, the start does not matter
        trace = fit(resumed, x, y, max_iter=3, soft=True, folder=folder, resume=True)
        assert trace.objective == reference.objective
        assert same(resumed, whole)
    control = model_of(seed=9)
    assert fit(control, x, y, max_iter=3, soft=True).objective != reference.objective


def test_more_iterations_can_be_added_later(tmp_path):
    x, y = images()
    whole, parts = model_of(), model_of()
    reference = fit(whole, x, y, max_iter=5, folder=tmp_path / "whole")
    fit(parts, x, y, max_iter=2, folder=tmp_path / "parts")
    trace = fit(model := model_of(seed=4), x, y, max_iter=5, folder=tmp_path / "parts", resume=True)
    assert trace.objective == reference.objective
    assert same(model, whole)
    assert list(trace.seconds) == sorted(trace.seconds)


def test_without_resume_a_used_folder_is_used_afresh(tmp_path):
    x, y = images()
    fit(model_of(seed=3), x, y, folder=tmp_path, max_iter=6)
    assert fit(model_of(), x, y, folder=tmp_path).objective == fit(model_of(), x, y).objective
    assert {path.name[0] for path in (tmp_path / "latents").iterdir()} == {"3", "4"}


DAMAGE = [(name, damage) for name in ("em", "latents/2-0") for damage in ("empty", "truncated", "garbage")]


@pytest.mark.parametrize(("name", "damage"), [*DAMAGE, ("latents/2-0", "missing")])
def test_a_damaged_folder_is_one_clear_line(name, damage, tmp_path):
    x, y = images()
    fit(model_of(), x, y, max_iter=2, folder=tmp_path)
    path = tmp_path / f"{name}.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "truncated": content[:-9], "garbage": b"\x80\x04\x95"}[damage])
    with pytest.raises(RunError, match=path.name) as caught:
        fit(model_of(), x, y, folder=tmp_path, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["width", "preset", "classes"])
def test_another_architecture_cannot_resume(other, tmp_path):
    x, y = images()
    fit(model_of(), x, y, folder=tmp_path, max_iter=2)
    model = {
        "width": lambda: model_of(width=4),
        "preset": lambda: lift(nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), image_shape=(1, 3, 3)),
        "classes": lambda: build("dense", 4, (1, 3, 3), width=3),
    }[other]()
    before = model.templates.weight.detach().clone()
    with pytest.raises(RunError, match="another architecture"):
        fit(model, x, y, folder=tmp_path, resume=True)
    assert torch.equal(model.templates.weight, before)


def test_other_images_cannot_resume(tmp_path):
    x, y = images()
    fit(model_of(), x, y, folder=tmp_path, max_iter=2)
    with pytest.raises(RunError, match="on 12 images"):
        fit(model_of(), x[:9], y[:9], folder=tmp_path, resume=True)


def test_a_full_disk_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    x, y = images()
    with pytest.raises(RunError, match="cannot write"):
        fit(model_of(), x, y, folder=tmp_path / "file" / "em")


# --- images that are hard to learn from ---


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", ["black", "white", "grey", "one image over and over", "two", "an empty corner"])
@pytest.mark.parametrize("name", SHAPES)
def test_images_without_variety_are_no_nan(name, kind, soft):
    x, y = images(name)
    if kind in {"black", "white", "grey"}:
        x = torch.full_like(x, {"black": 0, "white": 255, "grey": 128}[kind])
    elif kind == "one image over and over":
        x = x[:1].expand(len(x), -1, -1, -1)
    elif kind == "two":
        x, y = x[:2], y[:2]
    else:
        x[..., :2, :2] = 0
    model = model_of(name, width=2)
    trace = fit(model, x, y, soft=soft)
    assert all(math.isfinite(value) for value in trace.objective)
    assert finite(model)
    assert model(x.float() / 255).isfinite().all()


@pytest.mark.parametrize("constraint", ["soft", "weight_norm"])
@pytest.mark.parametrize("labels", [[0, 1], [0], [2, -1]])
def test_classes_without_images_are_no_nan(labels, constraint):
    x, _ = images()
    model = model_of(constraint=constraint)
    before = model.templates.weight.detach().clone()
    fit(model, x, torch.tensor(labels).repeat(12)[:12])
    assert finite(model)
    missing = [c for c in range(3) if c not in labels and -1 not in labels]
    torch.testing.assert_close(model.templates.weight[missing], before[missing])
    assert (model.class_prior > 0).all()


def test_units_never_on_keep_their_template():
    x, y = images("conv_small")
    model = model_of("conv_small", width=2)
    norm, dictionary = model.levels[1].norm, model.levels[1].dictionary
    nn.init.constant_(norm.bias[1:3], -1e6)
    before = dictionary.weight.detach().clone()
    fit(model, x, y)
    change = (dictionary.weight - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    assert change[1:3].max() <= 1e-6
    assert change[[0, 3]].min() > 1e-3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x[:1], y[:1]), "at least two images"),
        (lambda x, y: (x[:0], y[:0]), "at least two images"),
        (lambda x, y: (x.masked_fill(x > 0.9, math.nan), y), "finite pixels"),
        (lambda x, y: (x.masked_fill(x > 0.9, math.inf), y), "finite pixels"),
        (lambda x, y: (x[..., :2], y), r"images are \(1, 3, 2\), but the model is for \(1, 3, 3\)"),
        (lambda x, y: (x[:, 0], y), "images are"),
        (lambda x, y: (x, y[:-1]), "a label from -1 to 2 for each of 12 images"),
        (lambda x, y: (x, y + 1), "a label from -1 to 2"),
        (lambda x, y: (x, y - 2), "a label from -1 to 2"),
        (lambda x, y: (x, y.float()), "a label from -1 to 2"),
        (lambda x, y: (x, y[:, None]), "a label from -1 to 2"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(spoil, message):
    x, _ = images()
    model = model_of()
    with pytest.raises(InputError, match=message) as caught:
        fit(model, *spoil(x.float() / 255, torch.arange(12) % 3))
    assert "\n" not in str(caught.value)
    assert finite(model)


@pytest.mark.parametrize("size", [1e19, 1e25])
@pytest.mark.parametrize("name", SHAPES)
def test_pixels_beyond_all_measure_are_one_clear_line(name, size):
    x, y = images(name)
    with pytest.raises(InputError, match="check the images for infinite"):
        fit(model_of(name, width=2), size * x.float(), y)


def test_a_hard_model_is_refused():
    x, y = images()
    with pytest.raises(InputError, match="signed templates: learn a hard model by"):
        fit(model_of(constraint="hard"), x, y)


def test_a_model_without_image_shape_is_refused():
    x, y = images()
    model = model_of()
    with pytest.raises(InputError, match="image shape"):
        fit(DRMM(model.levels, model.templates), x, y)


def test_a_shared_dictionary_is_refused():
    x, y = images()
    shared = nn.Linear(9, 9)
    net = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(InputError, match="share a dictionary"):
        fit(lift(net, image_shape=(1, 3, 3)), x, y)
    alike = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))
    fit(lift(alike, image_shape=(1, 3, 3)), x, y)  # the control
