"""Methods and solvers over all variations: ranks counted by hand, paired tests by scipy, no winner inside the noise."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata, ttest_rel

from made_outcomes import made_group
from metafluence.evaluation import Number, Row, holm
from metafluence.evaluation.tallies import Tally, tallies
from metafluence.reports.comparison.ranking import marginals, ranking_findings, ranking_table, rankings

SEEDS, NOISE = 5, np.random.default_rng(0)
WOBBLE = 0.01 * NOISE.standard_normal((4, 2, SEEDS))


def row(method: str, value: float, solver: str = "", **more) -> Row:
    return Row(method=method, solver=solver, spearman=value, seconds=1.0, **more)


def variations(*levels: float, solver: str = "", seeds: int = SEEDS):
    """Two variations in which the methods a, b, ... have these Spearman correlations, with a little noise."""
    return [
        made_group(
            [
                [
                    *(
                        row(name, at + WOBBLE[m, v, s], solver)
                        for m, (name, at) in enumerate(zip("abcd"[: len(levels)], levels, strict=True))
                    ),
                    row("random", 0.99),
                    row("retrain", 1.0, retrains=True),
                ]
                for s in range(seeds)
            ],
            f"{v}",
        )
        for v in range(2)
    ]


def test_tallies_are_paired_tests_corrected_for_all_pairs():
    values = np.array([[0.9, 0.8, 0.95, 0.85], [0.5, 0.42, 0.56, 0.44], [0.52, 0.4, 0.5, 0.47]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    p = holm([ttest_rel(values[i], values[j]).pvalue for i, j in pairs])
    assert (p[:2] < 0.05).all()
    assert p[2] > 0.05
    assert tallies(values) == [Tally(2, 0, 0), Tally(0, 1, 1), Tally(0, 1, 1)]
    assert tallies(values, larger_is_better=False) == [Tally(0, 0, 2), Tally(1, 1, 0), Tally(1, 1, 0)]
    assert tallies(values[:, :2]) is None


def test_holm_keeps_a_difference_that_one_test_alone_would_call_one():
    base = np.linspace(0, 1, 6)
    values = np.stack([base, base + np.array([0.1, 0.3, 0.02, 0.25, -0.03, 0.2]), base + 1e-9 * base, base - 1e-9])
    alone = ttest_rel(values[1], values[0]).pvalue
    assert 0.05 / 3 < alone < 0.05
    told = tallies(values)
    assert told is not None
    assert told[1].ahead == 0


def test_mean_ranks_and_means_are_over_variations_and_seeds():
    (found,) = [one for one in rankings(variations(0.5, 0.8, 0.2), "task") if one.column.field == "spearman"]
    assert (found.variations, found.seeds) == (2, SEEDS)
    assert [place.name[0] for place in found.places] == ["b", "a", "c"], "neither random nor retraining is ranked"
    known = np.array([at + WOBBLE[m] for m, at in enumerate((0.5, 0.8, 0.2))])
    ranks = rankdata(-known, axis=0).mean(axis=(1, 2))
    for place, m in zip(found.places, (1, 0, 2), strict=True):
        assert place.rank == pytest.approx(ranks[m])
        assert place.mean.value == pytest.approx(known[m].mean())
        np.testing.assert_allclose(place.mean.values, known[m].mean(axis=0))
    assert [place.tally for place in found.places] == [Tally(2, 0, 0), Tally(1, 0, 1), Tally(0, 0, 2)]


def test_a_variation_that_turns_the_order_round_leaves_no_winner():
    first, second = variations(0.5, 0.8)[0], variations(0.8, 0.5)[1]
    (found,) = rankings([first, second], "task")
    assert {place.rank for place in found.places} == {1.5}
    assert {place.tally for place in found.places} == {Tally(0, 1, 0)}
    (said,) = ranking_findings([first, second], "task")
    assert said == "By Spearman, no estimator can be told apart from another, over 2 variations and 5 seeds."


def test_sentences_name_who_is_ahead_and_of_whom():
    (said,) = ranking_findings(variations(0.5, 0.8, 0.2), "task")
    assert said == "By Spearman, b is ahead of all others, over 2 variations and 5 seeds."
    (tied,) = ranking_findings(variations(0.8, 0.8, 0.2), "task")
    assert "a and b cannot be told apart: none is behind another" in tied.replace("b and a", "a and b")
    (chance,) = ranking_findings(variations(-0.1, -0.2), "task")
    assert chance == "By Spearman, no estimator is better than chance, over 2 variations and 5 seeds."


def test_two_seeds_name_no_winner():
    groups = variations(0.5, 0.8, seeds=2)
    (found,) = rankings(groups, "task")
    assert all(place.tally is None for place in found.places)
    (said,) = ranking_findings(groups, "task")
    assert said == (
        "By Spearman, mean ranks are from 1.0 (b) to 2.0 (a) of 2, over 2 variations and 2 seeds; "
        "fewer than 3 common seeds name no winner."
    )
    table = ranking_table([found], "ranked")
    assert table is not None
    assert not table.best
    assert "ahead of" not in table.titles, "a column without a test is left out"
    assert "nothing is tested" in table.about


def test_only_seeds_that_all_methods_have_everywhere_count():
    one, two = variations(0.5, 0.8)
    first, *rest = two.outcomes
    failed = replace(first.lines[0], row=Row(method="a", status="failed", reason="x"))
    two = replace(two, outcomes=(replace(first, lines=(failed, *first.lines[1:])), *rest))
    (found,) = rankings([one, two], "task")
    assert found.seeds == SEEDS - 1
    assert len(found.places) == 2
    shifted = replace(two, outcomes=tuple(replace(o, seed=o.seed + 100) for o in two.outcomes))
    assert rankings([one, shifted], "task") == [], "no seed is common"


def solvers(gap: float):
    both = [variations(0.5, 0.8, solver="cg"), variations(0.5 - gap, 0.8 - gap, solver="exact")]
    return [
        replace(
            a,
            outcomes=tuple(
                replace(x, lines=(*x.lines, *y.lines[:2])) for x, y in zip(a.outcomes, b.outcomes, strict=True)
            ),
        )
        for a, b in zip(*both, strict=True)
    ]


def test_solvers_and_methods_apart():
    by_solver, by_method = marginals(solvers(0.1), "task")
    assert [place.name for place in by_solver.places] == [("", "cg"), ("", "exact")]
    assert [place.name for place in by_method.places] == [("b", ""), ("a", "")]
    assert by_solver.places[0].mean.value == pytest.approx(0.65 + WOBBLE[:2].mean())
    assert by_method.places[0].mean.value == pytest.approx(0.75 + WOBBLE[1].mean())
    assert {place.tally for place in by_solver.places} == {Tally(1, 0, 0), Tally(0, 0, 1)}
    same, _ = marginals(solvers(0.0), "task")
    assert {place.tally for place in same.places} == {Tally(0, 1, 0)}
    assert marginals(variations(0.5, 0.8, solver="cg"), "task") == [], "one solver alone"


def with_auroc(line):
    return replace(line, row=replace(line.row, auroc=line.row.spearman))


def test_a_metric_of_the_study_ranks_where_it_says_what_is_better():
    groups = [
        replace(
            group,
            outcomes=tuple(
                replace(
                    one,
                    numbers={"metric.tail.worst": Number("worst", better="low"), "metric.tail.odd": Number("odd")},
                    lines=tuple(
                        replace(line, row=replace(line.row, metrics={"tail.worst": line.row.spearman, "tail.odd": 1.0}))
                        for line in one.lines
                    ),
                )
                for one in group.outcomes
            ),
        )
        for group in variations(0.5, 0.8)
    ]
    spearman, worst = rankings(groups, "task")
    assert [place.name[0] for place in spearman.places] == ["b", "a"]
    assert worst.column.field == "metric.tail.worst"
    assert [place.name[0] for place in worst.places] == ["a", "b"]
    same = [
        replace(group, outcomes=tuple(replace(one, lines=tuple(map(with_auroc, one.lines))) for one in group.outcomes))
        for group in variations(0.5, 0.8, 0.6)
    ]
    (said,) = ranking_findings(same, "task")
    assert said.startswith("By Spearman and AUROC, b is ahead of all others")
