"""One run of a method, as metrics see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, ParameterChange, Targets, Units, prepare_and_score
from metafluence.errors import InputError
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.extremes import changes_without
from metafluence.evaluation.ground_truth import Truth
from metafluence.evaluation.metrics import Array, ChangeAgreement, change_agreement
from metafluence.evaluation.row import RemovalCurve
from metafluence.tasks import Level, Removal, TaskSet

NO_TRUTH = "It compares with retraining, and there is no `truth` here. Give the study one."
NO_CLASSES = "It looks at classes, and the targets are real numbers. Leave it out of this study."


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
    units: Units = "loss_change"
    """Of the scores."""
    curve: RemovalCurve = field(default_factory=RemovalCurve.unknown)
    """The test tasks after removing the items of lowest score, an entry for each of `Evaluation.remove`."""
    states: tuple[Any, ...] = ()
    """The method's state at each of the evaluation's runs, where it is prepared already."""

    @property
    def level(self) -> Level:
        return self.evaluation.level

    @property
    def truth(self) -> Truth:
        """Retraining without items. Raises InputError where the study has none."""
        if self.evaluation.truth is None:
            raise InputError(NO_TRUTH)
        return self.evaluation.truth

    @property
    def scores_alone(self) -> Array:
        """The scores of the truth's single items, [s], as numpy has them."""
        return self.scores[[removal[0] for removal in self.truth.removals]].numpy()

    @property
    def corrupted(self) -> Tensor:
        """Which items are corrupted, [items]."""
        return self.evaluation.problem.tasks.corrupted_items(self.level).cpu()

    @cached_property
    def change(self) -> ParameterChange | None:
        """Predicted Δλ without each single item of the truth; None where the method predicts none, or the truth has
        none. Made once.
        """
        if self.truth.change is None:
            return None
        state = self.states[0] if self.states else self.method.prepare(self.evaluation.runs[0].context())
        return self.method.parameter_change(state, self.truth.removals)

    @cached_property
    def agreement(self) -> ChangeAgreement | None:
        """Of the predicted with the true Δλ, a number for each single item; None where one of the two is lacking."""
        if self.change is None or self.truth.change is None:
            return None
        return change_agreement(self.change.values.cpu().numpy(), self.truth.change.numpy())

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
            raise InputError(NO_CLASSES)
        meta = _without(one, removal)
        if meta is None:
            return None
        found = one.problem.over(one.validation).at(meta).predictions.argmax(dim=-1)
        return (found == one.validation.query.targets.to(found.device)).cpu()

    @property
    def _retrained(self) -> Evaluation:
        assert self.truth is not None
        return self.evaluation


def _without(evaluation: Evaluation, removal: Removal) -> Tensor | None:
    """λ [P] without these items; None where it could not be made."""
    if not removal:
        return evaluation.meta
    assert evaluation.bank is not None, "it is asked of the truth"
    found = evaluation.bank.leave_out([removal], evaluation.level, strict=False)
    return found.meta[:, 0] if bool(found.converged[0]) else None
