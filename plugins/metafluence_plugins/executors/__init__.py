"""Where retraining runs: one process, several, a cluster."""
