"""Metrics of depth maps: known predictions give known figures, on shapes worked out by hand, rooms and a photograph."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from depthlm.camera import Camera
from depthlm.data.readers.ibims1 import READER
from depthlm.errors import InputError
from depthlm.evaluation.edges import flying_rate
from depthlm.evaluation.geometry import boundary_f1, cloud_errors, incidence_map, lift, plane_errors
from depthlm.evaluation.maps import DenseCase, measure_maps
from depthlm.surfaces import edge_band
from depthlm.synth.generate import synth_rendered

CAMERA = Camera(60.0, 60.0, 31.5, 23.5, 64, 48)
BLURS = (1, 2, 4, 8)


def step(at: int = 32) -> np.ndarray:
    """A wall at 2 m to the left of a column, one at 4 m to its right."""
    z = np.full((48, 64), 2.0)
    z[:, at:] = 4.0
    return z


def slanted(tilt: float = 0.5) -> np.ndarray:
    """The plane z = 3 + tilt x, seen by CAMERA."""
    u = (np.arange(64) - CAMERA.cx) / CAMERA.fx
    return np.tile(3 / (1 - tilt * u), (48, 1))


def blurred(z: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur that leaves pixels without a depth out: a weighted mean of the valid ones."""
    valid = np.isfinite(z) & (z > 0)
    weight = gaussian_filter(valid.astype(float), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(valid, gaussian_filter(np.where(valid, z, 0.0), sigma) / weight, np.nan)


# --- contours -------------------------------------------------------------------------------------------------------


def test_the_truth_and_a_shifted_edge() -> None:
    truth = step()
    assert boundary_f1(truth, truth) == {"f1": 1, "precision": 1, "recall": 1}
    assert boundary_f1(step(33), truth) == {"f1": 0, "precision": 0, "recall": 0}
    assert boundary_f1(1.7 * truth, truth) == {"f1": 1, "precision": 1, "recall": 1}, "blind to scale"
    assert boundary_f1(np.where(truth == 2, 4.0, 2.0), truth)["f1"] == 0, "the other side in front"
    assert boundary_f1(truth, np.full((48, 64), 3.0)) is None  # no contour in the truth
    assert flying_rate(truth, truth) == 0


def test_contours_by_hand() -> None:
    """The ratio 1.15 is a contour for the five thresholds of ten below it: a known share of the weights."""
    truth, said = step(), step()
    said[:, 32:] = 2.0 * 1.149
    t = np.linspace(1.05, 1.25, 10)
    found = boundary_f1(said, truth)
    assert found is not None
    assert found["f1"] == pytest.approx(t[t < 1.149].sum() / t.sum())
    half = step()
    half[:24] = 2.0  # only the lower half of the edge is said, and a contour of its own across the right half
    found = boundary_f1(half, truth)
    assert found is not None
    assert found["recall"] == pytest.approx(0.5)
    assert found["precision"] == pytest.approx(24 / (24 + 32))


def test_contours_beside_holes_are_not_scored() -> None:
    truth = step()
    truth[:, 33] = np.nan  # the true edge's neighbourhood has holes: nobody knows where it is
    assert boundary_f1(step(), truth) is None
    truth[40:, 33] = 4.0
    found = boundary_f1(step(), truth)
    assert found == {"f1": 1, "precision": 1, "recall": 1}


def test_flying_points_by_hand() -> None:
    """The edge between columns 31 and 32 has a band of columns 28 to 35, and each sees three columns to either side."""
    truth = step()

    def rate(column: int, z: float) -> float | None:
        said = truth.copy()
        said[:, column] = z
        return flying_rate(said, truth)

    assert rate(30, 3.0) == pytest.approx(1 / 8)  # between the walls: on neither
    assert rate(30, 2.0 * 1.049) == 0  # within 5 % of the near one
    assert rate(30, 2.0 * 1.051) == pytest.approx(1 / 8)
    assert rate(29, 4.0) == 0  # the other side's depth, 3 px away: on a surface
    assert rate(28, 4.0) == pytest.approx(1 / 8)  # its window ends at column 31
    assert rate(20, 3.0) == 0  # far from the edge nothing is looked at
    assert rate(30, np.nan) == 0  # said nothing: not counted
    assert flying_rate(np.full_like(truth, np.nan), truth) is None
    assert flying_rate(truth, np.full_like(truth, 3.0)) is None  # no edge


def test_a_smoothed_edge_flies() -> None:
    truth = step()
    smooth = blurred(truth, 2)
    assert flying_rate(smooth, truth) > 0.2
    found = measure_maps([DenseCase(name="a", camera=CAMERA, truth=truth, predicted=smooth)])
    edge = {row["place"]: row["delta1"]["value"] for row in found["by_edge"]}
    assert edge["interior"] == 1 > edge["boundary"]


def monotone(truth: np.ndarray) -> None:
    """Truth scores 0 and 1; the more blur, the more flying points and the fewer contours."""
    assert flying_rate(truth, truth) == 0
    assert boundary_f1(truth, truth)["f1"] == 1
    maps = [blurred(truth, sigma) for sigma in BLURS]
    flying = [flying_rate(z, truth) for z in maps]
    sharp = [boundary_f1(z, truth)["f1"] for z in maps]
    assert flying[0] > 0
    assert flying == sorted(flying), flying
    assert sharp[0] < 1
    assert sharp == sorted(sharp, reverse=True), sharp


def test_blur_on_a_photograph(samples_dir) -> None:
    root = samples_dir / "ibims1" / "derived_core_raw"
    (ref,) = READER.index(root, "test")
    labels = READER.read(root, ref).labels
    monotone(np.where(labels.valid, labels.z, np.nan))


def test_blur_on_rooms() -> None:
    rooms = [rendered.z.astype(np.float64) for rendered in synth_rendered(6, seed=9_200_000, views=1)]
    with_edges = [z for z in rooms if edge_band(z).sum() > 500]
    assert len(with_edges) >= 3
    for z in with_edges:
        monotone(z)


# --- planes ---------------------------------------------------------------------------------------------------------


def test_planes_by_hand() -> None:
    truth, regions = slanted(0.5), np.ones((48, 64), int)
    (exact,) = plane_errors(truth, truth, CAMERA, regions)
    assert exact.planarity_m == pytest.approx(0, abs=1e-6)
    assert exact.orientation_deg == pytest.approx(0, abs=1e-4)
    (scaled,) = plane_errors(1.3 * truth, truth, CAMERA, regions)
    assert scaled.orientation_deg == pytest.approx(0, abs=1e-4), "a factor turns no plane"
    (turned,) = plane_errors(slanted(0.0), truth, CAMERA, regions)
    assert turned.orientation_deg == pytest.approx(np.degrees(np.arctan(0.5)), abs=1e-6)
    assert turned.planarity_m == pytest.approx(0, abs=1e-6)


def test_a_curved_plane() -> None:
    """A wall at 3 m whose z goes up and down by 5 cm: rms 5 / sqrt(2) cm from its plane, and not turned."""
    truth = slanted(0.0)
    wave = 0.05 * np.sin(2 * np.pi * np.arange(64) / 16)
    (found,) = plane_errors(truth + wave, truth, CAMERA, np.ones((48, 64), int))
    assert found.planarity_m == pytest.approx(0.05 / np.sqrt(2), rel=0.02)
    assert found.planarity_rel == pytest.approx(found.planarity_m / 3.4, rel=0.1)
    assert found.orientation_deg < 1
    case = DenseCase(
        name="wave", camera=CAMERA, truth=truth, predicted=truth + wave, regions=np.ones((48, 64), np.int64)
    )
    measured = measure_maps([case])
    assert measured["figures"]["planarity_m"]["value"] == pytest.approx(found.planarity_m)
    assert measured["scalars"]["delta1"]["value"] == 1  # this stays
    assert measured["figures"]["flying_rate"]["value"] is None  # no edge


def test_planes_that_the_set_marks() -> None:
    """A marked region is measured against the marked normal, even where its truth is no plane by our own rule."""
    truth, regions = slanted(0.5), np.ones((48, 64), int)
    normal = np.array([[-0.5, 0, 1]]) / np.sqrt(1.25)  # of z - 0.5 x = 3
    (same,) = plane_errors(truth, truth, CAMERA, regions, normal)
    assert same.orientation_deg == pytest.approx(0, abs=1e-4)
    (other,) = plane_errors(truth, truth, CAMERA, regions, np.array([[0.0, 0, 1]]))
    assert other.orientation_deg == pytest.approx(np.degrees(np.arctan(0.5)), abs=1e-4)
    assert len(plane_errors(step(), step(), CAMERA, regions, np.array([[0.0, 0, 1]]))) == 1
    assert plane_errors(step(), step(), CAMERA, regions, np.full((1, 3), np.nan)) == []


def test_regions_that_are_no_plane_are_left_out() -> None:
    regions = np.ones((48, 64), int)
    assert plane_errors(step(), step(), CAMERA, regions) == []  # two walls under one label
    truth = slanted()
    assert plane_errors(truth, truth, CAMERA, np.where(np.arange(64) < 4, regions, 0)) == []  # 192 pixels
    holes = truth.copy()
    holes[:, :40] = np.nan
    assert plane_errors(holes, truth, CAMERA, regions) == []
    with pytest.raises(InputError, match=r"plane regions have shape \(2, 2\)"):
        plane_errors(truth, truth, CAMERA, np.ones((2, 2), int))


def test_incidence() -> None:
    facing = incidence_map(np.full((48, 64), 3.0), CAMERA)
    v, u = np.mgrid[1:47, 1:63]
    expected = np.degrees(np.arccos(1 / CAMERA.ray_factor(np.stack([u.ravel(), v.ravel()], axis=1)))).reshape(u.shape)
    assert facing[1:-1, 1:-1] == pytest.approx(expected, abs=1e-4)
    assert np.isnan(facing[0]).all()
    tilted = incidence_map(slanted(0.5), CAMERA)
    assert tilted[23, 31] == pytest.approx(np.degrees(np.arctan(0.5)), abs=1.0)


# --- clouds ---------------------------------------------------------------------------------------------------------


def test_clouds_by_hand() -> None:
    truth = np.array([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [5, 5, 5]])
    said = np.array([[0.0, 0, 1.1], [1, 0, 1.3], [np.nan, 0, 0]])
    found = cloud_errors(said, truth, tolerance_m=0.2)
    assert found["accuracy_m"] == pytest.approx((0.1 + 0.3) / 2)
    third, fourth = np.sqrt(1 + 0.01), np.sqrt(16 + 25 + 3.7**2)
    assert found["completeness_m"] == pytest.approx((0.1 + 0.3 + third + fourth) / 4)
    assert (found["precision"], found["recall"]) == (0.5, 0.25)
    assert found["f_score"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert cloud_errors(truth, truth)["f_score"] == 1
    with pytest.raises(InputError, match="predicted point cloud is empty"):
        cloud_errors(np.full((3, 3), np.nan), truth)


# --- several pictures -----------------------------------------------------------------------------------------------


def test_maps_with_bad_ones_among_them() -> None:
    truth = step()
    good = [
        DenseCase(name=f"good{k}", camera=CAMERA, truth=truth, predicted=truth * factor)
        for k, factor in enumerate((1.0, 1.1))
    ]
    bad = [
        DenseCase(name="small", camera=CAMERA, truth=truth, predicted=truth[:4]),
        DenseCase(name="empty", camera=CAMERA, truth=truth, predicted=np.full_like(truth, np.nan)),
        DenseCase(name="untrue", camera=CAMERA, truth=np.full_like(truth, np.nan), predicted=truth),
    ]
    found = measure_maps([*good, *bad])
    assert found["images"] == 2
    assert [line.split(":")[0] for line in found["skipped"]] == ["small", "empty", "untrue"]
    assert found["scalars"]["absrel"]["value"] == pytest.approx(0.05)
    assert found["figures"]["flying_rate"]["ci"][0] == 0
    with pytest.raises(InputError, match="no depth map can be measured"):
        measure_maps(bad)


def test_lift_checks_its_camera() -> None:
    assert lift(np.ones((48, 64)), CAMERA)[23, 31].tolist() == pytest.approx([-0.5 / 60, -0.5 / 60, 1])
    with pytest.raises(InputError, match="camera 64x48"):
        lift(np.ones((4, 4)), CAMERA)
