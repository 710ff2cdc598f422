"""What figures show, read back from their axes, against outcomes made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection

from made_outcomes import made_group
from metafluence.evaluation import Budget, Cell, RemovalCurve, Row
from metafluence.evaluation.ground_truth import Ceiling
from metafluence.reports.figures.error_budget import error_budget
from metafluence.reports.figures.fidelity_against_runtime import fidelity_against_runtime, on_front
from metafluence.reports.figures.items_found import items_found
from metafluence.reports.figures.level import level_figures
from metafluence.reports.figures.methods_and_variations import heat_map
from metafluence.reports.figures.panels import BANDS
from metafluence.reports.figures.removal_curves import removal_curves
from metafluence.reports.figures.solver_grid import against_truncation, heat_maps
from metafluence.reports.groups import Group


def row(name: str, **facts) -> Row:
    return Row(method=name, **facts)


def with_curves(group: Group, retrained: dict[str, list[list[float]]], what: str = "accuracy") -> Group:
    """Each method's retrained quality after 3 and 5 of 10 items, for each seed."""
    outcomes = []
    for seed, one in enumerate(group.outcomes):
        lines = []
        for line in one.lines:
            values = {f"{what}_retrained": torch.tensor(retrained[line.row.method][seed], dtype=torch.float64)}
            nothing = torch.full((2,), float("nan"), dtype=torch.float64)
            names = ("accuracy_edited", "loss_edited", "accuracy_retrained", "loss_retrained")
            lines.append(replace(line, curve=RemovalCurve(**{name: values.get(name, nothing) for name in names})))
        outcomes.append(replace(one, lines=tuple(lines)))
    return replace(group, outcomes=tuple(outcomes))


def drawn(figure, label: str, axis: int = 0):
    (line,) = [line for line in figure.axes[axis].lines if line.get_label() == label]
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def test_removal_curves_start_at_the_full_model_and_go_by_shares():
    group = with_curves(made_group([[row("a"), row("b")]]), {"a": [[0.85, 0.7]], "b": [[0.6, 0.5]]})
    figure = removal_curves([group], "task")
    x, y = drawn(figure, "a")
    assert x.tolist() == [0.0, 0.3, 0.5]
    assert y.tolist() == [0.8, 0.85, 0.7]
    assert drawn(figure, "b")[1].tolist() == [0.8, 0.6, 0.5]
    star = drawn(figure, "exactly the corrupted")
    assert (star[0].tolist(), star[1].tolist()) == ([0.3], [0.9])
    assert figure.axes[0].get_ylabel() == "test accuracy after exact retraining"


def test_removal_curves_go_up_by_shares_in_whatever_order_these_were_asked():
    group = with_curves(made_group([[row("a")]]), {"a": [[0.7, 0.85]]})
    (one,) = group.outcomes
    side = replace(one.sides["task"], removed=(5, 3))
    turned = replace(group, outcomes=(replace(one, sides={"task": side}),))
    x, y = drawn(removal_curves([turned], "task"), "a")
    assert (x.tolist(), y.tolist()) == ([0.0, 0.3, 0.5], [0.8, 0.85, 0.7])


def test_removal_curves_of_several_seeds_are_means_with_bands_from_three_on():
    curves = {"a": [[0.7, 0.6], [0.8, 0.7], [0.9, 0.8]]}
    figure = removal_curves([with_curves(made_group([[row("a")]] * 3), curves)], "task")
    assert drawn(figure, "a")[1] == pytest.approx([0.8, 0.8, 0.7])
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    half = 4.3027 * 0.1 / 3**0.5
    assert (band.min(), band.max()) == (pytest.approx(0.7 - half, abs=1e-4), pytest.approx(1.0)), "inside the bounds"
    two = removal_curves([with_curves(made_group([[row("a")]] * 2), {"a": curves["a"][:2]})], "task")
    assert two.axes[0].collections[0].get_paths() == []


