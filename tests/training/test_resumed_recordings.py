"""A recorded loop that goes on from a checkpoint: the run is that of a loop that was never interrupted, bit by bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import metafluence as mf
import small_loops
from metafluence.errors import StoreError
from metafluence.runtime import load_tensors
from refusals import refused

STEPS, EVERY, KILLED = 8, 2, 7
OPTIMISERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.2, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.05),
    "groups": lambda ps: torch.optim.AdamW([{"params": [p], "weight_decay": p.dim() / 9} for p in ps], lr=0.05),
}


class Killed(Exception):
    """In place of a power cut."""


def loop(
    folder: Path,
    checkpoints: dict[int, Any],
    start: int = 0,
    killed: int = 0,
    optimiser: str = "adam",
    kind: str = "named",
    loud: float = 1.0,
    **options: Any,
) -> mf.TrainingRun:
    """A loop that keeps a checkpoint of its own after each step, goes on after `start`, and ends at step `killed`."""
    model, files, generator = small_loops.module(), small_loops.pictures(), torch.Generator().manual_seed(1)
    adam = OPTIMISERS[optimiser](model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 20)
    parts = {"model": model, "optimiser": adam, "schedule": schedule}
    if start:
        for name, part in parts.items():
            part.load_state_dict(checkpoints[start][name])
        generator.set_state(checkpoints[start]["generator"])
    learner = mf.build("learner", "protonet", backbone=model)
    recorder = mf.record(folder, learner, adam, **{"every": EVERY, **options})
    assert recorder.steps == start
    for step in range(start + 1, STEPS + 1):
        if step == killed:
            raise Killed
        batch: list[Any] = [small_loops.episode(files, generator) for _ in range(2)]
        if step > 2:
            batch = [(loud * sx, sy, loud * qx, qy, *names) for sx, sy, qx, qy, *names in batch]
        if kind == "again" and step % 3 == 0:  # an old task among the new ones
            batch[0] = small_loops.episode(files, torch.Generator().manual_seed(1))
        given = as_set(batch, step) if kind == "ids" else [one[:4] for one in batch] if kind == "plain" else batch
        with recorder.step(given):
            adam.zero_grad()
            torch.stack([small_loops.loss(model, one) for one in batch]).mean().backward()
            adam.step()
        schedule.step()
        checkpoints[step] = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
        checkpoints[step]["generator"] = generator.get_state()
    return recorder.finish()


def as_set(batch: list[Any], step: int) -> mf.TaskSet:
    sx, sy, qx, qy = (torch.stack([one[i] for one in batch]) for i in range(4))
    return mf.TaskSet(mf.Batch(sx, sy), mf.Batch(qx, qy), tuple(f"mine-{step}-{i}" for i in range(len(batch))))


def interrupted(folder: Path, **how: Any) -> dict[int, Any]:
    """The checkpoints of a loop that was interrupted in step KILLED."""
    checkpoints: dict[int, Any] = {}
    with pytest.raises(Killed):
        loop(folder, checkpoints, killed=KILLED, **how)
    return checkpoints


@pytest.mark.parametrize(
    ("start", "optimiser", "kind"),
    [(6, "adam", "named"), (4, "adam", "again"), (2, "sgd", "plain"), (4, "adam", "ids"), (4, "groups", "plain")],
)
def test_the_run_is_that_of_an_uninterrupted_loop_bit_by_bit(start, optimiser, kind, tmp_path):
    """Oracle: the files of the loop without an interruption."""
    how = {"kind": kind, "optimiser": optimiser}
    whole = loop(tmp_path / "whole", {}, **how)
    checkpoints = interrupted(tmp_path / "run", **how)
    run = loop(tmp_path / "run", checkpoints, start=start, resume=True, **how)
    assert run.steps == STEPS
    assert run.fingerprint() == whole.fingerprint()
    files = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("run", "whole")]
    assert files[0] == files[1]
    for name in files[0]:
        (ours, facts), (theirs, wanted) = (load_tensors(tmp_path / place / name) for place in ("run", "whole"))
        assert facts == wanted
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_nothing_is_left_of_steps_that_are_made_otherwise(tmp_path):
    """Oracle: the largest of the gradients that the run has."""
    checkpoints = interrupted(tmp_path, loud=5.0, kind="plain")
    run = loop(tmp_path, checkpoints, start=2, kind="plain", resume=True)
    steps = [step for segment in run.segments() for step in run.recorded(*segment)]
    assert torch.equal(run.peaks, torch.stack([step.gradient for step in steps]).abs().amax(dim=0))
    assert float(run.problem.tasks.support.inputs.max()) <= 1, "a task of the steps before"


def test_it_may_be_interrupted_again_and_what_is_kept_is_a_run(tmp_path):
    checkpoints = interrupted(tmp_path / "run")
    with pytest.raises(Killed):
        loop(tmp_path / "run", checkpoints, start=2, killed=4, resume=True)
    assert mf.finish_recording(tmp_path / "run", small_loops.learner()).steps == 2


def test_without_kept_steps_it_begins(tmp_path):
    with pytest.raises(Killed):
        loop(tmp_path / "run", {}, killed=2)
    run = loop(tmp_path / "run", {}, resume=True)
    assert run.fingerprint() == loop(tmp_path / "whole", {}, resume=True).fingerprint()


def test_a_loop_that_is_at_no_kept_step_is_refused_and_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    checkpoints = interrupted(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    nowhere = "at none of the steps whose states are kept in .* are 2, 4, 6. Give the model and the optimiser what the"
    for start, how, message in (
        (0, {}, nowhere),
        (5, {}, nowhere),
        (
            4,
            {"clip": 0.1},
            "The loop has .*clip=0.1.*, and had .*clip=None.* Give the optimiser, and clip, as they were",
        ),
        (4, {"every": 3}, "every is 3, and was 2 in .*Give every=2"),
        (4, {"resume": False}, r"go on with mf.record\(..., resume=True\)"),
    ):
        with refused(message):
            loop(folder, checkpoints, start=start, **{"resume": True, **how})
    model = small_loops.module()
    other = mf.build("learner", "protonet", backbone=model, temperature=2.0)
    with refused("recorded with another learner", StoreError):
        mf.record(folder, other, torch.optim.Adam(model.parameters()), every=EVERY, resume=True)
    with refused("at none of the steps"):
        learner = mf.build("learner", "protonet", backbone=model)
        mf.record(folder, learner, torch.optim.SGD(model.parameters(), lr=0.1), every=EVERY, resume=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_groups_of_other_parameters_are_refused(tmp_path):
    checkpoints = interrupted(tmp_path, optimiser="groups")
    for other, message in (
        ("adam", "The loop has AdamStep.*, and had GroupedStep"),
        ("groups", "each group its param"),
    ):
        made = OPTIMISERS[other]

        def exchanged(ps: Any, made: Any = made, other: str = other) -> torch.optim.Optimizer:
            weight, bias = ps
            return made([weight, bias] if other == "adam" else [bias, weight])

        model = small_loops.module()
        model.load_state_dict(checkpoints[4]["model"])
        optimiser = exchanged(model.parameters())
        for p in model.parameters():
            optimiser.state[p] = copy.deepcopy(checkpoints[4]["optimiser"]["state"][int(p.dim() == 1)])
        with refused(message):
            learner = mf.build("learner", "protonet", backbone=model)
            mf.record(tmp_path, learner, optimiser, every=EVERY, resume=True)


def test_a_finished_recording_is_not_gone_on_with(tmp_path):
    loop(tmp_path / "run", {})
    with refused("holds a recording or other files"):
        loop(tmp_path / "run", {}, resume=True)
