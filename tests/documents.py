"""The commands of the documents: how they are written down, found, and checked by the program's own parser.

A command stands in a fence of language `sh`, Python in one of language `python`. Both run in a test, page by page in a
folder of its own, one fence after the other, unless a comment on the line before the fence says otherwise:

    <!-- norun: needs a GPU -->     is not run, and says why; it is parsed all the same
    <!-- slow -->                   is run by `make test-all` alone, as is all that comes after it on the page
    <!-- prints -->                 before a fence of text: what the fence above it prints, figures apart

`title="mine.yaml"` behind a fence's language: it is that file, which is there before the page runs.
"""

from __future__ import annotations

import re
import shlex
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import typer

from depthlm.cli import app
from depthlm.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(
    r"^(?: *<!-- *(?P<mark>[^\n]*?) *-->\n)?(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_INLINE = re.compile(r"`((?:depthlm|python|make) [^`]+)`")
_MARK = re.compile(r"norun: \S.*|slow|prints")
_COMMAND = re.compile(
    r"^ *(?:\$ )?(?:depthlm|python3?|make|pip|torchrun|accelerate|vllm|transformers|curl|mkdocs) \S", re.M
)


class DocumentError(AssertionError):
    """What is wrong in a document, and where."""


@dataclass(frozen=True)
class Block:
    """One fence of a page."""

    page: Path
    line: int  # of its first line of text
    language: str
    title: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language in ("sh", "python") and not self.mark.startswith("norun")


def read_blocks(page: Path) -> list[Block]:
    """Every fence of a page, in order. Raises DocumentError for a mark that nobody knows."""
    text, found = page.read_text(), []
    for match in _FENCE.finditer(text):
        info, mark = match["info"].strip(), match["mark"] or ""
        title = re.search(r'title="([^"]+)"', info)
        line = text[: match.start("text")].count("\n") + 1
        block = Block(page, line, info.split(" ")[0], title[1] if title else "", mark, textwrap.dedent(match["text"]))
        if mark and not _MARK.fullmatch(mark):
            raise DocumentError(f"{block.where}: {mark!r} is none of: norun: REASON, slow, prints")
        found.append(block)
    return found


def hidden_commands(block: Block) -> list[str]:
    """Lines of a fence of another language that are commands: nothing would check them there."""
    return [] if block.language == "sh" else [found for found in block.text.splitlines() if _COMMAND.match(found)]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell fence, comments left out, continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def inline_commands(page: Path) -> list[str]:
    """Commands named in running text."""
    return [" ".join(found.split()) for found in _INLINE.findall(_FENCE.sub("", page.read_text()))]


def check_command(words: list[str]) -> None:
    """A command of ours is what the parser takes, a script is there, a target is in the Makefile.

    Raises DocumentError for our own commands; of other programs nothing is known, and nothing is checked.
    """
    words = [word for k, word in enumerate(words) if not (k == 0 and re.fullmatch(r"\w+=\S*", word))]
    if "depthlm" in words and (words[0] == "depthlm" or words[words.index("depthlm") - 1] == "-m"):
        parse(words[words.index("depthlm") + 1 :])
    elif words[0] in ("python", "python3", "torchrun") and (scripts := [w for w in words if w.endswith(".py")]):
        if not (ROOT / scripts[0]).is_file():
            raise DocumentError(f"{scripts[0]}: no such script")
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        if unknown := [w for w in words[1:] if "=" not in w and w not in targets]:
            raise DocumentError(f"make {unknown[0]}: no such target")
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        wanted = re.findall(r"depthlm\[([\w,-]+)\]|^\.\[([\w,-]+)\]", " ".join(words))
        if unknown := [name for pair in wanted for name in "".join(pair).split(",") if name not in extras]:
            raise DocumentError(f"depthlm[{unknown[0]}]: no such extra")


def parse(arguments: list[str]) -> None:
    """Take arguments through the parser without running anything. Raises DocumentError where it refuses them."""
    if arguments[-1:] == ["--help"]:
        check_mention(f"depthlm {' '.join(arguments)}")
        return
    group = typer.main.get_command(app)
    try:
        context = group.make_context("depthlm", list(arguments))
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        parsed = command.make_context(name, rest, parent=context)
        if name == "train" and (ROOT / str(parsed.params["recipe"])).is_file():
            given = [word for word in parsed.params["overrides"] or () if word not in ("...", "key=value")]
            load_recipe(ROOT / str(parsed.params["recipe"]), given)
    except Exception as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        raise DocumentError(f"depthlm {' '.join(arguments)}: {message}") from None


def check_mention(text: str) -> None:
    """A command in running text may leave arguments out, but names only what there is."""
    words = text.split()
    if words[0] != "depthlm":
        check_command(words)
        return
    known = typer.main.get_command(app)
    options = {"--help", *(name for option in known.params for name in (*option.opts, *option.secondary_opts))}
    for word in words[1:]:
        if not word.startswith("-"):
            known = known.commands.get(word.strip(",.")) if hasattr(known, "commands") else known
            if known is None:
                raise DocumentError(f"{text}: no command {word!r}")
            options |= {name for option in known.params for name in (*option.opts, *option.secondary_opts)}
        elif word.startswith("--") and word.split("=")[0] not in options:
            raise DocumentError(f"{text}: no option {word}")
