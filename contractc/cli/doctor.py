"""`contractc doctor`: what is installed, which targets work, and how fast this machine is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from contractc import api
from contractc.backends import REGISTRY, backend_named
from contractc.errors import StoreError
from contractc.machine import GRID, physical_memory, processor
from contractc.options import store_folder
from contractc.plans import bytes_text
from contractc.providers.known import keep
from contractc.providers.measure import measure_machine
from contractc.store import opened

PACKAGES = (
    "contractc",
    "numpy",
    "opt_einsum",
    "networkx",
    "torch",
    "triton",
    "cuda-bindings",
    "numba",
    "array-api-compat",
    "ml_dtypes",
    "threadpoolctl",
)
"""Packages that contractc can use, and itself."""


def examined(measure: bool = True) -> dict[str, Any]:
    """Return what `contractc doctor --json` prints; `measure` takes about two seconds more."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": physical_memory(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "targets": {target: _works(target) for target in _targets()},
        "store": _store(),
        "blas": _blas(),
        "rates": _rates() if measure else {},
    }
    found["advice"] = list(_advice(found))
    return found


def told(found: Mapping[str, Any]) -> str:
    """Return the same as text."""
    memory = bytes_text(found["memory"]) if found["memory"] else "unknown memory"
    lines = [
        f"Python {found['python']} on {found['platform']}",
        f"{found['processor']}, {found['cores']} cores, {memory}",
        "packages",
        *(f"  {name:17} {text or 'not installed'}" for name, text in found["packages"].items()),
        "targets",
        *(f"  {name:17} {reason or 'works'}" for name, reason in found["targets"].items()),
        f"store: {found['store']}",
        f"BLAS: {found['blas']['name']} {found['blas']['version']}, kernels for {found['blas']['core']}",
    ]
    if found["rates"]:
        lines.append("measured here, in one process, as the libraries are set")
        lines += [f"  {name:17} {_rate_text(name, x)}" for name, x in found["rates"].items()]
    return "\n".join([*lines, *(f"advice: {text}" for text in found["advice"])])


def _rate_text(name: str, rate: float) -> str:
    if name == "copy":
        return f"{bytes_text(int(rate))}/s read and written"
    return (
        f"{rate / 1e9:.1f} Gflop/s in a product of {GRID[-1]} by {GRID[-1]}"
        if rate > 1
        else f"{rate * 1e6:.2f} us"
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _targets() -> list[str]:
    names = [name for name in REGISTRY if name != "array_api"]
    return [*names, *(["torch:cuda"] if _installed("torch") else [])]


def _works(target: str) -> str | None:
    """Return why a small product cannot be compiled and run for a target, or None when it can."""
    name, _, device = target.partition(":")
    try:
        backend = backend_named(name)
        reason = backend.unavailable(device or "cpu") if hasattr(backend, "unavailable") else None
        if reason is not None:
            return str(reason)
        if not hasattr(backend, "from_portable"):
            return None
        x = backend.from_portable(np.arange(6.0).reshape(2, 3), device or "cpu")
        made = api.compile("ij,kj->ik", x, x, target=target)(x, x)
        right = np.allclose(np.asarray(backend.to_portable(made)), [[5.0, 14.0], [14.0, 50.0]])
    except Exception as error:  # whatever a broken installation raises is the finding
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None if right else "gives wrong results"


def _store() -> str:
    try:
        folder = store_folder()
        return "off (CONTRACTC_STORE)" if folder is None else str(opened(folder))
    except StoreError as error:
        return str(error)


def _features() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((set(line.split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()


def _blas() -> dict[str, str]:
    """Return what NumPy's BLAS is, and for which core its kernels were chosen."""
    config: Any = np.show_config(mode="dicts")
    about = config.get("Build Dependencies", {}).get("blas", {})
    return {
        "name": str(about.get("name", "unknown")),
        "version": str(about.get("version", "")),
        "core": _core() or "an unknown core",
    }


def _core() -> str | None:
    """Return the core type that the OpenBLAS in NumPy's wheel has chosen, or None where there is none to ask."""
    import ctypes
    from pathlib import Path

    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in sorted(folder.glob("*openblas*")):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            function = getattr(library, name, None)
            if function is not None:
                function.restype = ctypes.c_char_p
                return str(function().decode())
    return None


def _rates() -> dict[str, float]:
    """Return operations a second of NumPy's products, bytes a second of a copy, seconds of a small call.

    What was measured is kept in the store: programs of later processes are priced by it.
    """
    measured = measure_machine()
    keep(measured)
    return {
        "float32": measured.flops_float32,
        "float64": measured.flops_float64,
        "copy": measured.copying[-1][1],
        "call": measured.call,
    }


def _advice(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what would make contractc faster here."""
    core = found["blas"]["core"].lower()
    if core in ("haswell", "zen", "sandybridge", "nehalem", "prescott") and "avx512f" in _features():
        yield (
            f"NumPy's BLAS uses kernels for {found['blas']['core']}, though this processor has AVX-512; "
            "OPENBLAS_CORETYPE=SkylakeX, set before Python starts, chooses kernels that use it"
        )
    if found["packages"]["numba"] is None:
        yield "with numba (pip install contractc[fast]) large networks are planned faster"
    if found["store"].startswith("off") or "cannot be used" in found["store"]:
        yield "without a store, plans of large networks are searched anew in every process"
