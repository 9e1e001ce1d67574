"""Where a camera comes from: a file, EXIF, a focal length, a field of view; and why that one was used.

Camera files: our JSON or YAML (fx fy cx cy width height [model, distortion]), a ROS camera_info YAML, a COLMAP
cameras.txt, and Open3D's pinhole JSON. COLMAP puts the centre of the top-left pixel at (0.5, 0.5): 0.5 is subtracted.
"""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import ImageOps

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.lens import LensCamera, LensModel
from depthlm.sample import read_exif, upright_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

__all__ = ["LensCamera", "ResolvedCamera", "camera_from_exif", "estimate_camera", "read_camera", "resolve_camera"]

ESTIMATORS = "depthlm.camera_estimators"  # entry point group of plug-ins
NO_CAMERA = (
    "no camera: the image has no usable EXIF focal length; give --focal PX, --fov DEG or --camera FILE, "
    "or let it be assumed with --assume-fov 60 or estimated with --camera-from ESTIMATOR"
)
# Bytes of a camera file: one camera takes hundreds, and YAML is read at a megabyte in seconds; COLMAP lists thousands.
_MOST_BYTES = {".json": 2**20, ".txt": 64 * 2**20}
MIN_FOV, MAX_FOV = 0.5, 160.0  # degrees, horizontal: a 4,000 mm telescope, and where a pinhole stops being a picture
_LENS_NAMES: dict[str, LensModel] = {
    "": "opencv",
    "pinhole": "opencv",
    "opencv": "opencv",
    "plumb_bob": "opencv",
    "rational_polynomial": "opencv",
    "fisheye": "fisheye",
    "opencv_fisheye": "fisheye",
    "equidistant": "fisheye",
    "thin_prism_fisheye": "thin_prism_fisheye",
}
# COLMAP model -> (number of parameters, number of focal lengths, our lens model, zeros appended to the coefficients)
_COLMAP: dict[str, tuple[int, int, LensModel, int]] = {
    "SIMPLE_PINHOLE": (3, 1, "opencv", 0),
    "PINHOLE": (4, 2, "opencv", 0),
    "SIMPLE_RADIAL": (4, 1, "opencv", 3),
    "RADIAL": (5, 1, "opencv", 2),
    "OPENCV": (8, 2, "opencv", 0),
    "FULL_OPENCV": (12, 2, "opencv", 0),
    "OPENCV_FISHEYE": (8, 2, "fisheye", 0),
    "SIMPLE_RADIAL_FISHEYE": (4, 1, "fisheye", 3),
    "RADIAL_FISHEYE": (5, 1, "fisheye", 2),
    "THIN_PRISM_FISHEYE": (12, 2, "thin_prism_fisheye", 0),
}


