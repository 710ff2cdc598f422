"""Studies whose truth is their own training run: replays, methods that need the run, refusals, interruption."""

import hashlib
import json
import pickle
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import metafluence as mf
from metafluence.evaluation.extremes import ends
from metafluence.reports.figures import trust_figure
from metafluence.reports.study import write_report
from metafluence.runtime import Parcel
from metafluence.training.retraining import _Replay
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.trainers.adam import Adam
from refusals import refused
from small_studies import RUN, without_pictures


def run(folder: Path, **changes) -> mf.StudyResult:
    return mf.Study(mf.parse_study({**RUN, **changes}), mf.default_registry(), folder).run()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("run")
    return run(folder), folder


def test_the_truth_is_what_replays_by_hand_give(done):
    result, _ = done
    evaluation, fit = result.evaluations["task"], result.fit
    truth, targets = result.truth, evaluation.targets()
    by_hand = mf.replayed(fit.run, truth.removals, targets)
    assert torch.equal(truth.change, by_hand.change)
    torch.testing.assert_close(truth.loss_change, by_hand.loss_change[:, 0], rtol=1e-9, atol=1e-14)
    together = mf.replayed(fit.run, truth.subsets, targets).loss_change[:, 0]
    torch.testing.assert_close(truth.subset_loss_change, together, rtol=1e-9, atol=1e-14)
    # And a replay is a fit by hand, from the same start, with other weights.
    problem, trainer = evaluation.problem, Adam(steps=10, batch=6, eps_root=1e-3, checkpoints=0)
    start = fit.run.state(0).meta
    weights = mf.Weights.ones(problem.tasks).without("task", truth.removals[0])
    generator = torch.Generator().manual_seed(fit_seed(result))
    torch.testing.assert_close(trainer.fit(problem, generator=generator).meta, fit.meta, rtol=0, atol=1e-15)
    assert not torch.equal(start, fit.meta)
    generator.manual_seed(fit_seed(result))
    ended = trainer.fit(problem, weights, generator=generator).meta
    torch.testing.assert_close(ended - fit.meta, truth.change[:, 0], rtol=1e-9, atol=1e-14)


def fit_seed(result: mf.StudyResult) -> int:
    return int.from_bytes(hashlib.sha256(f"{result.config.seed} fit".encode()).digest()[:6], "big")


def test_influence_through_the_run_predicts_its_replays(done):
    result, _ = done
    influence, again = result.rows
    assert not result.failed
    assert influence.spearman > 0.95
    assert influence.lds > 0.95
    assert influence.slope == pytest.approx(1, abs=0.15)
    assert influence.change_error < 0.5
    assert again.spearman == pytest.approx(1)
    assert again.change_error == 0
    for row in result.rows:
        assert 0 <= row.accuracy_retrained <= 1


def test_a_lowered_weight_is_scaled_to_a_removal(done, tmp_path):
    result, _ = done
    lowered = run(tmp_path, truth={**RUN["truth"], "weight": 0.9}, methods=["run-influence"])
    (row,) = lowered.rows
    assert row.slope == pytest.approx(1, abs=0.05), "to first order a tenth of a weight is a tenth of a removal"
    assert row.change_error < 0.5 * result.rows[0].change_error
    by_hand = mf.replayed(lowered.fit.run, lowered.truth.removals, lowered.evaluations["task"].targets(), weight=0.9)
    torch.testing.assert_close(lowered.truth.loss_change, 10 * by_hand.loss_change[:, 0], rtol=1e-6, atol=1e-12)


def test_a_finished_study_is_read_from_its_store(done, monkeypatch):
    result, folder = done
    monkeypatch.setattr(Adam, "fit", lambda *a, **k: pytest.fail("fitted again"))
    monkeypatch.setattr(_Replay, "__call__", lambda *a, **k: pytest.fail("replayed again"))
    again = run(folder)
    assert again.reused == 2
    assert torch.equal(again.fit.run.final, result.fit.meta)
    assert [row.lds for row in again.rows] == [row.lds for row in result.rows]


def test_interrupted_in_the_fit_and_in_a_replay_it_ends_in_the_same_bits(done, tmp_path, monkeypatch):
    result, _ = done

    def interrupted_after(count: int, function):
        calls = iter(range(count))

        def counting(*given, **named):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return function(*given, **named)

        return counting

    for where, name, count in ((mf.RunRecorder, "record", 6), (_Replay, "__call__", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, interrupted_after(count, getattr(where, name)))
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path)
    again = run(tmp_path)
    assert torch.equal(again.fit.meta, result.fit.meta)
    assert torch.equal(again.truth.change, result.truth.change)
    assert torch.equal(again.truth.subset_loss_change, result.truth.subset_loss_change)
    assert [(r.spearman, r.lds, r.slope) for r in again.rows] == [(r.spearman, r.lds, r.slope) for r in result.rows]


