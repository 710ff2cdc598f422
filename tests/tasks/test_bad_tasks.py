"""Tasks, weights and items that cannot be meant: each is refused in a sentence with what, why and how to fix it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import metafluence as mf
from metafluence import Batch, Task, TaskSet, Weights
from parts import LEARNERS
from refusals import refused

N, S, Q = 2, 4, 3


def tasks(**changed) -> TaskSet:
    """Two tasks of two classes with single tensors exchanged."""
    parts = {
        "inputs": torch.zeros(N, S, 5),
        "targets": torch.arange(S).remainder(2).expand(N, S),
        "query_inputs": torch.zeros(N, Q, 5),
        "query_targets": torch.arange(Q).remainder(2).expand(N, Q),
        "ids": ("a", "b"),
    } | changed
    return TaskSet(
        Batch(parts["inputs"], parts["targets"]), Batch(parts["query_inputs"], parts["query_targets"]), parts["ids"]
    )


def labels(*values: int) -> dict:
    """Both halves with these class numbers."""
    return {
        "targets": torch.tensor([values[i % len(values)] for i in range(S)]).expand(N, S),
        "query_targets": torch.tensor([values[i % len(values)] for i in range(Q)]).expand(N, Q),
    }


ones = Weights.ones(tasks())
RENUMBER = r"torch\.unique\(targets, return_inverse=True\)"
TASKS = {
    "gap": (labels(3, 17, 57), rf"targets have 3 classes, numbered 3, 17, 57 up to 57.*without a gap.*{RENUMBER}"),
    "from-one": (labels(1, 2), rf"numbered 1, 2 up to 2.*{RENUMBER}"),
    "huge": (labels(0, 1_000_000), rf"numbered 0, 1000000 up to 1000000.*{RENUMBER}"),
    "largest": (labels(0, 2**62), rf"numbered 0, {2**62}.*{RENUMBER}"),
    "byte": (labels(0, 255), rf"numbered 0, 255.*{RENUMBER}"),
    "negative": (labels(0, -1), rf"support targets have the class -1.*{RENUMBER}"),
    "negative-query": ({"query_targets": -torch.ones(N, Q).long()}, rf"query targets have the class -1.*{RENUMBER}"),
    "one-hot": ({"targets": torch.eye(2).long()[labels(0, 1)["targets"]]}, r"one-hot rows of shape.*argmax\(dim=-1\)"),
    "one-hot-bool": ({"targets": torch.eye(2).bool()[labels(0, 1)["targets"]]}, r"support targets are one-hot.*argmax"),
    "many": ({"targets": torch.ones(N, S, 3).long()}, "integers of shape .*one class number for each instance"),
    "four-dimensions": ({"targets": torch.zeros(N, S, 1, 1).long()}, "integers of shape.*one class number for each"),
    "flat": ({"targets": torch.zeros(N * S).long()}, r"integers of shape \(8,\); class numbers are \[N, n\]"),
    "scalar": ({"targets": torch.tensor(1)}, r"integers of shape \(\); class numbers are \[N, n\]"),
    "real-flat": ({"targets": torch.zeros(N, S)}, r"real values of shape \(2, 4\).*unsqueeze\(-1\), or give classes"),
    "complex": ({"targets": torch.zeros(N, S).cfloat()}, "support targets are torch.complex64. Give classes or real"),
    "kinds": ({"query_targets": torch.zeros(N, Q, 1)}, r"Support targets are \(2, 4\).*both halves need the same kind"),
    "widths": (
        {"targets": torch.zeros(N, S, 2), "query_targets": torch.zeros(N, Q, 3)},
        r"Support targets are \(2, 4, 2\), query targets \(2, 3, 3\): both halves",
    ),
    "nan-input": ({"inputs": torch.full((N, S, 5), torch.nan)}, "'a' has NaN .* support instance 0. Remove or fill"),
    "infinite": ({"query_inputs": torch.full((N, Q, 5), torch.inf)}, "'a' has NaN or infinite.*query instance 0"),
    "nan-target": (
        {"targets": torch.full((N, S, 1), torch.nan), "query_targets": torch.zeros(N, Q, 1)},
        "NaN or infinite values in support instance 0 as targets. Remove or fill",
    ),
    "bytes": ({"inputs": torch.zeros(N, S, 5).byte()}, "inputs are torch.uint8. Convert them to floating point"),
    "bool": ({"inputs": torch.zeros(N, S, 5).bool()}, "inputs are torch.bool. Convert them to floating point"),
    "complex-input": ({"inputs": torch.zeros(N, S, 5).cfloat()}, "inputs are torch.complex64. Convert them"),
    "types": ({"inputs": torch.zeros(N, S, 5).double()}, "of torch.float32 and torch.float64. Move .* one type"),
    "short": ({"inputs": torch.zeros(N, S - 1, 5)}, r"inputs \(2, 3, 5\) and targets \(2, 4\) for 2 ids.*Give inputs"),
    "flat-inputs": ({"inputs": torch.zeros(N)}, r"inputs \(2,\) and targets \(2, 4\).*Give inputs \[N, n, \.\.\.\]"),
    "ids": ({"ids": ("a",)}, r"for 1 ids\. Give inputs"),
    "no-ids": ({"ids": ()}, "has no task. Give at least one Task"),
    "twice": ({"ids": ("a", "a")}, "Two tasks are called 'a'. Give every task an id of its own"),
}


@pytest.mark.parametrize(("changed", "message"), TASKS.values(), ids=TASKS)
def test_tasks_that_cannot_be_meant_are_refused(changed, message):
    with refused(message):
        tasks(**changed)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("column", [False, True])
def test_labels_of_any_integer_type_and_of_one_column_are_class_numbers(kind, column):
    plain = tasks()
    given = plain.support.targets.to(kind)
    made = tasks(targets=given.unsqueeze(-1) if column else given)
    assert made.support.targets.dtype == torch.int64
    assert made.fingerprint() == plain.fingerprint()


def test_a_class_in_queries_alone_is_refused_where_tasks_adapt():
    lone = tasks(query_targets=torch.tensor([[0, 1, 1], [0, 2, 1]]))
    inner = mf.build("solver", "exact")
    for name, learner in LEARNERS.items():
        if name == "joint":
            assert mf.BilevelProblem(learner(), lone, 1.0, inner).size
            continue
        with refused("Query instance 1 of task 'b' is of class 2, which no support has. Give the class support"):
            mf.BilevelProblem(learner(), lone, 1.0, inner)
        with refused("Query instance 1 of task 'b' is of class 2, which no support has"):
            mf.BilevelProblem(replace(learner(), ways=3), tasks(), 1.0, inner).over(lone)


def test_a_class_may_be_in_the_support_of_another_task():
    tasks(
        targets=torch.tensor([[0, 1, 2, 2], [0, 1, 0, 1]]), query_targets=torch.tensor([[0] * 3, [2] * 3])
    ).check_support()


LABELLED = {
    "past": ({"labels": torch.tensor([0, 2])}, "There is the label 2, but 2 classes, numbered from 0. Give a class"),
    "negative": ({"labels": torch.tensor([0, -1])}, "There is the label -1, but 2 classes"),
    "real": ({"labels": torch.zeros(2)}, r"The labels are torch.float32 of shape \[2\]. Give whole numbers"),
    "one-hot": ({"labels": torch.eye(2).long()}, r"of shape \[2, 2\]. Give whole numbers \[n\]"),
    "fewer": ({"labels": torch.tensor([0])}, "There are 2 inputs but 1 labels; make them as many"),
    "splits": ({"splits": ((0,), (), (2,))}, "The splits have the class 2 of 2. Give numbers from 0"),
    "twice": ({"splits": ((0,), (), (0,))}, "The class 'a' is in the published splits twice. Keep it in one"),
}


@pytest.mark.parametrize(("changed", "message"), LABELLED.values(), ids=LABELLED)
def test_labelled_data_that_cannot_be_meant_are_refused(changed, message):
    parts = {"inputs": torch.zeros(2, 3), "labels": torch.tensor([0, 1]), "classes": ("a", "b")} | changed
    with refused(message, mf.DataError):
        mf.Labelled(**parts)


def test_inputs_lose_their_graph():
    inputs = torch.zeros(N, S, 5, requires_grad=True)
    assert not tasks(inputs=inputs * 2).support.inputs.requires_grad


def test_part_of_a_set_need_not_have_all_classes():
    whole = tasks(targets=torch.tensor([[0, 1, 0, 1], [0, 2, 0, 2]]))
    assert len(whole[[1]]) == 1


def test_single_tasks_are_converted_as_they_are_stacked():
    half = Batch(torch.zeros(2, 3), torch.tensor([[0], [1]], dtype=torch.uint8))
    assert TaskSet.stack([Task("a", half, half)]).query.targets.tolist() == [[0, 1]]


ITEMS = {
    "negative": (-1, "There is no task item -1: give one from 0 to 1"),
    "past": (2, "There is no task item 2: give one from 0 to 1"),
    "huge": (10**30, "There is no task item 1000000"),
    "fraction": (0.5, "0.5 names no task item: items are whole numbers from 0 to 1"),
    "whole-float": (1.0, "1.0 names no task item: items are whole numbers"),
    "nan": (float("nan"), "nan names no task item"),
    "true": (True, "True names no task item.*mask.nonzero"),
    "mask": ([True, False], "True names no task item.*mask.nonzero"),
    "mask-tensor": (torch.tensor([True, False]), "True names no task item.*mask.nonzero"),
    "text": ("0", "'0' names no task item: items are whole numbers"),
    "texts": (["0"], "'0' names no task item"),
    "none": (None, "None names no task item"),
    "nested": ([[0]], r"\[0\] names no task item"),
    "float-array": (np.array([0.5]), "0.5 names no task item"),
    "float-tensor": (torch.tensor([0.0, 1.0]), "0.0 names no task item"),
    "negative-array": (np.array([-1]), "There is no task item -1"),
    "set": ({0}, "names no task item"),
    "mixed": ([0, 1, -2], "There is no task item -2"),
}


@pytest.mark.parametrize(("items", "message"), ITEMS.values(), ids=ITEMS)
def test_items_that_are_none_are_refused(items, message):
    with refused(message):
        ones.without("task", items)


@pytest.mark.parametrize(("items", "message"), ITEMS.values(), ids=ITEMS)
def test_groups_of_items_that_are_none_are_refused(items, message):
    with refused(message):
        mf.group_scores(torch.zeros(2, 1), [items])


@pytest.mark.parametrize(
    "items", [1, [1], (1,), range(1, 2), np.int64(1), np.array([1]), torch.tensor(1), torch.tensor([1]), [1, 1]]
)
def test_one_item_may_be_written_in_many_ways(items):
    assert ones.without("task", items).task.tolist() == [1, 0]


REMOVALS = {
    "empty": ([], "the list of removals is empty. Give one or more"),
    "nothing": ([()], "Removal 0 names no task item. Leave it out"),
    "second": ([(0,), ()], "Removal 1 names no task item"),
    "number": (0, "Removals are 0; give a list of tuples of task items"),
    "text": ("01", "Removals are '01'; give a list of tuples"),
    "none": (None, "Removals are None; give a list of tuples"),
    "past": ([(0, 9)], "There is no task item 9"),
    "negative": ([(-1,)], "There is no task item -1"),
    "fraction": ([(0.5,)], "0.5 names no task item"),
}


@pytest.mark.parametrize(("removals", "message"), REMOVALS.values(), ids=REMOVALS)
def test_removals_that_cannot_be_made_are_refused(removals, message):
    with refused(message):
        mf.group_scores(torch.zeros(2, 1), removals)


def test_a_removal_of_one_item_may_be_a_number():
    assert mf.group_scores(torch.tensor([[1.0], [2.0]]), [1, (0, 1), (1, 1)]).flatten().tolist() == [2, 3, 2]


@pytest.mark.parametrize("level", ["tasks", "foo", "", "Task", None, 0, ("task",)])
def test_levels_that_are_none_are_refused(level):
    for ask in (lambda: ones.without(level, 0), lambda: tasks().items(level), lambda: tasks().corrupted_items(level)):
        with refused(r"There is no level .*\. Give one of task, support, query"):
            ask()


@pytest.mark.parametrize("value", [-1, -1e-9, float("nan"), float("inf"), True])
def test_weights_of_items_that_cannot_be_meant_are_refused(value):
    with refused(r"The weight of an item is .*Give a finite number of 0 or more"):
        ones.set("task", 0, value)


WEIGHTS = {
    "negative": ({"task": torch.tensor([1.0, -1.0])}, "weight of task item 1 is -1.0. Give a finite number of 0"),
    "nan": ({"query": torch.full((N, Q), torch.nan)}, "weight of query item 0 is nan. Give a finite number"),
    "infinite": ({"support": torch.full((N, S), torch.inf)}, "weight of support item 0 is inf"),
    "integer": ({"task": torch.ones(N).long()}, "task weights are torch.int64. Convert them to floating point"),
    "bool": ({"task": torch.ones(N).bool()}, "task weights are torch.bool. Convert them"),
    "matrix": ({"task": torch.ones(N, 1)}, r"task weights have shape \(2, 1\).*Give task weights \[N\]"),
    "flat": ({"query": torch.ones(N * Q)}, r"query weights have shape \(6,\).*support and query weights \[N, n\]"),
    "fewer": ({"support": torch.ones(N - 1, S)}, r"support weights have shape \(1, 4\) beside 2 task weights"),
}


@pytest.mark.parametrize(("changed", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_cannot_be_meant_are_refused(changed, message):
    parts = {"task": ones.task, "support": ones.support, "query": ones.query} | changed
    with refused(message):
        Weights(**parts)


EPISODES = {
    "no-tasks": ({"train": 0}, "train is 0, but a whole number at least 1"),
    "negative": ({"shot": -1}, "shot is -1, but a whole number at least 1"),
    "no-query": ({"query": 0}, "query is 0, but a whole number at least 1"),
    "one-way": ({"way": 1}, "way is 1, but a whole number at least 2"),
    "no-way": ({"way": 0}, "way is 0, but a whole number at least 2"),
    "billion": ({"train": 10**9}, "train is 1000000000, but a whole number at least 1 and at most 1e6"),
    "fraction": ({"validation": 2.5}, "validation is 2.5, but a whole number"),
    "true": ({"test": True}, "test is True, but a whole number"),
    "text": ({"train": "many"}, "train is 'many', but a whole number"),
    "none": ({"train": None}, "train is None, but a whole number"),
    "shares-nan": ({"shares": (float("nan"), 0.5, 0.5)}, "shares is .*nan.*but a list of 3"),
    "shares-two": ({"shares": (0.5, 0.5)}, "shares is .*but a list of 3"),
    "shares-negative": ({"shares": (-1, 1, 1)}, "shares is .*but a list of 3, each a number at least 0 and at most 1"),
    "shares-sum": ({"shares": (0.5, 0.5, 0.5)}, "shares are .*must add up to 1"),
    "shares-number": ({"shares": 1}, "shares is 1, but a list of 3"),
    "split": ({"split": "class"}, "split is 'class', but 'classes' or 'instances' or 'published'"),
}


@pytest.mark.parametrize(("given", "message"), EPISODES.values(), ids=EPISODES)
def test_episodes_that_cannot_be_drawn_are_refused(given, message):
    with refused(message):
        mf.Episodes(**given)
