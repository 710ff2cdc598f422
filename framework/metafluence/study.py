"""A study: from its configuration to its results, with everything finished kept on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from metafluence.attribution import AttributionMethod, Targets
from metafluence.config import StudyConfig
from metafluence.corruption import corrupt
from metafluence.diagnostics import Diagnostics, diagnose
from metafluence.episodes import Dataset, Split, sample
from metafluence.errors import ConvergenceError
from metafluence.executors import Executor
from metafluence.fingerprints import component_fingerprint
from metafluence.grid import Cell, reference_scores, run_cell
from metafluence.learners import ImplicitLearner
from metafluence.observer import Observer
from metafluence.plans import make_grid, make_plans, parts
from metafluence.problem import BilevelProblem
from metafluence.registry import Registry
from metafluence.retraining import RetrainBank
from metafluence.runs import Bench, Row, Run, TestQuality, Truth, execute
from metafluence.solving import Solver
from metafluence.store import claim, load_tensors, save_tensors, write_atomically
from metafluence.training import Fit, Trainer

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    grid: pairs of inner and outer solvers. full: test quality at λ*. clean: retrained without exactly the corrupted
    tasks (NaN where none is). warnings: sentences. reused: how many runs came from the store.
    """

    config: StudyConfig
    runs: tuple[Run, ...]
    grid: tuple[Cell, ...]
    split: Split
    meta_size: int
    fit: Fit
    diagnostics: Diagnostics
    truth: Truth | None
    full: TestQuality
    clean: TestQuality
    removed: int
    warnings: tuple[str, ...]
    reused: int

    @property
    def rows(self) -> list[Row]:
        return [run.row for run in self.runs]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status != "ok"]


@dataclass(frozen=True)
class Prepared:
    """What a study has before its runs."""

    split: Split
    fit: Fit
    diagnostics: Diagnostics
    bench: Bench
    warnings: tuple[str, ...]


