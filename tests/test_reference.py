"""Markers pixel for pixel and text coordinates, borders included."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from depthlm.errors import InputError
from depthlm.reference import MARKERS, REFERENCE_NAMES, get_reference

# The released arrow round its query "o" (paper.md 1.2): 5 px of shaft, a head of two steps, "o" itself unpainted.
ARROW = """
........
...#....
....#...
.#####o.
....#...
...#....
........
"""


def painted(name: str, uv: tuple[float, float], width: int = 24, height: int = 20) -> set[tuple[int, int]]:
    """(x, y) of all red pixels that the reference leaves on a grey view."""
    marked = get_reference(name).draw(Image.new("RGB", (width, height), (128, 128, 128)), uv)
    pixels = np.asarray(marked)
    changed = (pixels != 128).any(axis=2)
    assert (pixels[changed] == (255, 0, 0)).all()
    return {(int(x), int(y)) for y, x in np.argwhere(changed)}


def golden_arrow(x: int, y: int) -> set[tuple[int, int]]:
    rows = ARROW.strip().splitlines()
    oy, ox = next((j, row.index("o")) for j, row in enumerate(rows) if "o" in row)
    return {(x + i - ox, y + j - oy) for j, row in enumerate(rows) for i, mark in enumerate(row) if mark == "#"}


@pytest.mark.parametrize("uv", [(10, 9), (5, 5), (18, 14), (10.99, 9.99)], ids=["inside", "first", "last", "truncated"])
def test_arrow_is_the_released_one(uv: tuple[float, float]) -> None:
    pixels = painted("arrow", uv)
    x, y = int(uv[0]), int(uv[1])
    assert pixels == golden_arrow(x, y)
    assert pixels == {
        *((x - k, y) for k in range(1, 6)),
        (x - 2, y - 1), (x - 2, y + 1), (x - 3, y - 2), (x - 3, y + 2),
    }  # fmt: skip
    assert len(pixels) == 9


@pytest.mark.parametrize("name", MARKERS)
def test_marker_leaves_the_point_and_its_neighbours(name: str) -> None:
    pixels = painted(name, (10, 9))
    assert pixels
    assert (10, 9) not in pixels
    if name != "arrow":  # the arrow's shaft begins right beside the point
        assert not pixels & {(10 + dx, 9 + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)}


@pytest.mark.parametrize("name", MARKERS)
@pytest.mark.parametrize(
    ("uv", "expected"),
    [
        ((5, 5), True), ((18, 14), True), ((18.9, 14.9), True),
        ((4.9, 9), False), ((10, 4.9), False), ((19, 9), False), ((10, 15), False), ((-0.4, 9), False),
    ],
)  # fmt: skip
def test_marker_border(name: str, uv: tuple[float, float], expected: bool) -> None:
    marker = get_reference(name)
    assert marker.margin == 5
    assert marker.fits(uv, 24, 20) is expected
    if expected:
        assert len(painted(name, uv)) == len(MARKERS[name].offsets)  # nothing hangs over the border
    else:
        with pytest.raises(ValueError, match="does not fit"):
            painted(name, uv)


@pytest.mark.parametrize("name", MARKERS)
@pytest.mark.parametrize("size", [(1, 1), (10, 10), (11, 10)])
def test_no_marker_fits_a_tiny_view(name: str, size: tuple[int, int]) -> None:
    assert not any(get_reference(name).fits((x, y), *size) for x in range(size[0]) for y in range(size[1]))


def test_smallest_view_that_holds_a_marker() -> None:
    assert get_reference("arrow").fits((5, 5), 11, 11)


@pytest.mark.parametrize("name", REFERENCE_NAMES)
def test_draw_never_touches_the_original(name: str) -> None:
    image = Image.new("RGB", (24, 20), (128, 128, 128))
    marked = get_reference(name).draw(image, (10, 9))
    assert (np.asarray(image) == 128).all()
    assert (marked is image) == (get_reference(name).kind == "text")


# min(R - 1, round(u / W * R)); the last column: with the half pixel.
@pytest.mark.parametrize(
    ("u", "width", "span", "nearest", "floor", "half"),
    [
        (0, 640, 2000, 0, 0, 2),
        (-0.5, 640, 2000, 0, 0, 0),  # left edge of the first pixel
        (639, 640, 2000, 1997, 1996, 1998),
        (639.49, 640, 2000, 1998, 1998, 1999),  # right edge: round() would give 2000 with the half pixel
        (320, 640, 2000, 1000, 1000, 1002),
        (1, 2000, 2000, 1, 1, 2),  # 1.5 -> 2
        (0.5, 2000, 2000, 0, 0, 1),  # Python's round: half to even
        (1.5, 2000, 2000, 2, 1, 2),
        (0, 1, 2000, 0, 0, 1000),  # a view of one pixel
        (0, 1, 2, 0, 0, 1),
        (99, 100, 100, 99, 99, 99),
        (1000, 1134, 1000, 882, 881, 882),
    ],
)
def test_text_coordinates(u: float, width: int, span: int, nearest: int, floor: int, half: int) -> None:
    for expected, options in (
        (nearest, {}),
        (floor, {"rounding": "floor"}),
        (half, {"half_pixel": True}),
    ):
        reference = get_reference("text", coordinate_range=span, **options)  # type: ignore[arg-type]
        assert reference.coordinates((u, u), width, width) == (expected, expected), options


def test_text_axes_are_normalised_on_their_own() -> None:
    assert get_reference("text").coordinates((100, 100), 400, 200) == (500, 1000)


@pytest.mark.parametrize(
    ("uv", "expected"), [((0, 0), (0, 0)), ((-0.5, 2.4), (0, 2)), ((9.49, 7.4), (9, 7)), ((9.5, 8), (9, 7))]
)
def test_raw_pixels(uv: tuple[float, float], expected: tuple[int, int]) -> None:
    assert get_reference("text-pixels").coordinates(uv, 10, 8) == expected


@pytest.mark.parametrize("name", ["text", "text-pixels"])
def test_text_fits_everywhere_on_the_view(name: str) -> None:
    reference = get_reference(name)
    assert reference.margin == 0
    assert reference.fits((-0.5, 0), 1, 1)
    assert reference.fits((0.49, 0.49), 1, 1)
    assert not reference.fits((0.5, 0), 1, 1)
    assert not reference.fits((0, -0.6), 1, 1)


def test_markers_have_no_coordinates() -> None:
    with pytest.raises(ValueError, match="no text coordinates"):
        get_reference("cross").coordinates((1, 1), 10, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("circle", {}, "unknown reference 'circle'; choose one of arrow, square, cross, text, text-pixels"),
        ("text", {"coordinate_range": 1}, "at least 2"),
        ("text", {"rounding": "ceil"}, "nearest or floor"),
    ],
)
def test_bad_references(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_reference(name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFERENCE_NAMES)
def test_which_fit_is_fits_of_each(name):
    reference = get_reference(name)
    uv = np.array([(u, v) for u in (-0.6, -0.5, 0, 4.9, 5, 14.9, 18, 18.5) for v in (-0.5, 5.2, 9, 14.5, 15)])
    expected = [reference.fits(point, 19, 15) for point in uv]
    assert reference.which_fit(uv, 19, 15).tolist() == expected
    assert 0 < sum(expected) < len(uv)
    assert reference.which_fit(np.empty((0, 2)), 19, 15).shape == (0,)
