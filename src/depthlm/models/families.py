"""Model families: how each names its image tokens, lays out a conversation and reads its patch grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from depthlm.errors import InputError

# Conversation layouts for checkpoints whose tokenizer brings none. Written from the families' documented formats.
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN2_5_CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + _CHATML
)
_INST = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.system = (message.content if message.content is string "
    "else message.content[0].text) + '\n\n' %}"
    "{% elif message.role == 'user' %}[INST]{{ ns.system }}{% set ns.system = '' %}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}[IMG]{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "[/INST]{% else %}{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}"
    "{% endif %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the thin processor has to know about a model family.

    images: layout of the image tensors ("patches": flat patches and image_grid_thw; "planes": padded pictures and
    image_sizes; "full": left to the family's own AutoProcessor). image_token: the placeholder of one image feature.
    start_token, end_token: what surrounds an image's placeholders (end_token replaces the last break for Pixtral).
    mrope: whether positions are 3-D and the model needs mm_token_type_ids.
    tower, blocks: where below the model's own body its vision tower is, and the lists of like blocks that
    dominate its weights (decoder layers, vision blocks): what FSDP shards and gathers one at a time.
    """

    name: str
    model_types: tuple[str, ...]
    images: Literal["patches", "planes", "full"]
    image_token: str = ""
    start_token: str | None = None
    end_token: str | None = None
    break_token: str | None = None
    turn_end: str | None = None
    mrope: bool = False
    chat_template: str | None = None
    tower: str = ""
    blocks: tuple[str, ...] = ()


_QWEN_TOKENS: dict[str, Any] = {
    "images": "patches",
    "image_token": "<|image_pad|>",
    "start_token": "<|vision_start|>",
    "end_token": "<|vision_end|>",
    "turn_end": "<|im_end|>",
    "mrope": True,
    "tower": "visual",
    "blocks": ("language_model.layers", "visual.blocks"),
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(name="qwen2_5_vl", model_types=("qwen2_5_vl",), chat_template=_QWEN2_5_CHATML, **_QWEN_TOKENS),
        Family(name="qwen3_vl", model_types=("qwen3_vl",), chat_template=_CHATML, **_QWEN_TOKENS),
        Family(
            name="pixtral",
            model_types=("llava",),
            images="planes",
            image_token="[IMG]",
            end_token="[IMG_END]",
            break_token="[IMG_BREAK]",
            turn_end="</s>",
            chat_template=_INST,
            tower="vision_tower",
            blocks=("language_model.layers", "vision_tower.transformer.layers"),
        ),
        Family(name="auto", model_types=(), images="full"),
    )
}


def family_of(config: Any) -> Family:
    """The family of a transformers config; "auto" for one we have no thin processor for."""
    model_type = getattr(config, "model_type", "")
    if model_type == "llava":
        # LLaVA with CLIP or SigLIP vision resizes every picture to one size; only Pixtral's vision is free of that.
        is_pixtral = getattr(getattr(config, "vision_config", None), "model_type", "") == "pixtral"
        return FAMILIES["pixtral" if is_pixtral else "auto"]
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    return FAMILIES["auto"]


def get_family(name: str) -> Family:
    """The family of that name. Raises InputError for an unknown one."""
    if name not in FAMILIES:
        raise InputError(f"unknown model family {name!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def patch_grid(family: Family, config: Any) -> int:
    """Side in pixels of the image region behind one image token: what view sizes must be multiples of.

    1 for families whose own processor resizes every picture anyway.
    """
    vision = getattr(config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    if isinstance(patch, (list, tuple)):
        patch = patch[0] if len(set(patch)) == 1 else None
    if not isinstance(patch, int):
        return 1
    if family.images == "patches":
        return patch * int(getattr(vision, "spatial_merge_size", 1))
    if family.images == "planes":
        return patch * int(getattr(config, "spatial_merge_size", 1))
    return 1
