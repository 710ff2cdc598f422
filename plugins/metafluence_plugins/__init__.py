"""The components that ship with metafluence, one per file. Each is listed in `registry.yaml`."""
