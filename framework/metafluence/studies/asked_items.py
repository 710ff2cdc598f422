"""The items of which the ground truth is asked: where a run is replayed, those that its steps saw."""

from __future__ import annotations

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.evaluation import Evaluation
from metafluence.studies.config import TruthConfig
from metafluence.tasks import ITEM_NAMES, Level
from metafluence.training import TrainingRun


def asked_items(truth: TruthConfig | None, level: Level, problem: BilevelProblem, run: TrainingRun | None) -> Tensor:
    """The numbers of the items of a level that are asked about, in order."""
    if run is not None and truth is not None and truth.kind == "run":
        return run.drawn(level)
    return torch.arange(problem.tasks.items(level))


def unseen_note(evaluation: Evaluation, asked: Tensor) -> str:
    """What is said where the run saw some of the items alone; else empty."""
    whole = evaluation.problem.tasks.items(evaluation.level)
    if len(asked) == whole:
        return ""
    return (
        f"The recorded steps saw {len(asked)} of {whole} {ITEM_NAMES[evaluation.level]}. The others did not change "
        "them and score 0; ground truth is asked about those that they saw."
    )
