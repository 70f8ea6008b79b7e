"""Expressions: the grammar, and kinematics against formulas written out."""

from __future__ import annotations

from pathlib import Path as Path_

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from hepgen.errors import InputError, UsageError
from hepgen.events.expressions import Call, EventSource, MatrixSource, Path, evaluate, parse


def value(text: str, events: ak.Array) -> np.ndarray:
    """Values of an expression, NaN where an object is absent."""
    values, present = evaluate(parse(text), EventSource(events.layout))
    assert np.isnan(values[~present]).all()
    return values


def four(pt: float, eta: float, phi: float, *, mass: float = 0.0, energy: float | None = None) -> np.ndarray:
    """(E, px, py, pz) in GeV."""
    p = np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    return np.append(np.sqrt(mass**2 + p @ p) if energy is None else energy, p)


def mass_of(p: np.ndarray) -> float:
    return float(np.sqrt(p[0] ** 2 - p[1:] @ p[1:]))


A, B, C = (50.0, 0.5, 1.0), (30.0, -1.2, -2.5), (25.0, 2.0, 3.0)
KEYS = ("pt", "eta", "phi")


def jets(**extra: float) -> ak.Array:
    return ak.Array(
        [{"jet": [dict(zip(KEYS, item, strict=True), **extra) for item in (A, B, C)]}, {"jet": [dict(zip(KEYS, A, strict=True), **extra)]}]
    )


@pytest.mark.parametrize("spelled", ["photon[0].pt", "MET.pt", "photon_pt[1]", "mass", "a.b[0].c[11].d"])
def test_paths_spell_themselves(spelled: str) -> None:
    path = parse(spelled)
    assert isinstance(path, Path)
    assert str(path) == spelled
    assert parse(f"  {spelled.replace('.', ' . ').replace('[', ' [ ')} ") == path


