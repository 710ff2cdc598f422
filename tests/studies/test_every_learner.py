"""A tiny study with every learner that is registered, end to end: rows, error budget, certificate, grid, report."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import metafluence as mf
from metafluence import default_registry
from metafluence.evaluation.certificate import Check
from parts import LEARNERS
from small_studies import TINY, configuration, without_pictures

UNROLLED = {name for name, make in LEARNERS.items() if make().unrolls}


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with without_pictures():
        yield


def run(folder: Path, learner: dict, **changes) -> mf.StudyResult:
    """On points of two features, which keep networks small enough for dense Hessians."""
    points = np.random.default_rng(0).normal(size=(2, 40, 1, 2)) + np.arange(2).reshape(2, 1, 1, 1)
    np.savez(folder / "points.npz", images=points)
    dataset = {"use": "npz", "path": "points.npz", "root": str(folder)}
    config = mf.parse_study({**TINY, "dataset": dataset, "learner": learner, **changes})
    return mf.Study(config, default_registry(), folder / "out").run()


def checks(certificate: mf.Certificate) -> dict[str, Check]:
    return {check.name: check for check in certificate.checks}


QUICK = ("logistic-head", "maml", "protonet")  # an inner optimum, steps, a closed form


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in LEARNERS])
def test_a_study_runs_with_every_learner(name, tmp_path):
    result = run(tmp_path, configuration(name))
    assert not result.failed, [row.reason for row in result.failed]
    exact, paper = result.rows
    assert exact.change_error < 0.9
    unrolled = name in UNROLLED
    assert ("inner_solver was left out" in " ".join(paper.notes)) == unrolled
    for budget in result.budgets:
        assert budget.status == "ok", budget.reason
        assert np.isnan(budget.inner_solve) == unrolled
        assert budget.first_order == pytest.approx(exact.change_error, rel=1e-6)
        assert mf.Budget.from_facts(budget.facts()).facts() == budget.facts()
    assert result.budgets[0].curvature > 1e-3
    assert result.budgets[0].outer_solve < 1e-9
    (certificate,) = result.certificates
    found = checks(certificate)
    assert found["inner stationarity"].ok
    assert found["inner stationarity"].measured.startswith("does not apply") == unrolled
    assert found["exact gradients"].ok
    assert np.isnan(result.diagnostics.inner_stationarity) == unrolled
    (cell,) = result.grid
    assert cell.status == ("failed" if unrolled else "ok")
    assert ("differentiated through its own steps" in cell.reason) == unrolled
    words = re.sub('src="[^"]*"', "", mf.write_report(result, tmp_path).read_text())
    assert not re.search(r"\bnan\b", words)


@pytest.mark.parametrize("name", ["maml", "anil"])
def test_first_order_gradients_are_not_certified_as_exact(name, tmp_path):
    """Meta-trained by steps: at a fixed point of them no objective is minimal."""
    learner = configuration(name, first_order=True)
    result = run(tmp_path, learner, trainer={"use": "sgd", "steps": 20}, truth={"items": 2}, budget=None, grid=None)
    assert any("gradients are first-order, not those of the loss" in warning for warning in result.warnings)
    found = mf.certify(
        mf.build("method", "influence"),
        result.evaluations["task"].context(),
        result.evaluations["task"].targets(),
        result.diagnostics,
        mf.Truth(
            removals=((0,), (1,)),
            change=torch.randn(len(result.fit.meta), 2).double(),
            loss_change=torch.randn(2).double(),
            seconds=0.0,
        ),
    )
    assert not checks(found)["exact gradients"].ok
    assert found.grade != "sizes and order"
    assert "exact gradients" in found.verdict


def test_items_without_effect_are_rows_with_reasons(tmp_path):
    """Nothing adapts in `joint`, so that support instances have no effect at all."""
    methods = {"methods": ["influence"], "budget": {"methods": ["influence"]}, "grid": None}
    result = run(tmp_path, configuration("joint"), levels=["support"], **methods)
    assert not result.failed
    assert np.isnan(result.rows[0].change_error)
    assert result.budgets[0].status == "failed"
    assert "No removal moves λ" in result.budgets[0].reason
    assert result.certificates[0].grade == "neither"
    assert "no item has an effect" in result.certificates[0].verdict
    assert mf.write_report(result, tmp_path).exists()


def test_a_certificate_that_fails_takes_nothing_down(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise mf.SolverError("it broke")

    monkeypatch.setattr("metafluence.studies.study.certify", broken)
    changes = {"methods": ["loss"], "budget": None, "grid": None}
    result = run(tmp_path, configuration("logistic-head"), **changes)
    assert result.certificates[0].verdict == "Nothing could be certified for influence here: it broke"
    monkeypatch.undo()
    again = run(tmp_path, configuration("logistic-head"), **changes)  # it is tried again
    assert checks(again.certificates[0])["definiteness"].ok
