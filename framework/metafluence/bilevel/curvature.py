"""Curvature: the operator that influence inverts, chosen apart from the solver that inverts it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from metafluence.bilevel.linearisation import Jacobian
from metafluence.bilevel.point import Point
from metafluence.linalg import LinearOperator
from metafluence.registry import Component


class Curvature(Component, ABC):
    """Makes δI + Σ_i w_i C_i at a point. A frozen dataclass: its fields are its configuration.

    The point carries the problem, λ, the weights and the adapted tasks, so that adaptation and linearisation are done
    once for all curvatures and responses.

    Example:
        >>> import torch, metafluence as mf
        >>> half = mf.Batch(torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[0, 1]]))
        >>> learner = mf.build("learner", "joint", backbone=torch.nn.Linear(1, 2, bias=False))
        >>> exact = mf.build("solver", "exact")
        >>> problem = mf.BilevelProblem(learner, mf.TaskSet(half, half, ("only",)), l2=0.5, inner_solver=exact)
        >>> curvature, point = mf.build("curvature", "exact"), problem.at(torch.zeros(2))
        >>> curvature.jacobian(point)
        'total'
        >>> curvature.at(point).dense()  # 0.5 on the diagonal, and the Hessian of a softmax loss
        tensor([[ 0.7500, -0.2500],
                [-0.2500,  0.7500]])
    """

    @abstractmethod
    def jacobian(self, point: Point) -> Jacobian:
        """The dθ/dλ of this curvature and of the responses that go with it."""

    @abstractmethod
    def at(self, point: Point) -> LinearOperator:
        """The operator on columns [P, k]. Raises InputError where it has no meaning for the learner."""
