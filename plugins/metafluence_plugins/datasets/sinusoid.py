"""Sine waves: the regression family of few-shot learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from metafluence import Batch, Dataset, Episodes, Finite, InputError, Split, TaskSet, generators


@dataclass(frozen=True)
class Sinusoid(Dataset):
    """y = a sin(x − b): every task is a wave, its instances points on it (Finn et al. 2017).

    amplitude, phase, span: a, b and x are uniform between the two. Inputs are [1], targets one real value; shot and
    query are numbers of points. Waves are drawn anew for every set, so there are no classes to split.
    """

    amplitude: tuple[Finite, Finite] = (0.1, 5.0)
    phase: tuple[Finite, Finite] = (0.0, math.pi)
    span: tuple[Finite, Finite] = (-5.0, 5.0)

    IDLE: ClassVar = ("way", "split", "shares")

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "span"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"{name} is {(low, high)}; give the smaller number first.")

    def tasks(self, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
        for name in self.IDLE:
            if getattr(episodes, name) != getattr(Episodes(), name):
                raise InputError(f"Waves have no classes, so episodes.{name} says nothing here. Leave it out.")
        _, *drawing = generators(generator)
        names = ("train", "validation", "test")
        return Split(*(self._waves(n, episodes, g, dtype) for n, g in zip(names, drawing, strict=True)))

    def _waves(self, name: str, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> TaskSet:
        count, points = getattr(episodes, name), episodes.shot + episodes.query

        def uniform(limits: tuple[float, float], *shape: int) -> torch.Tensor:
            unit = torch.rand(shape, generator=generator, dtype=torch.float64)
            return limits[0] + (limits[1] - limits[0]) * unit

        # Wave after wave, so that more tasks leave the first ones as they are.
        drawn = [(uniform(self.amplitude, 1, 1), uniform(self.phase, 1, 1), uniform(self.span, points, 1))
                 for _ in range(count)]  # fmt: skip
        x = torch.stack([x for _, _, x in drawn])
        y = torch.stack([a * torch.sin(x - b) for a, b, x in drawn])
        support, query = (Batch(x[:, part].to(dtype), y[:, part].to(dtype)) for part in _halves(episodes.shot))
        return TaskSet(support, query, tuple(f"{name}-{i}" for i in range(count)))


def _halves(shot: int) -> tuple[slice, slice]:
    return slice(None, shot), slice(shot, None)
