"""Benchmark suites as data: which sets, which splits, how many points, and the rule that picks them.

The rule makes two people with the same download ask about the same pixels, without any list being handed round. The
images of a split are ranked by SHA-256 of "<set>/<official image id>"; the first n of them are used (all, unless the
suite limits them or there are more images than points); every one gets the same number of points, and the remainder
goes to the first ones by rank. The pixels of an image are a uniform draw without repetition from its valid labels
within the suite's depth caps, in reading order, by a generator seeded with the same hash (`choose.frame_generator`,
seed 0).
An image that cannot be read is not replaced: every image's points depend on that image alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.claim import write_json
from depthlm.data.choose import Choice, CurateConfig, frame_hash, read_sample
from depthlm.data.curate import curate, digest_lines
from depthlm.data.readers.base import FrameError, FrameRef, get_reader
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthlm.evaluation.evaluator import EvaluationConfig
    from depthlm.inference.backend import Backend
    from depthlm.models.loading import LoadedModel

FORMAT = "depthlm-points"
VERSION = 1


@dataclass(frozen=True, slots=True)
class SuiteSet:
    """One set of a suite."""

    dataset: str
    """Reader, and name of its folder below the suite's root."""
    split: str
    """Split that is evaluated."""
    far: float | None = None
    """Largest z, metres; None for the reader's limit."""
    images: int | None = None
    """At most so many images; None for no limit."""
    whole: int | None = None
    """Images that a complete download has; None where `images` says it, or it is not known."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark protocol."""

    name: str
    points: int
    """Per set."""
    sets: tuple[SuiteSet, ...]
    source: str
    """Where the protocol comes from, and what of it is not public."""


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "paper",
            8192,
            (
                SuiteSet("argoverse2", "val"),
                SuiteSet("ddad", "val"),
                SuiteSet("nuscenes", "mini"),
                SuiteSet("eth3d", "training", whole=454),
                SuiteSet("scannetpp", "val"),
                SuiteSet("sunrgbd", "all"),
                SuiteSet("ibims1", "test", whole=100),
                SuiteSet("nyuv2", "all", whole=1449),
            ),
            "DepthLM (ICLR 2026): 8 sets x 8,192 random points. Its draw was never seeded: the points are ours.",
        ),
        Suite(
            "depthvlm",
            10_000,
            (
                SuiteSet("argoverse2", "val", 120.0, 1000),
                SuiteSet("waymo", "validation", 70.0, 1000),
                SuiteSet("ddad", "val", 120.0, 1000),
                SuiteSet("nuscenes", "val", 80.0, 1000),
                SuiteSet("eth3d", "training", 50.0, 1000),
                SuiteSet("scannetpp", "val", 10.0, 1000),
                SuiteSet("sunrgbd", "test", 8.0, 1000),
                SuiteSet("ibims1", "test", 25.0, 100),
                SuiteSet("nyuv2", "test", 10.0, 654),
            ),
            "DepthVLM-Bench's sizes and depth caps (1,000 images x 10 points, iBims-1 100 x 100, NYUv2 654 x 15-16). "
            "Its own draw is numpy's RandomState(42 + i) over its own records: the points here are ours.",
        ),
    )
}


def get_suite(name: str) -> Suite:
    """The suite called `name`. Raises InputError with the names that exist."""
    if name not in SUITES:
        raise InputError(f"suite {name!r} is unknown; expected one of {', '.join(SUITES)}")
    return SUITES[name]


def pictures_of(suite: str, dataset: str) -> int | None:
    """How many pictures a run of a suite on the whole of a set is about; None where that is not known."""
    members = SUITES[suite].sets if suite in SUITES else ()
    return next((m.whole or m.images for m in members if m.dataset == dataset), None)


def choose_images(dataset: str, refs: Sequence[FrameRef], points: int, images: int | None = None) -> list[Choice]:
    """The images of the rule with their numbers of points, in the order of `refs`."""
    used = min(len(refs), points, images or len(refs))
    if used == 0:
        return []
    ranked = sorted(range(len(refs)), key=lambda i: frame_hash(dataset, refs[i].id))[:used]
    base, extra = divmod(points, used)
    wanted = {place: base + (number < extra) for number, place in enumerate(ranked)}
    return [Choice(refs[place], wanted[place]) for place in sorted(wanted)]


