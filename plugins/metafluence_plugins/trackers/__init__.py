"""Experiment trackers that follow a study."""
