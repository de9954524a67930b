"""Target, and the model of a machine that predicts seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass

from contractc.dtypes import is_complex


@dataclass(frozen=True, slots=True)
class Target:
    """Where a program runs: a backend's name and the device it is for (`cpu`, `cuda`, `cuda:90`, ...)."""

    backend: str = "numpy"
    device: str = "cpu"

    def __str__(self) -> str:
        return self.backend if self.device == "cpu" else f"{self.backend}:{self.device}"


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of one core: operations a second in a large matrix product, bytes a second, seconds a call.

    `bandwidth` is for reading and writing memory in order, `permuting` for copies that change the order of axes.

    The defaults are round numbers of a present-day server core; a measured machine replaces them.
    """

    flops_float32: float = 1.2e11
    flops_float64: float = 6.0e10
    flops_other: float = 1.0e9
    bandwidth: float = 1.5e10
    permuting: float = 6.0e9
    call: float = 1.0e-6

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


def physical_memory() -> int | None:
    """Return the bytes of memory this machine has, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
