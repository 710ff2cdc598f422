"""Step rules: values against torch.optim, derivatives against autograd through the step."""

import pytest
import torch

from metafluence import InputError
from metafluence.training.step_rules import AdamStep, MomentumStep, RMSpropStep, SGDStep, StepRule, StepState

SIZE, RATES = 7, (0.03, 0.05, 0.02, 0.01)

RULES = {
    "sgd": (SGDStep(), torch.optim.SGD, {}),
    "sgd-decay": (SGDStep(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (MomentumStep(momentum=0.8), torch.optim.SGD, {"momentum": 0.8}),
    "nesterov": (
        MomentumStep(momentum=0.8, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (AdamStep(), torch.optim.Adam, {}),
    "adam-decay": (
        AdamStep(beta1=0.7, beta2=0.95, eps=1e-3, weight_decay=0.1),
        torch.optim.Adam,
        {"betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (AdamStep(weight_decay=0.1, decoupled=True), torch.optim.AdamW, {"weight_decay": 0.1}),
    "rmsprop": (RMSpropStep(), torch.optim.RMSprop, {}),
    "rmsprop-decay": (
        RMSpropStep(alpha=0.9, eps=1e-3, weight_decay=0.1),
        torch.optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
    ),
}
# What torch has no counterpart of.
SMOOTH = {
    "adam-eps-root": AdamStep(eps_root=1e-2, eps=0.0, weight_decay=0.1),
    "adamw-eps-root": AdamStep(eps_root=1e-2, decoupled=True, weight_decay=0.1),
    "rmsprop-eps-root": RMSpropStep(eps_root=1e-2, weight_decay=0.1),
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
@pytest.mark.parametrize("name", RULES)
def test_steps_are_torch_s_bit_by_bit(name, clip, dtype):
    rule, kind, options = RULES[name]
    rule = type(rule)(**{**vars(rule), "clip": clip})
    theirs = draw(SIZE, dtype=dtype).requires_grad_()
    optimiser = kind([theirs], lr=1.0, **options)
    state = rule.start(theirs.detach().clone())
    for number, rate in enumerate(RATES):
        gradient = draw(SIZE, seed=number + 1, dtype=dtype)
        gradient[0] = 0.0
        theirs.grad = gradient.clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([theirs], clip)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        state = rule.step(state, gradient, rate)
        assert torch.equal(state.meta, theirs.detach())
    kept = optimiser.state_dict()["state"].get(0, {})
    for moment, part in zip(rule.moments, state.parts[1:], strict=True):
        assert torch.equal(part, kept[moment])
    assert state.step == len(RATES)


def at_some_step(rule: StepRule) -> tuple[StepState, torch.Tensor, float]:
    state = rule.start(draw(SIZE))
    for number, rate in enumerate(RATES):
        state = rule.step(state, draw(SIZE, seed=number + 1), rate)
    return state, draw(SIZE, seed=9), 0.04


ALL = {**{name: rule for name, (rule, *_) in RULES.items()}, **SMOOTH}


@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_those_of_autograd_through_the_step(name, fresh, clip):
    rule = type(ALL[name])(**{**vars(ALL[name]), "clip": clip})
    state, gradient, rate = at_some_step(rule)
    if fresh and len(state.parts) < 3:  # autograd cannot pass Adam's root at zero
        state = rule.start(state.meta)
    count = len(state.parts)

    def stepped(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rule.step(StepState(state.step, given[:-1]), given[-1], rate).parts

    whole = torch.autograd.functional.jacobian(stepped, (*state.parts, gradient))
    cotangents = [draw(3, SIZE, seed=20 + i) for i in range(count)]
    parts, by_gradient = rule.vjp(state, gradient, rate, cotangents)
    for i, found in enumerate([*parts, by_gradient]):
        wanted = sum(c @ whole[out][i] for out, c in enumerate(cotangents))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    tangents = [draw(3, SIZE, seed=30 + i) for i in range(count + 1)]
    moved = rule.jvp(state, gradient, rate, tangents[:-1], tangents[-1])
    for out, found in enumerate(moved):
        wanted = sum(t @ whole[out][i].T for i, t in enumerate(tangents))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [AdamStep(), AdamStep(decoupled=True, weight_decay=0.1), RMSpropStep()])
def test_a_parameter_that_never_had_a_gradient_has_finite_derivatives(rule, dtype):
    gradient = draw(SIZE, seed=1, dtype=dtype)
    gradient[:3] = 0.0
    state = rule.start(draw(SIZE, dtype=dtype))
    for rate in RATES:
        parts, by_gradient = rule.vjp(state, gradient, rate, [torch.ones(1, SIZE, dtype=dtype) for _ in state.parts])
        assert all(bool(part.isfinite().all()) for part in (*parts, by_gradient))
        state = rule.step(state, gradient, rate)
    assert float(state.parts[-1][:3].abs().max()) == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGDStep(weight_decay=-1.0), "weight_decay is -1.0, but a number at least 0"),
        (lambda: SGDStep(weight_decay=float("nan")), "weight_decay"),
        (lambda: AdamStep(clip=0.0), "clip is 0.0, but a number above 0"),
        (lambda: MomentumStep(momentum=1.0), "momentum is 1.0, but a number at least 0 and below 1"),
        (lambda: AdamStep(beta2=1.0), "beta2"),
        (lambda: AdamStep(eps=0.0), "cannot both be 0. Give eps"),
        (lambda: RMSpropStep(eps=-1.0), "eps is -1.0, but a number at least 0"),
        (lambda: RMSpropStep(alpha=1.5), "alpha"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
