"""All tasks of a problem at one λ, worked on in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from metafluence.bilevel.chunk import Chunk
from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.bilevel.memory import MemoryPlan
from metafluence.runtime import TaskShare, join_rows
from metafluence.tasks import Level, Removal

ChunkMaker = Callable[[slice, Tensor | None], Chunk]
"""The chunk of a slice of the tasks, with a warm start [n, Q] for their adaptation (or None)."""


class Chunks:
    """Sums and per-item results over all tasks. Columns are [k, P].

    The chunks are those of this process's share of the tasks, the results those of all tasks. Chunks keep their graphs
    if the plan says so, else each is rebuilt when needed. warm: its tasks then adapt from where they ended before; else
    their θ [N, Q] are not kept.
    """

    def __init__(self, share: TaskShare, make: ChunkMaker, plan: MemoryPlan, init: Tensor | None, warm: bool) -> None:
        self.share, self._make, self.plan, self._warm = share, make, plan, warm
        self._start = init[share.where] if warm and init is not None else None
        self._kept = list(self._build()) if plan.keeps else None

    @property
    def kept(self) -> list[Chunk]:
        """The chunks that keep their graphs: all or none."""
        return self._kept or []

    def __iter__(self) -> Iterator[Chunk]:
        if self._kept is not None:
            yield from self._kept
            return
        if not self._warm:
            yield from self._build()
            return
        adapted = []
        for chunk in self._build():
            yield chunk
            adapted.append(chunk.adapted)
        self._start = torch.cat(adapted)

    def _build(self) -> Iterator[Chunk]:
        first = self.share.where.start
        for where in self.share.slices(self.plan.tasks):
            start = None if self._start is None else self._start[where.start - first : where.stop - first]
            yield self._make(where, start)

    def rows(self, level: Level, jacobian: Jacobian) -> Iterator[Tensor]:
        """The responses of a few items of the share at a time, in order, [m, P] each."""
        for chunk in self:
            yield from chunk.responses(level, jacobian)

    def removed(self, removals: Sequence[Removal], weights: Tensor, level: Level, jacobian: Jacobian) -> Tensor:
        """Σ weights_i r_i over the items of each removal, each item once, [removals, P]; weights [items]."""
        pairs = [(number, item) for number, removal in enumerate(removals) for item in set(removal)]
        numbers, items = torch.tensor(pairs, dtype=torch.long, device=weights.device).reshape(-1, 2).T
        each = len(weights) // self.share.count

        def own() -> Tensor:
            total = weights.new_zeros(())
            for chunk in self:
                first, last = chunk.where.start * each, chunk.where.stop * each
                here = (items >= first) & (items < last)
                at, number, weight = items[here] - first, numbers[here], weights[items[here]]
                if len(removals) > chunk.passes(level, jacobian):
                    rows = chunk.responses(level, jacobian)
                    total = total + self._gathered(rows, at, number, weight, len(removals))
                    continue
                coefficients = weights.new_zeros(len(removals), last - first)
                coefficients[number, at] = weight
                some = coefficients.split(self.plan.columns)
                total = total + torch.cat([chunk.sums(few, level, jacobian) for few in some])
            return total

        return self.share.sum(f"removed {level} {jacobian} {len(removals)}", own, numbers, items, weights)

    @staticmethod
    def _gathered(rows: Iterator[Tensor], at: Tensor, number: Tensor, weight: Tensor, count: int) -> Tensor:
        """Σ weight · (response `at`) for each `number` below `count`, as the responses come: [count, P]."""
        parts, start = [], 0
        for some in rows:
            here = (at >= start) & (at < start + len(some))
            part = some.new_zeros(count, some.shape[1])
            parts.append(part.index_add_(0, number[here], weight[here].unsqueeze(1) * some[at[here] - start]))
            start += len(some)
        return torch.stack(parts).sum(dim=0)

    def slopes(self, columns: Tensor, level: Level, jacobian: Jacobian) -> Tensor:
        """The responses times columns, [items, k]."""

        def parts() -> Iterator[list[Tensor]]:
            for chunk in self:
                if len(columns) > chunk.passes(level, jacobian):
                    yield from ([rows @ columns.T] for rows in chunk.responses(level, jacobian))
                    continue
                some = [chunk.slopes(few, level, jacobian) for few in columns.split(self.plan.columns)]
                yield [torch.cat(some, dim=1)]

        return self.share.gather(f"slopes {level} {jacobian} {len(columns)}", lambda: join_rows(parts())[0], columns)

    def product_and_slopes(self, columns: Tensor, levels: Sequence[Level]) -> tuple[Tensor, dict[Level, Tensor]]:
        """The exact `product` [k, P] and the `slopes` [items, k] of each level, which share all but the last step."""
        found: list[Tensor] = []

        def product() -> Tensor:
            total = torch.zeros_like(columns)

            def slopes() -> Iterator[list[Tensor]]:
                for chunk in self:
                    parts = [chunk.product_and_slopes(some, levels) for some in columns.split(self.plan.columns)]
                    total.add_(torch.cat([product for product, _ in parts]))
                    yield [torch.cat([slopes[level] for _, slopes in parts], dim=1) for level in levels]

            found.extend(join_rows(slopes()))
            return total

        what = f"product and slopes {levels} {len(columns)}"
        total = self.share.sum(what, product, columns)
        return total, dict(zip(levels, self.share.gather_each(what, lambda: found, columns), strict=True))

    def product(self, columns: Tensor, jacobian: Jacobian, form: Form) -> Tensor:
        """Σ_i w_i H_i v for each column, [k, P]."""

        def own() -> Tensor:
            total = torch.zeros_like(columns)
            for chunk in self:
                if chunk.by_rows(len(columns), jacobian, form):
                    total += chunk.product_by_rows(columns)
                    continue
                for start in range(0, len(columns), self.plan.columns):
                    batch = slice(start, start + self.plan.columns)
                    total[batch] += chunk.product(columns[batch], jacobian, form)
            return total

        return self.share.sum(f"product {jacobian} {form} {len(columns)}", own, columns)
