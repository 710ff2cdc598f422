"""Tasks of several sizes in one set: what is padding, and what leaves it out."""

import pytest
import torch

import metafluence as mf
from metafluence import Batch, Corruption, InputError, Task, TaskSet, Weights, corrupt, pad_tasks


def task(name: str, support: int = 3, query: int = 2, real: bool = False) -> Task:
    def half(n: int) -> Batch:
        inputs = 1 + torch.arange(n * 3).double().view(n, 3)
        return Batch(inputs, inputs[:, :1] if real else torch.arange(n) % 2)

    return Task(name, half(support), half(query))


def padded(real: bool = False) -> TaskSet:
    return pad_tasks([task("a", 3, 2, real), task("b", 5, 2, real), task("c", 2, 4, real)])


def test_padding_copies_the_first_instance_and_weighs_nothing():
    tasks = padded()
    assert tasks.counts is not None
    assert tasks.counts.tolist() == [[3, 2], [5, 2], [2, 4]]
    assert tasks.support.inputs[2, 2:].equal(tasks.support.inputs[2, :1].expand(3, 3))
    assert tasks.query.targets[0].tolist() == [0, 1, 0, 0]
    weights = Weights.ones(tasks)
    assert torch.allclose(weights.support[0], torch.tensor([5 / 3, 5 / 3, 5 / 3, 0, 0]).double())
    assert weights.query[2].tolist() == [1, 1, 1, 1]
    assert tasks.held("support").sum(dim=1).tolist() == [3, 5, 2]


def test_tasks_of_one_size_are_not_padded():
    tasks = pad_tasks([task("a"), task("b")])
    assert tasks.counts is None
    assert tasks.fingerprint() == TaskSet.stack([task("a"), task("b")]).fingerprint()


def test_subsets_and_moves_keep_the_counts():
    tasks = padded()[[2, 0]].to(dtype=torch.float32)
    assert tasks.counts is not None
    assert tasks.counts.tolist() == [[2, 4], [3, 2]]
    assert Weights.ones(tasks).support[0].tolist() == [2.5, 2.5, 0, 0, 0]


def test_the_fingerprint_knows_how_many_instances_are_real():
    tasks = padded()
    whole = TaskSet(tasks.support, tasks.query, tasks.ids)
    other = TaskSet(tasks.support, tasks.query, tasks.ids, counts=torch.full((3, 2), 2))
    assert len({one.fingerprint() for one in (tasks, whole, other)}) == 3


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        (lambda: pad_tasks([]), "There is no task to stack"),
        (lambda: pad_tasks([task("a"), task("none", support=0)]), r"'none' has support inputs \[0, 3\].*one or more"),
        (lambda: pad_tasks([task("a"), task("r", 4, 2, real=True)]), "targets of shape"),
        (lambda: TaskSet(*counted(), counts=torch.tensor([[3, 2]])), r"Give int64 \[N, 2\]"),
        (lambda: TaskSet(*counted(), counts=torch.tensor([[4, 2], [3, 2]])), r"not between 1 and \[3, 2\]"),
        (lambda: TaskSet(*counted(), counts=torch.tensor([[0, 2], [3, 2]])), r"not between 1 and"),
        (lambda: TaskSet.stack([task("a"), task("b", support=4)]), "mf.pad_tasks"),
    ],
)
def test_what_cannot_be_padded_is_said(tasks, sentence):
    with pytest.raises(InputError, match=sentence):
        tasks()


def counted() -> tuple[Batch, Batch, tuple[str, ...]]:
    stacked = TaskSet.stack([task("a"), task("b")])
    return stacked.support, stacked.query, stacked.ids


@pytest.mark.parametrize("kind", ["query-labels", "support-labels", "noise"])
@pytest.mark.parametrize("real", [False, True])
def test_corruption_is_of_real_instances(kind, real):
    tasks = padded(real)
    spoilt = corrupt(tasks, Corruption(kind, 1.0, 1.0), torch.Generator().manual_seed(0))
    for half in ("support", "query"):
        marks = getattr(spoilt, f"corrupted_{half}")
        assert marks.equal(tasks.held(half) if kind in ("noise", f"{half}-labels") else torch.zeros_like(marks))
        if marks.any() and kind != "noise":
            now, before = getattr(spoilt, half).targets, getattr(tasks, half).targets
            assert bool((now != before).flatten(2).any(dim=2)[marks].all() if real else (now != before)[marks].all())


def test_a_wrong_label_is_of_a_class_of_its_task():
    three = Task("three", *(Batch(torch.randn(6, 3).double(), torch.arange(6) % 3) for _ in range(2)))
    tasks = pad_tasks([task("two", 4, 4), three])
    spoilt = corrupt(tasks, Corruption("query-labels", 1.0, 1.0), torch.Generator().manual_seed(0))
    assert spoilt.query.targets[0, :4].tolist() == [1, 0, 1, 0]
    assert spoilt.query.targets[1].max() == 2
    one = TaskSet.stack([Task("one", *(Batch(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)) for _ in range(2)))])
    with pytest.raises(InputError, match="A task has one class"):
        corrupt(one, Corruption("query-labels", 1.0, 1.0), torch.Generator().manual_seed(0))


def test_accuracy_is_of_real_instances():
    problem = mf.BilevelProblem(
        mf.build("learner", "joint", backbone=torch.nn.Linear(3, 2).double()), padded(), 0.1, mf.build("solver", "cg")
    )
    zeros = torch.zeros(8, dtype=torch.float64)  # all are taken to be of class 0: 1 of 2, 1 of 2, 2 of 4
    assert mf.validate(problem, zeros).accuracy == 0.5
    assert mf.loss_gradient(problem, zeros)[0].accuracy == 0.5


def test_groups_hold_no_padding():
    tasks = padded()
    assert mf.by_task(tasks, "query") == [(0, 1), (4, 5), (8, 9, 10, 11)]
    assert mf.by_task(tasks, "task") == [(0,), (1,), (2,)]
    assert mf.by_class(tasks, "support")["c", 0] == (10,)


def test_a_network_that_mixes_instances_refuses_padding():
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = torch.nn.BatchNorm1d(3, track_running_stats=False), torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.norm(x))

    learner = mf.build("learner", "maml", backbone=mf.per_task_norms(Norm().double()), steps=1, rate=0.1)
    with pytest.raises(InputError, match=r"mixes instances.*tasks of one size"):
        mf.BilevelProblem(learner, padded(), 0.1, mf.build("solver", "cg"))


def test_what_is_no_task_is_refused():
    half = mf.Batch(torch.zeros(2, 1), torch.arange(2))
    for given, kind in ((mf.TaskSet.stack([mf.Task("a", half, half)]), "TaskSet"), ([(half, half)], "tuple")):
        with pytest.raises(mf.InputError, match=f"pad_tasks was given a {kind}. Give Task objects"):
            mf.pad_tasks(given)
