"""What is kept of a finished variation: all that tables and figures over several of them need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.errors import StoreError
from metafluence.evaluation import (
    Budget,
    Ceiling,
    Cell,
    Certificate,
    Number,
    Reliability,
    RemovalCurve,
    Row,
    Run,
    TestQuality,
    TruthKind,
    detection,
)
from metafluence.registry import Plain
from metafluence.runtime import load_tensors, save_tensors
from metafluence.studies.study_result import StudyResult
from metafluence.studies.variations import Variation
from metafluence.tasks import LEVELS, Level, item_names


@dataclass(frozen=True, kw_only=True)
class Side:
    """One level of a variation."""

    items: int
    """How many items the level has."""
    corrupted: int
    """How many of them are corrupted."""
    removed: tuple[int, ...]
    """How many items each method had removed."""
    clean: TestQuality
    """After retraining without exactly the corrupted items."""
    ceiling: Ceiling = Ceiling()
    """How well retraining from other seeds agrees."""
    marks: tuple[bool, ...] = ()
    """Which items are corrupted."""
    left_out: tuple[int, ...] = ()
    """The single items that were retrained without."""
    loss_change: tuple[float, ...] = ()
    """What leaving each of them out did to the validation loss."""
    subset_loss_change: tuple[float, ...] = ()
    """What leaving each random subset out did to it."""
    subset_size: int = 0
    """How many items each random subset has."""
    reliability: Reliability = Reliability()
    """Of the single items' changes, where they are means over runs."""
    subset_reliability: Reliability = Reliability()
    """Of the subsets'."""
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What the items are called, by what names them: task, image, class; empty in stores of older versions."""
    extremes: tuple[int, ...] = ()
    """The numbers of items of highest and of lowest score without which the targets' losses are compared."""
    without_random: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """For each of these, without some random sets of that size, the change of every target's loss."""


@dataclass(frozen=True)
class Line:
    """A run's row and its curves."""

    row: Row
    curve: RemovalCurve
    found: Tensor
    """Share of the corrupted items among the n of lowest score, [items + 1]; empty where none or all are corrupted."""
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of all items; empty where the run failed."""
    change_errors: Tensor = field(default_factory=lambda: torch.empty(0))
    """Relative error of the predicted parameter change, of each left-out item."""
    extremes: Tensor = field(default_factory=lambda: torch.empty(0))
    """The change of every target's loss without the items of highest and of lowest score; see `Run`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is kept of a finished variation, or why it failed."""

    id: str
    varied: dict[str, str]
    """The values that this variation takes, in words, by the name of what is varied."""
    seed: int
    reason: str = ""
    """Why it failed; empty where it did not."""
    lines: tuple[Line, ...] = ()
    sides: dict[Level, Side] = field(default_factory=dict)
    full: TestQuality = TestQuality()
    """At λ*."""
    fit_seconds: float = float("nan")
    """Of the fit from scratch."""
    truth: TruthKind = TruthKind()
    """What methods were compared with."""
    settings: dict[str, Plain] = field(default_factory=dict)
    """What the study was done with, plain values by dotted name; empty in stores of older versions."""
    real: bool = False
    """Targets are real values, not classes."""
    certificates: tuple[Certificate, ...] = ()
    budgets: tuple[Budget, ...] = ()
    cells: tuple[Cell, ...] = ()
    """Of the grid of inner and outer solvers."""
    warnings: tuple[str, ...] = ()
    numbers: dict[str, Number] = field(default_factory=dict)
    """What the numbers of the study's `metrics` are, by the column of results.csv."""
    columns: tuple[str, ...] = ()
    """The columns of its tables, as results.csv calls them; empty where the study leaves that open."""

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
    for level, evaluation in result.evaluations.items():
        marks = result.split.train.corrupted_items(level)
        truth = evaluation.truth
        sides[level] = Side(
            items=len(marks),
            corrupted=int(marks.sum()),
            removed=evaluation.remove,
            clean=result.clean[level],
            ceiling=Ceiling() if truth is None else truth.ceiling,
            marks=tuple(marks.tolist()),
            names={what: tuple(own) for what, own in item_names(result.split.train, level).items()},
            left_out=() if truth is None else tuple(removal[0] for removal in truth.removals),
            loss_change=() if truth is None else tuple(truth.loss_change.tolist()),
            subset_loss_change=() if truth is None else tuple(truth.subset_loss_change.tolist()),
            subset_size=len(truth.subsets[0]) if truth is not None and truth.subsets else 0,
            reliability=Reliability() if truth is None else truth.reliability,
            subset_reliability=Reliability() if truth is None else truth.subset_reliability,
            extremes=evaluation.extremes,
            without_random=_tuples(evaluation.without_random.tolist()),
        )
    return Outcome(
        id=variation.id,
        varied=variation.varied,
        seed=variation.config.seed,
        lines=tuple(_line(run, result) for run in result.runs),
        sides=sides,
        full=result.full,
        fit_seconds=result.fit.seconds,
        truth=TruthKind() if result.config.truth is None else result.config.truth.called,
        settings=result.settings,
        real=result.split.test.real,
        certificates=result.certificates,
        budgets=result.budgets,
        cells=result.grid,
        warnings=result.warnings,
        numbers=result.numbers,
        columns=result.columns,
    )


