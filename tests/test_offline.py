"""Nothing calls home: the commands work with every connection beyond this machine refused."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
from PIL import Image

from cli_runner import run


@pytest.fixture
def no_network(monkeypatch):
    """Any connection or name look-up beyond loopback fails the test."""
    tried: list[object] = []
    connect = socket.socket.connect

    def guard(self, address):
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        tried.append(address)
        raise OSError("no network in this test")

    def no_lookup(host, *args, **kwargs):
        tried.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", guard)
    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    assert tried == [], f"something tried to reach {tried}"


@pytest.mark.usefixtures("no_network")
def test_label_train_evaluate_measure_without_a_network(capsys, tmp_path, tiny_model):
    assert run(capsys, "synth", tmp_path / "rooms", "--scenes", 1, "--views", 1, "--points", 20, "--workers", 1)[0] == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: a\nmodel: {tiny_model}\nfocal: 64\ndata: [{{path: {tmp_path / 'rooms'}}}]\n"
        "crop: {width: [64, 64], height: [64, 64]}\nstages: [{steps: 1, batch: 1}]\n"
    )
    assert run(capsys, "train", recipe, "--out", tmp_path / "run")[0] == 0
    status, out, _ = run(capsys, "eval", tmp_path / "run" / "model", tmp_path / "rooms", "--points", 2, "--json")
    assert status == 0
    assert json.loads(out)["n"] == 2
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    arguments = ("predict", tiny_model, tmp_path / "photo.png", "--point", "3,4", "--fov", 60)
    assert run(capsys, *arguments)[0] == 0
