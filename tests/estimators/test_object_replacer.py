"""Objects replaced inside their events: what is learned, what stays, and that nothing depends on how the events came."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import array_kinds as kinds
import awkward as ak
import numpy as np
import pytest

import hepgen
from hepgen.applying import apply_file
from hepgen.errors import InputError, UsageError
from hepgen.events import Pick, read
from hepgen.kernels import threads

GENERATE = ["photon[fake].pt", "photon[fake].eta", "photon[fake].phi", "photon[fake].score"]
CONDITION = ["photon[other].pt", "photon[other].phi", "njet"]
PICKS = {"fake": Pick("photon", lowest="score"), "other": Pick("photon", highest="pt", besides="fake")}
FIT_PICKS = {"fake": Pick("photon", lowest="prompt"), "other": Pick("photon", highest="prompt", besides="fake")}
CUT = 0.9


def region(n: int, seed: int, *, signal: bool) -> ak.Array:
    """A photon and a fake that recoils against it, whose score passes in the signal region; the fake is softer and more central there."""
    rng = np.random.default_rng(seed)
    njet = rng.poisson(1.5, n)
    pt = 30 + rng.exponential(20, n)
    phi = rng.uniform(-np.pi, np.pi, n)
    soft = 0.5 if signal else 1.0
    fake = {
        "pt": 15 + soft * pt + 3 * njet + soft * rng.exponential(10, n),
        "eta": rng.normal(0, 0.7 if signal else 1.3, n),
        "phi": (phi + rng.normal(0, 0.3, n)) % (2 * np.pi) - np.pi,
        "score": rng.uniform(CUT, 1, n) if signal else rng.uniform(0, CUT - 0.01, n),
        "prompt": np.zeros(n),
        "charge": rng.integers(-1, 2, n).astype(float),
    }
    prompt = {
        "pt": pt,
        "eta": rng.normal(0, 1, n),
        "phi": phi,
        "score": rng.uniform(0.95, 1, n),
        "prompt": np.ones(n),
        "charge": np.zeros(n),
    }
    order = np.argsort([-prompt["pt"], -fake["pt"]], axis=0)
    fields = {name: np.take_along_axis(np.stack([prompt[name], fake[name]]), order, axis=0).T for name in fake}
    types = {"pt": np.float32, "eta": np.float32, "phi": np.float32, "prompt": np.int8, "charge": np.int8}
    photons = ak.zip({name: ak.from_regular(ak.Array(values.astype(types.get(name, np.float64)))) for name, values in fields.items()})
    photons = photons[ak.local_index(photons.pt) < np.where(np.arange(n) % 50 == 7, 1, 2)[:, None]]  # some have one photon only
    return ak.zip({"run": np.ones(n, np.uint32), "event": np.arange(n), "photon": photons, "njet": njet}, depth_limit=1)


def the_fake(events: ak.Array, by: str = "prompt") -> ak.Array:
    events = events[ak.num(events.photon) == 2]
    return events.photon[ak.argmin(events.photon[by], axis=1, keepdims=True)][:, 0]


def numbers(events: ak.Array) -> np.ndarray:
    return np.stack([ak.to_numpy(events.run), ak.to_numpy(events.event)], axis=1).astype(np.int64)


def replacer(**options: Any) -> hepgen.ObjectReplacer:
    settings: dict[str, Any] = {"blocks": 3, "hidden": (32, 32)}
    return hepgen.ObjectReplacer(GENERATE, CONDITION, picks=PICKS, fit_picks=FIT_PICKS, **(settings | options))


@pytest.fixture(scope="module")
def fitted() -> hepgen.ObjectReplacer:
    signal, control = region(12_000, 1, signal=True), region(6000, 2, signal=False)
    with threads(1):
        return replacer().fit(signal, control_region=control, epochs=12, batch_size=256, progress=False)


def test_replaced_objects_are_those_of_the_signal_region(fitted: hepgen.ObjectReplacer) -> None:
    signal, control = region(6000, 3, signal=True), region(6000, 4, signal=False)
    new = fitted.transform(control, identity=numbers(control), copies=2)
    wanted, before, found = the_fake(signal), the_fake(control), the_fake(new)
    assert float(ak.min(found.score)) >= CUT, "a generated object passes the cut"
    for field in ("pt", "eta", "score"):
        mean, spread = float(ak.mean(wanted[field])), float(ak.std(wanted[field]))
        assert abs(float(ak.mean(found[field])) - mean) < 0.08 * spread
        assert float(ak.std(found[field])) == pytest.approx(spread, rel=0.08)
        assert abs(float(ak.mean(before[field])) - mean) > 0.3 * spread or field == "eta"
    # correlated with what stayed: the number of jets, the other photon's pt, and back to back with it
    seen = []
    for events, fakes in ((signal, wanted), (new, found)):
        pairs = events[ak.num(events.photon) == 2]
        other = pairs.photon[ak.argmax(pairs.photon.prompt, axis=1, keepdims=True)][:, 0]
        seen.append([float(np.corrcoef(ak.to_numpy(fakes.pt), ak.to_numpy(x))[0, 1]) for x in (pairs.njet, other.pt)])
        apart = (ak.to_numpy(fakes.phi) - ak.to_numpy(other.phi)) % (2 * np.pi) - np.pi
        assert np.std(apart) == pytest.approx(0.3, abs=0.05)
    assert seen[0] == pytest.approx(seen[1], abs=0.06)
    assert min(seen[0]) > 0.2


def test_everything_else_is_as_it_was(fitted: hepgen.ObjectReplacer) -> None:
    control = region(500, 5, signal=False)
    new = fitted.transform(control, identity=numbers(control))
    assert str(new.type) == str(control.type)
    whole = ak.num(control.photon) == 2
    assert ak.array_equal(new[~whole], control[~whole]), "events without the objects pass through"
    is_fake = control.photon.prompt == 0
    assert ak.array_equal(new.photon[~is_fake], control.photon[~is_fake])
    for field in ("prompt", "charge"):
        assert ak.array_equal(new.photon[field], control.photon[field])
    assert ak.array_equal(new[["run", "event", "njet"]], control[["run", "event", "njet"]])
    assert not ak.any(new.photon.pt[is_fake & whole] == control.photon.pt[is_fake & whole])


def test_transfer_by_condition_makes_the_condition_that_of_the_signal_region(tmp_path: Path) -> None:
    """T(c) is p_signal(c) / p_control(c) times the ratio of the yields; the closed form of two exponentials is known."""
    signal, control = region(9000, 21, signal=True), region(9000, 22, signal=False)
    # the other photon's pt falls as exp(-x / 20) in both: keeping exp(-x / 60) of the signal region makes it exp(-x / 15) there
    other = ak.to_numpy(ak.max(ak.where(signal.photon.prompt == 1, signal.photon.pt, 0), axis=1)) - 30
    signal = signal[np.random.default_rng(5).uniform(size=len(signal)) < np.exp(-other / 60)]
    with threads(1):
        model = replacer(transfer_networks=3).fit(signal, control_region=control, epochs=2, batch_size=256, progress=False)
    assert model.transfer is not None
    apart = region(4000, 23, signal=False)
    weights, errors = model.transfer_weights(apart)
    whole = ak.to_numpy(ak.num(apart.photon) == 2)
    assert not weights[~whole].any()
    assert not errors[~whole].any()
    assert weights.sum() == pytest.approx(model.transfer.factor * whole.sum(), rel=0.03)
    assert (errors[whole] >= weights[whole] * model.transfer.error / model.transfer.factor).all()
    pairs = apart[whole]
    pt = ak.to_numpy(pairs.photon[ak.argmax(pairs.photon.prompt, axis=1, keepdims=True)].pt[:, 0]) - 30
    expected = np.exp(-pt / 60)
    ratio = weights[whole] / expected / np.mean(weights[whole] / expected)
    assert np.average(np.abs(ratio - 1), weights=expected) < 0.1
    new = model.transform(apart, identity=numbers(apart), copies=2)
    assert ak.to_numpy(new.hepgen_weight).tolist() == np.tile(weights / 2, 2).tolist()
    again = hepgen.load(model.save(tmp_path / "fake.hepgen"))
    assert np.array_equal(again.transfer_weights(apart), [weights, errors])


def test_a_transfer_by_condition_needs_a_condition() -> None:
    with pytest.raises(UsageError, match="transfer_networks learn from the condition, and there is none"):
        hepgen.ObjectReplacer(GENERATE, picks=PICKS, transfer_networks=2)


def test_transfer_weights_follow_what_is_done_with_invalid_events(fitted: hepgen.ObjectReplacer) -> None:
    control = region(200, 24, signal=False)
    spoiled = ak.with_field(control, ak.where(np.arange(200) == 3, np.nan, control.njet), "njet")
    with pytest.raises(InputError, match="1 value that is NaN or inf, at entry 3"):
        fitted.transfer_weights(spoiled)
    expected, _ = fitted.transfer_weights(control)
    assert expected[3] > 0
    expected[3] = 0
    assert fitted.transfer_weights(spoiled, invalid="identity")[0].tolist() == expected.tolist()


def test_copies_carry_weights(fitted: hepgen.ObjectReplacer) -> None:
    control = region(200, 6, signal=False)
    new = fitted.transform(control, identity=numbers(control), copies=4)
    assert fitted.transfer is not None
    # 2 % of the events have one photon only: the factor is that of those that have both
    assert fitted.transfer.factor == pytest.approx(2.0)
    assert fitted.transfer.error == pytest.approx(2.0 * np.sqrt(1 / 11_760 + 1 / 5880))
    replaced = ak.to_numpy(ak.num(control.photon) == 2)
    assert ak.to_numpy(new.hepgen_weight).reshape(4, 200).tolist() == np.tile(replaced * fitted.transfer.factor / 4, (4, 1)).tolist()
    for copy in range(4):
        one = fitted.transform(control, identity=numbers(control), copy=copy)
        assert ak.array_equal(ak.without_field(new[200 * copy : 200 * (copy + 1)], "hepgen_weight"), one)
    assert len(np.unique(ak.to_numpy(the_fake(new).pt))) == 4 * replaced.sum()


def test_constants_and_order(fitted: hepgen.ObjectReplacer) -> None:
    control = region(400, 7, signal=False)
    keys = numbers(control)
    plain = fitted.transform(control, identity=keys)
    model = replacer(constants={"photon[fake].charge": 1}, order="pt")
    for name in ("network", "coordinates", "limits"):
        setattr(model, name, getattr(fitted, name))
    model.seed = fitted.seed
    for events in (
        control,
        ak.zip({**{f"photon_{f}": control.photon[f] for f in control.photon.fields}, "njet": control.njet}, depth_limit=1),
    ):
        new = model.transform(events, identity=keys)
        photons = new.photon if "photon" in new.fields else ak.zip({f: new[f"photon_{f}"] for f in control.photon.fields})
        assert str(new.type) == str(events.type)
        assert ak.all(photons.pt[:, :-1] >= photons.pt[:, 1:])
        assert ak.all(photons.charge[photons.prompt == 0][ak.num(photons) == 2] == 1)
        unsorted = ak.with_field(
            plain.photon, ak.where((plain.photon.prompt == 0) & (ak.num(plain.photon) == 2), 1, plain.photon.charge), "charge"
        )
        wanted = unsorted[ak.argsort(unsorted.pt, axis=1, ascending=False, stable=True)]
        assert all(ak.to_list(photons[f]) == ak.to_list(wanted[f]) for f in wanted.fields)
    assert not ak.all(plain.photon.pt[:, :-1] >= plain.photon.pt[:, 1:]), "some had to move"


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("copies", [None, 2])
def test_every_kind_of_array(fitted: hepgen.ObjectReplacer, kind: str, copies: int | None) -> None:
    control = region(60, 8, signal=False)
    control = ak.with_field(control, np.ones(60, np.uint32), "luminosityBlock")
    model = replacer(order="pt") if copies is None else replacer()
    for name in ("network", "coordinates", "limits", "transfer"):
        setattr(model, name, getattr(fitted, name))
    wanted = model.transform(control, copies=copies)
    if kind == "virtual":
        lazy, _ = kinds.virtual(control)
        assert ak.array_equal(model.transform(lazy, copies=copies), wanted)
        lazy, seen = kinds.virtual(control)
        fitted.transform(lazy)
        assert "photon.charge" not in seen
    elif kind == "typetracer":
        lazy, touched = kinds.typetracer(control)
        out = model.transform(lazy, copies=copies)
        assert str(out.type).partition(" * ")[2] == str(wanted.type).partition(" * ")[2]
        assert {"photon.pt", "photon.eta", "photon.phi", "photon.score", "njet", "run", "event", "luminosityBlock"} <= touched()
    elif kind == "dask":
        out = model.transform(kinds.dask(control), copies=copies).compute(scheduler="sync")
        assert len(out) == len(wanted)
        order = [np.lexsort((ak.to_numpy(ak.sum(e.photon.pt, axis=1)), ak.to_numpy(e.event))) for e in (out, wanted)]
        assert ak.to_list(out[order[0]]) == ak.to_list(wanted[order[1]])
    else:
        n = {"eager": 60, "length-0": 0, "length-1": 1}[kind]
        rows = np.concatenate([np.arange(n) + 60 * copy for copy in range(copies or 1)])
        assert ak.to_list(model.transform(control[:n], copies=copies)) == ak.to_list(wanted[rows])


def test_save_load_and_apply_without_torch(fitted: hepgen.ObjectReplacer, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "fake.hepgen")
    control = region(300, 9, signal=False)
    again = hepgen.load(path)
    assert isinstance(again, hepgen.ObjectReplacer)
    assert ak.array_equal(again.transform(control, identity=numbers(control)), fitted.transform(control, identity=numbers(control)))
    assert (again.transfer, again.record, repr(again)) == (fitted.transfer, fitted.record, repr(fitted))
    ak.to_parquet(control, tmp_path / "events.parquet")
    script = (
        "import sys, awkward as ak, hepgen\n"
        f"model, events = hepgen.load({str(path)!r}), ak.from_parquet({str(tmp_path / 'events.parquet')!r})\n"
        "new = model.transform(events, identity='event')\n"
        "print(*(name for name in ('torch', 'scipy', 'sklearn', 'numba') if name in sys.modules), float(ak.sum(new.photon.pt)))"
    )
    found = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert found == [str(float(ak.sum(fitted.transform(control, identity="event").photon.pt)))]


def test_signed_weights_are_those_of_the_density() -> None:
    """A model of no condition draws the weighted distribution."""
    events = region(12_000, 1, signal=True)
    rng = np.random.default_rng(5)
    pt = ak.to_numpy(ak.fill_none(ak.firsts(events.photon.pt[events.photon.prompt == 0]), 0.0)).astype(float)
    weights = np.where(pt > 60, 3.0, 1.0) * np.where(rng.random(len(pt)) < 0.1, -1.0, 1.0)
    control = region(6000, 4, signal=False)
    with threads(1):
        model = hepgen.ObjectReplacer(
            GENERATE[:2], picks={"fake": PICKS["fake"]}, fit_picks={"fake": FIT_PICKS["fake"]}, blocks=2, hidden=(16,)
        )
        model.fit(events, weights, epochs=6, batch_size=256, progress=False)
    found = ak.to_numpy(the_fake(model.transform(control, identity=numbers(control))).pt)
    two = ak.to_numpy(ak.num(events.photon) == 2)
    wanted = weights[two & (pt > 60)].sum() / weights[two].sum()
    plain = (pt[two] > 60).mean()
    assert abs((found > 60).mean() - wanted) < 0.04
    assert wanted - plain > 0.15


def test_a_fit_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hepgen.estimators import replacer_fit

    events = region(600, 1, signal=True)

    def fit(folder: Path | None) -> dict[str, Any]:
        return replacer(hidden=(8,), blocks=1).fit(events, epochs=3, batch_size=100, checkpoint=folder, progress=False).tensors()

    whole, calls, losses = fit(None), 0, replacer_fit.ConditionalLogLoss.losses

    def dying(self: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return losses(self, batch)

    monkeypatch.setattr(replacer_fit.ConditionalLogLoss, "losses", dying)
    monkeypatch.setattr(replacer_fit, "train", lambda *a, **k: train(*a, **k, checkpoint_seconds=0))
    from hepgen.training import train

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    resumed = fit(tmp_path)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_nanoaod_branches_that_are_not_generated_stay_bit_for_bit(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "nano_dy.root"
    names = ["Electron[worst].pt", "Electron[worst].eta", "Electron[worst].phi"]
    picks = {"worst": Pick("Electron", lowest="pt")}
    rng = np.random.default_rng(1)
    made = ak.zip(
        {
            "Electron": ak.zip(
                {"pt": 10 + rng.exponential(5, (400, 1)), "eta": rng.normal(0, 1, (400, 1)), "phi": rng.uniform(-3, 3, (400, 1))}
            )
        },
        depth_limit=1,
    )
    model = hepgen.ObjectReplacer(names, ["MET.pt"], picks=picks, schema="nanoaod", blocks=1, hidden=(8,))
    made = ak.with_field(made, ak.zip({"pt": rng.exponential(20, 400)}), "MET")
    model.fit(made, epochs=1, batch_size=100, progress=False)
    done = apply_file(model, source, tmp_path / "out.root", file_format="rntuple", progress=False)
    before, after = (read(path, schema="flat") for path in (source, tmp_path / "out.root"))
    changed = {"Electron_pt", "Electron_eta", "Electron_phi"}
    assert set(after.fields) >= set(before.fields) - {"nElectron"}
    for name in before.fields:
        if name in after.fields and name not in changed:
            assert ak.array_equal(after[name], before[name], equal_nan=True), name
    old, new = before.Electron_pt, after.Electron_pt
    assert ak.to_list(ak.num(old)) == ak.to_list(ak.num(new))
    worst = ak.argmin(old, axis=1, keepdims=True)
    assert ak.all(new[worst] != old[worst], axis=None)
    rest = ak.local_index(old) != ak.fill_none(ak.firsts(worst), -1)
    assert ak.array_equal(new[rest], old[rest])
    assert done.transformed == ak.sum(ak.num(old) > 0) > 0


def test_refusals(fitted: hepgen.ObjectReplacer) -> None:
    control = region(50, 1, signal=False)
    with pytest.raises(UsageError, match="name 'fake' in brackets, which is not picked"):
        hepgen.ObjectReplacer(GENERATE, CONDITION)
    with pytest.raises(UsageError, match="is named twice"):
        hepgen.ObjectReplacer(["a", "b"], ["a"])
    with pytest.raises(UsageError, match="model 'vae' is not known: choose one of"):
        replacer(model="vae")
    with pytest.raises(UsageError, match="has no setting 'depth'"):
        replacer(depth=3)
    with pytest.raises(UsageError, match="order='eta' is not known"):
        replacer(order="eta")
    with pytest.raises(UsageError, match="at least one column to generate"):
        hepgen.ObjectReplacer([], ["a"])
    with pytest.raises(UsageError, match="is not fitted"):
        replacer().transform(control, identity="event")
    with pytest.raises(UsageError, match="copies=0 is no number of copies"):
        fitted.transform(control, copies=0)
    with pytest.raises(UsageError, match="leave copy= out"):
        fitted.transform(control, copies=2, copy=1)
    with pytest.raises(InputError, match="have a field hepgen_weight already"):
        fitted.transform(ak.with_field(control, 1.0, "hepgen_weight"), copies=2, identity="event")
    with pytest.raises(InputError, match="carry no run and event numbers"):
        fitted.transform(ak.without_field(control, "run"))
    with pytest.raises(InputError, match="control_weights has shape"):
        replacer().fit(control, control_region=control, control_weights=np.ones(3))


def test_without_a_condition_the_object_follows_its_marginals() -> None:
    signal, control = region(4000, 1, signal=True), region(3000, 2, signal=False)
    model = hepgen.ObjectReplacer(GENERATE, picks={"fake": PICKS["fake"]}, fit_picks={"fake": FIT_PICKS["fake"]}, blocks=2, hidden=(16,))
    with threads(1):
        model.fit(signal, epochs=5, batch_size=200, progress=False)
    found, wanted = the_fake(model.transform(control, identity=numbers(control))), the_fake(signal)
    assert float(ak.mean(found.pt)) == pytest.approx(float(ak.mean(wanted.pt)), rel=0.03)
    assert json.dumps(model.document())


@pytest.fixture(scope="module")
def adversarial() -> hepgen.ObjectReplacer:
    with threads(1):
        model = replacer(model="gan-dense", hidden=(64, 64), latent=8, copies=3)
        return model.fit(region(12_000, 1, signal=True), epochs=25, batch_size=256, progress=False)


def test_an_adversarial_pair_in_place_of_the_flow(adversarial: hepgen.ObjectReplacer, tmp_path: Path) -> None:
    signal, control = region(6000, 3, signal=True), region(6000, 4, signal=False)
    new = adversarial.transform(control, identity=numbers(control))
    wanted, before, found = the_fake(signal), the_fake(control), the_fake(new)
    assert float(ak.min(found.score)) >= CUT
    spread = float(ak.std(wanted.pt))
    assert (
        abs(float(ak.mean(found.pt)) - float(ak.mean(wanted.pt))) < 0.3 * spread < 0.3 * abs(float(ak.mean(before.pt) - ak.mean(wanted.pt)))
    )
    assert float(ak.std(found.eta)) == pytest.approx(float(ak.std(wanted.eta)), rel=0.3)
    assert np.corrcoef(ak.to_numpy(found.pt), ak.to_numpy(new[ak.num(new.photon) == 2].njet))[0, 1] > 0.15
    (attempt,) = adversarial.record["attempts"]
    assert attempt["best_valid"] < attempt["columns_alone"]
    again = hepgen.load(adversarial.save(tmp_path / "gan.hepgen"))
    for rows in (slice(0, 300), slice(7, 9)):
        chunk = control[rows]
        assert ak.array_equal(again.transform(chunk, identity=numbers(chunk)), new[rows]), "whatever the chunk"


def test_adversarial_fits_that_fail_start_again_and_say_so() -> None:
    model = replacer(model="gan-dense", hidden=(8,), restarts=1, copies=2)
    with pytest.raises(
        InputError, match=r"all 2 adversarial fits failed \(-2 ln Lambda .*; -2 ln Lambda .*\): give more epochs or .*model='maf'"
    ):
        model.fit(region(8000, 1, signal=True), epochs=1, batch_size=2000, learning_rate=(1e-9, 0.0), progress=False)


@pytest.mark.parametrize("kind", ["convolutional", "dense"])
def test_a_frozen_generator_is_its_network(kind: str) -> None:
    import torch

    from hepgen.networks.frozen_gan import FrozenGenerator
    from hepgen.networks.gan import gan_networks

    network, _ = gan_networks(kind, 3, 2, 5)
    frozen = FrozenGenerator({name: tensor.numpy() for name, tensor in network.state_dict().items()})
    rng = np.random.default_rng(1)
    condition, latent = rng.normal(size=(700, 3)), rng.normal(size=(700, 5))
    found = frozen(condition, latent)
    with torch.no_grad():
        wanted = network(torch.from_numpy(condition).float(), torch.from_numpy(latent).float()).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.array_equal(frozen(condition[300:303], latent[300:303]), found[300:303])
    assert (frozen.inputs, frozen.outputs) == (8, 2)
    with pytest.raises(UsageError, match="takes 8 columns of condition and latent, not 7"):
        frozen(condition[:, :2], latent)
    with pytest.raises(UsageError, match="are not those of a generator"):
        FrozenGenerator({"first.weight": np.ones((2, 2), np.float32)})
