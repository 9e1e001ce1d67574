"""All pictures of a batch attend in one call: the same loss and gradients as picture by picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from depthlm.models.loading import load_model
from depthlm.models.vision_attention import PADDED, attend_padded, pictures_together
from depthlm.tasks import Question
from depthlm.training.loss import answer_loss
from depthlm.training.rows import collate_rows, encode_row
from tiny import build_tiny


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_together_is_picture_by_picture(family, tmp_path):
    loaded = load_model(build_tiny(family, tmp_path / family))
    rng = np.random.default_rng(0)
    grid = loaded.processor.grid
    sizes = [(3, 2), (1, 1), (4, 5)]
    pictures = [Image.fromarray(rng.integers(0, 255, (h * grid, w * grid, 3), dtype=np.uint8)) for w, h in sizes]
    rows = [encode_row(loaded.processor, [picture], [Question("far?", "1.5", 1.5)]) for picture in pictures]
    batch = collate_rows(loaded.processor, rows)
    tower = loaded.model.model.visual

    def step():
        loaded.model.zero_grad()
        loss, _ = answer_loss(loaded.model, batch)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in tower.parameters() if p.grad is not None])

    loss, gradient = step()
    with pictures_together(loaded.model):
        assert tower.config._attn_implementation == PADDED
        together, same = step()
    assert tower.config._attn_implementation == "sdpa"
    assert together == pytest.approx(loss, rel=1e-5)
    assert (same - gradient).abs().max() <= 1e-4 * gradient.abs().max()
    assert gradient.abs().max() > 0


def test_the_tower_is_as_before_after_a_failure(tmp_path):
    loaded = load_model(build_tiny("qwen3_vl", tmp_path / "m"))
    with pytest.raises(RuntimeError, match="stop"), pictures_together(loaded.model):
        raise RuntimeError("stop")
    assert loaded.model.model.visual.config._attn_implementation == "sdpa"


def test_a_tower_without_the_loop_is_left_alone(tmp_path):
    loaded = load_model(build_tiny("pixtral", tmp_path / "m"))
    with pictures_together(loaded.model):
        assert loaded.model.model.vision_tower.config._attn_implementation == "sdpa"


def test_no_sequence_sees_another():
    """Against softmax written out, one sequence at a time."""
    torch.manual_seed(0)
    starts = torch.tensor([0, 2, 7, 8], dtype=torch.int32)
    q, k, v = (torch.randn(1, 2, 8, 4) for _ in range(3))
    out, _ = attend_padded(None, q, k, v, scaling=0.5, cu_seq_lens_q=starts, max_length_q=5)
    for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        weights = torch.softmax(q[0, :, a:b] @ k[0, :, a:b].mT * 0.5, dim=-1)
        assert torch.allclose(out[0, a:b], (weights @ v[0, :, a:b]).transpose(0, 1), atol=1e-6)
