"""Everything that a study's runs have in common: tasks, fits, diagnostics and ground truth, each kept when finished."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.bilevel import BilevelProblem, Diagnostics, diagnose
from metafluence.errors import InputError
from metafluence.evaluation import DRAWS, Evaluation, Truth, draw_removals, random_changes, retrain
from metafluence.linalg import Solver
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import Shelf, component_fingerprint, digest_of, find_device, folder_of
from metafluence.studies.asked_items import asked_items, seen_items, unseen_note
from metafluence.studies.built_with import built_with
from metafluence.studies.config import RunStudyConfig, StudyConfig
from metafluence.studies.drawn_tasks import DTYPES, DrawnTasks
from metafluence.studies.fit_checks import checked_fit
from metafluence.studies.fitters import build_executor
from metafluence.studies.kept_fits import KeptFits
from metafluence.studies.recorded_fit import RecordedFit, open_run
from metafluence.studies.seeding import generator_for
from metafluence.tasks import ITEM_NAMES, Level, Removal, Split, TaskSet, count_of
from metafluence.training import Checkpoint, Fit, RetrainBank, Trainer, TrainingRun, missed_end

DOING = {
    "minimum": ("retraining", "exact fits"),
    "run": ("replaying", "replays"),
    "procedure": ("replaying", "replays"),
    "proximal": ("training near the model", "proximal fits"),
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a study has before its runs; an evaluation for each of its levels.

    split: the tasks as they were drawn, on the processor; what is computed with is on the study's device. diagnostics:
    None where runs are replayed, which need no minimum.
    """

    split: Split
    fit: Fit
    diagnostics: Diagnostics | None
    evaluations: dict[Level, Evaluation]
    warnings: tuple[str, ...]

    @property
    def evaluation(self) -> Evaluation:
        """That of the first level."""
        return next(iter(self.evaluations.values()))


@dataclass(frozen=True)
class Started:
    """Tasks, problem, λ*, and the checkpoints for the methods that need some."""

    split: Split
    problem: BilevelProblem
    fit: Fit
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True)
class _Seed:
    """A fit from another seed, the retrainings about it, and the targets there."""

    fit: Fit
    bank: RetrainBank
    targets: Targets

    def facts(self, problem: BilevelProblem) -> dict[str, Any]:
        """What of an evaluation is its own."""
        fit = self.fit
        return {
            "meta": fit.meta,
            "adapted": problem.at(fit.meta).adapted,
            "bank": self.bank,
            "checkpoints": fit.checkpoints,
            "run": fit.run,
        }


