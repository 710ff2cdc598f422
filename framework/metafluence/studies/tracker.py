"""What a tracker is: a plugin that shows a study's numbers in an experiment tracker while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from metafluence.evaluation import NUMBERS
from metafluence.hooks import hookimpl
from metafluence.registry import Component, Plain


class Tracker(Component, ABC):
    """Receives a study's settings, the numbers of each run, and the page of its report. A frozen dataclass.

    `metafluence run STUDY.yaml --tracker NAME` uses it; in Python, `registry.hooks.register(tracker)`. A study of
    several variations is a run of the tracker for each of them.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Printed(Tracker):
        ...     def start(self, name, settings): print("start", name)
        ...     def log(self, run, numbers): print(run, sorted(numbers))
        ...     def finish(self, page): print("finish", page.name)
        >>> Printed().finish(Path("report.html"))
        finish report.html
    """

    @abstractmethod
    def start(self, name: str, settings: Mapping[str, Plain]) -> None:
        """A study begins: its name with the seed, and its settings by dotted name (`learner.penalty`)."""

    @abstractmethod
    def log(self, run: str, numbers: Mapping[str, float]) -> None:
        """A run is finished: its level, method and solver, and its finite numbers, called as in results.csv."""

    @abstractmethod
    def finish(self, page: Path) -> None:
        """The study's report is written, and nothing comes after it."""

    @hookimpl
    def metafluence_study_started(self, study: Any) -> None:
        self.start(f"{study.config.name} seed {study.config.seed}", study.preparation.settings)

    @hookimpl
    def metafluence_run_finished(self, study: Any, run: Any) -> None:
        found = {name: float(getattr(run.row, name)) for name in NUMBERS}
        self.log(f"{run.row.level} {run.row.name}", {name: value for name, value in found.items() if isfinite(value)})

    @hookimpl
    def metafluence_report(self, study: Any, result: Any, path: Path) -> None:
        self.finish(path)
