"""A visitor of the page without a browser: the requests that its script sends, and what a test makes up."""

from __future__ import annotations

import json
import secrets
from typing import Any

import httpx

API = "/gradio_api"


class RefusedError(Exception):
    """The page did not take a request, or not its event. status: of HTTP, or 0 for an event that failed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class Visitor:
    """One open page. Handlers are called by name, as page.py has them without the underscore: `click`, `typed`, ..."""

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.http = httpx.Client(base_url=url, timeout=timeout)
        self.session = secrets.token_hex(8)
        config = self.http.get("/config").json()
        self.handlers = {part["api_name"].lstrip("_"): part for part in config["dependencies"]}
        ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self.outputs = {name: [ids[n] for n in part["outputs"]] for name, part in self.handlers.items()}

    def close(self) -> None:
        """Go away without a word."""
        self.http.close()

    def upload(self, name: str, data: bytes) -> str:
        """Send a file; where the page keeps it until it is opened."""
        reply = self.http.post(
            f"{API}/upload", params={"upload_id": secrets.token_hex(4)}, files={"files": (name, data)}
        )
        return self._json(reply)[0]

    def open(self, path: str) -> dict[str, Any]:
        """Measure in an uploaded picture."""
        return self.call("upload", [as_file(path)])

    def call(self, handler: str, data: list[Any] | None = None, event: Any = None) -> dict[str, Any]:
        """What the handler shows, by the id of the element. Raises RefusedError."""
        about = self.handlers[handler]
        body = {
            "data": data or [], "event_data": event, "fn_index": about["id"], "session_hash": self.session,
            "trigger_id": about["targets"][0][0],
        }  # fmt: skip
        event_id = self._json(self.http.post(f"{API}/queue/join", json=body))["event_id"]
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                said = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if said.get("event_id", event_id) == event_id and said.get("msg") == "process_completed":
                    break
                if said.get("msg") in ("unexpected_error", "close_stream"):
                    raise RefusedError(0, json.dumps(said))
            else:
                raise RefusedError(stream.status_code, "the stream ended without an answer")
        if not said["success"]:
            raise RefusedError(0, json.dumps(said["output"]))
        return dict(zip(self.outputs[handler], said["output"]["data"], strict=True))

    def click(self, x: float, y: float) -> dict[str, Any]:
        """Click on the picture, in pixels as it is shown."""
        return self.call("click", event={"index": [x, y], "value": None})

    def _json(self, reply: httpx.Response) -> Any:
        if reply.is_error:
            raise RefusedError(reply.status_code, reply.text)
        return reply.json()


def as_file(path: str) -> dict[str, Any]:
    """A file as the page's script names it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
