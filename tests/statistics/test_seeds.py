"""With a seed everything is the same in another process and on another number of threads, bit for bit: fits, samples, weights, figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "seeds_program.py"
# sums over events by numpy's BLAS, whose order may follow the number of threads: measured 6e-15 for 200 000 events of 30 columns
ROUNDED = {"correlation_table": 1e-12}


def started(threads: int) -> subprocess.Popen[str]:
    count = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "NUMBA_NUM_THREADS": count}
    return subprocess.Popen([sys.executable, str(PROGRAM), count], env=environment, stdout=subprocess.PIPE, text=True)


def test_processes_and_threads_change_nothing():
    runs = [started(threads) for threads in (1, 2)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    one, two = (json.loads(output) for output in outputs)
    assert len(one) == 28
    assert one.keys() == two.keys()
    for name in one:
        a, b = (np.frombuffer(bytes.fromhex(found[name])) for found in (one, two))
        assert len(a)
        if name in ROUNDED:
            np.testing.assert_allclose(b, a, rtol=0, atol=ROUNDED[name], err_msg=name)
        else:
            assert one[name] == two[name], f"{name}: {np.abs(a - b).max():.2g}"


def test_another_seed_is_another_result():
    """What the other test compares does depend on the seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROGRAM.parent)
        import seeds_program
    import hepgen

    sim, data = seeds_program.events(500, 1), seeds_program.events(500, 2)
    features = hepgen.Features([], computed=seeds_program.NAMES)

    def fitted(seed):
        model = hepgen.Reweighter(features, ensemble=2, hidden=(8,)).fit(sim, data, epochs=1, batch_size=100, seed=seed, progress=False)
        return model.weights(sim)

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert np.abs(fitted(1) - fitted(2)).max() > 1e-3
