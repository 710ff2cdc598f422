"""Meta-learners."""
