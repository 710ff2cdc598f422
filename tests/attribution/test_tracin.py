"""TracIn against what it is a sum of: the steps of descent that were taken, and plain autograd."""

import pytest
import torch

import metafluence as mf
from metafluence import BilevelProblem, Context, Targets, Weights
from metafluence.testing import assert_derivative, central_difference
from metafluence.testing.worlds import world
from metafluence_plugins.methods.tracin import TracIn
from metafluence_plugins.trainers.sgd import SGD
from parts import EXACT, LEARNERS

NAMES = ("logistic-head", "imaml", "maml", "ridge-head", "joint")


def problem(name: str) -> BilevelProblem:
    return BilevelProblem(LEARNERS[name](), world(0).problem.tasks, 0.7, EXACT)


ONE = torch.ones((), dtype=torch.float64)


def descend(here: BilevelProblem, start: torch.Tensor, weights: Weights | None = None, steps: int = 1) -> mf.Fit:
    """Full steps, every one of them kept."""
    return SGD(steps=steps, batch=len(here.tasks), checkpoints=steps).fit(here, weights, start)


def context(here: BilevelProblem, fit: mf.Fit, level: mf.Level) -> Context:
    return Context(here.at(fit.meta), level, checkpoints=fit.checkpoints)


@pytest.mark.parametrize("level", mf.WEIGHED)
@pytest.mark.parametrize("name", NAMES)
def test_undoing_one_full_step_is_descent_without_the_item(name, level):
    here = problem(name)
    start = here.learner.init_meta(torch.Generator().manual_seed(0))
    fit = descend(here, start)
    method = TracIn()
    removals = [(1,), (0, 3), (6,)]
    found = method.parameter_change(method.prepare(context(here, fit, level)), removals).values
    for removal, change in zip(removals, found.T, strict=True):
        without = descend(here, start, Weights.ones(here.tasks).without(level, removal))
        if level == "support":  # which acts through θ: its first order is the derivative by its weight

            def descended(weight, removal=removal):
                return descend(here, start, Weights.ones(here.tasks).set(level, removal, float(weight))).meta

            assert_derivative(change, central_difference(descended, ONE, -ONE), scale=1)
        else:
            assert torch.allclose(fit.meta + change, without.meta, atol=1e-13)
    assert name == "joint" or bool(found.any())


def test_several_full_steps_are_undone_each_where_it_was_taken():
    here = problem("imaml")
    start = here.learner.init_meta(torch.Generator().manual_seed(0))
    fit = descend(here, start, steps=4)
    wanted, at = torch.zeros_like(start), start
    for checkpoint in fit.checkpoints:
        assert torch.equal(checkpoint.before, at)
        without = descend(here, at, Weights.ones(here.tasks).without("task", (2,))).meta
        wanted, at = wanted + without - checkpoint.meta, checkpoint.meta
    method = TracIn()
    found = method.parameter_change(method.prepare(context(here, fit, "task")), [(2,)]).values[:, 0]
    assert torch.allclose(found, wanted, atol=1e-13)


@pytest.mark.parametrize("level", ["task", "query"])
@pytest.mark.parametrize("name", ["logistic-head", "imaml"])
def test_partial_gradients_are_those_of_the_loss_with_what_adapted_held(name, level):
    """Against autograd on the plain loss: θ held where it is; for imaml, whose λ and θ share a space, by θ itself."""
    here, validation = problem(name), world(0).validation
    fit = descend(here, here.learner.init_meta(torch.Generator().manual_seed(0)), steps=3)
    wanted = 0.0
    for checkpoint in fit.checkpoints:
        items = _each_gradient(here, checkpoint.before)
        goals = _each_gradient(here.over(validation), checkpoint.before).sum(dim=1)
        items = items.sum(dim=1) if level == "task" else items.flatten(0, 1)
        wanted = wanted + checkpoint.learning_rate * items @ goals.T
    targets = Targets(here, validation, fit.meta, mean=False)
    found = mf.attribute(TracIn("partial"), context(here, fit, level), targets).values
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-14)
    assert not torch.allclose(found, mf.attribute(TracIn(), context(here, fit, level), targets).values, rtol=0.1)


