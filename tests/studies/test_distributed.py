"""Studies that several processes compute together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import metafluence as mf
from metafluence.hooks import hookimpl
from metafluence.runtime import Ranks, ranks
from metafluence.studies.fitters import build_executor
from metafluence.studies.study import Study
from small_studies import changed, command, write

CPU = torch.device("cpu")
SMALL = {"truth": {"items": 2}, "solvers": ["cg"], "methods": ["task-if", "loss"], "certificate": False}


def test_a_distributed_study_in_one_process_is_refused(tmp_path):
    done = command(tmp_path, "run", str(write(tmp_path, distributed=True)))
    assert done.returncode == 2
    assert "this is one process. Start it by `torchrun --nproc-per-node 2 -m metafluence run" in done.stderr


def test_a_command_for_one_process_is_refused_in_several(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = command(tmp_path, "list")
    assert done.returncode == 2
    assert "Error in process 1: `list` is for one process. Start it without torchrun." in done.stderr


def test_several_processes_make_each_fit_together_or_none(monkeypatch):
    registry = mf.default_registry()
    study = {name: value for name, value in changed(distributed=True).items() if name != "executor"}
    with pytest.raises(mf.InputError, match="this is one process"):
        build_executor(mf.parse_study(study), registry, CPU)
    monkeypatch.setattr(ranks, "_joined", [Ranks(1, 2)])
    assert type(build_executor(mf.parse_study(study), registry, CPU)).__name__ == "Serial"
    with pytest.raises(mf.InputError, match="executor 'processes', and `distributed: true`"):
        build_executor(mf.parse_study({**study, "executor": "processes"}), registry, CPU)
    with pytest.raises(mf.InputError, match="torchrun started 2 processes, and each would do all of this study"):
        build_executor(mf.parse_study({**study, "distributed": False}), registry, CPU)


def test_a_recorded_loop_is_for_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "_joined", [Ranks(0, 2)])
    module = torch.nn.Linear(2, 2)
    learner = mf.build("learner", "protonet", backbone=module)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for work in (lambda: mf.record(tmp_path / "a", learner, optimiser), lambda: mf.load_recording(tmp_path, learner)):
        with pytest.raises(mf.InputError, match="A recorded loop is for one process, and 2 share the tasks here"):
            work()
    assert not (tmp_path / "a").exists()


def test_plugins_hear_of_a_study_from_the_first_process_alone(monkeypatch, tmp_path):
    class Listener:
        @hookimpl
        def metafluence_study_started(self, study):
            heard.append(study)

    heard: list[object] = []
    registry = mf.default_registry()
    registry.hooks.register(Listener())
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "_joined", [Ranks(rank, 2)])
        study = Study(mf.parse_study(changed(distributed=True)), registry, tmp_path)
        study._hook.metafluence_study_started(study=study)
    assert len(heard) == 1


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess:
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "metafluence",
        "run",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*start, *words], check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_study_of_two_processes_has_the_numbers_of_one_and_goes_on(tmp_path):
    file = write(tmp_path, **SMALL)
    assert command(tmp_path, "run", str(file), "--out", "one").returncode == 0
    for again in ("", "2 of 2 runs were already in two"):
        done = torchrun(tmp_path, str(file), "--set", "distributed=true", "--out", "two")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("two/report.html") == 1
        assert again in done.stdout
    stored = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / "work").rglob("*.safetensors")]
    assert len(stored) > 5
    for name in stored:
        one, two = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-8, atol=1e-10, equal_nan=True, msg=f"{name} {key}")


@pytest.mark.slow
def test_torchrun_without_distributed_computes_nothing(tmp_path):
    done = torchrun(tmp_path, str(write(tmp_path, **SMALL)), "--out", "two")
    assert done.returncode != 0
    assert "torchrun started 2 processes, and each would do all of this study" in done.stderr
    assert not (tmp_path / "two").exists()
