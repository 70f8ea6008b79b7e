"""What was done to the histograms on their way into a workspace: nothing is changed, folded or left out that is not listed here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """One bin that was treated.

    Attributes
    ----------
    channel, sample
    variation
        "nominal", a variation, or "staterror" for the MC error of the nominal bin.
    bin
        Number of the bin in the histogram, from 0, without flow bins and before `Channel.bins` picks; row by row in a flattened one.
    before, after
        Content in events. The two are equal for an empty bin that was kept.
    reason
        "negative" or "empty".
    """

    channel: str
    sample: str
    variation: str
    bin: int
    before: float
    after: float
    reason: str


@dataclass(frozen=True)
class Yield:
    """Yield in events of a template with treated bins, over the bins used, before and after all treatment."""

    channel: str
    sample: str
    variation: str
    before: float
    after: float


@dataclass(frozen=True)
class Outside:
    """Events of a template that are not in the bins used, or came into them from flow bins; `sample` is "data" for the observed ones.

    Attributes
    ----------
    flow
        Events in flow bins that were left out.
    folded
        Events in flow bins that were added to the bins at the edges.
    unused
        Events in bins that `Channel.bins` does not name.
    """

    channel: str
    sample: str
    variation: str
    flow: float
    folded: float
    unused: float


@dataclass
class Report:
    """Everything that a workspace has otherwise than the histograms it came from; printed, one line each.

    Attributes
    ----------
    changes, yields, outside
        Bins treated, what that does to the yields, and events outside the bins used.
    symmetrised
        (channel, sample, variation) of sides that were made by mirroring the other one at the nominal template.
    unfilled
        (channel, sample, uncertainty) on the variation axis of which the sample has no events at all, and which it is taken not to have.
    dropped
        (channel, sample, uncertainty) left out with ``drop=``.
    absent
        (channel, sample) left out of the channel, since there are no events of it in the bins used.
    asimov
        Channels whose observation is the expectation.
    """

    changes: list[Change] = field(default_factory=list)
    yields: list[Yield] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    symmetrised: list[tuple[str, str, str]] = field(default_factory=list)
    unfilled: list[tuple[str, str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    asimov: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as lists and dicts that JSON holds."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for each thing done, or the sentence that nothing was."""
        return "\n".join(self._lines()) or "nothing was treated, folded or left out"

    def _lines(self) -> list[str]:
        return [
            *(f"{c.channel}/{c.sample}/{c.variation} bin {c.bin}: {c.reason}, {c.before:g} -> {c.after:g}" for c in self.changes),
            *(f"{y.channel}/{y.sample}/{y.variation}: treated bins take the yield from {y.before:g} to {y.after:g}" for y in self.yields),
            *(f"{o.channel}/{o.sample}/{o.variation}: {_where(o)}" for o in self.outside),
            *(f"{'/'.join(names)}: mirrored from the other side" for names in self.symmetrised),
            *(f"{'/'.join(names)}: no events, taken as an uncertainty that the sample does not have" for names in self.unfilled),
            *(f"{'/'.join(names)}: left out as asked" for names in self.dropped),
            *(f"{'/'.join(names)}: no events in the bins used, left out of the channel" for names in self.absent),
            *(f"{channel}: the observation is the expectation" for channel in self.asimov),
        ]


def _where(outside: Outside) -> str:
    parts = {"left out in flow bins": outside.flow, "folded in from flow bins": outside.folded, "in bins not used": outside.unused}
    return ", ".join(f"{events:g} events {what}" for what, events in parts.items() if events)