def _each_gradient(here: BilevelProblem, meta: torch.Tensor) -> torch.Tensor:
    """ℓ_ij / n of every query instance by λ, θ held, or by θ where λ is not in it: [N, n, P]."""
    learner, query, point = here.learner, here.tasks.query, here.at(meta)

    def losses(meta: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
        features = learner.encode(meta, query.inputs.flatten(0, 1)).unflatten(0, query.targets.shape)
        outputs = learner.predict(meta.expand(len(adapted), -1), adapted, features)
        return torch.nn.functional.cross_entropy(outputs.mT, query.targets, reduction="none") / query.targets.shape[1]

    if learner.encodes:
        return torch.autograd.functional.jacobian(lambda lam: losses(lam, point.adapted), meta)
    each = torch.autograd.functional.jacobian(lambda theta: losses(meta, theta), point.adapted)
    return torch.stack([each[i, :, i] for i in range(len(each))])


def test_checkpoints_without_what_was_before_count_where_they_are():
    here = problem("logistic-head")
    fit = descend(here, here.learner.init_meta(torch.Generator().manual_seed(0)), steps=2)
    bare = tuple(mf.Checkpoint(c.step, c.learning_rate, c.meta) for c in fit.checkpoints)
    method = TracIn()
    found = method.parameter_change(method.prepare(Context(here.at(fit.meta), checkpoints=bare)), [(0,)]).values[:, 0]
    wanted = sum(c.learning_rate * here.at(c.meta).task_gradients()[:, 0] for c in bare)
    assert torch.allclose(found, wanted, atol=1e-14)


def test_a_checkpoint_counts_for_all_steps_since_the_one_before():
    """Pruthi et al. 2020 weight a checkpoint by its learning rate; it stands for the steps that were not kept."""
    here = problem("logistic-head")
    metas = [here.learner.init_meta(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    kept = (mf.Checkpoint(2, 0.1, metas[0]), mf.Checkpoint(5, 0.3, metas[1]))
    method = TracIn()
    given = Context(here.at(metas[1]), checkpoints=kept)
    found = method.parameter_change(method.prepare(given), [(1,)]).values[:, 0]
    wanted = sum(rate * here.at(meta).task_gradients()[:, 1] for rate, meta in zip((0.2, 0.9), metas, strict=True))
    assert torch.allclose(found, wanted, atol=1e-14)


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_along_a_run_every_step_counts_with_its_own_batch(level):
    """For full batches that is a checkpoint at every step; else a sum by hand."""
    here = problem("maml")

    def targets_at(fit: mf.Fit) -> Targets:
        return Targets(here, world(0).validation, fit.meta, mean=False)

    whole = SGD(steps=3, batch=len(here.tasks), checkpoints=3, record=True).fit(here)
    both = Context(here.at(whole.meta), level, checkpoints=whole.checkpoints, run=whole.run)
    found = [mf.attribute(TracIn(along=along), both, targets_at(whole)).values for along in ("checkpoints", "run")]
    assert torch.allclose(*found, rtol=1e-10, atol=1e-14)

    fit = SGD(steps=5, batch=2, record=True, learning_rate=0.3, schedule="cosine").fit(here)
    run = fit.run
    assert run is not None
    context, targets = Context(here.at(fit.meta), level, run=run), targets_at(fit)
    wanted = torch.zeros(context.items, targets.count, dtype=torch.float64)
    for step in _all_steps(run):
        meta, batch = step.state.meta, step.batch
        slopes = here.at(meta).removal_slopes(targets.at(meta).gradients(), level).unflatten(0, (len(here.tasks), -1))
        wanted.unflatten(0, (len(here.tasks), -1))[batch] += step.rate / 2 * slopes[batch]
    method = TracIn(along="run")
    found = mf.attribute(method, context, targets).values
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-13)
    change = method.parameter_change(method.prepare(context), [(0,), (1, 3)]).values
    assert change.shape == (here.size, 2)
    absent = [(i,) for i in range(len(here.tasks)) if level == "task" and all(i not in b for b in run.batches)]
    assert not absent or not method.parameter_change(method.prepare(context), absent).values.any()


def _all_steps(run: mf.TrainingRun) -> list[mf.RunStep]:
    return [step for segment in run.segments() for step in run.replayed(*segment)]
