"""Target, and the model of a machine that predicts seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf

from contractc.default_rates import NANOSECONDS
from contractc.dtypes import is_complex
from contractc.serial import checked, dumps, loads


@dataclass(frozen=True, slots=True)
class Target:
    """Where a program runs: a backend's name and the device it is for (`cpu`, `cuda`, `cuda:90`, ...)."""

    backend: str = "numpy"
    device: str = "cpu"

    def __str__(self) -> str:
        return self.backend if self.device == "cpu" else f"{self.backend}:{self.device}"


GRID = (1, 4, 16, 64, 256, 1024)
"""The extents m, n and k of the matrix products whose times a machine is described by."""

WORKING_SETS = (2**18, 2**20, 2**22, 2**24, 2**26)
"""Bytes of the copies whose rates describe the caches and the memory of a machine."""


@dataclass(frozen=True, slots=True)
class Products:
    """How long matrix products take that stay in cache: nanoseconds for every (m, n, k) of `GRID` cubed.

    The time is that of one product of a batch, without the `call` from Python, which is in seconds. `provider`
    names the library (see `contractc.providers`).
    """

    provider: str
    dtype: str
    call: float
    nanoseconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of one core: operations a second in a large matrix product, bytes a second, seconds a call.

    `permuting` is the rate of copies that change the order of axes.
    `products` has times of matrix products by shape, `copying` pairs of (bytes of both arrays, bytes a second)
    of copies in order, and `fresh` the extra seconds a byte of writing to memory the system has just given.

    The defaults are round numbers of a present-day server core, and those of `default_rates`; a measured machine
    (`contractc.providers.measure`) replaces them.
    """

    flops_float32: float = 1.2e11
    flops_float64: float = 6.0e10
    flops_other: float = 1.0e9
    permuting: float = 6.0e9
    call: float = 1.0e-6
    products: tuple[Products, ...] = tuple(Products(*row) for row in NANOSECONDS)
    copying: tuple[tuple[float, float], ...] = (
        (2**18, 6.0e10),
        (2**20, 5.5e10),
        (2**22, 2.8e10),
        (2**24, 2.6e10),
        (2**26, 1.2e10),
    )
    fresh: float = 6.0e-11

    def __str__(self) -> str:
        return _table(self)

    def faults(self) -> list[str]:
        """Return each rule this machine breaks, as a sentence; nothing means it is well formed."""
        rates = (self.flops_float32, self.flops_float64, self.flops_other, self.permuting)
        found = [f"a rate is {rate}" for rate in rates if not 0 < rate < inf]
        for table in self.products:
            if len(table.nanoseconds) != len(GRID) ** 3:
                found.append(f"{table.provider} has {len(table.nanoseconds)} times, not {len(GRID) ** 3}")
            found += [f"{table.provider} has a time of {t} ns" for t in table.nanoseconds if not 0 <= t < inf]
        found += [f"copies have the rate {rate}" for _, rate in self.copying if not 0 < rate < inf]
        return found if self.copying else [*found, "no rate of copies"]

    def to_json(self) -> str:
        """Return this machine as canonical JSON."""
        return dumps(self)

    @staticmethod
    def from_json(text: str) -> Machine:
        """Return the machine in `text`; raises ValueError if it is none or breaks a rule."""
        machine: Machine = checked(loads(text, (Machine, Products)))
        return machine

    def rate(self, dtype: str) -> float:
        """Return the operations a second of a large matrix product in `dtype`."""
        if dtype in ("float32", "complex64", "float16", "bfloat16"):
            real = self.flops_float32
        elif dtype in ("float64", "complex128"):
            real = self.flops_float64
        else:
            return self.flops_other
        return real / 4 if is_complex(dtype) else real


DEFAULT_MACHINE = Machine()


def _table(machine: Machine) -> str:
    """Return the rates of square products by provider and dtype, of copies by size, and of calls, as text."""
    lines = ["products [n, n] x [n, n], in 1e9 operations a second"]
    lines.append(f"  {'':18}" + "".join(f"{'n=' + str(n):>8}" for n in GRID[1:]))
    for table in machine.products:
        diagonal = [table.nanoseconds[k * (len(GRID) ** 2 + len(GRID) + 1)] for k in range(1, len(GRID))]
        rates = [2 * n**3 / max(t, 1e-3) for n, t in zip(GRID[1:], diagonal, strict=True)]
        lines.append(f"  {table.provider + ' ' + table.dtype:18}" + "".join(f"{rate:8.1f}" for rate in rates))
    copies = ", ".join(f"{rate / 1e9:.1f} GB/s at {size / 1e6:.3g} MB" for size, rate in machine.copying)
    calls = ", ".join(f"{t.provider} {t.dtype} {t.call * 1e6:.2g} us" for t in machine.products)
    return "\n".join([*lines, f"copies, read and written: {copies}", f"calls: {calls}"])


def physical_memory() -> int | None:
    """Return the bytes of memory this machine has, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
