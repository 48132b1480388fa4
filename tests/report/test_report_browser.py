"""The report in a real browser: nothing to complain about, at any width, by mouse and by keyboard."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made import HOSTILE, dataset, trusted, write_pictures, write_run

from browser import CHROMIUM, NO_BROWSER, Browser
from drmm.data import load
from drmm.files import write_json
from drmm.report import write_report
from drmm.report.answers import Answer, Sorting
from drmm.runs import experiment as runs
from drmm.runs.run import Run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)

VISIBLE = "(selector) => { const e = document.querySelector(selector); return !!e && e.checkVisibility(); }"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def made(folder: Path, name: str, classes: tuple[str, ...]) -> Path:
    data = dataset(classes, train=4 * len(classes), test=6 * len(classes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load", lambda *_, **__: data)
        write_report(write_run(folder / name, data), folder / f"{name}.html")
    return folder / f"{name}.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("reports"), "run", ("zero", "one", "two"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("reports"), "hostile", HOSTILE)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("reports"), "many", tuple(f"a long name {i}" for i in range(40)))


@pytest.fixture(scope="module")
def sorted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sorting, of pictures with long names."""
    place = tmp_path_factory.mktemp("sorted")
    pictures = write_pictures(place / "pets")
    with warnings.catch_warnings(action="ignore"):  # of the broken picture
        data = load(pictures)
        run = write_run(place / "run", replace(data, name=str(pictures)), labels_per_class=None)
        Run.open(run).keep_labels(data, np.flatnonzero(data.y_train >= 0))
        write_json(run / "results.json", {"labels": 18})
        trusted(run, data, (1, 8))
        answers = tuple(Answer(file, "a", "unsure", 0.5, "b", 0.1) for file in data.files)
        write_report(
            run, place / "page.html", sorting=Sorting(pictures, place / "out", 0.9, answers, data.skipped)
        )
    return place / "page.html"


@pytest.fixture(autouse=True)
def _quiet(browser: Browser) -> Iterator[None]:
    """Whatever is done, the console stays silent and nothing is fetched."""
    browser.complaints.clear()
    browser.requests.clear()
    yield
    assert browser.complaints == []
    assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data"}
    assert len({address for address in browser.requests if address.startswith("file")}) == 1


