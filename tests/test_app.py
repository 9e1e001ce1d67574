"""The page's logic without a browser: cameras and how sure they are, points, lengths, maps, limits, messages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_runner import run
from depthlm.app import mapping, words
from depthlm.app.cameras import AUTO, FILE, FOCAL, FOV, in_page_words
from depthlm.app.desk import Desk, Limits, NoCameraYetError
from depthlm.app.models import InTurn, page_model
from depthlm.app.rooms import example_rooms
from depthlm.app.session import MOST_POINTS, Session, Store
from depthlm.errors import InputError
from depthlm.inference.bounds import ConstantBackend
from depthlm.inference.engine import Engine
from depthlm.inference.predict import Photo
from depthlm.inference.prefix import PrefixReader
from depthlm.lens import LensCamera
from depthlm.models.loading import load_model
from test_hostile import bomb, encoded
from test_package import ROOT


@pytest.fixture(scope="module")
def rooms():
    return example_rooms((2,), shown=1)


@pytest.fixture
def desk(rooms, tmp_path: Path) -> Desk:
    models = [page_model("two", ConstantBackend("2.0")), page_model("folder/four", ConstantBackend("4.0"))]
    return Desk(models, rooms, Limits(upload_mb=1, megapixels=0.1, budget=100), tmp_path / "sessions")


@pytest.fixture
def session(desk: Desk) -> Session:
    session = desk.store.get("visitor")
    desk.open_room(session, 0)
    return session


def upload(folder: Path, data: bytes, name: str = "photo.jpg") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def exif(mm35: float) -> bytes:
    block = Image.Exif()
    block.get_ifd(0x8769)[0xA405] = mm35
    return encoded("JPEG", exif=block)


def test_a_click_is_measured_by_every_model_and_two_give_a_length(desk: Desk, session: Session) -> None:
    desk.click(session, 10, 20)
    assert [points[0]["distance"] for points in session.points] == [2.0, 4.0]
    assert session.lengths == [[], []]
    desk.click(session, 200, 150)
    one, other = session.points[0]
    expected = np.linalg.norm(np.subtract(one["xyz"], other["xyz"]))
    assert session.lengths[0][0]["length"] == pytest.approx(expected)
    assert session.lengths[1][0]["length"] == pytest.approx(2 * expected)
    room = desk.rooms[0]
    assert one["truth"] == pytest.approx(room.z[20, 10] * room.camera.ray_factor([(10, 20)])[0])
    shown = words.results(desk, session)
    assert f"{expected:.2f} m" in shown
    assert ">four<" in shown
    assert desk.drawn(session, 0).tobytes() != session.picture.shown.tobytes()
    said = json.loads(desk.points_json(session).read_text())
    assert [model["model"] for model in said["models"]] == ["two", "four"]
    assert said["camera"]["sure"] == "exact"


def test_further_clicks_read_no_picture_again(rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = []
    read = PrefixReader.read
    monkeypatch.setattr(PrefixReader, "read", lambda self, *given: (readings.append(1), read(self, *given))[1])
    nano = load_model("nano")
    desk = Desk([page_model("nano", nano, reference="text")], rooms, Limits(), tmp_path / "sessions")
    session, other = desk.store.get("one"), desk.store.get("other")
    desk.open_room(session, 0)
    clicks = [(10, 20), (200, 150), (30, 40)]
    for uv in clicks:
        desk.click(session, *uv)
    assert len(readings) == 1, "the length's question is about the same picture"
    photo = session.photo([])
    alone = Engine(nano, reference="text", shares=False).measure(photo.image, clicks, photo.resolved.camera)
    assert [point["text"] for point in session.points[0]] == alone.text
    desk.set_camera(session, FOV, fov=30)
    assert len(readings) == 2, "another view; three clicks measured again"
    desk.open_room(other, 0)
    desk.click(other, *clicks[0])
    desk.click(session, 50, 60)
    assert len(readings) == 4, "only the last picture is kept"


def test_a_bent_picture_is_straightened_once(desk: Desk, session: Session, tmp_path: Path, monkeypatch) -> None:
    bent = session.picture.room.camera.to_dict() | {"model": "opencv", "distortion": [-0.2, 0.05, 0, 0]}
    (tmp_path / "camera.json").write_text(json.dumps(bent))
    straightened = []
    undistort = LensCamera.undistort
    monkeypatch.setattr(
        LensCamera, "undistort", lambda self, image: (straightened.append(1), undistort(self, image))[1]
    )
    desk.set_camera(session, FILE, file=tmp_path / "camera.json")
    clicks = [(10, 20), (200, 150), (128, 96)]
    for uv in clicks:
        desk.click(session, *uv)
    assert len(straightened) == 1
    fresh = Photo(Path("room"), session.picture.image, session.camera.resolved, np.array(clicks, dtype=float))
    again = session.photo(clicks)
    for one, other in zip(again.straight, fresh.straight, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert again.straight[2].tolist() != again.uv.tolist()
    desk.set_camera(session, FOV, fov=60)
    assert session.photo([]).straight[0] is session.picture.image


def test_undo_and_clear_take_points_with_their_lengths(desk: Desk, session: Session) -> None:
    for u in (10, 20, 30, 40):
        desk.click(session, u, 20)
    desk.undo(session)
    assert [len(session.uv), len(session.points[1]), len(session.lengths[1])] == [3, 3, 1]
    desk.undo(session)
    assert len(session.lengths[0]) == 1
    desk.clear(session)
    assert (session.uv, session.points, session.lengths) == ([], [[], []], [[], []])
    for u in range(MOST_POINTS):
        desk.click(session, u, 20)
    with pytest.raises(InputError, match="Undo or Clear"):
        desk.click(session, 50, 50)


@pytest.mark.parametrize(("u", "v"), [(None, 3), (-1, 3), (256, 3), (3, 192), (float("nan"), 3)])
def test_a_point_beside_the_picture_is_refused(desk: Desk, session: Session, u, v) -> None:
    with pytest.raises(InputError, match="u goes from 0 to 255, v from 0 to 191"):
        desk.click(session, u, v)
    assert session.uv == []


def test_another_camera_measures_the_same_clicks_again(desk: Desk, session: Session) -> None:
    desk.click(session, 10, 20)
    before = session.points[0][0]["z"]
    desk.set_camera(session, FOV, fov=30)
    assert session.camera.sure == "yours"
    assert session.uv == [(10.0, 20.0)]
    assert session.points[0][0]["z"] > before
    assert "set by you" in words.camera_card(session.camera)
    desk.set_camera(session, FOCAL, focal=300)
    assert session.camera.resolved.camera.fx == 300


def test_cameras_of_photographs_and_how_sure_they_are(desk: Desk, tmp_path: Path) -> None:
    session = desk.store.get("other")
    desk.open_upload(session, upload(tmp_path, exif(26)))
    assert (session.camera.sure, session.picture.room) == ("likely", None)
    assert "26 mm" in words.camera_card(session.camera)
    with pytest.raises(NoCameraYetError, match="No camera"):
        desk.open_upload(session, upload(tmp_path, encoded("JPEG")))
    assert session.camera is None
    assert "not set" in words.camera_card(None)
    with pytest.raises(InputError, match="No camera"):
        desk.click(session, 3, 3)
    camera = {"fx": 50.0, "fy": 50.0, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}
    desk.set_camera(session, FILE, file=upload(tmp_path, json.dumps(camera).encode(), "mine.json"))
    assert (session.camera.sure, session.camera.source) == ("exact", "camera file mine.json")
    for mode, given, says in ((FOV, {}, "number"), (FILE, {}, "Choose a camera file"), ("guess", {}, "no way")):
        with pytest.raises(InputError, match=says):
            desk.set_camera(session, mode, **given)
    assert session.camera.sure == "exact"


BAD = {
    "bomb": (bomb(), "bomb.png"),
    "script": (b"<html><script>alert(1)</script></html>", "page.jpg"),
    "polyglot": (encoded() + b"PK\x05\x06" + bytes(18), "both.png"),
    "cut": (encoded()[:200], "cut.png"),
    "empty": (b"", "empty.png"),
    "too many bytes": (bytes(2**20 + 1), "long.png"),
    "absurd focal": (exif(65000), "exif.jpg"),
}


@pytest.mark.parametrize("kind", BAD)
def test_hostile_uploads_are_refused_in_one_line_and_taken_away(desk: Desk, session: Session, tmp_path, kind) -> None:
    data, name = BAD[kind]
    before = session.picture
    path = upload(tmp_path, data, name)
    with pytest.raises(InputError) as caught:
        desk.open_upload(session, path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) not in message
    assert "--" not in message
    assert not path.exists()
    assert not session.folder.exists()
    if kind != "absurd focal":  # that picture may be measured once somebody says its camera
        assert session.picture is before
    desk.open_room(session, 0)
    desk.click(session, 3, 3)


def test_a_picture_of_too_many_pixels_and_a_camera_file_of_100_mb(desk: Desk, session: Session, tmp_path) -> None:
    large = tmp_path / "large.png"
    Image.new("RGB", (500, 300)).save(large)
    with pytest.raises(InputError, match=r"“large\.png”: the picture has 500x300 pixels"):
        desk.open_upload(session, large)
    huge = upload(tmp_path, b'{"fx": [' + b"1," * 50_000_000 + b"1]}", "huge.json")
    with pytest.raises(InputError, match=r"“huge\.json”: is larger"):
        desk.set_camera(session, FILE, file=huge)
    for focal in (1e-6, 1e9):
        with pytest.raises(InputError):
            desk.set_camera(session, FOCAL, focal=focal)


def test_names_from_outside_are_escaped_and_make_no_paths(desk: Desk, session: Session, tmp_path: Path) -> None:
    name = "..%2f<b>x</b>&.jpg".replace("/b", "b")
    desk.open_upload(session, upload(tmp_path, exif(26), name))
    desk.click(session, 3, 3)
    file = desk.points_json(session)
    assert file.parent == session.folder
    assert file.name == "2f-b-x-b-points.json"
    assert "<b>x" not in words.message(f"{name}: bad") + words.results(desk, session)


def test_maps_are_drawn_with_progress_and_kept_as_files(desk: Desk, session: Session) -> None:
    steps = list(mapping.map_steps(desk, session, 40))
    assert steps[0] == (0, 80)
    assert steps[-1] == (80, 80)
    near, far = mapping.colour_range(session.maps)
    assert 0 < near < far
    paths = mapping.write_files(session, 0, "two")
    assert [path.suffix for path in paths] == list(mapping.SUFFIXES)
    z = np.load(paths[1])
    assert z.shape == (192, 256)
    facts = json.loads(paths[-1].read_text())
    assert (facts["asked"], len(facts["uv"]), facts["model"]) == (40, 40, "two")
    shown, away = mapping.write_shown_cloud(session, 1)
    assert shown.read_bytes()[:4] == b"glTF"
    assert away > 1
    assert mapping.depth_view(session.maps[0], near, far).size[0] == 1024
    assert mapping.confidence_view(session.maps[0]).size[0] == 1024
    desk.set_camera(session, AUTO)
    assert session.maps == []
    assert not session.folder.exists()


def test_a_map_ends_when_told_and_when_nobody_listens(desk: Desk, session: Session) -> None:
    steps = mapping.map_steps(desk, session, 100)
    next(steps)
    session.stop.set()
    with pytest.raises(mapping.StoppedMapError):
        list(steps)
    steps = mapping.map_steps(desk, session, 100)
    next(steps)
    steps.close()
    assert session.maps == []
    assert threading.active_count() < 20
    for budget in (None, 3, 101):
        with pytest.raises(InputError, match="16 to 100"):
            next(mapping.map_steps(desk, session, budget))


def test_sessions_are_bounded_and_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path, 1, most=2)
    first = store.get("a")
    first.uv = [(1.0, 2.0)]
    store.get("b")
    store.get("c")
    assert (len(store), first.uv) == (2, [])
    store.drop("b")
    store.drop("never")
    assert len(store) == 1
    assert store.get("c") is store.get("c")


def test_models_are_asked_in_turn() -> None:
    inside, most = 0, 0

    class Slow(ConstantBackend):
        def ask(self, requests, progress=None):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.01)
            inside -= 1
            return super().ask(requests, progress)

    backend = InTurn(Slow("2.0"), threading.Lock())
    threads = [threading.Thread(target=backend.ask, args=([],)) for _ in range(1)]
    image, camera = Image.new("RGB", (64, 48)), example_rooms((2,), shown=1)[0].camera.resize(64, 48)
    threads += [threading.Thread(target=backend.measure, args=(image, [(3, 4)] * 70, camera)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_messages_name_no_options_of_the_command_line() -> None:
    said = in_page_words("/tmp/x/a.jpg: --fov is 200; give the camera with --focal PX or --camera FILE", "/tmp/x/a.jpg")
    assert said == "“a.jpg”: field of view is 200; give the camera with the focal length in pixels or a camera file"


@pytest.fixture
def no_gradio(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return


@pytest.mark.usefixtures("no_gradio")
def test_without_gradio_one_line_says_what_to_install(capsys) -> None:
    status, out, err = run(capsys, "app", "nano")
    assert (status, out) == (2, "")
    assert err == "error: the page needs gradio; pip install 'depthlm[app]'\n"


def test_the_document_says_what_the_load_test_found() -> None:
    found = json.loads((ROOT / "docs" / "results" / "page.json").read_text())
    assert all(found["checks"].values())
    assert not found["config"]["quick"]
    assert (found["config"]["clients"], found["config"]["seconds"]) == (20, 60)
    said = (ROOT / "docs" / "app.md").read_text()
    headline, memory = found["headline"], found["memory_mb"]
    for part in (
        f"{headline['median_s']:.1f} s (median)", f"{headline['p95_s']:.1f} s (95th", f"{found['clicks']} clicks",
        f"{headline['clicks_per_s']:.1f} clicks a second", f"{100 * memory['grew_by']:+.1f} %",
    ):  # fmt: skip
        assert part in said
