"""One run of a study: one method with one solver, compared with everything that is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, Context, Targets
from metafluence.errors import ConvergenceError, MetafluenceError
from metafluence.losses import accuracy
from metafluence.metrics import change_agreement, detection, score_agreement
from metafluence.problem import BilevelProblem
from metafluence.retraining import RetrainBank
from metafluence.tasks import Removal, TaskSet

NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """A line of the table. A failed run has a reason and NaN elsewhere.

    change_*: predicted against true parameter change, medians over left-out tasks. pearson, spearman, slope: scores
    against true changes of the validation loss. auroc, average_precision, found: of the corrupted tasks; `found` is
    the share of them among the removed ones. accuracy_*, loss_*: on the test tasks, after removing the tasks of lowest
    score, by editing λ* and by retraining. seconds: to score all tasks; change_seconds: to predict all parameter
    changes. products: Hessian products for the scores. residual: the largest of the method's solves.
    """

    method: str
    solver: str
    status: str = "ok"
    reason: str = ""
    units: str = ""
    change_error: float = NAN
    change_cosine: float = NAN
    change_norm_ratio: float = NAN
    pearson: float = NAN
    spearman: float = NAN
    slope: float = NAN
    auroc: float = NAN
    average_precision: float = NAN
    found: float = NAN
    accuracy_edited: float = NAN
    accuracy_retrained: float = NAN
    loss_edited: float = NAN
    loss_retrained: float = NAN
    seconds: float = NAN
    change_seconds: float = NAN
    products: int = 0
    residual: float = NAN
    converged: bool = True
    notes: tuple[str, ...] = ()

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Row:
        known = {f.name for f in fields(cls)}
        kept = {k: (NAN if v is None else v) for k, v in facts.items() if k in known}
        return cls(**{**kept, "notes": tuple(kept.get("notes", ()))})

    def facts(self) -> dict[str, Any]:
        """As JSON, in which NaN is null."""
        return {k: (None if isinstance(v, float) and np.isnan(v) else v) for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Run:
    """A row and the arrays behind it: scores [N]; per left-out task, the relative error of its parameter change."""

    row: Row
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    change_errors: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Truth:
    """Exact leave-one-out retraining: the removals, Δλ [P, s], and the change of the target's loss [s]."""

    removals: tuple[Removal, ...]
    change: Tensor
    loss_change: Tensor
    seconds: float


@dataclass(frozen=True)
class TestQuality:
    """Mean accuracy and loss (nats) over the test tasks' queries."""

    accuracy: float = NAN
    loss: float = NAN


@dataclass(frozen=True)
class Bench:
    """What every run of a study shares."""

    problem: BilevelProblem
    meta: Tensor
    adapted: Tensor
    validation: TaskSet
    test_tasks: TaskSet
    bank: RetrainBank | None
    truth: Truth | None
    remove: int
    seed: int

    def test(self, meta: Tensor) -> TestQuality:
        """How the model does on the test tasks, after adapting to their supports at `meta`."""
        point = self.problem.over(self.test_tasks).at(meta)
        right = accuracy(point.predictions, self.test_tasks.query.targets)
        return TestQuality(float(right.mean()), float(point.task_losses.mean()))


def execute(bench: Bench, method: AttributionMethod, label: str, solver: str) -> Run:
    """Run one method. Errors of our own become a row with the reason; others are bugs and are raised."""
    try:
        return _execute(bench, method, label, solver)
    except MetafluenceError as error:
        return Run(Row(label, solver, status="failed", reason=str(error)))


def _execute(bench: Bench, method: AttributionMethod, label: str, solver: str) -> Run:
    # A fresh point, so that no method finds the graphs of the one before it ready made.
    started = time.perf_counter()
    point = bench.problem.at(bench.meta, init=bench.adapted)
    generator = torch.Generator().manual_seed(bench.seed)
    context = Context(point, generator=generator, bank=bench.bank)
    targets = Targets(bench.problem, bench.validation, bench.meta)
    state = method.prepare(context)
    scored = method.scores(state, targets)
    seconds = scored.seconds if scored.seconds is not None else time.perf_counter() - started
    scores = scored.values[:, 0]
    facts: dict[str, Any] = {
        "units": scored.units,
        "seconds": seconds,
        "products": scored.solve.products,
        "residual": scored.solve.residual,
        "converged": scored.solve.converged,
    }
    notes = [*scored.notes, *([scored.solve.complaint] if scored.solve.complaint else [])]
    errors = torch.empty(0)
    if bench.truth is not None:
        agreement = score_agreement(_picked(scores, bench.truth.removals).numpy(), bench.truth.loss_change.numpy())
        facts |= {"pearson": agreement.pearson, "spearman": agreement.spearman}
        facts["slope"] = agreement.slope if scored.units == "loss_change" else NAN
        started = time.perf_counter()
        change = method.parameter_change(state, bench.truth.removals)
        if change is not None:
            facts["change_seconds"] = time.perf_counter() - started if scored.seconds is None else seconds
            found = change_agreement(change.values.numpy(), bench.truth.change.numpy())
            errors = torch.from_numpy(found.relative_error)
            facts |= {
                "change_error": float(np.median(found.relative_error)),
                "change_cosine": float(np.median(found.cosine)),
                "change_norm_ratio": float(np.median(found.norm_ratio)),
                "residual": _larger(facts["residual"], change.solve.residual),
            }
    harmful = bench.problem.tasks.corrupted.numpy()
    spotted = detection(scores.numpy(), harmful)
    if spotted is not None:
        facts |= {"auroc": spotted.auroc, "average_precision": spotted.average_precision}
        facts["found"] = spotted.found_at(bench.remove / len(scores))
    worst: Removal = tuple(sorted(torch.argsort(scores, stable=True)[: bench.remove].tolist()))
    edit = method.parameter_change(state, [worst])
    if edit is not None:
        quality = bench.test(bench.meta + edit.values[:, 0])
        facts |= {"accuracy_edited": quality.accuracy, "loss_edited": quality.loss}
    if bench.bank is not None:
        try:
            quality = bench.test(bench.bank.leave_out([worst]).meta[:, 0])
            facts |= {"accuracy_retrained": quality.accuracy, "loss_retrained": quality.loss}
        except ConvergenceError as error:
            notes.append(str(error))
    return Run(Row(label, solver, notes=tuple(notes), **facts), scores.clone(), errors)


def _picked(scores: Tensor, removals: Sequence[Removal]) -> Tensor:
    return scores[[removal[0] for removal in removals]]


def _larger(a: float, b: float) -> float:
    known = [x for x in (a, b) if not np.isnan(x)]
    return max(known) if known else NAN
