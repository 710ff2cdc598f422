"""What a recording is so far, kept on the way, and the run that is made of it at the end, or after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError, StoreError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.runtime import component_fingerprint, load_tensors, save_tensors
from metafluence.tasks import Weights
from metafluence.training.kept_states import KeptStates
from metafluence.training.recorded_tasks import FILES, load_tasks
from metafluence.training.run import TrainingRun
from metafluence.training.step_rules import RULES

PROGRESS = "progress.safetensors"
DRIFT = 1 / 3
"""The power of the precision that a replay between kept states may miss, as a share of what λ moved: sums are rounded
in another order than in the loop."""


def keep_progress(folder: Path, run: TrainingRun, weights: Mapping[int, float]) -> None:
    """Keep the steps so far of a recording in `folder`.

    run: of the problem of the first step's tasks. weights: of each task in the loss, by its number.
    """
    tensors = {
        "batches": torch.cat(run.batches),
        "sizes": torch.tensor([len(batch) for batch in run.batches]),
        "rates": torch.tensor(run.rates, dtype=torch.float64),
        "peaks": run.peaks,
        "weights": torch.tensor([weights[i] for i in range(len(weights))], dtype=torch.float64),
    }
    facts = {"rule": [type(run.rule).__name__, asdict(run.rule)], "every": run.every, "identity": run.states.identity}
    described = [component_fingerprint(part) for part in (run.problem.learner, run.problem.inner_solver)]
    save_tensors(folder / PROGRESS, tensors, {**facts, "described": described})


def recorded_steps(folder: Path) -> int:
    """How many steps of a recording that was not finished are kept."""
    return len(load_tensors(folder / PROGRESS)[0]["sizes"]) if (folder / PROGRESS).exists() else 0


def finished_run(
    folder: Path, learner: MetaLearner, solver: Solver, memory_gib: float, device: torch.device
) -> TrainingRun:
    """The run of the steps that are kept, saved. Raises as `finish_recording`."""
    tensors, facts = load_tensors(folder / PROGRESS)
    weighed = tensors["weights"]
    for file in folder.glob(FILES):  # after an interruption there may be tasks of later steps
        if file.name >= FILES.replace("*", f"{len(weighed):08d}"):
            file.unlink()
    tasks = load_tasks(folder, device)
    batches = tensors["batches"].split(tensors["sizes"].tolist())
    problem = BilevelProblem(learner, tasks, 0.0, solver, memory_gib)
    first = BilevelProblem(learner, tasks[batches[0]], 0.0, solver, memory_gib)
    if [component_fingerprint(part) for part in (first.learner, first.inner_solver)] != facts["described"]:
        raise StoreError(
            f"{folder} was recorded with another learner or inner solver than this one. Give the learner as it was "
            "given to mf.record: the same settings, and a module of the same layers."
        )
    if problem.size != len(tensors["peaks"]):
        raise InputError(
            f"The learner has {problem.size} meta-parameters for all tasks and {len(tensors['peaks'])} for those of "
            "the first step: later ones have more classes. Give the learner its number of ways."
        )
    ones = Weights.ones(tasks)
    name, settings = facts["rule"]
    run = TrainingRun(
        problem,
        replace(ones, task=weighed.to(ones.task)),
        RULES[name](**settings),
        batches,
        tuple(tensors["rates"].tolist()),
        KeptStates(folder, facts["identity"]),
        facts["every"],
        tensors["peaks"].to(device),
        torch.finfo(tasks.dtype).eps ** DRIFT,
    )
    run.save(folder)
    (folder / PROGRESS).unlink()
    return run
