"""Results for people: a verdict in words, a table, one HTML page with its figures inside, and a CSV."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure

import metafluence
from metafluence.figures import NOUNS, draw, draw_overall, png
from metafluence.runs import Bench, Row
from metafluence.store import write_atomically
from metafluence.study import StudyResult
from metafluence.tasks import Level
from metafluence.truth import Ceiling


@dataclass(frozen=True)
class Column:
    """A column of the table: the row's field, the heading, the format, and what it means."""

    field: str
    heading: str
    form: str
    meaning: str
    brief: str = ""  # its heading in the terminal, for the columns that stand there


COLUMNS = (
    Column("method", "method", "s", "the estimator", "method"),
    Column("solver", "solver", "s", "how it inverts the Hessian", "solver"),
    Column("damping", "damping", ".3g", "added to the curvature: the method's own, or chosen", "damping"),
    Column("change_error", "Δλ error", "%", "median ‖predicted − true Δλ‖ / ‖true Δλ‖, one item left out", "Δλ error"),
    Column("change_cosine", "Δλ cosine", ".3f", "median cosine of predicted and true Δλ"),
    Column("spearman", "Spearman", ".3f", "of scores and true changes of the validation loss", "Spearman"),
    Column("spearman_interval", "95 %", "s", "bootstrap interval of Spearman over the left-out items"),
    Column("lds", "LDS", ".3f", "linear datamodeling score: Spearman over removed random subsets", "LDS"),
    Column("lds_interval", "95 %", "s", "bootstrap interval of LDS over the subsets"),
    Column("slope", "slope", ".2f", "of scores on true changes; 1 is the right size"),
    Column("auroc", "AUROC", ".3f", "of finding the corrupted items", "AUROC"),
    Column("average_precision", "AP", ".3f", "average precision of finding the corrupted items"),
    Column("found", "found", "%", "share of the corrupted items among those removed"),
    Column("accuracy_edited", "acc. edited", ".3f", "test accuracy at λ* + predicted Δλ of removing", "acc edit"),
    Column("accuracy_retrained", "acc. retrained", ".3f", "test accuracy, retrained without the same", "acc retr"),
    Column("loss_retrained", "loss retrained", ".4f", "test loss after that retraining"),
    Column("seconds", "seconds", ".3g", "to score all items", "seconds"),
    Column("products", "products", "d", "Hessian products for the scores", "products"),
    Column("residual", "residual", ".0e", "largest relative residual of the method's solves", "residual"),
)

FIGURE_TEXT = {
    "predicted-against-true": (
        "Predicted against true change",
        "Each point is a left-out item. Across: how the validation loss really changes when it is left out and the "
        "model is retrained exactly. Up: what the method predicts. On the grey line the prediction is exact.",
    ),
    "items-found": (
        "Corrupted items found",
        "Items are inspected from the lowest score up; a curve that climbs faster finds the corrupted ones sooner.",
    ),
    "removal-curves": (
        "Removing what scores lowest",
        "The model is retrained exactly without ever more of the items that a method scores lowest. Lower is better.",
    ),
    "error-budget": (
        "Where the error comes from",
        "The error of the predicted parameter change, split by source: what first order misses, what the curvature "
        "adds, what the inner solves and the outer solve add. All are medians over the left-out items. The parts are "
        "lengths of vectors, so they mostly add up to more than the whole error (the diamond), in which they partly "
        "cancel.",
    ),
    "fidelity-against-runtime": (
        "Fidelity against runtime",
        "Up and to the left is better: scores that agree with exact retraining, sooner. The dashed line, if there is "
        "one, is how well retraining from other seeds agrees with it, the band its interval: what of the truth is the "
        "data's and not the seed's. A method made at this very fit may lie above.",
    ),
    "inner-and-outer-solvers": (
        "Inner and outer solvers",
        "One method's scores with each pair of solvers. Above: how well they rank tasks, and how far the solvers alone "
        "move them from the same method's scores under tight solves. Below: what the pair costs. Hatched pairs "
        "failed; the reasons stand below.",
    ),
    "against-truncation": (
        "Accuracy and time against J",
        "The same scores when a solver's number of steps grows, everything else being the same.",
    ),
}


