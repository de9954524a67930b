"""Program -> code that runs. A backend is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from contractc.errors import UnsupportedError
from contractc.operands import Operand
from contractc.programs import Program

REGISTRY = {
    "numpy": "contractc.backends.numpy",
    "torch": "contractc.backends.torch",
    "array_api": "contractc.backends.array_api",
    "triton": "contractc.backends.triton",
}
"""Every backend by name. Adding one means adding it here, and nowhere else."""


class Compiled(NamedTuple):
    """What a backend makes of a program: a function of its inputs, the source, and a note for each step."""

    run: Callable[..., Any]
    source: str
    notes: tuple[str, ...]


class Backend(Protocol):
    """What a backend module has."""

    def refuses(self, program: Program) -> str | None:
        """Return why `program` cannot run here, or None when it can."""

    def compile(self, program: Program, constants: Sequence[Any]) -> Compiled:
        """Return the code for `program`; `constants` are its constants' arrays, in order."""

    def promote(self, operands: Sequence[Operand]) -> str:
        """Return the dtype in which this library combines arrays like `operands`."""

    def as_array(self, x: Any, number: int, like: Any) -> Any:
        """Return operand `number` as an array of this library, on the device of `like`.

        A backend whose device need not be there to compile for it also has `as_given`, the same for what operands
        are described by, and `compile_once` for what is computed from constants while compiling.
        """


class Portable(Protocol):
    """What a backend has besides, if its programs can be saved in bundles.

    `unavailable`, `version`, `binaries` and `from_binaries` may be missing.
    """

    def to_portable(self, x: Any) -> np.ndarray:
        """Return a constant as a NumPy array; raises UnsupportedError, with the reason, if there is none."""

    def from_portable(self, x: np.ndarray, device: str) -> Any:
        """Return the constant that `to_portable` gave, on `device`."""

    def unavailable(self, device: str) -> str | None:
        """Return why nothing runs on `device` here, or None."""

    def version(self) -> str:
        """Return the library and its version, for people to read."""

    def binaries(self, program: Program, device: str) -> Mapping[str, bytes]:
        """Return the compiled code of `program` for `device`, and what its launch has to know, as named files.

        Needs no device. Raises UnsupportedError, with the reason, where it cannot be compiled.
        """

    def from_binaries(
        self, program: Program, constants: Sequence[Any], binaries: Mapping[str, bytes], device: str
    ) -> Compiled:
        """Return the code for `program` made of what `binaries` gave, without compiling.

        Raises UnsupportedError, with the reason, if they are not for this device or cannot be loaded.
        """


def backend_named(name: str) -> Any:
    """Return the backend called `name` (a module with the members of `Backend`).

    Raises:
        UnsupportedError: there is none.
    """
    if name not in REGISTRY:
        raise UnsupportedError(f"no backend is called {name!r:.40}; there are {', '.join(REGISTRY)}")
    return import_module(REGISTRY[name])
