"""Loops of one's own, in plain torch, recorded: the run, its derivatives against the loop made again, lies found."""

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import higher
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import metafluence as mf
import small_loops
from metafluence import InputError, MetaLearner, StoreError, TaskSet
from metafluence.testing import central_difference
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.anil import ANIL
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.learners.protonet import ProtoNet
from small_problems import tasks

SIZE = 3  # tasks of a step
cross_entropy = nn.functional.cross_entropy


def network(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Linear(3, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Tanh(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).double()


Half = tuple[Tensor, Tensor]


def maml_loss(model: nn.Module, support: Half, query: Half, rate: float = 0.3, steps: int = 2, **more: Any) -> Tensor:
    """As people write it with `higher`."""
    inner = torch.optim.SGD(model.parameters(), lr=rate)
    track = not more.get("first_order", False)
    with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (adapted, stepped):
        for _ in range(steps):
            if track:
                stepped.step(cross_entropy(adapted(support[0]), support[1]))
            else:
                stepped.step(
                    cross_entropy(adapted(support[0]), support[1]), grad_callback=lambda gs: [g.detach() for g in gs]
                )
        return cross_entropy(adapted(query[0]), query[1])


def proto_loss(model: nn.Module, support: Half, query: Half, **_: Any) -> Tensor:
    features = model(support[0])
    prototypes = torch.stack([features[support[1] == c].mean(dim=0) for c in (0, 1)])
    return cross_entropy(-torch.cdist(model(query[0]), prototypes).square(), query[1])


def anil_loss(model: nn.ModuleDict, support: Half, query: Half, **_: Any) -> Tensor:
    weight, bias = model["head"].get_parameter("weight"), model["head"].get_parameter("bias")
    features = model["body"](support[0])
    for _step in range(2):
        loss = cross_entropy(nn.functional.linear(features, weight, bias), support[1])
        by_weight, by_bias = torch.autograd.grad(loss, (weight, bias), create_graph=True)
        weight, bias = weight - 0.3 * by_weight, bias - 0.3 * by_bias
    return cross_entropy(nn.functional.linear(model["body"](query[0]), weight, bias), query[1])


def body_and_head() -> nn.ModuleDict:
    whole = network()
    return nn.ModuleDict({"body": whole[:2], "head": whole[2]})


@dataclass(frozen=True)
class Loop:
    """A user's code: the model, the loss of one task, and the learner that describes both."""

    model: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    learner: Callable[[Any], MetaLearner]
    optimiser: Callable[[Any], torch.optim.Optimizer] = lambda ps: torch.optim.Adam(ps, lr=0.05)

    def run(self, weights: dict[int, float] | None = None, **how: Any) -> nn.Module:
        """The model as the loop leaves it, without a recorder; weights: of the losses of some tasks."""
        return self._made(None, weights or {}, **how)[0]

    def recorded(self, folder: Path, **how: Any) -> tuple[nn.Module, mf.TrainingRun]:
        """The model and the run."""
        model, recorder = self._made(folder, {}, **how)
        assert recorder is not None
        return model, recorder.finish()

    def _made(
        self,
        folder: Path | None,
        weights: dict[int, float],
        learner: Callable[[Any], MetaLearner] | None = None,
        edit: Callable[[Any], Any] = lambda model: None,
        options: dict[str, Any] | None = None,
        episodes: Sequence[TaskSet] | None = None,
        **how: Any,
    ) -> tuple[nn.Module, mf.LoopRecorder | None]:
        """Fresh episodes at each step, in order."""
        model = self.model()
        optimiser = self.optimiser(model.parameters())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
        settings = {"every": 2, **(options or {})}
        recorder = (
            None if folder is None else mf.record(folder, (learner or self.learner)(model), optimiser, **settings)
        )
        for step, tasks_of_step in enumerate(episodes or EPISODES):
            batch = as_tuples(tasks_of_step)
            with nullcontext() if recorder is None else recorder.step(batch):
                losses = [
                    weights.get(SIZE * step + i, 1.0) * self.loss(model, (sx, sy), (qx, qy), **how)
                    for i, (sx, sy, qx, qy) in enumerate(batch)
                ]
                optimiser.zero_grad()
                torch.stack(losses).mean().backward()
                edit(model)
                optimiser.step()
            schedule.step()
        return model, recorder


def as_tuples(episodes: TaskSet) -> list[tuple[Tensor, ...]]:
    halves = (episodes.support.inputs, episodes.support.targets, episodes.query.inputs, episodes.query.targets)
    return list(zip(*halves, strict=True))


EPISODES = [tasks(SIZE, seed=seed) for seed in range(5)]
LOOPS = {
    "maml": Loop(network, maml_loss, lambda m: MAML(m, steps=2, rate=0.3)),
    "protonet": Loop(lambda: network()[:2], proto_loss, ProtoNet),
    "anil": Loop(body_and_head, anil_loss, lambda m: ANIL(m["body"], steps=2, rate=0.3)),
}
OPTIMISERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.3, weight_decay=0.01),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.05, weight_decay=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.05, weight_decay=0.3, foreach=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.02),
}
QUICK = [("maml", "sgd"), *((loop, "adam") for loop in LOOPS)]
DEARER = [("maml", o) for o in OPTIMISERS if o not in ("sgd", "adam")]
PAIRS = [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in DEARER)]