def test_paths_and_calls_hold_their_parts() -> None:
    path = parse("a.b[0].c[11].d")
    assert isinstance(path, Path)
    assert (path.fields, path.indices, path.key) == (("a", "b", "c", "d"), (0, 11), ("a_b_c_d", (0, 11)))
    call = parse("ratio( abs(jet[0].eta),mass(massless(jet[0]) , MET) )")
    assert str(call) == "ratio(abs(jet[0].eta), mass(massless(jet[0]), MET))"
    assert isinstance(call, Call)
    assert parse(str(call)) == call


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "a name is missing"),
        ("photon[-1].pt", "unexpected '-'"),
        ("photon[0]pt", r"unexpected 'pt' after 'photon\[0\]'"),
        ("photon[.]", r"after 'photon' comes neither \[number\] nor .name"),
        ("photon.", r"after 'photon' comes neither"),
        ("photon.0", r"after 'photon' comes neither"),
        ("1photon", "a name is missing"),
        ("mass(a, b", r"a ',' or '\)' is missing after 'b'"),
        ("mass()", "a name is missing"),
        ("__import__('os')", "unexpected"),
        ("exec(a)", "there is no function 'exec'; there are mass, pt, eta"),
        ("deltaR(a)", "deltaR takes 2 arguments, not 1"),
        ("abs(a, b)", "abs takes 1 argument, not 2"),
        ("ratio(a)", "ratio takes 2 arguments, not 1"),
        ("mass(pt(a), b)", r"mass takes objects such as photon\[0\], and 'pt\(a\)' is none"),
        ("count(massless(a))", r"count takes objects such as photon\[0\]"),
        ("abs(massless(a))", r"abs takes a number, and 'massless\(a\)' is an object"),
        ("a + b", r"unexpected '\+'"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse(text)


@given(st.text(max_size=12))
def test_any_text_is_an_expression_that_spells_itself_or_a_usage_error(text: str) -> None:
    try:
        expression = parse(text)
    except UsageError:
        return
    assert parse(str(expression)) == expression


def test_sums_of_massless_objects() -> None:
    total = four(*A) + four(*B) + four(*C)
    names = "jet[0], jet[1], jet[2]"
    assert value(f"mass({names})", jets())[0] == pytest.approx(mass_of(total), rel=1e-12)
    assert value(f"energy({names})", jets())[0] == pytest.approx(total[0], rel=1e-12)
    assert value(f"pt({names})", jets())[0] == pytest.approx(np.hypot(total[1], total[2]), rel=1e-12)
    assert value(f"phi({names})", jets())[0] == pytest.approx(np.arctan2(total[2], total[1]), rel=1e-12)
    assert value(f"eta({names})", jets())[0] == pytest.approx(np.arcsinh(total[3] / np.hypot(total[1], total[2])), rel=1e-12)
    assert np.isnan(value(f"mass({names})", jets())[1])


@pytest.mark.parametrize("field", ["mass", "m", "M"])
def test_mass_and_energy_fields_are_used_unless_massless(field: str) -> None:
    expected = mass_of(four(*A, mass=10.0) + four(*B, mass=10.0))
    assert value("mass(jet[0], jet[1])", jets(**{field: 10.0}))[0] == pytest.approx(expected, rel=1e-12)
    energies = jets(E=200.0)
    expected = mass_of(four(*A, energy=200.0) + four(*B, energy=200.0))
    assert value("mass(jet[0], jet[1])", energies)[0] == pytest.approx(expected, rel=1e-12)
    expected = mass_of(four(*A) + four(*B))
    assert value("mass(massless(jet[0]), massless(jet[1]))", energies)[0] == pytest.approx(expected, rel=1e-12)
    assert value("mass(jet[0])", jets(**{field: 10.0}))[0] == pytest.approx(10.0, rel=1e-9)


def test_flat_branches_and_cartesian_momenta_are_objects_too() -> None:
    flat = ak.Array({f"jet_{key}": [[item[k] for item in (A, B)]] for k, key in enumerate(KEYS)})
    expected = mass_of(four(*A) + four(*B))
    assert value("mass(jet[0], jet[1])", flat)[0] == pytest.approx(expected, rel=1e-12)
    momenta = [four(*item) for item in (A, B)]
    cartesian = ak.Array({f"Jet_{key}": [[float(p[k]) for p in momenta]] for k, key in enumerate(["E", "Px", "Py", "Pz"])})
    assert value("mass(jet[0], jet[1])", cartesian)[0] == pytest.approx(expected, rel=1e-12)
    assert value("eta(jet[0])", cartesian)[0] == pytest.approx(A[1], rel=1e-12)
    assert value("deltaR(jet[0], jet[1])", cartesian)[0] == pytest.approx(value("deltaR(jet[0], jet[1])", jets())[0], rel=1e-12)


def test_dimuon_masses_of_a_real_file(shared_data: Path_) -> None:
    events = uproot.open(shared_data / "uproot-HZZ.root")["events"].arrays(["Muon_Px", "Muon_Py", "Muon_Pz", "Muon_E"])
    values, present = evaluate(parse("mass(muon[0], muon[1])"), EventSource(events.layout))
    expected = []
    for event in ak.to_list(events):
        momenta = list(zip(*(event[f"Muon_{key}"] for key in ("E", "Px", "Py", "Pz")), strict=True))
        expected.append(mass_of(np.array(momenta[0]) + np.array(momenta[1])) if len(momenta) > 1 else np.nan)
    assert 70 < np.nanmedian(values) < 95
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_array_equal(present, np.isfinite(expected))


def test_distances() -> None:
    dphi = (A[2] - B[2] + np.pi) % (2 * np.pi) - np.pi
    assert value("deltaphi(jet[0], jet[1])", jets())[0] == pytest.approx(dphi, rel=1e-12)
    assert value("deltaeta(jet[0], jet[1])", jets())[0] == pytest.approx(A[1] - B[1], rel=1e-12)
    assert value("deltaR(jet[0], jet[1])", jets())[0] == pytest.approx(np.hypot(A[1] - B[1], dphi), rel=1e-12)
    met = ak.Array([{"MET": {"pt": 1.0, "phi": -3.0}, "jet": [{"phi": 3.0}]}])
    assert value("deltaphi(jet[0], MET)", met)[0] == pytest.approx(6.0 - 2 * np.pi, rel=1e-12)


def test_counts_absolute_values_and_ratios() -> None:
    events = ak.Array([{"jet": [{"x": -2.0}, None], "n": 4}, {"jet": [], "n": 0}, {"jet": None, "n": 1}])
    assert value("count(jet)", events)[:2].tolist() == [2.0, 0.0]
    assert evaluate(parse("count(jet)"), EventSource(events.layout))[1].tolist() == [True, True, False]
    assert value("abs(jet[0].x)", events)[0] == 2.0
    assert value("ratio(jet[0].x, n)", events)[0] == -0.5
    assert value("ratio(n, n)", events)[1:].tolist()[1] == 1.0
    assert value("count(jet)", ak.Array({"jet_n": [7, 7], "jet_pt": [[1.0], [2.0, 3.0]]})).tolist() == [1.0, 2.0]
    assert value("count(jet)", ak.Array({"jet": np.zeros((2, 3))})).tolist() == [3.0, 3.0]
    with pytest.raises(InputError, match="'n' cannot be counted: it is not a list"):
        value("count(n)", events)
    with pytest.raises(InputError, match="column 'jets' is not in the events"):
        value("count(jets)", events)


def test_a_matrix_is_a_source_of_its_columns() -> None:
    names = [f"jet[{i}].{key}" for i in (0, 1) for key in KEYS] + ["count(jet)"]
    matrix = np.array([[*A, *B, 2.0], [*B, *C, 3.0]])
    source = MatrixSource(names, matrix)
    values, present = evaluate(parse("mass(jet[0], jet[1])"), source)
    assert present.all()
    assert values.tolist() == pytest.approx([mass_of(four(*A) + four(*B)), mass_of(four(*B) + four(*C))], rel=1e-12)
    assert evaluate(parse("jet_pt[1]"), source)[0].tolist() == [B[0], C[0]]
    assert evaluate(parse("count(jet)"), source)[0].tolist() == [2.0, 3.0]
    with pytest.raises(InputError, match=r"'jet\[2\].pt' is not among the columns of the matrix"):
        evaluate(parse("mass(jet[0], jet[2])"), source)
    with pytest.raises(InputError, match=r"'count\(photon\)' is not among the columns"):
        evaluate(parse("count(photon)"), source)


def test_an_object_alone_is_no_number() -> None:
    with pytest.raises(UsageError, match=r"'massless\(jet\[0\]\)' is an object, not a number"):
        value("massless(jet[0])", jets())
