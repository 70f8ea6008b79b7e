"""Energy Conserving Descent for likelihood ratios: Tables I and III of the paper, its scans and figures, and the peers.

    hepgen samples make thrust --events 1000000 --seed 1 --out studies/thrust
    hepgen samples make jets --events 200000 --seed 1 --out studies/jets
    python benchmarks/studies/ecd.py --thrust studies/thrust --jets studies/jets --out studies/ecd

Every configuration leaves a JSON file in the output folder and is not done again; a fit that was stopped goes on where it was.
Parts that are left out by --only are read from there where they exist. The table is written to benchmarks/ecd_study.md, with --quick
(minutes instead of hours, the same code) to the output folder. The parts are in ecd_*.py beside this file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import ecd_figures
import ecd_jets
import ecd_peers
import ecd_report
import ecd_scan
import ecd_thrust
import torch
from ecd_jets import Surrogates
from ecd_report import Found
from ecd_runs import PATIENCE, Training, own_eta
from ecd_thrust import Halves
from study_runs import Result, Sizes, Store, parsed, say, table_file

from hepgen.errors import FitInterrupted

STAGES = ("thrust", "scan", "jets", "peers")
#: What each option is in full and with --quick, and what it is.
SIZES: Sizes = {
    "max_events": (None, 40_000, "events of each thrust sample that pass, and of each jets sample, at most"),
    "trainings": (10, 3, "trainings of each thrust configuration"),
    "epochs": (500, 30, "epochs of a thrust training at most; eta follows from it"),
    "floor_draws": (2000, 500, "drawn samples for the statistical floor"),
    "draws": (100, 8, "random points of the Adam scan"),
    "scan_events": (100_000, 10_000, "training events of each sample in the scans"),
    "scan_epochs": (100, 10, "epochs in the scans at most"),
    "scan_patience": (5, 3, "patience in the scans"),
    "finalists": (3, 1, "best points of each scan that are trained again, three times"),
    "jets_n": (100_000, 10_000, "surrogate events of each sample to train with"),
    "jets_test": (100_000, 10_000, "surrogate events to measure on"),
    "jets_trainings": (20, 3, "trainings of each jets configuration"),
    "jets_epochs": (100, 40, "epochs of a jets training at most; eta follows from it"),
    "flow_epochs": (60, 40, "epochs of the flows"),
    "auc_events": (100_000, 5000, "events of each sample for the AUC of flow against sample"),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the sizes of --quick where it is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thrust", type=Path, help="folder of sim.root and data.root of `hepgen samples make thrust`")
    parser.add_argument("--jets", type=Path, help="folder of sim.root and data.root of `hepgen samples make jets`")
    parser.add_argument("--out", type=Path, required=True, help="folder of results, checkpoints and figures")
    parser.add_argument("--methods", help="thrust configurations, by semicolon; see ecd_thrust.NAMED")
    parser.add_argument("--pairs", help='losses and links of the jets, such as "bce sigmoid,mlc exp" (all six)')
    parser.add_argument("--shapes", default="wide,deep", help="larger thrust networks, by comma; see ecd_thrust.SHAPES")
    parser.add_argument("--shape-trainings", type=int, help="trainings of the larger networks (as --trainings)")
    parser.add_argument("--eta-factors", type=float, nargs="+", default=[1.0, 0.1], help="of the ECD scan")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the thrust networks")
    parser.add_argument("--jets-dropout", type=float, default=0.1)
    options = parsed(parser, SIZES, STAGES, arguments)
    options.shape_trainings = options.shape_trainings or options.trainings
    options.shapes = tuple(filter(None, options.shapes.split(",")))
    options.table = table_file(options, "ecd_study.md")
    return options


def thrust_base(options: argparse.Namespace) -> Training:
    return Training(
        "ecd", ecd_thrust.HIDDEN, options.dropout, 500, options.epochs, patience=PATIENCE, trainings=options.trainings, seed=options.seed
    )


def thrust_stages(options: argparse.Namespace, store: Store, found: Found) -> Halves | None:
    """Table I: the defaults and the paper's settings, the scans, what they chose, and the larger networks."""
    halves = None if options.thrust is None else ecd_thrust.load(options.thrust, options.max_events, options.seed)
    identity = store.sample("thrust", None if halves is None else halves.identity())
    if not identity:
        return None
    if halves is not None and "thrust" in options.only:
        say(f"thrust: events {', '.join(f'{name} {value[0]}' for name, value in identity.items())}")
    found.sample = store.get("thrust", "sample", {"draws": options.floor_draws}, lambda _: _about(options, halves))
    base = thrust_base(options)
    names = options.methods.split(";") if options.methods else [name for name in ecd_thrust.NAMED if not name.endswith("MLC")]
    plans = {name: replace(base, **ecd_thrust.NAMED[name]) for name in names}
    found.thrust = ecd_thrust.run(store, halves, plans)
    longest = max(identity["sim train"][0], identity["data train"][0])
    tuned = scan_stage(options, store, halves, found, base, longest)
    found.thrust |= ecd_thrust.run(store, halves, tuned)
    larger = {}
    for shape in options.shapes:
        for name, training in {"ECD default": base, **{n: t for n, t in tuned.items() if n == "Adam tuned"}}.items():
            hidden = ecd_thrust.SHAPES[shape]
            larger[f"{name}, {shape}"] = replace(training, hidden=hidden, trainings=options.shape_trainings)
    found.thrust |= ecd_thrust.run(store, halves, larger)
    return halves


