"""The tables of a report against rows made by hand: every column, references, the best cells."""

from dataclasses import replace

import pytest

from made_outcomes import made_group
from metafluence.evaluation import Budget, Row
from metafluence.evaluation.ground_truth import Ceiling
from metafluence.reports.columns import columns, known_columns, standard_columns
from metafluence.reports.comparison.errors import budget_table
from metafluence.reports.tables import level_table, metric_tables, narrow_table

FULL = Row(
    method="influence", solver="cg", damping=0.5, change_error=0.0431, change_cosine=0.91, spearman=0.876,
    spearman_low=0.5,
    spearman_high=0.95, slope=1.25, lds=0.654, lds_low=0.25, lds_high=0.75, auroc=0.987, average_precision=0.765,
    found=0.333, accuracy_edited=0.71, accuracy_retrained=0.72, loss_edited=1.5, loss_retrained=1.4, seconds=3.0,
    edit_seconds=1.0, products=12, residual=1e-9, units="loss_change",
)  # fmt: skip
OTHER = Row(method="tracin", solver="", spearman=0.2, auroc=0.4, change_error=1.5, seconds=4.0, accuracy_retrained=0.7)
FAILED = Row(method="influence", solver="neumann", status="failed", reason="It diverged.")


def cells(table, name: str, solver: str = "") -> dict[str, str]:
    (row,) = [row for row in table.rows if row[0] == name and row[1] == solver]
    return dict(zip(table.titles, row, strict=True))


def test_every_column_shows_its_own_field():
    table = level_table([made_group([[FULL]])], "task")
    shown = list(zip(table.titles, next(row for row in table.rows if row[0] == "influence"), strict=True))
    assert shown == [
        ("method", "influence"), ("solver", "cg"), ("damping", "0.5"), ("Δλ error", "4.3 %"), ("Spearman", "0.876"),
        ("95 %", "0.50 to 0.95"), ("AUROC", "0.987"), ("acc. edited", "0.7100"), ("acc. retrained", "0.7200"),
        ("edit − retrained", "-0.0100"), ("share of one fit's time", "2"), ("LDS", "0.654"), ("95 %", "0.25 to 0.75"),
        ("found", "33.3 %"), ("slope", "1.25"), ("Δλ cosine", "0.910"), ("AP", "0.765"), ("seconds", "3"),
        ("products", "12"), ("residual", "1e-09"),
    ]  # fmt: skip


def test_real_targets_have_losses_and_no_accuracies():
    table = level_table([made_group([[FULL]], real=True)], "task")
    found = cells(table, "influence", "cg")
    assert (found["loss edited"], found["loss retrained"], found["edit − retrained"]) == ("1.5000", "1.4000", "+0.1000")
    assert not any(title.startswith("acc") for title in table.titles)
    assert cells(table, "all items")["loss retrained"] == "0.8000"


def test_what_the_methods_are_compared_with_stands_first():
    ceiling = Ceiling(seeds=2, spearman=0.81, spearman_low=0.7, spearman_high=0.9, lds=0.6)
    table = level_table([made_group([[FULL, OTHER]], ceiling=ceiling)], "task")
    assert [row[0] for row in table.rows] == [
        "retrain, 2 other seeds", "all items", "without the corrupted", "influence", "tracin",
    ]  # fmt: skip
    agreed = cells(table, "retrain, 2 other seeds")
    assert (agreed["Spearman"], agreed["LDS"], agreed["AUROC"]) == ("0.810", "0.600", "–")
    assert cells(table, "all items")["acc. retrained"] == "0.8000"
    clean = cells(table, "without the corrupted")
    assert (clean["acc. retrained"], clean["share of one fit's time"]) == ("0.9000", "1")


def test_a_failed_run_says_so_and_shows_no_number():
    table = level_table([made_group([[FULL, FAILED]])], "task")
    row = next(row for row in table.rows if row[1] == "neumann")
    assert row[0] == "influence (failed)"
    assert set(row[2:]) == {"–"}


def test_several_seeds_have_means_with_intervals_and_fewer_columns():
    group = made_group([[FULL], [FULL], [FULL, FAILED]])
    assert not any(column.one_seed for column in columns([group]))
    table = level_table([group], "task")
    assert cells(table, "influence", "cg")["AUROC"] == "0.987 ± 0.000"
    assert cells(table, "influence (1 failed)", "neumann")["AUROC"] == "–"
    assert [c.field for c in columns([group], "terminal")] == [
        "spearman", "auroc", "accuracy_edited", "accuracy_retrained", "runtime_ratio",
    ]  # fmt: skip


