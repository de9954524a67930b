"""Threads of our own, as many as NumPy's BLAS may use: while they run, each of its calls uses one.

How many that is says the BLAS itself, which has read OMP_NUM_THREADS and the like, and may have been told since (as
threadpoolctl does). Threads are lent: all loops of a process together never run more of them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:  # loaded by those who use threads
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")


class Setting(NamedTuple):
    """The number of threads of a BLAS: how it is read and how it is set."""

    read: Callable[[], int]
    write: Callable[[int], object]


@cache
def blas_setting() -> Setting | None:
    """Return how many threads the OpenBLAS of NumPy's wheel uses, or None for a NumPy built with another BLAS."""
    root = Path(np.__file__).parent
    folders = [root.parent / "numpy.libs", root / ".dylibs", root / ".libs"]
    for path in sorted(p for folder in folders for p in folder.glob("*openblas*")):
        for suffix in ("64_", ""):
            try:
                library = ctypes.CDLL(str(path))  # the one that NumPy has loaded: the file is the same
                read = getattr(library, f"scipy_openblas_get_num_threads{suffix}")
                write = getattr(library, f"scipy_openblas_set_num_threads{suffix}")
            except (OSError, AttributeError):
                continue
            read.restype, write.argtypes, write.restype = ctypes.c_int, (ctypes.c_int,), None
            return Setting(read, write)
    return None


def allowed() -> int:
    """Return how many threads may run: those of NumPy's BLAS, on the cores of this process; 1 if it does not tell."""
    setting = blas_setting()
    return 1 if setting is None else max(1, min(setting.read(), cores()))


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Lending:
    """The threads that are lent now, how many there are, and the setting of the BLAS before the first was lent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lent, self.total, self.before = 0, 1, 1


_lending = _Lending()


@contextmanager
def lent(most: int) -> Iterator[int]:
    """Give for the time of the context a number of threads, from 1 to `most`: those that are allowed and not lent.

    If more than one is given, BLAS calls of the whole process use one thread until all are back.
    """
    if most <= 1:
        yield 1
        return
    with _lending.lock:
        setting = blas_setting()
        if not _lending.lent:
            _lending.total, _lending.before = allowed(), setting.read() if setting else 1
        given = max(1, min(most, _lending.total - _lending.lent))
        if given > 1:
            _lending.lent += given
            if setting is not None:
                setting.write(1)
    try:
        yield given
    finally:
        if given > 1:
            with _lending.lock:
                _lending.lent -= given
                if setting is not None and not _lending.lent:
                    setting.write(_lending.before)


def side_by_side(run: Callable[[int, int], T], count: int, workers: int) -> list[T]:
    """Return what `run` returns for `workers` ranges of the numbers below `count`, in order, all at the same time.

    The last range runs in this thread, the others in threads that are kept; `workers` have been `lent`.
    """
    edges = [count * w // workers for w in range(workers + 1)]
    if workers == 1:
        return [run(0, count)]
    pool = _pool()
    futures = [pool.submit(copy_context().run, run, edges[w], edges[w + 1]) for w in range(workers - 1)]
    try:
        last = run(edges[-2], count)
    finally:  # nothing runs on behind the caller's back
        for future in futures:
            future.exception()
    return [*(future.result() for future in futures), last]


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that are kept; each is started when it is first needed."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="contractc")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a child
