"""What comes with a model or a data set is data: no code of a checkpoint runs, nothing is unpickled."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli_runner import run
from depthlm.errors import InputError
from depthlm.inference.shape import predict_shape
from depthlm.models.loading import load_model

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path for room in ("src", "recipes", "benchmarks", "examples") for path in sorted((ROOT / room).rglob("*.py"))
]
PICKLES = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
_AUTO = {"AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoModel"}


def calls(path: Path) -> list[tuple[str, dict[str, Any], int]]:
    """(what is called, its keyword arguments, line) of a file; None for an argument that is no constant."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords if k.arg}
            found.append((ast.unparse(node.func), keywords, node.lineno))
    return found


def complaints(path: Path) -> list[str]:
    tree, wrong = ast.parse(path.read_text()), []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        wrong += [f"{path.name}: imports {name}" for name in names if name.split(".")[0] in PICKLES]
    for name, keywords, line in calls(path):
        where = f"{path.name}:{line}: {name}"
        if keywords.get("trust_remote_code"):
            wrong.append(f"{where} trusts remote code")
        if name.endswith("torch.load") and keywords.get("weights_only") is not True:
            wrong.append(f"{where} may unpickle")
        if name.endswith("np.load") and keywords.get("allow_pickle"):
            wrong.append(f"{where} may unpickle")
        if name in ("eval", "exec", "os.system") or keywords.get("shell"):
            wrong.append(f"{where} runs text")
        if name == "yaml.load" and "Loader" not in keywords:
            wrong.append(f"{where} builds objects")
        owner, _, method = name.rpartition(".")
        automatic = any(owner.startswith(auto) for auto in _AUTO) and method == "from_pretrained"
        if (automatic or name == "pipeline") and keywords.get("trust_remote_code") is not False:
            wrong.append(f"{where} asks somebody whether to trust remote code")
        if (
            owner.startswith(("AutoModel", "model_class"))
            and method == "from_pretrained"
            and keywords.get("use_safetensors") is not True
        ):
            wrong.append(f"{where} may load pickled weights")
    return wrong


def test_no_file_loads_what_could_run() -> None:
    assert len(SOURCES) > 100
    assert [line for path in SOURCES for line in complaints(path)] == []


def test_the_search_finds_what_it_is_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import pickle\nfrom joblib import load\ntorch.load(x)\nnp.load(x, allow_pickle=True)\neval('1')\n"
        "AutoModel.from_pretrained(x)\npipeline('x')\nyaml.load(x)\nrun(x, shell=True)\nf(trust_remote_code=True)\n"
    )
    assert len(complaints(bad)) == 11


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def code_of_its_own(model: Path, sign: Path) -> None:
    """config.json names classes in a file beside it."""
    config = json.loads((model / "config.json").read_text())
    names = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": names}))
    write_code(model, sign)


def tokenizer_of_its_own(model: Path, sign: Path) -> None:
    path = model / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    write_code(model, sign)


def write_code(model: Path, sign: Path) -> None:
    (model / "own.py").write_text(
        f"from pathlib import Path\nPath({str(sign)!r}).touch()\nConfig = Model = Tokenizer = None\n"
    )


def pickled(model: Path, sign: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"w": Touch(sign)}, model / "pytorch_model.bin")


def pickled_behind_a_good_name(model: Path, sign: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Touch(sign)))


@pytest.mark.parametrize("harm", [code_of_its_own, tokenizer_of_its_own, pickled, pickled_behind_a_good_name])
def test_a_model_folder_runs_nothing(tmp_path: Path, tiny_model: Path, harm: Callable[[Path, Path], None]) -> None:
    model, sign = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_model, model)
    harm(model, sign)
    if harm is tokenizer_of_its_own:
        load_model(model)  # its tokenizer.json is enough
    else:
        with pytest.raises(InputError, match="model"):
            load_model(model)
    assert not sign.exists()
    with pytest.raises(InputError, match="no depth-estimation model"):
        predict_shape(str(model), None)  # type: ignore[arg-type]
    assert not sign.exists()


def test_a_data_set_runs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Depth maps as arrays of objects are refused, not unpickled."""
    from PIL import Image

    sign, data = tmp_path / "ran", tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "depth").mkdir()
    Image.new("RGB", (8, 6)).save(data / "images" / "a.png")
    np.save(data / "depth" / "a.npy", np.array([Touch(sign)] * 48, dtype=object).reshape(6, 8), allow_pickle=True)
    (data / "camera.json").write_text(json.dumps({"fx": 8, "fy": 8, "cx": 4, "cy": 3, "width": 8, "height": 6}))
    status, _, err = run(capsys, "curate", "folder", data, tmp_path / "out", "--strict", "--workers", 1)
    assert status == 2, err
    assert "a.npy" in err
    assert not sign.exists()
