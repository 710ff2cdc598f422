"""Winners and ties: what is named best is better by a paired test, and sentences say no more than was seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, t
from sklearn.metrics import roc_auc_score

from made_outcomes import made_group
from metafluence.evaluation import Row
from metafluence.reports.columns import known_columns
from metafluence.reports.groups import Group, mean
from metafluence.reports.verdict import findings
from metafluence.reports.winners import rank

COLUMN = known_columns()
A, B, C = ("a", ""), ("b", ""), ("c", "")


def seeds(field: str, **values: list[float]) -> Group:
    """A group in which each method has these values, one a seed; NaN is a run that failed."""
    count = len(next(iter(values.values())))
    return made_group([[_row(name, field, some[i]) for name, some in values.items()] for i in range(count)])


def _row(name: str, field: str, value: float) -> Row:
    if np.isnan(value):
        return Row(method=name, status="failed", reason="x")
    return replace(Row(method=name, retrains=name == "retrain", seconds=1.0), **{field: value})


def test_a_winner_leads_by_a_paired_test():
    """The methods vary from seed to seed far more than they differ: pairs tell them apart, means do not."""
    a, b = [0.5, 0.7, 0.9, 0.6], [0.48, 0.67, 0.88, 0.57]
    found = rank(seeds("spearman", b=b, a=a), "task", COLUMN["spearman"])
    assert (found.order, found.best, found.behind) == ((A, B), (A,), B)
    d = np.array(a) - b
    half = t.ppf(0.975, 3) * d.std(ddof=1) / 2
    assert (found.lead.value, found.lead.low, found.lead.high) == pytest.approx(
        (d.mean(), d.mean() - half, d.mean() + half)
    )
    (sentence,) = findings(seeds("spearman", b=b, a=a))[:1]
    assert sentence.startswith("a ranks tasks most like exact retraining (Spearman 0.675 ±")
    assert f"ahead of b by {d.mean():.3f} ({d.mean() - half:.3f} to {d.mean() + half:.3f})." in sentence


def test_who_cannot_be_told_apart_is_named_as_tied():
    a, b, c = [0.9, 0.7, 0.8], [0.6, 0.9, 0.7], [0.1, -0.1, 0.05]
    group = seeds("spearman", a=a, b=b, c=c)
    found = rank(group, "task", COLUMN["spearman"])
    assert found.best == (A, B)
    assert found.behind == C
    sentence = findings(group)[0]
    assert sentence.startswith("a and b cannot be told apart in ranking tasks like exact retraining (Spearman 0.800")
    assert "a is ahead of c by" in sentence
    same = findings(seeds("auroc", exact=[0.913] * 3, cg=[0.913] * 3, chebyshev=[0.913] * 3))[0]
    assert same.startswith(
        "exact, cg and chebyshev cannot be told apart in finding the corrupted tasks (AUROC 0.913 ± 0.000"
    )


def test_small_values_win_where_they_are_better():
    found = rank(seeds("change_error", a=[0.5, 0.6, 0.55], b=[0.2, 0.25, 0.22]), "task", COLUMN["change_error"])
    assert (found.order, found.best) == ((B, A), (B,))
    assert found.lead.value == pytest.approx(np.mean([0.3, 0.35, 0.33]))
    sentence = findings(seeds("change_error", a=[0.5, 0.6, 0.55], b=[0.2, 0.25, 0.22]))[0]
    assert (
        "b predicts best what the model would be after exact retraining without single tasks (median error of Δλ 22.3 ±"
        in sentence
    )
    assert "ahead of a by 32.7 % (" in sentence


@pytest.mark.parametrize(
    ("field", "values", "word"),
    [
        ("auroc", [0.4, 0.5, 0.45], "No estimator does better than chance in finding the corrupted tasks (the best, b"),
        ("spearman", [-0.2, 0.0, -0.1], "No estimator does better than chance in ranking tasks"),
        ("change_error", [1.2, 1.1, 1.3], "No estimator is better than predicting no change"),
        ("auroc", [0.5, 0.5, 0.5], "No estimator does better than chance in finding the corrupted tasks (the best, b"),
    ],
)
def test_nothing_at_chance_is_called_best(field, values, word):
    other = [v + (0.3 if field == "change_error" else -0.2) for v in values]
    group = seeds(field, a=other, b=values)
    assert rank(group, "task", COLUMN[field]).chance
    sentence = findings(group)[0]
    assert sentence.startswith(word)
    assert "best (" not in sentence


def test_a_tie_names_none_that_is_at_chance():
    found = rank(seeds("auroc", a=[0.9, 0.3, 0.6], b=[0.3, 0.6, 0.5]), "task", COLUMN["auroc"])
    assert found.best == (A,)
    assert found.behind is None


def test_removal_that_does_not_improve_the_model_is_not_praised():
    group = seeds("accuracy_retrained", a=[0.7, 0.75, 0.72], b=[0.6, 0.65, 0.62])
    (sentence,) = [s for s in findings(group) if s.startswith("With all tasks the test accuracy is 0.800 ± 0.000")]
    assert "Removing the tasks that an estimator scores lowest does not improve the model (the best, a:" in sentence
    better = seeds("accuracy_retrained", a=[0.85, 0.9, 0.87], b=[0.81, 0.85, 0.82])
    assert any("a finds the tasks whose removal helps most" in s for s in findings(better))


def test_means_are_compared_on_the_same_seeds_alone():
    """b lost the seed on which all do badly: over its own seeds its mean is the larger one."""
    a, b = [0.1, 0.9, 0.8, 0.85], [np.nan, 0.8, 0.7, 0.77]
    group = seeds("spearman", a=a, b=b)
    found = rank(group, "task", COLUMN["spearman"])
    assert (found.order, found.best) == ((A, B), (A,))
    assert found.means[A].values == (0.9, 0.8, 0.85)
    assert "over the 3 of 4 seeds that all have" in findings(group)[0]


def test_a_method_that_shares_no_seed_is_left_out():
    found = rank(seeds("spearman", a=[0.9, 0.8, np.nan], b=[0.7, 0.6, np.nan], c=[np.nan, np.nan, 1.0]), "task",
                 COLUMN["spearman"])  # fmt: skip
    assert found.order == (A, B)


def test_two_seeds_without_items_name_no_winner():
    group = seeds("accuracy_retrained", a=[0.9, 0.95], b=[0.85, 0.9])
    assert rank(group, "task", COLUMN["accuracy_retrained"]).best == ()
    sentence = findings(group)[0]
    assert "from 0.9000, 0.9500 (a) to 0.8500, 0.9000 (b) over 2 seeds; 2 seeds name no winner." in sentence
    assert "±" not in sentence


def test_one_estimator_is_not_the_best_of_itself_and_baselines_are_none():
    group = seeds("spearman", a=[0.9, 0.8, 0.7], random=[0.95, 0.9, 0.8], retrain=[1.0, 1.0, 1.0])
    sentence = findings(group)[0]
    assert sentence.startswith(
        "Ranking tasks like exact retraining, a has Spearman 0.800 (0.552 to 1.000) over 3 seeds"
    )


def test_sizes_of_gaps_are_compared_and_not_their_signs():
    rows = [
        [Row(method="a", accuracy_edited=0.8 + s * 0.01, accuracy_retrained=0.8, seconds=1.0, edit_seconds=0.5),
         Row(method="b", accuracy_edited=0.7 + s * 0.01, accuracy_retrained=0.8, seconds=1.0, edit_seconds=0.5)]
        for s in (-1, 1.1, -1.2)
    ]  # fmt: skip
    group = made_group(rows)
    found = rank(group, "task", COLUMN["gap"], size=True)
    assert (found.order[0], found.means[A].value) == (A, pytest.approx(0.011))
    sentence = next(s for s in findings(group) if "comes nearest by its edit" in s)
    assert "difference in test accuracy 0.0110 ± 0.0025 over 3 seeds" in sentence
    assert "It takes 0.75 of one fit's time" in sentence


# --- pairs of items, where there are fewer than three seeds


def items(scores: dict[str, list[float]], truth: list[float], marks: list[bool]) -> Group:
    rows = [Row(method=name, spearman=float(spearmanr(s, truth)[0]), auroc=roc_auc_score(marks, -np.array(s)))
            for name, s in scores.items()]  # fmt: skip
    group = made_group([rows], marks=tuple(marks), left_out=tuple(range(len(truth))), loss_change=tuple(truth))
    (one,) = group.outcomes
    lines = tuple(replace(line, scores=torch.tensor(scores[line.row.method]).double()) for line in one.lines)
    return replace(group, outcomes=(replace(one, lines=lines),))


def test_of_one_seed_items_are_drawn_anew_in_pairs():
    generator = np.random.default_rng(3)
    truth = generator.normal(size=40)
    good, twin, bad = (truth + s * generator.normal(size=40) for s in (0.1, 0.1, 2.0))
    marks = (truth < -0.5).tolist()
    group = items({"bad": bad.tolist(), "good": good.tolist(), "twin": twin.tolist()}, truth.tolist(), marks)
    for field in ("spearman", "auroc"):
        found = rank(group, "task", COLUMN[field])
        assert set(found.best) == {("good", ""), ("twin", "")}
        assert found.behind == ("bad", "")
        assert 0 < found.lead.low < found.lead.value < found.lead.high
    found = rank(group, "task", COLUMN["spearman"])
    gaps = [spearmanr(one, truth)[0] - spearmanr(bad, truth)[0] for one in (good, twin)]
    assert found.lead.value == pytest.approx(max(gaps))
    assert "cannot be told apart in ranking tasks" in findings(group)[0]


def test_scores_are_compared_with_the_truth_of_their_own_items():
    """Only some items were left out, and not the first ones."""
    truth = np.random.default_rng(3).normal(size=60)
    good = np.concatenate([np.full(20, 9.0), truth[20:]])
    group = items({"bad": (-truth).tolist(), "good": good.tolist()}, truth.tolist(), (truth < 0).tolist())
    (one,) = group.outcomes
    side = replace(one.sides["task"], left_out=tuple(range(20, 60)), loss_change=tuple(truth[20:]))
    found = rank(replace(group, outcomes=(replace(one, sides={"task": side}),)), "task", COLUMN["spearman"])
    assert found.lead.value == pytest.approx(2.0)


# --- means in words


def test_means_have_intervals_from_three_values_on_and_inside_their_bounds():
    assert mean([0.5]).text(".3f") == "0.500"
    assert mean([0.442, 0.9]).text(".3f") == "0.442, 0.900", "Student's interval would be ± 2.9"
    assert mean([]).text(".3f") == "–"
    assert mean([0.5, 0.6, 0.7]).text(".2f", (0, 1)) == "0.60 ± 0.25"
    assert mean([0.8, 0.9, 1.0]).text(".2f", (0, 1)) == "0.90 (0.65 to 1.00)"
    assert mean([0.0, 0.1, 0.2]).text("%", (0, 1)) == "10.0 % (0.0 to 34.8)"
    assert mean([0.4, 0.5, 0.6]).text("%", (0, 1)) == "50.0 ± 24.8 %"
    assert mean([-0.01, 0.0, 0.01]).text("+.2f") == "+0.00 ± 0.02"
    for values in ([0.99, 1.0, 0.8], [0.0, 0.0, 0.3]):
        low, high = mean(values).text(".3f", (0, 1)).split("(")[1].rstrip(")").split(" to ")
        assert 0 <= float(low) <= float(high) <= 1
