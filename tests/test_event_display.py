"""What an event display holds: a disc for every object, of an area that goes with its pt, and an arrow of missing momentum."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from hepgen import plots
from hepgen.errors import InputError, UsageError
from hepgen.event_display import LARGEST, MISSING_COLOUR

pytest.importorskip("matplotlib")
pytest.importorskip("mplhep")

JETS = {"pt": [[100.0, 25.0], [], [50.0]], "eta": [[0.5, -1.0], [], [2.0]], "phi": [[0.2, 3.0], [], [-1.0]], "E": [[400.0, 30], [], [200]]}
LEPTONS = {"pt": [[30.0], [40.0], []], "eta": [[1.0], [0.0], []], "phi": [[-2.0], [1.5], []], "E": [[60.0], [40.0], []]}
MET = {"pt": [50.0, 10.0, 20.0], "phi": [1.0, -3.0, 0.0]}


def records():
    jets, leptons = (ak.zip({name: ak.Array(part) for name, part in parts.items()}) for parts in (JETS, LEPTONS))
    return ak.zip({"Jet": jets, "Lepton": leptons, "MET": ak.zip(MET)}, depth_limit=1)


def branches():
    parts = {"Jet": JETS, "Lepton": LEPTONS, "MET": MET}
    flat = {f"{name}_{field}": ak.Array(part) for name, fields in parts.items() for field, part in fields.items()}
    return ak.zip({"nJet": np.array([2, 0, 1]), **flat}, depth_limit=1)


def discs(axes):
    return sorted((*(round(x, 9) for x in patch.center), round(patch.radius**2, 9)) for patch in axes.patches)


@pytest.mark.parametrize("events", [records(), branches()], ids=["records", "branches"])
def test_discs_and_arrow(events, tmp_path):
    figure = plots.event_display(events, columns=3, titles=["a", "b", "c"], path=tmp_path / "e.png")
    first, second, third = figure.axes
    scale = LARGEST**2 / 100
    near_edge = round(3.0 - 2 * np.pi, 9)  # seen from the other side: 3 + 0.35 > pi
    wanted = [(0.5, 0.2, 100 * scale), (-1.0, 3.0, 25 * scale), (-1.0, near_edge, 25 * scale), (1.0, -2.0, 30 * scale)]
    np.testing.assert_allclose(discs(first), sorted(wanted), atol=1e-8)
    np.testing.assert_allclose(discs(second), [(0.0, 1.5, 40 * scale)], atol=1e-8)
    assert len(third.patches) == 1
    # from the left edge, half of the picture for the largest object
    np.testing.assert_allclose([text.xy for text in first.texts], [(-3 + 3 * 0.5, 1.0)])
    np.testing.assert_allclose(third.texts[0].xy, (-3 + 3 * 0.2, 0.0))
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Jet", "Lepton", "MET"]
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


def test_colours_go_by_collection():
    figure = plots.event_display(records()[:1])
    colours = {patch.center[0]: patch.get_facecolor()[:3] for patch in figure.axes[0].patches}
    assert colours[0.5] == colours[-1.0] != colours[1.0]
    arrow = figure.axes[0].texts[0].arrow_patch
    np.testing.assert_allclose(arrow.get_facecolor()[:3], [int(MISSING_COLOUR[k : k + 2], 16) / 255 for k in (1, 3, 5)])


def test_area_by_energy_and_a_given_scale():
    figure = plots.event_display(records()[:1], size="energy", collections=["Jet"], largest=800.0)
    found = {x: area for x, _, area in discs(figure.axes[0])}
    assert found[0.5] == pytest.approx(LARGEST**2 * 400 / 800)
    assert found[-1.0] == pytest.approx(LARGEST**2 * 30 / 800)
    assert not figure.axes[0].texts


def test_single_objects_absent_ones_and_grid():
    pair = {"pt": ak.mask(ak.Array([5.0, 7.0, 9, 9, 9]), [True, False, True, True, True]), "eta": np.zeros(5), "phi": np.zeros(5)}
    events = ak.zip({"a": ak.zip({name: ak.Array(part) for name, part in pair.items()}, depth_limit=1)}, depth_limit=1)
    figure = plots.event_display(ak.zip({"a_pt": pair["pt"], "a_eta": pair["eta"], "a_phi": pair["phi"]}, depth_limit=1)[[0, 2, 3, 4, 4]])
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert len(figure.axes[0].patches) == 1
    assert len(plots.event_display(events[:1]).axes[0].patches) == 1


def test_what_is_refused():
    events = records()
    with pytest.raises(InputError, match="there is no event to draw"):
        plots.event_display(events[:0])
    with pytest.raises(InputError, match="nothing in the events has a phi and pt"):
        plots.event_display(ak.zip({"x": [1.0]}))
    with pytest.raises(UsageError, match="there is no 'Muon' to draw: the events have Jet, Lepton, MET"):
        plots.event_display(events, collections=["Muon"])
    with pytest.raises(UsageError, match="2 titles for 3 events"):
        plots.event_display(events, titles=["a", "b"])
    with pytest.raises(UsageError, match="size='mass' is not known"):
        plots.event_display(events, size="mass")
