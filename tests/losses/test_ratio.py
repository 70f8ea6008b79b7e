from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats

from hepgen.errors import UsageError
from hepgen.losses import RatioLoss
from hepgen.losses.ratio import LINKS, checked_link, log_ratio, ratio
from hepgen.losses.ratio_loss import LEAST_F

PAIRS = [(loss, link) for loss, links in LINKS.items() for link in links]
F: dict[str, Callable[[mp.mpf], mp.mpf]] = {
    "sigmoid": lambda z: 1 / (1 + mp.exp(-z)),
    "cdf": lambda z: mp.erfc(-z / mp.sqrt(2)) / 2,
    "arctan": lambda z: mp.mpf(1) / 2 + mp.atan(z) / mp.pi,
    "exp": mp.exp,
    "square": lambda z: z**2,
    "relu": lambda z: max(z, mp.mpf(0)),
}
POINTS = [-37.0, -8.0, -3.0, -0.7, -1e-3, 0.0, 1e-3, 0.02, 0.7, 3.0, 8.0, 37.0]


def exact(loss: str, link: str, z: float) -> tuple[float, float, float]:
    """ln f, ln(1 - f) or 1 - f, and the log of the ratio, with 800 digits."""
    with mp.workdps(800):
        f = F[link](mp.mpf(z))
        ln_f = mp.log(f) if f else -mp.inf
        if loss == "mlc":
            return float(ln_f), float(1 - f), float(ln_f)
        return float(ln_f), float(mp.log(1 - f)), float(ln_f - mp.log(1 - f))


@pytest.mark.parametrize(("loss", "link"), PAIRS)
def test_log_ratios_have_all_digits(loss: str, link: str) -> None:
    wanted = [exact(loss, link, z)[2] for z in POINTS]
    np.testing.assert_allclose(log_ratio(POINTS, loss, link), wanted, rtol=2e-14, atol=3e-16)
    # far out f is 1 in float64, and the ratio is neither inf nor nan; only the normal CDF has ratios that are beyond float64
    far = ratio([35.0, 60.0], loss, link)
    assert np.isfinite(far[:1]).all()
    assert (far > 1).all()
    assert np.isnan(log_ratio([np.nan], loss, link)).all()


@pytest.mark.parametrize(("loss", "link"), PAIRS)
@pytest.mark.parametrize(("dtype", "relative", "absolute"), [(torch.float64, 2e-14, 1e-15), (torch.float32, 3e-6, 3e-7)])
def test_terms_of_the_loss_have_the_digits_of_their_dtype(
    loss: str, link: str, dtype: torch.dtype, relative: float, absolute: float
) -> None:
    z = torch.tensor(POINTS, dtype=dtype)
    first, second = RatioLoss(loss, link).data_terms(z), RatioLoss(loss, link).sim_terms(z)
    f = [float(F[link](mp.mpf(float(v)))) for v in z]
    shown = [link not in {"square", "relu"} or value > LEAST_F for value in f]
    wanted = np.array([exact(loss, link, float(v))[:2] for v in z])
    np.testing.assert_allclose(first[shown], -wanted[shown, 0], rtol=relative, atol=absolute)
    np.testing.assert_allclose(second, -wanted[:, 1], rtol=relative, atol=absolute)


