"""Two stores side by side: the same rows, matched by what they were made with, and whether they differ beyond noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metafluence.errors import InputError
from metafluence.evaluation import FEWEST, Interval, compare_means, holm, mean_interval
from metafluence.reports import (
    NOTHING,
    PARAMETER,
    SETTING,
    Column,
    Table,
    comparable,
    load_results,
    markdown,
    write_csv,
)
from metafluence.runtime import write_atomically
from metafluence.studies import open_stores

BY = ("spearman", "lds", "auroc", "change_error")
"""What is compared if nothing is named."""
LEVEL = 0.05
NAN = float("nan")
INSIDE, UNTESTED = "inside the noise", "not tested"


@dataclass(frozen=True)
class SideBySide:
    """Two stores, row by row.

    Attributes:
        frame: For each pair of rows and metric: what the rows are, `metric`, the means `a` and `b`, `difference` b − a
            over the `seeds` that both have with `low` and `high`, its 95 % interval, `p` (two-sided, corrected by Holm
            over the table; NaN for fewer than three seeds) and `better`: a, b, `inside the noise` or `not tested`.
        only: Rows of one store alone, in words, by store.
        settings: What the studies were done with and differ in: name, in a, in b.
    """

    a: str
    b: str
    frame: pd.DataFrame
    only: dict[str, list[str]]
    settings: list[tuple[str, str, str]]

    def table(self) -> Table:
        """As text."""
        names = [name for name in self.frame if name not in _FIGURES]
        kept = [name for name in names if any(self.frame[name].astype(str).to_numpy() != "")]
        headings = [(name, name) for name in kept]
        headings += [("metric", "what is compared"), ("A", f"mean in {self.a}"), ("B", f"mean in {self.b}")]
        headings += [("B − A", "on the seeds that both have, with its 95 % interval"), ("seeds", "that both have")]
        headings += [("better", "where p < 0.05, corrected for all rows of the table")]
        rows = tuple(
            (
                *(str(line[name]) for name in kept),
                str(line["metric"]),
                *(_text(line[side]) for side in ("a", "b")),
                _difference(line),
                str(line["seeds"]),
                str(line["better"]),
            )
            for line in self.frame.to_dict("records")
        )
        return Table("", tuple(headings), rows, words=(*range(len(kept) + 1), len(headings) - 1))

    def write(self, file: str | Path) -> None:
        """Write all figures as .csv, or the table as .md, by the file's name."""
        file = Path(file)
        if file.suffix == ".csv":
            write_csv(file, self.frame)
        else:
            table = self.table()
            write_atomically(file, markdown(table.titles, table.rows).encode())

    def sentences(self) -> list[str]:
        """What a reader must know of the table."""
        told = [f"A is {self.a}, B is {self.b}."]
        if self.settings:
            told.append(f"The studies differ in {'; '.join(f'{name}: {x} and {y}' for name, x, y in self.settings)}.")
        for store, rows in self.only.items():
            if rows:
                told.append(f"Only in {store}: {', '.join(rows)}.")
        if (self.frame.better == UNTESTED).any():
            told.append(f"Not tested: fewer than {FEWEST} seeds in both, so the noise is not known.")
        return told


_FIGURES = ("metric", "a", "b", "difference", "low", "high", "seeds", "p", "better")


def compare_stores(a: Path | str, b: Path | str, by: tuple[str, ...] | list[str] = BY) -> SideBySide:
    """Set two stores side by side.

    Rows are the same where method, solver, level, all parameters of the method and what both studies vary are the same.
    Their difference is taken seed by seed and tested by Student's t on these pairs, corrected by Holm for all tests of
    the table, so that a difference inside the noise names no winner.

    Args:
        a: Folder of a store.
        b: Folder of another.
        by: Columns of results.csv of which it is known which values are better.

    Returns:
        The comparison.

    Raises:
        StoreError: for a folder that is no store, or in which nothing is finished.
        InputError: for a column that cannot be compared, and where the stores have no row in common.
    """
    known_by = comparable(one for store in open_stores([a, b]) for one in store.outcomes)
    for name in by:
        if name not in known_by:
            raise InputError(f"Stores cannot be compared by {name!r}. Name one of {', '.join(known_by)}.")
    if Path(a).resolve() == Path(b).resolve():
        raise InputError(f"{a} and {b} are the same store. Name two.")
    first, second = (load_results(store).results for store in (a, b))
    varied = [name for name in _varied(first) if name in _varied(second)]
    shown = ["level", "method", "solver", *varied]
    parameters = sorted({name for one in (first, second) for name in one if name.startswith(PARAMETER)})
    rows = [_rows(one, shown, parameters) for one in (first, second)]
    both = [key for key in rows[0] if key in rows[1]]
    only = {
        str(store): [_called(key) for key in own if key not in other]
        for store, own, other in ((a, *rows), (b, rows[1], rows[0]))
    }
    if not both:
        raise InputError(
            f"{a} and {b} have no row in common: none with the same method, parameters and level. {a} has "
            f"{', '.join(only[str(a)])}; {b} has {', '.join(only[str(b)])}. Compare stores with the same methods."
        )
    lines = [
        {**dict(zip(shown, key[: len(shown)], strict=True)), **_line(known_by[name], rows[0][key], rows[1][key])}
        for key in both
        for name in by
    ]
    known = [line for line in lines if not (np.isnan(line["a"]) and np.isnan(line["b"]))]
    for line, p in zip(known, holm([line["p"] for line in known]), strict=True):
        line["p"] = float(p)
        line["better"] = UNTESTED if np.isnan(p) else line["better"] if p <= LEVEL else INSIDE
    return SideBySide(str(a), str(b), pd.DataFrame(known, columns=[*shown, *_FIGURES]), only, _settings(first, second))


