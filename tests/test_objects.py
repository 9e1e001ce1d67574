"""Objects: labels of rendered scenes, boxes through views, questions about them, all against a second computation."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inspection import describe, format_description
from depthlm.objects import LabelledObject
from depthlm.prompts import get_prompt
from depthlm.reference import draw_marks, get_reference
from depthlm.sample import Sample
from depthlm.synth.builder import Builder
from depthlm.synth.furniture import desk, table
from depthlm.synth.labels import LEAST_VISIBLE, SMALLEST, labelled_objects, visible_share
from depthlm.synth.outdoor import car
from depthlm.synth.palette import WHITE
from depthlm.synth.render import render
from depthlm.synth.scene import KINDS, build_scene, sample_camera
from depthlm.tasks import TASKS, Context, get_task
from depthlm.view import OBJECT_INSIDE, CropConfig, ViewConfig, make_training_view, make_view
from test_synth import pose_at, simple_scene

CAMERA = Camera(559.62, 538.14, 361.87, 241.99, 640, 480)
SQUARE_ON = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PAIRS = ("wider", "taller", "bigger", "left_right", "above_below", "behind_front")


def turned(degrees: float) -> tuple[float, ...]:
    """Axes of a thing turned about the upright."""
    return tuple(Rotation.from_euler("y", degrees, degrees=True).as_matrix().ravel().tolist())


def png(width: int, height: int, boxes: tuple[tuple[int, int, int, int], ...] = ()) -> bytes:
    """Grey, with white rectangles (first column, first row, last column, last row)."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    for left, top, right, bottom in boxes:
        pixels[top : bottom + 1, left : right + 1] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- labels of rendered scenes ----------------------------------------------------------------------------------------


def test_label_of_a_turned_box_is_its_projection() -> None:
    """The eight corners by hand, from the world to the pixels."""
    yaw = 0.5

    def build(b: Builder) -> None:
        b.begin("carton", 3.0, 0.5, 0.2, yaw)
        b.box((0, 0, 0.4), (1.0, 0.6, 0.8), WHITE)

    scene, camera, pose = simple_scene(build), Camera.from_focal(120.0, 160, 120), pose_at((0, 0, 1.0), 8, -5, 3)
    (thing,) = labelled_objects(scene, render(scene, camera, pose))
    c, s = np.cos(yaw), np.sin(yaw)
    corners = np.array([
        [3.0 + c * x - s * y, 0.5 + s * x + c * y, 0.2 + z]
        for x, y, z in itertools.product((-0.5, 0.5), (-0.3, 0.3), (0.0, 0.8))
    ])  # fmt: skip
    local = (corners - pose[:3, 3]) @ pose[:3, :3]
    uv = camera.project(local)
    np.testing.assert_allclose(thing.box, [*uv.min(axis=0), *uv.max(axis=0)], atol=1.5)  # a corner's tip is thin
    assert np.linalg.norm(thing.corners()[:, None] - local[None], axis=2).min(axis=1).max() < 1e-9
    np.testing.assert_allclose(thing.size, (1.0, 0.8, 0.6))
    np.testing.assert_allclose(pose[:3, :3] @ thing.up, (0, 0, 1), atol=1e-12)
    assert thing.name == "carton"
    assert thing.visible > 0.95


def test_front_and_back() -> None:
    """A car that drives towards the camera shows its front squarely: 1.8 m across, 4.4 m to its back."""
    scene = simple_scene(lambda b: car(b, (0, 0, 0, 0)))
    camera = Camera.from_focal(120.0, 160, 120)
    for yaw, x, sign in ((180, 8.0, 1), (0, -8.0, -1)):
        (thing,) = labelled_objects(scene, render(scene, camera, pose_at((x, 0, 1.0), yaw, 0, 0)))
        np.testing.assert_allclose(thing.rotation, np.diag([sign, 1, sign]), atol=1e-9)
        width, height, depth = thing.size
        assert 1.79 < width < 1.85
        assert 1.4 < height < 1.55
        assert 4.2 < depth < 4.6


