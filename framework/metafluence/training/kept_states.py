"""States and gradients of a recorded run, in memory or in files that say what of which run they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from metafluence.errors import StoreError
from metafluence.runtime import load_tensors, save_tensors, warn
from metafluence.training.step_rules import StepState

STATE, GRADIENTS = "state", "gradients"


class KeptStates:
    """States of a run by their step, and gradients of the steps after them: in memory, or in files of a folder.

    identity: of the run.
    """

    def __init__(self, folder: Path | None = None, identity: str = "") -> None:
        self._folder, self.identity = folder, identity
        self._here: dict[int, StepState] = {}
        self._gradients: dict[int, Tensor] = {}

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

    def put_gradients(self, step: int, gradients: Sequence[Tensor]) -> None:
        """Keep the gradients [P], without l2, of the steps that follow the state after `step` steps."""
        if not gradients:
            return
        stacked = torch.stack(list(gradients))
        if self._folder is None:
            self._gradients[step] = stacked
        else:
            save_tensors(self._file(step, GRADIENTS), {GRADIENTS: stacked}, {}, self._named(step, GRADIENTS))

    def gradients(self, step: int, device: torch.device) -> Tensor:
        """The gradients [steps, P] of the first steps after the state of `step` steps, as far as they are kept.

        A damaged file is warned of, and counts as none.
        """
        if self._folder is None:
            return self._gradients.get(step, torch.zeros(0))
        file = self._file(step, GRADIENTS)
        try:
            found = load_tensors(file, self._named(step, GRADIENTS))[0][GRADIENTS] if file.exists() else torch.zeros(0)
        except StoreError as error:
            warn(f"{error} The steps are made again.")
            return torch.zeros(0)
        return found.to(device)

    def forget(self, step: int) -> None:
        """Remove from the folder the states after more than `step` steps, and the gradients of later steps."""
        assert self._folder is not None
        for kind, first in ((STATE, step + 1), (GRADIENTS, step)):
            for file in self._folder.glob(f"{kind}-*.safetensors"):
                if file.name >= self._file(first, kind).name:
                    file.unlink()

    def _named(self, step: int, kind: str = STATE) -> str:
        return f"{self.identity} {'' if kind == STATE else kind + ' '}after step {step}"

    def _file(self, step: int, kind: str = STATE) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{step:08d}.safetensors"
