"""Commands that measure pictures: demo, predict, map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit, load, parse_point, progress_bar, require_writable
from depthlm.cli.many import ask_all, check, gather, settings
from depthlm.cli.options import (
    Answers,
    AssumeFov,
    CameraFile,
    CameraFrom,
    Device,
    Dtype,
    Focal,
    Fov,
    Images,
    Json,
    ModelName,
    Pictures,
    Read,
    Reference,
    Revision,
    SkipBad,
    Task,
    Workers,
)
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from depthlm.inference.predict import Photo
    from depthlm.inference.sources import Job


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("out/demo")) -> None:
    """Measure rooms that nano never saw; writes OUT/index.html."""
    require_writable(out)
    from depthlm.demo import format_table, run_demo

    with progress_bar("demo") as progress:
        summary = run_demo(out, progress=progress)
    print(format_table(summary))
    print(f"page: {out / 'index.html'}")


@app.command()
def predict(
    model: ModelName,
    image: Pictures = None,
    point: Annotated[
        list[str] | None, typer.Option("--point", metavar="U,V", help="Pixel to measure; repeat for more.")
    ] = None,
    points: Annotated[
        Path | None, typer.Option(help="CSV of points: image,u,v and what you like; in place of IMAGE and --point.")
    ] = None,
    images: Images = None,
    task: Task = "distance",
    given: Annotated[
        float | None, typer.Option(help="The number a question states: seconds for speed, m/s for time.")
    ] = None,
    focal: Focal = None,
    fov: Fov = None,
    camera: CameraFile = None,
    camera_from: CameraFrom = None,
    assume_fov: AssumeFov = None,
    reference: Reference = None,
    answers: Answers = None,
    read: Read = None,
    draw: Annotated[
        Path | None, typer.Option(help="Of --task between: PNG of the picture with the lengths drawn in.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Table (.csv, .parquet, .jsonl), or a folder: a JSON file for each picture. Resumes."),
    ] = None,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Measure points in pictures; says which camera was used, and why. Of two images: the first and the second."""
    from depthlm.tasks import get_task

    kind = get_task(task)
    if kind.points and not (point or points):
        raise InputError(f"task {task} is about points; give --point U,V or --points FILE.csv")
    uv = [parse_point(text) for text in point or ()]
    cameras = _cameras(focal, fov, camera, camera_from, assume_fov)
    if kind.images == 2:
        if out or points or skip_bad or draw:
            raise InputError(f"task {task} is about two images; --out, --points, --skip-bad and --draw are for one")
        loading: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision}
        asking: dict[str, Any] = {"task": task, "given": given, "answers": answers}
        _predict_pair(model, image or [], uv, cameras, loading, asking, reference, read, as_json)
        return
    jobs, left = gather(image, uv, points=points, images=images, skip_bad=skip_bad)
    if draw is not None:
        if task != "between" or len(jobs) != 1:
            raise InputError("--draw shows the lengths of --task between in one picture; leave it out otherwise")
        require_writable(draw)
    from depthlm.inference.results import Record, check_columns, is_table, record_path, write_results
    from depthlm.inference.sources import output_paths

    if out is not None:
        require_writable(out)
        check_columns(jobs)
        if not is_table(out):
            output_paths(jobs, out, [".json"])
    record = Record(record_path(out) if out else None)
    checked, bad = check(jobs, lambda job: record.get(job) is not None, cameras, workers=workers, skip_bad=skip_bad)
    from depthlm.inference.engine import Engine
    from depthlm.inference.predict import ask_photo, format_prediction, save_lengths

    engine = Engine(load(model, device, dtype, revision), reference=reference, read=read)
    record.begin(settings(engine, model, cameras, task=task, given=given, answers=answers))

    def ask(job: Job, photo: Photo, told: Callable[[float], None]) -> dict[str, Any]:
        result = ask_photo(engine, photo, task=task, given=given, answers=answers)
        if draw is not None:
            save_lengths(photo, result, draw)
        return result

    try:
        bad += ask_all("predict", checked, record, ask, workers=workers, skip_bad=skip_bad)
    finally:
        record.close()
    done = [(job, result) for job in jobs if (result := record.get(job)) is not None]
    left.skipped += bad
    left.tell()
    counts = {
        "n_images": len(done),
        "n_asked": len(checked) - len(bad),
        "n_skipped": len(left.skipped),
        "skipped": left.skipped,
    }
    if out is None:
        results = [result for _, result in done]
        text = "\n".join(format_prediction(result) for result in results)
        emit({"model": model, "task": task, "images": results, **counts}, as_json, text)
        return
    rows = write_results(out, done)
    text = f"{out}: {rows} answers about {len(done)} pictures, {counts['n_asked']} of them asked now"
    emit({"model": model, "task": task, "out": str(out), "n_rows": rows, **counts}, as_json, text)


def _cameras(*values: Any) -> dict[str, Any]:
    """What `read_photo` takes, from the options for cameras in their order."""
    return dict(zip(("focal", "fov", "file", "estimator", "assume_fov"), values, strict=True))