class Preparation:
    """Builds a study's components, and makes from them what its runs share. folder: where all of it is kept."""

    def __init__(self, config: StudyConfig, registry: Registry, folder: Path, observer: Observer) -> None:
        self.config, self.folder = config, folder
        self.notices: list[str] = []
        """What went wrong in retraining or was found wrong in the store, and was made good."""
        self._observer = observer
        if config.damping is not None and (config.truth is None or config.episodes.validation < 2):
            lacks = "has no `truth`" if config.truth is None else "has fewer than two of those"
            raise InputError(f"damping is chosen by retraining, on some of the validation tasks; the study {lacks}.")
        self._refuse_for_procedure()
        self.device = find_device(config.device, DTYPES[config.dtype])
        self._inner_solver: Solver = registry.build("solver", config.inner_solver, "inner_solver")
        self._recorded: TrainingRun | None = None
        if isinstance(config, RunStudyConfig):
            self._recorded = open_run(config, registry, self._inner_solver, self.device)
            self._trainer: Trainer = RecordedFit(Path(config.run), self._recorded.fingerprint())
            made = {}
        else:
            self._learner = registry.build("learner", config.learner)
            self._trainer = registry.build("trainer", config.trainer)
            made = {"learner": self._learner, "trainer": self._trainer}
        self.tasks = DrawnTasks(
            config, registry, None if self._recorded is None else self._recorded.problem.tasks.to(device="cpu")
        )
        if config.truth is not None and config.truth.replays:
            self._trainer = self._trainer.recording()
        self._descent: Trainer | None = None
        if config.checkpoints is not None:
            self._descent = registry.build("trainer", config.checkpoints, "checkpoints")
        self._executor = build_executor(config, registry, self.device)
        self.settings = built_with(config, registry, inner_solver=self._inner_solver, **made)

    def _refuse_for_procedure(self) -> None:
        """Raises InputError for what looks at one fit alone, where the truth is a mean over several."""
        config = self.config
        if config.truth is None or not config.truth.averages:
            return
        for name in ("damping", "grid", "checkpoints"):
            if getattr(config, name) is not None:
                raise InputError(
                    f"{name} is of one fit, and the truth a mean over several. Remove it, or set `kind: run`."
                )

    @property
    def records(self) -> bool:
        """Whether the fit comes with the run that led to it."""
        return self._trainer.records

    def start(self) -> Started:
        """Draw the tasks and fit, if that is not done yet."""
        self._observer.stage("sampling tasks")
        split = self.tasks.split()
        self._observer.done()
        problem = self.problem(split)
        self._claim(problem, split)
        self._fits = KeptFits(problem, split.validation, self.shelf, self._observer, self.notices.append)
        stage = "meta-training" if self._recorded is None else "making the run anew"
        fit = self._fits.fit(stage, "fit", self._trainer, self._generator("fit"))
        if self._recorded is not None and fit.run is not None and (missed := missed_end(self._recorded, fit.run)):
            self.notices.append(missed)
        if split.test is split.validation:
            self.notices.append("The target tasks are the test tasks, too, and edits were chosen by their loss.")
        checkpoints = fit.checkpoints
        if self._descent is not None:
            name = f"checkpoints-{component_fingerprint(self._descent)}"
            stage = "meta-training for checkpoints"
            checkpoints = self._fits.fit(stage, name, self._descent, self._generator("fit")).checkpoints
        return Started(split, problem, fit, checkpoints)

    def run(self) -> Prepared:
        """Do what is not done yet."""
        started = self.start()
        split, problem, fit = started.split, started.problem, started.fit
        point = problem.at(fit.meta, None if fit.run is None else fit.run.weights)

        def measure() -> Diagnostics:
            self._observer.stage("checking the fit")
            found = diagnose(point, self._generator("diagnostics"))
            self._observer.done()
            return found

        diagnostics, warnings = checked_fit(self.config.truth, fit, measure)
        bank = self.bank(started)
        validation, test = (part.to(device=self.device) for part in (split.validation, split.test))
        targets, selection = self.tasks.targets(validation)
        evaluations: dict[Level, Evaluation] = {}
        others = self._other_seeds(problem, split, targets)
        for level in self.config.levels:
            corrupted = split.train.corrupted_items(level)
            seen = seen_items(self.config.truth, level, fit.run)
            items = len(corrupted) if seen is None else len(seen)
            shares = self.config.remove or [float(corrupted.double().mean()) or 0.1]
            evaluation = Evaluation(
                problem=problem,
                meta=fit.meta,
                adapted=point.adapted,
                validation=targets,
                test_tasks=test,
                bank=bank,
                checkpoints=started.checkpoints,
                run=fit.run,
                seed=self.config.seed,
                level=level,
                remove=tuple(count_of(share, items) for share in shares),
                selection=selection,
                seen=seen,
                extremes=() if self.config.truth is None else self.config.truth.ends(items),
            )
            averaged = self.config.truth is not None and self.config.truth.averages
            also = tuple(replace(evaluation, **one.facts(problem)) for one in others) if averaged else ()
            evaluation = replace(evaluation, others=also)
            evaluation = replace(evaluation, truth=self._truth(evaluation, others, warnings))
            evaluations[level] = replace(evaluation, without_random=self._without_random(evaluation))
        return Prepared(
            split=split, fit=fit, diagnostics=diagnostics, evaluations=evaluations, warnings=tuple(warnings)
        )

    def bank(self, started: Started) -> RetrainBank | None:
        """The retrainings about λ*; None where the study asks for no ground truth."""
        if self.config.truth is None:
            return None
        return self.bank_about(started.problem, started.fit, started.split, "fit", self.shelf.folder / "bank")

    def removals(self, level: Level, items: int, run: TrainingRun | None = None) -> tuple[list[Removal], list[Removal]]:
        """The single items and the random subsets of `items` items that the ground truth leaves out.

        run: the one that it replays, which may have seen some of them alone.
        """
        assert self.config.truth is not None
        asked = self.config.truth
        generator = self._generator(f"truth {level}")
        numbers = asked_items(items, seen_items(asked, level, run))
        return draw_removals(numbers, asked.items, asked.subsets, asked.subset_share, generator)

    def problem(self, split: Split) -> BilevelProblem:
        """The objective over the training tasks."""
        if self._recorded is not None:
            return self._recorded.problem
        tasks = split.train.to(device=self.device)
        return BilevelProblem(self._learner, tasks, self.config.l2, self._inner_solver, self.config.memory_gib)

    def _generator(self, purpose: str) -> torch.Generator:
        return generator_for(self.config.seed, purpose)

    def _claim(self, problem: BilevelProblem, split: Split) -> None:
        identity = {
            "learner": component_fingerprint(problem.learner),
            "inner_solver": component_fingerprint(problem.inner_solver),
            "l2": repr(problem.l2),
            "train": split.train.fingerprint(),
            "validation": split.validation.fingerprint(),
            "test": split.test.fingerprint(),
            "trainer": component_fingerprint(self._trainer),
            "seed": str(self.config.seed),
        }
        folder = folder_of(self.folder, identity, self.notices.append)
        self.shelf = Shelf(folder, digest_of(identity), self.notices.append)

    def bank_about(
        self, problem: BilevelProblem, fit: Fit, split: Split, purpose: str = "fit", store: Path | None = None
    ) -> RetrainBank:
        """The retrainings about a fit; purpose: what their randomness is for."""
        assert self.config.truth is not None
        items: dict[Level, int] = {level: len(split.train.corrupted_items(level)) for level in self.config.levels}
        # By what is asked, not by what is missing: an interrupted study makes the same fits as one left alone.
        expected = sum(len(some) for level, count in items.items() for some in self.removals(level, count))
        return RetrainBank(
            problem,
            fit,
            self._trainer,
            self._executor,
            store,
            self.config.truth.begins,
            self._generator(purpose).initial_seed(),
            lambda done, total: self._observer.step(done, total) if total > 1 else None,
            split.validation if self._trainer.needs_validation else None,
            lambda sentence: self.notices.append(f"Retraining: {sentence}"),
            expected,
        )

    def _other_seeds(self, problem: BilevelProblem, split: Split, targets: TaskSet) -> list[_Seed]:
        """Fits from other seeds, banks about them, and the same targets there."""
        found = []
        for seed in range(1, self.config.truth.runs) if self.config.truth is not None else ():
            purpose = f"fit {seed}"
            stage = f"meta-training with other seed {seed}"
            fit = self._fits.fit(stage, f"fit-{seed}", self._trainer, self._generator(purpose))
            bank = self.bank_about(problem, fit, split, purpose, self.shelf.folder / f"bank-{seed}")
            found.append(_Seed(fit, bank, Targets(problem, targets, fit.meta)))
        return found

    def _truth(self, evaluation: Evaluation, others: list[_Seed], warnings: list[str]) -> Truth | None:
        if evaluation.bank is None:
            return None
        warnings += filter(None, [unseen_note(evaluation)])
        items = evaluation.problem.tasks.items(evaluation.level)
        singles, subsets = self.removals(evaluation.level, items, evaluation.run)
        count = (len(singles) + len(subsets)) * (1 + len(others))
        asked = self.config.truth
        assert asked is not None
        doing, done = DOING[asked.kind]
        self._observer.stage(f"{doing} without {ITEM_NAMES[evaluation.level]}", len(singles) + len(subsets))
        parts = (singles, subsets, evaluation.level, evaluation.bank, evaluation.targets())
        again = [(one.bank, one.targets) for one in others]
        truth, complaint = retrain(*parts, again, asked.called)
        self._observer.done(f"{count} {done}")
        if complaint:
            warnings.append(
                f"Ground truth without {ITEM_NAMES[evaluation.level]}: {complaint} What failed is left out of it."
            )
        return truth

    def _without_random(self, evaluation: Evaluation) -> Tensor:
        """What the targets' losses do without random sets of these sizes."""
        if not evaluation.extremes:
            return torch.empty(0)
        items = asked_items(evaluation.problem.tasks.items(evaluation.level), evaluation.seen)
        self._observer.stage(f"leaving out random {ITEM_NAMES[evaluation.level]}", DRAWS * len(evaluation.extremes))
        found = random_changes(evaluation, items, self._generator(f"extremes {evaluation.level}"))
        self._observer.done()
        return found

    def run_key(self, evaluation: Evaluation) -> str:
        """A hash of all that a stored run depends on besides the study's identity and the run's own plan."""
        descent = component_fingerprint(self._descent) if self._descent is not None else ""
        facts = f"{evaluation.level} {evaluation.remove} {self.config.truth!r} {descent}"
        if evaluation.extremes:
            facts += f" extremes {evaluation.extremes}"
        if self.config.damping is not None:  # its values are the plan's
            facts += f" targets {len(evaluation.validation)}"
        return hashlib.sha256(facts.encode()).hexdigest()[:8]
