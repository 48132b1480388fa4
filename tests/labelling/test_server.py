"""Who is let in to the label page, and what gets no further than the door."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

import pytest
from label_page import Still, write_pictures
from starlette.testclient import TestClient

from drmm.cli.label import _open as open_page
from drmm.labelling.pool import Pool
from drmm.labelling.server import app, serving
from drmm.labelling.server.app import pages
from drmm.labelling.server.desk import Desk
from drmm.labelling.server.guard import Guard
from drmm.labelling.server.serving import bound
from drmm.labelling.session import Session
from drmm.labelling.store import Store

PORT = 8123
HERE = f"http://127.0.0.1:{PORT}"
WRITES = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}


class Page:
    """A page, and who asks for it."""

    def __init__(self, desk: Desk, store: Store, host: str = "127.0.0.1") -> None:
        self.errors: list[Exception] = []
        self.store, self.guard = store, Guard(pages(desk), PORT, host, self.errors.append)

    def stranger(self) -> TestClient:
        return TestClient(self.guard, HERE, follow_redirects=False)

    def person(self) -> TestClient:
        """Who has opened the address."""
        one = self.stranger()
        one.headers["Cookie"] = f"drmm-{PORT}={self.guard._key}"
        return one


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Desk, Store]]:
    write_pictures(tmp_path / "pets")
    with Store(tmp_path / "pets.labels.sqlite") as store:
        session = Session(Pool(tmp_path / "pets"), store, Still())
        with Desk(session, tmp_path / "pets.labels.csv") as made:
            yield made, store


@pytest.fixture
def page(desk: tuple[Desk, Store]) -> Iterator[Page]:
    made = Page(*desk)
    yield made
    assert made.errors == []


def deed(once: str = "1") -> dict[str, object]:
    return {"deeds": [{"once": once, "kind": "class", "name": "cat", "pictures": [], "drawn": False}]}


def write(one: TestClient, headers: dict[str, str] = WRITES, **options):
    return one.post("/deeds", headers=headers, **({"json": deed()} | options))


def test_the_token_is_for_a_cookie_and_leaves_the_address(page: Page) -> None:
    one, address = page.stranger(), page.guard.address
    answer = one.get(address)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"drmm-{PORT}=")
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert one.get("/").status_code == 200
    assert one.get(address).status_code == 303, "who is in already is sent on"
    assert page.stranger().get(address).status_code == 403, "it opens once"
    assert page.guard.address != address


@pytest.mark.parametrize(
    "query", ["", "?token=", "?token=x", "?token=%00", "?token=ü", "?token=a&token=b", "?t=1"]
)
def test_no_way_in_without_it(page: Page, query: str) -> None:
    one = page.stranger()
    for path in ("/", "/state", "/picture/0", "/page.js", "/nothing"):
        assert one.get(path + query).status_code == 403
    assert write(one).status_code == 403
    for cookie in ("", "x", "ü".encode(), page.guard.address.rpartition("=")[2]):
        value = cookie if isinstance(cookie, bytes) else cookie.encode()
        assert one.get("/state", headers={"Cookie": f"drmm-{PORT}=".encode() + value}).status_code == 403
    assert page.store.version == 0


def test_cookies_of_other_servers_of_this_machine_are_no_trouble(page: Page) -> None:
    one = page.person()
    for others in ("a=b", "drmm-1=x", 'bad"=;;=; {"json": 1}', "théme=1"):
        cookie = f"{others}; {one.headers['Cookie']}".encode()
        assert one.get("/state", headers={"Cookie": cookie}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"127.0.0.1:{PORT}.", "",
        ":",
        f"127.0.0.1:0{PORT}", f"127.0.0.1.nip.io:{PORT}", f"localhost.:{PORT}", f"a@127.0.0.1:{PORT}",
        f"[::2]:{PORT}",
        f"0.0.0.0:{PORT}", f"127.1:{PORT}", f"[::1]:{PORT}, evil", f"::1:{PORT}", f"192.168.0.1:{PORT}",
        f":{PORT}",
    ],
)  # fmt: skip
def test_another_host(page: Page, host: str) -> None:
    one = page.person()
    assert one.get("/state", headers={"Host": host}).status_code == 403
    assert one.get("/state").status_code == 200, "control"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_names_of_this_machine(page: Page, host: str) -> None:
    headers = {"Host": f"{host}:{PORT}", "Origin": f"http://{host}:{PORT}", "Sec-Fetch-Site": "same-origin"}
    assert write(page.person(), headers).status_code == 200


def test_two_hosts(page: Page) -> None:
    headers = [("Host", f"127.0.0.1:{PORT}"), ("Host", "evil.example")]
    assert page.person().get("/state", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Origin": f"http://127.0.0.1:{PORT + 1}"}, {"Origin": f"http://localhost:{PORT}"}, {"Origin": HERE + "/"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
        {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "multipart/form-data; boundary=application/json"}, {"Content-Type": "application/jsonp"},
    ],
)  # fmt: skip
def test_what_another_page_sends_is_not_written(page: Page, changed: dict[str, str]) -> None:
    one = page.person()
    assert write(one, WRITES | changed).status_code == 403
    assert page.store.version == 0
    assert write(one, WRITES).json()["done"] == ["1"], "control"
    assert page.store.version == 1


@pytest.mark.parametrize("missing", ["Origin", "Sec-Fetch-Site"])
def test_what_no_page_sends_is_not_written(page: Page, missing: str) -> None:
    headers = {name: value for name, value in WRITES.items() if name != missing}
    assert write(page.person(), headers).status_code == 403
    assert page.store.version == 0


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_see_nothing(page: Page, site: str) -> None:
    # A page at another port of this machine is of the same site: the cookie comes with what it asks for.
    one = page.person()
    for path in ("/state", "/picture/0", "/thumbnail/0", "/page.js"):
        assert one.get(path, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    link = one.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
    assert "refresh" in link.text
    assert "listbox" not in link.text, "the browser asks again, by itself"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/state", "/picture/0", "/answer"])
def test_other_methods(page: Page, method: str, path: str) -> None:
    one = page.person()
    if (method, path) != ("POST", "/answer"):
        headers = WRITES | {"Content-Type": "application/json"}
        assert one.request(method, path, headers=headers).status_code == 405
    assert one.request(method, path).status_code == 403
    assert page.store.version == 0


@pytest.mark.parametrize("path", ["/deeds", "/answer"])
def test_nothing_is_written_by_a_link(page: Page, path: str) -> None:
    assert page.person().get(path).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../pets/000.png", "/picture/../../etc/passwd", "/picture/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/picture/..%5c..%5cpets", "/picture/%252e%252e%252f", "/thumbnail/000.png", "/picture/-1", "/picture/1e3",
        "/picture/٣", "/picture/0x0", "/picture/99", "/picture/" + "9" * 1900, "/page.py", "/page.html",
        "/%2fevil.example",
        "/page./../../store.py", "/picture/%00", "/picture/0%00.png", "/thumbnail/1%2f2", "/drawing/5",
        "/explained/99",
        "/state/", "/picture/", "/.git/config", "/picture/%ff",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(page: Page, path: str) -> None:
    one = page.person()
    answer = one.get(path)
    assert answer.status_code in {404, 422}, answer.text
    assert one.get("/picture/0").headers["content-type"] == "image/jpeg", "control"


def test_long_addresses(page: Page) -> None:
    assert page.person().get("/state?" + "a" * 3000).status_code == 414


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"1", b"\xff\xfe", b"{}", b'{"deeds": 1}', b'{"deeds": [1]}', b"[" * 100_000,
     b'{"deeds": {}}', b"9" * 10_000],
)  # fmt: skip
def test_what_is_not_understood(page: Page, content: bytes) -> None:
    headers = WRITES | {"Content-Type": "application/json"}
    for path in ("/deeds", "/answer"):
        answer = page.person().post(path, headers=headers, content=content)
        assert answer.status_code == 422
        assert "\n" not in answer.json()["error"]
    assert page.store.version == 0


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": "drop"}, {}, {"kind": "label"}, {"kind": "label", "pictures": ["x"], "class": 0, "drawn": False},
        {"kind": "label", "pictures": ["0" * 32], "class": 7, "drawn": False}, {"kind": "class", "name": " "},
        {"kind": "label", "pictures": 3, "class": 0, "drawn": False}, {"kind": "rename", "class": [], "name": "a"},
        {"kind": "class", "name": "a" * 300, "pictures": []}, {"kind": "class", "name": "a\nb", "pictures": []},
        {"kind": ["label"]}, {"kind": "merge", "class": 0, "into": 0}, {"kind": "class", "name": "unlabelled"},
        {"kind": "label", "pictures": ["0" * 32], "class": 10**400, "drawn": False}, {"kind": "skip",
        "pictures": None},
    ],
)  # fmt: skip
def test_one_odd_deed_is_refused_alone(page: Page, odd: dict[str, object]) -> None:
    deeds = [{"once": "a", **odd}, *deed("b")["deeds"]]
    told = write(page.person(), json={"deeds": deeds}).json()
    assert list(told["refused"]) == ["a"]
    assert told["done"] == ["b"]
    assert [one["name"] for one in told["state"]["classes"]] == ["cat"]


def test_large_bodies(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_MOST", 10_000)
    large = json.dumps(deed() | {"more": "x" * 10_000}).encode()
    headers = WRITES | {"Content-Type": "application/json"}
    assert page.person().post("/deeds", headers=headers, content=large).status_code == 413
    parts = (large[i : i + 1000] for i in range(0, len(large), 1000))
    assert page.person().post("/deeds", headers=headers, content=parts).status_code == 413, "of no stated length"
    assert page.store.version == 0


def test_headers(page: Page) -> None:
    one = page.person()
    for answer in (
        one.get("/"),
        one.get("/state"),
        one.get("/no"),
        page.stranger().get("/"),
        one.get("/picture/0"),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not {name for name in answer.headers if name.startswith("access-control")}
    assert one.get("/state").headers["cache-control"] == "no-store"


def test_two_tabs_share_one_order(page: Page) -> None:
    one, other = page.person(), page.person()
    write(one)
    assert write(other).json()["done"] == ["1"]
    assert page.store.version == 1, "a deed that comes twice is one"
    label = {"kind": "label", "pictures": ["0" * 32], "class": 0, "drawn": False}
    write(one, json={"deeds": [{"once": "2", **label}]})
    told = write(other, json={"deeds": [{"once": "3", "kind": "undo"}, {"once": "3", "kind": "undo"}]}).json()
    assert told["state"]["labelled"] == 0
    assert len(told["state"]["classes"]) == 1, "only the last deed is undone, whoever did it"


@pytest.mark.parametrize(
    ("host", "named", "is_let_in"),
    [
        ("0.0.0.0", f"192.168.1.5:{PORT}", True), ("0.0.0.0", f"evil.example:{PORT}", False),
        ("192.168.1.5", f"192.168.1.5:{PORT}", True), ("192.168.1.5", f"192.168.1.6:{PORT}", False),
        ("::", f"[fe80::1]:{PORT}", True), ("::1", f"[::1]:{PORT}", True), ("::1", f"[fe80::1]:{PORT}", False),
        ("studio", f"studio:{PORT}", True), ("studio", f"studio.example:{PORT}", False),
        ("localhost", f"localhost:{PORT}", True), ("127.0.0.1", f"192.168.1.5:{PORT}", False),
    ],
)  # fmt: skip
def test_other_addresses(desk: tuple[Desk, Store], host: str, named: str, is_let_in: bool) -> None:
    page = Page(*desk, host)
    token = page.guard.address.partition("/?")[2]
    answer = page.stranger().get(f"/?{token}", headers={"Host": named})
    assert answer.status_code == (303 if is_let_in else 403)


def test_a_picture_from_elsewhere_is_answered_by_what_the_page_has_learned(
    page: Page, desk: tuple[Desk, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, sent = desk[1], []

    def answer(content: bytes, _: object) -> dict[int, float]:
        sent.append(content)
        return {0: 0.3, 1: 0.7}

    monkeypatch.setattr(Still, "answer", staticmethod(answer), raising=False)
    for name in ("cat", "dog"):
        store.add_class(name)
    dropped = {"picture": base64.b64encode(b"a picture").decode()}
    told = page.person().post("/answer", headers=WRITES, json=dropped).json()
    assert [(one["name"], one["probability"]) for one in told["answers"]] == [("dog", 0.7), ("cat", 0.3)]
    assert sent == [b"a picture"]
    store.merge_classes(1, 0)
    told = page.person().post("/answer", headers=WRITES, json=dropped).json()
    assert [(one["name"], one["probability"]) for one in told["answers"]] == [("cat", 1.0)]


def test_the_address_is_in_no_program_that_is_started(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(address: str) -> None:
        file = Path(url2pathname(urlsplit(address).path))
        assert page.guard.address in unescape(file.read_text())
        assert file.parent.stat().st_mode & 0o077 == 0, "nobody else can read it"
        started.append(address)
        assert page.stranger().get(page.guard.address).status_code == 303

    monkeypatch.setattr("webbrowser.open", start)
    token = page.guard.address.rpartition("=")[2]
    open_page(page.guard, tmp_path)
    assert len(started) == 1
    assert token not in started[0]
    assert list(tmp_path.glob("drmm-label-*")) == [], "and nothing of it is left"


def test_nothing_goes_out(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it calls somebody")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    one = page.person()
    shown = one.get("/pictures?mode=next&n=3").json()["pictures"]
    assert len(shown) == 3
    for path in (
        "/",
        "/page.js",
        "/page.css",
        "/page.svg",
        "/state",
        "/picture/0",
        "/thumbnail/0",
        "/explained/0",
    ):
        assert one.get(path).status_code == 200
    for mode in ("strangers", "doubts", "audit"):
        assert one.get(f"/pictures?mode={mode}&n=3").json()["note"]
    assert write(one).status_code == 200
    with pytest.raises(AssertionError, match="calls"):
        urlopen("http://127.0.0.1:9/")


# --- by a real server: slow ones, and what is no HTTP ----------------------------------------------------


@pytest.fixture
def port(desk: tuple[Desk, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(serving, "_PATIENCE", 0.3)
    monkeypatch.setattr(app, "_PATIENCE", 0.3)
    listening = bound("127.0.0.1", None, tmp_path / "store")
    at = listening.getsockname()[1]
    guard = Guard(pages(desk[0]), at, "127.0.0.1", lambda _: None)
    guard._key = "key"
    server = serving._Server(serving._config(guard), lambda: None)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield at
    server.should_exit = True
    thread.join()


def said(port: int, *parts: bytes) -> bytes:
    """The answer to some bytes, until the server hangs up."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as line:
        for part in parts:
            line.sendall(part)
        answer = b""
        while part := line.recv(65_536):
            answer += part
    return answer


