"""Everything on another device than the processor: on a pretended one, and on a GPU where there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metafluence as mf
from metafluence.runtime import devices
from metafluence.studies.preparation import Preparation
from metafluence.studies.variations import Variation

HERE = Path(__file__).parents[1]
BASE = {
    "name": "on-a-device",
    "dataset": "digits",
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}},
    "l2": 1.0,
    "methods": ["influence"],
}
KINDS = ("learner", "backbone", "solver", "method", "loop", "study")


def preparation(folder: Path, **changes) -> Preparation:
    return mf.Study(mf.parse_study({**BASE, **changes}), mf.default_registry(), folder).preparation


def jobs(folder: Path, **changes) -> int | None:
    return getattr(preparation(folder, **changes)._executor, "jobs", 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_on_a_pretended_device_meets_the_processor(kind):
    """In a process of its own: the device must be there before anything is differentiated."""
    script = [sys.executable, str(HERE / "device_work.py"), kind]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    assert [(name, said) for name, said in found if said] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and there is none here")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_finds_what_the_processor_finds(kind):
    script = [sys.executable, str(HERE / "device_work.py"), kind, "cuda:0"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(name, said) for name, said in found if said] == []


def test_the_pretended_device_refuses_what_a_gpu_would():
    script = [sys.executable, str(HERE / "device_work.py"), "refusals"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["refusals", ""]]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU"])
def test_a_device_that_is_none_is_refused_by_the_schema(name):
    with pytest.raises(mf.ConfigError, match=r"device is .* Give cpu, cuda, cuda:N"):
        mf.parse_study({**BASE, "device": name})


def test_a_device_that_is_not_here_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "device_count", lambda kind: 2 if kind == "cuda" else 0)
    with pytest.raises(mf.ConfigError, match=r"cuda:2 is not available here; there is cpu, cuda:0, cuda:1\..* Set"):
        preparation(tmp_path, device="cuda:2")
    with pytest.raises(mf.ConfigError, match="mps is not available"):
        preparation(tmp_path, device="mps")
    assert not list(tmp_path.iterdir())


def test_a_device_without_float64_is_refused_for_it(monkeypatch):
    monkeypatch.setattr(devices, "device_count", lambda _: 1)
    with pytest.raises(mf.ConfigError, match=r"mps has no float64\. Set dtype: float32"):
        devices.find_device("mps", torch.float64)
    assert devices.find_device("mps", torch.float32).type == "mps"
    assert devices.find_device("cuda", torch.float64) == torch.device("cuda", 0)
    assert not torch.backends.cudnn.allow_tf32


def test_retraining_shares_a_gpu_only_where_it_is_asked_to(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "device_count", lambda _: 1)
    assert jobs(tmp_path) is None
    assert jobs(tmp_path, device="cuda") == 1
    three = {"use": "processes", "jobs": 3}
    assert jobs(tmp_path, device="cuda", executor=three) == 3
    assert jobs(tmp_path, device="cuda", executor="serial") == 0


def test_a_device_is_no_part_of_what_a_result_is():
    one, other = (Variation({}, mf.parse_study({**BASE, "device": name})) for name in ("cpu", "cuda"))
    assert (one.id, one.work) == (other.id, other.work)


def test_meta_parameters_elsewhere_than_the_tasks_are_refused():
    inputs, labels = torch.randn(2, 4, 3), torch.tensor([[0, 1, 0, 1]] * 2)
    tasks = mf.TaskSet(mf.Batch(inputs, labels), mf.Batch(inputs, labels), ("a", "b"))
    learner = mf.build("learner", "logistic-head", backbone={"use": "mlp", "hidden": [2]})
    problem = mf.BilevelProblem(learner, tasks, 1.0, mf.build("solver", "exact"))
    with pytest.raises(mf.InputError, match=r"meta is on meta, the tasks on cpu. Move it: meta.to"):
        problem.at(torch.zeros(problem.size, device="meta"))
    assert tasks.to(device="cpu") is tasks
    assert tasks.to(torch.float64).dtype == torch.float64