def test_what_stands_on_a_table_is_no_part_of_it() -> None:
    for make, tops in ((table, (0.73, 0.77)), (desk, (0.72, 0.76))):

        def build(b: Builder, make: Any = make) -> None:
            b.rng = np.random.default_rng(5)
            make(b, (3.0, 0, 0, -np.pi / 2))

        scene = simple_scene(build)
        assert (scene.quads.instance == -1).any(), "nothing stands on it: another seed"
        rendered = render(scene, Camera.from_focal(120.0, 160, 120), pose_at((0, 0, 1.2), 0, -10, 0))
        (thing,) = labelled_objects(scene, rendered)
        assert tops[0] < thing.size[1] < tops[1]
        above = np.flatnonzero((rendered.surface >= 0).any(axis=1))[0]
        assert thing.box[1] > above + 2, "the rectangle ends where the table does, below the things on it"


@pytest.mark.parametrize("edge", [-0.3, -0.1, 0.0, 0.05, 0.2, 1.0])
def test_visible_share_is_that_of_the_pixels(edge: float) -> None:
    """Against counting the pixels of the same object with and without what hides it."""
    counts = []
    for hidden in (False, True):

        def build(b: Builder, hidden: bool = hidden) -> None:
            b.begin("carton", 3.0, 0.0, 0.2, 0.3)
            b.box((0, 0, 0.4), (1.0, 0.6, 0.8), WHITE)
            if hidden:
                b.begin("wall")
                b.box((1.5, edge + 2.5, 1.0), (0.02, 5.0, 4.0), WHITE)

        scene = simple_scene(build)
        rendered = render(scene, Camera.from_focal(240.0, 320, 240), pose_at((0, 0, 0.8), 0, -5, 0))
        (number,) = [thing.thing for thing in scene.objects if thing.name == "carton"]
        counts.append(int((rendered.instance == number).sum()))
    share = counts[1] / counts[0]
    assert visible_share(scene, rendered, number) == pytest.approx(share, abs=0.06)
    assert abs(share - LEAST_VISIBLE) > 0.06, "too near to the threshold to test it"
    assert len(labelled_objects(scene, rendered)) == (share > LEAST_VISIBLE)


def test_what_lies_beyond_the_border_is_not_visible() -> None:
    def build(b: Builder) -> None:
        b.begin("carton", 3.0, 0.0, 0.6)
        b.box((0, 0, 0), (0.01, 1.0, 0.8), WHITE)

    scene = simple_scene(build)
    camera = Camera.from_focal(240.0, 320, 240)
    for y, share in ((0.0, 1.0), (1.7, 0.8), (2.0, 0.5), (2.3, 0.2)):  # the border is at 3 * 160 / 240 = 2 m
        rendered = render(scene, camera, pose_at((0, y, 0.8), 0, 0, 0))
        number = scene.objects[0].thing
        assert visible_share(scene, rendered, number) == pytest.approx(share, abs=0.06)


