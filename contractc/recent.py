"""What a call looks up before anything else is loaded: the code met last for a text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

MISS: Any = type("Miss", (), {"__repr__": lambda self: "MISS", "__slots__": ()})()
"""What a generated function returns when the operands are not the ones it was generated for."""

NOTHING = object()
"""Stands for the argument that `einsum()` lacks."""

Codes = tuple[int, Callable[..., Any], tuple[Callable[..., Any], ...]]
"""For a text: how many operands it has, the code met last, and older code for other shapes and dtypes."""

latest: dict[Hashable, Codes] = {}
latest_einsum: dict[Hashable, Codes] = {}
"""What the calls look up by their text, when it comes without options and with plain arrays."""


def moved_ahead(codes: Codes, run: Callable[..., Any]) -> Codes:
    """Return `codes` with `run`, which is one of the older ones, as the code met last."""
    return codes[0], run, (codes[1], *(other for other in codes[2] if other is not run))


def traced() -> bool:
    """Return whether this call is being traced by torch.compile or torch.export rather than run."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


P = ParamSpec("P")
R = TypeVar("R")


def looking_up(codes: dict[Hashable, Codes]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator of a call that runs the code met last for its text, where there is any and no option is given.

    What the call itself does takes microseconds; that no option is given is one look at `options` instead of a dozen.
    """

    def decorated(call: Callable[P, R]) -> Callable[P, R]:
        @wraps(call)
        def look_up(expression: Any = NOTHING, /, *operands: Any, **options: Any) -> Any:
            if not options and type(expression) is str:
                entry = codes.get(expression)
                if entry is not None and entry[0] == len(operands) and not traced():
                    result = entry[1](*operands)
                    if result is not MISS:
                        return result
                    for run in entry[2]:
                        result = run(*operands)
                        if result is not MISS:
                            codes[expression] = moved_ahead(entry, run)
                            return result
            if expression is NOTHING:
                return call(*operands, **options)
            return call(expression, *operands, **options)

        return look_up

    return decorated
