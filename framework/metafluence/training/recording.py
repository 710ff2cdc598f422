"""Recording a training loop of one's own, and loading what was recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError, StoreError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.registry import default_registry
from metafluence.runtime import count, find_device, joined, load_tensors
from metafluence.training.kept_states import KeptStates
from metafluence.training.loop_recorder import LoopRecorder
from metafluence.training.recorded_tasks import RecordedTasks, as_tasks, load_tasks
from metafluence.training.run import FILE, TrainingRun, load_run
from metafluence.training.torch_steps import rule_of
from metafluence.training.unfinished import PROGRESS, finished_run, other_learner, recorded_steps

UNFINISHED = re.compile(r"(state|gradients|tasks)-\d{8}\.safetensors")
"""Files of a recording before it is finished."""


def record(
    folder: str | Path,
    learner: MetaLearner,
    optimiser: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    reduction: Literal["mean", "sum"] | float = "mean",
    clip: float | None = None,
    check_every: int = 100,
    every: int = 50,
    inner_solver: Solver | None = None,
    memory_gib: float = 2.0,
    classes: Mapping[str, str] | None = None,
    resume: bool = False,
) -> LoopRecorder:
    """A recorder of a training loop of one's own, whose steps are put within `recorder.step(batch)`.

    Args:
        folder: where the run is kept; a new one.
        learner: what the loop does with a task (maml, protonet, ...), around the module that it trains.
        optimiser: torch's SGD, Adam, AdamW or RMSprop, or several that make each step together. Groups of parameters
            may have settings of their own, and any schedule of their rates. The run starts after the steps made before.
        reduction: the loop's loss is the `mean` over a step's tasks, their `sum`, or that many times the mean.
        clip: the norm that the loop gives to `clip_grad_norm_`, of all parameters together.
        check_every: steps between two checks of the description, beside those of the first 3.
        every: steps between two states that are kept.
        inner_solver: as of a `BilevelProblem`; exact if not given.
        memory_gib: as of a `BilevelProblem`.
        classes: the class of each image, by the names that `step` is given; the folder part of the name if None.
        resume: go on with the recording in the folder, where it was interrupted after its first kept state; else begin.
            The model and the optimiser are as after a step that `every` divides; later steps are recorded anew.

    Raises:
        InputError: an optimiser or options that cannot be replayed, a folder with other files, or several processes; to
            resume, a loop that is at no kept step, or is another one.
        StoreError: to resume a recording of another learner.
    """
    if reduction not in ("mean", "sum") and not (isinstance(reduction, int | float) and reduction > 0):
        raise InputError(f"The reduction is {reduction!r}. Give 'mean', 'sum', or the loss over the tasks' mean loss.")
    if min(check_every, every) < 1:
        raise InputError(f"check_every is {check_every} and every {every}. Give numbers of steps from 1 on.")
    _refuse_in_several()
    if not isinstance(learner, MetaLearner):
        raise InputError(
            f"The learner is a {type(learner).__name__}. Give what the loop does with a task, around its module: "
            "mf.build('learner', 'maml', backbone=model, steps=1, rate=0.4)."
        )
    optimisers = tuple(optimiser) if isinstance(optimiser, Sequence) else (optimiser,)
    rule = rule_of(optimisers, clip)
    where = Path(folder)
    resumes = resume and recorded_steps(where) > 0
    if not resumes:
        _clear(where)
    solver = inner_solver if inner_solver is not None else default_registry().build("solver", "exact")
    given = (where, learner, optimisers, rule, reduction, check_every, every, solver, memory_gib, classes)
    recorder = LoopRecorder(*given)
    if resumes:
        recorder.resume()
    return recorder


def _refuse_in_several() -> None:
    """Raises InputError where several processes share the tasks."""
    if joined().count > 1:
        raise InputError(
            f"A recorded loop is for one process, and {joined().count} share the tasks here: they round its sums in "
            "another way, and replays need its very bits. Start this without torchrun, or leave join_ranks out."
        )


def _clear(folder: Path) -> None:
    """Remove a recording of which no steps are kept. Raises InputError where there are other files or steps."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file. Give a new folder.")
    steps = recorded_steps(folder)
    if steps:
        raise InputError(
            f"{folder} holds a recording that was not finished, with {count(steps, 'step')}. Make them a run with "
            "mf.finish_recording(folder, learner), go on with mf.record(..., resume=True), or remove the folder."
        )
    files = list(folder.glob("*"))
    ours = [file for file in files if UNFINISHED.fullmatch(file.name)]
    if len(ours) < len(files):
        raise InputError(f"{folder} holds a recording or other files. Give each run a folder of its own.")
    for file in ours:
        file.unlink()


