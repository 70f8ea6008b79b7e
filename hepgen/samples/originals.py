"""The arrays published with the thrust study (ALEPH) and the jets study (flow surrogates), with the columns of our stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError
from hepgen.samples import jets, thrust

JET_COLUMNS = ("jet_m", "jet_mult", "jet_width", "jet_ln_rho", "jet_tau21", "jet_pt")
_TEST_RUN = 3

Floats = NDArray[np.float64]


class Aleph(NamedTuple):
    """Thrust in simulation and data; see `read_aleph`."""

    sim: ak.Array
    data: ak.Array


class JetSurrogates(NamedTuple):
    """Events drawn from two flows, and the ratio of their densities; see `read_jets`."""

    sim: ak.Array
    data: ak.Array
    test: ak.Array
    test_is_data: NDArray[np.bool_]
    log_ratio: Floats


def read_aleph(folder: str | Path, *, truth: bool = True) -> Aleph:
    """Read the ALEPH arrays that paper B takes from Badea et al. (Phys. Rev. Lett. 123, 212002), with the columns of the sample "thrust".

    Parameters
    ----------
    folder : where ``data_vals_reco.npy``, ``data_pass_reco.npy``, ``MC_vals_reco.npy``, ``MC_pass_reco.npy`` and, for the thrust at
        particle level, ``MC_vals_truth.npy`` and ``MC_pass_truth.npy`` are.
    truth : whether to read the last two. Bundles exist in which they list fewer events than the others, in another order: leave them out
        there.

    Returns
    -------
    Aleph
        `sim` and `data`, events with runNumber, eventNumber, weight (1), thrust and pass_reco; `sim` with thrust_truth and pass_truth
        too. Thrust is float32; -999 where it was not measured.

    Raises
    ------
    InputError
        Where an array is missing, cannot be read, has another length than the one it goes with, a flag is neither 0 nor 1,
        or the thrust of an event that passes is not a number.
    """
    here = _folder(folder)
    sim = _thrust_columns(here, "MC", "reco")
    if truth:
        more = _thrust_columns(here, "MC", "truth")
        if len(more["pass_truth"]) != len(sim["pass_reco"]):
            counts = f"{len(more['pass_truth'])} events and {here / 'MC_vals_reco.npy'} {len(sim['pass_reco'])}"
            raise InputError(f"{here / 'MC_vals_truth.npy'} has {counts}: they are not the same events; read them with truth=False")
        sim |= more
    return Aleph(_events(thrust.RUNS["sim"], sim), _events(thrust.RUNS["data"], _thrust_columns(here, "data", "reco")))


def read_jets(folder: str | Path) -> JetSurrogates:
    """Read the arrays that paper B trains on in its jets study, with the columns of the sample "jets".

    They are drawn from two normalizing flows, one fitted to each sample (Rizvi, Pettee and Nachman, JHEP 02 (2024) 136), so that the ratio
    of the densities is known event by event.

    Parameters
    ----------
    folder : where ``X_trn.npy``, ``y_trn.npy``, ``X_tst.npy``, ``y_tst.npy`` and ``lr_tst.npy`` are. X are (n, 6), in the
        order m, M, w, ln rho, tau21, pT; y are 0 for simulation and 1 for data; lr_tst is the ratio data / simulation itself, not its
        logarithm.

    Returns
    -------
    JetSurrogates
        `sim` and `data`, the rows of X_trn apart; `test`, the rows of X_tst in their order, with `test_is_data` and `log_ratio`, (n,)
        each, the natural logarithm of lr_tst; -inf where that is 0. Events have runNumber, eventNumber, weight (1) and the six
        observables as float32: jet_m and jet_pt in GeV.

    Raises
    ------
    InputError
        Where an array is missing, cannot be read, has another shape than the one it goes with, a label is neither 0 nor 1, an observable
        is not finite, or a ratio is negative or NaN.
    """
    here = _folder(folder)
    x, is_data = _labelled(here, "trn")
    test, test_is_data = _labelled(here, "tst")
    path = here / "lr_tst.npy"
    ratio = _column(path)
    if len(ratio) != len(test):
        raise InputError(f"{path} has {len(ratio)} rows and {here / 'X_tst.npy'} {len(test)}: they must be the same events")
    if not (ratio >= 0).all():
        raise InputError(f"{path} holds a ratio that is negative or NaN: it must be the ratio of the densities, not its logarithm")
    with np.errstate(divide="ignore"):
        log_ratio = np.log(ratio)
    sim, data = (_events(jets.RUNS[name], _jet_columns(x[is_data == label])) for name, label in (("sim", False), ("data", True)))
    return JetSurrogates(sim, data, _events(_TEST_RUN, _jet_columns(test)), test_is_data, log_ratio)


def _folder(folder: str | Path) -> Path:
    here = Path(folder)
    if not here.is_dir():
        raise InputError(f"there is no folder {here}: give the one that holds the .npy files")
    return here


def _array(path: Path) -> NDArray[Any]:
    """Read an array of numbers; pickled objects, which could run code, are refused."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: give the folder that holds all arrays of the study") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an array of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise InputError(f"{path} is no array of numbers: save it by numpy.save")
    return array


def _column(path: Path) -> Floats:
    array = _array(path)
    if array.size != len(np.atleast_1d(array)):
        raise InputError(f"{path} has the shape {array.shape}: it must hold one number for every event")
    return array.reshape(-1).astype(np.float64)


def _flags(path: Path, other: Path, n: int) -> NDArray[np.bool_]:
    """Read 0 and 1 for each of the `n` events of the file `other`."""
    values = _column(path)
    if len(values) != n:
        raise InputError(f"{path} has {len(values)} rows and {other} {n}: they must be the same events")
    if not ((values == 0) | (values == 1)).all():
        raise InputError(f"{path} holds other numbers than 0 and 1")
    return np.asarray(values == 1, dtype=bool)


def _thrust_columns(folder: Path, sample: str, level: str) -> dict[str, NDArray[Any]]:
    path = folder / f"{sample}_vals_{level}.npy"
    values = _column(path)
    passed = _flags(folder / f"{sample}_pass_{level}.npy", path, len(values))
    if not np.isfinite(values[passed]).all():
        raise InputError(f"{path} holds a thrust that is NaN or infinite in an event that passes")
    measured = np.where(np.isfinite(values), values, thrust.NOT_MEASURED).astype(np.float32)
    return {"thrust" if level == "reco" else "thrust_truth": measured, f"pass_{level}": passed}


def _labelled(folder: Path, part: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    path = folder / f"X_{part}.npy"
    x = _array(path)
    if x.ndim != 2 or x.shape[1] != len(JET_COLUMNS):
        raise InputError(f"{path} has the shape {x.shape}: it must be (events, {len(JET_COLUMNS)}): m, M, w, ln rho, tau21, pT")
    if not np.isfinite(x).all():
        raise InputError(f"{path} holds an observable that is NaN or infinite")
    return x, _flags(folder / f"y_{part}.npy", path, len(x))


def _jet_columns(x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: np.ascontiguousarray(x[:, k], dtype=np.float32) for k, name in enumerate(JET_COLUMNS)}


def _events(run: int, columns: dict[str, NDArray[Any]]) -> ak.Array:
    """Make events of columns, numbered from 1 and of weight 1."""
    n = len(next(iter(columns.values())))
    identity = {"runNumber": np.full(n, run, np.int32), "eventNumber": np.arange(1, n + 1, dtype=np.int32)}
    return ak.Array({**identity, "weight": np.ones(n, np.float32), **columns})
