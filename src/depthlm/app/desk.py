"""What the page does, without the page: pictures opened, points measured, lengths told. No gradio here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.app.cameras import AUTO, choose_camera, in_page_words
from depthlm.app.session import MOST_POINTS, PREVIEW, Picture, Session, Store
from depthlm.app.uploads import Uploads
from depthlm.errors import InputError
from depthlm.inference.images import open_image, read_bytes
from depthlm.inference.predict import ask_photo
from depthlm.pictures import Mark, Span, annotate, metres
from depthlm.pointcloud import write_whole
from depthlm.sample import open_encoded, upright_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.app.models import PageModel
    from depthlm.app.rooms import Room

_LARGEST_VIEW = 16_000_000  # pixels a model would be shown; beyond, the camera is wrong


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a visitor may bring."""

    upload_mb: float = 40.0
    """Megabytes of one file."""
    megapixels: float = 64.0
    """Millions of pixels of one picture."""
    waiting: int = 32
    """Visitors' questions that wait at once; the next is told to come back."""
    budget: int = 4000
    """Questions of one depth map."""

    def __post_init__(self) -> None:
        for name in ("upload_mb", "megapixels", "waiting", "budget"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected more than 0")


class Desk:
    """The models, the example rooms and the visitors of a page."""

    def __init__(self, models: Sequence[PageModel], rooms: Sequence[Room], limits: Limits, root: Path) -> None:
        self.models, self.rooms, self.limits = list(models), list(rooms), limits
        self.store = Store(root, len(self.models))
        self.uploads = Uploads()

    # --- pictures -----------------------------------------------------------------------------------------------------

    def open_room(self, session: Session, number: int) -> None:
        """Put an example room before the visitor."""
        if not 0 <= number < len(self.rooms):
            raise InputError(f"There is no example room {number + 1}.")
        room = self.rooms[number]
        self._put(session, Picture(room.name, room.image, _preview(room.large), room))

    def open_upload(self, session: Session, path: Path) -> None:
        """Put a photograph before the visitor; without a camera where it does not say. The file is taken away."""
        try:
            image = self._read(path)
        except InputError as error:
            raise InputError(in_page_words(str(error), path)) from None
        finally:
            self.uploads.take(path)
        self._put(session, Picture(path.name, image, _preview(image)))

    def _read(self, path: Path) -> Image.Image:
        """The upright picture; what is too large is refused before it is decoded."""
        most = self.limits.upload_mb
        if not path.is_file():
            raise InputError(f"{path}: the file is not here any more; choose it again")
        if path.stat().st_size > most * 2**20:
            raise InputError(f"{path}: the file is larger than {most:g} MB; give a smaller picture")
        try:
            width, height = upright_size(open_encoded(read_bytes(path)))
        except InputError:
            raise
        except Image.DecompressionBombError:  # beyond what Pillow would open: it does not say how large
            raise InputError(
                f"{path}: the picture has far more pixels than the {self.limits.megapixels:g} million this page takes; "
                "make it smaller"
            ) from None
        except Exception:  # whatever PIL raises: decoding says what it is
            return open_image(path)
        if width * height > self.limits.megapixels * 1e6:
            raise InputError(
                f"{path}: the picture has {width}x{height} pixels, more than the {self.limits.megapixels:g} million "
                "this page takes; make it smaller"
            )
        return open_image(path)

    def _put(self, session: Session, picture: Picture) -> None:
        with session.busy:
            session.forget(len(self.models))
            session.picture, session.camera = picture, None
        try:
            self.set_camera(session, AUTO)
        except InputError as error:
            if picture.room is not None:
                raise
            raise NoCameraYetError(str(error)) from None

    def set_camera(
        self,
        session: Session,
        mode: str,
        *,
        fov: float | None = None,
        focal: float | None = None,
        file: Path | None = None,
    ) -> None:
        """Use another camera: what was clicked is measured again with it, maps are taken away."""
        if session.picture is None:
            raise InputError("Choose a picture first.")
        used = choose_camera(session.picture, mode, fov=fov, focal=focal, file=file)
        for model in self.models:
            _check_view(model, used.resolved.camera.fx, session.picture.image)
        with session.busy:
            clicked = session.uv
            session.forget(len(self.models))
            session.camera = used
        for uv in clicked:
            self.click(session, *uv)

    # --- points -------------------------------------------------------------------------------------------------------

    def click(self, session: Session, u: float | None, v: float | None) -> None:
        """Measure the pixel with every model; each second click also gives a length. All or nothing."""
        if session.picture is None:
            raise InputError("Choose a picture first.")
        if session.camera is None:
            choose_camera(session.picture)  # says what is missing
        width, height = session.picture.image.size
        if u is None or v is None or not (-0.5 <= u < width - 0.5 and -0.5 <= v < height - 0.5):
            raise InputError(
                f"That point is not on the picture: u goes from 0 to {width - 1}, v from 0 to {height - 1}."
            )
        with session.busy:
            if len(session.uv) >= MOST_POINTS:
                raise InputError(f"{MOST_POINTS} points are measured; take some away with Undo or Clear.")
            uv = (float(u), float(v))
            said = [self._ask(k, session, uv) for k in range(len(self.models))]
            lengths = None
            if len(session.uv) % 2:
                lengths = [
                    self._length(k, session, session.uv[-1], uv, before[-1], point)
                    for k, (before, point) in enumerate(zip(session.points, said, strict=True))
                ]
            session.uv.append(uv)
            for k, point in enumerate(said):
                session.points[k].append(point)
                if lengths is not None:
                    session.lengths[k].append(lengths[k])

    def undo(self, session: Session) -> None:
        """Take the last point away, and its length."""
        with session.busy:
            if session.uv:
                session.uv.pop()
                for points, lengths in zip(session.points, session.lengths, strict=True):
                    points.pop()
                    del lengths[len(points) // 2 :]

    def clear(self, session: Session) -> None:
        """Take all points away."""
        while session.uv:
            self.undo(session)

    def _question(self, number: int, session: Session, uv: list[tuple[float, float]], task: str) -> dict[str, Any]:
        model, photo = self.models[number], session.photo(uv)
        if number not in session.views:
            image, camera, _ = photo.straight
            session.views[number] = model.clicks.whole_view(image, camera)
        answers = model.answers if task == "distance" else None
        return ask_photo(model.clicks, photo, task=task, answers=answers, like=session.views[number])

    def _ask(self, number: int, session: Session, uv: tuple[float, float]) -> dict[str, Any]:
        assert session.picture is not None
        said = self._question(number, session, [uv], "distance")
        place = session.picture.true_place(uv)
        truth = None if place is None else float(np.linalg.norm(place))
        return {**said["points"][0], "interval": said["interval"], "truth": truth}

    def _length(
        self,
        number: int,
        session: Session,
        first: tuple[float, float],
        second: tuple[float, float],
        one: dict[str, Any],
        other: dict[str, Any],
    ) -> dict[str, Any]:
        """Between two measured points: by their places, and by asking for it where the model knows the question."""
        placed = None
        if one["xyz"] is not None and other["xyz"] is not None:
            placed = float(np.linalg.norm(np.subtract(one["xyz"], other["xyz"])))
        asked = None
        if self.models[number].says_lengths and first != second:
            said = self._question(number, session, [first, second], "between")
            asked = said["questions"][0]["value"]
        assert session.picture is not None
        ends = [session.picture.true_place(uv) for uv in (first, second)]
        truth = None if ends[0] is None or ends[1] is None else float(np.linalg.norm(ends[0] - ends[1]))
        return {"from": list(first), "to": list(second), "length": placed, "asked": asked, "truth": truth}

    # --- what is shown ------------------------------------------------------------------------------------------------

    def drawn(self, session: Session, model: int) -> Image.Image | None:
        """The picture with what a model said about it."""
        if session.picture is None:
            return None
        shown = session.picture.shown
        marks = [_mark(number, point) for number, point in enumerate(session.points[model], 1)]
        spans: list[Span] = [
            (np.array([said["from"], said["to"]]), "no length" if said["length"] is None else metres(said["length"]))
            for said in session.lengths[model]
        ]
        if not marks:
            return shown
        larger = 1.4 if len(self.models) == 1 else 1.9  # side by side, or on a phone, the picture is small
        return annotate(shown, marks, size=session.picture.image.size, width=shown.width, text=larger, spans=spans)

    def points_json(self, session: Session) -> Path | None:
        """All that was measured, as a file for the visitor; None before the first click."""
        if not session.uv or session.picture is None or session.camera is None:
            return None
        camera = session.camera
        said = {
            "image": session.picture.name,
            "camera": {**camera.resolved.camera.to_dict(), "source": camera.source, "sure": camera.sure},
            "units": "metres; u, v pixels; xyz right, down, forward",
            "models": [
                {"model": model.name, "points": points, "lengths": lengths}
                for model, points, lengths in zip(self.models, session.points, session.lengths, strict=True)
            ],
        }
        path = session.folder / f"{session.stem()}-points.json"
        write_whole(path, json.dumps(said, indent=2, allow_nan=False).encode())
        return path


class NoCameraYetError(InputError):
    """The picture is open, but does not say what camera took it."""


def _check_view(model: PageModel, fx: float, image: Image.Image) -> None:
    """Refuse a camera that would have the model look at a view of no, or of endless pixels."""
    scale = model.clicks.view_config.focal / fx
    width, height = image.width * scale, image.height * scale
    if not (min(width, height) >= 1 and width * height <= _LARGEST_VIEW):
        raise InputError(
            f"With a focal length of {fx:g} px {model.name} would see this picture at {width:.0f}x{height:.0f} pixels: "
            "no camera takes such pictures; check the number."
        )


def _mark(number: int, point: dict[str, Any]) -> Mark:
    def value(name: str) -> float:
        return math.nan if point[name] is None else float(point[name])

    return Mark(
        (point["u"], point["v"]), value("distance"), value("truth"), value("low"), value("high"), name=f"{number}"
    )


def _preview(image: Image.Image) -> Image.Image:
    """At most PREVIEW pixels across; a small one at least as many as labels need."""
    width = PREVIEW if image.width > PREVIEW or image.width < 768 else image.width
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BICUBIC)