def _about(options: argparse.Namespace, halves: Halves | None) -> Result:
    if halves is None:
        raise SystemExit("the thrust sample is needed: give --thrust DIR")
    return ecd_thrust.about(halves, options.floor_draws, options.seed)


def scan_stage(
    options: argparse.Namespace, store: Store, halves: Halves | None, found: Found, base: Training, longest: int
) -> dict[str, Training]:
    """Both scans; the configurations that they choose by validation loss, as far as they were made."""
    events = min(options.scan_events, longest)
    point = replace(base, epochs=options.scan_epochs, patience=options.scan_patience, trainings=1)
    scans = {
        "ECD": ecd_scan.ecd_grid(point, options.eta_factors, events),
        "Adam": ecd_scan.adam_draws(point, options.draws, options.seed),
    }
    found.scan_about = " ".join([
        f"One training at each point on {events} events of each sample, at most {options.scan_epochs} epochs with a patience of",
        f"{options.scan_patience}, all with one seed and so one split: differences of validation losses are those of the points.",
        f"The {options.finalists} best of each scan by validation loss are then trained three times on all training events",
        'with the epochs and patience of the study, and the lowest mean validation loss is "tuned" in Table I.',
        f"eta is in units of 2 n^2 / (3 fan_in) for the n steps asked for: {own_eta(point, 1, events):.3g} in the scan,",
        f"{own_eta(base, 1, longest):.3g} in Table I.",
    ])  # fmt: skip
    tuned: dict[str, Training] = {}
    default: Result | None = None
    for name, points in scans.items():
        rows = ecd_scan.scan(store, halves, points, events)
        if len(rows) < len(points):
            continue
        default = default or next((row for row in rows if row["name"] == "ECD default"), None)
        if default is None:
            continue
        final = replace(base, trainings=3)
        finals = ecd_scan.finalists(store, halves, rows, points, final, options.finalists, events=events, all_events=longest)
        summary = {**ecd_scan.coverage(rows, default), "default_valid": default["valid"]}
        found.scans[name] = (rows, finals, summary)
        if finals:
            tuned[f"{name} tuned"] = replace(finals[0]["training"], trainings=options.trainings)
            found.chosen[f"{name} tuned"] = finals[0]["name"]
    return tuned


def surrogate_identity(options: argparse.Namespace) -> Result:
    """What the surrogate events depend on besides the sample."""
    return {name: getattr(options, name) for name in ("jets_n", "jets_test", "flow_epochs", "auc_events", "seed")}


def jets_stage(options: argparse.Namespace, store: Store, found: Found) -> Surrogates | None:
    """Table III: flows, surrogates of known ratio, and six losses with each optimiser."""
    needed = options.jets is not None and "jets" in options.only
    real = ecd_jets.read(options.jets, options.max_events, options.seed) if needed else None
    given = None if real is None else {name: [len(x), float(x.sum())] for name, x in zip(("sim", "data"), real, strict=True)}
    if not store.sample("jets", given):
        return None
    identity = surrogate_identity(options)
    folder = options.out / ("surrogates-" + "-".join(str(value) for value in identity.values()))
    made = None
    if (folder / "events.npz").exists() or real is not None:

        def make() -> Surrogates:
            assert real is not None
            say(f"jets: flows of {len(real[0])} and {len(real[1])} events ...")
            sizes = (options.jets_n, options.jets_test, options.flow_epochs, options.seed, options.auc_events)
            return ecd_jets.surrogates(real, *sizes, folder)

        folder.mkdir(parents=True, exist_ok=True)
        made = ecd_jets.kept_surrogates(folder / "events.npz", make)
        found.jets_about = made.about
        if real is not None or not (options.out / "figure2.png").exists():
            ecd_figures.corner(options.out / "figure2.png", real, made)
    base = Training(
        "ecd",
        ecd_jets.HIDDEN,
        options.jets_dropout,
        max(options.jets_n // 10, 1),
        options.jets_epochs,
        patience=PATIENCE,
        trainings=options.jets_trainings,
        seed=options.seed,
    )
    plans = {
        f"{method}, {loss} {link}": replace(base, loss=loss, link=link, **settings)
        for loss, link in ecd_jets.PAIRS
        if not options.pairs or f"{loss} {link}" in options.pairs.split(",")
        for method, settings in ecd_jets.METHODS.items()
    }
    found.jets = ecd_jets.run(store, made, plans, identity)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, write the figures and the table; returns how many results were computed."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    store, found = Store(options.out, options.only), Found()
    halves = thrust_stages(options, store, found)
    made = jets_stage(options, store, found)
    measure_thrust = None if halves is None else partial(ecd_peers.on_thrust, halves)
    measure_jets = None if made is None else partial(ecd_peers.on_jets, made)
    found.peers["thrust"] = ecd_peers.run(store, "thrust", {}, measure_thrust)
    found.peers["jets"] = ecd_peers.run(store, "jets", surrogate_identity(options), measure_jets)
    if found.sample is not None and found.thrust:
        ecd_figures.residuals(options.out / "figure1.png", found.sample, found.thrust)
    title = "Energy Conserving Descent for likelihood ratios" + (" (quick)" if options.quick else "")
    sizes = ", ".join(f"{name.replace('_', '-')} {getattr(options, name)}" for name in SIZES)
    text = ecd_report.markdown(found, title, f"Sizes: {sizes}.")
    options.table.write_text(text, encoding="utf-8")
    (options.out / "options.json").write_text(json.dumps(vars(options), default=str), encoding="utf-8")
    print(text)
    say(f"the table is in {options.table}")
    return store.computed


if __name__ == "__main__":
    try:
        main()
    except FitInterrupted as stopped:
        raise SystemExit(str(stopped)) from None
