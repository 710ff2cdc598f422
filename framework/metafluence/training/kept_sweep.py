"""A sweep back through a run, as far as it has come, in memory and in a file from which it goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metafluence.runtime import Shelf, digest_of, hash_tensor, warn
from metafluence.tasks import Level, weighed
from metafluence.training.run import TrainingRun


@dataclass
class Sweep:
    """left: segments of the run still to be swept, the first ones. parts: cotangents of the state's parts where the
    sweep is, [k, P] each. found [items, k]: slopes so far, by level. growth [steps + 1, k].
    """

    left: int
    parts: list[Tensor]
    found: dict[Level, Tensor]
    growth: Tensor

    @classmethod
    def start(cls, run: TrainingRun, goals: Tensor, levels: Sequence[Level]) -> Sweep:
        """Before the last step, for goals [P, k]."""
        rows = (goals * run.alive.unsqueeze(1)).T.contiguous()
        columns = goals.shape[1]
        growth = goals.new_zeros(run.steps + 1, columns)
        growth[run.steps] = rows.norm(dim=1)
        return cls(
            len(run.segments()),
            [rows, *(torch.zeros_like(rows) for _ in run.rule.moments)],
            {level: goals.new_zeros(run.weights.of(level).numel(), columns) for level in weighed(levels)},
            growth,
        )


class KeptSweep:
    """Where a sweep of these goals over this run is kept in a folder."""

    def __init__(self, folder: Path, run: TrainingRun, goals: Tensor, levels: Sequence[Level]) -> None:
        identity = digest_of(_identity(run, goals, levels))
        self._name, self._shelf = f"sweep-{identity}", Shelf(folder, identity, warn)
        self._start = Sweep.start(run, goals, levels)

    def load(self) -> Sweep:
        """The sweep as it was kept last; its start where nothing is kept. A damaged file is warned of."""
        kept = self._shelf.find(self._name)
        if kept is None:
            return self._start
        (tensors, facts), start = kept, self._start
        like = start.growth
        return Sweep(
            facts["left"],
            [tensors[f"part {i}"].to(like.device) for i in range(len(start.parts))],
            {level: tensors[level].to(like.device) for level in start.found},
            tensors["growth"].to(like.device),
        )

    def keep(self, sweep: Sweep) -> None:
        """Store the sweep, whole or not at all."""
        parts = {f"part {i}": part for i, part in enumerate(sweep.parts)}
        self._shelf.keep(self._name, {**parts, **sweep.found, "growth": sweep.growth}, {"left": sweep.left})


def _identity(run: TrainingRun, goals: Tensor, levels: Sequence[Level]) -> dict[str, str]:
    digest = hashlib.sha256()
    for tensor in (*run.batches, torch.tensor(run.rates, dtype=torch.float64), *run.state(run.steps).parts, goals):
        hash_tensor(digest, tensor)
    return {
        "problem": run.problem.fingerprint(),
        "weights": run.weights.fingerprint(),
        "rule": repr(run.rule),
        "levels": " ".join(weighed(levels)),
        "every": str(run.every),
        "steps and goals": digest.hexdigest(),
    }