SIZES = {  # lowest and highest (width, height, depth) that furniture.py and outdoor.py build, metres
    "chair": ((0.41, 0.84, 0.41), (0.47, 0.92, 0.47)),
    "table": ((1.09, 0.73, 0.7), (1.81, 0.77, 0.9)),
    "person": ((0.5, 1.5, 0.2), (0.75, 2.0, 0.45)),
    "sofa": ((1.49, 0.75, 0.87), (2.11, 0.77, 0.95)),
    "fridge": ((0.59, 1.75, 0.6), (0.61, 1.8, 0.7)),
    "door": ((0.99, 2.06, 0.05), (1.01, 2.08, 0.1)),
    "car": ((1.79, 1.4, 4.2), (1.85, 1.55, 4.6)),
    "ball": ((0.2, 0.2, 0.2), (0.23, 0.23, 0.23)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_furnished_scenes(kind: str) -> None:
    """Which pixels show an object, told by depth and surface name alone: those whose point lies in its box."""
    same, names = [], set()
    for seed in range(4 if kind == "indoor" else 2):
        scene = build_scene(seed + 30, kind)
        rng = np.random.default_rng(seed)
        camera, pose = sample_camera(scene, rng, (256, 192), (150, 200))
        rendered = render(scene, camera, pose)
        v, u = np.nonzero(np.isfinite(rendered.z))
        xyz = camera.unproject(np.stack([u, v], axis=1), rendered.z[v, u])
        shown = np.array(rendered.names)[rendered.surface[v, u]]
        for thing in labelled_objects(scene, rendered):
            names.add(thing.name)
            low, high = SIZES.get(thing.name, ((0.0,) * 3, (20.0,) * 3))
            assert (np.array(low) <= thing.size).all(), (thing.name, thing.size)
            assert (np.array(high) >= thing.size).all(), (thing.name, thing.size)
            np.testing.assert_allclose(pose[:3, :3] @ thing.up, (0, 0, 1), atol=1e-9)
            assert LEAST_VISIBLE <= thing.visible <= 1
            inside = np.abs((xyz - thing.center) @ thing.rotation) <= np.array(thing.size) / 2 + 2e-3
            mine = inside.all(axis=1) & np.isin(shown, (thing.name, "books"))
            box = (u[mine].min() - 0.5, v[mine].min() - 0.5, u[mine].max() + 0.5, v[mine].max() + 0.5)
            same.append(np.abs(np.subtract(box, thing.box)).max() <= 1)
            assert min(box[2] - box[0], box[3] - box[1]) >= SMALLEST - 1
    assert len(same) >= 6
    assert np.mean(same) > 0.9  # two of a kind may touch
    assert len(names) >= 3


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": (0, 0, 20.1, 10)}, "has box"),
        ({"box": (5, 0, 5, 10)}, "has box"),
        ({"box": (5, 0, 10)}, "expected 4 finite numbers"),
        ({"center": (0, np.nan, 2)}, "expected 3 finite numbers"),
        ({"size": (1, 0, 1)}, "has size"),
        ({"axes": (-1.0, *SQUARE_ON[1:])}, "no rotation"),
        ({"axes": (2.0, *SQUARE_ON[1:])}, "no rotation"),
        ({"visible": 0}, "visible share"),
        ({"visible": 1.1}, "visible share"),
    ],
)
def test_bad_objects_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "name": "chair", "box": (-0.5, -0.5, 19.5, 9.5), "size": (1, 1, 1), "center": (0, 0, 2), "axes": SQUARE_ON
    }  # fmt: skip
    camera = Camera.from_focal(10.0, 20, 10)

    def sample(**fields: Any) -> Sample:
        return Sample(b"", camera, np.empty((0, 2)), np.empty(0), frame="f7", objects=(LabelledObject(**fields),))

    assert len(sample(**good).objects) == 1
    with pytest.raises(InputError, match=rf"^f7: object 0 \('chair'\) .*{message}"):
        sample(**good | change)


# --- views ------------------------------------------------------------------------------------------------------------

THING = LabelledObject("carton", (219.5, 149.5, 339.5, 239.5), (0.5, 0.3, 0.4), (-0.3, -0.15, 2.0), turned(25), 0.9)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("aspect", [None, (1.2, 1.2)])
def test_boxes_move_with_the_picture(flip: float, aspect: tuple[float, float] | None) -> None:
    """The white rectangle is seen where the view's box says, and the box in space projects to where its corners go."""
    sample = Sample(
        png(640, 480, ((220, 150, 339, 239),)), CAMERA, np.empty((0, 2)), np.empty(0), objects=(THING,)
    )  # fmt: skip
    crop = CropConfig(width=(300, 450), height=(250, 400), position="jitter", flip=flip, aspect_jitter=aspect)
    kept = 0
    for seed in range(16):
        view = make_training_view(
            sample, config=ViewConfig(focal=700, grid=28), rng=np.random.default_rng(seed), crop=crop
        )
        white = np.asarray(view.image)[..., 0] > 157
        width, height = view.transform.resized
        share = white.sum() / (120 * 90 * width / 640 * height / 480)
        if not view.objects:
            assert share < OBJECT_INSIDE + 0.02
            continue
        kept += 1
        (thing,) = view.objects
        assert share > OBJECT_INSIDE - 0.02
        assert thing.visible == pytest.approx(0.9 * share, abs=0.02)
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        seen = (columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5)
        np.testing.assert_allclose(thing.box, seen, atol=1)
        corners = view.transform.forward(CAMERA.project(THING.corners()))
        found = view.camera.project(thing.corners())
        assert np.linalg.norm(found[:, None] - corners[None], axis=2).min(axis=1).max() < 1e-6
        assert np.linalg.det(thing.rotation) == pytest.approx(1)
        assert thing.size == THING.size
    assert 3 < kept < 16


