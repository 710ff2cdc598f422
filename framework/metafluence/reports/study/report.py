"""The report of a study: one HTML page with its figures inside, tables for papers, and CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from metafluence.reports import (
    ITEM_NAMES,
    Group,
    caption,
    level_table,
    named,
    narrow_table,
    picture,
    study_group,
    write_page,
    write_tables,
)
from metafluence.reports.figures import draw_grid, draw_level, error_budget, exhibit, on_front, predicted_against_true
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
    group = study_group(result)
    reasons = {"inner-and-outer-solvers": refusals(result), "error-budget": budget_refusals(result)}
    pictures = [_picture(name, figure, folder) for name, figure in _overall(result).items()]
    config = result.config.model_dump(mode="json", exclude_defaults=True)
    return write_page(
        folder / "report.html",
        "report.html.j2",
        result=result,
        verdict=verdict(result),
        facts=facts(result),
        glossary=level_table([group], next(iter(result.benches))).headings,
        nouns=ITEM_NAMES,
        sections=[_section(result, group, level, folder) for level in result.benches],
        pictures=[{**p, "reasons": reasons.get(p["name"], [])} for p in pictures],
        exhibits=[shown for level in result.benches if (shown := _exhibit(result, level, folder)) is not None],
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        made_with=[(what, value) for what, value in versions().items() if value],
    )


def _section(result: StudyResult, group: Group, level: Level, folder: Path) -> dict[str, Any]:
    """One level's table and figures, as the page wants them; columns that say nothing are left out."""
    paper = narrow_table([group], level, "paper")
    about = f"{result.config.name}: influence of {ITEM_NAMES[level]}s."
    write_tables(folder / "tables", level, paper.titles, paper.rows, paper.best, about)
    predicted = predicted_against_true(result, level)
    figures = {} if predicted is None else {"predicted-against-true": predicted}
    figures |= draw_level([group], level)
    pictures = [_picture(name, figure, folder, level) for name, figure in figures.items()]
    for drawn in pictures:
        if drawn["name"].startswith("fidelity-against-runtime"):
            drawn["caption"] += " " + front_said([named(method) for method in on_front(group, level)])
    return {
        "title": f"{ITEM_NAMES[level].capitalize()}s",
        "table": level_table([group], level).only_filled(),
        "remarks": [(r.row.name, text) for r in result.at(level) for text in (r.row.reason, *r.row.notes) if text],
        "pictures": pictures,
    }


def _exhibit(result: StudyResult, level: Level, folder: Path) -> dict[str, Any] | None:
    """The items at both ends of one level, as the page wants them."""
    shown = exhibit(result, level)
    if shown is None:
        return None
    truth = result.benches[level].truth
    remark = "" if truth is None else ", the estimator that ranks most like exact retraining"
    pictures = [_picture(name, figure, folder, level) for name, figure in shown.figures.items()]
    title = f"{ITEM_NAMES[level].capitalize()}s"
    return {"title": title, "judge": shown.judge, "remark": remark, "pictures": pictures}


def _picture(name: str, figure: Figure, folder: Path, level: Level | None = None) -> dict[str, Any]:
    suffix = "" if level is None else f"-{level}"
    return picture(figure, *caption(name), folder / "figures" / f"{name}{suffix}.png")


def _overall(result: StudyResult) -> dict[str, Figure]:
    """The figures of the error budget and of the grid of solvers, by name."""
    budget = error_budget(result.budgets)
    return {**({} if budget is None else {"error-budget": budget}), **draw_grid(result.grid)}


def facts(result: StudyResult) -> list[tuple[str, str]]:
    """The study and its diagnostics, as pairs of what and how much."""
    d, e = result.diagnostics, result.diagnostics.extremes
    tasks = result.split.train
    said = [
        *(
            (f"{ITEM_NAMES[level]}s", f"{len(marks)}, {int(marks.sum())} of them corrupted")
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
            said.append(
                (f"retrained without {ITEM_NAMES[level]}s", f"{count} times in {bench.truth.seconds:.3g} s of work")
            )
    return said
