"""The error budget: every source of error is where it is put, and the parts are those of the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import metafluence as mf
from metafluence.evaluation.error_budget import SOURCES, stages
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.ground_truth import Truth
from metafluence.reports.figures.error_budget import error_budget as draw
from metafluence.testing.worlds import world
from metafluence_plugins.curvatures.exact import ExactCurvature
from metafluence_plugins.curvatures.gauss_newton import GaussNewtonCurvature
from metafluence_plugins.methods.direct_if import DirectIF
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.loss import LossScore
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.exact import Exact
from metafluence_plugins.solvers.neumann import Neumann

REFERENCE = mf.ExactReference(
    method=InfluenceFunction(solver=Exact(), inner_solver=Exact()),
    curvature=ExactCurvature(),
    inner=Exact(),
    outer=Exact(),
)
ROUGH = Neumann(truncation=3)


def evaluation(level: mf.Level = "query", seed: int = 0) -> Evaluation:
    here = world(seed)
    change, loss = here.truth[level]
    removals = tuple((i,) for i in range(change.shape[1]))
    context = here.context(level)
    return Evaluation(
        problem=here.problem,
        meta=here.fit.meta,
        adapted=context.point.adapted,
        validation=here.validation,
        test_tasks=here.validation,
        bank=context.bank,
        checkpoints=here.checkpoints,
        seed=0,
        level=level,
        truth=Truth(removals=removals, change=change, loss_change=loss, seconds=0.0),
    )


def budget(method: mf.AttributionMethod, level: mf.Level = "query") -> mf.Budget:
    return mf.error_budget(evaluation(level), method, "it", "", REFERENCE)


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_exact_influence_errs_by_first_order_alone(level):
    found = budget(InfluenceFunction(solver=CG(rtol=1e-12)), level)
    assert found.first_order == pytest.approx(found.total, rel=1e-6)
    assert found.first_order > 1e-3
    assert found.curvature < 1e-9
    assert found.inner_solve < 1e-9
    assert found.outer_solve < 1e-9


@pytest.mark.parametrize(
    ("method", "source"),
    [
        (InfluenceFunction(GaussNewtonCurvature(), Exact()), "curvature"),
        (InfluenceFunction(solver=Exact(), damping=0.5), "curvature"),
        (InfluenceFunction(solver=Exact(), inner_solver=ROUGH), "inner_solve"),
        (InfluenceFunction(solver=ROUGH), "outer_solve"),
        (DirectIF(Exact()), "curvature"),
        (DirectIF(ROUGH), "outer_solve"),
    ],
    ids=["gauss-newton", "damping", "inner", "outer", "direct", "direct outer"],
)
def test_each_choice_errs_where_it_is_made(method, source):
    found, clean = budget(method), budget(InfluenceFunction(solver=Exact()))
    assert getattr(found, source) > 1e-4
    assert found.first_order == clean.first_order
    others = {"curvature", "inner_solve", "outer_solve"} - {source}
    if isinstance(method, DirectIF):
        others -= {"curvature"}
    assert all(getattr(found, other) < 1e-9 for other in others)


def test_the_parts_are_the_steps_of_the_chain():
    """Against the four predictions made by hand."""
    here, method = evaluation("task"), InfluenceFunction(GaussNewtonCurvature(), ROUGH, 0.1, inner_solver=ROUGH)
    chain = [
        InfluenceFunction(ExactCurvature(), Exact(), inner_solver=Exact()),
        InfluenceFunction(GaussNewtonCurvature(), Exact(), 0.1, inner_solver=Exact()),
        InfluenceFunction(GaussNewtonCurvature(), Exact(), 0.1, inner_solver=ROUGH),
        method,
    ]
    assert dict(zip(SOURCES, chain, strict=True)) == stages(method, REFERENCE)
    changes = [here.truth.change]
    for one in chain:
        changes.append(one.parameter_change(one.prepare(here.context()), here.truth.removals).values)
    found = mf.error_budget(here, method, "it", "", REFERENCE)
    moved = changes[0].norm(dim=0) > 1e-6  # one task has no effect at all
    changes = [change[:, moved] for change in changes]
    size = changes[0].norm(dim=0)
    for source, before, after in zip(SOURCES, changes, changes[1:], strict=False):
        assert getattr(found, source) == pytest.approx(_median((after - before).norm(dim=0) / size), rel=1e-9)
    assert found.total == pytest.approx(_median((changes[-1] - changes[0]).norm(dim=0) / size), rel=1e-9)


def test_without_inner_solves_there_is_no_such_stage():
    method = InfluenceFunction(GaussNewtonCurvature(), ROUGH, inner_solver=ROUGH)
    found = stages(method, REFERENCE, unrolls=True)
    assert list(found) == ["first_order", "curvature", "outer_solve"]
    assert found["curvature"].solver == Exact()
    assert found["outer_solve"] == method


def _median(values: torch.Tensor) -> float:
    return float(np.median(values.numpy()))


def test_a_choice_that_fails_is_a_budget_with_its_reason():
    found = budget(InfluenceFunction(solver=CG(max_iterations=1)))
    assert found.status == "failed"
    assert "max_iterations" in found.reason
    assert mf.Budget.from_facts(found.facts()).reason == found.reason


def test_what_has_no_budget_is_refused():
    with pytest.raises(mf.InputError, match="it predicts no parameters"):
        budget(LossScore())
    with pytest.raises(mf.InputError, match="no ground truth"):
        mf.error_budget(replace(evaluation(), truth=None), InfluenceFunction(), "it", "", REFERENCE)


def test_the_figure_stacks_the_parts():
    found = [budget(InfluenceFunction(solver=ROUGH)), budget(InfluenceFunction(solver=Exact()), "task")]
    figure = draw(found)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["query level", "task level"]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([getattr(found[0], source) for source in SOURCES])
    assert draw([]) is None
