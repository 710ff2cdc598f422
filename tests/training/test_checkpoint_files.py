"""Checkpoints of a loop that was not recorded."""

import pytest
import torch
from torch import nn

import metafluence as mf
from metafluence import BilevelProblem, DataError, InputError
from metafluence_plugins.learners.maml import MAML
from parts import EXACT
from small_problems import seeded, tasks

NOTICE = "ignore:Checkpoints give"


def started() -> tuple[nn.Module, BilevelProblem]:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return module, BilevelProblem(MAML(module, steps=1, rate=0.1), tasks(), 0.0, EXACT)


def test_tracin_of_a_folder_of_state_dicts_is_that_of_the_same_checkpoints(tmp_path):
    module, problem = started()
    metas = [torch.randn(problem.size, generator=seeded(i), dtype=torch.float64) for i in range(2)]
    for step, meta in zip((30, 4), metas, strict=True):
        module.load_state_dict(problem.learner.state_dict_of(meta))
        torch.save(module.state_dict(), tmp_path / f"epoch{step}.pt")
    with pytest.warns(UserWarning, match="run-influence, source and replays need every step"):
        found = mf.load_checkpoints(tmp_path, problem, rate=0.3)
    assert [c.step for c in found] == [4, 30]
    assert torch.equal(found[1].meta, metas[0])
    targets = mf.Targets(problem, tasks(2, seed=5), found[-1].meta)
    context = mf.Context(problem.at(found[-1].meta), checkpoints=found)
    scores = mf.attribute(mf.build("method", "tracin"), context, targets).values
    goals = [problem.over(tasks(2, seed=5)).at(c.meta).gradient / 2 for c in found]
    mine = [problem.at(c.meta).task_gradients().T @ g for c, g in zip(found, goals, strict=True)]
    torch.testing.assert_close(scores[:, 0], 0.3 / 6 * (4 * mine[0] + 26 * mine[1]))


@pytest.mark.filterwarnings(NOTICE)
def test_files_and_steps_that_do_not_fit_are_refused(tmp_path):
    module, problem = started()
    with pytest.raises(DataError, match="no state_dict in"):
        mf.load_checkpoints(tmp_path, problem, rate=0.3)
    torch.save(module.state_dict(), tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"no number of its step"):
        mf.load_checkpoints(tmp_path, problem, rate=0.3)
    with pytest.raises(InputError, match="above 0"):
        mf.load_checkpoints(tmp_path, problem, rate=0.0, steps=[3])
    with pytest.raises(InputError, match="1 files of the steps"):
        mf.load_checkpoints(tmp_path, problem, rate=0.3, steps=[3, 4])
    assert mf.load_checkpoints(tmp_path / "last.pt", problem, rate=0.3, steps=[3])[0].step == 3
