"""The command line: parses, calls, prints. Exit status 0 done, 2 bad input (one line on stderr), 1 anything else."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings

import typer

# Each adds its commands, in the order in which `--help` lists them.
from depthlm.cli import data, evaluate, export, measure, models, page, setup, study, tables  # noqa: F401
from depthlm.cli.app import app
from depthlm.errors import BackendError, InputError

_BAD_OUTPUT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    # stderr is ours: a library's chatter would bury the one line that says what went wrong.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to fetch a kernel from a hub
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged EXIF blocks
    try:
        command = typer.main.get_command(app)
        status = command.main(args=[a for a in arguments if a != "--debug"], prog_name="depthlm", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        if debug:
            raise
        status, message = _explain(error)
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit status and message of an exception."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, BackendError):
        return 1, str(error)
    if hasattr(error, "format_message"):  # the parser's own errors; typer has moved their class before
        return 2, f"{error.format_message()} (try `depthlm --help`)"
    if isinstance(error, OSError) and error.errno in _BAD_OUTPUT:
        return 2, f"{error.filename or 'output'}: {error.strerror}"
    return 1, f"{type(error).__name__}: {error} (run again with --debug for the traceback)"