def test_a_recording_that_is_lost_is_made_again(done, tmp_path):
    result, _ = done
    methods = ["run-influence"]
    run(tmp_path, methods=methods)
    (states,) = tmp_path.glob("training/fit/state-00000003.safetensors")
    states.unlink()
    again = run(tmp_path, methods=[{"use": "run-influence"}, "retrain"])
    assert "has lost its state after 3 steps. Record it again. The fit is made again." in " ".join(again.warnings)
    assert torch.equal(again.fit.meta, result.fit.meta)
    assert again.rows[0].lds == result.rows[0].lds
    assert states.exists()


def test_a_run_that_validation_ended_early_is_replayed_to_that_step(tmp_path):
    trainer = {**RUN["trainer"], "learning_rate": 0.3, "validate_every": 2}
    first = run(tmp_path, trainer=trainer)
    assert 0 < first.fit.best_step < 10
    again = run(tmp_path, trainer=trainer)
    for result in (first, again):
        assert result.fit.run.steps == first.fit.best_step
        torch.testing.assert_close(result.fit.run.final, first.fit.meta, rtol=0, atol=0)


def test_every_level_is_replayed(tmp_path):
    result = run(tmp_path, levels=["query", "support"], methods=["run-influence"], remove=[])
    for level, evaluation in result.evaluations.items():
        truth = evaluation.truth
        by_hand = mf.replayed(result.fit.run, truth.removals, evaluation.targets(), level)
        torch.testing.assert_close(truth.change, by_hand.change, rtol=0, atol=0)
    query, support = result.rows
    assert query.lds > 0.95
    assert query.change_error < 0.2
    assert support.spearman > 0.8, "one of two support instances is half of a class"


class Far(mf.RemoteExecutor):
    """Workers that cannot read the folder of the run."""

    elsewhere = True

    def carry(self, parcel, items, notice):
        assert pickle.loads(parcel._code.tobytes()).run.states._folder is None
        for index, item in enumerate(items):
            yield parcel(index, item)


def test_a_run_goes_to_workers_on_other_machines_with_its_states(done):
    result, folder = done
    evaluation, fit = result.evaluations["task"], result.fit
    stored = mf.load_run(folder / "training" / "fit", evaluation.problem)
    bank = mf.RetrainBank(evaluation.problem, replace(fit, run=stored), Adam(), Far(), start="replay")
    ended = bank.leave_out([(0,), (3,)]).meta[:, 1]
    assert torch.equal(ended, stored.replay(stored.removing("task", (3,))))


def test_a_replay_that_diverges_is_one_that_failed(done, monkeypatch):
    result, _ = done
    evaluation = result.evaluations["task"]

    def replay(self, weights=None):
        if bool(weights.task[2] == 0):
            raise mf.ConvergenceError("At step 3 of a replay the gradient is not finite.")
        return self.final

    bank = mf.RetrainBank(evaluation.problem, result.fit, Adam(), Serial(), start="replay")
    monkeypatch.setattr(mf.TrainingRun, "replay", replay)
    found = bank.leave_out([(1,), (2,)], strict=False)
    assert found.converged.tolist() == [True, False]
    assert found.complaint().endswith("At step 3 of a replay the gradient is not finite.")
    with pytest.raises(mf.InputError, match=r"no recorded run to replay. Make it with record=True"):
        mf.RetrainBank(evaluation.problem, replace(result.fit, run=None), Adam(), Serial(), start="replay")


def test_the_dry_run_counts_replays(tmp_path):
    raw = {**RUN, "truth": {**RUN["truth"], "extremes": [0.1]}}
    work = mf.Comparing(mf.parse_comparison(raw), mf.default_registry(), tmp_path)
    found = mf.pilot(work)
    assert (found.fits, found.retrainings) == (1, 5 + 6 + 2 * 2 + 12 + 2 * 2 + 19)
    assert "1 fit and at most 50 replays." in " ".join(found.sentences())


@pytest.mark.slow
def test_processes_give_the_same_truth(done, tmp_path):
    result, _ = done
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = run(tmp_path, executor={"use": "processes", "jobs": 2}, methods=["run-influence"])
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(again.truth.change, result.truth.change, rtol=1e-9, atol=1e-13)


def test_a_run_travels_to_other_machines_in_memory(done):
    result, folder = done
    stored = mf.load_run(folder / "training" / "fit", result.evaluations["task"].problem)
    parcel = Parcel(_Replay(stored.in_memory(), "task", 0.0))
    (folder / "training").rename(folder / "elsewhere")
    try:
        _, outcome = parcel(0, parcel.seal((0,)))
    finally:
        (folder / "elsewhere").rename(folder / "training")
    assert torch.equal(parcel.open(outcome).meta, stored.replay(stored.removing("task", (0,))))


