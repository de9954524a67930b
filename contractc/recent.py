"""What a call looks up before anything else is loaded: the code met last for a text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Any

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
