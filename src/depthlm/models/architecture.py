"""Which architecture a model has, without its weights: from a folder, the hub's cache, or files for published bases."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.training.recipe import Recipe

# Hub ids of the bases that recipes start from -> architectures/*.json, the sizes in their config.json.
PINNED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5vl_3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5vl_7b",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen3vl_4b",
    "mistral-community/pixtral-12b": "pixtral_12b",
    "facebook/DepthLM": "pixtral_12b",
    "facebook/VLM3-depth": "qwen3vl_4b",
}


def architecture_file(name: str) -> Path:
    """The file of a pinned architecture by its short name."""
    return Path(str(files("depthlm.models") / "architectures" / f"{name}.json"))


def read_architecture(name: str) -> Any:
    """The transformers config of a pinned architecture."""
    from transformers import AutoConfig

    values = json.loads(architecture_file(name).read_text(encoding="utf-8"))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def find_config(recipe: Recipe) -> Any:
    """The transformers config of what a recipe starts from; no weights are read and nothing is downloaded.

    Raises InputError for a hub id that is neither in the cache nor pinned.
    """
    from transformers import AutoConfig

    from depthlm.models.loading import read_config
    from depthlm.models.locate import NANO_FOLDER
    from depthlm.models.nano import build_tokenizer, network_config

    if recipe.model == "new-nano":
        return network_config(build_tokenizer(), recipe.nano)
    folder = NANO_FOLDER if recipe.model == "nano" else Path(recipe.model)
    if folder.is_dir():
        return read_config(folder)
    if recipe.model in PINNED:
        return read_architecture(PINNED[recipe.model])
    try:
        return AutoConfig.from_pretrained(recipe.model, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{recipe.model} is no folder, not in the hub's cache and none of the bases whose sizes are known here "
            f"({', '.join(PINNED)}); download it first or name a folder"
        ) from error


def empty_model(config: Any) -> Any:
    """The model of a config with parameters that have shapes and no memory."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
