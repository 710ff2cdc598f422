"""Helpers for testing components, ours and anybody's. They need hypothesis and pytest."""
