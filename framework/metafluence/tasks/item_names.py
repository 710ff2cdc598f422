"""What the items of a level are called: by their task, image and class."""

from __future__ import annotations

from metafluence.tasks.levels import Level
from metafluence.tasks.task_set import TaskSet


def item_names(tasks: TaskSet, level: Level) -> dict[str, list[str]]:
    """What the items are called, by what names them."""
    origins = tasks.origins
    if level == "task":
        return {"task": list(tasks.ids)}
    if level in ("image", "class"):
        assert origins is not None
        if level == "class":
            return {"class": list(origins.classes)}
        return {"image": list(origins.images), "class": [origins.classes[i] for i in origins.labels.tolist()]}
    found = {"task": [name for name in tasks.ids for _ in range(tasks.each(level))]}
    if origins is not None:
        images = (origins.support if level == "support" else origins.query).flatten()
        found["image"] = [origins.images[i] for i in images.tolist()]
        found["class"] = [origins.classes[i] for i in origins.labels[images].tolist()]
    return found
