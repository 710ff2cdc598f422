"""Loops whose optimisers have groups of parameters, or that have several: the run, its derivatives, mistakes."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import metafluence as mf
import small_loops
from metafluence.testing import central_difference
from refusals import refused

STEPS = 4
Optimisers = Callable[[Any], list[torch.optim.Optimizer]]


def recipe(model: Any) -> list[torch.optim.Optimizer]:
    """AdamW as most write it: no weight decay on biases, another rate for the last layer."""
    body, last = model[1], model[3]
    groups = [
        {"params": [body.weight], "weight_decay": 0.3},
        {"params": [body.bias], "weight_decay": 0.0},
        {"params": [last.weight, last.bias], "lr": 0.1, "betas": (0.8, 0.99)},
    ]
    return [torch.optim.AdamW(groups, lr=0.02)]


def two(model: Any) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.SGD(model[3].parameters(), lr=0.2, momentum=0.9),
        torch.optim.Adam(model[1].parameters(), lr=0.02),
    ]


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def loop(
    folder: Path | None,
    optimisers: Optimisers,
    without: int | None = None,
    edit: Callable[[Any, list[Any]], Any] = lambda model, optimisers: None,
    **options: Any,
) -> tuple[Any, mf.TrainingRun | None]:
    """Two episodes a step, each group on a schedule of its own; without: an item whose loss is left out."""
    model, files, generator = module(), small_loops.pictures(), torch.Generator().manual_seed(1)
    made = optimisers(model)
    learner = mf.build("learner", "protonet", backbone=model)
    recorder = None
    if folder is not None:
        recorder = mf.record(folder, learner, made if len(made) > 1 else made[0], **{"every": 2, **options})
    for step in range(STEPS):
        batch = [small_loops.episode(files, generator) for _ in range(2)]
        for number, group in enumerate(group for optimiser in made for group in optimiser.param_groups):
            group.setdefault("first", group["lr"])
            group["lr"] = group["first"] * (1 + number) / (1 + number + step)

        def make(batch: list[Any] = batch, step: int = step) -> None:
            losses = [small_loops.loss(model, one) for one in batch]
            kept = [loss for i, loss in enumerate(losses) if 2 * step + i != without]
            model.zero_grad()
            (torch.stack(kept).sum() / 2).backward()
            if "clip" in options:
                nn.utils.clip_grad_norm_(model.parameters(), options["clip"])
            edit(model, made)
            for optimiser in made:
                optimiser.step()

        if recorder is None:
            make()
        else:
            with recorder.step(batch):
                make()
    return model, None if recorder is None else recorder.finish()


def recorded(folder: Path, optimisers: Optimisers, **how: Any) -> tuple[Any, mf.TrainingRun]:
    model, run = loop(folder, optimisers, **how)
    assert run is not None
    return model, run


def flat(model: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def drawn(kinds: list[str], member: list[int], rates: list[float]) -> Optimisers:
    """Each parameter in a group of its kind, each kind an optimiser or two groups of one."""
    made = {
        "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.05),
        "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.8),
        "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.02, weight_decay=0.3, eps=1e-2),
        "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, eps=1e-2),
    }

    def optimisers(model: Any) -> list[torch.optim.Optimizer]:
        found = []
        for i, kind in enumerate(kinds):
            own = [p for p, of in zip(model.parameters(), member, strict=True) if of == i]
            groups = [{"params": own[::2], "lr": rates[i]}, {"params": own[1::2], "weight_decay": 0.01}]
            found += [made[kind]([group for group in groups if group["params"]])] if own else []
        return found

    return optimisers


KINDS = st.lists(st.sampled_from(["sgd", "momentum", "adamw", "rmsprop"]), min_size=1, max_size=3)


@given(st.data(), KINDS, st.lists(st.floats(0.01, 0.1), min_size=3, max_size=3), st.sampled_from([None, 0.2]))
@settings(max_examples=8)
def test_a_run_of_groups_is_the_loop_and_its_derivatives_those_of_replays(tmp_path_factory, data, kinds, rates, clip):
    """Oracles: the loop itself, and central differences of replays."""
    member = data.draw(st.lists(st.integers(0, len(kinds) - 1), min_size=4, max_size=4))
    optimisers, how = drawn(kinds, member, rates), {} if clip is None else {"clip": clip}
    folder = tmp_path_factory.mktemp("run")
    model, run = recorded(folder / "loop", optimisers, **how)
    assert torch.equal(run.final, flat(model))
    item = data.draw(st.integers(0, 2 * STEPS - 1))
    wanted = flat(loop(None, optimisers, without=item, **how)[0])
    torch.testing.assert_close(run.replay(run.removing("task", (item,))), wanted, rtol=1e-9, atol=1e-10)
    exact = mf.remade_run(run, folder / "again")
    assert all(exact.replayed(*segment) for segment in exact.segments()), "bit by bit, or it raises"
    loaded = mf.load_recording(folder / "loop", mf.build("learner", "protonet", backbone=model))
    assert (loaded.rule, loaded.rates) == (run.rule, run.rates)
    assert torch.equal(loaded.replay(run.removing("task", (item,))), run.replay(run.removing("task", (item,))))

    def end(weight: Tensor) -> Tensor:
        return exact.replay(exact.weights.scaled("task", (item,), float(weight)))

    one = torch.ones((), dtype=torch.float64)
    slope = central_difference(end, one, one, step=1e-2)
    size = float(slope.value.norm())
    assert slope.error < 1e-6 * size
    tangent = -mf.run_tangent(exact, [(item,)])[:, 0]
    torch.testing.assert_close(tangent, slope.value, rtol=1e-6, atol=1e-6 * size)
    goals = torch.randn(len(run.final), 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    adjoint = mf.run_adjoint(exact, goals).by_weight["task"][item]
    torch.testing.assert_close(adjoint, slope.value @ goals, rtol=1e-6, atol=1e-6 * size)


def test_adamw_without_decay_on_biases_is_scored(tmp_path):
    _, run = recorded(tmp_path, recipe)
    assert str(run.rule).count("AdamStep") == 3
    assert run.group_rates().shape == (STEPS, 3)
    assert run.group_rates()[0].tolist() == pytest.approx([0.02, 0.02, 0.1])
    support_x, support_y, query_x, query_y = small_loops.validation()
    validation = mf.TaskSet(mf.Batch(support_x, support_y), mf.Batch(query_x, query_y), ("a", "b", "c"))
    targets = mf.Targets(run.problem, validation, run.final)
    context = mf.Context(run.problem.at(run.final), run=run)
    scores = mf.attribute(mf.build("method", "run-influence"), context, targets).values[:, 0]
    h = 1e-4
    ends = [run.replay(run.removing("task", (4,), 1 + sign * h)) for sign in (1, -1)]
    more, less = (mf.validate(run.problem.over(validation), end).loss for end in ends)
    assert float(scores[4]) == pytest.approx(-(more - less) / (2 * h), rel=1e-5)


def test_a_kept_sweep_of_groups_goes_on(tmp_path):
    _, run = recorded(tmp_path / "run", recipe)
    goals = torch.eye(len(run.final), 2, dtype=torch.float64)
    first, again = (mf.run_adjoint(run, goals, folder=tmp_path / "sweep") for _ in range(2))
    assert torch.equal(first.by_weight["task"], again.by_weight["task"])
    slower = replace(run, rates=tuple((*rates[:-1], rates[-1] / 2) for rates in run.rates if isinstance(rates, tuple)))
    assert run.fingerprint() != slower.fingerprint()
    assert isinstance(run.rule, mf.GroupedStep)
    assert run.fingerprint() != replace(run, rule=replace(run.rule, spans=run.rule.spans[::-1])).fingerprint()


def scaled(model: Any, optimisers: list[Any]) -> None:
    for p in model[3].parameters():
        assert p.grad is not None
        p.grad *= 10


def halved(model: Any, optimisers: list[Any]) -> None:
    """The rate of the last group, within the step: after ours, a hook of the loop changes it."""
    if not getattr(model, "hooked", False):
        group = optimisers[0].param_groups[-1]
        optimisers[0].register_step_pre_hook(lambda *_: group.update(lr=group["lr"] / 2))
        model.hooked = True


def one_entry(model: Any, optimisers: list[Any]) -> None:
    model[1].bias.data[0] += 1e-3


def no_bias(model: Any, optimisers: list[Any]) -> None:
    model[1].bias.grad = None


def new_decay(model: Any, optimisers: list[Any]) -> None:
    optimisers[0].param_groups[1]["weight_decay"] = 0.1


LIES = {
    "scaled": (scaled, r"agree up to factors: 1 for group 1 of 3 \(1.weight\); 1 for .*; 10 for group 3 of 3 \(3.wei"),
    "rate": (halved, r"step of group 3 of 3 \(3.weight, 3.bias\) is not .* agree at the rate 0.05, while .* had 0.1"),
    "beside": (one_entry, r"step of group 2 of 3 \(1.bias\) is not that of AdamStep.*changed beside the step"),
    "detached": (no_bias, r"gradient of the loop is not"),
    "settings": (new_decay, r"other than its rates"),
}


@pytest.mark.parametrize(("edit", "message"), LIES.values(), ids=LIES.keys())
def test_the_group_that_lies_is_named(edit, message, tmp_path):
    with refused(message):
        recorded(tmp_path, recipe, edit=edit)


def test_a_group_of_small_gradients_is_compared_by_itself(tmp_path):
    """In single precision its error is below the rounding of the whole gradient."""
    model: Any = module().float()
    episode = small_loops.episode(small_loops.pictures(), torch.Generator().manual_seed(1))
    batch: list[Any] = [tuple(p.float() if isinstance(p, Tensor) and p.is_floating_point() else p for p in episode)]
    with torch.no_grad():  # so that its gradient is small beside that of the layer before it
        model[3].weight *= 1e3
    groups = [{"params": model[1].parameters()}, {"params": model[3].parameters(), "lr": 1e-6}]
    sgd = torch.optim.SGD(groups, lr=1e-6)
    learner = mf.build("learner", "protonet", backbone=copy.deepcopy(model))
    small_loops.loss(model, batch[0]).backward()
    sizes = [float(torch.cat([p.grad.flatten() for p in model[i].parameters()]).norm()) for i in (1, 3)]
    assert sizes[1] < 1e-3 * sizes[0]
    with (
        refused(r"for group 2 of 2 \(3.weight, 3.bias\): of norm .* in the loop, it differs by .*The rest agrees"),
        mf.record(tmp_path, learner, sgd).step(batch),
    ):
        sgd.zero_grad()
        small_loops.loss(model, batch[0]).backward()
        model[3].weight.grad *= 0.5
        sgd.step()


def test_two_optimisers_make_a_step_together(tmp_path):
    model, run = recorded(tmp_path / "run", two)
    assert torch.equal(run.final, flat(model))
    assert run.rule.moments == ("momentum_buffer", "exp_avg", "exp_avg_sq")

    def one_alone(model: Any, optimisers: list[Any]) -> None:
        optimisers.pop()

    with refused(r"Only 1 of 2 optimisers made step 1. Put what makes one step"):
        loop(tmp_path / "alone", two, edit=one_alone)
    with refused("A parameter is stepped by two optimisers"):
        loop(tmp_path / "twice", lambda m: [torch.optim.SGD(m.parameters(), lr=0.1) for _ in range(2)])
    with refused("no parameter that requires a gradient"):
        loop(tmp_path / "none", lambda m: [torch.optim.SGD([torch.zeros(2)], lr=0.1)])


def test_a_group_that_joins_later_has_made_fewer_steps(tmp_path):
    """Adam's corrections count the steps of each group. Oracle: the loop's own end."""
    model, files, generator = module(), small_loops.pictures(), torch.Generator().manual_seed(1)
    adam = torch.optim.Adam(model[1].parameters(), lr=0.02)
    small_loops.loss(model, small_loops.episode(files, generator)).backward()
    adam.step()
    adam.add_param_group({"params": model[3].parameters(), "lr": 0.05})
    recorder = mf.record(tmp_path, mf.build("learner", "protonet", backbone=model), adam, every=2)
    for _ in range(3):
        episode = small_loops.episode(files, generator)
        with recorder.step([episode]):
            adam.zero_grad()
            small_loops.loss(model, episode).backward()
            adam.step()
    run = recorder.finish()
    assert isinstance(run.rule, mf.GroupedStep)
    assert [rule.begun for rule in run.rule.rules if isinstance(rule, mf.AdamStep)] == [1, 0]
    made = mf.remade_run(run).final  # the last bias has no effect
    torch.testing.assert_close(made * run.alive, flat(model) * run.alive, rtol=1e-10, atol=1e-12)


def test_methods_along_the_run_know_the_rate_of_each_group(tmp_path):
    """Oracles: a run without groups where their rates are the same; the run's derivative, which source is near."""

    def sgd(model: Any) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD([{"params": model[i].parameters(), "lr": 0.01 * i} for i in (1, 3)])]

    _, run = recorded(tmp_path, sgd)
    support_x, support_y, query_x, query_y = small_loops.validation()
    validation = mf.TaskSet(mf.Batch(support_x, support_y), mf.Batch(query_x, query_y), ("a", "b", "c"))
    targets = mf.Targets(run.problem, validation, run.final)

    def values(one: mf.TrainingRun, method: str, **options: Any) -> Tensor:
        context = mf.Context(one.problem.at(one.final), run=one, strict=False)
        return mf.attribute(mf.build("method", method, **options), context, targets).values[:, 0]

    firsts = [rates[0] for rates in run.rates if isinstance(rates, tuple)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they end elsewhere
        plain = mf.remade_run(replace(run, rule=mf.SGDStep(), rates=tuple(firsts)))
        same = mf.remade_run(replace(run, rates=tuple((rate, rate) for rate in firsts)))
    for method, options in (("tracin", {"along": "run"}), ("source", {"segments": 2})):
        torch.testing.assert_close(values(same, method, **options), values(plain, method, **options))
        assert not torch.allclose(values(run, method, **options), values(plain, method, **options))
    exact = values(run, "run-influence")
    near = values(run, "source", segments=STEPS, curvature=mf.build("curvature", "exact"))
    far = values(plain, "source", segments=STEPS, curvature=mf.build("curvature", "exact"))
    assert float((near - exact).norm()) < 0.02 * float(exact.norm())
    assert float((far - exact).norm()) > 0.1 * float(exact.norm())
