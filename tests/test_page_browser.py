"""The page in a real browser (headless Chromium), as people use it: by mouse, by keyboard, on a phone."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import trimesh
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from app_page import app_python, find_browser, serving
from chat_server import ChatServer
from test_hostile import bomb, encoded, with_exif

pytestmark = pytest.mark.slow
PATIENCE = 60_000  # ms: both cores may be busy
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
# WebGL without a GPU; no name is looked up, so that nothing but this machine could be reached.
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", ALONE]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return app_python(tmp_path_factory.mktemp("gradio") / "env")


@pytest.fixture(scope="module")
def address(browser: Browser, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with nano."""
    with serving(python, tmp_path_factory.mktemp("page") / "served", "nano") as (url, _):
        yield url


@contextmanager
def visit(browser: Browser, url: str, *, expected: str = "WebGPU", **options: Any) -> Iterator[Page]:
    """An open page with its first room. Afterwards: it spoke to its own server alone, and its script made no error.

    expected: in errors that are none; the 3D viewer tries WebGPU before it takes WebGL.
    """
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(url)
    expect(page.locator("#picture-0 img")).to_be_visible()
    expect(page.locator("#results")).to_contain_text("Click anywhere on the picture")
    yield page
    context.close()
    assert len(asked) > 20
    assert {urlsplit(one).netloc for one in asked if not one.startswith(("data:", "blob:"))} == {urlsplit(url).netloc}
    assert [line for line in errors if expected not in line] == []


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with visit(browser, address) as page:
        yield page


def click(page: Page, right: float, down: float, picture: int = 0) -> None:
    """On the picture, by shares of its sides."""
    image = page.locator(f"#picture-{picture} img")
    box = image.bounding_box()
    assert box is not None
    image.click(position={"x": right * box["width"], "y": down * box["height"]})


def measured(page: Page, points: int) -> str:
    """The results, once so many points are in them."""
    last = page.locator("#results tbody th", has_text=re.compile(rf"^{points}$"))
    expect(last.first).to_be_visible()
    return page.locator("#results").inner_text()


def budget(page: Page, questions: int) -> None:
    """Typed as often as it takes to stay: a tab's parts get their first values a moment after it is shown."""
    number, slider = (page.locator(f"#budget input[type={kind}]") for kind in ("number", "range"))
    for _ in range(20):
        number.fill(str(questions))
        number.press("Tab")
        page.wait_for_timeout(300)
        if number.input_value() == slider.input_value() == str(questions):
            return
    raise AssertionError(f"the slider does not take {questions}")


def shot(locator: Locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"), dtype=int)


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def download(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.locator(button).click()
    path = waiting.value.path()
    return waiting.value.suggested_filename, Path(path).read_bytes()


# --- by mouse ---------------------------------------------------------------------------------------------------------


def test_a_click_then_a_second_then_the_points_as_a_file(page: Page) -> None:
    before = shot(page.locator("#picture-0 img"))
    click(page, 0.25, 0.5)
    text = measured(page, 1)
    for part in (r"\d\.\d\d m", r"80 % interval \d+\.\d\d to \d+\.\d\d m", r"calibrated", r"truly \d+\.\d\d m",
                 r"z, ahead\s+\d+\.\d\d m", r"right\s+-\d\.\d\d m", r"down\s+[+-]\d\.\d\d m"):  # fmt: skip
        assert re.search(part, text), part
    assert "exact" in page.locator("#camera").inner_text()
    click(page, 0.75, 0.5)
    text = measured(page, 2)
    length = re.match(r"(\d+\.\d\d) m", text)
    assert length
    assert "from point 1 to point 2" in text
    page.wait_for_timeout(500)
    after = shot(page.locator("#picture-0 img"))
    height, width = before.shape[:2]
    middle = np.s_[int(0.42 * height) : int(0.58 * height), int(0.4 * width) : int(0.6 * width)]
    assert (np.abs(after - before).max(-1) > 30)[middle].mean() > 0.02, "the length is drawn between the points"
    name, data = download(page, "#points-json")
    said = json.loads(data)
    assert name == "room-1-points.json"
    one, other = (np.array(point["xyz"]) for point in said["models"][0]["points"])
    assert np.linalg.norm(one - other) == pytest.approx(float(length[1]), abs=0.006)
    page.locator("#undo").click()
    expect(page.locator("#results tbody tr")).to_have_count(1)
    page.locator("#clear").click()
    expect(page.locator("#results")).to_contain_text("Click anywhere on the picture")


def test_a_map_with_progress_the_cloud_and_every_file(page: Page) -> None:
    page.get_by_role("tab", name="Depth map").click()
    budget(page, 400)  # long enough for a busy machine to notice
    page.locator("#draw").click()
    expect(page.locator(".progress")).to_contain_text("of 400 questions")
    expect(page.locator("#cancel")).to_be_visible()
    depth = page.locator("#depth-0 img")
    expect(depth).to_be_visible()
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator(".key")).to_contain_text(" m")
    assert shot(depth).std() > 10
    tab = page.get_by_role("tab", name="Confidence")
    tab.click()
    expect(page.locator("#confidence-0 img")).to_be_visible()
    canvas = page.locator("#cloud-0 canvas")
    with slow(page):
        page.get_by_role("tab", name="3D").click()
        expect(canvas).to_be_visible()
    first = waited(page, canvas, lambda now: coloured(now) > 0.2)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 330, box["y"] + 220, steps=8)
    page.mouse.up()
    turned = waited(page, canvas, lambda now: (np.abs(now - first).max(-1) > 20).mean() > 0.05)  # by the drag
    files = {kind: download(page, f"#file-{kind}-0") for kind in ("png", "npy", "ply", "glb", "json")}
    assert [name for name, _ in files.values()] == [f"room-1-depth.{kind}" for kind in files]
    z = np.load(io.BytesIO(files["npy"][1]))
    assert z.shape == (192, 256)
    millimetres = np.asarray(Image.open(io.BytesIO(files["png"][1])))
    assert np.abs(millimetres - 1000 * z).max() < 1
    points = trimesh.load(io.BytesIO(files["glb"][1]), file_type="glb").geometry
    assert len(next(iter(points.values())).vertices) > 10_000
    assert files["ply"][1].startswith(b"ply")
    assert json.loads(files["json"][1])["asked"] == 400
    page.locator("#draw").click()
    expect(tab).to_be_hidden()  # the map before is put away
    expect(tab).to_be_visible()
    waited(page, canvas, lambda now: coloured(now) > 0.2 and (np.abs(now - turned).max(-1) > 20).mean() > 0.05)


