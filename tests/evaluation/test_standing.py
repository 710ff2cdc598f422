"""The metrics that every table has: each number against a plain count, and one path for all metrics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

import metafluence as mf
from metafluence.evaluation import NUMBERS, SHOWN, STANDING, standing_numbers
from metafluence.evaluation.row import Row
from refusals import refused
from small_studies import changed, command, write

STUDY = {
    "methods": ["task-if", {"use": "gradient-similarity", "kind": "cosine"}],
    "solvers": ["exact"],
    "certificate": False,
    "truth": {"items": "all", "subsets": 6},
    "metrics": ["lds", {"use": "found", "share": 0.5}],
}
RESULTS = ("spearman", "lds", "metric.found share=0.5.found", "gap")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return study(tmp_path_factory.mktemp("standing"))


def study(folder, registry=None, **changes):
    config = mf.parse_study(changed(**{**STUDY, **changes}))
    return mf.Study(config, registry or mf.default_registry(), folder).run()


def auroc(scores, marks):
    """The share of pairs of a corrupted and another item of which the corrupted one is lower."""
    pairs = scores[marks][:, None] - scores[~marks][None]
    return float(((pairs < 0) + 0.5 * (pairs == 0)).mean())


def precision(scores, marks):
    order = marks[scores.argsort()]
    return float(np.mean([order[: i + 1].mean() for i in order.nonzero()[0]]))


def test_every_number_is_that_of_a_plain_count(result):
    (evaluation,) = result.evaluations.values()
    truth, marks = evaluation.truth, evaluation.problem.tasks.corrupted_items("task").numpy()
    true = truth.loss_change.numpy()
    run = next(run for run in result.runs if run.row.method == "task-if")
    scores = run.scores.numpy()
    method = mf.build("method", "task-if", solver="exact")
    context = evaluation.context()
    predicted = method.parameter_change(method.prepare(context), truth.removals).values.numpy()
    exact, size = truth.change.numpy(), np.linalg.norm(truth.change.numpy(), axis=0)
    sums = [scores[list(subset)].sum() for subset in truth.subsets]
    lowest = scores.argsort()[: evaluation.remove[0]]
    edit = method.parameter_change(method.prepare(context), [tuple(lowest.tolist())]).values[:, 0]
    weights = mf.Weights.ones(evaluation.problem.tasks).without("task", lowest.tolist())
    newton = mf.build("trainer", "newton", tolerance=1e-10)
    again = newton.fit(evaluation.problem, weights, init=evaluation.meta).meta
    test = [evaluation.test(meta) for meta in (evaluation.meta + edit, again)]
    wanted = {
        "spearman": spearmanr(scores, true)[0],
        "pearson": pearsonr(scores, true)[0],
        "slope": np.polyfit(true, scores, 1)[0],
        "lds": spearmanr(sums, truth.subset_loss_change)[0],
        "auroc": auroc(scores, marks),
        "average_precision": precision(scores, marks),
        "found": marks[lowest].sum() / marks.sum(),
        "change_error": np.median(np.linalg.norm(predicted - exact, axis=0) / size),
        "change_cosine": np.median((predicted * exact).sum(axis=0) / size / np.linalg.norm(predicted, axis=0)),
        "change_norm_ratio": np.median(np.linalg.norm(predicted, axis=0) / size),
        "accuracy_edited": test[0].accuracy,
        "loss_edited": test[0].loss,
        "accuracy_retrained": test[1].accuracy,
        "loss_retrained": test[1].loss,
    }
    assert wanted.keys() | {"spearman_low", "spearman_high", "lds_low", "lds_high"} == standing_numbers().keys()
    for name, value in wanted.items():
        assert getattr(run.row, name) == pytest.approx(value, abs=1e-6), name
    for name in ("spearman", "lds"):
        assert getattr(run.row, f"{name}_low") <= wanted[name] <= getattr(run.row, f"{name}_high")


def test_ranks_have_no_slope_and_methods_without_parameters_no_error(result):
    row = next(run.row for run in result.runs if run.row.method != "task-if")
    assert (row.status, row.units, row.notes) == ("ok", "rank_only", ())
    assert np.isnan([row.slope, row.change_error, row.change_cosine, row.accuracy_edited]).all()
    assert np.isfinite([row.spearman, row.pearson, row.lds, row.auroc, row.accuracy_retrained]).all()


def test_one_with_other_parameters_is_one_more_number(result):
    (evaluation,) = result.evaluations.values()
    marks = evaluation.problem.tasks.corrupted_items("task")
    for run in result.runs:
        lowest = run.scores.argsort()[:3]
        assert run.row.metrics == {"found share=0.5.found": float(marks[lowest].sum() / marks.sum())}


def test_every_metric_is_an_entry_of_the_registry():
    known = {entry.name for entry in mf.default_registry().entries("metric")}
    assert set(STANDING) <= known
    fields = {name for name in NUMBERS if hasattr(Row(method="a"), name)}
    assert set(standing_numbers()) <= fields <= set(SHOWN)
    assert all(number.meaning for name in STANDING for number in mf.build("metric", name).numbers())


def test_the_commands_say_what_a_metric_is(tmp_path):
    listed = command(tmp_path, "list", "metric").stdout
    assert "spearman" in listed
    shown = command(tmp_path, "show", "metric", "spearman").stdout
    assert "needs  truth, single items" in shown
    assert "better  spearman (high)" in shown
    assert "number spearman_low  Lower end" in shown


def columns_of(text: str, mark: str) -> list[str]:
    return [cell.strip() for cell in text.split(mark)]


def test_chosen_columns_are_the_same_everywhere(tmp_path):
    columns = ["spearman", "lds", "found share=0.5", "gap"]
    write(tmp_path, **STUDY, columns=columns, seeds=2)
    done = command(tmp_path, "run", "study.yaml", "--out", "out")
    assert done.returncode == 0, done.stderr
    headings = ["method", "solver", "Spearman", "LDS", "found share=0.5", "edit − retrained"]
    latex = (tmp_path / "out" / "tables" / "task.tex").read_text()
    (line,) = [line for line in latex.splitlines() if line.startswith("method")]
    assert columns_of(line.removesuffix(r"\\").replace("--", "–").replace("$-$", "−"), "&") == headings
    markdown = (tmp_path / "out" / "tables" / "task.md").read_text()
    (line,) = [line for line in markdown.splitlines() if line.startswith("| method")]
    assert columns_of(line.strip("| "), "|") == headings
    page = (tmp_path / "out" / "report.html").read_text()
    head = page.partition("<thead>")[2].partition("</thead>")[0]
    assert [part.partition("<")[0] for part in head.split(">") if part.partition("<")[0].strip()] == headings
    words = " ".join(done.stdout.split())
    places = [words.index(part) for part in ("Spearman LDS", "share=0.5", "±") if part in words]
    assert places[:2] == sorted(places[:2])
    frame = mf.load_results(tmp_path / "out").results
    start = list(frame.columns).index("level") + 1
    assert tuple(frame.columns[start : start + 4]) == RESULTS


def test_metrics_stand_in_every_table_without_choosing_columns(result):
    group = mf.study_group(result)
    for place in ("terminal", "paper", "page"):
        titles = mf.level_table([group], "task", place).titles
        assert "LDS" in titles, place
        assert ("found share=0.5" in titles) == (place != "terminal"), place
    (own,) = mf.metric_tables(group, "task")
    assert (own.title, own.titles) == ("found share=0.5, task level", ["method", "solver", "found"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["spaerman"], "columns: Unknown column 'spaerman'. Did you mean 'spearman'"),
        (["spearman", "spearman"], "columns has 'spearman' twice"),
        (["metric.tail.cvar"], "columns: Unknown column 'metric.tail.cvar'"),
        (["change-error", "change_error"], "columns has 'change_error' twice"),
    ],
)
def test_columns_that_there_are_not_are_refused(tmp_path, columns, message):
    with refused(message):
        mf.Study(mf.parse_study(changed(**STUDY, columns=columns)), mf.default_registry(), tmp_path)


def test_columns_change_no_result():
    (before,) = mf.parse_comparison(changed(**STUDY)).variations
    (chosen,) = mf.parse_comparison(changed(**STUDY, columns=["auroc"])).variations
    assert before.id == chosen.id


OWN = """
from dataclasses import dataclass
import metafluence as mf

