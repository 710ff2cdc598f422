"""One run of a study: one method with one solver, compared with everything that is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, Context, Targets, check_context
from metafluence.bilevel import BilevelProblem
from metafluence.errors import MetafluenceError
from metafluence.evaluation.ground_truth import Truth
from metafluence.evaluation.metrics import (
    Array,
    change_agreement,
    detection,
    linear_datamodeling_score,
    median,
    moved,
    rank_agreement,
    score_agreement,
)
from metafluence.networks import accuracy
from metafluence.runtime import settle
from metafluence.tasks import Level, Removal, TaskSet
from metafluence.training import Checkpoint, RetrainBank

NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """A line of the table. A failed run has a reason and NaN elsewhere.

    change_*: predicted against true parameter change, medians over left-out items. pearson, spearman, slope: scores
    against true changes of the validation loss; lds: of random subsets, by the sum of their items' scores; *_low and
    *_high: 95 % bootstrap intervals. auroc, average_precision, found: of the corrupted items; `found` is the share of
    them among the removed ones. accuracy_*, loss_*: on the test tasks, after removing the items of lowest score, by
    editing λ* and by retraining. seconds: to score all items; change_seconds: to predict all parameter changes;
    edit_seconds: to predict the one of removing the items of lowest score; retrain_seconds: to retrain without them.
    products: Hessian products for the scores. residual: the largest of the method's solves. damping: the method's, set
    or chosen by the study's rule (NaN where it takes none); the search for it is in none of the times.
    """

    method: str
    solver: str
    level: Level = "task"
    status: str = "ok"
    reason: str = ""
    units: str = ""
    damping: float = NAN
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
    change_seconds: float = NAN
    edit_seconds: float = NAN
    retrain_seconds: float = NAN
    products: int = 0
    residual: float = NAN
    converged: bool = True
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The method, and how it solves."""
        return run_name(self.method, self.solver)

    @property
    def spearman_interval(self) -> str:
        return _interval(self.spearman_low, self.spearman_high)

    @property
    def lds_interval(self) -> str:
        return _interval(self.lds_low, self.lds_high)

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
    """A row and the arrays behind it: scores [items]; per left-out item, the relative error of its parameter change.

    curve [k, 4]: test accuracy and loss after removing ever more items of lowest score, by editing and by retraining.
    """

    row: Row
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    change_errors: Tensor = field(default_factory=lambda: torch.empty(0))
    curve: Tensor = field(default_factory=lambda: torch.empty(0, 4))


@dataclass(frozen=True)
class TestQuality:
    """Mean accuracy and loss (nats) over the test tasks' queries; real targets have no accuracy (NaN)."""

    accuracy: float = NAN
    loss: float = NAN


@dataclass(frozen=True)
class Bench:
    """What every run at one level shares.

    validation: the targets of all scores. selection: validation tasks that choose dampings and are no targets; None
    where nothing is chosen. remove: the numbers of items that each method has removed.
    """

    problem: BilevelProblem
    meta: Tensor
    adapted: Tensor
    validation: TaskSet
    test_tasks: TaskSet
    bank: RetrainBank | None
    checkpoints: tuple[Checkpoint, ...]
    seed: int
    level: Level = "task"
    truth: Truth | None = None
    remove: tuple[int, ...] = (1,)
    selection: TaskSet | None = None

    def context(self, problem: BilevelProblem | None = None) -> Context:
        """A fresh point, so that no method finds the graphs of the one before it ready made."""
        point = (problem or self.problem).at(self.meta, init=self.adapted)
        return Context(point, self.level, self.generator(), self.bank, self.checkpoints)

    def generator(self) -> torch.Generator:
        """The randomness of every run, from its start."""
        return torch.Generator().manual_seed(self.seed)

    def targets(self, problem: BilevelProblem | None = None) -> Targets:
        """The mean loss of the validation tasks."""
        return Targets(problem or self.problem, self.validation, self.meta)

    def test(self, meta: Tensor) -> TestQuality:
        """How the model does on the test tasks, after adapting to their supports at `meta`."""
        point = self.problem.over(self.test_tasks).at(meta)
        loss = float(point.task_losses.mean())
        if self.test_tasks.real:
            return TestQuality(loss=loss)
        return TestQuality(float(accuracy(point.predictions, self.test_tasks.query.targets).mean()), loss)


def run_name(method: str, solver: str) -> str:
    """How a run is called in words: its method, and how it solves."""
    return f"{method} ({solver})" if solver else method


def lowest(scores: Tensor, count: int) -> Removal:
    """The items of lowest score: what a method has removed."""
    return tuple(sorted(torch.argsort(scores, stable=True)[:count].tolist()))


def execute(bench: Bench, method: AttributionMethod, label: str, solver: str) -> Run:
    """Run one method. Errors of our own become a row with the reason; others are bugs and are raised."""
    try:
        return _execute(bench, method, label, solver)
    except MetafluenceError as error:
        return Run(Row(label, solver, bench.level, status="failed", reason=str(error)))


