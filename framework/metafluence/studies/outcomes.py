"""What is kept of a finished variation: all that tables and figures over several of them need."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.evaluation import Budget, Ceiling, Cell, Certificate, Row, Run, TestQuality, detection
from metafluence.runtime import load_tensors, save_tensors
from metafluence.studies.study import StudyResult
from metafluence.studies.variations import Variation
from metafluence.tasks import LEVELS, Level


@dataclass(frozen=True)
class Side:
    """One level of a variation. items: how many there are; corrupted: of them; removed: the numbers that each method
    had removed; clean: retrained without exactly the corrupted; ceiling: how well retraining from other seeds agrees;
    marks: of each item, whether it is corrupted; left_out: the single items that were retrained without, and
    loss_change: what that did to the validation loss.
    """

    items: int
    corrupted: int
    removed: tuple[int, ...]
    clean: TestQuality
    ceiling: Ceiling = Ceiling()
    marks: tuple[bool, ...] = ()
    left_out: tuple[int, ...] = ()
    loss_change: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """A run's row and its curves.

    curve [k, 4]: as `Run.curve`. found [items + 1]: share of the corrupted among the first scored lowest; empty where
    none or all are. scores [items]. change_errors: of each left-out item, the relative error of its predicted
    parameter change.
    """

    row: Row
    curve: Tensor
    found: Tensor
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    change_errors: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Outcome:
    """A finished variation, or one that failed, with its reason.

    full: test quality at λ*. fit_seconds: of the fit from scratch. real: targets are real values. cells: of the grid of
    inner and outer solvers.
    """

    id: str
    varied: dict[str, str]
    seed: int
    reason: str = ""
    lines: tuple[Line, ...] = ()
    sides: dict[Level, Side] = field(default_factory=dict)
    full: TestQuality = TestQuality()
    fit_seconds: float = float("nan")
    real: bool = False
    certificates: tuple[Certificate, ...] = ()
    budgets: tuple[Budget, ...] = ()
    cells: tuple[Cell, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The values taken, in words, but for the seed; empty where nothing else is varied."""
        return ", ".join(f"{name} {value}" for name, value in self.varied.items())

    @property
    def called(self) -> str:
        """The same with the seed."""
        return f"{self.label} seed {self.seed}".strip()


def outcome(variation: Variation, result: StudyResult) -> Outcome:
    """What is kept of a result."""
    sides: dict[Level, Side] = {}
    for level, bench in result.benches.items():
        marks = result.split.train.corrupted_items(level)
        side = Side(len(marks), int(marks.sum()), bench.remove, result.clean[level], marks=tuple(marks.tolist()))
        truth = bench.truth
        if truth is not None:
            left_out = tuple(removal[0] for removal in truth.removals)
            changes = tuple(truth.loss_change.tolist())
            side = replace(side, ceiling=truth.ceiling, left_out=left_out, loss_change=changes)
        sides[level] = side
    return Outcome(
        variation.id,
        variation.varied,
        variation.config.seed,
        "",
        tuple(_line(run, result) for run in result.runs),
        sides,
        result.full,
        result.fit.seconds,
        result.split.test.real,
        result.certificates,
        result.budgets,
        result.grid,
        result.warnings,
    )


def _line(run: Run, result: StudyResult) -> Line:
    found = None
    if run.row.status == "ok":
        found = detection(run.scores.numpy(), result.split.train.corrupted_items(run.row.level).numpy())
    shares = torch.empty(0) if found is None else torch.from_numpy(np.asarray(found.found))
    return Line(run.row, run.curve, shares, run.scores, run.change_errors)


def save_outcome(file: Path, kept: Outcome) -> None:
    """Store it; a failed one is not kept, as it is to be tried again."""
    tensors = {f"curve.{i}": line.curve for i, line in enumerate(kept.lines)}
    for i, line in enumerate(kept.lines):
        tensors |= {f"found.{i}": line.found, f"scores.{i}": line.scores, f"errors.{i}": line.change_errors}
    facts = {
        "id": kept.id,
        "varied": kept.varied,
        "seed": kept.seed,
        "rows": [line.row.facts() for line in kept.lines],
        "sides": {level: asdict(side) for level, side in kept.sides.items()},
        "full": asdict(kept.full),
        "fit_seconds": kept.fit_seconds,
        "real": kept.real,
        "certificates": [asdict(c) for c in kept.certificates],
        "budgets": [b.facts() for b in kept.budgets],
        "cells": [c.facts() for c in kept.cells],
        "warnings": list(kept.warnings),
    }
    save_tensors(file, tensors, facts)


def load_outcome(file: Path) -> Outcome:
    """What `save_outcome` stored. Raises StoreError for a damaged file."""
    tensors, facts = load_tensors(file)
    none = torch.empty(0)  # stores of older versions hold nothing of single items
    lines = tuple(
        Line(
            Row.from_facts(row),
            tensors[f"curve.{i}"],
            tensors[f"found.{i}"],
            tensors.get(f"scores.{i}", none),
            tensors.get(f"errors.{i}", none),
        )
        for i, row in enumerate(facts["rows"])
    )
    return Outcome(
        facts["id"],
        facts["varied"],
        facts["seed"],
        "",
        lines,
        {level: _side(facts["sides"][level]) for level in LEVELS if level in facts["sides"]},
        TestQuality(**facts["full"]),
        facts["fit_seconds"],
        facts["real"],
        tuple(Certificate.from_facts(c) for c in facts["certificates"]),
        tuple(Budget.from_facts(b) for b in facts["budgets"]),
        tuple(Cell.from_facts(c) for c in facts.get("cells", ())),  # stores of older versions have none
        tuple(facts["warnings"]),
    )


def _side(stored: dict[str, Any]) -> Side:
    ceiling = Ceiling(**stored.get("ceiling", {}))  # stores of older versions have none
    clean = TestQuality(**stored["clean"])
    lists = {name: tuple(stored.get(name, ())) for name in ("removed", "marks", "left_out", "loss_change")}
    return Side(**{**stored, **lists, "clean": clean, "ceiling": ceiling})
