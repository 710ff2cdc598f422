"""Replays as ground truth, and whether a run is to be trusted: one that is smooth and one that is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import metafluence as mf
import small_loops
from metafluence import BilevelProblem, InputError, Targets
from metafluence.evaluation import run_scores
from metafluence.evaluation.ground_truth import draw_subsets
from metafluence_plugins.learners.protonet import ProtoNet
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.sgd import SGD
from parts import EXACT
from small_problems import problem, seeded, tasks


def recorded(trainer, bilevel: BilevelProblem) -> tuple[mf.TrainingRun, Targets]:
    run = replace(trainer, record=True).fit(bilevel, generator=seeded()).run
    assert run is not None
    return run, Targets(bilevel, tasks(4, seed=1), run.final)


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_a_replay_without_items_is_training_without_them(level):
    bilevel, trainer = problem(), Adam(steps=4, batch=4)
    run, targets = recorded(trainer, bilevel)
    removals = [(1,), (0, 3)]
    found = mf.replayed(run, removals, targets, level)
    for removal, change, loss in zip(removals, found.change.T, found.loss_change, strict=True):
        weights = mf.Weights.ones(bilevel.tasks).without(level, removal)
        end = trainer.fit(bilevel, weights, generator=seeded()).meta
        assert torch.equal(run.final + change, end) or torch.allclose(run.final + change, end, atol=1e-15)
        torch.testing.assert_close(loss, targets.losses(end) - targets.losses(run.final), rtol=1e-9, atol=1e-15)
    seen = []
    part = mf.replayed(run, removals, targets, level, 0.9, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert float(part.change.norm()) < 0.5 * float(found.change.norm())


def test_a_smooth_run_is_trusted():
    run, targets = recorded(SGD(steps=8, batch=8, learning_rate=0.05), problem(tasks(24)))
    found = mf.run_trust(run, targets, share=0.1)
    assert found.verdict == "sizes", found.reason
    assert found.metasmoothness > 0.95
    assert found.moved == pytest.approx((1, 1, 1, 1), rel=0.2)
    assert found.lowered_cosine > 0.99
    assert found.lowered_ratio == pytest.approx(1, rel=0.1)
    goal = targets.at(run.final).gradients().mean(dim=1, keepdim=True)
    norms = mf.run_adjoint(run, goal).growth[:, 0]
    assert found.growth == pytest.approx(float(norms.max() / norms[-1]))
    assert found.adjoint_steps == tuple(range(9))
    assert found.adjoint == pytest.approx(norms.tolist())
    true, predicted = np.array(found.true), np.array(found.predicted)
    assert found.slope == pytest.approx(np.polyfit(true, predicted, 1)[0], rel=1e-6)
    assert np.abs(predicted / true - 1).max() < 0.2
    assert "in order" in found.reason
    assert found.kinks == ()


def test_a_run_at_the_edge_of_stability_is_not():
    """A rectified network at a rate far too large, where small changes decide the end."""
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
    bilevel = BilevelProblem(ProtoNet(module), tasks(24), 0.0, EXACT)
    run, targets = recorded(Adam(steps=25, batch=4, learning_rate=0.15), bilevel)
    found = mf.run_trust(run, targets, share=0.1)
    assert found.verdict == "none"
    assert "What helps, in this order: a network without kinks (smooth_twin; now: 1 (ReLU));" in found.reason
    assert found.growth > 1


def test_what_cannot_be_tried_is_refused():
    run, targets = recorded(SGD(steps=2), problem())
    for options in ({"subsets": 2}, {"share": 0.0}, {"share": 1.0}):
        with pytest.raises(InputError, match=r"at least 3 subsets and a share in \(0, 1\)"):
            mf.run_trust(run, targets, **options)


def test_a_run_that_no_item_moves_is_said_to_be_one():
    run, targets = recorded(SGD(steps=3, batch=8, learning_rate=0.05), problem(tasks(24)))
    still = replace(run, rates=(0.0,) * 3, batches=run.batches)
    still = mf.remade_run(still)
    found = mf.run_trust(still, targets, share=0.1)
    assert found.verdict == "none"
    assert "No item's weight moves the end of this run" in found.reason
    for removals in ([], [(99,)]):
        with pytest.raises(InputError, match=r"nothing to remove|no task item 99"):
            mf.replayed(run, removals, targets)


def smooth() -> tuple[mf.TrainingRun, Targets, torch.Tensor]:
    """A smooth run, its targets, and the run's derivative by each task, which `run-influence` scores by."""
    run, targets = recorded(SGD(steps=8, batch=8, learning_rate=0.05), problem(tasks(24)))
    context = mf.Context(run.problem.at(run.final), run=run)
    return run, targets, mf.attribute(mf.build("method", "run-influence"), context, targets).values.mean(dim=1)