def test_bands_of_many_methods_would_cover_each_other_and_are_left_out():
    for count in (BANDS, BANDS + 1):
        names = [f"m{i}" for i in range(count)]
        curves = {name: [[0.7, 0.6], [0.8, 0.7], [0.9, 0.8]] for name in names}
        figure = removal_curves([with_curves(made_group([[row(name) for name in names]] * 3), curves)], "task")
        assert {line.get_label() for line in figure.axes[0].lines} >= set(names)
        bands = [one for one in figure.axes[0].collections if isinstance(one, PolyCollection)]
        assert len(bands) == (count if count == BANDS else 0)
        bars = figure.axes[0].containers
        assert len(bars) == (count > BANDS)
    (segment,) = bars[0].lines[2][0].get_segments()
    half = 4.3027 * 0.1 / 3**0.5
    assert segment[:, 1] == pytest.approx([0.8 - half, 1.0], abs=1e-4), (
        "the median interval where it is widest, inside the bounds"
    )


def test_curves_are_means_over_the_seeds_that_all_methods_have():
    """Seeds differ by more than methods do: over other seeds than its neighbours' a method would float above them."""
    lost = [float("nan")] * 2
    curves = {"a": [[0.5, 0.4], [0.9, 0.8]], "b": [lost, [0.8, 0.7]], "c": [lost, lost]}
    figure = removal_curves([with_curves(made_group([[row("a"), row("b"), row("c")]] * 2), curves)], "task")
    assert drawn(figure, "a")[1].tolist() == [0.8, 0.9, 0.8]
    assert drawn(figure, "b")[1].tolist() == [0.8, 0.8, 0.7]
    assert "c" not in {line.get_label() for line in figure.axes[0].lines}
    assert "means over the seeds that all methods have" in figure.axes[0].get_ylabel()
    apart = {"a": [[0.5, 0.4], [0.9, 0.8], lost], "b": [lost, lost, [0.8, 0.7]]}
    figure = removal_curves([with_curves(made_group([[row("a"), row("b")]] * 3), apart)], "task")
    assert drawn(figure, "a")[1] == pytest.approx([0.8, 0.7, 0.6])
    assert "b" not in {line.get_label() for line in figure.axes[0].lines}, "it has none of the seeds of the other"


def test_real_targets_have_curves_of_the_loss():
    group = with_curves(made_group([[row("a")]], real=True, full=2.0, clean=1.5), {"a": [[1.8, 2.2]]}, "loss")
    figure = removal_curves([group], "task")
    assert drawn(figure, "a")[1].tolist() == [2.0, 1.8, 2.2]
    assert figure.axes[0].get_ylabel() == "test loss after exact retraining"


def test_one_share_makes_no_curve():
    group = made_group([[row("a")]])
    sides = {"task": replace(group.outcomes[0].sides["task"], removed=(3,))}
    assert removal_curves([replace(group, outcomes=(replace(group.outcomes[0], sides=sides),))], "task") is None


def test_two_solvers_with_one_curve_are_one_line():
    group = made_group([[row("a", solver="exact"), row("a", solver="cg"), row("b", solver="cg")]])
    labels = {line.get_label() for line in items_found([group], "task").axes[0].lines}
    assert labels == {"a (exact)", "b (cg)", "perfect", "chance"}, "another method keeps its line"


def test_found_items_are_drawn_against_perfect_and_chance():
    figure = items_found([made_group([[row("a")]])], "task")
    x, y = drawn(figure, "a")
    np.testing.assert_allclose(x, np.linspace(0, 1, 11))
    np.testing.assert_allclose(y, np.linspace(0, 1, 11))
    assert [part.tolist() for part in drawn(figure, "perfect")] == [[0, 0.3, 1], [0, 1, 1]]
    assert [part.tolist() for part in drawn(figure, "chance")] == [[0, 1], [0, 1]]


def points(figure, axis: int = 0) -> dict[str, tuple[float, float]]:
    return {
        bar.get_label(): (float(bar.lines[0].get_xdata()[0]), float(bar.lines[0].get_ydata()[0]))
        for bar in figure.axes[axis].containers
    }