def test_the_best_estimate_is_marked_and_never_retraining_nor_chance():
    exact = Row(method="retrain", retrains=True, change_error=0.0, spearman=1.0, auroc=1.0, seconds=9.0)
    table = level_table([made_group([[exact, FULL, OTHER]])], "task")
    best = {table.titles[c]: table.rows[r][0] for r, c in table.best}
    assert best == {
        "Δλ error": "influence", "Spearman": "influence", "AUROC": "influence", "acc. retrained": "influence",
        "share of one fit's time": "influence", "seconds": "influence",
    }  # fmt: skip
    worse = Row(method="loss", solver="", spearman=-0.1, auroc=0.3, change_error=1.2, seconds=0.1)
    table = level_table([made_group([[OTHER, worse]])], "task")
    assert {table.titles[c] for _, c in table.best} == {"Spearman", "share of one fit's time", "seconds"}


def test_several_groups_are_told_apart_and_each_has_its_best():
    one, two = made_group([[FULL, OTHER]], "a"), made_group([[OTHER, FULL]], "b")
    table = level_table([one, two], "task")
    assert table.titles[0] == "variation"
    column = table.titles.index("Spearman")
    assert {(table.rows[r][0], table.rows[r][1]) for r, c in table.best if c == column} == {
        ("varied a", "influence"),
        ("varied b", "influence"),
    }


def test_columns_have_names_of_their_own_and_say_what_they_mean():
    assert len({column.field for column in standard_columns()}) == len(standard_columns())
    assert all(column.meaning for column in known_columns().values())


@pytest.mark.parametrize("place", ["paper", "terminal"])
def test_narrow_tables_hold_a_part_of_the_columns_and_none_that_is_empty(place):
    table = narrow_table([made_group([[FULL, OTHER]])], "task", place)
    assert set(table.titles) < set(level_table([made_group([[FULL, OTHER]])], "task").titles)
    assert "found" not in table.titles
    assert all(any(row[i] not in ("", "–") for row in table.rows) for i in range(len(table.titles)))


def test_each_metric_has_a_table_of_its_own_and_none_in_the_terminals_columns():
    numbers = {"kept share=0.2.change": -0.5, "kept share=0.2.gain": 0.25, "tail.worst": 3.0}
    group = made_group([[replace(FULL, metrics=numbers), OTHER]])
    first, second = metric_tables(group, "task")
    assert [table.title for table in (first, second)] == ["kept share=0.2, task level", "tail, task level"]
    assert first.titles == ["method", "solver", "change", "gain"]
    assert first.rows == (("influence", "cg", "-0.5", "0.25"), (OTHER.method, "", "–", "–"))
    assert second.rows[0] == ("influence", "cg", "3")
    assert {"kept share=0.2.gain", "tail.worst"} <= set(level_table([group], "task").titles)
    assert narrow_table([group], "task", "terminal") == narrow_table([made_group([[FULL, OTHER]])], "task", "terminal")
    assert metric_tables(made_group([[FULL, OTHER]]), "task") == []


def test_bold_cells_move_with_the_columns_that_are_left_out():
    table = level_table([made_group([[FULL, OTHER]])], "task")
    marked = {(table.titles[c], table.rows[r][c]) for r, c in table.best}
    short = replace(table, rows=tuple(("–", *row[1:3], "–", *row[4:]) for row in table.rows)).only_filled()
    assert short.titles != table.titles
    assert {(short.titles[c], short.rows[r][c]) for r, c in short.best} == {m for m in marked if m[0] in short.titles}


def test_means_of_a_column_are_over_the_seeds_that_all_methods_have():
    seeds = [[replace(FULL, accuracy_retrained=a), OTHER] for a in (0.9, 0.6, 0.5)]
    seeds[0][1] = replace(OTHER, status="failed")
    group = made_group(seeds)
    (first, *others) = group.outcomes
    table = level_table(
        [replace(group, outcomes=(replace(first, full=replace(first.full, accuracy=0.1)), *others))], "task"
    )
    assert cells(table, "influence", "cg")["acc. retrained"] == "0.6000, 0.5000"
    assert cells(table, "tracin (1 failed)")["acc. retrained"] == "0.7000, 0.7000"
    assert cells(table, "all items")["acc. retrained"] == "0.8000, 0.8000"
    assert cells(table, "influence", "cg")["AUROC"] == "0.987, 0.987"


def test_errors_by_source_are_means_over_the_seeds_that_all_methods_have():
    def split(method: str, total: float, status: str = "ok") -> Budget:
        return Budget(level="task", method=method, solver="cg", status=status, total=total)

    group = made_group([[FULL]] * 2)
    budgets = [(split("a", 0.5), split("b", 0.9, "failed")), (split("a", 0.1), split("b", 0.2))]
    outcomes = tuple(replace(one, budgets=own) for one, own in zip(group.outcomes, budgets, strict=True))
    table = budget_table([replace(group, outcomes=outcomes)])
    assert table is not None
    assert [row[-1] for row in table.rows] == ["10.0 %", "20.0 %"]
