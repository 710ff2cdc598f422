"""The conformance suite of attribution methods: `TestMine = method_suite(MyMethod)` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property, lru_cache, partial

import pytest
import torch
from torch import Tensor

from metafluence import WEIGHED, AttributionMethod, BilevelProblem, Context, InputError, Level, Targets, attribute
from metafluence.testing.faults import Fault, found_by, judged
from metafluence.testing.names import known_names
from metafluence.testing.worlds import LEARNERS, SILENT, TWIN_INSTANCES, TWINS, World, world

WORLDS = 3
"""How many worlds the checks `sign` and `edits` average over, if not said otherwise."""


class Trial:
    """One method at one level in one small world; worlds: how many the checks of EVERYWHERE average over."""

    def __init__(self, method: AttributionMethod, level: Level, here: World, worlds: int = WORLDS) -> None:
        self.method, self.worlds = method, worlds
        self.level: Level = level
        self.world = here

    def context(self, problem: BilevelProblem | None = None, level: Level | None = None) -> Context:
        """What the method asks for: λ*, or where a recorded run ends."""
        return self.world.context(level or self.level, problem, self.method.needs_run)

    @cached_property
    def usual(self) -> Tensor:
        """Scores [items, T] in the world as it is."""
        return self.scores()

    def scores(self, context: Context | None = None, mean: bool = False) -> Tensor:
        return attribute(self.method, context or self.context(), self.world.targets(mean)).values

    @cached_property
    def samples(self) -> bool:
        """Whether scores change with the seed of the context; False where that cannot be said."""
        context = self.context()
        try:
            other = self.scores(replace(context, generator=torch.Generator().manual_seed(self.world.seed + 1)))
            return not torch.equal(other, self.scores())
        except Exception:
            return False

    def changes(self, removals: list[tuple[int, ...]]) -> Tensor:
        context = self.context()
        found = self.method.parameter_change(self.method.prepare(context), removals)
        assert found is not None, "says that it edits, and predicts no parameters"
        assert found.removals == tuple(removals)
        return found.values

    def near(self, found: Tensor, wanted: Tensor, what: str) -> None:
        scale = float(wanted.abs().max())
        gap = float((found - wanted).abs().max())
        assert gap <= 1e-6 * scale + 1e-12, f"{what}: {gap:.1e} apart, where scores are up to {scale:.1e}"


def check_contract(trial: Trial) -> None:
    """Scores are [items, T], finite and of the level and unit that the method names; edits are [P, removals]."""
    context, targets = trial.context(), trial.world.targets()
    found = attribute(trial.method, context, targets)
    assert tuple(found.values.shape) == (context.items, len(trial.world.validation))
    assert bool(found.values.isfinite().all())
    assert found.level == trial.level
    assert found.units == trial.method.units
    if trial.method.edits:
        assert tuple(trial.changes([(0,), (1, 2)]).shape) == (trial.world.problem.size, 2)


def check_sign(trial: Trial) -> None:
    """It points the way that exact retraining goes: on average over all worlds, as estimators may err in one."""
    scored, edited = [], []
    for seed in range(trial.worlds):
        other = Trial(trial.method, trial.level, world(seed, trial.world.learner))
        change, loss = other.world.truth[trial.level]
        scores = other.scores(mean=True)[:, 0]
        if trial.method.units == "rank_only":
            scores, loss = (x.argsort().argsort().double() for x in (scores, loss))
            scores, loss = scores - scores.mean(), loss - loss.mean()
        scored.append(float(torch.cosine_similarity(scores, loss, dim=0)))
        if trial.method.edits:
            found = other.changes(other.context().singles())
            edited.append(float(torch.cosine_similarity(found.flatten(), change.flatten(), dim=0)))
    assert sum(scored) > 0, f"scores go opposite to retraining: {scored}"
    assert not edited or sum(edited) > 0, f"predicted parameters go opposite to retraining: {edited}"


def check_edits(trial: Trial) -> None:
    """Scores and edits tell one story: scores follow the losses to first order along the predicted parameters.

    On average over all worlds, for a method may see other gradients than the total ones, or higher orders.
    """
    if not trial.method.edits:
        return
    agree = []
    for seed in range(trial.worlds):
        other = Trial(trial.method, trial.level, world(seed, trial.world.learner))
        moved = other.changes(other.context().singles()).T @ other.world.targets(mean=True).gradients()
        agree.append(float(torch.cosine_similarity(other.scores(mean=True)[:, 0], moved[:, 0], dim=0)))
    assert sum(agree) > 0.5 * trial.worlds, f"scores do not follow the predicted parameters: cosines {agree}"


def check_additivity(trial: Trial) -> None:
    """A method that is additive says of a group, a task and a mean target the sum (or mean) of their parts."""
    if not trial.method.additive:
        return
    scores = trial.usual
    trial.near(trial.scores(mean=True)[:, 0], scores.mean(dim=1), "mean target against mean of targets")
    if trial.method.edits:
        group = (0, 2, 3)
        singles = trial.changes([(i,) for i in group])
        trial.near(trial.changes([group])[:, 0], singles.sum(dim=1), "a group against its items")
    if trial.level == "query" and "task" in trial.method.levels:
        whole = trial.scores(trial.context(level="task"))
        parts = scores.unflatten(0, (len(whole), -1)).sum(dim=1)
        trial.near(parts, whole, "query instances against their task")


def check_order(trial: Trial) -> None:
    """Tasks in another order have the same scores."""
    count = len(trial.world.problem.tasks)
    order = torch.arange(count).roll(3)
    shuffled = trial.world.over(trial.world.problem.tasks[order])
    found = trial.scores(trial.context(shuffled))
    wanted = trial.usual.unflatten(0, (count, -1))[order].flatten(0, 1)
    trial.near(found, wanted, "another order of tasks")


def check_twins(trial: Trial) -> None:
    """Items that are the same have the same score."""
    by_task = trial.usual.unflatten(0, (len(trial.world.problem.tasks), -1))
    trial.near(by_task[TWINS[1]], by_task[TWINS[0]], "twin tasks")
    if trial.level != "task":
        task, (one, other) = TWIN_INSTANCES
        trial.near(by_task[task, other], by_task[task, one], "twin instances")


def check_silent(trial: Trial) -> None:
    """Items that have no effect score zero; so binds a learner with a shared encoder, where there are such.

    Support instances have none to first order only, so theirs bind additive methods alone.
    """
    held = trial.level == "support" and not trial.method.additive
    if held or not trial.world.problem.learner.encodes:
        return
    scores = trial.usual
    silent = scores.unflatten(0, (len(trial.world.problem.tasks), -1))[SILENT]
    assert float(silent.abs().max()) <= 1e-8 * float(scores.abs().max()), "items without effect have scores"


def check_batches(trial: Trial) -> None:
    """A target has the same scores alone as among others."""
    world = trial.world
    alone = Targets(world.problem, world.validation[[1]], world.fit.meta, mean=False)
    found = attribute(trial.method, trial.context(), alone).values
    trial.near(found, trial.usual[:, [1]], "a target alone")


def check_chunks(trial: Trial) -> None:
    """How tasks are cut into chunks changes nothing."""
    problem = trial.world.over(trial.world.problem.tasks)
    three_tasks = 3.5 * problem.bytes_per_task(trial.world.fit.meta) / 2**30
    problem = replace(problem, memory_gib=three_tasks)
    trial.near(trial.scores(trial.context(problem)), trial.usual, "tasks three at a time")


def check_seed(trial: Trial) -> None:
    """The same seed gives the same bits, and nothing that was given is written to."""
    meta, tasks = trial.world.fit.meta.clone(), trial.world.problem.tasks.fingerprint()
    again = trial.context(trial.world.over(trial.world.problem.tasks))
    assert torch.equal(trial.scores(again), trial.usual), "the same seed gives other scores"
    assert torch.equal(trial.world.fit.meta, meta), "λ* was changed"
    assert trial.world.problem.tasks.fingerprint() == tasks, "the tasks were changed"


CHECKS: dict[str, Callable[[Trial], None]] = {
    "contract": check_contract,
    "sign": check_sign,
    "edits": check_edits,
    "additivity": check_additivity,
    "order": check_order,
    "twins": check_twins,
    "silent": check_silent,
    "batches": check_batches,
    "chunks": check_chunks,
    "seed": check_seed,
}

OF_SAMPLES = ("order", "twins", "silent", "batches", "chunks")
"""Checks that cannot hold for a method that draws random numbers for each item, task or target."""

EVERYWHERE = ("sign", "edits")
"""Checks that look at all worlds together."""


def method_suite(
    method: AttributionMethod | type[AttributionMethod],
    skip: Collection[str] = (),
    examples: int = 2,
    learner: str = "logistic-head",
    worlds: int = WORLDS,
) -> type:
    """A class of tests for pytest: `method` (an instance, or a class with defaults) at every level that it claims.

    skip: names of CHECKS that cannot hold, as the order of tasks where scores are random. examples: in how many worlds.
    learner: the one that is fitted there, a name of `worlds.LEARNERS`. worlds: that `sign` and `edits` average over.
    """
    skipped = known_names("check of methods", skip, CHECKS)
    known_names("learner of worlds", learner, LEARNERS)
    subject = method() if isinstance(method, type) else method
    levels = [level for level in WEIGHED if level in subject.levels]

    @lru_cache
    def trial(level: Level, seed: int) -> Trial:
        return Trial(subject, level, world(seed, learner), worlds)

    class MethodSuite:
        @pytest.mark.parametrize("seed", range(examples))
        @pytest.mark.parametrize("level", levels)
        @pytest.mark.parametrize("check", [name for name in CHECKS if name not in (*EVERYWHERE, *skipped)])
        def test_contract(self, check: str, level: Level, seed: int) -> None:
            _hold(check, trial(level, seed))

        @pytest.mark.parametrize("level", levels)
        @pytest.mark.parametrize("check", [name for name in EVERYWHERE if name not in skipped])
        def test_in_all_worlds(self, check: str, level: Level) -> None:
            _hold(check, trial(level, 0))

        @pytest.mark.parametrize("level", [level for level in WEIGHED if level not in subject.levels])
        def test_other_levels_are_refused(self, level: Level) -> None:
            with pytest.raises(InputError, match="its levels are"):
                subject.prepare(world(0, learner).context(level))

    MethodSuite.__name__ = MethodSuite.__qualname__ = f"Test{type(subject).__name__}"
    return MethodSuite


def method_failures(
    method: AttributionMethod,
    checks: Collection[str] = tuple(CHECKS),
    here: World | None = None,
    skip: Collection[str] = (),
) -> list[Fault]:
    """What the suite finds wrong with a method, tried once: a sentence each, empty where all is well.

    checks, skip: names of CHECKS. here: a world of its own, for a method that may spoil it.
    """
    found: list[Fault] = []
    asked = known_names("check of methods", checks, CHECKS)
    skipped = known_names("check of methods", skip, CHECKS)
    for level in WEIGHED:
        for check in asked if level in method.levels else ():
            if check not in skipped:
                found += found_by(partial(_hold, check, Trial(method, level, here or world(0))))
    return found


def _hold(check: str, trial: Trial) -> None:
    """Judge a check. Where it cannot hold for scores that change with the seed, the fault proposes to skip it."""

    def hint() -> str:
        if check not in OF_SAMPLES or not trial.samples:
            return ""
        return f"Its scores change with the seed; if that is meant, skip this check: skip={{{check!r}}}."

    with judged(check, CHECKS[check], trial.method, trial.level, hint):
        CHECKS[check](trial)