def flat(model: nn.Module, run: mf.TrainingRun) -> Tensor:
    learner = run.problem.learner
    assert isinstance(learner, mf.NetworkLearner)
    return learner.meta_from(model.state_dict())


@pytest.mark.parametrize(("name", "optimiser"), PAIRS)
def test_influence_through_a_recorded_loop_is_the_derivative_of_the_loop_itself(name, optimiser, tmp_path):
    """Oracle: central differences of the user's loop, made again with one task's loss times a weight."""
    loop = replace(LOOPS[name], optimiser=OPTIMISERS[optimiser])
    model, run = loop.recorded(tmp_path)
    assert torch.equal(run.final, flat(model, run))
    again = run.replayed(0, 2)[-1]
    torch.testing.assert_close(again.state.meta, run.state(1).meta, rtol=1e-12, atol=1e-12)
    targets = mf.Targets(run.problem, tasks(2, seed=9), run.final)
    context = mf.Context(run.problem.at(run.final), run=run)
    scores = mf.attribute(mf.build("method", "run-influence"), context, targets).values[:, 0]
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)

    def loss(item: int, h: float) -> Tensor:
        meta = flat(loop.run({item: 1 + h}), run)
        return torch.tensor(mf.validate(run.problem.over(tasks(2, seed=9)), meta).loss, dtype=torch.float64)

    item = 4
    found = central_difference(lambda h: loss(item, float(h)), zero, one, step=1e-3)
    assert found.error < 1e-3 * abs(float(found.value))
    assert float(scores[item]) == pytest.approx(-float(found.value), abs=10 * found.error + 1e-9)


