"""Studies of tasks that `save_tasks` wrote: the numbers of the same tasks in memory, and what is refused."""

from typing import Any

import pytest
import torch
import yaml

import metafluence as mf
from metafluence.studies.config import parse_study
from metafluence.studies.seeding import generator_for
from metafluence.studies.study import Study
from refusals import refused
from small_studies import command

STUDY: dict[str, Any] = {
    "name": "tiny",
    "dataset": "digits",
    "episodes": {"train": 5, "validation": 2, "test": 2, "way": 2, "shot": 2, "query": 2, "split": "instances"},
    "corruption": {"kind": "query-labels", "fraction": 0.4},
    "learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [2]}},
    "l2": 0.3,
    "levels": ["query"],
    "methods": ["instance-if", "loss"],
    "truth": {"items": 2},
    "remove": 0.4,
    "executor": "serial",
    "certificate": False,
}
COUNTS = {"train": 5, "validation": 2, "test": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """More tasks than the study takes."""
    place = tmp_path_factory.mktemp("stored")
    episodes = mf.Episodes(**{**STUDY["episodes"], "train": 7, "test": 3})
    split = mf.build("dataset", "digits").tasks(episodes, generator_for(0, "tasks"), torch.float64)
    for name in COUNTS:
        mf.save_tasks(getattr(split, name), place / name)
    return {name: str(place / name) for name in COUNTS}


def test_its_numbers_are_those_of_the_tasks_in_memory(folders, tmp_path):
    """Oracle: the study that draws them."""
    stored = {**STUDY, "dataset": {"use": "stored", **folders}, "episodes": COUNTS}
    found, drawn = (
        Study(parse_study(raw), mf.default_registry(), tmp_path / name).run()
        for name, raw in (("stored", stored), ("drawn", STUDY))
    )
    assert [run.row.status for run in found.runs] == ["ok"] * 2
    for run, wanted in zip(found.runs, drawn.runs, strict=True):
        assert (run.row.method, run.row.level) == (wanted.row.method, wanted.row.level)
        torch.testing.assert_close(run.scores, wanted.scores, rtol=1e-9, atol=1e-12)
        assert run.row.spearman == pytest.approx(wanted.row.spearman, nan_ok=True)
    assert found.split.train.ids == drawn.split.train.ids


@pytest.mark.slow
def test_a_report_is_made_of_it(folders, tmp_path):
    stored = {**STUDY, "dataset": {"use": "stored", **folders}, "episodes": COUNTS}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(stored))
    done = command(tmp_path, "run", "study.yaml", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()
    assert "failed" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": {**COUNTS, "train": 8}}, r"train: .* holds 7 tasks, and 8 are asked for. Give 1 to 7"),
        ({"episodes": {**COUNTS, "way": 3}}, r"episodes.way says nothing here. Leave it out"),
        ({"corruption": {"kind": "noise", "fraction": 0.4}}, r"needs the inputs of all tasks at once"),
        ({"candidates": 2}, r"needs the inputs of all tasks at once"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(changes, message, folders, tmp_path):
    raw = {**STUDY, "dataset": {"use": "stored", **folders}, "episodes": COUNTS, **changes}
    with refused(message):
        Study(parse_study(raw), mf.default_registry(), tmp_path).run()


def test_a_folder_without_tasks_is_named(folders, tmp_path):
    raw = {**STUDY, "dataset": {"use": "stored", **folders, "test": "nowhere"}, "episodes": COUNTS}
    with refused("test: There are no saved tasks in nowhere", mf.DataError):
        Study(parse_study(raw), mf.default_registry(), tmp_path).run()


def test_the_first_tasks_of_a_folder(folders):
    all_of_them = mf.open_tasks(folders["train"])
    some = mf.open_tasks(folders["train"], 3)
    assert some.fingerprint() == all_of_them[:3].fingerprint()
    assert torch.equal(some.query.inputs[:], all_of_them.query.inputs[:3])
    with refused("holds 7 tasks, and 0 are asked for"):
        mf.open_tasks(folders["train"], 0)
