"""Helpers for testing components, ours and anybody's. They need hypothesis and pytest."""

from metafluence.testing.methods import method_failures, method_suite
from metafluence.testing.solvers import failures, solver_suite

__all__ = ["failures", "method_failures", "method_suite", "solver_suite"]
