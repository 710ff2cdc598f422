"""Mixed precision in a recorded loop is refused in a sentence, at its first step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

import metafluence as mf
import small_loops
from refusals import refused


def begun(folder: Path, fused: bool = False) -> tuple[nn.Module, torch.optim.Optimizer, Any, mf.LoopRecorder]:
    model = small_loops.module().float()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    *parts, _, _ = small_loops.episode(small_loops.pictures(), torch.Generator().manual_seed(1))
    batch = [tuple(part.float() if part.is_floating_point() else part for part in parts)]
    return model, sgd, batch, mf.record(folder, mf.build("learner", "protonet", backbone=model), sgd)


def by_module(model: nn.Module) -> Any:
    return model


def by_function(model: nn.Module) -> Any:
    return lambda inputs: functional_call(model, dict(model.named_parameters()), inputs)


def without_modules(model: nn.Module) -> Any:
    weight, bias = model.parameters()
    return lambda inputs: nn.functional.linear(inputs.flatten(1), weight, bias).tanh()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", [by_module, by_function])
def test_autocast_is_refused_at_the_first_step(call, dtype, tmp_path):
    model, sgd, batch, recorder = begun(tmp_path)
    scaler = torch.amp.GradScaler("cpu")
    with (
        refused(
            rf"At step 1 the loop calls \w+ under torch.autocast \({str(dtype)[6:]}\). Leave autocast and GradScaler"
        ),
        recorder.step(batch),
    ):
        with torch.autocast("cpu", dtype):
            loss = small_loops.loss(call(model), batch[0])
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
    assert not any(p.grad is not None for p in model.parameters()), "it is found in the forward pass"
    with torch.autocast("cpu", dtype):
        call(model)(batch[0][0])  # nothing is left of the check


def test_autocast_around_the_recorder_is_refused(tmp_path):
    _, _, batch, recorder = begun(tmp_path)
    with (
        refused(r"At step 1 the loop calls recorder.step\(batch\) under torch.autocast \(bfloat16\)"),
        torch.autocast("cpu", torch.bfloat16),
        recorder.step(batch),
    ):
        raise AssertionError("within")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loop_in_half_precision_is_refused(dtype, tmp_path):
    model = small_loops.module().to(dtype)
    *parts, _, _ = small_loops.episode(small_loops.pictures(), torch.Generator().manual_seed(1))
    batch = [tuple(part.to(dtype) if part.is_floating_point() else part for part in parts)]
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = mf.record(tmp_path, mf.build("learner", "protonet", backbone=model), sgd)
    with (
        refused(f"Parameters and tasks are {str(dtype)[6:]}. Leave autocast .* float32 or float64"),
        recorder.step(batch),
    ):
        raise AssertionError("within")


def test_autocast_without_modules_is_found_by_its_gradient(tmp_path):
    model, sgd, batch, recorder = begun(tmp_path)
    with refused("At step 1 the gradient of the loop is not .*mixed precision"), recorder.step(batch):
        with torch.autocast("cpu", torch.bfloat16):
            loss = small_loops.loss(without_modules(model), batch[0])
        loss.backward()
        sgd.step()


def test_a_step_that_a_scaler_skips_is_noticed(tmp_path):
    model, sgd, batch, recorder = begun(tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = [p.detach().clone() for p in model.parameters()]
    for step in (1, 2):

        def make(step: int = step) -> None:
            sgd.zero_grad()
            loss = small_loops.loss(model, batch[0])
            scaler.scale(loss * (1.0 if step == 1 else 1e38)).backward()
            scaler.step(sgd)
            scaler.update()

        if step == 1:
            with recorder.step(batch):  # a power of two changes no digit
                make()
            before = [p.detach().clone() for p in model.parameters()]
        else:
            with (
                refused(r"No optimiser.step\(\) was made for step 2. .*GradScaler skips steps.*overflow"),
                recorder.step(batch),
            ):
                make()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_fused_optimiser_that_is_given_scaled_gradients_is_refused(tmp_path):
    model, sgd, batch, recorder = begun(tmp_path, fused=True)
    scaler = torch.amp.GradScaler("cpu")
    with refused("A GradScaler makes the steps of SGD on scaled gradients. Leave autocast"), recorder.step(batch):
        scaler.scale(small_loops.loss(model, batch[0])).backward()
        scaler.step(sgd)
