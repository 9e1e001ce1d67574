"""Tiny checkpoints of every model family: random weights, real tokenizer files, the standard on-disk layout.

No weights can be downloaded where this is tested, so the real loading code meets these. To try the commands by hand:

    python tests/tiny.py qwen3_vl /tmp/tiny-qwen3 && depthlm eval /tmp/tiny-qwen3 ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from depthlm.models.card import ModelCard
from depthlm.models.families import FAMILIES
from depthlm.models.loading import save_model
from depthlm.models.processor import ThinProcessor

# Digits single, as in the tokenizers of Qwen and Mistral; a space before a word belongs to the word.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Not read from prompts.py: the golden token ids must not move when a prompt does.
_CORPUS = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in",
    "how far is the point at coordinates (1, 2) from the camera? final answer (meter number only, without the unit)",
    "<think> The point is around 1.23 meters away from the camera. </think>\n\n<answer> 1.23 </answer>",
    "How many meters is the point marked by the red square from the camera? system user assistant",
    "You are a helpful assistant. Points are (x, y), each normalized to [0, 2000) over the image.",
)
_QWEN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_MISTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<pad>")
_LLAVA = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
_LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{% if m.role == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
TINY_FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral", "llava")


def build_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a tiny checkpoint with depthlm.json; "llava" (CLIP vision) is one the thin processor does not know."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        return _BUILDERS[family](Path(folder))
    finally:
        torch.set_rng_state(state)


def build_tokenizer(special: tuple[str, ...], **names: Any) -> Any:
    """A byte-level BPE trained on a handful of strings."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def _qwen_tokenizer() -> tuple[Any, dict[str, int]]:
    tokenizer = build_tokenizer(_QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return tokenizer, {name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()}


def _text_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _save_qwen(family: str, folder: Path, model: Any, tokenizer: Any, patch: int, **image: Any) -> Path:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = ThinProcessor(tokenizer, Qwen2VLImageProcessorPil(patch_size=patch, **image), FAMILIES[family])
    save_model(model.eval(), processor, ModelCard(family=family, max_new_tokens=16), folder)
    return folder


def _build_qwen2_5_vl(folder: Path) -> Path:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer, ids = _qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=_text_config(
            tokenizer, rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "window_size": 56,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        **ids,
    )
    return _save_qwen("qwen2_5_vl", folder, Qwen2_5_VLForConditionalGeneration(config), tokenizer, 14)


def _build_qwen3_vl(folder: Path) -> Path:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer, ids = _qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=_text_config(tokenizer, head_dim=16, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 16,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **ids,
    )
    half = [0.5, 0.5, 0.5]
    model = Qwen3VLForConditionalGeneration(config)
    return _save_qwen("qwen3_vl", folder, model, tokenizer, 16, image_mean=half, image_std=half)


def _build_pixtral(folder: Path) -> Path:
    from transformers import LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    tokenizer = build_tokenizer(_MISTRAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    config = LlavaConfig(
        text_config={"model_type": "mistral", "head_dim": 16, "sliding_window": None, **_text_config(tokenizer)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 16,
            "image_size": 2048,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = ThinProcessor(tokenizer, PixtralImageProcessorPil(), FAMILIES["pixtral"])
    card = ModelCard(family="pixtral", focal=750.0, max_new_tokens=16)
    save_model(LlavaForConditionalGeneration(config).eval(), processor, card, folder)
    return folder


def _build_llava(folder: Path) -> Path:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from depthlm.models.full_processor import FullProcessor

    tokenizer = build_tokenizer(_LLAVA, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    config = LlavaConfig(
        text_config={"model_type": "llama", "head_dim": 16, **_text_config(tokenizer)},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": 56,
            "projection_dim": 32,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    size = {"height": 56, "width": 56}
    full = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA_TEMPLATE,
    )
    processor = FullProcessor(full, FAMILIES["auto"])
    save_model(LlavaForConditionalGeneration(config).eval(), processor, ModelCard(max_new_tokens=16), folder)
    return folder


_BUILDERS = {
    "qwen2_5_vl": _build_qwen2_5_vl,
    "qwen3_vl": _build_qwen3_vl,
    "pixtral": _build_pixtral,
    "llava": _build_llava,
}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TINY_FAMILIES:
        sys.exit(f"usage: python tests/tiny.py {{{','.join(TINY_FAMILIES)}}} FOLDER")
    print(build_tiny(sys.argv[1], Path(sys.argv[2])))
