"""Where the command line prints."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

# Names of users may hold what rich would read as markup. It is printed as it is.
PLAIN: dict[str, Any] = {"markup": False, "emoji": False}

# Where the output goes to a file, tables get the width they need.
console = Console(**PLAIN) if sys.stdout.isatty() else Console(width=120, **PLAIN)
errors = Console(stderr=True, **PLAIN)
