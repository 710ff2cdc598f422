"""The total Hessian at a point, as an operator that solvers see.

Its formula is in `implicit_linearisation.py` where θ is an argmin, and in `unrolled_linearisation.py` where θ comes
from steps or a closed form; `point.py` sums the tasks.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.learners import MetaLearner
from metafluence.linalg import LAYERED, PSD, SUM, SYMMETRIC, LinearOperator, random_groups
from metafluence.networks import LayerStack


class HessianSource(Protocol):
    """A point, as its Hessian sees it."""

    @property
    def meta(self) -> Tensor:
        """λ [P]."""
        ...

    @property
    def learner(self) -> MetaLearner: ...

    def __len__(self) -> int:
        """N, the number of tasks."""
        ...

    def product(self, columns: Tensor, jacobian: Jacobian, form: Form) -> Tensor:
        """(δI + Σ_i w_i H_i) V for V [P, k]."""
        ...

    def outer_layers(self) -> LayerStack:
        """The layers behind the outer losses with θ held."""
        ...

    def part(self, tasks: Tensor, scale: float) -> HessianSource:
        """The same λ with some of the tasks, their weights times `scale`."""
        ...

    def cast(self, dtype: torch.dtype) -> HessianSource:
        """The same λ in another precision."""
        ...


class Hessian(LinearOperator):
    """δI + Σ_i w_i H_i at a point, as an operator on columns [P, k]; H_i = Jᵀ C J for the form's C.

    With θ held, its Gauss-Newton form is that of one network over all query instances, whose layers are known
    (tag `layered`).
    """

    def __init__(self, point: HessianSource, jacobian: Jacobian, form: Form = "exact") -> None:
        self.point = point
        self.jacobian: Jacobian = jacobian
        self.form: Form = form
        learner = point.learner
        tags = {SYMMETRIC, SUM}
        if form == "gauss-newton":
            held = jacobian == "held" or not learner.adapted_size
            tags |= {PSD, LAYERED} if held and learner.encodes else {PSD}
        self.tags = frozenset(tags)
        self.size, self.dtype, self.device = point.meta.numel(), point.meta.dtype, point.meta.device

    @property
    def structure(self) -> LayerStack | None:
        return self.point.outer_layers() if LAYERED in self.tags else None

    def matmat(self, columns: Tensor) -> Tensor:
        return self.point.product(columns, self.jacobian, self.form)

    def cast(self, dtype: torch.dtype) -> Hessian:
        return Hessian(self.point.cast(dtype), self.jacobian, self.form)

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        """By tasks; δI is in every part."""
        groups = random_groups(len(self.point), count, generator)
        return [Hessian(self.point.part(group, len(groups)), self.jacobian, self.form) for group in groups]
