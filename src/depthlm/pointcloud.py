"""PointCloud: a depth map lifted to coloured points in the camera frame, filtered, drawn, and written as PLY or GLB."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from depthlm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera

# Camera frame (x right, y down, z forward) -> glTF (x right, y up, z towards the viewer).
_TO_GLTF = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True, slots=True, eq=False)
class PointCloud:
    """Coloured points of one picture.

    xyz: [N, 3] metres, camera frame (x right, y down, z forward). rgb: [N, 3] uint8 sRGB.
    edge: [N] >= 0, how far inverse depth is from being straight across the pixel, over its own value.
    normal: [N, 3] unit vectors of the surface, towards the camera.
    """

    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    edge: NDArray[np.float64]
    normal: NDArray[np.float64]

    @classmethod
    def from_depth(
        cls,
        image: Image.Image | ArrayLike,
        z: ArrayLike,
        camera: Camera,
        *,
        mask: ArrayLike | None = None,
    ) -> PointCloud:
        """Lift every pixel that has a depth.

        image: RGB picture or [H, W, 3] uint8. z: [H, W] principal-axis depth in metres; NaN, infinite and non-positive
        entries mean "no depth here" and give no point. mask: [H, W] bool, False leaves the pixel out.
        Raises InputError when image, z, mask and camera are not of one size.
        """
        rgb = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
        depth = np.asarray(z, dtype=np.float64)
        size = (camera.height, camera.width)
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise InputError(
                f"point cloud image is {rgb.dtype} of shape {rgb.shape}; expected uint8 of shape (H, W, 3)"
            )
        keep = np.ones(size, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        for name, shape in (("image", rgb.shape[:2]), ("depth map", depth.shape), ("mask", keep.shape)):
            if shape != size:
                raise InputError(
                    f"point cloud {name} has shape {shape} but the camera says {size} (height, width); "
                    "resize the arrays, or the camera with Camera.resize"
                )
        valid = keep & np.isfinite(depth) & (depth > 0)
        v, u = np.nonzero(valid)  # [N] each
        xyz = camera.unproject(np.stack([u, v], axis=1), depth[valid])
        grid = np.full((*size, 3), np.nan)
        grid[valid] = xyz
        return cls(xyz, rgb[valid], _edge_strength(depth, valid)[valid], _normals(grid)[valid])

    def __len__(self) -> int:
        return len(self.xyz)

    def filter(
        self, *, min_z: float = 0.0, max_z: float = np.inf, max_edge: float | None = None, step: int = 1
    ) -> PointCloud:
        """The points between min_z and max_z metres that do not lie on a depth edge; of those every `step`-th.

        max_edge: largest `edge` kept. 0.1 takes away the points that fly between an object and what is behind it and
        leaves planes whole at any slant; None keeps all. Raises InputError for an empty range or a step below 1.
        """
        if not min_z < max_z:
            raise InputError(f"point cloud range is {min_z} to {max_z} m; the first must be the smaller")
        if step < 1:
            raise InputError(f"point cloud step is {step}; expected 1 or more")
        z = self.xyz[:, 2]
        keep = (z >= min_z) & (z <= max_z)
        if max_edge is not None:
            keep &= self.edge <= max_edge
        chosen = np.flatnonzero(keep)[::step]
        return replace(
            self, xyz=self.xyz[chosen], rgb=self.rgb[chosen], edge=self.edge[chosen], normal=self.normal[chosen]
        )

    def render(
        self,
        camera: Camera,
        *,
        camera_from_cloud: ArrayLike | None = None,
        splat: int = 1,
        background: tuple[int, int, int] = (255, 255, 255),
    ) -> Image.Image:
        """A picture of the cloud: nearest point first, each a square of `splat` pixels.

        camera_from_cloud: [4, 4] rigid transform from the cloud's frame to that of `camera`; None looks from where the
        original camera stood.
        """
        xyz = self.xyz
        if camera_from_cloud is not None:
            move = np.asarray(camera_from_cloud, dtype=np.float64)
            xyz = xyz @ move[:3, :3].T + move[:3, 3]
        front = xyz[:, 2] > 1e-6
        xyz, rgb = xyz[front], self.rgb[front]
        order = np.argsort(-xyz[:, 2], kind="stable")  # far to near: what is written last is in front
        uv = np.rint(camera.project(xyz[order])).clip(-1e6, 1e6).astype(np.int64)  # [N, 2]
        canvas = np.full((camera.height, camera.width, 3), background, dtype=np.uint8)
        # [N, S*S]: all squares of one point together, so that a nearer point covers a farther one as a whole.
        dv, du = (offset.reshape(-1) - splat // 2 for offset in np.mgrid[0:splat, 0:splat])
        u, v = uv[:, :1] + du, uv[:, 1:] + dv
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        colour = np.broadcast_to(rgb[order][:, None], (*u.shape, 3))
        canvas[v[inside], u[inside]] = colour[inside]
        return Image.fromarray(canvas)

    def save(self, path: str | Path) -> Path:
        """Write `.ply` (binary, camera frame) or `.glb` (glTF, y up), in metres; the file appears whole or not at all.

        Raises InputError for another suffix, an empty cloud, or a folder that cannot be written.
        """
        target = Path(path)
        writers = {".ply": _ply_bytes, ".glb": _glb_bytes}
        if target.suffix.lower() not in writers:
            raise InputError(f"{target}: cannot write a point cloud as '{target.suffix}'; use .ply or .glb")
        if not len(self):
            raise InputError(
                f"{target}: the point cloud has no points; no pixel has a depth, or the filter took them all"
            )
        write_whole(target, writers[target.suffix.lower()](self))
        return target


def _edge_strength(z: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[H, W] |second difference of 1/z| * z, the larger of rows and columns; 0 where a neighbour has no depth.

    Inverse depth is affine in the pixel on any plane, so a plane scores 0 however slanted, and a step from z1 to z2
    scores |1 - z1/z2|: a threshold on z itself would take slanted floors for edges.
    """
    inverse = np.divide(1.0, z, out=np.full(z.shape, np.nan), where=valid)
    strength = np.zeros(z.shape)
    for axis in (0, 1):
        if z.shape[axis] < 3:
            continue
        i = np.moveaxis(inverse, axis, 0)
        bend = np.abs(i[2:] - 2 * i[1:-1] + i[:-2]) / i[1:-1]
        inner = np.moveaxis(strength, axis, 0)[1:-1]  # a view: writes through
        np.fmax(inner, bend, out=inner)  # fmax leaves a NaN (unknown neighbour) out
    return strength


