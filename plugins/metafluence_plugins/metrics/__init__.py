"""Metrics that a study can ask for."""
