"""Curvatures: the Hessian and what stands in for it."""
