"""One battery for masked networks and flows: autoregression, round trip, Jacobian, gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen.errors import UsageError
from hepgen.networks import MADE, MAF, Affine


def perturbed(flow: torch.nn.Module, scale: float = 0.2) -> torch.nn.Module:
    """The module in float64, away from its near-identity start."""
    generator = torch.Generator().manual_seed(5)
    flow = flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return flow


@pytest.mark.parametrize(
    ("features", "context", "hidden"), [(1, 0, (4,)), (3, 2, (7, 5)), (6, 6, (128, 128)), (5, 0, (3, 9, 2)), (9, 1, (4, 4))]
)
def test_made_is_autoregressive(features: int, context: int, hidden: tuple[int, ...]) -> None:
    made = perturbed(MADE(features, context, hidden))
    x, c = torch.randn(features, dtype=torch.float64), torch.randn(context, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v[None], c[None])[0], x)  # (d, k, d)
    sees = jacobian.abs().sum(1) > 0
    assert not torch.triu(sees).any(), "column i depends on itself or on a later column"


def test_made_sees_all_earlier_columns_and_the_context() -> None:
    made = perturbed(MADE(4, 3, (64, 64)))
    x, c = torch.randn(4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    on_x = torch.autograd.functional.jacobian(lambda v: made(v[None], c[None])[0], x).abs().sum(1)
    on_c = torch.autograd.functional.jacobian(lambda v: made(x[None], v[None])[0], c).abs().sum(1)
    assert (on_x[torch.tril_indices(4, 4, -1).unbind()] > 0).all()
    assert (on_c > 0).all(), "every column, the first one too, follows the context"


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(0, 9),
    features=st.integers(1, 7),
    context=st.integers(0, 3),
    hidden=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    permutation=st.sampled_from(["reverse", "random", "none"]),
    activation=st.sampled_from(["relu", "tanh", "elu"]),
)
def test_inverse_undoes_forward(rows: int, features: int, context: int, hidden: list[int], permutation: str, activation: str) -> None:
    torch.manual_seed(0)
    flow = perturbed(MAF(features, context, 3, hidden, permutation, activation))
    x, c = torch.randn(rows, features, dtype=torch.float64), torch.randn(rows, context, dtype=torch.float64)
    z, log_det = flow(x, c)
    back, log_det_back = flow.inverse(z, c)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-9)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_det_is_that_of_the_jacobian(direction: str) -> None:
    torch.manual_seed(1)
    flow = perturbed(MAF(4, 2, 3, (16, 16), "random"))
    call = flow if direction == "forward" else flow.inverse
    x, c = torch.randn(4, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: call(v[None], c)[0][0], x)
    torch.testing.assert_close(call(x[None], c)[1][0], torch.linalg.slogdet(jacobian).logabsdet)


def test_density_integrates_to_one() -> None:
    flow = perturbed(MAF(1, 1, 2, (8,)), 0.3)
    x = torch.linspace(-60, 60, 200_001, dtype=torch.float64)[:, None]
    density = flow.log_prob(x, torch.ones_like(x)).exp().detach()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_every_parameter_gets_a_gradient_equal_to_finite_differences(direction: str) -> None:
    flow = perturbed(MAF(3, 2, 2, (6, 6)))
    x, c = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)

    def loss() -> torch.Tensor:
        y, log_det = flow(x, c) if direction == "forward" else flow.inverse(x, c)
        return (y.square().sum(1) + log_det).mean()

    def value_now() -> float:
        with torch.no_grad():
            return float(loss())

    loss().backward()
    for name, parameter in flow.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(0, len(flat), max(1, len(flat) // 5)):
            value = float(flat[index])
            flat[index] = value + 1e-6
            above = value_now()
            flat[index] = value - 1e-6
            below = value_now()
            flat[index] = value
            assert float(gradient[index]) == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-7), name


def test_fresh_flow_is_near_the_identity_and_state_dict_round_trips() -> None:
    torch.manual_seed(2)
    flow, other = MAF(6, 6, permutation="random", seed=3), MAF(6, 6, permutation="random", seed=4)
    x, c = torch.randn(100, 6), torch.randn(100, 6)
    other.load_state_dict(flow.state_dict())
    with torch.no_grad():
        assert float((flow(x, c)[0] - x).abs().mean()) < 0.5
        torch.testing.assert_close(other(x, c), flow(x, c), rtol=0, atol=0)


def test_affine_closed_form_and_its_bound() -> None:
    bijection = Affine()
    parameters = torch.tensor([[[1.0, 1e9], [2.0, 0.0]]])
    x, log_det = bijection.inverse(torch.ones(1, 2), parameters)
    assert float(x[0, 1]) == 3.0
    assert float(log_det[0, 0]) == pytest.approx(math.log(1e3))
    assert float(log_det[0, 1]) == 0.0


def test_shear_models_the_sum_of_variable_and_condition() -> None:
    torch.manual_seed(3)
    plain, sheared = (perturbed(MAF(2, 3, 2, (8,), shear=shear)) for shear in (False, True))
    sheared.load_state_dict(plain.state_dict())
    x, c = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(sheared.log_prob(x - c[:, :2], c), plain.log_prob(x, c))
    torch.testing.assert_close(sheared.inverse(x, c)[0] + c[:, :2], plain.inverse(x, c)[0])
    with pytest.raises(UsageError, match="adds 2 columns of the context, and there are 1"):
        MAF(2, 1, shear=True)


def test_bad_settings_are_named() -> None:
    with pytest.raises(UsageError, match="activation 'swish' is not known"):
        MADE(3, activation="swish")
    with pytest.raises(UsageError, match="permutation 'odd' is not known"):
        MAF(3, permutation="odd")
    with pytest.raises(UsageError, match="at least one block"):
        MAF(3, blocks=0)
    with pytest.raises(UsageError, match="at least one column"):
        MADE(0)
