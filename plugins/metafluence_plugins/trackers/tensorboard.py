"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metafluence import Plain, Tracker, optional_package


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Writes event files below `folder`, one folder for each study: `tensorboard --logdir runs`."""

    folder: str = "runs"
    _open: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def start(self, name: str, settings: Mapping[str, Plain]) -> None:
        board = optional_package("torch.utils.tensorboard", "tensorboard")
        self._open["writer"] = board.SummaryWriter(str(Path(self.folder) / name.replace("/", "-")))
        lines = [f"| {key} | {value} |" for key, value in settings.items()]
        self._open["writer"].add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]))

    def log(self, run: str, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._open["writer"].add_scalar(f"{name}/{run}", value)

    def finish(self, page: Path) -> None:
        self._open["writer"].add_text("report", str(page))
        self._open.pop("writer").close()
