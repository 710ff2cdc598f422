"""Executors: every registered one runs the conformance suite; workers that die; clusters of Dask and Ray."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import metafluence as mf
from metafluence.testing import executor_failures, executor_suite
from metafluence.testing.worlds import World
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.trainers.newton import Newton

pytestmark = pytest.mark.xdist_group("executors")  # one process starts the clusters

REGISTRY = mf.default_registry()
PACKAGES = {"dask": "distributed", "ray": "ray"}
REMOTE = [name for name in REGISTRY.names("executor") if name != "serial"]
# Workers of Ray take seconds to start. What the suite shows of Dask is shown again on Dask among the slow tests.
QUICK = [pytest.param(name, marks=pytest.mark.slow if name == "ray" else ()) for name in REMOTE]
QUICKEST = [pytest.param(name, marks=() if name == "processes" else pytest.mark.slow) for name in REMOTE]


def make(name: str, **parameters) -> mf.Executor:
    """With two workers, where it has workers; skips where its package is not here."""
    pytest.importorskip(PACKAGES.get(name, "joblib"))
    return REGISTRY.build("executor", {"use": name, **({"jobs": 2} if name != "serial" else {}), **parameters})


for _name in REGISTRY.names("executor"):
    try:
        _suite = executor_suite(make(_name))
    except pytest.skip.Exception:
        continue
    _suite.__name__ = _suite.__qualname__ = "Test" + _name.title()
    if _name == "ray":
        _suite = pytest.mark.slow(_suite)
    globals()[_suite.__name__] = _suite
    del _suite


@dataclass(frozen=True)
class Logged:
    """Squares; writes down what it is asked for. Item `fatal` kills its process: each time, or the first time only."""

    log: Path
    fatal: int = -1
    always: bool = False
    seconds: float = 0.02

    def __call__(self, item: int) -> int:
        with self.log.open("a") as file:
            file.write(f"{item}\n")
        time.sleep(self.seconds)
        if item == self.fatal and (self.always or self.asked()[item] == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return item**2

    def asked(self) -> Counter[int]:
        return Counter(int(line) for line in self.log.read_text().split())


@pytest.mark.parametrize("name", QUICKEST)
def test_what_a_killed_worker_had_is_done_again_and_reported(name, tmp_path):
    work, said, seen = Logged(tmp_path / "log", fatal=3), [], {}
    for index, result in make(name).map(work, range(8), said.append):
        seen[index] = work.asked()[index]
        assert result == index**2
    assert sorted(seen) == list(range(8))
    assert {index: work.asked()[index] for index in seen} == seen, "what was yielded was done again"
    assert work.asked()[3] == 2
    (sentence,) = said
    assert "done again" in sentence
    if name == "processes":
        # The other worker may be between two runs at that moment.
        unfinished = r"its (2 unfinished runs|1 unfinished run) (were|was) done again\."
        assert re.match(r"A worker process died 1 time \(SIGKILL\); " + unfinished, sentence)


@pytest.mark.slow
def test_work_that_always_kills_its_worker_is_named(tmp_path):
    work, done = Logged(tmp_path / "log", fatal=3, always=True, seconds=0.1), []
    with pytest.raises(mf.ExecutorError, match=r"died 2 times in a row \(SIGKILL\) of item 4 \(3\) of 8.*fewer `jobs`"):
        done += (index for index, _ in make("processes", retries=1).map(work, range(8)))
    assert sorted(done) == [0, 1, 2] or sorted(done) == [0, 1, 2, 4]
    assert work.asked()[7] == 0, "nothing is begun beside what may kill a worker"


@pytest.mark.slow
def test_ray_names_work_that_always_kills_its_worker(tmp_path):
    with pytest.raises(mf.ExecutorError, match=r"died 3 times in a row of item 1 \(0\) of 2"):
        list(make("ray").map(Logged(tmp_path / "log", fatal=0, always=True), range(2)))


@pytest.mark.slow
def test_dask_names_work_that_always_kills_its_worker_and_goes_on(tmp_path):
    executor = make("dask")
    with pytest.raises(mf.ExecutorError, match=r"died 4 times in a row of .*\b1 \(0\)"):
        list(executor.map(Logged(tmp_path / "log", fatal=0, always=True), range(2)))
    assert executor_failures(executor) == []


@pytest.mark.parametrize("name", QUICKEST)
def test_results_come_as_they_are_finished(name):
    executor = make(name)
    list(executor.map(Slow(), [0.2, 0.2]))  # the workers are there
    started = time.perf_counter()
    found = executor.map(Slow(), [1.5, 0.0, 0.0])
    assert next(found)[0] > 0
    assert time.perf_counter() - started < 1.5
    assert {index for index, _ in found} >= {0}


@dataclass(frozen=True)
class Slow:
    def __call__(self, item: float) -> None:
        time.sleep(item)


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.mark.parametrize("name", QUICKEST)
def test_fits_are_those_of_one_process_bit_for_bit(name, world):
    removals = [(0,), (2,), (3, 5)]
    trainer = Newton(tolerance=1e-10)
    wanted, found = (
        mf.RetrainBank(world.problem, world.fit, trainer, executor).leave_out(removals)
        for executor in (Serial(), make(name))
    )
    assert torch.equal(found.meta, wanted.meta)
    assert torch.equal(found.gradient_norm, wanted.gradient_norm)


# As in a registry.yaml beside a study.
TRAINER = """
from dataclasses import dataclass
from metafluence import Trainer, build