@dataclass(frozen=True)
class Least(mf.Metric):
    name: str = "spearman"

    def numbers(self):
        return (mf.Number(self.name, better="low"),)

    def measure(self, run):
        return {self.name: float(run.scores.min())}
"""


def test_one_of_a_users_own_takes_the_place_and_stored_runs_are_not_those_of_the_shipped(tmp_path):
    (tmp_path / "least.py").write_text(OWN)
    text = "components: {metric: {spearman: {at: ./least.py:Least, override: true}}}"
    (tmp_path / "registry.yaml").write_text(text)
    plain = study(tmp_path / "store", metrics=[])
    own = study(tmp_path / "store", mf.default_registry(folder=tmp_path), metrics=[])
    assert (plain.reused, own.reused) == (0, 0)
    for run in own.runs:
        assert run.row.spearman == float(run.scores.min())
    assert [run.row.auroc for run in own.runs] == [run.row.auroc for run in plain.runs]
    (tmp_path / "other.py").write_text(OWN.replace("spearman", "spaerman"))
    (tmp_path / "registry.yaml").write_text(text.replace("least.py", "other.py"))
    with refused("The metric spearman stands in every table.*spaerman is none"):
        study(tmp_path / "other", mf.default_registry(folder=tmp_path), metrics=[])


def test_one_that_fails_is_a_note_and_the_run_stays(tmp_path, monkeypatch):
    def broken(self, run):
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr(type(mf.build("metric", "slope")), "measure", broken)
    first, *_ = study(tmp_path, metrics=[], methods=["task-if"]).runs
    assert first.row.status == "ok"
    assert "slope: ZeroDivisionError: nothing to divide by" in first.row.notes
    assert np.isfinite(first.row.spearman)


def test_float32_scores_are_measured_too(result):
    (evaluation,) = result.evaluations.values()
    run = result.runs[0]
    given = mf.Measured(evaluation, mf.build("method", "loss"), run.scores.float())
    assert mf.build("metric", "spearman").of(given)["spearman"] == pytest.approx(run.row.spearman)
    assert mf.build("metric", "auroc").of(replace(given, scores=torch.zeros(6)))["auroc"] == 0.5