def test_a_recorded_loop_is_what_a_loop_without_a_task_is_compared_with(tmp_path):
    """Oracle: the loop itself, made again with a weight of zero."""
    _, run = LOOPS["maml"].recorded(tmp_path)
    without = flat(LOOPS["maml"].run({4: 0.0}), run)
    torch.testing.assert_close(run.replay(run.removing("task", (4,))), without, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(without, run.final)


def test_methods_along_a_run_take_it_and_another_process_loads_it(tmp_path):
    model, run = LOOPS["maml"].recorded(tmp_path)
    targets = mf.Targets(run.problem, tasks(2, seed=9), run.final)
    for method in (mf.build("method", "tracin", along="run"), mf.build("method", "source", segments=2)):
        found = mf.attribute(method, mf.Context(run.problem.at(run.final), run=run, strict=False), targets)
        assert found.values.isfinite().all()
    loaded = mf.load_recording(tmp_path, LOOPS["maml"].learner(model))
    assert torch.equal(loaded.final, run.final)
    assert loaded.problem.fingerprint() == run.problem.fingerprint()
    loaded.replayed(2, 4)
    with pytest.raises(StoreError, match="recorded with another learner"):
        mf.load_recording(tmp_path, MAML(model, steps=2, rate=0.2))
    with pytest.raises(StoreError, match="no recorded tasks"):
        mf.load_recording(tmp_path / "none", LOOPS["maml"].learner(model))


def test_a_run_made_anew_replays_bit_by_bit(tmp_path):
    _, run = LOOPS["maml"].recorded(tmp_path / "loop")
    again = mf.remade_run(run, tmp_path / "again")
    torch.testing.assert_close(again.final, run.final, rtol=1e-10, atol=1e-10)
    assert [len(again.replayed(*segment)) for segment in again.segments()] == [2, 2, 1]
    assert torch.equal(mf.load_run(tmp_path / "again", run.problem).final, again.final)


def test_a_replay_that_misses_the_loop_is_an_error_that_names_the_way_out(tmp_path):
    _, run = LOOPS["maml"].recorded(tmp_path, options={"memory_gib": 1e-6})  # which all gradients do not fit
    wrong = replace(run, weights=run.weights.scaled("task", (4,), 1.1))
    assert [len(wrong.recorded(*segment)) for segment in run.segments()] == [2, 2, 1]  # from the loop's own gradients
    with pytest.raises(StoreError, match=r"misses the loop's end by .*remade_run"):
        wrong.replayed(0, 2)


def test_a_task_that_is_seen_again_is_one_item(tmp_path):
    _, run = LOOPS["maml"].recorded(tmp_path, episodes=[EPISODES[0], EPISODES[1], EPISODES[0]])
    assert len(run.problem.tasks) == 2 * SIZE
    assert torch.equal(run.batches[2], run.batches[0])
    assert run.problem.tasks.ids[:2] == ("step-1-0", "step-1-1")


@pytest.mark.parametrize(("start", "steps"), [(6, 11), (9, 11), (11, 11)], ids=["found at 8", "at the end", "the last"])
def test_a_lie_that_starts_late_is_found_at_a_power_of_two_or_at_the_end(start, steps, tmp_path):
    model, generator = small_loops.module(), torch.Generator().manual_seed(1)
    files, sgd = small_loops.pictures(), torch.optim.SGD(model.parameters(), lr=0.2)
    recorder = mf.record(tmp_path, mf.build("learner", "protonet", backbone=model), sgd)
    with pytest.raises(InputError, match=r"sum|scale|factor|loss"):  # noqa: PT012
        for number in range(1, steps + 1):
            batch = [small_loops.episode(files, generator) for _ in range(3)]
            with recorder.step(batch):
                sgd.zero_grad()
                loss = torch.stack([small_loops.loss(model, one) for one in batch]).mean()
                (loss if number < start else 3 * loss).backward()
                sgd.step()
        assert start > 8, "found before the end"
        recorder.finish()
    assert recorder.steps == (7 if start <= 8 else steps)


def test_a_run_made_anew_says_where_the_loop_did_something_else(tmp_path):
    _, run = LOOPS["maml"].recorded(tmp_path)
    wrong = replace(run, rates=tuple(2 * rate for rate in run.rates))
    with pytest.warns(UserWarning, match="misses the recorded one's end by"):
        mf.remade_run(wrong)


@pytest.mark.filterwarnings("ignore:Running statistics")
def test_parameters_without_effect_do_not_count_where_a_run_is_made_anew(tmp_path):
    """In single precision Adam makes whole steps of rounding noise, which a bias before a norm has for a gradient."""
    loop = replace(LOOPS["maml"], model=lambda: network(norm=True).float())
    _, run = loop.recorded(tmp_path, episodes=[one.to(dtype=torch.float32) for one in EPISODES])
    assert list(run.dead_parameters()) == ["0.bias"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = mf.remade_run(run)
    assert (again.final - run.final).norm() > 0.01 * (run.final - run.state(0).meta).norm(), "nothing to leave out"


def clipping(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)


def by_value(model: nn.Module) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.05)


def adds_l2(model: nn.Module) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad += 0.02 * p.detach()


def scaled(factor: float):
    def edit(model: nn.Module) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad *= factor

    return edit


def described(**settings: Any):
    return {"learner": lambda m: MAML(m, **{"steps": 2, "rate": 0.3, **settings})}


SUM, CLIP = {"options": {"reduction": "sum"}}, {"options": {"clip": 0.25}}
LIES = {
    "rate": (described(rate=0.6), r"rate=0.3 in place of 0.6"),
    "half rate": (described(rate=0.15), r"rate=0.3 in place of 0.15"),
    "any rate": (described(rate=0.0423), r"rate=0.3 in place of 0.0423"),
    "steps": (described(steps=3), r"steps=2 in place of 3"),
    "first order": (described(first_order=True), r"first_order=False in place of True"),
    "loop of first order": ({"first_order": True}, r"first_order=True in place of False"),
    "rule": (described(rule="adam"), r"rule='sgd' in place of 'adam'"),
    "sum": ({"edit": scaled(SIZE)}, r"factor of 3: the loop's loss is a sum over the 3 tasks. Give reduction='sum'"),
    "mean": (SUM, r"factor of 0.3333. Give reduction='mean'"),
    "sum of queries": ({"edit": scaled(6)}, r"factor of 6: .*a sum over a task's query instances.*=6, or scale"),
    "clipping": ({"edit": clipping}, r"the loop clips to the norm 0.25. Give clip=0.25"),
    "clipping by value": ({"edit": by_value}, r"at ±0.05: .*clip_grad_value_"),
    "no clipping": (CLIP, r"otherwise than by clipping to the norm 0.25"),
    "other loss": ({"edit": lambda m: m[0].bias.grad.add_(0.1)}, r"most in 0.bias. None of the usual .*steps, rate"),
    "rate and sum": ({**described(rate=0.6), "edit": scaled(SIZE)}, r"rate=0.3.*Also: .*reduction='sum'"),
    "l2": ({"edit": adds_l2}, r"0.02 times the parameters.*weight_decay=0.02"),
    "ascent": ({"edit": scaled(-1.0)}, r"factor of -1: the loop goes up its loss"),
    "decay beside": ({"edit": lambda m: m[2].bias.data.mul_(0.5)}, r"optimiser's step is not that of .*most in 2.bias"),
}


@pytest.mark.parametrize(("how", "message"), LIES.values(), ids=LIES.keys())
def test_a_description_that_lies_is_found_and_the_lie_is_named(how, message, tmp_path):
    with pytest.raises(InputError, match=message):
        LOOPS["maml"].recorded(tmp_path, **how)


@pytest.mark.parametrize(
    "how",
    [{"edit": scaled(SIZE), **SUM}, {"edit": scaled(2.5), "options": {"reduction": 2.5}}, {"edit": clipping, **CLIP}],
    ids=["sum", "number", "clip"],
)
def test_sums_and_clipping_are_recorded_where_they_are_named(how, tmp_path):
    """Oracle: the loop made again without a task's loss."""
    loop = replace(LOOPS["maml"], optimiser=OPTIMISERS["sgd"])
    _, run = loop.recorded(tmp_path, **how)
    without = flat(loop.run({4: 0.0}, edit=how["edit"]), run)
    torch.testing.assert_close(run.replay(run.removing("task", (4,))), without, rtol=1e-9, atol=1e-9)
    removals = mf.run_tangent(run, [(4,)])[:, 0]
    h = 1e-4
    less = run.replay(run.removing("task", (4,), 1 - h)) - run.replay(run.removing("task", (4,), 1 + h))
    torch.testing.assert_close(removals, less / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Running statistics")
def test_batch_norm_in_training_mode_is_recorded_and_in_evaluation_mode_is_found(tmp_path):
    loop = replace(LOOPS["maml"], model=lambda: network(norm=True))
    model, run = loop.recorded(tmp_path / "training")
    assert torch.equal(run.final, flat(model, run))
    again = run.replayed(0, 2)[-1]
    torch.testing.assert_close(again.state.meta * run.alive, run.state(1).meta * run.alive, rtol=1e-9, atol=1e-9)
    shared = replace(LOOPS["protonet"], model=lambda: network(norm=True)[:3])
    model, run = shared.recorded(tmp_path / "shared", learner=lambda m: ProtoNet(mf.per_task_norms(m)))
    assert torch.equal(run.final, flat(model, run))
    frozen = replace(loop, model=lambda: network(norm=True).eval())
    with pytest.raises(InputError, match=r"model in evaluation mode.*Call model.train\(\)"):
        frozen.recorded(tmp_path / "evaluation")


@pytest.mark.parametrize("what", ["support and query of a task", "supports of all tasks", "all instances of a step"])
def test_instances_that_batch_norm_sees_together_are_found(what, tmp_path):
    model = network(norm=True)[:3]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = mf.record(tmp_path, ProtoNet(mf.per_task_norms(model)), optimiser)
    batch = as_tuples(EPISODES[0])
    instances = [(sx, qx) for sx, _, qx, _ in batch]
    calls = {
        "support and query of a task": instances,
        "supports of all tasks": list(zip(*instances, strict=True)),
        "all instances of a step": [[half for pair in instances for half in pair]],
    }

    def make() -> None:
        with recorder.step(batch):
            outputs = [model(torch.cat(list(call))) for call in calls[what]]
            if what == "supports of all tasks":
                support, query = (half.unflatten(0, (SIZE, -1)) for half in outputs)
            else:
                support, query = torch.cat(outputs).unflatten(0, (SIZE, 2, -1)).unbind(1)
            halves = zip(support, query, batch, strict=True)
            losses = [proto_loss(nn.Identity(), (s, one[1]), (q, one[3])) for s, q, one in halves]
            torch.stack(losses).mean().backward()
            optimiser.step()

    said = (
        "together=True in place of False" if what == "support and query of a task" else f"{what}.* normalised together"
    )
    with pytest.raises(InputError, match=f"With {said} they agree"):
        make()


def test_regression_by_torchs_squared_error_is_twice_ours_and_the_error_says_so(tmp_path):
    def real(episodes: TaskSet) -> TaskSet:
        support, query = (mf.Batch(h.inputs, h.inputs[..., :1].sin()) for h in (episodes.support, episodes.query))
        return TaskSet(support, query, episodes.ids)

    def loss(model: nn.Module, support: Half, query: Half) -> Tensor:
        adapted: dict[str, Tensor] = dict(model.named_parameters())
        inner = nn.functional.mse_loss(functional_call(model, adapted, support[0]), support[1])
        gradients = torch.autograd.grad(inner, tuple(adapted.values()), create_graph=True)
        adapted = {name: p - 0.1 * g for (name, p), g in zip(adapted.items(), gradients, strict=True)}
        return nn.functional.mse_loss(functional_call(model, adapted, query[0]), query[1])

    def model() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    loop = Loop(model, loss, lambda m: MAML(m, steps=1, rate=0.1))
    episodes = [real(one) for one in EPISODES]
    with pytest.raises(InputError, match=r"rate=0.2 in place of 0.1 they agree.*Also: .*factor of 2.*reduction=2"):
        loop.recorded(tmp_path, episodes=episodes)
    ours = replace(loop, learner=lambda m: MAML(m, steps=1, rate=0.2))
    trained, run = ours.recorded(tmp_path, episodes=episodes, options={"reduction": 2})
    assert torch.equal(run.final, flat(trained, run))


def test_a_learned_inner_rate_is_recorded_as_its_logarithm(tmp_path):
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = network()
            self.body, self.head = parts[:2], parts[2]
            self.log_rate = nn.Parameter(torch.tensor(0.0).double())

    def loss(model: Whole, support: Half, query: Half) -> Tensor:
        weight, bias = model.head.get_parameter("weight"), model.head.get_parameter("bias")
        inner = cross_entropy(nn.functional.linear(model.body(support[0]), weight, bias), support[1])
        by_weight, by_bias = torch.autograd.grad(inner, (weight, bias), create_graph=True)
        rate = 0.3 * model.log_rate.exp()
        return cross_entropy(
            nn.functional.linear(model.body(query[0]), weight - rate * by_weight, bias - rate * by_bias), query[1]
        )

    loop = Loop(Whole, loss, lambda m: ANIL(m.body, steps=1, rate=0.3, learn_rates="one"))
    model, run = loop.recorded(tmp_path)
    assert torch.equal(run.final, flat(model, run))
    assert run.final[-1] != 0


def test_support_and_query_exchanged_are_found(tmp_path):
    exchanged = replace(LOOPS["maml"], loss=lambda model, support, query: maml_loss(model, query, support))
    with pytest.raises(InputError, match="support and query exchanged they agree"):
        exchanged.recorded(tmp_path)


def torch_with(name: str, **options: Any):
    return lambda ps: getattr(torch.optim, name)(ps, lr=0.1, **options)


def grouped(**options: Any):
    def make(ps) -> torch.optim.Optimizer:
        first, *others = ps
        return torch.optim.SGD([{"params": [first], **options}, {"params": others}], lr=0.1)

    return make


REFUSED = {
    "amsgrad": (torch_with("Adam", amsgrad=True), "amsgrad=True.*leave amsgrad out"),
    "maximize": (torch_with("SGD", maximize=True), "maximize=True.*negate the loss"),
    "centered": (torch_with("RMSprop", centered=True), "centered=True"),
    "rmsprop's momentum": (torch_with("RMSprop", momentum=0.5), "momentum=0, or Adam"),
    "dampening": (torch_with("SGD", momentum=0.5, dampening=0.1), "dampening=0.1"),
    "other": (torch_with("Adagrad"), "Adagrad is not among .*SGD, Adam, AdamW and RMSprop"),
    "a group's": (grouped(dampening=0.1, momentum=0.5), "SGD has dampening=0.1.*dampening=0"),
}


@pytest.mark.parametrize(("optimiser", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_options_that_no_rule_has_are_refused_by_name(optimiser, message, tmp_path):
    with pytest.raises(InputError, match=message):
        replace(LOOPS["maml"], optimiser=optimiser).recorded(tmp_path)


def begun(tmp_path, optimiser=None, learner=None):
    model = network()
    optimiser = (optimiser or LOOPS["maml"].optimiser)(model.parameters())
    recorder = mf.record(tmp_path, (learner or LOOPS["maml"].learner)(model), optimiser, check_every=8)

    def make(factor: float = 1.0) -> None:
        optimiser.zero_grad()
        losses = [maml_loss(model, (sx, sy), (qx, qy)) for sx, sy, qx, qy in as_tuples(EPISODES[0])]
        (factor * torch.stack(losses).mean()).backward()
        optimiser.step()

    return model, optimiser, recorder, make


def no_step(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0]):
        pass


def twice(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0]):
        make()
        make()


def outside(model, optimiser, recorder, make):
    make()


def changed_between(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0]):
        make()
    model[0].bias.data += 1
    with recorder.step(EPISODES[0]):
        make()


def other_momentum(model, optimiser, recorder, make):
    optimiser.param_groups[0]["betas"] = (0.8, 0.999)
    with recorder.step(EPISODES[0]):
        make()


def closure(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0]):
        optimiser.step(lambda: 0.0)


