"""The damping policy: the same rule for every method, checked against what it says by brute force."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metafluence as mf
from metafluence import default_registry
from metafluence.evaluation import damping_choice
from metafluence.evaluation.damping_choice import execute_plan, try_dampings
from metafluence.evaluation.plan import Plan
from metafluence.evaluation.row import NAN
from metafluence.reports.results import rows_frame
from metafluence.studies.plans import make_plans
from metafluence_plugins.solvers.exact import Exact
from metafluence_plugins.trainers.newton import Newton
from small_studies import without_pictures

VALUES = [10.0, 0.0, 0.3, 3.0]
BASE = {
    "name": "damped",
    "dataset": "digits",
    "episodes": {"train": 6, "validation": 5, "test": 3, "way": 2, "shot": 3, "query": 3, "split": "instances"},
    "corruption": {"kind": "query-labels", "fraction": 0.34, "strength": 0.7},
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
    "l2": 1.0,
    "levels": ["query", "task"],
    "remove": [0.3],
    "truth": {"items": 2},
    "methods": [
        "influence",
        {"use": "ekfac-if", "levels": ["task"]},
        {"use": "influence", "damping": 0.3},
        "loss",
        {
            "use": "influence",
            "solver": {"use": "lissa", "repeats": 2, "parts": 3, "iterations": 100},
            "levels": ["query"],
        },
    ],
    "solvers": ["exact"],
    "damping": {"values": VALUES, "share": 0.4},
    "certificate": False,
    "executor": "serial",
}


def study(folder: Path, **changes) -> mf.Study:
    return mf.Study(mf.parse_study({**BASE, **changes}), default_registry(), folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.Study, mf.StudyResult]:
    made = study(tmp_path_factory.mktemp("damped"))
    return made, made.run()


def by_brute_force(made: mf.Study, result: mf.StudyResult, plan: Plan) -> float:
    """Score, remove, fit and look again for every damping, by other means than the policy's."""
    evaluation = result.evaluations[plan.level]
    tasks, best = result.split.validation[3:], (np.inf, NAN)
    for damping in sorted(VALUES):
        point = evaluation.problem.at(evaluation.meta)
        generator = torch.Generator().manual_seed(made.config.seed)
        context = mf.Context(point, plan.level, generator, checkpoints=evaluation.checkpoints)
        targets = mf.Targets(evaluation.problem, result.split.validation[:3], evaluation.meta)
        scores = mf.attribute(replace(plan.method, damping=damping), context, targets).values[:, 0]
        removed = scores.argsort()[: evaluation.remove[0]].tolist()
        weights = mf.Weights.ones(evaluation.problem.tasks).without(plan.level, removed)
        meta = Newton().fit(evaluation.problem, weights, evaluation.meta).meta
        best = min(best, (float(evaluation.problem.over(tasks).at(meta).task_losses.mean()), damping))
    return best[1]


def test_the_chosen_damping_has_the_lowest_loss_on_the_selection_tasks(done):
    made, result = done
    chosen = {}
    for plan, run in zip(made.plans, result.runs, strict=True):
        if plan.dampings:
            assert run.row.damping == by_brute_force(made, result, plan), plan
            chosen[plan.label, plan.level] = run.row.damping
    assert len(set(chosen.values())) > 1, "the rule is not put to the test by a study in which all agree"


def test_a_run_is_what_it_would_be_if_its_damping_had_been_set(done):
    made, result = done
    for plan, run in zip(made.plans, result.runs, strict=True):
        if plan.dampings:
            evaluation = result.evaluations[plan.level]
            alone = execute_plan(
                evaluation, replace(plan, method=replace(plan.method, damping=run.row.damping), dampings=())
            )
            assert torch.equal(alone.scores, run.scores)
            assert torch.equal(alone.curve.tensor(), run.curve.tensor())


def test_selection_tasks_are_neither_targets_nor_test_tasks(done):
    _, result = done
    for evaluation in result.evaluations.values():
        kept = [set(tasks.ids) for tasks in (evaluation.validation, evaluation.selection, evaluation.test_tasks)]
        assert [len(ids) for ids in kept] == [3, 2, 3]
        assert kept[0] | kept[1] == set(result.split.validation.ids)
        assert not kept[0] & kept[1]


def test_nothing_is_chosen_on_targets_or_test_tasks(done):
    """Other test tasks, and the targets' own losses, change nothing: the rule sees selection tasks alone."""
    made, result = done
    plan = next(plan for plan in made.plans if plan.dampings and plan.level == "query")
    evaluation = result.evaluations["query"]
    before = try_dampings(evaluation, plan.method, plan.dampings)
    assert try_dampings(replace(evaluation, test_tasks=evaluation.selection), plan.method, plan.dampings) == before
    other = try_dampings(replace(evaluation, selection=evaluation.test_tasks), plan.method, plan.dampings)
    assert [t.removal for t in other] == [t.removal for t in before]
    assert [t.loss for t in other] != [t.loss for t in before]


