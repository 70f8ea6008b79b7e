"""Fits, CLs and limits of a workspace against closed forms, cabinetry and pyhf's command line."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from pyhf_support import counts, template
from scipy.optimize import brentq
from scipy.stats import norm

from hepgen.errors import HepgenError, MissingDependency, UsageError

pyhf = pytest.importorskip("pyhf", reason="pyhf is not installed")

import hepgen_pyhf  # noqa: E402
from hepgen_pyhf import Channel, build  # noqa: E402

# pyhf 0.7.6 checks its schema with a class that jsonschema wants to replace
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")


def with_background(background: Any, data: Any, signal: Any, **options: Any) -> Any:
    return build({"SR": Channel({"sig": signal, "bkg": background}, data)}, signal="sig", **options)


N, S, B = 58.0, 10.0, 50.0


def counting(n: float = N, **options: Any) -> Any:
    """One bin, no nuisance parameters."""
    return build({"SR": Channel({"sig": template([S]), "bkg": template([B])}, counts([n]))}, signal="sig", **options)


def closed_form(mu: float, n: float = N) -> tuple[float, tuple[float, ...]]:
    """CLs of one bin: arXiv:1007.1727, Eqs. 16, 65 and 89."""

    def q(events: float) -> float:
        best = max((events - B) / S, 0.0)
        if best >= mu:
            return 0.0
        tested, fitted = mu * S + B, best * S + B
        return 2 * (tested - fitted - events * math.log(tested / fitted))

    root, asimov = math.sqrt(q(n)), math.sqrt(q(B))
    statistic = root - asimov if root <= asimov else (root**2 - asimov**2) / (2 * asimov)
    observed = norm.sf(statistic + asimov) / norm.sf(statistic)
    return float(observed), tuple(float(norm.sf(asimov - k) / norm.sf(-k)) for k in (-2, -1, 0, 1, 2))


def test_the_best_fit_of_one_bin():
    # wide, since MINUIT's errors feel their bounds
    found = hepgen_pyhf.fit(counting(parameters={"mu": {"bounds": [[-50.0, 50.0]]}}))
    assert found.names == ("mu",)
    assert found["mu"][0] == pytest.approx((N - B) / S, abs=5e-4)
    assert found["mu"][1] == pytest.approx(math.sqrt(N) / S, rel=1e-4)
    assert found.twice_nll == pytest.approx(-2 * (N * math.log(N) - N - math.lgamma(N + 1)), rel=1e-6)
    assert (found.at_bound, found.correlations.shape) == ((), (1, 1))
    assert str(found) == f"mu: {found['mu'][0]:.4g} +- 0.76"
    assert hepgen_pyhf.fit(counting(), data=[B + 2 * S])["mu"][0] == pytest.approx(2.0, abs=1e-4)
    assert hepgen_pyhf.fit(counting(n=B - 30)).at_bound == ("mu",)
    with pytest.raises(KeyError, match="JES"):
        found["JES"]


@pytest.mark.parametrize(("mu", "n"), [(1.0, N), (2.5, N), (1.0, 40.0), (0.5, 51.0)])
def test_cls_of_one_bin(mu, n):
    found = hepgen_pyhf.cls(counting(n), mu)
    observed, expected = closed_form(mu, n)
    assert found.observed == pytest.approx(observed, rel=1e-4)
    assert found.expected == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("level", [0.05, 0.32])
def test_the_upper_limit_of_one_bin(level):
    found = hepgen_pyhf.upper_limit(counting(), level)
    assert found.observed == pytest.approx(brentq(lambda mu: closed_form(mu)[0] - level, 0.01, 10), rel=2e-4)
    assert found.expected[2] == pytest.approx(brentq(lambda mu: closed_form(mu)[1][2] - level, 0.01, 10), rel=2e-4)
    scanned = hepgen_pyhf.upper_limit(counting(), level, scan=np.linspace(0, 5, 101))
    assert scanned.observed == pytest.approx(found.observed, rel=2e-3)


FULL = template(
    [52.0, 41.0, 30.0],
    [10.0, 8.0, 3.0],
    JESUp=[56.0, 41.0, 30.0],
    JESDown=[46.0, 40.0, 29.0],
    scaleUp=[57.0, 46.0, 34.0],
    scaleDown=[46.0, 37.0, 26.0],
)


def full_workspace() -> Any:
    signal = template([2.0, 5.0, 9.0], [0.04, 0.1, 0.2], JESUp=[2.5, 5.0, 9.5], JESDown=[1.5, 5.25, 8.5])
    return with_background(FULL, counts([55.0, 44.0, 45.0]), signal, lumi=0.02, normsys={"xs": {"bkg": (0.05, -0.04)}})


def test_cabinetry_reads_it_and_fits_the_same():
    cabinetry = pytest.importorskip("cabinetry", reason="cabinetry is not installed")
    workspace = full_workspace()
    model, data = cabinetry.model_utils.model_and_data(workspace.spec)
    assert data == workspace.data(workspace.model())
    ours, theirs = hepgen_pyhf.fit(workspace), cabinetry.fit.fit(model, data, tolerance=1e-3)
    assert list(ours.names) == theirs.labels
    assert np.abs(ours.values - theirs.bestfit).max() < 1e-3
    np.testing.assert_allclose(ours.uncertainties, theirs.uncertainty, rtol=1e-2)
    np.testing.assert_allclose(ours.correlations, theirs.corr_mat, atol=1e-2)
    assert 2 * theirs.best_twice_nll == pytest.approx(2 * ours.twice_nll, abs=1e-4)
    prediction = cabinetry.model_utils.prediction(model)
    np.testing.assert_allclose(np.sum(prediction.model_yields[0], axis=0), [54.0, 46.0, 39.0])


def test_the_command_line_of_pyhf_reads_it(tmp_path):
    testing = pytest.importorskip("click.testing")
    from pyhf.cli.cli import pyhf as main

    workspace = full_workspace()
    path = workspace.write(tmp_path / "SR.json")
    out = testing.CliRunner().invoke(main, ["cls", str(path)])
    assert out.exit_code == 0, out.output
    found = hepgen_pyhf.cls(workspace, 1.0)
    assert json.loads(out.output)["CLs_obs"] == pytest.approx(found.observed, rel=1e-6)
    digest = testing.CliRunner().invoke(main, ["digest", str(path)])
    assert workspace.digest in digest.output


def test_pyhf_keeps_the_backend_it_had():
    before = pyhf.get_backend()
    hepgen_pyhf.fit(counting())
    assert pyhf.get_backend() == before


@pytest.mark.parametrize(
    ("bounds", "call", "sentence"),
    [
        ([0.0, 3.0], lambda w: hepgen_pyhf.cls(w, 4.0), "mu=4.0 is outside its bounds, 0 to 3"),
        ([-1.0, 3.0], lambda w: hepgen_pyhf.cls(w, 1.0), "the bounds of mu start at -1, and q~ is made for signals >= 0"),
        ([-1.0, 3.0], hepgen_pyhf.upper_limit, "the bounds of mu start at -1"),
        ([0.0, 3.0], lambda w: hepgen_pyhf.upper_limit(w, 5.0), "level is a CLs between 0 and 1, such as 0.05, not 5.0"),
        ([0.0, 3.0], lambda w: hepgen_pyhf.fit(w, [1.0, 2.0]), "the data have 2 numbers, expected 1"),
    ],
)
def test_inference_that_is_asked_wrongly(bounds, call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call(counting(parameters={"mu": {"bounds": [bounds]}}))


def test_limits_that_are_not_there():
    with pytest.raises(HepgenError, match="the upper limit cannot be found .* widen the bounds"):
        hepgen_pyhf.upper_limit(counting(parameters={"mu": {"bounds": [[0.0, 1.5]]}}))
    with pytest.raises(HepgenError, match="a limit is outside the scan from 0 to 1: widen it"):
        hepgen_pyhf.upper_limit(counting(), scan=[0.0, 0.5, 1.0])


def test_a_fit_that_does_not_converge():
    workspace = with_background(template([50.0, 0.0, 30.0]), counts([50.0, 0.0, 30.0]), template([2.0, 0.0, 9.0]), empty="keep")
    workspace.spec["observations"][0]["data"][1] = 3.0  # behind the back of the checks
    with pytest.raises(HepgenError, match="the fit did not converge .*: look for bins without background"):
        hepgen_pyhf.fit(workspace)


def test_a_workspace_without_parameter_of_interest(tmp_path):
    spec = counting().spec
    spec["measurements"][0]["config"]["poi"] = ""
    path = tmp_path / "x.json"
    path.write_text(json.dumps(spec))
    workspace = hepgen_pyhf.read(path)
    with pytest.raises(UsageError, match="the workspace has no parameter of interest"):
        hepgen_pyhf.cls(workspace, 1.0)


def test_uncertainties_need_iminuit(monkeypatch):
    monkeypatch.setitem(sys.modules, "iminuit", None)
    monkeypatch.delitem(sys.modules, "pyhf.optimize.opt_minuit", raising=False)
    monkeypatch.delitem(vars(pyhf.optimize), "minuit_optimizer", raising=False)
    with pytest.raises(MissingDependency, match="uncertainties of a fit need iminuit: pip install iminuit"):
        hepgen_pyhf.fit(counting())