class Study:
    """Composes the components of a configuration, compares them with exact retraining, and keeps what is finished.

    All components are built and checked before anything is computed. folder: where results are stored; a study that
    was interrupted goes on from there, and work of another study is refused with StoreError.
    """

    def __init__(
        self,
        config: StudyConfig,
        registry: Registry,
        folder: Path,
        observer: Observer | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        self._observer = observer or Observer()
        self._hook = registry.hooks.hook
        self._registry = registry
        self._dataset: Dataset = registry.build("dataset", config.dataset)
        self._learner: ImplicitLearner = registry.build("learner", config.learner)
        self._inner_solver: Solver = registry.build("solver", config.inner_solver, "inner_solver")
        self._trainer: Trainer = registry.build("trainer", config.trainer)
        self._executor: Executor = registry.build("executor", config.executor)
        self.plans = make_plans(config, registry)
        self.grid_plans = make_grid(config.grid, registry) if config.grid is not None else []

    def run(self) -> StudyResult:
        """Do what is not done yet. Returns the results; a failed run is a row with its reason."""
        self._hook.metafluence_study_started(study=self)
        ready = self.prepare()
        bench, warnings = ready.bench, list(ready.warnings)
        clean = self._without_corrupted(bench, warnings)
        runs, reused = self._runs(bench)
        cells = self._grid(bench)
        return StudyResult(
            self.config,
            tuple(runs),
            tuple(cells),
            ready.split,
            bench.problem.size,
            ready.fit,
            ready.diagnostics,
            bench.truth,
            bench.test(bench.meta),
            clean,
            bench.remove,
            tuple(warnings),
            reused,
        )

    def prepare(self) -> Prepared:
        """Everything that runs have in common: tasks, fit, diagnostics and ground truth."""
        split = self._tasks()
        problem = BilevelProblem(self._learner, split.train, self.config.l2, self._inner_solver, self.config.memory_gib)
        self._claim(problem, split)
        fit = self._fit(problem)
        point = problem.at(fit.meta)
        self._observer.stage("checking the fit")
        diagnostics = diagnose(point, self._generator("diagnostics"))
        self._observer.done()
        warnings = list(diagnostics.warnings)
        if not fit.converged:
            warnings.insert(0, f"Meta-training stopped before its tolerance (‖∇F‖ = {fit.gradient_norm:.1e}).")
        bank, truth = self._truth(problem, fit, split, warnings)
        shared = (problem, fit.meta, point.adapted, split.validation, split.test, bank, truth)
        bench = Bench(*shared, self._removed(split), self.config.seed)
        return Prepared(split, fit, diagnostics, bench, tuple(warnings))

    def _tasks(self) -> Split:
        self._observer.stage("sampling tasks")
        dtype = DTYPES[self.config.dtype]
        split = sample(self._dataset.load(), self.config.episodes, self._generator("tasks"), dtype)
        if self.config.corruption is not None:
            train = corrupt(split.train, self.config.corruption, self._generator("corruption"))
            split = Split(train, split.validation, split.test)
        self._observer.done()
        return split

    def _generator(self, purpose: str) -> torch.Generator:
        """Randomness for one purpose; what one purpose draws does not shift what another does."""
        digest = hashlib.sha256(f"{self.config.seed} {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))

    def _claim(self, problem: BilevelProblem, split: Split) -> None:
        identity = {
            "problem": problem.fingerprint(),
            "validation": split.validation.fingerprint(),
            "test": split.test.fingerprint(),
            "trainer": component_fingerprint(self._trainer),
            "seed": str(self.config.seed),
        }
        claim(self.folder, identity)
        config = self.config.model_dump_json(indent=1).encode()
        write_atomically(self.folder / "study.json", config)

    def _fit(self, problem: BilevelProblem) -> Fit:
        file = self.folder / "fit.safetensors"
        if file.exists():
            tensors, facts = load_tensors(file)
            return Fit(tensors["meta"], **facts)
        self._observer.stage("meta-training")
        fit = self._trainer.fit(
            problem,
            generator=self._generator("fit"),
            progress=lambda step, total, norm: self._observer.step(step, total, f"{norm:.1e}"),
        )
        facts = {f.name: getattr(fit, f.name) for f in fields(fit) if f.name not in ("meta", "checkpoints")}
        save_tensors(file, {"meta": fit.meta}, facts)
        self._observer.done(f"‖∇F‖ = {fit.gradient_norm:.1e} after {fit.steps} steps")
        return fit

    def _truth(
        self, problem: BilevelProblem, fit: Fit, split: Split, warnings: list[str]
    ) -> tuple[RetrainBank | None, Truth | None]:
        asked = self.config.truth
        if asked is None:
            return None, None
        bank = RetrainBank(
            problem,
            fit,
            self._trainer,
            self._executor,
            self.folder / "bank",
            asked.start,
            self._generator("fit").initial_seed(),
            lambda done, total: self._observer.step(done, total) if total > 1 else None,
        )
        count = len(split.train)
        chosen = list(range(count))
        if asked.tasks != "all":
            chosen = sorted(torch.randperm(count, generator=self._generator("truth"))[: asked.tasks].tolist())
        self._observer.stage("retraining without each task", len(chosen))
        found = bank.leave_out([(i,) for i in chosen], strict=False)
        self._observer.done(f"{len(chosen)} exact fits")
        good = found.converged.nonzero().squeeze(1).tolist()
        if len(good) < len(chosen):
            warnings.append(
                f"{len(chosen) - len(good)} of {len(chosen)} retrainings did not converge and are left out of the "
                "ground truth."
            )
        targets = Targets(problem, split.validation, fit.meta)
        before = targets.losses()
        meta = found.meta[:, good]
        change = torch.stack([(targets.losses(m) - before)[0] for m in meta.T]) if good else meta.new_empty(0)
        truth = Truth(
            tuple((chosen[i],) for i in good),
            meta - fit.meta.unsqueeze(1),
            change,
            float(found.seconds[good].sum()),
        )
        return bank, truth if len(good) > 1 else None

    def _removed(self, split: Split) -> int:
        """How many tasks each method has removed."""
        count = len(split.train)
        share = self.config.remove
        if share is None:
            share = float(split.train.corrupted.double().mean()) or 0.1
        return min(max(1, round(share * count)), count - 1)

    def _without_corrupted(self, bench: Bench, warnings: list[str]) -> TestQuality:
        corrupted = tuple(bench.problem.tasks.corrupted.nonzero().squeeze(1).tolist())
        if bench.bank is None or not corrupted:
            return TestQuality()
        try:
            return bench.test(bench.bank.leave_out([corrupted]).meta[:, 0])
        except ConvergenceError as error:
            warnings.append(str(error))
            return TestQuality()

    def _runs(self, bench: Bench) -> tuple[list[Run], int]:
        question = f"{bench.remove} {self.config.truth!r}"
        suffix = hashlib.sha256(question.encode()).hexdigest()[:8]
        self._observer.stage("scoring", len(self.plans))
        runs, reused = [], 0
        for number, plan in enumerate(self.plans, start=1):
            file = self.folder / "runs" / f"{plan.id}-{suffix}.safetensors"
            if file.exists():
                tensors, facts = load_tensors(file)
                run = Run(Row.from_facts(facts), tensors["scores"], tensors["change_errors"])
                reused += 1
            else:
                run = execute(bench, plan.method, plan.label, plan.solver)
                if run.row.status == "ok":
                    tensors = {"scores": run.scores, "change_errors": run.change_errors}
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
        suffix = hashlib.sha256(f"{self.config.truth!r}".encode()).hexdigest()[:8]
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
