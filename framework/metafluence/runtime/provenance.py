"""What a result was made with: versions, the machine's system, and the commit of the folder worked in."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

import metafluence


def versions(folder: Path | None = None) -> dict[str, str | None]:
    """Versions of metafluence, python, torch and numpy, the platform, and the commit of `folder` (the working one).

    The commit ends in `-dirty` where tracked files were changed since; it is None outside of a git checkout.
    """
    return {
        "metafluence": metafluence.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "commit": _commit(folder or Path.cwd()),
    }


def _commit(folder: Path) -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
