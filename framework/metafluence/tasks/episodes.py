"""Few-shot tasks from a labelled data set: splits that share nothing, then episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from metafluence.errors import DataError, InputError
from metafluence.registry import Component, Share
from metafluence.tasks.origins import Origins
from metafluence.tasks.task_set import Batch, Task, TaskSet

Tasks = Annotated[int, Field(ge=1, le=10**6)]
"""How many tasks are drawn."""
Each = Annotated[int, Field(ge=1, le=10**5)]
"""How many instances of a class are drawn."""
SETS = ("train", "validation", "test")


class Instances(Protocol):
    """Inputs by number, for what is read or put together only when it is drawn; a tensor [n, *shape] is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[k, *shape] for the numbers [k] (int64)."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory held."""
        ...


@dataclass(frozen=True)
class Labelled:
    """A labelled data set: inputs [n, *shape], labels [n] (int64), one name per class.

    inputs: floating point, or 8-bit integers, which are scaled to [0, 1] as they are drawn, so that the whole is held
    in 8 bits only. names: of the inputs, such as file names, if they have any.
    splits: the numbers of the classes published for training, validation and test; where none is
    published for validation, some of those for training are taken.
    Raises DataError where inputs and labels differ in number, a label has no class, or a class is in two splits.
    """

    inputs: Tensor | Instances
    labels: Tensor
    classes: tuple[str, ...]
    splits: tuple[Sequence[int], Sequence[int], Sequence[int]] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise DataError(f"There are {len(self.inputs)} inputs but {len(self.labels)} labels; make them as many.")
        if self.labels.dim() != 1 or self.labels.is_floating_point() or self.labels.is_complex():
            raise DataError(
                f"The labels are {self.labels.dtype} of shape {list(self.labels.shape)}. Give whole numbers [n]."
            )
        wrong = self.labels[(self.labels < 0) | (self.labels >= len(self.classes))]
        if len(wrong):
            raise DataError(
                f"There is the label {int(wrong[0])}, but {len(self.classes)} classes, numbered from 0. Give a class "
                "for every label; classes, labels = torch.unique(labels, return_inverse=True) numbers them."
            )
        if self.names and len(self.names) != len(self.inputs):
            raise DataError(f"There are {len(self.inputs)} inputs but {len(self.names)} names; make them as many.")
        listed = [c for part in self.splits or () for c in part]
        nowhere = next((c for c in listed if not 0 <= c < len(self.classes)), None)
        if nowhere is not None:
            raise DataError(f"The splits have the class {nowhere} of {len(self.classes)}. Give numbers from 0.")
        if len(set(listed)) < len(listed):
            twice = next(self.classes[c] for c in listed if listed.count(c) > 1)
            raise DataError(f"The class {twice!r} is in the published splits twice. Keep it in one of them.")

    @classmethod
    def from_frame(cls, features: Any, labels: Any, names: Sequence[str] = ()) -> Labelled:
        """A data set of rows of numbers, such as a foundation model's embeddings of images or texts.

        features: a DataFrame, array or tensor [n, d]. labels [n]: anything that can be sorted; each one that occurs is
        a class called by it. names: of the rows. Raises DataError for other shapes, and values that are no finite
        numbers.

        Example:
            >>> data = Labelled.from_frame([[0.0, 1.0], [1.0, 0.5], [2.0, 0.0]], ["cat", "dog", "cat"])
            >>> data.classes, data.labels.tolist(), data.inputs.shape
            (('cat', 'dog'), [0, 1, 0], torch.Size([3, 2]))
        """
        values, found = np.asarray(features), np.asarray(labels)
        if values.dtype not in (np.float16, np.float32, np.float64):
            try:
                values = values.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"The features are no numbers: {error}. Keep columns of numbers only.") from error
        if values.ndim != 2 or found.ndim != 1:
            raise DataError(
                f"The features have shape {list(values.shape)}, the labels {list(found.shape)}. Give [n, d] and [n]."
            )
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).any(axis=1).argmax())
            raise DataError(f"Row {row} of the features has NaN or infinite values. Remove or fill them.")
        if any(label is None or (isinstance(label, float) and math.isnan(label)) for label in found.tolist()):
            raise DataError("A label is missing. Remove the row, or give it a label.")
        classes, codes = np.unique(found, return_inverse=True)
        return cls(
            torch.tensor(values), torch.tensor(codes), tuple(str(c) for c in classes), names=tuple(map(str, names))
        )

    def draw(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Inputs [k, *shape] of the numbers [k], in floating point."""
        drawn = self.inputs[index]
        return drawn.to(dtype) / 255 if drawn.dtype == torch.uint8 else drawn.to(dtype)


@dataclass(frozen=True)
class Episodes(Component):
    """How tasks are drawn.

    train, validation, test: numbers of tasks. way: classes per task; shot and query: instances per class in each half.
    split: the three sets differ in their `classes`, drawn at random; in the `instances` of every class; or have the
    classes that the data set's publishers give each (`published`). shares: of the split that is drawn.
    """

    train: Tasks = 40
    validation: Tasks = 20
    test: Tasks = 20
    way: Annotated[int, Field(ge=2, le=10**4)] = 5
    shot: Each = 5
    query: Each = 5
    split: Literal["classes", "instances", "published"] = "classes"
    shares: tuple[Share, Share, Share] = (0.6, 0.2, 0.2)

    def __post_init__(self) -> None:
        if abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(f"episodes.shares are {self.shares}; they must add up to 1. Give other ones.")


@dataclass(frozen=True)
class Split:
    """The three sets of tasks; nothing in one is in another.

    drawn: `train` as it was before it was corrupted, for those who look at it; no learner or method sees it.
    """

    train: TaskSet
    validation: TaskSet
    test: TaskSet
    drawn: TaskSet | None = None

    @property
    def clean(self) -> TaskSet:
        """The training tasks as they were drawn."""
        return self.train if self.drawn is None else self.drawn


def sample(data: Labelled, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
    """Draw the three sets of tasks. Raises InputError where the data set is too small for what is asked."""
    splitting, *drawing = generators(generator)
    pools = _pools(data, episodes, splitting)
    sets = []
    for name, pool, drawn in zip(SETS, pools, drawing, strict=True):
        count = getattr(episodes, name)
        _check_pool(name, pool, episodes)
        sets.append(_draw(data, [_episode(pool, episodes, drawn) for _ in range(count)], name, dtype))
    return Split(*sets)


def generators(generator: torch.Generator) -> list[torch.Generator]:
    """One for the split and one for each set of tasks: more tasks in one do not change another."""
    return [torch.Generator().manual_seed(seed) for seed in torch.randint(2**31, (4,), generator=generator).tolist()]


def _pools(data: Labelled, episodes: Episodes, generator: torch.Generator) -> list[list[Tensor]]:
    """For each set of tasks, its classes as the numbers of their instances."""
    by_class = [(data.labels == c).nonzero().squeeze(1) for c in range(len(data.classes))]
    if episodes.split == "instances":
        shuffled = [i[torch.randperm(len(i), generator=generator)] for i in by_class]
        cut = [_cut(i.tolist(), episodes.shares) for i in shuffled]
        return [[torch.tensor(parts[s], dtype=torch.int64) for parts in cut] for s in range(3)]
    if episodes.split == "published":
        parts = _published(data, episodes, generator)
    else:
        parts = _cut(torch.randperm(len(by_class), generator=generator).tolist(), episodes.shares)
    return [[by_class[c] for c in part] for part in parts]


def _published(data: Labelled, episodes: Episodes, generator: torch.Generator) -> list[Sequence[int]]:
    if data.splits is None:
        raise InputError("No split of classes is published with this data set. Use episodes.split: classes.")
    train, validation, test = data.splits
    if not validation:
        order = [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
        of_two = episodes.shares[0] + episodes.shares[1]
        kept = round(len(order) * (episodes.shares[0] / of_two if of_two else 1.0))
        train, validation = order[:kept], order[kept:]
    return [train, validation, test]


def _episode(pool: list[Tensor], episodes: Episodes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The numbers of the support and of the query instances, class after class."""
    support, query = [], []
    for c in torch.randperm(len(pool), generator=generator)[: episodes.way].tolist():
        members = pool[c]
        chosen = members[torch.randperm(len(members), generator=generator)[: episodes.shot + episodes.query]]
        support.append(chosen[: episodes.shot])
        query.append(chosen[episodes.shot :])
    return torch.cat(support), torch.cat(query)


def _draw(data: Labelled, chosen: list[tuple[Tensor, Tensor]], name: str, dtype: torch.dtype) -> TaskSet:
    """The tasks of a set, of the instances that were chosen for each."""

    def half(numbers: Tensor) -> Batch:
        # The instances of a class stand together.
        _, runs = data.labels[numbers].unique_consecutive(return_inverse=True)
        return Batch(data.draw(numbers, dtype), runs)

    tasks = TaskSet.stack(Task(f"{name}-{i}", half(s), half(q)) for i, (s, q) in enumerate(chosen))
    support, query = (torch.stack(numbers) for numbers in zip(*chosen, strict=True))
    return tasks.drawn_from(Origins.drawn(support, query, data.labels, data.classes, data.names))


def _cut(items: list[int], shares: tuple[float, float, float]) -> list[list[int]]:
    first = round(len(items) * shares[0])
    second = first + round(len(items) * shares[1])
    return [items[:first], items[first:second], items[second:]]


def _check_pool(name: str, pool: list[Tensor], episodes: Episodes) -> None:
    each = episodes.shot + episodes.query
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
