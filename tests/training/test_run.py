"""Recorded runs: replay bit by bit, resumption from files, and derivatives against replays under other weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metafluence as mf
from metafluence import Batch, BilevelProblem, InputError, RunRecorder, StoreError, TaskSet, TrainingRun, Weights
from metafluence.testing import central_difference
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.adamw import AdamW
from metafluence_plugins.trainers.momentum import Momentum
from metafluence_plugins.trainers.rmsprop import RMSprop
from metafluence_plugins.trainers.sgd import SGD
from parts import EXACT, LEARNERS
from small_problems import problem, seeded, tasks, with_origins

# A few rough steps of each optimiser: momentum, clipping, decay and a schedule all have a part in them.
TRAINERS = {
    "sgd": SGD(steps=5, batch=3, learning_rate=0.3, clip=0.2),
    "momentum": Momentum(steps=5, batch=3, learning_rate=0.2, nesterov=True, weight_decay=0.1),
    "adam": Adam(steps=5, batch=3, learning_rate=0.05, warmup=1, schedule="cosine"),
    "adamw": AdamW(steps=5, batch=3, learning_rate=0.05, weight_decay=0.3, eps_root=1e-2, clip=0.1),
    "rmsprop": RMSprop(steps=5, batch=3, learning_rate=0.02, order="epochs"),
}


def weighted(train: TaskSet, seed: int = 3) -> Weights:
    """Weights of items around 1."""
    ones = Weights.ones(train)

    def around(part: torch.Tensor) -> torch.Tensor:
        return 0.6 + 0.8 * torch.rand(part.shape, generator=seeded(seed), dtype=part.dtype)

    return Weights(around(ones.task), around(ones.support), around(ones.query))


def record(trainer, bilevel: BilevelProblem, weights: Weights | None = None, **more) -> TrainingRun:
    fit = replace(trainer, record=True).fit(bilevel, weights, generator=seeded(), **more)
    assert fit.run is not None
    assert torch.equal(fit.run.final, fit.meta)
    return fit.run


def small(name: str) -> BilevelProblem:
    return BilevelProblem(LEARNERS[name](), tasks(), 0.3, EXACT)


def derivative(run: TrainingRun, weights_at, goal: torch.Tensor) -> tuple[float, float]:
    """d goalᵀλ_T/dε by central differences of replays, and their estimated error."""
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    found = central_difference(lambda h: run.replay(weights_at(float(h))) @ goal, zero, one, step=4e-4)
    return float(found.value), found.error


# Every learner with Adam and every optimiser with one learner are quick; all pairs are slow.
PAIRS = [
    pytest.param(learner, optimiser, marks=() if learner == "protonet" or optimiser == "adam" else pytest.mark.slow)
    for learner in LEARNERS
    for optimiser in TRAINERS
]


@pytest.mark.parametrize(("learner", "optimiser"), PAIRS)
def test_the_adjoint_is_the_derivative_of_replays_and_of_the_tangent(learner, optimiser):
    bilevel = small(learner)
    weights = weighted(bilevel.tasks)
    run = record(replace(TRAINERS[optimiser], steps=2), bilevel, weights)
    goals = torch.randn(bilevel.size, 2, generator=seeded(5), dtype=torch.float64)
    found = mf.run_adjoint(run, goals, mf.WEIGHED).by_weight
    along = {level: torch.randn_like(getattr(weights, level)) for level in mf.WEIGHED}

    def at(h: float) -> Weights:
        return Weights(*(getattr(weights, level) + h * along[level] for level in mf.WEIGHED))

    wanted, error = derivative(run, at, goals[:, 0])
    parts = torch.stack([along[level].flatten() @ found[level][:, 0] for level in mf.WEIGHED])
    assert error < 1e-4 * float(parts.abs().max())
    assert float(parts.sum()) == pytest.approx(wanted, rel=1e-6, abs=error)
    for level, slopes in found.items():
        assert learner == "joint" or float(slopes.abs().max()) > 1e-6
        removals = [(1,), (0, 2, 5)]
        scores = -slopes * getattr(weights, level).reshape(-1, 1)
        sums = torch.stack([scores[list(removal)].sum(dim=0) for removal in removals])
        torch.testing.assert_close(mf.run_tangent(run, removals, level).T @ goals, sums, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("optimiser", TRAINERS)
def test_a_replay_is_the_run_bit_by_bit_from_memory_and_from_files(optimiser, tmp_path):
    bilevel = small("maml" if optimiser == "adam" else "protonet")
    weights = weighted(bilevel.tasks)
    trainer = replace(TRAINERS[optimiser], steps=7)
    run, kept = record(trainer, bilevel, weights), record(trainer, bilevel, weights, folder=tmp_path)
    assert run.segments() == [(0, 2), (2, 4), (4, 6), (6, 7)]
    loaded = mf.load_run(tmp_path, bilevel)
    plain = replace(trainer, record=False).fit(bilevel, weights, generator=seeded())
    for one in (run, kept, loaded):
        assert torch.equal(one.final, plain.meta)
        assert all(one.replayed(*segment) for segment in one.segments())
        other = replace(one, every=1000)  # which replays it all from the start
        assert torch.equal(other.state(5).meta, one.state(5).meta)
    assert loaded.rule == run.rule
    assert loaded.rates == run.rates
    goals = torch.randn(bilevel.size, 1, generator=seeded(5), dtype=torch.float64)
    wanted = mf.run_adjoint(run, goals).by_weight["task"]
    for one in (loaded, replace(run, every=7)):
        assert torch.equal(mf.run_adjoint(one, goals).by_weight["task"], wanted)
    changed = run.removing("task", (0,))
    assert torch.equal(loaded.replay(changed), replace(run, every=1000).replay(changed))


@pytest.mark.parametrize("optimiser", TRAINERS)
def test_a_run_that_is_recorded_late_is_the_end_of_the_whole_one(optimiser):
    bilevel = small("protonet")
    trainer = replace(TRAINERS[optimiser], steps=6)
    whole, late = record(trainer, bilevel), record(replace(trainer, record_after=4), bilevel)
    assert torch.equal(late.final, whole.final)
    assert torch.equal(late.state(0).meta, whole.state(4).meta)
    assert [batch.tolist() for batch in late.batches] == [batch.tolist() for batch in whole.batches[4:]]
    assert late.rates == whole.rates[4:]
    assert all(late.replayed(*segment) for segment in late.segments())
    goals = torch.randn(bilevel.size, 1, generator=seeded(5), dtype=torch.float64)
    found = mf.run_adjoint(late, goals).by_weight["task"][:, 0]

    def at(h: float) -> Weights:
        return replace(late.weights, task=late.weights.task + h)

    wanted, error = derivative(late, at, goals[:, 0])
    assert float(found.sum()) == pytest.approx(wanted, rel=1e-6, abs=error)
    unseen = sorted(set(range(len(bilevel.tasks))) - set(torch.cat(late.batches).tolist()))
    assert not found[unseen].any()


@pytest.mark.parametrize("level", mf.LEVELS)
def test_the_items_that_a_run_saw_are_those_that_can_change_it(level):
    bilevel = BilevelProblem(LEARNERS["protonet"](), with_origins(tasks(5)), 0.3, EXACT)
    run = record(Adam(steps=2, batch=1), bilevel)
    seen = run.drawn(level).tolist()
    assert seen
    for item in range(run.problem.tasks.items(level)):
        assert torch.equal(run.replay(run.removing(level, (item,))), run.final) == (item not in seen)


def test_a_late_recording_that_cannot_be_is_refused():
    with pytest.raises(mf.InputError, match="records after 5 of 5 steps"):
        Adam(steps=5, record_after=5)
    with pytest.raises(mf.InputError, match="record_after and validate_every"):
        Adam(steps=5, record_after=2, validate_every=1)


def kept_gradients(run: TrainingRun) -> int:
    return sum(len(run.states.gradients(start, torch.device("cpu"))) for start, _ in run.segments())


def test_gradients_that_were_kept_save_the_replay_and_change_no_bit(tmp_path, monkeypatch):
    bilevel = replace(small("protonet"), memory_gib=4 * 7 * small("protonet").size * 8 / 2**30)  # room for 7 gradients
    weights, trainer = weighted(bilevel.tasks), replace(TRAINERS["adam"], steps=11, save_every=5)
    run, kept = record(trainer, bilevel, weights), record(trainer, bilevel, weights, folder=tmp_path)
    loaded = mf.load_run(tmp_path, bilevel)
    assert [kept_gradients(one) for one in (run, kept, loaded, run.in_memory())] == [7, 7, 7, 0]
    goals = torch.randn(bilevel.size, 2, generator=seeded(5), dtype=torch.float64)
    wanted = mf.run_adjoint(run.in_memory(), goals, mf.WEIGHED)
    asked = []
    plain = mf.training.run.batch_gradient
    monkeypatch.setattr(mf.training.run, "batch_gradient", lambda *given: asked.append(0) or plain(*given))
    for one in (run, loaded):
        found = mf.run_adjoint(one, goals, mf.WEIGHED)
        assert all(torch.equal(found.by_weight[level], wanted.by_weight[level]) for level in mf.WEIGHED)
        assert len(asked) == 4
        asked.clear()
    flip(next(tmp_path.glob("gradients-00000003.safetensors")))
    with pytest.warns(UserWarning, match="The steps are made again"):
        found = mf.run_adjoint(mf.load_run(tmp_path, bilevel), goals, mf.WEIGHED)
    assert torch.equal(found.start, wanted.start)


@pytest.mark.parametrize("stopped", [1, 3, 6])
def test_a_sweep_goes_on_after_an_interruption_with_the_same_bits(tmp_path, stopped):
    bilevel = small("protonet")
    run = record(replace(TRAINERS["adam"], steps=8), bilevel, weighted(bilevel.tasks))
    goals = torch.randn(bilevel.size, 2, generator=seeded(5), dtype=torch.float64)
    wanted = mf.run_adjoint(run, goals, mf.WEIGHED)

    class Stop(Exception):
        pass

    seen = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done == stopped:
            raise Stop

    with pytest.raises(Stop):
        mf.run_adjoint(run, goals, mf.WEIGHED, stop, tmp_path)
    for again in (2, 0):  # the rest, and then nothing
        seen.clear()
        stopped = -1
        found = mf.run_adjoint(run, goals, mf.WEIGHED, stop, tmp_path)
        assert not again or seen[-1] == 8
        assert not seen or again
        assert torch.equal(found.start, wanted.start)
        assert torch.equal(found.growth, wanted.growth)
        assert all(torch.equal(found.by_weight[level], wanted.by_weight[level]) for level in mf.WEIGHED)
    # Other goals, and another run, are other sweeps in the same folder.
    for run_, goals_ in ((run, 2 * goals), (record(replace(TRAINERS["adam"], steps=3, beta1=0.8), bilevel), goals)):
        found = mf.run_adjoint(run_, goals_, folder=tmp_path).by_weight["task"]
        assert torch.equal(found, mf.run_adjoint(run_, goals_).by_weight["task"])
    for file in tmp_path.glob("sweep-*"):
        flip(file)
    with pytest.warns(UserWarning, match="It is computed again"):
        assert torch.equal(mf.run_adjoint(run, goals, mf.WEIGHED, folder=tmp_path).start, wanted.start)


def test_a_sweep_that_was_kept_halfway_starts_there(tmp_path):
    bilevel = small("protonet")
    run = record(replace(TRAINERS["sgd"], steps=11), bilevel)
    goals = torch.ones(bilevel.size, 1, dtype=torch.float64)

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mf.run_adjoint(run, goals, progress=stop, folder=tmp_path)
    seen = []
    mf.run_adjoint(run, goals, progress=lambda done, total: seen.append((done, total)), folder=tmp_path)
    assert seen == [(done, 11) for done in range(6, 12)]  # of the segments 11 to 10, 9 to 7, ...


def test_a_kept_sweep_is_of_its_goals_levels_and_run(tmp_path):
    bilevel = problem(tasks(4))
    first, second = (record(replace(TRAINERS["sgd"], steps=2, learning_rate=rate), bilevel) for rate in (0.1, 0.2))
    goals = torch.randn(bilevel.size, 1, generator=seeded(5), dtype=torch.float64)
    asked = [(first, goals, "task"), (first, 2 * goals, "task"), (first, goals, "query"), (second, goals, "task")]
    for run, wanted, level in asked:
        kept = mf.run_adjoint(run, wanted, (level,), folder=tmp_path).by_weight[level]
        assert torch.equal(kept, mf.run_adjoint(run, wanted, (level,)).by_weight[level])


def test_an_estimate_is_of_the_size_of_the_sweep():
    bilevel = small("protonet")
    run = record(replace(TRAINERS["adam"], steps=30), bilevel)
    found = mf.estimate_sweep(run, 3)
    assert 0 < found.seconds < 30
    vectors = 5 * (3 + 1) + 3 * 2 * 3  # of a segment's states and gradients, and of the columns
    assert found.gib * 2**30 > vectors * bilevel.size * 8
    assert "s and" in str(found)
    assert mf.estimate_sweep(replace(run, batches=(), rates=())) == mf.SweepEstimate(0.0, 0.0)


def test_a_replay_with_weight_zero_is_training_with_weight_zero():
    bilevel = small("protonet")
    trainer = TRAINERS["adam"]
    run = record(trainer, bilevel)
    without = Weights.ones(bilevel.tasks).without("query", (3, 8))
    wanted = trainer.fit(bilevel, without, generator=seeded()).meta
    assert torch.equal(run.replay(without), wanted)
    assert not torch.equal(run.final, wanted)


@pytest.mark.parametrize("after", [0, 5, 8, 9])
def test_a_recording_goes_on_after_an_interruption(after, tmp_path):
    bilevel = small("protonet")
    trainer = replace(TRAINERS["adam"], steps=13, save_every=4, record_after=after)

    class Stop(Exception):
        pass

    def progress(step: int, total: int, record: mf.Record) -> None:
        if step == 10:
            raise Stop

    whole = record(trainer, bilevel)
    with pytest.raises(Stop):
        record(trainer, bilevel, folder=tmp_path, progress=progress)
    resumed = record(trainer, bilevel, folder=tmp_path)
    again = record(trainer, bilevel, folder=tmp_path, progress=lambda *_: pytest.fail("stepped again"))
    for one in (resumed, again, mf.load_run(tmp_path, bilevel)):
        assert torch.equal(one.final, whole.final)
        assert [batch.tolist() for batch in one.batches] == [batch.tolist() for batch in whole.batches]
        assert torch.equal(one.peaks, whole.peaks)
        assert kept_gradients(one) == 13 - after


def kept_states(folder) -> dict[int, Path]:
    return {int(file.stem.removeprefix("state-")): file for file in folder.glob("state-*.safetensors")}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["flipped", "swapped", "another run's"])
def test_a_damaged_state_is_made_again_bit_by_bit(tmp_path, damage):
    bilevel = problem()
    run = record(Adam(steps=12, batch=2), bilevel)
    record(Adam(steps=12, batch=2), bilevel, folder=tmp_path / "run")
    files = kept_states(tmp_path / "run")
    middle = files[6]
    whole = {step: file.read_bytes() for step, file in files.items()}
    if damage == "flipped":
        flip(middle)
    elif damage == "swapped":
        middle.write_bytes(whole[9])
    else:
        record(Adam(steps=12, batch=2, beta1=0.8), bilevel, folder=tmp_path / "other")
        middle.write_bytes(kept_states(tmp_path / "other")[6].read_bytes())
    loaded = mf.load_run(tmp_path / "run", bilevel)
    with pytest.warns(UserWarning, match="state-00000006.safetensors .* The steps that led there are made again"):
        made = loaded.state(6)
    for state in (made, mf.load_run(tmp_path / "run", bilevel).state(6)):  # and kept
        assert all(torch.equal(a, b) for a, b in zip(state.parts, run.state(6).parts, strict=True))


def test_a_run_whose_start_is_damaged_is_refused(tmp_path):
    bilevel = problem()
    record(Adam(steps=6, batch=2), bilevel, folder=tmp_path)
    flip(kept_states(tmp_path)[0])
    with pytest.raises(StoreError, match="where the run starts: meta-train again in another folder"):
        mf.load_run(tmp_path, bilevel).replayed(0, 1)


def test_the_run_ends_where_validation_was_best():
    bilevel = problem(tasks(4, flip=0.5), l2=1e-4)
    trainer = Adam(steps=12, batch=4, learning_rate=0.2, validate_every=1, record=True)
    fit = trainer.fit(bilevel, generator=seeded(), validation=tasks(8, seed=1))
    assert fit.best_step is not None
    assert fit.best_step < 12
    assert fit.run is not None
    assert fit.run.steps == fit.best_step
    assert torch.equal(fit.run.final, fit.meta)
    assert all(fit.run.replayed(*segment) for segment in fit.run.segments())


def test_epochs_have_each_task_once():
    bilevel = problem(tasks(7))
    run = record(SGD(steps=6, batch=3, order="epochs"), bilevel)
    assert [len(batch) for batch in run.batches] == [3, 3, 1, 3, 3, 1]
    for start in (0, 3):
        assert sorted(torch.cat(run.batches[start : start + 3]).tolist()) == list(range(7))
    assert [b.tolist() for b in run.batches[:3]] != [b.tolist() for b in run.batches[3:]]


def test_a_smaller_last_batch_counts_by_its_own_size():
    bilevel = problem(tasks(4))
    weights = weighted(bilevel.tasks)
    run = record(SGD(steps=2, batch=3, order="epochs", learning_rate=0.3), bilevel, weights)
    (late,) = run.batches[1].tolist()
    goals = torch.randn(bilevel.size, 1, generator=seeded(5), dtype=torch.float64)
    found = mf.run_adjoint(run, goals).by_weight["task"]
    wanted, error = derivative(run, lambda h: weights.set("task", late, float(weights.task[late]) + h), goals[:, 0])
    assert float(found[late]) == pytest.approx(wanted, rel=1e-6, abs=error)
    scores = -found * weights.task.unsqueeze(1)
    torch.testing.assert_close(mf.run_tangent(run, [(i,) for i in range(4)]).T @ goals, scores, rtol=1e-8, atol=1e-11)


def test_growth_goes_from_the_goals_back_to_the_start():
    run = record(replace(TRAINERS["sgd"], steps=3), problem(tasks(4)))
    goals = torch.randn(run.problem.size, 2, generator=seeded(5), dtype=torch.float64)
    found = mf.run_adjoint(run, goals)
    torch.testing.assert_close(found.growth[3], goals.norm(dim=0))
    torch.testing.assert_close(found.growth[0], found.start.norm(dim=0))


def test_twins_score_the_same_and_an_item_of_weight_zero_scores_zero():
    train = tasks(4)
    halves = [Batch(*(torch.cat([t, t[:1]]) for t in vars(half).values())) for half in (train.support, train.query)]
    twice = TaskSet(*halves, (*train.ids, "twin"))
    bilevel = problem(twice)
    weights = Weights.ones(twice).without("task", (2,))
    run = record(Adam(steps=6, batch=5), bilevel, weights)
    goals = torch.randn(bilevel.size, 2, generator=seeded(5), dtype=torch.float64)
    found = mf.run_adjoint(run, goals).by_weight["task"]
    torch.testing.assert_close(found[0], found[4], rtol=1e-10, atol=1e-14)
    assert not mf.run_tangent(run, [(2,)]).any()
    assert mf.run_tangent(run, [(1,)]).any()


def test_full_steps_to_the_minimum_tend_to_influence():
    bilevel = problem(l2=2.0)
    run = record(SGD(steps=80, batch=6, learning_rate=1.0, checkpoints=0), bilevel)
    point = bilevel.at(run.final)
    assert float(point.gradient.norm()) < 1e-7
    goals = torch.randn(bilevel.size, 1, generator=seeded(5), dtype=torch.float64)
    solved = torch.linalg.solve(point.hessian().dense(), goals)
    found = -mf.run_adjoint(run, goals).by_weight["task"]
    torch.testing.assert_close(found, point.slopes(solved), rtol=1e-5, atol=1e-9)


class Blind(torch.nn.Module):
    """A layer that has a unit that is dead from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 5)
        self.second = torch.nn.Linear(4, 3)
        with torch.no_grad():
            self.first.bias[4] = -100.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs)
        return self.second(torch.tanh(hidden[:, :4])) + torch.relu(hidden[:, 4:])


