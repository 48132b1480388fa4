"""The label page as a person uses it, in a real browser."""

import json
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from label_page import CLASSES, Served, read_labels, write_pictures

from browser import CHROMIUM, NO_BROWSER, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)

HOSTILE = (
    "<img src=x onerror=pwned=1>.png", "a'b\"c.png", "ünï 猫.png", "=1+1.png",
    "a" * 200 + ".png",
    "javascript:pwned=1.png", "two\nlines.png", "&lt;b&gt;.png", "%2e%2e%2f.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.png", "\U0001f469\u200d\U0001f680\u2764\ufe0f.png",
    "\u0645\u062f\u0627\u062f\u200c\u0631\u0646\u06af\u06cc.png",
    "bad\udcff.png", "é" * 124 + "abc.png",
)  # fmt: skip
HOSTILE_CLASSES = (
    "<img src=x onerror=pwned=1>", "{{ 7 * 7 }}", "b" * 90, "'\"`&amp;", "\U0001f469\u200d\U0001f680",
    "\u0645\u062f\u0627\u062f\u200c\u0631\u0646\u06af\u06cc", "__proto__", "=1+1",
)  # fmt: skip
FILE = "document.querySelector('.here small:last-child')?.textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture
def started(browser: Browser) -> Iterator[list[Served]]:
    """What was started is ended, and its page asked for nothing from elsewhere."""
    browser.complaints.clear()
    browser.requests.clear()
    running: list[Served] = []
    yield running
    browser.open("about:blank")  # which asks for nothing after the server's end
    for one in running:
        one.kill()
    asked = {address for address in browser.requests if address != "about:blank"}
    assert asked
    assert all(address.startswith("http://127.0.0.1:") for address in asked)


def opened(browser: Browser, started: list[Served], pictures: Path, width: int = 1280) -> Served:
    started.append(Served(pictures))
    browser.open(started[-1].address, width)
    browser.wait("document.querySelectorAll('.tile').length > 0", 60)
    return started[-1]


def saved(browser: Browser, n: int) -> None:
    browser.wait(f"document.getElementById('saved').textContent === '{n} labels, saved'", 60)


def say(browser: Browser, truth: dict[str, str]) -> None:
    """The class of the picture that is shown, by its key."""
    browser.wait(f"({FILE}) !== undefined", 60)
    browser.press(str(CLASSES.index(truth[browser.run(FILE)]) + 1))


def test_fifty_labels_by_keys_and_through_a_kill(browser: Browser, started: list[Served], tmp_path: Path) -> None:
    truth = write_pictures(tmp_path / "pets", 50)
    served = opened(browser, started, tmp_path / "pets")
    assert browser.run("location.search") == "", "the token has left the address bar"
    for n, name in enumerate(CLASSES, 1):
        browser.press("/")
        browser.type(name)
        browser.press("Enter")
        saved(browser, n)
    browser.press("u")
    saved(browser, 1)
    browser.press("u", shift=True)
    saved(browser, 2)
    for _ in range(3):  # back to the first picture, to say what it really shows
        browser.press("ArrowLeft")
    for _ in range(20):
        say(browser, truth)
    saved(browser, 20)

    served.kill()  # as by kill -9, while the person goes on
    started.clear()
    for _ in range(3):
        say(browser, truth)
    browser.wait("document.getElementById('saved').textContent === '3 not saved yet'")
    assert "Nothing is lost" in browser.run("document.getElementById('trouble').textContent")
    served = opened(browser, started, tmp_path / "pets")
    saved(browser, 23)
    assert browser.run("document.getElementById('trouble').textContent") == ""

    for n in range(24, 51):
        say(browser, truth)
        if n == 40:
            saved(browser, 40)
            browser.run("location.reload()")
            browser.wait("document.querySelectorAll('.tile').length > 0", 60)
    saved(browser, 50)
    browser.wait("document.getElementById('table').textContent.includes('holds 50 labels')", 60)
    assert "drmm sort" in browser.run("document.getElementById('command').textContent")
    assert read_labels(tmp_path / "pets.labels.csv") == truth
    assert "drmm sort" in served.end()
    started.clear()


def violations(browser: Browser) -> list[str]:
    """What axe-core finds."""
    if not browser.run("typeof axe === 'object'"):
        browser.run(files("axe_core_python").joinpath("axe.min.js").read_text() + "; 0")
    found = json.loads(browser.run("axe.run().then((told) => JSON.stringify(told.violations))"))
    return [f"{one['id']}: {node['html'][:200]} {node['any'][:1]}" for one in found for node in one["nodes"]]


def test_it_can_be_used_by_everybody(browser: Browser, started: list[Served], tmp_path: Path) -> None:
    write_pictures(tmp_path / "pets")
    opened(browser, started, tmp_path / "pets")
    browser.press("/")
    browser.type("bright")
    browser.press("Enter")
    saved(browser, 1)
    for dark in (False, True):
        browser.media(dark=dark)
        assert violations(browser) == []
    for key in ("x", "g", "?"):
        browser.press(key)
        time.sleep(0.2)
        assert violations(browser) == [], key
    browser.press("Escape")
    for place in ("strangers", "audit", "try"):
        browser.run(f"location.hash = '{place}'")
        time.sleep(0.2)
        assert violations(browser) == [], place
    browser.run("document.querySelector('#search').previousElementSibling.remove(); search.placeholder = ''; 0")
    assert len(violations(browser)) > 0, "control"
    assert browser.complaints == []


@pytest.mark.parametrize("width", [360, 1600])
def test_hostile_names_are_text(browser: Browser, started: list[Served], tmp_path: Path, width: int) -> None:
    folder = tmp_path / "<b>&\"' pets"
    write_pictures(folder, len(HOSTILE))
    for name, path in zip(HOSTILE, sorted(folder.iterdir()), strict=True):
        path.rename(folder / name.replace("/", "_"))
    opened(browser, started, folder, width)
    for n, name in enumerate(HOSTILE_CLASSES, 1):
        browser.wait("document.querySelectorAll('.here').length > 0", 60)  # else it is a class without a picture
        browser.press("/")
        browser.type(name)
        browser.press("Enter", shift=True)
        saved(browser, n)
    browser.press("/")
    browser.type("\N{RIGHT-TO-LEFT OVERRIDE}tac")
    browser.press("Enter")
    browser.wait("document.getElementById('trouble').textContent.includes('is no name of a class')", 60)
    names = "[...document.querySelectorAll('#classes .class span')].map((e) => e.textContent)"
    assert browser.run(names) == list(HOSTILE_CLASSES)
    browser.press("g")
    browser.wait(f"document.querySelectorAll('.tile').length === {len(HOSTILE)}", 60)
    assert browser.run("typeof pwned") == "undefined"
    assert browser.run("document.title").startswith("<b>&\"' pets")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
