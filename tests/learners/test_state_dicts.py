"""Meta-parameters from a module's state_dict and back."""

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file
from torch import nn

import metafluence as mf
from metafluence import BilevelProblem, DataError, InputError
from metafluence_plugins.learners.anil import ANIL
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.learners.protonet import ProtoNet
from parts import EXACT
from small_problems import seeded, tasks

PREFIXES = ("", "module.", "emb_func.", "_orig_mod.module.")


class Tied(nn.Module):
    """Has a shared and a frozen parameter, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.last.bias.requires_grad_(False)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.second(self.first(inputs)) + self.shift))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


MODULES = {"plain": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), "tied": Tied, "normed": normed}


def bound(module: nn.Module):
    return BilevelProblem(MAML(module, steps=1, rate=0.1), tasks(), 0.0, EXACT).learner


@pytest.mark.filterwarnings("ignore:Running statistics")
@pytest.mark.parametrize("name", MODULES)
@given(st.integers(0, 10**6), st.sampled_from(PREFIXES), st.sampled_from([torch.float32, torch.float64]))
def test_a_round_trip_changes_nothing(name, seed, prefix, dtype):
    """Oracle: the module itself gives the same outputs from the state_dict that comes back."""
    module = MODULES[name]().to(dtype)
    learner = bound(module)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in module.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed + number)))
    state = {prefix + key: part.clone() for key, part in module.state_dict().items()}
    meta = learner.meta_from(state)
    again = learner.state_dict_of(meta, like=state)
    assert list(again) == list(state)
    assert all(torch.equal(again[key], state[key]) and again[key].dtype == state[key].dtype for key in state)
    assert torch.equal(learner.meta_from(learner.state_dict_of(meta)), meta)
    inputs = torch.randn(5, 3, generator=seeded(seed), dtype=torch.float64)
    torch.testing.assert_close(learner.network(meta, inputs), module.double().train()(inputs), rtol=1e-9, atol=1e-9)


def test_edited_parameters_come_back_under_the_keys_they_came_from():
    module = MODULES["plain"]()
    learner, state = bound(module), {"module." + key: part.clone() for key, part in module.state_dict().items()}
    edited = learner.state_dict_of(learner.meta_from(state) + 1, like=state)
    assert torch.allclose(edited["module.0.weight"], state["module.0.weight"] + 1)
    module.load_state_dict(learner.state_dict_of(learner.meta_from(edited)))
    assert torch.allclose(module[0].weight, state["module.0.weight"] + 1)


def test_a_head_of_anil_is_found_by_its_last_name_and_shape():
    body, head = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2)
    learner = BilevelProblem(ANIL(body, steps=1, rate=0.1), tasks(), 0.0, EXACT).learner
    state = nn.ModuleDict({"features": body, "classifier": head}).state_dict()
    meta = learner.meta_from(state)
    features = torch.randn(1, 5, 4, generator=seeded(), dtype=torch.float64)
    start = meta[learner.network.size :].unsqueeze(0)
    torch.testing.assert_close(learner.outputs(start, features), head.double()(features))
    assert set(learner.state_dict_of(meta, like=state)) == set(state)
    assert {"head.weight", "head.bias"} < set(learner.state_dict_of(meta))


@pytest.mark.filterwarnings("ignore:Keys of other parts")
def test_keys_of_other_parts_are_ignored_with_a_notice_only_outside_the_prefix():
    body = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    learner = BilevelProblem(ProtoNet(body), tasks(), 0.0, EXACT).learner
    state = nn.ModuleDict({"emb_func": body, "classifier": nn.Linear(4, 64)}).state_dict()
    with pytest.warns(UserWarning, match=r"ignored: classifier.weight, classifier.bias"):
        assert torch.equal(learner.meta_from(state), learner.init_meta(None))
    with pytest.raises(InputError, match=r"unexpected emb_func.extra"):
        learner.meta_from({**state, "emb_func.extra": torch.zeros(1)})


def spoilt(change) -> dict:
    state = MODULES["plain"]().state_dict()
    change(state)
    return state


WRONG = {
    "missing": (lambda s: s.pop("2.bias"), "missing 2.bias"),
    "unexpected": (lambda s: s.update(other=torch.zeros(1)), "unexpected other"),
    "shape": (lambda s: s.update({"0.bias": torch.zeros(5)}), r"0.bias of shape \[5\], not \[4\]"),
    "infinite": (lambda s: s["0.bias"].fill_(float("nan")), "0.bias has values .* not finite"),
    "other things": (lambda s: s.update(epoch=3), "'epoch' .* is no tensor"),
    "empty": (lambda s: s.clear(), "missing 0.weight; missing 0.bias"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_mismatch_is_named_key_by_key(change, message):
    with pytest.raises(InputError, match=message):
        bound(MODULES["plain"]()).meta_from(spoilt(change))


@pytest.mark.parametrize(
    ("key", "message"), [("shift", "not trained"), ("second.weight", "is shared with first.weight")]
)
def test_what_the_module_holds_fixed_must_agree(key, message):
    learner, state = bound(Tied()), Tied().state_dict()
    state["last.bias"] = learner.network.module.last.bias.detach()
    state = {name: part.clone() for name, part in state.items()}
    state[key] += 1
    with pytest.raises(InputError, match=message):
        learner.meta_from(state)


def test_files_of_torch_and_safetensors_are_read(tmp_path):
    module = MODULES["plain"]()
    state, optimiser = module.state_dict(), torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    torch.save({"epoch": 3, "model": state, "optimizer": optimiser.state_dict()}, tmp_path / "a.pt")
    save_file(state, tmp_path / "b.safetensors")
    for name in ("a.pt", "b.safetensors"):
        found = mf.read_state_dict(tmp_path / name)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_files_that_hold_no_state_dict_are_refused(tmp_path):
    module = MODULES["plain"]()
    torch.save(module, tmp_path / "whole.pt")
    torch.save({"a": module.state_dict(), "b": module.state_dict()}, tmp_path / "two.pt")
    (tmp_path / "text.pt").write_text("no")
    for name, message in (
        ("whole", "could run code"),
        ("two", r"holds 2 \(a, b\)"),
        ("text", "text.pt"),
        ("none", "cannot be"),
    ):
        with pytest.raises(DataError, match=message):
            mf.read_state_dict(tmp_path / f"{name}.pt")
