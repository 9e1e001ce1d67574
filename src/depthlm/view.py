"""Sample -> View: what the model sees, with its own exact camera.

Focal unification (paper 1.3) resamples an image once, so that fx = fy = the unified focal length to within integer
sizes; the patch grid of the model family is then reached by padding (evaluation) or cropping (training), never by a
second resample. The view's camera carries the true focal lengths and principal point after every step.

`geometry: official` reproduces the released protocol instead: both axes scaled by f/fx, sizes and coordinates cut
off by int(), no padding (paper 1.3, 6.2). Its pixels are what released checkpoints saw; its camera here is still true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from depthlm.bicubic import resample_window
from depthlm.camera import Camera, resize_uv
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from depthlm.objects import Box, LabelledObject
    from depthlm.sample import Sample

Geometry = Literal["exact", "official", "native"]
_TRIES = 10  # crops drawn before one is placed round a point
OBJECT_INSIDE = 0.6  # share of an object's rectangle; a view that shows less of it does without the object


@dataclass(frozen=True, slots=True)
class PixelMap:
    """Original uv <-> view uv: resample `source` to `resized` (both width, height), mirror, then shift by -(left, top).

    official: (x, y) scales; when set, `forward` follows the released protocol (int(u * scale), no half-pixel rule).
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    left: int = 0
    top: int = 0
    flip: bool = False
    official: tuple[float, float] | None = None

    def forward(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] pixels of the original image -> [N, 2] pixels of the view."""
        if self.official is None:
            moved = resize_uv(uv, self.source, self.resized)
        else:
            moved = np.trunc(np.asarray(uv, dtype=np.float64).reshape(-1, 2) * self.official)
        return self._mirror(moved) - (self.left, self.top)

    def inverse(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] pixels of the view -> [N, 2] pixels of the original image (under `official`: up to its truncation)."""
        moved = self._mirror(np.asarray(uv, dtype=np.float64).reshape(-1, 2) + np.array([self.left, self.top]))
        if self.official is None:
            return resize_uv(moved, self.resized, self.source)
        return moved / self.official

    def forward_box(self, box: Box) -> Box:
        """(u0, v0, u1, v1) edges on the original image -> on the view, possibly beyond its borders.

        The pixels themselves are moved, without the truncation of `official`.
        """
        moved = resize_uv(np.array(box).reshape(2, 2), self.source, self.resized)
        (u0, v0), (u1, v1) = (self._mirror(moved) - (self.left, self.top)).tolist()
        return min(u0, u1), v0, max(u0, u1), v1

    def _mirror(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.flip:
            uv = np.stack([self.resized[0] - 1 - uv[:, 0], uv[:, 1]], axis=1)
        return uv


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the model sees.

    image: RGB. camera: exact for `image`. uv: [M, 2] pixels of `image`. z: [M] metres, or None when nothing is known.
    index: [M] which rows of the sample's points these are. transform: original pixels <-> pixels of `image`. objects:
    the sample's that the view shows enough of, their boxes cut to the view.
    """

    image: Image.Image
    camera: Camera
    uv: NDArray[np.float64]
    z: NDArray[np.float64] | None
    index: NDArray[np.int64]
    transform: PixelMap
    objects: tuple[LabelledObject, ...] = ()


@dataclass(kw_only=True)
class ViewConfig:
    """How a model wants its images."""

    focal: float
    """Unified focal length, pixels (1000; 750 for the 12B)."""
    grid: int
    """Patch grid: both sizes of an exact view are multiples of it (28 Qwen2.5-VL, 32 Qwen3-VL, 16 Pixtral)."""
    geometry: Geometry = "exact"
    """exact: ours. official: the released protocol bit for bit. native: the picture at its own size and focal length,
    for models that were not trained on a unified one; padded to the grid like exact."""
    min_size: int | None = None
    """Fewest pixels (width * height) the model's processor takes; smaller views are padded."""
    max_size: int | None = None
    """Most pixels. A larger view is resampled smaller: its camera then has a SHORTER focal length than `focal`."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.focal) and self.focal > 0):
            raise InputError(f"unified focal length is {self.focal}; expected a positive number of pixels")
        if self.grid < 1:
            raise InputError(f"patch grid is {self.grid}; expected 1 or more pixels")
        if self.geometry not in get_args(Geometry):
            raise InputError(f"geometry is {self.geometry!r}; expected one of {', '.join(get_args(Geometry))}")


@dataclass(kw_only=True)
class CropConfig:
    """Random training crops; sizes are pixels after focal unification (defaults: the paper's, for f = 1000)."""

    width: tuple[int, int] = (1000, 1400)
    """Range the crop width is drawn from, inclusive; clipped to the image and cut down to the grid."""
    height: tuple[int, int] = (700, 1200)
    """Range the crop height is drawn from."""
    position: Literal["centre", "jitter"] = "centre"
    """centre: as in the paper. jitter: anywhere in the image."""
    aspect_jitter: tuple[float, float] | None = None
    """For noisy intrinsics: the height is divided by a factor from this range ((1.0, 1.3) in the paper's Taskonomy)."""
    zoom: tuple[float, float] | None = None
    """The picture is first made larger by a factor from this range (even in ratio), so that it has no unified focal
    length: for teaching what does not depend on one."""
    flip: float = 0.0
    """Probability of a left-right mirror (camera and points are mirrored with it)."""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise InputError(f"crop {name} is ({low}, {high}); expected 1 <= low <= high pixels")
        if self.position not in ("centre", "jitter"):
            raise InputError(f"crop position is {self.position!r}; expected 'centre' or 'jitter'")
        if self.aspect_jitter is not None and not 0 < self.aspect_jitter[0] <= self.aspect_jitter[1]:
            raise InputError(f"aspect jitter is {self.aspect_jitter}; expected 0 < low <= high")
        if self.zoom is not None and not 0 < self.zoom[0] <= self.zoom[1]:
            raise InputError(f"zoom is {self.zoom}; expected 0 < low <= high")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is {self.flip}; expected a probability from 0 to 1")


@dataclass(slots=True)
class _Window:
    """The part of the resampled plane that becomes the view; what lies off the image is black."""

    left: int
    top: int
    width: int
    height: int


def make_view(
    image: Image.Image,
    camera: Camera,
    uv: ArrayLike,
    z: ArrayLike | None = None,
    *,
    config: ViewConfig,
    margin: int = 0,
    objects: Sequence[LabelledObject] = (),
    like: View | None = None,
) -> View:
    """The whole image at the unified focal length, padded with black to the patch grid. No point or object is dropped.

    uv: [N, 2] pixels of `image`; z: [N] metres or None; objects: of `image`. Padding goes to the right and the bottom;
    when a point lies nearer than `margin` view pixels to a border (its marker would not fit), also to the sides that
    need it. That depends on the points given: for answers that do not depend on what else was asked, give marker points
    one by one. like: an earlier view of this very image, whose picture serves again where it would be the same.
    Raises InputError when the image is not the camera's size or a point lies outside it.
    """
    _check(image, camera, uv := np.asarray(uv, dtype=np.float64).reshape(-1, 2))
    pixels = _unify(camera, config)
    moved = pixels.forward(uv)
    width, height = pixels.resized
    left = top = right = bottom = 0
    if margin and len(moved):
        (u0, v0), (u1, v1) = moved.min(axis=0), moved.max(axis=0)
        left, top = max(0, math.ceil(margin - u0)), max(0, math.ceil(margin - v0))
        right, bottom = max(0, math.ceil(u1 + margin + 1 - width)), max(0, math.ceil(v1 + margin + 1 - height))
    width, height = width + left + right, height + top + bottom
    if config.geometry != "official":
        width, height = _up(width, config.grid), _up(height, config.grid)
        while config.min_size and width * height < config.min_size:
            if width <= height:
                width += config.grid
            else:
                height += config.grid
    index = np.arange(len(uv))
    return _render(image, camera, uv, z, index, pixels, _Window(-left, -top, width, height), objects, like)


def make_training_view(
    sample: Sample,
    *,
    config: ViewConfig,
    rng: np.random.Generator,
    crop: CropConfig | None = None,
    margin: int = 0,
    image: Image.Image | None = None,
) -> View:
    """A random crop of the sample at the unified focal length, its size on the patch grid.

    Points outside the crop, or whose marker (`margin` pixels) would not fit, are left out of `index`; when none
    remains the crop is drawn again, and after ten tries placed round a random point. A sample without points gives a
    view without points. Objects of whose rectangle less than OBJECT_INSIDE lies in the crop are left out. image: the
    decoded picture when the caller has it already.
    """
    crop = crop or CropConfig()
    image = sample.load_image() if image is None else image
    flip = crop.flip > 0 and bool(rng.random() < crop.flip)
    squeeze = 1.0 if crop.aspect_jitter is None else float(rng.uniform(*crop.aspect_jitter))
    zoom = 1.0 if crop.zoom is None else math.exp(rng.uniform(*np.log(crop.zoom)))
    pixels = _unify(sample.camera, config, squeeze=squeeze, zoom=zoom, flip=flip)
    moved = pixels.forward(sample.uv)
    for _ in range(_TRIES):
        window = _draw_window(pixels.resized, crop, config.grid, rng)
        index = _inside(moved, window, margin)
        if len(index) or not len(moved):
            break
    else:
        window = _place_round(moved[int(rng.integers(len(moved)))], window, margin)
        index = _inside(moved, window, margin)
    return _render(image, sample.camera, sample.uv, sample.z, index, pixels, window, sample.objects)


# --- steps ----------------------------------------------------------------------------------------------------------


def _check(image: Image.Image, camera: Camera, uv: NDArray[np.float64]) -> None:
    if image.size != (camera.width, camera.height):
        raise InputError(
            f"image is {image.width}x{image.height} but its camera says {camera.width}x{camera.height}; "
            "give the camera of this image"
        )
    outside = ~(np.isfinite(uv).all(axis=1) & camera.contains(uv))
    if outside.any():
        u, v = uv[int(np.flatnonzero(outside)[0])]
        raise InputError(f"point ({u:g}, {v:g}) lies outside the {image.width}x{image.height} image")


def _unify(
    camera: Camera, config: ViewConfig, *, squeeze: float = 1.0, zoom: float = 1.0, flip: bool = False
) -> PixelMap:
    """The one resample of a view. squeeze: the height is divided by it (aspect jitter); zoom: both sides grow by it."""
    source = (camera.width, camera.height)
    if config.geometry == "official":
        scale = zoom * config.focal / camera.fx
        size = (max(1, int(camera.width * scale)), max(1, int(camera.height * scale / squeeze)))
        return PixelMap(source, size, flip=flip, official=(scale, scale / squeeze))
    if config.geometry == "native":
        width, height = max(1, round(camera.width * zoom)), max(1, round(camera.height * zoom / squeeze))
    else:
        width, height = replace(camera, fy=camera.fy * squeeze).unified_size(config.focal * zoom)
    if config.max_size and _up(width, config.grid) * _up(height, config.grid) > config.max_size:
        width, height = _shrink(width, height, config.grid, config.max_size)
    return PixelMap(source, (width, height), flip=flip)


def _shrink(width: int, height: int, grid: int, most: int) -> tuple[int, int]:
    """The largest size of the same shape whose padded view has at most `most` pixels."""
    if grid * grid > most:
        raise InputError(f"max_size {most} is less than one {grid}x{grid} patch; raise it")
    low, high = 0.0, 1.0
    for _ in range(40):
        scale = (low + high) / 2
        fits = _up(max(1, round(width * scale)), grid) * _up(max(1, round(height * scale)), grid) <= most
        low, high = (scale, high) if fits else (low, scale)
    return max(1, round(width * low)), max(1, round(height * low))


def _up(size: int, grid: int) -> int:
    return -(-size // grid) * grid


def _draw_window(size: tuple[int, int], crop: CropConfig, grid: int, rng: np.random.Generator) -> _Window:
    """A crop of the resampled image: drawn, clipped to the image, cut down to the grid; at least one patch."""
    spans = []
    for whole, (low, high) in zip(size, (crop.width, crop.height), strict=True):
        drawn = min(int(rng.integers(low, high + 1)), whole)
        length = max(grid, drawn // grid * grid)
        slack = max(0, whole - length)
        start = slack // 2 if crop.position == "centre" else int(rng.integers(slack + 1))
        spans.append((start, length))
    (left, width), (top, height) = spans
    return _Window(left, top, width, height)


def _inside(uv: NDArray[np.float64], window: _Window, margin: int) -> NDArray[np.int64]:
    """[N, 2] resampled pixels -> [M] rows that a marker of `margin` pixels fits round, whichever way it is rounded."""
    local = uv - (window.left, window.top)
    size = np.array([window.width, window.height])
    keep = (local >= margin) & (local <= size - 1 - margin) if margin else (local >= -0.5) & (local < size - 0.5)
    return np.flatnonzero(keep.all(axis=1))


def _place_round(point: NDArray[np.float64], window: _Window, margin: int) -> _Window:
    """The window moved by as little as it takes for `point` to fit; it may stick out of the image (black)."""
    if 2 * margin + 1 > min(window.width, window.height):
        raise InputError(
            f"a marker of {margin} px does not fit a {window.width}x{window.height} crop; raise the crop size"
        )
    starts = []
    for value, start, length in zip(point, (window.left, window.top), (window.width, window.height), strict=True):
        starts.append(min(max(start, math.ceil(value + margin + 1 - length)), math.floor(value - margin)))
    return _Window(starts[0], starts[1], window.width, window.height)


def _render(
    image: Image.Image,
    camera: Camera,
    uv: NDArray[np.float64],
    z: ArrayLike | None,
    index: NDArray[np.int64],
    pixels: PixelMap,
    window: _Window,
    objects: Sequence[LabelledObject],
    like: View | None = None,
) -> View:
    """Pixels, camera, points and objects of one window, by one and the same PixelMap."""
    transform = PixelMap(pixels.source, pixels.resized, window.left, window.top, pixels.flip, pixels.official)
    resized = camera.resize(*pixels.resized)
    if pixels.flip:
        resized = Camera(
            resized.fx, resized.fy, resized.width - 1 - resized.cx, resized.cy, resized.width, resized.height
        )
        image = ImageOps.mirror(image)
    if like is not None and like.transform == transform and like.image.size == (window.width, window.height):
        shown = like.image
    else:
        shown = _resample(image, pixels, window)
    depths = None if z is None else np.asarray(z, dtype=np.float64).reshape(-1)[index]
    return View(
        image=shown,
        camera=resized.crop(window.left, window.top, window.width, window.height),
        uv=transform.forward(uv[index]),
        z=depths,
        index=index,
        transform=transform,
        objects=tuple(_seen_objects(objects, transform, window)),
    )


def _seen_objects(objects: Sequence[LabelledObject], transform: PixelMap, window: _Window) -> Iterator[LabelledObject]:
    """Those of which the window shows enough, in its pixels."""
    for thing in objects:
        u0, v0, u1, v1 = transform.forward_box(thing.box)
        left, right = max(u0, -0.5), min(u1, window.width - 0.5)
        top, bottom = max(v0, -0.5), min(v1, window.height - 0.5)
        inside = max(0.0, right - left) * max(0.0, bottom - top) / ((u1 - u0) * (v1 - v0))
        if inside >= OBJECT_INSIDE:
            turned = thing.mirrored() if transform.flip else thing
            yield replace(turned, box=(left, top, right, bottom), visible=thing.visible * min(1.0, inside))


def _resample(image: Image.Image, pixels: PixelMap, window: _Window) -> Image.Image:
    """PIL bicubic to the size of `pixels`, then the window of it; outside the image it is black.

    A part of the image is resampled alone where that is exact to one grey level; `official` is always bit for bit.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    width, height = pixels.resized
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    inside = window.left >= 0 and window.top >= 0 and box[2] <= width and box[3] <= height
    if inside and box != (0, 0, width, height) and image.size != pixels.resized and pixels.official is None:
        return resample_window(image, pixels.resized, box)
    if image.size != pixels.resized:
        image = image.resize(pixels.resized, Image.Resampling.BICUBIC)
    return image.copy() if box == (0, 0, width, height) else image.crop(box)
