"""The grid of inner and outer solvers: one method's scores from each pair, and what the pair cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, prepare_and_score
from metafluence.bilevel import BilevelProblem
from metafluence.errors import in_words
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.metrics import score_agreement
from metafluence.evaluation.plan import GridPlan
from metafluence.evaluation.stored_numbers import from_facts, to_facts

NAN = float("nan")


@dataclass(frozen=True)
class Cell:
    """One pair of solvers. A failed pair has a reason and NaN elsewhere.

    spearman: of the scores and exactly retrained changes of the validation loss. error: ‖scores − reference‖ /
    ‖reference‖, the reference being the same method's scores with the study's inner solver and a tight outer solve, so
    that this is the solvers' own error. seconds: to score all tasks; products: with the total Hessian. residual: of
    the outer solve; inner_residual: the largest of the inner solves. standard_error: relative, of outer solvers that
    sample.
    """

    inner: str
    outer: str
    status: str = "ok"
    reason: str = ""
    spearman: float = NAN
    error: float = NAN
    seconds: float = NAN
    products: int = 0
    residual: float = NAN
    inner_residual: float = NAN
    standard_error: float = NAN

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Cell:
        return from_facts(cls, facts)

    def facts(self) -> dict[str, Any]:
        """As JSON, in which NaN is null."""
        return to_facts(self)


def reference_scores(evaluation: Evaluation, method: AttributionMethod) -> Tensor:
    """The scores [N] that the grid's are compared with."""
    return _score(evaluation, method, evaluation.problem)[0]


def run_cell(evaluation: Evaluation, plan: GridPlan, reference: Tensor) -> tuple[Cell, Tensor]:
    """Score all tasks with one pair of solvers: the cell and the scores [N].

    Errors of our own become a cell with the reason, and no scores.
    """
    try:
        scores, facts = _score(evaluation, plan.method, evaluation.problem.solving_with(plan.inner_solver))
    except Exception as error:
        return Cell(plan.inner, plan.outer, status="failed", reason=in_words(error)), reference.new_empty(0)
    facts["error"] = float(torch.linalg.vector_norm(scores - reference) / torch.linalg.vector_norm(reference))
    if evaluation.truth is not None:
        picked = scores[[removal[0] for removal in evaluation.truth.removals]]
        facts["spearman"] = score_agreement(picked.numpy(), evaluation.truth.loss_change.numpy()).spearman
    return Cell(plan.inner, plan.outer, **facts), scores


def _score(evaluation: Evaluation, method: AttributionMethod, problem: BilevelProblem) -> tuple[Tensor, dict[str, Any]]:
    started = time.perf_counter()
    context = evaluation.context(problem)
    _, scored = prepare_and_score(method, context, evaluation.targets(problem))
    scores = scored.values[:, 0].cpu()
    facts = {
        "seconds": time.perf_counter() - started,
        "products": scored.solve.products,
        "residual": scored.solve.residual,
        "inner_residual": context.point.inner_residual(),
        "standard_error": scored.solve.standard_error,
    }
    return scores, facts
