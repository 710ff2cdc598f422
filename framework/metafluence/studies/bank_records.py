"""What a bank of retrainings holds of each variation of its study."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks import Level, Removal


@dataclass(frozen=True, kw_only=True)
class BankedLevel:
    """Exact retrainings without items of one level."""

    removals: tuple[Removal, ...]
    """What was left out, r of them: single items first, then random subsets."""
    singles: int
    """How many of them are single items."""
    change: Tensor
    """λ without them − λ*, [P, r], in single precision."""
    loss_change: Tensor
    """Change of every target's loss, [r, T], in nats."""


@dataclass(frozen=True, kw_only=True)
class BankedVariation:
    """A variation of the study: the fit λ* that retrainings start from, and what they ended in."""

    varied: dict[str, str]
    """The values that this variation takes, in words, by the name of what is varied."""
    seed: int
    start: Tensor
    """λ*, [P]."""
    gradient_norm: float
    """The largest ‖∇F‖ of λ* and of all fits without items."""
    fingerprints: dict[str, str]
    """Hashes of the training tasks, of the targets and of λ*, by these names: train, targets, start."""
    targets: tuple[str, ...]
    """Names of the targets: the study's validation tasks."""
    levels: dict[Level, BankedLevel]

    @property
    def label(self) -> str:
        """In words."""
        return ", ".join([*(f"{name} {value}" for name, value in self.varied.items()), f"seed {self.seed}"])

    @property
    def retrainings(self) -> int:
        """How many there are."""
        return sum(len(one.removals) for one in self.levels.values())

    def table(self, level: Level) -> pd.DataFrame:
        """The true change of every target's loss (columns) without each single item (rows, by its number), in nats.

        Positive: the item was helping. Raises InputError for a level that the bank does not have.
        """
        if level not in self.levels:
            raise InputError(f"This bank has no level {level!r}. Levels: {', '.join(self.levels)}. Name one of them.")
        found = self.levels[level]
        count = found.singles
        items = pd.Index([removal[0] for removal in found.removals[:count]], name="item")
        return pd.DataFrame(found.loss_change[:count].numpy(), items, pd.Index(self.targets, name="target"))
