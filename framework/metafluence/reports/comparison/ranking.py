"""Methods and solvers ranked over all variations: mean ranks, and whom a paired test tells apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from metafluence.evaluation import FEWEST, Tally, standing_numbers, tallies
from metafluence.reports import (
    METHOD,
    NOTHING,
    UNINFORMED,
    Array,
    Column,
    Group,
    Mean,
    Method,
    Table,
    columns,
    common_seeds,
    listed,
    mean,
    methods,
    named,
    retrains,
    values,
)
from metafluence.studies import METRIC
from metafluence.tasks import Level

ASKED = ("change_error", "spearman", "lds", "auroc", "accuracy_retrained", "loss_retrained")
"""What methods are ranked by where the study chooses no columns; then come its metrics."""


@dataclass(frozen=True)
class Place:
    """A method, or one of several methods or solvers over which a mean was taken.

    Attributes:
        name: The method with its solver; one of the two is empty in a mean over it.
        rank: Its mean rank over variations and seeds, 1 for the best.
        mean: Over seeds, of its mean over the variations.
        tally: Whom it is told apart from; None where there is no test.
    """

    name: Method
    rank: float
    mean: Mean
    tally: Tally | None


@dataclass(frozen=True)
class Ranked:
    """Places by one column, the best mean first, over the seeds that all of them have in all variations."""

    column: Column
    places: tuple[Place, ...]
    variations: int
    seeds: int

    @property
    def best(self) -> tuple[Place, ...]:
        """Those that none is ahead of, if they are better than chance; none where there is no test."""
        return tuple(
            place for place in self.places if place.tally is not None and not place.tally.behind and self.beats(place)
        )

    def beats(self, place: Place) -> bool:
        """Whether its mean is better than that of a method that knows nothing."""
        chance, value = self.column.chance, place.mean.value
        return chance is None or (value > chance if self.column.better == "high" else value < chance)


def rankings(groups: Sequence[Group], level: Level) -> list[Ranked]:
    """The estimators over all variations, by each column of which it is known which values are better."""
    return [ranked for column in _ranked_by(groups) if (ranked := _ranked(column, *_known(groups, level, column)))]


def marginals(groups: Sequence[Group], level: Level) -> list[Ranked]:
    """The same of solvers, as means over methods, and of methods, as means over solvers.

    Over the methods that ran with every solver; none where fewer than two solvers and two methods did.
    """
    found = []
    for column in _ranked_by(groups):
        names, known = _known(groups, level, column)
        solvers = list(dict.fromkeys(solver for _, solver in names if solver))
        whole = [m for m in dict.fromkeys(m for m, _ in names) if all((m, solver) in names for solver in solvers)]
        if len(solvers) < 2 or len(whole) < 2:
            continue
        grid = np.stack([[known[names.index((m, solver))] for solver in solvers] for m in whole])
        found.append(_ranked(column, [("", solver) for solver in solvers], grid.mean(axis=0)))
        found.append(_ranked(column, [(m, "") for m in whole], grid.mean(axis=1)))
    return [ranked for ranked in found if ranked is not None]


def ranking_table(found: Sequence[Ranked], title: str) -> Table | None:
    """Ranked methods, or solvers, as text; None where there are none."""
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for ranked in found:
        bold = ranked.best
        for place in ranked.places:
            if place in bold:
                best |= {(len(rows), c) for c in (3, 4)}
            rows.append((ranked.column.heading, *place.name, *_texts(ranked, place)))
    if not rows:
        return None
    headings = (
        ("by", "what methods are ranked by"),
        *METHOD,
        ("mean rank", "over all variations and seeds, 1 for the best; equal values share their ranks"),
        ("mean", "over seeds, of the mean over all variations"),
        ("ahead of", "how many others are worse by a paired test"),
        ("tied with", "how many others cannot be told apart"),
        ("behind", "how many others are better"),
    )
    return Table(title, headings, tuple(rows), frozenset(best), (0, 1, 2), about(found)).only_filled()


def about(found: Sequence[Ranked]) -> str:
    """What stands above the table."""
    seeds = sorted({ranked.seeds for ranked in found})
    over = " or ".join(map(str, seeds))
    test = (
        "Student's t on each seed's mean over the variations, corrected by Holm for all pairs of a column, p < 0.05"
        if seeds[-1] >= FEWEST
        else f"nothing is tested, as fewer than {FEWEST} seeds are common to all variations"
    )
    return (
        f"Over {found[0].variations} variations and the {over} seed{'s' if over != '1' else ''} that they share. "
        f"Ahead, tied and behind: {test}. In bold: those that none is ahead of."
    )


def ranking_findings(groups: Sequence[Group], level: Level) -> list[str]:
    """Who is best over all variations, in sentences that name no winner inside the noise; the columns by which it is
    the same stand together.
    """
    found: dict[str, list[str]] = {}
    for ranked in rankings(groups, level):
        found.setdefault(_said(ranked), []).append(ranked.column.heading)
    return [f"By {listed(headings) if len(headings) > 1 else headings[0]}, {said}" for said, headings in found.items()]


def _said(ranked: Ranked) -> str:
    """What stands in the sentence after the column."""
    count, best = len(ranked.places), ranked.best
    over = f"over {ranked.variations} variations and {ranked.seeds} seed{'s' if ranked.seeds > 1 else ''}"
    if not ranked.beats(ranked.places[0]):
        return f"no estimator is better than chance, {over}."
    if not best:
        first, last = min(ranked.places, key=lambda p: p.rank), max(ranked.places, key=lambda p: p.rank)
        span = f"mean ranks are from {first.rank:.1f} ({named(first.name)}) to {last.rank:.1f} ({named(last.name)})"
        return f"{span} of {count}, {over}; fewer than {FEWEST} common seeds name no winner."
    if len(best) == 1:
        tally = best[0].tally
        others = "all others" if tally is not None and not tally.tied else f"{tally.ahead if tally else 0} others"
        return f"{named(best[0].name)} is ahead of {others}, {over}."
    if len(best) == count:
        return f"no estimator can be told apart from another, {over}."
    return f"{listed([named(place.name) for place in best])} cannot be told apart: none is behind another, {over}."


def _ranked_by(groups: Sequence[Group]) -> list[Column]:
    """The columns of what metrics measure, of which it is known which values are better."""
    shown = [column for column in columns(groups) if column.better]
    if any(one.columns for group in groups for one in group.outcomes):
        return [column for column in shown if column.field in standing_numbers() or column.field.startswith(METRIC)]
    return [column for column in shown if column.field in ASKED or column.field.startswith(METRIC)]


def _known(groups: Sequence[Group], level: Level, column: Column) -> tuple[list[Method], Array]:
    """The estimators with a value in all variations with the seeds that they share, [methods, variations, seeds]."""
    every = list(dict.fromkeys(m for group in groups for m in methods(group, level)))
    names = [m for m in every if m[0] not in UNINFORMED and not any(retrains(group, level, m) for group in groups)]
    seeds = sorted(set.intersection(*({one.seed for one in group.outcomes} for group in groups)))
    table = np.full((len(names), len(groups), len(seeds)), np.nan)
    for v, group in enumerate(groups):
        places = {one.seed: i for i, one in enumerate(group.outcomes)}
        for m, method in enumerate(names):
            own = values(group, level, method, column.field)
            table[m, v] = [own[places[seed]] for seed in seeds]
    finite = [np.asarray(np.isfinite(own).all(axis=0)) for own in table]
    common = common_seeds(finite)
    kept = [m for m in range(len(names)) if common and finite[m][common].all()]
    return [names[m] for m in kept], table[kept][:, :, common]


def _ranked(column: Column, names: Sequence[Method], known: Array) -> Ranked | None:
    """From values [names, variations, seeds]; None of fewer than two."""
    if len(names) < 2 or not known.size:
        return None
    sign = -1.0 if column.better == "high" else 1.0
    ranks = rankdata(sign * known, axis=0).mean(axis=(1, 2))
    means = known.mean(axis=1)
    told = tallies(means, column.better == "high") or [None] * len(names)
    places = [Place(*one) for one in zip(names, ranks.tolist(), map(mean, means), told, strict=True)]
    places.sort(key=lambda place: sign * place.mean.value)
    return Ranked(column, tuple(places), known.shape[1], known.shape[2])


def _texts(ranked: Ranked, place: Place) -> Iterator[str]:
    yield f"{place.rank:.2f}"
    yield place.mean.text(ranked.column.form, ranked.column.bounds)
    for name in ("ahead", "tied", "behind"):
        yield NOTHING if place.tally is None else str(getattr(place.tally, name))
