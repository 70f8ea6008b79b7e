"""Bad bins on their way into a workspace, and every refusal of what cannot be one."""

from __future__ import annotations

import json
import math
from typing import Any

import hist
import numpy as np
import pytest
from pyhf_support import counts, template

from hepgen.errors import InputError, UsageError

pyhf = pytest.importorskip("pyhf", reason="pyhf is not installed")

import hepgen_pyhf  # noqa: E402
from hepgen_pyhf import Change, Channel, build  # noqa: E402

# pyhf 0.7.6 checks its schema with a class that jsonschema wants to replace
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")


SIGNAL = template([2.0, 5.0, 9.0])


def with_background(background: Any, data: Any = None, signal: Any = SIGNAL, **options: Any) -> Any:
    return build({"SR": Channel({"sig": signal, "bkg": background}, data)}, signal="sig", **options)


def contents(workspace: Any, sample: str) -> list[float]:
    found: list[float] = next(one for one in workspace.spec["channels"][0]["samples"] if one["name"] == sample)["data"]
    return found


def at(workspace: Any, **parameters: float) -> Any:
    model = workspace.model()
    values = [parameters.get(name, init) for name, init in zip(model.config.par_names, model.config.suggested_init(), strict=True)]
    return np.asarray(model.expected_actualdata(values))


# bins that a likelihood cannot take


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_contents_that_are_not_finite_are_always_refused(number):
    options = {"negative": "clip", "empty": "floor", "one_sided": "symmetrise"}
    with pytest.raises(InputError, match=f"'bkg' at aUp in channel 'SR' is {number} in bin 1: a weight that is not finite was filled"):
        with_background(template([5.0, 4.0, 3.0], aUp=[5.0, number, 3.0], aDown=[5.0, 4.0, 3.0]), **options)
    if number != -math.inf:
        with pytest.raises(InputError, match="the variance of 'bkg' in channel 'SR' is .* in bin 2"):
            with_background(template([5.0, 4.0, 3.0], [1.0, 1.0, number]), **options)
    spoilt = template([5.0, 4.0, 3.0])
    spoilt.view(flow=True).value[0, -1] = number
    with pytest.raises(InputError, match="'bkg' at nominal in channel 'SR' is .* in bin overflow"):
        with_background(spoilt, **options)


def test_negative_bins_are_refused_or_clipped_and_reported():
    background = template([50.0, -2.0, 30.0], [10.0, 9.0, 3.0], aUp=[55.0, 1.0, -0.5], aDown=[45.0, 2.0, 28.0])
    with pytest.raises(InputError, match="'bkg' at nominal in channel 'SR' is -2 in bin 1 .* negative='clip'"):
        with_background(background)
    with pytest.raises(InputError, match="'bkg' at nominal in channel 'SR' is empty in bin 1, where no background has events"):
        with_background(background, negative="clip")
    found = with_background(background, negative="clip", empty="floor", floor=0.01)
    assert contents(found, "bkg") == [50.0, 0.01, 30.0]
    assert found.report.changes == [
        Change("SR", "bkg", "nominal", 1, -2.0, 0.0, "negative"),
        Change("SR", "bkg", "aUp", 2, -0.5, 0.0, "negative"),
        Change("SR", "bkg", "nominal", 1, 0.0, 0.01, "empty"),
        Change("SR", "bkg", "aUp", 2, 0.0, 0.01, "empty"),
        Change("SR", "bkg", "staterror", 1, 3.0, 0.01, "empty"),
    ]
    assert [(row.variation, row.before) for row in found.report.yields] == [("nominal", 78.0), ("aUp", 55.5)]
    assert [row.after for row in found.report.yields] == pytest.approx([80.01, 56.01], rel=1e-14)
    # at one standard deviation the treated histogram, not the one that came in
    np.testing.assert_allclose(at(found, mu=0.0, a=1.0), [55.0, 1.0, 0.01], rtol=1e-12)
    np.testing.assert_allclose(at(found, mu=0.0, a=-1.0), [45.0, 2.0, 28.0], rtol=1e-12)


