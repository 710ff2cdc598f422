"""Helpers for testing components, ours and anybody's. They need hypothesis and pytest."""

from metafluence.testing.differences import assert_derivative, central_difference, central_jacobian
from metafluence.testing.executors import executor_failures, executor_suite
from metafluence.testing.learners import learner_failures, learner_suite
from metafluence.testing.methods import method_failures, method_suite
from metafluence.testing.solvers import failures, solver_suite

__all__ = [
    "assert_derivative",
    "central_difference",
    "central_jacobian",
    "executor_failures",
    "executor_suite",
    "failures",
    "learner_failures",
    "learner_suite",
    "method_failures",
    "method_suite",
    "solver_suite",
]