def no_tasks(model, optimiser, recorder, make):
    with recorder.step({"train": 1}):
        make()


def other_shape(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0]):
        make()
    halves = [mf.Batch(half.inputs[..., 1:], half.targets) for half in (EPISODES[1].support, EPISODES[1].query)]
    with recorder.step(TaskSet(*halves, ids=("a", "b", "c"))):
        make()


def other_task_of_one_name(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0]):
        make()
    other = EPISODES[1]
    with recorder.step(TaskSet(other.support, other.query, EPISODES[0].ids)):
        make()


def other_type(model, optimiser, recorder, make):
    with recorder.step(EPISODES[0].to(dtype=torch.float32)):
        make()


def nothing(model, optimiser, recorder, make):
    recorder.finish()


def lie_after_a_while(model, optimiser, recorder, make):
    for step in range(9):
        with recorder.step(EPISODES[0]):
            make(1.0 if step < 5 else 0.9)


MISUSES = {
    no_step: "No optimiser.step",
    twice: "called twice",
    outside: "outside of recorder.step",
    changed_between: "changed between steps 1 and 2",
    other_momentum: "schedule rates alone",
    closure: "closure",
    no_tasks: "given a dict that is no task",
    other_shape: "tensors of shapes",
    other_task_of_one_name: "Two tasks are called '0-0'",
    other_type: "float32.*float64",
    nothing: "Nothing was recorded",
    lie_after_a_while: "At step 8 .*factor of 0.9",
}


