"""AdamW, or Muon for the matrices inside the blocks with AdamW for everything else.

Muon (Jordan et al. 2024; torch.optim.Muon) orthogonalises the momentum of each weight matrix. It is only defined for
matrices, so embeddings, heads, norms and biases stay with AdamW. The patch embedding is a matrix: under AdamW its 1,536
inputs, alike within a patch, move together, and one step of 1e-3 shifts its output by more than its spread.
Fine-tuning a pre-trained checkpoint keeps AdamW, as in the paper; Muon is for nano, which starts from nothing.

The step is ours because torch's runs its Newton-Schulz iteration in bfloat16, one matrix at a time: on a CPU without
bfloat16 units that took as long as forward and backward together (0.55 s for 6 M parameters). Here matrices of one
shape are iterated together, in float32 on a CPU; tests/test_optimizer.py holds it to torch.optim.Muon.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic that Muon iterates
_ITERATIONS = 5


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose parameter groups with `muon: True` take Muon steps instead.

    Those groups hold matrices only. lr means the same for both: a Muon update is scaled to the root mean square of an
    AdamW update (0.2 sqrt(max(rows, columns)), torch's "match_rms_adamw").
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step (no closure)."""
        groups = self.param_groups
        for group in groups:
            if group.get("muon"):
                self._muon_step(group)
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Called by load_state_dict. Adam's own looks for its step counter in every state; Muon's have none.
        torch.optim.Optimizer.__setstate__(self, state)

    def _muon_step(self, group: dict[str, Any]) -> None:
        momentum: float = group["betas"][0]
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in by_shape.items():
            updates = []
            for parameter in parameters:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                gradient = parameter.grad
                assert gradient is not None
                average = state["momentum"].lerp_(gradient, 1 - momentum)
                updates.append(gradient.lerp(average, momentum).flatten(1))  # Nesterov; a convolution is a matrix too
            scale = 0.2 * math.sqrt(max(updates[0].shape))
            for parameter, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(shape).to(parameter.dtype), alpha=-group["lr"] * scale)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """[N, R, C] -> the nearest semi-orthogonal matrices, roughly: singular values land between about 0.7 and 1.2."""
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def build_optimizer(model: nn.Module, *, name: str, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """The optimizer called "adamw" or "muon"; only parameters that require a gradient enter.

    Weight decay applies to matrices inside blocks alone, never to norms, biases, embeddings or the head.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = any(part in key for part in ("embed_tokens", "pos_embed", "lm_head"))
            (others if is_table or parameter.ndim < 2 else matrices).append(parameter)
    muon = name == "muon"
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay, "muon": muon} | ({"betas": (0.95, 0.95)} if muon else {}),
        {"params": others, "weight_decay": 0.0},
    ]
    kind = MuonAdamW if muon else torch.optim.AdamW
    # fused: one pass over a weight and its averages, where torch's loop of small operations takes three times as long.
    return kind([group for group in groups if group["params"]], lr=lr, fused=True)
