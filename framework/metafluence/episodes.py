"""Few-shot tasks from a labelled data set: splits that share nothing, then episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks import Batch, Task, TaskSet


@dataclass(frozen=True)
class Labelled:
    """A labelled data set: inputs [n, *shape] in floating point, labels [n] (int64), one name per class."""

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]


class Dataset(ABC):
    """A frozen dataclass whose fields say where the data are and how to read them."""

    @abstractmethod
    def load(self) -> Labelled:
        """Read everything. Raises DataError naming the files looked for and what to do."""


@dataclass(frozen=True)
class Episodes:
    """How tasks are drawn.

    train, validation, test: numbers of tasks. way: classes per task; shot and query: instances per class in each half.
    split: the three sets differ in their `classes`, or in the `instances` of every class. shares: of the split.
    """

    train: int = 40
    validation: int = 20
    test: int = 20
    way: int = 5
    shot: int = 5
    query: int = 5
    split: Literal["classes", "instances"] = "classes"
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Split:
    """The three sets of tasks; nothing in one is in another."""

    train: TaskSet
    validation: TaskSet
    test: TaskSet


def sample(data: Labelled, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
    """Draw the three sets of tasks. Raises InputError where the data set is too small for what is asked."""
    if min(episodes.shares) < 0 or abs(sum(episodes.shares) - 1) > 1e-6:
        raise InputError(f"episodes.shares are {episodes.shares}; they must add up to 1.")
    # Every set has randomness of its own: more tasks in one do not change another.
    seeds = torch.randint(2**31, (4,), generator=generator).tolist()
    splitting, *drawing = [torch.Generator().manual_seed(seed) for seed in seeds]
    by_class = [(data.labels == c).nonzero().squeeze(1) for c in range(len(data.classes))]
    if episodes.split == "classes":
        order = torch.randperm(len(by_class), generator=splitting).tolist()
        pools = [[by_class[c] for c in part] for part in _cut(order, episodes.shares)]
    else:
        shuffled = [i[torch.randperm(len(i), generator=splitting)] for i in by_class]
        cut = [_cut(i.tolist(), episodes.shares) for i in shuffled]
        pools = [[torch.tensor(parts[s], dtype=torch.int64) for parts in cut] for s in range(3)]
    sets = []
    for name, pool, drawn in zip(("train", "validation", "test"), pools, drawing, strict=True):
        count = getattr(episodes, name)
        _check_pool(name, pool, episodes)
        sets.append(TaskSet.stack(_episode(f"{name}-{i}", data, pool, episodes, drawn, dtype) for i in range(count)))
    return Split(*sets)


def _episode(
    name: str,
    data: Labelled,
    pool: list[Tensor],
    episodes: Episodes,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Task:
    support, query = [], []
    for c in torch.randperm(len(pool), generator=generator)[: episodes.way].tolist():
        members = pool[c]
        chosen = members[torch.randperm(len(members), generator=generator)[: episodes.shot + episodes.query]]
        support.append(chosen[: episodes.shot])
        query.append(chosen[episodes.shot :])

    def half(parts: list[Tensor], each: int) -> Batch:
        return Batch(data.inputs[torch.cat(parts)].to(dtype), torch.arange(episodes.way).repeat_interleave(each))

    return Task(name, half(support, episodes.shot), half(query, episodes.query))


def _cut(items: list[int], shares: tuple[float, float, float]) -> list[list[int]]:
    first = round(len(items) * shares[0])
    second = first + round(len(items) * shares[1])
    return [items[:first], items[first:second], items[second:]]


def _check_pool(name: str, pool: list[Tensor], episodes: Episodes) -> None:
    each = episodes.shot + episodes.query
    if getattr(episodes, name) < 1:
        raise InputError(f"episodes.{name} is {getattr(episodes, name)}; at least one task is needed.")
    if len(pool) < episodes.way:
        raise InputError(
            f"The {name} split has {len(pool)} classes, fewer than way={episodes.way}. Lower episodes.way, change "
            "episodes.shares, or use split: instances."
        )
    smallest = min(len(members) for members in pool)
    if smallest < each:
        raise InputError(
            f"A class of the {name} split has {smallest} instances; shot + query needs {each}. Lower episodes.shot or "
            "episodes.query, or change episodes.shares."
        )
