"""What the demo shows: the labelled rooms, the coarse map and its cloud, and two conversations word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm import pictures as draw
from depthlm.demo.page import Pictures, Talk
from depthlm.demo.rooms import SIZE, as_seen, larger, nearest_z
from depthlm.inference.engine import Engine
from depthlm.metrics import delta1
from depthlm.pointcloud import PointCloud

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.demo.rooms import DemoConfig, Steps
    from depthlm.inference.request import Measurement
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Sample
    from depthlm.synth.render import Rendered


def draw_all(
    config: DemoConfig,
    loaded: LoadedModel,
    rooms: Sequence[Rendered],
    samples: Sequence[Sample],
    scratch: Path,
    steps: Steps,
) -> tuple[Pictures, list[Talk], dict[str, Any], int]:
    """The page's pictures and conversations, the figures about the grid, and how many points the first picture has."""
    # The room with the widest range of depths leads; what the model says about it has no part in the choice.
    ranges = [np.subtract(*np.log(np.quantile(room.z[np.isfinite(room.z)], [0.9, 0.1]))) for room in rooms]
    lead = int(np.argmax(ranges))
    shown = [lead, *[i for i in range(len(rooms)) if i != lead][: config.gallery]]
    # One red arrow a picture, as in the released protocol.
    engines = {name: Engine(loaded, reference=name, markers=1) for name in loaded.card.references}
    asked = engines.get("text") or next(iter(engines.values()))
    photos, captions, marks = [], [], 0
    for i in steps.count(shown, len(shown), share=15):
        room = rooms[i]
        leads = i == lead
        large = larger(room, config.large if leads else max(1, config.large // 2), config.seed, i)
        points = draw.grid_uv(room.camera, 12, 9)
        points = points[np.random.default_rng([config.seed, i]).permutation(len(points))]
        points = np.rint(points[draw.spread(points, 7 if leads else 5)])
        measured = asked.measure(as_seen(room), points, room.camera)
        found = _marks(room, measured)
        photos.append(draw.annotate(large, found, size=SIZE, width=1280 if leads else 960, text=1.0 if leads else 1.7))
        right = sum(mark.correct for mark in found)
        captions.append(f"{right} of {len(found)} within a factor of 1.25; focal length {room.camera.fx:.0f} px")
        marks = marks or len(found)
    measured_z, grid = _grid(asked, rooms[lead], config, steps)
    pictures = _lead_pictures(rooms[lead], measured_z, grid, photos, captions, scratch)
    talks = [_talk(engine, samples[lead], rooms[lead]) for engine in engines.values()]
    return pictures, talks, grid, marks


def _marks(room: Rendered, measured: Measurement) -> list[draw.Mark]:
    u, v = measured.uv.astype(int).T
    truth = room.z[v, u] * room.camera.ray_factor(measured.uv)
    return [
        draw.Mark((float(p[0]), float(p[1])), float(d), float(g), float(low), float(high))
        for p, d, g, low, high in zip(measured.uv, measured.distance, truth, measured.low, measured.high, strict=True)
        if np.isfinite(g)
    ]


def _grid(
    engine: Engine, room: Rendered, config: DemoConfig, steps: Steps
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """[rows, columns] measured z at the cell centres, and the figures about it."""
    columns, rows = config.grid
    uv = draw.grid_uv(room.camera, columns, rows)
    strips = np.array_split(uv, min(8, rows))  # a strip at a time, so that the progress bar moves
    image = as_seen(room)
    z = np.concatenate([engine.measure(image, s, room.camera).z for s in steps.count(strips, len(strips), share=20)])
    truth = nearest_z(room, uv)
    near, far = (float(x) for x in np.nanquantile(truth[np.isfinite(truth)], [0.02, 0.98]))
    factor = room.camera.ray_factor(uv)
    figures = {
        "columns": columns,
        "rows": rows,
        "n": len(uv),
        "reference": engine.reference.name,
        "delta1": delta1(z * factor, truth * factor),
        "n_unparsed": int(np.isnan(z).sum()),
        "near": near,
        "far": max(far, near * 1.01),
    }
    return z.reshape(rows, columns), figures


def _lead_pictures(
    room: Rendered,
    measured_z: NDArray[np.float64],
    grid: dict[str, Any],
    photos: list[Image.Image],
    captions: list[str],
    scratch: Path,
) -> Pictures:
    """Depth panels and clouds of the leading room; writes the files the page links to."""
    rows, columns = measured_z.shape
    camera, seen, panel = room.camera, as_seen(room), (480, 480 * SIZE[1] // SIZE[0])
    ends = {"near": grid["near"], "far": grid["far"]}
    truth_z = nearest_z(room, draw.grid_uv(camera, columns, rows)).reshape(rows, columns)
    panels = [draw.depth_picture(z, panel, **ends) for z in (measured_z, truth_z, room.z.astype(np.float64))]
    sparse = draw.grid_cloud(seen, measured_z, camera)
    dense = PointCloud.from_depth(seen, room.z, camera).filter(max_edge=0.1)
    look: dict[str, Any] = {"pivot": float(np.median(truth_z[np.isfinite(truth_z)])), "yaw": 24.0, "pitch": 16.0}
    size = (640, 640 * SIZE[1] // SIZE[0])
    clouds = [
        draw.cloud_picture(sparse, camera, size, splat=max(2, round(0.5 * size[0] / columns)), **look),
        draw.cloud_picture(dense, camera, size, splat=max(2, round(1.8 * size[0] / SIZE[0])), **look),
    ]
    for suffix in ("ply", "glb"):
        if len(sparse):  # a model that gave no number at all has no cloud to write
            sparse.save(scratch / f"room.{suffix}")
    photos[0].save(scratch / "room.png")
    clouds[0].save(scratch / "cloud.png")
    draw.overview(photos[0], [("measured", panels[0]), ("true", panels[1])]).save(scratch / "demo.png")
    return Pictures(
        photo=photos[0],
        grid_measured=panels[0],
        grid_truth=panels[1],
        full_truth=panels[2],
        cloud_measured=clouds[0],
        cloud_truth=clouds[1],
        gallery=list(zip(photos[1:], captions[1:], strict=True)),
    )


def _talk(engine: Engine, sample: Sample, room: Rendered) -> Talk:
    """The first evaluated point of the room, asked once more, word for word."""
    request = engine.requests(as_seen(room), sample.camera, sample.uv[:1])[0]
    answer = engine.ask([request])[0]
    kind = "by coordinates" if engine.reference.kind == "text" else f"by a red {engine.reference.name}"
    seen = request.images()[0]
    if engine.reference.kind == "marker":
        big = draw.with_inset(seen, request.uv[0], scale=3)
    else:
        big = seen.resize((seen.width * 3, seen.height * 3), Image.Resampling.NEAREST)
    return Talk(f"Pointing {kind}", big, request.question, answer.text, float(sample.distance[0]))
