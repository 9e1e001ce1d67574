"""Environments of their own for tests whose packages collide with ours: a venv that sees all that this one has."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path


def make_environment(folder: Path, *installs: list[str]) -> Path:
    """The Python of a new venv in `folder`, after one `pip install` for each list. Its own packages come first.

    Raises subprocess.CalledProcessError, with pip's words in stderr, where they cannot be installed.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    own = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (Path(own) / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for packages in filter(None, installs):
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(command, capture_output=True, text=True, check=True)
    return python
