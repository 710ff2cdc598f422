"""Episodes in the forms of other libraries, as task sets.

Each function takes an iterable of batches, such as a list, a sampler or a `torch.utils.data.DataLoader`. Tasks may
differ in numbers of instances; see `pad_tasks`. Their ids are `name` and a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks.padding import pad_tasks
from metafluence.tasks.task_set import Batch, Task, TaskSet

Halves = tuple[Batch, Batch]


def from_pairs(episodes: Iterable[Any], count: int | None = None, name: str = "task") -> TaskSet:
    """Tasks from (support, query), each a `Batch` or a pair (inputs, targets).

    count: how many tasks to take; all if not given. Raises InputError for anything else.

    Example:
        >>> import torch
        >>> half = lambda n: (torch.randn(n, 3), torch.arange(n) % 2)
        >>> from_pairs((half(4), half(2 + i)) for i in range(3)).counts.tolist()
        [[4, 2], [4, 3], [4, 4]]
    """
    return _collect(episodes, lambda episode: [_pair(episode)], count, name)


def from_torchmeta(batches: Iterable[Any], count: int | None = None, name: str = "task") -> TaskSet:
    """Tasks from torchmeta's batches {"train": (inputs [B, n, ...], targets [B, n]), "test": ...}.

    They are what a `BatchMetaDataLoader` yields. count: how many tasks to take; all if not given. Raises InputError for
    anything else.
    """

    def read(batch: Any) -> list[Halves]:
        if not isinstance(batch, Mapping) or not {"train", "test"} <= set(batch):
            raise _other("a batch of torchmeta", '{"train": (inputs, targets), "test": (inputs, targets)}', batch)
        support, query = _pair((batch["train"], batch["test"]))
        if len(support.inputs) != len(query.inputs):
            raise _other("a batch of torchmeta", "as many tasks in both halves", batch)
        return [(support[i], query[i]) for i in range(len(support.inputs))]

    return _collect([batches] if isinstance(batches, Mapping) else batches, read, count, name)


def from_learn2learn(
    taskset: Iterable[Any],
    shots: int,
    count: int | None = None,
    split: Literal["alternate", "per-class"] = "alternate",
    name: str = "task",
) -> TaskSet:
    """Tasks from learn2learn's tasksets, in which a task is one batch (data, labels).

    split: `alternate` as in its examples of MAML and ANIL, where of the first 2 shots · ways instances each second one
    adapts, from the first on, and the others are evaluated; `per-class` as in that of prototypical networks, where the
    instances are sorted by label and the first `shots` of each class adapt. A leading dimension of 1, as a DataLoader
    adds it, is left out. count: how many tasks to take; a taskset without end needs it. Raises InputError for anything
    else.
    """
    if split not in ("alternate", "per-class"):
        raise InputError(f"split is {split!r}. Give 'alternate' or 'per-class'.")
    if count is None and getattr(taskset, "num_tasks", None) == -1:
        raise InputError("This taskset has no end. Give count, how many tasks to take.")

    def read(batch: Any) -> list[Halves]:
        whole = _half("a task of learn2learn", batch)
        if whole.targets.dim() == 2 and len(whole.targets) == 1:
            whole = whole[0]
        if whole.targets.dim() != 1:
            raise _other("a task of learn2learn", "(data [n, ...], labels [n])", batch)
        adapting = _alternate(whole.targets, shots)
        if split == "per-class":
            order = torch.sort(whole.targets, stable=True).indices
            whole = whole[order]
            adapting = _first(whole.targets, shots)
        if bool(adapting.all()):
            raise InputError(
                f"A task of {len(adapting)} instances has none left to evaluate on with {shots} shots. Give the shots "
                "that adapt; the taskset draws more of each class."
            )
        alone = ~torch.isin(whole.targets[~adapting], whole.targets[adapting])
        if not whole.targets.is_floating_point() and bool(alone.any()):
            label = int(whole.targets[~adapting][alone][0])
            raise InputError(
                f"With {shots} shots and split {split!r} the class {label} of a task has no instance to adapt on. Give "
                "the shots with which the taskset draws its tasks, or the other split."
            )
        return [(whole[adapting], whole[~adapting])]

    return _collect(taskset, read, count, name)


def from_easyfsl(loader: Iterable[Any], count: int | None = None, name: str = "task") -> TaskSet:
    """Tasks from a loader with easyfsl's TaskSampler and its `episodic_collate_fn`.

    It yields (support_images, support_labels, query_images, query_labels, class_ids), one task. count: how many tasks
    to take; all if not given. Raises InputError for anything else.
    """

    def read(batch: Any) -> list[Halves]:
        if not isinstance(batch, Sequence) or len(batch) not in (4, 5):
            raise _other("a batch of easyfsl", "(images, labels, images, labels, class_ids)", batch)
        return [_pair((batch[:2], batch[2:4]))]

    return _collect(loader, read, count, name)


def _collect(episodes: Iterable[Any], read: Callable[[Any], list[Halves]], count: int | None, name: str) -> TaskSet:
    if count is not None and count < 1:
        raise InputError(f"count is {count}. Give the number of tasks to take, 1 or more.")

    def halves() -> Iterator[Halves]:
        for batch in episodes:
            yield from read(batch)

    tasks = [Task(f"{name}-{i}", *pair) for i, pair in enumerate(islice(halves(), count))]
    if count is not None and len(tasks) < count:
        raise InputError(f"There are {len(tasks)} tasks, fewer than the {count} asked for. Give a smaller count.")
    return pad_tasks(tasks)


def _pair(episode: Any) -> Halves:
    if not isinstance(episode, Sequence) or len(episode) != 2:
        raise _other("an episode", "(support, query), each (inputs, targets)", episode)
    return _half("a support", episode[0]), _half("a query", episode[1])


def _half(what: str, values: Any) -> Batch:
    if isinstance(values, Batch):
        return values
    if not isinstance(values, Sequence) or len(values) != 2 or not all(isinstance(v, Tensor) for v in values):
        raise _other(what, "(inputs, targets), two tensors", values)
    return Batch(*values)


def _alternate(labels: Tensor, shots: int) -> Tensor:
    """[n] bool: each second instance, from the first on, shots · ways of them."""
    adapting = torch.zeros(len(labels), dtype=torch.bool)
    adapting[::2][: shots * len(labels.unique())] = True
    return adapting


def _first(labels: Tensor, shots: int) -> Tensor:
    """[n] bool: the first `shots` of each class, of sorted labels."""
    _, counts = labels.unique_consecutive(return_counts=True)
    return torch.cat([torch.arange(int(n)) < shots for n in counts])


def _other(what: str, wanted: str, found: Any) -> InputError:
    if isinstance(found, Sequence) and not isinstance(found, str):
        shown = f"a {type(found).__name__} of {', '.join(type(part).__name__ for part in found)}"
    else:
        shown = f"{type(found).__name__} with {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
    return InputError(f"This is not {what}: {shown or type(found).__name__}. Give {wanted}.")
