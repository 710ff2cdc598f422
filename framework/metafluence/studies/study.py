"""A study: from its configuration to its results, with everything finished kept on the way."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from metafluence.attribution import RECORD, AttributionMethod
from metafluence.bilevel import Diagnostics
from metafluence.errors import InputError, in_words
from metafluence.evaluation import (
    Budget,
    Cell,
    Certificate,
    Evaluation,
    ExactReference,
    Plan,
    Predictions,
    RemovalCurve,
    Row,
    Run,
    TestQuality,
    certify,
    certify_run,
    error_budget,
    execute_plan,
    reference_scores,
    run_cell,
    standing_key,
    standing_metrics,
)
from metafluence.hooks import new_manager
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import component_fingerprint, joined, write_atomically
from metafluence.studies.candidates import add_candidates
from metafluence.studies.config import StudyConfig
from metafluence.studies.measuring import asked_columns, make_metrics, measured, numbers_of
from metafluence.studies.plans import make_grid, make_plans, parts
from metafluence.studies.preparation import Preparation, Prepared
from metafluence.studies.study_result import StudyResult
from metafluence.tasks import Level


class Study:
    """Composes the components of a configuration, compares them with exact retraining, and keeps what is finished.

    All components are built and checked before anything is computed. folder: where results are stored; a study that
    was interrupted resumes from there, and work of another study is refused with StoreError.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from metafluence.registry import default_registry
        >>> from metafluence.studies.config import parse_study
        >>> config = parse_study({
        ...     "name": "tiny", "dataset": "digits", "methods": ["loss", "random"], "l2": 0.3, "executor": "serial",
        ...     "episodes": {"train": 4, "validation": 2, "test": 2, "way": 2, "shot": 2, "query": 2},
        ...     "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
        ... })
        >>> with TemporaryDirectory() as folder:
        ...     result = Study(config, default_registry(), Path(folder)).run()
        >>> [row.method for row in result.rows]
        ['loss', 'random']
    """

    def __init__(
        self, config: StudyConfig, registry: Registry, folder: str | Path, observer: Observer | None = None
    ) -> None:
        self.config, self.folder = config, Path(folder)
        self._observer = observer or Observer()
        self._hook = (registry.hooks if joined().first else new_manager()).hook
        self._registry = registry
        self.preparation = Preparation(config, registry, self.folder, self._observer)
        dampings = config.damping.values if config.damping is not None else ()
        self.plans = make_plans(config.methods, config, registry, dampings)
        self.standing = standing_metrics(registry)
        self.metrics = make_metrics(config.metrics, registry)
        self.numbers = numbers_of(config.metrics, self.metrics, self.standing)
        self.columns = asked_columns(config.columns, self.numbers, {**self.standing, **self.metrics})
        self._refuse_without_run()
        self.grid_plans = make_grid(config.grid, registry) if config.grid is not None else []
        self.budget_plans = self._plan_budget() if config.budget is not None else []

    @property
    def _replays(self) -> bool:
        """Whether the ground truth replays recorded runs."""
        return self.config.truth is not None and self.config.truth.replays

    def _refuse_without_run(self) -> None:
        needs = next((plan.label for plan in self.plans if plan.method.needs_run), None)
        if needs is not None and not self.preparation.records:
            raise InputError(f"{needs} works on a recorded run of meta-training and this study has none. {RECORD}")

    def run(self, certify: bool = True) -> StudyResult:
        """Do what is not done yet. Returns the results; a failed run is a row with its reason.

        certify: check whether influence can be trusted, if the study asks for it.
        """
        self._hook.metafluence_study_started(study=self)
        ready = self.prepare()
        warnings = list(ready.warnings)
        clean: dict[Level, TestQuality] = {
            level: self._without_corrupted(evaluation, warnings) for level, evaluation in ready.evaluations.items()
        }
        runs, reused = self._runs(ready.evaluations)
        pairs = list(zip(self.plans, runs, strict=True))
        runs = measured(self.metrics, pairs, ready.evaluations, self.preparation, self._observer)
        cells = self._grid(ready.evaluation)
        predictions: dict[Level, Predictions] = {
            level: Predictions(evaluation) for level, evaluation in ready.evaluations.items()
        }
        budgets = self._budgets(ready.evaluations, predictions)
        certificates = self._certificates(ready, predictions) if certify else []
        return StudyResult(
            config=self.config,
            runs=tuple(runs),
            grid=tuple(cells),
            split=ready.split,
            fit=ready.fit,
            diagnostics=ready.diagnostics,
            evaluations=ready.evaluations,
            full=ready.evaluation.full(),
            clean=clean,
            budgets=tuple(budgets),
            certificates=tuple(certificates),
            candidates=add_candidates(self.preparation, ready, self.plans),
            warnings=(*warnings, *self.preparation.notices),
            reused=reused,
            settings=self.preparation.settings,
            numbers=self.numbers,
            columns=self.columns,
        )

    def prepare(self) -> Prepared:
        """Everything that runs have in common: tasks, fit, diagnostics and ground truth."""
        return self.preparation.run()

    def _without_corrupted(self, evaluation: Evaluation, warnings: list[str]) -> TestQuality:
        marks = evaluation.problem.tasks.corrupted_items(evaluation.level)
        if evaluation.bank is None or not bool(marks.any()) or bool(marks.all()):
            return TestQuality()
        removal = tuple(marks.nonzero().squeeze(1).tolist())
        found = evaluation.retrained([removal])
        if found.complaint:
            warnings.append(f"Without exactly the corrupted {evaluation.level} items: {found.complaint}")
        return found.qualities[0]

    def _runs(self, evaluations: dict[Level, Evaluation]) -> tuple[list[Run], int]:
        self._observer.stage("scoring", len(self.plans))
        runs, reused, key = [], 0, standing_key(self.standing)
        for number, plan in enumerate(self.plans, start=1):
            evaluation = evaluations[plan.level]
            name = f"runs/{plan.id}-{self.preparation.run_key(evaluation)}{key}"
            stored = self.preparation.shelf.find(name)
            if stored is not None:
                tensors, facts = stored
                run = Run(
                    row=Row.from_facts(facts),
                    scores=tensors["scores"],
                    change_errors=tensors["change_errors"],
                    curve=RemovalCurve.from_tensor(tensors["curve"]),
                    extremes=tensors.get("extremes", torch.empty(0)),
                )
                reused += 1
            else:
                run = execute_plan(evaluation, plan, self.standing)
                if run.row.status == "ok":
                    curve = run.curve.tensor()
                    tensors = {"scores": run.scores, "change_errors": run.change_errors, "curve": curve}
                    tensors |= {"extremes": run.extremes}
                    self.preparation.shelf.keep(name, tensors, run.row.facts())
                elif run.traceback:
                    write_atomically(self.folder / "failures" / f"{plan.id}.txt", run.traceback.encode())
            run = replace(run, row=replace(run.row, built=plan.built))
            runs.append(run)
            self._observer.step(number, len(self.plans), f"{plan.label} {plan.solver}")
            self._hook.metafluence_run_finished(study=self, run=run)
        self._observer.done()
        return runs, reused

    def _grid(self, evaluation: Evaluation) -> list[Cell]:
        """Cells that are not stored yet are computed; those that failed are tried again."""
        if self.config.grid is None:
            return []
        self._observer.stage("inner and outer solvers", len(self.grid_plans))
        suffix = self.preparation.run_key(evaluation)
        cells, reference = [], None
        for number, plan in enumerate(self.grid_plans, start=1):
            name = f"grid/{plan.id}-{suffix}"
            stored = self.preparation.shelf.find(name)
            if stored is not None:
                cell = Cell.from_facts(stored[1])
            else:
                if reference is None:
                    reference = reference_scores(evaluation, self._grid_reference())
                cell, scores = run_cell(evaluation, plan, reference)
                if cell.status == "ok":
                    self.preparation.shelf.keep(name, {"scores": scores}, cell.facts())
            cells.append(cell)
            self._observer.step(number, len(self.grid_plans), f"{plan.inner} × {plan.outer}")
        self._observer.done()
        return cells

    def _grid_reference(self) -> AttributionMethod:
        """The grid's method with a tight outer solve."""
        assert self.config.grid is not None
        name, params = parts(self.config.grid.method)
        return self._registry.build("method", {"use": name, **params, "solver": {"use": "cg", "rtol": 1e-10}}, "grid")

    def _plan_budget(self) -> list[Plan]:
        asked = self.config.budget
        assert asked is not None
        plans = make_plans(asked.methods, self.config, self._registry)
        if self.config.truth is not None and self.config.truth.kind != "minimum":
            raise InputError("budget splits errors of predicted minima. Remove it, or set `truth: {kind: minimum}`.")
        without = [plan.label for plan in plans if not plan.method.edits]
        if without or self.config.truth is None:
            lacks = f"{without[0]} predicts none" if without else "the study has no `truth`"
            raise InputError(f"budget compares predicted parameters with retrained ones, and {lacks}.")
        inner, outer = (self._registry.build("solver", s, "budget") for s in (asked.inner, asked.outer))
        curvature = self._registry.build("curvature", "exact")
        method = self._registry.build(
            "method", {"use": "influence", "solver": asked.outer, "inner_solver": asked.inner}
        )
        self._reference = ExactReference(method=method, curvature=curvature, inner=inner, outer=outer)
        return plans

    def _budgets(self, evaluations: dict[Level, Evaluation], predictions: dict[Level, Predictions]) -> list[Budget]:
        plans = [plan for plan in self.budget_plans if evaluations[plan.level].truth is not None]
        if not plans:
            return []
        self._observer.stage("splitting errors by source", len(plans))
        found: list[Budget] = []
        for number, plan in enumerate(plans, start=1):
            evaluation = evaluations[plan.level]
            exact = "-".join(component_fingerprint(s) for s in (self._reference.inner, self._reference.outer))
            name = f"budget/{plan.id}-{self.preparation.run_key(evaluation)}-{exact}"
            stored = self.preparation.shelf.find(name)
            if stored is not None:
                budget = Budget.from_facts(stored[1])
            else:
                budget = error_budget(
                    evaluation, plan.method, plan.label, plan.solver, self._reference, predictions[plan.level]
                )
                if budget.status == "ok":
                    self.preparation.shelf.keep(name, {}, budget.facts())
            found.append(budget)
            self._observer.step(number, len(plans), plan.label)
        self._observer.done()
        return found

    def _certificates(self, ready: Prepared, predictions: dict[Level, Predictions]) -> list[Certificate]:
        evaluations = [evaluation for evaluation in ready.evaluations.values() if evaluation.truth is not None]
        truth = self.config.truth  # a certificate is of one fit, and says what a minimum or a run needs
        without = truth is not None and truth.kind in ("procedure", "proximal")
        if not self.config.certificate or not evaluations or without:
            return []
        self._observer.stage("certifying", len(evaluations))
        found, method = [], self._registry.build("method", "influence")
        for number, evaluation in enumerate(evaluations, start=1):
            name = f"certificates/{evaluation.level}-{self.preparation.run_key(evaluation)}"
            stored = self.preparation.shelf.find(name)
            if stored is not None:
                found.append(Certificate.from_facts(stored[1]))
            else:
                try:
                    found.append(self._certificate(evaluation, ready.diagnostics, method, predictions))
                except Exception as error:
                    judged = "run-influence" if self._replays else "influence"
                    found.append(Certificate.refused(judged, evaluation.level, in_words(error)))
                else:
                    self.preparation.shelf.keep(name, {}, asdict(found[-1]))
            self._observer.step(number, len(evaluations), evaluation.level)
        self._observer.done()
        return found

    def _certificate(
        self,
        evaluation: Evaluation,
        diagnostics: Diagnostics | None,
        method: AttributionMethod,
        predictions: dict[Level, Predictions],
    ) -> Certificate:
        """Of influence at a minimum, or through the run where that is the truth."""
        if self._replays and evaluation.run is not None:
            return certify_run(evaluation.run, evaluation.targets(), evaluation.level, evaluation.seed)
        known = predictions[evaluation.level].made(method)
        given = (evaluation.context(), evaluation.targets(), diagnostics, evaluation.truth)
        return certify(method, *given, change=known, label="influence")