@pytest.mark.parametrize(("misuse", "message"), MISUSES.items(), ids=[m.__name__ for m in MISUSES])
def test_a_loop_that_is_no_run_of_steps_is_refused(misuse, message, tmp_path):
    model, optimiser, recorder, make = begun(tmp_path)
    with pytest.raises(InputError, match=message):
        misuse(model, optimiser, recorder, make)
    if misuse not in (outside, nothing):
        with pytest.raises(InputError, match="has stopped"), recorder.step(EPISODES[0]):
            pass
        make()  # the optimiser is left in peace


def test_parameters_that_the_learner_does_not_have_are_named(tmp_path):
    with pytest.raises(InputError, match=r"2.weight \[2, 4\] is not trained in the loop; 2.bias"):
        no_step(*begun(tmp_path, lambda ps: torch.optim.SGD(list(ps)[:2], lr=0.1)))
    with pytest.raises(InputError, match=r"parameter 3 \[2, 4\] is none of the learner's"):
        no_step(*begun(tmp_path, learner=lambda m: ProtoNet(m[:2])))
    with pytest.raises(InputError, match=r"1.weight is \[5, 3\], the optimiser's parameter 1 \[4, 3\]"):
        no_step(*begun(tmp_path, learner=lambda m: MAML(MLP((5,)), steps=2, rate=0.3)))


