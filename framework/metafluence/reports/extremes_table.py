"""The table of what the targets' losses do without the items at both ends of each method's scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metafluence.evaluation import DRAWS, bootstrap
from metafluence.reports.groups import Group, Method, common_seeds, lines, methods, named, with_seeds, words_of
from metafluence.reports.tables import METHOD, VARIATION, Table
from metafluence.reports.text_table import NOTHING
from metafluence.tasks import ITEM_NAMES, Level

Array = NDArray[np.float64]


def extremes_table(groups: Sequence[Group], level: Level) -> Table | None:
    """For each method the mean change of the targets' losses without its best and its worst items, with 95 % bootstrap
    intervals over the targets (those of all seeds together, of the seeds that all methods have); random sets first.

    The best are the items of highest score, whose removal is to raise the losses. Bold are changes that go further in
    their direction than without any of the random sets. None where it was not asked.
    """
    asked = [group for group in groups if group.outcomes[0].sides[level].extremes]
    if not asked:
        return None
    several = len(groups) > 1
    counts = tuple(dict.fromkeys(n for group in asked for n in group.outcomes[0].sides[level].extremes))
    start = (*([VARIATION] if several else []), METHOD[0])
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for group in asked:
        label, own = [group.label] if several else [], group.outcomes[0].sides[level].extremes
        place = [own.index(n) if n in own else None for n in counts]
        kept, found = _changes(group, level)
        random = np.concatenate([np.array(one.sides[level].without_random) for one in kept.outcomes], axis=2)
        texts = [NOTHING if at is None else _text(random[at].mean(axis=0)) for at in place]
        rows.append((*label, f"random sets (mean of {DRAWS})", *texts, *texts))
        for method in methods(group, level):
            cells, changes = [], found.get(method)
            for end, sign in ((0, 1), (1, -1)):
                for at in place:
                    if changes is None or at is None:
                        cells.append(NOTHING)
                        continue
                    here = changes[end * len(own) + at]
                    cells.append(_text(here))
                    if sign * here.mean() > (sign * random[at].mean(axis=1)).max():
                        best.add((len(rows), len(start) + len(cells) - 1))
            rows.append((*label, named(method), *cells))
    noun = ITEM_NAMES[level]
    headings = [
        (f"without {which} {n}", f"change of the mean validation loss without the {n} {noun} of {what} score")
        for which, what in (("the best", "highest"), ("the worst", "lowest"))
        for n in counts
    ]
    about = (
        f"Change of the mean validation loss after {words_of(asked).short} without the {noun} that a method scores "
        "highest (the best: the loss should rise) and lowest (the worst: it should fall), with 95 % bootstrap "
        f"intervals over the validation tasks. In bold: further in that direction than without any of {DRAWS} random "
        "sets of the same size."
    )
    words = tuple(range(len(start)))
    return Table("Without the best and the worst", (*start, *headings), tuple(rows), frozenset(best), words, about)


def _changes(group: Group, level: Level) -> tuple[Group, dict[Method, Array]]:
    """The group with the seeds that all methods have, and each method's changes [2 sizes, targets of these seeds]."""
    found: dict[Method, list[Array | None]] = {}
    for method in methods(group, level):
        known = {one.id: line.extremes.numpy() for one, line in lines(group, level, method)}
        each = [known.get(one.id) for one in group.outcomes]
        found[method] = [e if e is not None and e.size and np.isfinite(e).all() else None for e in each]
    seeds = common_seeds(np.array([e is not None for e in each]) for each in found.values())
    kept: dict[Method, Array] = {}
    for method, each in found.items():
        chosen = [e for i in seeds if (e := each[i]) is not None]
        if chosen and len(chosen) == len(seeds):
            kept[method] = np.concatenate(chosen, axis=1)
    return (with_seeds(group, seeds) if seeds else group), kept


def _text(values: Array) -> str:
    """A mean with its interval, as far as digits say something."""
    found = bootstrap(values, np.mean)
    if not np.isfinite(found.value):
        return NOTHING
    return f"{found.value:+.4f} ({found.low:.4f} to {found.high:.4f})"
