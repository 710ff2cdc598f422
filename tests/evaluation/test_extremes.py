"""What targets lose without the best items and gain without the worst, against replays by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metafluence as mf
from made_outcomes import made_group
from metafluence.evaluation import DRAWS, Row, bootstrap
from metafluence.evaluation.extremes import changes_without, ends
from metafluence.reports import extremes_table, groups
from metafluence.studies.outcomes import load_outcome, outcome, save_outcome
from metafluence.studies.variations import Variation
from refusals import refused
from small_studies import RUN, without_pictures

TRUTH = {**RUN["truth"], "extremes": [0.1, 0.25]}  # one task, and three


def run(folder: Path, **changes) -> mf.StudyResult:
    raw = {**RUN, "truth": TRUTH, "methods": ["run-influence", "loss"], **changes}
    return mf.Study(mf.parse_study(raw), mf.default_registry(), folder).run()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("extremes")
    return run(folder), folder


def test_the_ends_are_the_highest_scores_and_then_the_lowest():
    assert ends(torch.tensor([0.5, 3.0, -1.0, 2.0, 0.0]), (1, 2)) == [(1,), (1, 3), (2,), (2, 4)]
    assert ends(torch.zeros(4), (1,)) == [(3,), (0,)], "of equal scores the first are the lowest"


def test_changes_of_each_target_are_those_of_replays_by_hand(done):
    result, _ = done
    evaluation = result.evaluations["task"]
    each = mf.Targets(evaluation.problem, evaluation.validation, evaluation.meta, mean=False)
    for one in result.runs:
        order = one.scores.argsort()
        sets = [(int(order[-1]),), tuple(order[-3:].tolist()), (int(order[0]),), tuple(order[:3].tolist())]
        by_hand = mf.replayed(result.fit.run, sets, each).loss_change
        assert by_hand.shape == (4, 4)
        torch.testing.assert_close(one.extremes, by_hand, rtol=1e-9, atol=1e-13)
    best, worst = result.runs[0].extremes[1].mean(), result.runs[0].extremes[3].mean()
    assert float(best) > 0 > float(worst)


def test_random_sets_are_replays_too(done):
    result, _ = done
    evaluation = result.evaluations["task"]
    assert evaluation.without_random.shape == (2, DRAWS, 4)
    each = mf.Targets(evaluation.problem, evaluation.validation, evaluation.meta, mean=False)
    single = mf.replayed(result.fit.run, [(i,) for i in range(12)], each).loss_change
    apart = (evaluation.without_random[0].unsqueeze(1) - single).abs().amax(dim=2)
    assert float(apart.amin(dim=1).max()) < 1e-12, "each is one of the twelve"
    assert len(set(apart.argmin(dim=1).tolist())) > 5
    assert not torch.equal(evaluation.without_random[0], evaluation.without_random[1])


def test_they_are_stored_with_the_runs_and_kept_in_an_outcome(done, tmp_path):
    result, folder = done
    again = run(folder)
    assert again.reused == 2
    assert all(torch.equal(a.extremes, b.extremes) for a, b in zip(again.runs, result.runs, strict=True))
    other = run(folder, truth={**TRUTH, "extremes": 0.5})
    assert other.reused == 0, "other sizes are another question"
    assert other.runs[0].extremes.shape == (2, 4)
    raw = {**RUN, "truth": {"kind": "run"}}  # which does not name them, as before there were any
    key = mf.Study(mf.parse_study(raw), mf.default_registry(), tmp_path).preparation.run_key
    evaluation = result.evaluations["task"]
    assert key(evaluation) != key(replace(evaluation, extremes=())), "runs stored without them are made again"
    kept = outcome(Variation({}, result.config), result)
    file = tmp_path / f"{kept.id}.safetensors"
    save_outcome(file, kept)
    read = load_outcome(file)
    theirs, ours = read.sides["task"], kept.sides["task"]
    assert (theirs.extremes, theirs.without_random) == (ours.extremes, ours.without_random)
    assert ours.extremes == (1, 3)
    assert all(torch.equal(a.extremes, b.extremes) for a, b in zip(read.lines, result.runs, strict=True))


def test_a_mean_over_runs_and_other_truths_have_them_if_asked(tmp_path):
    procedure = {**TRUTH, "kind": "procedure", "seeds": 2, "subsets": 0, "extremes": [0.1]}
    result = run(tmp_path, truth=procedure, methods=["loss"], remove=0.1)
    evaluation = result.evaluations["task"]
    lowest = int(result.runs[0].scores.argmin())
    by_hand = []
    for one in evaluation.runs:
        each = mf.Targets(one.problem, one.validation, one.meta, mean=False)
        by_hand.append(mf.replayed(one.run, [(lowest,)], each).loss_change[0])
    torch.testing.assert_close(result.runs[0].extremes[1], torch.stack(by_hand).mean(dim=0), rtol=1e-9, atol=1e-13)


def test_what_cannot_be_made_is_unknown(done):
    result, _ = done
    evaluation = result.evaluations["task"]

    class Failing:
        def leave_out(self, removals, level, strict):
            metas = evaluation.meta.unsqueeze(1).repeat(1, len(removals))
            return mf.Retrained(metas, torch.tensor([True, False]), *torch.zeros(3, 2), ("", "no"))

    found = changes_without(replace(evaluation, bank=Failing()), [(0,), (1,)])
    assert float(found[0].abs().max()) < 1e-12
    assert bool(found[1].isnan().all())


def test_replays_ask_for_one_and_five_percent_and_other_truths_for_nothing():
    def asked(**truth) -> tuple[int, ...]:
        return mf.parse_study({**RUN, "truth": truth}).truth.ends(200)

    assert asked(kind="run") == (2, 10)
    assert asked(kind="run", extremes=[]) == ()
    assert asked() == ()
    assert asked(extremes=0.1) == (20,)
    assert mf.parse_study({**RUN, "truth": {"kind": "run"}}).truth.ends(20) == (1,), "each number once"
    with refused("truth.extremes.0 is 1.0, but a number above 0 and below 1"):
        mf.parse_study({**RUN, "truth": {"kind": "run", "extremes": [1.0]}})


# The table.

RANDOM = tuple(tuple((0.01 * draw, 0.02 * draw) for draw in range(DRAWS)) for _ in range(2))
"""Means of 0 to 0.27, of two targets."""


def made(*extremes, seeds: int = 1, label: str = ""):
    """A group of methods with these changes, [4, targets] or nothing; the same for every seed but None for the last."""
    rows = [Row(method=f"m{i}") for i in range(len(extremes))]
    group = made_group([rows] * seeds, label, extremes=(1, 3), without_random=RANDOM)
    outcomes = []
    for number, one in enumerate(group.outcomes):
        given = [e if number < seeds - 1 or seeds == 1 or i != 1 else None for i, e in enumerate(extremes)]
        lines = [
            replace(line, extremes=torch.empty(0) if e is None else torch.tensor(e, dtype=torch.float64))
            for line, e in zip(one.lines, given, strict=True)
        ]
        side = one.sides["task"]
        if number and number == seeds - 1:  # it is left out, as one method lacks it
            side = replace(side, without_random=(((9.0, 9.0),) * DRAWS,) * 2)
        outcomes.append(replace(one, sides={"task": side}, lines=tuple(lines)))
    (group,) = groups(outcomes)
    return group


STRONG = [[0.3, 0.5], [0.1, 0.2], [-0.1, -0.3], [0.0, -0.1]]
WEAK = [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1], [float("nan"), 0.0]]


def test_the_table_has_means_with_intervals_and_marks_what_no_random_set_does():
    table = extremes_table([made(STRONG)], "task")
    assert table.titles[1:] == [f"without the {end} {count}" for end in ("best", "worst") for count in (1, 3)]
    random, strong = table.rows
    middle = bootstrap(np.array(RANDOM[0]).mean(axis=0), np.mean)
    assert random[0] == f"random sets (mean of {DRAWS})"
    assert random[1] == random[3] == f"{middle.value:+.4f} ({middle.low:.4f} to {middle.high:.4f})"
    assert random[1].startswith("+0.1350 (0.0900 to 0.1800)")
    assert strong[1:] == (
        "+0.4000 (0.3000 to 0.5000)", "+0.1500 (0.1000 to 0.2000)",
        "-0.2000 (-0.3000 to -0.1000)", "-0.0500 (-0.1000 to 0.0000)",
    )  # fmt: skip
    assert table.best == {(1, 1), (1, 3), (1, 4)}
    assert f"without any of {DRAWS} random sets" in table.about
    assert extremes_table([made_group([[Row(method="m")]])], "task") is None


def test_seeds_are_pooled_where_all_methods_have_them_and_an_unknown_change_is_none():
    table = extremes_table([made(STRONG, STRONG, seeds=3)], "task")
    assert [row[1][:7] for row in table.rows] == ["+0.1350", "+0.4000", "+0.4000"]
    pooled = bootstrap(np.array([0.3, 0.5, 0.3, 0.5]), np.mean)  # not the third seed, which one method lacks
    assert table.rows[1][1] == f"{pooled.value:+.4f} ({pooled.low:.4f} to {pooled.high:.4f})"
    table = extremes_table([made(STRONG, WEAK, label="a"), made(STRONG, label="b")], "task")
    assert [row[0] for row in table.rows] == ["varied a"] * 3 + ["varied b"] * 2
    assert set(table.rows[2][2:]) == {"–"}


def test_the_page_and_its_tables_show_it(done, tmp_path):
    result, _ = done
    with without_pictures():
        page = mf.write_report(result, tmp_path).read_text()
    assert "<h4>Without the best and the worst</h4>" in page
    assert "Change of the mean validation loss after a replay of this run without the tasks" in page
    assert "without the best 3" in (tmp_path / "tables/task-best-and-worst.md").read_text()
