"""Shared fixtures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure: examples have no time limit of their own.
settings.register_profile("depthlm", deadline=None)
settings.load_profile("depthlm")


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Real sample files, which are not part of the repository: $DEPTHLM_SAMPLES, or ../shared/samples beside it."""
    given = os.environ.get("DEPTHLM_SAMPLES")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set DEPTHLM_SAMPLES to run this test")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL checkpoint with a short focal length and short answers, so that commands take no time."""
    from tiny import build_tiny

    folder = build_tiny("qwen3_vl", tmp_path_factory.mktemp("models") / "tiny")
    card = json.loads((folder / "depthlm.json").read_text())
    (folder / "depthlm.json").write_text(json.dumps(card | {"max_new_tokens": 3, "focal": 64.0}))
    return folder