def test_a_damping_that_is_set_stays_and_a_method_without_one_has_none(done):
    made, result = done
    rows = {(row.method, row.level): row for row in result.rows}
    for level in ("query", "task"):
        assert rows["influence damping=0.3", level].damping == 0.3
        assert np.isnan(rows["loss", level].damping)
    assert [plan.dampings for plan in made.plans if plan.label in ("influence damping=0.3", "loss")] == [()] * 4
    assert not any("selection tasks" in note for row in result.rows if np.isnan(row.damping) for note in row.notes)


def test_a_preset_that_sets_a_damping_keeps_it(tmp_path):
    registry = default_registry()
    registry.add("method", "damped-if", "metafluence_plugins.methods.task_if:TaskIF", params={"damping": 2.0})
    config = mf.parse_study({**BASE, "levels": ["task"], "methods": ["damped-if", "task-if"]})
    kept, tried = make_plans(config.methods, config, registry, VALUES)
    assert (kept.method.damping, kept.dampings) == (2.0, ())
    assert tried.dampings == (0.0, 0.3, 3.0, 10.0)


def test_equal_removals_are_retrained_once_and_go_to_the_smallest_damping(done, monkeypatch):
    made, result = done
    plan = next(plan for plan in made.plans if plan.dampings and plan.level == "task")
    evaluation = result.evaluations["task"]
    monkeypatch.setattr(Newton, "fit", lambda *a, **k: pytest.fail("fitted again"))
    run = execute_plan(evaluation, replace(plan, dampings=(1e-12, 1e-11, 1e-10)))
    assert run.row.damping == 1e-12


def test_a_damping_with_which_the_solve_fails_is_left_out_and_said(done, monkeypatch):
    made, result = done
    plan = next(plan for plan in made.plans if plan.dampings and plan.level == "query")
    evaluation, prepare = result.evaluations["query"], Exact.prepare

    def refuses(self, operator, damping, generator):
        if not operator.batch_shape and damping < limit:  # the total Hessian, not the tasks' own
            raise mf.SolverError(f"no solve with {damping}")
        return prepare(self, operator, damping, generator)

    monkeypatch.setattr(Exact, "prepare", refuses)
    limit = 1.0
    row = execute_plan(evaluation, plan).row
    assert row.status == "ok"
    assert row.damping in (3.0, 10.0)
    assert [note for note in row.notes if "left out" in note] == [
        f"Damping {value:g} was left out: no solve with {value}" for value in (0.0, 0.3)
    ]
    limit = 100.0
    row = execute_plan(evaluation, plan).row
    assert row.status == "failed"
    assert np.isnan(row.damping)
    for value in sorted(VALUES):
        assert f"no solve with {value}" in row.reason


def test_an_indefinite_curvature_takes_a_damping_that_makes_it_definite(done):
    """What the policy is for: cg refuses without damping, and the method takes part all the same."""
    made, result = done
    plan = next(plan for plan in made.plans if plan.dampings and plan.level == "task")
    evaluation = result.evaluations["task"]
    shifted = replace(evaluation, problem=_with_l2(evaluation.problem, -4.0))
    method = replace(plan.method, solver=mf.build("solver", "cg"))
    tried = try_dampings(shifted, method, (0.0, 50.0))
    assert "negative curvature" in tried[0].reason
    assert tried[1].reason == ""


def _with_l2(problem: mf.BilevelProblem, l2: float) -> mf.BilevelProblem:
    other = problem.over(problem.tasks)
    object.__setattr__(other, "l2", l2)  # no problem may be made so: what it stands for is a hollow one
    return other


def test_a_removal_whose_retraining_does_not_converge_is_left_out(done, monkeypatch):
    made, result = done
    plan = next(plan for plan in made.plans if plan.dampings and plan.level == "query")
    evaluation = result.evaluations["query"]
    leave_out = type(evaluation.bank).leave_out

    def one_fails(self, removals, *args, **kwargs):
        found = leave_out(self, removals, *args, **kwargs)
        if len(removals) > 2:  # the dampings', not the curve's
            found.converged[removals.index(worst)] = False
        return found

    tried = try_dampings(evaluation, plan.method, plan.dampings)
    assert len({t.removal for t in tried}) > 2
    best = min(tried, key=lambda t: t.loss)
    worst = best.removal
    monkeypatch.setattr(type(evaluation.bank), "leave_out", one_fails)
    again = try_dampings(evaluation, plan.method, plan.dampings)
    assert all(("did not converge" in t.reason) == (t.removal == worst) for t in again)
    assert execute_plan(evaluation, plan).row.damping == min(again, key=lambda t: (bool(t.reason), t.loss)).damping


