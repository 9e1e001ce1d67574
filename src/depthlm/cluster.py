"""Ray, where it is installed: a cluster for as long as it is needed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_ray() -> Any:
    """The package. Raises InputError when it is missing."""
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray; pip install depthlm[ray]") from None
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The package, connected to the cluster at the address ("local" starts one here). Raises InputError for none."""
    ray = import_ray()
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no cluster there ({error}); give its address or 'local'") from error
    try:
        yield ray
    finally:
        ray.shutdown()