def test_fidelity_is_drawn_against_seconds_with_its_front_and_ceiling():
    rows = [
        row("slow", spearman=0.9, seconds=10.0), row("fast", spearman=0.5, seconds=0.1),
        row("beaten", spearman=0.4, seconds=5.0), row("retrain", spearman=1.0, seconds=100.0, retrains=True),
    ]  # fmt: skip
    group = made_group([rows], ceiling=Ceiling(seeds=1, spearman=0.8, spearman_low=0.7, spearman_high=0.85))
    assert on_front(group, "task") == [("fast", ""), ("slow", "")]
    figure = fidelity_against_runtime([group], "task")
    found = points(figure)
    assert found["beaten"] == (5.0, 0.4)
    assert found["retrain"] == (100.0, 1.0)
    assert sorted(found.values()) == [(0.1, 0.5), (5.0, 0.4), (10.0, 0.9), (100.0, 1.0)]
    front = drawn(figure, "Pareto front")
    assert [part.tolist() for part in front] == [[0.1, 10.0], [0.5, 0.9]]
    assert drawn(figure, "retraining from other seeds")[1].tolist() == [0.8, 0.8]
    assert {text.get_text() for text in figure.axes[0].texts} - {""} == {"fast", "slow"}


def test_error_bars_are_of_three_seeds_or_more_and_stay_below_one():
    seeds = [[row("a", spearman=value, seconds=1.0)] for value in (0.9, 1.0, 0.95)]
    figure = fidelity_against_runtime([made_group(seeds)], "task")
    ((bar,),) = [container.lines[2] for container in figure.axes[0].containers]
    low, high = bar.get_segments()[0][:, 1]
    assert (low, high) == (pytest.approx(0.95 - 4.3027 * 0.05 / 3**0.5, abs=1e-4), pytest.approx(1.0))
    two = fidelity_against_runtime([made_group(seeds[:2])], "task")
    assert not two.axes[0].containers[0].has_yerr


def test_the_map_has_methods_down_and_variations_across():
    groups = [
        made_group([[row("a", spearman=0.1, lds=0.6), row("b", spearman=0.2, lds=0.7)]], "x"),
        made_group([[row("a", spearman=0.3, lds=0.8)]], "y"),
    ]
    axis = heat_map(groups, "task").axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["varied x", "varied y"]
    assert {text.get_position(): text.get_text() for text in axis.texts} == {
        (0, 0): "0.10", (1, 0): "0.30", (0, 1): "0.20", (1, 1): "–",
    }  # fmt: skip
    np.testing.assert_allclose(axis.images[0].get_array().filled(np.nan), [[0.1, 0.3], [0.2, np.nan]])
    axis = level_figures(groups, "task")["lds-and-variations"]().axes[0]
    np.testing.assert_allclose(axis.images[0].get_array().filled(np.nan), [[0.6, 0.8], [0.7, np.nan]])
    assert axis.get_title() == "LDS with exact retraining"


def test_budgets_are_stacked_by_source():
    budget = Budget("a", "cg", first_order=0.1, curvature=0.2, inner_solve=float("nan"), outer_solve=0.05, total=0.3)
    axis = error_budget([budget]).axes[0]
    assert [bar.get_x() for bar in axis.patches] == pytest.approx([0.0, 0.1, 0.3, 0.3])
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([0.1, 0.2, 0.0, 0.05])
    whole = next(line for line in axis.lines if line.get_label() == "whole error")
    assert list(whole.get_xdata()) == [0.3]


def test_the_grid_has_inner_solvers_down_and_outer_ones_across():
    cells = (
        Cell("i1", "o1", spearman=0.9, error=0.1, seconds=2.0), Cell("i1", "o2", status="failed", reason="x"),
        Cell("i2", "o1", spearman=0.5, error=1e-6, seconds=200.0),
    )  # fmt: skip
    above, below = heat_maps(cells).axes
    assert [text.get_text() for text in above.get_yticklabels()] == ["i1", "i2"]
    assert {text.get_position(): text.get_text() for text in above.texts} == {
        (0, 0): "0.900\n(10.0 %)", (1, 0): "failed", (0, 1): "0.500\n(1e-06)",
    }  # fmt: skip
    assert {text.get_text() for text in below.texts} == {"2", "failed", "200"}