def head(port: int, first: str, *more: str) -> bytes:
    lines = [first, f"Host: 127.0.0.1:{port}", f"Cookie: drmm-{port}=key", *more, "", ""]
    return "\r\n".join(lines).encode()


def test_who_says_little_is_hung_up_on(port: int) -> None:
    assert said(port) == b""
    assert said(port, b"GET /state HTTP/1.1\r\nHost: 1") == b""
    whole = head(port, "GET /state HTTP/1.1")
    assert said(port, whole, b"GET /st").count(b"HTTP/1.1 200") == 1, "control: the first of two was whole"


def test_who_sends_slowly_writes_nothing(port: int, desk: tuple[Desk, Store]) -> None:
    origin = [f"Origin: http://127.0.0.1:{port}", "Sec-Fetch-Site: same-origin", "Content-Type: application/json"]
    content = json.dumps(deed()).encode()
    request = head(port, "POST /deeds HTTP/1.1", *origin, f"Content-Length: {len(content)}")
    assert b" 408 " in said(port, request, content[:20])
    assert desk[1].version == 0
    assert b" 200 " in said(port, request, content), "control"
    assert desk[1].version == 1


@pytest.mark.parametrize(
    "request_",
    [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
     b"\x16\x03\x01\x02\x00\x01\x00", b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_request(port: int, request_: bytes) -> None:
    answer = said(port, request_)
    assert answer == b"" or answer[9:12] in {b"400", b"403"}


def test_web_sockets_are_refused(port: int) -> None:
    more = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: a", "Sec-WebSocket-Version: 13"]
    assert b" 101 " not in said(port, head(port, "GET /state HTTP/1.1", *more))


def test_the_same_store_is_at_the_same_port(tmp_path: Path) -> None:
    with bound("127.0.0.1", None, tmp_path / "a") as first:
        usual = first.getsockname()[1]
        with bound("127.0.0.1", None, tmp_path / "a") as second:
            assert second.getsockname()[1] != usual, "unless it is taken"
    with bound("127.0.0.1", None, tmp_path / "a") as again:
        assert again.getsockname() == ("127.0.0.1", usual)
