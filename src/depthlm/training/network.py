"""What is trained of a loaded model, and what is scored and saved of it: adapters and shards on, and off again."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError
from depthlm.models.vision_attention import PADDED
from depthlm.training.ranks import Ranks
from depthlm.training.sharding import gather, is_sharded, shard

if TYPE_CHECKING:
    from depthlm.models.loading import LoadedModel
    from depthlm.training.recipe import Recipe


def trainable(loaded: LoadedModel, recipe: Recipe) -> Any:
    """The network that the trainer gets: the model itself, changed in place, or the adapters' wrapper round it.

    Raises InputError for adapters without peft, and where `shard` does.
    """
    network = loaded.model if recipe.lora is None else _with_lora(loaded, recipe)
    if recipe.vision_attention != "sdpa":
        loaded.model.model.get_submodule(loaded.processor.family.tower).set_attn_implementation(recipe.vision_attention)
    if recipe.freeze_vision:
        _freeze(loaded.model.model.get_submodule(loaded.processor.family.tower))
    if recipe.gradient_checkpointing:  # here and not in TrainingArguments, where the name changes between versions
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if recipe.sharding != "none" and Ranks().world > 1:
        shard(network, loaded.processor.family, recipe.sharding)
    return network


def check_attention(recipe: Recipe) -> None:
    """Raises InputError where the recipe's attention cannot run here."""
    if recipe.vision_attention != "flash_attention_2":
        return
    import torch
    from transformers.utils import is_flash_attn_2_available

    lacks = [
        what
        for what, there in (("a GPU", torch.cuda.is_available()), ("flash-attn", is_flash_attn_2_available()))
        if not there
    ]
    if lacks:
        raise InputError(f"flash_attention_2 needs {' and '.join(lacks)}, not found here; set it to sdpa")


def whole_model(loaded: LoadedModel, network: Any, recipe: Recipe, *, merge: bool = False) -> LoadedModel | None:
    """The model as it stands, to be asked or saved: in the process that writes; None in the others.

    All processes must call it. network: what `trainable` made of it. merge: adapters become part of the weights, which
    ends their training.
    """
    if is_sharded(network):
        network = gather(network, lambda: _empty(loaded, recipe))
    if network is None or not Ranks().main:
        return None
    if recipe.lora is None:
        return replace(loaded, model=network)
    if not merge:
        return replace(loaded, model=network.get_base_model())
    if recipe.lora.quantize is None:
        return replace(loaded, model=network.merge_and_unload())
    return replace(loaded, model=_without_quantization(loaded, network, recipe))


def on_device(loaded: LoadedModel) -> LoadedModel:
    """The same, on the GPU where there is one: a bfloat16 copy of a gathered model, which lies on the CPU."""
    import torch

    if not torch.cuda.is_available() or loaded.model.device.type == "cuda":
        return loaded
    return replace(loaded, model=copy.deepcopy(loaded.model).to("cuda", torch.bfloat16))


def _empty(loaded: LoadedModel, recipe: Recipe) -> Any:
    """The network without the values of its parameters; buffers, which no checkpoint holds, have theirs."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText

    from depthlm.models.patch_embedding import embed_by_matrix_product

    config = copy.deepcopy(loaded.model.config)
    if config.vision_config._attn_implementation == PADDED:  # only for as long as training lasts
        config.vision_config._attn_implementation = "sdpa"
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(config)
        embed_by_matrix_product(model)
        model.generation_config = loaded.model.generation_config
        return model.eval() if recipe.lora is None else _with_lora(replace(loaded, model=model), recipe).eval()


def _without_quantization(loaded: LoadedModel, network: Any, recipe: Recipe) -> Any:
    """An ordinary model that computes what the adapters over 4-bit weights do; ends their training.

    peft would merge into weights of 4 bits, which rounds away most of what was learned, and merging into the weights
    that the run began with would save what nobody trained.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    def whole(layer: Any, more: torch.Tensor | None = None) -> torch.nn.Linear:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        weight = weight if more is None else (weight.float() + more).to(weight.dtype)
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(weight)
        plain.bias = layer.bias
        return plain

    model = network.get_base_model()
    for name, module in dict(model.named_modules()).items():
        if isinstance(getattr(module, "base_layer", None), Linear4bit):
            model.set_submodule(name, whole(module.base_layer, module.get_delta_weight("default")))
        elif isinstance(module, Linear4bit) and not name.endswith(".base_layer"):
            model.set_submodule(name, whole(module))
    state = network.merge_and_unload().state_dict()
    plain = _empty(loaded, replace(recipe, lora=None))
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    return plain


def _freeze(tower: Any) -> None:
    """No gradients, and no activations kept for them: not even where checkpointing asks its inputs for a graph."""
    import torch

    tower.requires_grad_(False)
    tower.forward = torch.no_grad()(tower.forward)


def _with_lora(loaded: LoadedModel, recipe: Recipe) -> Any:
    try:
        import peft
    except ImportError:
        raise InputError("lora needs the package peft; install depthlm[train]") from None
    assert recipe.lora is not None
    config = peft.LoraConfig(
        r=recipe.lora.rank, lora_alpha=recipe.lora.alpha, target_modules=recipe.lora.targets, task_type="CAUSAL_LM",
        exclude_modules=rf".*\.{loaded.processor.family.tower}\..*" if recipe.freeze_vision else None,
    )  # fmt: skip
    # On CPUs with bfloat16 instructions bitsandbytes lays weights out anew, for good, in the first pass without
    # gradients; what is trained and saved afterwards would be another model, in bfloat16.
    for module in loaded.model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return peft.get_peft_model(loaded.model, config)
