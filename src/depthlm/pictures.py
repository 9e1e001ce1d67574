"""Pictures for pages: labelled points, depth grids, point clouds. Arrays and PIL images in, PIL images out."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from depthlm.camera import resize_uv
from depthlm.metrics import DELTA1_RATIO
from depthlm.pointcloud import PointCloud

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from depthlm.camera import Camera

Box = tuple[float, float, float, float]

INK, QUIET, PAPER = (24, 28, 36), (96, 104, 118), (255, 255, 255)
RIGHT, WRONG = (15, 138, 108), (201, 84, 26)  # told apart without colour vision too: wrong points are squares
PLAIN = (29, 95, 170)  # points whose truth nobody knows
NOTHING = (226, 229, 235)  # cells without an answer


@dataclass(frozen=True, slots=True)
class Mark:
    """A measured point. uv: [2] pixels; the rest metres of distance, NaN where the model gave no number.

    truth: NaN where nobody knows it. name: what the label begins with, such as a number.
    """

    uv: tuple[float, float]
    measured: float
    truth: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    name: str = ""

    @property
    def correct(self) -> bool:
        """Within a factor of 1.25 of the truth."""
        return bool(self.measured > 0 and max(self.measured / self.truth, self.truth / self.measured) < DELTA1_RATIO)

    @property
    def colour(self) -> tuple[int, int, int]:
        """Of its dot and label."""
        if np.isnan(self.truth):
            return PLAIN
        return RIGHT if self.correct else WRONG


Span = tuple["NDArray[np.float64]", str]  # the two ends [2, 2] in pixels of a picture, and what is written beside them


def annotate(
    image: Image.Image,
    marks: Sequence[Mark],
    *,
    size: tuple[int, int],
    width: int = 1280,
    text: float = 1.0,
    spans: Sequence[Span] = (),
) -> Image.Image:
    """The picture, `width` pixels wide, with a label at every mark: measured, true, and the 80 % interval.

    size: (width, height) of the image that the pixels of marks and spans belong to; `image` may show the same view with
    more of them. text: how much larger than usual the labels are. spans: lengths drawn as lines, each with its text.
    """
    canvas = image.convert("RGB").resize((width, round(image.height * width / image.width)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas, "RGBA")
    unit = text * width / 1280
    radius = 10.5 * unit

    def place(uv: Sequence[tuple[float, float]] | NDArray[np.float64]) -> list[tuple[float, float]]:
        points = np.array(uv, dtype=np.float64).reshape(-1, 2)
        return [(float(u), float(v)) for u, v in resize_uv(points, size, canvas.size) + 0.5]

    centres = place([m.uv for m in marks])
    taken: list[Box] = [(x - radius, y - radius, x + radius, y + radius) for x, y in centres]
    for uv, words in spans:
        _span(draw, place(uv), words, unit, canvas.size, taken)
    for mark, centre in zip(marks, centres, strict=True):
        lines = _label(mark, unit)
        extent = (
            max(draw.textlength(line, font=font) for line, font, _ in lines) + 26 * unit,
            sum(_line_height(font) for _, font, _ in lines) + 13 * unit,
        )
        box = _place(centre, extent, canvas.size, taken, gap=radius * 1.6)
        taken.append(box)
        colour = mark.colour
        _tie(draw, centre, box, colour, 2.5 * unit)
        _card(draw, box, lines, colour, unit)
        _dot(draw, centre, radius, colour, square=colour == WRONG)
    return canvas


def draw_lengths(image: Image.Image, spans: Sequence[Span], *, width: int = 1280) -> Image.Image:
    """The picture, `width` pixels wide, with a line between the two points of each span and its length beside it."""
    return annotate(image, [], size=image.size, width=width, spans=spans)


def _span(
    draw: ImageDraw.ImageDraw,
    ends: list[tuple[float, float]],
    words: str,
    unit: float,
    canvas: tuple[int, int],
    taken: list[Box],
) -> None:
    """A line between two places of the canvas, and its words beside the middle; `taken` grows by their box."""
    draw.line(ends, fill=PAPER, width=round(7 * unit))
    draw.line(ends, fill=RIGHT, width=round(4 * unit))
    font, radius = _font(22 * unit, bold=True), 8 * unit
    for end in ends:
        _dot(draw, end, radius, RIGHT, square=False)
    (x0, y0), (x1, y1) = ends
    extent = (draw.textlength(words, font=font) + 26 * unit, _line_height(font) + 13 * unit)
    box = _place(((x0 + x1) / 2, (y0 + y1) / 2), extent, canvas, taken, gap=radius * 1.6)
    taken.append(box)
    _card(draw, box, [(words, font, INK)], RIGHT, unit)


def with_inset(image: Image.Image, uv: NDArray[np.float64], *, scale: int, reach: int = 10) -> Image.Image:
    """The picture `scale` times larger, with the surroundings of a pixel [2] larger still in the corner far from it."""
    large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    u, v = (round(float(x)) for x in uv)
    side = 2 * reach + 1
    detail = image.crop((u - reach, v - reach, u + reach + 1, v + reach + 1))
    zoom = max(1, min(large.size) * 2 // 5 // side)
    detail = detail.resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
    x = 0 if u > image.width / 2 else large.width - detail.width
    y = 0 if v > image.height / 2 else large.height - detail.height
    large.paste(detail, (x, y))
    draw = ImageDraw.Draw(large)
    draw.rectangle((x, y, x + detail.width - 1, y + detail.height - 1), outline=PAPER, width=3)
    window = [scale * (u - reach), scale * (v - reach), scale * (u + reach + 1), scale * (v + reach + 1)]
    draw.rectangle(window, outline=PAPER, width=2)
    return large


def depth_picture(z: NDArray[np.float64], size: tuple[int, int], *, near: float, far: float) -> Image.Image:
    """[h, w] metres -> a coloured picture of `size` (width, height), every cell a flat rectangle.

    Colours run with log depth from `near` (bright) to `far` (dark); NaN is grey.
    """
    picture = Image.fromarray(colour_depth(z, near=near, far=far))
    return picture.resize(size, Image.Resampling.NEAREST)


def colour_depth(z: NDArray[np.float64], *, near: float, far: float) -> NDArray[np.uint8]:
    """[...] metres -> [..., 3] uint8; see `depth_picture`."""
    from matplotlib import colormaps

    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.log(z / near) / np.log(far / near)
    known = np.isfinite(share)
    colours = (colormaps["viridis"](1 - np.where(known, share, 0).clip(0, 1))[..., :3] * 255).round().astype(np.uint8)
    colours[~known] = NOTHING
    return colours


def grid_uv(camera: Camera, columns: int, rows: int) -> NDArray[np.float64]:
    """[rows * columns, 2] centres of the cells of a grid over the image, row by row."""
    v, u = np.mgrid[0:rows, 0:columns]
    cells = np.stack([u.ravel(), v.ravel()], axis=1)
    return (cells + 0.5) * (camera.width / columns, camera.height / rows) - 0.5


def grid_cloud(image: Image.Image, z: NDArray[np.float64], camera: Camera) -> PointCloud:
    """The cloud of a [rows, columns] grid of depths: one point per cell, in the cell's mean colour."""
    rows, columns = z.shape
    small = image.convert("RGB").resize((columns, rows), Image.Resampling.BOX)
    return PointCloud.from_depth(small, z, camera.resize(columns, rows))


