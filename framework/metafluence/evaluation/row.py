"""The records of one run: its row of the results table, its scores, and its removal curve."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.evaluation.stored_numbers import from_facts, to_facts
from metafluence.tasks import Level

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the results table. A failed run has a reason, and NaN in place of numbers."""

    method: str
    """Label of the method."""
    solver: str = ""
    """Label of its solver; empty where it takes none."""
    level: Level = "task"
    retrains: bool = False
    """The scores are exact retrainings, not estimates."""
    status: str = "ok"
    """`ok` or `failed`."""
    reason: str = ""
    """Why it failed."""
    units: str = ""
    """`loss_change` (nats) or `rank_only`."""
    damping: float = NAN
    """The method's damping, set or chosen by the study's rule; NaN where it takes none."""
    # Numbers of the metrics that every table has; each metric says what its own are.
    change_error: float = NAN
    change_cosine: float = NAN
    change_norm_ratio: float = NAN
    pearson: float = NAN
    spearman: float = NAN
    spearman_low: float = NAN
    spearman_high: float = NAN
    slope: float = NAN
    lds: float = NAN
    lds_low: float = NAN
    lds_high: float = NAN
    auroc: float = NAN
    average_precision: float = NAN
    found: float = NAN
    accuracy_edited: float = NAN
    accuracy_retrained: float = NAN
    loss_edited: float = NAN
    loss_retrained: float = NAN
    seconds: float = NAN
    """Time to score all items, without the search for a damping."""
    change_seconds: float = NAN
    """Time to predict all parameter changes."""
    edit_seconds: float = NAN
    """Time to predict the one of removing the items of lowest score."""
    retrain_seconds: float = NAN
    """Time to retrain without them."""
    products: int = 0
    """Products with the total Hessian for the scores."""
    residual: float = NAN
    """Largest relative residual of the method's solves."""
    converged: bool = True
    """All solves converged."""
    notes: tuple[str, ...] = ()
    """What a reader should know of the numbers."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the study's `metrics` say, by the label and name of each number."""
    built: dict[str, Any] = field(default_factory=dict)
    """What the method was built with, plain values by dotted name (`solver.rtol`); `use` is its registered name."""

    @property
    def name(self) -> str:
        """The method and its solver."""
        return run_name(self.method, self.solver)

    @property
    def spearman_interval(self) -> str:
        return _interval(self.spearman_low, self.spearman_high)

    @property
    def lds_interval(self) -> str:
        return _interval(self.lds_low, self.lds_high)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Row:
        return from_facts(cls, {**facts, "notes": tuple(facts.get("notes", ()))})

    def facts(self) -> dict[str, Any]:
        """As JSON, in which NaN is null."""
        return to_facts(self)


NUMBERS = tuple(f.name for f in fields(Row) if f.type in ("float", "int"))
"""The fields of a row that are numbers."""
SHOWN = (*NUMBERS, "gap", "runtime_ratio", "spearman_interval", "lds_interval")
"""What a table can show of a run besides its metrics' numbers; `runtime_ratio` needs the seconds of the fit."""


@dataclass(frozen=True, kw_only=True)
class RemovalCurve:
    """The test tasks after removing ever more items of lowest score, one entry for each number removed, each [k].

    NaN where there is no accuracy (real targets), no prediction, or no retraining that converged.
    """

    accuracy_edited: Tensor
    """Accuracy at λ* + predicted Δλ."""
    loss_edited: Tensor
    """Loss (nats) at λ* + predicted Δλ."""
    accuracy_retrained: Tensor
    """Accuracy after exact retraining."""
    loss_retrained: Tensor
    """Loss (nats) after exact retraining."""

    def __len__(self) -> int:
        return len(self.loss_retrained)

    @classmethod
    def unknown(cls, count: int = 0) -> RemovalCurve:
        """A curve of NaN."""
        return cls.from_tensor(torch.full((count, 4), NAN, dtype=torch.float64))

    @classmethod
    def from_tensor(cls, table: Tensor) -> RemovalCurve:
        """From the columns of a stored [k, 4], in the order of the fields."""
        names = (f.name for f in fields(cls))
        return cls(**dict(zip(names, table.unbind(dim=1), strict=True)))

    def tensor(self) -> Tensor:
        """[k, 4] for storage, a column for each field in turn."""
        return torch.stack([getattr(self, f.name) for f in fields(self)], dim=1)

    def first(self) -> dict[str, float]:
        """The values after the first removal, by name; NaN of an empty curve."""
        return {f.name: float(getattr(self, f.name)[0]) if len(self) else NAN for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row and the arrays behind it."""

    row: Row
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of all items, [items]."""
    change_errors: Tensor = field(default_factory=lambda: torch.empty(0))
    """Relative error of the predicted parameter change, one for each left-out item of the ground truth."""
    curve: RemovalCurve = field(default_factory=RemovalCurve.unknown)
    extremes: Tensor = field(default_factory=lambda: torch.empty(0))
    """The change of every target's loss without the items of highest score, a row for each of `Evaluation.extremes`,
    then without those of lowest score, [2 sizes, targets]; empty where that is not asked."""
    traceback: str = ""
    """Of an error that no component raises on purpose; empty otherwise."""


def run_name(method: str, solver: str) -> str:
    """A run in words: its method and its solver."""
    return f"{method} ({solver})" if solver else method


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.2f} to {high:.2f}"
