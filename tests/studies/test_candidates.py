"""A study's candidates: tasks that were not trained on, scored against exact fits with them."""

import pandas as pd
import pytest

import metafluence as mf
from metafluence import ConfigError, parse_study
from metafluence.reports.study.score_files import candidate_frame
from small_studies import RUN, changed, command, write

ASKED = {
    "candidates": 4,
    "methods": ["task-if", "loss", {"use": "trak", "dim": 4}],
    "truth": {"items": 3},
    "certificate": False,
    "solvers": ["exact"],
}


def test_a_study_says_what_adding_candidates_would_do(tmp_path):
    config = parse_study(changed(**ASKED))
    result = mf.Study(config, mf.default_registry(), tmp_path).run()
    found = result.candidates["task"]
    assert found.tasks.ids == tuple(f"train-{i}" for i in range(6, 10))
    assert bool(found.tasks.corrupted.any())
    assert found.tasks.origins is not None
    assert found.tasks.origins.count("image") <= 4 * 12
    frame = candidate_frame(found)
    assert len(frame.dropna()) == 3
    assert found.agreement("task-if exact").value == 1
    said = mf.verdict(result)[-1]
    assert "candidates-task.csv says what adding each of 4 tasks of candidates would do" in said
    assert "TRAK cannot score candidates" in said
    bank = result.evaluations["task"].bank
    assert bank is not None
    item = next(iter(found.true))
    joined = bank.joining(found.tasks)
    weights = joined.weights.set("task", [6 + item], 1.0)
    targets = result.evaluations["task"].targets()
    gain = targets.losses() - targets.losses(joined.under([weights]).meta[:, 0])
    assert found.true[item] == pytest.approx(float(gain), abs=1e-9)


@pytest.mark.slow
def test_a_report_has_candidates_by_name_and_a_second_run_reuses_them(tmp_path):
    write(tmp_path, **ASKED)
    assert command(tmp_path, "run", "study.yaml", "--out", "out").returncode == 0
    frame = pd.read_csv(tmp_path / "out" / "candidates-task.csv")
    assert list(frame["task"]) == [f"train-{i}" for i in range(6, 10)]
    command(tmp_path, "run", "study.yaml", "--out", "out")
    assert pd.read_csv(tmp_path / "out" / "candidates-task.csv").equals(frame)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({**RUN, "candidates": 3}, "candidates are added in exact fits, and `kind: run` makes none"),
        (changed(candidates=3, damping={}), "damping is chosen by removals, and candidates are added"),
        (changed(candidates=0), "candidates"),
    ],
)
def test_candidates_that_cannot_be_added_are_refused(raw, says):
    with pytest.raises(ConfigError) as refused:
        parse_study(raw)
    assert says in str(refused.value)
