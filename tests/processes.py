"""Several processes of one run, as torchrun starts them, with gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def launch(folder: Path, code: str, processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in so many processes; stderr and stdout of all together."""
    script = folder / "start.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               str(script), *map(str, arguments)]  # fmt: skip
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
