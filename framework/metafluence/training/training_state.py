"""The state of a fit by steps in one file, from which it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from metafluence.errors import StoreError
from metafluence.runtime import check_identity, load_tensors, save_tensors, warn
from metafluence.training.trainer import Checkpoint, Record, stack_checkpoints

OPTIMISER = "optimiser."


@dataclass
class TrainingState:
    """All that the next step depends on, and what is kept of those made.

    meta [P]: after `step` steps. best [P]: where validation was best. optimiser: its tensors by name. generator: its
    state, before the next step's draws.
    """

    meta: Tensor
    best: Tensor
    generator: Tensor
    step: int = 0
    seconds: float = 0.0
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    history: list[Record] = field(default_factory=list)


def save_training(file: str | Path, state: TrainingState, identity: Mapping[str, str]) -> None:
    """Keep the state, whole or not at all. identity: what the fit is of, by parts."""
    tensors = {
        "meta": state.meta,
        "best": state.best,
        "generator": state.generator,
        "checkpoints": stack_checkpoints(state.checkpoints, state.meta),
        **{OPTIMISER + name: tensor for name, tensor in state.optimiser.items()},
    }
    facts = {
        "identity": dict(identity),
        "step": state.step,
        "seconds": state.seconds,
        "kept": [[c.step, c.learning_rate] for c in state.checkpoints],
        "history": [asdict(record) for record in state.history],
    }
    save_tensors(Path(file), tensors, facts)


def load_training(file: str | Path, identity: Mapping[str, str], like: Tensor) -> TrainingState | None:
    """The state kept in `file`, on the device of the meta-parameters `like` [P]; None where there is none.

    A damaged file is warned of, and counts as none: the fit starts anew. Raises StoreError for that of another fit.
    """
    file = Path(file)
    if not file.exists():
        return None
    try:
        tensors, facts = load_tensors(file)
    except StoreError as error:
        warn(f"{error} The fit starts anew.")
        return None
    try:
        check_identity(file, facts["identity"], identity)
        meta, best, stacked = (tensors.pop(name) for name in ("meta", "best", "checkpoints"))
        if meta.shape != like.shape or meta.dtype != like.dtype:
            raise StoreError(
                f"{file} holds {list(meta.shape)} meta-parameters ({meta.dtype}); this learner has {list(like.shape)} "
                f"({like.dtype}). Use another folder."
            )
        return TrainingState(
            meta.to(like.device),
            best.to(like.device),
            tensors.pop("generator"),
            facts["step"],
            facts["seconds"],
            {name.removeprefix(OPTIMISER): tensor.to(like.device) for name, tensor in tensors.items()},
            [Checkpoint(*kept, *pair) for kept, pair in zip(facts["kept"], stacked.to(like.device), strict=True)],
            [Record(**record) for record in facts["history"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        warn(f"{file} is damaged ({error!r}). The fit starts anew.")
        return None