def test_the_whole_view_keeps_every_object() -> None:
    edge = LabelledObject("door", (-0.5, -0.5, 3.5, 479.5), (1, 2, 0.1), (-2, 0, 3), SQUARE_ON)
    image = Image.open(io.BytesIO(png(640, 480)))
    for geometry in ("exact", "official"):
        config = ViewConfig(focal=700, grid=28, geometry=geometry)  # type: ignore[arg-type]
        view = make_view(image, CAMERA, [(1, 1)], config=config, margin=5, objects=(THING, edge))
        first, second = view.objects
        assert (first.visible, second.visible, second.center) == (0.9, 1.0, edge.center)
        width, height = view.transform.resized
        left, top = -view.transform.left, -view.transform.top
        expected = (left - 0.5, top - 0.5, left + 4 * width / 640 - 0.5, top + height - 0.5)
        np.testing.assert_allclose(second.box, expected, atol=1e-9)


def test_drawn_boxes_outline_the_object() -> None:
    image = Image.new("RGB", (20, 12), (60, 60, 60))
    boxes = [(3.5, 2.5, 9.5, 7.5), (-0.5, -0.5, 19.5, 11.5)]
    pixels = np.asarray(draw_marks(get_reference("cross"), image, [], boxes[:1])).astype(int)
    red = (pixels == (255, 0, 0)).all(axis=2)
    expected = np.zeros((12, 20), bool)
    expected[3:8, 4:10] = True
    expected[4:7, 5:9] = False
    assert (red == expected).all()
    pixels = np.asarray(draw_marks(get_reference("arrow"), image, [], boxes))
    assert (pixels[[0, -1]] == (0, 0, 255)).all()  # the second is blue
    assert (np.asarray(draw_marks(get_reference("text"), image, [], boxes)) == 60).all()
    assert (np.asarray(image) == 60).all()


# --- questions --------------------------------------------------------------------------------------------------------

CHAIR = LabelledObject("chair", (9.5, 29.5, 29.5, 69.5), (0.45, 0.9, 0.45), (-1.0, 0.2, 3.0), SQUARE_ON)
SHELF = LabelledObject("shelf", (59.5, 9.5, 99.5, 69.5), (0.8, 2.0, 0.3), (1.0, -0.3, 4.0), turned(30))
CLOCK = LabelledObject("clock", (39.5, 4.5, 49.5, 14.5), (0.3, 0.3, 0.03), (0.0, -1.5, 5.0), SQUARE_ON)
STOOL = LabelledObject("chair", (14.5, 34.5, 39.5, 64.5), (0.4, 0.8, 0.4), (-0.8, 0.25, 3.1), turned(80))
PICTURE = LabelledObject("picture", (9.5, 4.5, 39.5, 24.5), (1.5, 1.0, 0.02), (-1.0, -1.2, 4.0), SQUARE_ON)


