"""Meta-training by steps: the learning rate, minibatches, validation and early stopping, and what is kept of a fit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.optim import lr_scheduler

import metafluence as mf
from metafluence import Batch, BilevelProblem, InputError, TaskSet, Weights
from metafluence.runtime import Shelf, graph_bytes
from metafluence.studies.preparation import Preparation
from metafluence.testing.problems import random_meta
from metafluence.training.stored_fit import stored_fit
from metafluence_plugins.backbones.conv4 import Conv4
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.learners.protonet import ProtoNet
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.newton import Newton
from metafluence_plugins.trainers.sgd import SGD
from parts import EXACT, LEARNERS
from small_problems import problem, seeded, tasks

TRAINERS = pytest.mark.parametrize("kind", [Adam, SGD])


# The learning rate.


@given(st.integers(1, 40), st.data())
@settings(max_examples=40)
def test_warm_up_and_cosine_are_torch_s(steps, data):
    warmup = data.draw(st.integers(0, steps - 1), label="warmup")
    schedule = data.draw(st.sampled_from(["constant", "cosine"]), label="schedule")
    trainer = SGD(steps=steps, learning_rate=0.3, warmup=warmup, schedule=schedule)
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    after = (
        lr_scheduler.CosineAnnealingLR(optimiser, steps - warmup)
        if schedule == "cosine"
        else lr_scheduler.ConstantLR(optimiser, factor=1.0)
    )
    theirs = after
    if warmup:
        rise = lr_scheduler.LinearLR(optimiser, 1 / warmup, total_iters=max(1, warmup - 1))
        theirs = lr_scheduler.SequentialLR(optimiser, [rise, after], [warmup])
    for step in range(1, steps + 1):
        assert trainer.rate(step) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        theirs.step()


@TRAINERS
def test_steps_are_torch_s_on_the_autograd_gradient_at_the_scheduled_rate(kind):
    """An oracle with no adaptation: plain autograd through the network, torch's optimiser, torch's schedule."""
    train = tasks()
    bilevel = BilevelProblem(Joint(MLP((3,))), train, 0.6, EXACT)
    trainer = kind(steps=7, batch=4, learning_rate=0.05, warmup=3, schedule="cosine")
    start = random_meta(bilevel)
    fit = trainer.fit(bilevel, init=start, generator=seeded())
    meta, draws = start.clone().requires_grad_(), seeded()
    optimiser = (torch.optim.Adam if kind is Adam else torch.optim.SGD)([meta], lr=0.05)
    rise = lr_scheduler.LinearLR(optimiser, 1 / 3, total_iters=2)
    schedule = lr_scheduler.SequentialLR(optimiser, [rise, lr_scheduler.CosineAnnealingLR(optimiser, 4)], [3])
    network = bilevel.learner.network
    for record in fit.history:
        chosen = torch.randperm(6, generator=draws)[:4]
        outputs = network(meta, train.query.inputs[chosen].flatten(0, 1))
        labels = train.query.targets[chosen].flatten()
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        assert record.loss == pytest.approx(float(loss.detach()), rel=1e-12)
        assert record.accuracy == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))
        assert record.learning_rate == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.zero_grad()
        (loss + 0.6 / 6 / 2 * meta.square().sum()).backward()
        assert record.gradient_norm == pytest.approx(float(meta.grad.norm()), rel=1e-10)
        optimiser.step()
        schedule.step()
    assert torch.allclose(fit.meta, meta.detach(), atol=1e-12)
    assert [r.step for r in fit.history] == list(range(1, 8))


def test_a_checkpoint_s_rate_is_the_mean_of_the_steps_it_stands_for():
    bilevel = problem()
    trainer = SGD(steps=9, batch=6, learning_rate=0.2, warmup=4, schedule="cosine", checkpoints=3)
    fit = trainer.fit(bilevel, generator=seeded())
    assert [c.step for c in fit.checkpoints] == [3, 6, 9]
    for i, kept in enumerate(fit.checkpoints):
        rates = [r.learning_rate for r in fit.history[3 * i : 3 * i + 3]]
        assert kept.learning_rate == pytest.approx(sum(rates) / 3 / 6)


# Losses and gradients.


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("bytes_at_once", [1, 2**27])
def test_loss_and_gradient_are_the_point_s(name, bytes_at_once, monkeypatch):
    monkeypatch.setattr("metafluence.bilevel.memory.GRADIENT_GRAPH_BYTES", bytes_at_once)
    bilevel = BilevelProblem(LEARNERS[name](), tasks(4), 0.7, EXACT)
    meta = random_meta(bilevel)
    weights = Weights.ones(bilevel.tasks).set("task", 1, 0.4).set("query", [3, 8], 0.2).set("support", 4, 0.5)
    quality, gradient = mf.loss_gradient(bilevel, meta, weights)
    point = bilevel.at(meta, weights)
    assert torch.allclose(gradient, point.gradient, atol=1e-12)
    assert quality.loss == pytest.approx(float((weights.task * point.task_losses).mean()))
    assert quality == pytest.approx(mf.quality_at(point))
    plain = mf.validate(bilevel, meta)
    assert plain.loss == pytest.approx(float(bilevel.at(meta).task_losses.mean()))
    right = bilevel.at(meta).predictions.argmax(dim=-1) == bilevel.tasks.query.targets
    assert plain.accuracy == pytest.approx(float(right.double().mean()))


def test_memory_is_measured_once_for_all_minibatches(monkeypatch):
    calls = []
    original = graph_bytes
    monkeypatch.setattr("metafluence.bilevel.memory.graph_bytes", lambda build: calls.append(1) or original(build))
    bilevel = problem()
    Adam(steps=5, batch=2, validate_every=2).fit(bilevel, generator=seeded(), validation=tasks(3, seed=1))
    assert len(calls) == 1
    bilevel.at(random_meta(bilevel))
    bilevel.over(tasks(4, seed=2)).at(random_meta(bilevel))
    assert len(calls) == 2
    longer = tasks(2, seed=3)
    longer = replace(longer, query=longer.support, support=Batch(*(t[:, :2] for t in vars(longer.query).values())),
                     corrupted_support=None)  # fmt: skip
    mf.validate(bilevel.over(longer), random_meta(bilevel))
    assert len(calls) == 3


def test_conv4_learns_to_tell_classes_apart():
    generator = seeded()
    patterns = torch.randn(2, 1, 16, 16, generator=generator)
    labels = torch.arange(8).remainder(2).expand(8, -1).clone()

    def half() -> Batch:
        return Batch(patterns[labels] + torch.randn(8, 8, 1, 16, 16, generator=generator), labels.clone())

    train = TaskSet(half(), half(), tuple(map(str, range(8))))
    bilevel = BilevelProblem(ProtoNet(Conv4(8), temperature=0.003), train, 1e-3, EXACT)
    fit = Adam(steps=30, batch=4, learning_rate=5e-3, warmup=3, schedule="cosine").fit(bilevel, generator=seeded())
    before, after = mf.validate(bilevel, bilevel.learner.init_meta(seeded())), mf.validate(bilevel, fit.meta)
    assert after.loss < 0.5 * before.loss
    assert after.accuracy > 0.95


# Validation.


def overfitting(**options) -> tuple[mf.Fit, BilevelProblem, BilevelProblem]:
    """Training on noise: validation grows worse at some step."""
    bilevel = problem(tasks(4, flip=0.5), l2=1e-4)
    judge = bilevel.over(tasks(8, seed=1))
    trainer = Adam(**{"steps": 60, "batch": 4, "learning_rate": 0.05, "validate_every": 4, **options})
    return trainer.fit(bilevel, generator=seeded(), validation=judge.tasks), bilevel, judge


@pytest.fixture(scope="module")
def overfitted() -> tuple[mf.Fit, BilevelProblem, BilevelProblem]:
    return overfitting()


def test_the_fit_is_where_validation_was_best(overfitted):
    fit, _, judge = overfitted
    judged = [r for r in fit.history if r.validation_loss is not None]
    assert [r.step for r in judged] == list(range(4, 61, 4))
    losses = {r.step: r.validation_loss for r in judged}
    assert fit.best_step == min(losses, key=losses.get) < 60
    quality = mf.validate(judge, fit.meta)
    assert quality.loss == losses[fit.best_step] < losses[60]
    assert quality.accuracy == next(r.validation_accuracy for r in judged if r.step == fit.best_step)
    assert fit.steps == 60
    assert [c.step for c in fit.checkpoints] == [s for s in (12, 24, 36, 48) if s < fit.best_step] + [fit.best_step]
    assert torch.equal(fit.checkpoints[-1].meta, fit.meta)


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_patience_is_over(patience, overfitted):
    whole, bilevel, judge = overfitted
    fit, *_ = overfitting(patience=patience)
    assert fit.steps == fit.best_step + 4 * patience < 60
    assert fit.history == whole.history[: fit.steps]
    again = Adam(steps=60, batch=4, learning_rate=0.05, validate_every=4, patience=patience)
    by_problem = again.fit(bilevel, generator=seeded(), validation=judge)
    assert torch.equal(by_problem.meta, fit.meta)
    assert fit.gradient_norm == pytest.approx(float(bilevel.at(fit.meta).gradient.norm()), rel=1e-10)


def test_the_last_step_is_validated_too():
    fit, *_ = overfitting(steps=6)
    assert [r.step for r in fit.history if r.validation_loss is not None] == [4, 6]


def test_without_validation_the_fit_is_the_last_step():
    bilevel = problem()
    fit = Adam(steps=5).fit(bilevel, generator=seeded(), validation=tasks(3, seed=1))
    assert fit.best_step is None
    assert all(r.validation_loss is None for r in fit.history)
    assert torch.equal(fit.checkpoints[-1].meta, fit.meta)


def test_newton_gives_validation_no_say():
    bilevel = problem(l2=1.0)
    seen = []
    newton = Newton(tolerance=1e-11, warmup=3)
    fit = newton.fit(bilevel, generator=seeded(), progress=lambda *a: seen.append(a), validation=tasks(3, seed=1))
    plain = newton.fit(bilevel, generator=seeded())
    assert torch.equal(fit.meta, plain.meta)
    assert fit.best_step is None
    assert [record for *_, record in seen] == list(fit.history)
    assert len(fit.history) == fit.steps
    last = fit.history[-1]
    assert last.gradient_norm == fit.gradient_norm
    assert last.loss == pytest.approx(mf.validate(bilevel, fit.meta).loss)


# Around a fit.


def test_retraining_stops_early_by_the_same_tasks(tmp_path):
    bilevel, validation = problem(tasks(4, flip=0.5), l2=1e-3), tasks(8, seed=1)
    trainer = Adam(steps=40, batch=4, learning_rate=0.05, validate_every=4, patience=2, tolerance=1e9)
    fit = trainer.fit(bilevel, generator=seeded(), validation=validation)
    bank = mf.RetrainBank(bilevel, fit, trainer, Serial(), tmp_path, validation=validation)
    found = bank.leave_out([(1,)])
    weights = Weights.ones(bilevel.tasks).without("task", 1)
    wanted = trainer.fit(bilevel, weights, fit.meta, seeded(), validation=validation)
    assert torch.equal(found.meta[:, 0], wanted.meta)
    assert wanted.best_step is not None
    told: list[str] = []
    mf.RetrainBank(bilevel, fit, trainer, Serial(), tmp_path, validation=tasks(8, seed=2), notice=told.append)
    assert "made with another validation" in told[0]
    with pytest.raises(InputError, match="asks for validation tasks"):
        mf.RetrainBank(bilevel, fit, trainer, Serial()).leave_out([(1,)])


def test_retrainings_in_one_store_are_of_their_seed_weights_and_share(tmp_path):
    """Each is what a fit by hand gives, though others were kept before it."""
    bilevel, trainer = problem(tasks(4)), SGD(steps=3, batch=2, tolerance=1e9)
    fit, ones = trainer.fit(bilevel, generator=seeded()), Weights.ones(bilevel.tasks)
    base = {seed: replace(ones, task=ones.task * (1 + 0.1 * seed)) for seed in (1, 2)}
    for seed, own, share in ((1, 1, 0.0), (2, 1, 0.0), (1, 2, 0.0), (1, 1, 0.5)):
        bank = mf.RetrainBank(
            bilevel, fit, trainer, Serial(), tmp_path, start="cold", seed=seed, notice=lambda _: None, weights=base[own]
        )
        found = bank.leave_out([(1,)], weight=share).meta[:, 0]
        wanted = trainer.fit(bilevel, base[own].scaled("task", 1, share), generator=seeded(seed)).meta
        assert torch.equal(found, wanted), (seed, own, share)


def test_a_kept_fit_has_its_history(tmp_path):
    shelf = Shelf(tmp_path, "a study", pytest.fail)
    fit = stored_fit(shelf, "fit", lambda: overfitting(steps=8)[0])
    again = stored_fit(shelf, "fit", lambda: pytest.fail("fitted again"))
    assert again.history == fit.history
    assert again.best_step == fit.best_step
    assert len(fit.history) == 8


def test_progress_and_records_say_how_it_goes():
    seen = []
    Adam(steps=3, validate_every=3).fit(
        problem(), generator=seeded(), validation=tasks(2, seed=1), progress=lambda *a: seen.append(a)
    )
    assert [(done, total, record.step) for done, total, record in seen] == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
    record = mf.Record(4, 0.51234, 0.875, 2e-3, 0.1, 0.7, 0.5)
    assert str(record) == "loss 0.512 acc 0.88 ‖∇F‖ 2.0e-03"
    assert record.validation() == "validation 0.7 acc 0.50"
    real = mf.Record(4, 0.51234, None, 2e-3)
    assert str(real) == "loss 0.512 ‖∇F‖ 2.0e-03"
    assert real.validation() == ""


STUDY = {
    "name": "small",
    "dataset": "digits",
    "episodes": {"train": 4, "validation": 3, "test": 2, "way": 2, "shot": 2, "query": 2, "split": "instances"},
    "learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [2]}},
    "l2": 0.1,
    "trainer": {"use": "adam", "steps": 6, "validate_every": 2, "patience": 2, "warmup": 2, "schedule": "cosine"},
    "methods": ["random"],
    "truth": {"items": 2},
    "executor": "serial",
}


class Notes(mf.Observer):
    def __init__(self) -> None:
        self.stages, self.notes, self.ends = [], [], []

    def stage(self, name, total=None):
        self.stages.append(name)

    def step(self, done, total=None, note=""):
        if self.stages[-1] == "meta-training":
            self.notes.append(note)

    def done(self, note=""):
        if self.stages[-1] == "meta-training":
            self.ends.append(note)


def test_a_study_hands_its_validation_tasks_to_a_trainer_that_asks(tmp_path):
    notes = Notes()
    ready = Preparation(mf.parse_study(STUDY), mf.default_registry(), tmp_path, notes).run()
    assert ready.fit.best_step is not None
    bilevel = ready.evaluation.problem
    best = min(r.validation_loss for r in ready.fit.history if r.validation_loss is not None)
    assert mf.validate(bilevel.over(ready.split.validation), ready.fit.meta).loss == pytest.approx(best)
    assert "validation" not in notes.notes[0]
    assert all("loss" in note and "acc" in note for note in notes.notes)
    assert all("validation" in note for note in notes.notes[1:])
    assert notes.ends == [
        f"‖∇F‖ = {ready.fit.gradient_norm:.1e} after {ready.fit.steps} steps, validation best after "
        f"{ready.fit.best_step}"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0, but a whole number at least 1"),
        ({"batch": 0}, "batch is 0, but a whole number at least 1"),
        ({"save_every": 0}, "save_every is 0, but a whole number at least 1"),
        ({"validate_every": 0}, "validate_every is 0, but a whole number at least 1"),
        ({"validate_every": 1, "patience": 0}, "patience is 0, but a whole number at least 1"),
        ({"patience": 2}, "patience counts validations.*validate_every too"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, but a number above 0"),
        ({"checkpoints": -1}, "checkpoints is -1, but a whole number at least 0"),
        ({"steps": 5, "warmup": 5}, "warms up for 5 of 5 steps"),
        ({"warmup": -1}, "warmup is -1, but a whole number at least 0"),
    ],
)
@TRAINERS
def test_options_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(InputError, match=f"(?i){kind.__name__}.*{message}"):
        kind(**options)


def test_a_schedule_is_checked_where_it_is_configured():
    with pytest.raises(mf.ConfigError, match="schedule is 'cosin'"):
        mf.build("trainer", "adam", schedule="cosin")


def test_a_fit_says_what_it_lacks():
    with pytest.raises(InputError, match="validate_every=2 asks for validation tasks"):
        Adam(validate_every=2).fit(problem(), generator=seeded())
    with pytest.raises(InputError, match=r"meta has shape \(2,\)"):
        Adam().fit(problem(), init=torch.zeros(2).double())


def test_a_loss_that_is_no_number_stops_the_fit():
    with pytest.raises(mf.ConvergenceError, match=r"At step \d+ of sgd the loss is .*Lower the learning rate \(1.0e\+"):
        SGD(steps=50, learning_rate=1e15).fit(problem(l2=1.0), generator=seeded())
