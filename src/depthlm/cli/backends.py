"""`--backend`: who answers, made from the options of `eval`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli.helpers import choose_device, load
from depthlm.errors import InputError
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference

if TYPE_CHECKING:
    from depthlm.inference.backend import Backend
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel

HF, OPENAI, CONSTANT, ORACLE = "hf", "openai", "constant", "oracle"


@dataclass(frozen=True, kw_only=True)
class RivalOptions:
    """What only a dense depth model needs. file: somebody's own; None for one of transformers."""

    file: Path | None = None
    give_focal: bool = False
    align: bool = False


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
    prompt: str | None,
    reference: str | None,
    read: str | None,
    server: ServerOptions,
    rival: RivalOptions,
    out: Path | None,
    load_options: tuple[str | None, str | None, str | None],
) -> LoadedModel | Backend:
    """The model to load (hf), or a backend. Raises InputError for options that another backend takes."""
    if prompt is not None and get_prompt(prompt).is_general and card is not None:
        raise InputError(f"--prompt {prompt} is for models not trained to measure; leave --card out")
    given = {key: value for key, value in vars(server).items() if value is not None}
    if name != OPENAI and given:
        option = {"per_minute": "rpm"}.get(next(iter(given)), next(iter(given)).replace("_", "-"))
        raise InputError(f"--{option} is for --backend openai; leave it out")
    if name == HF and card is not None:
        raise InputError("--card is for other backends; a model folder has its own depthlm.json")
    made = _make_rival(name, model, rival, load_options)
    if made is not None:
        for option, value in (("prompt", prompt), ("reference", reference), ("read", read)):
            if value is not None:
                raise InputError(f"--{option}: nothing is said to a depth model; leave it out")
        return made
    if rival.give_focal or rival.align:
        raise InputError(f"--give-focal and --align are for depth models; {model} is none, leave them out")
    if name == HF:
        loaded = load(model, *load_options)
        return loaded if prompt is None else dataclasses.replace(loaded, card=ask_in(loaded.card, prompt))
    if read is not None and name != OPENAI:
        raise InputError(f"--read chooses from a model's belief; backend {name} has none, leave it out")
    asked_as = None if card is None else load_card(card)
    if prompt is not None:
        asked_as = ask_in(asked_as, prompt)
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


def _make_rival(
    name: str, model: str, options: RivalOptions, load_options: tuple[str | None, str | None, str | None]
) -> Backend | None:
    """A dense depth model, where a file is given or MODEL is a checkpoint of one; else None."""
    if name != HF:
        if options.file is not None:
            raise InputError(f"--rival answers itself; leave --backend {name} out")
        return None
    from depthlm.models.locate import resolve_folder
    from depthlm.rivals import architecture, open_rival
    from depthlm.rivals.file import open_file

    device, dtype, revision = load_options
    if options.file is None and architecture(resolve_folder(model, revision=revision)) is None:
        return None
    from depthlm.inference.rival import RivalBackend

    if dtype not in (None, "float32"):
        raise InputError(f"--dtype {dtype}: depth models run in float32; leave it out")
    where = choose_device(device)
    if options.file is not None:
        made = open_file(options.file, model, device=where)
    else:
        made = open_rival(model, device=where, revision=revision)
    return RivalBackend(made, give_focal=options.give_focal, align=options.align)


def ask_in(card: ModelCard | None, name: str) -> ModelCard:
    """A card that asks in a prompt's words; those for models nobody trained to measure bring a whole card."""
    from depthlm.models.card import ModelCard, general_card

    prompt, known = get_prompt(name), card or ModelCard()
    if prompt.is_general:
        return general_card(prompt)
    references = [r for r in known.references if prompt.supports(get_reference(r))]
    if not references:
        raise InputError(f"--prompt {name} asks by {', '.join(prompt.questions)}; give a --card that knows one of them")
    return dataclasses.replace(known, prompt=name, references=references)


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