class Shifted(torch.nn.Module):
    """A bias that the norm after it takes away again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4, bias=False)
        self.shift = torch.nn.Parameter(torch.full((1,), 0.3))
        self.norm = mf.GroupNorm(1, 4)
        self.second = torch.nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(inputs) + self.shift)))


def black(train: TaskSet) -> TaskSet:
    """The same tasks with their last input always zero."""
    mask = torch.tensor([1.0, 1.0, 0.0]).double()
    halves = [Batch(half.inputs * mask, half.targets) for half in (train.support, train.query)]
    return TaskSet(*halves, train.ids)


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_black_pixels_and_dead_units_have_finite_derivatives(optimiser):
    train = black(tasks())
    learner = LEARNERS["protonet"]()
    bilevel = BilevelProblem(replace(learner, backbone=Blind()), train, 0.0, EXACT)
    start = bilevel.learner.init_meta(None)
    run = record(replace(TRAINERS[optimiser], steps=3), bilevel, init=start)
    assert float((run.peaks == 0).sum()) > 5
    goals = bilevel.over(tasks(3, seed=1)).at(run.final).gradient.unsqueeze(1)
    found = mf.run_adjoint(run, goals).by_weight["task"][:, 0]
    assert bool(found.isfinite().all())
    flat = run.weights.task

    def at(h: float) -> Weights:
        return run.weights.set("task", (1,), float(flat[1]) + h)

    wanted, error = derivative(run, at, goals[:, 0])
    assert error < 1e-3 * abs(wanted)
    assert float(found[1]) == pytest.approx(wanted, rel=1e-6, abs=error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bias_before_a_norm_is_found_named_and_left_out(dtype):
    learner = replace(LEARNERS["protonet"](), backbone=Shifted())
    bilevel = BilevelProblem(learner, tasks().to(dtype=dtype), 0.0, EXACT)
    run = record(replace(TRAINERS["adam"], steps=8), bilevel)
    assert list(run.dead_parameters()) == ["shift"]
    goals = bilevel.over(tasks(3, seed=1).to(dtype=dtype)).at(run.final).gradient.unsqueeze(1)
    found = mf.run_adjoint(run, goals)
    assert found.dead == ("shift",)
    assert float(found.growth.max()) < 1e3 * float(goals.norm())
    where = run.dead_parameters()["shift"]
    assert not found.start[where].any()


# What is refused.


def test_a_replay_that_differs_names_the_steps():
    bilevel = small("maml")
    run = record(replace(TRAINERS["adam"], steps=9), bilevel)
    state = run.state(6)
    run.states.put(replace(state, parts=(state.meta + 1e-15 + 1e-15 * state.meta, *state.parts[1:])))
    with pytest.raises(StoreError, match="replay of steps 7 to 9 differs from the run by up to"):
        mf.run_adjoint(run, torch.ones(bilevel.size, 1).double())


def test_derivatives_that_are_not_finite_are_refused_with_step_and_parameter():
    bilevel = small("maml")
    run = record(replace(TRAINERS["adam"], steps=4), bilevel)
    goals = torch.ones(bilevel.size, 1).double()
    goals[2] = float("inf")
    with pytest.raises(
        mf.ConvergenceError, match=r"At step 4 of the run the derivative of parameter \S+ is not finite"
    ):
        mf.run_adjoint(run, goals)


def test_what_does_not_fit_the_run_is_refused(tmp_path):
    bilevel = small("maml")
    run = record(TRAINERS["sgd"], bilevel, folder=tmp_path)
    with pytest.raises(InputError, match=r"task weights of shape \(6,\); these have \(3,\)"):
        run.replay(Weights.ones(tasks(3)))
    for items, message in (
        ((-1,), "give one from 0 to 5"),
        ((6,), "give one from 0 to 5"),
        ((0.5,), "0.5 names no task item"),
    ):
        with pytest.raises(InputError, match=message):
            mf.run_tangent(run, [items])
    with pytest.raises(StoreError, match="problem: stored"):
        mf.load_run(tmp_path, BilevelProblem(LEARNERS["maml"](), tasks(), 0.7, EXACT))
    with pytest.raises(StoreError, match="There is no run in"):
        mf.load_run(tmp_path / "other", bilevel)
    with pytest.raises(InputError, match="no recorded run"):
        mf.check_run(None, bilevel.at(run.final))
    with pytest.raises(InputError, match="ends in other meta-parameters"):
        mf.check_run(run, bilevel.at(run.final + 1))
    with pytest.raises(InputError, match="another problem"):
        mf.check_run(run, small("anil").at(small("anil").learner.init_meta(seeded())))
    assert mf.check_run(run, small("maml").at(run.final)) is run
    assert RunRecorder(bilevel, run.weights, run.rule, 2).run().steps == 0
