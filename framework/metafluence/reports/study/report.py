"""The report of a study: one HTML page with its figures inside, tables for papers, and CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from metafluence.reports import FIGURE_TEXT, best_cells, filled, picture, write_page, write_tables
from metafluence.reports.study.exhibits import exhibit
from metafluence.reports.study.figures import NOUNS, draw, draw_overall, on_front
from metafluence.reports.study.result_table import columns, estimators, table
from metafluence.reports.study.verdicts import front_said, verdict
from metafluence.runtime import versions, write_atomically
from metafluence.studies import StudyResult
from metafluence.tasks import Level


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
    """Write report.html, results.csv, tables/LEVEL.tex and .md, figures/*.png, and grid.csv and budget.csv if any.

    Returns the page's path.
    """
    write_atomically(folder / "results.csv", frame(result).to_csv(index=False).encode())
    for name, parts in {"grid": result.grid, "budget": result.budgets}.items():
        if parts:
            lines = pd.DataFrame([part.facts() for part in parts])
            write_atomically(folder / f"{name}.csv", lines.to_csv(index=False).encode())
    for level in result.evaluations:
        _write_tables(result, level, folder / "tables")
    reasons = {"inner-and-outer-solvers": refusals(result), "error-budget": budget_refusals(result)}
    pictures = [_picture(name, figure, folder) for name, figure in draw_overall(result).items()]
    config = result.config.model_dump(mode="json", exclude_defaults=True)
    return write_page(
        folder / "report.html",
        "report.html.j2",
        result=result,
        verdict=verdict(result),
        facts=facts(result),
        glossary=[(c.heading, c.meaning) for c in columns(result)],
        nouns=NOUNS,
        sections=[_section(result, level, folder) for level in result.evaluations],
        pictures=[{**p, "reasons": reasons.get(p["name"], [])} for p in pictures],
        exhibits=[shown for level in result.evaluations if (shown := _exhibit(result, level, folder)) is not None],
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        made_with=[(what, value) for what, value in versions().items() if value],
    )


def _section(result: StudyResult, level: Level, folder: Path) -> dict[str, Any]:
    """One level's table and figures, as the page wants them; columns that say nothing are left out."""
    rows, shown = table(result, level), columns(result)
    kept = filled(rows)
    shown, rows = [shown[c] for c in kept], [[row[c] for c in kept] for row in rows]
    runs = result.at(level)
    pictures = [_picture(name, figure, folder, level) for name, figure in draw(result, level).items()]
    for drawn in pictures:
        if drawn["name"].startswith("fidelity-against-runtime"):
            drawn["caption"] += " " + front_said(on_front(result, level))
    return {
        "title": f"{NOUNS[level].capitalize()}s",
        "headings": [c.heading for c in shown],
        "meanings": [c.meaning for c in shown],
        "text": [i for i, c in enumerate(shown) if c.form == "s" and c.field in ("method", "solver")],
        "rows": rows,
        "best": best_cells(rows, [c.better for c in shown], estimators(result, level)),
        "remarks": [(r.row.name, text) for r in runs for text in (r.row.reason, *r.row.notes) if text],
        "pictures": pictures,
    }


def _write_tables(result: StudyResult, level: Level, folder: Path) -> None:
    """The main columns of one level for papers, the best estimate of each in bold."""
    shown = [c for c in columns(result) if c.brief]
    rows = table(result, level, shown)
    kept = filled(rows)
    shown, rows = [shown[c] for c in kept], [[row[c] for c in kept] for row in rows]
    bold = best_cells(rows, [c.better for c in shown], estimators(result, level))
    caption = f"{result.config.name}: influence of {NOUNS[level]}s."
    write_tables(folder, level, [c.heading for c in shown], rows, bold, caption)


def _exhibit(result: StudyResult, level: Level, folder: Path) -> dict[str, Any] | None:
    """The items at both ends of one level, as the page wants them."""
    shown = exhibit(result, level)
    if shown is None:
        return None
    truth = result.evaluations[level].truth
    remark = "" if truth is None else ", the estimator that ranks most like exact retraining"
    pictures = [_picture(name, figure, folder, level) for name, figure in shown.figures.items()]
    title = f"{NOUNS[level].capitalize()}s"
    return {"title": title, "judge": shown.judge, "remark": remark, "pictures": pictures}


def _picture(name: str, figure: Figure, folder: Path, level: Level | None = None) -> dict[str, Any]:
    suffix = "" if level is None else f"-{level}"
    return picture(figure, *FIGURE_TEXT[name], folder / "figures" / f"{name}{suffix}.png")


def facts(result: StudyResult) -> list[tuple[str, str]]:
    """The study and its diagnostics, as pairs of what and how much."""
    d, e = result.diagnostics, result.diagnostics.extremes
    tasks = result.split.train
    said = [
        *(
            (f"{NOUNS[level]}s", f"{len(marks)}, {int(marks.sum())} of them corrupted")
            for level in result.evaluations
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
    for level, bench in result.evaluations.items():
        if bench.truth is not None:
            count = len(bench.truth.removals) + len(bench.truth.subsets)
            said.append((f"retrained without {NOUNS[level]}s", f"{count} times in {bench.truth.seconds:.3g} s of work"))
    return said
