"""What a study found."""

from __future__ import annotations

from dataclasses import dataclass, field

from metafluence.bilevel import Diagnostics
from metafluence.evaluation import Budget, Cell, Certificate, Evaluation, Number, Row, Run, TestQuality, Truth
from metafluence.registry import Plain
from metafluence.runtime import notebook_view
from metafluence.studies.candidates import CandidateScores
from metafluence.studies.config import StudyConfig
from metafluence.tasks import Level, Split
from metafluence.training import Fit


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The results of a study."""

    config: StudyConfig
    runs: tuple[Run, ...]
    grid: tuple[Cell, ...]
    """Pairs of inner and outer solvers."""
    split: Split
    fit: Fit
    diagnostics: Diagnostics | None
    """Of the fit as a minimum; None where runs are replayed."""
    evaluations: dict[Level, Evaluation]
    """By level, what its runs shared, with the ground truth."""
    full: TestQuality
    """At λ*."""
    clean: dict[Level, TestQuality]
    """By level, after retraining without exactly the corrupted items; NaN where none is corrupted."""
    budgets: tuple[Budget, ...]
    """Errors by source."""
    certificates: tuple[Certificate, ...]
    """By level, whether influence can be trusted."""
    candidates: dict[Level, CandidateScores]
    """By level, what adding tasks would do that were not trained on; empty where none are asked."""
    warnings: tuple[str, ...]
    reused: int
    """How many runs came from the store."""
    settings: dict[str, Plain]
    """What the study was done with, plain values by dotted name (`learner.penalty`)."""
    numbers: dict[str, Number] = field(default_factory=dict)
    """What the numbers of the study's `metrics` are, by the column of results.csv."""
    columns: tuple[str, ...] = ()
    """The columns of its tables, as results.csv calls them; empty where the study leaves that open."""

    @property
    def rows(self) -> list[Row]:
        return [run.row for run in self.runs]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status != "ok"]

    def at(self, level: Level) -> list[Run]:
        """The runs at one level."""
        return [run for run in self.runs if run.row.level == level]

    def _repr_html_(self) -> str:
        """For a notebook: what can be trusted, then the runs."""
        columns = {"spearman": "Spearman", "change_error": "Δλ error", "auroc": "AUROC", "seconds": "seconds"}
        rows = [
            (row.level, row.method, row.solver, *(getattr(row, name) for name in columns), row.reason)
            for row in self.rows
        ]
        said = [f"{one.level} level: {one.verdict}" for one in self.certificates]
        headings = ("level", "method", "solver", *columns.values(), "")
        return notebook_view(f"Study {self.config.name}", [*said, *self.warnings], headings, rows)

    @property
    def truth(self) -> Truth | None:
        """That of the first level."""
        return next(iter(self.evaluations.values())).truth