def test_a_bin_without_background_gets_a_floor_and_an_error_no_larger():
    background = template([50.0, 0.0, 30.0], [10.0, 0.25, 3.0])
    signal = template([2.0, 0.0, 9.0], [0.1, 0.0, 0.1])
    found = with_background(background, signal=signal, empty="floor")
    assert (contents(found, "bkg"), contents(found, "sig")) == ([50.0, 1e-6, 30.0], [2.0, 0.0, 9.0])
    assert Change("SR", "bkg", "staterror", 1, 0.5, 1e-6, "empty") in found.report.changes
    np.testing.assert_allclose(found.model().config.param_set("staterror_SR").sigmas[1], 1.0)
    # beside samples that share its factor, the error is what it was
    shared = with_background(background, signal=template([2.0, 4.0, 9.0], [0.1, 0.1, 0.1]), empty="floor")
    assert shared.model().config.param_set("staterror_SR").sigmas[1] == pytest.approx(math.sqrt(0.35) / 4, rel=1e-5)
    assert math.isfinite(hepgen_pyhf.fit(with_background(background, counts([51.0, 0.0, 40.0]), signal, empty="floor")).twice_nll)


def test_an_empty_bin_that_is_kept_is_reported():
    found = with_background(template([50.0, 0.0, 30.0]), empty="keep")
    assert contents(found, "bkg") == [50.0, 0.0, 30.0]
    assert found.report.changes == [Change("SR", "bkg", "nominal", 1, 0.0, 0.0, "empty")]
    assert found.report.yields == []


def test_observed_events_where_nothing_is_expected_are_refused_whatever_is_kept():
    background, signal = template([50.0, 0.0, 30.0]), template([2.0, 0.0, 9.0])
    with pytest.raises(InputError, match="channel 'SR' has 3 observed events in bin 1, where no sample has any"):
        with_background(background, counts([50.0, 3.0, 30.0]), signal, empty="keep")
    with_background(background, counts([50.0, 0.0, 30.0]), signal, empty="keep")


def test_a_bin_without_nominal_but_with_variations():
    background = template([50.0, 0.0, 30.0], aUp=[50.0, 2.0, 31.0], aDown=[50.0, 0.0, 29.0])
    samples = {"sig": SIGNAL, "bkg": background, "other": template([4.0, 4.0, 4.0])}
    with pytest.raises(InputError, match="'bkg' at nominal in channel 'SR' is empty in bin 1, where its variations have events"):
        build({"SR": Channel(samples)}, signal="sig")
    kept = build({"SR": Channel(samples)}, signal="sig", empty="keep")
    np.testing.assert_allclose(at(kept, mu=0.0, a=1.0), [54.0, 6.0, 35.0], rtol=1e-13)
    np.testing.assert_allclose(at(kept, mu=0.0, a=-1.0), [54.0, 4.0, 33.0], rtol=1e-13)
    floored = build({"SR": Channel(samples)}, signal="sig", empty="floor", floor=0.5)
    np.testing.assert_allclose(at(floored, mu=0.0, a=1.0), [54.0, 6.0, 35.0], rtol=1e-13)
    np.testing.assert_allclose(at(floored, mu=0.0, a=-1.0), [54.0, 4.5, 33.0], rtol=1e-13)


def test_a_variation_that_takes_all_background_of_a_bin_away():
    background = template([50.0, 5.0], aUp=[50.0, 6.0], aDown=[50.0, 0.0])
    signal = template([2.0, 3.0])
    with pytest.raises(InputError, match="'bkg' at aDown in channel 'SR' is empty in bin 1, where no background has events"):
        with_background(background, signal=signal)
    found = with_background(background, signal=signal, empty="floor", floor=0.25)
    np.testing.assert_allclose(at(found, mu=0.0, a=-1.0), [50.0, 0.25], rtol=1e-13)
    build({"SR": Channel({"sig": signal, "bkg": background, "other": template([1.0, 1.0])})}, signal="sig")


