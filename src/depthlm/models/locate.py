"""Where a model is: `nano`, a folder or a hub id -> a folder on this disk that has everything a model needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from depthlm.errors import InputError

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / "weights" / NANO
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve_folder(path_or_id: str | Path, *, revision: str | None = None) -> Path:
    """`nano`, a folder or a hub id -> a folder on this disk, downloading if need be. Raises InputError."""
    name = str(path_or_id)
    if name == NANO and not Path(name).is_dir():
        if not NANO_FOLDER.is_dir():
            raise InputError(
                "nano: this copy of depthlm holds no weights; train them by `depthlm train recipes/nano.yaml`"
            )
        return NANO_FOLDER
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{name}: is a file; give the folder that holds config.json and the weights")
    is_hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None
    if not is_hub_id or path.parent.is_dir():
        raise InputError(f"{name}: no such model folder; give a folder, a hub id (owner/name) or {NANO}")
    return _download(name, revision)


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_HUB_FILES))
    except errors.GatedRepoError as error:
        raise InputError(
            f"{hub_id}: access is gated; accept its licence at https://huggingface.co/{hub_id}, then run"
            " `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{hub_id}: has no revision {revision!r}; see https://huggingface.co/{hub_id}/commits"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{hub_id}: not on the hub (or private: run `hf auth login`), and no folder of that name is here"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{hub_id}: no such folder here, and the hub cannot be reached ({type(error).__name__}); download it where"
            f" there is a network (`hf download {hub_id} --local-dir DIR`) and give that folder"
        ) from error


def check_folder(folder: Path) -> None:
    """One line that says what a model folder lacks."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(f"{folder}: holds a LoRA adapter only; merge it into its base model first")
        raise InputError(f"{folder}: not a model folder, config.json is missing")
    missing = []
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = [name for name in _shards(index) if not (folder / name).is_file()]
    elif not (folder / "model.safetensors").is_file():
        if any(folder.glob("*.bin")):
            raise InputError(f"{folder}: holds pickled weights only; convert them to safetensors first")
        missing.append("model.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        missing.append("preprocessor_config.json")
    if missing:
        raise InputError(f"{folder}: not a complete model folder, missing {', '.join(missing)}")


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not a readable index of weights ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """What an error says, cut to one short line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
