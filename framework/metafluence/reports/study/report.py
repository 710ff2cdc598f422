"""The report of a study: one HTML page with its figures inside, tables for papers, and CSV files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from metafluence.registry import write_yaml
from metafluence.reports import (
    BOLD,
    Attempts,
    Group,
    Notice,
    caption,
    shared_part,
    study_group,
    write_csv,
    write_page,
    write_results,
)
from metafluence.reports.figures import error_budget, exhibit, grid_figures, predicted_against_true, trust_figure
from metafluence.reports.study.score_files import candidate_frame, score_frame
from metafluence.reports.study.section import level_section
from metafluence.reports.study.verdicts import verdict
from metafluence.runtime import versions, warn
from metafluence.sentences import alike
from metafluence.studies import StudyResult
from metafluence.tasks import ITEM_NAMES, Level


def refusals(result: StudyResult) -> list[tuple[str, str]]:
    """Pairs of solvers that failed and why; pairs with one reason stand together."""
    by_reason: dict[str, list[str]] = {}
    for c in result.grid:
        if c.status != "ok":
            by_reason.setdefault(c.reason, []).append(f"{c.inner} × {c.outer}")
    return [(", ".join(pairs), reason) for reason, pairs in by_reason.items()]


def budget_refusals(result: StudyResult) -> list[tuple[str, str]]:
    """Error budgets that failed and why; reasons that differ in numbers alone stand together."""
    failed = [(b.reason, f"{b.method} {b.solver}, {b.level}") for b in result.budgets if b.status != "ok"]
    return [("; ".join(who), reason) for reason, who in alike(failed)]


def write_report(result: StudyResult, folder: str | Path, notice: Notice = warn) -> Path:
    """Write report.html, results.csv and .parquet, scores.parquet, results.json, scores-LEVEL.csv with all items by
    name, tables/LEVEL.tex and .md, figures/*.png, and candidates-LEVEL.csv, grid.csv and budget.csv if any.

    Args:
        result: Of the study.
        folder: Where to write.
        notice: Told in a sentence of each part that could not be made; the page says so too, and holds the rest.

    Returns:
        The page's path.
    """
    folder, attempts, group = Path(folder), Attempts(notice), study_group(result)
    write_results(folder, group.outcomes, attempts)
    for level in result.evaluations:
        attempts.make(f"scores-{level}.csv", partial(_write_scores, result, level, folder), None)
    for level, found in result.candidates.items():
        write = partial(write_csv, folder / f"candidates-{level}.csv", candidate_frame(found))
        attempts.make(f"candidates-{level}.csv", write, None)
    for name, parts in {"grid": result.grid, "budget": result.budgets}.items():
        if parts:
            lines = pd.DataFrame([part.facts() for part in parts])
            attempts.make(f"{name}.csv", partial(write_csv, folder / f"{name}.csv", lines), None)
    sections = [_section(result, group, level, folder, attempts) for level in result.evaluations]
    exhibits = [_exhibit(result, level, folder, attempts) for level in result.evaluations]
    config = result.config.model_dump(mode="json", exclude_defaults=True)
    return write_page(
        folder / "report.html",
        "report.html.j2",
        result=result,
        warnings=[text for text, _ in alike((text, "") for text in result.warnings)],
        verdict=attempts.make("The verdict", lambda: verdict(result), []),
        facts=facts(result),
        glossary=sections[0]["tables"][0].headings if sections[0]["tables"] else (),
        nouns=ITEM_NAMES,
        bold=BOLD,
        sections=sections,
        pictures=_overall(result, folder, attempts),
        exhibits=[shown for shown in exhibits if shown is not None],
        config=write_yaml(config),
        made_with=[(what, value) for what, value in versions().items() if value],
        notices=attempts.notices,
    )


def _write_scores(result: StudyResult, level: Level, folder: Path) -> None:
    write_csv(folder / f"scores-{level}.csv", score_frame(result, level))


def _section(result: StudyResult, group: Group, level: Level, folder: Path, attempts: Attempts) -> dict[str, Any]:
    """One level's table and figures, as the page wants them."""
    first = {
        "trust-in-the-run": partial(trust_figure, result.certificates, level),
        "predicted-against-true": partial(predicted_against_true, result, level),
    }
    told = alike((text, r.row.name) for r in result.at(level) for text in (r.row.reason, *r.row.notes) if text)
    remarks = [(", ".join(dict.fromkeys(who)), text) for text, who in told]
    return {**level_section(result.config.name, [group], level, folder, attempts, first), "remarks": remarks}


def _exhibit(result: StudyResult, level: Level, folder: Path, attempts: Attempts) -> dict[str, Any] | None:
    """The items at both ends of one level, as the page wants them."""
    noun = ITEM_NAMES[level]
    shown = attempts.make(f"The pictures of {noun}", lambda: exhibit(result, level), None)
    if shown is None:
        return None
    truth = result.evaluations[level].truth
    words = study_group(result).words
    ranked = truth is not None and truth.reliability.usable
    remark = f", whose Spearman with {words.name} is the largest" if ranked else ""
    pictures = [
        attempts.picture(
            lambda figure=figure: figure, *caption(name, words), folder / "figures" / f"{name}-{level}.png"
        )
        for name, figure in shown.figures.items()
    ]
    drawn = [picture for picture in pictures if picture is not None]
    return {"title": noun.capitalize(), "judge": shown.judge, "remark": remark, "pictures": drawn}


def _overall(result: StudyResult, folder: Path, attempts: Attempts) -> list[dict[str, Any]]:
    """The figures of the error budget and of the grid of solvers, as the page wants them."""
    reasons = {"inner-and-outer-solvers": refusals(result), "error-budget": budget_refusals(result)}
    figures = {"error-budget": partial(error_budget, result.budgets), **grid_figures(result.grid)}
    words = study_group(result).words
    drawn = {
        name: attempts.picture(draw, *caption(name, words), folder / "figures" / f"{name}.png")
        for name, draw in figures.items()
    }
    return [{**picture, "reasons": reasons.get(name, [])} for name, picture in drawn.items() if picture is not None]


def _of_the_minimum(result: StudyResult) -> list[tuple[str, str]]:
    """What is known of the fit as a minimum."""
    if result.diagnostics is None:
        return [("‖∇F‖ at the end", f"{result.fit.gradient_norm:.1e}")]
    d, e = result.diagnostics, result.diagnostics.extremes
    return [
        ("‖∇F‖ at λ*", f"{d.gradient_norm:.1e} (largest task gradient {d.task_gradient:.1e})"),
        ("inner stationarity", d.adaptation),
        *([] if d.unrolled else [("inner solves", f"largest relative residual {d.inner_residual:.0e}")]),
        (
            "eigenvalues of δI + H",
            f"{e.smallest:.3g} (± {e.smallest_error:.0e}) to {e.largest:.4g} (± {e.largest_error:.0e})",
        ),
    ]


def facts(result: StudyResult) -> list[tuple[str, str]]:
    """The study and its diagnostics, as pairs of what and how much."""
    tasks = result.split.train
    group = study_group(result)
    said = [
        *(
            (ITEM_NAMES[level], f"{len(marks)}, {int(marks.sum())} of them corrupted")
            for level in result.evaluations
            for marks in [tasks.corrupted_items(level)]
        ),
        ("meta-parameters", f"{result.fit.meta.numel()}"),
        *_of_the_minimum(result),
    ]
    for level, bench in result.evaluations.items():
        if bench.truth is not None:
            count = (len(bench.truth.removals) + len(bench.truth.subsets)) * len(bench.runs)
            noun, seconds = ITEM_NAMES[level], f"{count} times in {bench.truth.seconds:.3g} s of work"
            said.append((f"{group.words.again} without {noun}", seconds))
            shared = shared_part([one.sides[level] for one in group.outcomes], noun)
            said += [(f"sets of {noun}", shared)] if shared else []
    return said
