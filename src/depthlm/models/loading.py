"""Load and save checkpoints in the standard on-disk layout: a folder, a hub id, or `nano`.

Only safetensors, never a checkpoint's own code. Whatever is wrong with a folder or a hub becomes one InputError.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError
from depthlm.models.card import CARD_FILE, ModelCard, released_card
from depthlm.models.families import FAMILIES, Family, family_of, get_family, patch_grid
from depthlm.models.locate import check_folder, first_line, resolve_folder
from depthlm.view import ViewConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from depthlm.models.full_processor import FullProcessor
    from depthlm.models.processor import ThinProcessor

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A checkpoint ready to be asked.

    model: a transformers image-text-to-text model in eval mode. path: the folder it came from.
    card_source: "depthlm.json", "released" (recognised by the table) or "assumed" (defaults: answers mean little).
    """

    model: Any
    processor: ThinProcessor | FullProcessor
    card: ModelCard
    path: Path
    card_source: str = CARD_FILE

    @property
    def view_config(self) -> ViewConfig:
        """How this checkpoint wants its images."""
        official = self.card.geometry == "official"
        return ViewConfig(
            focal=self.card.focal,
            grid=self.processor.grid,
            geometry=self.card.geometry,
            max_size=None if official else self.card.max_pixels or self.processor.max_pixels,
        )


def load_model(
    path_or_id: str | Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    revision: str | None = None,
    quantize: str | None = None,
) -> LoadedModel:
    """Load `nano`, a model folder or a hub id.

    device: as torch names it. dtype: float32, bfloat16 or float16; by default float32 on CPU (bf16 weights are
    upcast) and bfloat16 elsewhere. revision: branch, tag or commit of a hub id. quantize: "int8" or "4bit".
    Raises InputError for anything that is missing, damaged, gated, unreachable or of an unknown kind.
    """
    import torch

    from depthlm.models.patch_embedding import embed_by_matrix_product

    kind = dtype or ("float32" if device.startswith("cpu") else "bfloat16")
    if kind not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    _check_device(device)
    extra = _quantization(quantize, kind, device)
    folder = resolve_folder(path_or_id, revision=revision)
    check_folder(folder)
    config = read_config(folder)
    card, source = _find_card(folder, str(path_or_id), config)
    family = _family(card, config, folder)
    processor = load_processor(folder, family, card)
    card = replace(card, family=family.name, grid=processor.grid)
    if family.images != "full" and processor.grid != patch_grid(family, config):
        raise InputError(
            f"{folder}: the image processor works on a {processor.grid} px grid but the model on"
            f" {patch_grid(family, config)} px; preprocessor_config.json and config.json do not belong together"
        )
    model = _load_weights(folder, config, dtype=getattr(torch, kind), **extra)
    embed_by_matrix_product(model)
    if quantize is None:
        model = model.to(device)
    _stop_at(model, processor)
    return LoadedModel(model=model.eval(), processor=processor, card=card, path=folder, card_source=source)


def save_model(
    model: Any,
    processor: ThinProcessor | FullProcessor,
    card: ModelCard,
    path: str | Path,
    *,
    dtype: str | None = None,
) -> None:
    """Write weights, tokenizer, preprocessor config (with the size limits) and depthlm.json; appears by rename.

    dtype: what the weights are stored as (float32, bfloat16, float16), by default as they are. A folder that is
    already there is replaced. Raises InputError when the place cannot be written.
    """
    import torch
    from safetensors import SafetensorError

    target = Path(path)
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        extra: dict[str, Any] = {}
        if dtype is not None:
            kind = getattr(torch, dtype)
            extra["state_dict"] = {
                name: tensor.to(kind) if tensor.is_floating_point() else tensor
                for name, tensor in model.state_dict().items()
            }
        with quiet():
            model.save_pretrained(work, **extra)
        if dtype is not None:
            _record_dtype(work / "config.json", dtype)
        processor.save_pretrained(work)
        replace(card, family=processor.family.name, grid=processor.grid).save(work)
        work.chmod(0o755)  # mkdtemp makes private folders
        _swap(work, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); make room or choose another folder") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def load_processor(folder: Path, family: Family, card: ModelCard) -> ThinProcessor | FullProcessor:
    """The processor of a checkpoint folder. Raises InputError when its files do not make one."""
    from depthlm.models.full_processor import FullProcessor
    from depthlm.models.processor import ThinProcessor

    try:
        if family.images == "full":
            from transformers import AutoProcessor

            whole = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            return FullProcessor(whole, family)
        tokenizer = _load_tokenizer(folder)
        image_processor = image_processor_class(family).from_pretrained(folder, local_files_only=True)
        return ThinProcessor(
            tokenizer,
            image_processor,
            family,
            resize=card.geometry == "official",
            max_pixels=card.max_pixels,
        )
    except ImportError as error:
        raise InputError(
            f"{folder}: the processor of this model family needs a package that is not installed"
            f" ({first_line(error)}); families that need none: {', '.join(n for n in FAMILIES if n != 'auto')}"
        ) from error
    except Exception as error:  # transformers and tokenizers raise bare Exceptions for damaged files
        raise InputError(f"{folder}: no usable tokenizer or image processor ({first_line(error)})") from error


