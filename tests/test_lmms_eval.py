"""The plug-in for lmms-eval: the same answers have the same score there as in `depthlm eval`, to the last digit."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import ChatServer
from cli_runner import run
from depthlm.errors import InputError
from environments import make_environment

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "integrations" / "lmms_eval"
LMMS_EVAL = "lmms-eval==0.7.3"
# What of its ninety dependencies a run asks for that we do not have. It patches a private part of filelock.
NEEDS = ["datasets", "evaluate", "jsonlines", "loguru", "python-dotenv", "pytablewriter", "sacrebleu", "tenacity",
         "filelock<3.20"]  # fmt: skip
METRICS = ("delta1", "absrel", "rmse", "floor_delta1")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with lmms-eval and all that this one has."""
    folder, pins = tmp_path_factory.mktemp("harness") / "venv", ["-c", str(ROOT / "constraints.txt")]
    try:
        return make_environment(folder, ["--no-deps", LMMS_EVAL], [*pins, *NEEDS])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{LMMS_EVAL} cannot be installed: {error.stderr}")


@pytest.fixture
def utils() -> Any:
    """The module that the yaml names."""
    spec = importlib.util.spec_from_file_location("plugin_utils", PLUGIN / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(body: dict[str, Any]) -> str:
    """What depends on every word and every pixel that was sent, and on nothing else."""
    seen = hashlib.sha256()
    for turn in body["messages"]:
        content = turn["content"]
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if part["type"] == "text":
                seen.update(part["text"].encode())
            else:
                png = base64.b64decode(part["image_url"]["url"].split(",", 1)[1])
                seen.update(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).tobytes())
    number = seen.digest()[0]
    if number < 32:
        return "no idea"
    if number < 64:
        return f"<think>About {number / 16:.2f} meters.</think>"  # lmms-eval by itself would cut it out
    return f"<think>Hm.</think>\n\n<answer>{0.8 + number / 60:.2f}</answer>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"CARD": "nano"}, ["--card", "nano"]),
        (
            {"REFERENCE": "arrow", "TASK": "z", "SEED": "3"},
            ["--prompt", "general", "--reference", "arrow", "--task", "z", "--seed", "3"],
        ),
    ],
    ids=["nano by text", "general by arrow"],
)
def test_the_harness_scores_as_eval_does(
    harness: Path, settings: dict[str, str], options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "synth", tmp_path / "shards", "--scenes", 3, "--views", 1, "--points", 40)[0] == 0
    environment = {f"DEPTHLM_{name}": value for name, value in settings.items()} | {
        "DEPTHLM_POINTS": "60", "PYTHONPATH": str(ROOT / "src"), "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }  # fmt: skip
    server = ChatServer(answer)
    try:
        done = subprocess.run(
            [harness, "-m", "lmms_eval", "--model", "openai", "--model_args", f"model=test,base_url={server.url}",
             "--tasks", "depthlm", "--include_path", PLUGIN, "--output_path", "out"],
            cwd=tmp_path, capture_output=True, text=True, env=os.environ | environment,
        )  # fmt: skip
        found = list((tmp_path / "out").rglob("*_results.json"))
        assert found, done.stderr[-3000:] + done.stdout[-3000:]
        status, out, err = run(
            capsys, "eval", "test", tmp_path / "shards", "--backend", "openai", "--base-url", server.url,
            "--points", 60, "--json", *options,
        )  # fmt: skip
        assert status == 0, err
    finally:
        server.stop()
    there, here = json.loads(found[0].read_text())["results"]["depthlm"], json.loads(out)
    assert here["n"] == 60
    assert server.requests == 120
    assert {name: there[f"{name},none"] for name in METRICS} == pytest.approx({name: here[name] for name in METRICS})
    assert there["unparsed,none"] == here["n_unparsed"] / here["n"] > 0
    assert 0 < here["delta1"] < 1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TASK", "speed", "DEPTHLM_TASK is 'speed'; expected distance or z"),
        ("TASK", "depth", "task 'depth'"),
        ("POINTS", "many", "DEPTHLM_POINTS is 'many'; expected a whole number"),
        ("ANSWERS", "metres", "'metres'; choose distance or z"),
        ("PROMPT", "nothing", "unknown prompt 'nothing'"),
        ("CARD", "/nowhere", "/nowhere"),
    ],
)
def test_settings_that_cannot_be(utils: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(f"DEPTHLM_{name}", value)
    with pytest.raises(InputError, match=told):
        utils.settings()


def test_models_are_asked_in_general_words_unless_a_card_says_more(utils: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    card, config = utils.settings()
    assert (card.prompt, card.geometry, config.points, config.task) == ("general", "native", 8192, "distance")
    monkeypatch.setenv("DEPTHLM_CARD", "nano")
    assert utils.settings()[0].prompt == "nano"