def _predict_pair(
    model: str,
    image: list[str],
    uv: list[tuple[float, float]],
    cameras: dict[str, Any],
    loading: dict[str, Any],
    asking: dict[str, Any],
    reference: str | None,
    read: str | None,
    as_json: bool,
) -> None:
    """Ask about two pictures; points are of the first."""
    from depthlm.inference.predict import ask_photo, format_prediction, read_photo

    if len(image) != 2:
        raise InputError(f"task {asking['task']} is about two images, the first and the second; {len(image)} given")
    first, second = (read_photo(Path(path), at, **cameras) for path, at in zip(image, (uv, []), strict=True))
    from depthlm.inference.engine import Engine

    result = ask_photo(Engine(load(model, **loading), reference=reference, read=read), first, second=second, **asking)
    emit({"model": model, "task": asking["task"], "images": [result]}, as_json, format_prediction(result))


@app.command(name="map")
def map_(
    model: ModelName,
    image: Pictures,
    out: Annotated[
        Path,
        typer.Option(help="File: .npy (metres), .png (16 bit, millimetres), .ply or .glb (point cloud); or a folder."),
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="Of a folder: npy, png, ply, glb for each picture; repeat for more. Default npy."
        ),
    ] = None,
    budget: Annotated[int, typer.Option(help="Questions to ask about a picture.")] = 2000,
    shape: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Depth-estimation model of transformers that says what lies between."),
    ] = None,
    max_edge: Annotated[
        float, typer.Option(help="Of a cloud, leave out points on depth edges sharper than this; 0 keeps all.")
    ] = 0.1,
    focal: Focal = None,
    fov: Fov = None,
    camera: CameraFile = None,
    camera_from: CameraFrom = None,
    assume_fov: AssumeFov = None,
    reference: Reference = None,
    answers: Answers = None,
    read: Read = None,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Measure every pixel of pictures from a few thousand questions: depth maps or point clouds."""
    if budget < 1:
        raise InputError(f"--budget is {budget}; expected 1 or more questions")
    from depthlm.inference.map_files import format_map, map_photo
    from depthlm.inference.results import Record, record_path

    jobs, left = gather(image)
    paths = _map_paths(jobs, out, formats)
    require_writable(out)
    cameras = _cameras(focal, fov, camera, camera_from, assume_fov)
    one_file = len(paths) == 1 and next(iter(paths.values())) == [out]
    record = Record(None if one_file else record_path(out))

    def known(job: Job) -> bool:
        return record.get(job) is not None and all(path.is_file() for path in paths[job.name])

    checked, bad = check(jobs, known, cameras, workers=workers, skip_bad=skip_bad)
    loaded = load(model, device, dtype, revision)
    from depthlm.inference.dense import cheapest_reference
    from depthlm.inference.engine import Engine
    from depthlm.inference.shape import predict_shape

    chosen = device or str(next(loaded.model.parameters()).device)
    guide = None if shape is None else (lambda picture: predict_shape(shape, picture, device=chosen))
    engine = Engine(loaded, reference=reference or cheapest_reference(loaded.card), read=read, batch=32)
    made: dict[str, Any] = {"budget": budget, "answers": answers, "max_edge": max_edge or None}
    record.begin(settings(engine, model, cameras, **made, shape=shape))

    def ask(job: Job, photo: Photo, told: Callable[[float], None]) -> dict[str, Any]:
        return map_photo(
            engine, photo, paths[job.name], **made, shape=guide, progress=lambda done, total: told(done / total)
        )

    try:
        bad += ask_all("map", checked, record, ask, workers=workers, skip_bad=skip_bad)
    finally:
        record.close()
    results = [record.get(job) or {} for job in jobs if known(job)]
    left.skipped += bad
    left.tell()
    if one_file:
        emit({"model": model, **results[0]}, as_json, format_map(results[0]))
        return
    asked = len(checked) - len(bad)
    counts = {"n_images": len(results), "n_asked": asked, "n_skipped": len(left.skipped), "skipped": left.skipped}
    text = f"{out}: maps of {len(results)} pictures, {asked} of them asked now"
    emit({"model": model, "out": str(out), **counts, "images": results}, as_json, text)


def _map_paths(jobs: list[Job], out: Path, formats: list[str] | None) -> dict[str, list[Path]]:
    """By job name, the files its map goes to. Raises InputError for an output that does not suit the pictures."""
    from depthlm.inference.map_files import check_suffix
    from depthlm.inference.sources import output_paths

    if out.suffix and not out.is_dir():
        check_suffix(out)
        if formats:
            raise InputError(f"--format is for a folder; {out} says by its name what it is")
        if len(jobs) != 1:
            raise InputError(
                f"--out {out} is one file for {len(jobs)} pictures; give a folder and --format {out.suffix[1:]}"
            )
        return {jobs[0].name: [out]}
    suffixes = [f".{name.lstrip('.')}" for name in dict.fromkeys(formats or ["npy"])]
    for suffix in suffixes:
        check_suffix(out / f"map{suffix}")
    return output_paths(jobs, out, suffixes)
