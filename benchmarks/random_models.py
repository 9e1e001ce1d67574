"""Models of known size with random weights: architectures of published ones, a pinned small one, a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.models.architecture import architecture_file
from depthlm.models.card import ModelCard
from depthlm.models.families import family_of
from depthlm.models.loading import LoadedModel, image_processor_class
from depthlm.models.nano import SPECIAL_TOKENS
from depthlm.models.patch_embedding import embed_by_matrix_product
from depthlm.models.processor import ThinProcessor
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference
from depthlm.tasks import Question

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS = Path(__file__).resolve().parent / "models"
PINNED = MODELS / "qwen3vl_50m.json"
VOCABULARY = 7900
# As Qwen's: digits single, a space before a word belongs to the word.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MISTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<pad>")


def build(
    path: Path = PINNED,
    prompts: Sequence[str] = ("nano", "vlm3-depth", "depthlm"),
    *,
    layers: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_pixels: int = 1920 * 1440,
) -> LoadedModel:
    """The model of a JSON file with random weights made on the device, and a byte-level BPE trained on the prompts.

    layers: of text and vision, in place of the file's own, and no more words than the tokenizer has.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    kind = values.pop("model_type", "qwen3_vl")
    if layers is not None:
        values["text_config"] |= {"num_hidden_layers": layers, "vocab_size": 8000}
        values["vision_config"]["num_hidden_layers" if kind == "llava" else "depth"] = layers
        values["vision_config"] |= {"deepstack_visual_indexes": []} if kind == "qwen3_vl" else {}
    tokenizer = train_tokenizer(prompts, _MISTRAL if kind == "llava" else SPECIAL_TOKENS)
    if kind == "llava":
        values["image_token_index"] = tokenizer.convert_tokens_to_ids("[IMG]")
    else:
        for part in ("image_pad", "video_pad", "vision_start", "vision_end"):
            values[f"{part.removesuffix('_pad')}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|{part}|>")
    config = AutoConfig.for_model(kind, **values)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    embed_by_matrix_product(model)
    family = family_of(config)
    vision = config.vision_config
    sizes = {"merge_size": vision.spatial_merge_size} if family.images == "patches" else {}
    images = image_processor_class(family)(patch_size=vision.patch_size, **sizes)
    processor = ThinProcessor(tokenizer, images, family, max_pixels=max_pixels)
    card = ModelCard(family=family.name, grid=processor.grid, references=["text", "arrow"], prompt=prompts[-1])
    model.generation_config.eos_token_id = processor.end_id
    model.generation_config.pad_token_id = processor.pad_id
    return LoadedModel(model=model.eval(), processor=processor, card=card, path=path)


def published(name: str) -> Path:
    """The architecture of a published model, by the name of its file. Raises InputError for one that is not there."""
    if not (path := architecture_file(name)).is_file():
        raise InputError(f"--models: no {path.name} in {path.parent}")
    return path


def train_tokenizer(prompts: Sequence[str], special: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the words of the prompts."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [q.text + q.answer for name in prompts for q in questions(name, 64, 640, 480)] + ["user assistant"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ends = (
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        if "<|im_end|>" in special
        else {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)


def questions(name: str, count: int, width: int, height: int) -> list[Question]:
    """Distance questions by text (of a prompt without words for that, by arrow) about `count` points of a view."""
    prompt, rng = get_prompt(name), np.random.default_rng(1)
    camera = Camera.from_focal(600.0, width, height)
    reference = get_reference("text", 100 if name == "nano" else 2000)
    reference = reference if prompt.supports(reference) else get_reference("arrow")
    made = []
    for u, v, metres in rng.uniform((0, 0, 0.3), (width - 1, height - 1, 20), (count, 3)):
        made.append(Question(prompt.question(reference, (u, v), camera), prompt.format_answer(metres), metres))
    return made


def noise(width: int, height: int) -> Image.Image:
    """A picture: with random weights any will do."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def parameters(model: Any) -> tuple[int, int]:
    """How many in all, and in the vision tower."""
    tower = model.model.visual if hasattr(model.model, "visual") else model.model.vision_tower
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in tower.parameters())