@dataclass(frozen=True, slots=True)
class ResolvedCamera:
    """The camera used for an image, its lens (None: a pinhole already), and why, in one sentence for the user."""

    camera: Camera
    lens: LensCamera | None
    reason: str

    def straighten(self, image: Image.Image, uv: ArrayLike) -> tuple[Image.Image, Camera, NDArray[np.float64]]:
        """Original image and [N, 2] points -> pinhole image, its camera, and the points in it."""
        points = self.straighten_points(uv)
        return (image, self.camera, points) if self.lens is None else (*self.lens.undistort(image), points)

    def straighten_points(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] original points -> where the pinhole image has them. Raises InputError for one outside."""
        uv = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        if self.lens is None:
            return uv
        outside = ~self.camera.contains(uv)
        if outside.any():
            u, v = uv[int(np.flatnonzero(outside)[0])]
            raise InputError(f"point ({u:g}, {v:g}) lies outside the {self.camera.width}x{self.camera.height} image")
        return self.lens.to_undistorted(uv)


def resolve_camera(
    image: Image.Image,
    *,
    focal: float | None = None,
    fov: float | None = None,
    file: Path | str | None = None,
    estimator: str | None = None,
    assume_fov: float | None = None,
) -> ResolvedCamera:
    """The camera of the upright `image`: the one explicit option, else EXIF, else `estimator`, else `assume_fov`.

    focal: pixels; fov, assume_fov: horizontal, degrees; estimator: name of a plug-in (see `estimate_camera`). Raises
    InputError for several explicit options, for unusable values, for a field of view that no camera has, and when
    nothing says what the camera was. EXIF that says something absurd is passed over where there is something to fall
    back on.
    """
    given = [name for name, value in (("--focal", focal), ("--fov", fov), ("--camera", file)) if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other; give one")
    width, height = upright_size(image)
    if focal is not None:
        if not (math.isfinite(focal) and focal > 0):
            raise InputError(f"--focal is {focal}; expected a positive number of pixels")
        return _plausible(
            ResolvedCamera(Camera.from_focal(focal, width, height), None, f"--focal {focal:g} px, centred")
        )
    if fov is not None:
        return _from_fov("--fov", fov, width, height, "centred")
    if file is not None:
        lens = read_camera(file, (width, height))
        return _plausible(ResolvedCamera(lens.camera, None if lens.is_pinhole else lens, lens.reason))
    silent = "no EXIF focal length"
    try:
        if (found := camera_from_exif(image)) is not None:
            return _plausible(ResolvedCamera(found[0], None, found[1]))
    except InputError:
        if estimator is None and assume_fov is None:
            raise
        silent = "the EXIF focal length is absurd"
    if estimator is not None:
        return _plausible(
            ResolvedCamera(estimate_camera(image, estimator), None, f"estimated by {estimator}: {silent}")
        )
    if assume_fov is not None:
        return _from_fov("--assume-fov", assume_fov, width, height, f"assumed: {silent}, distances scale with it")
    raise InputError(NO_CAMERA)


def _plausible(resolved: ResolvedCamera) -> ResolvedCamera:
    """The camera, if pictures are taken with such. One beside it would be shown a view of no or of endless pixels."""
    camera = resolved.camera
    views = [2 * math.degrees(math.atan(camera.width / 2 / f)) for f in (camera.fx, camera.fy)]
    absurd = [view for view in views if not MIN_FOV <= view <= MAX_FOV]
    if absurd:
        raise InputError(
            f"{resolved.reason}: that is a field of view of {absurd[0]:.3g} degrees, expected {MIN_FOV:g} to "
            f"{MAX_FOV:g}; give the camera with --focal PX, --fov DEG or --camera FILE"
        )
    return resolved


def estimate_camera(image: Image.Image, name: str) -> Camera:
    """The camera that an installed estimator sees in the upright RGB image.

    A plug-in is a package with an entry point `name` in the group "depthlm.camera_estimators": a function from a PIL
    image to a `Camera` of its size. Raises InputError when there is none of that name, or it fails.
    """
    plugins = {plugin.name: plugin for plugin in entry_points(group=ESTIMATORS)}
    if name not in plugins:
        known = ", ".join(sorted(plugins)) or "none"
        raise InputError(
            f"no camera estimator {name!r} is installed (installed: {known}); give --fov or --assume-fov 60"
        )
    upright = ImageOps.exif_transpose(image).convert("RGB")
    try:
        camera = plugins[name].load()(upright)
    except Exception as error:  # somebody else's code: whatever it raises is one line to the user
        raise InputError(f"camera estimator {name!r} failed ({error}); give --fov or --assume-fov 60") from error
    if not isinstance(camera, Camera) or (camera.width, camera.height) != upright.size:
        raise InputError(
            f"camera estimator {name!r} did not return a Camera of {upright.width}x{upright.height}; mend the plug-in"
        )
    return camera


def _from_fov(option: str, fov: float, width: int, height: int, note: str) -> ResolvedCamera:
    if not MIN_FOV <= fov <= MAX_FOV:  # also catches NaN
        raise InputError(f"{option} is {fov}; expected {MIN_FOV:g} to {MAX_FOV:g} degrees")
    camera = Camera.from_fov(width, height, fov)
    return ResolvedCamera(camera, None, f"{option} {fov:g} degrees: focal {camera.fx:.1f} px, {note}")


# --- EXIF -----------------------------------------------------------------------------------------------------------

_EXIF_IFD = 0x8769
_MAKE = 0x010F
_FOCAL_MM, _FOCAL_35MM, _ZOOM = 0x920A, 0xA405, 0xA404
_PIXELS_WIDE, _PLANE_RESOLUTION, _PLANE_UNIT = 0xA002, 0xA20E, 0xA210
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # FocalPlaneResolutionUnit -> millimetres


def camera_from_exif(image: Image.Image) -> tuple[Camera, str] | None:
    """The camera that EXIF describes, for the upright image, and where it comes from; None when EXIF does not say.

    f_px = f_35mm * hypot(W, H) / 43.27, else FocalLength with FocalPlaneXResolution. Digital zoom enlarges the picture
    after the lens, so both are multiplied by DigitalZoomRatio; Apple's 35 mm figure already holds it (29 mm x 1.52 is
    written as 44 mm), others' (Olympus and most) does not. The principal point is taken to be the centre.
    """
    exif = read_exif(image)
    try:
        details = exif.get_ifd(_EXIF_IFD)
    except Exception:  # PIL's parser meets damaged blocks with whatever goes wrong first
        return None
    width, height = upright_size(image)
    zoom = _positive(details.get(_ZOOM)) or 1.0
    zoomed = f", digital zoom {zoom:g}" if zoom != 1 else ""
    if focal_35mm := _positive(details.get(_FOCAL_35MM)):
        if str(exif.get(_MAKE, "")).strip("\0 ").lower() == "apple" and zoom != 1:
            zoom, zoomed = 1.0, f"{zoomed} (in that figure already)"
        camera = Camera.from_35mm(focal_35mm * zoom, width, height)
        return camera, f"EXIF: {focal_35mm:g} mm (35 mm equivalent){zoomed}: focal {camera.fx:.1f} px, centred"
    focal_mm, resolution = _positive(details.get(_FOCAL_MM)), _positive(details.get(_PLANE_RESOLUTION))
    unit = _UNIT_MM.get(int(_positive(details.get(_PLANE_UNIT, 2)) or 0))
    if focal_mm and resolution and unit:
        # The resolution is that of the picture as taken; a copy may have been made smaller since.
        shrunk = image.width / (_positive(details.get(_PIXELS_WIDE)) or image.width)
        camera = Camera.from_focal(focal_mm * resolution / unit * shrunk * zoom, width, height)
        return camera, f"EXIF: {focal_mm:g} mm and focal plane resolution{zoomed}: focal {camera.fx:.1f} px, centred"
    return None


def _positive(value: Any) -> float | None:
    """A tag's value when it is a positive finite number (EXIF writes 0 or 0/0 for unknown)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


