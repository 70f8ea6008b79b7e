"""What was published with the thrust study (ALEPH), the jets study (flow surrogates) and the tt study, with our stand-ins' columns."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError
from hepgen.samples import jets, thrust, ttbar
from hepgen.samples.nano import numbered

JET_COLUMNS = ("jet_m", "jet_mult", "jet_width", "jet_ln_rho", "jet_tau21", "jet_pt")
_TEST_RUN = 3
TTB_COLUMNS = ("MET", "MET phi", *(f"{name} {x}" for name in ("j1", "j2", "j3", "j4", "l1", "l2") for x in ("E", "pT", "eta", "phi")))
_MIN_JET_PT_MEV = 1000.0

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


def read_ttb(path: str | Path) -> ak.Array:
    """Read ``ttb.csv`` of paper D (Zenodo record 3560661), or a part of it, in the layout of the sample "ttbar".

    Parameters
    ----------
    path : the file, also compressed (.gz): a line an event of 26 numbers with spaces between and after them, in MeV. The order is that of
        the published evaluation: MET, MET phi, then E, pT, eta, phi of four jets and two leptons; four zeros stand for an object that
        is absent. Numbers past the 26th are left out, as the authors do.

    Returns
    -------
    ak.Array
        The branches of the tree ``Events`` as in `docs/samples.md`, GeV: run (2), luminosityBlock (1), event (the line, from 1),
        genWeight (1), MET, jets and leptons in the order of the file. An absent lepton is not listed.

    Raises
    ------
    InputError
        Where the file is missing or is no such table, holds a NaN, or an object that cannot be one: the order or the unit is another.
    """
    file = Path(path)
    table = _table(file, len(TTB_COLUMNS))
    objects = table[:, 2:].reshape(len(table), ttbar.JETS + ttbar.MAX_LEPTONS, len(ttbar.COORDINATES))
    present = (objects != 0).any(axis=2)
    _check_objects(file, table, objects, present)
    gev = objects * np.array([1e-3, 1e-3, 1.0, 1.0])
    where = slice(None, ttbar.JETS), slice(ttbar.JETS, None)
    jet_list, lepton_list = (gev[:, part][present[:, part]] for part in where)
    jet_counts, lepton_counts = (present[:, part].sum(axis=1) for part in where)
    events = ttbar.branches(table[:, :2] * np.array([1e-3, 1.0]), jet_list, jet_counts, lepton_list, lepton_counts)
    return numbered(events, ttbar.ORIGINAL_RUN, 1, 1)


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


def _table(path: Path, width: int) -> Floats:
    """Read the first `width` columns of a text file of numbers, of which one more is left out."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table = np.loadtxt(path, comments=None, ndmin=2)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: give the path of ttb.csv") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as lines of {width} numbers with spaces between them: {error}") from error
    if not len(table):
        raise InputError(f"{path} holds no events: give the path of ttb.csv")
    if table.shape[1] not in (width, width + 1):
        raise InputError(f"{path} has {table.shape[1]} numbers in each line: it must have {width}, {', '.join(TTB_COLUMNS[:6])}, ...")
    return np.asarray(table[:, :width], dtype=np.float64)


def _check_objects(path: Path, table: Floats, objects: Floats, present: NDArray[np.bool_]) -> None:
    """Refuse events that no order and unit but others than those of ttb.csv explain."""
    energy, pt, _, phi = np.moveaxis(objects, 2, 0)
    # 3.2 and 0.999 leave room for rounding
    wrong = (pt <= 0) | (energy < 0.999 * pt) | (np.abs(phi) > 3.2)
    bad = ~np.isfinite(table).all(axis=1) | (table[:, 0] < 0) | (np.abs(table[:, 1]) > 3.2) | (wrong & present).any(axis=1)
    if bad.any():
        order = "MET, MET phi, then E, pT, eta, phi of four jets and two leptons"
        raise InputError(f"line {1 + int(np.argmax(bad))} of {path} is no event: its numbers must be finite, in the order {order}")
    small = present[:, : ttbar.JETS] & (pt[:, : ttbar.JETS] < _MIN_JET_PT_MEV)
    if small.any():
        raise InputError(
            f"line {1 + int(np.argmax(small.any(axis=1)))} of {path} has a jet with pT below {_MIN_JET_PT_MEV:g}: it must be in MeV"
        )


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
