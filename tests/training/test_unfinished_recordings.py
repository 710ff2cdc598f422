"""A recorded loop that was interrupted: what was recorded becomes a run, and nothing is lost unasked."""

import shutil
from pathlib import Path

import pytest
import torch

import metafluence as mf
import small_loops
from metafluence.errors import StoreError
from metafluence.training import unfinished
from refusals import refused
from small_loops import learner, recorded

KILLED, BATCH = 6, 3  # the step in which the loop ends, its tasks; states are kept every 2 steps


@pytest.fixture
def killed(tmp_path, monkeypatch) -> Path:
    """The folder of a loop that was killed."""
    folder = tmp_path / "run"
    original, made = small_loops.loss, []

    def loss(*given):
        made.append(None)
        if len(made) > BATCH * (KILLED - 1):
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(small_loops, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            recorded(folder, steps=8)
    return folder


def test_what_was_kept_is_the_run_of_so_many_steps(killed, tmp_path):
    """Oracle: the same loop, ended after these steps."""
    with refused("was not finished; 4 steps of it are kept. Make them a run with mf.finish_recording", StoreError):
        mf.load_recording(killed, learner())
    run = mf.finish_recording(killed, learner())
    whole = recorded(tmp_path / "whole", steps=4)
    assert run.steps == 4
    assert run.fingerprint() == whole.fingerprint()
    for item in (0, 5, 11):
        alone = [one.replay(one.removing("task", (item,))) for one in (run, whole)]
        assert torch.equal(*alone)
    assert mf.load_recording(killed, learner()).fingerprint() == whole.fingerprint()
    with refused("no steps of a recording that was not finished", StoreError):
        mf.finish_recording(killed, learner())


def test_tasks_of_later_steps_are_left_out(killed, tmp_path):
    """Killed between the file of tasks and that of steps."""
    longer = tmp_path / "longer"
    recorded(longer, steps=6)
    shutil.copy(longer / "tasks-00000012.safetensors", killed)
    assert mf.finish_recording(killed, learner()).fingerprint() == recorded(tmp_path / "whole").fingerprint()
    assert len(mf.load_recording(killed, learner()).problem.tasks) == 12


def test_recording_in_its_folder_again_loses_nothing(killed):
    before = sorted(killed.iterdir())
    with refused("holds a recording that was not finished, with 4 steps"):
        recorded(killed)
    assert sorted(killed.iterdir()) == before


def test_another_learner_is_refused_and_leaves_it_as_it_is(killed):
    other = mf.build("learner", "protonet", backbone={"use": "mlp", "hidden": [4]})
    with refused("was recorded with another learner", StoreError):
        mf.finish_recording(killed, other)
    assert unfinished.recorded_steps(killed) == 4
    assert mf.finish_recording(killed, learner()).steps == 4


def test_a_finished_recording_keeps_no_progress(tmp_path):
    recorded(tmp_path / "run")
    assert not (tmp_path / "run" / unfinished.PROGRESS).exists()
