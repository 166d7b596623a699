"""Label Studio's run-length code of brush masks: a stream of bits over RGBA values.

Source: `decode_rle` of label-studio-sdk (converter/brush.py). 32 bits: how many values; 5 bits: bits of a value - 1;
4 x 4 bits: four lengths - 1 that a run's count may have; then runs: 1 bit "all the same", 2 bits which of the four
lengths, the count - 1, the value.
"""

from __future__ import annotations

import numpy as np

from pipelines.labeling.labelled import Mask

_COUNT_BITS = (3, 4, 8, 16)
_CHANNELS = 4


def brush_rle(mask: Mask) -> bytes:
    """[h,w] bool -> the code, 255 in all four channels where the mask is."""
    flat = mask.ravel()
    edges = np.concatenate([[0], np.flatnonzero(np.diff(flat.astype(np.int8))) + 1, [flat.size]])
    pieces = [f"{flat.size * _CHANNELS:032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in _COUNT_BITS)]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        left = (stop - start) * _CHANNELS
        while left:
            count = min(left, 2 ** _COUNT_BITS[-1])
            which = next(i for i, bits in enumerate(_COUNT_BITS) if count <= 2**bits)
            pieces.append(f"1{which:02b}{count - 1:0{_COUNT_BITS[which]}b}{value}")
            left -= count
    bits = "".join(pieces)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
