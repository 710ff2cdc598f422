"""Data sets, real and synthetic."""
