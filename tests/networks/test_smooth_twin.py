"""The smooth twin of a network, and what kinks are found."""

import pytest
import torch
from torch import nn

from metafluence import InputError, kinks, smooth_twin


def rough() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, padding=1, ceil_mode=True),
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.1)),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 2),
    )


def test_the_twin_is_smooth_with_the_same_weights_and_shapes():
    network, images = rough(), torch.randn(3, 1, 9, 9)
    assert kinks(network) == ("1 (ReLU)", "2 (MaxPool2d)", "3.1 (LeakyReLU)", "4 (AdaptiveMaxPool2d)")
    twin = smooth_twin(network)
    assert kinks(twin) == ()
    assert twin(images).shape == network(images).shape
    assert kinks(network)  # which is left as it was
    for (name, ours), (same, theirs) in zip(twin.named_parameters(), network.named_parameters(), strict=True):
        assert name == same
        assert torch.equal(ours, theirs)
    pool = twin[2]
    assert isinstance(pool, nn.AvgPool2d)
    assert (pool.kernel_size, pool.padding, pool.ceil_mode) == (2, 1, True)


def test_a_layer_by_itself_has_a_twin_and_a_smooth_network_is_its_own():
    assert isinstance(smooth_twin(nn.ReLU()), nn.SiLU)
    assert kinks(nn.ReLU()) == ("the network (ReLU)",)
    smooth = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    assert [type(layer) for layer in smooth_twin(smooth)] == [nn.Linear, nn.Tanh]


@pytest.mark.parametrize("layer", [nn.PReLU(), nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, return_indices=True)])
def test_layers_without_a_smooth_counterpart_are_refused_by_name(layer):
    with pytest.raises(InputError, match=r"Layer 1 .*(Use SiLU|Replace it)"):
        smooth_twin(nn.Sequential(nn.Identity(), layer))
