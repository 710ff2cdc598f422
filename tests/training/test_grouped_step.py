"""Rules by groups of parameters: values against torch.optim, derivatives against autograd, and how files keep them."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from metafluence import AdamStep, GroupedStep, InputError, MomentumStep, RMSpropStep, SGDStep, StepState
from metafluence.training.grouped_step import facts_of, rates_from, rule_from
from metafluence.training.torch_steps import rule_of

SIZES = (3, 1, 4, 2)  # of four tensors
KINDS = {
    "sgd": (torch.optim.SGD, {"weight_decay": 0.1}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": (0.7, 0.95), "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.2}),
    "adamw without": (torch.optim.AdamW, {"weight_decay": 0.0, "eps": 1e-3}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}),
}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.lists(st.sampled_from([*KINDS]), min_size=2, max_size=4), st.sampled_from([None, 0.5, 100.0]), st.data())
@settings(max_examples=25)
def test_values_are_torch_s_and_derivatives_those_of_autograd_through_the_step(names, clip, data):
    """Each tensor is in a group of its own or with others, of one optimiser or several; any order along λ."""
    tensors = [draw(size, seed=i).requires_grad_() for i, size in enumerate(SIZES)]
    member = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=4, max_size=4))
    held = [(name, [t for t, of in zip(tensors, member, strict=True) if of == i]) for i, name in enumerate(names)]
    optimisers = [KINDS[name][0]([{"params": own, **KINDS[name][1]}]) for name, own in held if own]
    loop_order = [t for _, own in held for t in own]
    rule = rule_of(optimisers, clip)
    places = torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    rule = rule.ordered(places)

    def flat(parts: list[Any]) -> torch.Tensor:
        return torch.cat([part.detach() for part in parts])[places]

    state, rates = rule.start(flat(loop_order)), [0.0]
    for step in range(3):
        for i, tensor in enumerate(tensors):
            tensor.grad = draw(len(tensor), seed=10 * step + i + 7)
        gradient = flat([t.grad for t in loop_order])
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(tensors, clip)
        rates = [0.03 * (i + 1) / (step + 1) for i in range(len(optimisers))]
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.step()
        state = rule.step(state, gradient, tuple(rates) if len(rates) > 1 else rates[0])
        torch.testing.assert_close(state.meta, flat(loop_order), rtol=1e-14, atol=1e-14)
    gradient, rate = draw(sum(SIZES), seed=99), tuple(rates) if len(rates) > 1 else rates[0]

    def stepped(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rule.step(StepState(state.step, parts[:-1]), parts[-1], rate).parts

    positive = [part.abs() + 1e-3 if name.endswith(("sq", "square_avg")) else part for name, part in named(rule, state)]
    at = StepState(state.step, tuple(positive))
    whole = torch.autograd.functional.jacobian(stepped, (*at.parts, gradient))
    count = len(at.parts)
    cotangents = [draw(2, sum(SIZES), seed=20 + i) for i in range(count)]
    parts, by_gradient = rule.vjp(at, gradient, rate, cotangents)
    for i, found in enumerate([*parts, by_gradient]):
        wanted = sum(c @ whole[out][i] for out, c in enumerate(cotangents))
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    tangents = [draw(2, sum(SIZES), seed=30 + i) for i in range(count + 1)]
    for out, found in enumerate(rule.jvp(at, gradient, rate, tangents[:-1], tangents[-1])):
        wanted = sum(t @ whole[out][i].T for i, t in enumerate(tangents))
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def named(rule, state):
    return zip(("meta", *rule.moments), state.parts, strict=True)


MIXED = GroupedStep(rules=(AdamStep(begun=3), SGDStep(weight_decay=0.1)), spans=((1, 2), (0, 3), (1, 1)), clip=0.5)


@pytest.mark.parametrize("rule", [MIXED, AdamStep(beta1=0.8, clip=0.1), MomentumStep(nesterov=True), RMSpropStep()])
def test_a_file_keeps_a_rule(rule):
    assert rule_from(json.loads(json.dumps(facts_of(rule)))) == rule


def test_files_without_groups_open():
    """As they were written before there were groups."""
    old = ["AdamStep", {"weight_decay": 0.0, "clip": None, "beta1": 0.8, "beta2": 0.999, "eps": 1e-8, "eps_root": 0.0}]
    assert rule_from(old) == AdamStep(beta1=0.8)
    assert rates_from(torch.tensor([0.5, 0.25], dtype=torch.float64)) == (0.5, 0.25)
    assert rates_from(torch.tensor([[0.5, 1.0], [0.25, 0.0]], dtype=torch.float64)) == ((0.5, 1.0), (0.25, 0.0))


def test_each_group_goes_on_after_steps_of_its_own():
    assert [rule.begun for rule in MIXED.later(4).rules if isinstance(rule, AdamStep)] == [7]
    assert str(MIXED).startswith("GroupedStep(AdamStep(")
    assert " of 3 parameters, SGDStep(" in str(MIXED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupedStep(rules=(SGDStep(), SGDStep()), spans=((0, 2),)), "not of 2 groups"),
        (lambda: GroupedStep(rules=(SGDStep(clip=1.0),), spans=((0, 2),)), "a group has a clip"),
        (lambda: GroupedStep(rules=(SGDStep(),), spans=((0, 2),), weight_decay=0.1), "has a weight decay"),
        (lambda: MIXED.step(MIXED.start(torch.zeros(6)), torch.zeros(6), 0.1), "rate is 0.1. Give a tuple"),
        (lambda: MIXED.step(MIXED.start(torch.zeros(5)), torch.zeros(5), (0.1, 0.1)), "of 6 parameters; there are 5"),
        (lambda: SGDStep().step(SGDStep().start(torch.zeros(2)), torch.zeros(2), (0.1, 0.2)), "Give it one"),
    ],
)
def test_rules_and_rates_that_do_not_fit_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