@contextmanager
def slow(page: Page) -> Iterator[None]:
    """A busy browser: gradio's viewer takes two seconds to come, a frame a fifth of one.

    gradio tells a newly opened tab's parts a frame later again what they show; its viewer forgets a model that it is
    told twice while it comes.
    """

    def later(route: Route) -> None:
        time.sleep(2)
        route.continue_()

    page.route("**/Canvas3D-*.js", later)
    page.evaluate("() => {frame = requestAnimationFrame; requestAnimationFrame = done => setTimeout(frame, 200, done)}")
    yield
    page.evaluate("() => {requestAnimationFrame = frame}")


def waited(page: Page, canvas: Locator, right: Callable[[np.ndarray], bool]) -> np.ndarray:
    """What the canvas shows, as soon as it is right."""
    for _ in range(60):
        now = shot(canvas)
        if right(now):
            return now
        page.wait_for_timeout(500)
    raise AssertionError("the cloud is not shown as it should be")


def coloured(picture: np.ndarray) -> float:
    """The share that is not the empty ground."""
    return float((np.abs(picture - picture[3, 3]).max(-1) > 12).mean())


def test_a_map_can_be_cancelled_and_drawn_again(page: Page) -> None:
    page.get_by_role("tab", name="Depth map").click()
    budget(page, 4000)
    page.locator("#draw").click()
    expect(page.locator(".progress")).to_contain_text(re.compile(r"^[1-9][\d,]* of 4,000"))
    page.locator("#cancel").click()
    expect(page.locator("#message [role=alert]")).to_contain_text("Stopped. Nothing was kept of this map.")
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#draw")).to_be_enabled()
    expect(page.locator("#depth-0")).to_be_hidden()
    budget(page, 50)
    page.locator("#draw").click()
    expect(page.locator("#depth-0 img")).to_be_visible()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def choose(page: Page, name: str, data: bytes) -> None:
    """A file, as the button lets people choose one."""
    kind = "image/png" if name.endswith("png") else "image/jpeg"
    page.locator("#upload input[type=file]").set_input_files({"name": name, "mimeType": kind, "buffer": data})


def test_a_huge_picture_leaves_the_last_one_there(page: Page) -> None:
    click(page, 0.5, 0.5)
    measured(page, 1)
    choose(page, "huge.png", bomb())
    expect(page.locator("#message [role=alert]")).to_contain_text(
        "“huge.png”: the picture has far more pixels than the 64 million"
    )
    measured(page, 1)
    click(page, 0.7, 0.5)
    measured(page, 2)
    expect(page.locator("#message [role=alert]")).to_be_hidden()


def test_a_photograph_without_a_camera_then_with_one(page: Page) -> None:
    choose(page, "photo.png", encoded())
    message = page.locator("#message [role=alert]")
    expect(message).to_contain_text("No camera: this picture does not say")
    expect(page.locator("#camera")).to_contain_text("Camera unknown")
    click(page, 0.5, 0.5)
    expect(message).to_contain_text("No camera")
    expect(page.locator("#results")).to_contain_text("Which camera took this picture?")
    page.locator("#use-camera").click()  # opened by itself, at a field of view
    expect(page.locator("#camera")).to_contain_text("field of view 65°, set by you", ignore_case=True)
    expect(message).to_be_hidden()
    click(page, 0.5, 0.5)
    measured(page, 1)
    assert "no measurement" in page.locator("#results").inner_text()  # nano, of a photograph
    choose(page, "phone.jpg", with_exif(mm35=26))
    expect(page.locator("#camera")).to_contain_text("26 mm")
    expect(page.locator("#camera")).to_contain_text("likely right")


