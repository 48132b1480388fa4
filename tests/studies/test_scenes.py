"""Rendered scenes: every latent does to the picture what it says and nothing else; files come back as written."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from drmm.data import load_folder_splits
from drmm.errors import InputError, RunError
from drmm.files import read_csv
from drmm.studies import scenes
from drmm.studies.scenes import files, objects
from drmm.studies.scenes.renderer import Renderer

SIZE = 64


@pytest.fixture(scope="module")
def renderer():
    try:
        opened = Renderer(SIZE)
    except RunError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


def scene(name="mug", **values):
    """One scene, straight from the side, lit from the viewer, but for what is said."""
    still = {"azimuth": 0, "elevation": 0, "x": 0, "y": 0, "scale": 0.7, "light_azimuth": 0, "light_elevation": 0}
    return put(scenes.sample(1, classes=(name,), textures=("noise",)), **(still | values))


def put(latents, **values):
    return replace(latents, **{name: np.full(len(latents), float(value)) for name, value in values.items()})


def bare(latents):
    """The backgrounds as they are written."""
    return (255 * scenes.backgrounds(latents.texture, latents.texture_seed, SIZE) + 0.5).astype(np.uint8)


def centre(mask):
    """Mean row and column."""
    return np.argwhere(mask).mean(0)


def test_a_draw_depends_on_the_seed_and_the_scene_s_number_only():
    many, few, others = scenes.sample(50, seed=3), scenes.sample(7, seed=3), scenes.sample(7, seed=4)
    for name, values in few.arrays().items():
        np.testing.assert_array_equal(values, many[:7].arrays()[name])
    assert not np.array_equal(few.azimuth, others.azimuth)
    assert not np.array_equal(few.texture_seed, others.texture_seed)


def test_draws_fill_their_ranges_and_classes_are_equally_frequent():
    latents = scenes.sample(6000)
    assert np.ptp(np.bincount(latents.label)) == 0
    assert set(latents.texture) == set(range(len(scenes.TEXTURES)))
    assert latents.azimuth.min() < 1
    assert latents.azimuth.max() > 359
    assert abs(latents.scale.mean() - 0.7) < 0.005
    assert abs(np.corrcoef(latents.azimuth, latents.elevation)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("condition", "changed"),
    [
        ("small", {"scale"}),
        ("thin", {"thickness"}),
        ("occluded", {"occlusion"}),
        ("low_contrast", {"contrast"}),
        ("odd_viewpoint", {"elevation", "roll"}),
    ],
)
def test_a_condition_changes_its_own_latents_and_pairs_the_rest(condition, changed):
    plain, hard = scenes.sample(20), scenes.sample(20, ranges=scenes.CONDITIONS[condition])
    assert {n for n, v in hard.arrays().items() if not np.array_equal(v, plain.arrays()[n])} == changed


@pytest.mark.parametrize("kind", scenes.TEXTURES)
def test_backgrounds_are_patterns_of_two_colours_at_any_resolution(kind):
    texture = np.full(3, scenes.TEXTURES.index(kind))
    coarse, fine = (scenes.backgrounds(texture, np.array([1, 2, 3]), size) for size in (32, 96))
    assert coarse.min() >= 0.1
    assert coarse.max() <= 0.9
    assert (np.ptp(coarse, (2, 3)).max() == 0) == (kind == "plain")
    shrunk = fine.reshape(3, 3, 32, 3, 32, 3).mean((3, 5))
    assert np.abs(shrunk - coarse).mean() < 0.02
    assert np.abs(shrunk - coarse[[1, 2, 0]]).mean() > 0.1  # another seed is another background
    pixels = coarse[0].reshape(3, -1)
    assert np.linalg.matrix_rank(pixels - pixels[:, :1], tol=1e-4) == (kind != "plain")


def test_pictures_do_not_depend_on_what_was_drawn_before(renderer):
    latents = scenes.sample(24, seed=1)
    images, masks = renderer.render(latents)
    backwards, masks_backwards = renderer.render(latents[::-1])
    np.testing.assert_array_equal(images, backwards[::-1])
    np.testing.assert_array_equal(masks, masks_backwards[::-1])
    again, _ = scenes.render(latents, SIZE)  # another plotter
    np.testing.assert_array_equal(images, again)
    assert (images != renderer.render(scenes.sample(24, seed=2))[0]).any((1, 2, 3)).all()


def test_the_mask_is_where_the_object_changes_the_background(renderer):
    latents = scenes.sample(24, seed=5)
    _, masks = renderer.render(latents)
    changed = np.zeros_like(masks)
    for seed in range(6):  # an edge that one background hides is seen on another
        swapped = latents.on_background_of(scenes.sample(24, seed=seed))
        changed |= (renderer.render(swapped)[0] != bare(swapped)).any(1)
    assert not (changed & ~masks).any()
    assert (masks & ~changed).sum() < 0.002 * masks.sum()
    assert (changed & ~masks[np.roll(np.arange(24), 1)]).sum() > 0.2 * masks.sum()


def test_plain_objects_are_whole_and_all_classes_look_different(renderer):
    _, masks = renderer.render(scenes.sample(240, seed=6))
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    assert not masks[:, border].any()
    assert masks.any((1, 2)).all()
    n = len(scenes.CLASSES)
    shapes = renderer.render(put(scenes.sample(n), azimuth=30, elevation=20, scale=0.9, x=0, y=0))[1]
    overlap = np.array([[(a & b).sum() / (a | b).sum() for a in shapes] for b in shapes])
    assert overlap[~np.eye(n, dtype=bool)].max() < 0.75


def test_position_moves_the_mask_by_that_many_pixels(renderer):
    start, right, down = (
        centre(renderer.render(scene("car", **at))[1][0]) for at in ({}, {"x": 0.125}, {"y": 0.125})
    )
    np.testing.assert_allclose(right - start, [0, 0.125 * SIZE], atol=0.05)
    np.testing.assert_allclose(down - start, [0.125 * SIZE, 0], atol=0.05)


def test_scale_is_the_diameter_of_the_sphere_around_the_object(renderer):
    loupe = renderer.render(scene("loupe", scale=0.75))[1][0]  # seen from the side, it is as long as its sphere
    assert abs(np.ptp(np.argwhere(loupe)[:, 1]) + 1 - 0.75 * SIZE) <= 1
    mean = {s: renderer.render(scene("house", scale=s, contrast=1))[1].mean() for s in (0.4, 0.8)}
    assert 3.5 < mean[0.8] / mean[0.4] < 4.1  # partly covered pixels count fully, which favours the small
    moved = renderer.render(scene("house", scale=0.4, x=0.25))[1].mean()
    assert moved == pytest.approx(mean[0.4], rel=0.02)


def test_thickness_leaves_the_longest_axis_alone(renderer):
    spans = {t: np.ptp(np.argwhere(renderer.render(scene("car", thickness=t))[1][0]), axis=0) for t in (1, 0.3)}
    assert spans[1][1] == spans[0.3][1]
    assert spans[0.3][0] < 0.4 * spans[1][0]


def test_azimuth_turns_the_object_counterclockwise_seen_from_above(renderer):
    middle = (SIZE - 1) / 2

    def handle(**view):
        row, column = centre(renderer.render(scene("mug", **view))[1][0]) - middle
        return row, column

    _, ahead = handle()
    _, behind = handle(azimuth=180)
    assert ahead == pytest.approx(-behind, abs=0.05)
    above = [handle(elevation=90, azimuth=azimuth) for azimuth in (0, 90)]
    assert above[0] == pytest.approx((0, ahead), abs=2)
    assert above[1][0] == pytest.approx(-above[0][1], abs=0.3)  # what was right is up: a smaller row
    round_trip, once = (renderer.render(scene("dog", azimuth=a))[0] for a in (360, 0))
    assert np.abs(round_trip.astype(int) - once).max() <= 2


def test_azimuth_and_elevation_change_the_object_and_not_the_background(renderer):
    start, mask = renderer.render(scene("chair"))
    for view in ({"azimuth": 60}, {"elevation": 30}, {"roll": 30}):
        image, own = renderer.render(scene("chair", **view))
        outside = ~(mask | own)[0]
        np.testing.assert_array_equal(image[0, :, outside], start[0, :, outside])
        assert (mask != own).sum() > 0.1 * mask.sum()


def test_elevation_looks_down_and_roll_turns_the_picture(renderer):
    inside = {e: renderer.render(scene("table", elevation=e))[1][0] for e in (-60, 0, 60)}
    assert inside[60].sum() > 1.5 * inside[0].sum()  # the top is seen
    upright, rolled = (renderer.render(scene("lamp", roll=roll))[1][0] for roll in (0, 90))
    turned = np.rot90(upright)  # counterclockwise
    assert (turned != rolled).sum() <= 0.02 * turned.sum()
    assert (turned[::-1] != rolled).sum() > 0.2 * turned.sum()
    top = [renderer.render(scene("mug", azimuth=90, elevation=e))[0][0].mean() for e in (50, -50)]
    assert top[0] != top[1]


def test_light_comes_from_where_it_says_and_leaves_the_mask_alone(renderer):
    brightness, masks = {}, {}
    for side in (-60, 60):
        image, mask = renderer.render(scene("mug", azimuth=90, light_azimuth=side))  # the handle is behind
        masks[side] = mask
        left, right = (
            image[0].mean(0)[part][mask[0][part]].mean() for part in (np.s_[:, : SIZE // 2], np.s_[:, SIZE // 2 :])
        )
        brightness[side] = right - left
    np.testing.assert_array_equal(masks[-60], masks[60])
    assert brightness[60] > 20
    assert brightness[-60] < -20
    above, below = (
        renderer.render(scene("dog", light_elevation=e))[0][0].mean(0).astype(float) for e in (80, -80)
    )
    rows = np.arange(SIZE)[:, None]
    assert ((above - below) * (SIZE / 2 - rows)).sum() > 0  # backs are lit from above, bellies from below


def test_hue_colours_the_object_alone(renderer):
    red, green = (renderer.render(scene(hue=hue)) for hue in (0, 1 / 3))
    np.testing.assert_array_equal(red[1], green[1])
    inside = binary_erosion(red[1][0])
    first, second = (image[0, :2, inside] for image, _ in (red, green))  # (pixels, 2)
    assert (first[:, 0] == second[:, 1]).mean() > 0.98  # what was red is green, but where the background shows
    assert (first[:, 0] > first[:, 1]).all()


@pytest.mark.parametrize("angle", [0, 90, 200])
def test_a_card_hides_the_share_of_the_object_on_its_side(renderer, angle):
    latents = put(scenes.sample(12, seed=2), occlusion=0.4, occluder_angle=angle)
    whole, (image, seen) = renderer.render(put(latents, occlusion=0))[1], renderer.render(latents)
    assert not (seen & ~whole).any()
    hidden = 1 - seen.sum((1, 2)) / whole.sum((1, 2))
    assert np.abs(hidden - 0.4).max() < 0.12  # whole lines of pixels are hidden; the letter opener has few
    assert np.abs(hidden - 0.4).mean() < 0.03
    for some, all_of_it in zip(seen, whole, strict=True):
        up, left = centre(all_of_it) - centre(some)
        assert np.cos(np.radians(angle)) * left - np.sin(np.radians(angle)) * up > 0.3
    card = (image == 128).all(1)
    assert (card | (image == bare(latents)).all(1))[~seen].all()
    assert card[whole & ~seen].all()


def test_contrast_scales_the_difference_from_the_background(renderer):
    latents = scenes.sample(12, seed=3)
    ground = bare(latents).astype(float)
    full = renderer.render(latents)[0] - ground
    for contrast in (0.25, 0.5):
        faint = renderer.render(put(latents, contrast=contrast))[0] - ground
        assert np.abs(faint - contrast * full).max() <= 1.5  # levels are rounded
        assert np.abs(faint - full).max() > 20
    np.testing.assert_array_equal(renderer.render(put(latents, contrast=0))[0], bare(latents))


def test_swapped_pairs_share_exactly_what_they_should(renderer):
    a, b = scenes.sample(36, seed=7), scenes.sample(36, seed=8)[np.roll(np.arange(36), 1)]
    image, mask = renderer.render(a)
    other_ground, same_mask = renderer.render(a.on_background_of(b))
    other_object, other_mask = renderer.render(b.on_background_of(a))
    np.testing.assert_array_equal(mask, same_mask)
    np.testing.assert_array_equal(other_ground.transpose(0, 2, 3, 1)[~mask], bare(b).transpose(0, 2, 3, 1)[~mask])
    inside = binary_erosion(mask, np.ones((1, 3, 3)))  # at its edge a pixel shows both
    same = (image == other_ground).all(1)
    assert same[inside].mean() > 0.97  # holes smaller than a pixel show the background through
    outside = ~(mask | other_mask)
    assert (image == other_object).all(1)[outside].all()
    assert not (image == other_object).all((1, 2, 3)).any()
    assert (image == other_ground).all(1)[outside].mean() < 0.1  # the control: another background is another


@pytest.mark.parametrize("name", scenes.CLASSES)
def test_models_fit_their_sphere(name):
    points = objects.build_model(name).mesh.points
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-5)


def test_what_cannot_be_drawn_is_refused():
    latents = scenes.sample(3)
    for wrong in ({"scale": 0}, {"thickness": 2}, {"hue": -1}, {"occlusion": 1}, {"azimuth": np.nan}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            put(latents, **wrong)
    with pytest.raises(InputError, match=r"\(N,\)"):
        replace(latents, x=np.zeros(2))
    with pytest.raises(InputError, match="names none"):
        replace(latents, classes=("mug",))
    with pytest.raises(InputError, match="size must be"):
        scenes.render(latents, 0)
    with pytest.raises(InputError, match="no texture tartan"):
        scenes.sample(3, textures=["tartan"])
    with pytest.raises(InputError, match="once"):
        scenes.sample(3, classes=["mug", "mug"])
    with pytest.raises(InputError, match="negative"):
        scenes.sample(-1)


# --- files -----------------------------------------------------------------------------------------------


def draw(folder, n=10, **options):
    return scenes.write(folder, scenes.sample(n, classes=("mug", "car")), size=16, **options)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(renderer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "a"
    assert draw(folder) == ["latents.csv", "latents.parquet"]
    return folder


def test_files_come_back_as_they_were_drawn(written):
    latents = scenes.sample(10, classes=("mug", "car"))
    images, masks = scenes.render(latents, 16)
    read = scenes.load(written)
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.masks, masks)
    np.testing.assert_array_equal(read.is_test, np.arange(10) >= 8)
    assert read.latents.classes == latents.classes
    for name, values in read.latents.arrays().items():
        np.testing.assert_array_equal(values, latents.arrays()[name])


def test_fit_can_read_the_pictures(written):
    data = load_folder_splits(written / "images")
    assert data.classes == ("car", "mug")
    assert data.x_train.shape == (8, 3, 16, 16)
    assert data.x_test.shape == (2, 3, 16, 16)
    read = scenes.load(written)
    assert {image.tobytes() for image in data.x_test} == {image.tobytes() for image in read.images[8:]}


def test_the_tables_agree(written):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(written / "latents.parquet").to_pydict()
    rows = read_csv(written / "latents.csv")
    assert {name: [str(value) for value in column] for name, column in table.items()} == {
        name: [row[name] for row in rows] for name in rows[0]
    }


def test_nothing_half_written_stays(renderer, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "draw_overview", interrupted)  # the pictures are written by then
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_and_wrong_shares_are_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(InputError, match="none to train on for car"):
        draw(tmp_path / "b", n=1)
    with pytest.raises(InputError, match="test share"):
        draw(tmp_path / "b", test_share=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damaged", ["scenes.json", "latents.csv", "masks/train/mug/000000.png"])
def test_a_damaged_file_is_named(written, tmp_path, damaged):
    for name, content in contents(written).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:20] if name == damaged else content)
    with pytest.raises(RunError, match=Path(damaged).name):
        scenes.load(tmp_path)
    (tmp_path / damaged).unlink()
    with pytest.raises(RunError, match=Path(damaged).name):
        scenes.load(tmp_path)


# --- the command -----------------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_bytes_and_parquet_is_optional(run_drmm, written, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "b"
    code, told, _ = run_drmm("scenes", out, "--images", 10, "--size", 16, "--classes", "mug,car", "--seed", 0)
    assert code == 0
    assert f"drmm fit {out}/images" in " ".join(told.split())
    assert "latents.csv written" in told
    first, second = contents(written), contents(out)
    assert first.pop("latents.parquet")
    assert b'"seed": 0' in second.pop("scenes.json")
    del first["scenes.json"]
    assert first == second


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size", "0"], "size must be 8 to 512"),
        (["--classes", "mug,unicorn"], "no class unicorn: choose from airplane"),
        (["--textures", "tartan"], "no texture tartan"),
        (["--test-share", "2"], "test share"),
        (["--images", "5"], "none to train on"),
    ],
)
def test_a_mistake_is_one_line(run_drmm, tmp_path, words, told):
    code, _, err = run_drmm("scenes", tmp_path / "b", *words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(run_drmm, tmp_path):
    (tmp_path / "mine.txt").touch()
    code, _, err = run_drmm("scenes", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_pyvista_one_line_says_what_to_install(run_drmm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvista", None)
    code, _, err = run_drmm("scenes", tmp_path / "b", "--images", 24)
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install 'drmm[scenes]'" in err
    assert list(tmp_path.iterdir()) == []


def test_without_opengl_one_line_says_so(run_drmm, tmp_path, monkeypatch):
    window = SimpleNamespace(
        SetMultiSamples=int, SetAlphaBitPlanes=int, Initialize=lambda: None, IsCurrent=lambda: False
    )
    monkeypatch.setattr("pyvista.Plotter", lambda **_: SimpleNamespace(render_window=window))
    code, _, err = run_drmm("scenes", tmp_path / "b", "--images", 24)
    assert (code, err.count("\n")) == (2, 1)
    assert "no OpenGL" in err
    assert list(tmp_path.iterdir()) == []
