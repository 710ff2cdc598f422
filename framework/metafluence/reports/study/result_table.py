"""The table of a study at one level: its columns, and its cells as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from metafluence.evaluation import Ceiling, Evaluation, Row
from metafluence.reports import NOTHING, Better
from metafluence.studies import StudyResult
from metafluence.tasks import Level


@dataclass(frozen=True)
class Column:
    """A column of the table: the row's field, the heading, the format, what it means, and which values are better."""

    field: str
    heading: str
    form: str
    meaning: str
    brief: str = ""  # its heading where room is short, for the columns that stand there
    better: Better = ""


COLUMNS = (
    Column("method", "method", "s", "the estimator", "method"),
    Column("solver", "solver", "s", "how it inverts the Hessian", "solver"),
    Column("damping", "damping", ".3g", "added to the curvature: the method's own, or chosen", "damping"),
    Column(
        "change_error",
        "Δλ error",
        "%",
        "median ‖predicted − true Δλ‖ / ‖true Δλ‖, one item left out",
        "Δλ error",
        better="low",
    ),
    Column("change_cosine", "Δλ cosine", ".3f", "median cosine of predicted and true Δλ", better="high"),
    Column(
        "spearman", "Spearman", ".3f", "of scores and true changes of the validation loss", "Spearman", better="high"
    ),
    Column("spearman_interval", "95 %", "s", "bootstrap interval of Spearman over the left-out items"),
    Column(
        "lds", "LDS", ".3f", "linear datamodeling score: Spearman over removed random subsets", "LDS", better="high"
    ),
    Column("lds_interval", "95 %", "s", "bootstrap interval of LDS over the subsets"),
    Column("slope", "slope", ".2f", "of scores on true changes; 1 is the right size"),
    Column("auroc", "AUROC", ".3f", "of finding the corrupted items", "AUROC", better="high"),
    Column("average_precision", "AP", ".3f", "average precision of finding the corrupted items", better="high"),
    Column("found", "found", "%", "share of the corrupted items among those removed", better="high"),
    Column(
        "accuracy_edited",
        "acc. edited",
        ".3f",
        "test accuracy at λ* + predicted Δλ of removing",
        "acc edit",
        better="high",
    ),
    Column(
        "accuracy_retrained",
        "acc. retrained",
        ".3f",
        "test accuracy, retrained without the same",
        "acc retr",
        better="high",
    ),
    Column("loss_retrained", "loss retrained", ".4f", "test loss after that retraining", better="low"),
    Column("seconds", "seconds", ".3g", "to score all items", "seconds"),
    Column("products", "products", "d", "Hessian products for the scores", "products"),
    Column("residual", "residual", ".0e", "largest relative residual of the method's solves", "residual"),
)

COLUMN = {column.field: column for column in COLUMNS}

REGRESSION = (
    Column(
        "loss_edited", "loss edited", ".4f", "test loss at λ* + predicted Δλ of removing", "loss edit", better="low"
    ),
    Column(
        "loss_retrained", "loss retrained", ".4f", "test loss, retrained without the same", "loss retr", better="low"
    ),
)
"""What stands in the place of accuracies where targets are real values."""


def columns(result: StudyResult) -> list[Column]:
    """The columns of this study's tables; dampings stand there where the study has a rule for them."""
    chosen = result.config.damping is not None
    shown = [column for column in COLUMNS if chosen or column.field != "damping"]
    if not result.split.test.real:
        return shown
    of_quality = ("accuracy_edited", "accuracy_retrained", "loss_retrained")
    first = next(i for i, column in enumerate(shown) if column.field in of_quality)
    kept = [column for column in shown if column.field not in of_quality]
    return [*kept[:first], *REGRESSION, *kept[first:]]


def cell(row: Row, column: Column) -> str:
    """One cell as text; a dash where there is nothing to say."""
    value = getattr(row, column.field)
    if row.status != "ok" and column.field not in ("method", "solver"):
        return "failed" if column.field == "change_error" else NOTHING
    if value in ("", None) or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if column.form == "%":
        return f"{100 * value:.1f} %"
    return format(value, column.form)


def ceiling_row(bench: Evaluation) -> Row | None:
    """How well retraining from other seeds agrees with the study's, as a row of the table."""
    ceiling = bench.truth.ceiling if bench.truth is not None else Ceiling()
    if not ceiling.seeds:
        return None
    name = f"retrain, {ceiling.seeds} other seed{'s' if ceiling.seeds > 1 else ''}"
    facts = {k: v for k, v in asdict(ceiling).items() if k != "seeds"}
    return Row(method=name, level=bench.level, retrains=True, **facts)


def table(result: StudyResult, level: Level, shown: Sequence[Column] | None = None) -> list[list[str]]:
    """The rows of one level as text, the ceiling first where there is one; in all columns if none are given."""
    shown = columns(result) if shown is None else shown
    return [[cell(row, column) for column in shown] for row in rows(result, level)]


def rows(result: StudyResult, level: Level) -> list[Row]:
    """The rows of one level, the ceiling first where there is one."""
    ceiling = ceiling_row(result.evaluations[level])
    return [*([ceiling] if ceiling is not None else []), *(run.row for run in result.at(level))]


def estimators(result: StudyResult, level: Level) -> list[int]:
    """The numbers of the rows that estimate: all but exact retraining."""
    return [i for i, row in enumerate(rows(result, level)) if not row.retrains]
