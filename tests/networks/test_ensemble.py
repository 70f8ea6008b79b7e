"""Perceptrons trained together are the perceptrons they were made of."""

from __future__ import annotations

import torch

from hepgen.kernels import Dropout
from hepgen.networks import MLP, EnsembleMLP


def networks() -> list[MLP]:
    torch.manual_seed(1)
    return [MLP(3, 1, (8, 5), "elu").double() for _ in range(4)]


def test_every_member_gives_what_its_network_gives() -> None:
    members = networks()
    ensemble = EnsembleMLP(members)
    x = torch.randn(4, 70, 3, dtype=torch.float64)
    together = ensemble(x)
    for network, rows, found in zip(members, x, together, strict=True):
        torch.testing.assert_close(found, network(rows), rtol=1e-14, atol=1e-14)
    assert torch.equal(ensemble(x[[3, 1]], [3, 1]), together[[3, 1]])


def test_members_with_shortcuts() -> None:
    torch.manual_seed(2)
    members = [MLP(3, 2, (8, 5, 8), "elu", "tanh", shortcuts=True).double() for _ in range(2)]
    x = torch.randn(2, 70, 3, dtype=torch.float64)
    for network, rows, found in zip(members, x, EnsembleMLP(members)(x), strict=True):
        torch.testing.assert_close(found, network(rows), rtol=1e-14, atol=1e-14)


def test_the_state_of_a_member_is_that_of_its_network() -> None:
    members = networks()
    ensemble = EnsembleMLP(members)
    for number, network in enumerate(members):
        state = ensemble.state_of(number)
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_gradients_reach_only_the_members_that_were_asked() -> None:
    ensemble = EnsembleMLP(networks())
    ensemble(torch.randn(2, 9, 3, dtype=torch.float64), [0, 2], Dropout(0.2, torch.tensor([4, 5]))).sum().backward()
    assert [bool(row.any()) for row in ensemble.parameter.grad] == [True, False, True, False]
