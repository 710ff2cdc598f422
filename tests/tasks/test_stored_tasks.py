"""Tasks that stay on disk: the numbers of the set in memory to the bit, read in order and a few at a time; refusals."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import metafluence as mf
from metafluence.tasks.stored_inputs import StoredInputs
from metafluence.testing.worlds import world
from parts import LEARNERS
from refusals import refused

N = 7


def tasks(count: int = N, dtype: torch.dtype = torch.float64, **more) -> mf.TaskSet:
    generator = torch.Generator().manual_seed(0)
    halves = []
    for n in (4, 6):
        inputs = torch.randn(count, n, 3, generator=generator, dtype=torch.float64).to(dtype)
        halves.append(mf.Batch(inputs, (torch.arange(n) % 2).repeat(count, 1)))
    return mf.TaskSet(halves[0], halves[1], tuple(f"t{i}" for i in range(count)), **more)


def same(one: mf.TaskSet, other: mf.TaskSet) -> bool:
    pairs = [(h, what) for h in ("support", "query") for what in ("inputs", "targets")]
    return one.fingerprint() == other.fingerprint() and all(
        torch.equal(getattr(getattr(one, h), what)[:], getattr(getattr(other, h), what)[:]) for h, what in pairs
    )


def stored(folder: Path, some: mf.TaskSet) -> mf.TaskSet:
    mf.save_tasks(some, folder)
    return mf.open_tasks(folder)


def test_a_set_is_read_as_it_was_written(tmp_path):
    """With marks of corruption, origins and padding, which stay in memory."""
    marked = replace(tasks(), corrupted_query=torch.arange(N * 6).reshape(N, 6) % 5 == 0)
    images = mf.Origins(torch.zeros(N, 4).long(), torch.ones(N, 6).long(), ("a", "b"), torch.tensor([0, 1]), ("x", "y"))
    for number, some in enumerate(
        (marked, replace(tasks(), origins=images), replace(tasks(), counts=torch.tensor([[2, 3]] * N)))
    ):
        opened = stored(tmp_path / str(number), some)
        assert isinstance(opened.support.inputs, StoredInputs)
        assert same(opened, some)
        assert torch.equal(opened.corrupted_query, some.corrupted_query)
        assert (opened.origins is None) == (some.origins is None)
        assert torch.equal(opened.held("support"), some.held("support"))


@given(st.one_of(st.lists(st.integers(-N, N - 1), min_size=1), st.slices(N)), st.sampled_from(["float64", "float32"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_is_that_of_the_set_in_memory(whole, index, kind):
    here, there = whole
    dtype = getattr(torch, kind)
    if isinstance(index, slice) and not len(range(N)[index]):
        return
    # Advanced indexing of a tensor knows negative steps no more than torch does, so both get numbers.
    numbers = torch.arange(N).tolist()[index] if isinstance(index, slice) else index
    parts = [t.to(dtype=dtype)[numbers] for t in (here, there)] if len(set(numbers)) == len(numbers) else []
    for half in ("support", "query"):
        ours, theirs = (getattr(t.to(dtype=dtype), half).inputs[numbers] for t in (here, there))
        assert torch.equal(ours, theirs)
        assert torch.equal(getattr(here, half).inputs[0, :2], getattr(there, half).inputs[0, :2])
    if parts:
        assert parts[0].fingerprint() == parts[1].fingerprint()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("stored") / "tasks", tasks()), tasks()


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_scores_and_fits_are_those_of_the_set_in_memory_to_the_bit(name, whole):
    """With memory for one task's graphs at a time, so that passes go chunk by chunk."""
    found = []
    for some in whole:
        problem = mf.BilevelProblem(LEARNERS[name](), some, 0.5, mf.build("solver", "exact"), memory_gib=1e-9)
        trainer = mf.build("trainer", "adam", steps=3, batch=2, record=True)
        fit = trainer.fit(problem, generator=torch.Generator().manual_seed(0))
        context = mf.Context(problem.at(fit.meta), run=fit.run)
        targets = mf.Targets(problem, some[:2], fit.meta)
        scores = [
            mf.attribute(mf.build("method", method, **more), context, targets).values
            for method, more in (("run-influence", {}), ("task-if", {"damping": 10.0, "solver": "cg"}), ("loss", {}))
        ]
        found.append((problem.fingerprint(), fit.meta, *scores, problem.at(fit.meta).responses("query")))
    assert found[0][0] == found[1][0]
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.equal(ours, theirs)


