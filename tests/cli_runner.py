"""Runs the command line inside the test process."""

from __future__ import annotations

from typing import Any

import pytest

from depthlm.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err
