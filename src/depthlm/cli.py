"""The command line: parses, calls, prints. Exit status 0 done, 2 bad input (one line on stderr), 1 anything else."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from depthlm.errors import InputError, NothingToAskError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from depthlm.models.loading import LoadedModel

app = typer.Typer(
    name="depthlm",
    help="Metric depth from standard vision-language models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="nano, a model folder, or a hub id.")]
Device = Annotated[str | None, typer.Option(help="Torch device; default: a GPU when there is one.")]
Dtype = Annotated[str | None, typer.Option(help="Torch dtype: float32, bfloat16, float16.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
Reference = Annotated[
    str | None, typer.Option(help="arrow, square, cross, text, text-pixels; default: the model's own.")
]
Quantity = Literal["distance", "z"]
ALL_TASKS = "all"
# What `eval --retention` asks about when no data is named: rooms that no recipe of ours trains on.
RETENTION_ROOMS: dict[str, Any] = {"scenes": 24, "seed": 900_000, "views": 2, "points": 40}
_TASK_HELP = (
    "What is asked: distance, z, speed, time, between, nearer, surface, colour, where; of two images moved, direction, "
    "rotation, angle, match"
)
Task = Annotated[str, typer.Option(help=f"{_TASK_HELP}.")]
Answers = Annotated[Quantity | None, typer.Option(help="What the answers mean; default: what depthlm.json says.")]
Label = Annotated[Quantity | None, typer.Option(help="What the numbers of a .jsonl mean.")]
Images = Annotated[Path | None, typer.Option(help="Folder that a .jsonl's image paths are relative to.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, list and count them.")]
Read = Annotated[
    Literal["greedy", "median", "mean", "best"] | None,
    typer.Option(help="Which number of the model's belief is its answer; default: what depthlm.json says."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Metric depth from standard vision-language models. Errors in the input end with one line and exit status 2."""


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("out/demo")) -> None:
    """Measure rooms that nano never saw; writes OUT/index.html."""
    _require_writable(out)
    from depthlm.demo import format_table, run_demo

    with _progress("demo") as progress:
        summary = run_demo(out, progress=progress)
    print(format_table(summary))
    print(f"page: {out / 'index.html'}")


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
    _require_writable(out)
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
    with _progress("synth") as progress:
        write_shards(_counted(samples, progress, scenes * views), out, info=info)
    _emit({"out": str(out), "samples": scenes * views, **info}, as_json, f"{scenes * views} pictures in {out}")


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
    _require_writable(out)
    from depthlm.data.choose import CurateConfig
    from depthlm.data.curate import curate as run_curation

    config = CurateConfig(
        dataset=dataset, split=split, points=points, choose=choose, near=near, far=far, min_points=min_points,
        every=every, moved=moved, turned=turned, seed=seed, legacy=legacy_labels,
    )  # fmt: skip
    with _progress(f"curate {dataset}") as progress:
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
    _emit({"out": str(out), "rows": manifest["rows"], "points": manifest["points"], **info}, as_json, text)


@app.command()
def manifest(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A set of the suite.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The data set as downloaded.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON file to write.")],
    suite: Annotated[str, typer.Option(help="Benchmark protocol: paper or depthvlm.")] = "paper",
    as_json: Json = False,
) -> None:
    """Write the points that a benchmark suite asks about in a download."""
    _require_writable(out)
    from depthlm.evaluation.suites import get_suite, write_manifest

    with _progress(f"manifest {dataset}") as progress:
        pinned = write_manifest(get_suite(suite), dataset, root, out, progress=progress)
    facts = {key: value for key, value in pinned.items() if key != "images"} | {"images": len(pinned["images"])}
    text = f"{out}: {facts['points']} points on {facts['images']} images, sha256 {facts['points_sha256'][:16]}"
    text += "".join(f"\n  skipped  {line}" for line in pinned["skipped"][:20])
    _emit({"out": str(out), **facts}, as_json, text)


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
    _require_writable(out)
    from depthlm.data import open_data
    from depthlm.inspection import contact_sheet, describe, format_description

    samples = open_data(data, images=images, label=label, skip_bad=skip_bad)
    facts = describe(samples)
    contact_sheet(samples, out, seed=seed)
    text = f"{format_description(str(data), facts)}\n  sheet      {out}"
    if data.suffix == ".jsonl" and label is None:
        text += "\n  labels     taken as z; say --label distance if they are Euclidean"
    _emit({"data": str(data), "sheet": str(out), **facts}, as_json, text)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values to change.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: out/ and the recipe's name.")] = None,
    as_json: Json = False,
) -> None:
    """Train by a recipe; a run that was interrupted goes on from its folder."""
    from depthlm.training.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    folder = out or Path("out") / resolved.name
    _require_writable(folder)
    from depthlm.training.run import run_recipe

    try:
        model = run_recipe(resolved, folder, report=lambda line: print(line, file=sys.stderr, flush=True))
    except StoppedError as stopped:
        _emit({"run": str(folder), "model": None, "stopped": str(stopped)}, as_json, str(stopped))
        return
    _emit({"run": str(folder), "model": str(model)}, as_json, f"model: {model}")


