"""Fits kept in files, with their checkpoints and history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import torch

from metafluence.store import load_tensors, save_tensors
from metafluence.training import Checkpoint, Fit, Record


def stored_fit(file: Path, make: Callable[[], Fit]) -> Fit:
    """The fit in `file`; made and kept there if it is not."""
    if file.exists():
        tensors, facts = load_tensors(file)
        kept = zip(facts.pop("steps_kept"), facts.pop("learning_rates"), tensors["checkpoints"], strict=True)
        history = tuple(Record(**record) for record in facts.pop("history"))
        checkpoints = tuple(Checkpoint(*one) for one in kept)
        return Fit(tensors["meta"], checkpoints=checkpoints, history=history, **facts)
    fit = make()
    facts = {f.name: getattr(fit, f.name) for f in fields(fit) if f.name not in ("meta", "checkpoints", "history")}
    facts["history"] = [asdict(record) for record in fit.history]
    facts["steps_kept"] = [c.step for c in fit.checkpoints]
    facts["learning_rates"] = [c.learning_rate for c in fit.checkpoints]
    checkpoints = [c.meta for c in fit.checkpoints]
    stacked = torch.stack(checkpoints) if checkpoints else fit.meta.new_empty(0, fit.meta.numel())
    save_tensors(file, {"meta": fit.meta, "checkpoints": stacked}, facts)
    return fit
