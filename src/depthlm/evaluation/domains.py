"""Which data set a run is about, whether its model learned from that set, and means apart by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthlm.data import origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from depthlm.models.card import ModelCard

ALL = "all"


def provenance(samples: object, card: ModelCard) -> dict[str, Any]:
    """For a summary: dataset, split and legacy_labels as the shards say, and domain.

    domain: "in-domain" where the card names the set among those the model learned from, "zero-shot" where it names
    others alone; None where the set or the training is not stated.
    """
    origin = origin_of(samples)
    domain = None
    if origin.dataset is not None and card.trained_on is not None:
        domain = "in-domain" if origin.dataset in card.trained_on else "zero-shot"
    return {"dataset": origin.dataset, "split": origin.split, "legacy_labels": origin.legacy, "domain": domain}


def means_of(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Unweighted means of the score: all, in-domain and zero-shot -> {score, sets [data, ...]}.

    A run whose domain is not known counts for all alone. Empty for scores of several metrics.
    """
    if len({summary["metric"] for summary in summaries}) != 1:
        return {}
    groups: dict[str, list[Mapping[str, Any]]] = {ALL: list(summaries)}
    for summary in summaries:
        if domain := summary.get("domain"):
            groups.setdefault(domain, []).append(summary)
    return {
        name: {"score": sum(s["score"] for s in group) / len(group), "sets": [s["data"] for s in group]}
        for name, group in groups.items()
    }
