"""The semirings an expression can be evaluated in."""

from __future__ import annotations

from dataclasses import dataclass

from contractc.errors import EinsumError


@dataclass(frozen=True, slots=True)
class Semiring:
    """A commutative semiring by the names of its operations in NumPy.

    `add` combines what is summed over, `multiply` combines operands; `zero` and `one` are their neutral
    elements as Python floats (`-inf` and `inf` have no integer form). `ordered` says that the operations
    need an order, so complex numbers are refused.
    """

    name: str
    add: str
    multiply: str
    zero: float
    one: float
    ordered: bool

    def __str__(self) -> str:
        return self.name


_INF = float("inf")

SEMIRINGS = {
    s.name: s
    for s in (
        Semiring("sum_product", "add", "multiply", 0.0, 1.0, False),
        Semiring("max_plus", "maximum", "add", -_INF, 0.0, True),
        Semiring("min_plus", "minimum", "add", _INF, 0.0, True),
        Semiring("max_times", "maximum", "multiply", 0.0, 1.0, True),
        Semiring("or_and", "logical_or", "logical_and", 0.0, 1.0, False),
        Semiring("log_sum_exp", "logaddexp", "add", -_INF, 0.0, True),
    )
}
"""Every semiring by name. `max_times` is one on non-negative values only."""


def semiring_named(name: str) -> Semiring:
    """Return the semiring called `name`; raises EinsumError if there is none."""
    found = SEMIRINGS.get(name) if isinstance(name, str) else None
    if found is None:
        raise EinsumError(f"no semiring is called {name!r}; there are {', '.join(SEMIRINGS)}")
    return found
