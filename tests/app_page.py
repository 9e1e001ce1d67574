"""The page as its own process, in the environment that has gradio; and a browser, where one can be had."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from environments import make_environment

ROOT = Path(__file__).resolve().parents[1]


def app_python(folder: Path) -> Path:
    """A Python with gradio: this one, that of `make app`, or one made now in `folder`."""
    if importlib.util.find_spec("gradio") is not None:
        return Path(sys.executable)
    made = Path(sys.prefix) / "app" / "bin" / "python"
    if made.is_file() and subprocess.run([str(made), "-c", "import gradio"], capture_output=True).returncode == 0:
        return made
    return make_environment(folder, ["-c", str(ROOT / "constraints-app.txt"), "gradio"])


@contextmanager
def serving(python: Path, folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """`depthlm app` with these arguments on a free port; yields its address and process id.

    folder: for its log, and for `tmp`, which is where all lies that it writes.
    """
    log, temporary = folder / "log", folder / "tmp"
    temporary.mkdir(parents=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary),
    }  # fmt: skip
    command = [str(python), "-m", "depthlm", "app", *arguments, "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        for _ in range(600):
            said = [line for line in log.read_text().splitlines() if line.startswith("page: ")]
            if said:
                break
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        url = said[0].removeprefix("page: ")
        for _ in range(100):
            try:
                urllib.request.urlopen(url, timeout=30)
                break
            except OSError:
                time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_browser() -> str:
    """Chromium on this machine, or the test is skipped: `make test-all` installs Debian's where it may."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here: `apt-get install chromium` (as root; `make test-all` tries) brings one")
    return found
