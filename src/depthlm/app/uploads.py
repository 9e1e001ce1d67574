"""Files that visitors sent, until they are read: nothing else can be named as one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 64  # that were sent and not read: beyond them the oldest are deleted


class Uploads:
    """Paths of files that were sent and not yet read, each as often as it was sent.

    gradio names an upload by its bytes, so that visitors with the same picture share a path; and where it is mounted in
    another application it reads whatever path or address a request names.
    """

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, paths: Sequence[str]) -> None:
        """Files that have arrived."""
        with self._lock:
            self._sent.update(paths)
            for path in list(self._sent)[:-MOST]:
                del self._sent[path]
                Path(path).unlink(missing_ok=True)

    def take(self, path: Path) -> None:
        """A file that was read: it is deleted, unless somebody else sent the same and has yet to open it."""
        with self._lock:
            self._sent[str(path)] -= 1
            if self._sent[str(path)] <= 0:
                del self._sent[str(path)]
                path.unlink(missing_ok=True)

    def checked(self, body: bytes) -> bytes:
        """A request's JSON, written anew so that whoever reads it next reads what was checked here.

        Raises ValueError where it is no JSON object, and PermissionError where it names a file that was not sent.
        """
        try:
            said = json.loads(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(said, dict):
            raise ValueError("no object")
        for path in _named(said.get("data")):
            if not isinstance(path, str) or self._sent[path] <= 0:
                raise PermissionError(path)
        return json.dumps(said).encode()


def _named(data: Any) -> list[Any]:
    """Whatever stands as a path, at any depth."""
    found, left = [], [data]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            found += [part["path"]] if "path" in part else []
            left += part.values()
        elif isinstance(part, list):
            left += part
    return found
