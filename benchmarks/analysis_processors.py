"""The processors that `analysis.py` compares: here, where worker processes can import them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.processor import ProcessorABC
from hepgen_coffea import ModelProcessor, TransformProcessor

from hepgen.estimators.cache import cached, file_sha256, loads

COLUMNS = ("pt", "eta", "phi", "r9", "sieie", "hoe")
BLOCKS, HIDDEN = 10, (128, 128)


def photon_table(path: Path, n: int, scale: float) -> ak.Array:
    """Photons of the first events of a file, one record each, with the density of their event; the columns stretched by `scale`."""
    import uproot

    with uproot.open(path) as file:
        raw = file["Events"].arrays([f"Photon_{name}" for name in COLUMNS] + ["fixedGridRhoFastjetAll"], entry_stop=n)
    counts = ak.num(raw.Photon_pt)
    columns = {name: ak.to_numpy(ak.flatten(raw[f"Photon_{name}"])) * np.float32(scale) for name in COLUMNS}
    rho = np.repeat(ak.to_numpy(raw.fixedGridRhoFastjetAll), counts)
    return ak.Array(
        {**columns, "rho": rho, "run": np.ones(len(rho), int), "event": np.arange(len(rho)), "luminosityBlock": np.ones(len(rho), int)}
    )


def zuko_flow(path: Path, table: ak.Array | None = None, *, save: bool = False) -> Any:
    """A zuko flow of the same size: six columns given six and the density; its weights and scaling from the file, or put there."""
    import torch
    import zuko

    torch.manual_seed(1)
    flow = zuko.flows.MAF(len(COLUMNS), len(COLUMNS) + 1, transforms=BLOCKS, hidden_features=HIDDEN)
    if save and table is not None:
        matrix = np.stack([ak.to_numpy(table[name]) for name in (*COLUMNS, "rho")], axis=1)
        torch.save({"flow": flow.state_dict(), "mean": torch.tensor(matrix.mean(0)), "std": torch.tensor(matrix.std(0))}, path)
        return flow
    content = torch.load(path, weights_only=True)
    flow.load_state_dict(content["flow"])
    return flow.eval(), content["mean"].numpy(), content["std"].numpy()


def photon_histogram() -> hist.Hist[Any]:
    """What both fill."""
    return hist.Hist.new.Reg(50, 0, 200, name="pt").Weight()


class ZukoProcessor(ProcessorABC):  # type: ignore[misc]
    """The way it is done today: flatten, build and read the network, sample, unflatten, for every chunk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Correct and fill one chunk."""
        import torch

        torch.set_num_threads(1)
        photons = events.Photon
        counts = ak.num(photons)
        rho = ak.broadcast_arrays(events.fixedGridRhoFastjetAll, photons.pt)[0]
        columns = [*(photons[name] for name in COLUMNS), rho]
        matrix = np.stack([ak.to_numpy(ak.flatten(column)) for column in columns], axis=1)
        flow, mean, std = zuko_flow(self.path)
        scaled = (matrix - mean) / std
        with torch.no_grad():
            torch.manual_seed(int(ak.flatten(photons.pt)[0] * 1e3) if len(matrix) else 0)
            context = torch.from_numpy(scaled.astype(np.float32))
            out = flow(context).transform.inv(torch.randn(len(matrix), len(COLUMNS))).numpy() * std[:-1] + mean[:-1]
        for column, name in enumerate(COLUMNS):
            photons = ak.with_field(photons, ak.unflatten(out[:, column].astype(np.float32), counts), name)
        return {
            "sim": {
                "h": photon_histogram().fill(np.nan_to_num(ak.to_numpy(ak.flatten(photons.pt)))),
                "loads": 1,
            }
        }

    def postprocess(self, accumulator: Any) -> Any:
        """Nothing."""
        return accumulator


class PhotonProcessor(ProcessorABC):  # type: ignore[misc]
    """The same with hepgen."""

    def __init__(self, path: Path) -> None:
        self.path, self.sha256 = str(path), file_sha256(path)

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Correct and fill one chunk."""
        model = cached(self.path, self.sha256)
        photons = model(events.Photon, rho=events.fixedGridRhoFastjetAll)
        return {"sim": {"h": photon_histogram().fill(ak.to_numpy(ak.flatten(photons.pt))), "loads": {(os.getpid(), loads(self.sha256))}}}

    def postprocess(self, accumulator: Any) -> Any:
        """Nothing."""
        return accumulator


class _Counted(ModelProcessor):
    """Says how often each process has loaded the model."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Fill one chunk."""
        found: dict[str, Any] = super().process(events)
        found["sim"]["loads"] = {(os.getpid(), loads(self.sha256))}
        return found


class FlowProcessor(_Counted, TransformProcessor):
    """Histograms of the two photons before and after."""


class RatioProcessor(_Counted):
    """Weights of a hepgen ratio network, filled."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {"pt": ("photon[0].pt", hist.axis.Regular(50, 0, 200, name="pt"))}, weight=False)

    def apply(self, events: ak.Array, weights: Any, identity: Any, fill: Any) -> int:
        """See `ModelProcessor.apply`."""
        fill("reweighted", events, self.model.weights(events))
        return len(events)


class CorrectionlibProcessor(RatioProcessor):
    """Weights of the exported network, evaluated by correctionlib."""

    def __init__(self, path: Path) -> None:
        self.json = path
        super().__init__(path.with_suffix(".hepgen"))

    def apply(self, events: ak.Array, weights: Any, identity: Any, fill: Any) -> int:
        """See `ModelProcessor.apply`."""
        matrix, mask = self.model.features.to_matrix(events)
        found = np.ones(len(events))
        found[mask] = self.correction().evaluate(*self.arguments(matrix))
        fill("reweighted", events, found)
        return len(events)

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Fill one chunk, for which the correction is read once."""
        found: dict[str, Any] = super().process(events)
        found["sim"]["loads"] = 1
        return found

    def correction(self) -> Any:
        """The correction of the file, read as analyses do: in every call."""
        import correctionlib

        return next(iter(correctionlib.CorrectionSet.from_file(str(self.json)).values()))

    @staticmethod
    def arguments(matrix: Any) -> list[Any]:
        """Columns as the correction takes them."""
        return list(np.ascontiguousarray(matrix.T))


def ratio_alone(json: Path, ratio: Any, matrix: Any) -> dict[str, Callable[[], dict[str, Any]]]:
    """Both on a matrix of features in memory, on one thread."""
    import correctionlib

    from hepgen.kernels import threads

    correction = next(iter(correctionlib.CorrectionSet.from_file(str(json)).values()))
    columns = list(np.ascontiguousarray(matrix.T))

    def theirs() -> dict[str, Any]:
        correction.evaluate(*columns)
        return {}

    def ours() -> dict[str, Any]:
        with threads(1):
            ratio.weigh(matrix)
        return {}

    return {"correctionlib": theirs, "hepgen": ours}
