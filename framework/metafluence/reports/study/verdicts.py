"""What a study found, in sentences."""

from __future__ import annotations

from metafluence.reports import findings, study_group
from metafluence.studies import StudyResult
from metafluence.tasks import ITEM_NAMES


def verdict(result: StudyResult) -> list[str]:
    """What was found, in sentences."""
    sentences = findings(study_group(result))
    if result.config.damping is not None:
        sentences.append(_policy(result))
    if result.failed:
        sentences.append(f"{len(result.failed)} of {len(result.rows)} runs failed; the reasons stand below the table.")
    return sentences


def _policy(result: StudyResult) -> str:
    """The rule by which dampings were chosen."""
    assert result.config.damping is not None
    bench = next(iter(result.evaluations.values()))
    of = ", ".join(f"{value:g}" for value in sorted(set(result.config.damping.values)))
    again = study_group(result).words.again
    removed = " and ".join(f"{b.remove[0]} {ITEM_NAMES[level]}" for level, b in result.evaluations.items())
    return (
        f"Every method that takes a damping and sets none was tried with each of {of}, and has the one whose "
        f"{removed} of lowest score, once removed, leave the {again} model the lowest loss on "
        f"{len(bench.selection or ())} validation tasks kept for this choice, which are no targets."
    )