def test_parameters_may_come_in_any_order_and_a_copy_of_the_module_does(tmp_path):
    backwards = replace(LOOPS["maml"], optimiser=lambda ps: torch.optim.Adam(reversed(list(ps)), lr=0.05))
    model, run = backwards.recorded(tmp_path / "backwards")
    assert torch.equal(run.final, flat(model, run))
    model, run = LOOPS["maml"].recorded(tmp_path / "copy", learner=lambda m: MAML(copy.deepcopy(m), steps=2, rate=0.3))
    assert torch.equal(run.final, flat(model, run))


def test_a_finished_recording_is_kept_and_an_unfinished_one_is_made_again(tmp_path):
    with pytest.raises(InputError):
        LOOPS["maml"].recorded(tmp_path, **described(rate=0.6))
    LOOPS["maml"].recorded(tmp_path)
    with pytest.raises(InputError, match="holds a recording"):
        LOOPS["maml"].recorded(tmp_path)


def test_files_of_others_are_left_where_they_are(tmp_path):
    (tmp_path / "state-00000001.pt").touch()
    with pytest.raises(InputError, match="or other files"):
        LOOPS["maml"].recorded(tmp_path)
    assert (tmp_path / "state-00000001.pt").exists()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_that_has_begun_is_recorded_from_there_on(name, tmp_path):
    """Oracle: the loop made again, without a task of a recorded step."""

    def trained(recorded: bool, without: int | None = None) -> tuple[nn.Module, mf.LoopRecorder | None]:
        model = network()
        optimiser, recorder = OPTIMISERS[name](model.parameters()), None
        for step in range(5):
            if recorded and step == 2:
                recorder = mf.record(tmp_path, LOOPS["maml"].learner(model), optimiser, every=2)
            with nullcontext() if recorder is None else recorder.step(EPISODES[step]):
                losses = [maml_loss(model, (sx, sy), (qx, qy)) for sx, sy, qx, qy in as_tuples(EPISODES[step])]
                optimiser.zero_grad()
                (sum(loss for i, loss in enumerate(losses) if SIZE * (step - 2) + i != without) / SIZE).backward()
                optimiser.step()
        return model, recorder

    model, recorder = trained(recorded=True)
    assert recorder is not None
    run = recorder.finish()
    assert run.steps == 3
    assert torch.equal(run.final, flat(model, run))
    again = flat(trained(recorded=False, without=1)[0], run)
    torch.testing.assert_close(run.replay(run.removing("task", (1,))), again, rtol=1e-9, atol=1e-9)
    assert mf.load_recording(tmp_path, LOOPS["maml"].learner(model)).rule == run.rule


def test_parameters_that_made_other_numbers_of_steps_are_refused(tmp_path):
    model = network()
    optimiser = torch.optim.Adam(model.parameters())
    model[0](torch.ones(1, 3).double()).sum().backward()
    optimiser.step()
    with pytest.raises(InputError, match=r"made \[0, 1\] steps of different parameters"):
        mf.record(tmp_path, LOOPS["maml"].learner(model), optimiser)


def test_recording_changes_nothing_of_the_loop(tmp_path):
    model, _ = LOOPS["maml"].recorded(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), LOOPS["maml"].run().parameters(), strict=True))
    model, _, recorder, make = begun(tmp_path / "random")
    before = torch.random.get_rng_state()
    with recorder.step(EPISODES[0]):
        make()
    recorder.finish()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [{"reduction": "none"}, {"reduction": 0.0}, {"every": 0}, {"check_every": 0}])
def test_options_out_of_bounds_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="Give"):
        LOOPS["maml"].recorded(tmp_path, options=wrong)
