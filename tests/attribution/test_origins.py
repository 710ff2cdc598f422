"""Images and classes of the data set as items: the sets of their places, at every level of the framework."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import BilevelProblem, Weights
from metafluence.testing import assert_derivative, central_difference
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.methods.direct_if import DirectIF
from metafluence_plugins.methods.grad_ascent import GradAscent
from metafluence_plugins.methods.gradient_similarity import GradientSimilarity
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.run_influence import RunInfluence
from metafluence_plugins.methods.source import ApproximateUnrolling
from metafluence_plugins.methods.tracin import TracIn
from metafluence_plugins.methods.trak import TRAK
from metafluence_plugins.trainers.adam import Adam
from parts import EXACT, LEARNERS, NEWTON
from small_problems import problem, seeded, tasks, with_origins

SHARED = ("image", "class")
LINEAR = {
    "influence": InfluenceFunction(solver=EXACT, damping=20.0),
    "direct-if": DirectIF(solver=EXACT, damping=0.3),
    "gradient-similarity": GradientSimilarity(),
    "trak": TRAK(dim=8),
    "tracin": TracIn(),
    "tracin along the run": TracIn(along="run"),
    "run-influence": RunInfluence(),
    "source": ApproximateUnrolling(segments=2),
}


def uneven(train: mf.TaskSet, seed: int = 1) -> Weights:
    ones, generator = Weights.ones(train), seeded(seed)
    drawn = {level: 0.2 + 1.8 * torch.rand(getattr(ones, level).shape, generator=generator) for level in mf.WEIGHED}
    return replace(ones, **{level: values.to(ones.task) for level, values in drawn.items()})


def places(train: mf.TaskSet, level: mf.Level, item: int) -> dict[mf.Level, list[int]]:
    """What an item is made of, read off by hand."""
    origins = train.origins
    assert origins is not None
    if level == "image":
        halves = {"support": origins.support, "query": origins.query}
        return {
            half: [i for i, n in enumerate(images.flatten().tolist()) if n == item] for half, images in halves.items()
        }
    held = [{int(origins.labels[n]) for n in (*s, *q)} for s, q in zip(origins.support, origins.query, strict=True)]
    return {"task": [i for i, classes in enumerate(held) if item in classes]}


@pytest.mark.parametrize("level", SHARED)
@given(seed=st.integers(0, 2**20))
@settings(max_examples=1)
def test_edits_are_the_derivative_of_exact_retraining(level, seed):
    bilevel = problem(with_origins(tasks(4, seed), seed))
    weights = uneven(bilevel.tasks, seed)
    fit = NEWTON.fit(bilevel, weights, generator=seeded())
    context, method = mf.Context(bilevel.at(fit.meta, weights), level), InfluenceFunction(solver=EXACT)
    removals = [(1,), (0, 3), (2, 2)]
    found = method.parameter_change(method.prepare(context), removals).values
    bank = mf.RetrainBank(bilevel, fit, NEWTON, Serial(), weights=weights)
    step = 1e-3
    more, less, far, near = (bank.leave_out(removals, level, weight=1 + t * step).meta for t in (1, -1, 2, -2))
    wanted = -(8 * (more - less) - (far - near)) / (12 * step)
    assert float((found - wanted).norm()) <= 1e-6 * float(wanted.norm())
    scores = mf.attribute(method, context, mf.Targets(bilevel, tasks(3, seed + 1), fit.meta))
    goals = mf.Targets(bilevel, tasks(3, seed + 1), fit.meta).gradients()
    assert torch.allclose(scores.values[1], found[:, 0] @ goals, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("level", SHARED)
@pytest.mark.parametrize("learner", ["maml", "logistic-head"])
def test_run_influence_is_the_derivative_of_replays(level, learner):
    train = with_origins(tasks())
    bilevel, weights = BilevelProblem(LEARNERS[learner](), train, 0.3, EXACT), uneven(train)
    run = (
        Adam(steps=6, batch=3, learning_rate=0.02, eps_root=1e-3, record=True)
        .fit(bilevel, weights, generator=seeded())
        .run
    )
    assert run is not None
    targets = mf.Targets(bilevel, tasks(4, seed=1), run.final)
    context, method = mf.Context(bilevel.at(run.final, weights), level, run=run), RunInfluence()
    scores = mf.attribute(method, context, targets).values[:, 0]
    change = method.parameter_change(method.prepare(context), context.singles()).values
    torch.testing.assert_close(change.T @ targets.gradients()[:, 0], scores, rtol=1e-8, atol=1e-12)
    for item in (0, 2):
        wanted = central_difference(
            lambda w, item=item: run.replay(weights.scaled(level, item, float(w))),
            torch.ones(1).double(),
            torch.ones(1),
        )
        assert_derivative(-change[:, item], wanted)


@pytest.mark.parametrize("level", SHARED)
@pytest.mark.parametrize("name", LINEAR)
def test_scores_are_sums_over_places(level, name):
    """Of one method's scores at the levels that hold weights: all that is linear in the weights is."""
    train = with_origins(tasks(4))
    bilevel, weights = problem(train), uneven(train)
    run = Adam(steps=4, batch=2, eps_root=1e-3, record=True).fit(bilevel, weights, generator=seeded()).run
    assert run is not None
    checkpoints = (mf.Checkpoint(1, 0.1, run.final),)
    targets = mf.Targets(bilevel, tasks(3, seed=5), run.final, mean=False)

    def at(one: mf.Level) -> mf.Context:
        return mf.Context(bilevel.at(run.final, weights), one, checkpoints=checkpoints, run=run)

    method = LINEAR[name]
    if level not in method.levels:
        with pytest.raises(mf.InputError, match="its levels are"):
            mf.attribute(method, at(level), targets)
        return
    inside = {one: mf.attribute(method, at(one), targets).values for one in mf.weighed((level,))}
    found = mf.attribute(method, at(level), targets).values
    assert len(found) == train.items(level)
    for item in range(len(found)):
        wanted = sum(inside[one][numbers].sum(dim=0) for one, numbers in places(train, level, item).items())
        torch.testing.assert_close(found[item], wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("level", SHARED)
def test_what_is_not_linear_takes_the_places_together(level):
    train = with_origins(tasks(4))
    bilevel, weights = problem(train), uneven(train)
    meta = NEWTON.fit(bilevel, weights, generator=seeded()).meta
    point = bilevel.at(meta, weights)
    removals = [(1,), (0, 3)]
    newton = InfluenceFunction(solver=EXACT, leave_out=True)
    found = newton.parameter_change(newton.prepare(mf.Context(point, level)), removals).values
    for removal, moved in zip(removals, found.T, strict=True):
        without = weights
        for item in removal:
            for inner, numbers in places(train, level, item).items():
                without = without.without(inner, numbers)
        reduced = bilevel.at(meta, without)
        step = torch.linalg.solve(reduced.hessian().dense(), reduced.gradient)
        torch.testing.assert_close(moved, -(step - torch.linalg.solve(reduced.hessian().dense(), point.gradient)))
    ascent = GradAscent(steps=2, learning_rate=0.1)
    found = ascent.parameter_change(ascent.prepare(mf.Context(point, level)), removals).values
    for removal, moved in zip(removals, found.T, strict=True):
        end = meta
        for _ in range(2):
            end = end + 0.1 * bilevel.at(end, weights).removed([removal], level)[:, 0]
        torch.testing.assert_close(moved, end - meta, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("level", SHARED)
def test_losses_are_means_over_places(level):
    train = with_origins(tasks(4))
    point = problem(train).at(problem(train).learner.init_meta(seeded()), uneven(train))
    found = point.item_losses(level)
    for item in range(train.items(level)):
        own = [point.item_losses(inner)[numbers] for inner, numbers in places(train, level, item).items()]
        assert float(found[item]) == pytest.approx(float(torch.cat(own).mean()), rel=1e-12)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=20)
def test_weights_of_images_are_those_of_their_places(seed):
    train = with_origins(tasks(3, seed), seed)
    weights, some = uneven(train, seed), torch.tensor([2, 0])
    for level in SHARED:
        item = seed % train.items(level)
        own = places(train, level, item)
        changed = weights.scaled(level, item, 0.25)
        factors = weights.of(level).clone()
        factors[item] = 0.25
        for inner in mf.WEIGHED:
            before, after = weights.of(inner), changed.of(inner)
            touched = torch.zeros(len(before), dtype=torch.bool)
            touched[own.get(inner, [])] = True
            assert torch.equal(after[touched], 0.25 * before[touched])
            assert torch.equal(after[~touched], before[~touched])
            assert torch.allclose(weights.times(level, factors).of(inner), after)
        assert not any(float(weights.without(level, item).of(inner)[numbers].sum()) for inner, numbers in own.items())
        tasks_of = {
            number // getattr(weights, inner)[0].numel() for inner, numbers in own.items() for number in numbers
        }
        assert weights.tasks_of(level, item).tolist() == sorted(tasks_of)
        (local,) = weights.within(level, some, [(item,)])
        assert local == ((item,) if tasks_of & {0, 2} else ())
        part = weights[some]
        assert torch.equal(part.without(level, local).support, weights.without(level, item).support[some])
        assert torch.equal(part.without(level, local).task, weights.without(level, item).task[some])


def test_tasks_without_origins_have_no_images():
    plain = tasks(3)
    for call in (plain.items, plain.corrupted_items, Weights.ones(plain).of):
        with pytest.raises(
            mf.InputError, match=r"level 'image' are not known.*Draw the tasks from a labelled data set"
        ):
            call("image")
    with pytest.raises(mf.InputError, match="Tasks share items of level 'class'; they have no own ones"):
        with_origins(plain).each("class")


def test_an_image_is_corrupted_where_all_of_its_places_are():
    train = with_origins(tasks(3))
    assert train.origins is not None
    train.corrupted_query[:] = train.origins.query == 4
    assert train.corrupted_items("image").nonzero().flatten().tolist() == (
        [] if (train.origins.support == 4).any() else [4]
    )
    train.corrupted_support[:] = train.origins.support == 4
    assert train.corrupted_items("image").nonzero().flatten().tolist() == [4]
    train.corrupted_support[:] = True
    assert not train.corrupted_items("class").any()
