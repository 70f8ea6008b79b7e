"""What events in the layout of NanoAOD begin with: run, luminosity block, event number and weight."""

from __future__ import annotations

import awkward as ak
import numpy as np


def numbered(events: ak.Array, run: int, luminosity_block: int, first: int) -> ak.Array:
    """Put `run`, `luminosity_block`, event numbers from `first` on and weights of 1 before the branches of `events`."""
    n = len(events)
    identity = {
        "run": np.full(n, run, np.uint32),
        "luminosityBlock": np.full(n, luminosity_block, np.uint32),
        "event": np.arange(first, first + n, dtype=np.uint64),
        "genWeight": np.ones(n, np.float32),
    }
    return ak.zip({**identity, **{name: events[name] for name in events.fields}}, depth_limit=1)