# --- what a model is ------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> Any:
    """The transformers config of a model folder. Raises InputError for one that cannot be used."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged JSON, unknown model types and bad values come as many kinds
        raise InputError(f"{folder / 'config.json'}: not a usable model config ({first_line(error)})") from error


def _find_card(folder: Path, name: str, config: Any) -> tuple[ModelCard, str]:
    if (folder / CARD_FILE).is_file():
        return ModelCard.load(folder), CARD_FILE
    card = released_card(name, str(folder.resolve()), str(getattr(config, "_name_or_path", "")))
    if card is not None:
        return card, "released"
    return ModelCard(max_new_tokens=128, notes=f"no {CARD_FILE}: every setting is assumed"), "assumed"


def _family(card: ModelCard, config: Any, folder: Path) -> Family:
    found = family_of(config)
    if card.family not in ("auto", found.name):
        get_family(card.family)
        raise InputError(
            f"{folder}: {CARD_FILE} says family {card.family} but config.json is {getattr(config, 'model_type', '?')};"
            f" put {found.name} or auto there"
        )
    return found


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    legacy = folder / "chat_template.json"  # where older processors kept it
    if tokenizer.chat_template is None and legacy.is_file():
        tokenizer.chat_template = json.loads(legacy.read_text(encoding="utf-8"))["chat_template"]
    return tokenizer


def image_processor_class(family: Family) -> Any:
    """The family's image processor that needs no torchvision."""
    if family.images == "patches":
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        return Qwen2VLImageProcessorPil
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    return PixtralImageProcessorPil


def _load_weights(folder: Path, config: Any, **extra: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    try:
        with quiet():
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **extra,
            )
    except Exception as error:  # safetensors, torch and transformers each raise their own kinds
        raise InputError(f"{folder}: the weights cannot be loaded ({first_line(error)})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{folder}: the weights do not belong to config.json; {len(missing)} tensors are missing, as {missing[0]}"
        )
    return model


def _stop_at(model: Any, processor: ThinProcessor | FullProcessor) -> None:
    """Generation ends at the end token that answers are trained with, and decodes greedily."""
    settings = model.generation_config
    known = settings.eos_token_id
    ends = [] if known is None else [known] if isinstance(known, int) else list(known)
    settings.eos_token_id = [*ends, processor.end_id] if processor.end_id not in ends else ends
    settings.pad_token_id = processor.pad_id
    settings.do_sample = False
    settings.temperature = settings.top_p = settings.top_k = None


def _check_device(device: str) -> None:
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; give cpu, cuda, cuda:N or mps") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device} is not available: torch sees no CUDA GPU; use --device cpu")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {device} is not available on this machine; use --device cpu")


def _quantization(quantize: str | None, dtype: str, device: str) -> dict[str, Any]:
    if quantize is None:
        return {}
    if quantize not in ("int8", "4bit"):
        raise InputError(f"unknown quantization {quantize!r}; choose int8 or 4bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"{quantize} loading needs the package bitsandbytes; install depthlm[qlora]")
    import torch
    from transformers import BitsAndBytesConfig

    settings: dict[str, Any] = (
        {"load_in_8bit": True}
        if quantize == "int8"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": getattr(torch, dtype)}
    )
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": device}}


# --- writing --------------------------------------------------------------------------------------------------------


def _record_dtype(path: Path, dtype: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = dtype
    config["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _swap(work: Path, target: Path) -> None:
    """Put the finished folder in its place; the one that was there goes only after."""
    if not target.exists():
        work.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / "model"
    target.rename(old)
    work.rename(target)
    shutil.rmtree(old.parent, ignore_errors=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars: a library prints nothing."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
