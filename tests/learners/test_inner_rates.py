"""Learned inner rates of maml and anil: against a loop in plain torch whose rates are parameters, and recorded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import metafluence as mf
from metafluence import BilevelProblem, InputError
from metafluence.testing import central_difference
from metafluence_plugins.learners.anil import ANIL
from metafluence_plugins.learners.maml import MAML
from parts import EXACT
from refusals import refused
from small_problems import tasks

KINDS = ("one", "layer", "tensor", "entry")
START, STEPS = 0.3, 2


class Model(nn.Module):
    """A network, and rates as public code has them: a tensor for each kind's part, in a ParameterDict."""

    def __init__(self, kind: str, by_step: bool, scale: str, head_alone: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
        self.head = nn.Linear(4, 2).double()
        self.head_alone, self.kind, self.by_step, self.scale = head_alone, kind, by_step, scale
        whole = nn.Sequential(*self.body, self.head)
        self.adapts = {f"head.{n}": p for n, p in self.head.named_parameters()} if head_alone else {}
        self.adapts = self.adapts or dict(whole.named_parameters())
        lead = (STEPS,) if by_step else ()
        shapes = {self.key(n): (*lead, *(p.shape if kind == "entry" else ())) for n, p in self.adapts.items()}
        fill = 0.0 if scale == "log" else START
        self.learned = nn.ParameterDict()  # which would sort the keys of a dict
        for key, shape in shapes.items():
            self.learned[key] = torch.full(shape, fill, dtype=torch.float64)

    def key(self, name: str) -> str:
        return {"one": "all", "layer": name.rpartition(".")[0]}.get(self.kind, name).replace(".", "-")

    def loss(self, one: tuple[Tensor, ...]) -> Tensor:
        inputs, outputs = one[0], one[2]
        whole: Any = nn.Sequential(*self.body, self.head)
        if self.head_alone:
            inputs, outputs, whole = self.body(inputs), self.body(outputs), nn.ModuleDict({"head": self.head})["head"]
        strip = len("head.") if self.head_alone else 0
        adapted: dict[str, Tensor] = {name[strip:]: p for name, p in self.adapts.items()}
        for step in range(STEPS):
            inner = cross_entropy(functional_call(whole, adapted, inputs), one[1])
            gradients = torch.autograd.grad(inner, tuple(adapted.values()), create_graph=True)
            for (name, p), g in zip(list(adapted.items()), gradients, strict=True):
                own = self.learned[self.key("head." + name if self.head_alone else name)]
                own = own[step] if self.by_step else own
                adapted[name] = p - (START * own.exp() if self.scale == "log" else own) * g
        return cross_entropy(functional_call(whole, adapted, outputs), one[3])

    def learner(self, **more: Any) -> mf.MetaLearner:
        described = {"learn_rates": self.kind, "rates_by_step": self.by_step, "rates_as": self.scale, **more}
        if self.head_alone:
            return ANIL(self.body, steps=STEPS, rate=START, **described)
        return MAML(nn.Sequential(*self.body, self.head), steps=STEPS, rate=START, **described)

    def trained(self) -> list[nn.Parameter]:
        return [*self.body.parameters(), *self.head.parameters(), *self.learned.values()]

    def state(self) -> dict[str, Tensor]:
        """Under the names that the learner has."""
        base = ("log_rate" if self.scale == "log" else "rate") + ("" if self.kind == "one" else "s")
        rates = {base if k == "all" else f"{base}.{k}": p for k, p in self.learned.items()}
        if self.head_alone:
            named = {**self.body.state_dict(), **{f"head.{k}": p for k, p in self.head.state_dict().items()}}
        else:
            named = nn.Sequential(*self.body, self.head).state_dict()
        return {k: p.detach().clone() for k, p in {**named, **rates}.items()}


def as_tuples(episodes: mf.TaskSet) -> list[tuple[Tensor, ...]]:
    halves = (episodes.support.inputs, episodes.support.targets, episodes.query.inputs, episodes.query.targets)
    return list(zip(*halves, strict=True))


MODELS = st.builds(Model, st.sampled_from(KINDS), st.booleans(), st.sampled_from(["log", "rate"]), st.booleans())


@given(MODELS, st.integers(0, 9))
@settings(max_examples=12)
def test_the_total_gradient_is_that_of_a_loop_whose_rates_are_parameters(model, seed):
    """Oracle: autograd through plain torch, at rates away from their start."""
    with torch.no_grad():
        for own in model.learned.values():
            own.add_(torch.randn(own.shape, generator=torch.Generator().manual_seed(seed), dtype=own.dtype), alpha=0.1)
    problem = BilevelProblem(model.learner(), tasks(3), 0.0, EXACT)
    learner: Any = problem.learner
    meta = learner.meta_from(model.state())
    loss = torch.stack([model.loss(one) for one in as_tuples(tasks(3))]).sum()
    named = dict(zip(model.trained(), torch.autograd.grad(loss, model.trained()), strict=True))
    for p, g in named.items():
        p.data, p.grad = g, None  # the gradient under the names of the parameters
    wanted = learner.meta_from(model.state())
    torch.testing.assert_close(problem.at(meta).gradient, wanted, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(part, model.state()[k]) for k, part in learner.state_dict_of(wanted).items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_at_the_start_they_adapt_as_without_learned_rates(kind, rule):
    for more in ({}, {"rates_by_step": True}, {"rates_as": "rate"}):
        model = Model(kind, False, "log", False)
        problem = BilevelProblem(model.learner(rule=rule, **more), tasks(3), 0.0, EXACT)
        plain = BilevelProblem(model.learner(rule=rule, learn_rates="none"), tasks(3), 0.0, EXACT)
        meta = problem.learner.init_meta(None)
        size = plain.size
        torch.testing.assert_close(problem.at(meta).adapted, plain.at(meta[:size]).adapted, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(problem.at(meta).gradient[:size], plain.at(meta[:size]).gradient)


def test_their_number_and_names():
    sizes = {kind: len(bound(kind).rate_positions()) for kind in KINDS}
    assert sizes == {"one": 1, "layer": 2, "tensor": 4, "entry": 4}
    assert [bound(kind).rates_size for kind in KINDS] == [1, 2, 4, 26]
    assert list(bound("tensor").rate_positions())[:2] == ["log_rates.0-weight", "log_rates.0-bias"]
    by_step = bound("entry", rates_by_step=True, rates_as="rate").rate_positions()
    assert by_step["rates.0-weight"].shape == (STEPS, 4, 3)
    assert torch.cat([where.flatten() for where in by_step.values()]).sort().values.tolist() == list(range(52))


def bound(kind: str, **more: Any) -> Any:
    return BilevelProblem(Model(kind, False, "log", False).learner(**more), tasks(3), 0.0, EXACT).learner


def test_rates_of_a_parameter_dict_of_any_name_are_found():
    model = Model("tensor", True, "log", False)
    state = {**nn.Sequential(*model.body, model.head).state_dict()}
    state |= {f"names_learning_rates_dict.{k}": p + 0.5 for k, p in model.learned.items()}  # as MAML++ calls it
    meta = bound("tensor", rates_by_step=True).meta_from(state)
    assert meta[-8:].tolist() == [0.5] * 8


def test_what_makes_no_sense_is_refused():
    with refused("MAML has rates_by_step, and learns no rates. Set learn_rates"):
        MAML(nn.Linear(3, 2), rates_by_step=True)
    with refused("learn_rates is True, but .* is expected"):
        MAML(nn.Linear(3, 2), learn_rates=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no model without adaptation"):
        MAML(nn.Linear(3, 2), learn_rates="tensor").unadapted()
    for name in ("protonet", "ridge-head", "imaml"):
        with pytest.raises(mf.errors.ConfigError, match=r"has no parameter 'learn_rates'. Parameters: backbone"):
            mf.build("learner", name, backbone={"use": "mlp"}, learn_rates="one")


def loop(model: Model, folder: Path, **options: Any) -> mf.TrainingRun:
    """Two tasks a step; the rates have a rate of their own, and no weight decay."""
    rates = [*model.learned.values()]
    groups = [
        {"params": [*model.body.parameters(), *model.head.parameters()], "weight_decay": 0.1},
        {"params": rates, "lr": 0.1, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.02)
    recorder = mf.record(folder, options.pop("learner", None) or model.learner(), optimiser, every=2, **options)
    for seed in range(3):
        episodes = tasks(2, seed=seed)
        with recorder.step(episodes):
            optimiser.zero_grad()
            torch.stack([model.loss(one) for one in as_tuples(episodes)]).mean().backward()
            optimiser.step()
    return recorder.finish()


@pytest.mark.parametrize(
    ("kind", "by_step", "scale", "head_alone"),
    [
        ("one", False, "log", False),
        ("tensor", True, "rate", False),
        ("entry", False, "rate", False),
        ("tensor", False, "log", True),
    ],
)
def test_a_recorded_loop_that_learns_rates_is_scored(kind, by_step, scale, head_alone, tmp_path):
    """Oracles: the loop's own end, and central differences of replays."""
    model = Model(kind, by_step, scale, head_alone)
    run = loop(model, tmp_path)
    learner: Any = run.problem.learner
    assert torch.equal(run.final, learner.meta_from(model.state()))
    size = learner.rates_size
    assert bool((run.final[-size:] != run.state(0).meta[-size:]).all())
    targets = mf.Targets(run.problem, tasks(2, seed=9), run.final)
    context = mf.Context(run.problem.at(run.final), run=run)
    scores = mf.attribute(mf.build("method", "run-influence"), context, targets).values[:, 0]
    one = torch.ones((), dtype=torch.float64)

    def end(weight: Tensor) -> Tensor:
        found = run.replay(run.weights.scaled("task", (1,), float(weight)))
        return torch.tensor(mf.validate(run.problem.over(tasks(2, seed=9)), found).loss, dtype=torch.float64)

    slope = central_difference(end, one, one, step=1e-2)
    assert float(scores[1]) == pytest.approx(-float(slope.value), rel=1e-6, abs=10 * slope.error)
    edited = learner.state_dict_of(run.final + 1, like=model.state())
    assert all(torch.allclose(part, model.state()[key] + 1) for key, part in edited.items())


def test_rates_may_be_one_tensor_in_the_loop(tmp_path):
    """The rates of four tensors as one [4]; the gradient is compared, so that another order would be found."""
    model = Model("tensor", False, "log", False)
    together = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    keys = list(model.learned)
    trained = [*model.body.parameters(), *model.head.parameters(), together]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    recorder = mf.record(tmp_path, model.learner(), optimiser)
    model.learned = nn.ParameterDict()
    with recorder.step(tasks(2)):
        model.__dict__["learned"] = dict(zip(keys, together.unbind(), strict=True))
        del model._modules["learned"]
        torch.stack([model.loss(one) for one in as_tuples(tasks(2))]).mean().backward()
        optimiser.step()
    assert torch.equal(recorder.finish().final[-4:], together.detach())


def test_a_description_of_rates_that_lies_is_found(tmp_path):
    model = Model("tensor", False, "rate", False)
    model.learned = nn.ParameterDict(dict(model.learned))
    with refused(r"agree but for the order of 4 entries. Give .*rates, in the order of the .*ParameterDict sorts"):
        loop(model, tmp_path / "order")
    model = Model("tensor", False, "rate", False)
    with refused(r"With rates_as='rate' in place of 'log' they agree"):
        loop(model, tmp_path / "log", learner=model.learner(rates_as="log"))
    with refused(r"rates.0-weight is \[2\], the optimiser's parameter 5 \[\]"):
        loop(model, tmp_path / "steps", learner=model.learner(rates_by_step=True))
    with refused(r"parameter 5 \[\] is none of the learner's.*described by learn_rates \(one, layer, tensor or entry"):
        loop(model, tmp_path / "none", learner=model.learner(learn_rates="none"))
