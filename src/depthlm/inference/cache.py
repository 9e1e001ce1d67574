"""AnswerCache: what a server was asked and said, one JSON object per line, kept the moment it is known."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from depthlm.errors import InputError


class AnswerCache:
    """Records by key in a file that only grows; each is on the disk before `put` returns.

    path: None keeps them in memory alone. option: which option names the file, for messages. A last line that was cut
    off by a crash is taken out.
    Raises InputError for a file that is no cache, cannot be written, or belongs to a run that is still going on.
    """

    def __init__(self, path: Path | None, *, option: str = "--cache") -> None:
        self.path = path
        self.option = option
        self.records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._file = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); give another {option}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(f"{path}: another run is writing to it; wait for it or give another {option}") from None
        try:
            self._load()
        except InputError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.records)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, or None."""
        return self.records.get(key)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record. Raises InputError when the disk does not take it."""
        with self._lock:
            if self._file is not None:
                try:
                    self._file.write(json.dumps({"key": key, **record}).encode() + b"\n")
                    self._file.flush()
                    os.fsync(self._file.fileno())
                except OSError as error:
                    raise InputError(f"{self.path}: cannot be written ({error.strerror}); make room") from error
            self.records[key] = record

    def close(self) -> None:
        """Let others write to the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _load(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self.records |= _parse(data[:whole], self.path, self.option)
        if whole < len(data):
            self._file.truncate(whole)


def read_records(path: Path, *, option: str = "--out") -> dict[str, dict[str, Any]]:
    """The records of a file that nobody is asked to write to; none where there is no file. Raises InputError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give another {option}") from error
    return _parse(data[: data.rfind(b"\n") + 1], path, option)


def _parse(data: bytes, path: Path | None, option: str) -> dict[str, dict[str, Any]]:
    records = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            record = json.loads(line)
            key = record.pop("key")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise InputError(f"{path}: line {number} holds no answer; give another {option}") from None
        records[key] = record
    return records
