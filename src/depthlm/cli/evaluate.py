"""Commands that score: eval, compare."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from depthlm.cli.app import app
from depthlm.cli.backends import RivalOptions, ServerOptions, cost_line, make_backend, parse_price
from depthlm.cli.helpers import emit, progress_bar, require_writable
from depthlm.cli.options import (
    TASK_HELP,
    Answers,
    BaseUrl,
    Concurrency,
    Device,
    Dtype,
    Images,
    Json,
    Label,
    Read,
    Reference,
    Revision,
    Seed,
    SkipBad,
)
from depthlm.errors import InputError, NothingToAskError

if TYPE_CHECKING:
    from depthlm.evaluation.dense import MapConfig
    from depthlm.evaluation.evaluator import EvaluationConfig
    from depthlm.inference.backend import Backend
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel

ALL_TASKS = "all"
# What `eval --retention` asks about when no data is named: rooms that no recipe of ours trains on.
RETENTION_ROOMS: dict[str, Any] = {"scenes": 24, "seed": 900_000, "views": 2, "points": 40}


@app.command(name="eval")
def evaluate_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="nano, a model folder, or a hub id; with --backend openai the server's name for it, with constant the"
            " answer, with oracle any name.",
        ),
    ],
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
        typer.Option(help=f"{TASK_HELP}; about labelled objects: docs/tasks.md; all: what the model was trained on."),
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
    ray: Annotated[
        str | None, typer.Option(help="Ray cluster address, or local: each of its workers loads the model and asks.")
    ] = None,
    backend: Annotated[
        Literal["hf", "openai", "constant", "oracle"],
        typer.Option(help="Who answers: weights here, an OpenAI-compatible server, one fixed answer, or the truth."),
    ] = "hf",
    card: Annotated[
        str | None, typer.Option(help="Of another backend: nano, a model folder or a depthlm.json to ask as.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Words to ask in; general, general-camera, gemini, qwen for models not trained to measure."),
    ] = None,
    rival: Annotated[
        Path | None, typer.Option(help="Python file that runs a depth model of your own (docs/evaluation.md).")
    ] = None,
    give_focal: Annotated[
        bool, typer.Option("--give-focal", help="Of a depth model that takes one: the true focal length.")
    ] = False,
    align: Annotated[
        bool,
        typer.Option(
            "--align", help="Of a relative one: fit scale and shift to each picture's truths; a protocol of its own."
        ),
    ] = False,
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="SET:FOLDER",
            help="Map whole pictures with dense truth as well, such as ibims1:DIR, folder:DIR, synth:7.",
        ),
    ] = None,
    map_pictures: Annotated[int, typer.Option(help="Pictures that --maps takes.")] = 8,
    budget: Annotated[int, typer.Option(help="Questions a picture of --maps, where points are asked.")] = 2000,
    base_url: BaseUrl = None,
    concurrency: Concurrency = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for an answer; default 120.")] = None,
    retries: Annotated[int | None, typer.Option(help="Tries after a failed one, with rising waits; default 8.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Most questions a minute.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="File that keeps a server's answers; default: beside OUT, .answers.jsonl.")
    ] = None,
    body: Annotated[
        str | None, typer.Option(help="JSON object sent with each question; null takes a field out.")
    ] = None,
    price: Annotated[str | None, typer.Option(metavar="IN,OUT", help="Dollars per million tokens.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on labelled points: delta1 beside the best constant answer, errors, failures."""
    data = data or []
    for path in data:
        if path.suffix == ".jsonl" and label is None:
            raise InputError(f"{path}: a .jsonl does not say what its depths mean; give --label z or --label distance")
    if out is not None:
        require_writable(out)
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
    from depthlm.inference.backend import Backend

    asked: dict[str, Any] = {"reference": reference, "task": task, "answers": answers, "points": points, "seed": seed}
    asked |= {"batch": batch, "intervals": intervals, "read": read}
    asked |= {"batch_mem": batch_mem, "forced": forced, "decimals": decimals}
    if ray is not None:
        if backend != "hf" or rival is not None or suite is not None or not data:
            raise InputError("--ray spreads weights over DATA; leave --backend, --rival and --suite out")
        from depthlm.cluster import import_ray

        import_ray()
    if price is not None:
        parse_price(price)
    mapped = None
    if maps is not None:
        from depthlm.evaluation.dense import MapConfig

        if out is None or suite is not None:
            raise InputError("--maps keeps its maps in --out DIR, beside the points of DATA; give one, without --suite")
        mapped = MapConfig(source=maps, pictures=map_pictures, budget=budget)
    server = ServerOptions(
        base_url=base_url, concurrency=concurrency, timeout=timeout, retries=retries, per_minute=rpm, cache=cache,
        body=body,
    )  # fmt: skip

    def answers_of(folder: Path | None) -> LoadedModel | Backend:
        return make_backend(
            backend, model, card=card, prompt=prompt, reference=reference, read=read, server=server, out=folder,
            rival=RivalOptions(file=rival, give_focal=give_focal, align=align), load_options=(device, dtype, revision),
        )  # fmt: skip

    if suite is not None:
        if task not in ("distance", "z"):
            raise InputError(f"--suite asks for distance or z; task {task} has no published protocol")
        protocol = get_suite(suite)
        if len(data) != 1:
            raise InputError("--suite takes one folder, which holds the downloads as folders named after the sets")
        suite_out = out or Path("out") / f"suite-{suite}"
        require_writable(suite_out)
        answerer = answers_of(suite_out)
        with progress_bar(suite) as progress:
            result = run_suite(
                answerer, protocol, data[0], suite_out, EvaluationConfig(**asked),
                model_name=model, legacy=legacy_labels, workers=os.cpu_count() or 1,
                progress=progress,
            )  # fmt: skip
        from depthlm.data.shards import ShardDataset

        present = [run["dataset"] for run in result["runs"]]
        pages = [(suite_out / name, ShardDataset(suite_out / "points" / name)) for name in present]
        _report(suite_out, pages, cost_line(answerer, price))
        emit(result, as_json, format_suite(result))
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
    answerer = answers_of(out)
    if ray is not None and isinstance(answerer, Backend):
        raise InputError(f"--ray spreads language models; {model} is a depth model, leave --ray out")
    runs: list[dict[str, Any]] = []
    written: list[tuple[Path, Any]] = []
    names = _task_list(answerer.card, task, retention, reference)
    for number, (path, samples) in enumerate(zip(data, sets, strict=True)):
        folder = out if out is None or len(data) == 1 else out / f"{number:02d}-{path.stem}"
        for name in names:
            run_folder = folder / name if folder is not None and is_table else folder
            config = EvaluationConfig(
                **asked | {"task": name}, label=label if label is not None and path.suffix == ".jsonl" else "z"
            )
            spread = None
            if ray is not None:
                from depthlm.evaluation.cluster import OnRay

                spread = OnRay(
                    address=ray, model=model, data=path.absolute(), device=device, dtype=dtype, revision=revision,
                    images=None if images is None else images.absolute(), label=label, skip_bad=skip_bad,
                )  # fmt: skip
            try:
                with progress_bar(f"{path.name} {name}") as progress:
                    run = evaluate(
                        answerer, samples, config, model_name=model, data_name=str(path), progress=progress,
                        out=run_folder, elsewhere=spread,
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
    if (cost := cost_line(answerer, price)) is not None:
        print(f"server: {cost}", file=sys.stderr)
    if out is not None:
        if mapped is not None:
            _map(answerer, mapped, out, EvaluationConfig(**asked))
        _report(out, written, cost)
    text = format_tasks(runs) if is_table else "\n\n".join(format_summary(run) for run in runs)
    emit({"runs": runs} if is_table or len(runs) > 1 else runs[0], as_json, text)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that `eval --out` wrote, at least two.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for a report of them all.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Paired tests of evaluation runs on the same points: differences with intervals over pictures and p-values."""
    if out is not None:
        require_writable(out)
    from depthlm.evaluation.compare import format_comparison
    from depthlm.evaluation.compare_page import REPORT_HTML, compare_folders, write_comparison

    comparison = compare_folders(runs, seed=seed)
    if out is not None:
        write_comparison(out, comparison)
        print(f"report: {out / REPORT_HTML}", file=sys.stderr)
    text = "\n\n".join(f"{found['data']}\n{format_comparison(found)}" for found in comparison.results)
    emit(comparison.to_dict(), as_json, text)


# --- helpers --------------------------------------------------------------------------------------------------------


def _task_list(card: ModelCard, task: str, retention: bool, reference: str | None) -> list[str]:
    """The tasks of a table, less those that the reference cannot ask, which are named; else the one task."""
    from depthlm.reference import MARKERS
    from depthlm.tasks import RETENTION, get_task

    if task != ALL_TASKS and not retention:
        return [task]
    kind = "marker" if (reference or card.references[0]) in MARKERS else "text"
    wanted = RETENTION if retention else card.tasks
    for name in wanted:
        if kind not in get_task(name).references:
            print(f"note: task {name} is left out, a {kind} reference cannot ask it", file=sys.stderr)
    return [name for name in wanted if kind in get_task(name).references]


def _map(answerer: LoadedModel | Backend, config: MapConfig, out: Path, asked: EvaluationConfig) -> None:
    """Map whole pictures into the run's folder; those that failed are named."""
    from depthlm.evaluation.asking import make_engine
    from depthlm.evaluation.dense import map_pictures
    from depthlm.inference.backend import Backend

    backend = answerer if isinstance(answerer, Backend) else make_engine(answerer, asked)
    with progress_bar("maps") as progress:
        failed = map_pictures(backend, config, out, progress=progress)
    for line in failed:
        print(f"no map of {line}", file=sys.stderr)


def _report(out: Path, runs: list[tuple[Path, Any]], cost: str | None = None) -> None:
    """The page of finished runs (folder, data) in `out`; whoever waits is told where it is."""
    from depthlm.evaluation.dense import failed_maps, read_cases
    from depthlm.evaluation.page import REPORT_HTML, Entry, write_report
    from depthlm.evaluation.record import add_cost
    from depthlm.evaluation.runs import read_run

    if cost is not None:
        for folder, _ in runs:
            add_cost(folder, cost if len(runs) == 1 else f"{cost}, for all {len(runs)} runs")
    # Maps are of pictures of their own; they are shown with the first run.
    entries = [
        Entry(run=read_run(folder), samples=samples)
        if number
        else Entry(run=read_run(folder), samples=samples, maps=read_cases(out), unmapped=failed_maps(out))
        for number, (folder, samples) in enumerate(runs)
    ]
    write_report(out, entries)
    print(f"report: {out / REPORT_HTML}", file=sys.stderr)
