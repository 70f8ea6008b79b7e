"""H -> yy with simulation that looks like data: from ROOT files through coffea to a pyhf fit, in one script.

    python -m hepgen.examples.diphoton sim.root data.root nominal.hepgen other.hepgen --out higgs

The background of a resonance search is simulation that a flow has made to look like data: its shape is learnt from the data, with no
function to choose. The signal is the simulation of H -> yy as it is. A second flow, fitted with another seed, says how well the shape is
known; the photon energy scale moves the peak. The fit has the signal strength mu, the yield of the background, and a nuisance parameter
for each uncertainty.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.nanoevents import BaseSchema
from coffea.processor import IterativeExecutor, Runner
from hepgen_coffea import ModelProcessor
from hepgen_pyhf import Channel, UpperLimit, Workspace, build, cls, fit, upper_limit

from hepgen import Selection, plots
from hepgen.estimators import cached
from hepgen.events import open_info, write_histograms
from hepgen.variations import band, mirrored, scaled

#: the mass of the two photons, in the range that is fitted
MASS = "mass(massless(photon[0]), massless(photon[1]))"
AXIS = hist.axis.Regular(20, 100, 160, name="mass", label=r"$m_{\gamma\gamma}$ [GeV]")
#: relative uncertainties: of the photon energies, of the yield of the signal from photon identification, of the luminosity
ENERGY_SCALE, IDENTIFICATION, LUMINOSITY = 0.01, 0.03, 0.017
#: signal strengths between which the limit is looked for
SCAN = tuple(np.geomspace(0.2, 5, 10))


class DiphotonProcessor(ModelProcessor):
    """Background from the flow, signal as simulated, each with its variations; data beside them."""

    variations = True

    def __init__(self, model: Path, other: Path, **options: Any) -> None:
        super().__init__(model, {"mass": (MASS, AXIS)}, selection=Selection.named("diphoton"), **options)
        self.other = str(other)

    def apply(self, events: ak.Array, weights: Any, identity: Any, fill: Any) -> int:
        """Fill one chunk of simulation."""
        moved, counts = self.model.transform_counted(events, identity=identity)
        fill("background", moved, weights)
        fill("background", cached(self.other).transform(events, identity=identity), weights, variation="flowUp")
        fill("signal", events, weights)
        for variation, factor in (("energy_scaleUp", 1 + ENERGY_SCALE), ("energy_scaleDown", 1 - ENERGY_SCALE)):
            scaled = ak.with_field(events, ak.with_field(events.photon, events.photon.pt * np.float32(factor), "pt"), "photon")
            fill("signal", scaled, weights, variation=variation)
        return int(counts.transformed)


@dataclass(frozen=True)
class Result:
    """What the fit says of the signal strength, and what it was made of."""

    strength: tuple[float, float]
    at_bound: bool
    cls_of_one: float
    limit: UpperLimit
    workspace: Workspace
    files: list[Path]

    def __str__(self) -> str:
        """Return three lines for a terminal."""
        value, error = self.strength
        strength = f"{value:.2f} (at its bound)" if self.at_bound else f"{value:.2f} +- {error:.2f}"
        return (
            f"mu = {strength}, CLs(mu = 1) = {self.cls_of_one:.3f}\n"
            f"mu < {self.limit.observed:.2f} at 95 % CL, expected {self.limit.expected[2]:.2f}\n"
            f"workspace {self.workspace.digest[:12]}"
        )


def fill(sim: str | os.PathLike[str], data: str | os.PathLike[str], model: Path, other: Path, executor: Any = None) -> hist.Hist[Any]:
    """Run the processor over both files: a histogram with the axes dataset, variation and mass."""
    processor = DiphotonProcessor(model, other, data={"data"})
    fileset = {name: {"files": {str(path): open_info(path).tree}} for name, path in (("simulation", Path(sim)), ("data", Path(data)))}
    found = Runner(executor=executor or IterativeExecutor(status=False), schema=BaseSchema)(fileset, processor)
    total: hist.Hist[Any] = found["simulation"]["hists"]["mass"] + found["data"]["hists"]["mass"]
    return total


def expected(histogram: hist.Hist[Any], signal_events: float) -> hist.Hist[Any]:
    """Scale to what is expected: so many signal events, and a background that fills the data; mirror the flow's variation."""
    whole = mirrored(histogram, "flow")
    content = {name: band(whole, name).nominal.sum() for name in whole.axes["dataset"]}
    return scaled(whole, {"signal": signal_events / content["signal"], "background": content["data"] / content["background"]})


def workspace(histogram: hist.Hist[Any]) -> Workspace:
    """The likelihood: signal and background in one channel."""
    region = Channel({"signal": histogram, "background": histogram}, data=histogram)
    return build(
        {"SR": region},
        signal="signal",
        normfactors={"background_yield": "background"},
        normsys={"photon_identification": {"signal": IDENTIFICATION}},
        lumi=LUMINOSITY,
        lumi_samples=["signal"],
        parameters={"mu": {"bounds": [[0, 20]]}},
        empty="floor",  # far from the peak the signal has bins that only a variation reaches
    )


def run(
    sim: str | os.PathLike[str],
    data: str | os.PathLike[str],
    model: Path,
    other: Path,
    out: Path,
    *,
    signal_events: float = 100.0,
    overwrite: bool = False,
) -> Result:
    """The whole analysis: histograms, their ROOT file and picture, the workspace and the fit, written to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    histogram = expected(fill(sim, data, model, other), signal_events)
    files = write_histograms(out / "diphoton.root", {"SR": histogram}, overwrite=overwrite)
    plots.yields(histogram, stack=["background"], path=out / "diphoton.png")
    likelihood = workspace(histogram)
    files += [out / "diphoton.png", likelihood.write(out / "workspace.json", overwrite=overwrite)]
    best = fit(likelihood)
    limit = upper_limit(likelihood, scan=SCAN)
    return Result(best["mu"], "mu" in best.at_bound, cls(likelihood, 1.0).observed, limit, likelihood, files)


def main() -> None:
    """Run on files named on the command line."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("sim", "data", "model", "other"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, default=Path("higgs"))
    parser.add_argument("--signal-events", type=float, default=100.0)
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args()
    files = given.sim, given.data, given.model, given.other, given.out
    print(run(*files, signal_events=given.signal_events, overwrite=given.overwrite))


if __name__ == "__main__":
    main()
