"""The error budget: where the error of a predicted parameter change comes from.

    retrained change <- exact curvature, exact solves <- chosen curvature, exact solves
                     <- chosen curvature, chosen inner solver <- chosen outer solver

Each arrow is one source of error: first order, curvature, inner solve, outer solve.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod
from metafluence.bilevel import Curvature
from metafluence.errors import InputError, in_words
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.metrics import median, moved
from metafluence.evaluation.predictions import Predictions
from metafluence.evaluation.stored_numbers import from_facts, to_facts
from metafluence.linalg import Solver
from metafluence.tasks import Level

NAN = float("nan")
SOURCES = ("first_order", "curvature", "inner_solve", "outer_solve")


@dataclass(frozen=True, kw_only=True)
class ExactReference:
    """What counts as exact in an error budget."""

    method: AttributionMethod
    """The influence method that methods without a curvature of their own are measured from."""
    curvature: Curvature
    inner: Solver
    """A tight inner solver."""
    outer: Solver
    """A tight outer solver."""


@dataclass(frozen=True)
class Budget:
    """Errors of one method's Δλ by source, at one level, each ‖difference of two stages‖ / ‖true Δλ‖.

    total: ‖predicted − true Δλ‖ / ‖true Δλ‖. All are medians over the removals. For one removal the parts are lengths
    of vectors that add up to the whole error, and add up to at least its length; their medians mostly do. inner_solve:
    NaN for learners without inner solves. A budget that failed has a reason and NaN elsewhere.
    """

    method: str
    solver: str
    level: Level = "task"
    status: str = "ok"
    reason: str = ""
    first_order: float = NAN
    curvature: float = NAN
    inner_solve: float = NAN
    outer_solve: float = NAN
    total: float = NAN

    @classmethod
    def from_facts(cls, stored: dict[str, Any]) -> Budget:
        return from_facts(cls, stored)

    def facts(self) -> dict[str, Any]:
        """As JSON, in which NaN is null."""
        return to_facts(self)


def stages(method: AttributionMethod, reference: ExactReference, unrolls: bool = False) -> dict[str, AttributionMethod]:
    """The method with ever less of it exact, by what is then no longer exact: first order alone; its curvature too; its
    inner solver too; its outer solver too, which is the method itself.

    What a method has no choice of stays as it is. Damping counts as curvature: it changes what is inverted. unrolls:
    the learner has no inner solves, and there is no such stage.
    """
    names = {f.name for f in fields(method)}  # type: ignore[arg-type]

    def with_(base: AttributionMethod, **parts: Any) -> AttributionMethod:
        return replace(base, **{k: v for k, v in parts.items() if k in names})  # type: ignore[type-var]

    best = reference.method
    if "curvature" in names:  # of its own kind, so that what else it is stays out of the difference
        best = with_(
            method, curvature=reference.curvature, damping=0.0, solver=reference.outer, inner_solver=reference.inner
        )
    curved = with_(method, solver=reference.outer, inner_solver=reference.inner)
    inside = {} if unrolls else {"inner_solve": with_(method, solver=reference.outer)}
    return {"first_order": best, "curvature": curved, **inside, "outer_solve": method}


def error_budget(
    evaluation: Evaluation,
    method: AttributionMethod,
    label: str,
    solver: str,
    reference: ExactReference,
    predictions: Predictions | None = None,
) -> Budget:
    """Split the error of a method's predicted parameter changes by its sources.

    Args:
        evaluation: where to compare, with ground truth.
        method: the method whose predictions are split.
        label: the method in tables.
        solver: its solver in tables.
        reference: what counts as exact.
        predictions: at this evaluation, shared by budgets of several methods.

    Returns:
        The budget; a stage that fails makes it a failed one with the reason.

    Raises:
        InputError: without ground truth, or for a method that predicts no parameters.
    """
    true = None if evaluation.truth is None else evaluation.truth.change
    if true is None or not method.edits:
        lacks = "there is no ground truth of parameters" if true is None else f"{label} predicts no parameters"
        raise InputError(f"An error budget compares predicted parameters with retrained ones, and {lacks}.")
    some = torch.from_numpy(moved(true.numpy()))
    if not bool(some.any()):
        return Budget(
            label, solver, evaluation.level, "failed", "No removal moves λ, so that there is no error to split."
        )
    predictions = predictions or Predictions(evaluation)
    changes = [true]
    chain = stages(method, reference, evaluation.problem.learner.unrolls)
    for stage in chain.values():
        try:
            changes.append(predictions.of(stage))
        except Exception as error:
            return Budget(label, solver, evaluation.level, "failed", in_words(error))
    size = torch.linalg.vector_norm(changes[0], dim=0)[some]
    changes = [change[:, some] for change in changes]
    parts = [_median(one - other, size) for other, one in pairwise(changes)]
    named: dict[str, Any] = dict(zip(chain, parts, strict=True))
    return Budget(label, solver, evaluation.level, **named, total=_median(changes[-1] - changes[0], size))


def _median(error: Tensor, size: Tensor) -> float:
    return median((torch.linalg.vector_norm(error, dim=0) / size).numpy())