def save_recording(run: TrainingRun, folder: str | Path) -> None:
    """Keep the run of a trainer with its tasks, for `load_recording`, `metafluence score` and studies.

    folder: a new one. Raises InputError for others.
    """
    where = Path(folder)
    _clear(where)
    written = RecordedTasks(where)
    written.add(as_tasks(run.problem.tasks, 1)[0], named=True)
    written.write()
    tasks = load_tasks(where, run.problem.tasks.device)  # whose images are numbered as they come
    weights = replace(run.weights, origins=tasks.origins)
    kept = run.kept_in(KeptStates(where, run.states.identity))
    replace(kept, problem=replace(run.problem, tasks=tasks), weights=weights).save(where)


def finish_recording(
    folder: str | Path,
    learner: MetaLearner,
    *,
    inner_solver: Solver | None = None,
    memory_gib: float = 2.0,
    device: str = "cpu",
) -> TrainingRun:
    """The run of a loop that was interrupted: of its steps up to the last state that `record` kept (see `every`).

    It is kept in the folder for `load_recording`. Arguments as there.

    Raises:
        StoreError: there are no such steps, or they were recorded with another learner.
        InputError: the learner has more meta-parameters for later tasks than for the first ones.
    """
    _refuse_in_several()
    where = Path(folder)
    if not recorded_steps(where):
        raise StoreError(f"{where} holds no steps of a recording that was not finished. Check the path.")
    solver = inner_solver if inner_solver is not None else default_registry().build("solver", "exact")
    return finished_run(where, learner, solver, memory_gib, _device(where, device))


def load_recording(
    folder: str | Path,
    learner: MetaLearner,
    *,
    inner_solver: Solver | None = None,
    memory_gib: float = 2.0,
    device: str = "cpu",
) -> TrainingRun:
    """The run that `record` or `save_recording` kept in a folder. `learner` and `inner_solver` as when it was made.

    Raises StoreError where there is none, it is of another learner, or files are damaged; InputError in several
    processes (`join_ranks`).
    """
    _refuse_in_several()
    steps = recorded_steps(Path(folder))
    if steps and not (Path(folder) / FILE).exists():
        raise StoreError(
            f"The recording in {folder} was not finished; {count(steps, 'step')} of it are kept. Make them a run with "
            "mf.finish_recording(folder, learner)."
        )
    file = Path(folder) / FILE
    tasks = load_tasks(Path(folder), _device(Path(folder), device))
    solver = inner_solver if inner_solver is not None else default_registry().build("solver", "exact")
    facts = load_tensors(file)[1] if file.exists() else {}
    problem = BilevelProblem(learner, tasks, facts.get("l2", 0.0), solver, memory_gib)
    if facts and facts["problem"] != problem.fingerprint():
        raise other_learner(folder)
    return load_run(Path(folder), problem)


def recorded_dtype(folder: str | Path) -> torch.dtype | None:
    """The number type of the run in a folder, finished or not; None where there is none."""
    file = next((f for name in (FILE, PROGRESS) if (f := Path(folder) / name).is_file()), None)
    return None if file is None else load_tensors(file)[0]["peaks"].dtype


def _device(folder: Path, name: str) -> torch.device:
    """The device of this name, ready for the run in a folder. Raises ConfigError."""
    return find_device(name, recorded_dtype(folder) or torch.float32)
