"""The variational autoencoder against its layers written out, and against its frozen twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hepgen.errors import UsageError
from hepgen.losses import vae_loss
from hepgen.networks import VAE, FrozenMLP, latent_vae


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers_by_hand(layers: list[torch.nn.Linear], x: torch.Tensor) -> torch.Tensor:
    """Of paper D: ELU, and what hidden layer 1, 3 made is added before the activation of 3, 5."""
    made = [x]
    for number, layer in enumerate(layers, start=1):
        x = layer(x)
        if number < len(layers):
            x = F.elu(x + made[number - 2]) if number in (3, 5) else F.elu(x)
        made.append(x)
    return x


def test_is_the_network_of_the_paper() -> None:
    torch.manual_seed(1)
    vae = VAE(26, 20).double()
    assert [layer.out_features for layer in vae.encoder.linears] == [128] * 6 + [40]
    assert [layer.out_features for layer in vae.decoder.linears] == [128] * 6 + [26]
    x = 2 * torch.rand(70, 26, dtype=torch.float64) - 1
    out = vae(x, generator(5))
    encoded = layers_by_hand(vae.encoder.linears, x)
    mu, log_var = encoded[:, :20], encoded[:, 20:]
    torch.testing.assert_close(out.mu, mu, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.log_var, log_var, rtol=1e-12, atol=1e-12)
    z = mu + torch.sqrt(torch.exp(log_var)) * torch.randn(70, 20, generator=generator(5), dtype=torch.float64)
    values = torch.tanh(layers_by_hand(vae.decoder.linears, z))
    torch.testing.assert_close(out.values, values, rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad(vae_loss(x, out, 1e-2)["loss"], list(vae.parameters()))
    kl = (mu**2 + log_var.exp() - 1 - log_var).sum(1) / 2
    wanted = torch.autograd.grad((0.99 * ((x - values) ** 2).mean(1) + 1e-2 * kl).mean(), list(vae.parameters()))
    for gradient, expected in zip(mine, wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)


def test_starts_as_the_paper_says() -> None:
    torch.manual_seed(1)
    vae = VAE(26, 20)
    for network in (vae.encoder, vae.decoder):
        *hidden, last = network.linears
        for layer in hidden:
            weight = layer.weight.detach()
            spread = (1.55 / 128) ** 0.5
            assert float(weight.std()) == pytest.approx(spread, rel=5 / (2 * weight.numel()) ** 0.5)
            assert abs(float(weight.mean())) < 5 * spread / weight.numel() ** 0.5
        assert float(last.weight.detach().abs().max()) <= (6 / (128 + last.out_features)) ** 0.5
        assert not any(layer.bias.any() for layer in network.linears)


def test_draws_have_the_mean_and_the_width_of_the_latents() -> None:
    mu = torch.tensor([[1.0, -2.0]], dtype=torch.float64).expand(40_000, 2)
    sigma = torch.tensor([0.5, 0.01], dtype=torch.float64)
    z = VAE.draw(mu, 2 * sigma.log().expand(40_000, 2), generator(1))
    assert ((z.mean(0) - mu[0]).abs() < 5 * sigma / 200).all()
    torch.testing.assert_close(z.std(0), sigma, rtol=0.02, atol=0)
    again = VAE.draw(mu, 2 * sigma.log().expand(40_000, 2), generator(1))
    assert torch.equal(z, again)


def test_frozen_twins_encode_and_decode() -> None:
    torch.manual_seed(2)
    vae = VAE(6, 3, (16, 8, 16, 8, 16))
    state = {name: tensor.numpy() for name, tensor in vae.state_dict().items()}
    x = np.random.default_rng(1).uniform(-1, 1, (90, 6)).astype(np.float32)
    with torch.no_grad():
        mu, log_var = vae.encode(torch.from_numpy(x))
        values = vae.decode(mu)
    found = part(state, "encoder")(x)
    np.testing.assert_array_equal(found, torch.cat([mu, log_var], dim=1).numpy())
    np.testing.assert_array_equal(part(state, "decoder", output="tanh")(found[:, :3]), values.numpy())


def part(state: dict[str, np.ndarray], name: str, **options: str) -> FrozenMLP:
    own = {key.removeprefix(f"{name}."): array for key, array in state.items() if key.startswith(name)}
    return FrozenMLP(own, activation="elu", shortcuts=True, **options)


def test_learns_a_circle() -> None:
    """One latent holds the angle: what is decoded lies near the circle, at the angle of the event."""
    torch.manual_seed(3)
    angle = 3 * torch.rand(2000, 1, generator=generator(1))
    x = 0.8 * torch.cat([angle.cos(), angle.sin()], dim=1)
    vae = VAE(2, 1, (32,) * 4)
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    noise = generator(2)
    for _ in range(300):
        optimizer.zero_grad()
        vae_loss(x, vae(x, noise), 1e-5)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        mu, log_var = vae.encode(x)
        decoded = vae.decode(mu)
    assert float((decoded - x).square().sum(1).mean().sqrt()) < 0.03
    assert float((0.5 * log_var).exp().mean()) < 0.3, "the latents are narrow at so small a B"


def test_the_decoder_has_the_widths_the_other_way_round() -> None:
    vae = VAE(5, 2, (9, 8, 7), shortcuts=False)
    assert [layer.out_features for layer in vae.encoder.linears] == [9, 8, 7, 4]
    assert [layer.out_features for layer in vae.decoder.linears] == [7, 8, 9, 5]


def test_the_second_stage() -> None:
    vae = latent_vae(20)
    assert [layer.out_features for layer in vae.encoder.linears] == [64] * 3 + [40]
    assert (vae.encoder.shortcuts, vae.decoder.shortcuts, vae.decoder.output) == (False, False, "tanh")
    assert vae(torch.zeros(4, 20)).values.shape == (4, 20)


def test_what_cannot_be_built() -> None:
    with pytest.raises(UsageError, match="a column and a latent at least, not columns=3, latent=0"):
        VAE(3, 0)
    with pytest.raises(UsageError, match="a shortcut joins hidden layers 1 and 3, which have 8 and 9 units"):
        VAE(3, 2, (8, 8, 9))