def context(*objects: LabelledObject, point: int = 0, reference: str = "text", prompt: str = "nano") -> Context:
    view = make_view(
        Image.new("RGB", (112, 80), (60, 60, 60)), Camera(100.0, 100.0, 50.0, 40.0, 112, 80), [],
        config=ViewConfig(focal=100, grid=16), objects=objects,
    )  # fmt: skip
    text = get_reference("text", 100, half_pixel=True)
    return Context(
        view=view, point=point, reference=text if reference == "text" else get_reference(reference), text=text,
        prompt=get_prompt(prompt), label="distance", rng=np.random.default_rng(0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "objects", "truth"),
    [
        ("width", (CHAIR,), 0.45),
        ("width", (SHELF,), 0.8),
        ("height", (CHAIR,), 0.9),
        ("box_distance", (CHAIR, SHELF), (2**2 + 0.5**2 + 1**2) ** 0.5),
        ("box_distance", (CHAIR, CHAIR), None),
        ("wider", (CHAIR, SHELF), "second"),
        ("wider", (CHAIR, STOOL), None),  # a factor of 1.125
        ("taller", (SHELF, CHAIR), "first"),
        ("taller", (CHAIR, STOOL), None),
        ("bigger", (CHAIR, SHELF), "second"),  # 0.18 and 0.48 cubic metres
        ("bigger", (CHAIR, STOOL), None),
        ("bigger", (CHAIR, CLOCK), "first"),
        ("bigger", (CHAIR, PICTURE), None),  # more space, but the picture has the larger front
        ("left_right", (CHAIR, SHELF), "left"),
        ("left_right", (CLOCK, CHAIR), "right"),
        ("left_right", (CHAIR, STOOL), None),
        ("above_below", (CLOCK, SHELF), "above"),  # 1.35 to 1.65 m above the camera, and up to 1.3 m
        ("above_below", (CHAIR, PICTURE), "below"),
        ("above_below", (CHAIR, SHELF), None),  # both stand on the floor
        ("behind_front", (CHAIR, SHELF), "front"),  # up to 3.225 m, and from 4 - 0.2 - 0.13 m
        ("behind_front", (CLOCK, CHAIR), "behind"),
        ("behind_front", (CHAIR, STOOL), None),
    ],
)
def test_truth_by_hand(name: str, objects: tuple[LabelledObject, ...], truth: Any) -> None:
    question = get_task(name).ask(context(*objects))
    if truth is None:
        assert question is None
        return
    assert question is not None
    assert question.truth == (truth if isinstance(truth, str) else pytest.approx(truth))
    assert question.objects == tuple(range(len(objects)))
    assert question.points == ()
    swapped = get_task(name).ask(context(*objects, point=len(objects) - 1))
    assert swapped is not None
    if isinstance(truth, str):
        assert {question.truth, swapped.truth} == set(get_task(name).answer.choices)


def test_behind_and_above_are_the_rooms_whatever_the_camera_is_pitched_by() -> None:
    """A tall thing whose top leans over a small one behind it in z alone: what counts is the plan of the floor."""
    level = [
        LabelledObject("person", (10, 5, 20, 60), (0.6, 1.8, 0.3), (0.0, 0.6, 3.0), SQUARE_ON),
        LabelledObject("ball", (40, 50, 50, 60), (0.22, 0.22, 0.22), (1.0, 1.39, 3.6), SQUARE_ON),
        LabelledObject("picture", (60, 5, 70, 15), (0.5, 0.4, 0.02), (1.0, -1.0, 4.5), SQUARE_ON),
    ]
    for pitch in (-35, 0, 15):
        turn = Rotation.from_euler("x", -pitch, degrees=True)  # the world as a camera pitched up by so much sees it
        seen = [
            replace(thing, center=tuple(turn.apply(thing.center)), axes=tuple((turn.as_matrix()).ravel()))
            for thing in level
        ]
        assert seen[0].up @ (0, 0, 1) == pytest.approx(np.sin(np.radians(pitch)))
        for name, pair, truth in (
            ("behind_front", (0, 1), "front"), ("behind_front", (2, 0), "behind"),
            ("above_below", (2, 1), "above"), ("above_below", (0, 1), None),
        ):  # fmt: skip
            question = get_task(name).ask(context(*(seen[i] for i in pair)))
            assert (question.truth if question else None) == truth, (name, pitch)


