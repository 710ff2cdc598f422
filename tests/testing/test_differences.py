"""Central differences against known derivatives: within their own error, and close enough to tell a wrong one."""

import pytest
import torch

from metafluence.testing import assert_derivative, central_difference
from metafluence.testing.differences import UnsettledError, central_jacobian

AT = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)
ALONG = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)

# By name: a function, and its derivative (elementwise).
KNOWN = {
    "cubic": (lambda x: x**3, lambda x: 3 * x**2),
    "exp": (torch.exp, torch.exp),
    "quick sine": (lambda x: torch.sin(20 * x), lambda x: 20 * torch.cos(20 * x)),
    "third derivative of a million": (lambda x: 1e5 * x**3 + x**2, lambda x: 3e5 * x**2 + 2 * x),
    "steep": (lambda x: torch.tanh(5 * x), lambda x: 5 / torch.cosh(5 * x) ** 2),
    "large constant": (lambda x: 1e3 + torch.sin(x), torch.cos),
}
functions = pytest.mark.parametrize("name", KNOWN)


@functions
def test_the_error_is_no_more_than_said_and_small(name):
    function, derivative = KNOWN[name]
    wanted = derivative(AT) * ALONG
    value, error = central_difference(function, AT, ALONG)
    assert float((value - wanted).norm()) <= error <= 1e-6 * float(wanted.norm())
    assert_derivative(wanted, central_difference(function, AT, ALONG))


@functions
@pytest.mark.parametrize("factor", [1e-5, -1e-5])
def test_a_derivative_that_is_off_by_one_in_a_hundred_thousand_is_told(name, factor):
    function, derivative = KNOWN[name]
    with pytest.raises(AssertionError, match="from central differences, allowed"):
        assert_derivative((1 + factor) * derivative(AT) * ALONG, central_difference(function, AT, ALONG))


def test_the_length_of_the_direction_is_in_the_derivative_and_not_in_the_step():
    short, long = (central_difference(torch.exp, AT, scale * ALONG) for scale in (1e-3, 1e3))
    assert torch.allclose(1e6 * short.value, long.value, rtol=1e-9)


def test_noise_is_in_the_error():
    generator = torch.Generator().manual_seed(0)

    def rough(x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return torch.sin(x) + 1e-9 * noise / noise.norm()

    for noise in (1e-9, lambda: 1e-9):
        value, error = central_difference(rough, AT, ALONG, noise=noise)
        gap = float((value - torch.cos(AT) * ALONG).norm())
        assert 1e-9 < gap <= error < 2e-4


def test_differences_across_a_kink_say_nothing():
    for found in (0.0, 1.0):
        with pytest.raises(UnsettledError, match="only known to"):
            assert_derivative(found * ALONG, central_difference(torch.relu, AT - AT + 1e-4, ALONG))
    with pytest.raises(UnsettledError):
        assert_derivative(ALONG, central_difference(lambda x: x * float("nan"), AT, ALONG))


def test_a_jacobian_has_a_column_for_each_axis():
    matrix = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = central_jacobian(lambda x: torch.sin(matrix @ x).reshape(2, 2), AT)
    wanted = (torch.cos(matrix @ AT).unsqueeze(1) * matrix).reshape(2, 2, 3)
    assert float((value - wanted).norm()) <= error < 1e-9
