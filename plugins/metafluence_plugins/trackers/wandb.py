"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metafluence import Plain, Tracker, optional_package


@dataclass(frozen=True)
class WandB(Tracker):
    """A run of `project` for each study; without a login set WANDB_MODE=offline."""

    project: str = "metafluence"
    _open: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def start(self, name: str, settings: Mapping[str, Plain]) -> None:
        wandb = optional_package("wandb", "wandb")
        self._open["run"] = wandb.init(project=self.project, name=name, config=dict(settings), reinit=True)

    def log(self, run: str, numbers: Mapping[str, float]) -> None:
        self._open["run"].summary.update({f"{name}/{run}": value for name, value in numbers.items()})

    def finish(self, page: Path) -> None:
        self._open["run"].save(str(page), base_path=str(page.parent), policy="now")
        self._open.pop("run").finish()
