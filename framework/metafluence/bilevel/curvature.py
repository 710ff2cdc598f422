"""Curvature: the operator that influence inverts, chosen apart from the solver that inverts it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from metafluence.bilevel.linearisation import Jacobian
from metafluence.bilevel.point import Point
from metafluence.linalg import LinearOperator
from metafluence.registry import Component


class Curvature(Component, ABC):
    """A frozen dataclass that makes δI + Σ_i w_i C_i of a point.

    The point carries the problem, the meta-parameters, the weights and the adapted tasks, so that adaptation and
    linearisation are done once however many curvatures and responses are asked for.
    """

    @abstractmethod
    def jacobian(self, point: Point) -> Jacobian:
        """The dθ/dλ under which this curvature, and the responses that go with it, are taken."""

    @abstractmethod
    def at(self, point: Point) -> LinearOperator:
        """The operator on columns [P, k]. Raises InputError where it has no meaning for the learner."""
