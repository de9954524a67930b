"""The errors contractc raises, and the one function that draws carets."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

WINDOW = 100
"""How many characters of an expression an error shows; a longer one is cut around the first caret."""


class EinsumError(ValueError):
    """The expression itself is wrong, whatever the operands are."""


class OperandError(ValueError):
    """The operands do not fit the expression or each other."""


class ResourceLimitError(MemoryError):
    """The contraction needs more memory than it may take; nothing was allocated."""


class UnsupportedError(NotImplementedError):
    """The request is meaningful, but the chosen backend or semiring cannot do it."""


class StoreError(Exception):
    """The store on disk cannot be used."""


class BundleError(Exception):
    """A bundle is damaged, not trusted, or not for this machine."""


def pointed(message: str, text: str, positions: Iterable[int]) -> str:
    """Return `message` with `text` below it and a caret under each of its `positions`.

    A long text is cut around the first position. Characters that would disturb a terminal (control,
    format, unassigned) are shown as `?`, since text is the user's and not to be trusted.

    >>> print(pointed("output mode 'm' is in no operand", "ij,jk->im", [8]))
    output mode 'm' is in no operand
      ij,jk->im
              ^
    """
    marks = set(positions)
    start, stop = 0, len(text)
    if len(text) > WINDOW:
        first = min(marks, default=0)
        start = max(0, min(first - WINDOW // 2, len(text) - WINDOW))
        stop = start + WINDOW
    head, tail = ("... " if start else ""), (" ..." if stop < len(text) else "")
    shown, carets = head, " " * len(head)
    for at in range(start, stop):
        character = text[at] if text[at].isprintable() else "?"
        shown += character
        carets += ("^" if at in marks else " ") * _width(character)
    if any(mark >= stop for mark in marks) and stop == len(text):
        carets += "^"
    return f"{message}\n  {shown}{tail}\n  {carets}".rstrip()


def _width(character: str) -> int:
    """Return how many columns of a terminal `character` takes (0, 1 or 2)."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
