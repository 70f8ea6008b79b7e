"""The 33 observables against four-vectors added by hand."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import delta, ttbar_observables


def events(n=200, seed=0):
    rng = np.random.default_rng(seed)

    def objects(number):
        pt = -np.sort(-rng.uniform(20, 200, (n, number)), axis=1)
        eta, phi = rng.normal(size=(n, number)), rng.uniform(-np.pi, np.pi, (n, number))
        return {"E": np.hypot(pt * np.cosh(eta), 5), "pt": pt, "eta": eta, "phi": phi}

    jets, leptons = objects(5), objects(2)
    two = rng.random(n) < 0.4
    kept = ak.Array(np.column_stack([np.ones(n, bool), two]))
    return ak.zip(
        {
            "Jet": ak.zip({key: ak.from_regular(ak.Array(value)) for key, value in jets.items()}),
            "Lepton": ak.zip({key: ak.drop_none(ak.mask(ak.Array(value), kept)) for key, value in leptons.items()}),
            "MET": ak.zip({"pt": ak.Array(rng.exponential(40, n)), "phi": ak.Array(rng.uniform(-np.pi, np.pi, n))}),
        },
        depth_limit=1,
    )


def four(record):
    pt, eta, phi = record.pt, record.eta, record.phi
    return np.array([record.E, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])


def mass(parts):
    total = sum(parts)
    return np.sqrt(total[0] ** 2 - (total[1:] ** 2).sum())


def test_each_event_by_hand():
    sample = events(50)
    found = ttbar_observables(sample)
    assert found.matrix.shape == (50, 33)
    assert len(set(found.names)) == 33
    seen = {len(event.Lepton) for event in sample}
    assert seen == {1, 2}
    for event, row in zip(sample, found.matrix, strict=True):
        values = dict(zip(found.names, row, strict=True))
        jets = sorted(list(event.Jet)[:4], key=lambda jet: -jet.E)
        leptons = sorted(event.Lepton, key=lambda lepton: -lepton.E)
        for number, jet in enumerate(jets, 1):
            assert [values[f"jet{number}.{q}"] for q in ("E", "pt", "eta", "phi")] == [jet.E, jet.pt, jet.eta, jet.phi]
        parts = [four(jet) for jet in jets] + [four(lepton) for lepton in leptons]
        for name, number in (("m_2j", 2), ("m_3j", 3), ("m_4j", 4), ("m_4j1l", 5), ("m_4j2l", 6)):
            assert values[name] == pytest.approx(mass(parts[:number]), rel=1e-9)
        turn = np.angle(np.exp(1j * (jets[0].phi - jets[1].phi)))
        assert values["deltaR(jet1, jet2)"] == pytest.approx(np.hypot(turn, jets[0].eta - jets[1].eta))
        assert values["deltaphi(lepton1, MET)"] == pytest.approx(abs(np.angle(np.exp(1j * (leptons[0].phi - event.MET.phi)))))
        assert (values["MET.pt"], values["MET.phi"]) == (event.MET.pt, event.MET.phi)
        if len(leptons) == 1:
            assert [values[f"lepton2.{q}"] for q in ("E", "pt", "eta", "phi")] == [0, 0, 0, 0]
            assert values["m_4j2l"] == pytest.approx(values["m_4j1l"], rel=1e-12)


def test_flat_branches_masses_and_the_order_of_the_record():
    sample = events(30)
    flat = {f"{name}_{q}": sample[name][q] for name in ("Jet", "Lepton") for q in ("E", "pt", "eta", "phi")}
    flat |= {"MET_pt": sample.MET.pt, "MET_phi": sample.MET.phi}
    np.testing.assert_array_equal(ttbar_observables(flat).matrix, ttbar_observables(sample).matrix)
    record = ttbar_observables(sample, order="record")
    np.testing.assert_array_equal(record.columns("jet1.pt", "jet4.pt"), np.column_stack([sample.Jet.pt[:, 0], sample.Jet.pt[:, 3]]))
    del flat["Jet_E"]
    flat["Jet_mass"] = ak.full_like(flat["Jet_pt"], 5.0)
    np.testing.assert_allclose(ttbar_observables(flat).matrix, ttbar_observables(sample).matrix, rtol=1e-9, atol=1e-9)
    renamed = {key.replace("Jet", "Jets").replace("MET", "Missing"): column for key, column in flat.items()}
    np.testing.assert_array_equal(ttbar_observables(renamed, jets="Jets", met="Missing").matrix, ttbar_observables(flat).matrix)


def test_all_pairs_of_them():
    one, two = ttbar_observables(events(500, 1)), ttbar_observables(events(500, 2))
    found = delta(one.matrix, two.matrix, names=one.names)
    assert found.to_dict()["pairs"] == 528
    assert found.value == pytest.approx(found.floor, abs=5 * found.error)


def test_unusable_input_is_named():
    sample = events(20)
    few = ak.with_field(sample, sample.Jet[:, :3], "Jet")
    with pytest.raises(InputError, match=r"20 of 20 events lack .*Jet\[3\].* \(fewer than 4 of them\)"):
        ttbar_observables(few)
    with pytest.raises(InputError, match=r"lack .*Lepton\[0\]"):
        ttbar_observables(ak.with_field(sample, sample.Lepton[:, :0], "Lepton"))
    with pytest.raises(InputError, match="PuppiMET"):
        ttbar_observables(sample, met="PuppiMET")
    broken = ak.with_field(sample, ak.with_field(sample.MET, np.full(20, np.nan), "pt"), "MET")
    with pytest.raises(InputError, match=r"observable MET.pt is NaN or infinite in 20 events"):
        ttbar_observables(broken)
    with pytest.raises(UsageError, match="order is 'pt'"):
        ttbar_observables(sample, order="pt")
    with pytest.raises(UsageError, match="no observable 'jet5.pt'"):
        ttbar_observables(sample).columns("jet5.pt")
