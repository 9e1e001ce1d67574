"""A real server: `transformers serve` with a tiny checkpoint, in its own environment, answers as the weights do here.

Its processors want torchvision; pictures are decoded by PIL. That is for this test alone.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.inference.engine import Engine
from depthlm.inference.server import ServerBackend
from depthlm.models.loading import load_model
from tiny import build_tiny
from torchvision_env import DECLARE, build_environment

START = (
    DECLARE
    + """
import io, sys
import numpy as np
import torchvision.io
from PIL import Image
def decode_image(data, mode=None, apply_exif_orientation=False):
    picture = Image.open(io.BytesIO(data.numpy().tobytes())).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
torchvision.io.decode_image = torchvision.io.image.decode_image = decode_image
from transformers.cli.transformers import main
main()
"""
)


@pytest.fixture(scope="module")
def serving(tmp_path_factory) -> Path:
    """A Python with all that this one has, and what a server needs besides."""
    return build_environment(tmp_path_factory.mktemp("serving") / "venv", "fastapi", "uvicorn")


@pytest.mark.slow
def test_a_served_checkpoint_answers_as_it_does_here(serving, tmp_path):
    folder = build_tiny("qwen3_vl", tmp_path / "tiny")
    loaded = load_model(folder)
    loaded = replace(loaded, card=replace(loaded.card, focal=96.0, max_new_tokens=8))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(serving), "-c", START, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu"]  # fmt: skip
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | quiet)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.5)
        pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        image, camera = Image.fromarray(pixels), Camera(96.0, 96.0, 63.5, 47.5, 128, 96)
        uv = [(10, 10), (60, 40), (100, 90)]
        for reference in ("text", "arrow"):
            served = ServerBackend(
                str(folder), base_url=f"http://127.0.0.1:{port}/v1", card=loaded.card, reference=reference, retries=0,
                cache=tmp_path / "answers.jsonl",
            )  # fmt: skip
            here = Engine(loaded, reference=reference, forced=False, read="greedy")
            # Random weights write special tokens, which the server shows and `Engine` leaves out.
            said = [re.sub(r"<\|\w+\|>", "", text) for text in served.measure(image, uv, camera).text]
            assert said == here.measure(image, uv, camera).text, (tmp_path / "log").read_text()[-3000:]
            assert len(set(said)) > 1, "answers that do not depend on the question show nothing"
            assert served.usage()["questions"] == 3
            served.cache.close()
        records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
        assert [record["usage"]["completion_tokens"] for record in records] == [8] * 6
    finally:
        server.kill()
        server.wait()
