"""Fits kept in files, with their checkpoints and history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields

import torch

from metafluence.runtime import CPU, Shelf
from metafluence.training.trainer import Checkpoint, Fit, Record, stack_checkpoints

APART = ("meta", "checkpoints", "history", "run")  # kept by themselves; a run in the folder that it was recorded in


def stored_fit(shelf: Shelf, name: str, make: Callable[[], Fit], device: torch.device = CPU) -> Fit:
    """The fit of that name, its tensors on `device`; made and kept if it is not on the shelf."""
    found = shelf.find(name)
    if found is not None:
        tensors, facts = found
        metas = tensors["checkpoints"].to(device).unbind(1)
        kept = zip(facts.pop("steps_kept"), facts.pop("learning_rates"), *metas, strict=True)
        history = tuple(Record(**record) for record in facts.pop("history"))
        checkpoints = tuple(Checkpoint(*one) for one in kept)
        return Fit(tensors["meta"].to(device), checkpoints=checkpoints, history=history, **facts)
    fit = make()
    facts = {f.name: getattr(fit, f.name) for f in fields(fit) if f.name not in APART}
    facts["history"] = [asdict(record) for record in fit.history]
    facts["steps_kept"] = [c.step for c in fit.checkpoints]
    facts["learning_rates"] = [c.learning_rate for c in fit.checkpoints]
    shelf.keep(name, {"meta": fit.meta, "checkpoints": stack_checkpoints(fit.checkpoints, fit.meta)}, facts)
    return fit
