"""The server of the page: what it listens to, what it lets through, what it never sends."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.app.desk import Desk, Limits
from depthlm.app.rooms import example_rooms
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthlm.app.models import PageModel
    from depthlm.app.uploads import Uploads

_LOG = logging.getLogger(__name__)
MOST_JSON = 1 << 20  # bytes of a request that is no upload
# What the page itself asks for. gradio has more (a proxy, an editor, monitoring): nobody needs it here.
_OPEN = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(app_id|startup-events|upload|upload_progress|cancel|reset|queue/(join|data)|run/predict"
    r"|heartbeat/\w+|file=/.*))/?"
)
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'self'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_CARDS = re.compile(rb'<meta\s[^>]*"(?:og|twitter):[^>]*>')  # for link previews: they name foreign hosts


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the page listens."""

    host: str = "127.0.0.1"
    """Loopback unless told otherwise: who reaches it may use the model."""
    port: int = 7860
    """TCP port; 0 takes a free one."""

    def bind(self) -> socket.socket:
        """The listening socket. Raises InputError where that cannot be had."""
        if not 0 <= self.port < 65536:
            raise InputError(f"--port is {self.port}; expected 0 to 65535")
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            listening = socket.socket(family, socket.SOCK_STREAM)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
        except OSError as error:
            where = f"{self.host} port {self.port}"
            raise InputError(
                f"cannot listen on {where} ({error.strerror or error}); give another --port or --host"
            ) from None
        return listening


def serve(models: Sequence[PageModel], address: Address, limits: Limits, ready: Callable[[str], None]) -> None:
    """Serve the page until interrupted. ready: called with its address once it listens.

    Raises InputError for an address that cannot be had, or where gradio is not installed.
    """
    listening = address.bind()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="depthlm-app-") as folder:
        # gradio serves its cache and nothing else: it is ours alone, and goes with the process.
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import uvicorn

            application = make_application(models, limits, Path(folder))
        except ImportError as error:
            raise InputError(f"the page needs gradio ({error}); pip install 'depthlm[app]'") from None
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2))
        host, port = listening.getsockname()[:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        server.run(sockets=[listening])


def make_application(models: Sequence[PageModel], limits: Limits, folder: Path) -> Any:
    """The ASGI application of the page. folder: where uploads and results lie, served by their names alone."""
    import fastapi
    import gradio as gr

    from depthlm.app.page import build, css, theme

    root = folder / "sessions"
    desk = Desk(models, example_rooms(), limits, root)
    page = build(desk)
    inner = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        path="/",
        allowed_paths=[],
        max_file_size=int(limits.upload_mb * 2**20),
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        favicon_path=str(Path(__file__).parent / "icon.svg"),
        theme=theme(),
        css=css(),
    )
    page.has_launched = True  # said by `launch` alone, and without it gradio looks at no path that a request names
    for part in page.config["components"]:  # addresses of gradio's example files, for an API page that is not served
        part.pop("example_inputs", None)
    return Guard(inner, desk.uploads, most_upload=int(limits.upload_mb * 2**20) + MOST_JSON)


class Guard:
    """Lets through what the page asks for, in bounded sizes, and tells browsers to fetch nothing from elsewhere."""

    def __init__(self, inner: Any, uploads: Uploads, *, most_upload: int) -> None:
        self.inner, self.uploads, self.most_upload = inner, uploads, most_upload

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http" or not _OPEN.fullmatch(scope["path"]) or "://" in scope["path"]:
            await _refuse(send, 404, "There is nothing here.")
            return
        path = scope["path"].rstrip("/").removeprefix("/gradio_api")
        most = self.most_upload if path == "/upload" else MOST_JSON
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > most:
            await _refuse(send, 413, f"This is more than {most / 2**20:.0f} MB, the most this page takes.")
            return
        receive = _bounded(receive, most)
        if path in ("/queue/join", "/run/predict"):
            try:
                receive = _again(self.uploads.checked(await _whole(receive)), receive)
            except PermissionError:
                await _refuse(send, 403, "This file was not sent to this page.")
                return
            except ValueError:
                await _refuse(send, 400, "This is no request of this page.")
                return
        sender = _Sender(send, {"": _without_cards, "/upload": self._remember}.get(path))
        try:
            await self.inner(scope, receive, sender)
        except Exception as error:
            _LOG.warning("%s: %s", path, repr(error)[:200])
            if not sender.begun:
                await _refuse(send, 400, "This is no request of this page.")

    def _remember(self, status: int, body: bytes) -> tuple[int, bytes]:
        if status == 200:
            self.uploads.add(json.loads(body))
        elif status >= 500:  # as of a file without a name
            return 400, b"This file cannot be taken; send it under another name.\n"
        return status, body


def _bounded(receive: Any, most: int) -> Any:
    """`receive` that hangs up on a body longer than it said."""
    seen = 0

    async def bounded() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > most else message

    return bounded


async def _whole(receive: Any) -> bytes:
    """The whole body. Raises ValueError where the sender hangs up."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ValueError("hung up")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:
    """`receive` that has this body, and then what comes after it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return left.pop() if left else await receive()

    return again


def _without_cards(status: int, body: bytes) -> tuple[int, bytes]:
    return status, _CARDS.sub(b"", body)


class _Sender:
    """`send` that adds our headers. change: (status, body) -> both anew, of an answer that is then sent in one piece.

    begun: whether something was sent.
    """

    def __init__(self, send: Any, change: Callable[[int, bytes], tuple[int, bytes]] | None) -> None:
        self.send, self.change, self.begun = send, change, False
        self.start: Any = None
        self.body = b""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message["headers"], *_HEADERS]}
            if self.change is not None:
                self.start = message
                return
        elif self.change is not None and message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if message.get("more_body"):
                return
            status, body = self.change(self.start["status"], self.body)
            length = (b"content-length", str(len(body)).encode())
            kept = [pair for pair in self.start["headers"] if pair[0].lower() != b"content-length"]
            self.begun = True
            await self.send(self.start | {"status": status, "headers": [*kept, length]})
            message = {"type": "http.response.body", "body": body}
        self.begun = True
        await self.send(message)


async def _refuse(send: Any, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