def test_the_certificate_is_the_run_s_own(tmp_path):
    result = run(tmp_path, certificate=True, methods=["run-influence"])
    (found,) = result.certificates
    assert found.method == "run-influence"
    assert "It holds for this run alone." in found.verdict
    assert [check.name for check in found.checks] == ["metasmoothness", "floor", "weight 0.9", "order", "sizes"]
    assert mf.Certificate.from_facts(json.loads(json.dumps(asdict(found)))) == found
    assert found.trust is not None
    drawn = trust_figure(result.certificates, "task")
    assert drawn is not None
    floor, sets, growth = drawn.axes
    assert floor.lines[0].get_ydata().tolist() == list(found.trust.moved)
    offsets = np.stack([found.trust.true, found.trust.predicted], axis=1)
    assert np.array_equal(sets.collections[0].get_offsets(), offsets)
    assert growth.lines[0].get_ydata().tolist() == list(found.trust.adjoint)
    assert trust_figure(result.certificates, "query") is None


WRONG = {
    "unknown": (
        {"truth": {"kind": "runs"}},
        "truth.kind is 'runs', but 'minimum' or 'run' or 'procedure' or 'proximal' is expected. Give one",
    ),
    "newton": ({"trainer": "newton"}, "newton records no run to replay. Give a trainer of minibatches, such as adam"),
    "seeds": ({"truth": {"kind": "run", "seeds": 2}}, "truth.seeds has no meaning for `kind: run`; leave it out"),
    "start": ({"truth": {"kind": "run", "start": "cold"}}, "truth.start has no meaning for `kind: run`; leave it out"),
    "weight": ({"truth": {"weight": 0.9}}, "truth.weight has no meaning for `kind: minimum`; add `kind: run`"),
    "all": ({"truth": {"kind": "run", "weight": 1.0}}, "truth.weight is 1.0, but a number at least 0 and below 1"),
    "minimum": (
        {"truth": {}, "trainer": "newton"},
        "run-influence works on a recorded run of meta-training and this study has none. In a study, give a trainer of "
        "minibatches and compare with its run: `trainer: adam`, `truth: {kind: run}`",
    ),
    "adam": ({"truth": None}, "run-influence works on a recorded run"),
    "budget": ({"budget": {"methods": ["run-influence"]}}, "budget splits errors of predicted minima. Remove it"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_has_no_run_is_refused_before_anything_is_computed(changes, message, tmp_path):
    with refused(re.escape(message)):
        mf.Study(mf.parse_study({**RUN, **changes}), mf.default_registry(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_trainer_that_records_serves_methods_whatever_the_truth(tmp_path):
    result = run(tmp_path, truth=None, trainer={**RUN["trainer"], "record": True}, methods=["run-influence"])
    assert not result.failed
    assert np.isnan(result.rows[0].spearman)


def test_a_study_of_images_says_which_files_to_look_at(tmp_path):
    result = run(
        tmp_path,
        levels=["image", "query", "class"],
        corruption={"kind": "image-labels", "fraction": 0.2},
        methods=["loss"],
    )
    with without_pictures():
        write_report(result, tmp_path)
    origins, tasks = result.split.train.origins, result.split.train
    assert origins is not None
    images = pd.read_csv(tmp_path / "scores-image.csv", dtype={"class": str})
    assert images["image"].tolist() == list(origins.images)
    assert images["class"].tolist() == [origins.classes[i] for i in origins.labels.tolist()]
    wrong = images["image"].str.split("/").str[0] != images["class"]
    assert images["corrupted"].tolist() == wrong.tolist()
    assert np.allclose(images["loss"], result.at("image")[0].scores)
    truth = result.evaluations["image"].truth
    assert truth is not None
    known = images.loc[[removal[0] for removal in truth.removals], "true loss change"]
    assert np.allclose(known, truth.loss_change)
    assert images["true loss change"].notna().sum() == len(truth.removals)
    by_hand = mf.replayed(result.fit.run, truth.removals, result.evaluations["image"].targets(), "image")
    assert torch.allclose(by_hand.loss_change[:, 0].double(), truth.loss_change.double(), atol=1e-12)
    queries = pd.read_csv(tmp_path / "scores-query.csv")
    assert queries["image"].tolist() == [origins.images[i] for i in origins.query.flatten().tolist()]
    assert queries["task"].tolist() == [name for name in tasks.ids for _ in range(tasks.each("query"))]
    assert pd.read_csv(tmp_path / "scores-class.csv", dtype=str)["class"].tolist() == list(origins.classes)


def test_the_truth_of_a_late_recording_is_of_what_its_steps_saw(tmp_path):
    result = run(tmp_path, trainer={**RUN["trainer"], "record_after": 8, "batch": 2}, methods=["run-influence"])
    seen = set(result.fit.run.drawn("task").tolist())
    asked = [item for removal in (*result.truth.removals, *result.truth.subsets) for item in removal]
    assert result.fit.run.steps == 2
    assert len(seen) < len(result.runs[0].scores)
    assert set(asked) <= seen
    asked_of = result.evaluations["task"]
    for removal in ends(torch.zeros(len(result.runs[0].scores)), (1, 3), asked_of.seen):
        assert set(removal) <= seen
    assert asked_of.remove == (1, 1)
    unseen = [i for i in range(len(result.runs[0].scores)) if i not in seen]
    assert not result.runs[0].scores[unseen].any()
    assert f"The recorded steps saw {len(seen)} of" in " ".join(result.warnings)
