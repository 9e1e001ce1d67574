"""Which camera a picture on the page is measured with, and how sure that is, in words for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from depthlm.camera_io import NO_CAMERA, ResolvedCamera, resolve_camera
from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.app.session import Picture

Mode = Literal["From the picture", "Field of view", "Focal length", "Camera file"]
MODES: tuple[Mode, ...] = get_args(Mode)
AUTO, FOV, FOCAL, FILE = MODES
PAGE_NO_CAMERA = (
    "No camera: this picture does not say with what focal length it was taken. Set the field of view, the focal length "
    "or a camera file under Camera, then click."
)
# What stands in messages for the command line, and what it is called here.
_WORDS = (
    ("--camera FILE", "a camera file"),
    ("--focal PX", "the focal length in pixels"),
    ("--fov DEG", "the field of view in degrees"),
    ("--assume-fov", "field of view"),
    ("--camera-from ESTIMATOR", "a camera file"),
    ("--camera", "camera file"),
    ("--focal", "focal length"),
    ("--fov", "field of view"),
    ("--budget", "number of questions"),
    ("--backend openai", "a server"),
)


@dataclass(frozen=True, slots=True)
class UsedCamera:
    """A camera in use. sure: one word, `exact`, `likely` or `yours`. source: where it comes from. advice: what that
    means for the metres.
    """

    resolved: ResolvedCamera
    sure: Literal["exact", "likely", "yours"]
    source: str
    advice: str


def choose_camera(
    picture: Picture,
    mode: str = AUTO,
    *,
    fov: float | None = None,
    focal: float | None = None,
    file: Path | None = None,
) -> UsedCamera:
    """The camera of a picture by what the visitor chose. Raises InputError, in the page's words, when it cannot be."""
    if mode not in MODES:
        raise InputError(f"{mode!r} is no way to set a camera; choose one of {', '.join(MODES)}")
    if mode == AUTO and picture.room is not None:
        camera = picture.room.camera
        resolved = ResolvedCamera(camera, None, "the camera that rendered the room")
        return UsedCamera(resolved, "exact", "the camera that rendered this room", "Nothing is left to guess.")
    given = {FOV: ("fov", fov), FOCAL: ("focal", focal), FILE: ("file", file)}.get(mode)
    if given is not None and given[1] is None:
        raise InputError({FILE: "Choose a camera file first."}.get(mode, f"Give the {mode.lower()} as a number."))
    try:
        resolved = resolve_camera(picture.image, **({} if given is None else {given[0]: given[1]}))  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(PAGE_NO_CAMERA if str(error) == NO_CAMERA else in_page_words(str(error), file)) from None
    if mode == FILE:
        lens = "" if resolved.lens is None else f", {resolved.lens.model} lens distortion undone"
        advice = "As good as its calibration, as long as the picture was not cropped since."
        return UsedCamera(resolved, "exact", f"camera file {file.name if file else ''}{lens}", advice)
    if mode == AUTO:
        advice = "Good to a few percent, unless the picture was cropped or zoomed after it was taken."
        return UsedCamera(resolved, "likely", resolved.reason.split(": focal")[0], advice)
    advice = "As sure as your number: one that is 10 % off makes every length about 10 % wrong."
    source = f"field of view {fov:g}°, set by you" if mode == FOV else f"focal length {focal:g} px, set by you"
    return UsedCamera(resolved, "yours", source, advice)


def in_page_words(message: str, path: Path | str | None = None) -> str:
    """A message of the library without the names of options, and without where on this machine a file lies."""
    if path is not None:
        message = message.replace(str(path), f"“{Path(path).name}”")
    for option, words in _WORDS:
        message = message.replace(option, words)
    message = message.replace("camera file camera file", "camera file")
    return message[:1].upper() + message[1:]
