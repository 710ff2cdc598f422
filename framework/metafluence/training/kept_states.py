"""States of a recorded run, in memory or in files that say which state of which run they hold."""

from __future__ import annotations

from pathlib import Path

import torch

from metafluence.runtime import load_tensors, save_tensors
from metafluence.training.step_rules import StepState


class KeptStates:
    """States of a run by their step, in memory, or in a folder with a file for each; identity: of the run."""

    def __init__(self, folder: Path | None = None, identity: str = "") -> None:
        self._folder, self.identity = folder, identity
        self._here: dict[int, StepState] = {}

    def put(self, state: StepState) -> None:
        if self._folder is None:
            self._here[state.step] = state
            return
        tensors = {str(i): part for i, part in enumerate(state.parts)}
        save_tensors(self._file(state.step), tensors, {}, self._named(state.step))

    def get(self, step: int, device: torch.device) -> StepState:
        """The state after `step` steps. Raises StoreError where its file is damaged or of another run."""
        if self._folder is None:
            return self._here[step]
        tensors, _ = load_tensors(self._file(step), self._named(step) if self.identity else None)
        return StepState(step, tuple(tensors[str(i)].to(device) for i in range(len(tensors))))

    def __contains__(self, step: int) -> bool:
        return step in self._here if self._folder is None else self._file(step).exists()

    def _named(self, step: int) -> str:
        return f"{self.identity} after step {step}"

    def _file(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder / f"state-{step:08d}.safetensors"
