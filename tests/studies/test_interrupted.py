"""A study killed at random moments finishes with the results of one that was left alone; executors change nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

import metafluence as mf
from small_studies import without_pictures

STUDY = {
    "name": "interrupted",
    "dataset": "digits",
    "episodes": {"train": 6, "validation": 3, "test": 3, "way": 2, "shot": 2, "query": 2, "split": "instances"},
    "corruption": {"kind": "query-labels", "fraction": 0.4, "strength": 0.7},
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
    "l2": 1.0,
    "levels": ["task"],
    "methods": ["retrain", "task-if", "direct-if", "tracin", "random"],
    "checkpoints": {"use": "sgd", "steps": 20, "batch": 4, "checkpoints": 2},
    "truth": {"items": 4, "subsets": 2},
    "remove": [0.4, 0.2],
    "seeds": 2,
    "executor": "serial",
}
MEASURED = ("seconds", "change_seconds", "edit_seconds", "retrain_seconds", "fit_seconds", "runtime_ratio")
CODE = "import sys; from metafluence.cli import main; sys.argv[0] = 'metafluence'; main()"


def start(study: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-u", "-c", CODE, "run", str(study), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def until_begun(process: subprocess.Popen) -> None:
    """Until the first stage is finished: whatever is killed before has not begun."""
    assert process.stdout is not None
    line = process.stdout.readline()
    while line and "done" not in line:
        line = process.stdout.readline()


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv").drop(columns=list(MEASURED), errors="ignore")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_killed_three_times_it_ends_as_if_it_had_been_left_alone(tmp_path, seed):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    alone = start(study, tmp_path / "alone")
    until_begun(alone)
    begun = time.monotonic()
    assert alone.wait() == 0, alone.stdout.read()
    whole = time.monotonic() - begun
    draw = random.Random(seed)
    killed = 0
    while killed < 3:
        process = start(study, tmp_path / "killed")
        until_begun(process)
        time.sleep(draw.uniform(0, whole / 3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    last = start(study, tmp_path / "killed")
    said = last.communicate()[0]
    assert last.returncode == 0, said
    pd.testing.assert_frame_equal(results(tmp_path / "killed"), results(tmp_path / "alone"), check_exact=True)


@pytest.mark.xdist_group("executors")
@pytest.mark.parametrize(
    "name", ["processes", pytest.param("dask", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)]
)
def test_a_study_s_results_do_not_depend_on_its_executor(name, tmp_path):
    pytest.importorskip({"dask": "distributed", "ray": "ray"}.get(name, "joblib"))
    small = {**STUDY, "methods": ["retrain", "task-if"], "checkpoints": None, "remove": [0.4], "certificate": False}
    del small["seeds"]
    frames = []
    for executor in ("serial", {"use": name, "jobs": 2}):
        folder = tmp_path / str(len(frames))
        config = mf.parse_study({**small, "executor": executor})
        with without_pictures():
            mf.write_report(mf.Study(config, mf.default_registry(), folder).run(), folder)
        frames.append(results(folder))
    pd.testing.assert_frame_equal(*frames, check_exact=True)
