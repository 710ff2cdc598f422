"""Random projections of gradients: sparse ones, and dense ones that are made block by block and never held."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

BLOCK_BYTES = 2**24


ProjectionKind = Literal["sparse", "rademacher", "gaussian"]
"""sparse: every row of the matrix has one entry, ±1, and all columns as many (Charikar et al. 2002), which costs no
product. rademacher: entries ±1/√dim. gaussian: normal ones of variance 1/dim."""


@dataclass(frozen=True)
class Projection:
    """A fixed random matrix [size, dim] that keeps lengths on average. The same seed gives the same one anywhere."""

    size: int
    dim: int
    kind: ProjectionKind
    seed: int

    def apply(self, rows: Tensor) -> Tensor:
        """Rows [m, size] to [m, dim]."""
        if self.kind == "sparse":
            signs, order = (part.to(rows.device) for part in self._entries)
            mixed = (rows * signs.to(rows.dtype))[:, order]
            return torch.nn.functional.pad(mixed, (0, -self.size % self.dim)).unflatten(1, (-1, self.dim)).sum(dim=1)
        found = rows.new_zeros(len(rows), self.dim)
        step = max(1, BLOCK_BYTES // (self.dim * rows.element_size()))
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.size, step):
            some = rows[:, start : start + step]
            found += some @ self._block(some, generator)
        return found / self.dim**0.5

    @cached_property
    def _entries(self) -> tuple[Tensor, Tensor]:
        """Of the sparse matrix: the sign of each row [size] (int8), and the rows in the order of their columns."""
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(0, 2, (self.size,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
        return signs, torch.randperm(self.size, generator=generator)

    def _block(self, like: Tensor, generator: torch.Generator) -> Tensor:
        shape = (like.shape[1], self.dim)
        # Drawn in float64's or float32's own stream: the matrix depends on the precision, not on the number of rows.
        if self.kind == "gaussian":
            return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)
        # Eight signs from every byte: drawing is what costs.
        count = -(-self.dim // 8)
        drawn = torch.randint(0, 256, (shape[0], count, 1), generator=generator, dtype=torch.uint8)
        bits = (drawn.to(like.device) >> torch.arange(8, dtype=torch.uint8, device=like.device)) & 1
        return bits.flatten(1)[:, : self.dim].to(like.dtype).mul_(2).sub_(1)
