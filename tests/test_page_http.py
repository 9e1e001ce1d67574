"""What the running page lets in and what it gives away, asked without a browser: hostile files, paths and requests."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app_page import ROOT, app_python, serving
from chat_server import ChatServer
from page_client import API, RefusedError, Visitor, as_file
from test_hostile import bomb, encoded, text_bomb, with_exif, with_zip

pytestmark = pytest.mark.slow
CAMERA = {"fx": 50, "fy": 50, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}


class Running:
    """A page, and what it has written."""

    def __init__(self, url: str, pid: int, folder: Path) -> None:
        self.url, self.pid, self.folder = url, pid, folder

    def written(self) -> set[Path]:
        """Every file below its temporary folder but the pictures it has drawn (whose names are their contents)."""
        return {path for path in (self.folder / "tmp").rglob("*") if path.is_file() and path.name != "image.jpeg"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    python = app_python(folder / "env")
    with serving(python, folder / "served", "nano", "--max-upload", "2") as (url, pid):
        yield Running(url, pid, folder / "served")


@pytest.fixture
def visitor(running: Running) -> Iterator[Visitor]:
    """Somebody with the first room open; afterwards the page still measures."""
    visitor = Visitor(running.url)
    visitor.call("first")
    yield visitor
    visitor.close()
    other = Visitor(running.url)
    other.call("first")
    assert re.search(r'class="big">\d+\.\d\d m<', other.click(300, 400)["results"])
    other.call("clear")
    other.close()


def said(answer: dict[str, object]) -> str:
    """The message of an answer, which is one line."""
    text = unescape(re.sub("<[^>]*>", "", str(answer["message"])))
    assert "\n" not in text
    return text


# --- what it gives away -----------------------------------------------------------------------------------------------

FOREIGN = (
    "/etc/passwd", str(ROOT / "README.md"), str(ROOT / "src/depthlm/models/weights/nano/model.safetensors"),
    "/proc/self/environ", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd",
    "file:///etc/passwd", "/dev/zero", "~/.bashrc", "\\\\host\\share", "%00", "http://127.0.0.1:1/",
)  # fmt: skip


def raw(url: str, path: str) -> tuple[int, str]:
    """A GET with the path as it stands: nothing on the way tidies it up."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as reply:
            text = reply.read(100_000).decode(errors="replace")
    return int(text.split()[1]), text.partition("\r\n\r\n")[2]


@pytest.mark.parametrize("before", [f"{API}/file=", "/file=", "/assets/", "/static/", "/svelte/", f"{API}/stream/"])
def test_no_file_that_it_was_not_given(running: Running, visitor: Visitor, before: str) -> None:
    for path in FOREIGN:
        status, body = raw(running.url, before + path)
        assert status in (400, 403, 404), (path, status)
        assert "root:" not in body
        assert "DepthLM" not in body