def test_two_models_side_by_side_and_the_server_gone(browser: Browser, python: Path, tmp_path: Path) -> None:
    server = ChatServer(lambda body: "It is 3.5 meters away.")
    arguments = ("far-away", "--backend", "openai", "--base-url", server.url, "--prompt", "general",
                 "--against", "nano", "--timeout", "5", "--retries", "0")  # fmt: skip
    with serving(python, tmp_path / "served", *arguments) as (url, _), visit(browser, url) as page:
        click(page, 0.3, 0.5, picture=1)
        measured(page, 1)
        assert page.locator("#results h3").all_inner_texts() == ["far-away", "nano"]
        figures = page.locator("#results .big").all_inner_texts()
        assert figures[0] == "3.50 m"
        assert figures[1] != "3.50 m"
        left, right = (page.locator(f"#picture-{number}").bounding_box() for number in (0, 1))
        assert left is not None
        assert right is not None
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        server.stop()
        click(page, 0.6, 0.5)
        message = page.locator("#message [role=alert]")
        expect(message).to_contain_text("The model's server does not answer")
        expect(page.locator("#results h3")).to_have_count(2)
        server.start()
        click(page, 0.6, 0.5)
        measured(page, 2)
        expect(message).to_be_hidden()
        page.get_by_role("tab", name="Depth map").click()
        budget(page, 50)
        page.locator("#draw").click()
        for number in (1, 0):
            page.get_by_role("tab", name="3D").nth(number).click()
            expect(page.locator(f"#cloud-{number} canvas")).to_be_visible()
        page.get_by_role("tab", name="Measure").click()
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(300)
        assert overflow(page) <= 0
        left, right = (page.locator(f"#picture-{number}").bounding_box() for number in (0, 1))
        assert left is not None
        assert right is not None
        assert left["width"] == right["width"] > 300, "one below the other, large enough to click on"
    server.stop()


def test_a_full_queue_says_so(browser: Browser, python: Path, tmp_path: Path) -> None:
    server = ChatServer(lambda body: "It is 3.5 meters away.", lambda number: "hang" if number == 0 else None)
    arguments = ("slow", "--backend", "openai", "--base-url", server.url, "--prompt", "general", "--max-waiting", "1",
                 "--timeout", "30", "--retries", "1")  # fmt: skip
    with serving(python, tmp_path / "served", *arguments) as (url, _), visit(browser, url, expected="503") as page:
        for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            click(page, share, 0.5)
            page.wait_for_timeout(100)
        expect(page.locator(".toast-body").first).to_contain_text("try again")
    server.stop()


# --- by keyboard, on a phone ------------------------------------------------------------------------------------------


def test_everything_by_keyboard(page: Page) -> None:
    focused = "(document.activeElement.closest('[id]') || document.activeElement).id"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focused))
        reached.add(page.evaluate("document.activeElement.closest('#rooms,#upload,#u,#v,#set-camera')?.id"))
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    for part in ("rooms", "upload", "u", "v", "Measure", "Depth map", "Undo", "Clear", "set-camera"):
        assert part in reached, part
    picture = page.locator("#picture-0 img")
    before = picture.get_attribute("src")
    assert before
    page.locator("#rooms button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(picture).not_to_have_attribute("src", before)
    page.locator("#u input").focus()
    page.keyboard.type("100")
    page.keyboard.press("Tab")
    page.keyboard.type("60")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "where one is can be seen"
    page.keyboard.press("Enter")
    assert "100, 60" in measured(page, 1)
    page.locator("#v input").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("150")
    page.keyboard.press("Enter")
    assert "from point 1 to point 2" in measured(page, 2)
    page.get_by_role("tab", name="Depth map").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#draw")).to_be_visible()
    budget(page, 50)
    page.locator("#draw").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#depth-0 img")).to_be_visible()


def test_a_phone(browser: Browser, address: str) -> None:
    with visit(browser, address, **PHONE) as page:
        assert overflow(page) <= 0
        page.locator("#picture-0 img").tap()
        measured(page, 1)
        click(page, 0.9, 0.9)
        measured(page, 2)
        assert overflow(page) <= 0
        for part in page.locator("#picture-0 img, #results .results, #keys, #camera .camera, #set-camera").all():
            box = part.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
        page.locator("#set-camera button").first.tap()
        for way in ("Field of view", "Focal length", "Camera file"):
            page.get_by_label(way, exact=True).first.check()
            page.wait_for_timeout(300)
            assert overflow(page) <= 0, way
        page.get_by_role("tab", name="Depth map").tap()
        budget(page, 50)
        page.locator("#draw").tap()
        expect(page.locator("#depth-0 img")).to_be_visible()
        assert overflow(page) <= 0
        page.get_by_role("tab", name="3D").tap()
        expect(page.locator("#cloud-0 canvas")).to_be_visible()
        assert overflow(page) <= 0
        for button in page.locator("button:visible, input:visible").all():
            box = button.bounding_box()
            assert box is None or box["x"] + box["width"] <= 390.5
