"""The metrics that every table has: which they are, and what their numbers are."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from metafluence.errors import InputError
from metafluence.evaluation.metric import Metric, Number
from metafluence.evaluation.row import NUMBERS
from metafluence.registry import Registry, default_registry
from metafluence.runtime import component_fingerprint

STANDING = (
    "change-error", "change-cosine", "change-norm-ratio", "pearson", "spearman", "slope", "lds", "auroc",
    "average-precision", "found", "accuracy-edited", "accuracy-retrained", "loss-edited", "loss-retrained",
)  # fmt: skip
"""Registered names. Their numbers are fields of `Row`; what a run took (seconds, products, ...) is recorded with it."""


def standing_metrics(registry: Registry) -> dict[str, Metric]:
    """By name, as this registry has them; one that it disables is left out.

    Raises InputError for one of a user's own whose numbers are no fields of a row.
    """
    known = {entry.name for entry in registry.entries("metric")}
    found: dict[str, Metric] = {name: registry.build("metric", name) for name in STANDING if name in known}
    for name, metric in found.items():
        other = [number.name for number in metric.numbers() if number.name not in NUMBERS]
        if other or not metric.numbers():
            raise InputError(
                f"The metric {name} stands in every table, so its numbers are columns of results.csv, and "
                f"{other[0] if other else 'none'} is none. Declare in `numbers` those of the shipped {name}, or "
                "register it under another name."
            )
    return found


@lru_cache(maxsize=1)
def shipped_metrics() -> dict[str, Metric]:
    """Those that metafluence and the installed plugins have."""
    return standing_metrics(default_registry())


@lru_cache(maxsize=1)
def standing_numbers() -> dict[str, Number]:
    """What their numbers are, by name."""
    return {number.name: number for metric in shipped_metrics().values() for number in metric.numbers()}


def standing_key(metrics: dict[str, Metric]) -> str:
    """What a stored run depends on besides, where metrics are not the shipped ones; else empty."""
    if metrics == shipped_metrics():
        return ""
    prints = " ".join(f"{name} {component_fingerprint(metric)}" for name, metric in metrics.items())
    return f"-{hashlib.sha256(prints.encode()).hexdigest()[:8]}"
