"""The example of a loop of one's own runs to its end."""

from pathlib import Path

import pytest
import torch


@pytest.mark.filterwarnings("ignore:Running statistics")
def test_own_loop_is_recorded_and_scored(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import own_loop  # noqa: PLC0415

    model, run, wrong = own_loop.train(str(tmp_path), steps=5)
    assert len(wrong) == len(run.problem.tasks) == 5 * own_loop.BATCH
    assert torch.equal(run.final, run.problem.learner.meta_from(model.state_dict()))
    own_loop.main(steps=5)
    assert capsys.readouterr().out.count("lowest tenth") == 2
