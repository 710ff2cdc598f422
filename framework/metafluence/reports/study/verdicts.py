"""What a study found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metafluence.evaluation import Row
from metafluence.reports.study.figures import NOUNS
from metafluence.studies import StudyResult
from metafluence.tasks import Level


def verdict(result: StudyResult) -> list[str]:
    """What was found, in sentences."""
    said = [sentence for level in result.evaluations for sentence in _verdict(result, level)]
    if result.config.damping is not None:
        said.append(_policy(result))
    if result.failed:
        said.append(f"{len(result.failed)} of {len(result.rows)} runs failed; the reasons stand below the table.")
    return said


def _policy(result: StudyResult) -> str:
    """The rule by which dampings were chosen."""
    assert result.config.damping is not None
    bench = next(iter(result.evaluations.values()))
    of = ", ".join(f"{value:g}" for value in sorted(set(result.config.damping.values)))
    removed = " and ".join(f"{b.remove[0]} {NOUNS[level]}s" for level, b in result.evaluations.items())
    return (
        f"Every method that takes a damping and sets none was tried with each of {of}, and has the one whose "
        f"{removed} of lowest score, once removed, leave the retrained model the lowest loss on "
        f"{len(bench.selection or ())} validation tasks kept for this choice, which are no targets."
    )


def best_ranking(rows: Sequence[Row]) -> Row | None:
    """The one that ranks most like exact retraining, of equal ones the fastest; None where nothing is known."""
    ranked = [r for r in rows if not math.isnan(r.spearman)]
    return max(ranked, key=lambda r: (round(r.spearman, 3), -r.seconds)) if ranked else None


def front_said(front: Sequence[Row]) -> str:
    """Which estimators lie on the Pareto front, the fastest first."""
    return "On the front, the fastest first: " + ", ".join(row.name for row in front) + "." if front else ""


def _verdict(result: StudyResult, level: Level) -> list[str]:
    said, noun, bench = [], NOUNS[level], result.evaluations[level]
    scored = [run.row for run in result.at(level) if run.row.status == "ok" and not run.row.retrains]
    faithful = [r for r in scored if not math.isnan(r.change_error)]
    if faithful:
        best = min(faithful, key=lambda r: (round(r.change_error, 3), r.seconds))
        said.append(
            f"{best.name} predicts best what the model would be without a {noun}: the median error of its parameter "
            f"change is {100 * best.change_error:.1f} % of the true one."
        )
    best = best_ranking(scored)
    if best is not None and bench.truth is not None:
        other = f"; {bench.truth.ceiling.sentence}" if bench.truth.ceiling.sentence else ""
        said.append(
            f"{best.name} ranks {noun}s most like exact retraining (Spearman {best.spearman:.3f}{other}), all of "
            f"them in {best.seconds:.2g} s, where retraining without {len(bench.truth.removals)} single ones"
            f"{f' and {len(bench.truth.subsets)} subsets' if bench.truth.subsets else ''} took "
            f"{bench.truth.seconds:.3g} s."
        )
    found = [r for r in scored if not math.isnan(r.auroc)]
    if found:
        best, worst = max(found, key=lambda r: (r.auroc, -r.seconds)), min(found, key=lambda r: r.auroc)
        least = f", {worst.name} worst ({worst.auroc:.3f})" if best.auroc - worst.auroc > 0.005 else ""
        said.append(f"{best.name} finds the corrupted {noun}s best (AUROC {best.auroc:.3f}){least}.")
    edited = [r for r in scored if not math.isnan(r.loss_retrained)]
    if edited:
        best = min(edited, key=lambda r: (round(r.loss_retrained, 4), r.seconds))
        what, before, after = "loss", f"{result.full.loss:.4f}", f"{best.loss_retrained:.4f}"
        if not math.isnan(result.full.accuracy):
            what, before = "accuracy", f"{result.full.accuracy:.3f} (loss {before})"
            after = f"{best.accuracy_retrained:.3f} (loss {after})"
        said.append(
            f"With all {noun}s the test {what} is {before}; retrained without the {bench.remove[0]} that {best.name} "
            f"scores lowest it is {after}."
        )
    return said
