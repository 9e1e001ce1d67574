"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="nano, a model folder, or a hub id.")]
Device = Annotated[str | None, typer.Option(help="Torch device; default: a GPU when there is one.")]
Dtype = Annotated[str | None, typer.Option(help="Torch dtype: float32, bfloat16, float16.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
Reference = Annotated[
    str | None, typer.Option(help="arrow, square, cross, text, text-pixels; default: the model's own.")
]
Quantity = Literal["distance", "z"]
TASK_HELP = (
    "What is asked: distance, z, speed, time, between, nearer, surface, colour, where; of two images moved, direction, "
    "rotation, angle, match"
)
Task = Annotated[str, typer.Option(help=f"{TASK_HELP}.")]
Answers = Annotated[Quantity | None, typer.Option(help="What the answers mean; default: what depthlm.json says.")]
Label = Annotated[Quantity | None, typer.Option(help="What the numbers of a .jsonl mean.")]
Images = Annotated[Path | None, typer.Option(help="Folder that image names in a .jsonl or .csv are relative to.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows or pictures out, list and count them.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read pictures while the model answers.")]
Pictures = Annotated[
    list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Pictures: files, folders (frames of a video), globs.")
]
Read = Annotated[
    Literal["greedy", "median", "mean", "best"] | None,
    typer.Option(help="Which number of the model's belief is its answer; default: what depthlm.json says."),
]
BaseUrl = Annotated[str | None, typer.Option(help="Address of the server; its key is in OPENAI_API_KEY.")]
Concurrency = Annotated[int | None, typer.Option(help="Questions under way at a server; default 8.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Focal = Annotated[float | None, typer.Option(help="Focal length, pixels.")]
Fov = Annotated[float | None, typer.Option(help="Horizontal field of view, degrees.")]
CameraFile = Annotated[
    Path | None, typer.Option("--camera", help="Camera file: ours, ROS camera_info, COLMAP cameras.txt.")
]
CameraFrom = Annotated[
    str | None, typer.Option(metavar="ESTIMATOR", help="Installed estimator to ask when EXIF is silent.")
]
AssumeFov = Annotated[float | None, typer.Option(help="Field of view when nothing else says, degrees.")]
