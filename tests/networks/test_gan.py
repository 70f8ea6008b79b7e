"""The networks of paper C are its layers, as torch's own modules compute them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from hepgen.errors import UsageError
from hepgen.networks import gan_networks
from hepgen.networks.gan import (
    SLOPE,
    ConvolutionalDiscriminator,
    ConvolutionalGenerator,
    DenseDiscriminator,
    DenseGenerator,
    by_lines,
)

KINDS = ["convolutional", "dense"]


def plain_generator(network: ConvolutionalGenerator) -> nn.Sequential:
    """The same layers and weights as torch's own modules."""
    layers: list[nn.Module] = [network.first, nn.ReLU(), nn.Unflatten(1, (1024, 1, 1))]
    for ours in network.up:
        seen, side, _, units = ours.weight.shape
        layer = nn.ConvTranspose2d(seen, units, side, stride=side).double()
        layer.weight.data.copy_(ours.weight.permute(0, 3, 1, 2))
        layer.bias.data.copy_(ours.bias)
        layers += [layer, nn.ReLU()]
    # the last layer reads channel after channel here, pixel after pixel there
    last = nn.Linear(1024, network.outputs).double()
    last.weight.data.copy_(network.last.weight.reshape(-1, 256, 4).transpose(1, 2).reshape(-1, 1024))
    last.bias.data.copy_(network.last.bias)
    return nn.Sequential(*layers, network.convolution, nn.ReLU(), nn.Flatten(), last, nn.Tanh())


