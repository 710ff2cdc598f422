"""Trainers that minimise the objective over λ."""
