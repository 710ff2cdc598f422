"""Fits, attribution methods, the retrain bank, metrics and diagnostics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn import metrics as reference

import metafluence as mf
from metafluence import Batch, BilevelProblem, Context, RetrainBank, Targets, TaskSet, Weights
from metafluence.bilevel.linearisation import Jacobian
from metafluence.testing import assert_derivative, central_difference
from metafluence.testing.problems import random_meta
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.curvatures.direct import DirectCurvature
from metafluence_plugins.executors.processes import Processes
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.logistic_head import LogisticHead
from metafluence_plugins.methods.direct_if import DirectIF
from metafluence_plugins.methods.gradient_similarity import GradientSimilarity
from metafluence_plugins.methods.influence import InfluenceFunction, LeaveOneOut
from metafluence_plugins.methods.loss import LossScore
from metafluence_plugins.methods.random import RandomScore
from metafluence_plugins.methods.retrain import Retrain
from metafluence_plugins.methods.task_if import TaskIF
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.newton import Newton
from parts import EXACT, LEARNERS, NEWTON, TIGHT

# So strong that first order holds where one of six tasks is removed.
STRENGTH = {"ridge-head": 5.0}


def tasks(count: int = 6, seed: int = 0) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)

    def half(n: int) -> Batch:
        targets = torch.arange(n).remainder(3).expand(count, -1).clone()
        inputs = torch.randn(count, n, 3, generator=generator, dtype=torch.float64)
        return Batch(inputs + torch.eye(3).double()[targets], targets)

    return TaskSet(half(6), half(6), tuple(f"task-{i}" for i in range(count)))


class Fitted:
    """A problem at its λ*, with other tasks as targets."""

    def __init__(self, learner=LEARNERS["logistic-head"], l2: float = 1.0) -> None:
        self.problem = BilevelProblem(learner(), tasks(), l2, EXACT)
        self.fit = NEWTON.fit(self.problem, generator=torch.Generator().manual_seed(0))
        self.point = self.problem.at(self.fit.meta)
        self.bank = RetrainBank(self.problem, self.fit, NEWTON, Serial())
        self.context = Context(self.point, bank=self.bank)
        self.targets = Targets(self.problem, tasks(3, seed=9), self.fit.meta, mean=False)


@pytest.fixture(scope="module", params=LEARNERS)
def fitted(request) -> Fitted:
    return Fitted(LEARNERS[request.param], STRENGTH.get(request.param, 1.0))


@pytest.fixture(scope="module")
def one() -> Fitted:
    """One learner, for what does not depend on learners."""
    return Fitted()


def dense(operator: mf.LinearOperator) -> torch.Tensor:
    matrix = operator.dense()
    return (matrix + matrix.mT) / 2


# Fits.


def test_newton_reaches_a_minimum(fitted):
    assert fitted.fit.converged
    assert fitted.fit.gradient_norm < 1e-10
    assert float(fitted.point.gradient.norm()) == fitted.fit.gradient_norm
    assert torch.linalg.eigvalsh(dense(fitted.point.hessian()))[0] > 0


def test_newton_without_enough_steps_says_so(fitted):
    fit = Newton(warmup=1, max_steps=1).fit(fitted.problem, generator=torch.Generator().manual_seed(0))
    assert not fit.converged
    assert fit.gradient_norm > 1e-9


def test_newton_leaves_a_saddle_along_negative_curvature():
    """At zero a tanh network is stationary by symmetry, and no minimum where l2 is small."""
    problem = BilevelProblem(LogisticHead(MLP((3,)), penalty=0.01), tasks(), 1e-3, EXACT)
    start = 1e-7 * random_meta(problem)
    assert torch.linalg.eigvalsh(dense(problem.at(start).hessian()))[0] < 0
    fit = Newton(tolerance=1e-8, max_steps=300).fit(problem, init=start)
    assert fit.converged
    assert torch.linalg.eigvalsh(dense(problem.at(fit.meta).hessian()))[0] > 0


def test_newton_is_refused_in_single_precision():
    problem = BilevelProblem(LEARNERS["imaml"](), tasks().to(dtype=torch.float32), 1.0, EXACT)
    with pytest.raises(mf.InputError, match="dtype: float64"):
        NEWTON.fit(problem)


def test_adam_comes_near_the_exact_fit_and_keeps_checkpoints(one):
    seen = []
    trainer = Adam(steps=100, batch=6, learning_rate=0.02, checkpoints=4)
    fit = trainer.fit(
        one.problem, init=one.fit.meta + 0.05, generator=torch.Generator().manual_seed(0),
        progress=lambda *a: seen.append(a),
    )  # fmt: skip
    assert [c.step for c in fit.checkpoints] == [25, 50, 75, 100]
    assert torch.equal(fit.checkpoints[-1].meta, fit.meta)
    assert (fit.meta - one.fit.meta).norm() < 0.02 * (1 + one.fit.meta.norm())
    assert len(seen) == 100
    short = replace(trainer, steps=10)
    once, again = (short.fit(one.problem, generator=torch.Generator().manual_seed(0)).meta for _ in range(2))
    assert torch.equal(once, again)


def test_adam_minibatches_leave_out_removed_tasks(one):
    """With weight zero everywhere only l2 is left, and it pulls to zero."""
    weights = Weights.ones(one.problem.tasks).without("task", range(6))
    fit = Adam(steps=150, batch=2, learning_rate=0.1).fit(one.problem, weights, one.fit.meta)
    assert fit.meta.norm() < 1e-2 * one.fit.meta.norm()


# Influence.


def test_task_if_is_the_dense_formula_and_its_sign_that_of_retraining(fitted):
    for solver in (EXACT, TIGHT):
        method = TaskIF(solver=solver, damping=0.1)
        state = method.prepare(fitted.context)
        damped = dense(fitted.point.hessian()) + 0.1 * torch.eye(fitted.problem.size)
        responses = fitted.point.task_gradients()
        change = method.parameter_change(state, fitted.context.singles())
        assert torch.allclose(change.values, torch.linalg.solve(damped, responses), atol=1e-9)
        scores = method.scores(state, fitted.targets)
        assert torch.allclose(scores.values, responses.T @ torch.linalg.solve(damped, fitted.targets.gradients()))
        assert scores.solve.residual < 1e-9
        assert scores.solve.products > 0
        assert scores.units == "loss_change"


def test_scores_predict_what_retraining_does(fitted):
    true = Retrain().scores(Retrain().prepare(fitted.context), fitted.targets).values
    changes = fitted.bank.leave_out(fitted.context.singles()).meta - fitted.fit.meta.unsqueeze(1)
    method = TaskIF(solver=EXACT)
    state = method.prepare(fitted.context)
    found = method.scores(state, fitted.targets).values
    assert stats.pearsonr(found.flatten(), true.flatten())[0] > 0.95  # the first-order limit on six tasks
    agreement = mf.change_agreement(
        method.parameter_change(state, fitted.context.singles()).values.numpy(), changes.numpy()
    )
    assert np.median(agreement.cosine) > 0.97
    direct = DirectIF(EXACT)
    worse = direct.parameter_change(direct.prepare(fitted.context), fitted.context.singles()).values
    if not fitted.problem.learner.adapted_size:  # nothing adapts, so there is nothing to ignore
        assert torch.allclose(worse, method.parameter_change(state, fitted.context.singles()).values, atol=1e-12)
        return
    assert np.median(mf.change_agreement(worse.numpy(), changes.numpy()).relative_error) > 1.5 * np.median(
        agreement.relative_error
    )


def test_influence_of_a_group_is_the_sum_of_its_items(fitted):
    method = TaskIF(solver=EXACT)
    state = method.prepare(fitted.context)
    single = method.parameter_change(state, fitted.context.singles()).values
    group = method.parameter_change(state, [(0, 2, 3)]).values[:, 0]
    assert torch.allclose(group, single[:, [0, 2, 3]].sum(dim=1), atol=1e-10)


@pytest.mark.parametrize("solver", [EXACT, TIGHT], ids=["exact", "cg"])
def test_leaving_out_own_curvature_is_a_newton_step_on_the_rest(fitted, solver):
    method = TaskIF(solver=solver, leave_out=True)
    state = method.prepare(fitted.context)
    removals = fitted.context.singles()
    found = method.parameter_change(state, removals)
    for i, removal in enumerate(removals):
        rest = fitted.problem.at(fitted.fit.meta, Weights.ones(fitted.problem.tasks).without("task", removal))
        wanted = -torch.linalg.solve(dense(rest.hessian()), rest.gradient)
        assert torch.allclose(found.values[:, i], wanted, atol=1e-8)
    several = method.parameter_change(state, [(1, 4), (0,)]).values
    rest = fitted.problem.at(fitted.fit.meta, Weights.ones(fitted.problem.tasks).without("task", (1, 4)))
    assert torch.allclose(several[:, 0], -torch.linalg.solve(dense(rest.hessian()), rest.gradient), atol=1e-8)
    assert torch.allclose(several[:, 1], found.values[:, 0], atol=1e-8)
    scores = method.scores(state, fitted.targets).values
    assert torch.allclose(scores, found.values.T @ fitted.targets.gradients(), atol=1e-8)
    edits, plain = TaskIF(solver=solver, leave_out="edits"), TaskIF(solver=solver)
    assert torch.equal(edits.parameter_change(edits.prepare(fitted.context), [(1, 4)]).values[:, 0], several[:, 0])
    first = plain.scores(plain.prepare(fitted.context), fitted.targets)
    assert torch.equal(edits.scores(edits.prepare(fitted.context), fitted.targets).values, first.values)
    assert not torch.allclose(first.values, scores, rtol=1e-2)


def test_rescaled_scores_are_nearly_those_with_own_curvature_left_out(fitted):
    methods = [TaskIF(solver=EXACT, leave_out=kind) for kind in (False, "rescaled", True)]
    states = [method.prepare(fitted.context) for method in methods]
    plain, found, wanted = (m.scores(s, fitted.targets).values for m, s in zip(methods, states, strict=True))
    assert (found - wanted).norm() < 0.1 * (plain - wanted).norm()
    edits = [m.parameter_change(s, [(1, 4)]).values for m, s in zip(methods[1:], states[1:], strict=True)]
    assert torch.equal(*edits)


def test_rescaled_scores_are_exact_where_the_krylov_space_and_its_solves_are(one, monkeypatch):
    monkeypatch.setattr("metafluence_plugins.methods.influence.KRYLOV_STEPS", one.problem.size)
    monkeypatch.setattr("metafluence_plugins.methods.influence.RESCALED_RTOL", 1e-12)
    found, wanted = (
        method.scores(method.prepare(one.context), one.targets).values
        for method in (TaskIF(solver=EXACT, leave_out=kind) for kind in ("rescaled", True))
    )
    assert (found - wanted).norm() < 1e-8 * wanted.norm()


def test_rescaled_scores_are_refused_where_they_have_no_meaning(one):
    with pytest.raises(mf.InputError, match="rescaled scores tasks with the curvature exact; level is 'query'"):
        InfluenceFunction(leave_out="rescaled").prepare(replace(one.context, level="query"))
    gauss_newton = mf.build("curvature", "gauss-newton")
    with pytest.raises(mf.InputError, match=r"curvature GaussNewtonCurvature\. Set leave_out to true or edits"):
        TaskIF(gauss_newton, leave_out="rescaled").prepare(one.context)


@pytest.mark.parametrize("given", ["scores", 1, None])
def test_leave_out_is_true_false_or_edits(given):
    with pytest.raises(mf.InputError, match=r"leave_out is .*, but true or false or 'edits' or 'rescaled' is expected"):
        TaskIF(leave_out=given)


def test_leave_one_out_operator_is_its_own_dense_form(fitted):
    operator = LeaveOneOut(fitted.point, fitted.point.hessian(), "total")
    columns = torch.randn(6, fitted.problem.size, 2, dtype=torch.float64)
    assert torch.allclose(operator.matmat(columns), operator.dense() @ columns, atol=1e-10)


def test_direct_if_ignores_adaptation_and_says_what_it_assumes(fitted):
    method = DirectIF(EXACT)
    state = method.prepare(fitted.context)
    jacobian: Jacobian = "identity" if fitted.problem.learner.shares_space else "held"
    assert state.jacobian == jacobian
    assert bool(state.notes) == fitted.problem.learner.shares_space
    matrix = dense(fitted.point.hessian(jacobian))
    found = method.parameter_change(state, [(1,)]).values[:, 0]
    assert torch.allclose(found, torch.linalg.solve(matrix, fitted.point.task_gradients(jacobian)[:, 1]), atol=1e-9)


def test_direct_derivatives_are_those_of_the_loss_with_theta_held():
    """Against autograd on the plain composed loss, no encoder stage, no Lagrangian."""
    problem = BilevelProblem(LEARNERS["logistic-head"](), tasks(), 0.7, EXACT)
    point = problem.at(random_meta(problem))
    learner, query = problem.learner, problem.tasks.query

    def total(meta: torch.Tensor) -> torch.Tensor:
        features = learner.encode(meta, query.inputs.flatten(0, 1)).unflatten(0, query.targets.shape)
        rows = meta.expand(6, -1)
        losses = learner.outer_loss(rows, point.adapted, Batch(features, query.targets), point.weights.query)
        return losses.sum() + 0.35 * meta.square().sum()

    gradient = point.partial_gradient("held") + 0.7 * point.meta
    assert torch.allclose(torch.autograd.functional.jacobian(total, point.meta), gradient)
    assert torch.allclose(torch.autograd.functional.hessian(total, point.meta), dense(point.hessian("held")))


def test_direct_if_is_refused_where_it_has_no_meaning():
    class Elsewhere(IMAML):
        shares_space = False

    problem = BilevelProblem(Elsewhere(MLP((2,))), tasks(), 1.0, EXACT)
    with pytest.raises(mf.InputError, match=r"direct has no meaning for Elsewhere.*Use the curvature exact"):
        DirectCurvature().at(problem.at(random_meta(problem)))


def test_baselines_are_what_they_say(fitted):
    responses, goals = fitted.point.task_gradients(), fitted.targets.gradients()
    dot = GradientSimilarity().scores(fitted.context, fitted.targets)
    assert torch.allclose(dot.values, responses.T @ goals)
    cosine = GradientSimilarity("cosine").scores(fitted.context, fitted.targets).values
    assert torch.allclose(cosine, dot.values / responses.norm(dim=0).unsqueeze(1) / goals.norm(dim=0))
    loss = LossScore().scores(fitted.context, fitted.targets)
    assert torch.equal(loss.values[:, 1], -fitted.point.task_losses)
    assert loss.units == dot.units == "rank_only"

    def draw(seed: int) -> torch.Tensor:
        context = replace(fitted.context, generator=torch.Generator().manual_seed(seed))
        return RandomScore().scores(context, fitted.targets).values

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert LossScore().parameter_change(fitted.context, [(0,)]) is None


def test_targets_each_or_their_mean(fitted):
    mean = Targets(fitted.problem, tasks(3, seed=9), fitted.fit.meta)
    for jacobian in ("total", "held"):
        each = fitted.targets.gradients(jacobian)
        assert torch.allclose(mean.gradients(jacobian)[:, 0], each.mean(dim=1))
    assert torch.allclose(mean.losses()[0], fitted.targets.losses().mean())
    direction = torch.randn(fitted.problem.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = central_difference(fitted.targets.losses, fitted.fit.meta, direction)
    assert_derivative(fitted.targets.gradients().T @ direction, difference)


def test_a_failing_solve_raises_or_travels_with_the_result(fitted):
    method = TaskIF(solver=CG(max_iterations=1))
    with pytest.raises(mf.SolverError, match="Raise max_iterations"):
        method.scores(method.prepare(fitted.context), fitted.targets)
    lenient = replace(fitted.context, strict=False)
    found = method.scores(method.prepare(lenient), fitted.targets)
    assert not found.solve.converged
    assert "Raise max_iterations" in found.solve.complaint


# The retrain bank.


def test_retraining_is_a_fit_of_the_smaller_problem(fitted):
    rest = BilevelProblem(fitted.problem.learner, fitted.problem.tasks[[1, 2, 3, 5]], fitted.problem.l2, EXACT)
    found = fitted.bank.leave_out([(0, 4)])
    assert bool(found.converged.all())
    assert float(rest.at(found.meta[:, 0]).gradient.norm()) < 1e-9


def test_stored_fits_are_reused_and_never_for_another_question(one, tmp_path, monkeypatch):
    removals = [(0,), (1, 2)]

    def bank(trainer=NEWTON, **options):
        return RetrainBank(one.problem, one.fit, trainer, Serial(), tmp_path, **options)

    first = bank().leave_out(removals)
    fits = []
    monkeypatch.setattr(Newton, "fit", lambda *a, **k: fits.append(a) or pytest.fail("fitted again"))
    again = bank().leave_out([(1, 2), (0,)])
    assert torch.equal(again.meta, first.meta[:, [1, 0]])
    assert torch.equal(again.seconds, first.seconds[[1, 0]])
    monkeypatch.undo()
    told: list[str] = []
    other = bank(Newton(tolerance=1e-3), notice=told.append).leave_out(removals)
    assert not torch.equal(other.seconds, first.seconds)
    assert "made with another trainer: settings, code or data changed" in told.pop()
    bank(start="cold", notice=told.append)
    assert "made with another start" in told.pop()
    assert torch.equal(bank().leave_out(removals).seconds, first.seconds), "the earlier work stays"
    (tmp_path / "task-0.safetensors").write_bytes(b"half a file")
    assert torch.equal(bank(notice=told.append).leave_out(removals).meta, first.meta)
    assert len(told) == 1
    assert "task-0.safetensors is damaged" in told[0]
    assert told[0].endswith("It is computed again.")


def test_an_interrupted_bank_goes_on_where_it_stopped(one, tmp_path):
    class Interrupted(Serial):
        def map(self, function, items, notice=mf.warn):
            for i, done in zip(range(2), super().map(function, items), strict=False):
                yield i, done[1]
            raise KeyboardInterrupt

    removals = one.context.singles()
    broken = RetrainBank(one.problem, one.fit, NEWTON, Interrupted(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        broken.leave_out(removals)
    seen = []
    resumed = RetrainBank(
        one.problem, one.fit, NEWTON, Serial(), tmp_path, progress=lambda done, total: seen.append((done, total))
    ).leave_out(removals)
    assert seen == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert torch.equal(resumed.meta, one.bank.leave_out(removals).meta)


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_processes_give_the_same_fits_as_one_process(one, start):
    removals = [(0,), (3,)]
    found = [
        RetrainBank(one.problem, one.fit, NEWTON, executor, start=start).leave_out(removals)
        for executor in (Serial(), Processes(2))
    ]
    assert torch.allclose(found[0].meta, found[1].meta, atol=1e-9)
    for removal, meta in zip(removals, found[1].meta.T, strict=True):
        without = Weights.ones(one.problem.tasks).without("task", removal)
        assert float(one.problem.at(meta, without).gradient.norm()) < 1e-9


def test_a_retraining_that_does_not_converge_is_an_error_or_marked(fitted):
    bank = RetrainBank(fitted.problem, fitted.fit, Newton(max_steps=0), Serial())
    with pytest.raises(
        mf.ConvergenceError, match=r"1 of 1 retrainings did not converge. The first is that without task \[2\]"
    ):
        bank.leave_out([(2,)])
    assert bank.leave_out([(2,)], strict=False).converged.tolist() == [False]


def test_executors_keep_the_index_of_every_item():
    for executor in (Serial(), Processes(2)):
        assert sorted(executor.map(abs, [-3, -2, -1])) == [(0, 3), (1, 2), (2, 1)]


# Metrics, eigenvalues and diagnostics.

scores = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=4, max_size=12)


@given(scores, st.randoms(use_true_random=False))
def test_detection_agrees_with_its_definition_and_with_a_library(values, random):
    array = np.array(values)
    harmful = np.array([random.random() < 0.4 for _ in values])
    harmful[:2] = [True, False]
    found = mf.detection(array, harmful)
    assert found is not None
    assert found.auroc == pytest.approx(reference.roc_auc_score(harmful, -array))
    wins = [(a < b) + 0.5 * (a == b) for a in array[harmful] for b in array[~harmful]]
    assert found.auroc == pytest.approx(np.mean(wins))
    assert found.found[0] == 0
    assert found.found_at(1.0) == 1
    assert np.all(np.diff(found.found) >= 0)


def test_detection_has_nothing_to_say_of_one_class():
    assert mf.detection(np.arange(3.0), np.zeros(3, dtype=bool)) is None


@given(st.integers(0, 2**20), st.floats(0.1, 3))
def test_change_agreement_knows_scale_and_direction(seed, scale):
    true = np.random.default_rng(seed).normal(size=(5, 3))
    found = mf.change_agreement(scale * true, true)
    assert found.relative_error == pytest.approx(abs(scale - 1))
    assert found.cosine == pytest.approx(1)
    assert found.norm_ratio == pytest.approx(scale)
    assert mf.change_agreement(-true, true).cosine == pytest.approx(-1)


@given(st.integers(0, 2**20), st.floats(0.1, 3), st.floats(-1, 1))
def test_score_agreement_of_a_line(seed, slope, shift):
    true = np.random.default_rng(seed).normal(size=8)
    found = mf.score_agreement(slope * true + shift, true)
    assert (found.pearson, found.spearman, found.slope) == pytest.approx((1, 1, slope))
    assert np.isnan(mf.score_agreement(np.ones(8), true).pearson)


@given(st.integers(0, 2**20), st.integers(1, 12))
@settings(max_examples=30)
def test_extreme_eigenvalues_agree_with_dense(seed, size):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    values = torch.linalg.eigvalsh(matrix)
    found = mf.extreme_eigenvalues(mf.DenseOperator(matrix), generator)
    assert found.smallest >= float(values[0]) - 1e-9
    assert found.largest <= float(values[-1]) + 1e-9
    assert abs(found.smallest - float(values[0])) <= found.smallest_error + 1e-3 * abs(found.smallest) + 1e-9
    assert abs(found.largest - float(values[-1])) <= found.largest_error + 1e-3 * abs(found.largest) + 1e-9


def test_extreme_eigenvalues_of_a_multiple_of_the_identity_take_one_product():
    found = mf.extreme_eigenvalues(mf.DenseOperator(3 * torch.eye(9).double()), torch.Generator().manual_seed(0))
    assert (found.smallest, found.largest) == pytest.approx((3, 3))
    assert found.products == 1


def test_diagnostics_are_silent_at_a_minimum_and_speak_elsewhere(fitted, generator):
    good = mf.diagnose(fitted.point, generator)
    assert good.warnings == ()
    if fitted.problem.learner.unrolls:  # there are no inner solves and no inner optimum is assumed
        assert np.isnan([good.inner_residual, good.inner_stationarity]).all()
        assert "does not apply" in good.adaptation
    else:
        assert good.inner_residual < 1e-12
        assert good.inner_stationarity < 1e-6
    values = torch.linalg.eigvalsh(dense(fitted.point.hessian()))
    assert (good.extremes.smallest, good.extremes.largest) == pytest.approx(
        (float(values[0]), float(values[-1])), rel=1e-2
    )
    assert good.adapted
    assert replace(good, inner_converged=good.tasks - 1).adapted == good.unrolled
    assert replace(good, inner_stationarity=1e-3).adapted == good.unrolled
    away = mf.diagnose(fitted.problem.at(fitted.fit.meta + 0.5), generator)
    assert any("not stationary" in w for w in away.warnings)


def test_diagnostics_warn_of_indefiniteness_and_of_unfinished_adaptation(generator):
    problem = BilevelProblem(LogisticHead(MLP((3,)), penalty=0.01), tasks(), 1e-3, EXACT)
    found = mf.diagnose(problem.at(1e-7 * random_meta(problem)), generator)
    assert any("not positive definite" in w for w in found.warnings)
    learner = IMAML(MLP((2,)), 0.5, "gradient", max_iterations=2)
    problem = BilevelProblem(learner, tasks(), 1.0, EXACT)
    found = mf.diagnose(problem.at(random_meta(problem)), generator)
    assert any("Adaptation has not converged on 6 of 6 tasks" in w for w in found.warnings)
