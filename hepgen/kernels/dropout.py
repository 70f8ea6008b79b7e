"""Which hidden units of a perceptron are left out, in numpy: the same bits as the compiled kernel makes.

A unit is left out with a probability of k / 65536, k rounded, and the others are scaled by 65536 / (65536 - k): exact on average.
The counter of Philox4x32-10 is (unit, layer * 256 + k / 2, tile of 64 events, stream), the key the seed. Words 2 (k % 2) and
2 (k % 2) + 1 of a block hold binary digit k of a number per event, and bit by bit ``out = digit ? out | word : out & word`` from the least
significant digit of the probability on makes one bit an event.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hepgen.kernels.philox import philox4x32

_STREAM, _DIGITS, _TILE = 0x44524F50, 16, 64


def dropout_factors(probability: float, seed: int, layer: int, units: int, n: int) -> Tensor:
    """What the units (n, units) of a hidden layer are multiplied by, 0 or the scale, as float64; layers count from 1."""
    parts = round(probability * 2**_DIGITS)
    tiles = -(-n // _TILE)
    unit = np.arange(units, dtype=np.uint64)[None, :]
    tile = np.arange(tiles, dtype=np.uint64)[:, None]
    out = np.zeros((2, tiles, units), dtype=np.uint64)
    for k in range(_DIGITS):
        block = np.uint64(layer << 8 | k // 2)
        words = philox4x32(np.broadcast_arrays(unit, block, tile, np.uint64(_STREAM)), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
        word = np.stack(words[2 * (k % 2) : 2 * (k % 2) + 2])
        out = out | word if parts >> k & 1 else out & word
    bit = np.arange(32, dtype=np.uint64)
    left_out = (out[..., None] >> bit & np.uint64(1)).astype(bool)  # (half, tile, unit, event)
    kept = ~left_out.transpose(1, 0, 3, 2).reshape(tiles * _TILE, units)[:n]
    return torch.from_numpy(kept * (2**_DIGITS / (2**_DIGITS - parts)))