def test_the_console_is_heard(browser: Browser, tmp_path: Path) -> None:
    # The control of the fixture above.
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('no'); throw new Error('uncaught')</script>")
    browser.open(page)
    assert len(browser.complaints) == 2
    browser.complaints.clear()


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("name", ["report", "hostile", "many"])
def test_it_fits(browser: Browser, request, name: str, width: int) -> None:
    browser.open(request.getfixturevalue(name), width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('section').length") == 15
    cells = "[...document.querySelectorAll('.figures th')].map((e) => e.offsetWidth)"
    assert browser.run(f"Math.min(...{cells})") > 60  # no column of single letters


@pytest.mark.parametrize("width", [320, 1280])
def test_pictures_are_named_at_any_width(browser: Browser, sorted_folder: Path, width: int) -> None:
    browser.open(sorted_folder, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    strip = "document.querySelector('#sorted .named')"
    assert browser.run(f"{strip}.querySelectorAll('li').length") == 24
    assert browser.run(f"{strip}.clientHeight") < (500 if width < 600 else 2000)
    name = "document.querySelector('#sorted .file')"
    assert browser.run(f"{name}.textContent").endswith(" of a very long name <script>.png")
    browser.run(f"getSelection().selectAllChildren({name})")
    assert browser.run("getSelection().toString()") == browser.run(f"{name}.textContent")
    browser.click("#hardest .open")
    assert browser.run("document.querySelector('#panes figcaption').textContent").endswith("<script>.png")


CONTRAST = """(() => {
  const parts = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const [r, g, b] = parts(c).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor, p = parts(c);
      if (p.length < 4 || p[3] === 1) return c;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = document.querySelectorAll("h1, h2, p, small, nav a, th, dt, dd strong, figcaption, b, code, td");
  const found = [...texts].filter((e) => e.textContent.trim() && e.checkVisibility()).map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName + "." + e.className];
  });
  return found.sort((x, y) => x[0] - y[0])[0];
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, dark=dark)
    ratio, what = browser.run(CONTRAST)
    assert ratio >= 4.5, what
    browser.run("document.querySelector('.lead').style.color = 'gray'")
    assert browser.run(CONTRAST)[0] < 4.5 or dark  # the control


def test_everything_has_a_name(browser: Browser, report: Path) -> None:
    browser.open(report)
    parts = "document.querySelectorAll('button, [role=img], a, [role=region], dialog')"
    name = "e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()"
    nameless = f"[...{parts}].filter((e) => !({name})).length"
    assert browser.run(nameless) == 0
    assert browser.run("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size") == browser.run(
        "document.querySelectorAll('[id]').length"
    )


def test_names_do_nothing(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    browser.click(".cell")
    browser.click("#cell-images .open")
    assert browser.run("document.title") == "hostile · drmm report"
    assert browser.run("document.querySelectorAll('img, main script').length") == 0
    assert browser.run("document.querySelector('#details').open")


def test_a_cell_shows_its_images(browser: Browser, report: Path) -> None:
    browser.open(report)
    for index in range(browser.run("document.querySelectorAll('.cell').length")):
        browser.run(f"document.querySelectorAll('.cell').forEach((e, i) => e.id = i === {index} ? 'this' : '')")
        browser.click("#this")
        count = browser.run("Number(document.querySelector('#this').textContent)")
        assert browser.run("document.querySelectorAll('#cell-images li').length") == count
        assert browser.run("document.querySelector('#this').getAttribute('aria-pressed')") == "true"
    assert browser.run(f"({VISIBLE})('#cell')")


def test_confusions_of_many_classes_show_their_images(browser: Browser, many: Path) -> None:
    browser.open(many)
    assert browser.run("document.querySelectorAll('.cell').length") == 0
    browser.click("li:nth-child(3) > .chip")
    count = browser.run("Number(document.querySelector('.chip[aria-pressed=true] b').textContent)")
    assert browser.run("document.querySelectorAll('#cell-images li').length") == count > 0


def test_by_keyboard(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    browser.run("document.querySelector('.cell').focus()")
    first = browser.run("document.activeElement.dataset.cell")
    browser.press("ArrowDown" if browser.run("document.querySelectorAll('.cell').length") > 3 else "ArrowRight")
    browser.run("document.querySelector('.cell').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('[aria-pressed=true]').dataset.cell") == first
    browser.run("document.querySelector('#hardest .open').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('#details').open")
    assert browser.run("document.querySelectorAll('#panes .tile').length") == 4
    before = browser.run("document.querySelector('#panes figcaption').textContent")
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('#panes figcaption').textContent") != before
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('#panes figcaption').textContent") == before
    browser.press("Escape")
    assert not browser.run("document.querySelector('#details').open")
    assert browser.run("document.activeElement.matches('#hardest .open')")


def test_arrows_walk_the_matrix(browser: Browser, report: Path) -> None:
    browser.open(report)
    cells = browser.run("[...document.querySelectorAll('.cell')].map((e) => e.dataset.cell)")
    rows = {cell.split()[0] for cell in cells}
    assert len(rows) == 3
    column = cells[0].split()[1]
    browser.run("document.querySelector('.cell').focus()")
    browser.press("ArrowDown")
    below = [cell for cell in cells if cell.split()[1] == column]
    assert browser.run("document.activeElement.dataset.cell") == below[min(1, len(below) - 1)]


def test_light_and_dark(browser: Browser, report: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    browser.open(report)
    light = browser.run(background)
    browser.media(dark=True)
    dark = browser.run(background)
    assert light != dark
    browser.click("#theme")
    assert browser.run(background) == light
    browser.media("print", dark=True)
    assert browser.run(background) == light
    browser.media(dark=True)
    browser.click("#theme")
    assert browser.run(background) == dark
    browser.media("print", dark=True)
    assert browser.run(background) == light  # paper is white
    browser.run("localStorage.clear()")


def test_it_prints(browser: Browser, report: Path) -> None:
    browser.open(report)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000


def test_it_reads_without_a_script(browser: Browser, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run(f"({VISIBLE})('#explanations .tile')")
    assert not browser.run(f"({VISIBLE})('#theme')")


def test_the_screen_shows_pictures(browser: Browser, report: Path, tmp_path: Path) -> None:
    browser.open(report)
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
