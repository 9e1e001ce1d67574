"""FSDP2: weights, gradients and optimizer state spread over processes, applied by us.

accelerate enters FSDP on accelerators alone; torch's own `fully_shard` does the same on a CPU with gloo, which is how
this is tested. Each decoder layer and each vision block is a group of its own, gathered when needed and let go after;
embeddings, head, norms and the projector form the rest. Checkpoints hold each process's own part
(torch.distributed.checkpoint); a model that is scored or saved is gathered into an ordinary one first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from depthlm.models.families import Family

SHARDS = "sharded"  # folder of a checkpoint's parts


def shard(network: Any, family: Family, mode: str) -> Any:
    """Spread the network's parameters, in place, over the processes of this run; returns it.

    network: the model, or the adapters' wrapper round it. mode: "full" or "hybrid". Raises InputError where nodes hold
    unequal numbers of processes, and under accelerate's own FSDP.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes"):
        raise InputError(
            "accelerate's FSDP is on; launch without it (--multi_gpu): the recipe's sharding does the same"
        )
    policy = MixedPrecisionPolicy()
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options: dict[str, Any] = {"mesh": _mesh(mode), "mp_policy": policy}
    body = (network.get_base_model() if hasattr(network, "get_base_model") else network).model
    for path in family.blocks:
        for block in body.get_submodule(path):
            fully_shard(block, **options)
    fully_shard(network, **options)
    # accelerate would wrap it in DDP too; this is how it knows what it has seen already.
    network._is_accelerate_prepared = True
    return network


def is_sharded(network: Any) -> bool:
    """Whether `shard` has been here."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(network, FSDPModule)


def _mesh(mode: str) -> Any:
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    world = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if mode == "full":
        return init_device_mesh(device, (world,), mesh_dim_names=("shard",))
    if world % local:
        raise InputError(f"sharding hybrid: {world} processes are no multiple of the {local} on this node; use full")
    return init_device_mesh(device, (world // local, local), mesh_dim_names=("replicate", "shard"))


def gather(network: Any, make_empty: Callable[[], Any]) -> Any | None:
    """An ordinary copy of a sharded network on the CPU: in the first process; None in the others, which help.

    make_empty: builds one of the same parameters without their values (device "meta").
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not state:
        return None
    whole = make_empty()
    whole.load_state_dict(state, assign=True)
    return whole


def save_shards(folder: Path, network: Any, optimizer: torch.optim.Optimizer) -> None:
    """Every process writes its part of weights (those that are trained) and optimizer state into the folder."""
    import torch.distributed.checkpoint as parts

    parts.save(_state(network, optimizer), checkpoint_id=folder / SHARDS)


def load_shards(folder: Path, network: Any, optimizer: torch.optim.Optimizer) -> None:
    """What `save_shards` wrote, read back in place.

    Raises InputError when it cannot be read.
    """
    import torch.distributed.checkpoint as parts
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    state = _state(network, optimizer)
    try:
        parts.load(state, checkpoint_id=folder / SHARDS)
    except (OSError, RuntimeError, parts.CheckpointException) as error:
        raise InputError(
            f"{folder}: the checkpoint cannot be read ({error}); remove it to resume the one before"
        ) from error
    set_state_dict(
        network, optimizer,
        model_state_dict=state["model"], optim_state_dict=state["optimizer"],
        options=StateDictOptions(ignore_frozen_params=True, strict=False),
    )  # fmt: skip


def _state(network: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    model, state = get_state_dict(network, optimizer, options=StateDictOptions(ignore_frozen_params=True))
    return {"model": model, "optimizer": state}
