"""Damaged models and ROOT files: the right answer or a sentence, and never another answer, a crash or a hang."""

from __future__ import annotations

import json
import os
import random
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import Features, Reweighter
from hepgen.events import write

PROGRAM = Path(__file__).with_name("mutations_program.py")
SECONDS = 60  # longer is a hang


class Reader:
    """A process that reads files, started again when it dies."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, file: Path) -> dict[str, str]:
        if self.process is None:
            command = [sys.executable, "-W", "ignore", str(PROGRAM), self.kind]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{file}\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if ready.select(SECONDS) else None
        if not line:
            process.kill()
            _, err = process.communicate()
            self.process = None
            return {"hang" if line is None else "crash": err[-2000:]}
        found: dict[str, str] = json.loads(line)
        return found

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    made = Reader(request.param)
    yield made
    made.close()


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bits turned, bytes replaced, ends cut off, pieces left out, repeated or overwritten."""
    numbers = random.Random(seed)
    for number in range(count):
        damaged = bytearray(content)
        at, length = numbers.randrange(len(content)), numbers.randrange(1, 64)
        match number % 6:
            case 0:
                damaged[at] ^= 1 << numbers.randrange(8)
            case 1:
                damaged[at] = numbers.randrange(256)
            case 2:
                del damaged[at:]
            case 3:
                del damaged[at : at + length]
            case 4:
                damaged[at:at] = damaged[at : at + length]
            case 5:
                damaged[at : at + length] = numbers.randbytes(length)
        yield bytes(damaged)


def judged(reader: Reader, file: Path, content: bytes, count: int, seed: int) -> Counter[str]:
    file.write_bytes(content)
    right = reader(file)["answer"]
    found: Counter[str] = Counter()
    for damaged in mutations(content, count, seed):
        file.write_bytes(damaged)
        result = reader(file)
        kind = next(iter(result))
        if kind == "answer":
            kind = "right" if result["answer"] == right else "wrong"
        elif kind == "error":
            assert "\n" not in result["error"].strip(), result["error"]
        else:
            pytest.fail(f"{kind} on a damaged file, kept as {file}: {result[kind]}")
        found[kind] += 1
        if kind == "wrong" and os.environ.get("HEPGEN_ROBUSTNESS_KEEP"):
            (file.parent / f"wrong-{found['wrong']}").write_bytes(damaged)
    return found


@pytest.mark.parametrize("reader", ["model"], indirect=True)
def test_a_damaged_model_is_refused(reader: Reader, tmp_path: Path, times: Callable, tried: Callable) -> None:
    x = np.random.default_rng(1).normal(size=2000)
    model = Reweighter(Features(["x"]), ensemble=1, hidden=(4,))
    model.fit(ak.Array({"x": x}), ak.Array({"x": x + 0.2}), epochs=1, progress=False)
    model.save(tmp_path / "whole.hepgen")
    found = judged(reader, tmp_path / "model.hepgen", (tmp_path / "whole.hepgen").read_bytes(), times(60, 1500), seed=1)
    assert found["wrong"] == 0
    tried(mutations=found.total(), **found)


@pytest.mark.parametrize("reader", ["root"], indirect=True)
def test_a_damaged_root_file_with_checksums_is_refused_or_read_right(
    reader: Reader, tmp_path: Path, times: Callable, tried: Callable
) -> None:
    numbers = np.random.default_rng(2)
    jets = ak.unflatten(numbers.integers(20, 99, 600).astype(np.float32), numbers.multinomial(600, [1 / 200] * 200))
    columns = {"Jet_pt": jets, "run": np.ones(200, np.uint32), "x": numbers.integers(9, size=200).astype(float)}
    # what zstd packs, or what does not pack, has no checksum in a ROOT file: whoever turns a bit there changes a number
    write(tmp_path / "whole.root", columns, compression=uproot.ZLIB(1))
    found = judged(reader, tmp_path / "events.root", (tmp_path / "whole.root").read_bytes(), times(60, 1500), seed=2)
    tried(mutations=found.total(), **found)
    assert found["error"] > 0
    assert found["wrong"] == 0
