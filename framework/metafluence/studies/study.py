"""A study: from its configuration to its results, with everything finished kept on the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from metafluence.attribution import AttributionMethod
from metafluence.bilevel import Diagnostics
from metafluence.errors import ConvergenceError, InputError, MetafluenceError
from metafluence.evaluation import (
    Bench,
    Budget,
    Cell,
    Certificate,
    Exactly,
    Plan,
    Row,
    Run,
    TestQuality,
    Truth,
    certify,
    error_budget,
    execute_plan,
    reference_scores,
    run_cell,
)
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import component_fingerprint, load_facts, load_tensors, save_facts, save_tensors
from metafluence.studies.config import StudyConfig
from metafluence.studies.plans import make_grid, make_plans, parts
from metafluence.studies.preparation import Preparation, Prepared
from metafluence.tasks import Level, Split
from metafluence.training import Fit

Predicted = dict[Level, dict[str, Tensor]]
"""By level, what methods predict for the removals of the ground truth, [P, s], by the method's fingerprint."""


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    benches: by level, what its runs shared, with the ground truth. grid: pairs of inner and outer solvers. full: test
    quality at λ*. clean: by level, retrained without exactly the corrupted items (NaN where none is). budgets: errors
    by source. certificates: by level, whether influence can be trusted. warnings: sentences. reused: how many runs
    came from the store.
    """

    config: StudyConfig
    runs: tuple[Run, ...]
    grid: tuple[Cell, ...]
    split: Split
    fit: Fit
    diagnostics: Diagnostics
    benches: dict[Level, Bench]
    full: TestQuality
    clean: dict[Level, TestQuality]
    budgets: tuple[Budget, ...]
    certificates: tuple[Certificate, ...]
    warnings: tuple[str, ...]
    reused: int

    @property
    def rows(self) -> list[Row]:
        return [run.row for run in self.runs]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status != "ok"]

    def at(self, level: Level) -> list[Run]:
        """The runs at one level."""
        return [run for run in self.runs if run.row.level == level]

    @property
    def truth(self) -> Truth | None:
        """That of the first level."""
        return next(iter(self.benches.values())).truth


class Study:
    """Composes the components of a configuration, compares them with exact retraining, and keeps what is finished.

    All components are built and checked before anything is computed. folder: where results are stored; a study that
    was interrupted goes on from there, and work of another study is refused with StoreError.
    """

    def __init__(self, config: StudyConfig, registry: Registry, folder: Path, observer: Observer | None = None) -> None:
        self.config, self.folder = config, folder
        self._observer = observer or Observer()
        self._hook = registry.hooks.hook
        self._registry = registry
        self.preparation = Preparation(config, registry, folder, self._observer)
        dampings = config.damping.values if config.damping is not None else ()
        self.plans = make_plans(config.methods, config, registry, dampings)
        self.grid_plans = make_grid(config.grid, registry) if config.grid is not None else []
        self.budget_plans = self._plan_budget() if config.budget is not None else []

    def run(self) -> StudyResult:
        """Do what is not done yet. Returns the results; a failed run is a row with its reason."""
        self._hook.metafluence_study_started(study=self)
        ready = self.prepare()
        warnings = list(ready.warnings)
        clean: dict[Level, TestQuality] = {
            level: self._without_corrupted(bench, warnings) for level, bench in ready.benches.items()
        }
        runs, reused = self._runs(ready.benches)
        cells = self._grid(ready.bench)
        predicted: Predicted = {level: {} for level in ready.benches}
        budgets, certificates = self._budgets(ready.benches, predicted), self._certificates(ready, predicted)
        return StudyResult(
            self.config,
            tuple(runs),
            tuple(cells),
            ready.split,
            ready.fit,
            ready.diagnostics,
            ready.benches,
            ready.bench.test(ready.fit.meta),
            clean,
            tuple(budgets),
            tuple(certificates),
            (*warnings, *self.preparation.notices),
            reused,
        )

    def prepare(self) -> Prepared:
        """Everything that runs have in common: tasks, fit, diagnostics and ground truth."""
        return self.preparation.run()

    def _without_corrupted(self, bench: Bench, warnings: list[str]) -> TestQuality:
        marks = bench.problem.tasks.corrupted_items(bench.level)
        if bench.bank is None or not bool(marks.any()) or bool(marks.all()):
            return TestQuality()
        try:
            removal = tuple(marks.nonzero().squeeze(1).tolist())
            return bench.test(bench.bank.leave_out([removal], bench.level).meta[:, 0])
        except ConvergenceError as error:
            warnings.append(str(error))
            return TestQuality()

    def _runs(self, benches: dict[Level, Bench]) -> tuple[list[Run], int]:
        self._observer.stage("scoring", len(self.plans))
        runs, reused = [], 0
        for number, plan in enumerate(self.plans, start=1):
            bench = benches[plan.level]
            file = self.folder / "runs" / f"{plan.id}-{self.preparation.question(bench)}.safetensors"
            if file.exists():
                tensors, facts = load_tensors(file)
                run = Run(Row.from_facts(facts), **tensors)
                reused += 1
            else:
                run = execute_plan(bench, plan)
                if run.row.status == "ok":
                    tensors = {"scores": run.scores, "change_errors": run.change_errors, "curve": run.curve}
                    save_tensors(file, tensors, run.row.facts())
            runs.append(run)
            self._observer.step(number, len(self.plans), f"{plan.label} {plan.solver}")
            self._hook.metafluence_run_finished(study=self, run=run)
        self._observer.done()
        return runs, reused

    def _grid(self, bench: Bench) -> list[Cell]:
        """Cells that are not stored yet are computed; those that failed are tried again."""
        if self.config.grid is None:
            return []
        self._observer.stage("inner and outer solvers", len(self.grid_plans))
        suffix = self.preparation.question(bench)
        cells, reference = [], None
        for number, plan in enumerate(self.grid_plans, start=1):
            file = self.folder / "grid" / f"{plan.id}-{suffix}.safetensors"
            if file.exists():
                cell = Cell.from_facts(load_tensors(file)[1])
            else:
                if reference is None:
                    reference = reference_scores(bench, self._reference_method())
                cell, scores = run_cell(bench, plan, reference)
                if cell.status == "ok":
                    save_tensors(file, {"scores": scores}, cell.facts())
            cells.append(cell)
            self._observer.step(number, len(self.grid_plans), f"{plan.inner} × {plan.outer}")
        self._observer.done()
        return cells

    def _reference_method(self) -> AttributionMethod:
        """The grid's method with a tight outer solve."""
        assert self.config.grid is not None
        name, params = parts(self.config.grid.method)
        return self._registry.build("method", {"use": name, **params, "solver": {"use": "cg", "rtol": 1e-10}}, "grid")

    def _plan_budget(self) -> list[Plan]:
        asked = self.config.budget
        assert asked is not None
        plans = make_plans(asked.methods, self.config, self._registry)
        without = [plan.label for plan in plans if not plan.method.edits]
        if without or self.config.truth is None:
            lacks = f"{without[0]} predicts none" if without else "the study has no `truth`"
            raise InputError(f"budget compares predicted parameters with retrained ones, and {lacks}.")
        inner, outer = (self._registry.build("solver", s, "budget") for s in (asked.inner, asked.outer))
        curvature = self._registry.build("curvature", "exact")
        method = self._registry.build(
            "method", {"use": "influence", "solver": asked.outer, "inner_solver": asked.inner}
        )
        self._exactly = Exactly(method, curvature, inner, outer)
        return plans

    def _budgets(self, benches: dict[Level, Bench], predicted: Predicted) -> list[Budget]:
        plans = [plan for plan in self.budget_plans if benches[plan.level].truth is not None]
        if not plans:
            return []
        self._observer.stage("splitting errors by source", len(plans))
        found: list[Budget] = []
        for number, plan in enumerate(plans, start=1):
            bench = benches[plan.level]
            exact = "-".join(component_fingerprint(s) for s in (self._exactly.inner, self._exactly.outer))
            file = self.folder / "budget" / f"{plan.id}-{self.preparation.question(bench)}-{exact}.json"
            if file.exists():
                budget = Budget.from_facts(load_facts(file))
            else:
                budget = error_budget(bench, plan.method, plan.label, plan.solver, self._exactly, predicted[plan.level])
                if budget.status == "ok":
                    save_facts(file, budget.facts())
            found.append(budget)
            self._observer.step(number, len(plans), plan.label)
        self._observer.done()
        return found

    def _certificates(self, ready: Prepared, predicted: Predicted) -> list[Certificate]:
        benches = [bench for bench in ready.benches.values() if bench.truth is not None]
        if not self.config.certificate or not benches:
            return []
        self._observer.stage("certifying", len(benches))
        found, method = [], self._registry.build("method", "influence")
        name = component_fingerprint(method)
        for number, bench in enumerate(benches, start=1):
            file = self.folder / "certificates" / f"{bench.level}-{self.preparation.question(bench)}.json"
            if file.exists():
                found.append(Certificate.from_facts(load_facts(file)))
            else:
                try:
                    known = predicted[bench.level].get(name)
                    asked = (bench.context(), bench.targets(), ready.diagnostics, bench.truth)
                    found.append(certify(method, *asked, change=known))
                    save_facts(file, asdict(found[-1]))
                except MetafluenceError as error:
                    found.append(Certificate.refused(bench.level, str(error)))
            self._observer.step(number, len(benches), bench.level)
        self._observer.done()
        return found
