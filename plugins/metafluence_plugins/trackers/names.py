"""Names that trackers take."""

from __future__ import annotations

import re


def plain(name: str) -> str:
    """`name` with letters, digits, points, spaces, -, _ and / alone, which is all that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
