"""An environment with torchvision, which the main one does not have, beside everything that one has.

Its wheel does not load beside a CPU build of torch: the operators it looks for are declared first (DECLARE).
"""

from __future__ import annotations

from pathlib import Path

from environments import make_environment

TORCHVISION = "torchvision==0.28.0"  # what goes with torch 2.13
DECLARE = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def build_environment(folder: Path, *packages: str) -> Path:
    """A Python with torchvision and these packages."""
    return make_environment(folder, [*packages], ["--no-deps", TORCHVISION])
