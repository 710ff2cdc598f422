"""Ground truth at every level: removals that are drawn, subsets, intervals, other seeds, and kept fits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

import metafluence as mf
from metafluence.evaluation.ground_truth import draw_removals, retrain
from metafluence.evaluation.metrics import bootstrap
from metafluence.evaluation.truth_kind import TruthKind
from metafluence.runtime import Shelf
from metafluence.testing.worlds import world
from metafluence.training.stored_fit import stored_fit
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.executors.processes import Processes
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.learners.logistic_head import LogisticHead
from metafluence_plugins.learners.protonet import ProtoNet
from metafluence_plugins.trainers.newton import Newton
from parts import EXACT, NEWTON


@given(items=st.integers(2, 300), count=st.integers(2, 80), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_removals_are_drawn_as_asked(items, count, share, seed):
    singles, subsets = draw_removals(torch.arange(items), count, 3, share, torch.Generator().manual_seed(seed))
    assert len(set(singles)) == min(count, items)
    assert all(0 <= r[0] < items and len(r) == 1 for r in singles)
    assert [len(set(s)) for s in subsets] == 3 * [min(max(1, round(share * items)), items - 1)]
    assert draw_removals(torch.arange(items), count, 3, share, torch.Generator().manual_seed(seed)) == (
        singles,
        subsets,
    )


def test_all_items_are_all():
    singles, _ = draw_removals(torch.arange(100), "all", 0, 0.5, torch.Generator())
    assert singles == [(i,) for i in range(100)]


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_the_truth_is_what_retraining_gives(level):
    here = world(0)
    context, targets = here.context(level), here.targets(mean=True)
    singles, subsets = [(0,), (3,), (5,)], [(0, 3), (1, 2, 5), (4, 6), (2, 3)]
    truth, complaint = retrain(singles, subsets, level, context.bank, targets)
    assert complaint == ""
    assert truth.removals == tuple(singles)
    assert truth.subsets == tuple(subsets)
    change, loss = here.truth[level]
    assert torch.allclose(truth.change, change[:, [0, 3, 5]], atol=1e-8)
    assert torch.allclose(truth.loss_change, loss[[0, 3, 5]], atol=1e-8)
    wanted = context.bank.leave_out([(1, 2, 5)], level).meta[:, 0]
    assert float(truth.subset_loss_change[1]) == pytest.approx(float(targets.losses(wanted) - targets.losses()))
    assert truth.ceiling.seeds == 0
    assert np.isnan(truth.ceiling.spearman)


def test_a_procedure_of_lowered_weights_scales_the_changes_of_all_its_runs():
    here = world(0)
    context, targets = here.context("task"), here.targets(mean=True)
    removals = ([(0,), (3,), (5,)], [(0, 3), (1, 2)], "task", context.bank, targets)
    one, _ = retrain(*removals, kind=TruthKind("minimum", weight=0.9))
    same, _ = retrain(*removals, [(context.bank, targets)], TruthKind("procedure", weight=0.9))
    torch.testing.assert_close(same.loss_change, one.loss_change)
    torch.testing.assert_close(same.subset_loss_change, one.subset_loss_change)


def thin_classes() -> tuple[mf.BilevelProblem, mf.Fit]:
    """Prototypes of one to three support instances: those of a class with one cannot be had without it."""
    generator = torch.Generator().manual_seed(0)

    def half(labels: list[int]) -> mf.Batch:
        targets = torch.tensor(labels).expand(4, -1).clone()
        noise = torch.randn(4, len(labels), 2, generator=generator, dtype=torch.float64)
        return mf.Batch(noise + 2 * torch.eye(2).double()[targets], targets)

    tasks = mf.TaskSet(half([0, 1, 1, 1]), half([0, 0, 1, 1]), ("a", "b", "c", "d"))
    problem = mf.BilevelProblem(ProtoNet(MLP((2,))), tasks, 1.0, EXACT)
    return problem, NEWTON.fit(problem, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("executor", [Serial(), Processes(2)], ids=["serial", "processes"])
def test_a_removal_that_the_problem_refuses_is_one_that_failed(executor, tmp_path):
    problem, fit = thin_classes()
    bank = mf.RetrainBank(problem, fit, NEWTON, executor, tmp_path)
    found = bank.leave_out([(1,), (4,), (2,)], "support", strict=False)
    assert found.converged.tolist() == [True, False, True]
    assert "Class 0 of task 1" in found.reasons[1]
    assert found.reasons[::2] == ("", "")
    assert bool(found.meta[:, 1].isnan().all())
    assert bool(found.meta[:, ::2].isfinite().all())
    assert found.complaint().startswith("1 of 3 retrainings could not be made: Class 0 of task 1")
    again = mf.RetrainBank(problem, fit, NEWTON, executor, tmp_path).leave_out([(4,)], "support", strict=False)
    assert again.reasons == (found.reasons[1],)  # kept, as what else is known
    with pytest.raises(mf.ConvergenceError, match=r"Class 0 of task 1.*without support \[4\]\.$"):
        bank.leave_out([(1,), (4,)], "support")
    with pytest.raises(mf.ConvergenceError, match=r"without support \[0, 1, 2, 3, 4, 5, 6, 7\] and 4 more\.$"):
        bank.leave_out([tuple(range(12))], "support")


def test_the_truth_does_without_removals_that_fail():
    problem, fit = thin_classes()
    bank, targets = mf.RetrainBank(problem, fit, NEWTON, Serial()), mf.Targets(problem, problem.tasks, fit.meta)
    truth, complaint = retrain([(1,), (4,), (2,), (6,)], [(0, 1), (2, 7)], "support", bank, targets)
    assert complaint.startswith("2 of 6 retrainings could not be made")
    assert truth.removals == ((1,), (2,), (6,))
    assert truth.subsets == ((2, 7),)
    wanted = bank.leave_out([(1,), (2,), (6,), (2, 7)], "support").meta
    assert torch.equal(truth.change, wanted[:, :3] - fit.meta.unsqueeze(1))
    losses = [float(targets.losses(meta) - targets.losses()) for meta in wanted.T]
    assert [*truth.loss_change.tolist(), *truth.subset_loss_change.tolist()] == pytest.approx(losses)
    nothing, complaint = retrain([(0,), (4,)], [], "support", bank, targets)
    assert nothing is None
    assert complaint.startswith("2 of 2 retrainings could not be made")


def test_what_fails_from_another_seed_alone_is_said_and_left_out():
    here = world(0)
    context, targets = here.context("task"), here.targets(mean=True)
    failing = mf.RetrainBank(here.problem, here.fit, Newton(max_steps=0, warmup=0), Serial())
    truth, complaint = retrain([(0,), (1,), (2,)], [], "task", context.bank, targets, [(failing, targets)])
    assert truth is None
    assert complaint == "Of the rest, 3 failed from another seed: 3 of 3 retrainings did not converge."


def test_the_same_retraining_agrees_with_itself_wholly():
    here = world(0)
    context, targets = here.context("task"), here.targets(mean=True)
    removals = [(i,) for i in range(5)], [(0, 3), (1, 2, 5), (4, 6), (2, 3)]
    truth, _ = retrain(*removals, "task", context.bank, targets, [(context.bank, targets)])
    assert truth.ceiling.seeds == 1
    assert truth.ceiling.spearman == pytest.approx(1)
    assert truth.ceiling.lds == pytest.approx(1)
    other = world(1)  # other data altogether: no more than chance
    theirs = other.context("task").bank, other.targets(mean=True)
    two, _ = retrain(*removals, "task", context.bank, targets, [(context.bank, targets), theirs])
    assert two.ceiling.seeds == 2
    assert two.ceiling.spearman < 1
    alone, _ = retrain(*removals, "task", context.bank, targets, [theirs])
    for what in ("pearson", "spearman", "lds"):  # the mean over both
        assert getattr(two.ceiling, what) == pytest.approx((1 + getattr(alone.ceiling, what)) / 2)
    assert two.ceiling.spearman_low <= two.ceiling.spearman <= two.ceiling.spearman_high
    assert f"agrees to {two.ceiling.spearman:.3f} ({two.ceiling.spearman_low:.2f} to" in two.ceiling.sentence
    assert mf.Ceiling().sentence == ""


def test_items_may_keep_a_part_of_their_weight():
    """Retraining at weight ½ is another fit than at 0, kept under a name of its own, and between the two."""
    here = world(0)
    bank = here.context("query").bank
    whole = bank.leave_out([(3,)], "query").meta[:, 0] - here.fit.meta
    half = bank.leave_out([(3,)], "query", weight=0.5).meta[:, 0] - here.fit.meta
    weights = mf.Weights.ones(here.problem.tasks).set("query", 3, 0.5)
    assert float(here.problem.at(here.fit.meta + half, weights).gradient.norm()) < 1e-8
    assert 0.3 < float(half.norm() / whole.norm()) < 0.7
    assert torch.equal(bank.leave_out([(3,)], "query").meta[:, 0] - here.fit.meta, whole)


@given(seed=st.integers(0, 1000), n=st.integers(5, 30))
@settings(max_examples=10)
def test_rank_agreement_is_scipys_with_its_bootstrap_interval(seed, n):
    generator = np.random.default_rng(seed)
    a = generator.normal(size=n)
    b = a + generator.normal(size=n)
    found = mf.rank_agreement(a, b, 400)
    assert found.value == pytest.approx(stats.spearmanr(a, b)[0])
    drawn = np.random.default_rng(0).integers(n, size=(400, n))
    wanted = [stats.spearmanr(a[d], b[d])[0] for d in drawn if len(set(d)) > 1]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(wanted, [0.025, 0.975])))
    assert found == mf.rank_agreement(a, b, 400)


def test_the_agreement_of_several_is_the_mean_of_each_on_the_same_draws():
    generator = np.random.default_rng(0)
    true, several = generator.normal(size=9), generator.normal(size=(3, 9))
    found, each = mf.rank_agreement(several, true), [mf.rank_agreement(one, true) for one in several]
    assert found.value == pytest.approx(np.mean([one.value for one in each]))
    assert mf.rank_agreement(several[[1, 1]], true) == pytest.approx(each[1])
    assert found.high - found.low < max(one.high - one.low for one in each)


def test_nothing_is_said_where_nothing_varies():
    assert np.isnan(bootstrap(np.empty(0), np.median).value)
    assert np.isnan(mf.rank_agreement(np.ones(5), np.arange(5.0)).value)
    assert np.isnan(mf.rank_agreement(np.arange(2.0), np.arange(2.0)).value)


def test_lds_is_the_rank_agreement_of_summed_scores():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=20)
    subsets = [tuple(generator.permutation(20)[:6]) for _ in range(12)]
    true = np.array([scores[list(s)].sum() for s in subsets])
    assert mf.linear_datamodeling_score(scores, subsets, true).value == pytest.approx(1)
    assert mf.linear_datamodeling_score(-scores, subsets, true).value == pytest.approx(-1)
    noisy = true + generator.normal(size=12)
    wanted = stats.spearmanr(true, noisy)[0]
    assert mf.linear_datamodeling_score(scores, subsets, noisy).value == pytest.approx(wanted)


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(values, np.mean, 4000)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_a_fit_is_kept_with_its_checkpoints(tmp_path):
    shelf = Shelf(tmp_path, "a study", pytest.fail)
    descent = mf.build("trainer", "sgd", steps=6, checkpoints=3)
    problem = world(0).problem
    fit = stored_fit(shelf, "fit", lambda: descent.fit(problem, generator=torch.Generator().manual_seed(0)))
    again = stored_fit(shelf, "fit", lambda: pytest.fail("fitted again"))
    assert len(fit.checkpoints) == 3
    for one, other in zip(fit.checkpoints, again.checkpoints, strict=True):
        assert (one.step, one.learning_rate) == (other.step, other.learning_rate)
        assert torch.equal(one.meta, other.meta)
        assert torch.equal(one.before, other.before)
    assert torch.equal(fit.meta, again.meta)
    assert again.seconds == fit.seconds
    assert stored_fit(shelf, "newton", lambda: world(0).fit).checkpoints == ()
    assert stored_fit(shelf, "newton", lambda: pytest.fail("fitted again")).checkpoints == ()


# Work that fits from one start share.


@pytest.fixture(scope="module")
def many() -> mf.BilevelProblem:
    """On real digits, with meta-parameters enough for plain CG to take many products."""
    episodes = mf.Episodes(train=8, validation=1, test=1, way=3, shot=2, query=3, split="instances")
    tasks = mf.build("dataset", "digits").tasks(episodes, torch.Generator().manual_seed(0), torch.float64).train
    return mf.BilevelProblem(LogisticHead(MLP((4,)), penalty=0.5), tasks, 1.0, EXACT)


@pytest.mark.parametrize(
    "level", ["query", *(pytest.param(one, marks=pytest.mark.slow) for one in ("task", "support"))]
)
def test_fits_that_share_a_factor_end_where_plain_ones_do_for_fewer_products(many, level, tmp_path):
    fit = NEWTON.fit(many)
    removals = [(i,) for i in range(6)] + [(0, 2, 5), (1, 3)]
    bank = mf.RetrainBank(many, fit, NEWTON, Serial(), tmp_path)
    shared = bank.leave_out(removals, level)
    plain = mf.RetrainBank(many, fit, _Plain(NEWTON.tolerance), Serial()).leave_out(removals, level)
    assert bool(shared.converged.all())
    assert float(shared.gradient_norm.max()) < NEWTON.tolerance
    moved = (plain.meta - fit.meta.unsqueeze(1)).norm(dim=0)
    assert float(((shared.meta - plain.meta).norm(dim=0) / moved).max()) < 1e-7
    if level != "task":  # one task of eight is a large part of the Hessian
        assert float(shared.products.sum()) < 0.5 * float(plain.products.sum())
    # The shared work counts once, for whoever asks, also when the fits come from the store.
    assert (plain.shared_seconds, plain.shared_products) == (0.0, 0)
    assert shared.shared_products == many.size
    assert shared.cost() == pytest.approx(float(shared.seconds.sum()) + shared.shared_seconds)
    again = mf.RetrainBank(many, fit, NEWTON, Serial(), tmp_path).leave_out(removals[:2], level)
    assert again.shared_seconds == shared.shared_seconds > 0
    assert again.cost() == pytest.approx(float(shared.seconds[:2].sum()) + shared.shared_seconds)


class _Plain(Newton):
    def near(self, problem, meta, fits):
        return None


def test_a_fit_that_does_not_stay_near_is_made_as_if_nothing_were_shared(many):
    fit = NEWTON.fit(many)
    removals = [(0, 1, 2, 3, 4, 5), (6,)]
    trainer = NEWTON.near(many, fit.meta, 8).trainer
    for removal in removals:
        weights = mf.Weights.ones(many.tasks).without("task", removal)
        plain, shared = (one.fit(many, weights, fit.meta) for one in (NEWTON, trainer))
        if len(removal) > 1:
            assert torch.equal(plain.meta, shared.meta)
            assert shared.products > plain.products  # what it took to see it is counted
        assert shared.converged


def test_work_is_shared_only_where_it_pays_and_the_hessian_is_definite(many):
    fit = NEWTON.fit(many)
    assert NEWTON.near(many, fit.meta, 1) is None
    assert NEWTON.near(many, fit.meta, 8).products == many.size
    hollow = many.over(many.tasks)
    object.__setattr__(hollow, "l2", -5.0)
    assert NEWTON.near(hollow, fit.meta, 8) is None
    assert mf.build("trainer", "adam").near(many, fit.meta, 8) is None


def test_a_cold_start_shares_nothing(many):
    fit = NEWTON.fit(many)
    found = mf.RetrainBank(many, fit, NEWTON, Serial(), start="cold").leave_out([(i,) for i in range(3)])
    assert found.shared_products == 0
