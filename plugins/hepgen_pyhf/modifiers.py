"""What scales and moves a sample in pyhf's words: normfactor, lumi, normsys, histosys and staterror."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepgen.errors import UsageError
from hepgen.variations import NOMINAL, SIDES
from hepgen_pyhf.templates import Templates
from hepgen_pyhf.treatment import STATERROR, Contents

LUMI = "lumi"


@dataclass(frozen=True)
class Settings:
    """What the user says of all channels, checked.

    Attributes
    ----------
    signal : samples that are signal
    normfactors : free factor -> samples, that of interest first
    normsys : name -> sample -> (up, down) factors of its yield
    lumi : relative uncertainty, None where there is none
    lumi_samples, staterror : samples that have it
    """

    signal: frozenset[str]
    normfactors: Mapping[str, frozenset[str]]
    normsys: Mapping[str, Mapping[str, tuple[float, float]]]
    lumi: float | None
    lumi_samples: frozenset[str]
    staterror: frozenset[str]

    @classmethod
    def of(
        cls,
        names: set[str],
        signal: str | Sequence[str],
        poi: str,
        normfactors: Mapping[str, str | Sequence[str]],
        normsys: Mapping[str, Mapping[str, float | tuple[float, float]]],
        lumi: float | None,
        lumi_samples: Sequence[str] | None,
        staterror: bool | Sequence[str],
    ) -> Settings:
        """Check the user's words against the names of the samples; UsageError for what does not fit."""
        if not names:
            raise UsageError("there is no sample in the channels: give at least one channel with the signal")
        if poi in normfactors:
            raise UsageError(f"'{poi}' is the parameter of interest and one of the normfactors: name one otherwise")
        if lumi is not None and not 0 < lumi < 1:
            raise UsageError(f"lumi is a relative uncertainty between 0 and 1, such as 0.017, not {lumi}")
        factors = {poi: signal, **normfactors}
        return cls(
            signal=_known(signal, names, "signal"),
            normfactors={name: _known(samples, names, f"the normfactor '{name}'") for name, samples in factors.items()},
            normsys={name: _factors(name, of_sample, names) for name, of_sample in normsys.items()},
            lumi=lumi,
            lumi_samples=frozenset(names) if lumi_samples is None else _known(lumi_samples, names, LUMI),
            staterror=_known(staterror, names, STATERROR) if not isinstance(staterror, bool) else frozenset(names if staterror else ()),
        )

    def parameters(self, contents: Sequence[Contents], parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return what the measurement says of parameters, after checking that each name is one parameter of one kind.

        Raises
        ------
        UsageError
            A name that is taken by two kinds of parameters, settings of a parameter that does not exist, or no signal in any channel.
        """
        if not any(sample in self.signal for found in contents for sample in found.samples):
            raise UsageError("no channel has events of the signal in the bins used: the parameter of interest would scale nothing")
        kinds = {
            "a free factor": set(self.normfactors),
            "the luminosity": set() if self.lumi is None else {LUMI},
            "an uncertainty": set(self.normsys) | {name for c in contents for found in c.samples.values() for name in found.uncertainties},
            "MC statistics": {_staterror_name(found.channel) for found in contents},
        }
        _check_names(kinds, parameters)
        own = {} if self.lumi is None else {LUMI: _lumi_settings(self.lumi)}
        return [{"name": name, **own.get(name, {}), **parameters.get(name, {})} for name in dict.fromkeys((*own, *parameters))]


def sample_modifiers(contents: Contents, sample: str, settings: Settings) -> list[dict[str, Any]]:
    """Return the modifiers of a sample in a channel; UsageError for a name that it has from its histogram and from ``normsys=``."""
    found = contents.samples[sample]
    given = {name: of_sample[sample] for name, of_sample in settings.normsys.items() if sample in of_sample}
    twice = sorted(set(given) & set(found.uncertainties))
    if twice:
        raise UsageError(f"'{sample}' has the uncertainty '{twice[0]}' in its histogram and in normsys: drop it from one of them")
    modifiers = [_modifier(name, "normfactor") for name, samples in settings.normfactors.items() if sample in samples]
    if settings.lumi is not None and sample in settings.lumi_samples:
        modifiers.append(_modifier(LUMI, "lumi"))
    modifiers += [_modifier(name, "normsys", {"hi": up, "lo": down}) for name, (up, down) in given.items()]
    for name in found.uncertainties:
        modifiers += _shape_and_yield(name, found)
    if sample in contents.uncertain:
        modifiers.append(_modifier(_staterror_name(contents.channel), STATERROR, np.sqrt(found.variances).tolist()))
    return modifiers


def _shape_and_yield(name: str, found: Templates) -> list[dict[str, Any]]:
    """Return the histosys and the normsys of an uncertainty, which share one nuisance parameter."""
    nominal, up, down = (found.values[variation] for variation in (NOMINAL, *(name + side for side in SIDES)))
    total, total_up, total_down = nominal.sum(), up.sum(), down.sum()
    norm = _modifier(name, "normsys", {"hi": float(total_up / total), "lo": float(total_down / total)})
    if len(nominal) == 1:
        return [norm]
    shapes = {"hi_data": (up * (total / total_up)).tolist(), "lo_data": (down * (total / total_down)).tolist()}
    return [_modifier(name, "histosys", shapes), norm]


def _modifier(name: str, kind: str, data: Any = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "data": data}


def _staterror_name(channel: str) -> str:
    return f"{STATERROR}_{channel}"


def _lumi_settings(relative: float) -> dict[str, Any]:
    low, high = max(1 - 10 * relative, 0.0), 1 + 10 * relative
    return {"auxdata": [1.0], "sigmas": [float(relative)], "inits": [1.0], "bounds": [[low, high]]}


def _known(samples: str | Iterable[str], names: Collection[str], what: str) -> frozenset[str]:
    asked = [samples] if isinstance(samples, str) else list(samples)
    lost = [sample for sample in asked if sample not in names]
    if lost or not asked:
        named = f"the sample '{lost[0]}', which no channel has" if lost else "no sample"
        raise UsageError(f"{what} names {named}: choose from {', '.join(sorted(names))}")
    return frozenset(asked)


def _factors(name: str, of_sample: Mapping[str, float | tuple[float, float]], names: Collection[str]) -> dict[str, tuple[float, float]]:
    """Factors up and down from the relative changes of a normsys."""
    _known(of_sample, names, f"the normsys '{name}'")
    found = {}
    for sample, change in of_sample.items():
        up, down = change if isinstance(change, tuple | list) else (change, -change)
        if not all(math.isfinite(part) and part > -1 for part in (up, down)):
            raise UsageError(f"the normsys '{name}' changes '{sample}' by ({up}, {down}): give relative changes above -1, such as 0.05")
        found[sample] = (1 + float(up), 1 + float(down))
    return found


def _check_names(kinds: Mapping[str, set[str]], parameters: Mapping[str, Any]) -> None:
    taken: dict[str, str] = {}
    for kind, members in kinds.items():
        for name in sorted(members):
            if name in taken:
                raise UsageError(f"the parameter '{name}' is {taken[name]} and {kind}: name one of them otherwise")
            taken[name] = kind
    for name in parameters:
        if name not in taken:
            raise UsageError(f"parameters names '{name}', which is no parameter: there are {', '.join(sorted(taken))}")
