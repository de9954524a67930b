"""Target, and the model of a machine that predicts seconds."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache
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


def processor() -> str:
    """Return the name of the processor as Linux tells it, else what Python knows: at least its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            found = next(names, "")
    except OSError:
        found = ""
    return found or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def processor_features() -> frozenset[str]:
    """Return what the processor can do, by Linux's names for x86, such as avx2; nothing where that is not told."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                (frozenset(line.split()[2:]) for line in file if line.startswith("flags")), frozenset()
            )
    except OSError:
        return frozenset()


def physical_memory() -> int | None:
    """Return the bytes of memory this machine has, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class Gpu:
    """Rates of a GPU: bytes a second, operations a second by kind of arithmetic, seconds of a launch.

    `source` says where they come from. `bandwidth` is that of a copy in order, `permuting` of one that changes the
    order of axes; `narrow`, `tf32`, `float64` and `int8` are rates of products on the tensor cores, `scalar` that of
    float32 outside of them. `l2` is the rate at which all programs together read the L2 cache, `turn` the seconds
    that one turn of a loop takes at least, `shared` the bytes of shared memory of a program. `library_tf32` tells
    that torch has been allowed to multiply float32 as tf32.
    """

    name: str
    arch: int
    source: str
    bandwidth: float
    permuting: float
    l2: float
    narrow: float
    tf32: float
    float64: float
    scalar: float
    int8: float
    processors: int
    shared: int
    launch: float = 4.0e-6
    turn: float = 2.5e-7
    library_tf32: bool = False

    def __str__(self) -> str:
        rates = f"{self.bandwidth / 1e12:.2f} TB/s, {self.narrow / 1e12:.0f} Tflop/s bfloat16"
        return f"{self.name} (sm_{self.arch}; {rates}; {self.source})"

    def dot_rate(self, dtype: str, precision: str) -> float:
        """Return the operations a second of products of tiles."""
        if dtype in ("float16", "bfloat16"):
            return self.narrow
        if dtype in ("int8", "bool"):
            return self.int8
        if dtype in ("float64", "complex128"):
            return self.float64
        return {"fast": self.tf32, "default": self.tf32 / 3, "strict": self.scalar}[precision]

    def library_rate(self, dtype: str) -> float:
        """Return the operations a second of the library's matrix product; it has no tf32x3 and no integers."""
        if dtype.startswith(("int", "uint", "bool")):
            return self.scalar / 20
        return self.dot_rate(dtype, "fast" if self.library_tf32 else "strict")

    def faults(self) -> list[str]:
        """Return each rule this GPU breaks, as a sentence; nothing means it is well formed."""
        rates = (self.bandwidth, self.permuting, self.l2, self.narrow, self.tf32, self.float64, self.scalar)
        found = [
            f"a rate is {rate}" for rate in (*rates, self.int8, self.launch, self.turn) if not 0 < rate < inf
        ]
        return found + [f"there are {n}" for n in (self.processors, self.shared) if n < 1]

    def to_json(self) -> str:
        """Return this GPU as canonical JSON."""
        return dumps(self)

    @staticmethod
    def from_json(text: str) -> Gpu:
        """Return the GPU in `text`; raises ValueError if it is none or breaks a rule."""
        gpu: Gpu = checked(loads(text, (Gpu,)))
        return gpu


ATTAINED_BANDWIDTH, ATTAINED_PRODUCTS = 0.9, 0.8
"""The shares of a data sheet's rates that are counted on: on an H200, a large copy reached 4.3 of 4.8 TB/s and a large
bfloat16 product 790 of 989 Tflop/s. For everything else they are assumed."""


def _from_sheet(
    name: str,
    arch: int,
    memory: float,
    narrow: float,
    tf32: float,
    float64: float,
    scalar: float,
    int8: float,
    processors: int,
    shared: int,
    l2: float,
) -> Gpu:
    """Return a GPU from its data sheet: TB/s, and Tflop/s without sparsity; `l2` and `permuting` are assumed."""
    copied, product = ATTAINED_BANDWIDTH * memory * 1e12, ATTAINED_PRODUCTS * 1e12
    return Gpu(
        name, arch, "data sheet, not measured", copied, 0.6 * copied, l2, product * narrow, product * tf32,
        product * float64, 0.9e12 * scalar, product * int8, processors, shared * 1024,
    )  # fmt: skip


H200 = _from_sheet("H200", 90, 4.8, 989, 494.5, 67, 67, 1979, 132, 227, 1.0e13)
"""NVIDIA H200 SXM: "NVIDIA H200 Tensor Core GPU" data sheet (its rates with sparsity, halved)."""

H100 = _from_sheet("H100", 90, 3.35, 989, 494.5, 67, 67, 1979, 132, 227, 1.0e13)
"""NVIDIA H100 SXM: "NVIDIA H100 Tensor Core GPU" data sheet (its rates with sparsity, halved)."""

A100 = _from_sheet("A100", 80, 2.039, 312, 156, 19.5, 19.5, 624, 108, 163, 5.0e12)
"""NVIDIA A100 80GB SXM: "NVIDIA A100 Tensor Core GPU" data sheet."""

GPUS = (H200, H100, A100)
"""What stands in for a GPU that was not measured: the first with its name, else the first of its architecture."""
