"""Metrics that a study asks for, each against a plain count or an exact retraining."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import metafluence as mf
from metafluence_plugins.metrics.brittleness import Brittleness, flipped, sizes
from metafluence_plugins.metrics.self_retrieval import SelfRetrieval, ranks
from metafluence_plugins.metrics.tail import Tail, cvar
from metafluence_plugins.metrics.target_lds import TargetLDS, correlation
from metafluence_plugins.metrics.top_overlap import TopOverlap, overlap
from refusals import refused
from small_studies import changed, command, without_pictures

METRICS = ["target-lds", "brittleness", "self-retrieval", "tail", {"use": "top-overlap", "other": "retrain"}]
STUDY = {
    "methods": ["retrain", "task-if", "random"],
    "solvers": ["exact"],
    "certificate": False,
    "truth": {"items": 4, "subsets": 6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def result(folder):
    config = mf.parse_study(changed(**STUDY, metrics=METRICS))
    return mf.Study(config, mf.default_registry(), folder / "store").run()


@pytest.fixture(scope="module")
def by_name(result):
    return {run.row.method: run for run in result.runs}


def given(result, run, method):
    (evaluation,) = result.evaluations.values()
    return mf.Measured(evaluation, method, run.scores)


def test_every_number_is_in_the_row(by_name):
    names = {
        *(f"target-lds.{what}" for what in ("mean", "significant", "smallest p", "largest p")),
        *(f"tail.{what}" for what in ("cvar", "cvar change", "worst", "worst change")),
        *("top-overlap other=retrain.lowest", "top-overlap other=retrain.highest"),
        *("self-retrieval.recall@1", "self-retrieval.mrr", "brittleness.flipped"),
    }
    for name in ("task-if", "random"):
        row = by_name[name].row
        assert row.status == "ok"
        assert names <= set(row.metrics) <= names | {"brittleness.removals"}, row.notes
        assert row.notes == ()
    assert by_name["task-if"].row.metrics["self-retrieval.mrr"] > by_name["random"].row.metrics["self-retrieval.mrr"]


def test_lds_by_target_is_that_of_retraining(result, by_name):
    (evaluation,) = result.evaluations.values()
    truth = evaluation.truth
    run = given(result, by_name["task-if"], mf.build("method", "task-if", solver="exact"))
    weights = [mf.Weights.ones(evaluation.problem.tasks).without("task", list(subset)) for subset in truth.subsets]
    newton = mf.build("trainer", "newton", tolerance=1e-10)
    refits = [newton.fit(evaluation.problem, w, init=evaluation.meta).meta for w in weights]
    targets = mf.Targets(evaluation.problem, evaluation.validation, evaluation.meta, mean=False)
    true = torch.stack([targets.losses(meta) - targets.losses() for meta in refits])
    assert torch.allclose(run.changes_without(truth.subsets), true, atol=1e-6)
    assert torch.allclose(run.target_scores.mean(dim=1), run.scores, atol=1e-9)
    predicted = torch.stack([run.target_scores[list(subset)].sum(dim=0) for subset in truth.subsets])
    found = [correlation(predicted[:, j].numpy(), true[:, j].numpy()) for j in range(true.shape[1])]
    metrics = TargetLDS().measure(run)
    assert metrics["mean"] == pytest.approx(np.mean([value for value, _ in found]))
    assert metrics["smallest p"] == pytest.approx(min(p for _, p in found))


def test_correlation_and_significance():
    ahead = np.arange(20.0)
    value, p = correlation(ahead, ahead**3)
    assert value == pytest.approx(1)
    assert p < 1e-6
    value, p = correlation(ahead, np.array([0, 1] * 10))
    assert p > 0.5
    assert np.isnan(correlation(ahead, np.ones(20))).all()
    assert np.isnan(correlation(ahead, np.where(ahead == 3, np.nan, ahead))).all()


def test_ranks_count_ties_at_their_middle():
    scores = torch.tensor([[3.0, 0.0, 1.0], [2.0, 0.0, 5.0], [1.0, 0.0, 4.0]])
    assert ranks(scores, torch.tensor([0, 1, 0])).tolist() == [1.0, 2.0, 3.0]


def test_a_task_finds_itself_by_its_own_score(result, by_name):
    (evaluation,) = result.evaluations.values()
    method = mf.build("method", "task-if", solver="exact")
    run = given(result, by_name["task-if"], method)
    train = evaluation.problem.tasks
    clean = (~train.corrupted_items("task")).nonzero().squeeze(1)
    targets = mf.Targets(evaluation.problem, train[clean], evaluation.meta, mean=False)
    scores = mf.attribute(method, evaluation.context(), targets).values
    found = [int((scores[:, j] > scores[i, j]).sum()) + 1 for j, i in enumerate(clean.tolist())]
    metrics = SelfRetrieval(k=2).measure(run)
    assert metrics == pytest.approx({"recall@2": np.mean(np.array(found) <= 2), "mrr": np.mean(1 / np.array(found))})
    query = replace(evaluation, level="query")
    with refused("shows tasks as targets, and these items are of level query"):
        SelfRetrieval().measure(mf.Measured(query, method, run.scores))


def test_the_tail_is_that_of_the_retrained_model(result, by_name):
    (evaluation,) = result.evaluations.values()
    run = by_name["task-if"]
    removed = run.scores.argsort()[: evaluation.remove[0]].tolist()
    weights = mf.Weights.ones(evaluation.problem.tasks).without("task", removed)
    newton = mf.build("trainer", "newton", tolerance=1e-10)
    meta = newton.fit(evaluation.problem, weights, init=evaluation.meta).meta
    problem = evaluation.problem.over(evaluation.test_tasks)
    after, before = problem.at(meta).task_losses, problem.at(evaluation.meta).task_losses
    assert run.row.metrics["tail.worst"] == pytest.approx(float(after.max()), abs=1e-6)
    assert run.row.metrics["tail.worst change"] == pytest.approx(float(after.max() - before.max()), abs=1e-6)
    assert Tail(share=1.0).measure(given(result, run, None))["cvar"] == pytest.approx(float(after.mean()), abs=1e-6)


@pytest.mark.parametrize(("share", "wanted"), [(0.25, 4.0), (0.5, 3.5), (0.375, (4 + 0.5 * 3) / 1.5), (1.0, 2.5)])
def test_cvar_is_the_mean_of_the_worst(share, wanted):
    assert cvar(torch.tensor([1.0, 4.0, 2.0, 3.0]), share) == pytest.approx(wanted)


def test_brittleness_finds_the_removal_that_flips(result, by_name):
    """The sizes that are tried, and the answer of each exactly retrained model."""
    assert list(sizes(6, 0.5)) == [1, 2, 3]
    assert list(sizes(100, 0.2)) == [1, 2, 4, 8, 16, 20]
    assert list(sizes(1, 0.5)) == [1]
    assert flipped(torch.tensor([True, False]), torch.tensor([False, True]))
    assert not flipped(torch.tensor([True, False]), torch.tensor([True, True]))
    run = given(result, by_name["task-if"], mf.build("method", "task-if", solver="exact"))
    (evaluation,) = result.evaluations.values()
    before, order = run.right(), run.target_scores.argsort(dim=0, descending=True)
    newton = mf.build("trainer", "newton", tolerance=1e-10)
    flips = []
    for j in range(len(before)):
        for size in (1, 2, 3):
            weights = mf.Weights.ones(evaluation.problem.tasks).without("task", order[:size, j].tolist())
            meta = newton.fit(evaluation.problem, weights, init=evaluation.meta).meta
            point = evaluation.problem.over(evaluation.validation).at(meta)
            after = point.predictions.argmax(dim=-1)[j] == evaluation.validation.query.targets[j]
            if bool((before[j] & ~after).any()):
                flips.append(size)
                break
    found = Brittleness().measure(run)
    assert found["flipped"] == pytest.approx(len(flips) / len(before))
    assert found.get("removals") == (float(np.median(flips)) if flips else None)


def test_overlap_of_both_ends():
    first = torch.tensor([0.0, 1, 2, 3, 4, 5])
    assert overlap(first, first, 2) == 1.0
    assert overlap(first, -first, 3) == 0.0
    assert overlap(first, torch.tensor([0.0, 5, 1, 2, 3, 4]), 2) == 0.5
    run = mf.Measured(None, None, first, {"same": first.clone(), "opposite": -first})
    assert TopOverlap(share=0.5).measure(run) == {"lowest": 0.5, "highest": 0.5}
    assert TopOverlap(share=0.5, other="same").measure(run) == {"lowest": 1.0, "highest": 1.0}
    with refused("There is no run 'sane' to compare with. Name one of these: same, opposite"):
        TopOverlap(other="sane").measure(run)


def test_what_is_lacking_is_a_note_and_the_run_stays(tmp_path):
    config = mf.parse_study(
        changed(**{**STUDY, "truth": None, "methods": ["loss"]}, metrics=["tail", "self-retrieval"])
    )
    (run,) = mf.Study(config, mf.default_registry(), tmp_path).run().runs
    assert run.row.status == "ok"
    assert run.row.notes == ("tail: It compares with retraining, and there is no `truth` here. Give the study one.",)
    assert set(run.row.metrics) == {"self-retrieval.recall@1", "self-retrieval.mrr"}


def test_metrics_are_kept_and_change_nothing_else(result, folder, monkeypatch):
    plain = mf.Study(mf.parse_study(changed(**STUDY)), mf.default_registry(), folder / "store").run()
    assert plain.reused == len(plain.runs)
    assert [replace(run.row, metrics={}).facts() for run in result.runs] == [run.row.facts() for run in plain.runs]
    monkeypatch.setattr(Brittleness, "measure", lambda self, run: pytest.fail("measured again"))
    config = mf.parse_study(changed(**STUDY, metrics=METRICS))
    again = mf.Study(config, mf.default_registry(), folder / "store").run()
    assert [run.row.metrics for run in again.runs] == [run.row.metrics for run in result.runs]


def test_a_study_without_metrics_keeps_the_name_of_its_outcome():
    (before,) = mf.parse_comparison(changed(**STUDY)).variations
    (same,) = mf.parse_comparison(changed(**STUDY, metrics=[])).variations
    (other,) = mf.parse_comparison(changed(**STUDY, metrics=["tail"])).variations
    assert before.id == same.id != other.id
    assert "metrics" not in before.id


def test_a_metric_twice_or_unknown_is_refused(tmp_path):
    for metrics, message in ((["tail", "tail"], "metrics has 'tail' twice"), (["tall"], "Did you mean 'tail'")):
        with refused(message):
            mf.Study(mf.parse_study(changed(**STUDY, metrics=metrics)), mf.default_registry(), tmp_path)


def test_tables_have_the_numbers(tmp_path):
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(
            changed(**{**STUDY, "methods": ["random"], "truth": {"items": 2}}, metrics=["tail", "self-retrieval"])
        )
    )
    with without_pictures():
        done = command(tmp_path, "run", "study.yaml", "--out", "out")
    assert done.returncode == 0, done.stderr
    frame = mf.load_results(tmp_path / "out").results
    assert frame["metric.self-retrieval.mrr"].between(0, 1).all()
    assert "metric.tail.cvar" in frame
    assert "self-retrieval.mrr" in (tmp_path / "out" / "report.html").read_text()


def test_significance_is_corrected_for_the_number_of_targets():
    """One target is predicted, one the wrong way round, one with p = 0.045, which three tries make no evidence."""
    subsets = [(i,) for i in range(12)]
    scores = torch.arange(12.0).unsqueeze(1).expand(-1, 3)
    weak = torch.tensor([7.0, 0, 1, 4, 2, 6, 10, 5, 9, 3, 8, 11])
    value, p = correlation(scores[:, 2].numpy(), weak.numpy())
    assert value > 0
    assert 0.05 / 3 < p < 0.05
    true = torch.stack([scores[:, 0] ** 3, -scores[:, 1], weak], dim=1)
    truth = SimpleNamespace(subsets=subsets, subset_reliability=SimpleNamespace(usable=True))
    run = SimpleNamespace(
        truth=truth,
        target_scores=scores,
        changes_without=lambda removals: true,
        evaluation=SimpleNamespace(truth=truth),
    )
    found = TargetLDS().measure(run)
    assert found["significant"] == pytest.approx(1 / 3)
    assert found["largest p"] == pytest.approx(p)
    assert TargetLDS(level=0.2).measure(run)["significant"] == pytest.approx(2 / 3)
    truth.subsets = ()
    with refused("It needs random subsets, and there are none"):
        TargetLDS().of(run)
