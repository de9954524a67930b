"""contractc compiles einsum expressions over tensor networks.

The names below are loaded when they are first used, so that `import contractc` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contractc import formats as formats
    from contractc import nn as nn
    from contractc.api import compile, contract, einsum, einsum_path, plan
    from contractc.bundle import load
    from contractc.derivatives import compile_gradients, gradients
    from contractc.errors import BundleError, EinsumError, OperandError, ResourceLimitError, UnsupportedError
    from contractc.executable import Executable, explain
    from contractc.graphical import best_assignment, marginals
    from contractc.machine import Target
    from contractc.options import Search
    from contractc.plans import Plan
    from contractc.programs import Program

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "EinsumError",
    "Executable",
    "OperandError",
    "Plan",
    "Program",
    "ResourceLimitError",
    "Search",
    "Target",
    "UnsupportedError",
    "best_assignment",
    "compile",
    "compile_gradients",
    "contract",
    "einsum",
    "einsum_path",
    "explain",
    "gradients",
    "load",
    "marginals",
    "plan",
]

_MODULES = {
    "contractc.api": ("compile", "contract", "einsum", "einsum_path", "plan"),
    "contractc.bundle": ("load",),
    "contractc.errors": (
        "BundleError",
        "EinsumError",
        "OperandError",
        "ResourceLimitError",
        "UnsupportedError",
    ),
    "contractc.executable": ("Executable", "explain"),
    "contractc.derivatives": ("compile_gradients", "gradients"),
    "contractc.graphical": ("best_assignment", "marginals"),
    "contractc.machine": ("Target",),
    "contractc.options": ("Search",),
    "contractc.plans": ("Plan",),
    "contractc.programs": ("Program",),
}


_PACKAGES = ("formats", "nn")
"""Reached as attributes; not among the names of `import *`, since `nn` needs torch."""


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"contractc.{name}")
    for module, names in _MODULES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module 'contractc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
