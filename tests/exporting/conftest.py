"""Small models, made of random weights where no fit is needed, and a runner of ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

import hepgen
from hepgen.estimators import SimToData
from hepgen.estimators.reweighter import Reweighter
from hepgen.networks import MAF, MLP, FrozenMAF, FrozenMLP

Run = Callable[..., dict[str, Any]]
PAIR = hepgen.Features([f"photon[{i}].{x}" for i in (0, 1) for x in ("pt", "eta", "phi")], computed=["mass(photon[0], photon[1])"])


def numpy_state(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.to(dtype).state_dict().items()}


def photons(n: int, seed: int) -> ak.Array:
    rng = np.random.default_rng(seed)
    phi = rng.uniform(-np.pi, np.pi, n)
    columns = {
        "pt": np.stack([35 + rng.exponential(30, n), 25 + rng.exponential(20, n)], axis=1),
        "eta": rng.normal(0, 1 + 0.1 * seed, (n, 2)),
        "phi": np.stack([phi, (phi + rng.normal(0, 0.3, n)) % (2 * np.pi) - np.pi], axis=1),
    }
    return ak.Array({"event": np.arange(n), "photon": ak.zip(columns)})


@pytest.fixture(scope="session")
def matrix() -> Any:
    """Features of 400 toy events: some far outside the fit, some angles at the cut."""
    found = PAIR.to_matrix(photons(400, 3))[0]
    found[:20, [0, 3]] *= 30
    found[20:40, [1, 4]] *= -4
    found[40:44, [2, 5]] = np.array([-np.pi, np.pi, np.float32(np.pi), np.nextafter(np.pi, 0)])[:, None]
    found[44:50, 2] += 4 * np.pi
    return found


@pytest.fixture(scope="session")
def run() -> Run:
    import onnxruntime

    def outputs(path: Path, **arrays: Any) -> dict[str, Any]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, arrays), strict=True))

    return outputs


@pytest.fixture(scope="session")
def new_flow() -> Callable[..., FrozenMAF]:
    def made(dtype: torch.dtype = torch.float32, *, noise: float = 0.2, blocks: int = 3, **options: Any) -> FrozenMAF:
        torch.manual_seed(3)
        flow = MAF(blocks=blocks, **options)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
        return FrozenMAF(numpy_state(flow, dtype), activation=options["activation"], shear=options.get("shear", False))

    return made


@pytest.fixture(scope="session")
def new_network() -> Callable[..., FrozenMLP]:
    def made(dtype: torch.dtype = torch.float32, seed: int = 1, **options: Any) -> FrozenMLP:
        torch.manual_seed(seed)
        network = MLP(**options)
        return FrozenMLP(numpy_state(network, dtype), activation=network.activation, output=network.output, shortcuts=network.shortcuts)

    return made


@pytest.fixture(scope="session")
def fitted() -> SimToData:
    """One epoch on 500 toy events; a test that changes it takes a copy through its bytes."""
    model = SimToData(PAIR, loss="nll", blocks=2, hidden=(12, 12))
    return model.fit(photons(500, 1), photons(500, 2), epochs=1, batch_size=125, seed=4, progress=False)


@pytest.fixture(scope="session")
def new_transform(new_flow: Callable[..., FrozenMAF]) -> Callable[..., SimToData]:
    """Coordinates fitted to toy events, and a flow of random weights."""

    def made(dtype: torch.dtype = torch.float32, *, scaler: Any = None, outside: Any = "keep", **settings: Any) -> SimToData:
        settings = {"blocks": 2, "hidden": (9, 7), **settings}
        model = SimToData(PAIR, loss="nll", scaler=scaler, outside=outside, **settings)
        matrix = PAIR.to_matrix(photons(500, 2))[0]
        model.coordinates.fit(matrix)
        model.limits = np.stack([matrix.min(0), matrix.max(0)], axis=1)[:6]
        s = model.settings
        options = {"permutation": s.permutation, "activation": s.activation, "shear": s.shear, "blocks": s.blocks, "hidden": s.hidden}
        model.flow = new_flow(dtype, noise=0.05, features=6, context=7, **options)
        return model

    return made


@pytest.fixture(scope="session")
def new_ratio() -> Callable[..., Reweighter]:
    """A Reweighter with a fitted scaler and networks of random weights, whose outputs are spread over some units."""

    def made(dtype: torch.dtype = torch.float32, *, calibrator: Any = None, **options: Any) -> Reweighter:
        model = Reweighter(PAIR, **{"ensemble": 3, "hidden": (9, 7), **options})
        model.scaler.fit(PAIR.to_matrix(photons(500, 2))[0])
        s = model.settings
        model.networks = []
        for member in range(model.ensemble):
            torch.manual_seed(member)
            network = MLP(7, 1, s.hidden, s.activation)
            with torch.no_grad():
                network.linears[-1].weight.mul_(3)
            model.networks.append(model._frozen(numpy_state(network, dtype)))
        model.log_scale, model.calibrator = 0.3, calibrator
        return model

    return made
