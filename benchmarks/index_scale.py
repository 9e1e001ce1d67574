"""What a loader worker costs as the data grow: start-up and memory at 1e4, 1e5 and 1e6 rows of 100 labelled points.

    python benchmarks/index_scale.py [--json] [--quick] [--draws N]

Shards of 2,500 rows are written once (small pictures: the index is measured, not the decoder) and hard-linked under as
many names as a size needs; a fresh process opens them, builds the mixture and draws rows in training order. Headline:
how much resident memory grows from the smallest to the largest size, in MB, taken as the peak after the draws, so that
whatever piles up while reading counts. Compared with: the released reader keeps all labels, 21 KB and 0.24 ms a row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from depthlm.camera import Camera
from depthlm.data.shards import build_manifest, write_shard
from depthlm.errors import InputError
from depthlm.sample import Sample

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

SHARD_ROWS = 2500
ROWS_PER_GROUP = 16
POINTS = 100
SIZES = (10_000, 100_000, 1_000_000)
QUICK = (2_500, 25_000, 250_000)
GROWTH_MB, START_S = 32.0, 2.0  # what the headline and the start-up are held to
WORKER = """
import json, sys, time
from depthlm.data.mixture import Mixture
from depthlm.data.shards import ShardDataset

def peak_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

before, start = peak_kb(), time.perf_counter()
data = ShardDataset(sys.argv[1])
mixture = Mixture([data], seed=0)
opened, started = peak_kb(), time.perf_counter()
labels = 0
for i in range(int(sys.argv[2])):
    labels += len(data[mixture.at(i)[1]])
done = time.perf_counter()
print(json.dumps({
    "rows": len(data), "start_s": started - start, "imports_mb": before / 1024, "opened_mb": opened / 1024,
    "peak_mb": peak_kb() / 1024, "draws_per_s": int(sys.argv[2]) / (done - started), "labels": labels,
}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when memory or start-up exceed their bounds."""
    options = common.parser(__doc__)
    options.add_argument("--draws", type=int, help="rows drawn at each size (2000; quick: 100)")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One process for each size."""
    if not Path("/proc/self/status").exists():
        raise InputError("peak memory is read from /proc/self/status: run this on Linux")
    sizes = QUICK if arguments.quick else SIZES
    draws = arguments.draws if arguments.draws is not None else 100 if arguments.quick else 2000
    if draws < 1:
        raise InputError(f"--draws is {draws}; expected 1 or more")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        shard = write_shard(rows(SHARD_ROWS), Path(scratch) / "shard.parquet", ROWS_PER_GROUP)
        assert shard is not None
        for size in sizes:
            common.progress(f"{size} rows")
            folder = link_shards(Path(scratch), shard, size // SHARD_ROWS)
            command = [sys.executable, "-c", WORKER, str(folder), str(draws)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[size] = json.loads(told)
    small, large = found[sizes[0]], found[sizes[-1]]
    growth = large["peak_mb"] - small["peak_mb"]
    return {
        "headline": {"growth_mb": growth},
        "checks": {
            f"growth_at_most_{GROWTH_MB:g}_mb": growth <= GROWTH_MB,
            f"start_under_{START_S:g}_s": large["start_s"] < START_S,
            "every_row_has_its_labels": all(
                run["rows"] == size and run["labels"] == draws * POINTS for size, run in found.items()
            ),
        },
        "config": {
            "sizes": list(sizes), "points_per_row": POINTS, "draws": draws, "rows_per_shard": SHARD_ROWS,
            "rows_per_group": ROWS_PER_GROUP,
        },
        "released_reader": {"mb": large["rows"] * 21 / 1024, "start_s": large["rows"] * 0.24e-3},
        "sizes": {str(size): run for size, run in found.items()},
    }  # fmt: skip


def rows(count: int) -> Iterator[Sample]:
    """Samples with small pictures of noise and labels on whole pixels in millimetres, as curated sets have."""
    rng = np.random.default_rng(0)
    camera = Camera.from_focal(1000, 1280, 960)
    for i in range(count):
        uv = np.stack([rng.integers(0, 1280, POINTS), rng.integers(0, 960, POINTS)], axis=1).astype(np.float64)
        z = rng.integers(500, 20_000, POINTS) / 1000
        yield Sample(image=rng.bytes(4096), camera=camera, uv=uv, z=z, scene=f"scene {i // 100}", frame=f"frame {i}")


def link_shards(scratch: Path, shard: dict[str, Any], count: int) -> Path:
    """A shard folder of `count` names of one file."""
    folder = scratch / f"rows-{count}"
    folder.mkdir()
    shards = []
    for number in range(count):
        name = f"shard-{number:05d}.parquet"
        os.link(scratch / shard["file"], folder / name)
        shards.append(shard | {"file": name})
    manifest = build_manifest(shards, ROWS_PER_GROUP) | {"info": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


if __name__ == "__main__":
    sys.exit(main())
