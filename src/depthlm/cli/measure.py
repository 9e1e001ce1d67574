"""Commands that measure pictures: demo, predict, map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit, load, parse_point, progress_bar, require_writable
from depthlm.cli.options import (
    Answers,
    AssumeFov,
    CameraFile,
    CameraFrom,
    Device,
    Dtype,
    Focal,
    Fov,
    Json,
    ModelName,
    Read,
    Reference,
    Revision,
    Task,
)
from depthlm.errors import InputError


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
    image: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Pictures; for a task about two images the first and second."),
    ],
    point: Annotated[
        list[str] | None, typer.Option("--point", metavar="U,V", help="Pixel to measure; repeat for more.")
    ] = None,
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
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Measure points in pictures; says which camera was used, and why."""
    from depthlm.inference.predict import format_prediction, predict_image, read_photo, save_lengths
    from depthlm.tasks import get_task

    kind = get_task(task)
    if kind.points and not point:
        raise InputError(f"task {task} is about points; give --point U,V")
    if kind.images == 2 and len(image) != 2:
        raise InputError(f"task {task} is about two images, the first and the second; {len(image)} given")
    if draw is not None:
        if task != "between" or len(image) != 1:
            raise InputError("--draw shows the lengths of --task between in one picture; leave it out otherwise")
        require_writable(draw)
    uv = [parse_point(text) for text in point or ()]
    cameras: dict[str, Any] = {"focal": focal, "fov": fov, "file": camera}
    cameras |= {"estimator": camera_from, "assume_fov": assume_fov}
    # Points are asked of every picture, but of the first of two.
    photos = [read_photo(path, uv if k == 0 or kind.images == 1 else [], **cameras) for k, path in enumerate(image)]
    loaded = load(model, device, dtype, revision)
    asked = [(photo, None) for photo in photos] if kind.images == 1 else [(photos[0], photos[1])]
    results = [
        predict_image(
            loaded, photo, second=second, task=task, given=given, reference=reference, answers=answers, read=read
        )
        for photo, second in asked
    ]
    if draw is not None:
        save_lengths(photos[0], results[0], draw)
    text = "\n".join(format_prediction(result) for result in results)
    emit({"model": model, "task": task, "images": results}, as_json, text)


@app.command(name="map")
def map_(
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture.")],
    out: Annotated[
        Path, typer.Option(help="File: .npy (metres), .png (16 bit, millimetres), .ply or .glb (point cloud).")
    ],
    budget: Annotated[int, typer.Option(help="Questions to ask.")] = 2000,
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
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Measure every pixel of a picture from a few thousand questions: a depth map or a point cloud."""
    from depthlm.inference.map_files import check_suffix, format_map, map_photo
    from depthlm.inference.predict import read_photo

    check_suffix(out)
    require_writable(out)
    if budget < 1:
        raise InputError(f"--budget is {budget}; expected 1 or more questions")
    photo = read_photo(image, [], focal=focal, fov=fov, file=camera, estimator=camera_from, assume_fov=assume_fov)
    loaded = load(model, device, dtype, revision)
    from depthlm.inference.dense import cheapest_reference
    from depthlm.inference.engine import Engine
    from depthlm.inference.shape import predict_shape

    chosen = device or str(next(loaded.model.parameters()).device)
    guide = None if shape is None else (lambda picture: predict_shape(shape, picture, device=chosen))
    engine = Engine(loaded, reference=reference or cheapest_reference(loaded.card), read=read, batch=32)
    with progress_bar("map") as progress:
        result = map_photo(
            engine,
            photo,
            out,
            budget=budget,
            answers=answers,
            shape=guide,
            max_edge=max_edge or None,
            progress=progress,
        )
    emit({"model": model, **result}, as_json, format_map(result))
