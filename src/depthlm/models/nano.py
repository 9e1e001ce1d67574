"""nano: the embedded model. A Qwen3-VL architecture of a few million parameters with its own small tokenizer.

It is built here with random weights and trained by `depthlm train recipes/nano.yaml`; the trained weights ship in
`models/weights/nano` and load through the same path as any Qwen3-VL checkpoint.

Two choices make it learn in hours on a CPU where a general tokenizer would not:

* a number of two significant digits is ONE token ("2.3", "0.47", "12"), so that the answer is decided by one soft-max;
* a text coordinate is ONE token per axis ("x43", "y7"), R = 100 levels, so that pointing needs no digit arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel

COORDINATE_RANGE = 100
POSITIONS_PER_SIDE = 16  # of the vision encoder's position table, which is interpolated to every image

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
COLOURS = ("black", "white", "grey", "red", "orange", "brown", "yellow", "green", "cyan", "blue", "purple", "pink")
WORDS = (
    "user assistant system You are a helpful assistant . , ? how far is the point at pointed by red arrow square cross "
    "distance depth what surface colour where nearer or first second in metres meters from camera answer "
    "floor wall ceiling door window chair table sofa bed shelf cupboard person car road lane pavement house lamp tree "
    "grass skirting switch socket book box plant "
    "ball bin books carton clock desk fridge kitchen picture pillar radiator rug tv "
    "speed time to per seconds / = between and of moved turned much width height wider taller bigger left right above "
    "below behind front up down forward backward yaw pitch roll"
).split()

# One turn is `<|im_start|>role content`; the end token closes answers only, so that a question costs few tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}"
    "{% if message['content'] is string %} {{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


@dataclass(kw_only=True)
class NanoConfig:
    """Size of a nano model; the defaults are the shipped one."""

    hidden: int = 192
    """Width of the language model."""
    layers: int = 4
    """Depth of the language model."""
    heads: int = 6
    """Attention heads of the language model (half as many key-value heads)."""
    vision_hidden: int = 192
    """Width of the vision encoder."""
    vision_layers: int = 8
    """Depth of the vision encoder."""
    vision_heads: int = 6
    """Attention heads of the vision encoder."""
    patch: int = 16
    """Patch side in pixels before merging."""
    merge: int = 1
    """Patches merged per side into one image token: the patch grid is patch * merge."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"{field.name} is {getattr(self, field.name)}; expected 1 or more")
        if self.heads % 2:
            raise InputError(f"heads is {self.heads}; expected an even number: two share their keys and values")
        for name, width, heads in (
            ("hidden", self.hidden, self.heads),
            ("vision_hidden", self.vision_hidden, self.vision_heads),
        ):
            if width % (2 * heads):
                raise InputError(f"{name} is {width}; expected a multiple of twice its {heads} heads")


