"""What a metric is: numbers about one run's scores, beside those that every table has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, Targets, prepare_and_score
from metafluence.errors import InputError
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.extremes import changes_without
from metafluence.evaluation.ground_truth import Truth
from metafluence.registry import Component
from metafluence.tasks import Level, Removal, TaskSet


@dataclass(frozen=True)
class Measured:
    """One run of a method, and what its scores can be held against. Tensors are on the processor, losses in nats."""

    evaluation: Evaluation
    method: AttributionMethod
    scores: Tensor
    """Of all items for the mean loss of the targets, [items]."""
    peers: Mapping[str, Tensor] = field(default_factory=dict)
    """The scores [items] of the study's other runs at this level, by method and solver as the table calls them."""
    name: str = ""
    """What the table calls this one."""

    @property
    def level(self) -> Level:
        return self.evaluation.level

    @property
    def truth(self) -> Truth:
        """Retraining without items. Raises InputError where the study has none."""
        if self.evaluation.truth is None:
            raise InputError("It compares with retraining, and there is no `truth` here. Give the study one.")
        return self.evaluation.truth

    @cached_property
    def target_scores(self) -> Tensor:
        """Scores of all items for each target alone, [items, T]: the method is run once more."""
        return self.scores_for(self.evaluation.validation)

    def scores_for(self, tasks: TaskSet) -> Tensor:
        """Scores of all items for each of these tasks, [items, tasks]; the mean over the runs of a procedure."""
        found = []
        for one in self.evaluation.runs:
            targets = Targets(one.problem, tasks, one.meta, mean=False)
            found.append(prepare_and_score(self.method, one.context(), targets)[1].values)
        return torch.stack(found).mean(dim=0).cpu()

    def changes_without(self, removals: Sequence[Removal]) -> Tensor:
        """The change of each target's loss without each removal, [removals, T], by the study's own truth.

        NaN where a model without these items could not be made. Raises InputError where the study has no truth.
        """
        return changes_without(self._retrained, removals)

    def test_losses(self, removal: Removal = ()) -> Tensor:
        """The loss of each test task without these items, [tests]; NaN where such a model could not be made."""
        found = []
        for one in self._retrained.runs:
            problem = one.problem.over(one.test_tasks)
            meta = _without(one, removal)
            nothing = torch.full((len(one.test_tasks),), torch.nan, dtype=one.meta.dtype)
            found.append(nothing if meta is None else problem.at(meta).task_losses.cpu())
        return torch.stack(found).mean(dim=0)

    def right(self, removal: Removal = ()) -> Tensor | None:
        """Which query instances of each target are classified rightly without these items, [T, n_q].

        None where such a model could not be made. Of several runs the first. Raises InputError for real targets.
        """
        one = self._retrained
        if one.validation.real:
            raise InputError("It looks at classes, and the targets are real numbers. Leave it out of this study.")
        meta = _without(one, removal)
        if meta is None:
            return None
        found = one.problem.over(one.validation).at(meta).predictions.argmax(dim=-1)
        return (found == one.validation.query.targets.to(found.device)).cpu()

    @property
    def _retrained(self) -> Evaluation:
        assert self.truth is not None
        return self.evaluation


class Metric(Component, ABC):
    """Numbers about a run, under names. A frozen dataclass: its fields are its parameters.

    A study asks for metrics by `metrics: [NAME, ...]`. Each number is a column of the report's
    table, and `metric.NAME` in results.csv.

    Class variables:
        compares: it looks at other runs, so that its numbers are never taken from a store.

    Example:
        >>> from dataclasses import dataclass
        >>> import metafluence as mf
        >>> @dataclass(frozen=True)
        ... class Harmful(mf.Metric):
        ...     "The share of items that are said to harm."
        ...
        ...     def measure(self, run):
        ...         return {"share": float((run.scores < 0).double().mean())}
        >>> Harmful().compares
        False
    """

    compares: ClassVar[bool] = False

    @abstractmethod
    def measure(self, run: Measured) -> Mapping[str, float]:
        """Numbers by name; NaN, or no number, where nothing can be said.

        Raises InputError, saying what is lacking, where the metric has no meaning for the run.
        """


def _without(evaluation: Evaluation, removal: Removal) -> Tensor | None:
    """λ [P] without these items; None where it could not be made."""
    if not removal:
        return evaluation.meta
    assert evaluation.bank is not None, "it is asked of the truth"
    found = evaluation.bank.leave_out([removal], evaluation.level, strict=False)
    return found.meta[:, 0] if bool(found.converged[0]) else None
