"""What a recording is so far, kept on the way, and the run that is made of it at the end, or after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError, StoreError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.runtime import component_fingerprint, load_tensors, save_tensors
from metafluence.tasks import Weights
from metafluence.training.grouped_step import facts_of, rates_from, rule_from
from metafluence.training.kept_states import KeptStates
from metafluence.training.recorded_tasks import FILES, load_tasks
from metafluence.training.run import TrainingRun

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
    facts = {"rule": facts_of(run.rule), "every": run.every, "identity": run.states.identity}
    save_tensors(folder / PROGRESS, tensors, {**facts, "described": _described(run.problem)})


def recorded_steps(folder: Path) -> int:
    """How many steps of a recording that was not finished are kept."""
    return len(load_tensors(folder / PROGRESS)[0]["sizes"]) if (folder / PROGRESS).exists() else 0


def finished_run(
    folder: Path, learner: MetaLearner, solver: Solver, memory_gib: float, device: torch.device
) -> TrainingRun:
    """The run of the steps that are kept, saved. Raises as `finish_recording`."""
    begun, weighed = begun_run(folder, learner, solver, memory_gib, device)
    tasks = load_tasks(folder, device)
    problem = BilevelProblem(learner, tasks, 0.0, solver, memory_gib)
    if problem.size != len(begun.peaks):
        raise InputError(
            f"The learner has {problem.size} meta-parameters for all tasks and {len(begun.peaks)} for those of "
            "the first step: later ones have more classes. Give the learner its number of ways."
        )
    ones = Weights.ones(tasks)
    drift = torch.finfo(tasks.dtype).eps ** DRIFT
    run = replace(begun, problem=problem, weights=replace(ones, task=weighed.to(ones.task)), drift=drift)
    run.save(folder)
    (folder / PROGRESS).unlink()
    return run


def begun_run(
    folder: Path, learner: MetaLearner, solver: Solver, memory_gib: float, device: torch.device
) -> tuple[TrainingRun, Tensor]:
    """The steps that are kept, of the problem of the first one's tasks, and the weight of each task in the loss, [N].

    Raises StoreError for those of another learner.
    """
    tensors, facts = load_tensors(folder / PROGRESS)
    weights = tensors["weights"]
    _forget(folder, len(weights))  # after an interruption there may be tasks of later steps
    batches = tensors["batches"].split(tensors["sizes"].tolist())
    first = load_tasks(folder, device)[batches[0]]
    problem = BilevelProblem(learner, first, 0.0, solver, memory_gib)
    if _described(problem) != facts["described"]:
        raise other_learner(folder)
    rates, states = rates_from(tensors["rates"]), KeptStates(folder, facts["identity"])
    parts = (Weights.ones(first), rule_from(facts["rule"]), batches, rates, states, facts["every"])
    return TrainingRun(problem, *parts, tensors["peaks"].to(device)), weights


def first_steps(run: TrainingRun, steps: int, weights: Tensor, folder: Path) -> tuple[TrainingRun, Tensor]:
    """The first `steps` steps of what is kept, a multiple of `run.every`, and the weights of their tasks.

    The later ones are removed from the folder.
    """
    if steps == run.steps:
        return run, weights
    gradients = [run.states.gradients(start, run.peaks.device) for start in range(0, steps, run.every)]
    peaks = torch.cat(gradients).abs().amax(dim=0)
    shorter = replace(run, batches=run.batches[:steps], rates=run.rates[:steps], peaks=peaks)
    own = weights[: 1 + int(torch.cat(shorter.batches).max())]
    keep_progress(folder, shorter, dict(enumerate(own.tolist())))
    _forget(folder, len(own))
    run.states.forget(steps)
    return shorter, own


def other_learner(folder: str | Path) -> StoreError:
    """What is raised for a learner, or an inner solver, that a recording is not of."""
    return StoreError(
        f"{folder} was recorded with another learner or inner solver than this one, or with other code of theirs. Give "
        "the learner as it was given to mf.record: the same settings, a module of the same layers, and metafluence in "
        "the same version."
    )


def _described(problem: BilevelProblem) -> list[str]:
    return [component_fingerprint(part) for part in (problem.learner, problem.inner_solver)]


def _forget(folder: Path, count: int) -> None:
    """Remove the files of tasks from the number `count` on."""
    for file in folder.glob(FILES):
        if file.name >= FILES.replace("*", f"{count:08d}"):
            file.unlink()
