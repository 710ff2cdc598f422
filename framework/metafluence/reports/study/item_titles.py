"""What single items are called in lists and sentences."""

from __future__ import annotations

from metafluence.tasks import Level, TaskSet, item_names


def item_titles(tasks: TaskSet, level: Level) -> list[str]:
    """What each item is called: by its image where it is known; a task's instance by its number, too."""
    names = item_names(tasks, level)
    if level not in ("support", "query"):
        return names[level]
    each = tasks.each(level)
    titles = [f"{task}, {level} {i % each}" for i, task in enumerate(names["task"])]
    return [f"{t} ({image})" for t, image in zip(titles, names["image"], strict=True)] if "image" in names else titles
