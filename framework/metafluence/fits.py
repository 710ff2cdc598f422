"""Fits kept in files, with their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from metafluence.store import load_tensors, save_tensors
from metafluence.training import Checkpoint, Fit


def stored_fit(file: Path, make: Callable[[], Fit]) -> Fit:
    """The fit in `file`; made and kept there if it is not."""
    if file.exists():
        tensors, facts = load_tensors(file)
        metas = tensors["checkpoints"], tensors["before"]
        kept = zip(facts.pop("steps_kept"), facts.pop("learning_rates"), *metas, strict=True)
        return Fit(tensors["meta"], checkpoints=tuple(Checkpoint(*one) for one in kept), **facts)
    fit = make()
    facts = {f.name: getattr(fit, f.name) for f in fields(fit) if f.name not in ("meta", "checkpoints")}
    facts["steps_kept"] = [c.step for c in fit.checkpoints]
    facts["learning_rates"] = [c.learning_rate for c in fit.checkpoints]
    none = fit.meta.new_empty(0, fit.meta.numel())
    metas = {"checkpoints": [c.meta for c in fit.checkpoints], "before": [c.taken_at for c in fit.checkpoints]}
    stacked = {name: torch.stack(some) if some else none for name, some in metas.items()}
    save_tensors(file, {"meta": fit.meta, **stacked}, facts)
    return fit
