"""Embedding a picture's patches: one matrix product against the Conv3d that Qwen's vision towers come with.

    python benchmarks/patches.py [--json] [--quick] [--repeats 5]

Vision towers of the embedded nano (a picture of 256x192) and of the pinned model of 53 million parameters (640x480),
float32: the embedding alone, the tower forward, and forward with backward, in processor time of one thread; both ways
take turns and the fastest of the repeats counts. Output and gradients must be equal. Headline: Conv3d over ours, nano's
whole tower forward.
"""

from __future__ import annotations

import copy
import sys
import time
from typing import TYPE_CHECKING, Any

import common
import torch
from packing import QUICK_SIZE, SIZE
from random_models import PINNED, build, noise

from depthlm.errors import InputError
from depthlm.models.loading import load_model
from depthlm.models.patch_embedding import PatchEmbedding

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.models.loading import LoadedModel

NANO_SIZE = (256, 192)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when both ways differ in output or gradients."""
    options = common.parser(__doc__)
    options.add_argument("--repeats", type=int, default=5, help="runs of each way, the fastest counts")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both ways, for both towers."""
    if arguments.repeats < 1:
        raise InputError("--repeats takes 1 or more")
    size = QUICK_SIZE if arguments.quick else SIZE
    towers = {
        "nano": (load_model("nano"), NANO_SIZE),
        "pinned": (build(PINNED, layers=1 if arguments.quick else None), size),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {name: one_tower(loaded, wide, arguments.repeats) for name, (loaded, wide) in towers.items()}
    finally:
        torch.set_num_threads(threads)
    return {
        "headline": {"nano_forward_over_ours": found["nano"]["over_ours"]["forward"]},
        "checks": {f"{name}_equal": row.pop("apart") <= 1e-4 for name, row in found.items()},
        "config": {
            "sizes": {name: wide for name, (_, wide) in towers.items()}, "repeats": arguments.repeats,
            "quick": arguments.quick, "threads": 1,
        },
        **found,
    }  # fmt: skip


def one_tower(loaded: LoadedModel, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Milliseconds of both ways, their ratio, and the largest difference over the largest value."""
    ours = loaded.model.model.visual
    assert isinstance(ours.patch_embed.proj, PatchEmbedding)
    plain = copy.deepcopy(ours)
    plain.patch_embed.proj.__class__ = torch.nn.Conv3d
    given = loaded.processor.encode_images([noise(*size)])
    best: dict[str, dict[str, float]] = {"ours": {}, "conv3d": {}}
    made: dict[str, list[torch.Tensor]] = {}
    for _ in range(repeats):
        for way, tower in (("ours", ours), ("conv3d", plain)):
            for kind in ("embedding", "forward", "forward and backward"):
                tower.zero_grad(set_to_none=True)
                start = time.process_time()
                with torch.set_grad_enabled(kind == "forward and backward"):
                    if kind == "embedding":
                        tower.patch_embed(given["pixel_values"])
                    else:
                        out = tower(given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output
                    if kind == "forward and backward":
                        out.square().sum().backward()
                spent = 1000 * (time.process_time() - start)
                best[way][kind] = min(best[way].get(kind, spent), spent)
            made[way] = [out.detach(), *[p.grad for p in tower.parameters() if p.grad is not None]]
    pairs = list(zip(made["ours"], made["conv3d"], strict=True))
    return {
        "ms": best,
        "over_ours": {kind: best["conv3d"][kind] / spent for kind, spent in best["ours"].items()},
        "apart": max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs),
    }


if __name__ == "__main__":
    sys.exit(main())
