"""Export: what a stage of a recipe shows and asks, as pictures and JSON lines that other trainers read.

The pictures are the ones that training sees (one focal length, cropped, markers drawn), and the conversations are those
of `TrainingRows` for the same recipe: row i is a pure function of (recipe, i). Parts of a fixed number of rows are made
by any process and recorded; a run that was killed finds the records and does the rest; the list of rows comes last.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.claim import RECORDS, claim, same_settings, write_json, write_text
from depthlm.errors import InputError
from depthlm.models.families import get_family
from depthlm.processes import spread
from depthlm.training.bad_samples import BadSamples
from depthlm.training.other_trainers import ROWS_FILE, ExportConfig, Facts, write_companions
from depthlm.training.stage import open_source, recipe_card, stage_card, stage_conversations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL import Image

    from depthlm.models.card import ModelCard
    from depthlm.tasks import Question
    from depthlm.training.conversations import Conversation, Conversations

SETTINGS_FILE = "export.json"
FACTS_FILE = "facts.json"
PICTURES = "images"
IMAGE = "<image>"  # where a picture stands in the text, for both trainers
_SAMPLES_PER_PART = 32
_PNG_LEVEL = 3  # twice as fast as zlib's default, files a few per cent larger
_CHAT_TOKENS = 16  # what a template adds to a message, and more
_SYSTEM_TOKENS = 32  # of the system turn that it adds by itself
# Text that one of the trainers takes for a placeholder of its own.
_PLACEHOLDERS = (IMAGE, "<video>", "<audio>", "<bbox>", "<ref-object>", "<img>")


def export(
    config: ExportConfig,
    out: Path | str,
    *,
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Facts, list[str]]:
    """Write the export to `out`, going on from what is there; returns what it holds, and a line for each bad sample.

    workers: processes. report: told how much it will be, and when data is rendered first. progress: told (samples
    done, samples in all).
    Raises InputError for data that cannot be read, more than the recipe's max_bad unusable samples, an `out` that holds
    something else, and a full disk. What is finished stays.
    """
    out = Path(out)
    conversations, card = _open(config, report)
    samples = _count(config, conversations)
    settings = _settings(config, conversations, samples)
    if (out / ROWS_FILE).exists() and same_settings(out / SETTINGS_FILE, settings, "export"):
        return _read_facts(out)
    bad = BadSamples(config.recipe.max_bad)
    for line in chain.from_iterable(getattr(source, "skipped", ()) for source in conversations.sources):
        bad.add(line)
    claim(out / SETTINGS_FILE, settings, "export")
    data = len(conversations.mixture)
    report(f"{samples} samples from {data} pictures of data; --samples or --epochs say how many")
    records: list[dict[str, Any]] = []
    progress(0, samples)
    for record in _with_workers(config, out, samples, conversations, workers):
        records.append(record)
        for line in record["skipped"]:
            bad.add(line)
        progress(sum(record["samples"] for record in records), samples)
    facts = Facts.of(records)
    lines = chain.from_iterable(record["lines"] for record in sorted(records, key=lambda record: int(record["first"])))
    try:
        write_companions(config, card, facts, out)
        write_json(out / FACTS_FILE, {"facts": dataclasses.asdict(facts), "skipped": bad.lines})
        write_text(out / ROWS_FILE, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise _unwritable(out, error) from error
    shutil.rmtree(out / RECORDS, ignore_errors=True)
    return facts, bad.lines


def _open(config: ExportConfig, report: Callable[[str], None]) -> tuple[Conversations, ModelCard]:
    """The conversations, and the card of a model that was trained on them."""
    recipe = config.recipe
    sources = [open_source(source, report, skip_bad=True) for source in recipe.data]
    card = replace(stage_card(recipe_card(recipe, sources), config.stage), family=config.family, grid=config.grid)
    return stage_conversations(recipe, config.stage, card, config.grid, sources), card


def _count(config: ExportConfig, conversations: Conversations) -> int:
    if config.epochs is None:
        return len(conversations) if config.samples is None else config.samples
    if config.samples is not None:
        raise InputError("samples and epochs both say how much is exported; give one of them")
    return max(1, round(config.epochs * len(conversations.mixture)))


def _settings(config: ExportConfig, conversations: Conversations, samples: int) -> dict[str, Any]:
    """Everything that the files depend on, as plain JSON values."""
    plain = dataclasses.asdict(config) | {"samples": samples, "epochs": None}
    plain["rows_of_data"] = [len(source) for source in conversations.sources]
    settings: dict[str, Any] = json.loads(json.dumps(plain))  # tuples become lists
    return settings


def _read_facts(out: Path) -> tuple[Facts, list[str]]:
    try:
        found = json.loads((out / FACTS_FILE).read_text(encoding="utf-8"))
        return Facts(**found["facts"] | {"pixels": tuple(found["facts"]["pixels"])}), found["skipped"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / FACTS_FILE} is damaged ({error}); remove {out} and export again") from error


def _unwritable(out: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {out}: {error.strerror or error}; make room or mend it and run again, what is finished is kept"
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _with_workers(
    config: ExportConfig, out: Path, samples: int, conversations: Conversations, workers: int
) -> Iterator[dict[str, Any]]:
    """The records of all parts, in whatever order they are finished."""
    starts = range(0, samples, _SAMPLES_PER_PART)
    parts = [_Part(config, out, first, min(first + _SAMPLES_PER_PART, samples)) for first in starts]
    if workers <= 1 or len(parts) == 1:
        return (part.run(conversations) for part in parts)
    return spread(_run_part, parts, workers, start=_open_here, arguments=(config,))


_opened: list[Conversations] = []  # of a worker process


def _open_here(config: ExportConfig) -> None:
    _opened[:] = [_open(config, lambda line: None)[0]]


def _run_part(part: _Part) -> dict[str, Any]:
    return part.run(_opened[0])


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows `first` to before `end`."""

    config: ExportConfig
    out: Path
    first: int
    end: int

    def run(self, conversations: Conversations) -> dict[str, Any]:
        """The record of the part: found, or made now."""
        path = self.out / RECORDS / f"{self.first:08d}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
        else:
            return found
        conversations.bad = BadSamples(self.config.recipe.max_bad)  # the part's own, so that its record is too
        record: dict[str, Any] = {"first": self.first, "samples": self.end - self.first, "lines": [], "pictures": []}
        record |= {"rows": 0, "questions": 0, "tokens": 0}
        try:
            for index in range(self.first, self.end):
                self._write(index, conversations.conversation(index), conversations.prompt.system, record)
            record["skipped"] = conversations.bad.lines
            write_json(path, record)
        except OSError as error:
            raise _unwritable(self.out, error) from error
        return record

    def _write(self, index: int, conversation: Conversation, system: str | None, record: dict[str, Any]) -> None:
        """The pictures and lines of one conversation."""
        pictures = conversation.draw()
        names = [self._save(picture, index, number) for number, picture in enumerate(pictures)]
        asked = conversation.questions
        together = self.config.stage.packing == "turns"
        shown = sum(image_tokens(self.config.family, self.config.grid, *picture.size) for picture in pictures)
        for questions in [asked] if together else [[question] for question in asked]:
            turns = messages(questions, len(names), system)
            record["lines"].append(json.dumps({"messages": turns, "images": names}, ensure_ascii=False))
            said = sum(len(turn["content"].encode()) + _CHAT_TOKENS for turn in turns)
            record["tokens"] = max(record["tokens"], shown + said + _SYSTEM_TOKENS)
            record["rows"] += 1
        record["questions"] += len(asked)
        record["pictures"] += [picture.size for picture in pictures]

    def _save(self, picture: Image.Image, index: int, number: int) -> str:
        """Write a picture; its name below the export's folder."""
        quality = self.config.quality
        name = f"{PICTURES}/{index // 1000:05d}/{index:08d}-{number}.{'png' if quality is None else 'jpg'}"
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if quality is None:
            picture.save(path, "PNG", compress_level=_PNG_LEVEL)
        else:
            picture.save(path, "JPEG", quality=quality, subsampling=0)  # a marker's colour is kept at its edge
        return name


def messages(questions: Sequence[Question], pictures: int, system: str | None) -> list[dict[str, str]]:
    """One conversation of as many turns as there are questions; the pictures stand before the first.

    Raises InputError for words that a trainer would take for a picture.
    """
    turns = [] if system is None else [{"role": "system", "content": system}]
    for question in questions:
        for text in (question.text, question.answer):
            if taken := [word for word in _PLACEHOLDERS if word in text]:
                raise InputError(f"{text!r} holds {taken[0]}, which other trainers take for a picture; rename it")
        turns.append({"role": "user", "content": question.text})
        turns.append({"role": "assistant", "content": question.answer})
    first = next(turn for turn in turns if turn["role"] == "user")
    first["content"] = IMAGE * pictures + first["content"]
    return turns


def image_tokens(family: str, grid: int, width: int, height: int) -> int:
    """How many tokens a picture takes, start, end and row ends included."""
    columns, rows = width // grid, height // grid
    return (columns + 1) * rows if get_family(family).images == "planes" else columns * rows + 2
