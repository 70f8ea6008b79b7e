"""Reads damaged files for test_mutations.py: their names come on standard input, and for each goes out an answer or a sentence, as JSON."""

from __future__ import annotations

import hashlib
import json
import resource
import sys

import awkward as ak
import numpy as np

import hepgen
from hepgen.errors import HepgenError
from hepgen.events import read

LARGEST = 6 << 30  # bytes of address space: a forged size must not take the machine along


def answer(kind: str, name: str) -> str:
    """What the file says, as a hash."""
    if kind == "model":
        model = hepgen.load(name)
        return hashlib.sha256(np.ascontiguousarray(model.log_ratio(ak.Array({"x": [0.5, 1.5]}))).tobytes()).hexdigest()
    events = read(name, columns=["Jet_pt", "run", "x"])  # by name, as every model does: a damaged name is a column that is not there
    content = json.dumps(ak.to_list(events)) + str(events.type)
    return hashlib.sha256(content.encode()).hexdigest()


def main() -> None:
    kind = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST, LARGEST))
    for line in sys.stdin:
        try:
            found = {"answer": answer(kind, line.strip())}
        except HepgenError as error:
            found = {"error": str(error)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
