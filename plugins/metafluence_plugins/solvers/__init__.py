"""Solvers of linear systems with a curvature."""
