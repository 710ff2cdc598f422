"""The tables of results: parameters in columns, scores by item, what columns mean, two stores side by side."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

import metafluence as mf
from made_outcomes import made_group
from metafluence.evaluation import Row
from metafluence.reports.attempts import Attempts
from metafluence.reports.data_dictionary import dictionary, markdown_dictionary, meaning
from metafluence.reports.results import item_scores_frame, rows_frame, write_results
from metafluence.studies.outcomes import save_outcome
from small_studies import SEVERAL, command

DOCS = Path(__file__).parents[2] / "docs" / "results.md"
METHODS = [{"use": "task-if", "solver": {"use": "cg", "rtol": 1e-9}}, "loss"]


def work(folder, **changes):
    asked = {
        **SEVERAL,
        "levels": ["task", "query"],
        "vary": {"l2": [1.0, 2.0]},
        "methods": METHODS,
        "remove": [0.34],
        **changes,
    }
    work = mf.Comparing(mf.parse_comparison(asked), mf.default_registry(), folder)
    return work, work.run(lambda study, result, place: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "store"
    _, outcomes = work(folder)
    write_results(folder, outcomes, Attempts())
    return folder


def test_parameters_have_columns_of_their_own(store):
    table = mf.load_results(store).results
    row = table[(table.method == "task-if") & (table.level == "task") & (table.seed == 1) & (table.l2 == "2.0")]
    (found,) = row.to_dict("records")
    assert (found["method.use"], found["method.curvature"], found["method.solver"]) == ("task-if", "exact", "cg")
    assert (found["method.solver.rtol"], found["method.damping"], found["method.leave_out"]) == (1e-9, 0.0, False)
    assert (found["study.learner"], found["study.learner.penalty"], found["study.l2"]) == ("logistic-head", 0.5, 2.0)
    assert (found["study.learner.backbone"], found["study.trainer"]) == ("mlp", "newton")
    assert (found["study.dataset"], found["study.corruption.kind"]) == ("digits", "query-labels")
    assert pd.isna(table[table.method == "loss"]["method.damping"]).all()


def test_every_file_has_the_same_rows_and_says_what_its_columns_are(store):
    pytest.importorskip("pyarrow")
    rows, scores = (pd.read_parquet(store / f"{name}.parquet") for name in ("results", "scores"))
    again, loaded = mf.load_results(store)
    for stored, fresh in ((rows, again), (scores, loaded)):
        first, second = (one.astype(object).where(one.notna(), None) for one in (stored, fresh.drop(columns="store")))
        pd.testing.assert_frame_equal(first, second)
    text = pd.read_csv(store / "results.csv")
    assert list(text) == list(rows)
    np.testing.assert_array_equal(text.spearman, rows.spearman)
    told = json.loads((store / "results.json").read_text())
    for name, frame in (("results", rows), ("scores", scores)):
        assert list(told[name]["columns"]) == list(frame)
        assert told[name]["rows"] == len(frame)
        assert all(column["meaning"] for column in told[name]["columns"].values())
    assert told["results"]["columns"]["spearman"]["type"] == "number"
    assert told["scores"]["columns"]["corrupted"]["type"] == "yes or no"


def test_every_item_has_its_score_names_and_true_change(store):
    _, scores = mf.load_results(store)
    (stored,) = mf.open_stores([store])
    one = stored.outcomes[0]
    assert len(scores) == sum(len(line.scores) for other in stored.outcomes for line in other.lines)
    for line in one.lines:
        side = one.sides[line.row.level]
        asked = (scores.variation == one.id) & (scores.level == line.row.level) & (scores.method == line.row.method)
        found = scores[asked].set_index("item")
        np.testing.assert_array_equal(found.score, line.scores)
        np.testing.assert_array_equal(found.corrupted, side.marks)
        known = found.true_change.dropna()
        assert dict(known) == dict(zip(side.left_out, side.loss_change, strict=True))
        assert list(found.task) == list(side.names["task"])
        if line.row.level == "query":
            assert found["class"].str.len().gt(0).all()
            assert found.image[0].startswith(f"{found['class'][0]}/")


def test_the_page_has_the_dictionary():
    text = DOCS.read_text(encoding="utf-8")
    for name in dictionary():
        assert markdown_dictionary(name) in text, f"Put this into docs/results.md:\n{markdown_dictionary(name)}"


def test_every_field_of_a_row_is_described_in_a_sentence():
    for name in Row.__dataclass_fields__.keys() - {"built"}:
        assert meaning("results", name).endswith("."), name
    assert meaning("results", "method.solver.rtol") == dictionary()["results"]["method.NAME"]
    with pytest.raises(KeyError):
        dictionary()["scores"]["residual"]


def test_a_damping_that_the_study_chooses_is_no_parameter(tmp_path):
    chosen = {"values": [0.0, 1.0]}
    _, outcomes = work(tmp_path, damping=chosen, seeds=None, vary={}, levels=["task"])
    table = rows_frame(outcomes)
    assert "method.damping" not in table
    assert table.damping[0] in chosen["values"]
    assert table["study.damping.values"][0] == "0.0, 1.0"


def test_a_column_of_several_types_is_text_and_one_without_numbers_is_none_the_less():
    rows = [Row(method=name, built={"leave_out": value}) for name, value in (("a", False), ("b", "edits"))]
    table = rows_frame(made_group([rows]).outcomes)
    assert list(table["method.leave_out"]) == ["False", "edits"]
    assert table.lds.dtype == float
    assert len(item_scores_frame(made_group([rows]).outcomes)) == 0


def test_old_stores_have_rows_without_parameters(tmp_path):
    outcomes = made_group([[Row(method="a", spearman=0.5)]]).outcomes
    write_results(tmp_path, outcomes, Attempts())
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table.spearman) == [0.5]
    assert not any(name.startswith(("method.", "study.")) for name in table)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(mf.InputError, match="Give one or more folders"):
        mf.load_results()
    with pytest.raises(mf.StoreError, match=r"no study\.json"):
        mf.load_results(tmp_path)


def edited(store: Path, folder: Path, edit: Callable[[Row], dict], **settings) -> Path:
    """A copy of a store whose rows of task-if, and whose settings, are others."""
    shutil.copytree(store, folder)
    (stored,) = mf.open_stores([store])
    for one in stored.outcomes:
        lines = [
            replace(line, row=replace(line.row, **(edit(line.row) if line.row.method == "task-if" else {})))
            for line in one.lines
        ]
        other = replace(one, lines=tuple(lines), settings={**one.settings, **settings})
        save_outcome(folder / "outcomes" / f"{one.id}.safetensors", other)
    return folder


def changed(store: Path, folder: Path, shift: Sequence[float]) -> Path:
    """A copy of a store whose Spearman of task-if is moved, by seed."""
    (stored,) = mf.open_stores([store])
    old = {line.row.spearman: one.seed for one in stored.outcomes for line in one.lines}
    return edited(store, folder, lambda row: {"spearman": row.spearman + shift[old[row.spearman]]})


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A store of four seeds, whose Spearman is known."""
    folder = tmp_path_factory.mktemp("seeds")
    work(folder / "first", seeds=4, levels=["task"], vary={})
    known = iter([0.5, 0.6, 0.4, 0.55])
    return edited(folder / "first", folder / "a", lambda row: {"spearman": next(known)})