def _varied(frame: pd.DataFrame) -> list[str]:
    """The columns of what is varied: those before the seed, but for the store."""
    return [str(name) for name in frame.columns[1 : list(frame.columns).index("seed")]]


def _rows(frame: pd.DataFrame, shown: list[str], parameters: list[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    """A store's rows by what they are, one a seed."""
    keys = frame.reindex(columns=[*shown, *parameters]).astype(object).where(lambda one: one.notna(), "").astype(str)
    ids = list(map(tuple, keys.to_numpy()))
    found = {key: frame.loc[[own == key for own in ids]] for key in dict.fromkeys(ids)}
    for key, own in found.items():
        if own.seed.duplicated().any():
            raise InputError(
                f"{frame.store.iloc[0]} has {_called(key)} more than once with one seed: it varies what the other "
                "store does not. Compare stores that vary the same."
            )
    return found


def _line(column: Column, first: pd.DataFrame, second: pd.DataFrame) -> dict[str, object]:
    """One metric of a pair of rows; `better` is what the mean says, before it is tested."""
    name, sign = column.field, 1 if column.better == "high" else -1
    x, y = (_by_seed(one, name) for one in (first, second))
    seeds = sorted(x.keys() & y.keys())
    pairs = np.array([[own[seed] for seed in seeds] for own in (x, y)])
    gaps = pairs[1] - pairs[0]
    found = mean_interval(gaps) if len(gaps) else Interval()
    p = NAN
    if len(seeds) >= FEWEST:
        standing = compare_means(["a", "b"], pairs, sign > 0)
        p = NAN if standing is None else standing.rivals[0].p
    better = "b" if sign * found.value > 0 else "a"
    means = [float(np.mean([*own.values()])) if own else NAN for own in (x, y)]
    figures = (name, *means, found.value, found.low, found.high, len(seeds), p, better)
    return dict(zip(_FIGURES, figures, strict=True))


def _by_seed(frame: pd.DataFrame, name: str) -> dict[int, float]:
    """A metric of each seed that has it."""
    if name not in frame:
        return {}
    found = zip(frame["seed"].tolist(), frame[name].astype(float).tolist(), strict=True)
    return {int(seed): value for seed, value in found if not np.isnan(value)}


def _settings(first: pd.DataFrame, second: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What the studies were done with, as far as it differs between them."""
    names = dict.fromkeys(name for one in (first, second) for name in one if name.startswith(SETTING))
    values = [
        (name, *(_values(one[name].dropna().tolist()) if name in one else "" for one in (first, second)))
        for name in map(str, names)
    ]
    return [(name.removeprefix(SETTING), x or NOTHING, y or NOTHING) for name, x, y in values if x != y]


def _values(column: list[object]) -> str:
    """What a column holds, each value once."""
    return " or ".join(map(str, dict.fromkeys(column)))


def _called(key: tuple[str, ...]) -> str:
    """A row in words: its level, method, solver and what is varied."""
    level, method, solver, *_ = key
    return f"{method} ({solver}) at level {level}" if solver else f"{method} at level {level}"


def _text(value: float) -> str:
    return NOTHING if np.isnan(value) else f"{value:.3f}"


def _difference(line: dict[str, float]) -> str:
    if np.isnan(line["difference"]):
        return NOTHING
    interval = "" if np.isnan(line["low"]) else f" ({line['low']:+.3f} to {line['high']:+.3f})"
    return f"{line['difference']:+.3f}{interval}"