def test_a_pass_reads_each_task_once_in_order(whole, monkeypatch):
    read = []
    original = StoredInputs._read

    def noting(self, numbers):
        read.append((self.file.name[:5], numbers))
        return original(self, numbers)

    opened = whole[0]
    problem = mf.BilevelProblem(LEARNERS["maml"](), opened, 0.5, mf.build("solver", "exact"), memory_gib=1e-9)
    meta = torch.zeros(problem.size, dtype=torch.float64)
    problem.bytes_per_task(meta, products=False)
    monkeypatch.setattr(StoredInputs, "_read", noting)
    mf.loss_gradient(problem, meta)
    assert read == [(half, [i]) for i in range(N) for half in ("suppo", "query")]


def test_parts_are_written_as_they_come(tmp_path):
    """From a generator of tuples, tasks and sets; no more than one part is held."""
    given, alive = tasks(), []

    def parts():
        for i in range(N):
            part = given[[i]]
            if i % 3 == 0:
                yield part
            elif i % 3 == 1:
                yield mf.Task(f"t{i}", part.support[0], part.query[0])
            else:
                yield tuple(
                    x[0] for x in (part.support.inputs, part.support.targets, part.query.inputs, part.query.targets)
                )
            alive.append(i)

    opened = mf.save_tasks(parts(), tmp_path)
    assert alive == list(range(N))
    assert opened.ids == ("t0", "t1", "task-2", "t3", "t4", "task-5", "t6")
    assert same(replace(opened, ids=given.ids), given)


def test_padded_tasks_of_several_parts_are_one_set(tmp_path):
    def some(n, name):
        return mf.Task(name, *(mf.Batch(torch.randn(k, 2), torch.arange(k) % 2) for k in (n, 4)))

    whole = mf.pad_tasks([some(2, "a"), some(5, "b"), some(3, "c")])
    opened = mf.save_tasks(iter([whole[:1], whole[1:]]), tmp_path)
    assert opened.fingerprint() == whole.fingerprint()


def test_it_is_pickled_without_its_inputs(whole):
    data = pickle.dumps(whole[0])
    assert same(pickle.loads(data), whole[1])


def test_damaged_and_changed_files_are_refused(tmp_path):
    opened = stored(tmp_path / "a", tasks())
    file = tmp_path / "a" / "query-inputs.bin"
    content = bytearray(file.read_bytes())
    content[3 * (len(content) // N) + 5] ^= 1
    file.write_bytes(content)
    assert len(opened[:3]) == 3, "the others are as they were"
    with refused("other values at task 3 than were written", mf.DataError):
        opened[3:]
    with refused("other values at task 3", mf.DataError):
        opened.fingerprint()
    file.write_bytes(content[:-8])
    with refused("other values at task 6", mf.DataError):
        opened[6:]
    with refused("bytes where", mf.DataError):
        mf.open_tasks(tmp_path / "a")
    file.unlink()
    with refused("cannot be read", mf.DataError):
        opened[:1]
    with refused("has 0 bytes where", mf.DataError):
        mf.open_tasks(tmp_path / "a")
    meta = tmp_path / "a" / "tasks.safetensors"
    meta.write_bytes(meta.read_bytes()[:-1] + b"\1")
    with refused("is damaged", mf.DataError):
        mf.open_tasks(tmp_path / "a")
    with refused("There are no saved tasks", mf.DataError):
        mf.open_tasks(tmp_path / "nowhere")


def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path):
    other = world(0).problem.tasks
    for number, (parts, message) in enumerate(
        (
            (iter([tasks(), other]), "has tensors of"),
            (iter([tasks(), tasks()]), "Two tasks are called 't0'"),
            (iter([3]), "Part 0 of the tasks is a int"),
            (iter([]), "There is no task to save"),
            (iter([tasks(2), replace(tasks(4), counts=torch.tensor([[2, 3]] * 4))[2:]]), "padded and some are not"),
        )
    ):
        with refused(message):
            mf.save_tasks(parts, tmp_path / str(number))
        assert not list((tmp_path / str(number)).iterdir())
    mf.save_tasks(tasks(), tmp_path / "once")
    with refused("holds files"):
        mf.save_tasks(tasks(), tmp_path / "once")


def test_what_needs_all_inputs_at_once_is_refused(whole):
    noise = mf.Corruption(kind="noise", fraction=0.5, strength=0.5)
    with refused("needs the inputs of all tasks at once"):
        mf.corrupt(whole[0], noise, torch.Generator())
    assert same(
        mf.corrupt(whole[0][:], noise, torch.Generator().manual_seed(0)),
        mf.corrupt(whole[1], noise, torch.Generator().manual_seed(0)),
    )
    with refused(r"needs the inputs of all tasks at once \(cat\)"):
        torch.cat([whole[0].query.inputs, whole[1].query.inputs])
    labels = mf.Corruption(kind="query-labels", fraction=0.5, strength=0.5)
    made = [mf.corrupt(some, labels, torch.Generator().manual_seed(0)) for some in whole]
    assert same(*made)