def test_words_that_name_a_box() -> None:
    def text(name: str, **options: Any) -> str:
        question = get_task(name).ask(context(CHAIR, SHELF, **options))
        assert question is not None
        return question.text

    # (9.5 + 0.5) / 112 = 0.089, (29.5 + 0.5) / 80 = 0.375, (29.5 + 0.5) / 112 = 0.268, (69.5 + 0.5) / 80 = 0.875
    assert text("width") == "width of box x9 y38 x27 y88"
    assert text("width", reference="arrow") == "width of the red box"
    assert text("taller", reference="cross", point=1) == "what is taller the red box or the blue box"
    english = text("left_right", prompt="depthlm")
    assert english.startswith("Boxes are (x1, y1, x2, y2), each normalized to [0, 100) over the image. Is the first")
    assert english.endswith("bounding box region (9, 38, 27, 88) and bounding box region (54, 12, 89, 88)")
    assert text("left_right", prompt="depthlm", reference="square").endswith("the red box and the blue box")


things = st.builds(
    lambda size, center, angles, u, v, extent: LabelledObject(
        "thing", (u, v, u + extent[0], v + extent[1]), size, center,
        tuple(Rotation.from_euler("yxz", angles, degrees=True).as_matrix().ravel().tolist()),
    ),
    st.tuples(*[st.floats(0.05, 4)] * 3), st.tuples(st.floats(-5, 5), st.floats(-2, 2), st.floats(1, 20)),
    st.tuples(st.floats(-180, 180), st.floats(-35, 15), st.floats(-6, 6)),
    st.floats(0, 50), st.floats(0, 40), st.tuples(st.floats(8, 50), st.floats(8, 30)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(things, things)
def test_swapping_and_mirroring(a: LabelledObject, b: LabelledObject) -> None:
    """Who is asked about first turns every answer; the mirrored world turns left and right alone."""
    np.testing.assert_allclose(a.mirrored().mirrored().rotation, a.rotation, atol=1e-12)
    np.testing.assert_allclose(np.sort(a.mirrored().corners()[:, 0]), np.sort(-a.corners()[:, 0]), atol=1e-9)
    across = np.abs(a.rotation.T @ (0, 0, 1)) @ a.size / 2
    np.testing.assert_allclose(a.span((0, 0, 1)), (a.center[2] - across, a.center[2] + across), atol=1e-9)
    for name in PAIRS:
        task: Any = get_task(name)
        asked = [task.ask(context(*pair)) for pair in ((a, b), (b, a), (a.mirrored(), b.mirrored()))]
        if asked[0] is None:
            assert asked == [None] * 3
            continue
        assert {asked[0].truth, asked[1].truth} == set(task.answer.choices)
        assert asked[2].truth == asked[0].truth  # the boxes on the picture were left as they are


def test_floors_of_words() -> None:
    kind = get_task("left_right").answer
    assert kind.floor(["left", "right", "right"]) == "right"
    assert kind.scores(["left", None], ["left", "left"]).tolist() == [1, 0]


# --- evaluation, training, inspection ---------------------------------------------------------------------------------


def sample(*objects: LabelledObject, frame: str = "a") -> Sample:
    camera = Camera(100.0, 100.0, 50.0, 40.0, 112, 80)
    return Sample(png(112, 80), camera, np.array([[50.0, 40.0]]), np.array([2.0]), frame=frame, objects=objects)


@pytest.mark.parametrize("reference", ["arrow", "text"])
def test_evaluation_asks_each_object_once(
    reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    """A scripted model that knows the objects by the boxes it is asked about."""
    from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
    from depthlm.inference.engine import Engine
    from depthlm.inference.request import Answer
    from depthlm.models.card import ModelCard

    asked = []

    def ask_batch(engine: Engine, requests: Any) -> list[Answer]:
        out = []
        for request in requests:
            moved = request.view.transform.forward_box
            (mine,) = [o for o in (CHAIR, SHELF, CLOCK) if np.allclose(moved(o.box), request.boxes[0])]
            asked.append((mine.name, len(request.boxes)))
            drawn = (np.asarray(request.images()[0]) != np.asarray(request.view.image)).any()
            assert drawn == (reference == "arrow")
            assert len(request.uv) == 0
            text = f"<answer>{mine.size[0]:.2f}</answer>"
            out.append(Answer(text, request.kind.read(text)))
        return out

    monkeypatch.setattr(Engine, "_ask_batch", ask_batch)
    card = ModelCard(focal=140.0, grid=16, references=["arrow", "text"])
    loaded: Any = SimpleNamespace(card=card, path=tmp_path, view_config=ViewConfig(focal=140.0, grid=16))
    data = [sample(CHAIR, SHELF), sample(frame="b"), sample(CLOCK, frame="c")]
    summary = evaluate(loaded, data, EvaluationConfig(task="width", reference=reference))
    assert (summary["n"], summary["n_unasked"], summary["score"], summary["unit"]) == (3, 1, 1.0, "m")
    assert sorted(asked) == [("chair", 1), ("clock", 1), ("shelf", 1)]
    asked.clear()
    summary = evaluate(loaded, data, EvaluationConfig(task="taller", reference=reference))
    assert (summary["n"], summary["n_unasked"], summary["n_unparsed"], summary["metric"]) == (2, 2, 2, "accuracy")
    assert sorted(asked) == [("chair", 2), ("shelf", 2)]
    for task, bare in (("width", sample()), ("bigger", sample(CHAIR)), ("above_below", sample(CHAIR, SHELF))):
        with pytest.raises(
            InputError, match=f"^the data holds nothing that task {task} can ask about; it needs samples with"
        ):
            evaluate(loaded, [bare], EvaluationConfig(task=task))


def test_training_rows_ask_about_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    from depthlm.models.card import ModelCard
    from depthlm.training import dataset
    from depthlm.training.conversations import RowConfig
    from depthlm.training.dataset import TrainingRows

    monkeypatch.setattr(dataset, "encode_row", lambda processor, images, questions, **_: (images[0], questions))

    def rows(reference: str, **tasks: float) -> Any:
        return TrainingRows(
            sources=[], mixture=None, processor=None,  # type: ignore[arg-type]
            card=ModelCard(focal=100.0, grid=16, coordinate_range=100, half_pixel=True, prompt="nano"),
            prompt=get_prompt("nano"), rows=RowConfig(references={reference: 1}, tasks=tasks, questions_per_image=4),
            view=ViewConfig(focal=100, grid=16), crop=CropConfig(width=(112, 112), height=(80, 80)), seed=0, length=1,
        )  # fmt: skip

    _, questions = rows("text", width=1, wider=1).build([sample(CHAIR, SHELF)], 0, np.random.default_rng(0))
    assert len(questions) == 4
    assert {question.text.split(" box ")[0] for question in questions} == {"width of", "what is wider"}
    assert all(question.truth in (0.45, 0.8, "first", "second") for question in questions)
    image, questions = rows("arrow", wider=1).build([sample(CHAIR, SHELF)], 0, np.random.default_rng(0))
    assert [question.text for question in questions] == ["what is wider the red box or the blue box"]
    pixels = np.asarray(image)
    assert (pixels == (255, 0, 0)).all(axis=2).sum() > 50
    assert (pixels == (0, 0, 255)).all(axis=2).sum() > 50
    _, questions = rows("text", width=1).build([sample()], 0, np.random.default_rng(0))
    assert {question.text.split()[0] for question in questions} == {"distance"}, "nothing to ask but the point"


def test_predict_has_no_objects() -> None:
    from depthlm.inference.predict import ask_photo

    with pytest.raises(InputError, match="task width is about labelled objects"):
        ask_photo(None, None, task="width")  # type: ignore[arg-type]


def test_inspection_counts_objects() -> None:
    facts = describe([sample(CHAIR, STOOL), sample(CLOCK)])
    assert facts["objects"] == {"chair": 2, "clock": 1}
    assert "objects    3: chair 2, clock 1" in format_description("x", facts)


def test_the_registry_has_them_all() -> None:
    assert [name for name, task in TASKS.items() if task.objects] == [
        "width", "height", "box_distance", "wider", "taller", "bigger", "left_right", "above_below", "behind_front"
    ]  # fmt: skip
