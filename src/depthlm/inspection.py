"""What a data set holds: counts, ranges, and a contact sheet with its labelled points."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.sample import Samples

_MAX_POINTS = 400  # per picture of the sheet; more would cover the picture
_Z_EDGES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, float("inf"))  # metres, of the printed histogram


def describe(data: Samples) -> dict[str, Any]:
    """Counts and ranges over all samples. Lengths in metres, focal lengths in pixels; None for an empty set."""
    z, distance, focal, sizes, scenes = [], [], [], [], set()
    surfaces: dict[str, int] = {}
    objects: dict[str, int] = {}
    counts: list[int] = []
    for i in range(len(data)):
        sample = data[i]
        counts.append(len(sample))
        if len(sample):
            z.append(sample.z)
            distance.append(sample.distance)
        focal.append((sample.camera.fx, sample.camera.fy))
        sizes.append((sample.camera.width, sample.camera.height))
        scenes.add(sample.scene)
        for name in sample.surface or ():
            surfaces[name] = surfaces.get(name, 0) + 1
        for thing in sample.objects:
            objects[thing.name] = objects.get(thing.name, 0) + 1
    all_z = np.concatenate(z) if z else np.empty(0)
    return {
        "samples": len(data),
        "points": sum(counts),
        "scenes": len(scenes - {""}),
        "skipped": len(getattr(data, "skipped", [])),
        "points_per_image": _range(np.array(counts)),
        "points_per_megapixel": _range(
            np.array(counts) / np.maximum(1, np.prod(np.array(sizes).reshape(-1, 2), 1)) * 1e6
        ),
        "z_m": _range(all_z),
        "z_histogram": {
            "edges_m": [*_Z_EDGES[:-1], None],
            "points": np.histogram(all_z, _Z_EDGES)[0].tolist(),
        },
        "distance_m": _range(np.concatenate(distance) if distance else np.empty(0)),
        "focal_px": _range(np.array(focal).reshape(-1)),
        "width_px": _range(np.array([s[0] for s in sizes])),
        "height_px": _range(np.array([s[1] for s in sizes])),
        "surfaces": _by_count(surfaces),
        "objects": _by_count(objects),
    }


def format_description(name: str, facts: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = [f"{name}: {facts['samples']} samples, {facts['points']} labelled points, {facts['scenes']} named scenes"]
    if facts["skipped"]:
        lines.append(f"  skipped    {facts['skipped']} bad rows")
    for key, label in (
        ("points_per_image", "per image"), ("points_per_megapixel", "per Mpixel"), ("z_m", "z, m"),
        ("distance_m", "distance"), ("focal_px", "focal, px"), ("width_px", "width"),
    ):  # fmt: skip
        if (found := facts[key]) is not None:
            lines.append(f"  {label:<10} {found['min']:.2f} to {found['max']:.2f}, median {found['median']:.2f}")
    edges, histogram = facts["z_histogram"]["edges_m"], facts["z_histogram"]["points"]
    for low, high, count in zip(edges, edges[1:], histogram, strict=False):
        if count:
            span = f"{low:g}+" if high is None else f"{low:g} - {high:g}"
            share = count / facts["points"]
            lines.append(f"  z {span:<8} {share:6.1%}  {'#' * round(40 * share)}")
    if facts["surfaces"]:
        lines.append("  surfaces   " + ", ".join(f"{k} {v}" for k, v in list(facts["surfaces"].items())[:12]))
    if facts["objects"]:
        named = ", ".join(f"{k} {v}" for k, v in list(facts["objects"].items())[:12])
        lines.append(f"  objects    {sum(facts['objects'].values())}: {named}")
    return "\n".join(lines)


def contact_sheet(data: Samples, out: Path | str, *, images: int = 12, seed: int = 0) -> Path:
    """Draw up to `images` pictures with their points coloured by z, and the histogram of z; written by rename.

    The pictures are a seeded choice. The suffix of `out` names the format (.png, .jpg, .pdf).
    Raises InputError for an empty data set, an unreadable picture, an unwritable file.
    """
    if not len(data):
        raise InputError("the data holds no sample; nothing to draw")
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    out = Path(out)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(data))[:images])
    samples = [data[int(i)] for i in chosen]
    depths = np.concatenate([s.z for s in samples])
    # Equal ratios in equal colours: a linear scale would spend its colours on the few far points.
    scale = LogNorm(float(depths.min()), float(depths.max()) * 1.001) if depths.size else LogNorm(1, 10)
    columns = min(4, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows + 2.5), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns)
    drawn: Any = None
    for k, (index, sample) in enumerate(zip(chosen, samples, strict=True)):
        axes = figure.add_subplot(grid[k // columns, k % columns])
        axes.imshow(sample.load_image())
        shown = rng.permutation(len(sample))[:_MAX_POINTS]
        u, v = sample.uv[shown].T
        drawn = axes.scatter(u, v, c=sample.z[shown], s=14, cmap="turbo", norm=scale, ec="white", lw=0.4)
        axes.set_title(f"{index}: {sample.frame or 'sample'}"[-40:], fontsize=8)
        axes.set_axis_off()
    bottom = figure.add_subplot(grid[rows, :])
    if depths.size:
        bottom.hist(depths, bins=60, color="0.4")
        figure.colorbar(drawn, ax=bottom, label="z, m", location="right", format="%g")
    bottom.set_xlabel(f"z of the {depths.size} points on these {len(samples)} of {len(data)} pictures, m")
    bottom.set_ylabel("points")
    _save(figure, out)
    return out


def _save(figure: Any, out: Path) -> None:
    temporary = out.with_name(f".{out.stem}.tmp{os.getpid()}{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, dpi=100)
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror or error}); give another --out") from error
    except ValueError as error:  # an unknown suffix
        raise InputError(f"cannot write {out} ({error})") from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _range(values: Any) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
