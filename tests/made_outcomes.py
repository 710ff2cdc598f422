"""Outcomes made by hand, whose numbers tests know."""

from collections.abc import Sequence

import torch

from metafluence.evaluation.runs import Row, TestQuality
from metafluence.reports.groups import Group, groups
from metafluence.studies.outcomes import Line, Outcome, Side


def made_group(
    rows: Sequence[Sequence[Row]], label: str = "", full: float = 0.8, clean: float = 0.9, real: bool = False, **side
) -> Group:
    """A group with a seed for each list of rows, ten tasks of which three are corrupted."""
    quality = {"loss": full} if real else {"accuracy": full, "loss": 1.0}
    cleaned = {"loss": clean} if real else {"accuracy": clean, "loss": 0.9}
    sides = {"task": Side(10, 3, (3, 5), TestQuality(**cleaned), **side)}
    outcomes = [
        Outcome(
            f"{label}-{seed}", {"varied": label} if label else {}, seed, "", tuple(map(_line, some)), sides,
            TestQuality(**quality), 2.0, real,
        )
        for seed, some in enumerate(rows)
    ]  # fmt: skip
    (group,) = groups(outcomes)
    return group


def _line(row: Row) -> Line:
    curve = torch.tensor(
        [[row.accuracy_edited, row.loss_edited, row.accuracy_retrained, row.loss_retrained]] * 2, dtype=torch.float64
    )
    return Line(row, curve, torch.empty(0) if row.status != "ok" else torch.linspace(0, 1, 11, dtype=torch.float64))
