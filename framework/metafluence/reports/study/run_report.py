"""The scores of a recorded run: in sentences, as a table of both ends, as files of all items, and as a page."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from metafluence.errors import InputError
from metafluence.evaluation import RunScores, TruthKind
from metafluence.reports import (
    NOTHING,
    Attempts,
    Notice,
    Table,
    caption,
    drawn_as,
    write_csv,
    write_page,
    write_parquet,
)
from metafluence.reports.figures import drawn_ends, ends
from metafluence.reports.study.item_titles import item_titles
from metafluence.reports.study.score_files import item_frame
from metafluence.runtime import optional_package, warn
from metafluence.tasks import ITEM_NAMES

NAMED = 3
"""How many items the answer names."""
TRUST = {
    "sizes": "Can it be trusted? Yes, in order and in size.",
    "order": "Can it be trusted? In order, but not in size.",
    "none": "Can it be trusted? No: look at these items, but do not rely on the scores.",
}


def run_answer(found: RunScores) -> list[str]:
    """What was found, in sentences: which items harm most, how many do, and whether that can be trusted."""
    nouns, names, values = ITEM_NAMES[found.level], item_titles(found.tasks, found.level), found.values.tolist()
    worst = ends(found.values, found.units, NAMED)["harmful"]
    sized = found.units == "loss_change"
    if not worst:
        sentences = [f"None of the {len(names):,} {nouns} is found to harm."]
    else:
        sentences = [f"Most harmful of the {len(names):,} {nouns}: {', '.join(names[i] for i in worst)}."]
    if worst and sized:
        sentences.append(
            f"Without {names[worst[0]]}, the mean loss of the {found.targets} targets, {found.loss:.4g}, is predicted "
            f"to change by {values[worst[0]]:+.2g}. {sum(v < 0 for v in values):,} of {len(values):,} {nouns} harm."
        )
    if not sized:
        sentences.append("The scores of this method rank items; their sizes mean nothing.")
    if found.trust is not None:
        sentences.append(f"{TRUST[found.trust.verdict]} {found.trust.reason}")
    return [*sentences, *found.notes]


def ends_table(found: RunScores, most: int) -> Table:
    """The most harmful items beside the most helpful ones, at most `most` of each, by name with their scores."""
    both, names, values = (
        ends(found.values, found.units, most),
        item_titles(found.tasks, found.level),
        found.values.tolist(),
    )
    marks = found.tasks.corrupted_items(found.level)

    def cells(item: int | None) -> tuple[str, str]:
        if item is None:
            return NOTHING, NOTHING
        return f"{names[item]}{' (corrupted)' if marks[item] else ''}", f"{values[item]:+.3g}"

    pairs = zip_longest(both["harmful"], both["helpful"])
    rows = tuple((str(i), *cells(low), *cells(high)) for i, (low, high) in enumerate(pairs, start=1))
    meaning = "predicted change of the targets' mean loss when it is removed"
    headings = (
        ("rank", "from the end"),
        ("harms most", "the items of lowest score"),
        ("score", meaning),
        ("helps most", "the items of highest score"),
        ("score", meaning),
    )
    title = f"{ITEM_NAMES[found.level]} of lowest and of highest score"
    return Table(f"{title[0].upper()}{title[1:]}", headings, rows, words=(1, 3))


def scores_frame(found: RunScores) -> pd.DataFrame:
    """A line for each item, the most harmful first: its number, names, whether it is marked as corrupted, its score."""
    frame = item_frame(found.tasks, found.level)
    frame["score"] = found.values.numpy()
    return frame.sort_values("score", kind="stable", ignore_index=True)


def write_scores(found: RunScores, folder: str | Path, title: str, most: int, notice: Notice = warn) -> Path:
    """Write scores.csv and scores.parquet with all items, and scores.html with the `most` at each end.

    Args:
        found: The scores.
        folder: Where to write.
        title: Of the page.
        most: How many items of each end the page lists.
        notice: Told in a sentence of each part that could not be made; the page says so too.

    Returns:
        The page's path.
    """
    folder, attempts, frame = Path(folder), Attempts(notice), scores_frame(found)
    write_csv(folder / "scores.csv", frame)
    try:
        optional_package("pyarrow", "parquet")
    except InputError as error:
        notice(f"scores.parquet was not written; scores.csv holds the same. {error}")
    else:
        attempts.make("scores.parquet", partial(write_parquet, folder / "scores.parquet", frame), None)
    return write_page(
        folder / "scores.html",
        "scores.html.j2",
        title=title,
        answer=run_answer(found),
        trusted=found.trust is None or found.trust.verdict != "none",
        table=ends_table(found, most),
        pictures=_pictures(found, folder, attempts),
        facts=[
            ("items", f"{len(found.values):,}"),
            ("targets", found.targets),
            ("their mean loss", f"{found.loss:.4g}"),
        ],
        notices=attempts.notices,
    )


def _pictures(found: RunScores, folder: Path, attempts: Attempts) -> list[dict[str, Any]]:
    """Both ends, where instances are images or curves."""
    tasks = found.tasks.to(device="cpu")
    if not drawn_as(tasks):
        return []
    draw = partial(drawn_ends, tasks, tasks, found.level, found.values, found.units)
    figures = attempts.make("The pictures", draw, {})
    words = TruthKind("run").words
    made = [
        attempts.picture(lambda figure=figure: figure, *caption(name, words), folder / f"{name}.png")
        for name, figure in figures.items()
    ]
    return [picture for picture in made if picture is not None]
