"""Helpers for testing components, ours and anybody's. They need hypothesis and pytest."""

from metafluence.testing.solvers import failures, solver_suite

__all__ = ["failures", "solver_suite"]
