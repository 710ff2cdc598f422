"""What a study found, in sentences."""

from __future__ import annotations

from metafluence.reports import findings, study_group
from metafluence.studies import CandidateScores, StudyResult
from metafluence.tasks import ITEM_NAMES


def verdict(result: StudyResult) -> list[str]:
    """What was found, in sentences."""
    sentences = findings(study_group(result))
    if result.config.damping is not None:
        sentences.append(_policy(result))
    sentences += [_added(found) for found in result.candidates.values()]
    if result.failed:
        sentences.append(f"{len(result.failed)} of {len(result.rows)} runs failed; the reasons stand below the table.")
    return sentences


def _added(found: CandidateScores) -> str:
    """How well methods know which candidates would help."""
    noun, count = ITEM_NAMES[found.level], found.tasks.items(found.level)
    if not found.scores:
        return f"No method scores the {noun} of the candidates: {next(iter(found.refused.values()), 'none was asked.')}"
    file = f"candidates-{found.level}.csv"
    said = f"{file} says what adding each of {count} {noun} of candidates would do, which were not trained on"
    if len(found.true) > 2:
        each = {name: found.agreement(name) for name in found.scores}
        ranks = ", ".join(
            f"{name} {one.value:.2f} ({one.low:.2f} to {one.high:.2f})"
            for name, one in sorted(each.items(), key=lambda pair: -pair[1].value)
        )
        helped = sum(value > 0 for value in found.true.values())
        said += f". {len(found.true)} of them were added exactly, which helps in {helped}. Spearman with that: {ranks}"
    unable = f". Not by {', '.join(found.refused)}: {next(iter(found.refused.values()))}" if found.refused else "."
    return f"{said}{unable} {found.complaint}".rstrip()


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