def plan_set(suite: Suite, member: SuiteSet, root: Path, *, legacy: bool = False) -> tuple[CurateConfig, list[Choice]]:
    """Settings and images of one set of a suite. Raises InputError when root is not the set."""
    config = CurateConfig(dataset=member.dataset, split=member.split, far=member.far, min_points=1, legacy=legacy)
    refs = list(get_reader(member.dataset).index(root, member.split))
    if not refs:
        raise InputError(f"{root}: no image of split {member.split!r} of {member.dataset}")
    return config, choose_images(member.dataset, refs, suite.points, member.images)


def write_manifest(
    suite: Suite,
    dataset: str,
    root: Path | str,
    out: Path | str,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the suite's points of one set, for one download, as JSON (by rename); returns what was written.

    images: [{image, uv [[u, v], ...], z [m, ...]}]; points_sha256: digest of image ids and pixels, equal wherever the
    download is. skipped: images that cannot be read. Raises InputError when the suite has no such set, root is not
    the set, or `out` exists or cannot be written.
    """
    out = Path(out)
    members = [member for member in suite.sets if member.dataset == dataset]
    if not members:
        known = ", ".join(member.dataset for member in suite.sets)
        raise InputError(f"suite {suite.name!r} has no set {dataset!r}; it has {known}")
    if out.exists():
        raise InputError(f"{out} already exists; choose another file or remove it")
    config, choices = plan_set(suite, members[0], Path(root))
    images: list[dict[str, Any]] = []
    skipped: list[str] = []
    for number, choice in enumerate(choices):
        progress(number, len(choices))
        try:
            sample = read_sample(config, Path(root), choice)
        except FrameError as error:
            skipped.append(str(error))
            continue
        images.append({"image": choice.ref.id, "uv": sample.uv.round(3).tolist(), "z": sample.z.round(4).tolist()})
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "suite": suite.name,
        "dataset": dataset,
        "split": members[0].split,
        "reader_version": get_reader(dataset).version,
        "rule": " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "points": sum(len(image["z"]) for image in images),
        "points_sha256": digest_lines(f"{i['image']} {u:.2f} {v:.2f}" for i in images for u, v in i["uv"]),
        "skipped": skipped,
        "images": images,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, manifest)
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror or error})") from error
    return manifest


def run_suite(
    model: LoadedModel | Backend,
    suite: Suite,
    root: Path | str,
    out: Path | str,
    config: EvaluationConfig,
    *,
    model_name: str | None = None,
    legacy: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Evaluate a model on every set of a suite that lies below `root` as a folder of the set's name.

    The points are curated into out/points/<set>, the runs go to out/<set>; both go on after an interruption.
    legacy: labels with the errors of the released curation, every answer scored raw against what was published.
    Returns {suite, source, legacy_labels, runs [summary + legacy_note], absent [set, ...], mean_delta1, means
    (domains.means_of: over all, in-domain and zero-shot sets)}.
    Raises InputError when no set is there.
    """
    from depthlm.data.shards import ShardDataset
    from depthlm.evaluation.domains import means_of
    from depthlm.evaluation.evaluator import evaluate

    root, out = Path(root), Path(out)
    present = [member for member in suite.sets if (root / member.dataset).is_dir()]
    if not present:
        known = ", ".join(member.dataset for member in suite.sets)
        raise InputError(f"{root} holds no set of suite {suite.name!r}; expected folders (or links) named {known}")
    plans = [plan_set(suite, member, root / member.dataset, legacy=legacy) for member in present]
    runs: list[dict[str, Any]] = []
    for member, (settings, choices) in zip(present, plans, strict=True):
        reader = get_reader(member.dataset)
        points = out / "points" / member.dataset
        curate(settings, root / member.dataset, points, workers=workers, choices=choices, progress=progress)
        asked = dataclasses.replace(config, points=suite.points, suite=suite.name)
        if legacy:  # the published numbers compare raw answers with whatever the labels were
            asked = dataclasses.replace(asked, task=reader.legacy_label, answers=reader.legacy_label)
        run = evaluate(
            model, ShardDataset(points), asked, model_name=model_name, data_name=f"{suite.name}/{member.dataset}",
            out=out / member.dataset, progress=progress,
        )  # fmt: skip
        runs.append(run | {"legacy_note": reader.legacy_line} if legacy else run)
    return {
        "suite": suite.name,
        "source": suite.source,
        "legacy_labels": legacy,
        "runs": runs,
        "absent": [member.dataset for member in suite.sets if member not in present],
        "mean_delta1": sum(run["delta1"] for run in runs) / len(runs),
        "means": means_of(runs),
    }
