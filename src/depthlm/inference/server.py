"""ServerBackend: asks any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, commercial ones).

Every answer is kept in a cache file as it comes in, so that a run that was interrupted asks for the rest alone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from depthlm.errors import BackendError, InputError
from depthlm.inference.backend import Backend, view_config_of
from depthlm.inference.cache import AnswerCache
from depthlm.inference.interval import Leaf
from depthlm.models.card import RELEASED, ModelCard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL import Image

    from depthlm.inference.request import Answer, Request

KEY_VARIABLE = "OPENAI_API_KEY"
TOP = 20  # alternatives to a token that are asked for: as many as servers give
LONGEST_WAIT = 30.0  # seconds between two tries
_RETRIED = (408, 409, 425, 429)  # and everything from 500


class ServerBackend(Backend):
    """Asks `model` of a server. The picture comes first, so that its prefix cache holds it for the next question.

    base_url: "http://localhost:8000/v1". card: what the model was trained with; default that of a released checkpoint
    of this name, else the default card. concurrency: questions under way. timeout: seconds for one answer. retries:
    of a question, with rising waits, before the run gives up. per_minute: most questions a minute, None for no limit.
    cache: file of answers, None for none. body: what is sent besides; None takes a field out. logprobs: ask for token
    probabilities, which intervals and `read` need. The key is taken from OPENAI_API_KEY; it is written nowhere.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        card: ModelCard | None = None,
        reference: str | None = None,
        read: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 8,
        per_minute: float | None = None,
        cache: Path | None = None,
        body: dict[str, Any] | None = None,
        logprobs: bool = True,
        first_wait: float = 0.5,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise InputError("--backend openai needs the package openai; pip install depthlm[server]") from None
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"--base-url is {base_url!r}; expected an address such as http://localhost:8000/v1")
        if concurrency < 1 or retries < 0 or not timeout > 0 or not (per_minute is None or per_minute > 0):
            raise InputError("--concurrency takes 1 or more, --retries 0 or more, --timeout and --rpm more than 0")
        card = card or RELEASED.get(model) or ModelCard()
        super().__init__(
            card,
            view_config_of(card),
            name=model,
            reference=reference,
            read=read,
            forced=False,
            markers=card.markers_per_image,
        )
        self.base_url, self.concurrency, self.retries, self.first_wait = base_url, concurrency, retries, first_wait
        self.body, self.logprobs = body or {}, logprobs
        self.cache = AnswerCache(cache)
        self.client = openai.OpenAI(
            base_url=base_url, api_key=os.environ.get(KEY_VARIABLE) or "none", max_retries=0, timeout=timeout
        )
        self.asked = {"questions": 0, "prompt_tokens": 0, "completion_tokens": 0}  # of this run, not of the cache
        self._pace = _Pace(per_minute)
        self._stop = threading.Event()

    def identity(self) -> dict[str, Any]:
        """The server, and what it is sent besides the question; never the key."""
        return {"name": "openai", "server": self.base_url, "body": self.body, "logprobs": self.logprobs}

    def usage(self) -> dict[str, int]:
        """Questions and tokens that this process has paid for."""
        return dict(self.asked)

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers in order, from the cache where they are known; equal questions are asked once.

        Raises InputError for what the server refuses (no such model, no access) and BackendError when it stays silent;
        what has come in by then is kept.
        """
        known: dict[int, str] = {}  # pictures are many bytes: each is encoded once
        waiting: dict[str, tuple[dict[str, Any], int]] = {}
        keys = []
        for request in requests:
            payload, key = self._payload(request, known)
            keys.append(key)
            if self.cache.get(key) is None:
                waiting[key] = (payload, waiting.get(key, (payload, 0))[1] + 1)
            elif progress is not None:
                progress(1)
        self._stop.clear()
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {pool.submit(self._fetch, key, payload): count for key, (payload, count) in waiting.items()}
            try:
                for future in as_completed(futures):
                    future.result()
                    if progress is not None:
                        progress(futures[future])
            except BaseException:
                self._stop.set()  # those under way are kept when they come; no other is begun
                pool.shutdown(cancel_futures=True)
                raise
        return [self._read(request, self.cache.records[key]) for request, key in zip(requests, keys, strict=True)]

    # --- one question -------------------------------------------------------------------------------------------------

    def _payload(self, request: Request, known: dict[int, str]) -> tuple[dict[str, Any], str]:
        """The body of a request, and the key of its answer."""
        pictures = [
            known.setdefault(id(image), _data_url(image)) if image is request.view.image else _data_url(image)
            for image in request.images()
        ]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        content.append({"type": "text", "text": request.question})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.prompt.system is not None:
            messages.insert(0, {"role": "system", "content": self.prompt.system})
        payload: dict[str, Any] = {
            "model": self.name, "messages": messages, "temperature": 0, "max_tokens": self.card.max_new_tokens,
        }  # fmt: skip
        if self.logprobs:
            payload |= {"logprobs": True, "top_logprobs": TOP}
        payload = {name: value for name, value in (payload | self.body).items() if value is not None}
        text = json.dumps([self.base_url, payload], sort_keys=True)
        return payload, hashlib.sha256(text.encode()).hexdigest()

    def _fetch(self, key: str, payload: dict[str, Any]) -> None:
        """Ask until there is an answer, and keep it."""
        import openai

        known = ("model", "messages", "temperature", "max_tokens", "logprobs", "top_logprobs")
        named = {name: payload[name] for name in known if name in payload}
        extra = {name: value for name, value in payload.items() if name not in known}
        for tried in range(self.retries + 1):
            if self._stop.is_set() or not self._pace.wait(self._stop):
                return
            try:
                record = _record(self.client.chat.completions.create(**named, extra_body=extra or None))
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in _RETRIED:
                    raise InputError(
                        f"{self.base_url} refuses model {self.name!r}: status {error.status_code}, {_short(error)}"
                    ) from None
                reason, delay = f"status {error.status_code}", _retry_after(error)
            except openai.APITimeoutError:
                reason, delay = f"no answer within {self.client.timeout:g} s", None
            except openai.APIConnectionError as error:
                reason, delay = f"no connection ({error.__cause__ or error})", None
            except (_GarbageError, openai.APIResponseValidationError, ValueError):
                reason, delay = "an answer that is no chat completion", None
            else:
                self.cache.put(key, record)
                self.asked["questions"] += 1
                for name, tokens in record["usage"].items():
                    self.asked[name] += tokens
                return
            if tried < self.retries:
                rising = min(LONGEST_WAIT, self.first_wait * 2**tried) * (0.5 + random.random() / 2)
                self._stop.wait(rising if delay is None else min(delay, 10 * LONGEST_WAIT))
        kept = "" if self.cache.path is None else f"; {len(self.cache)} answers are kept in {self.cache.path}"
        times = "" if self.retries == 0 else f", {self.retries + 1} times"
        raise BackendError(f"{self.base_url}: {reason}{times}{kept}; run the same command again to go on")

    def _read(self, request: Request, record: dict[str, Any]) -> Answer:
        """A record as an answer, with the belief where the server gave probabilities."""
        text = record["text"]
        reading = request.kind.locate(text)
        leaves = [] if reading is None else number_leaves(record["tokens"], reading.literal)
        return self.answer(request, text, reading, leaves)


def number_leaves(tokens: Sequence[tuple[str, Sequence[tuple[str, float]]]], literal: str) -> list[Leaf]:
    """The numbers that could have stood where `literal` does, from the alternatives to its tokens.

    tokens: of the answer, each with its alternatives (string, log-probability), itself among them. At each token of the
    number, every other token that goes on with a number is a leaf with open digits, and one that does not ends it
    there. Empty where tokens do not hold the number on its own.
    """
    text = "".join(token for token, _ in tokens)
    match = re.search(r"(?<![\d.])" + re.escape(literal) + r"(?!\d)", text)
    if match is None:
        return []
    leaves: list[Leaf] = []
    written, mass, at = "", 1.0, 0
    for token, alternatives in tokens:
        at += len(token)
        if at <= match.start():
            continue
        if not literal.startswith(written + token.strip() if not written else written + token) and written != literal:
            return []  # a token that holds more than the number
        own = next((p for other, p in alternatives if other == token), -math.inf)
        going_on = 0.0
        for other, logprob in alternatives:
            more, share = other.strip() if not written else other, mass * math.exp(logprob)
            if other == token and written != literal:
                continue
            if _DIGITS.fullmatch(more) and (written + more).count(".") <= 1:
                leaves.append(Leaf(written + more, share, is_open=True))
                going_on += math.exp(logprob)
            elif written and written != literal:
                leaves.append(Leaf(written, share, is_open=False))
        if written == literal:
            mass *= max(0.0, 1.0 - going_on)
            break
        written += token.strip() if not written else token
        mass *= math.exp(own)
    leaves.append(Leaf(literal, mass, is_open=False))
    return leaves


_DIGITS = re.compile(r"\d+\.?\d*|\.\d*")


class _GarbageError(Exception):
    """An answer that is no chat completion."""


def _record(completion: Any) -> dict[str, Any]:
    """What is kept of a completion: text, tokens with alternatives, usage. Raises _GarbageError for anything else."""
    try:
        choice = completion.choices[0]
        text = choice.message.content or ""  # none where the server filtered it: an answer without a number
        scored = getattr(choice, "logprobs", None)
        content = (scored.content or []) if scored else []
        near = [
            any(_DIGITS.search(other.token) for other in content[max(0, i - 1) : i + 1]) for i in range(len(content))
        ]
        tokens = [  # alternatives only where a number is written or ends: they are most of what a cache holds
            [one.token, [[other.token, other.logprob] for other in one.top_logprobs] if keep else []]
            for one, keep in zip(content, near, strict=True)
        ]
        usage = {name: int(getattr(completion.usage, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens")}
    except (AttributeError, IndexError, TypeError, ValueError):
        raise _GarbageError from None
    if not isinstance(text, str):
        raise _GarbageError
    return {"text": text, "tokens": tokens, "usage": usage}


class _Pace:
    """Lets questions go at most so often."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 0.0 if per_minute is None else 60.0 / per_minute
        self.lock, self.next = threading.Lock(), 0.0

    def wait(self, stop: threading.Event) -> bool:
        """Wait for one's turn; False when the work was stopped meanwhile."""
        with self.lock:
            now = time.monotonic()
            mine = max(now, self.next)
            self.next = mine + self.gap
        return not stop.wait(max(0.0, mine - now))


def _data_url(image: Image.Image) -> str:
    """The picture as PNG: markers are single pixels, which no lossy form keeps."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asks to wait, if it says."""
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _short(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:200]