def test_the_report_says_the_rule_and_every_choice(done, tmp_path):
    _, result = done
    with without_pictures():
        page = mf.write_report(result, tmp_path).read_text()
    assert "tried with each of 0, 0.3, 3, 10" in page
    assert "11 query instances and 2 tasks of lowest score" in page
    assert "2 validation tasks kept for this choice" in page
    assert "Loss of the selection tasks" in page
    for level in result.evaluations:
        table, runs = mf.level_table([mf.study_group(result)], level), result.at(level)
        shown = [line[table.titles.index("damping")] for line in table.rows]
        assert shown[-len(runs) :] == ["–" if np.isnan(r.row.damping) else f"{r.row.damping:.3g}" for r in runs]
    with (tmp_path / "results.csv").open() as file:
        stored = [line["damping"] for line in csv.DictReader(file)]
    assert [float(value or "nan") for value in stored] == pytest.approx(
        [row.damping for row in result.rows], nan_ok=True
    )


def test_without_a_policy_nothing_is_tried_or_shown(tmp_path):
    result = study(tmp_path, damping=None, levels=["task"], methods=["task-if"]).run()
    assert result.rows[0].damping == 0
    assert "damping" not in mf.level_table([mf.study_group(result)], "task").titles
    assert "damping" in rows_frame(mf.study_group(result).outcomes)
    assert result.evaluations["task"].selection is None
    assert len(result.evaluations["task"].validation) == 5


def test_an_interrupted_search_goes_on_and_another_policy_is_another_run(tmp_path, monkeypatch):
    changes = {"levels": ["query"], "methods": ["influence", {"use": "influence", "damping": 0.3}]}
    counted, fit = [], Newton.fit

    def interrupted(self, problem, weights=None, *args, **kwargs):
        if weights is not None and int((weights.query == 0).sum()) > 1:
            removal = tuple(weights.query.flatten().tolist())
            if counted[-1:] != [removal]:  # a fit may start anew within itself
                if len(counted) == stop:
                    raise KeyboardInterrupt
                counted.append(removal)
        return fit(self, problem, weights, *args, **kwargs)

    monkeypatch.setattr(Newton, "fit", interrupted)
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, **changes).run()
    stop = None
    first = study(tmp_path, **changes).run()
    assert len(set(counted)) == len(counted), "a removal was fitted twice"
    again = study(tmp_path, **changes).run()
    assert again.reused == 2
    assert [r.damping for r in again.rows] == [r.damping for r in first.rows]
    # Other values concern the methods that try them; other targets concern all.
    assert study(tmp_path, **changes, damping={"values": [0.0, 1.0], "share": 0.4}).run().reused == 1
    assert study(tmp_path, **changes, damping={"values": VALUES, "share": 0.6}).run().reused == 0
    assert study(tmp_path, **changes, damping=None).run().reused == 0
    assert study(tmp_path, **changes).run().reused == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"damping": {"values": [-1]}}, r"damping\.values\.0 is -1"),
        ({"damping": {"values": []}}, r"damping\.values is \[\]"),
        ({"damping": {"values": [float("inf")]}}, r"damping\.values\.0 is inf"),
        ({"damping": {"share": 1}}, r"damping\.share is 1"),
        ({"damping": {"shares": 0.1}}, r"no field 'damping.shares'. Did you mean 'share'"),
        ({"truth": None}, "damping is chosen by retraining.*has no `truth`"),
        ({"episodes": {**BASE["episodes"], "validation": 1}}, "fewer than two of those"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises(mf.InputError, match=message):
        study(tmp_path, **changes)


def test_a_damping_without_a_finite_selection_loss_cannot_be_used(done, monkeypatch):
    study, result = done
    plan = next(p for p in study.plans if p.level == "query" and p.dampings)
    evaluation = result.evaluations["query"]
    usual = damping_choice._loss
    tried = try_dampings(evaluation, plan.method, plan.dampings)
    best = min(tried, key=lambda t: t.loss)

    def broken(over, meta):
        loss, reason = usual(over, meta)
        return usual(Broken(), meta) if loss == best.loss else (loss, reason)

    class Broken:
        task_losses = torch.tensor([1.0, torch.nan])

        def at(self, meta):
            return self

    monkeypatch.setattr(damping_choice, "_loss", broken)
    again = try_dampings(evaluation, plan.method, plan.dampings)
    assert all(("no finite loss" in t.reason) == (t.removal == best.removal) for t in again)
    assert execute_plan(evaluation, plan).row.damping == min(again, key=lambda t: (bool(t.reason), t.loss)).damping
