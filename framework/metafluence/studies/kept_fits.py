"""A study's fits: made, kept, and read with the runs that were recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from metafluence.bilevel import BilevelProblem
from metafluence.errors import StoreError
from metafluence.progress import Observer
from metafluence.runtime import Shelf
from metafluence.tasks import TaskSet
from metafluence.training import Fit, Record, Trainer, load_run, stored_fit


@dataclass(frozen=True)
class KeptFits:
    """Makes the fits of a problem, or reads them from the store. validation: for trainers that judge their steps."""

    problem: BilevelProblem
    validation: TaskSet
    shelf: Shelf
    observer: Observer
    notice: Callable[[str], None]

    def fit(self, stage: str, name: str, trainer: Trainer, generator: torch.Generator) -> Fit:
        """The fit called `name`. A recorded run that cannot be read any more is made again, with a notice."""
        folder = self.shelf.folder / "training" / name

        def make() -> Fit:
            return self._make(stage, folder, trainer, generator)

        fit = stored_fit(self.shelf, name, make, self.problem.tasks.device)
        if not trainer.records or fit.run is not None:
            return fit
        try:
            return replace(fit, run=load_run(folder, self.problem, fit.best_step))
        except StoreError as error:
            self.notice(f"{error} The fit is made again.")
            shutil.rmtree(folder, ignore_errors=True)
            return make()

    def _make(self, stage: str, folder: Path, trainer: Trainer, generator: torch.Generator) -> Fit:
        judged = ""

        def report(step: int, total: int, record: Record) -> None:
            nonlocal judged
            judged = record.validation() or judged
            self.observer.step(step, total, f"{record} {judged}".rstrip())

        self.observer.stage(stage)
        fit = trainer.fit(
            self.problem,
            generator=generator,
            progress=report,
            validation=self.validation if trainer.needs_validation else None,
            folder=folder,
        )
        best = "" if fit.best_step is None else f", validation best after {fit.best_step}"
        self.observer.done(f"‖∇F‖ = {fit.gradient_norm:.1e} after {fit.steps} steps{best}")
        return fit