def _normals(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """[H, W, 3] points, NaN for none -> unit normals towards the camera, NaN where there is no point.

    Along each axis the nearer neighbour of the two is taken, the one that lies on the same surface at an edge. A point
    without neighbours faces the camera.
    """
    steps = []
    for axis in (1, 0):
        ahead = np.full(xyz.shape, np.nan)
        inner = np.moveaxis(ahead, axis, 0)
        inner[:-1] = np.diff(np.moveaxis(xyz, axis, 0), axis=0)
        behind = np.full(xyz.shape, np.nan)
        np.moveaxis(behind, axis, 0)[1:] = inner[:-1]
        lengths = [np.nan_to_num(np.linalg.norm(step, axis=2), nan=np.inf) for step in (ahead, behind)]
        steps.append(np.where((lengths[0] <= lengths[1])[..., None], ahead, behind))
    normal = np.cross(steps[1], steps[0])
    length = np.linalg.norm(normal, axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        facing = -xyz / np.linalg.norm(xyz, axis=2, keepdims=True)
        normal = np.where(length > 0, normal / length, facing)
        away = (normal * xyz).sum(axis=2, keepdims=True) > 0
    return np.where(away, -normal, normal)


def _ply_bytes(cloud: PointCloud) -> bytes:
    """Binary little-endian PLY: float x y z nx ny nz, uchar red green blue."""
    floats = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    vertex = np.empty(len(cloud), dtype=[*floats, ("red", "u1"), ("green", "u1"), ("blue", "u1")])
    vertex["x"], vertex["y"], vertex["z"] = cloud.xyz.T
    vertex["nx"], vertex["ny"], vertex["nz"] = cloud.normal.T
    vertex["red"], vertex["green"], vertex["blue"] = cloud.rgb.T
    types = {"<f4": "float", "|u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment depthlm: metres, camera frame (x right, y down, z forward)",
        f"element vertex {len(cloud)}",
        *(f"property {types[vertex.dtype[name].str]} {name}" for name in vertex.dtype.names or ()),
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode("ascii") + vertex.tobytes()


def _glb_bytes(cloud: PointCloud) -> bytes:
    """Binary glTF 2.0 with one POINTS primitive. glTF vertex colours are linear, ours are sRGB: converted."""
    import trimesh

    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lookup = np.rint(255 * linear).astype(np.uint8)
    points = trimesh.PointCloud(vertices=cloud.xyz * _TO_GLTF, colors=lookup[cloud.rgb])
    return bytes(trimesh.Scene(points).export(file_type="glb"))


def write_whole(target: Path, data: bytes) -> None:
    """Write through a temporary file of the same folder, then rename. Raises InputError when that cannot be."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InputError(f"{target}: cannot write here ({error.strerror}); choose another folder") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{target}: cannot write here ({error.strerror}); choose another file") from error