@app.command(name="eval")
def evaluate_(
    model: ModelName,
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA...", help="Shard folders or .jsonl files; with --suite the folder of downloads."),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Benchmark protocol: paper or depthvlm.")] = None,
    legacy_labels: Annotated[
        bool, typer.Option("--legacy-labels", help="With --suite: reproduce the published label errors.")
    ] = False,
    images: Images = None,
    label: Label = None,
    points: Annotated[int, typer.Option(min=1, help="Points chosen over all images of a data set.")] = 8192,
    reference: Reference = None,
    task: Annotated[
        str,
        typer.Option(help=f"{_TASK_HELP}; about labelled objects: docs/tasks.md; all: what the model was trained on."),
    ] = "distance",
    retention: Annotated[
        bool, typer.Option("--retention", help="Ask questions without a length, to see what fine-tuning cost.")
    ] = False,
    answers: Answers = None,
    read: Read = None,
    skip_bad: SkipBad = False,
    out: Annotated[Path | None, typer.Option(help="Folder for points, summary and report; resumes from it.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Questions per forward pass.")] = 8,
    batch_mem: Annotated[float, typer.Option(help="MiB for questions about one picture asked together.")] = 512.0,
    forced: Annotated[bool, typer.Option("--forced/--free", help="Begin answers that all begin alike.")] = True,
    decimals: Annotated[int | None, typer.Option(help="Digits after the point decoded when forced.")] = None,
    seed: Seed = 0,
    intervals: Annotated[bool, typer.Option(help="Compute the 80 % interval of each answer.")] = True,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on labelled points: delta1 beside the best constant answer, errors, failures."""
    data = data or []
    for path in data:
        if path.suffix == ".jsonl" and label is None:
            raise InputError(f"{path}: a .jsonl does not say what its depths mean; give --label z or --label distance")
    if out is not None:
        _require_writable(out)
    started = time.monotonic()
    from depthlm.tasks import get_task

    is_table = task == ALL_TASKS or retention
    if not is_table:
        get_task(task)
    if retention and (task != "distance" or suite is not None):
        raise InputError("--retention asks its own fixed tasks; leave --task and --suite out")
    if not data and not retention:
        raise InputError("no DATA given; name a shard folder or a .jsonl")
    from depthlm.data import open_data
    from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
    from depthlm.evaluation.report import format_suite, format_summary, format_tasks
    from depthlm.evaluation.suites import get_suite, run_suite

    asked: dict[str, Any] = {"reference": reference, "task": task, "answers": answers, "points": points, "seed": seed}
    asked |= {"batch": batch, "intervals": intervals, "read": read}
    asked |= {"batch_mem": batch_mem, "forced": forced, "decimals": decimals}
    if suite is not None:
        if task not in ("distance", "z"):
            raise InputError(f"--suite asks for distance or z; task {task} has no published protocol")
        protocol = get_suite(suite)
        if len(data) != 1:
            raise InputError("--suite takes one folder, which holds the downloads as folders named after the sets")
        suite_out = out or Path("out") / f"suite-{suite}"
        _require_writable(suite_out)
        with _progress(suite) as progress:
            result = run_suite(
                _load(model, device, dtype, revision), protocol, data[0], suite_out, EvaluationConfig(**asked),
                model_name=model, legacy=legacy_labels, workers=os.cpu_count() or 1,
                progress=progress,
            )  # fmt: skip
        from depthlm.data.shards import ShardDataset

        present = [run["dataset"] for run in result["runs"]]
        _report(suite_out, [(suite_out / name, ShardDataset(suite_out / "points" / name)) for name in present], started)
        _emit(result, as_json, format_suite(result))
        return
    if legacy_labels:
        raise InputError("--legacy-labels needs --suite: only the benchmark sets have published label errors")
    sets: list[Any] = [
        open_data(path, images=images, label=label, skip_bad=skip_bad, check_images=True) for path in data
    ]
    for samples in sets:
        for line in samples.skipped:
            print(f"skipped {line}", file=sys.stderr)
    if not data:
        from depthlm.synth.generate import synth_samples

        data, sets = [Path("rendered-rooms")], [list(synth_samples(**RETENTION_ROOMS))]
    loaded = _load(model, device, dtype, revision)
    runs: list[dict[str, Any]] = []
    written: list[tuple[Path, Any]] = []
    names = _task_list(loaded, task, retention, reference)
    for number, (path, samples) in enumerate(zip(data, sets, strict=True)):
        folder = out if out is None or len(data) == 1 else out / f"{number:02d}-{path.stem}"
        for name in names:
            run_folder = folder / name if folder is not None and is_table else folder
            config = EvaluationConfig(
                **asked | {"task": name}, label=label if label is not None and path.suffix == ".jsonl" else "z"
            )
            try:
                with _progress(f"{path.name} {name}") as progress:
                    run = evaluate(
                        loaded, samples, config, model_name=model, data_name=str(path), progress=progress,
                        out=run_folder,
                    )  # fmt: skip
            except NothingToAskError as error:
                if not is_table:
                    raise
                print(f"note: {path}: {error}", file=sys.stderr)
                continue
            runs.append(run)
            if run_folder is not None:
                written.append((run_folder, samples))
    if not runs:
        raise InputError("the data holds nothing that any of the tasks can ask about")
    if out is not None:
        _report(out, written, started)
    text = format_tasks(runs) if is_table else "\n\n".join(format_summary(run) for run in runs)
    _emit({"runs": runs} if is_table or len(runs) > 1 else runs[0], as_json, text)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that `eval --out` wrote, at least two.")
    ],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Paired tests of evaluation runs on the same points: differences with intervals over pictures and p-values."""
    from depthlm.evaluation.compare import compare_runs, format_comparison
    from depthlm.evaluation.runs import read_run

    result = compare_runs([read_run(folder) for folder in runs], seed=seed)
    _emit(result, as_json, format_comparison(result))


