"""What one visitor has on the page, and how much of that is kept for how many."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import resize_uv
from depthlm.inference.predict import Photo

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.app.cameras import UsedCamera
    from depthlm.app.rooms import Room
    from depthlm.inference.map_files import PhotoMap
    from depthlm.view import View

MOST_POINTS = 8  # on one picture: more labels hide it
PREVIEW = 1280  # pixels across, of what is shown


@dataclass(slots=True, eq=False)
class Picture:
    """A picture on the page. image: what is measured, upright. shown: the same view, at most PREVIEW pixels across.

    room: the rendered room that it is, whose truth is known; None for a photograph.
    """

    name: str
    image: Image.Image
    shown: Image.Image
    room: Room | None = None

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """A click on `shown` -> u, v of `image`, both pixels."""
        u, v = resize_uv([[x, y]], self.shown.size, self.image.size)[0]
        return round(float(u), 1), round(float(v), 1)

    def true_place(self, uv: tuple[float, float]) -> NDArray[np.float64] | None:
        """[3] metres, camera frame, of what the pixel shows of a room; None for a photograph, or beyond a window."""
        if self.room is None:
            return None
        u, v = (int(np.floor(part + 0.5)) for part in uv)
        height, width = self.room.z.shape
        z = self.room.z[min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
        return self.room.camera.unproject([uv], [z])[0] if np.isfinite(z) else None


@dataclass(slots=True, eq=False)
class Session:
    """One visitor. uv: clicked pixels. points, lengths: for each model what it said about them (see desk.py).

    maps: for each model the depth map, or empty. cloud_sent: whether the page has a cloud to take away. stop: set to
    end the map that is being drawn. views: by the model's number, what it sees of the picture: while one is held here,
    an engine need not read the picture for each click.
    """

    folder: Path
    picture: Picture | None = None
    camera: UsedCamera | None = None
    uv: list[tuple[float, float]] = field(default_factory=list)
    points: list[list[dict[str, Any]]] = field(default_factory=list)
    lengths: list[list[dict[str, Any]]] = field(default_factory=list)
    maps: list[PhotoMap] = field(default_factory=list)
    cloud_sent: bool = False
    views: dict[int, View] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    busy: threading.Lock = field(default_factory=threading.Lock)  # one change at a time
    _photo: Photo | None = None  # of the picture by the camera, straightened

    def photo(self, uv: list[tuple[float, float]]) -> Photo:
        """The picture with its camera and some points, as questions are asked about it. Both must be there."""
        assert self.picture is not None
        assert self.camera is not None
        if self._photo is None:
            nowhere = np.empty((0, 2))
            self._photo = Photo(Path(self.picture.name), self.picture.image, self.camera.resolved, nowhere)
        return self._photo.at(uv)

    def size(self) -> int:
        """Bytes of its pictures and maps, about."""
        picture, photo = self.picture, self._photo
        if picture is None:
            return 0
        images = [picture.image]
        if photo is not None and photo.straight[0] is not photo.image:
            images.append(photo.straight[0])
        maps = sum(found.dense.z.nbytes + found.dense.confidence.nbytes for found in self.maps)
        return maps + sum(3 * image.width * image.height for image in images)

    def forget(self, models: int) -> None:
        """Take away what was measured and what it was measured in; the picture and its camera stay."""
        self.stop.set()
        self.stop = threading.Event()
        self.uv = []
        self.points, self.lengths = [[] for _ in range(models)], [[] for _ in range(models)]
        self._photo, self.views = None, {}
        self.forget_maps()

    def forget_maps(self) -> None:
        """Take away the maps and their files."""
        self.maps = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def stem(self) -> str:
        """The picture's name as the beginning of a file name: letters, digits and dashes."""
        name = "picture" if self.picture is None else Path(self.picture.name).stem
        return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "picture"


class Store:
    """Sessions by key. The longest unused are put away beyond `most` of them or `most_bytes` of pictures."""

    def __init__(self, root: Path, models: int, *, most: int = 64, most_bytes: int = 2 * 2**30) -> None:
        self.root, self.models, self.most, self.most_bytes = root, models, most, most_bytes
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: str) -> Session:
        """The visitor's session, a new one without a picture where there is none."""
        with self._lock:
            if key not in self._sessions:
                # The folder's name is no secret of the visitor's browser, and cannot be guessed.
                self._sessions[key] = Session(self.root / secrets.token_hex(16))
                self._sessions[key].forget(self.models)
            self._sessions.move_to_end(key)
            while len(self._sessions) > 1 and self._too_much():
                self._sessions.popitem(last=False)[1].forget(self.models)
            return self._sessions[key]

    def drop(self, key: str) -> None:
        """The visitor has left."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.forget(self.models)

    def _too_much(self) -> bool:
        return (
            len(self._sessions) > self.most
            or sum(session.size() for session in self._sessions.values()) > self.most_bytes
        )