class PlainDiscriminator(nn.Module):
    """The same layers and weights as torch's own modules, the 256 units in the order that the image has."""

    def __init__(self, network: ConvolutionalDiscriminator) -> None:
        super().__init__()
        self.network = network
        self.layers = nn.ModuleList()
        for ours in network.down:
            side, _, seen, units = ours.weight.shape
            layer = nn.Conv2d(seen, units, side, stride=side).double()
            layer.weight.data.copy_(ours.weight.permute(3, 2, 0, 1))
            layer.bias.data.copy_(ours.bias)
            self.layers.append(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        leaky = nn.LeakyReLU(SLOPE)
        image = by_lines(leaky(self.network.first(x)), len(x)).permute(0, 3, 1, 2)
        assert image.shape[1:] == (1, 16, 16)
        for layer in self.layers:
            image = leaky(layer(image))
        assert image.shape[1:] == (64, 1, 1)
        return self.network.last(image.flatten(1))[:, 0]


def test_pixels_patch_by_patch_are_those_of_an_image() -> None:
    lines = torch.arange(256).reshape(16, 16)
    patches = [
        lines[4 * y + 2 * v + a, 4 * x + 2 * u + b]
        for y in range(4) for x in range(4) for v in range(2) for u in range(2) for a in range(2) for b in range(2)
    ]  # fmt: skip
    assert torch.equal(by_lines(torch.stack(patches)[:, None], 1)[0, ..., 0], lines)


def test_the_generator_is_what_torch_makes_of_the_layers_of_the_paper() -> None:
    torch.manual_seed(1)
    network = ConvolutionalGenerator(10, 4).double()
    condition, latent = torch.rand(7, 10, dtype=torch.float64), torch.randn(7, 32, dtype=torch.float64)
    plain = plain_generator(network)
    x = torch.cat([condition, latent], dim=1)
    torch.testing.assert_close(network(condition, latent), plain(x), rtol=1e-12, atol=1e-13)
    shapes = []
    for layer in plain:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    grown = [(1024,), (1024, 1, 1), (32, 4, 4), (16, 8, 8), (8, 16, 16), (4, 16, 16), (1024,), (4,)]
    assert [new for old, new in pairwise([(), *shapes]) if new != old] == grown


def test_the_discriminator_is_what_torch_makes_of_the_layers_of_the_paper() -> None:
    torch.manual_seed(1)
    network = ConvolutionalDiscriminator(14).double()
    objects = torch.rand(7, 4, dtype=torch.float64, requires_grad=True)
    condition = torch.rand(7, 10, dtype=torch.float64)
    expected = PlainDiscriminator(network)(torch.cat([objects, condition], dim=1))
    torch.testing.assert_close(network(objects, condition), expected, rtol=1e-12, atol=1e-13)
    slopes = [torch.autograd.grad(out.square().sum(), objects)[0] for out in (network(objects, condition), expected)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (ConvolutionalGenerator(10, 4), 575_328),
        (DenseGenerator(10, 4), 549_380),
        (ConvolutionalDiscriminator(14), 77_921),
        (DenseDiscriminator(14), 76_929),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_parameters_are_as_many_as_the_docstring_says(network: nn.Module, parameters: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert f"{parameters:_}".replace("_", " ") in str(type(network).__doc__)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [0, 3])
def test_shapes_and_gradients(kind: str, inputs: int) -> None:
    generator, discriminator = gan_networks(kind, inputs, 5, 8)
    condition, latent = torch.rand(6, inputs), torch.randn(6, 8)
    objects = generator(condition, latent)
    assert objects.shape == (6, 5)
    assert objects.abs().max() < 1
    logits = discriminator(objects, condition, torch.Generator().manual_seed(1))
    assert logits.shape == (6,)
    logits.square().sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None and p.grad.any() for name, p in network.named_parameters()), "every layer takes part"


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    generator, discriminator = (network.double() for network in gan_networks(kind, 2, 3, 4))
    condition, latent = torch.rand(9, 2, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    objects = generator(condition, latent)
    torch.testing.assert_close(generator(condition[4:6], latent[4:6]), objects[4:6], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(discriminator(objects[4:6], condition[4:6]), discriminator(objects, condition)[4:6], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_signal_keeps_its_size_through_the_layers_of_a_fresh_network(kind: str) -> None:
    generator, discriminator = gan_networks(kind, 10, 4)
    condition = 2 * torch.rand(2000, 10) - 1
    before = generator.before_tanh(torch.cat([condition, torch.randn(2000, 32)], dim=1))
    assert 0.2 < before.std() < 3
    assert 0.05 < discriminator(generator(condition, torch.randn(2000, 32)), condition).std() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_follows_its_generator_and_keeps_the_mean(kind: str) -> None:
    _, discriminator = gan_networks(kind, 2, 2, dropout=0.2)
    discriminator = discriminator.double()
    objects, condition = (torch.rand(1, 2, dtype=torch.float64).expand(10_000, 2) for _ in range(2))
    expected = discriminator(objects[:1], condition[:1])
    drawn = discriminator(objects, condition, torch.Generator().manual_seed(5))
    assert torch.equal(drawn, discriminator(objects, condition, torch.Generator().manual_seed(5)))
    assert drawn.std() > 0
    assert abs(drawn.mean() - expected.item()) < 4 * drawn.std() / len(drawn) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_the_seed_alone_and_survive(kind: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (gan_networks(kind, 2, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for network, same, different in zip(first, again, other, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(network.parameters(), same.parameters(), strict=True))
        assert not all(torch.equal(p, q) for p, q in zip(network.parameters(), different.parameters(), strict=True))
        different.load_state_dict(network.state_dict())
        assert all(torch.equal(p, q) for p, q in zip(network.parameters(), different.parameters(), strict=True))


def test_what_cannot_be_built() -> None:
    with pytest.raises(UsageError, match="networks 'graph' are not known: choose one of convolutional, dense"):
        gan_networks("graph", 1, 1)
    with pytest.raises(UsageError, match="an output and a latent at least, not inputs=1, outputs=0, latent=32"):
        ConvolutionalGenerator(1, 0)
    with pytest.raises(UsageError, match="a dropout below 1, not inputs=3, dropout=1.0"):
        ConvolutionalDiscriminator(3, 1.0)
