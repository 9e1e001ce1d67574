"""The documents as a site: built without a warning, asking no other host for anything, holding every public name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from mkdocstrings import Inventory

from depthlm.cli import app

ROOT = Path(__file__).resolve().parents[1]
_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
_FOREIGN = re.compile(r"^(?:[a-z]+:)?//", re.I)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; --strict makes a broken link or anchor an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


class Loads(HTMLParser):
    """What a page makes a browser fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in _LOADED and (url := given.get(_LOADED[tag])):
            self.urls.append(url)
        self.urls += re.findall(r"url\(([^)]*)\)", given.get("style") or "")


def fetched(page: Path) -> list[str]:
    """Addresses that a page or a style sheet loads by itself."""
    text = page.read_text()
    styles = text if page.suffix == ".css" else "".join(re.findall(r"<style.*?</style>", text, re.S))
    urls = re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s;]+)", styles)
    if page.suffix == ".html":
        reader = Loads()
        reader.feed(text)
        urls += reader.urls
    return urls


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 20
    assert {f"{page.name}: {url}" for page in pages for url in fetched(page) if _FOREIGN.match(url)} == set()


def test_a_foreign_address_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<style>@import "https://a.example/x.css";</style><img src="//b.example/c.png"><script src="d.js">')
    assert [url for url in fetched(page) if _FOREIGN.match(url)] == ["https://a.example/x.css", "//b.example/c.png"]


@pytest.mark.slow
def test_every_command_is_on_its_page(site: Path) -> None:
    text = (site / "cli.html").read_text()
    commands = typer.main.get_command(app).commands
    assert len(commands) > 8
    for name, command in commands.items():
        assert f'id="depthlm-{name}"' in text, name
        for option in command.params:
            for long in (o for o in option.opts if o.startswith("--")):
                assert long in text, f"{name} {long}"


@pytest.mark.slow
def test_every_public_function_and_class_is_on_a_page(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        known = set(Inventory.parse_sphinx(file, domain_filter=("py",)))
    wanted = set()
    for path in (ROOT / "src/depthlm").rglob("*.py"):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        if path.name == "__main__.py":
            continue
        module = ".".join(parts[:-1] if path.name == "__init__.py" else parts)
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            wanted |= {f"{module}.{node.name}"} if public else set()
    assert len(wanted) > 400
    assert sorted(wanted - known) == []