@dataclass(frozen=True)
class Twice(Trainer):
    def fit(self, problem, weights=None, init=None, *rest, **options):
        first = build("trainer", "newton", tolerance=1e-10).fit(problem, weights, init, *rest, **options)
        return build("trainer", "newton", tolerance=1e-10).fit(problem, weights, first.meta, *rest, **options)
"""


@pytest.mark.parametrize("name", QUICKEST)
def test_a_component_from_a_file_travels(name, world, tmp_path):
    (tmp_path / "twice.py").write_text(TRAINER)
    (tmp_path / "registry.yaml").write_text("components: {trainer: {twice: ./twice.py:Twice}}")
    trainer = mf.default_registry(folder=tmp_path).build("trainer", "twice")
    wanted, found = (
        mf.RetrainBank(world.problem, world.fit, trainer, executor).leave_out([(0,), (2,)])
        for executor in (Serial(), make(name))
    )
    assert torch.equal(found.meta, wanted.meta)


@dataclass(frozen=True)
class Deadly(mf.Executor):
    """As if a worker had died in every call."""

    def map(self, function, items, notice=mf.warn) -> Iterator:
        yield from Serial().map(function, items)
        notice(f"A worker process died 1 time; its {len(items)} unfinished runs were done again.")


def test_notices_are_warnings_where_nobody_listens():
    with pytest.warns(UserWarning, match="A worker process died 1 time"):
        list(Deadly().map(abs, [1]))


def test_a_study_reports_workers_that_died(tmp_path):
    registry = mf.default_registry()
    registry.add("executor", "deadly", f"{__file__}:Deadly")
    study = {
        "name": "small",
        "dataset": "digits",
        "episodes": {"train": 4, "validation": 2, "test": 2, "way": 2, "shot": 2, "query": 2, "split": "instances"},
        "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
        "l2": 1.0,
        "methods": ["loss"],
        "certificate": False,
        "executor": "deadly",
    }
    result = mf.Study(mf.parse_study(study), registry, tmp_path).run()
    assert "Retraining: A worker process died 1 time; its 4 unfinished runs were done again." in result.warnings


@pytest.mark.parametrize("name", PACKAGES)
def test_an_extra_that_is_missing_is_said(name, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(mf.ConfigError, match=rf"pip install 'metafluence\[{name}\]'"):
        REGISTRY.build("executor", name)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_cluster_that_is_not_there_is_said_soon(name, monkeypatch):
    monkeypatch.setattr(f"metafluence_plugins.executors.{name}.CONNECT", 1)
    executor = make(name, address="127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(mf.ExecutorError, match=r"There is no .* at 127\.0\.0\.1:9"):
        list(executor.map(abs, [1, 2]))
    assert time.perf_counter() - started < 10


def test_a_dask_cluster_at_an_address_is_used_for_a_single_item_too():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        executor = make("dask", address=cluster.scheduler_address, jobs=None)
        assert [pid for _, pid in executor.map(Pid(), [0])] != [os.getpid()]
        assert executor_failures(executor) == []


@dataclass(frozen=True)
class Pid:
    def __call__(self, item: int) -> int:
        return os.getpid()


def test_threads_are_divided(monkeypatch):
    cores = torch.get_num_threads()
    monkeypatch.setattr("metafluence.runtime.executors.cpu_count", lambda: 8)
    try:
        torch.set_num_threads(8)
        assert [mf.divided_threads(jobs) for jobs in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
        torch.set_num_threads(1)  # as with OMP_NUM_THREADS=1
        assert mf.divided_threads(2) == 1
    finally:
        torch.set_num_threads(cores)


@pytest.mark.parametrize("name", REMOTE)
def test_what_is_listed_names_every_parameter(name):
    """A base's parameters cannot be read from the source of a plugin that has it from the public API."""
    listed = [parameter.name for parameter in REGISTRY.entry("executor", name).parameters()]
    assert listed == ["jobs", "retries" if name == "processes" else "address"]


@pytest.mark.parametrize("parameters", [{"jobs": 0}, {"jobs": 2, "retries": -1}])
def test_numbers_that_cannot_be_are_refused(parameters):
    with pytest.raises(mf.ConfigError, match=r"(jobs is 0|retries is -1), but a whole number"):
        REGISTRY.build("executor", {"use": "processes", **parameters})


@dataclass(frozen=True)
class Forgetful(mf.Executor):
    """Wrong in every way that the suite looks for."""

    def map(self, function, items, notice=mf.warn) -> Iterator:
        torch.set_num_threads(torch.get_num_threads() + 1)
        for index, item in list(enumerate(items))[1:]:
            try:
                yield index, function(item)
            except Exception:
                yield index, None


def test_the_suite_finds_what_is_wrong():
    cores = torch.get_num_threads()
    try:
        found = {line.partition(":")[0] for line in executor_failures(Forgetful())}
    finally:
        torch.set_num_threads(cores)
    assert found == {"once", "tensors", "exception", "early end", "own file", "threads"}


OWNER = """
import os, time
import metafluence as mf

def work(item):
    open(os.path.join(%r, str(os.getpid())), "w").close()
    time.sleep(60)

list(mf.build("executor", "processes", jobs=2).map(work, [0, 1]))
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_was_killed(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER % str(tmp_path)])
    patience = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < patience:
        time.sleep(0.1)
    workers = [int(file.name) for file in tmp_path.iterdir()]
    owner.kill()
    owner.wait()
    time.sleep(4)
    assert len(workers) == 2
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
