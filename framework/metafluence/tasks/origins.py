"""Where instances come from: the images and classes of a data set, each of which many tasks may hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.runtime import hash_tensor
from metafluence.tasks.levels import Level


class Incidence(NamedTuple):
    """Pairs [m]: the item `inside` of a level that holds weights is part of the item `of`."""

    inside: Tensor
    of: Tensor


@dataclass(frozen=True)
class Origins:
    """Which image of a data set each instance is, and of which class each image is there.

    An item of level `image` is all the places at which the image was drawn, as support or as query instance, of any
    task; an item of level `class` is all the tasks that hold an image of the class.

    support [N, n_s], query [N, n_q]: numbers of images (int64). images: their names, M of them; file names, if the data
    set has files. labels [M]: numbers of their classes (int64), as the data set has them. classes: their names.

    Example:
        >>> origins = Origins(torch.tensor([[0], [1]]), torch.tensor([[2], [2]]), ("a", "b", "c"),
        ...     torch.tensor([0, 0, 1]), ("cats", "dogs"))
        >>> {level: pairs.inside.tolist() for level, pairs in origins.incidence("image").items()}
        {'support': [0, 1], 'query': [0, 1]}
        >>> origins.incidence("image")["query"].of.tolist()
        [2, 2]
    """

    support: Tensor
    query: Tensor
    images: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.images),):
            raise InputError(
                f"Origins have {len(self.images)} images but {len(self.labels)} labels; make them as many."
            )
        for what, numbers, count in (
            ("support", self.support, len(self.images)),
            ("query", self.query, len(self.images)),
            ("labels", self.labels, len(self.classes)),
        ):
            named = "classes" if what == "labels" else "images"
            if numbers.dtype != torch.int64 or (what != "labels" and numbers.dim() != 2):
                raise InputError(f"The {what} of origins are {numbers.dtype} {list(numbers.shape)}. Give int64 [N, n].")
            wrong = numbers[(numbers < 0) | (numbers >= count)]
            if len(wrong):
                raise InputError(
                    f"The {what} of origins have the number {int(wrong[0])}, but there are {count} {named}, numbered "
                    "from 0. Name every one of them."
                )

    @classmethod
    def drawn(
        cls, support: Tensor, query: Tensor, labels: Tensor, classes: tuple[str, ...], names: tuple[str, ...] = ()
    ) -> Origins:
        """Origins of instances by their numbers in a data set; images and classes that no task holds are left out.

        names: of the data set's images, `CLASS/NUMBER` (counted within the class) if there are none.
        """
        known, at = torch.cat([support.flatten(), query.flatten()]).unique(return_inverse=True)
        held, own = labels[known].unique(return_inverse=True)
        titles, within = [classes[c] for c in held.tolist()], _number_within(labels)[known]
        if names:
            images = tuple(names[i] for i in known.tolist())
        else:
            images = tuple(f"{titles[c]}/{i}" for c, i in zip(own.tolist(), within.tolist(), strict=True))
        halves = at.split([support.numel(), query.numel()])
        return cls(halves[0].view_as(support), halves[1].view_as(query), images, own, tuple(titles))

    @classmethod
    def named(
        cls, support: Sequence[Sequence[str]], query: Sequence[Sequence[str]], classes: Mapping[str, str] | None = None
    ) -> Origins:
        """Origins of instances by the names of their images, one list for each task.

        classes: of the images, by name; if None, the folder that holds the file (`cats` of `cats/1.png`).

        Raises:
            InputError: tasks with different numbers of names, or an image without class.

        Example:
            >>> origins = Origins.named([["cats/1.png"]], [["dogs/1.png"]])
            >>> origins.classes, origins.query.tolist()
            (('cats', 'dogs'), [[1]])
        """
        halves = [[_names(own) for own in half] for half in (support, query)]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(n for half in halves for own in half for n in own))}
        of = [_class_of(name, classes) for name in numbers]
        titles = {title: i for i, title in enumerate(dict.fromkeys(of))}
        for half in halves:
            if len({len(own) for own in half}) > 1:
                raise InputError(
                    f"Tasks have {sorted({len(own) for own in half})} names of images. Name every instance."
                )
        of_support, of_query = (
            torch.tensor([[numbers[name] for name in own] for own in half], dtype=torch.int64) for half in halves
        )
        return cls(of_support, of_query, tuple(numbers), torch.tensor([titles[title] for title in of]), tuple(titles))

    def count(self, level: Level) -> int:
        """How many items level `image` or `class` has."""
        return len(self.images) if level == "image" else len(self.classes)

    def incidence(self, level: Level) -> dict[Level, Incidence]:
        """What the items of level `image` or `class` are made of, by the level that holds the weights."""
        if level == "image":
            return {
                "support": Incidence(torch.arange(self.support.numel()), self.support.flatten()),
                "query": Incidence(torch.arange(self.query.numel()), self.query.flatten()),
            }
        drawn = self.labels[torch.cat([self.support, self.query], dim=1)]
        tasks = torch.arange(len(drawn)).unsqueeze(1).expand_as(drawn)
        pairs = torch.stack([tasks.flatten(), drawn.flatten()], dim=1).unique(dim=0)
        return {"task": Incidence(pairs[:, 0], pairs[:, 1])}

    def gather(self, level: Level, values: Callable[[Level], Tensor]) -> Tensor:
        """Sums over the places of each item of level `image` or `class`, [items, ...].

        values: of all items of a level that holds weights, [its items, ...].
        """
        parts = []
        for inner, (inside, of) in self.incidence(level).items():
            own = values(inner)
            total = own.new_zeros(self.count(level), *own.shape[1:])
            parts.append(total.index_add_(0, of.to(own.device), own[inside.to(own.device)]))
        return torch.stack(parts).sum(dim=0)

    def __getitem__(self, index: slice | Tensor) -> Origins:
        """Those of some of the tasks; images and classes keep their numbers."""
        part = copy(self)  # of what has been checked
        object.__setattr__(part, "support", self.support[index])
        object.__setattr__(part, "query", self.query[index])
        return part

    def fingerprint(self) -> str:
        """A hash of what scores of images and classes depend on, which is no name."""
        digest = hashlib.sha256()
        for tensor in (self.support, self.query, self.labels):
            hash_tensor(digest, tensor)
        return digest.hexdigest()[:16]


def known_origins(origins: Origins | None, level: Level) -> Origins:
    """The origins, for items of level `image` or `class`. Raises InputError where there are none."""
    if origins is None:
        raise InputError(
            f"Items of level {level!r} are not known: nothing says which images of which data set these instances are. "
            "Draw the tasks from a labelled data set, or give TaskSet(..., origins=Origins(...))."
        )
    return origins


def _names(given: Sequence[str]) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(
            f"The names of a task's images are {given!r}. Give a list, a name for each instance; or leave the names of "
            "all tasks out."
        )
    return [str(name) for name in given]


def _class_of(name: str, classes: Mapping[str, str] | None) -> str:
    found = name.rpartition("/")[0] if classes is None else str(classes.get(name, ""))
    if not found:
        fix = "Name images CLASS/FILE, or give `classes`." if classes is None else "Give `classes` for every image."
        raise InputError(f"The class of the image {name!r} is not known. {fix}")
    return found


def _number_within(labels: Tensor) -> Tensor:
    """Of each image, how many of its class are before it, [M]."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    found = torch.empty_like(labels)
    found[order] = torch.arange(len(labels)) - starts
    return found
