"""What a dense map takes: asking, with its picture read once or anew in each round, and completing.

    python benchmarks/maps.py [--json] [--quick] [--budget 500] [--repeats 2] [--image FILE]

nano maps a picture of 640x480 (noise, or a photograph made that size); its rounds of questions (inference/dense.py) are
then asked again, of nano and of the pinned model of 53 million random weights (Qwen3-VL, VLM3's words), with the view
that all rounds share and without, in turns. Processor time of one thread, the fastest of the repeats. Answers must be
equal. Headline: without over with, for the pinned model; and seconds of nano's whole map with the share that is not
asking.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import torch
from PIL import Image
from random_models import PINNED, build, noise

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference.dense import depth_map
from depthlm.inference.engine import Engine
from depthlm.models.loading import load_model

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.inference.request import Measurement
    from depthlm.models.loading import LoadedModel


class Watched(Engine):
    """Remembers what a map asks, round after round, and how long answering took."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded, reference="text")
        self.rounds: list[Any] = []
        self.spent = 0.0

    def measure(self, image: Image.Image, uv: Any, *given: Any, **options: Any) -> Measurement:
        """As the engine does."""
        start = time.process_time()
        found = super().measure(image, uv, *given, **options)
        self.spent += time.process_time() - start
        self.rounds.append(uv)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when an answer depends on whether the picture was read before."""
    options = common.parser(__doc__)
    options.add_argument("--budget", type=int, default=500, help="questions of the map")
    options.add_argument("--repeats", type=int, default=2, help="runs of each way, the fastest counts")
    options.add_argument("--image", type=Path, help="a picture in place of noise in blocks")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The map, and its rounds both ways."""
    if min(arguments.budget, arguments.repeats) < 1:
        raise InputError("--budget and --repeats take 1 or more")
    size = (160, 120) if arguments.quick else (640, 480)
    picture = noise(*size) if arguments.image is None else Image.open(arguments.image).convert("RGB").resize(size)
    camera = Camera.from_fov(width=size[0], height=size[1], fov_x=60)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        nano, pinned = load_model("nano"), build(PINNED, ("vlm3-depth",), layers=1 if arguments.quick else None)
        pinned.card.focal = 0.5 * size[0] / np.tan(np.radians(30))  # the picture as it is: 300 tokens
        whole, rounds = whole_map(nano, picture, camera, arguments)
        found = {
            name: both_ways(loaded, picture, camera, rounds, arguments.repeats)
            for name, loaded in (("nano", nano), ("pinned", pinned))
        }
    finally:
        torch.set_num_threads(threads)
    return {
        "headline": {
            "pinned_anew_over_once": found["pinned"]["anew_over_once"], "nano_map_seconds": whole["seconds"],
            "share_that_is_not_asking": 1 - whole["asking"] / whole["seconds"],
        },
        "checks": {f"{name}_answers_equal": row.pop("equal") for name, row in found.items()},
        "config": {
            "budget": arguments.budget, "rounds": len(rounds), "repeats": arguments.repeats, "size": size,
            "photograph": arguments.image is not None, "threads": 1, "quick": arguments.quick,
        },
        **found,
    }  # fmt: skip


def whole_map(
    nano: LoadedModel, picture: Image.Image, camera: Camera, arguments: argparse.Namespace
) -> tuple[dict[str, float], list[Any]]:
    """Seconds of the fastest map and of its answers; the pixels of each round."""
    best: dict[str, float] = {"seconds": float("inf")}
    for _ in range(arguments.repeats):
        engine = Watched(nano)
        start = time.process_time()
        depth_map(engine, picture, camera, budget=arguments.budget)
        spent = time.process_time() - start
        if spent < best["seconds"]:
            best = {"seconds": spent, "asking": engine.spent}
    return best, engine.rounds


def both_ways(
    loaded: LoadedModel, picture: Image.Image, camera: Camera, rounds: Sequence[Any], repeats: int
) -> dict[str, Any]:
    """Seconds of all rounds with one view and with one for each."""
    best = {"once": float("inf"), "anew": float("inf")}
    said: dict[str, list[str]] = {}
    for _ in range(repeats):
        for way in best:
            engine = Engine(loaded, reference="text")
            start = time.process_time()
            view = engine.whole_view(picture, camera) if way == "once" else None
            said[way] = [
                text for uv in rounds for text in engine.measure(picture, uv, camera, wanted="z", like=view).text
            ]
            best[way] = min(best[way], time.process_time() - start)
    return {"seconds": best, "anew_over_once": best["anew"] / best["once"], "equal": said["once"] == said["anew"]}


if __name__ == "__main__":
    sys.exit(main())
