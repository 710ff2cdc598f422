"""`python -m metafluence` is the command line, as torchrun starts it."""

from metafluence.cli import main

main()
