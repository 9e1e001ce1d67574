"""The recipes that come with the package, by name: `depthlm train nano`."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file: inside an installed package, at the root of a checkout."""
    folder = _PACKAGE / "recipes"
    if not folder.is_dir():
        folder = _PACKAGE.parents[1] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(given: Path | str) -> Path:
    """The file that was meant: itself, else the shipped one of that name.

    `nano`, `nano.yaml` and `recipes/nano.yaml` name the same, so that a command from the documents works wherever the
    package is installed.
    """
    path = Path(given)
    if path.is_file() or path.suffix not in ("", ".yaml") or path.parent not in (Path(), Path("recipes")):
        return path
    return shipped_recipes().get(path.stem, path)
