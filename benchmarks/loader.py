"""From stored samples to model-ready pixel values: samples and labelled points per second and core, and how they split.

    python benchmarks/loader.py [--json] [--quick] [--rounds 3] [--samples ../shared/samples]

The 25 iBims-1 photographs (640x480, PNG) of the official example, from its jsonl and from Parquet shards written of it
(400 rows, so that not all of them stay in memory), at focal 1000 in the paper's crops, for the Qwen3-VL image
processor; processor time of one thread. The plain order: decode, undistort (which the official loader does whenever fx
and fy differ, distortion or not), resize the whole image, crop, mark, PIL image processor. Ours: the functions that
training calls, for the same crops and markers. Both take turns sample by sample and the fastest of the rounds counts
for each. Labelled points: whole training rows (`TrainingRows`: also questions, answers and tokens, the VLM3 prompt)
with K questions an image. Rows to decode: the mean share of a picture down to the last row that its crop looks at,
which is what a decoder that stopped there would still read. Headline: samples per second of ours over those of the
plain order, on the jsonl. Without the photographs (--quick, or no folder) noise takes their place.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import cv2
import numpy as np
import torch
from PIL import Image
from random_models import PINNED, build

from depthlm.camera import Camera
from depthlm.data import open_data
from depthlm.data.jsonl import write_jsonl
from depthlm.data.mixture import Mixture
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference
from depthlm.sample import Sample, open_encoded
from depthlm.synth.generate import encode
from depthlm.training.conversations import RowConfig
from depthlm.training.dataset import TrainingRows
from depthlm.view import CropConfig, ViewConfig, make_training_view

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples
    from depthlm.view import PixelMap

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
FOCAL, PROMPT = 1000.0, "vlm3-depth"
COUNTS = (1, 10)
SHARD_ROWS, QUICK_ROWS = 400, 8
ARROW = get_reference("arrow")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a pixel differs from PIL's bicubic by more than one grey level."""
    options = common.parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="times over all samples, the fastest counts")
    options.add_argument("--samples", type=Path, default=SAMPLES, help="folder with ibims1_official/")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both orders on both forms of the data."""
    if arguments.rounds < 1:
        raise InputError("--rounds takes 1 or more")
    cv2.setNumThreads(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loaded = build(PINNED, (PROMPT,), layers=1)
        with tempfile.TemporaryDirectory() as folder:
            photographs, sources = open_sources(arguments, Path(folder))
            measured = {name: both_orders(samples, loaded, arguments.rounds) for name, samples in sources.items()}
            points = {
                name: {str(k): labelled_points(samples, loaded, k, arguments.rounds) for k in COUNTS}
                for name, samples in sources.items()
            }
    finally:
        torch.set_num_threads(threads)
    rates = {name: found.rates() for name, found in measured.items()}
    return {
        "headline": {"samples_over_plain": rates["jsonl"]["ours"] / rates["jsonl"]["plain"]},
        "checks": {f"{name}_pixels_within_one_grey_level": found.apart <= 1 for name, found in measured.items()}
        | {f"{name}_values_within_one_grey_level": found.levels <= 1.001 for name, found in measured.items()},
        "config": {
            "focal": FOCAL, "prompt": PROMPT, "photographs": photographs, "rounds": arguments.rounds,
            "quick": arguments.quick, "rows": {name: len(samples) for name, samples in sources.items()},
            "threads": 1, "patch_grid": loaded.processor.grid,
        },
        "samples_per_s": rates,
        "samples_over_plain": {name: rate["ours"] / rate["plain"] for name, rate in rates.items()},
        "labelled_points_per_s": points,
        "stage_ms": {name: found.stages() for name, found in measured.items()},
        "pixels_that_differ_%": {name: 100 * found.differing for name, found in measured.items()},
        "rows_to_decode_%": {name: 100 * found.deepest for name, found in measured.items()},
    }  # fmt: skip


def open_sources(arguments: argparse.Namespace, folder: Path) -> tuple[bool, dict[str, Samples]]:
    """(photographs?, the same samples as jsonl and as shards)."""
    path = arguments.samples / "ibims1_official" / "ibims1_val.jsonl"
    photographs = path.is_file() and not arguments.quick
    if not photographs:
        path = folder / "noise.jsonl"
        write_jsonl([noise(seed) for seed in range(4)], path)
    jsonl = open_data(path, label="z")
    count = QUICK_ROWS if arguments.quick else SHARD_ROWS
    write_shards((jsonl[k % len(jsonl)] for k in range(count)), folder / "shards")
    return photographs, {"jsonl": jsonl, "shards": open_data(folder / "shards")}


def noise(seed: int) -> Sample:
    """A picture of noise in blocks, with 100 points."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    uv = rng.uniform((20, 20), (620, 460), (100, 2))
    return Sample(encode(levels), Camera(559.62, 558.14, 319.5, 239.5, 640, 480), uv, rng.uniform(0.5, 9, 100))