def test_scores_of_any_method_are_tried_by_replays_without_sets_of_items():
    run, targets, right = smooth()
    found = mf.scores_trust(run, targets, right, sized=True, share=0.1)
    assert found.verdict == "sizes", found.reason
    sets = draw_subsets(run.drawn("task"), 16, 0.1, torch.Generator().manual_seed(0))
    true = mf.replayed(run, sets, targets).loss_change.mean(dim=1)
    assert found.true == pytest.approx(true.tolist())
    assert found.predicted == pytest.approx([float(sum(right[i] for i in one)) for one in sets])
    ranked = mf.scores_trust(run, targets, right, sized=False, share=0.1)
    assert (ranked.verdict, ranked.order) == ("order", found.order)
    assert "size" not in ranked.reason
    large = mf.scores_trust(run, targets, 3 * right, sized=True, share=0.1)
    assert large.verdict == "order"
    assert large.slope == pytest.approx(3 * found.slope)
    shuffled = right[torch.randperm(24, generator=seeded())]
    other = mf.scores_trust(run, targets, shuffled, sized=True, share=0.1)
    assert other.verdict == "none"
    assert "Sums of these scores order sets left out with Spearman" in other.reason


def test_scores_are_tried_on_no_fewer_sets_than_tell_an_order_from_chance():
    run, targets, right = smooth()
    for options in ({"subsets": 9}, {"share": 1.0}):
        with pytest.raises(InputError, match=r"at least 10 subsets and a share in \(0, 1\)"):
            mf.scores_trust(run, targets, right, sized=True, **options)


@pytest.mark.parametrize(("name", "trial"), [("run-influence", "derivative"), ("loss", "order"), ("source", "sizes")])
def test_the_trial_is_of_the_scores_that_are_shown(name, trial, monkeypatch):
    run = smooth()[0]

    def scores_trust(run, targets, scores, sized, level):
        return mf.RunTrust("none", "sizes" if sized else "order")

    monkeypatch.setattr(run_scores, "run_trust", lambda run, targets, level: mf.RunTrust("none", "derivative"))
    monkeypatch.setattr(run_scores, "scores_trust", scores_trust)
    found = mf.score_run(run, tasks(4, seed=1), mf.build("method", name)).trust
    assert found is not None
    assert found.reason == trial


def test_a_method_that_replays_every_item_is_sent_to_a_study():
    run, _, _ = smooth()
    with pytest.raises(InputError, match=r"Retrain replays the run without every item. Ask for it in a study"):
        mf.score_run(run, tasks(4, seed=1), mf.build("method", "retrain"))


def test_replays_of_another_loop_than_was_described_are_refused(tmp_path):
    """The loop's end is moved by hand, as if it had done at its last steps what its description does not say."""
    run = small_loops.recorded(tmp_path)
    moved = replace(run)
    object.__setattr__(moved, "__dict__", {**vars(moved), "final": run.final + 0.1})
    support_x, support_y, query_x, query_y = small_loops.validation()
    new = mf.TaskSet(mf.Batch(support_x, support_y), mf.Batch(query_x, query_y), ("a", "b", "c"))
    with pytest.raises(InputError, match=r"not of this loop. .* misses the recorded one's end by .*check_every=1"):
        mf.replayed(moved, [(0,)], Targets(run.problem, new, moved.final))
    found = mf.score_run(moved, new, mf.build("method", "loss")).trust
    assert found is not None
    assert found.verdict == "none"
    assert "not of this loop" in found.reason
    right, exact = mf.replayed(run, [(0,)], Targets(run.problem, new, run.final)), mf.remade_run(run)
    wanted = mf.replayed(exact, [(0,)], Targets(run.problem, new, exact.final))
    torch.testing.assert_close(right.loss_change, wanted.loss_change, rtol=0, atol=0)
