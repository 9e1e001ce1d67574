"""Patch embedding as one matrix product.

Qwen's vision towers get pictures cut into patches already, and embed each by a Conv3d whose kernel is the whole patch:
a dot product. PyTorch takes it for a convolution all the same, on CPU five to seven times slower; for nano that is an
eighth of the tower's time (benchmarks/patches.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

_PLAIN = (0, 0, 0), (1, 1, 1), 1  # padding, dilation, groups


class PatchEmbedding(torch.nn.Conv3d):
    """A Conv3d that is a matrix product where the input is one kernel wide, as patches are."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[P, C, T, p, p] patches -> [P, D, 1, 1, 1]; any other size as Conv3d does it."""
        if tuple(input.shape[2:]) != self.kernel_size:
            return super().forward(input)
        return linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def embed_by_matrix_product(model: Any) -> None:
    """Make every plain Conv3d of the model a PatchEmbedding, in place; names and weights stay."""
    for module in model.modules():
        if type(module) is torch.nn.Conv3d and (module.padding, module.dilation, module.groups) == _PLAIN:
            module.__class__ = PatchEmbedding
