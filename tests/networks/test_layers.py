"""Per-instance gradients made from layers are autograd's, for any module; others go through autograd itself."""

import warnings

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

import metafluence as mf
from how_many import examples
from metafluence import BilevelProblem
from metafluence.networks import FlatModule, gradients_each
from metafluence.networks.layer_proof import proven_layers
from metafluence.networks.trace import autograd_gradients
from metafluence_plugins.backbones.conv4 import Conv4
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.joint import Joint
from parts import EXACT
from small_problems import seeded, tasks

SHAPE = (2, 5, 5)


class Centred(nn.Conv2d):
    """Each filter less its mean."""

    def forward(self, inputs):
        return self._conv_forward(inputs, self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True), self.bias)


class HiddenCentred(nn.Conv2d):
    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, 2 * weight, bias)


class Doubled(nn.Linear):
    def forward(self, inputs):
        return super().forward(super().forward(inputs).tanh())


class Named(nn.Linear):
    """A Linear by another name."""


class Reuses(nn.Module):
    """A Linear whose weight is also used as a matrix."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, inputs):
        return self.layer(inputs).tanh() + functional.linear(inputs, self.layer.weight.T).sin()


class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, inputs):
        return self.layer(self.layer(inputs).tanh())


class Places(nn.Module):
    """A Linear over rows that are places of instances, folded into one dimension."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs):
        return self.layer(inputs.reshape(-1, 1)).reshape(inputs.shape).tanh()


