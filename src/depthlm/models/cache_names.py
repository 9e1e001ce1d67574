"""Key-value caches under the names that versions of transformers have for them: `past_key_values` until 5.23."""

from __future__ import annotations

import inspect
from typing import Any


def cache_argument(module: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument by which a model's forward takes its cache."""
    name = "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"
    return {name: cache}


def cache_of(output: Any) -> Any:
    """The cache in what `generate` returned."""
    return output.cache if hasattr(output, "cache") else output.past_key_values