# --- files ----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads OpenCV's `!!opencv-matrix` as the plain mapping it is."""


def _plain_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _plain_mapping)


def read_camera(path: Path | str, image_size: tuple[int, int]) -> LensCamera:
    """Read a camera file for an image of `image_size` (width, height).

    A camera of another size but the same shape is scaled, and the reason says so; one of another shape is refused.
    Raises InputError for a file that is missing, unreadable, incomplete, or of no known format.
    """
    path = Path(path)
    most = _MOST_BYTES.get(path.suffix.lower(), _MOST_BYTES[".json"])
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise InputError(f"camera file {path}: is larger than {most / 2**20:g} MB; give a file of one camera")
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"camera file {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        lenses = _parse(text, path)
        return _fit(lenses, image_size, str(path))
    except InputError as error:
        raise InputError(f"camera file {path}: {error}") from None


def _parse(text: str, path: Path) -> list[LensCamera]:
    if path.suffix.lower() == ".txt":
        return _parse_colmap(text)
    try:
        data = json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"not valid {'JSON' if path.suffix.lower() == '.json' else 'YAML'} ({error})") from None
    if not isinstance(data, dict):
        raise InputError(
            "expected named values (fx, fy, cx, cy, width, height), a ROS camera_info or a COLMAP cameras.txt"
        )
    if "camera_matrix" in data or "image_width" in data or {"K", "k"} & data.keys():
        return [_parse_ros(data)]
    if "intrinsic_matrix" in data:  # Open3D: column by column
        matrix = _numbers(data["intrinsic_matrix"], "intrinsic_matrix", (9,)).reshape(3, 3).T
        return [LensCamera(Camera.from_matrix(matrix, _size(data, "width"), _size(data, "height")))]
    return [_parse_own(data)]


def _parse_own(data: dict[str, Any]) -> LensCamera:
    missing = [name for name in ("fx", "fy", "cx", "cy", "width", "height") if name not in data]
    if missing:
        raise InputError(f"{', '.join(missing)} missing; expected fx fy cx cy width height [model, distortion]")
    fx, fy, cx, cy = (float(_numbers([data[name]], name, (1,))[0]) for name in ("fx", "fy", "cx", "cy"))
    camera = Camera(fx, fy, cx, cy, _size(data, "width"), _size(data, "height"))
    return LensCamera(camera, *_lens(data.get("model"), data.get("distortion")))


def _parse_ros(data: dict[str, Any]) -> LensCamera:
    """camera_info as camera_calibration writes it, or a dumped sensor_msgs/CameraInfo message (K or k, D or d)."""

    def find(*names: str) -> Any:
        value = next((data[name] for name in names if name in data), None)
        return value.get("data") if isinstance(value, dict) else value

    matrix = _numbers(find("camera_matrix", "K", "k"), "camera_matrix", (9,)).reshape(3, 3)
    width = _size({"image_width": find("image_width", "width")}, "image_width")
    height = _size({"image_height": find("image_height", "height")}, "image_height")
    model, coefficients = find("distortion_model"), find("distortion_coefficients", "D", "d")
    return LensCamera(Camera.from_matrix(matrix, width, height), *_lens(model, coefficients))