@pytest.mark.parametrize(
    "path",
    ["/docs", "/openapi.json", "/monitoring", "/login", "/logout", "/dev/reload", f"{API}/info", f"{API}/proxy=x",
     f"{API}/component_server", f"{API}/call/_click", f"{API}/queue/status", "/gradio_api/mcp/", "/theme", "/x"],
)  # fmt: skip
def test_nothing_but_the_page(running: Running, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert httpx.request(method, running.url + path).status_code == 404


def test_a_request_cannot_name_a_file_or_an_address_as_its_upload(running: Running, visitor: Visitor, tmp_path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(encoded())
    config = visitor.http.get("/config").json()
    rooms = next(part for part in config["components"] if part["props"].get("elem_id") == "rooms")["props"]["value"]
    thumbnail = Path(rooms[0]["image"]["path"])
    assert thumbnail.is_file()
    shown = str(visitor.click(300, 400)["points-json"]["value"]["path"])
    before = running.written()
    foreign = (str(mine), "/etc/passwd", str(thumbnail), shown, "http://127.0.0.1:1/a.png", "", None, 3, [str(mine)])
    for path in foreign:
        for data in (as_file(path), {"path": path}, [as_file(path)], {"a": {"b": as_file(path)}}):
            for handler, given in (("upload", [data]), ("camera", ["Camera file", 65, None, data])):
                with pytest.raises(RefusedError) as caught:
                    visitor.call(handler, given)
                assert (caught.value.status, caught.value.text) == (403, "This file was not sent to this page.\n")
        if path is not None:
            with pytest.raises(RefusedError):  # no file as the page's script names one
                visitor.call("upload", [path])
    assert mine.is_file()
    assert thumbnail.is_file()
    assert running.written() == before
    assert "from 0 to 255, v from 0 to 191" in visitor.call("undo")["results"], "the room is still there"


def test_the_page_names_no_foreign_host(running: Running) -> None:
    for path in ("/", "/config", "/theme.css", "/manifest.json"):
        reply = httpx.get(running.url + path)
        hosts = set(re.findall(r"(?:https?:|wss?:|['\"(])//([\w.-]+)", reply.text)) - {"www.w3.org"}
        assert hosts <= {"127.0.0.1"}, path
        assert "default-src 'self'" in reply.headers["content-security-policy"]


# --- what it lets in --------------------------------------------------------------------------------------------------

PICTURES = {
    "a bomb": ("bomb.png", bomb(), "far more pixels than the 64 million"),
    "a bomb in a comment": ("text.png", text_bomb(), "not a readable image"),
    "a picture and a ZIP archive": ("both.png", with_zip(), "ZIP archive"),
    "a picture and a script": ("both.jpg", encoded("JPEG", comment=b"<script>alert(1)</script>"), "script"),
    "a page": ("page.png", b"<html><script>alert(1)</script>", "page"),
    "a page by another name": ("page.html", b"<html><script>alert(1)</script>", "page"),
    "nothing": ("empty.png", b"", "not a readable image"),
    "an absurd focal length": ("exif.jpg", with_exif(mm35=65_535), "field of view"),
    "a camera made of one pixel": ("exif.jpg", with_exif(mm=5.0, res=1000.0, unit=3, wide=1e-6), "field of view"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_pictures_end_in_one_line_and_leave_nothing(running: Running, visitor: Visitor, name: str) -> None:
    file, data, naming = PICTURES[name]
    before, logged = running.written(), (running.folder / "log").stat().st_size
    answer = visitor.open(visitor.upload(file, data))
    assert naming in said(answer)
    assert str(running.folder) not in said(answer)
    assert running.written() == before
    assert (running.folder / "log").stat().st_size == logged


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/escaped.png", "..\\..\\escaped.png", "/etc/escaped.png", "a\0b.png", "%2e%2e%2fescaped.png",
     "x" * 400 + ".png", ".png", "<img src=x onerror=alert(1)>.png", "CON.png", "a\r\nSet-Cookie: a=b.png",
     "\u202egnp.exe"],
)  # fmt: skip
def test_a_file_name_is_no_path(running: Running, visitor: Visitor, name: str) -> None:
    before = running.written()
    path = Path(visitor.upload(name, with_exif(mm35=26)))
    assert (running.folder / "tmp") in path.parents
    assert ".." not in path.parts
    answer = visitor.open(str(path))
    assert "EXIF" in str(answer["camera"])
    shown = visitor.click(30, 20)
    file = Path(shown["points-json"]["value"]["path"])
    assert re.fullmatch(r"[a-z0-9-]+-points\.json", file.name)
    assert json.loads(file.read_text())["models"][0]["points"]
    assert running.written() == before | {file}
    assert "<img" not in str(shown["results"]) + str(answer["message"])
    visitor.call("left")
    assert running.written() == before


@pytest.mark.parametrize("about", ["", 'name="files"', "filename=a"])
def test_an_upload_of_no_file_is_refused_in_one_line(running: Running, about: str) -> None:
    before = running.written()
    start = b"--x\r\nContent-Disposition: form-data; " + about.encode() + b"\r\n\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    address = f"{running.url}{API}/upload?upload_id=a"
    reply = httpx.post(address, content=start + with_exif(mm35=26) + b"\r\n--x--\r\n", headers=kind, timeout=30)
    assert reply.status_code == 400
    assert reply.text.count("\n") <= 1
    assert "Error" not in reply.text
    assert running.written() == before


def test_the_same_photograph_of_two_visitors(running: Running, visitor: Visitor) -> None:
    other = Visitor(running.url)
    paths = [somebody.upload("same.jpg", with_exif(mm35=26)) for somebody in (visitor, other)]
    for somebody, path in zip((visitor, other), paths, strict=True):
        assert "26 mm" in str(somebody.open(path)["camera"])
    assert not Path(paths[0]).exists()
    with pytest.raises(RefusedError, match="not sent to this page"):
        other.open(paths[0])
    other.close()


def test_only_a_cloud_that_was_sent_is_taken_away(visitor: Visitor) -> None:
    """gradio repeats a generator's last output when it ends, and keeps what it tells a part that is not shown yet: an
    empty cloud, sent for nothing, may come to the browser after the one that the visitor asked for."""
    nothing, other = {"__type__": "update"}, {"index": 1, "value": None}
    assert visitor.call("room", event=other)["cloud-0"] == nothing
    ended = visitor.call("map", [50])
    assert ended["depth-0"]["path"]
    assert ended["cloud-0"] == nothing
    assert visitor.call("cloud")["cloud-0"]["value"]["path"].endswith(".glb")
    assert visitor.call("room", event=other)["cloud-0"] is None
    assert visitor.call("room", event=other)["cloud-0"] == nothing


def test_uploads_are_bounded_by_what_is_said_and_by_what_comes(running: Running, visitor: Visitor) -> None:
    before = running.written()
    for size, status in ((2_200_000, 413), (4_000_000, 413)):  # above one file's bound, above that of a request
        with pytest.raises(RefusedError) as caught:
            visitor.upload("long.png", bytes(size))
        assert caught.value.status == status
        assert caught.value.text.count("\n") <= 1

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(2000):
            yield bytes(50_000)

    kind = {"content-type": "multipart/form-data; boundary=x"}
    address = f"{running.url}{API}/upload?upload_id=a"
    with pytest.raises(httpx.HTTPError):  # cut off, or refused, long before 100 MB
        httpx.post(address, content=endless(), headers=kind, timeout=60).raise_for_status()
    assert running.written() == before


def test_a_hundred_megabytes_of_json(running: Running, visitor: Visitor) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"data": ["'
        for _ in range(1000):
            yield b"x" * 100_000

    before = running.written()
    join = f"{running.url}{API}/queue/join"
    with pytest.raises(httpx.HTTPError):
        httpx.post(join, content=endless(), timeout=60).raise_for_status()
    with socket.create_connection((urlsplit(join).hostname, urlsplit(join).port), timeout=30) as connection:
        connection.sendall(f"POST {API}/queue/join HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"413"  # before a byte of it came
    huge = json.dumps(CAMERA) + " " * 1_500_000
    answer = visitor.call("camera", ["Camera file", 65, None, as_file(visitor.upload("c.json", huge.encode()))])
    assert "larger than 1 MB" in said(answer)
    assert running.written() == before


BODIES = {
    "no JSON": b"{",
    "a list": b"[]",
    "brackets": b"[" * 500_000,
    "a deep object": b'{"data": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    "a long number": b'{"data": [' + b"9" * 100_000 + b"]}",
    "no handler": json.dumps({"data": [], "fn_index": 10**9, "session_hash": "a"}).encode(),
    "a handler of another kind": json.dumps({"data": [], "fn_index": "x", "session_hash": "a"}).encode(),
    "no session": json.dumps({"data": [], "fn_index": 4}).encode(),
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["queue/join", "run/predict"])
def test_requests_made_up(running: Running, visitor: Visitor, path: str, name: str) -> None:
    kind = {"content-type": "application/json"}
    reply = httpx.post(f"{running.url}{API}/{path}", content=BODIES[name], headers=kind, timeout=30)
    assert 400 <= reply.status_code <= 500
    assert str(ROOT) not in reply.text


def test_clicks_made_up(running: Running, visitor: Visitor) -> None:
    indices = (None, [1], ["a", "b"], [1e300, 1], [{"path": "/etc/passwd"}, 1], [-5, 10**9], {}, "ab")
    for event in (None, {}, 3, *({"index": index, "value": None} for index in indices)):
        with suppress(RefusedError):
            assert said(visitor.call("click", event=event)), "one line says that this is no click"
    for u, v in (("a", 1), (None, None), ([], {}), ("1e400", 0), (-1, -1)):
        with suppress(RefusedError):
            said(visitor.call("typed", [u, v]))
    assert "Click anywhere" in str(visitor.call("undo")["results"])


# --- a model on a server, beside one here -----------------------------------------------------------------------------


def test_a_server_beside_nano_and_the_server_gone(tmp_path: Path) -> None:
    server = ChatServer(lambda body: "It is 3.5 meters away.")
    arguments = ("far-away", "--backend", "openai", "--base-url", server.url, "--prompt", "general",
                 "--against", "nano", "--timeout", "5", "--retries", "0")  # fmt: skip
    with serving(app_python(tmp_path / "env"), tmp_path / "served", *arguments) as (url, _):
        visitor = Visitor(url)
        visitor.call("first")
        both = visitor.click(300, 400)["results"]
        assert re.findall("<h3>(.*?)</h3>", both) == ["far-away", "nano"]
        figures = re.findall(r'class="big">([\d.]+) m<', both)
        assert figures[0] == "3.50"
        assert figures[1] != "3.50"
        assert "the model gives no probabilities" in both
        length = visitor.click(900, 400)
        assert str(length["results"]).count('class="big length"') == 2
        answered = server.requests
        server.stop()
        gone = visitor.click(600, 300)
        assert said(gone) == (
            "The model's server does not answer (no connection). Your points are kept; try again when it is back."
        )
        assert str(gone["results"]) == str(length["results"])
        server.start()
        back = visitor.click(600, 300)
        assert said(back) == ""
        assert str(back["results"]).count("<th scope=row>3</th>") == 2
        assert server.requests == answered + 1
        visitor.close()
    server.stop()
