"""A folder of state_dicts as the checkpoints of a training that was not recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from metafluence.bilevel import BilevelProblem
from metafluence.errors import DataError, InputError
from metafluence.learners import NetworkLearner
from metafluence.runtime import STATE_DICT_SUFFIXES, read_state_dict, warn
from metafluence.training.trainer import Checkpoint


def load_checkpoints(
    folder: str | Path | Sequence[str | Path], problem: BilevelProblem, rate: float, steps: Sequence[int] | None = None
) -> tuple[Checkpoint, ...]:
    """Checkpoints from files of a training loop: for `tracin`, and the last one for influence where training ended.

    What needs every step cannot be had from them, and a notice says so.

    Args:
        folder: of files of `torch.save` or safetensors, or the files themselves.
        problem: the learner that describes the loop, on the tasks to score.
        rate: the mean learning rate of the loop's optimiser, for steps along the mean over tasks.
        steps: of each file; if not given, the last number in each file's name.

    Raises:
        DataError: there are no files, or one cannot be read.
        InputError: a state_dict does not fit the learner's module, or the steps are unknown or repeated.
    """
    learner = problem.learner
    if not isinstance(learner, NetworkLearner):
        raise InputError(f"{type(learner).__name__} has no module that a state_dict could be of. Give maml, anil, ...")
    files = _files(folder)
    numbers = [_number(file) for file in files] if steps is None else list(steps)
    if len(numbers) != len(files) or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"There are {len(files)} files of the steps {numbers}. Give a step of its own for each file.")
    if not rate > 0:
        raise InputError(f"The rate is {rate}. Give the learning rate that the optimiser had, above 0.")
    pairs = sorted(zip(numbers, files, strict=True))
    metas = [learner.meta_from(read_state_dict(file)).to(problem.tasks.device) for _, file in pairs]
    warn(
        "Checkpoints give tracin, and influence at the last one if it is near a minimum. But run-influence, "
        "source and replays need every step: record the loop with mf.record."
    )
    each = rate / len(problem.tasks)
    return tuple(Checkpoint(number, each, meta) for (number, _), meta in zip(pairs, metas, strict=True))


def _files(folder: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(folder, str | Path):
        found = [Path(file) for file in folder]
    else:
        inside = Path(folder)
        found = sorted(f for f in inside.glob("*") if f.suffix in STATE_DICT_SUFFIXES) if inside.is_dir() else [inside]
    if not found:
        raise DataError(f"There is no state_dict in {folder}. Files end in {', '.join(STATE_DICT_SUFFIXES)}.")
    return found


def _number(file: Path) -> int:
    numbers = re.findall(r"\d+", file.stem)
    if not numbers:
        raise InputError(f"The name of {file} has no number of its step. Give steps=[...], one for each file.")
    return int(numbers[-1])
