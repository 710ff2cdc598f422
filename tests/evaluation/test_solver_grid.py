"""The grid of inner and outer solvers in a study, and the damping sweep."""

import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
import torch
import yaml

import metafluence as mf
from metafluence import Damped, InputError, default_registry
from metafluence.reports.figures.solver_grid import against_truncation, heat_maps
from metafluence_plugins.curvatures.exact import ExactCurvature
from metafluence_plugins.curvatures.fisher import FisherCurvature
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.exact import Exact
from metafluence_plugins.solvers.woodbury import Woodbury
from small_studies import SMALL, command

GRID = {
    "method": "task-if",
    "inner": ["exact", "cg", "ek-fac", {"use": "neumann", "truncation": 1}, "lissa"],
    "outer": ["exact", "minres", "woodbury", *({"use": "neumann", "truncation": j} for j in (1, 5, 25))],
}


def study(folder: Path, **changes) -> mf.Study:
    raw = {**SMALL, "methods": ["loss"], "grid": GRID, **changes}
    return mf.Study(mf.parse_study(raw), default_registry(), folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("grid")
    return study(folder).run(), folder


def cells(result: mf.StudyResult) -> dict[tuple[str, str], mf.Cell]:
    return {(c.inner, c.outer): c for c in result.grid}


def test_every_pair_is_a_cell_and_failures_have_a_reason(done):
    result, _ = done
    found = cells(result)
    assert len(found) == len(GRID["inner"]) * len(GRID["outer"])
    assert not result.failed
    for (inner, outer), cell in found.items():
        refused = outer == "woodbury" or inner == "lissa"
        assert (cell.status == "failed") == refused
        assert bool(cell.reason) == refused
        assert math.isnan(cell.error) == refused
    assert "curvature fisher" in found["exact", "woodbury"].reason
    assert "not symmetric" in found["lissa", "exact"].reason


def test_tight_pairs_agree_and_loose_ones_show_their_error(done):
    found = cells(done[0])
    assert found["exact", "exact"].error < 1e-8
    assert found["cg", "minres"].error < 1e-6
    assert found["exact", "exact"].spearman == pytest.approx(found["cg", "minres"].spearman)
    errors = [found["exact", f"neumann truncation={j}"].error for j in (1, 5, 25)]
    assert errors == sorted(errors, reverse=True)
    assert found["exact", "neumann truncation=1"].residual > 0.01
    assert found["ek-fac", "exact"].inner_residual > 1e-4
    assert found["exact", "exact"].inner_residual < 1e-10


def test_cells_are_kept_and_failed_ones_are_tried_again(done, monkeypatch):
    result, folder = done
    tried = []

    def never(evaluation, plan, reference):
        tried.append((plan.inner, plan.outer))
        return mf.Cell(plan.inner, plan.outer, status="failed", reason="asked again"), reference.new_empty(0)

    monkeypatch.setattr("metafluence.studies.study.run_cell", never)
    again = cells(study(folder).run())
    assert {pair for pair, cell in cells(result).items() if cell.status == "failed"} == set(tried)
    assert all(again[pair].facts() == c.facts() for pair, c in cells(result).items() if c.status == "ok")


def test_the_report_shows_both_maps_the_steps_and_the_reasons(done):
    result, folder = done
    text = mf.write_report(result, folder).read_text()
    assert "Inner and outer solvers" in text
    assert "Accuracy and time against J" in text
    assert "Lissa cannot be the inner solver" in text
    for name in ("inner-and-outer-solvers", "against-truncation"):
        assert matplotlib.image.imread(folder / "figures" / f"{name}.png").std() > 0.05
    table = pd.read_csv(folder / "grid.csv")
    assert len(table) == len(result.grid)


def test_figures_show_what_there_is(done):
    result, _ = done
    maps = heat_maps(result.grid)
    assert maps is not None
    above, below = maps.axes
    texts = [t.get_text() for t in above.texts]
    assert texts.count("failed") == sum(c.status == "failed" for c in result.grid)
    assert len(above.texts) == len(below.texts) == len(result.grid)
    lines = against_truncation(result.grid)
    assert lines is not None
    (line,) = lines.axes[0].lines
    assert list(line.get_xdata()) == [1, 5, 25]
    assert heat_maps(()) is None
    assert against_truncation(result.grid[:3]) is None


def test_without_ground_truth_the_map_shows_the_solvers_error_alone(tmp_path):
    small = {"inner": ["exact"], "outer": ["cg", {"use": "neumann", "truncation": 2}]}
    result = study(tmp_path, truth=None, grid=small).run()
    assert all(math.isnan(c.spearman) and c.error >= 0 for c in result.grid)
    maps = heat_maps(result.grid)
    assert maps is not None
    assert maps.axes[0].get_title() == "error of the scores by the solvers"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({**GRID, "method": "loss"}, "must take a solver"),
        ({**GRID, "inner": ["exact", "exact"]}, "'exact' twice"),
        ({**GRID, "outer": ["exat"]}, "exact"),
        ({**GRID, "outer": [{"use": "neumann", "trunc": 3}]}, "truncation"),
        ({**GRID, "inner": []}, "grid.inner"),
        ({**GRID, "colour": 1}, "grid.colour"),
    ],
)
def test_a_bad_grid_is_refused_before_anything_is_computed(tmp_path, grid, message):
    with pytest.raises(InputError, match=message):
        study(tmp_path, grid=grid)
    assert not list(tmp_path.iterdir())


