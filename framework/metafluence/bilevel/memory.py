"""How the tasks of a problem are cut into chunks so that their graphs fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from metafluence.runtime import COLUMN_BYTES, GRADIENT_GRAPH_BYTES, KEPT_GRAPH_BYTES, count_within, graph_bytes
from metafluence.tasks import TaskSet

FEW = 8
"""Query instances."""


@dataclass(frozen=True, eq=False)
class GraphSizes:
    """Bytes of one task's graphs, measured once per shape of tasks; shared by problems made from one another."""

    _measured: dict[tuple[object, ...], int] = field(default_factory=dict)

    def per_task(self, tasks: TaskSet, products: bool, build: Callable[[int], object]) -> int:
        """Bytes of one task's graphs: for products, or for a gradient alone.

        build: builds them for a task with its first so many query instances. Where there are many, a few show what each
        takes, since the losses of two query instances share nothing but what the support made.
        """
        shapes = (tasks.support.targets.shape[1:], tasks.query.targets.shape[1:])
        key = (products, tasks.dtype, *shapes)
        if key not in self._measured:
            queries = tasks.query.targets.shape[1]
            measured = min(queries, 2 * FEW)
            size = graph_bytes(lambda: build(measured))
            if queries > measured:
                size += (queries - measured) * (size - graph_bytes(lambda: build(FEW))) // FEW
            self._measured[key] = max(1, size)
        return self._measured[key]


@dataclass(frozen=True)
class MemoryPlan:
    """tasks: how many form a chunk. columns: how many go through its graphs together. keeps: all chunks keep their
    graphs; else each is rebuilt when it is needed. Results do not depend on any of them.
    """

    tasks: int
    columns: int
    keeps: bool

    @classmethod
    def for_products(cls, count: int, per_task: int, memory_gib: float, device: torch.device) -> MemoryPlan:
        """For Hessian products with `count` tasks, whose graphs take `per_task` bytes each."""
        budget = memory_gib * 2**30
        bound = min(budget, KEPT_GRAPH_BYTES) if device.type == "cpu" else budget
        tasks = min(count, count_within(bound, per_task))
        columns = count_within(min(budget, COLUMN_BYTES), per_task * tasks)
        return cls(tasks, columns, keeps=per_task * count <= budget)

    @classmethod
    def for_gradients(cls, count: int, per_task: int, memory_gib: float, device: torch.device) -> MemoryPlan:
        """For one pass over losses and gradients, chunk by chunk."""
        budget = memory_gib * 2**30
        bound = min(budget, GRADIENT_GRAPH_BYTES) if device.type == "cpu" else budget
        return cls(min(count, count_within(bound, per_task)), 1, keeps=False)
