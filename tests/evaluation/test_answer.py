"""A method's answer over several runs: means of scores, sums of costs, and the worst of what is said of solves."""

from types import SimpleNamespace

import pytest
import torch

from metafluence.attribution import Scores, SolveReport
from metafluence.evaluation.answer import answer
from metafluence_plugins.methods.random import RandomScore


def test_over_several_runs_the_worst_solve_speaks_for_all(monkeypatch):
    reports = [SolveReport(3, 0.1), SolveReport(4, 0.5, False, "It failed."), SolveReport(5)]
    found = iter([Scores(torch.full((2, 1), float(i)), "task", "loss_change", r) for i, r in enumerate(reports)])
    monkeypatch.setattr("metafluence.evaluation.answer.prepare_and_score", lambda *parts: (None, next(found)))
    run = SimpleNamespace(context=lambda: None, targets=lambda: None)
    scores = answer(SimpleNamespace(runs=[run] * 3), RandomScore()).scores  # pyright: ignore[reportArgumentType]
    assert scores.values.flatten().tolist() == [1.0, 1.0]
    solve = scores.solve
    assert (solve.products, solve.converged, solve.complaint) == (12, False, "It failed.")
    assert solve.residual == pytest.approx(0.5), "a run without a residual hides no other"
