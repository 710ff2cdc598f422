"""The tables of several variations: means over seeds with their 95 % intervals, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metafluence.aggregation import Group, Mean, Method, lines, mean, methods, runtime_ratios, values
from metafluence.tables import NOTHING
from metafluence.tasks import Level
from metafluence.variations import Published


@dataclass(frozen=True)
class Table:
    """A title, headings with their meanings, and rows of text as long as the headings."""

    title: str
    headings: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]


FIDELITY = (
    ("change_error", "Δλ error", "%", "median ‖predicted − true Δλ‖ / ‖true Δλ‖, one item left out"),
    ("spearman", "Spearman", ".3f", "of scores and exactly retrained changes of the validation loss"),
    ("lds", "LDS", ".3f", "linear datamodeling score: Spearman over removed random subsets"),
    ("auroc", "AUROC", ".3f", "of finding the corrupted items"),
    ("found", "found", "%", "share of the corrupted items among those removed"),
)
CLASSES = (
    ("accuracy_edited", "acc. edited", ".4f", "test accuracy at λ* + predicted Δλ of removing the lowest scored"),
    ("accuracy_retrained", "acc. retrained", ".4f", "test accuracy, retrained without the same items"),
)
REALS = (
    ("loss_edited", "loss edited", ".4f", "test loss at λ* + predicted Δλ of removing the lowest scored"),
    ("loss_retrained", "loss retrained", ".4f", "test loss, retrained without the same items"),
)
COSTS = (("seconds", "seconds", ".3g", "to score all items"),)
GAP = ("edit − retrained", "mean difference of the two columns before it, seed by seed")
RATIO = ("of a fit", "seconds to score all items and to edit λ*, to those of one fit from scratch in the same run")


def level_table(groups: Sequence[Group], level: Level) -> Table:
    """All methods of all groups at one level, after two lines of what they are to be measured by."""
    real = groups[0].outcomes[0].real
    quality = REALS if real else CLASSES
    first = [("variation", "what is varied, but for the seed")] if len(groups) > 1 else []
    headings = [*first, ("method", "the estimator"), ("solver", "how it inverts the Hessian")]
    headings += [(heading, meaning) for _, heading, _, meaning in (*FIDELITY, *quality)]
    headings += [GAP, *((heading, meaning) for _, heading, _, meaning in COSTS), RATIO]
    rows = []
    for group in groups:
        start = [group.label] if len(groups) > 1 else []
        rows += [[*start, *line] for line in _measures(group, level, real, len(headings) - len(start))]
        for method in methods(group, level):
            line = [_name(group, level, method), method[1]]
            line += [_cell(group, level, method, field, form) for field, _, form, _ in (*FIDELITY, *quality)]
            line += [mean(gaps(group, level, method)).text("+.4f")]
            line += [_cell(group, level, method, field, form) for field, _, form, _ in COSTS]
            rows.append([*start, *line, mean(runtime_ratios(group, level, method)).text(".3g")])
    return Table(f"{level} level", tuple(headings), tuple(tuple(row) for row in rows))


def brief_table(groups: Sequence[Group], level: Level) -> Table:
    """The columns of `level_table` that fit into a terminal."""
    whole = level_table(groups, level)
    wanted = {"variation", "method", "solver", "Spearman", "AUROC", *(heading for _, heading, *_ in (*CLASSES, *REALS))}
    kept = [i for i, (heading, _) in enumerate(whole.headings) if heading in wanted | {RATIO[0]}]
    rows = tuple(tuple(row[i] for i in kept) for row in whole.rows)
    return Table(whole.title, tuple(whole.headings[i] for i in kept), rows)


def gaps(group: Group, level: Level, method: Method) -> list[float]:
    """Test accuracy (loss, for real targets) at the edited λ less that after retraining, one a seed."""
    what = "loss" if group.outcomes[0].real else "accuracy"
    edited, retrained = (values(group, level, method, f"{what}_{how}") for how in ("edited", "retrained"))
    return [e - r for e, r in zip(edited, retrained, strict=True)]


def published_table(published: Published, group: Group, level: Level) -> Table:
    """Published accuracies and times beside ours, for the methods that both have."""
    headings = (
        ("method", "the estimator; retrain is retraining without exactly the corrupted items"),
        ("published acc.", f"test accuracy after removal, {published.source}"),
        ("acc. edited", "ours, at λ* + predicted Δλ"),
        ("acc. retrained", "ours, retrained without the same items"),
        ("published time", "seconds, to those of the published retraining"),
        ("time", "ours: seconds to score all items and to edit λ*, to those of one fit from scratch in the same run"),
    )
    base = published.rows.get("retrain", {}).get("seconds")
    rows = []
    for name, stated in published.rows.items():
        ratio = stated["seconds"] / base if base and "seconds" in stated else float("nan")
        theirs = [_plain(stated.get("accuracy"), ".4f"), _plain(ratio, ".3g")]
        if name == "retrain":
            clean = mean(one.sides[level].clean.accuracy for one in group.outcomes).text(".4f")
            rows.append((name, theirs[0], NOTHING, clean, theirs[1], "1"))
            continue
        known = [method for method in methods(group, level) if method[0] == name]
        for method in known[:1]:
            ours = [_cell(group, level, method, f"accuracy_{how}", ".4f") for how in ("edited", "retrained")]
            time = mean(runtime_ratios(group, level, method)).text(".3g")
            rows.append((name, theirs[0], *ours, theirs[1], time))
    title = ", ".join(part for part in (f"Beside {published.source}", group.label) if part)
    return Table(title, headings, tuple(rows))


def _measures(group: Group, level: Level, real: bool, width: int) -> list[list[str]]:
    """What test quality is without removing anything, and without exactly the corrupted."""
    what = "loss" if real else "accuracy"
    rows = []
    for name, found in (
        ("all items", [getattr(one.full, what) for one in group.outcomes]),
        ("without the corrupted", [getattr(one.sides[level].clean, what) for one in group.outcomes]),
    ):
        line = [name, *[NOTHING] * (width - 1)]
        line[1] = ""
        line[2 + len(FIDELITY) + 1] = mean(found).text(".4f")
        if name != "all items":
            line[-1] = "1"
        rows.append(line)
    return rows


def _name(group: Group, level: Level, method: Method) -> str:
    failed = sum(line.row.status != "ok" for _, line in lines(group, level, method))
    return f"{method[0]} ({failed} failed)" if failed else method[0]


def _cell(group: Group, level: Level, method: Method, field: str, form: str) -> str:
    found: Mean = mean(values(group, level, method, field))
    return found.text(".1f", 100, " %") if form == "%" else found.text(form)


def _plain(value: float | None, form: str) -> str:
    return NOTHING if value is None or value != value else format(value, form)  # noqa: PLR0124
