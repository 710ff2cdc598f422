"""The items of which the ground truth is asked: where a run is replayed, those that its steps saw."""

from __future__ import annotations

import torch
from torch import Tensor

from metafluence.evaluation import Evaluation
from metafluence.studies.config import TruthConfig
from metafluence.tasks import ITEM_NAMES, Level
from metafluence.training import TrainingRun


def seen_items(truth: TruthConfig | None, level: Level, run: TrainingRun | None) -> Tensor | None:
    """The numbers of the items of a level that a replayed run saw; None if it saw all, or if no one run is replayed."""
    if run is None or truth is None or truth.kind != "run":
        return None
    seen = run.drawn(level).cpu()
    return None if len(seen) == run.problem.tasks.items(level) else seen


def asked_items(items: int, seen: Tensor | None) -> Tensor:
    """The numbers of those of `items` items that are asked about, in order."""
    return torch.arange(items) if seen is None else seen


def unseen_note(evaluation: Evaluation) -> str:
    """What is said where the run saw some of the items alone; else empty."""
    if evaluation.seen is None:
        return ""
    return (
        f"The recorded steps saw {len(evaluation.seen)} of {evaluation.problem.tasks.items(evaluation.level)} "
        f"{ITEM_NAMES[evaluation.level]}. The others had no part in these steps and score 0; ground truth asks about "
        "the items that they saw."
    )
