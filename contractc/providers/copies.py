"""Copies of arrays into another memory order."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from contractc.providers.memory import fresh

SMALL = 2**15
"""Bytes up to which one call of NumPy copies an array in whatever order."""

_TILE = 2**15
"""Bytes of a tile: it is read against the order of memory, so both its copies have to stay in the nearest cache."""

_SIDE = 64
"""Elements that a tile keeps along the axis that is fast in the source and along the one fast in the copy."""


def packed(x: np.ndarray) -> np.ndarray:
    """Return `x` as a contiguous array in C order: itself if it is one, else a copy."""
    if x.flags.c_contiguous:
        return x
    if x.nbytes <= SMALL or x.dtype.hasobject:
        return np.ascontiguousarray(x)
    out = fresh(x.shape, x.dtype)
    copy_to(out, x)
    return out


def copy_to(out: np.ndarray, x: np.ndarray) -> None:
    """Write `x` to `out`, tile by tile where one is fast along another axis than the other."""
    tile = _tile(x.shape, x.strides, out.strides, x.itemsize)
    if tile is None:
        np.copyto(out, x)
        return
    steps = [range(0, n, t) for n, t in zip(x.shape, tile, strict=True)]
    for at in product(*steps):
        block: Any = tuple(slice(i, i + t) for i, t in zip(at, tile, strict=True))
        np.copyto(out[block], x[block])


@lru_cache(maxsize=1024)
def _tile(
    shape: tuple[int, ...], strides: tuple[int, ...], out_strides: tuple[int, ...], item: int
) -> tuple[int, ...] | None:
    """Return the shape of the tiles to copy by, or None where one copy of everything is as good."""
    axes = [k for k, n in enumerate(shape) if n > 1]
    if not axes:
        return None
    source = min(axes, key=lambda k: abs(strides[k]))
    target = min(axes, key=lambda k: abs(out_strides[k]))
    if source == target:
        return None
    tile = list(shape)
    size = item
    for n in shape:
        size *= n
    for k in sorted(axes, key=lambda k: -abs(strides[k])):
        if k in (source, target):
            continue
        keep = max(1, min(tile[k], _TILE * tile[k] // size))
        size = size // tile[k] * keep
        tile[k] = keep
        if size <= _TILE:
            break
    while size > _TILE:
        k = max((source, target), key=lambda k: tile[k])
        if tile[k] <= _SIDE:
            break
        keep = max(_SIDE, (tile[k] + 1) // 2)
        size = size // tile[k] * keep
        tile[k] = keep
    return tuple(tile)
