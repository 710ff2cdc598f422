"""The certificate of a study whose truth is its run: whether a first order predicts replays."""

from __future__ import annotations

import math

import torch

from metafluence.attribution import Targets
from metafluence.evaluation.certificate import Certificate, Check, Grade
from metafluence.evaluation.run_trust import COSINE, FLOOR, ORDER, SLOPE, SMOOTH, RunTrust, run_trust
from metafluence.tasks import Level
from metafluence.training import TrainingRun

METHOD = "run-influence"
GRADES: dict[str, Grade] = {"sizes": "sizes and order", "order": "order", "none": "neither"}
SENTENCES = {
    "sizes": "Influence through this run can be trusted, its sizes and its order.",
    "order": "The order of items through this run can be trusted, the sizes of their effects cannot.",
    "none": "Influence through this run cannot be trusted; replay what matters.",
}


def certify_run(run: TrainingRun, targets: Targets, level: Level, seed: int = 0) -> Certificate:
    """Try the run (`run_trust`) and judge what its derivatives are worth, for this run alone.

    Args:
        run: the run.
        targets: whose mean loss is predicted.
        level: of the items.
        seed: of the random sets that are left out.
    """
    found = run_trust(run, targets, level, generator=torch.Generator().manual_seed(seed))
    verdict = f"{SENTENCES[found.verdict]} {found.reason} It holds for this run alone."
    return Certificate(METHOD, level, GRADES[found.verdict], verdict, _checks(found), found)


def _checks(found: RunTrust) -> tuple[Check, ...]:
    if math.isnan(found.metasmoothness):
        return ()
    floor = f"a tenth of a change moves the run {found.moved[-2]:.2f} times as far as a tenth of the way"
    return (
        Check("metasmoothness", f"{found.metasmoothness:.3f}", f"at least {SMOOTH:g}", found.metasmoothness >= SMOOTH),
        Check("floor", floor, f"at most {FLOOR:g} times", found.moved[-2] <= FLOOR),
        Check(
            "weight 0.9",
            f"cosine {found.lowered_cosine:.3f} of predicted and true Δλ, length ratio {found.lowered_ratio:.2f}",
            f"cosine at least {COSINE:g}",
            found.lowered_cosine >= COSINE,
        ),
        Check(
            "order", f"Spearman {found.order:.2f} on random sets left out", f"at least {ORDER:g}", found.order >= ORDER
        ),
        Check(
            "sizes",
            f"slope {found.slope:.2f} on random sets left out",
            f"{1 / SLOPE:.2f} to {SLOPE:g}",
            1 / SLOPE <= found.slope <= SLOPE,
        ),
    )