def test_a_sample_that_others_stand_in_for_is_no_trouble():
    found = build({"SR": Channel({"sig": SIGNAL, "bkg": template([0.0, 3.0, 3.0]), "other": template([4.0, 4.0, 0.0])})}, signal="sig")
    assert (contents(found, "bkg"), found.report.changes) == ([0.0, 3.0, 3.0], [])


def test_a_channel_of_signal_alone_is_checked_by_its_signal():
    with pytest.raises(InputError, match="'sig' at nominal in channel 'SR' is empty in bin 0"):
        build({"SR": Channel({"sig": template([0.0, 3.0])})}, signal="sig")


def test_a_sample_without_events_is_refused_or_left_out():
    nothing = template([0.0, 0.0, 0.0])
    channel = Channel({"sig": SIGNAL, "bkg": template([5.0, 5.0, 5.0]), "none": nothing})
    with pytest.raises(InputError, match="'none' has no events in the bins used of channel 'SR'"):
        build({"SR": channel}, signal="sig")
    found = build({"SR": channel}, signal="sig", empty="keep")
    assert found.report.absent == [("SR", "none")]
    assert [sample["name"] for sample in found.spec["channels"][0]["samples"]] == ["sig", "bkg"]
    with pytest.raises(InputError, match="channel 'SR' has no sample with events"):
        build({"SR": Channel({"none": nothing})}, signal="none", empty="keep")
    with pytest.raises(UsageError, match="no channel has events of the signal"):
        with_background(template([5.0, 5.0, 5.0]), signal=nothing, empty="keep")


@pytest.mark.parametrize(
    ("values", "sides", "sentence"),
    [
        (
            [5.0, 5.0, 5.0],
            {"aUp": [6.0, 6.0, 6.0], "aDown": [-1.0, 0.0, 0.0]},
            "'bkg' at aDown .* yield of 0, so that its ratio to the nominal",
        ),
        (
            [0.0, 0.0, 0.0],
            {"aUp": [1.0, 0.0, 0.0], "aDown": [0.0, 1.0, 0.0]},
            "'bkg' at nominal .* yield of 0, so that its ratio to the var",
        ),
    ],
)
def test_yields_that_have_no_ratio_are_always_refused(values, sides, sentence):
    channel = Channel({"sig": SIGNAL, "bkg": template(values, **sides), "other": template([4.0, 4.0, 4.0])})
    for empty in ("raise", "floor", "keep"):
        with pytest.raises(InputError, match=sentence):
            build({"SR": channel}, signal="sig", negative="clip", empty=empty)
    left_out = build({"SR": channel}, signal="sig", negative="clip", empty="keep", drop={"bkg": ["a"]})
    assert left_out.report.dropped == [("SR", "bkg", "a")]
    assert "a" not in left_out.model().config.par_map


def test_one_side_is_refused_or_mirrored():
    for background in (
        template([50.0, 40.0, 30.0], aUp=[52.0, 40.0, 27.0]),
        template([50.0, 40.0, 30.0], aUp=[52.0, 40.0, 27.0], aDown=[0.0, 0.0, 0.0]),
    ):
        with pytest.raises(UsageError, match="has aUp but not aDown: fill it, or mirror it with one_sided='symmetrise'"):
            with_background(background)
        found = with_background(background, one_sided="symmetrise")
        np.testing.assert_allclose(at(found, mu=0.0, a=-1.0), [48.0, 40.0, 33.0], rtol=1e-13)
        assert found.report.symmetrised == [("SR", "bkg", "aDown")]
    with pytest.raises(InputError, match="'bkg' at aUp in channel 'SR' is -1 in bin 0"):
        with_background(template([5.0, 4.0, 3.0], aDown=[11.0, 4.0, 3.0]), one_sided="symmetrise")


