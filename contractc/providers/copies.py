"""Copies of arrays into another memory order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from contractc.providers import TORCH, providers
from contractc.providers.loops import COMPILING, IMPORTING, native
from contractc.providers.memory import fresh

SMALL = 2**15
"""Bytes up to which one call of NumPy copies an array in whatever order."""

_TILE = 2**19
"""Bytes of a tile, which is read against the order of memory: so much of the second-level cache both copies may use."""

_SIDE = 128
"""Elements that a tile keeps along the axis that is fast in the source and along the one fast in the copy."""

_LOCAL = 2**20
"""Bytes of an array's part that is copied within itself up to which one call copies all of it well."""

_LINES = 2**7
"""Cache lines of the source in use at a time up to which one call copies better than tiles (by 3 to 10 %): they stay in
the first-level cache. From 256 on they do not where rows lie a power of two apart."""

_BY_TORCH = ({"float16", "float32"}, {"bfloat16", "float32"})
"""Conversions that torch does with vectors, NumPy one by one."""


def packed(x: np.ndarray) -> np.ndarray:
    """Return `x` as a contiguous array in C order: itself if it is one, else a copy."""
    if x.flags.c_contiguous:
        return x
    if x.nbytes <= SMALL or x.dtype.hasobject:
        return np.ascontiguousarray(x)
    out = fresh(x.shape, x.dtype)
    copy_to(out, x)
    return out


def converted(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return `x` in another dtype: from float16 or bfloat16 to float32, or back, by torch if it is loaded."""
    pair = {x.dtype.name, dtype.name}
    if x.size < SMALL or pair not in _BY_TORCH or TORCH not in providers() or not x.flags.c_contiguous:
        return x.astype(dtype)
    from contractc.providers.torch_products import torch_convert

    out = fresh(x.shape, dtype)
    torch_convert(x, out)
    return out


@dataclass(slots=True)
class _Spent:
    """Seconds that copies by NumPy have taken in this process which compiled loops might do faster."""

    seconds: float = 0.0

    def enough(self) -> bool:
        """Return whether they took as long as it takes to compile loops, which can be done here."""
        if self.seconds <= COMPILING + (0.0 if native.loaded() else IMPORTING):
            return False
        return native.installed()


_spent = _Spent()


def copy_to(out: np.ndarray, x: np.ndarray) -> None:
    """Write `x` to `out`, which share no memory: by compiled loops, once copies have taken as long as compiling."""
    if x.nbytes <= SMALL or x.dtype.hasobject:
        np.copyto(out, x)
        return
    if _spent.enough():
        move = _move(x.shape, x.strides, out.strides, x.itemsize)
        if move is not None:
            run, table = move
            run.run(*(a.__array_interface__["data"][0] for a in (x, out, table)))
            return
    start = perf_counter()
    _copy_in_tiles(out, x)
    _spent.seconds += perf_counter() - start


@lru_cache(maxsize=1024)
def _move(
    shape: tuple[int, ...], strides: tuple[int, ...], out_strides: tuple[int, ...], item: int
) -> tuple[native.Native, np.ndarray] | None:
    """Return the compiled loops that copy such an array, and the numbers they read; None where NumPy is as good."""
    from contractc.providers.loops import moves  # loaded by those who compile

    found = moves.planned(_fused_axes(shape, strides, out_strides), item)
    return None if found is None else (found[0], np.array(found[1], np.int64))


def _copy_in_tiles(out: np.ndarray, x: np.ndarray) -> None:
    """Write `x` to `out`, tile by tile where one is fast along another axis than the other."""
    shape, tile = _tile(x.shape, x.strides, out.strides, x.itemsize)
    if tile is None:
        np.copyto(out, x)
        return
    out, x = out.reshape(shape), x.reshape(shape)  # views, since axes are fused only where both can be
    steps = [range(0, n, t) for n, t in zip(shape, tile, strict=True)]
    for at in product(*steps):
        block: Any = tuple(slice(i, i + t) for i, t in zip(at, tile, strict=True))
        np.copyto(out[block], x[block])


@lru_cache(maxsize=1024)
def _tile(
    shape: tuple[int, ...], strides: tuple[int, ...], out_strides: tuple[int, ...], item: int
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the shape with axes fused that are one in both arrays, and the shape of the tiles to copy by.

    That is None where one copy of everything is as good.
    """
    axes = _fused_axes(shape, strides, out_strides)
    fused = tuple(n for n, _, _ in axes)
    if not axes:
        return fused, None
    source = min(range(len(axes)), key=lambda k: abs(axes[k][1]))
    target = min(range(len(axes)), key=lambda k: abs(axes[k][2]))
    by_source = sorted(range(len(axes)), key=lambda k: -abs(axes[k][1]))
    inside = item * prod(fused)
    for k, n in enumerate(fused):  # outer axes that are outermost in both
        if by_source[k] != k:
            break
        inside //= max(1, n)
    again = abs(axes[source][2])  # after so much of the copy a line of the source is used again
    lines = prod(n for n, _, after in axes if abs(after) < again)
    if source == target or inside <= _LOCAL or lines <= _LINES:
        return fused, None
    tile = list(fused)
    size = item * prod(fused)
    for k in by_source:
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
    return fused, tuple(tile)


def _fused_axes(
    shape: Sequence[int], strides: Sequence[int], out_strides: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Return (extent, stride, stride in the copy) of the axes, neighbours that are one axis in both arrays fused."""
    axes: list[tuple[int, int, int]] = []
    for n, a, b in zip(shape, strides, out_strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == a * n and axes[-1][2] == b * n:
            axes[-1] = (axes[-1][0] * n, a, b)
        else:
            axes.append((n, a, b))
    return axes