def _line(run: Run, result: StudyResult) -> Line:
    found = None
    if run.row.status == "ok":
        found = detection(run.scores.numpy(), result.split.train.corrupted_items(run.row.level).numpy())
    shares = torch.empty(0) if found is None else torch.from_numpy(np.asarray(found.found))
    return Line(run.row, run.curve, shares, run.scores, run.change_errors, run.extremes)


def save_outcome(file: Path, kept: Outcome) -> None:
    """Store it; a failed one is not kept, as it is to be tried again."""
    tensors = {f"curve.{i}": line.curve.tensor() for i, line in enumerate(kept.lines)}
    for i, line in enumerate(kept.lines):
        tensors |= {f"found.{i}": line.found, f"scores.{i}": line.scores, f"errors.{i}": line.change_errors}
        tensors |= {f"extremes.{i}": line.extremes}
    facts = {
        "id": kept.id,
        "varied": kept.varied,
        "seed": kept.seed,
        "rows": [line.row.facts() for line in kept.lines],
        "sides": {level: asdict(side) for level, side in kept.sides.items()},
        "full": asdict(kept.full),
        "fit_seconds": kept.fit_seconds,
        "truth": asdict(kept.truth),
        "settings": kept.settings,
        "real": kept.real,
        "certificates": [asdict(c) for c in kept.certificates],
        "budgets": [b.facts() for b in kept.budgets],
        "cells": [c.facts() for c in kept.cells],
        "warnings": list(kept.warnings),
        "numbers": {name: asdict(number) for name, number in kept.numbers.items()},
        "columns": list(kept.columns),
    }
    save_tensors(file, tensors, facts, f"outcome {kept.id}")


def load_outcome(file: Path) -> Outcome:
    """What `save_outcome` stored.

    Raises:
        StoreError: for a damaged file, for that of another variation, and for one of a version that stored other facts.
    """
    tensors, facts = load_tensors(file)
    try:
        if facts["id"] != file.stem:
            raise StoreError(f"{file} holds the outcome of {facts['id']}. It was moved or copied there.")
        return _outcome(tensors, facts)
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file} was written by another version of metafluence.") from error


def _outcome(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Outcome:
    none = torch.empty(0)  # stores of older versions hold nothing of single items
    lines = tuple(
        Line(
            Row.from_facts(row),
            RemovalCurve.from_tensor(tensors[f"curve.{i}"]),
            tensors[f"found.{i}"],
            tensors.get(f"scores.{i}", none),
            tensors.get(f"errors.{i}", none),
            tensors.get(f"extremes.{i}", none),
        )
        for i, row in enumerate(facts["rows"])
    )
    return Outcome(
        id=facts["id"],
        varied=facts["varied"],
        seed=facts["seed"],
        lines=lines,
        sides={level: _side(facts["sides"][level]) for level in LEVELS if level in facts["sides"]},
        full=TestQuality(**facts["full"]),
        fit_seconds=facts["fit_seconds"],
        truth=TruthKind(**facts.get("truth", {})),  # stores of older versions know one kind
        settings=facts.get("settings", {}),
        real=facts["real"],
        certificates=tuple(Certificate.from_facts(c) for c in facts["certificates"]),
        budgets=tuple(Budget.from_facts(b) for b in facts["budgets"]),
        cells=tuple(Cell.from_facts(c) for c in facts["cells"]),
        warnings=tuple(facts["warnings"]),
        numbers={name: _number(stored) for name, stored in facts.get("numbers", {}).items()},
        columns=tuple(facts.get("columns", ())),
    )


def _number(stored: dict[str, Any]) -> Number:
    low, high = stored["bounds"]
    return Number(**{**stored, "bounds": (low, high)})


def _side(stored: dict[str, Any]) -> Side:
    ceiling = Ceiling(**stored.get("ceiling", {}))  # stores of older versions have none
    clean = TestQuality(**stored["clean"])
    names = ("removed", "marks", "left_out", "loss_change", "subset_loss_change", "extremes")
    lists = {name: tuple(stored.get(name, ())) for name in names}
    found = {name: Reliability(**stored.get(name, {})) for name in ("reliability", "subset_reliability")}
    random = _tuples(stored.get("without_random", ()))
    called = {what: tuple(names) for what, names in stored.get("names", {}).items()}
    parts = {"clean": clean, "ceiling": ceiling, "without_random": random, "names": called}
    return Side(**{**stored, **lists, **found, **parts})


def _tuples(lists: Sequence[Any]) -> tuple[Any, ...]:
    """Nested lists as nested tuples."""
    return tuple(_tuples(one) if isinstance(one, list) else one for one in lists)