def _parse_colmap(text: str) -> list[LensCamera]:
    lenses = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) < 5 or words[1] not in _COLMAP:
            raise InputError(
                f"line {number} is no COLMAP camera (CAMERA_ID MODEL WIDTH HEIGHT PARAMS); "
                f"MODEL is one of {', '.join(_COLMAP)}"
            )
        count, focals, model, zeros = _COLMAP[words[1]]
        values = _numbers(words[4:], f"line {number} {words[1]} parameters", (count,))
        size = {"width": words[2], "height": words[3]}
        fx, fy, cx, cy = (float(values[i]) for i in (0, focals - 1, focals, focals + 1))
        camera = Camera(fx, fy, cx - 0.5, cy - 0.5, _size(size, "width"), _size(size, "height"))
        distortion = tuple(float(v) for v in values[focals + 2 :])
        lenses.append(
            LensCamera(camera, model, distortion + (0.0,) * zeros if distortion else (), f"camera {words[0]}")
        )
    if not lenses:
        raise InputError("no camera in it; expected a COLMAP cameras.txt")
    return lenses


def _lens(model: Any, coefficients: Any) -> tuple[LensModel, tuple[float, ...]]:
    name = model.strip().lower() if isinstance(model, str) else "" if model is None else reprlib.repr(model)
    if name not in _LENS_NAMES:
        raise InputError(
            f"distortion model {name!r} is not known; expected one of {', '.join(filter(None, _LENS_NAMES))}"
        )
    values = () if coefficients is None else tuple(float(v) for v in _numbers(coefficients, "distortion", None))
    if name == "pinhole" and any(values):
        raise InputError("model pinhole has distortion coefficients; say model opencv or fisheye, or leave them out")
    lens_model = _LENS_NAMES[name]
    if lens_model == "opencv" and values and len(values) < 12:  # 1, 2 or 3 coefficients mean that the rest are zero
        values += (0.0,) * (min(n for n in (4, 5, 8, 12) if n >= len(values)) - len(values))
    return lens_model, values


def _numbers(values: Any, name: str, counts: Sequence[int] | None) -> NDArray[np.float64]:
    try:
        if values is None or isinstance(values, str) or any(isinstance(v, bool) for v in values):
            raise ValueError
        array = np.array([float(v) for v in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {reprlib.repr(values)}; expected numbers") from None
    if counts is not None and len(array) not in counts:
        raise InputError(f"{name} has {len(array)} values; expected {' or '.join(map(str, counts))}")
    return array


def _size(data: dict[str, Any], name: str) -> int:
    value = float(_numbers([data.get(name)], name, (1,))[0])
    if not (math.isfinite(value) and value == int(value) and value >= 1):
        raise InputError(f"{name} is {reprlib.repr(data.get(name))}; expected a positive whole number of pixels")
    return int(value)


def _fit(lenses: list[LensCamera], size: tuple[int, int], source: str) -> LensCamera:
    """The one camera of the file that is this image's, scaled when only the resolution differs."""
    width, height = size
    exact = [lens for lens in lenses if (lens.camera.width, lens.camera.height) == size]
    if len(exact) > 1 and len({(lens.camera, lens.model, lens.distortion) for lens in exact}) > 1:
        raise InputError(f"{len(exact)} different cameras of {width}x{height}; leave the right one in the file")
    if exact:
        return replace(exact[0], reason=_reason(exact[0], source, ""))
    listed = ", ".join(f"{lens.camera.width}x{lens.camera.height}" for lens in lenses[:4])
    if len(lenses) > 1:
        raise InputError(f"none of its {len(lenses)} cameras ({listed}) is for a {width}x{height} image")
    camera = lenses[0].camera
    # Same shape: a uniform scale explains both sides to within the pixel that rounding a size can cost.
    if (
        abs(camera.width * height / camera.height - width) > 1
        and abs(camera.height * width / camera.width - height) > 1
    ):
        raise InputError(f"it is for a {listed} image, but the image is {width}x{height}, another shape")
    scaled = replace(lenses[0], camera=camera.resize(width, height))
    return replace(scaled, reason=_reason(scaled, source, f", scaled from {listed} to {width}x{height}"))


def _reason(lens: LensCamera, source: str, note: str) -> str:
    which = f" {lens.reason}" if lens.reason else ""
    bent = "" if lens.is_pinhole else f", {lens.model} distortion undone"
    return f"--camera {source}{which}: focal {lens.camera.fx:.1f} x {lens.camera.fy:.1f} px{note}{bent}"
