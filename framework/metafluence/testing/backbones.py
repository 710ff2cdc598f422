"""The conformance suite of backbones: `TestMine = backbone_suite(MyBackbone)` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from metafluence import Backbone, FlatModule, InputError, probe_module
from metafluence.testing.simple_suites import simple_suite

SHAPES = ((5,), (1, 8, 8), (3, 32, 32))
"""Of instances: a vector, a small grey image, a coloured one. A backbone may refuse some, by InputError."""


def check_outputs(component: Backbone, seed: int) -> None:
    """It gives a module: [n, outputs] where outputs are asked for, else features [n, d]."""
    for shape in _shapes(component):
        logits, features = (_made(component, shape, outputs, seed) for outputs in (3, None))
        inputs = _inputs(shape, seed)
        assert isinstance(logits, nn.Module), f"a {type(logits).__name__}"
        found, shown = tuple(logits(inputs).shape), tuple(features(inputs).shape)
        assert found == (len(inputs), 3), f"outputs of shape {list(found)} for 3 outputs of {len(inputs)} instances"
        assert len(shown) == 2 and shown[0] == len(inputs), f"features of shape {list(shown)}: end with nn.Flatten()"  # noqa: PT018


def check_derivatives(component: Backbone, seed: int) -> None:
    """Learners can use the module: with parameters of each task, differentiated twice."""
    for shape in _shapes(component):
        probe_module(_made(component, shape, 3, seed), torch.Size(shape), torch.float64, "cpu")


def check_seed(component: Backbone, seed: int) -> None:
    """Parameters are drawn from torch's seed: the same for the same, others for another."""
    for shape in _shapes(component):
        first, again, other = (FlatModule(_made(component, shape, 3, s), torch.float64).flat() for s in (seed, seed, 7))
        assert torch.equal(first, again), "the same seed draws other parameters"
        assert not torch.equal(first, other), "another seed draws the same parameters"


CHECKS = {"outputs": check_outputs, "derivatives": check_derivatives, "seed": check_seed}


def backbone_suite(backbone: Backbone | type[Backbone], skip: Collection[str] = (), examples: int = 2) -> type:
    """A class of tests for pytest: `backbone` (an instance, or a class with defaults) on all CHECKS but `skip`."""
    return simple_suite("backbone", CHECKS, backbone, skip, examples)


def _shapes(component: Backbone) -> Iterator[tuple[int, ...]]:
    """The shapes that it takes; at least one."""
    count, refusal = 0, ""
    for shape in SHAPES:
        try:
            _made(component, shape, 3, 0)
        except InputError as error:
            refusal = str(error)
            continue
        count += 1
        yield shape
    assert count, f"it takes none of {', '.join(str(list(shape)) for shape in SHAPES)}: {refusal}"


def _made(component: Backbone, shape: tuple[int, ...], outputs: int | None, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return component.module(torch.Size(shape), outputs)


def _inputs(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