def test_a_difference_beyond_the_noise_is_named_and_one_inside_is_not(seeds, tmp_path):
    steady = changed(seeds, tmp_path / "steady", [0.1, 0.11, 0.09, 0.1])
    noisy = changed(seeds, tmp_path / "noisy", [0.6, -0.2, 0.2, 0.1])
    found = mf.compare_stores(seeds, steady, ["spearman"]).frame.set_index("method")
    assert found.better["task-if"] == "b"
    assert found.better["loss"] == "inside the noise"
    assert found.difference["task-if"] == pytest.approx(0.1)
    other = mf.compare_stores(steady, seeds, ["spearman"]).frame.set_index("method")
    assert (other.better["task-if"], other.difference["task-if"]) == ("a", pytest.approx(-0.1))
    loud = mf.compare_stores(seeds, noisy, ["spearman"]).frame.set_index("method")
    assert loud.better["task-if"] == "inside the noise"
    a, b = [0.5, 0.6, 0.4, 0.55], [1.1, 0.4, 0.6, 0.65]
    assert loud.p["task-if"] == pytest.approx(min(1, 2 * ttest_rel(b, a).pvalue)), "of two tests, by Holm"


def test_of_an_error_the_smaller_is_better(seeds, tmp_path):
    """The copy's solver is as good: the same numbers are no difference."""
    same = changed(seeds, tmp_path / "same", [0.0] * 4)
    assert set(mf.compare_stores(seeds, same, ["change_error", "auroc"]).frame.better) == {"inside the noise"}


def test_two_seeds_name_nothing(store, tmp_path):
    better = changed(store, tmp_path / "better", [1.0] * 2)
    found = mf.compare_stores(store, better)
    assert set(found.frame.better) == {"not tested"}
    assert any("the noise is not known" in sentence for sentence in found.sentences())
    assert set(found.frame.l2) == {"1.0", "2.0"}, "rows are matched by what is varied"


def test_rows_of_other_parameters_are_not_the_same(seeds, tmp_path):
    loose = {"solver.rtol": 1e-3}
    other = edited(seeds, tmp_path / "loose", lambda row: {"built": {**row.built, **loose}}, l2=3.0)
    found = mf.compare_stores(seeds, other)
    assert set(found.frame.method) == {"loss"}
    assert [len(rows) for rows in found.only.values()] == [1, 1]
    assert found.settings == [("l2", "1.0", "3.0")]
    work(tmp_path / "none", seeds=None, levels=["task"], vary={}, methods=["random"], truth=None)
    with pytest.raises(mf.InputError, match="no row in common"):
        mf.compare_stores(seeds, tmp_path / "none")


def test_the_command_prints_and_writes_the_table(seeds, tmp_path):
    steady = changed(seeds, tmp_path / "steady", [0.1, 0.11, 0.09, 0.1])
    words = ("compare", str(seeds), str(steady), "--by", "spearman", "--out")
    found = command(tmp_path, *words, "table.csv")
    assert found.returncode == 0, found.stderr
    assert "+0.100 (+0.087 to +0.113)" in found.stdout
    assert list(pd.read_csv(tmp_path / "table.csv").better) == ["b", "inside the noise"]
    assert command(tmp_path, *words, "table.md").returncode == 0
    assert (tmp_path / "table.md").read_text().count("\n|") == 3
    for wrong, message in (
        ([*words, "table.pdf"], "Name a .csv or a .md file"),
        (["compare", str(seeds), str(seeds)], "are the same store"),
        (["compare", str(seeds), str(tmp_path)], "is no store"),
        (["compare", str(seeds), str(steady), "--by", "reason"], "cannot be compared by 'reason'"),
    ):
        refused = command(tmp_path, *wrong)
        assert refused.returncode == 2
        assert message in " ".join(refused.stderr.split())


def test_the_page_s_plots_are_drawn(store):
    module: dict = {}
    for code in DOCS.read_text(encoding="utf-8").split("```python\n")[1:]:
        exec(code.partition("```")[0], module)
    assert len(module["plot"](store).patches) == 2
    assert len(module["predicted_against_true"](store).collections[0].get_offsets()) > 0
