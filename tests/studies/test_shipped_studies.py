"""The shipped studies: every one of them is valid at each of its sizes, and its components can be built."""

from pathlib import Path

import pytest
import yaml

import metafluence as mf
from metafluence.package_files import resource

FILES = sorted(resource("studies/digits.yaml").parent.glob("*.yaml"))
SIZED = [(file, size) for file in FILES for size in [None, *(yaml.safe_load(file.read_text()).get("sizes") or {})]]


@pytest.mark.parametrize(("file", "size"), SIZED, ids=[f"{file.stem}-{size}" for file, size in SIZED])
def test_it_is_valid_and_its_components_can_be_built(file: Path, size: str | None, tmp_path):
    changes = {"device": "cpu"} if size == "paper" else {}
    comparison = mf.load_comparison(file, size, changes)
    work = mf.Comparing(comparison, mf.default_registry(), tmp_path)
    assert all(study.plans for study in work.studies)
    assert comparison.name == file.stem


@pytest.mark.parametrize(("file", "size"), SIZED, ids=[f"{file.stem}-{size}" for file, size in SIZED])
def test_where_something_is_corrupted_the_loss_is_among_the_methods(file: Path, size: str | None):
    """Loss finds wrong labels as well as anything; a study that cleans has it to compare with."""
    for variation in mf.load_comparison(file, size, {"device": "cpu"}).variations:
        names = [one if isinstance(one, str) else one["use"] for one in variation.config.methods]
        assert "loss" in names or not variation.config.corruption or file.stem == "solver-comparison"


def test_the_run_study_is_against_its_run():
    (study,) = mf.load_comparison(resource("studies/digits-run.yaml")).variations
    assert study.config.truth.kind == "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small-exact", "learner-comparison"])
def test_its_quick_size_runs(name, tmp_path):
    file = next(file for file in FILES if file.stem == name)
    work = mf.Comparing(mf.load_comparison(file, "quick", {"executor": "serial"}), mf.default_registry(), tmp_path)
    outcomes = work.run(lambda study, result, place: None)
    assert not any(one.reason for one in outcomes)
    assert not any(line.row.reason for one in outcomes for line in one.lines)