REGRESSION = (
    Column("loss_edited", "loss edited", ".4f", "test loss at λ* + predicted Δλ of removing", "loss edit"),
    Column("loss_retrained", "loss retrained", ".4f", "test loss, retrained without the same", "loss retr"),
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
        return "failed" if column.field == "change_error" else "–"
    if value in ("", None) or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if column.form == "%":
        return f"{100 * value:.1f} %"
    return format(value, column.form)


def ceiling_row(bench: Bench) -> Row | None:
    """How well retraining from other seeds agrees with the study's, as a row of the table."""
    ceiling = bench.truth.ceiling if bench.truth is not None else Ceiling()
    if not ceiling.seeds:
        return None
    name = f"retrain, {ceiling.seeds} other seed{'s' if ceiling.seeds > 1 else ''}"
    facts = {k: v for k, v in asdict(ceiling).items() if k != "seeds"}
    return Row(name, "", bench.level, **facts)


def table(result: StudyResult, level: Level, shown: Sequence[Column] | None = None) -> list[list[str]]:
    """The rows of one level as text, the ceiling first where there is one; in all columns if none are given."""
    shown = columns(result) if shown is None else shown
    ceiling = ceiling_row(result.benches[level])
    rows = [*([ceiling] if ceiling is not None else []), *(run.row for run in result.at(level))]
    return [[cell(row, column) for column in shown] for row in rows]


def verdict(result: StudyResult) -> list[str]:
    """What was found, in sentences."""
    said = [sentence for level in result.benches for sentence in _verdict(result, level)]
    if result.config.damping is not None:
        said.append(_policy(result))
    if result.failed:
        said.append(f"{len(result.failed)} of {len(result.rows)} runs failed; the reasons stand below the table.")
    return said


def _policy(result: StudyResult) -> str:
    """The rule by which dampings were chosen."""
    assert result.config.damping is not None
    bench = next(iter(result.benches.values()))
    of = ", ".join(f"{value:g}" for value in sorted(set(result.config.damping.values)))
    removed = " and ".join(f"{b.remove[0]} {NOUNS[level]}s" for level, b in result.benches.items())
    return (
        f"Every method that takes a damping and sets none was tried with each of {of}, and has the one whose "
        f"{removed} of lowest score, once removed, leave the retrained model the lowest loss on "
        f"{len(bench.selection or ())} validation tasks kept for this choice, which are no targets."
    )


def _verdict(result: StudyResult, level: Level) -> list[str]:
    said, noun, bench = [], NOUNS[level], result.benches[level]
    scored = [run.row for run in result.at(level) if run.row.status == "ok" and run.row.method != "retrain"]
    faithful = [r for r in scored if not math.isnan(r.change_error)]
    if faithful:
        best = min(faithful, key=lambda r: (round(r.change_error, 3), r.seconds))
        said.append(
            f"{_name(best)} predicts best what the model would be without a {noun}: the median error of its parameter "
            f"change is {100 * best.change_error:.1f} % of the true one."
        )
    ranked = [r for r in scored if not math.isnan(r.spearman)]
    if ranked and bench.truth is not None:
        best = max(ranked, key=lambda r: (round(r.spearman, 3), -r.seconds))
        other = f"; {bench.truth.ceiling.said}" if bench.truth.ceiling.said else ""
        said.append(
            f"{_name(best)} ranks {noun}s most like exact retraining (Spearman {best.spearman:.3f}{other}), all of "
            f"them in {best.seconds:.2g} s, where retraining without {len(bench.truth.removals)} single ones"
            f"{f' and {len(bench.truth.subsets)} subsets' if bench.truth.subsets else ''} took "
            f"{bench.truth.seconds:.3g} s."
        )
    found = [r for r in scored if not math.isnan(r.auroc)]
    if found:
        best, worst = max(found, key=lambda r: (r.auroc, -r.seconds)), min(found, key=lambda r: r.auroc)
        least = f", {_name(worst)} worst ({worst.auroc:.3f})" if best.auroc - worst.auroc > 0.005 else ""
        said.append(f"{_name(best)} finds the corrupted {noun}s best (AUROC {best.auroc:.3f}){least}.")
    edited = [r for r in scored if not math.isnan(r.loss_retrained)]
    if edited:
        best = min(edited, key=lambda r: (round(r.loss_retrained, 4), r.seconds))
        what, before, after = "loss", f"{result.full.loss:.4f}", f"{best.loss_retrained:.4f}"
        if not math.isnan(result.full.accuracy):
            what, before = "accuracy", f"{result.full.accuracy:.3f} (loss {before})"
            after = f"{best.accuracy_retrained:.3f} (loss {after})"
        said.append(
            f"With all {noun}s the test {what} is {before}; retrained without the {bench.remove[0]} that {_name(best)} "
            f"scores lowest it is {after}."
        )
    return said


def frame(result: StudyResult) -> pd.DataFrame:
    """All rows with all their fields, but for accuracies where targets are real values and there are none."""
    found = pd.DataFrame([{**row.facts(), "notes": " ".join(row.notes)} for row in result.rows])
    return found.drop(columns=[c for c in found if c.startswith("accuracy_")]) if result.split.test.real else found


def refusals(result: StudyResult) -> list[tuple[str, str]]:
    """Pairs of solvers that failed and why; pairs with one reason stand together."""
    by_reason: dict[str, list[str]] = {}
    for c in result.grid:
        if c.status != "ok":
            by_reason.setdefault(c.reason, []).append(f"{c.inner} × {c.outer}")
    return [(", ".join(pairs), reason) for reason, pairs in by_reason.items()]


def budget_refusals(result: StudyResult) -> list[tuple[str, str]]:
    """Error budgets that failed and why."""
    return [(f"{b.method} {b.solver}, {b.level}", b.reason) for b in result.budgets if b.status != "ok"]


def write_report(result: StudyResult, folder: Path) -> Path:
    """Write report.html, results.csv, figures/*.png, and where there are such, grid.csv and budget.csv.

    Returns the page's path.
    """
    write_atomically(folder / "results.csv", frame(result).to_csv(index=False).encode())
    for name, parts in {"grid": result.grid, "budget": result.budgets}.items():
        if parts:
            lines = pd.DataFrame([part.facts() for part in parts])
            write_atomically(folder / f"{name}.csv", lines.to_csv(index=False).encode())
    sections = [
        {
            "title": f"{NOUNS[level].capitalize()}s",
            "table": table(result, level),
            "remarks": [
                (_name(r.row), text) for r in result.at(level) for text in (r.row.reason, *r.row.notes) if text
            ],
            "pictures": _pictures(draw(result, level), folder, f"-{level}"),
        }
        for level in result.benches
    ]
    pictures = _pictures(draw_overall(result), folder)
    for picture in pictures:
        reasons = {"inner-and-outer-solvers": refusals(result), "error-budget": budget_refusals(result)}
        picture["reasons"] = reasons.get(picture["name"], [])
    environment = jinja2.Environment(loader=jinja2.PackageLoader("metafluence"), autoescape=True)
    config = result.config.model_dump(mode="json", exclude_defaults=True)
    page = environment.get_template("report.html.j2").render(
        result=result,
        verdict=verdict(result),
        facts=facts(result),
        columns=columns(result),
        nouns=NOUNS,
        sections=sections,
        pictures=pictures,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        versions=f"metafluence {metafluence.__version__}, torch {torch.__version__}",
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _pictures(figures: dict[str, Figure], folder: Path, suffix: str = "") -> list[dict[str, Any]]:
    """Figures written to files, and as the page wants them."""
    pictures = []
    for name, figure in figures.items():
        drawn = png(figure)
        write_atomically(folder / "figures" / f"{name}{suffix}.png", drawn)
        title, caption = FIGURE_TEXT[name]
        pictures.append({"name": name, "title": title, "caption": caption, "data": base64.b64encode(drawn).decode()})
    return pictures


def facts(result: StudyResult) -> list[tuple[str, str]]:
    """The study and its diagnostics, as pairs of what and how much."""
    d, e = result.diagnostics, result.diagnostics.extremes
    tasks = result.split.train
    said = [
        *(
            (f"{NOUNS[level]}s", f"{len(marks)}, {int(marks.sum())} of them corrupted")
            for level in result.benches
            for marks in [tasks.corrupted_items(level)]
        ),
        ("meta-parameters", f"{result.fit.meta.numel()}"),
        ("‖∇F‖ at λ*", f"{d.gradient_norm:.1e} (largest task gradient {d.task_gradient:.1e})"),
        ("inner stationarity", d.adaptation),
        *([] if d.unrolled else [("inner solves", f"largest relative residual {d.inner_residual:.0e}")]),
        (
            "eigenvalues of δI + H",
            f"{e.smallest:.3g} (± {e.smallest_error:.0e}) to {e.largest:.4g} (± {e.largest_error:.0e})",
        ),
    ]
    for level, bench in result.benches.items():
        if bench.truth is not None:
            count = len(bench.truth.removals) + len(bench.truth.subsets)
            said.append((f"retrained without {NOUNS[level]}s", f"{count} times in {bench.truth.seconds:.3g} s of work"))
    return said


def _name(row: Row) -> str:
    return f"{row.method} ({row.solver})" if row.solver else row.method
