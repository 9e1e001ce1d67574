"""Depth models as rivals: their numbers are transformers' own, on the same points; what they do wrong is said."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cli_runner import run
from depthlm.camera import Camera
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.runs import read_run
from depthlm.inference.rival import RivalBackend, align_inverse
from depthlm.rivals import Rival, depth_pro, open_rival
from depthlm.rivals.file import open_file
from depthlm.sample import Sample
from tiny_depth import TINY_DEPTH, build_tiny_depth
from torchvision_env import DECLARE, build_environment

CAMERA = Camera(90.0, 92.0, 49.0, 41.0, 100, 80)
MAP = 2 + np.add.outer(np.arange(80) / 40, np.arange(100) / 50)  # what the rivals made up here say, [80, 100]


def photo(seed: int = 0) -> Image.Image:
    """Smooth noise: every pixel's number depends on where it is."""
    small = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((100, 80), Image.Resampling.BICUBIC)


def samples(images: int = 2, points: int = 12, z: Any = MAP) -> list[Sample]:
    made = []
    for k in range(images):
        rng = np.random.default_rng(k)
        buffer = io.BytesIO()
        photo(k).save(buffer, "PNG")
        uv = np.stack([rng.uniform(-0.4, 99.4, points), rng.uniform(-0.4, 79.4, points)], axis=1)
        column, row = np.rint(uv).astype(int).T
        made.append(Sample(buffer.getvalue(), CAMERA, uv, z[row, column], frame=f"photo {k}"))
    return made


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rivals")
    return {kind: build_tiny_depth(kind, root / kind) for kind in TINY_DEPTH}


def made_up(measure: Any = lambda image, camera: MAP, **what: Any) -> Rival:
    return Rival(
        **{"name": "made up", "means": "z", "focal": "unused", "identity": {"rival": "x"}} | what, measure=measure
    )


# --- the numbers of transformers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["depth_anything", "relative", "dpt", "glpn"])
def test_as_transformers_pipeline(checkpoints, kind):
    from transformers import pipeline

    expected = pipeline("depth-estimation", model=str(checkpoints[kind]))(photo())["predicted_depth"].numpy()
    rival = open_rival(str(checkpoints[kind]))
    found = rival.measure(photo(), None)
    assert np.ptp(expected) > 0.01, "a flat map would show nothing"
    np.testing.assert_array_equal(found, expected)
    assert (rival.means, rival.focal) == ("inverse" if kind in ("relative", "dpt") else "z", "unused")


def test_zoedepth_as_transformers_post_processes_it(checkpoints, monkeypatch):
    """Its post-processing calls torchvision's resize: torch's interpolation (the slow test has the real one)."""
    from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil
    from transformers.models.zoedepth import image_processing_pil_zoedepth as module

    def resize(depth: Any, size: Any, interpolation: str, antialias: bool) -> Any:
        assert (interpolation, antialias) == ("bicubic", False)
        return torch.nn.functional.interpolate(depth[None], size=size, mode="bicubic", align_corners=False)[0]

    stand_in = SimpleNamespace(resize=resize, InterpolationMode=SimpleNamespace(BICUBIC="bicubic"))
    monkeypatch.setattr(module, "tvF", stand_in, raising=False)
    folder = checkpoints["zoedepth"]
    processor, model = (
        ZoeDepthImageProcessorPil.from_pretrained(folder),
        ZoeDepthForDepthEstimation.from_pretrained(folder),
    )
    for size in ((100, 80), (33, 61)):
        image = photo().resize(size)
        with torch.inference_mode():
            output = model(**processor(images=image, return_tensors="pt"))
        (expected,) = processor.post_process_depth_estimation(output, source_sizes=[(image.height, image.width)])
        assert np.ptp(expected["predicted_depth"].numpy()) > 1e-3
        np.testing.assert_array_equal(open_rival(str(folder)).measure(image, None), expected["predicted_depth"])


