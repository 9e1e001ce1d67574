"""Why rooms are rendered by embreex directly: one room's primary rays by three ray casters.

    python benchmarks/raycaster.py [--json] [--quick]

All three get the same rays of one picture and give z at every pixel: embreex as synth/render.py calls it, trimesh's
wrapper of embreex, and trimesh's own caster on rtree. The last is so slow that it gets some of the rays and its time
is extrapolated to all of them. Headline: how many times faster embreex is than through trimesh's wrapper, one core.
Times are processor time (every caster runs in one thread), the fastest of interleaved repeats: a machine that does
other things as well only ever adds to them.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from depthlm.errors import InputError
from depthlm.synth.generate import synth_samples
from depthlm.synth.render import render
from depthlm.synth.scene import Scene, build_scene, sample_camera

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Caster = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]

TOLERANCE = 1e-4  # relative difference of z
STRAY = 1e-3  # share of rays that may meet another surface: they pass along an edge, where rounding decides


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when the casters disagree."""
    options = common.parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="the room")
    options.add_argument("--size", type=int, nargs=2, default=(256, 192), metavar=("W", "H"), help="picture, pixels")
    options.add_argument("--repeats", type=int, default=None, help="timings of each caster (20; quick: 3)")
    options.add_argument(
        "--rtree-rays", type=int, default=None, help="rays for trimesh's rtree caster (500; quick: 50)"
    )
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's result."""
    repeats = arguments.repeats or (3 if arguments.quick else 20)
    few = arguments.rtree_rays or (50 if arguments.quick else 500)
    width, height = arguments.size
    scene = build_scene(arguments.seed)
    camera, pose = sample_camera(scene, np.random.default_rng(arguments.seed), (width, height))
    v, u = np.mgrid[:height, :width]
    directions = (camera.rays(np.stack([u.ravel(), v.ravel()], axis=1)) @ pose[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(pose[:3, 3].astype(np.float32), directions.shape).copy()
    some = np.linspace(0, len(directions) - 1, min(few, len(directions))).astype(int)

    direct, wrapper, rtree = casters(scene, pose)
    times: dict[str, list[float]] = {"direct": [], "wrapper": [], "render": []}
    for _ in range(repeats):
        z, seconds = timed(lambda: direct(origins, directions))
        times["direct"].append(seconds)
        z_wrapper, seconds = timed(lambda: wrapper(origins, directions))
        times["wrapper"].append(seconds)
        _, seconds = timed(lambda: render(scene, camera, pose, rng=np.random.default_rng(0)))
        times["render"].append(seconds)
    z_rtree, rtree_s = timed(lambda: rtree(origins[some], directions[some]))
    scenes = max(1, repeats // 5)
    _, samples_s = timed(lambda: sum(1 for _ in synth_samples(scenes, seed=arguments.seed, size=(width, height))))

    best = {name: min(values) for name, values in times.items()}
    other, other_rtree = strays(z, z_wrapper), strays(z[some], z_rtree)
    return {
        "headline": {"embreex_over_trimesh_wrapper": best["wrapper"] / best["direct"]},
        "checks": {
            "wrapper_gives_the_same_z": other <= STRAY,
            "rtree_gives_the_same_z": other_rtree <= max(STRAY, 1 / len(some)),
            "most_rays_hit": bool(np.isfinite(z).mean() > 0.6),
        },
        "config": {
            "scene": scene.id, "triangles": 2 * len(scene.quads.corners), "size": [width, height],
            "rays": len(directions), "repeats": repeats, "rtree_rays": len(some), "tolerance": TOLERANCE,
            "allowed_stray_share": STRAY, "quick": arguments.quick,
        },
        "embreex_ms": 1e3 * best["direct"],
        "trimesh_wrapper_ms": 1e3 * best["wrapper"],
        "trimesh_rtree_ms_extrapolated": 1e3 * rtree_s * len(directions) / len(some),
        "trimesh_rtree_ms_of_its_rays": 1e3 * rtree_s,
        "wrapper_stray_share": other,
        "rtree_stray_share": other_rtree,
        "largest_relative_difference": largest_difference(z, z_wrapper),
        "render_images_per_s": 1 / best["render"],
        "samples_images_per_s": 4 * scenes / samples_s,
        "notes": "one core; samples: with building the room, choosing the camera, drawing points and JPEG",
    }  # fmt: skip


def casters(scene: Scene, pose: NDArray[np.float64]) -> tuple[Caster, Caster, Caster]:
    """embreex, trimesh's wrapper of it, trimesh on rtree: (origins, directions [N, 3]) -> z [N], inf where nothing is.

    Their structures are built here, outside the times.
    """
    try:
        from trimesh.ray.ray_pyembree import RayMeshIntersector as Wrapper
        from trimesh.ray.ray_triangle import RayMeshIntersector as Rtree

        mesh = scene.to_trimesh()
        mesh.triangles_tree  # noqa: B018  the index that the first query would otherwise build
    except ImportError as error:
        raise InputError(f"this benchmark needs {error.name}; install depthlm[dev]") from error
    origin, forward = pose[:3, 3], pose[:3, 2]
    embree = scene.caster

    def direct(origins: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float64]:
        result = embree.run(origins, directions, output=True)
        return np.where(result["primID"] >= 0, result["tfar"], np.inf)

    def through(caster: Any) -> Caster:
        def cast(origins: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float64]:
            where, ray, _ = caster.intersects_location(origins, directions, multiple_hits=False)
            z = np.full(len(directions), np.inf)
            z[ray] = (where - origin) @ forward
            return z

        return cast

    wrapper, rtree = through(Wrapper(mesh)), through(Rtree(mesh))
    one = np.broadcast_to(origin.astype(np.float32), (1, 3)).copy(), forward.astype(np.float32)[None]
    for caster in (direct, wrapper, rtree):
        caster(*one)
    return direct, wrapper, rtree


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What `call` gives, and its seconds of processor time."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def strays(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Share of rays whose z differ by more than TOLERANCE, or that hit something in one alone."""
    hit = np.isfinite(a) & np.isfinite(b)
    same = np.isinf(a) & np.isinf(b)
    same[hit] = np.abs(a[hit] - b[hit]) <= TOLERANCE * b[hit]
    return float(1 - same.mean())


def largest_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest relative difference of z over the rays that hit in both, strays left out."""
    hit = np.isfinite(a) & np.isfinite(b)
    difference = np.abs(a[hit] - b[hit]) / b[hit]
    return float(difference[difference <= TOLERANCE].max(initial=0.0))


if __name__ == "__main__":
    sys.exit(main())