def number_words() -> list[str]:
    """Every number of two significant digits from 0.010 to 190: the vocabulary of answers."""
    return (
        [f"0.0{k}" for k in range(10, 100)]
        + [f"0.{k}" for k in range(10, 100)]
        + [f"{k // 10}.{k % 10}" for k in range(10, 100)]
        + [str(k) for k in range(10, 100)]
        + [f"{k}0" for k in range(10, 20)]
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer whose whole words are the vocabulary above; any other text falls back to bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    mark = "\u2581"  # Metaspace: a piece that begins a word
    whole = [mark + word for word in dict.fromkeys([*WORDS, *COLOURS, *number_words(), "0", "10.0"])]
    whole += ["user", "assistant", "system"]  # roles stand right after <|im_start|>, without a space
    whole += [f"{mark}{axis}{k}" for axis in "xy" for k in range(COORDINATE_RANGE)]
    letters = [mark, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!()<>/-+=*'\"_"]
    # A word costs 1, a letter 5, a byte 10: the cheapest reading of a known word is always the word itself.
    vocab = [("<unk>", -100.0), *((word, -1.0) for word in whole), *((letter, -5.0) for letter in letters)]
    vocab += [(f"<0x{byte:02X}>", -10.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=mark, prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace(replacement=mark, prepend_scheme="never")]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def network_config(tokenizer: PreTrainedTokenizerFast, config: NanoConfig) -> Qwen3VLConfig:
    """The architecture in transformers' terms."""
    from transformers import Qwen3VLConfig

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    head_dim = config.hidden // config.heads
    side = head_dim // 6  # share of the rotary pairs that carry rows, and columns; the rest carries time
    text: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": config.hidden,
        "intermediate_size": config.hidden * 8 // 3 // 16 * 16,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads // 2,
        "head_dim": head_dim,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head_dim // 2 - 2 * side, side, side],
            "mrope_interleaved": True,
        },
        "pad_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "initializer_range": config.hidden**-0.5,  # the usual 0.02 is meant for widths of thousands
    }
    vision: dict[str, Any] = {
        "depth": config.vision_layers,
        "hidden_size": config.vision_hidden,
        "intermediate_size": 4 * config.vision_hidden,
        "num_heads": config.vision_heads,
        "patch_size": config.patch,
        "spatial_merge_size": config.merge,
        "temporal_patch_size": 2,
        "out_hidden_size": config.hidden,
        "num_position_embeddings": POSITIONS_PER_SIDE**2,
        "deepstack_visual_indexes": [],
        "initializer_range": config.vision_hidden**-0.5,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def build_network(
    tokenizer: PreTrainedTokenizerFast, config: NanoConfig, seed: int = 0
) -> Qwen3VLForConditionalGeneration:
    """The network with random weights (float32), reproducible from `seed`."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from depthlm.models.patch_embedding import embed_by_matrix_product

    qwen = network_config(tokenizer, config)
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(qwen)
    embed_by_matrix_product(model)
    _order_vocabulary(model, tokenizer)
    torch.set_rng_state(generator_state)
    model.generation_config.eos_token_id = qwen.text_config.eos_token_id
    model.generation_config.pad_token_id = qwen.text_config.pad_token_id
    model.generation_config.do_sample = False
    return model


def _order_vocabulary(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start tokens that mean a quantity from smooth functions of it: neighbours in value are neighbours in space.

    A number word starts from cosines of the logarithm of its value (embedding and head), a coordinate word from cosines
    of its place, the vision encoder's position table from cosines of row and column. From random starts the network
    has to find out by itself that "2.3" lies between "2.2" and "2.4" and that x42 is beside x43.
    """
    import torch

    def tokens(words: list[str]) -> list[int]:
        return [int(tokenizer.convert_tokens_to_ids("\u2581" + word)) for word in words]

    numbers = number_words()
    decades = torch.tensor([(math.log10(float(word)) + 2) / 4.3 for word in numbers])
    places = (torch.arange(COORDINATE_RANGE) + 0.5) / COORDINATE_RANGE
    side = (torch.arange(POSITIONS_PER_SIDE) + 0.5) / POSITIONS_PER_SIDE
    embedding = model.model.language_model.embed_tokens.weight
    table = model.model.visual.pos_embed.weight
    width, vision_width = embedding.shape[1], table.shape[1]
    with torch.no_grad():
        embedding[tokens(numbers)] = _smooth(decades, 48, width)
        model.lm_head.weight[tokens(numbers)] = 0.5 * _smooth(decades, 48, width)
        for axis in "xy":
            embedding[tokens([f"{axis}{k}" for k in range(COORDINATE_RANGE)])] = _smooth(places, 24, width)
        rows, columns = _smooth(side, 8, vision_width), _smooth(side, 8, vision_width)
        table.copy_((rows[:, None] + columns[None, :]).reshape(-1, vision_width) * (0.5 * vision_width**0.5))


def _smooth(places: torch.Tensor, frequencies: int, width: int) -> torch.Tensor:
    """[N] places in [0, 1] -> [N, width]: cosines of growing frequency and falling weight in random directions.

    Rows have about unit length: the scale of a random start of standard deviation width**-0.5.
    """
    import torch

    k = torch.arange(1, frequencies + 1)
    waves = torch.cos(torch.pi * k * places[:, None]) / k  # [N, frequencies]
    return waves @ (torch.randn(frequencies, width) * width**-0.5)


def whiten_patches(network: Any, pixel_values: torch.Tensor, floor: float = 1e-2) -> None:
    """Set the patch embedding to whitened principal components of real patches (in place).

    pixel_values: [P, 3 * T * p * p] patches as the processor makes them. Pictures have far more low than high spatial
    frequencies, so random filters answer almost only to mean colour, and the texture that tells the scale of things
    has to be learned out of a few per cent of the signal. Whitening gives every retained frequency unit variance from
    the first step. floor: smallest variance, relative to the mean one, that is scaled up (noise stays noise).
    """
    import torch

    weight = network.model.visual.patch_embed.proj.weight  # [D, 3, T, p, p]
    width, channels, frames, side, _ = weight.shape
    # A still picture is the same frame T times: whiten one frame and share the filter among them.
    patches = pixel_values.reshape(-1, channels, frames, side, side)[:, :, 0].flatten(1).double()
    patches = patches - patches.mean(dim=0)
    variance, components = torch.linalg.eigh(patches.mT @ patches / len(patches))
    variance, components = variance.flip(0)[:width], components.flip(1)[:, :width]
    filters = (components / (variance + floor * variance.mean()).sqrt()).mT.reshape(-1, channels, 1, side, side)
    with torch.no_grad():
        weight.zero_()
        weight[: len(filters)] = (filters / frames).to(weight.dtype)


def new_nano(config: NanoConfig, card: ModelCard, seed: int = 0) -> LoadedModel:
    """An untrained nano with the given card, ready for the trainer."""
    from depthlm.models.families import FAMILIES
    from depthlm.models.loading import LoadedModel, image_processor_class
    from depthlm.models.processor import ThinProcessor

    family = FAMILIES["qwen3_vl"]
    tokenizer = build_tokenizer()
    image_processor = image_processor_class(family)(patch_size=config.patch, merge_size=config.merge)
    processor = ThinProcessor(tokenizer, image_processor, family)
    card.family, card.grid = family.name, processor.grid
    return LoadedModel(
        model=build_network(tokenizer, config, seed), processor=processor, card=card, path=Path("new-nano")
    )