@app.command()
def calibrate(
    model: ModelName,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled pictures it was not trained on.")],
    images: Images = None,
    label: Label = None,
    reference: Reference = None,
    points: Annotated[int, typer.Option(min=1, help="Points asked with each reference.")] = 1024,
    out: Annotated[Path | None, typer.Option(help="Folder for depthlm.json; default: the model's own.")] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Widen a model's 80 % intervals until they hold 80 % of the truths; stored in its depthlm.json."""
    folder = out or Path(model)
    if out is None and not folder.is_dir():
        raise InputError(f"{model} is no folder whose depthlm.json could be changed; give --out FOLDER")
    _require_writable(folder)
    from depthlm.data import open_data
    from depthlm.evaluation.conformal import calibrate as fit
    from depthlm.evaluation.conformal import write_card

    loaded, samples = _load(model, device, dtype, revision), open_data(data, images=images, label=label)
    with _progress("calibrate") as progress:
        references = [reference] if reference else None
        card, found = fit(loaded, samples, references=references, points=points, seed=seed, progress=progress)
    write_card(card, folder)
    lines = [
        f"{row['reference']}: {row['coverage_before']:.1%} of {row['points']} truths lay inside; widened by a factor "
        f"of {row['widened_by']:.3f} at either end"
        for row in found
    ]
    _emit({"out": str(folder), "references": found}, as_json, "\n".join(lines))


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
    focal: Annotated[float | None, typer.Option(help="Focal length, pixels.")] = None,
    fov: Annotated[float | None, typer.Option(help="Horizontal field of view, degrees.")] = None,
    camera: Annotated[Path | None, typer.Option(help="Camera file: ours, ROS camera_info, COLMAP cameras.txt.")] = None,
    camera_from: Annotated[
        str | None, typer.Option(metavar="ESTIMATOR", help="Installed estimator to ask when EXIF is silent.")
    ] = None,
    assume_fov: Annotated[float | None, typer.Option(help="Field of view when nothing else says, degrees.")] = None,
    reference: Reference = None,
    answers: Answers = None,
    read: Read = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Measure points in pictures; says which camera was used, and why."""
    from depthlm.inference.predict import format_prediction, predict_image, read_photo
    from depthlm.tasks import get_task

    kind = get_task(task)
    if kind.points and not point:
        raise InputError(f"task {task} is about points; give --point U,V")
    if kind.images == 2 and len(image) != 2:
        raise InputError(f"task {task} is about two images, the first and the second; {len(image)} given")
    uv = [_parse_point(text) for text in point or ()]
    cameras: dict[str, Any] = {"focal": focal, "fov": fov, "file": camera}
    cameras |= {"estimator": camera_from, "assume_fov": assume_fov}
    # Points are asked of every picture, but of the first of two.
    photos = [read_photo(path, uv if k == 0 or kind.images == 1 else [], **cameras) for k, path in enumerate(image)]
    loaded = _load(model, device, dtype, revision)
    asked = [(photo, None) for photo in photos] if kind.images == 1 else [(photos[0], photos[1])]
    results = [
        predict_image(
            loaded, photo, second=second, task=task, given=given, reference=reference, answers=answers, read=read
        )
        for photo, second in asked
    ]
    text = "\n".join(format_prediction(result) for result in results)
    _emit({"model": model, "task": task, "images": results}, as_json, text)


# --- helpers --------------------------------------------------------------------------------------------------------


def _task_list(loaded: LoadedModel, task: str, retention: bool, reference: str | None) -> list[str]:
    """The tasks of a table, less those that the reference cannot ask, which are named; else the one task."""
    from depthlm.reference import MARKERS
    from depthlm.tasks import RETENTION, get_task

    if task != ALL_TASKS and not retention:
        return [task]
    kind = "marker" if (reference or loaded.card.references[0]) in MARKERS else "text"
    wanted = RETENTION if retention else loaded.card.tasks
    for name in wanted:
        if kind not in get_task(name).references:
            print(f"note: task {name} is left out, a {kind} reference cannot ask it", file=sys.stderr)
    return [name for name in wanted if kind in get_task(name).references]


def _parse_point(text: str) -> tuple[float, float]:
    try:
        u, v = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--point {text!r} is not U,V; give two numbers of pixels, such as --point 320,240") from None
    return u, v


def _load(model: str, device: str | None, dtype: str | None, revision: str | None) -> LoadedModel:
    import torch

    from depthlm.models.loading import load_model

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_model(model, device=chosen, dtype=dtype, revision=revision)
    if loaded.card_source == "assumed":
        note = "no depthlm.json: focal length, prompt and meaning of its answers are assumed; figures mean little"
        print(f"note: {model}: {note}", file=sys.stderr)
    return loaded


def _report(out: Path, runs: list[tuple[Path, Any]], started: float) -> None:
    """The page of finished runs (folder, data) in `out`; whoever waits is told where it is."""
    from depthlm.evaluation.page import REPORT_HTML, Entry, write_report
    from depthlm.evaluation.runs import read_run

    entries = [Entry(run=read_run(folder), samples=samples) for folder, samples in runs]
    write_report(out, entries, seconds=time.monotonic() - started)
    print(f"report: {out / REPORT_HTML}", file=sys.stderr)


def _require_writable(path: Path) -> None:
    """Refuse an output that cannot be made before any work is done for it."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if existing != path and not existing.is_dir():
        raise InputError(f"cannot write {path}: {existing} is not a folder; give another output")
    if not os.access(existing, os.W_OK):
        raise InputError(f"cannot write {path}: no permission to write to {existing}; give another output")


def _emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(result, allow_nan=False, default=str) if as_json else text)


def _counted(items: Any, progress: Callable[[int, int], None], total: int) -> Iterator[Any]:
    for number, item in enumerate(items, 1):
        yield item
        progress(number, total)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, and the function that moves it: progress(done, total)."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- entry ----------------------------------------------------------------------------------------------------------

_BAD_OUTPUT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    # stderr is ours: a library's chatter would bury the one line that says what went wrong.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        command = typer.main.get_command(app)
        status = command.main(args=[a for a in arguments if a != "--debug"], prog_name="depthlm", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        if debug:
            raise
        status, message = _explain(error)
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit status and message of an exception."""
    if isinstance(error, InputError):
        return 2, str(error)
    if hasattr(error, "format_message"):  # the parser's own errors; typer has moved their class before
        return 2, f"{error.format_message()} (try `depthlm --help`)"
    if isinstance(error, OSError) and error.errno in _BAD_OUTPUT:
        return 2, f"{error.filename or 'output'}: {error.strerror}"
    return 1, f"{type(error).__name__}: {error} (run again with --debug for the traceback)"
