"""Helpers for testing components, ours and anybody's. They need hypothesis and pytest."""

from metafluence.testing.learners import learner_failures, learner_suite
from metafluence.testing.methods import method_failures, method_suite
from metafluence.testing.solvers import failures, solver_suite

__all__ = ["failures", "learner_failures", "learner_suite", "method_failures", "method_suite", "solver_suite"]
