"""The loop that turns 8-bit codes into values, compiled by numba when it first runs (about a second a process).

One pass: a code is read, scaled, shifted, rounded and written while it is in a register. The same in torch's operators
is four passes, and takes three and a half times as long.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_HALF = np.uint32(16)
_NAN = np.uint16(0x7FC0)


def dequantize(
    out: npt.NDArray[Any],
    codes: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    block: int,
) -> None:
    """out[r, i] = codes[r, i] * scale[r, i // block] + offset[r, i // block], in float32.

    Multiplied, then added, each rounded, for the same bits on every processor. All arrays are C-contiguous and may be
    read-only, but for `out`. Other threads of Python run meanwhile.

    Args:
        out: [R,n] float32, or uint16 for the bits of bfloat16, rounded to the nearest, to even between two, as torch
            rounds.
        codes: [R,n]; scale, offset: [R, ceil(n / block)].
    """
    loop = _to_float32 if out.dtype == np.float32 else _to_bfloat16
    loop(out, codes, scale, offset, block)


def _loop(written: Any) -> Any:
    """The compiled loop that writes what `written`, compiled too, makes of each value."""

    @numba.njit(nogil=True, error_model="numpy")
    def run(out: Any, codes: Any, scale: Any, offset: Any, block: int) -> None:
        for row in range(codes.shape[0]):
            for number in range(scale.shape[1]):
                factor, summand = scale[row, number], offset[row, number]
                # Slices, so that the compiler knows that no index is negative: otherwise it makes no vectors.
                source = codes[row, number * block : (number + 1) * block]
                target = out[row, number * block : (number + 1) * block]
                for i in range(source.shape[0]):
                    target[i] = written(np.float32(source[i]) * factor + summand)

    return run


@numba.njit
def _float32(value: Any) -> Any:
    return value


@numba.njit
def _bfloat16(value: Any) -> Any:
    bits = np.float32(value).view(np.uint32)
    rounded = np.uint16((bits + _ROUND + ((bits >> _HALF) & _ONE)) >> _HALF)
    # False for NaN alone, whose bits rounding up could make a number of.
    return rounded if value == value else _NAN


_to_float32, _to_bfloat16 = _loop(_float32), _loop(_bfloat16)
