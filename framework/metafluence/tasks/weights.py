"""The weights of items. A removed item is one of weight zero; nothing is ever cut out of a tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.runtime import hash_tensor
from metafluence.tasks.items import check_items, check_level
from metafluence.tasks.levels import WEIGHED, Level, Removal
from metafluence.tasks.origins import Origins, known_origins
from metafluence.tasks.task_set import TaskSet


@dataclass(frozen=True)
class Weights:
    """Weights of tasks [N], support instances [N, n_s] and query instances [N, n_q]; all one in the real study.

    Where a task of n_i instances is padded to n, those have weight n / n_i and the padding 0 (`ones`).

    An image or a class of the data set is the set of all its places among these (`origins`); items of level `support`
    and `query` are numbered task by task: task i's instance j is i * n + j.

    Example:
        >>> from metafluence.testing.worlds import world
        >>> Weights.ones(world(0).problem.tasks).without("task", [1, 3]).task
        tensor([1., 0., 1., 0., 1., 1., 1.], dtype=torch.float64)
    """

    task: Tensor
    support: Tensor
    query: Tensor
    origins: Origins | None = None

    def __post_init__(self) -> None:
        for level in WEIGHED:
            weights: Tensor = getattr(self, level)
            if weights.dim() != (1 if level == "task" else 2) or len(weights) != len(self.task):
                raise InputError(
                    f"The {level} weights have shape {tuple(weights.shape)} beside {len(self.task)} task weights. "
                    "Give task weights [N], support and query weights [N, n]."
                )
            if not weights.is_floating_point():
                raise InputError(f"The {level} weights are {weights.dtype}. Convert them to floating point.")
            wrong = ~(weights.detach().isfinite() & (weights.detach() >= 0)).flatten()
            if bool(wrong.any()):
                item = int(wrong.nonzero()[0])
                raise InputError(
                    f"The weight of {level} item {item} is {float(weights.flatten()[item])}. Give a "
                    "finite number of 0 or more."
                )

    @classmethod
    def ones(cls, tasks: TaskSet) -> Weights:
        """The weights with which every mean over instances is that of the instances that a task holds."""

        def half(held: Tensor) -> Tensor:
            own = held.to(tasks.dtype)
            return own / own.mean(dim=1, keepdim=True)

        one = torch.ones(len(tasks), dtype=tasks.dtype, device=tasks.device)
        return cls(one, half(tasks.held("support")), half(tasks.held("query")), origins=tasks.origins)

    def of(self, level: Level) -> Tensor:
        """What the removal of each item takes away, [items]: its weight; of an image or a class 1, the whole of it."""
        if check_level(level) in WEIGHED:
            return getattr(self, level).flatten()
        return self.task.new_ones(known_origins(self.origins, level).count(level))

    @property
    def query_shares(self) -> Tensor:
        """What each query instance's loss counts in the objective, w_i q_ij / n_q, [N, n_q]."""
        return self.task.unsqueeze(1) * self.query / self.query.shape[1]

    def parts(self, level: Level, items: int | Sequence[int] | Tensor) -> dict[Level, Removal]:
        """The items with weights of their own that some items are, by level."""
        if check_level(level) in WEIGHED:
            return {level: check_items(items, getattr(self, level).numel(), level)}
        origins = known_origins(self.origins, level)
        listed = torch.tensor(check_items(items, origins.count(level), level), dtype=torch.int64)
        found = {}
        for inner, (inside, of) in origins.incidence(level).items():
            found[inner] = tuple(inside[torch.isin(of, listed)].unique().tolist())
        return found

    def gather(self, level: Level, values: Callable[[Level], Tensor]) -> Tensor:
        """Values of a level's items, [items, ...]; those of an image or a class are summed over its places.

        values: of all items of a level that holds weights.
        """
        if check_level(level) in WEIGHED:
            return values(level)
        return known_origins(self.origins, level).gather(level, values)

    def set(self, level: Level, items: int | Sequence[int] | Tensor, value: float) -> Weights:
        """A copy in which the named items have weight `value`."""
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise InputError(f"The weight of an item is {value!r}. Give a finite number of 0 or more.")
        return self._changed(self.parts(level, items), lambda own: torch.full_like(own, value))

    def scaled(self, level: Level, items: int | Sequence[int] | Tensor, weight: float) -> Weights:
        """A copy in which the weights of the named items are multiplied by `weight`, each once."""
        return self._changed(self.parts(level, items), lambda own: weight * own)

    def times(self, level: Level, factors: Tensor) -> Weights:
        """A copy with every item's weight times its factor, [items]; a place of several classes takes those of all."""
        if check_level(level) in WEIGHED:
            own = getattr(self, level)
            return replace(self, **{level: own * factors.view_as(own)})
        changed = self
        for inner, (inside, of) in known_origins(self.origins, level).incidence(level).items():
            ones = torch.ones_like(self.of(inner))
            product = ones.scatter_reduce(0, inside.to(ones.device), factors[of.to(factors.device)], "prod")
            changed = changed.times(inner, product)
        return changed

    def without(self, level: Level, items: int | Sequence[int] | Tensor) -> Weights:
        """A copy in which the named items are removed: their weight is zero."""
        return self.set(level, items, 0.0)

    def _changed(self, parts: dict[Level, Removal], change: Callable[[Tensor], Tensor]) -> Weights:
        changes = {}
        for level, items in parts.items():
            own: Tensor = getattr(self, level)
            flat, where = own.clone().reshape(-1), list(items)
            flat[where] = change(flat[where])
            changes[level] = flat.reshape(own.shape)
        return replace(self, **changes)

    def joined(self, other: Weights) -> Weights:
        """Those of these tasks and then of others, as `join_tasks` has them."""
        task, support, query = (torch.cat([getattr(self, level), getattr(other, level)]) for level in WEIGHED)
        return Weights(task, support, query)

    def tasks_of(self, level: Level, items: int | Sequence[int] | Tensor) -> Tensor:
        """The numbers of the tasks that hold any of the items, in order."""
        found: set[int] = set()
        for inner, own in self.parts(level, items).items():
            each = getattr(self, inner)[0].numel()
            found.update(item // each for item in own)
        return torch.tensor(sorted(found), dtype=torch.int64)

    def items_of(self, level: Level, tasks: Tensor) -> Tensor:
        """The numbers of a level's items in the tasks numbered `tasks` [b], task after task; all images or classes."""
        if check_level(level) == "task":
            return tasks
        if level not in WEIGHED:
            return torch.arange(known_origins(self.origins, level).count(level), device=tasks.device)
        each = getattr(self, level).shape[1]
        return (tasks.unsqueeze(1) * each + torch.arange(each, device=tasks.device)).flatten()

    def within(self, level: Level, tasks: Tensor, removals: Sequence[Removal]) -> list[Removal]:
        """The part of each removal that lies in the tasks numbered `tasks` [b], as items of these tasks alone.

        Images and classes keep their numbers.
        """
        if check_level(level) in WEIGHED:
            here = {item: at for at, item in enumerate(self.items_of(level, tasks).tolist())}
        else:
            held = known_origins(self.origins, level)[tasks.cpu()].incidence(level).values()
            here = {item: item for pairs in held for item in pairs.of.tolist()}
        return [tuple(here[item] for item in removal if item in here) for removal in removals]

    def __getitem__(self, index: slice | Tensor) -> Weights:
        part = copy(self)  # of what has been checked
        for level in WEIGHED:
            object.__setattr__(part, level, getattr(self, level)[index])
        if self.origins is not None:
            object.__setattr__(part, "origins", self.origins[index.cpu() if isinstance(index, Tensor) else index])
        return part

    def to(self, like: Tensor) -> Weights:
        """The same weights in the type and on the device of a tensor."""
        return replace(self, **{level: getattr(self, level).to(like) for level in WEIGHED})

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.task, self.support, self.query):
            hash_tensor(digest, tensor)
        return digest.hexdigest()[:16]
