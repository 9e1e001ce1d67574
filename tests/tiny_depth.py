"""Tiny depth-estimation checkpoints of transformers: random weights, the layout of released ones. By hand:

    python tests/tiny_depth.py zoedepth /tmp/tiny-zoe && depthlm eval /tmp/tiny-zoe ...

"relative" and "dpt" tell inverse depth, the others metres; "depth_pro" estimates the focal length, "depth_pro_blind"
must be given it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_NECK: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}
DEPTH_PRO_PROCESSOR = {
    "image_processor_type": "DepthProImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255, "resample": 2,
}  # fmt: skip


def build_tiny_depth(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a checkpoint of that kind (TINY_DEPTH)."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        _BUILDERS[kind](Path(folder))
    finally:
        torch.set_rng_state(state)
    return Path(folder)


def _save(model: Any, processor: Any, folder: Path) -> None:
    # As transformers initialises them, the convolutions shrink what is seen to nothing: all maps would be flat.
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


def _depth_anything(folder: Path, **kind: Any) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

    backbone = Dinov2Config(
        image_size=56, patch_size=14, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, out_features=_STAGES,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, head_hidden_size=8, patch_size=14, **_NECK, **kind
    )
    processor = DPTImageProcessorPil(
        size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True, resample=3
    )
    _save(DepthAnythingForDepthEstimation(config), processor, folder)


def _dpt(folder: Path) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

    config = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], **_NECK,
    )  # fmt: skip
    _save(DPTForDepthEstimation(config), DPTImageProcessorPil(size={"height": 64, "width": 64}), folder)


def _glpn(folder: Path) -> None:
    from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessorPil

    config = GLPNConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    _save(GLPNForDepthEstimation(config), GLPNImageProcessorPil(), folder)


def _zoedepth(folder: Path) -> None:
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    backbone = BeitConfig(
        image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        use_relative_position_bias=True, reshape_hidden_states=False, out_features=_STAGES,
    )  # fmt: skip
    config = ZoeDepthConfig(
        backbone_config=backbone, bottleneck_features=8, num_attractors=[4, 2, 1, 1], bin_embedding_dim=8,
        num_relative_features=8, **_NECK,
    )  # fmt: skip
    processor = ZoeDepthImageProcessorPil(size={"height": 64, "width": 96}, ensure_multiple_of=16)
    _save(ZoeDepthForDepthEstimation(config), processor, folder)


class _DepthProProcessor:
    """transformers' own needs torchvision; what is saved is what it would save."""

    def save_pretrained(self, folder: Path) -> None:
        values = DEPTH_PRO_PROCESSOR | {"size": {"height": 64, "width": 64}}
        (folder / "preprocessor_config.json").write_text(json.dumps(values))


def _depth_pro(folder: Path, *, sees_angle: bool = True) -> None:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    encoder = {
        "model_type": "dinov2", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 1, "patch_size": 4,
        "image_size": 16,
    }  # fmt: skip
    config = DepthProConfig(
        patch_size=16, fusion_hidden_size=16, intermediate_hook_ids=[1, 0], intermediate_feature_dims=[10, 8],
        scaled_images_ratios=[0.5, 1.0], scaled_images_overlap_ratios=[0.0, 0.2], scaled_images_feature_dims=[12, 12],
        image_model_config=dict(encoder), patch_model_config=dict(encoder), fov_model_config=dict(encoder),
        use_fov_model=sees_angle,
    )  # fmt: skip
    model = DepthProForDepthEstimation(config)
    if sees_angle:
        torch.nn.init.constant_(model.fov_model.head.layers[-1].bias, 60.0)  # degrees: an angle that a camera can have
    _save(model, _DepthProProcessor(), folder)


_BUILDERS: dict[str, Callable[[Path], None]] = {
    "depth_anything": lambda folder: _depth_anything(folder, depth_estimation_type="metric", max_depth=20),
    "relative": _depth_anything,
    "depth_pro": _depth_pro,
    "depth_pro_blind": lambda folder: _depth_pro(folder, sees_angle=False),
    "dpt": _dpt,
    "glpn": _glpn,
    "zoedepth": _zoedepth,
}
TINY_DEPTH = tuple(_BUILDERS)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TINY_DEPTH:
        sys.exit(f"usage: python tests/tiny_depth.py {{{','.join(TINY_DEPTH)}}} FOLDER")
    print(build_tiny_depth(sys.argv[1], Path(sys.argv[2])))