def _execute(bench: Bench, method: AttributionMethod, label: str, solver: str) -> Run:
    started = time.perf_counter()
    context = bench.context()
    check_context(method, context)
    targets = bench.targets()
    state = method.prepare(context)
    scored = method.scores(state, targets)
    scores = scored.values[:, 0].cpu()  # a device works on until it is asked for what it found
    seconds = scored.seconds if scored.seconds is not None else time.perf_counter() - started
    facts: dict[str, Any] = {
        "units": scored.units,
        "damping": getattr(method, "damping", NAN),
        "seconds": seconds,
        "products": scored.solve.products,
        "residual": scored.solve.residual,
        "converged": scored.solve.converged,
    }
    notes = [*scored.notes, *([scored.solve.complaint] if scored.solve.complaint else [])]
    errors = torch.empty(0)
    if bench.truth is not None:
        facts |= _fidelity(scores.numpy(), bench.truth)
        if scored.units == "rank_only":
            facts["slope"] = NAN
        started = time.perf_counter()
        change = method.parameter_change(state, bench.truth.removals)
        if change is not None:
            changes = change.values.cpu()
            facts["change_seconds"] = time.perf_counter() - started if scored.seconds is None else seconds
            found = change_agreement(changes.numpy(), bench.truth.change.numpy())
            errors, known = torch.from_numpy(found.relative_error), moved(bench.truth.change.numpy())
            facts |= {
                "change_error": median(found.relative_error[known]),
                "change_cosine": median(found.cosine[known]),
                "change_norm_ratio": median(found.norm_ratio[known]),
                "residual": _larger(facts["residual"], change.solve.residual),
            }
    spotted = detection(scores.numpy(), bench.problem.tasks.corrupted_items(bench.level).numpy())
    if spotted is not None:
        facts |= {"auroc": spotted.auroc, "average_precision": spotted.average_precision}
        facts["found"] = spotted.found_at(bench.remove[0] / len(scores))
    worst = [lowest(scores, count) for count in bench.remove]
    curve = torch.full((len(worst), 4), NAN, dtype=torch.float64)
    edit_seconds, refused = _edit(bench, method, state, worst, curve)
    facts["retrain_seconds"], unfinished = _retrain(bench, worst, curve)
    facts["edit_seconds"] = edit_seconds if scored.seconds is None else facts["retrain_seconds"]
    if refused:
        notes.append(f"Without the items of lowest score no parameters were predicted: {refused}")
    if unfinished:
        notes.append(f"Without the items of lowest score: {unfinished}")
    names = ("accuracy_edited", "loss_edited", "accuracy_retrained", "loss_retrained")
    facts |= dict(zip(names, curve[0].tolist(), strict=True))
    return Run(Row(label, solver, bench.level, notes=tuple(notes), **facts), scores.clone(), errors, curve)


def _fidelity(scores: Array, truth: Truth) -> dict[str, float]:
    picked = scores[[removal[0] for removal in truth.removals]]
    true = truth.loss_change.numpy()
    agreement, ranks = score_agreement(picked, true), rank_agreement(picked, true)
    lds = linear_datamodeling_score(scores, truth.subsets, truth.subset_loss_change.numpy())
    facts = {"pearson": agreement.pearson, "spearman": agreement.spearman, "slope": agreement.slope}
    facts |= {"spearman_low": ranks.low, "spearman_high": ranks.high}
    return facts | {"lds": lds.value, "lds_low": lds.low, "lds_high": lds.high}


def _edit(
    bench: Bench, method: AttributionMethod, state: Any, worst: Sequence[Removal], curve: Tensor
) -> tuple[float, str]:
    """Fill in test accuracy and loss at λ* + predicted Δλ.

    Returns the seconds that the first prediction took, and why one could not be made, if so.
    """
    seconds, refused = NAN, ""
    for number, (removal, line) in enumerate(zip(worst, curve, strict=True)):
        started = time.perf_counter()
        try:
            change = method.parameter_change(state, [removal])
        except MetafluenceError as error:  # what the method says of the items stands
            refused = refused or str(error)
            continue
        if change is None:
            break
        settle(change.values)
        if not number:
            seconds = time.perf_counter() - started
        quality = bench.test(bench.meta + change.values[:, 0])
        line[:2] = torch.tensor([quality.accuracy, quality.loss])
    return seconds, refused


def _retrain(bench: Bench, worst: Sequence[Removal], curve: Tensor) -> tuple[float, str]:
    """Fill in test accuracy and loss after retraining.

    Returns the seconds of the first retraining, and what is to be said of those that failed.
    """
    if bench.bank is None:
        return NAN, ""
    found = bench.bank.leave_out(worst, bench.level, strict=False)
    for line, meta, converged in zip(curve, found.meta.T, found.converged, strict=True):
        if converged:
            quality = bench.test(meta)
            line[2:] = torch.tensor([quality.accuracy, quality.loss])
    return NAN if found.reasons[0] else float(found.seconds[0]), found.complaint()


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.2f} to {high:.2f}"


def _larger(a: float, b: float) -> float:
    known = [x for x in (a, b) if not np.isnan(x)]
    return max(known) if known else NAN