def cloud_picture(
    cloud: PointCloud, camera: Camera, size: tuple[int, int], *, pivot: float, splat: int, yaw: float, pitch: float
) -> Image.Image:
    """The cloud seen from a step to the side and above.

    pivot: metres ahead of the original camera round which the view turns, by yaw and pitch in degrees.
    """
    a, b = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    move = np.eye(4)
    move[:3, :3] = about_x @ about_y
    move[:3, 3] = np.array([0, 0, 1.5 * pivot]) - move[:3, :3] @ np.array([0, 0, pivot])
    view = camera.resize(2 * size[0], 2 * size[1])
    drawn = cloud.render(view, camera_from_cloud=move, splat=2 * splat, background=(246, 247, 249))
    return drawn.resize(size, Image.Resampling.BOX)


def spread(candidates: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Rows of `candidates` [N, 2]: the first, then each time the one farthest from those already taken."""
    chosen = [0] if len(candidates) else []
    while len(chosen) < min(count, len(candidates)):
        gaps = np.linalg.norm(candidates[:, None] - candidates[chosen][None], axis=2).min(axis=1)
        chosen.append(int(gaps.argmax()))
    return np.array(chosen, dtype=np.int64)


def overview(photo: Image.Image, panels: Iterable[tuple[str, Image.Image]], *, height: int = 720) -> Image.Image:
    """One picture of the whole result: the labelled photograph, and captioned panels in a column beside it."""
    column = list(panels)
    photo = _to_height(photo, height)
    caption, gap = height // 22, height // 60
    each = (height - len(column) * caption - (len(column) - 1) * gap) // len(column)
    column = [(title, _to_height(panel, each)) for title, panel in column]
    width = photo.width + 2 * gap + max(panel.width for _, panel in column)
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(photo, (0, 0))
    draw, font, y = ImageDraw.Draw(canvas), _font(height / 40, bold=False), 0
    for title, panel in column:
        draw.text((photo.width + 2 * gap, y + caption * 0.1), title, font=font, fill=INK)
        canvas.paste(panel, (photo.width + 2 * gap, y + caption))
        y += caption + each + gap
    return canvas


def data_uri(image: Image.Image) -> str:
    """The picture inside the address: PNG where it has few colours or pixels, JPEG otherwise."""
    flat = image.getcolors(maxcolors=2048) is not None or image.width * image.height < 120_000
    buffer = io.BytesIO()
    if flat:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    kind = "png" if flat else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


# --- labels ---------------------------------------------------------------------------------------------------------


def metres(value: float) -> str:
    """A length for a reader: two decimals below ten metres, one above, a dash for none."""
    if not np.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:.2f} m" if value < 10 else f"{value:.1f} m"


def _label(mark: Mark, unit: float) -> list[tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int]]]:
    big, small = _font(25 * unit, bold=True), _font(15.5 * unit, bold=False)
    measured = metres(mark.measured) if np.isfinite(mark.measured) else "no number"
    lines = [(f"{mark.name}  {measured}".strip(), big, INK)]
    if np.isfinite(mark.truth):
        lines.append((f"true {metres(mark.truth)}", small, INK))
    if np.isfinite(mark.low) and np.isfinite(mark.high):
        lines.append((f"{mark.low:.2f} \N{EN DASH} {mark.high:.2f}", small, QUIET))
    return lines


def _line_height(font: ImageFont.FreeTypeFont) -> float:
    return font.size * 1.22


def _place(
    centre: tuple[float, float], size: tuple[float, float], canvas: tuple[int, int], taken: list[Box], gap: float
) -> Box:
    """The free box nearest to the point: candidates on rings round it, the one that covers least of what is there."""
    (x, y), (w, h) = centre, size
    best, least = (0.0, 0.0, w, h), np.inf
    for ring in range(4):
        for angle in np.arange(16) * np.pi / 8:
            cx = x + np.cos(angle) * (w / 2 + gap * (1 + ring))
            cy = y + np.sin(angle) * (h / 2 + gap * (1 + ring))
            left = min(max(cx - w / 2, 2), canvas[0] - w - 2)
            top = min(max(cy - h / 2, 2), canvas[1] - h - 2)
            box = (left, top, left + w, top + h)
            cost = sum(_overlap(box, other) for other in taken) + ring * 1.0
            if cost < least:
                best, least = box, cost
    return best


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _tie(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], box: Box, colour: tuple[int, int, int], width: float
) -> None:
    """A line from the point to the nearest place on its label."""
    end = (min(max(centre[0], box[0]), box[2]), min(max(centre[1], box[1]), box[3]))
    draw.line([centre, end], fill=(*colour, 255), width=max(1, round(width)))


def _dot(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int], *, square: bool
) -> None:
    x, y = centre
    shape = draw.rectangle if square else draw.ellipse
    for r, fill in ((radius, PAPER), (radius * 0.72, colour), (radius * 0.25, PAPER)):
        shape([x - r, y - r, x + r, y + r], fill=fill)


def _card(
    draw: ImageDraw.ImageDraw,
    box: Box,
    lines: list[tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int]]],
    colour: tuple[int, int, int],
    unit: float,
) -> None:
    draw.rounded_rectangle([v + 2 * unit for v in box], 7 * unit, fill=(0, 0, 0, 60))  # shadow
    draw.rounded_rectangle(box, 7 * unit, fill=(255, 255, 255, 238))
    draw.rounded_rectangle((box[0], box[1], box[0] + 6 * unit, box[3]), 3 * unit, fill=(*colour, 255))
    y = box[1] + 5 * unit
    for text, font, ink in lines:
        draw.text((box[0] + 15 * unit, y), text, font=font, fill=ink)
        y += _line_height(font)


def _to_height(image: Image.Image, height: int) -> Image.Image:
    return image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)


@cache
def _font(size: float, *, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same on every machine."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)
