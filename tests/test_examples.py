"""The examples of loops of one's own run to their ends."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from small_studies import command

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 60_000  # bytes


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_show_small_results_and_no_machine(file):
    text = file.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert "/home/" not in text
    assert "site-packages" not in text
    shown = [one for cell in json.loads(text)["cells"] for one in cell.get("outputs", [])]
    assert {kind for one in shown for kind in one.get("data", {})} >= {"text/html", "image/png"}
    assert not [one for one in shown if one["output_type"] == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run_and_show_what_they_are_committed_with(file):
    """Pictures may differ in their bytes, and times and last digits between machines; what a cell shows may not."""
    run = runpy.run_path(str(EXAMPLES / "run_notebooks.py"))["executed"](file)

    def forms(cells):
        return [[one.get("name") or sorted(one["data"]) for one in cell.get("outputs", [])] for cell in cells]

    assert forms(run.cells) == forms(json.loads(file.read_text(encoding="utf-8"))["cells"])


@pytest.mark.filterwarnings("ignore:Running statistics")
def test_own_loop_is_recorded_and_scored(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import own_loop  # noqa: PLC0415

    model, run, wrong = own_loop.train(str(tmp_path), steps=5)
    assert len(wrong) == len(run.problem.tasks) == 5 * own_loop.BATCH
    assert torch.equal(run.final, run.problem.learner.meta_from(model.state_dict()))
    own_loop.main(steps=5)
    assert capsys.readouterr().out.count("lowest tenth") == 2


def test_sources_of_tasks_are_told_apart_by_prototypes():
    found = runpy.run_path(str(EXAMPLES / "task_sources.py"))["distinguished"]("protonet", 0)
    assert min(found["task-if"], found["tracin"]) > 0.7
    assert found["random"] == found["loss"] == 0.5, "one order for all targets tells no sources apart"


def test_own_files_are_scored_by_name(tmp_path):
    file = Path(__file__).parents[1] / "examples" / "own_files.py"
    runpy.run_path(str(file))["train"](tmp_path, steps=3)
    options = ["--targets", "validation.npz", "--level", "image", "--no-trust"]
    found = command(tmp_path, "score", "run", "--learner", f"{file}:learner", *options)
    assert found.returncode == 0, found.stderr
    assert "/0-wrong.png" in found.stdout