def test_rows_of_approximate_solvers_say_so(tmp_path):
    lissa = {"use": "lissa", "iterations": 20, "parts": 2}
    result = study(tmp_path, methods=["task-if"], solvers=["cg", lissa], grid=None, truth=None).run()
    tight, sampled = result.rows
    assert tight.notes == ()
    assert "approximate by design" in sampled.notes[0]
    assert "standard error is" in sampled.notes[0]
    assert sampled.status == "ok"
    assert not sampled.converged


def sweep(evaluation, curvature, solver, dampings=(0.0, 0.01, 1.0, 1e4), truth=True) -> mf.DampingSweep:
    point = evaluation.problem.at(evaluation.meta, init=evaluation.adapted)
    targets = mf.Targets(evaluation.problem, evaluation.validation, evaluation.meta)
    return mf.sweep_damping(point, targets, curvature, solver, dampings, evaluation.truth if truth else None)


@pytest.fixture(scope="module")
def evaluation(done):
    return study(done[1]).prepare().evaluation


def test_an_evaluation_draws_from_its_own_seed(evaluation):
    assert [replace(evaluation, seed=seed).generator().initial_seed() for seed in (3, 7)] == [3, 7]


@pytest.mark.parametrize("solver", [Exact(), CG()], ids=["exact", "cg"])
def test_a_sweep_scores_as_task_if_does_with_each_damping(evaluation, solver):
    found = sweep(evaluation, ExactCurvature(), solver)
    targets = mf.Targets(evaluation.problem, evaluation.validation, evaluation.meta)
    for i, row in enumerate(found.rows):
        method = mf.build("method", "task-if", solver="exact", damping=row.damping)
        context = mf.Context(evaluation.problem.at(evaluation.meta, init=evaluation.adapted))
        state = method.prepare(context)
        wanted = method.scores(state, targets).values[:, 0]
        assert float((found.scores[:, i] - wanted).norm() / wanted.norm()) < 1e-6
        change = method.parameter_change(state, evaluation.truth.removals).values
        true = evaluation.truth.change
        error = ((change - true).norm(dim=0) / true.norm(dim=0)).median()
        assert row.change_error == pytest.approx(float(torch.as_tensor(error)), rel=0.2)  # medians of even counts
        assert row.status == ""
        assert row.residual < 1e-7


def test_a_sweep_scores_tasks_by_their_weights(evaluation):
    weights = mf.Weights.ones(evaluation.problem.tasks).set("task", [0, 2], 0.5)
    point = evaluation.problem.at(evaluation.meta, weights)
    targets = mf.Targets(evaluation.problem, evaluation.validation, evaluation.meta)
    found = mf.sweep_damping(point, targets, ExactCurvature(), Exact(), [1.0, 3.0])
    method = mf.build("method", "task-if", solver="exact", damping=1.0)
    wanted = method.scores(method.prepare(mf.Context(point)), targets).values[:, 0]
    torch.testing.assert_close(found.scores[:, 0], wanted, rtol=1e-6, atol=1e-12)


def test_a_sweep_shows_eigenvalues_stability_and_fidelity(evaluation):
    rows = sweep(evaluation, ExactCurvature(), Exact()).rows
    operator = evaluation.problem.at(evaluation.meta, init=evaluation.adapted).hessian()
    lowest = float(torch.linalg.eigvalsh(operator.dense())[0])
    assert [r.smallest_eigenvalue for r in rows] == pytest.approx([lowest + r.damping for r in rows], rel=1e-3)
    assert math.isnan(rows[0].stability)
    assert rows[1].stability > 0.99
    assert all(-1 <= r.spearman <= 1 for r in rows)
    assert rows[-1].change_error > 0.99  # nothing moves under a damping of 1e4
    assert all(math.isnan(r.spearman) for r in sweep(evaluation, ExactCurvature(), Exact(), truth=False).rows)


def test_sweeps_use_other_curvatures_and_say_where_a_solve_failed(evaluation):
    assert sweep(evaluation, FisherCurvature(), Woodbury()).products == 0
    failing = sweep(evaluation, ExactCurvature(), CG(max_iterations=1), (0.0, 1e12))
    assert failing.rows[0].status == "max iterations"
    assert failing.rows[1].status == ""


@pytest.mark.parametrize("dampings", [[1.0], [-1.0, 1.0]])
def test_a_sweep_needs_two_dampings_that_are_not_negative(evaluation, dampings):
    with pytest.raises(InputError, match="two dampings of 0 or more"):
        sweep(evaluation, ExactCurvature(), Exact(), dampings)


def test_sweep_on_the_command_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "methods": ["loss"]}))
    found = command(tmp_path, "sweep", "damping", "study.yaml", "--points", "3")
    assert found.returncode == 0, found.stderr
    for heading in ("smallest eigenvalue", "stability", "Spearman"):
        assert heading in found.stdout
    folder = tmp_path / "results" / "small" / "sweeps"
    assert len(pd.read_csv(folder / "damping-exact-cg.csv")) == 4
    assert (folder / "damping-exact-cg.png").exists()
    wrong = command(tmp_path, "sweep", "damping", "study.yaml", "--from", "3", "--to", "1")
    assert wrong.returncode == 2
    assert "--from" in wrong.stderr


def test_cells_of_a_sweep_leave_out_what_is_not_known():
    assert mf.sweep_cells(Damped(0.0, -0.5, 1e-9)) == ["0", "-0.5", "1e-09", "–", "–", "–", ""]
