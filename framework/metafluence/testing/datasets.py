"""The conformance suite of data sets: `TestMine = dataset_suite(MyDataset())` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from metafluence import Dataset, Episodes, LabelledDataset, Split, TaskSet
from metafluence.testing.simple_suites import simple_suite

DRAWN = Episodes(train=4, validation=3, test=2, shot=2, query=3)
"""What is drawn; `way` is 2 where there are classes."""


def check_tasks(component: Dataset, seed: int) -> None:
    """It draws as many tasks as are asked for, with a support and a query of the right sizes."""
    split = _drawn(component, seed)
    for name in ("train", "validation", "test"):
        tasks: TaskSet = getattr(split, name)
        assert len(tasks) == getattr(DRAWN, name), f"{len(tasks)} tasks for {name}, not {getattr(DRAWN, name)}"
        ways = 2 if isinstance(component, LabelledDataset) else 1
        for half, each in (("support", DRAWN.shot), ("query", DRAWN.query)):
            found = getattr(tasks, half).targets.shape[1]
            assert found == ways * each, f"{found} instances in a {half} of {name}, not {ways * each}"


def check_values(component: Dataset, seed: int) -> None:
    """Inputs are finite and of the dtype that is asked for; labels are whole numbers from 0."""
    for dtype in (torch.float64, torch.float32):
        tasks = _drawn(component, seed, dtype).train
        for half in (tasks.support, tasks.query):
            assert half.inputs.dtype == dtype, f"{half.inputs.dtype}, where {dtype} is asked for"
            assert bool(half.inputs.isfinite().all()), "some are not finite"
            if isinstance(component, LabelledDataset):
                assert sorted(half.targets.unique().tolist()) == [0, 1], "labels of two classes are not 0 and 1"


def check_seed(component: Dataset, seed: int) -> None:
    """Tasks depend on the generator alone: the same for the same seed, others for another."""
    first, again, other = (_drawn(component, s).train.fingerprint() for s in (seed, seed, seed + 1))
    assert first == again, "the same seed draws other tasks"
    assert first != other, "another seed draws the same tasks"


def check_sets(component: Dataset, seed: int) -> None:
    """No task of one set is in another."""
    split = _drawn(component, seed)
    seen = [{row.numpy().tobytes() for row in tasks.support.inputs} for tasks in (split.train, split.validation)]
    assert not seen[0] & seen[1], "a training task is a validation task"


def check_more(component: Dataset, seed: int) -> None:
    """More training tasks leave the first ones, and the other sets, as they are."""
    few, many = _drawn(component, seed), _drawn(component, seed, train=6)
    first = many.train[torch.arange(DRAWN.train)]
    assert torch.equal(first.support.inputs, few.train.support.inputs), "the first training tasks are others"
    assert many.test.fingerprint() == few.test.fingerprint(), "the test tasks are others"


CHECKS = {"tasks": check_tasks, "values": check_values, "seed": check_seed, "sets": check_sets, "more": check_more}


def dataset_suite(dataset: Dataset | type[Dataset], skip: Collection[str] = (), examples: int = 2) -> type:
    """A class of tests for pytest: `dataset` (an instance, or a class with defaults) on all CHECKS but `skip`.

    Two-way tasks are drawn, so that it needs six classes of five instances or more.
    """
    return simple_suite("dataset", CHECKS, dataset, skip, examples)


def _drawn(component: Dataset, seed: int, dtype: torch.dtype = torch.float64, train: int = DRAWN.train) -> Split:
    way = 2 if isinstance(component, LabelledDataset) else DRAWN.way
    episodes = replace(DRAWN, train=train, way=way)
    return component.tasks(episodes, torch.Generator().manual_seed(seed), dtype)
