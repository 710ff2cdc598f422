"""Random projections of gradients, made block by block and never held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Projection:
    """A fixed random matrix [size, dim] with entries of variance 1/dim, which keeps lengths on average.

    rademacher: entries ±1/√dim; gaussian: normal. The same seed gives the same matrix, on any device.
    """

    size: int
    dim: int
    kind: Literal["rademacher", "gaussian"]
    seed: int

    def apply(self, rows: Tensor) -> Tensor:
        """Rows [m, size] to [m, dim]."""
        found = rows.new_zeros(len(rows), self.dim)
        step = max(1, BLOCK_BYTES // (self.dim * rows.element_size()))
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.size, step):
            some = rows[:, start : start + step]
            found += some @ self._block(some, generator)
        return found / self.dim**0.5

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
