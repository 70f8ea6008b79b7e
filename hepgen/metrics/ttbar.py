"""The 33 observables of top quark pairs in paper D."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float

Order = Literal["energy", "record"]
QUANTITIES = ("E", "pt", "eta", "phi")


class Observables(NamedTuple):
    """Observables as a `matrix` (n, k) float64 and the k `names` of its columns."""

    matrix: Float
    names: tuple[str, ...]

    def columns(self, *names: str) -> Float:
        """Return some of the columns by name, (n, names), e.g. "jet1.eta", "jet2.eta" for `delta_of`."""
        for name in names:
            if name not in self.names:
                raise UsageError(f"there is no observable {name!r} among {', '.join(self.names)}")
        return self.matrix[:, [self.names.index(name) for name in names]]


def ttbar_observables(events: Any, *, jets: str = "Jet", leptons: str = "Lepton", met: str = "MET", order: Order = "energy") -> Observables:
    """Return the observables of pp -> tt -> 4 jets and 1 or 2 leptons of which paper D takes all pairs (sec. III C): 33 columns.

    E, pt, eta, phi of jet1 ... jet4, lepton1 and lepton2; MET.pt, MET.phi; the masses m_2j, m_3j, m_4j of the leading jets, m_4j1l and
    m_4j2l with the leptons; deltaR(jet1, jet2), paper D, eq. 20; deltaphi(lepton1, MET) in [0, pi]. GeV and rad.

    A second lepton that is absent is a four-vector of zeros, as in the paper's data: its columns are 0 and m_4j2l = m_4j1l, for reference
    and generated events alike. Masses of a spacelike sum are negative: -sqrt(-m^2).

    Parameters
    ----------
    events : n events with at least four jets and one lepton; further ones are not looked at. Records or flat branches: Jet.pt or Jet_pt.
    jets, leptons : names of the collections, with pt, eta, phi and E, energy, mass or m (massless without)
    met : name of the missing transverse momentum, with pt and phi
    order : "energy", leading is the object of highest energy in its class, as in the paper; or "record", as they stand in the record

    Returns
    -------
    Observables

    Raises
    ------
    InputError
        A column that is not there, events without four jets or a lepton, values that are not finite.
    """
    from hepgen.events.expressions import EventSource, parse
    from hepgen.events.features import event_layout

    if order not in get_args(Order):
        raise UsageError(f"order is {order!r}, expected one of {', '.join(get_args(Order))}")
    source = EventSource(event_layout(events))
    jet = _objects(source, jets, 4, 4)
    lepton = _objects(source, leptons, 2, 1)
    missing = np.column_stack([_value(source, parse(f"{met}.{name}"), 0)[0] for name in ("pt", "phi")])
    if order == "energy":
        jet, lepton = (np.take_along_axis(one, np.argsort(-one[..., :1], axis=1, kind="stable"), axis=1) for one in (jet, lepton))
    names = [f"{kind}{number + 1}.{q}" for kind, k in (("jet", 4), ("lepton", 2)) for number in range(k) for q in QUANTITIES]
    derived = _derived(jet, lepton, missing)
    matrix = np.column_stack([jet.reshape(len(jet), -1), lepton.reshape(len(jet), -1), missing, *derived.values()])
    every = (*names, "MET.pt", "MET.phi", *derived)
    for name, column in zip(every, matrix.T, strict=True):
        if bad := int(np.count_nonzero(~np.isfinite(column))):
            raise InputError(f"observable {name} is NaN or infinite in {bad} events: remove them first")
    return Observables(matrix, every)


def _objects(source: Any, collection: str, number: int, needed: int) -> Float:
    """Return (n, number, 4) of E, pt, eta, phi; zeros where there is none beyond those needed."""
    from hepgen.events.expressions import parse

    found = []
    for index in range(number):
        owner = f"{collection}[{index}]"
        energy = next(
            (parse(f"{owner}.{name}") for name in ("E", "energy") if source.has(parse(f"{owner}.{name}"))), parse(f"energy({owner})")
        )
        columns = [energy, *(parse(f"{owner}.{quantity}") for quantity in QUANTITIES[1:])]
        values = [_value(source, expression, index + 1 if index < needed else None) for expression in columns]
        present = np.logical_and.reduce([there for _, there in values])
        found.append(np.where(present[:, None], np.column_stack([column for column, _ in values]), 0.0))
    return np.stack(found, axis=1)


def _value(source: Any, expression: Any, needed: int | None) -> tuple[Float, NDArray[np.bool_]]:
    from hepgen.events.expressions import evaluate

    values, present = evaluate(expression, source)
    if needed is not None and not present.all():
        many = f"fewer than {needed} of them" if needed else "none"
        raise InputError(f"{int((~present).sum())} of {len(present)} events lack {expression} ({many}): select events that have it")
    return values, present


def _derived(jet: Float, lepton: Float, missing: Float) -> dict[str, Float]:
    import vector

    def momentum(one: Float) -> Any:
        return vector.array({"pt": one[:, 1], "phi": one[:, 3], "eta": one[:, 2], "E": one[:, 0]})

    parts = [momentum(one[:, number]) for one, k in ((jet, 4), (lepton, 2)) for number in range(k)]
    found, total = {}, parts[0]
    for name, part in zip(("m_2j", "m_3j", "m_4j", "m_4j1l", "m_4j2l"), parts[1:], strict=True):
        total = total + part
        found[name] = np.asarray(total.mass, dtype=np.float64)
    met = vector.array({"pt": missing[:, 0], "phi": missing[:, 1]})
    found["deltaR(jet1, jet2)"] = np.asarray(parts[0].deltaR(parts[1]), dtype=np.float64)
    found["deltaphi(lepton1, MET)"] = np.abs(np.asarray(parts[4].deltaphi(met), dtype=np.float64))
    return found
