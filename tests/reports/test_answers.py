"""The answers of a study on one screen: the certificate's grade, ties, what is removed, the error of the test."""

from dataclasses import replace

import numpy as np
import pytest

import metafluence as mf
from metafluence.cli import study
from small_studies import SMALL, command

ESTIMATORS = ["task-if (exact)", "instance-if (exact)", "loss"]


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> mf.StudyResult:
    methods = [{"use": "retrain", "levels": "task"}, "task-if", "instance-if", "loss"]
    raw = {
        **SMALL,
        "l2": 3.0,
        "levels": ["task", "query"],
        "methods": methods,
        "solvers": ["exact"],
        "truth": {"items": 4},
    }
    return mf.Study(mf.parse_study(raw), mf.default_registry(), tmp_path_factory.mktemp("store")).run()


def with_row(result: mf.StudyResult, method: str, **values) -> mf.StudyResult:
    """The result with other values in the rows of a method."""
    runs = tuple(replace(r, row=replace(r.row, **values)) if r.row.method == method else r for r in result.runs)
    return replace(result, runs=runs)


def test_every_question_has_a_sentence_for_each_level(result):
    found = mf.answers(result)
    assert list(found) == ["Which method can be trusted?", "What should be removed?", "How sure is that?"]
    for sentences in found.values():
        assert [one.partition(":")[0] for one in sentences] == ["tasks", "query instances"]


@pytest.mark.parametrize(
    ("grade", "said"), [("sizes and order", "in sizes and in order"), ("order", "not in sizes"), ("neither", "retrain")]
)
def test_trust_is_what_the_certificate_says(result, grade, said):
    graded = replace(result, certificates=tuple(replace(one, grade=grade) for one in result.certificates))
    for sentence in mf.answers(graded)["Which method can be trusted?"]:
        assert "influence" in sentence.partition(";")[0]
        assert said in sentence.partition(";")[0]
    without = mf.answers(replace(result, certificates=()))["Which method can be trusted?"]
    assert all("influence" not in sentence.partition(";")[0] for sentence in without)


def test_the_most_harmful_items_are_those_of_lowest_score(result):
    run = next(run for run in result.runs if run.row.method == "task-if")
    worst = [result.split.train.ids[i] for i in run.scores.argsort()[:2] if run.scores[i] < 0]
    sentence = mf.answers(with_row(result, "task-if", spearman=1.0))["What should be removed?"][0]
    assert sentence.startswith(f"tasks: {' and '.join(worst)} harm most, by task-if (exact).")


def test_a_gain_is_more_than_two_standard_errors_of_the_test(result):
    instances = result.split.test.query.targets.numel()
    error = 2 * np.sqrt((0.5 * 0.5 + 0.6 * 0.4) / instances)
    half = replace(
        with_row(result, "task-if", accuracy_retrained=0.6, spearman=1.0), full=replace(result.full, accuracy=0.5)
    )
    sentence = mf.answers(half)["What should be removed?"][0]
    assert f"test accuracy 0.500 becomes 0.600, within the error of the test (±{error:.3f})." in sentence
    for value, said in ((1.0, "becomes 1.000, a gain."), (0.0, "becomes 0.000, a loss.")):
        sure = replace(with_row(result, "task-if", accuracy_retrained=value, spearman=1.0), full=half.full)
        assert said in mf.answers(sure)["What should be removed?"][0]


def test_the_table_has_every_estimator_once_with_its_values(result):
    table = mf.overview_table(result)
    ranking = dict.fromkeys(ESTIMATORS, 0.0)
    for name in ranking:
        ranking[name] = np.mean([run.row.spearman for run in result.runs if run.row.name == name])
    assert [row[0] for row in table.rows] == sorted(ranking, key=lambda name: -ranking[name])
    assert table.titles[:3] == ["method", "Spearman, task", "Spearman, query"]
    cells = dict(zip(table.titles, next(row for row in table.rows if row[0] == ESTIMATORS[0]), strict=True))
    row = next(run.row for run in result.runs if run.row.method == "task-if")
    assert cells["Spearman, task"] == f"{row.spearman:.3f}"
    assert cells["Δλ error, task"] == f"{100 * row.change_error:.0f} %"
    assert cells["Spearman, query"] == "–"
    unknown = with_row(result, "task-if", change_error=float("nan"))
    assert next(row for row in mf.overview_table(unknown).rows if row[0] == ESTIMATORS[0])[3] == "–"


def test_the_demo_prints_the_answers_first_and_all_tables_if_asked(result, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_run", lambda *given: given[-1](result))
    brief = command(tmp_path, "demo").stdout
    assert brief.strip().startswith("Which method can be trusted?")
    assert "Agreement with exact retraining" in brief
    assert "AUROC" not in brief
    assert "--full" in brief
    full = command(tmp_path, "demo", "--full").stdout
    assert "AUROC" in full
    assert all(certificate.verdict.split(".")[0] in " ".join(full.split()) for certificate in result.certificates)
    assert "Which method can be trusted?" not in full
