"""Preconditioners of iterative solvers, one per file."""