def test_steps_are_drawn_in_their_order():
    cells = tuple(Cell("exact", f"neumann truncation={n}", error=1 / n, seconds=n / 10) for n in (8, 2, 4))
    left, right = against_truncation(cells).axes
    assert list(left.lines[0].get_xdata()) == [2, 4, 8]
    assert list(left.lines[0].get_ydata()) == [0.5, 0.25, 0.125]
    assert list(right.lines[0].get_ydata()) == [0.2, 0.4, 0.8]


NO_CURVE = {name: torch.empty(0) for name in RemovalCurve.__dataclass_fields__}


def lost(group: Group, name: str, seeds: tuple[int, ...]) -> Group:
    """The group whose method `name` failed with these seeds."""
    outcomes = []
    for seed, one in enumerate(group.outcomes):
        lines = [
            replace(x, row=replace(x.row, status="failed"), curve=replace(x.curve, **NO_CURVE), found=torch.empty(0))
            if seed in seeds and x.row.method == name
            else x
            for x in one.lines
        ]
        outcomes.append(replace(one, lines=tuple(lines)))
    return replace(group, outcomes=tuple(outcomes))


THREE = {"a": [[0.7, 0.6], [0.8, 0.7], [0.9, 0.8]], "b": [[0.6, 0.5], [0.7, 0.6], [0.8, 0.7]]}


def test_starts_and_the_star_are_of_the_seeds_of_the_curves():
    group = lost(with_curves(made_group([[row("a"), row("b")]] * 3), THREE), "b", (0,))
    (one, *others) = group.outcomes
    side = replace(one.sides["task"], clean=replace(one.sides["task"].clean, accuracy=0.1))
    one = replace(one, full=replace(one.full, accuracy=0.2), sides={"task": side})
    figure = removal_curves([replace(group, outcomes=(one, *others))], "task")
    assert drawn(figure, "a")[1] == pytest.approx([0.8, 0.85, 0.75])
    assert drawn(figure, "b")[1] == pytest.approx([0.8, 0.75, 0.65])
    assert drawn(figure, "exactly the corrupted")[1] == pytest.approx([0.9])
    assert "means over the seeds that all methods have" in figure.axes[0].get_ylabel()
    whole = removal_curves([with_curves(made_group([[row("a"), row("b")]] * 3), THREE)], "task")
    assert (whole.axes[0].get_title(), whole.axes[0].get_ylabel()) == ("", "test accuracy after exact retraining")


def test_a_method_without_a_common_seed_is_left_out_of_the_curves_and_named():
    group = lost(lost(with_curves(made_group([[row("a"), row("b")]] * 3), THREE), "b", (0, 1)), "a", (2,))
    figure = removal_curves([group], "task")
    assert drawn(figure, "a")[1] == pytest.approx([0.8, 0.75, 0.65])
    assert "b" not in {line.get_label() for line in figure.axes[0].lines}
    assert figure.axes[0].get_title() == "b left out: no seed in common"


def test_a_point_that_a_seed_lacks_is_no_mean_of_the_others():
    curves = {"a": THREE["a"], "b": [[0.6, float("nan")], *THREE["b"][1:]]}
    figure = removal_curves([with_curves(made_group([[row("a"), row("b")]] * 3), curves)], "task")
    assert drawn(figure, "b")[1] == pytest.approx([0.8, 0.7, float("nan")], nan_ok=True)


def test_fidelities_are_means_over_the_seeds_that_all_methods_have():
    seeds = [
        [row("a", spearman=s, seconds=t), row("b", spearman=0.3, seconds=1.0)] for s, t in ((0.9, 9.0), (0.5, 2.0))
    ]
    group = lost(made_group(seeds), "b", (0,))
    assert points(fidelity_against_runtime([group, group], "task"))["a"] == (2.0, 0.5)
    assert "0.50" in {
        text.get_text() for text in heat_map([group, replace(group, varied={"x": "y"})], "task").axes[0].texts
    }
