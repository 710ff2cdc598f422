"""A method's answer at every run of an evaluation: one, or the runs of a procedure, over which scores are means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from metafluence.attribution import AttributionMethod, Scores, SolveReport, prepare_and_score
from metafluence.evaluation.evaluation import Evaluation
from metafluence.runtime import settle


@dataclass(frozen=True)
class Answer:
    """states: the method's at each run. scores: means over the runs; seconds: of all of them."""

    states: tuple[Any, ...]
    scores: Scores
    seconds: float


def answer(evaluation: Evaluation, method: AttributionMethod) -> Answer:
    """Prepare and score at each run."""
    started = time.perf_counter()
    found = [prepare_and_score(method, one.context(), one.targets()) for one in evaluation.runs]
    scores = _mean([scored for _, scored in found])
    settle(scores.values)
    seconds = time.perf_counter() - started if scores.seconds is None else scores.seconds
    return Answer(tuple(state for state, _ in found), scores, seconds)


def _mean(several: Sequence[Scores]) -> Scores:
    if len(several) == 1:
        return several[0]
    solves = [one.solve for one in several]
    residuals = [s.residual for s in solves if s.residual == s.residual]
    report = SolveReport(
        sum(s.products for s in solves),
        max(residuals, default=float("nan")),
        all(s.converged for s in solves),
        next((s.complaint for s in solves if s.complaint), ""),
        fmean(s.standard_error for s in solves),
    )
    seconds = [one.seconds for one in several if one.seconds is not None]
    return replace(
        several[0],
        values=torch.stack([one.values for one in several]).mean(dim=0),
        solve=report,
        notes=tuple(dict.fromkeys(note for one in several for note in one.notes)),
        seconds=sum(seconds) if len(seconds) == len(several) else None,
    )