@pytest.mark.parametrize(("loss", "link"), PAIRS)
def test_gradients(loss: str, link: str) -> None:
    away_from_kinks = [-30.0, -6.0, -0.4, -0.02, 0.01, 0.02, 0.5, 6.0, 30.0]
    z = torch.tensor(away_from_kinks, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RatioLoss(loss, link).data_terms, (z,))
    assert torch.autograd.gradcheck(RatioLoss(loss, link).sim_terms, (z,))
    near = [torch.tensor([-3.0, -0.2, 0.5, 2.0], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = torch.tensor([1.0, -0.5, 2.0, 1.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: RatioLoss(loss, link)(a, b, weights, weights.flip(0)), near)
    if loss == "bce":  # smooth at zero, where the parts of the arctan meet
        zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        slope = {"sigmoid": 0.5, "cdf": 2 * stats.norm.pdf(0), "arctan": 2 / np.pi}[link]
        RatioLoss(loss, link).data_terms(zero).sum().backward()
        np.testing.assert_allclose(zero.grad, -slope, rtol=1e-14)


@pytest.mark.parametrize(("loss", "link"), PAIRS)
def test_the_minimum_is_at_the_ratio_of_the_weighted_densities(loss: str, link: str) -> None:
    # three places; 5 simulated and 8 data events on them, with signed weights of mean one
    sim, sim_weights = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([2.0, -0.5, 1.0, 1.5, 1.0], dtype=torch.float64)
    data, data_weights = (
        torch.tensor([0, 1, 1, 2, 2, 2, 2, 2]),
        torch.tensor([2.0, 1.5, -0.5, 1.0, 1.0, 1.0, 1.5, 0.5], dtype=torch.float64),
    )
    shares = [
        torch.zeros(3, dtype=torch.float64).index_add(0, where, w) / w.sum() for where, w in ((sim, sim_weights), (data, data_weights))
    ]
    wanted = (shares[1] / shares[0]).log()
    z = torch.full((3,), 0.9, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = RatioLoss(loss, link)(z[sim], z[data], sim_weights, data_weights)
        value.backward()
        return value

    optimizer.step(closure)
    np.testing.assert_allclose(log_ratio(z.detach(), loss, link), wanted, atol=1e-6)


def test_the_loss_is_the_papers_where_the_samples_have_one_size() -> None:
    rng = np.random.default_rng(1)
    z_sim, z_data = (rng.normal(0, 2, 50) for _ in range(2))
    y, z = np.repeat([0.0, 1.0], 50), np.concatenate([z_sim, z_data])
    f = {"sigmoid": 1 / (1 + np.exp(-z)), "cdf": stats.norm.cdf(z), "arctan": 0.5 + np.arctan(z) / np.pi, "exp": np.exp(z), "square": z**2}
    for loss, link in PAIRS:
        if link == "relu":
            continue
        second = np.log1p(-f[link]) if loss == "bce" else 1 - f[link]
        printed = -np.mean(y * np.log(np.maximum(f[link], 1e-300)) + (1 - y) * second)
        if link == "square" and (f[link] < LEAST_F).any():
            continue
        found = RatioLoss(loss, link)(torch.from_numpy(z_sim), torch.from_numpy(z_data))
        assert float(found) == pytest.approx(printed, rel=1e-12), link


def test_below_the_least_f_the_loss_leads_out_of_zero() -> None:
    loss = RatioLoss("mlc", "relu")
    z = torch.tensor([-2.0, 0.0, LEAST_F], dtype=torch.float64, requires_grad=True)
    terms = loss.data_terms(z)
    np.testing.assert_allclose(terms.detach(), -np.log(LEAST_F) - (z.detach() - LEAST_F) / LEAST_F, rtol=1e-14)
    terms.sum().backward()
    np.testing.assert_allclose(z.grad, -1 / LEAST_F, rtol=1e-14)
    assert log_ratio([-2.0, 0.0], "mlc", "relu").tolist() == [-np.inf, -np.inf]
    assert ratio([-2.0], "mlc", "relu").tolist() == [0.0]


def test_a_network_starts_at_a_ratio_of_one() -> None:
    for loss, link in PAIRS:
        assert ratio([RatioLoss(loss, link).start], loss, link).tolist() == [1.0]


def test_what_is_not_known_is_named() -> None:
    assert [checked_link(loss, None) for loss in LINKS] == ["sigmoid", "exp"]
    with pytest.raises(UsageError, match="loss 'mse' is not known: choose one of bce, mlc"):
        log_ratio([0.0], "mse")
    with pytest.raises(UsageError, match="the loss 'bce' has no link 'square': choose one of sigmoid, cdf, arctan"):
        RatioLoss("bce", "square")


def test_ratios_come_without_torch() -> None:
    script = "import hepgen.losses.ratio as r, sys; r.log_ratio([1.0], 'bce', 'cdf'); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
