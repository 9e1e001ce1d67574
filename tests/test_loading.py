"""Model folders and hub ids: what loads, what is written, and the one line for everything that does not load."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from depthlm.errors import InputError
from depthlm.models import loading, locate
from depthlm.models.card import CARD_FILE, RELEASED, ModelCard, released_card
from depthlm.models.loading import load_model, save_model
from depthlm.models.locate import resolve_folder
from tiny import TINY_FAMILIES, build_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {family: build_tiny(family, folder / family) for family in TINY_FAMILIES}


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["qwen3_vl"], tmp_path / "model"))


def answers(model: Any) -> torch.Tensor:
    grid = model.processor.grid if model.processor.grid > 1 else 28
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (2 * grid, 3 * grid, 3), dtype=np.uint8))
    batch = model.processor.collate([model.processor.encode([image], "How far?")])
    batch.pop("labels")
    with torch.inference_mode():
        return model.model(**batch).logits


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_saved_and_loaded_again_is_the_same_model(made: dict[str, Path], family: str, tmp_path: Path) -> None:
    first = load_model(made[family])
    save_model(first.model, first.processor, first.card, tmp_path / "again")
    again = load_model(tmp_path / "again")
    torch.testing.assert_close(answers(again), answers(first), atol=0, rtol=0)
    assert again.card == first.card
    assert again.processor.tokenizer.get_vocab() == first.processor.tokenizer.get_vocab()
    assert again.processor.render(1, "Q", "S") == first.processor.render(1, "Q", "S")
    assert [p.name for p in tmp_path.iterdir()] == ["again"]  # no temporary folder is left


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("qwen2_5_vl", {"shortest_edge": 28 * 28, "longest_edge": 16384 * 28 * 28}),
        ("qwen3_vl", {"shortest_edge": 32 * 32, "longest_edge": 16384 * 32 * 32}),
        ("pixtral", {"longest_edge": 8192}),
    ],
)
def test_size_limits_are_written_down(made: dict[str, Path], family: str, size: dict[str, int]) -> None:
    config = json.loads((made[family] / "preprocessor_config.json").read_text())
    assert config["size"] == size
    assert not config["image_processor_type"].endswith("Pil")  # the name that other tools know


def test_max_pixels_of_the_card_reaches_the_processor_and_the_views(copy: Path) -> None:
    edit(copy / CARD_FILE, max_pixels=64 * 64)
    model = load_model(copy)
    assert model.view_config.max_size == 64 * 64
    assert model.processor.fits(64, 64)
    assert not model.processor.fits(96, 64)


def test_generation_stops_at_the_trained_end_token(copy: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 3, "do_sample": True, "temperature": 0.7}))
    settings = load_model(copy).model.generation_config
    assert settings.eos_token_id == [3, load_model(copy).processor.end_id]
    assert settings.do_sample is False


def test_bf16_on_disk_is_float32_on_cpu(made: dict[str, Path], tmp_path: Path) -> None:
    first = load_model(made["qwen3_vl"])
    save_model(first.model, first.processor, first.card, tmp_path / "half", dtype="bfloat16")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert first.model.dtype == torch.float32  # saving does not change the model in memory
    half = load_model(tmp_path / "half")
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    torch.testing.assert_close(answers(half), answers(first), atol=2e-2, rtol=0)
    assert load_model(tmp_path / "half", dtype="bfloat16").model.dtype == torch.bfloat16


def test_save_replaces_a_folder_whole(made: dict[str, Path], copy: Path) -> None:
    (copy / "stale.txt").write_text("old")
    model = load_model(made["qwen3_vl"])
    save_model(model.model, model.processor, model.card, copy)
    assert not (copy / "stale.txt").exists()
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]
    load_model(copy)


def test_a_failed_save_leaves_the_old_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(copy)
    before = sorted(p.name for p in copy.iterdir())

    def full_disk(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.processor, "save_pretrained", full_disk)
    with pytest.raises(InputError, match="cannot be written .*No space left"):
        save_model(model.model, model.processor, model.card, copy)
    assert sorted(p.name for p in copy.iterdir()) == before
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]


def test_unwritable_place(copy: Path) -> None:
    model = load_model(copy)
    with pytest.raises(InputError, match="cannot be written"):
        save_model(model.model, model.processor, model.card, copy / "config.json" / "out")


# --- bad folders ----------------------------------------------------------------------------------------------------


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def forget_tensor(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lora(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")


def half_of_the_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("config.json"), "not a model folder, config.json is missing"),
        (drop("model.safetensors"), "missing model.safetensors"),
        (drop("tokenizer.json"), "missing tokenizer.json"),
        (drop("preprocessor_config.json"), "missing preprocessor_config.json"),
        (only_pickle, "pickled weights only"),
        (lora, "LoRA adapter only"),
        (half_of_the_shards, "missing model-00002-of-00002.safetensors"),
        (cut("model.safetensors", 1000), "weights cannot be loaded"),
        (cut("model.safetensors", 0), "weights cannot be loaded"),
        (forget_tensor, "1 tensors are missing"),
        (cut("config.json", 20), "not a usable model config"),
        (cut("tokenizer.json", 50), "no usable tokenizer or image processor"),
        (cut("preprocessor_config.json", 10), "no usable tokenizer or image processor"),
        (lambda f: edit(f / "config.json", model_type="mamba9"), "not a usable model config"),
        (lambda f: edit(f / "preprocessor_config.json", patch_size=14), "28 px grid but the model on 32 px"),
        (lambda f: edit(f / CARD_FILE, colour="red"), "unknown key colour; the keys are calibration, coordinate_range"),
        (lambda f: edit(f / CARD_FILE, prompt="gpt"), "prompt is 'gpt'; choose one of"),
        (lambda f: edit(f / CARD_FILE, focal=0), "focal is 0; expected a positive number"),
        (lambda f: edit(f / CARD_FILE, focal=float("nan")), "focal is nan"),
        (lambda f: edit(f / CARD_FILE, references=[]), "references is empty"),
        (lambda f: edit(f / CARD_FILE, references=["laser"]), r"references\[0\] is 'laser'"),
        (lambda f: edit(f / CARD_FILE, references="arrow"), "references is 'arrow'; expected a list"),
        (lambda f: edit(f / CARD_FILE, coordinate_range="2000"), "coordinate_range is '2000'"),
        (lambda f: edit(f / CARD_FILE, label="metres"), "label is 'metres'; choose one of distance, z"),
        (lambda f: edit(f / CARD_FILE, family="pixtral"), "says family pixtral but config.json is qwen3_vl"),
        (lambda f: edit(f / CARD_FILE, family="gpt"), "unknown model family 'gpt'"),
        (cut(CARD_FILE, 30), "not a readable model card"),
        (lambda f: (f / CARD_FILE).write_text("[]"), "expected a JSON object"),
    ],
)
def test_wrong_folder_is_one_line(copy: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(copy)
    with pytest.raises(InputError, match=message) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such model folder; give a folder, a hub id"),
        ("/no/such/folder", "no such model folder"),
        ("../x/y", "no such model folder"),
        ("", "no such model folder|not a model folder|config.json is missing"),
        ("tests/typo", "no such model folder"),
    ],
)
def test_no_folder(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_model(name)


def test_a_file_is_no_folder(made: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="is a file; give the folder"):
        load_model(made["pixtral"] / "config.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"dtype": "int3"}, "unknown dtype 'int3'; choose one of float32"),
        ({"quantize": "2bit"}, "unknown quantization '2bit'; choose int8 or 4bit"),
    ],
)
def test_bad_options(made: dict[str, Path], options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(made["qwen3_vl"], **options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(made: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="device cuda is not available"):
        load_model(made["qwen3_vl"], device="cuda")


def test_quantized_loading_without_bitsandbytes(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="needs the package bitsandbytes"):
        load_model(made["qwen3_vl"], quantize="4bit")


def test_nano_without_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "NANO_FOLDER", tmp_path / "none")
    with pytest.raises(InputError, match="depthlm train recipes/nano.yaml"):
        load_model("nano")


def test_nano_is_the_packages_own_folder(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locate, "NANO_FOLDER", copy)
    assert load_model("nano").path == copy


# --- hubs -----------------------------------------------------------------------------------------------------------


def test_offline_hub_gives_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: the hub's client, an empty cache and no network beyond this machine."""
    from huggingface_hub import constants

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="hub cannot be reached .*hf download facebook/DepthLM --local-dir DIR"):
        resolve_folder("facebook/DepthLM")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "GatedRepoError",
            "access is gated; accept its licence at https://huggingface.co/facebook/DepthLM, .*HF_TOKEN",
        ),
        ("RepositoryNotFoundError", "not on the hub .*no folder of that name"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("LocalEntryNotFoundError", "hub cannot be reached"),
        ("OfflineModeIsEnabled", "hub cannot be reached"),
    ],
)
def test_hub_errors_are_one_line(kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    error_type = getattr(errors, kind)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise error_type.__new__(error_type)  # their constructors want a server's response

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_model("facebook/DepthLM", revision="v9")
    assert "\n" not in str(caught.value)


def test_hub_id_of_a_released_checkpoint(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download is replaced by a tiny Pixtral without depthlm.json, as the release has none."""
    import huggingface_hub

    folder = Path(shutil.copytree(made["pixtral"], tmp_path / "snapshot"))
    (folder / CARD_FILE).unlink()
    asked: dict[str, Any] = {}

    def download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    model = load_model("facebook/DepthLM", revision="abc")
    assert (asked["hub_id"], asked["revision"]) == ("facebook/DepthLM", "abc")
    assert not any("py" in pattern or "bin" in pattern for pattern in asked["allow_patterns"])
    assert model.card_source == "released"
    assert (model.card.focal, model.card.geometry, model.card.references) == (750.0, "official", ["arrow"])
    assert model.processor.resize


def test_unknown_checkpoint_without_card_is_marked_as_assumed(copy: Path) -> None:
    (copy / CARD_FILE).unlink()
    model = load_model(copy)
    assert model.card_source == "assumed"
    assert "assumed" in model.card.notes
    assert (model.card.family, model.card.grid) == ("qwen3_vl", 32)


@pytest.mark.parametrize(
    ("names", "hub_id"),
    [
        (("facebook/DepthLM",), "facebook/DepthLM"),
        (("FACEBOOK/depthlm",), "facebook/DepthLM"),
        (("x", "/data/facebook/VLM3-depth/"), "facebook/VLM3-depth"),
        (("/c/hub/models--facebook--DepthLM/snapshots/0a1b",), "facebook/DepthLM"),
        (("/home/me/DepthLM",), None),
        (("someone/DepthLM",), None),
        (("facebook/DepthLM-finetuned",), None),
        (("",), None),
    ],
)
def test_released_checkpoints_are_recognised_by_their_whole_name(names: tuple[str, ...], hub_id: str | None) -> None:
    assert released_card(*names) == (RELEASED[hub_id] if hub_id else None)


def test_card_round_trip(tmp_path: Path) -> None:
    card = ModelCard(
        family="qwen3_vl", focal=160.0, references=["text"], coordinate_range=100, label="z", half_pixel=True
    )
    card.save(tmp_path)
    assert ModelCard.load(tmp_path) == card
