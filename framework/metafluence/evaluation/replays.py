"""The ground truth of a recorded run: the run replayed without items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.errors import InputError
from metafluence.tasks import Level, Removal, check_removals
from metafluence.training import TrainingRun, made_anew, missed_end


@dataclass(frozen=True)
class Replayed:
    """change [P, s]: the final λ after each of s removals, minus the run's own; loss_change [s, T]: of the targets.

    Of a loop of one's own, whose sums were rounded otherwise, the run's own end is that of its replay.
    """

    change: Tensor
    loss_change: Tensor


def replayed(
    run: TrainingRun,
    removals: Sequence[Removal],
    targets: Targets,
    level: Level = "task",
    weight: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Replay a run without each of some sets of items: same start, batches and rates, other weights.

    This is the truth about this very run. What the procedure ends in, from another seed, may be something else.

    Args:
        run: the run.
        removals: the sets of items.
        targets: whose losses are compared, each after adaptation.
        level: of the items.
        weight: what the items' weights are multiplied by: 0 removes them, 0.9 lowers their weights by a tenth.
        progress: told how many are done, of how many.

    Raises:
        InputError: there is no removal, or one names an item that the run has not; or the run is a loop's, and its
            replay ends elsewhere.
        ConvergenceError: a replay diverges.
    """
    removals = check_removals(removals, run.problem.tasks.items(level), level, nothing=True)
    run = replayable(run)
    before = targets.losses(run.final)
    metas, losses = [], []
    for done, removal in enumerate(removals, start=1):
        metas.append(run.replay(run.removing(level, removal, weight)))
        losses.append(targets.losses(metas[-1]) - before)
        if progress is not None:
            progress(done, len(removals))
    return Replayed(torch.stack(metas, dim=1) - run.final.unsqueeze(1), torch.stack(losses))


def replayable(run: TrainingRun) -> TrainingRun:
    """The run whose replays are exact: of a loop of one's own the run made anew, at the cost of its steps.

    Raises InputError where that ends elsewhere than the loop.
    """
    if not run.drift:
        return run
    made = made_anew(run)
    missed = missed_end(run, made)
    if missed:
        raise InputError(f"Replays are not of this loop. {missed} Replays of mf.remade_run(run) are of that one.")
    return made
