"""Events learnt and drawn: layouts, sets of objects, weights, and that an event depends on the seed and its number alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from numpy.typing import NDArray

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.events import Cut, Features, Selection
from hepgen.kernels import threads

JETS = [f"Jet[{i}].{field}" for i in (0, 1) for field in ("pt", "eta", "phi", "E")]
LEPTONS = [f"Lepton[{i}].{field}" for i in (0, 1) for field in ("pt", "charge")]
FEATURES = Features([*JETS, *LEPTONS, "MET_pt"])
QUICK: dict[str, dict[str, Any]] = {
    "kde": {"bandwidth": 0.1},
    "gmm": {"components": 4},
    "smearing": {"smearing": 0.02},
    "maf": {"blocks": 2, "hidden": (16,)},
    "flow-matching": {"hidden": (16, 16), "steps": 2},
    "lsgan": {"hidden": (16, 16)},
    "wgan": {"hidden": (16, 16)},
    "wgan-gp": {"hidden": (16, 16)},
    "mmd-gan": {"hidden": (16, 16)},
    "dijet-gan": {},
    "bvae": {"hidden": (16, 16, 16)},
}


def process(n: int, seed: int) -> ak.Array:
    """Two jets that recoil, one lepton or two of opposite charge (in 30 %), and missing momentum, which is harder with two."""
    rng = np.random.default_rng(seed)
    leptons = rng.choice([1, 2], n, p=[0.7, 0.3])
    pt = np.sort(25 + rng.exponential(30, (n, 2)), axis=1)[:, ::-1]
    eta, phi, mass = rng.normal(0, 1, (n, 2)), rng.uniform(-np.pi, np.pi, n), rng.gamma(4, 2, (n, 2))
    angles = np.stack([phi, (phi + rng.normal(0, 0.3, n)) % (2 * np.pi) - np.pi], axis=1)
    energy = np.sqrt(mass**2 + (pt * np.cosh(eta)) ** 2)
    jets = listed({"pt": pt, "eta": eta, "phi": angles, "E": energy}, "Jet", np.float32)
    charge = rng.choice([-1, 1], n)
    lepton = {"pt": np.sort(20 + rng.exponential(15, (n, 2)), axis=1)[:, ::-1], "charge": np.stack([charge, -charge], axis=1)}
    pairs = listed(lepton, "Lepton", np.float64)
    pairs = ak.with_field(pairs, ak.values_astype(pairs.charge, np.int8), "charge")
    pairs = pairs[ak.local_index(pairs.pt) < leptons[:, None]]
    met = rng.exponential(np.where(leptons == 2, 40, 20))
    fields = {"Jet": jets, "nLepton": leptons.astype(np.uint32), "Lepton": pairs, "event": np.arange(n), "MET_pt": met}
    return ak.zip(fields, depth_limit=1)


def listed(fields: dict[str, NDArray[np.float64]], name: str, dtype: type) -> ak.Array:
    return ak.zip({field: ak.from_regular(ak.Array(values.astype(dtype))) for field, values in fields.items()}, with_name=name)


@pytest.fixture(scope="module")
def sample() -> ak.Array:
    return process(6000, 1)


@pytest.fixture(scope="module", params=list(QUICK))
def fitted(request: pytest.FixtureRequest, sample: ak.Array) -> hepgen.EventGenerator:
    with threads(1):
        model = hepgen.EventGenerator(FEATURES, request.param, latent=4, **QUICK[request.param])
        return model.fit(sample[:2000], epochs=8, batch_size=500, progress=False)


def matrix(events: ak.Array, features: Features = FEATURES) -> NDArray[np.float64]:
    return features.extract_optional(events)[0]


def same(a: ak.Array, b: ak.Array) -> bool:
    return bool(a.type == b.type) and np.array_equal(matrix(a), matrix(b), equal_nan=True)


# -- every model ------------------------------------------------------------------------------------------------------


def test_layout_is_that_of_the_events(fitted: hepgen.EventGenerator, sample: ak.Array) -> None:
    new = fitted.sample(300)
    wanted = sample[["Jet", "nLepton", "Lepton", "MET_pt"]]
    assert str(new.type.content) == str(wanted.type.content)
    assert ak.all(ak.num(new.Jet) == 2)
    assert ak.all(ak.num(new.Lepton) == new.nLepton)
    assert set(ak.flatten(new.Lepton.charge)) <= {-1, 0, 1}


def test_some_of_the_events_in_any_order_have_the_same_layout(sample: ak.Array) -> None:
    rows = np.random.default_rng(4).permutation(2000)
    given = sample[rows], ak.to_packed(sample[rows])
    fits = [hepgen.EventGenerator(FEATURES, "smearing").fit(events, progress=False) for events in given]
    assert same(*(model.sample(50) for model in fits))


def test_only_sets_of_objects_that_were_learnt(fitted: hepgen.EventGenerator) -> None:
    counts = ak.to_numpy(ak.num(fitted.sample(4000).Lepton))
    assert set(counts) <= {1, 2}
    if fitted.model != "bvae":  # which decodes what it has learnt of them
        share = float(ak.mean(ak.num(process(6000, 1)[:2000].Lepton) == 2))
        assert abs((counts == 2).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_an_event_depends_on_its_number_and_not_on_the_others(fitted: hepgen.EventGenerator) -> None:
    whole = fitted.sample(150)
    assert same(fitted.sample(100, first=50), whole[50:])
    assert same(ak.concatenate([fitted.sample(1, first=k) for k in range(5)]), whole[:5])
    assert not same(fitted.sample(150, seed=fitted.seed + 1), whole)
    assert len(fitted.sample(0)) == 0


def test_blocks_leave_no_trace(fitted: hepgen.EventGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted.sample(150)
    monkeypatch.setattr("hepgen.estimators.event_generator.BLOCK", 37)
    assert same(fitted.sample(150), whole)


def test_energies_and_order_are_physical(fitted: hepgen.EventGenerator) -> None:
    new = fitted.sample(2000)
    assert ak.all(new.Jet.pt[:, 0] >= new.Jet.pt[:, 1])
    both = new.Lepton[ak.num(new.Lepton) == 2]
    assert ak.all(both.pt[:, 0] >= both.pt[:, 1])
    if fitted.model != "smearing":  # which knows of columns only
        momentum = np.asarray(ak.flatten(new.Jet.pt), np.float64) * np.cosh(np.asarray(ak.flatten(new.Jet.eta), np.float64))
        assert (np.asarray(ak.flatten(new.Jet.E)) >= momentum * (1 - 1e-6)).all()


def test_saved_and_loaded_it_draws_the_same(fitted: hepgen.EventGenerator, sample: ak.Array, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "model.hepgen")
    again = hepgen.load(path)
    assert same(again.sample(100), fitted.sample(100))
    assert again.to_bytes() == fitted.to_bytes()
    if fitted.model in {"bvae", "maf", "flow-matching", "gmm", "kde"}:
        np.testing.assert_array_equal(again.anomaly(sample[:50]), fitted.anomaly(sample[:50]))


def test_a_saved_model_needs_no_torch(fitted: hepgen.EventGenerator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.hepgen")
    script = "import hepgen, sys; m = hepgen.load(sys.argv[1]); print(m.sample(20).MET_pt.tolist()); assert 'torch' not in sys.modules"
    out = subprocess.check_output([sys.executable, "-c", script, str(tmp_path / "model.hepgen")], text=True)
    assert out.strip() == str(fitted.sample(20).MET_pt.tolist())


def test_anomaly(fitted: hepgen.EventGenerator, sample: ak.Array) -> None:
    if fitted.model not in {"bvae", "maf", "flow-matching", "gmm", "kde"}:
        with pytest.raises(UsageError, match="gives no anomaly score"):
            fitted.anomaly(sample[:10])
        return
    seen = fitted.anomaly(sample[2000:2200])
    assert np.isfinite(seen).all()
    odd = ak.with_field(sample[2000:2200], 40 * sample.MET_pt[2000:2200], "MET_pt")
    assert np.median(fitted.anomaly(odd)) > np.median(seen)
    empty = ak.with_field(sample[:3], sample.Lepton[:3][:, :0], "Lepton")
    assert np.isinf(fitted.anomaly(empty)).all()
    assert fitted.anomaly(sample[:0]).shape == (0,)


# -- layouts ----------------------------------------------------------------------------------------------------------


def drawn_like(events: ak.Array, names: list[str], **options: Any) -> tuple[ak.Array, Features]:
    features = Features(names)
    model = hepgen.EventGenerator(features, "kde", bandwidth=0.05, **options)
    return model.fit(events).sample(200), features


def test_flat_branches() -> None:
    events = process(1000, 3)
    flat = ak.zip(
        {
            "nJet": ak.num(events.Jet),
            "Jet_pt": events.Jet.pt,
            "Jet_eta": events.Jet.eta,
            "lep_n": events.nLepton,
            "lep_pt": events.Lepton.pt,
        },
        depth_limit=1,
    )
    new, _ = drawn_like(flat, ["Jet_pt[0]", "Jet_pt[1]", "Jet_eta[0]", "Jet_eta[1]", "lep_pt[0]", "lep_pt[1]"])
    assert str(new.type.content) == str(flat.type.content)
    assert new.fields == flat.fields
    assert ak.all(new.nJet == 2)
    assert ak.all(new.lep_n == ak.num(new.lep_pt))
    assert set(new.lep_n) == {1, 2}


@pytest.mark.parametrize("kind", ["option", "missing element", "regular", "record of lists", "nested record"])
def test_other_layouts(kind: str) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(10, 1, (500, 2)), rng.normal(0, 1, 500)
    events, names = {
        "option": (ak.zip({"x": x[:, 0], "y": ak.mask(ak.Array(y), y > 0)}), ["x", "y"]),
        "missing element": (
            ak.zip({"o": ak.zip({"pt": ak.mask(ak.from_regular(ak.Array(x)), ak.Array(x > 9.5))})}, depth_limit=1),
            ["o[0].pt", "o[1].pt"],
        ),
        "regular": (ak.zip({"x": ak.Array(x), "y": y}, depth_limit=1), ["x[0]", "x[1]", "y"]),
        "record of lists": (
            ak.zip({"o": ak.zip({"pt": ak.from_regular(ak.Array(x)), "m": ak.from_regular(ak.Array(x))}, depth_limit=1)}, depth_limit=1),
            ["o.pt[0]", "o.pt[1]", "o.m[0]", "o.m[1]"],
        ),
        "nested record": (ak.zip({"o": ak.zip({"p": ak.zip({"x": y}), "y": x[:, 0].astype(">f4").astype("f4")})}), ["o.p.x", "o.y"]),
    }[kind]
    new, features = drawn_like(events, names)
    assert str(new.type.content) == str(events.type.content)
    before, after = features.extract_optional(events)[1], features.extract_optional(new)[1]
    known = {tuple(row) for row in before}
    assert {tuple(row) for row in after} <= known
    assert len(known) == (4 if kind == "missing element" else 2 if kind == "option" else 1)


def test_a_schema_gives_back_its_branches() -> None:
    rng = np.random.default_rng(5)
    pt = np.sort(rng.exponential(30_000, (400, 2)) + 25_000, axis=1)[:, ::-1]
    raw = ak.zip(
        {"photon_pt": ak.from_regular(ak.Array(pt.astype(np.float32))), "photon_n": np.full(400, 2, np.uint32)},
        depth_limit=1,
    )
    model = hepgen.EventGenerator(Features(["photon[0].pt", "photon[1].pt"]), "kde", schema="atlas-open-data").fit(raw)
    new = model.sample(100)
    assert {str(name): str(new[name].type.content) for name in new.fields} == {
        str(name): str(raw[name].type.content) for name in raw.fields
    }
    assert 25_000 <= ak.min(new.photon_pt) < 60_000


def test_constant_columns_come_back(sample: ak.Array) -> None:
    events = ak.with_field(sample[:500], np.full(500, 0.105), "mass")
    new, _ = drawn_like(events, ["MET_pt", "mass"])
    assert ak.all(new.mass == 0.105)
    assert ak.std(new.MET_pt) > 0


def test_behaviours_stay(sample: ak.Array) -> None:
    import vector

    vector.register_awkward()
    jets = ak.Array(sample.Jet, with_name="Momentum4D")
    events = ak.zip({"Jet": ak.with_name(jets, "Momentum4D")}, depth_limit=1)
    new, _ = drawn_like(events, JETS)
    assert ak.all(new.Jet.mass >= 0)


# -- what is learnt ---------------------------------------------------------------------------------------------------


def gaussians(n: int, seed: int) -> tuple[ak.Array, NDArray[np.int64]]:
    """Two correlated Gaussians in a plane, 70 % and 30 %."""
    rng = np.random.default_rng(seed)
    which = (rng.random(n) < 0.3).astype(np.int64)
    cov = np.array([[[1.0, 0.8], [0.8, 1.0]], [[0.25, -0.15], [-0.15, 0.25]]])
    x = np.array([[0.0, 0.0], [4.0, 1.0]])[which] + np.einsum("nij,nj->ni", np.linalg.cholesky(cov)[which], rng.normal(size=(n, 2)))
    return ak.zip({"x": x[:, 0], "y": x[:, 1]}), which


@pytest.mark.parametrize(("model", "epochs"), [("kde", None), ("gmm", None), ("maf", 30), ("flow-matching", 80), ("bvae", 60)])
def test_two_gaussians(model: str, epochs: int | None) -> None:
    options: dict[str, Any] = {"kde": {}, "gmm": {"components": 2, "scaler": "standard"}, "maf": {"blocks": 4, "hidden": (32, 32)}}.get(
        model, {"hidden": (64, 64, 64)}
    )
    if model == "bvae":
        options["gamma"] = 0.01
    data, _ = gaussians(6000, 6)
    with threads(1):
        fitted = hepgen.EventGenerator(Features(["x", "y"]), model, latent=4, **options).fit(
            data, epochs=epochs, batch_size=256, progress=False
        )
    right, wanted = halves(fitted.sample(40_000)), halves(gaussians(400_000, 12)[0])
    near = {"gmm": 0.05, "flow-matching": 0.18}.get(model, 0.12)
    for (share, mean, deviation, correlation), (share0, mean0, deviation0, correlation0) in zip(right, wanted, strict=True):
        assert abs(share - share0) < 0.02
        np.testing.assert_allclose(mean, mean0, atol=near)
        np.testing.assert_allclose(deviation, deviation0, rtol=near)
        # a velocity field leaves some events between the two
        assert abs(correlation - correlation0) < (0.45 if model == "flow-matching" else near)


def halves(events: ak.Array) -> list[tuple[float, NDArray[np.float64], NDArray[np.float64], float]]:
    """Share, mean, standard deviation and correlation on either side of a line between the two Gaussians."""
    points = np.stack([np.asarray(events.x), np.asarray(events.y)])
    sides = [points[:, points[0] > 2.4], points[:, points[0] <= 2.4]]
    return [(side.shape[1] / len(events), side.mean(axis=1), side.std(axis=1), float(np.corrcoef(side)[0, 1])) for side in sides]


@pytest.mark.parametrize("model", ["kde", "gmm", "maf", "flow-matching", "bvae"])
def test_weights_are_the_frequencies(model: str) -> None:
    """Of weights that turn 30 % into half, a part negative."""
    data, which = gaussians(6000, 7)
    weights = np.where(which == 1, 0.5 / 0.3, 0.5 / 0.7)
    signs = np.where(np.random.default_rng(8).random(6000) < 0.1, -1.0, 1.0)
    options: dict[str, Any] = {"maf": {"blocks": 4, "hidden": (32, 32)}, "gmm": {"components": 12}}.get(model, {"hidden": (64, 64, 64)})
    with threads(1):
        fitted = hepgen.EventGenerator(Features(["x", "y"]), model, latent=4, **options).fit(
            data, weights * signs, epochs=30, batch_size=512, progress=False
        )
    # half, and what the other Gaussian has beyond the line
    assert abs(float((fitted.sample(20_000).x > 2.4).to_numpy().mean()) - 0.504) < 0.04


def test_density_of_a_mixture() -> None:
    """-log p of "gmm" against scipy, in columns that are not scaled."""
    from scipy.stats import multivariate_normal

    from hepgen.events import Identity, Scaler

    data, _ = gaussians(2000, 9)
    fitted = hepgen.EventGenerator(Features(["x", "y"]), "gmm", components=2, scaler=Scaler([Identity(), Identity()])).fit(data)
    state = {name.removeprefix("model."): array for name, array in fitted.tensors().items()}
    points = np.stack([data.x.to_numpy(), data.y.to_numpy()], axis=1)[:100]
    parts = [
        w * multivariate_normal(mean, factor @ factor.T).pdf(points)
        for w, mean, factor in zip(state["weights"], state["means"], state["factors"], strict=True)
    ]
    np.testing.assert_allclose(fitted.anomaly(data[:100]), -np.log(np.sum(parts, axis=0)), rtol=1e-9)


def test_density_of_kernels() -> None:
    from scipy.stats import multivariate_normal

    from hepgen.events import Identity, Scaler

    data, _ = gaussians(300, 10)
    fitted = hepgen.EventGenerator(Features(["x", "y"]), "kde", bandwidth=0.3, scaler=Scaler([Identity(), Identity()])).fit(data)
    points = np.stack([data.x.to_numpy(), data.y.to_numpy()], axis=1)
    wanted = [-np.log(np.mean([multivariate_normal(p, 0.09 * np.eye(2)).pdf(q) for p in points])) for q in points[:20]]
    np.testing.assert_allclose(fitted.anomaly(data[:20]), wanted, rtol=1e-9)


def test_density_of_a_flow_of_velocities() -> None:
    """Its integral over the plane is one."""
    from hepgen.events import Scaler, Standard

    data, _ = gaussians(4000, 11)
    model = hepgen.EventGenerator(Features(["x", "y"]), "flow-matching", scaler=Scaler([Standard(), Standard()]), hidden=(32, 32), steps=20)
    with threads(1):
        model.fit(data, epochs=10, progress=False)
    grid = np.stack(np.meshgrid(*[np.linspace(-8, 8, 161)] * 2), axis=-1).reshape(-1, 2)
    assert model.sampler is not None
    density = np.exp(-model.sampler.anomaly(grid))
    assert abs(density.sum() * 0.1**2 - 1) < 0.01


def test_smearing_by_some_percent() -> None:
    events = ak.zip({"x": np.repeat([10.0, 200.0], 500)})
    new = hepgen.EventGenerator(Features(["x"]), "smearing", smearing=0.05).fit(events).sample(20_000)
    low = np.asarray(new.x[new.x < 100])
    # what would leave the range of the sample is brought back to its edge
    assert abs(np.mean(low == 10.0) - 0.5) < 0.03
    assert abs(np.sqrt(np.mean((low[low > 10] - 10) ** 2)) - 0.5) < 0.02


def test_another_gamma_needs_no_fit(sample: ak.Array) -> None:
    with threads(1):
        model = hepgen.EventGenerator(Features(["MET_pt", "Jet[0].pt"]), "bvae", latent=3, hidden=(16, 16), gamma=0.0)
        model.fit(sample[:1000], epochs=8, progress=False)
    wide = model.with_prior(gamma=(0.5, 0.0, 0.0))
    assert wide.sampler.decoder.state.keys() == model.sampler.decoder.state.keys()  # type: ignore[union-attr]
    np.testing.assert_array_equal(wide.sampler.sigma - model.sampler.sigma, np.full((1000, 3), (0.5, 0, 0), np.float32))  # type: ignore[union-attr]
    for prior in ("normal", "kde", "gmm", "two-stage"):
        other = model.with_prior(prior=prior, components=3, **({"epochs": 8} if prior == "two-stage" else {}))
        assert not np.array_equal(matrix(other.sample(50), other.features), matrix(model.sample(50), model.features))
        assert len(type(other).from_document(other.document(), {f"model.{n}": a for n, a in other._state.items()}).sample(10)) == 10
    with pytest.raises(UsageError, match="with_prior has no setting 'beta'"):
        model.with_prior(beta=1.0)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["x"], {"model": "gaussian"}, "model 'gaussian' is not known"),
        (["x"], {"tuning": 1}, "no setting 'tuning'"),
        (["x"], {"prior": "flat"}, "prior='flat' is not known"),
        (["x"], {"gamma": (0.1, 0.2)}, "gamma has 2 values"),
        (["x"], {"scaler": "log"}, "scaler='log' is not known"),
        (["x"], {"latent": 0}, "latent, components and steps"),
        (["photon[fake].pt"], {}, "the pick 'fake'"),
    ],
)
def test_bad_settings(names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hepgen.EventGenerator(Features(names), **options)


def test_computed_columns_are_refused() -> None:
    with pytest.raises(UsageError, match="is computed and cannot be generated"):
        hepgen.EventGenerator(Features(["x"], computed=["abs(x)"]))


def test_bad_events(sample: ak.Array) -> None:
    model = hepgen.EventGenerator(Features(["MET_pt"]), "kde", bandwidth=0.1)
    with pytest.raises(InputError, match="column 'MET_pt' holds 1 value that is NaN or inf, at entry 3"):
        model.fit(ak.with_field(sample[:9], np.where(np.arange(9) == 3, np.nan, 1.0), "MET_pt"))
    with pytest.raises(UsageError, match="not fitted"):
        model.sample(1)
    with pytest.raises(InputError, match="give one weight per event"):
        model.fit(sample[:9], np.ones(8))
    with pytest.raises(InputError, match="the sum of the weights must be positive"):
        model.fit(sample[:10], np.tile([1.0, -1.0], 5))
    with pytest.raises(InputError, match="not finite, the first at event 2"):
        model.fit(sample[:4], [1, 1, np.nan, 1])
    with pytest.raises(UsageError, match="all columns are constant"):
        model.fit(ak.with_field(sample[:9], np.ones(9), "MET_pt"))
    with pytest.raises(UsageError, match="begin at 0 and leave none out"):
        hepgen.EventGenerator(Features(["Lepton[1].pt"]), "kde").fit(sample[:100])
    with pytest.raises(InputError, match="no event passes"):
        hepgen.EventGenerator(Features(["MET_pt"]), "kde", selection=Selection([Cut("MET_pt", minimum=1e9)])).fit(sample[:100])
    with pytest.raises(InputError, match="sum to -"):
        hepgen.EventGenerator(FEATURES, "kde").fit(sample[:200], np.where(ak.num(sample.Lepton[:200]) == 2, -0.1, 1.0))


def test_numbers_of_events(sample: ak.Array) -> None:
    model = hepgen.EventGenerator(Features(["MET_pt"]), "kde", bandwidth=0.1).fit(sample[:100])
    for bad in (-1, True, 1.5):
        with pytest.raises(UsageError, match="is no number of events"):
            model.sample(bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="changes none of a file"):
        model.rewrite(sample, None, [], identity=None, seed=1, invalid="raise", entry_start=0)  # type: ignore[arg-type]
    assert model.columns(["MET_pt", "other"]) == {"MET_pt"}
