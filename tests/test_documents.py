"""Every command of README.md and docs/ runs here, or says why not and is what the parser takes (see documents.py)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from depthlm.cli import main
from documents import (
    PAGES,
    ROOT,
    Block,
    DocumentError,
    check_command,
    check_mention,
    commands,
    hidden_commands,
    inline_commands,
    parse,
    read_blocks,
)

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted, made from rendered rooms: photo.jpg and copies, photos.jsonl, my-pictures/.

    photo.jpg is 640x480 with its focal length in EXIF; photos.jsonl is in the official form; my-pictures/ is a folder
    of pictures with depth maps in millimetres and one camera.json.
    """
    from depthlm.synth.generate import synth_rendered

    folder = tmp_path_factory.mktemp("given")
    (big,) = synth_rendered(1, seed=77, views=1, size=(640, 480), focal_range=(450.0, 450.0))
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26  # FocalLengthIn35mmFilm
    Image.fromarray(big.image).save(folder / "photo.jpg", exif=exif)
    for copy in ("frames/frame_1.jpg", "frames/frame_2.jpg", "photos/hall/0001.jpg", "a.jpg", "b.jpg"):
        (folder / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "photo.jpg", folder / copy)
    rooms, rows = synth_rendered(3, seed=78, views=2, size=(256, 192), focal_range=(200.0, 200.0)), []
    for name in ("photos", "my-pictures/images", "my-pictures/depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, room in enumerate(rooms):
        name, c = f"room{number}.jpg", room.camera
        Image.fromarray(room.image).save(folder / "photos" / name)
        shutil.copy(folder / "photos" / name, folder / "my-pictures/images")
        z = np.where(np.isfinite(room.z), room.z, 0)
        Image.fromarray((z * 1000).astype(np.uint16)).save(folder / "my-pictures/depth" / f"room{number}.png")
        uv = [(u, v) for u in range(20, 256, 50) for v in range(20, 192, 50) if z[v, u] > 0]
        depth = [float(z[v, u]) for u, v in uv]
        rows.append({"image": name, "intrinsics": [c.fx, c.fy, c.cx, c.cy], "pixel_coords": uv, "depth": depth})
    (folder / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    camera = {key: getattr(c, key) for key in ("fx", "fy", "cx", "cy", "width", "height")}
    (folder / "my-pictures/camera.json").write_text(json.dumps(camera))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_one_that_the_parser_takes(name: str) -> None:
    for block in read_blocks(ROOT / name):
        assert not hidden_commands(block), f"{block.where}: commands stand in a fence of language sh"
        for words in commands(block) if block.language == "sh" else ():
            try:
                check_command(words)
            except DocumentError as error:
                pytest.fail(f"{block.where}: {error}")
            if block.runs and words[0] != "depthlm":
                pytest.fail(f"{block.where}: the test runs depthlm alone; say <!-- norun: why --> before {words[0]}")
    for text in inline_commands(ROOT / name):
        check_mention(text)


def quick(name: str) -> list[Block]:
    """The fences of a page up to the first slow one."""
    found = read_blocks(ROOT / name)
    return found[: next((k for k, block in enumerate(found) if block.mark == "slow"), len(found))]


@pytest.mark.parametrize("name", [name for name in NAMES if any(block.runs for block in quick(name))])
def test_commands_run(name: str, given: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    run_page(quick(name), name, given, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if any(b.mark == "slow" for b in read_blocks(ROOT / name))])
def test_slow_commands_run(name: str, given: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    run_page(read_blocks(ROOT / name), name, given, tmp_path, monkeypatch, capsys)


def run_page(blocks: list[Block], name: str, given: Path, folder: Path, monkeypatch: Any, capsys: Any) -> None:
    """Run fences of a page, in order, in a folder that holds what `given` does and the page's own files."""
    shutil.copytree(given, folder, dirs_exist_ok=True)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    printed = ""
    for block in read_blocks(ROOT / name):
        if block.title:
            Path(block.title).write_text(block.text)
    for block in blocks:
        if block.mark == "prints":
            assert without_figures(block.text) == without_figures(printed), f"{block.where}: prints\n{printed}"
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), namespace)  # the documents' own words
        for words in commands(block) if block.language == "sh" else ():
            with pytest.raises(SystemExit) as caught:
                main(words[1:])
            assert caught.value.code == 0, f"{block.where}: {' '.join(words)}\n{capsys.readouterr().err}"
        printed = capsys.readouterr().out


def without_figures(text: str) -> list[str]:
    """The words of a text; figures and what they are padded with count for nothing."""
    return re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "#", text).split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nano", "photo.jpg", "--no-such"], "No such option"),
        (["measure", "nano"], "No such command"),
        (["predict", "nano", "photo.jpg", "--fov", "DEG"], "Invalid value"),
        (["eval"], "Missing argument"),
        (["train", "recipes/nano.yaml", "speed=3"], "unknown key speed"),
    ],
)
def test_what_the_parser_refuses_is_found(arguments: list[str], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse(arguments)


def test_marks_scripts_targets_and_extras_are_checked(tmp_path: Path, monkeypatch: Any) -> None:
    for words in (["python", "no/such.py"], ["make", "nothing"], ["pip", "install", "depthlm[nothing]"]):
        with pytest.raises(DocumentError, match="no such"):
            check_command(words)
    with pytest.raises(DocumentError, match="no option --budgets"):
        check_mention("depthlm map --budgets 3")
    page = tmp_path / "page.md"
    monkeypatch.setattr("documents.ROOT", tmp_path)
    page.write_text("<!-- norun -->\n```sh\ndepthlm demo\n```\n")
    with pytest.raises(DocumentError, match="none of: norun: REASON"):
        read_blocks(page)
    page.write_text("```\n$ depthlm demo\n```\n")
    assert hidden_commands(read_blocks(page)[0]) == ["$ depthlm demo"]