def test_depth_pro_prepares_pictures_as_its_processor_says(checkpoints, tmp_path):
    preparation = depth_pro.Preparation()
    assert (preparation.size, preparation.mean, preparation.std) == ((1536, 1536), (0.5,) * 3, (0.5,) * 3)
    assert preparation.factor == 1 / 255
    half = depth_pro.Preparation(size=(40, 50))
    pixels = np.asarray(photo()).astype(np.float32) / 127.5 - 1
    expected = cv2.resize(pixels, (50, 40), interpolation=cv2.INTER_LINEAR)  # no antialiasing either
    np.testing.assert_allclose(half(photo())[0].permute(1, 2, 0).numpy(), expected, atol=2e-6)
    assert depth_pro.Preparation.read(checkpoints["depth_pro"]).size == (64, 64)
    assert depth_pro.Preparation.read(tmp_path) == preparation
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
    with pytest.raises(InputError, match="is no image processor of Depth Pro"):
        depth_pro.Preparation.read(tmp_path)


def test_depth_pro_by_hand(checkpoints):
    """1 / (inverse depth x width / focal length), interpolated before the inversion."""
    from transformers import DepthProForDepthEstimation

    folder = checkpoints["depth_pro"]
    model = DepthProForDepthEstimation.from_pretrained(folder)
    with torch.inference_mode():
        output = model(pixel_values=depth_pro.Preparation(size=(64, 64))(photo()))
    inverse, angle = output.predicted_depth[0].numpy(), float(output.field_of_view[0])
    assert 1 < angle < 179
    rival = open_rival(str(folder))
    assert (rival.means, rival.focal) == ("z", "optional")
    own = 0.5 * 100 / np.tan(0.5 * np.radians(angle))
    for camera, focal in ((None, own), (CAMERA, CAMERA.fx)):
        whole = cv2.resize(inverse * np.float32(100 / focal), (100, 80), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(rival.measure(photo(), camera), 1 / np.clip(whole, 1e-4, 1e4), rtol=2e-3)
    blind = open_rival(str(checkpoints["depth_pro_blind"]))
    assert blind.focal == "needed"
    near, far = (blind.measure(photo(), Camera(f, f, 50, 40, 100, 80)) for f in (50.0, 100.0))
    inside = far < 9e3  # where inverse depth is not clamped
    np.testing.assert_allclose(far[inside], 2 * near[inside], rtol=1e-4)


PARITY = (
    DECLARE
    + """
import sys
import numpy as np
from pathlib import Path
from PIL import Image
import transformers as t
from depthlm.rivals import open_rival
root, picture = Path(sys.argv[1]), Image.open(sys.argv[2]).convert("RGB")
size = [(picture.height, picture.width)]
for kind, processor, model in [
    ("depth_pro", t.DepthProImageProcessor, t.DepthProForDepthEstimation),
    ("zoedepth", t.ZoeDepthImageProcessorPil, t.ZoeDepthForDepthEstimation),
    ("glpn", t.GLPNImageProcessorPil, t.GLPNForDepthEstimation),
    ("dpt", t.DPTImageProcessorPil, t.DPTForDepthEstimation),
]:
    folder = root / kind
    prepare, network = processor.from_pretrained(folder), model.from_pretrained(folder)
    inputs = prepare(images=picture, return_tensors="pt")
    if kind == "depth_pro":
        ours = __import__("depthlm.rivals.depth_pro", fromlist=["x"]).Preparation.read(folder)(picture)
        assert torch.equal(ours, inputs["pixel_values"]), abs(ours - inputs["pixel_values"]).max()
    with torch.inference_mode():
        (found,) = prepare.post_process_depth_estimation(network(**inputs), size)
    ours = open_rival(str(folder)).measure(picture, None)
    assert ours.shape == size[0]
    print(kind, float(abs(ours / found["predicted_depth"].numpy() - 1).max()))
"""
)


@pytest.mark.slow
def test_parity_where_torchvision_is(checkpoints, tmp_path):
    python = build_environment(tmp_path / "venv")
    photo().save(tmp_path / "photo.png")
    root = checkpoints["depth_pro"].parent
    told = subprocess.run(
        [str(python), "-c", PARITY, str(root), str(tmp_path / "photo.png")], capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(depth_pro.__file__).parents[2]), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    off = {line.split()[0]: float(line.split()[1]) for line in told.stdout.splitlines()}
    assert set(off) == {"depth_pro", "zoedepth", "glpn", "dpt"}
    assert max(off.values()) < 1e-5, off


def test_weights_are_computed_with_in_float32(checkpoints, tmp_path):
    from transformers import GLPNForDepthEstimation

    shutil.copytree(checkpoints["glpn"], tmp_path / "half")
    GLPNForDepthEstimation.from_pretrained(checkpoints["glpn"]).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert open_rival(str(tmp_path / "half")).measure(photo(), None).dtype == np.float32


# --- on the points of an evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["z", "distance"])
def test_each_point_gets_the_number_of_its_pixel(checkpoints, task, tmp_path):
    rival = open_rival(str(checkpoints["glpn"]))
    given = samples()
    summary = evaluate(RivalBackend(rival), given, EvaluationConfig(task=task), out=tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "points.parquet").to_pylist()
    assert len(table) == 24
    for row in table:
        whole = rival.measure(photo(row["image"]), None)
        z = float(whole[round(row["v"]), round(row["u"])])
        factor = CAMERA.ray_factor([(row["u"], row["v"])])[0] if task == "distance" else 1.0
        assert row["value"] == pytest.approx(z * factor, rel=1e-6)
    assert (summary["n"], summary["n_unparsed"], summary["n_failed"], summary["label"]) == (24, 0, 0, "z")
    assert summary["given"] == "the picture as it is"
    assert summary["metrics"]["reuse"]["top_digit"] is None, "no digits were written"


def test_a_rival_that_knows_the_truth_is_right():
    assert evaluate(RivalBackend(made_up()), samples(), EvaluationConfig(task="z"))["absrel"] == 0
    v, u = np.mgrid[:80, :100]
    rays = CAMERA.ray_factor(np.stack([u.ravel(), v.ravel()], axis=1).astype(float)).reshape(80, 100)
    far = RivalBackend(made_up(lambda image, camera: MAP * rays, means="distance"))
    found = evaluate(far, samples(), EvaluationConfig(task="z"))
    assert (found["answers"], round(found["absrel"], 2)) == ("distance", 0.0)
    np.testing.assert_allclose(far.depth_map(photo(), CAMERA, budget=1), MAP)


def test_what_a_rival_is_given_is_what_it_gets():
    seen: list[Any] = []

    def measure(image: Image.Image, camera: Camera | None) -> np.ndarray:
        seen.append(camera)
        return MAP

    cases = {
        "the picture as it is (the focal length is its own estimate)": {"focal": "optional"},
        "the picture as it is and its true focal length": {"focal": "needed"},
        "the picture as it is": {"focal": "unused"},
    }
    for words, what in cases.items():
        assert evaluate(RivalBackend(made_up(measure, **what)), samples(1), EvaluationConfig())["given"] == words
    told = RivalBackend(made_up(measure, focal="optional"), give_focal=True)
    assert evaluate(told, samples(1), EvaluationConfig())["given"].endswith("and its true focal length")
    assert [camera is not None for camera in seen] == [False, True, False, True]
    assert seen[1] == CAMERA
    with pytest.raises(InputError, match="takes no focal length; leave --give-focal out"):
        RivalBackend(made_up(), give_focal=True)


def test_relative_depth_is_refused_or_aligned_and_said():
    relative = made_up(lambda image, camera: 3.0 / MAP - 0.4, means="inverse")
    with pytest.raises(InputError, match="tells depth up to scale and shift only"):
        RivalBackend(relative)
    found = evaluate(RivalBackend(relative, align=True), samples(), EvaluationConfig(task="z"))
    assert found["absrel"] == pytest.approx(0, abs=1e-9)
    assert "fitted to the truths of each picture (another protocol)" in found["given"]
    with pytest.raises(InputError, match="tells metres; --align is for rivals that tell inverse depth"):
        RivalBackend(made_up(), align=True)
    assert "cannot be fitted" in align_inverse(
        np.ones((4, 4)), np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([1.0, 2.0])
    )


def test_one_picture_is_measured_once_however_many_parts_ask_of_it():
    calls: list[int] = []
    backend = RivalBackend(made_up(lambda image, camera: (calls.append(1), MAP)[1]))
    evaluate(backend, samples(2, 400), EvaluationConfig(task="z"))  # 800 points: four parts
    assert len(calls) == 2


def test_a_depth_model_answers_nothing_else():
    with pytest.raises(InputError, match="asked for distance or z, not for speed"):
        evaluate(RivalBackend(made_up()), samples(1), EvaluationConfig(task="speed"))


def test_a_run_does_not_go_on_with_other_weights(checkpoints, tmp_path):
    """Any file of the checkpoint counts, and any of the rival's own."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["glpn"], folder)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"one")

    def asked() -> dict[str, Any]:
        return evaluate(RivalBackend(open_rival(str(folder))), samples(1), EvaluationConfig(), out=tmp_path / "run")

    first = asked()
    assert asked() == first
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"two")
    with pytest.raises(InputError, match="holds an evaluation with another backend"):
        asked()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def fails_on(*pictures: int, how: Any) -> Rival:
    """The truth, but for these pictures (by number)."""
    known = {photo(k).tobytes(): k for k in range(6)}
    return made_up(lambda image, camera: how() if known[image.tobytes()] in pictures else MAP)


def boom() -> Any:
    raise RuntimeError("CUDA error 700\nand more")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (boom, "raised RuntimeError: CUDA error 700"),
        (lambda: MAP[:40], "returned shape (40, 100) for a picture of 100x80; expected (80, 100) numbers"),
        (lambda: MAP[..., None], "returned shape (80, 100, 1)"),
        (lambda: MAP * 1000, "are these millimetres?"),
        (lambda: MAP * np.nan, "returned no positive finite number; expected metres"),
        (lambda: None, "returned a NoneType; expected (80, 100) numbers"),
        (lambda: MAP > 2, "returned an array of bool"),
    ],
)
def test_one_bad_picture_leaves_the_rest(how, told, tmp_path):
    summary = evaluate(RivalBackend(fails_on(1, how=how)), samples(5), EvaluationConfig(task="z"), out=tmp_path / "run")
    assert (summary["n"], summary["n_failed"], summary["n_unparsed"]) == (60, 12, 12)
    assert (summary["delta1"], summary["absrel"]) == (0.8, 0.0)
    assert summary["metrics"]["n_out_of_range"] == 0
    (line,) = summary["failed"]
    assert line.startswith("photo 1 (1): ")
    assert told in line
    assert "\n" not in line
    with pytest.raises(InputError) as caught:
        evaluate(RivalBackend(fails_on(*range(5), how=how)), samples(5), EvaluationConfig(), out=tmp_path / "all")
    assert "failed each of the first 3 pictures" in str(caught.value)
    assert told in str(caught.value)
    with pytest.raises(InputError, match="every picture failed"):
        evaluate(RivalBackend(fails_on(*range(5), how=how)), samples(1), EvaluationConfig(), out=tmp_path / "one")
    assert not list((tmp_path / "one").rglob("*.parquet")), "the next try asks again"


def test_a_number_that_is_no_length_is_counted(tmp_path):
    holes = MAP.copy()
    holes[:, :50], holes[:, 50:60] = np.nan, -1.0
    given = samples(1, 60)
    summary = evaluate(RivalBackend(made_up(lambda image, camera: holes)), given, EvaluationConfig(task="z"))
    column = np.rint(given[0].uv[:, 0])
    assert summary["n_unparsed"] == (column < 60).sum()
    assert summary["metrics"]["n_out_of_range"] == ((column >= 50) & (column < 60)).sum() > 0


GOOD = """
import numpy as np
FOCAL = "needed"
WEIGHTS = ["weights.bin"]
def load(model, device):
    return float(model)
def infer(loaded, image, camera):
    return np.full((image.height, image.width), loaded * camera.fx / 90, dtype=np.float32)
"""


def test_a_rival_of_one_file(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "weights.bin").write_bytes(b"w")
    write_shards(samples(), tmp_path / "data", info={})
    arguments = ("eval", "2.5", tmp_path / "data", "--rival", tmp_path / "mine.py", "--task", "z", "--json")
    status, out, err = run(capsys, *arguments, "--out", tmp_path / "run")
    summary = json.loads(out)
    assert (status, summary["model"], summary["reference"]) == (0, "2.5", "dense map")
    assert {row["value"] for row in read_run(tmp_path / "run").table} == {2.5}
    page = (tmp_path / "run" / "report.md").read_text()
    assert "the picture as it is and its true focal length" in page
    assert "rival mine" in page
    assert "prompt" not in page.split("What was run")[1].split("What the numbers mean")[0]
    for change in ("mine.py", "weights.bin"):
        with (tmp_path / change).open("a") as file:
            file.write("\n")
        status, out, err = run(capsys, *arguments, "--out", tmp_path / "run")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "holds an evaluation with another backend" in err
        shutil.rmtree(tmp_path / "run")
        assert run(capsys, *arguments, "--out", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no such file"),
        ("def load(:", "cannot be run (SyntaxError"),
        ("import nothing_of_that_name", "cannot be run (ModuleNotFoundError: No module named"),
        ("def load(model, device): pass", "has no function infer"),
        (GOOD.replace('"needed"', '"maybe"'), "FOCAL is 'maybe'; expected one of unused, optional, needed"),
        (GOOD + "MEANS = 'mm'", "MEANS is 'mm'; expected one of z, distance, inverse"),
        (GOOD.replace('["weights.bin"]', '"weights.bin"'), "expected a list of files or folders"),
        (GOOD, "which is not there"),
        (GOOD.replace('WEIGHTS = ["weights.bin"]', "").replace("float(model)", "1 / 0"), "raised ZeroDivisionError"),
    ],
)
def test_files_that_are_no_rival(text, told, tmp_path):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError) as caught:
        open_file(tmp_path / "mine.py", "2.5")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checkpoints_that_are_not_whole(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoints["glpn"], tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    gone = sorted(weights)[0]
    shutil.copytree(checkpoints["dpt"], tmp_path / "dpt")
    released = load_file(tmp_path / "dpt" / "model.safetensors")
    kept = {key: value for key, value in released.items() if "layers.0.residual_layer1" not in key}
    assert len(kept) < len(released)
    save_file(kept, tmp_path / "dpt" / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(
        open_rival(str(tmp_path / "dpt")).measure(photo(), None),
        open_rival(str(checkpoints["dpt"])).measure(photo(), None),
    )
    save_file(
        {k: v for k, v in weights.items() if k != gone}, tmp_path / "model" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match=f"lacks 1 weights of GLPNForDepthEstimation .the first: {gone}"):
        open_rival(str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded as GLPNForDepthEstimation"):
        open_rival(str(tmp_path / "model"))
    with pytest.raises(InputError, match="is no depth-estimation model of transformers that is known here"):
        open_rival(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("dpt", [], "tells depth up to scale and shift only, not metres"),
        ("glpn", ["--give-focal"], "takes no focal length"),
        ("glpn", ["--align"], "tells metres; --align is for"),
        ("glpn", ["--prompt", "gemini"], "--prompt: nothing is said to a depth model"),
        ("glpn", ["--reference", "text"], "--reference: nothing is said to a depth model"),
        ("glpn", ["--read", "mean"], "--read: nothing is said to a depth model"),
        ("glpn", ["--dtype", "bfloat16"], "depth models run in float32"),
        ("glpn", ["--ray", "local"], "leave --ray out"),
        ("glpn", ["--rival", "x.py", "--backend", "oracle"], "leave --backend oracle out"),
        ("glpn", ["--backend", "oracle", "--give-focal"], "--give-focal and --align are for depth models"),
    ],
)
def test_options_that_cannot_be(checkpoints, tmp_path, capsys, kind, options, told):
    write_shards(samples(1), tmp_path / "data", info={})
    status, out, err = run(capsys, "eval", checkpoints[kind], tmp_path / "data", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
