"""Program -> code that runs. A backend is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

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
        """Return operand `number` as an array of this library, on the device of `like`."""


def backend_named(name: str) -> Any:
    """Return the backend called `name` (a module with the members of `Backend`).

    Raises:
        UnsupportedError: there is none.
    """
    if name not in REGISTRY:
        raise UnsupportedError(f"no backend is called {name!r:.40}; there are {', '.join(REGISTRY)}")
    return import_module(REGISTRY[name])
