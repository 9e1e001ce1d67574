"""Who answers: constant, oracle, and a server that fails in every way while no answer is lost or paid for twice."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chat_server import ChatServer
from cli_runner import run
from depthlm.camera import Camera
from depthlm.data.shards import write_shards
from depthlm.errors import BackendError, InputError
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.inference.bounds import ConstantBackend, OracleBackend
from depthlm.inference.cache import AnswerCache
from depthlm.inference.interval import Leaf
from depthlm.inference.server import ServerBackend, number_leaves
from depthlm.models.card import ModelCard
from depthlm.models.locate import NANO_FOLDER
from depthlm.sample import Sample
from depthlm.synth.generate import synth_samples
from depthlm.tasks import TASKS, get_task

CARD = ModelCard(focal=80.0, references=["text", "arrow"], label="z", coordinate_range=2000)
CAMERA = Camera(80.0, 80.0, 39.5, 29.5, 80, 60)
COORDINATES = re.compile(r"\((\d+), (\d+)\)$")


def samples(images: int = 2, points: int = 10) -> list[Sample]:
    """Depth is a function of the pixel, so that a scripted server can know it from what it is asked."""
    rng = np.random.default_rng(3)
    made = []
    for k in range(images):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(buffer, "PNG")
        uv = rng.permutation(np.stack(np.mgrid[0:80, 0:60], axis=-1).reshape(-1, 2))[:points].astype(float)
        made.append(Sample(buffer.getvalue(), CAMERA, uv, 1 + uv[:, 0] / 20 + uv[:, 1] / 30, frame=str(k)))
    return made


def say(body: dict[str, Any]) -> str:
    """The exact z of the asked point (at focal 80 views are the pictures themselves), to two decimals."""
    x, y = map(int, COORDINATES.search(body["messages"][-1]["content"][-1]["text"]).groups())
    return f"<answer>{1 + x * 80 / 2000 / 20 + y * 60 / 2000 / 30:.2f}</answer>"


@pytest.fixture
def serve():
    servers = []

    def start(*arguments: Any) -> ChatServer:
        servers.append(ChatServer(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def backend(server: ChatServer, **options: Any) -> ServerBackend:
    return ServerBackend("m", base_url=server.url, card=CARD, **{"first_wait": 0.01, "timeout": 5.0, **options})


# --- floors and ceilings ----------------------------------------------------------------------------------------------


def test_the_best_constant_scores_the_floor():
    data = samples()
    floor = evaluate(OracleBackend(CARD), data, EvaluationConfig(task="z", points=20))["floor_constant"]
    run_ = evaluate(ConstantBackend(f"{floor:.6f}", CARD), data, EvaluationConfig(task="z", points=20))
    assert run_["delta1"] == run_["floor_delta1"]
    assert (run_["n"], run_["n_unparsed"], run_["model"]) == (20, 0, f"{floor:.6f}")


def test_a_constant_is_read_in_each_task_s_own_terms():
    rooms = list(synth_samples(2, seed=5, views=2, points=60))
    view = ConstantBackend("", CARD).whole_view(rooms[0].load_image(), rooms[0].camera)
    for task, text, value in (
        ("nearer", "first", "first"),
        ("distance", "2.5 meters", 2.5),
        ("surface", "Wall", "wall"),
    ):
        constant = ConstantBackend(text, CARD)
        [answer] = constant.ask([constant.request(constant.context(view, 0), "?", (), get_task(task))])
        assert answer.value == value
    assert evaluate(ConstantBackend("no idea", CARD), rooms, EvaluationConfig(points=8))["n_unparsed"] == 8


def test_the_oracle_reaches_what_the_form_of_the_answers_allows():
    rooms = list(synth_samples(3, seed=5, views=2, points=60, pairs=True))
    for prompt in ("nano", "depthlm"):
        card = ModelCard(
            focal=160, coordinate_range=100 if prompt == "nano" else 2000, references=["text"], prompt=prompt
        )
        for task in TASKS:
            if "text" not in TASKS[task].references:
                continue
            run_ = evaluate(OracleBackend(card), rooms, EvaluationConfig(task=task, points=40))
            assert run_["n_unparsed"] == 0, (prompt, task)
            # Two digits of a direction or an angle are half a degree or two off; all else is right.
            assert run_["score"] >= (0.85 if run_["metric"] == "auc@30" else 0.99), (prompt, task, run_["score"])


def test_the_oracle_does_not_guess():
    oracle = OracleBackend(CARD)
    view = oracle.whole_view(samples()[0].load_image(), CAMERA)
    with pytest.raises(InputError, match="labelled points only"):
        oracle.ask([oracle.request(oracle.context(view, 0), "?", (), get_task("distance"))])


# --- a server that works ----------------------------------------------------------------------------------------------


def test_a_server_s_answers_are_scored_like_any_others(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    server = serve(say)
    asked = backend(server, cache=tmp_path / "answers.jsonl", body={"seed": 7, "temperature": None})
    summary = evaluate(asked, samples(), EvaluationConfig(task="z", points=20), out=tmp_path / "run")
    assert summary["delta1"] == 1.0
    assert asked.usage() == {"questions": 20, "prompt_tokens": 200, "completion_tokens": 60}
    body = server.bodies[0]
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    assert kinds == ["image_url", "text"], "the picture first: a server's prefix cache holds it"
    assert (body["seed"], "temperature" in body, body["model"]) == (7, False, "m")
    pictures = {b["messages"][-1]["content"][0]["image_url"]["url"] for b in server.bodies}
    assert len(pictures) == 2, "the questions about a picture send the same bytes"
    sent = Image.open(io.BytesIO(base64.b64decode(pictures.pop().partition(",")[2])))
    assert sent.format == "PNG"
    assert any(np.array_equal(np.asarray(sent), np.asarray(sample.load_image())) for sample in samples())
    assert all(headers["authorization"] == "Bearer secret-key" for headers in server.headers)
    for path in [*(tmp_path / "run").rglob("*"), tmp_path / "answers.jsonl"]:
        assert path.is_dir() or b"secret-key" not in path.read_bytes()


def test_markers_are_drawn_on_what_is_sent(serve):
    server = serve(lambda body: "1.0")
    evaluate(backend(server, reference="arrow"), samples(1, 3), EvaluationConfig(task="z", points=3))
    assert len({b["messages"][-1]["content"][0]["image_url"]["url"] for b in server.bodies}) == 3


def test_equal_questions_are_asked_once_and_known_ones_never(serve, tmp_path):
    server = serve(say)
    first = backend(server, cache=tmp_path / "a.jsonl")
    image, uv = samples(1)[0].load_image(), [(10, 20), (10, 20), (30, 40)]
    got = first.measure(image, uv, CAMERA, wanted="z")
    assert server.requests == 2
    np.testing.assert_allclose(got.z, 1 + np.array([10, 10, 30]) / 20 + np.array([20, 20, 40]) / 30, atol=0.006)
    first.cache.close()
    again = backend(server, cache=tmp_path / "a.jsonl")
    np.testing.assert_array_equal(again.measure(image, uv, CAMERA, wanted="z").z, got.z)
    assert server.requests == 2
    assert again.usage()["questions"] == 0
    other = backend(server, body={"seed": 1})
    other.measure(image, uv[:1], CAMERA, wanted="z")
    assert server.requests == 3, "what is sent besides is part of the question"


def test_probabilities_become_a_belief(serve):
    def tokens(body: dict[str, Any]) -> Any:
        p = math.log
        return "1.25 meters", [
            ("1", [("1", p(0.7)), ("2", p(0.2)), ("x", p(0.1))]),
            (".", [(".", p(0.9)), (" ", p(0.1))]),
            ("2", [("2", p(0.6)), ("7", p(0.4))]),
            ("5", [("5", p(0.5)), ("0", p(0.5))]),
            (" meters", [(" meters", p(1.0))]),
        ]

    data = samples(1, 4)
    summary = evaluate(backend(serve(tokens), read="median"), data, EvaluationConfig(task="z", points=4))
    assert summary["n_unparsed"] == 0
    [answer] = (asked := backend(serve(tokens), read="mean")).ask(
        asked.requests(data[0].load_image(), CAMERA, data[0].uv[:1])
    )
    mass = {"2": 0.2, "1": 0.07, "1.7": 0.252, "1.20": 0.189, "1.25": 0.189}
    assert answer.mass == pytest.approx(sum(mass.values()))
    middle = {"2": 2.5, "1": 1.0, "1.7": 1.75, "1.20": 1.205, "1.25": 1.25}
    assert answer.value == pytest.approx(sum(mass[k] * middle[k] for k in mass) / sum(mass.values()), abs=1e-3)
    assert answer.low < answer.value < answer.high


def test_leaves_of_a_number():
    p = math.log
    tokens = [
        ("<", []),
        ("12", [("12", p(0.5)), ("1", p(0.25)), ("a", p(0.25))]),
        (">", [(">", p(0.75)), (".", p(0.25))]),
    ]
    assert set(number_leaves(tokens, "12")) == {
        Leaf("1", 0.25, True),
        Leaf("12.", 0.125, True),
        Leaf("12", 0.375, False),
    }
    assert number_leaves(tokens, "13") == []
    assert number_leaves([("a12", [("a12", 0.0)])], "12") == [], "a token that holds more than the number"
    assert number_leaves([], "12") == []


def test_a_server_without_probabilities_gives_no_interval(serve):
    server = serve(say)
    got = backend(server, logprobs=False).measure(samples(1)[0].load_image(), [(5, 5)], CAMERA)
    assert np.isnan(got.low).all()
    assert "logprobs" not in server.bodies[0]


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_thousand_points_through_every_fault(serve, tmp_path):
    """429, 500, garbage, silence, dropped connections, and a server that dies in the middle and comes back."""
    bad = {
        3: 429,
        50: 500,
        51: "garbage",
        52: "html",
        53: "empty",
        54: "drop",
        120: "hang",
        121: 503,
        300: 429,
        301: 429,
    }
    data = samples(4, 250)
    server = serve(say, lambda number: bad.get(number))
    config = EvaluationConfig(task="z", points=1000)
    whole = evaluate(OracleBackend(CARD), data, config)
    cache, out = tmp_path / "answers.jsonl", tmp_path / "run"
    dying = backend(server, cache=cache, retries=2)
    reached = 0

    def die(done: int, total: int) -> None:
        nonlocal reached
        reached = done
        if done >= 500:
            server.stop()

    with pytest.raises(BackendError, match=r"no connection .*answers are kept in .*run the same command again"):
        evaluate(dying, data, config, out=out, progress=die)
    kept = len(dying.cache)
    assert kept >= 500
    assert sum(server.answered.values()) - kept <= 8, "every answer is kept but those on their way when it died"
    dying.cache.close()
    server.start()
    summary = evaluate(backend(server, cache=cache), data, config, out=out)
    assert summary["delta1"] == whole["delta1"] == 1.0
    assert (summary["n"], summary["n_unparsed"]) == (1000, 0)
    assert set(server.answered.values()) == {1}, "none is asked twice"
    assert (
        sum(server.answered.values())
        == len(AnswerCache(cache))
        == len({json.loads(line)["key"] for line in cache.read_text().splitlines()})
    )
    table = pq.read_table(out / "points.parquet").to_pylist()
    assert len({(row["image"], row["u"], row["v"]) for row in table}) == 1000


def test_a_server_that_refuses_is_not_asked_again(serve):
    server = serve(say, lambda number: 404)
    with pytest.raises(InputError, match=r"refuses model 'm': status 404, .*fault 404"):
        backend(server, concurrency=1).measure(samples(1)[0].load_image(), [(5, 5)], CAMERA)
    assert server.requests == 1


def test_a_server_that_stays_silent_ends_the_run(serve):
    server = serve(say, lambda number: "hang")
    with pytest.raises(BackendError, match=r"no answer within 0\.2 s, 2 times"):
        backend(server, timeout=0.2, retries=1).measure(samples(1)[0].load_image(), [(5, 5)], CAMERA)


def test_no_more_questions_a_minute_than_asked_for(serve):
    import time

    server = serve(say)
    start = time.monotonic()
    backend(server, per_minute=600).measure(samples(1)[0].load_image(), [(k, 5) for k in range(6)], CAMERA)
    assert time.monotonic() - start >= 0.5


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_line_cut_off_by_a_crash_is_taken_out(tmp_path):
    path = tmp_path / "deep" / "a.jsonl"
    cache = AnswerCache(path)
    cache.put("a", {"text": "1"})
    cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "b", "te')
    cache = AnswerCache(path)
    assert path.read_bytes() == whole
    cache.put("b", {"text": "2"})
    cache.close()
    assert AnswerCache(path).records == {"a": {"text": "1"}, "b": {"text": "2"}}


def test_caches_that_cannot_be_used(tmp_path):
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(InputError, match=r"x\.jsonl: line 1 holds no answer"):
        AnswerCache(tmp_path / "x.jsonl")
    first = AnswerCache(tmp_path / "y.jsonl")
    with pytest.raises(InputError, match="another run is writing"):
        AnswerCache(tmp_path / "y.jsonl")
    first.close()
    with pytest.raises(InputError, match="cannot be written"):
        AnswerCache(tmp_path)


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path) -> Path:
    write_shards(samples(), tmp_path / "data")
    return tmp_path / "data"


def test_backends_on_the_command_line(serve, shards, tmp_path, capsys):
    CARD.save(tmp_path)
    server = serve(say)
    card = tmp_path / "depthlm.json"
    arguments = ("--task", "z", "--points", 20, "--card", card, "--json")
    status, out, err = run(capsys, "eval", "m", shards, *arguments, "--backend", "openai", "--base-url", server.url,
                           "--out", tmp_path / "run", "--price", "2,10")  # fmt: skip
    assert (status, json.loads(out)["delta1"]) == (0, 1.0)
    assert "20 questions, 200 tokens in, 60 tokens out, 0.0010 dollars" in err
    assert (tmp_path / "run.answers.jsonl").exists()
    assert "0.0010 dollars" in (tmp_path / "run" / "report.html").read_text()
    status, out, _ = run(capsys, "eval", "truth", shards, *arguments, "--backend", "oracle")
    assert (status, json.loads(out)["delta1"]) == (0, 1.0)
    status, out, _ = run(
        capsys, "eval", "2.5", shards, *arguments[:-3], "--backend", "constant", "--card", NANO_FOLDER, "--json"
    )
    assert (status, json.loads(out)["model"]) == (0, "2.5")


@pytest.mark.parametrize(
    ("name", "reference", "pattern", "scale"),
    [
        ("gemini", "text", r"Look at the point \[(?P<y>\d+), (?P<x>\d+)\]", (1000, 1000)),
        ("qwen", "text", r'"point_2d": \[(?P<x>\d+), (?P<y>\d+)\]}, in relative', (1000, 1000)),
        ("general", "text-pixels", r"pixel \((?P<x>\d+), (?P<y>\d+)\)", (80, 60)),
        ("general-camera", "text", r"fx = 80.0.*point \((?P<x>\d+), (?P<y>\d+)\)", (1000, 1000)),
        ("general", "arrow", None, None),
    ],
)
def test_a_model_that_nobody_trained_to_measure(serve, shards, capsys, tmp_path, name, reference, pattern, scale):
    """It gets the picture as it is, and words made for it; the reader finds the point they name."""
    given = samples(3)
    pictures = {sample.load_image().tobytes() for sample in given}

    def answer(body: dict[str, Any]) -> str:
        picture, words = (part for part in body["messages"][-1]["content"])
        sent = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
        assert sent.size == (80, 60) or reference == "arrow", "an arrow near the border needs more room"
        assert (sent.convert("RGB").tobytes() in pictures) == (pattern is not None)
        if pattern is None:
            return "I would say <answer>2</answer>"
        found = re.search(pattern, words["text"])
        u, v = int(found["x"]) * 80 / scale[0], int(found["y"]) * 60 / scale[1]
        z = 1 + u / 20 + v / 30
        return f"Roughly: <answer>{z * CAMERA.ray_factor([(u, v)])[0]:.2f}</answer>"

    server = serve(answer)
    status, out, _ = run(
        capsys, "eval", "gpt-x", shards, "--backend", "openai", "--base-url", server.url, "--prompt", name,
        "--reference", reference, "--points", 20, "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    summary = json.loads(out)
    assert (status, summary["n_unparsed"], summary["answers"]) == (0, 0, "distance")
    assert summary["given"] == "the picture as it is" + (
        ", and its true focal length in words" if "camera" in name else ""
    )
    assert summary["given"] in (tmp_path / "run" / "report.md").read_text()
    if pattern is not None:
        assert summary["delta1"] == 1.0
        assert summary["absrel"] < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "polite"], "unknown prompt 'polite'; choose one of"),
        (
            ["--backend", "constant", "--prompt", "gemini", "--reference", "text-pixels"],
            "prompt 'gemini' has no question",
        ),
        (["--backend", "constant", "--prompt", "qwen", "--card", "nano"], "leave --card out"),
        (["--backend", "constant", "--prompt", "text-pixels"], "--prompt text-pixels asks by text-pixels"),
        (["--backend", "openai"], "needs --base-url"),
        (["--backend", "openai", "--base-url", "localhost:1"], "expected an address such as"),
        (["--base-url", "http://x"], "--base-url is for --backend openai"),
        (["--rpm", "3"], "--rpm is for --backend openai"),
        (["--card", "nano"], "--card is for other backends"),
        (["--backend", "oracle", "--read", "median"], "--read chooses from a model's belief"),
        (["--backend", "oracle", "--card", "nowhere"], "nowhere"),
        (["--backend", "openai", "--base-url", "http://127.0.0.1:1", "--body", "{"], "--body is no JSON"),
        (["--backend", "openai", "--base-url", "http://127.0.0.1:1", "--body", "[1]"], "expected a JSON object"),
        (["--backend", "openai", "--base-url", "http://127.0.0.1:1", "--concurrency", "0"], "--concurrency takes 1"),
        (["--price", "cheap"], "--price 'cheap' is not IN,OUT"),
        (["--price=-1,2"], "is no pair of prices"),
    ],
)
def test_options_that_cannot_be(shards, capsys, options, message):
    status, out, err = run(capsys, "eval", "m", shards, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_dead_server_is_one_line_and_status_1(shards, capsys):
    status, out, err = run(
        capsys,
        "eval",
        "m",
        shards,
        "--backend",
        "openai",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--retries",
        "0",
        "--points",
        "2",
    )
    assert (status, out) == (1, "")
    assert "no connection" in err
    assert err.count("\n") == 1
