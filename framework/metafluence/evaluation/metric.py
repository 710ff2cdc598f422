"""What a metric is: numbers about one run, each of which is a column of the tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from metafluence.errors import InputError
from metafluence.evaluation.measured import NO_CLASSES, NO_TRUTH, Measured
from metafluence.evaluation.truth_kind import TruthKind
from metafluence.registry import Component

Better = Literal["", "high", "low"]
"""Which values of a number are the better ones; empty where neither."""


@dataclass(frozen=True)
class Number:
    """What one of a metric's numbers is: how its column is headed and explained, and which values are better.

    Attributes:
        name: As `measure` calls it.
        label: The heading of its column; its full name if not given.
        meaning: In a sentence. {name}, {short} and {again} stand for what the truth is called.
        unit: Such as "nats"; empty for a plain number.
        form: Format of a number; "%" for a percentage.
        better: Which values are better; only then methods are ranked by it.
        chance: The value of a method that knows nothing; one that is not better is never the best.
        bounds: The smallest and the largest possible value.
        shown: It is a column of the tables for readers; otherwise only of the files of results.
    """

    name: str
    label: str = ""
    meaning: str = ""
    unit: str = ""
    form: str = ".3g"
    better: Better = ""
    chance: float | None = None
    bounds: tuple[float, float] = (-inf, inf)
    shown: bool = True

    @property
    def about(self) -> str:
        """Its meaning where the truth is exact retraining."""
        return TruthKind().words.said(self.meaning)


Need = Literal["truth", "single items", "subsets", "parameters", "corrupted items", "classes"]
"""What a metric may need of a study or of a method."""

NEEDS: dict[Need, tuple[Callable[[Measured], bool], str]] = {
    "truth": (lambda run: run.evaluation.truth is not None, NO_TRUTH),
    "single items": (
        lambda run: run.truth.reliability.usable,
        "Runs do not agree on what single items do, so nothing is compared with it. Ask `truth: {kind: run}`.",
    ),
    "subsets": (
        lambda run: len(run.truth.subsets) > 2 and run.truth.subset_reliability.usable,
        "It needs random subsets, and there are none that runs agree on. Set `truth: {subsets: 20}`, say.",
    ),
    "parameters": (
        lambda run: run.change is not None,
        "It compares predicted parameters with true ones, and the method or the truth has none. Leave it out.",
    ),
    "corrupted items": (
        lambda run: bool(run.corrupted.any()) and not bool(run.corrupted.all()),
        "It looks for corrupted items, and none or all are. Give the study a `corruption`.",
    ),
    "classes": (lambda run: not run.evaluation.test_tasks.real, NO_CLASSES),
}
"""Whether a run has it, and what is said where it has not. What needs more of the truth needs `truth` first."""


class Metric(Component, ABC):
    """Numbers about a run, under names. A frozen dataclass: its fields are its parameters.

    A study asks for metrics by `metrics: [NAME, ...]`. Each number is a column of its tables, and `metric.NAME` in
    results.csv; those of the metrics that every table has stand there under their own names.

    Class variables:
        compares: it looks at other runs, so that its numbers are never taken from a store.
        needs: what it needs; where that is lacking, the metric is not asked.

    Example:
        >>> from dataclasses import dataclass
        >>> import metafluence as mf
        >>> @dataclass(frozen=True)
        ... class Harmful(mf.Metric):
        ...     "The share of items that are said to harm."
        ...
        ...     def numbers(self):
        ...         return (mf.Number("share", form="%", bounds=(0, 1)),)
        ...
        ...     def measure(self, run):
        ...         return {"share": float((run.scores < 0).double().mean())}
        >>> Harmful().needs
        ()
    """

    compares: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = ()

    @abstractmethod
    def measure(self, run: Measured) -> Mapping[str, float]:
        """Numbers by name; NaN, or no number, where nothing can be said.

        Raises InputError, saying what is lacking, where the metric has no meaning for the run.
        """

    def numbers(self) -> tuple[Number, ...]:
        """What its numbers are, in the order of their columns. One that is not among them is a plain number."""
        return ()

    def of(self, run: Measured) -> Mapping[str, float]:
        """What `measure` gives, if the run has what the metric needs. Raises InputError, saying what is lacking."""
        sentence = self.lacks(run)
        if sentence:
            raise InputError(sentence)
        return self.measure(run)

    def lacks(self, run: Measured) -> str:
        """The first thing that it needs and the run has not, in a sentence; empty where nothing is lacking."""
        return next((sentence for has, sentence in (NEEDS[need] for need in self.needs) if not has(run)), "")
