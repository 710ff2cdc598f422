"""The tables of results: one of all runs, one of all items' scores, and what their columns mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from metafluence.errors import InputError
from metafluence.evaluation import Row
from metafluence.reports.attempts import Attempts
from metafluence.reports.data_dictionary import PARAMETER, SETTING, VARIED, TableName, described, dictionary
from metafluence.reports.groups import DERIVED
from metafluence.reports.plain_text import write_csv
from metafluence.runtime import warn, write_atomically
from metafluence.studies import METRIC, Outcome, open_stores


class Results(NamedTuple):
    """The tables of one store or of several."""

    results: pd.DataFrame
    """A row for each run."""
    scores: pd.DataFrame
    """A row for each item, by method, level and seed."""


def load_results(*stores: Path | str) -> Results:
    """Read the tables of stores, `store` their first column; docs/results.md says what the columns mean.

    Variations that are not finished, or are damaged, are missing with a warning.

    Raises:
        StoreError: for a folder that is no store, or in which nothing is finished.
        InputError: without a folder.
    """
    if not stores:
        raise InputError("load_results was given no store. Give one or more folders that `run` wrote.")
    results, scores = [], []
    for given, store in zip(stores, open_stores([Path(one) for one in stores]), strict=True):
        lost = len(store.missing)
        if lost:
            why = f" {' '.join(store.damage)}" if store.damage else ""
            warn(f"{given}: {lost} of {lost + len(store.outcomes)} variations are not in the tables.{why}")
        for frames, frame in ((results, rows_frame(store.outcomes)), (scores, item_scores_frame(store.outcomes))):
            frame.insert(0, "store", str(given))
            frames.append(frame)
    together = (pd.concat(frames, ignore_index=True) for frames in (results, scores))
    return Results(*map(_of_one_type, together))


def write_results(folder: Path, outcomes: Sequence[Outcome], attempts: Attempts) -> None:
    """Write results.csv, results.parquet, scores.parquet and results.json, which says what their columns mean.

    The parquet files are written where pyarrow is installed; results.csv holds the same rows.
    """
    made: dict[TableName, Any] = {"results": rows_frame, "scores": item_scores_frame}
    about: dict[str, Any] = {}
    numbers = {name: number for one in outcomes for name, number in one.numbers.items()}
    for name, make in made.items():
        frame = attempts.make(f"{name}.csv" if name == "results" else f"{name}.parquet", partial(make, outcomes), None)
        if frame is None:
            continue
        about[name] = described(name, frame, numbers)
        if name == "results":
            attempts.make("results.csv", partial(write_csv, folder / "results.csv", frame), None)
        if find_spec("pyarrow") is not None:
            file = folder / f"{name}.parquet"
            attempts.make(file.name, partial(write_parquet, file, frame), None)
    write_atomically(folder / "results.json", json.dumps(about, indent=1, ensure_ascii=False).encode())


def write_parquet(file: Path, frame: pd.DataFrame) -> None:
    """Write a table as parquet. Needs pyarrow."""
    written = BytesIO()
    frame.to_parquet(written, index=False, engine="pyarrow")
    write_atomically(file, written.getvalue())


def rows_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """All runs of all outcomes, one a line, with the columns of `dictionary()["results"]`.

    The columns that the study names for its tables stand after what a row is, in its order. There are no accuracies
    where all targets are real values.
    """
    lines, real = [], True
    for one in outcomes:
        for line in one.lines:
            real &= one.real
            side = one.sides[line.row.level]
            facts = line.row.facts()
            built, metrics = facts.pop("built"), facts.pop("metrics")
            lines.append(
                {
                    **_place("results", one),
                    **facts,
                    "notes": " ".join(line.row.notes),
                    **{f"{METRIC}{name}": value for name, value in metrics.items()},
                    **{f"{PARAMETER}{name}": value for name, value in built.items()},
                    **{f"{SETTING}{name}": value for name, value in one.settings.items()},
                    "accuracy_full": one.full.accuracy,
                    "loss_full": one.full.loss,
                    "accuracy_clean": side.clean.accuracy,
                    "loss_clean": side.clean.loss,
                    "fit_seconds": one.fit_seconds,
                    **{name: derive(one, line.row) for name, derive in DERIVED.items()},
                    "truth": one.truth.words.name if side.left_out else "",
                    "variation": one.id,
                }
            )
    found = _numbers(pd.DataFrame(lines))
    shown = found.drop(columns=[c for c in found if c.startswith("accuracy_")]) if real else found
    asked = list(dict.fromkeys(name for one in outcomes for name in one.columns))
    return _of_one_type(shown.reindex(columns=_ordered(shown, asked)))


def item_scores_frame(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """The scores of all items by all runs that did not fail, one a line; columns as in `dictionary()["scores"]`."""
    frames = [pd.DataFrame(columns=list(dictionary()["scores"])).drop(columns=["store", "study", "NAME"])]
    for one in outcomes:
        for line in one.lines:
            row, side = line.row, one.sides[line.row.level]
            if not len(line.scores):
                continue
            true = dict(zip(side.left_out, side.loss_change, strict=True))
            items = range(len(line.scores))
            columns: dict[str, Any] = {
                **_place("scores", one),
                "level": row.level,
                "method": row.method,
                "solver": row.solver,
                "item": items,
                **{what: list(side.names[what]) if what in side.names else "" for what in ("task", "image", "class")},
                "corrupted": list(side.marks) if side.marks else None,
                "score": line.scores.double().numpy(),
                "units": row.units,
                "true_change": [true.get(item, float("nan")) for item in items],
                "variation": one.id,
            }
            frames.append(pd.DataFrame(columns))
    return _of_one_type(pd.concat(frames[1:] or frames, ignore_index=True))


def _place(table: TableName, one: Outcome) -> dict[str, Any]:
    """Where a row is from: what is varied, and the seed."""
    taken = {name for name in dictionary()[table] if name not in ("study", "NAME")} | {"notes"}
    hidden = (METRIC, PARAMETER, SETTING)
    names = {name: f"{VARIED}{name}" if name in taken or name.startswith(hidden) else name for name in one.varied}
    return {**{names[name]: label for name, label in one.varied.items()}, "seed": one.seed}


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers in which nothing is known are numbers, too."""
    empty = [f for f, kind in Row.__annotations__.items() if kind == "float" and f in frame]
    return frame.astype(dict.fromkeys(empty, float))


def _ordered(frame: pd.DataFrame, asked: Sequence[str]) -> list[str]:
    """The columns: what a row is, those that are asked for, and the others with those of one kind together."""
    prefixes = (METRIC, PARAMETER, SETTING)
    kinds = [next((p for p in prefixes if name.startswith(p)), "") for name in frame.columns]
    first = [name for name, kind in zip(frame.columns, kinds, strict=True) if not kind]
    rest = [name for p in prefixes for name, kind in zip(frame.columns, kinds, strict=True) if kind == p]
    start = first[: first.index("level") + 1] if "level" in first else []
    return list(dict.fromkeys([*start, *(name for name in asked if name in frame), *first, *rest]))


def _of_one_type(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of one type each: where texts, numbers and truths are mixed, all are texts."""
    for name in frame.columns:
        known = frame[name].dropna()
        kinds = {"number" if isinstance(v, float | int) and not isinstance(v, bool) else type(v) for v in known}
        if frame[name].dtype == object and len(kinds) > 1:
            frame[name] = frame[name].map(str, na_action="ignore")
    return frame