class Across(nn.Module):
    """A Linear applied to [places, instances, features]."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, inputs):
        return self.layer(inputs.unsqueeze(0).expand(3, -1, -1)).tanh().sum(dim=0)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, inputs):
        tokens = inputs.reshape(len(inputs), -1, self.query.in_features)
        return (tokens + (self.query(tokens) @ self.key(tokens).mT).softmax(-1) @ tokens).flatten(1)


def frozen_bias(width):
    layer = nn.Linear(width, width)
    layer.bias.requires_grad_(False)
    return layer


def tied(width):
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def two_names(width):
    one = nn.Linear(width, width)
    return nn.Sequential(one, nn.Tanh(), one)


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrised(width):
    return parametrize.register_parametrization(nn.Linear(width, width), "weight", Half())


def hooked(width):
    layer = nn.Linear(width, width)
    layer.register_forward_hook(lambda module, given, output: output * 3)
    return layer


IMAGES = {
    "conv": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "strided": lambda: nn.Conv2d(2, 3, 3, stride=2, bias=False),
    "dilated": lambda: nn.Conv2d(2, 2, 2, dilation=2, padding="same"),
    "grouped": lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2),
    "circular": lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
    "transposed": lambda: nn.ConvTranspose2d(2, 2, 3),
    "centred": lambda: Centred(2, 2, 3, padding=1),
    "hidden": lambda: HiddenCentred(2, 2, 3, padding=1),
    "norm": lambda: mf.GroupNorm(1, 2),
    "nothing": nn.Tanh,
}
VECTORS = {
    "linear": lambda width: nn.Linear(width, 3),
    "named": lambda width: Named(width, 3),
    "doubled": lambda width: Doubled(width, width),
    "reuses": Reuses,
    "twice": Twice,
    "places": Places,
    "across": Across,
    "attention": Attention,
    "frozen bias": frozen_bias,
    "tied": tied,
    "two names": two_names,
    "parametrised": parametrised,
    "weight norm": lambda width: parametrizations.weight_norm(nn.Linear(width, width)),
    "hooked": hooked,
}
VECTORS["bilinear"] = lambda width: nn.Sequential(nn.Linear(width, 3), Bilinear(3))
LAYERS = {"conv", "strided", "dilated", "linear", "named"}


class Bilinear(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Bilinear(width, width, 2)

    def forward(self, inputs):
        return self.layer(inputs, inputs)


def network(image: str, vector: str, seed: int) -> FlatModule:
    torch.manual_seed(seed)
    front = nn.Sequential(IMAGES[image](), nn.Tanh(), nn.Flatten())
    width = front(torch.zeros(1, *SHAPE)).shape[1]
    return FlatModule(nn.Sequential(front, VECTORS[vector](width), nn.Tanh()), torch.float64)


def check(made: FlatModule, seed: int) -> None:
    generator = seeded(seed)
    groups, inputs = 2, torch.randn(4, *SHAPE, generator=generator, dtype=torch.float64)
    flat = made.flat() + 0.1 * torch.randn(made.size, generator=generator, dtype=torch.float64)
    cotangents = torch.randn(made(flat, inputs).shape, generator=generator, dtype=torch.float64)
    names = list(made.positions())
    each = autograd_gradients(made, flat.unsqueeze(0), inputs.unsqueeze(0), cotangents.unsqueeze(0), names)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = torch.stack([cotangents, 2 * cotangents]).unflatten(1, (groups, -1))
        found, twice = gradients_each(made, flat, inputs.unflatten(0, (groups, -1)), lambda _, some: columns[:, some])
    assert torch.equal(2 * found, twice)
    wanted = each.unflatten(0, (groups, -1)).sum(dim=1)
    assert float((found - wanted).norm()) <= 1e-10 * float(wanted.norm())
    leaf = flat.clone().requires_grad_()
    (total,) = torch.autograd.grad((made(leaf, inputs) * cotangents).sum(), leaf)
    assert float((found.sum(dim=0) - total).norm()) <= 1e-10 * float(total.norm())


@given(st.sampled_from(sorted(IMAGES)), st.sampled_from(sorted(VECTORS)), st.integers(0, 2**10))
@examples(25)
def test_gradients_of_groups_are_autograd_s(image, vector, seed):
    check(network(image, vector, seed), seed)


@pytest.mark.parametrize("image", IMAGES)
def test_images_go_right(image):
    made = network(image, "linear", 0)
    check(made, 1)
    assert ("0.0" in proven_layers(made, torch.Size(SHAPE))) == (image in LAYERS)


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors_go_right(vector):
    made = network("conv", vector, 0)
    check(made, 1)
    proven = proven_layers(made, torch.Size(SHAPE))
    assert "0.0" in proven
    if vector in {"linear", "named", "doubled", "reuses", "twice", "places", "tied", "two names", "hooked", "across"}:
        assert (len(proven) == 2) == (vector in LAYERS)


def test_a_layer_that_does_more_than_it_says_is_named():
    with pytest.warns(UserWarning, match=r"1\.layer\.weight, 1\.layer\.bias"):
        proven_layers(network("nothing", "reuses", 0), torch.Size(SHAPE))


def test_a_bias_before_a_norm_is_no_reason_to_doubt_its_layer():
    """Its gradient is rounding noise, of which no two are equal."""
    network = FlatModule(Conv4(2).module(torch.Size([1, 16, 16]), 3), torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(proven_layers(network, torch.Size([1, 16, 16]))) == 5


def test_a_module_that_works_in_one_precision_alone_goes_through_autograd():
    class Single(nn.Linear):
        pass

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Single(3, 2)

        def forward(self, inputs):
            return self.layer(inputs.float())

    with pytest.warns(UserWarning, match=r"layer\.weight"):
        assert proven_layers(FlatModule(Fixed(), torch.float32), torch.Size([3])) == ()


def test_a_lazy_layer_is_refused():
    with pytest.raises(mf.InputError, match=r"'0' \(LazyLinear\) is lazy"):
        FlatModule(nn.Sequential(nn.LazyLinear(3)), torch.float64)


@pytest.mark.parametrize("method", ["trak", "grad-ascent", "gradient-similarity", "influence"])
@pytest.mark.parametrize("learner", [Joint, IMAML])
@pytest.mark.parametrize("body", [tied, frozen_bias, Attention, two_names, Reuses, parametrised])
@pytest.mark.filterwarnings("ignore:.*these parameters do more")
def test_scores_need_no_plain_layer(body, learner, method):
    torch.manual_seed(0)
    head = nn.Linear(3, 2)
    head.bias.requires_grad_(False)
    bilevel = BilevelProblem(learner(nn.Sequential(body(3), nn.Tanh(), head)), tasks(3), 20.0, EXACT)
    meta = bilevel.learner.init_meta(seeded())
    context = mf.Context(bilevel.at(meta), "query")
    scores = mf.attribute(mf.build("method", method), context, mf.Targets(bilevel, tasks(2, seed=3), meta)).values
    assert scores.isfinite().all()
    assert scores.any()
