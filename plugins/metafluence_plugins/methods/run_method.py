"""What methods that follow a recorded run have in common."""

from __future__ import annotations

from typing import ClassVar

from metafluence import LEVELS, AttributionMethod, Level, TrainingRun


class RunMethod(AttributionMethod):
    """A first order in the weights of all items of a recorded run, which also predicts parameters."""

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    edits: ClassVar[bool] = True
    needs_minimum: ClassVar[bool] = False

    @property
    def additive(self) -> bool:
        return True

    @property
    def needs_run(self) -> bool:
        return True


def left_out(run: TrainingRun) -> tuple[str, ...]:
    """A note that names the parameters without effect, which derivatives of the run leave out; none where all have."""
    dead = run.dead_parameters()
    return (f"Left out, as they have no effect on the loss: {', '.join(dead)}.",) if dead else ()