@dataclass
class Orders:
    """What both orders took: {order: {stage: [sample] seconds}}, and how far apart their pictures are."""

    seconds: dict[str, dict[str, list[float]]]
    apart: int = 0  # grey levels, the largest difference
    levels: float = 0.0  # the same of the model's own numbers, in grey levels
    differing: float = 0.0  # share of pixels
    deepest: float = 0.0  # share of a picture's rows down to the last that its crop looks at

    def rates(self) -> dict[str, float]:
        """Samples per second of each order."""
        return {order: len(stages["decode"]) / sum(map(sum, stages.values())) for order, stages in self.seconds.items()}

    def stages(self) -> dict[str, dict[str, float]]:
        """Milliseconds a sample."""
        return {
            order: {stage: 1000 * float(np.mean(seconds)) for stage, seconds in stages.items()}
            for order, stages in self.seconds.items()
        }


class Watch:
    """Seconds from each mark to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.before = time.process_time()

    def mark(self, stage: str) -> None:
        """The stage that has just ended."""
        now = time.process_time()
        self.seconds[stage] = now - self.before
        self.before = time.process_time()


def both_orders(samples: Samples, loaded: LoadedModel, rounds: int) -> Orders:
    """Every sample in both orders, `rounds` times over; for each the fastest round."""
    twin = copy.deepcopy(samples)  # what one order has read is not in memory for the other
    order = np.random.default_rng(0).permutation(len(samples))[:100].tolist()
    best: dict[str, list[dict[str, float]]] = {"plain": [{}] * len(order), "ours": [{}] * len(order)}
    found = Orders({})
    shares, depths = [], []
    for turn in range(rounds):
        for place, row in enumerate(order):
            ours, view, values, point = our_order(samples, row, loaded, np.random.default_rng(row))
            plain, cropped, expected = plain_order(twin, row, loaded, view.transform, view.image.size, point)
            for name, watch in (("ours", ours), ("plain", plain)):
                kept = best[name][place]
                if not kept or sum(watch.seconds.values()) < sum(kept.values()):
                    best[name][place] = watch.seconds
            if turn == 0:
                apart = np.abs(np.asarray(view.image).astype(int) - np.asarray(cropped))
                found.apart = max(found.apart, int(apart.max()))
                shares.append(float((apart > 0).any(axis=2).mean()))
                depths.append((view.transform.top + view.image.height) / view.transform.resized[1])
                step = loaded.processor.image_processor
                one = max(step.rescale_factor / std for std in step.image_std)
                found.levels = max(found.levels, float(np.abs(values - expected).max()) / one)
            del values, expected  # as a training loop does: the next picture takes their memory
    found.differing, found.deepest = float(np.mean(shares)), float(np.mean(depths))
    for name, kept in best.items():
        stages: dict[str, list[float]] = defaultdict(list)
        for seconds in kept:
            for stage, value in seconds.items():
                stages[stage].append(value)
        found.seconds[name] = dict(stages)
    return found


def our_order(samples: Samples, row: int, loaded: LoadedModel, rng: np.random.Generator) -> tuple[Any, ...]:
    """(times, view, pixel values, marked point) by the functions that training calls."""
    config = ViewConfig(focal=FOCAL, grid=loaded.processor.grid)
    watch = Watch()
    sample = samples[row]
    watch.mark("read")
    image = sample.load_image()
    watch.mark("decode")
    view = make_training_view(sample, config=config, rng=rng, margin=ARROW.margin, image=image)
    watch.mark("resize and crop")
    marked = ARROW.draw(view.image, view.uv[0])
    watch.mark("mark")
    values = loaded.processor.encode_images([marked])["pixel_values"]
    watch.mark("pixel values")
    return watch, view, values.numpy(), view.uv[0]


def plain_order(
    samples: Samples, row: int, loaded: LoadedModel, pixels: PixelMap, size: tuple[int, int], point: Any
) -> tuple[Any, ...]:
    """(times, crop, pixel values) of the same crop and marker, every step on the whole image."""
    watch = Watch()
    sample = samples[row]
    watch.mark("read")
    image = open_encoded(sample.image).convert("RGB")
    watch.mark("decode")
    image = Image.fromarray(cv2.undistort(np.asarray(image), sample.camera.matrix, np.zeros(5)))
    watch.mark("undistort")
    image = image.resize(pixels.resized, Image.Resampling.BICUBIC)
    watch.mark("resize")
    cropped = image.crop((pixels.left, pixels.top, pixels.left + size[0], pixels.top + size[1]))
    watch.mark("crop")
    marked = ARROW.draw(cropped, point)
    watch.mark("mark")
    values = loaded.processor.image_processor(images=[marked], return_tensors="np")["pixel_values"]
    watch.mark("pixel values")
    return watch, cropped, np.asarray(values)


def labelled_points(samples: Samples, loaded: LoadedModel, count: int, rounds: int) -> float:
    """Labelled points per second of whole training rows with `count` text questions each."""
    card = loaded.card
    rows = TrainingRows(
        sources=[samples], mixture=Mixture([samples]), processor=loaded.processor, card=card,
        prompt=get_prompt(PROMPT), crop=CropConfig(), view=ViewConfig(focal=FOCAL, grid=loaded.processor.grid),
        rows=RowConfig(references={"text": 1.0}, tasks={"distance": 1.0}, questions_per_image=count),
        seed=0, length=len(samples),
    )  # fmt: skip
    indices = range(min(50, len(samples)))
    best = np.full(len(indices), np.inf)
    for _ in range(rounds):
        for index in indices:
            start = time.process_time()
            rows[index]
            best[index] = min(best[index], time.process_time() - start)
    return count * len(indices) / float(best.sum())


if __name__ == "__main__":
    sys.exit(main())
