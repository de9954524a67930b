"""The hand-written parts of generated kernels: the order of tiles, wide coordinates, additions of semirings."""

import triton
import triton.language as tl


@triton.jit
def grouped(number, tiles_m, tiles_n, group: tl.constexpr):
    """Return the tile (m, n) with this number when `group` tiles along m share each tile along n.

    Neighbouring programs then read the same rows and columns, which are found in the L2 cache.
    """
    span = group * tiles_n
    first = number // span * group
    high = tl.minimum(tiles_m - first, group)
    inside = number % span
    return first + inside % high, inside // high


@triton.jit
def wide(x):
    """Return `x` as 64-bit integers; `x` may be a number of the loop, which the interpreter has as an int."""
    return tl.full((), 0, tl.int64) + x


@triton.jit
def greater(x, y):
    """Return the larger of two, NaN if one of them is (as np.maximum)."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(x, y):
    """Return the smaller of two, NaN if one of them is (as np.minimum)."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
