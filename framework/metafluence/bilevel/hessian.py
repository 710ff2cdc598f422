"""The total Hessian at a point, as an operator that solvers see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.linalg import LAYERED, PSD, SUM, SYMMETRIC, LinearOperator, random_groups
from metafluence.networks import LayerStack

if TYPE_CHECKING:  # a point makes its Hessian
    from metafluence.bilevel.point import Point


class Hessian(LinearOperator):
    """δI + Σ_i w_i H_i at a point, as an operator on columns [P, k]; H_i = Jᵀ C J for the form's C.

    With θ held, its Gauss-Newton form is that of one network over all query instances, whose layers are known.
    """

    def __init__(self, point: Point, jacobian: Jacobian, form: Form = "exact") -> None:
        self.point = point
        self.jacobian: Jacobian = jacobian
        self.form: Form = form
        learner = point.problem.learner
        tags = {SYMMETRIC, SUM}
        if form == "gauss-newton":
            held = jacobian == "held" or not learner.adapted_size
            tags |= {PSD, LAYERED} if held and learner.encodes else {PSD}
        self.tags = frozenset(tags)
        self.size, self.dtype, self.device = point.meta.numel(), point.meta.dtype, point.meta.device

    @property
    def structure(self) -> LayerStack | None:
        if LAYERED not in self.tags:
            return None
        weights = self.point.weights
        scaled = weights.task.unsqueeze(1) * weights.query / weights.query.shape[1]
        problem = self.point.problem
        parts = (self.point.meta, self.point.adapted, problem.tasks.query, scaled, problem.l2)
        return problem.learner.outer_layers(*parts)

    def matmat(self, columns: Tensor) -> Tensor:
        return self.point.product(columns, self.jacobian, self.form)

    def cast(self, dtype: torch.dtype) -> Hessian:
        return Hessian(self.point.cast(dtype), self.jacobian, self.form)

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        """By tasks; δI is in every part."""
        groups = random_groups(len(self.point.problem.tasks), count, generator)
        return [Hessian(self.point.part(group, len(groups)), self.jacobian, self.form) for group in groups]
