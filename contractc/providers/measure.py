"""Measuring this machine: a Machine whose rates were seen here, in about two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from contractc.machine import GRID, WORKING_SETS, Machine, Products
from contractc.providers import NUMPY, providers

Clock = Callable[[], float]
_ROUNDS = 3
_SLICE = 2e-4
"""Seconds that one timing should take: long against the clock, short against a change of speed."""


def measure_machine(clock: Clock = time.perf_counter, names: Sequence[str] | None = None) -> Machine:
    """Return the rates of this machine, measured in one thread as the array libraries are set now.

    Args:
        clock: returns seconds; an argument so that tests need no time.
        names: providers to measure; by default those that are loaded.
    """
    names = providers() if names is None else names
    tables = [
        Products(name, dtype, call, _products(clock, name, dtype, call))
        for name in names
        for call in (_one_call(clock, name),)
        for dtype in ("float32", "float64")
    ]
    copying = [(size, _bandwidth(clock, size)) for size in WORKING_SETS]
    large = {t.dtype: 2e9 * GRID[-1] ** 3 / t.nanoseconds[-1] for t in tables if t.provider == NUMPY}
    return replace(
        Machine(),
        flops_float32=large["float32"],
        flops_float64=large["float64"],
        products=tuple(tables),
        copying=tuple(copying),
        fresh=_fresh(clock),
        call=_best(clock, _small_call()),
    )


def _best(clock: Clock, call: Callable[[], Any]) -> float:
    """Return the seconds of one call: the least of a few rounds, each long enough for the clock."""
    start = clock()
    call()
    once = max(clock() - start, 1e-7)
    count = max(1, min(100, int(_SLICE / once)))
    best = float("inf")
    for _ in range(_ROUNDS):
        start = clock()
        for _ in range(count):
            call()
        best = min(best, (clock() - start) / count)
    return best


def _products(clock: Clock, provider: str, dtype: str, call: float) -> tuple[float, ...]:
    """Return nanoseconds a product for every (m, n, k) of the grid, as one of a batch that stays in cache."""
    return tuple(1e9 * _product(clock, provider, dtype, call, *shape) for shape in product(GRID, repeat=3))


def _product(clock: Clock, provider: str, dtype: str, call: float, m: int, n: int, k: int) -> float:
    most = 1_000_000 // ((m * k + k * n + m * n) * 8)
    count = max(1, min(most, 1 + 500_000 // (m * n * k)))
    a, b = np.ones((count, m, k), dtype), np.ones((count, k, n), dtype)
    out = np.empty((count, m, n), dtype)
    seconds = _best(clock, _multiplied(provider, a, b, out))
    return max(seconds - call, seconds / 4) / count


def _one_call(clock: Clock, provider: str) -> float:
    """Return the seconds of the smallest product."""
    x, out = np.ones((1, 1, 1)), np.empty((1, 1, 1))
    return _best(clock, _multiplied(provider, x, x, out))


def _multiplied(provider: str, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Callable[[], Any]:
    if provider == NUMPY:
        if len(out) == 1:
            return lambda: np.dot(a[0], b[0], out=out[0])
        return lambda: np.matmul(a, b, out=out)
    from contractc.providers.torch_products import torch_matmul

    if len(out) == 1:
        return lambda: torch_matmul(a[0], b[0], out[0])
    return lambda: torch_matmul(a, b, out)


def _bandwidth(clock: Clock, size: int) -> float:
    """Return bytes a second, read and written, of copies whose source and destination take `size` bytes."""
    source = np.ones(size // 16)
    copy = np.empty_like(source)
    return size / _best(clock, lambda: np.copyto(copy, source))


def _fresh(clock: Clock) -> float:
    """Return the extra seconds a byte of writing to memory that the system has just given."""
    count = 2**23
    kept = np.empty(count)
    reused = _best(clock, lambda: kept.fill(1.0))
    return max(0.0, _best(clock, lambda: np.empty(count).fill(1.0)) - reused) / kept.nbytes


def _small_call() -> Callable[[], Any]:
    x = np.ones((4, 4))
    return lambda: x.dot(x)
