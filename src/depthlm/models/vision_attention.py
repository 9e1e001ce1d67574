"""Attention of a vision tower over all pictures of a batch at once.

Without the flash-attn package transformers' Qwen vision towers attend picture by picture in a Python loop, layer after
layer: 64 small pictures cost 64 times 8 launches forward and twice that backward. Here the pictures are padded to the
longest and attend together. Registered as an attention function, the way transformers provides for; "flash" in its name
is how it says that it takes cumulative lengths (is_flash_attention_requested).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Iterator

PADDED = "padded_instead_of_flash"


@contextmanager
def pictures_together(model: Any) -> Iterator[None]:
    """Let the vision tower of the model (or of a module that holds one) attend to all pictures of a batch in one call;
    as before when the block ends.

    Of models whose tower has no such loop (Pixtral), or that flash-attn serves already, nothing changes.
    """
    from transformers import AttentionInterface

    config = getattr(getattr(getattr(model, "model", model), "visual", None), "config", None)
    if config is None or config._attn_implementation != "sdpa":
        yield
        return
    AttentionInterface.register(PADDED, attend_padded)
    config._attn_implementation = PADDED
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def attend_padded(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query, key, value: [1, H, S, D], sequences one after the other; cu_seq_lens_q: [B + 1] where they start.

    max_length_q: of the longest. Every sequence attends to itself. -> [1, S, H, D].
    """
    starts, longest = cu_seq_lens_q[:-1].long(), int(max_length_q)
    lengths = cu_seq_lens_q[1:].long() - starts
    place = torch.arange(longest, device=query.device)
    real = place < lengths[:, None]  # [B, L]
    source = torch.where(real, starts[:, None] + place, starts[:, None])  # padding repeats the first token, masked

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        heads, width = tensor.shape[1], tensor.shape[3]
        rows = tensor[0].transpose(0, 1).reshape(-1, heads * width).index_select(0, source.flatten())
        return rows.view(*source.shape, heads, width).transpose(1, 2)  # [B, H, L, D]

    out = scaled_dot_product_attention(
        padded(query), padded(key), padded(value), attn_mask=real[:, None, None], dropout_p=dropout, scale=scaling
    )
    total, heads, width = query.shape[2], query.shape[1], query.shape[3]
    back = torch.repeat_interleave(torch.arange(len(starts), device=query.device) * longest - starts, lengths,
                                   output_size=total) + torch.arange(total, device=query.device)  # fmt: skip
    flat = out.transpose(1, 2).reshape(-1, heads * width).index_select(0, back)
    return flat.view(1, total, heads, width), None
