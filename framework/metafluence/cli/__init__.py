"""The command line. Whatever needs torch is reached through `metafluence`'s lazy names."""

from metafluence.cli.app import app, main
