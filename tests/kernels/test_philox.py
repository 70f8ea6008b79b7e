from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen.errors import InputError, UsageError
from hepgen.kernels import backend, dispatch, philox

core = dispatch.core()
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(name == "cpp" and core is None, reason="hepgen._core is not built"))
    for name in ("reference", "cpp")
]
FULL = 0xFFFFFFFF
# known answers of Random123 (kat_vectors, philox4x32 10 rounds)
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL, FULL, FULL, FULL), (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    assert tuple(int(w) for w in philox.philox4x32(counter, key)) == words
    if core is not None:
        assert core.philox_block(counter, key) == words


@pytest.mark.skipif(core is None, reason="hepgen._core is not built")
@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 50),
    words=st.integers(1, 4),
    columns=st.integers(0, 9),
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**32 - 1),
)
def test_backends_give_the_same_bits(rows, words, columns, seed, stream):
    identity = np.random.default_rng(seed % 2**32).integers(0, 2**64, (rows, words), dtype=np.uint64)
    for draw in (philox.normal, philox.uniform):
        outcomes = []
        for name in ("cpp", "reference"):
            with backend(name):
                outcomes.append(draw(identity, columns, seed=seed, stream=stream))
        assert outcomes[0].shape == (rows, columns)
        assert outcomes[0].dtype == np.float64
        assert outcomes[0].tobytes() == outcomes[1].tobytes()


@pytest.mark.parametrize("name", BACKENDS)
class TestNumbers:
    def test_do_not_depend_on_chunks_or_columns(self, name):
        identity = np.arange(1000, dtype=np.uint64)
        with backend(name):
            whole = philox.normal(identity, 5, seed=3, stream=1)
            parts = np.concatenate([philox.normal(part, 5, seed=3, stream=1) for part in np.array_split(identity, 7)])
            fewer = philox.normal(identity, 2, seed=3, stream=1)
        assert whole.tobytes() == parts.tobytes()
        assert (fewer == whole[:, :2]).all()

    def test_every_part_of_the_key_matters(self, name):
        base = np.arange(6, dtype=np.uint64).reshape(3, 2)
        with backend(name):
            draws = [
                philox.uniform(base, 2, seed=1),
                philox.uniform(base, 2, seed=1 + 2**32),
                philox.uniform(base, 2, seed=1, stream=1),
                philox.uniform(base[:, ::-1], 2, seed=1),
                philox.uniform(np.column_stack([base, np.zeros(3, np.uint64)]), 2, seed=1),
            ]
        assert len(np.unique(np.stack(draws))) == sum(d.size for d in draws)

    def test_distributions(self, name):
        with backend(name):
            u = philox.uniform(np.arange(100_000), 2, seed=11)
            z = philox.normal(np.arange(100_000), 2, seed=12)
        assert u.min() > 0
        assert u.max() < 1
        assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
        assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
        assert abs(np.corrcoef(z.T)[0, 1]) < 0.012

    def test_normals_are_the_quantiles_of_the_uniforms(self, name):
        with backend(name):
            u, z = (draw(np.arange(50_000), 2, seed=8) for draw in (philox.uniform, philox.normal))
        np.testing.assert_allclose(z, scipy.special.ndtri(u), rtol=4e-15, atol=1e-15)

    def test_signed_identities_count_by_their_bits(self, name):
        with backend(name):
            signed = philox.uniform(np.array([-1, 5], dtype=np.int64), 1, seed=2)
            unsigned = philox.uniform(np.array([2**64 - 1, 5], dtype=np.uint64), 1, seed=2)
            small = philox.uniform(np.array([5], dtype=np.int16), 1, seed=2)
        assert (signed == unsigned).all()
        assert small[0, 0] == signed[1, 0]


def test_quantile_in_the_far_tails():
    p = np.array([2.0**-53, 1e-15, 1e-12, 1e-9, 1e-5, 0.02, 0.075, 0.5, 0.925, 1 - 1e-9, 1 - 2.0**-52])
    np.testing.assert_allclose(philox.normal_quantile(p), scipy.special.ndtri(p), rtol=4e-15, atol=1e-16)


@pytest.mark.skipif(core is None, reason="hepgen._core is not built")
def test_thread_count_does_not_matter():
    identity = np.arange(40_000, dtype=np.uint64)[:, np.newaxis]
    draws = [core.philox_fill(identity, 6, 1, 0, True, threads).tobytes() for threads in (1, 2, 5)]
    assert draws[0] == draws[1] == draws[2]


@pytest.mark.parametrize(
    ("identity", "columns", "options", "error", "match"),
    [
        ([1.5], 1, {"seed": 0}, InputError, "integers"),
        (np.zeros((2, 0), np.uint64), 1, {"seed": 0}, InputError, "k >= 1"),
        ([1], -1, {"seed": 0}, UsageError, "columns"),
        ([1], 1, {"seed": -1}, UsageError, "seed"),
        ([1], 1, {"seed": 2**64}, UsageError, "seed"),
        ([1], 1, {"seed": 0, "stream": 2**32}, UsageError, "stream"),
    ],
)
def test_refused(identity, columns, options, error, match):
    with pytest.raises(error, match=match):
        philox.normal(identity, columns, **options)


def test_works_without_torch():
    program = "import sys; sys.modules['torch'] = None; from hepgen.kernels import philox; print(philox.normal([1], 1, seed=0).shape)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(1, 1)"
