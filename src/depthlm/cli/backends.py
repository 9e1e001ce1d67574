"""`--backend`: who answers, made from the options of `eval`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli.helpers import load
from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.inference.backend import Backend
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel

HF, OPENAI, CONSTANT, ORACLE = "hf", "openai", "constant", "oracle"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What only a server needs; None where the option was not given."""

    base_url: str | None = None
    concurrency: int | None = None
    timeout: float | None = None
    retries: int | None = None
    per_minute: float | None = None
    cache: Path | None = None
    body: str | None = None


def make_backend(
    name: str,
    model: str,
    *,
    card: str | None,
    reference: str | None,
    read: str | None,
    server: ServerOptions,
    out: Path | None,
    load_options: tuple[str | None, str | None, str | None],
) -> LoadedModel | Backend:
    """The model to load (hf), or a backend. Raises InputError for options that another backend takes."""
    given = {key: value for key, value in vars(server).items() if value is not None}
    if name != OPENAI and given:
        option = {"per_minute": "rpm"}.get(next(iter(given)), next(iter(given)).replace("_", "-"))
        raise InputError(f"--{option} is for --backend openai; leave it out")
    if name == HF:
        if card is not None:
            raise InputError("--card is for other backends; a model folder has its own depthlm.json")
        return load(model, *load_options)
    if read is not None and name != OPENAI:
        raise InputError(f"--read chooses from a model's belief; backend {name} has none, leave it out")
    asked_as = None if card is None else load_card(card)
    if name == CONSTANT:
        from depthlm.inference.bounds import ConstantBackend

        return ConstantBackend(model, asked_as, reference=reference)
    if name == ORACLE:
        from depthlm.inference.bounds import OracleBackend

        return OracleBackend(asked_as, reference=reference)
    from depthlm.inference.server import ServerBackend

    if server.base_url is None:
        raise InputError("--backend openai needs --base-url, such as http://localhost:8000/v1")
    settings: dict[str, Any] = given | {"cache": server.cache or (out and out.with_name(f"{out.name}.answers.jsonl"))}
    if server.body is not None:
        settings["body"] = _json_object(server.body)
    return ServerBackend(model, card=asked_as, reference=reference, read=read, **settings)


def load_card(where: str) -> ModelCard:
    """The card of `nano`, a model folder, or a depthlm.json."""
    from depthlm.models.card import CARD_FILE, ModelCard
    from depthlm.models.locate import resolve_folder

    path = Path(where)
    return ModelCard.load(path.parent if path.name == CARD_FILE else resolve_folder(where))


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--body is no JSON ({error}); give an object such as '{{\"seed\": 1}}'") from None
    if not isinstance(value, dict):
        raise InputError(f"--body is {text!r}; expected a JSON object such as '{{\"seed\": 1}}'")
    return value


def cost_line(backend: Any, price: str | None) -> str | None:
    """What a server was asked, in words, with its price where `price` gives dollars per million tokens IN,OUT."""
    usage = getattr(backend, "usage", lambda: None)()
    if usage is None:
        return None
    line = (
        f"{usage['questions']} questions, {usage['prompt_tokens']} tokens in, {usage['completion_tokens']} tokens out"
    )
    if price is None:
        return line
    into, out = parse_price(price)
    dollars = (usage["prompt_tokens"] * into + usage["completion_tokens"] * out) / 1e6
    return f"{line}, {dollars:.4f} dollars"


def parse_price(text: str) -> tuple[float, float]:
    """IN,OUT dollars per million tokens. Raises InputError for anything else."""
    try:
        into, out = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--price {text!r} is not IN,OUT; give dollars per million tokens, such as 2.5,10") from None
    if not (0 <= into < 1e6 and 0 <= out < 1e6):
        raise InputError(f"--price {text!r} is no pair of prices; give dollars per million tokens, such as 2.5,10")
    return into, out
