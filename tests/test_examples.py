"""The examples of loops of one's own run to their ends."""

import runpy
from pathlib import Path

import pytest
import torch

from small_studies import command


@pytest.mark.filterwarnings("ignore:Running statistics")
def test_own_loop_is_recorded_and_scored(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import own_loop  # noqa: PLC0415

    model, run, wrong = own_loop.train(str(tmp_path), steps=5)
    assert len(wrong) == len(run.problem.tasks) == 5 * own_loop.BATCH
    assert torch.equal(run.final, run.problem.learner.meta_from(model.state_dict()))
    own_loop.main(steps=5)
    assert capsys.readouterr().out.count("lowest tenth") == 2


def test_own_files_are_scored_by_name(tmp_path):
    file = Path(__file__).parents[1] / "examples" / "own_files.py"
    runpy.run_path(str(file))["train"](tmp_path, steps=3)
    options = ["--targets", "validation.npz", "--level", "image", "--no-trust"]
    found = command(tmp_path, "score", "run", "--learner", f"{file}:learner", *options)
    assert found.returncode == 0, found.stderr
    assert "/0-wrong.png" in found.stdout
