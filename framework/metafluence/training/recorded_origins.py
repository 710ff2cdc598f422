"""The images of a recorded loop: each batch numbers its own; they are joined by name and written as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks import Origins, TaskSet

IMAGES = ".images"
"""What a file of tasks calls the numbers of a half's images, after the half."""


class JoinedOrigins:
    """The images and classes of all tasks so far, numbered as they come."""

    def __init__(self) -> None:
        self._images: dict[str, tuple[int, int]] = {}
        self._classes: dict[str, int] = {}
        self._taken = (0, 0)

    def add(self, origins: Origins) -> dict[str, Tensor]:
        """The joined numbers of one task's images: of its support [n_s] and its query [n_q].

        Raises InputError where an image has two classes, or the task has two images or two classes of one name.
        """
        numbers = {half: getattr(origins, half)[0].tolist() for half in ("support", "query")}
        held = sorted({image for half in numbers.values() for image in half})
        _check_names("images", [origins.images[i] for i in held])
        labels = origins.labels[held].tolist()
        _check_names("classes", [origins.classes[c] for c in sorted(set(labels))])
        joined = {i: self._image(origins.images[i], origins.classes[c]) for i, c in zip(held, labels, strict=True)}
        return {f"{half}{IMAGES}": torch.tensor([joined[i] for i in own]) for half, own in numbers.items()}

    def _image(self, name: str, of: str) -> int:
        label = self._classes.setdefault(of, len(self._classes))
        number, known = self._images.setdefault(name, (len(self._images), label))
        if known != label:
            raise InputError(
                f"The image {name!r} is of class {list(self._classes)[known]!r} in one task and of {of!r} in another. "
                "Give each image of the data set a name of its own, and one class."
            )
        return number

    def resume(self, taken: dict[str, Any]) -> None:
        """Take up what `taken` gave, of one file after another."""
        classes = [*self._classes, *taken["classes"]]
        for name, label in zip(taken["images"], taken["labels"], strict=True):
            self._image(name, classes[label])
        self._taken = len(self._images), len(self._classes)

    def taken(self) -> dict[str, Any]:
        """What was added since the last call, for `joined_origins`."""
        images, classes = self._taken
        new = list(self._images.items())[images:]
        self._taken = len(self._images), len(self._classes)
        return {
            "images": [name for name, _ in new],
            "labels": [label for _, (_, label) in new],
            "classes": list(self._classes)[classes:],
        }


def _check_names(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Two {what} of a task are called {twice!r}. Give each a name of its own.")


def joined_origins(numbers: dict[str, Tensor], taken: Sequence[dict[str, Any]]) -> Origins | None:
    """The origins of tasks with these numbers of images, by half; None where none were recorded.

    taken: of each file, what `JoinedOrigins.taken` gave.
    """
    if f"support{IMAGES}" not in numbers:
        return None
    images, labels, classes = (
        [one for part in taken for one in part[name]] for name in ("images", "labels", "classes")
    )
    support, query = (numbers[f"{half}{IMAGES}"] for half in ("support", "query"))
    return Origins(support, query, tuple(images), torch.tensor(labels), tuple(classes))


def mixed_labels(tasks: TaskSet) -> str:
    """A sentence where a class of images has two labels in one task, as it has where names are in another order than
    instances; else empty. Instances that are marked as corrupted do not count.
    """
    origins = tasks.origins
    if origins is None or tasks.real:
        return ""
    classes = origins.labels[torch.cat([origins.support, origins.query], dim=1)]
    labels = torch.cat([tasks.support.targets, tasks.query.targets], dim=1).cpu()
    right = ~torch.cat([tasks.corrupted_support, tasks.corrupted_query], dim=1)
    for task in range(len(tasks)):
        pairs = torch.stack([classes[task], labels[task]])[:, right[task]].unique(dim=1).tolist()
        twice = next((c for c in pairs[0] if pairs[0].count(c) > 1), None)
        if twice is not None:
            own = [label for c, label in zip(*pairs, strict=True) if c == twice]
            return (
                f"In task {tasks.ids[task]} images of class {origins.classes[twice]!r} have the labels "
                f"{' and '.join(map(str, own))}. Check that names are in the order of instances, unless labels are "
                "wrong on purpose."
            )
    return ""
