"""The columns of a report's table: which field each shows, how it is written, what it means, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Literal

from metafluence.reports.data_dictionary import METRIC
from metafluence.reports.groups import Group, words_of
from metafluence.reports.text_table import Better

Place = Literal["page", "paper", "terminal"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        field: A field of `Row`, or a name in `groups.DERIVED`.
        heading: What stands above it; {again} and the like are replaced by what the truth is called.
        form: Format of a number, "%" for a percentage, "s" for text.
        meaning: The heading explained.
        better: Which values are better; empty where neither.
        chance: The value of an estimator that knows nothing; one that is not better than it is never the best.
        bounds: The smallest and the largest possible value.
        one_seed: Shown only where every variation has a single seed.
        narrow: Where it stands besides the page: tables for papers and the terminal are narrower.
    """

    field: str
    heading: str
    form: str
    meaning: str
    better: Better = ""
    chance: float | None = None
    bounds: tuple[float, float] = (-inf, inf)
    one_seed: bool = False
    narrow: tuple[Place, ...] = ()


POSITIVE, CORRELATION, SHARE = (0.0, inf), (-1.0, 1.0), (0.0, 1.0)
BOTH: tuple[Place, ...] = ("paper", "terminal")

# What a study is mostly read for stands first, for where a page is too narrow for all of it.
COLUMNS = (
    Column(
        "damping", "damping", ".3g", "added to the curvature: the method's own, or chosen", one_seed=True, narrow=BOTH
    ),
    Column(
        "change_error", "Δλ error", "%", "median ‖predicted − true Δλ‖ / ‖true Δλ‖, by {name} without single items",
        better="low", chance=1.0, narrow=BOTH, bounds=POSITIVE,
    ),
    Column(
        "spearman", "Spearman", ".3f", "of scores and changes of the validation loss by {name}",
        better="high", chance=0.0, narrow=BOTH, bounds=CORRELATION,
    ),
    Column(
        "spearman_interval", "95 %", "s", "bootstrap interval of Spearman over the left-out items", one_seed=True
    ),
    Column(
        "auroc", "AUROC", ".3f", "of finding the corrupted items; .5 is chance",
        better="high", chance=0.5, narrow=BOTH, bounds=SHARE,
    ),
    Column(
        "accuracy_edited", "acc. edited", ".4f",
        "test accuracy at λ* + predicted Δλ of removing the items of lowest score",
        better="high", narrow=BOTH, bounds=SHARE,
    ),
    Column(
        "accuracy_retrained", "acc. {again}", ".4f", "test accuracy after {short} without the same items",
        better="high", narrow=BOTH, bounds=SHARE,
    ),
    Column(
        "loss_edited", "loss edited", ".4f",
        "test loss at λ* + predicted Δλ of removing the items of lowest score",
        better="low", narrow=BOTH, bounds=POSITIVE,
    ),
    Column(
        "loss_retrained", "loss {again}", ".4f", "test loss after {short} without the same items",
        better="low", narrow=BOTH, bounds=POSITIVE,
    ),
    Column(
        "gap", "edit − {again}", "+.4f",
        "difference of test quality, edited and {again}, seed by seed", narrow=("paper",),
    ),
    Column(
        "runtime_ratio", "share of one fit's time", ".3g",
        "seconds to score all items and to edit λ*, divided by those of one fit from scratch in the same run",
        better="low", narrow=BOTH, bounds=POSITIVE,
    ),
    Column(
        "lds", "LDS", ".3f", "linear datamodeling score: Spearman over random subsets, by {name}",
        better="high", chance=0.0, narrow=("terminal",), bounds=CORRELATION,
    ),
    Column("lds_interval", "95 %", "s", "bootstrap interval of LDS over the subsets", one_seed=True),
    Column("found", "found", "%", "share of the corrupted items among those removed", better="high", bounds=SHARE),
    Column("slope", "slope", ".2f", "of scores on the changes by {name}; 1 is the right size", one_seed=True),
    Column(
        "change_cosine", "Δλ cosine", ".3f", "median cosine of predicted and true Δλ, by {name}",
        better="high", chance=0.0, one_seed=True, bounds=CORRELATION,
    ),
    Column(
        "average_precision", "AP", ".3f", "average precision of finding the corrupted items",
        better="high", one_seed=True, bounds=SHARE,
    ),
    Column("seconds", "seconds", ".3g", "to score all items", better="low", bounds=POSITIVE),
    Column("products", "products", ".0f", "Hessian products for the scores", one_seed=True, bounds=POSITIVE),
    Column(
        "residual", "residual", ".0e", "largest relative residual of the method's solves",
        one_seed=True, bounds=POSITIVE,
    ),
)  # fmt: skip


def columns(groups: Sequence[Group], place: Place = "page") -> list[Column]:
    """The columns for these groups: accuracies where there are classes, losses where there are real targets.

    The numbers that the study asks for stand last; in the terminal they have tables of their own (`metric_tables`).
    """
    real = {group.outcomes[0].real for group in groups}
    one_seed = all(len(group.outcomes) == 1 for group in groups)
    words, shown = asdict(words_of(groups)), []
    for column in COLUMNS:
        quality = column.field.split("_")[0]
        if quality == "accuracy" and False not in real:
            continue
        if quality == "loss" and True not in real:
            continue
        if column.one_seed and not one_seed:
            continue
        if place == "terminal" and not one_seed and column.field in ("change_error", "lds"):
            continue  # with their intervals all columns together are wider than a terminal
        if column.field == "damping" and not _damped(groups):
            continue
        if place == "page" or place in column.narrow:
            shown.append(
                replace(column, heading=column.heading.format(**words), meaning=column.meaning.format(**words))
            )
    return shown if place == "terminal" else shown + metric_columns(groups)


def metric_columns(groups: Sequence[Group]) -> list[Column]:
    """The columns of the numbers that the study asks for."""
    return [_metric(name) for name in _metrics(groups)]


def _metrics(groups: Sequence[Group]) -> list[str]:
    """The names of all metrics' numbers, in the order in which they first stand."""
    rows = [line.row for group in groups for one in group.outcomes for line in one.lines]
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def _metric(name: str) -> Column:
    asked = name.partition(" ")[0].rpartition(".")[0]
    about = f"a number that the study asks for: `metafluence show metric {asked}`"
    return Column(f"{METRIC}{name}", name, ".3g", about)


def _damped(groups: Sequence[Group]) -> bool:
    """Whether any run has a damping other than zero."""
    return any(line.row.damping > 0 for group in groups for one in group.outcomes for line in one.lines)
