"""Commands that make labelled data and look at it: synth, curate, manifest, inspect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import counted, emit, progress_bar, require_writable
from depthlm.cli.options import Images, Json, Label, Seed, SkipBad


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Shard folder to write.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")],
    seed: Seed = 0,
    kind: Annotated[Literal["indoor", "outdoor"], typer.Option(help="Rooms or streets.")] = "indoor",
    views: Annotated[int, typer.Option(min=1, help="Pictures of each scene.")] = 4,
    focal_range: Annotated[tuple[float, float], typer.Option(help="Focal lengths, pixels.")] = (150.0, 260.0),
    points: Annotated[int, typer.Option(min=1, help="About how many labelled points per picture.")] = 400,
    pairs: Annotated[bool, typer.Option("--pairs", help="Every second picture is near the one before it.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: every core.")] = None,
    as_json: Json = False,
) -> None:
    """Render procedural scenes with exact depth into a shard folder."""
    require_writable(out)
    from depthlm.data.shards import write_shards
    from depthlm.synth.generate import synth_samples

    settings: dict[str, Any] = {
        "seed": seed,
        "kind": kind,
        "views": views,
        "focal_range": focal_range,
        "points": points,
        "pairs": pairs,
    }
    samples = synth_samples(scenes, **settings, workers=workers or os.cpu_count() or 1)
    info = {"source": "depthlm synth", "scenes": scenes, **settings}
    with progress_bar("synth") as progress:
        write_shards(counted(samples, progress, scenes * views), out, info=info)
    emit({"out": str(out), "samples": scenes * views, **info}, as_json, f"{scenes * views} pictures in {out}")


@app.command()
def curate(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Name of a reader: argoverse2, ibims1, folder, ...")
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The data set as downloaded.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Shard folder to write, or to go on with.")],
    split: Annotated[str, typer.Option(help="Official split, or all; default: the set's first.")] = "",
    points: Annotated[int, typer.Option(min=1, help="Labelled points per frame.")] = 100,
    choose: Annotated[
        Literal["uniform", "stratified"], typer.Option(help="Pixels at random, or by depth.")
    ] = "uniform",
    near: Annotated[float | None, typer.Option(help="Least z, metres; default: the reader's.")] = None,
    far: Annotated[float | None, typer.Option(help="Largest z, metres; default: the reader's.")] = None,
    min_points: Annotated[int, typer.Option(min=1, help="Skip frames with fewer valid labels.")] = 10,
    every: Annotated[int | None, typer.Option(min=1, help="Of videos, one frame in N; default: the reader's.")] = None,
    moved: Annotated[float, typer.Option(help="Keep a video frame when the camera moved so far, metres.")] = 0.05,
    turned: Annotated[float, typer.Option(help="... or turned so much, degrees.")] = 2.0,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: every core.")] = None,
    ray: Annotated[str | None, typer.Option(help="Ray cluster address, or local; takes the place of workers.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable frame.")] = False,
    legacy_labels: Annotated[
        bool, typer.Option("--legacy-labels", help="With the errors of the released curation.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn the raw tree of a data set into labelled shards; goes on after an interruption."""
    require_writable(out)
    from depthlm.data.choose import CurateConfig
    from depthlm.data.curate import curate as run_curation

    config = CurateConfig(
        dataset=dataset, split=split, points=points, choose=choose, near=near, far=far, min_points=min_points,
        every=every, moved=moved, turned=turned, seed=seed, legacy=legacy_labels,
    )  # fmt: skip
    with progress_bar(f"curate {dataset}") as progress:
        manifest = run_curation(
            config, root, out, workers=workers or os.cpu_count() or 1, ray=ray, strict=strict, progress=progress
        )
    info, frames = manifest["info"], manifest["info"]["frames"]
    text = (
        f"{out}: {manifest['rows']} frames, {manifest['points']} points; {frames['indexed']} frames in the split, "
        f"{frames['chosen']} kept, {frames['skipped']} unusable"
    )
    text += "".join(f"\n  skipped  {line}" for line in info["skipped"][:20])
    if len(info["skipped"]) > 20:
        text += f"\n  ... and {len(info['skipped']) - 20} more, see {out / 'manifest.json'}"
    emit({"out": str(out), "rows": manifest["rows"], "points": manifest["points"], **info}, as_json, text)


@app.command()
def manifest(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A set of the suite.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The data set as downloaded.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON file to write.")],
    suite: Annotated[str, typer.Option(help="Benchmark protocol: paper or depthvlm.")] = "paper",
    as_json: Json = False,
) -> None:
    """Write the points that a benchmark suite asks about in a download."""
    require_writable(out)
    from depthlm.evaluation.suites import get_suite, write_manifest

    with progress_bar(f"manifest {dataset}") as progress:
        pinned = write_manifest(get_suite(suite), dataset, root, out, progress=progress)
    facts = {key: value for key, value in pinned.items() if key != "images"} | {"images": len(pinned["images"])}
    text = f"{out}: {facts['points']} points on {facts['images']} images, sha256 {facts['points_sha256'][:16]}"
    text += "".join(f"\n  skipped  {line}" for line in pinned["skipped"][:20])
    emit({"out": str(out), **facts}, as_json, text)


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Shard folder or .jsonl.")],
    out: Annotated[Path, typer.Option(help="Contact sheet to write.")] = Path("sheet.png"),
    images: Images = None,
    label: Label = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Counts and ranges of a data set, and a contact sheet with its labelled points."""
    require_writable(out)
    from depthlm.data import open_data
    from depthlm.inspection import contact_sheet, describe, format_description

    samples = open_data(data, images=images, label=label, skip_bad=skip_bad)
    facts = describe(samples)
    contact_sheet(samples, out, seed=seed)
    text = f"{format_description(str(data), facts)}\n  sheet      {out}"
    if data.suffix == ".jsonl" and label is None:
        text += "\n  labels     taken as z; say --label distance if they are Euclidean"
    emit({"data": str(data), "sheet": str(out), **facts}, as_json, text)
