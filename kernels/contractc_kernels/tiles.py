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


@triton.jit
def log_add_exp(x, y):
    """Return log(exp(x) + exp(y)) without overflow; infinities as in np.logaddexp."""
    high = greater(x, y)
    below = tl.where(x == y, 0.0, smaller(x, y) - high)  # the difference of equal infinities is none
    return high + tl.log(1.0 + tl.exp(below))


@triton.jit
def rounded(x):
    """Return float32 numbers rounded to tf32, to nearest; the tensor cores cut the rest off by themselves.

    On Hopper a tf32 factor has to be converted on its way to shared memory, if it does not lie along the sum, for
    its loads to stay 16 bytes wide.
    """
    return tl.inline_asm_elementwise(
        "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
    )
