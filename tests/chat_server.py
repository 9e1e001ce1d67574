"""A chat server that misbehaves on demand: answers, and 429, 500, garbage, silence and death where a test asks."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """Serves /v1/chat/completions on a free port of this machine.

    say: body of a request -> text, or (text, tokens), tokens as [(string, [(alternative, log-probability), ...]), ...].
    fault: number of the request -> None for an answer, or 429, 500, 400, "garbage", "html", "empty", "hang", "drop".
    answered: how often each question (the whole request) was answered.
    """

    def __init__(self, say: Callable[[dict[str, Any]], Any], fault: Callable[[int], Any] = lambda number: None) -> None:
        self.say, self.fault = say, fault
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.connections: list[socket.socket] = []
        self.lock = threading.Lock()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def setup(self) -> None:
                super().setup()
                server.connections.append(self.connection)

            def handle(self) -> None:
                with suppress(OSError, ValueError):  # the connection was cut under it
                    super().handle()

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"])).decode()
                with server.lock:
                    number = server.requests
                    server.requests += 1
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.reply(self, text, server.fault(number))

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self.http = Server(("127.0.0.1", self.port), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Die: nothing listens on the port any more."""
        self.http.shutdown()
        self.http.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reply(self, handler: BaseHTTPRequestHandler, text: str, fault: Any) -> None:
        if fault == "drop":
            handler.close_connection = True
            handler.connection.close()
            return
        if fault == "hang":
            time.sleep(8.0)
            handler.close_connection = True
            return
        status, kind, headers = 200, "application/json", {}
        if isinstance(fault, int):
            status, data = fault, {"error": {"message": f"fault {fault}", "type": "test"}}
            headers = {"retry-after": "0.01"} if fault == 429 else {}
            payload = json.dumps(data).encode()
        elif fault == "garbage":
            payload = b'{"choices": [{"mess'
        elif fault == "html":
            payload, kind = b"<html>gateway</html>", "text/html"
        elif fault == "empty":
            payload = b'{"id": "x", "object": "chat.completion", "choices": []}'
        else:
            body = json.loads(text)
            said = self.say(body)
            said, tokens = said if isinstance(said, tuple) else (said, None)
            with self.lock:
                self.bodies.append(body)
                self.answered[text] += 1
            payload = json.dumps(completion(said, tokens)).encode()
        handler.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(payload)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(payload)


def completion(text: str, tokens: Any) -> dict[str, Any]:
    scored = None if tokens is None else {
        "content": [
            {"token": token, "logprob": 0.0, "bytes": None,
             "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in alternatives]}
            for token, alternatives in tokens
        ]
    }  # fmt: skip
    return {
        "id": "chat", "object": "chat.completion", "created": 0, "model": "test",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": scored,
                     "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }  # fmt: skip