def test_the_report_as_text_and_as_json():
    found = with_background(template([50.0, -1.0, 30.0], aUp=[52.0, 1.0, 27.0]), negative="clip", empty="floor", one_sided="symmetrise")
    text = str(found.report)
    for line in ("SR/bkg/nominal bin 1: negative, -1 -> 0", "SR/bkg/nominal bin 1: empty, 0 -> 1e-06", "SR/bkg/aDown: mirrored"):
        assert line in text
    assert json.loads(json.dumps(found.report.as_dict()))["changes"][0]["before"] == -1.0
    assert str(with_background(template([5.0, 4.0, 3.0]), counts([5.0, 4.0, 3.0])).report) == "nothing was treated, folded or left out"


# what was asked wrongly

PLAIN = template([5.0, 4.0, 3.0], aUp=[6.0, 4.0, 3.0], aDown=[4.0, 4.0, 3.0])
GROWING = hist.Hist(hist.axis.StrCategory([], growth=True, name="variation"), hist.axis.Regular(3, 0, 3), storage=hist.storage.Weight())


@pytest.mark.parametrize(
    ("background", "options", "sentence"),
    [
        (PLAIN, {"negative": "ignore"}, "negative='ignore' is not one of raise, clip"),
        (PLAIN, {"empty": "drop"}, "empty='drop' is not one of raise, floor, keep"),
        (PLAIN, {"one_sided": "mirror"}, "one_sided='mirror' is not one of raise, symmetrise"),
        (PLAIN, {"floor": 0.0}, "floor must be a positive number of events, not 0.0"),
        (PLAIN, {"floor": math.nan}, "floor must be a positive number of events, not nan"),
        (PLAIN, {"signal": "ttH"}, "signal names the sample 'ttH', which no channel has: choose from bkg, sig"),
        (PLAIN, {"signal": []}, "signal names no sample"),
        (PLAIN, {"normfactors": {"mu": ["bkg"]}}, "'mu' is the parameter of interest and one of the normfactors"),
        (PLAIN, {"normfactors": {"k": ["qcd"]}}, "the normfactor 'k' names the sample 'qcd'"),
        (PLAIN, {"normfactors": {"a": ["bkg"]}}, "the parameter 'a' is a free factor and an uncertainty"),
        (PLAIN, {"poi": "staterror_SR"}, "the parameter 'staterror_SR' is a free factor and MC statistics"),
        (PLAIN, {"lumi": 0.02, "normsys": {"lumi": {"bkg": 0.1}}}, "the parameter 'lumi' is the luminosity and an uncertainty"),
        (PLAIN, {"lumi": 1.7}, "lumi is a relative uncertainty between 0 and 1, such as 0.017, not 1.7"),
        (PLAIN, {"lumi": 0.02, "lumi_samples": ["qcd"]}, "lumi names the sample 'qcd'"),
        (PLAIN, {"staterror": ["qcd"]}, "staterror names the sample 'qcd'"),
        (PLAIN, {"normsys": {"xs": {"bkg": (0.1, -1.0)}}}, "the normsys 'xs' changes 'bkg' by \\(0.1, -1.0\\)"),
        (PLAIN, {"normsys": {"xs": {"bkg": math.nan}}}, "the normsys 'xs' changes 'bkg' by \\(nan, nan\\)"),
        (PLAIN, {"normsys": {"xs": {"qcd": 0.1}}}, "the normsys 'xs' names the sample 'qcd'"),
        (PLAIN, {"normsys": {"a": {"bkg": 0.1}}}, "'bkg' has the uncertainty 'a' in its histogram and in normsys"),
        (PLAIN, {"asimov": math.nan}, "asimov is a signal strength of at least 0, not nan"),
        (PLAIN, {"drop": {"qcd": ["a"]}}, "drop names the sample 'qcd'"),
        (PLAIN, {"drop": {"bkg": "a"}}, "drop={'bkg': 'a'}: give a list of names"),
        (PLAIN, {"drop": {"bkg": ["JES"]}}, "'bkg' has no uncertainty 'JES' to drop"),
        (PLAIN, {"parameters": {"r": {"inits": [1.0]}}}, "parameters names 'r', which is no parameter: there are a, mu"),
        (PLAIN, {"parameters": {"mu": {"bound": [[0, 1]]}}}, "pyhf refuses the workspace: Additional properties are not allowed"),
        (PLAIN, {"parameters": {"mu": {"inits": [1.0, 2.0]}}}, "pyhf refuses the workspace: "),
        (
            template([5.0, 4.0, 3.0], scale_up=[6.0, 4.0, 3.0]),
            {},
            "the variation 'scale_up' of the histogram of 'bkg' in channel 'SR' is no",
        ),
        (template([5.0, 4.0, 3.0], Up=[6.0, 4.0, 3.0]), {}, "the variation 'Up' of the histogram of 'bkg' in channel 'SR' is no name"),
        (GROWING, {}, "the variation axis of the histogram of 'bkg' in channel 'SR' has no nominal"),
        (template([5.0, 4.0]), {}, "the histogram of 'bkg' in channel 'SR' has other bins than the first sample"),
        (counts([5.0, 4.0, 3.0]), {}, "the histogram of 'bkg' in channel 'SR' has Double storage, which has no variances"),
        (np.ones(3), {}, "the histogram of 'bkg' in channel 'SR' is a ndarray, expected a hist.Hist"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_a_sentence(background, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        build({"SR": Channel({"sig": SIGNAL, "bkg": background})}, **{"signal": "sig", **options})


@pytest.mark.parametrize(
    ("channel", "sentence"),
    [
        (Channel({}), "channel 'SR' has no samples"),
        (Channel({"sig": SIGNAL, "data": PLAIN}), "channel 'SR' has a sample 'data'"),
        (Channel({"sig": SIGNAL}, bins=[3]), "bins=\\[3\\] of channel 'SR' are not different bins from 0 to 2"),
        (Channel({"sig": SIGNAL}, bins=[1, 1]), "are not different bins"),
        (Channel({"sig": SIGNAL}, bins=slice(3, None)), "are not different bins"),
        (Channel({"sig": SIGNAL}, bins=["low"]), "are not different bins"),
        (Channel({"sig": SIGNAL}, bins=np.array([True, False, True])), "are not different bins"),
        ({"sig": SIGNAL}, "channel 'SR' is a dict: make it with hepgen_pyhf.Channel"),
        (Channel({"sig": SIGNAL}, counts([1.0, 2.0])), "the data of channel 'SR' has other bins"),
        (Channel({"sig": SIGNAL}, counts([1.0] * 3, storage=hist.storage.Mean())), "the data of channel 'SR' have Mean storage"),
        (Channel({"sig": SIGNAL}, GROWING), "the variation axis of the data of channel 'SR' has no nominal"),
        (Channel({"sig": counts([1.0])[0]}), "is a float, expected a hist.Hist"),
    ],
)
def test_a_channel_that_cannot_be_used_is_refused(channel, sentence):
    with pytest.raises(UsageError, match=sentence):
        build({"CR": Channel({"sig": SIGNAL}), "SR": channel}, signal="sig")
    with pytest.raises(UsageError, match="there is no sample in the channels"):
        build({}, signal="sig")


def test_observed_events_and_variances_that_cannot_be():
    with pytest.raises(InputError, match="the data of channel 'SR' have -1 events in bin 2"):
        with_background(PLAIN, counts([1.0, 2.0, -1.0]))
    with pytest.raises(InputError, match="the data of channel 'SR' is nan in bin 0"):
        with_background(PLAIN, counts([math.nan, 2.0, 1.0]))
    with pytest.raises(InputError, match="the histogram of 'bkg' in channel 'SR' has negative variances"):
        with_background(template([5.0, 4.0, 3.0], [1.0, -1.0, 1.0]))
