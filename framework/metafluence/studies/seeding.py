"""Where a study's randomness is seeded: one generator for each purpose."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Randomness for one purpose; what one purpose draws does not shift what another does."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
