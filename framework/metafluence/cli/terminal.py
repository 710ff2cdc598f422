"""Where the command line prints."""

from __future__ import annotations

import sys

from rich.console import Console

# Where the output goes to a file, tables get the width they need.
console = Console() if sys.stdout.isatty() else Console(width=120)
errors = Console(stderr=True)
