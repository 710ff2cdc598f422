"""Outcomes made by hand, whose numbers tests know."""

from collections.abc import Sequence

import torch

from metafluence.evaluation import RemovalCurve, Row, TestQuality
from metafluence.reports.groups import Group, groups
from metafluence.studies.outcomes import Line, Outcome, Side


def made_group(
    rows: Sequence[Sequence[Row]], label: str = "", full: float = 0.8, clean: float = 0.9, real: bool = False, **side
) -> Group:
    """A group with a seed for each list of rows, ten tasks of which three are corrupted."""
    quality = {"loss": full} if real else {"accuracy": full, "loss": 1.0}
    cleaned = {"loss": clean} if real else {"accuracy": clean, "loss": 0.9}
    sides = {"task": Side(items=10, corrupted=3, removed=(3, 5), clean=TestQuality(**cleaned), **side)}
    outcomes = [
        Outcome(
            id=f"{label}-{seed}", varied={"varied": label} if label else {}, seed=seed, sides=sides,
            lines=tuple(map(_line, some)), full=TestQuality(**quality), fit_seconds=2.0, real=real,
        )
        for seed, some in enumerate(rows)
    ]  # fmt: skip
    (group,) = groups(outcomes)
    return group


def _line(row: Row) -> Line:
    names = ("accuracy_edited", "loss_edited", "accuracy_retrained", "loss_retrained")
    curve = RemovalCurve(**{name: torch.full((2,), getattr(row, name), dtype=torch.float64) for name in names})
    return Line(row, curve, torch.empty(0) if row.status != "ok" else torch.linspace(0, 1, 11, dtype=torch.float64))
