"""What every section of the demo prints: a title, the plan, seconds beside the peers', and checked values."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log2
from string import ascii_letters
from time import perf_counter
from typing import Any

import numpy as np
import opt_einsum

Arguments = list[Any]
"""A network in the interleaved form: `[x, ("a", "b"), y, ("b", "c"), ("a", "c")]`."""

PEERS = ("np.einsum", "opt_einsum")

MOST_ELEMENTS = 2.0**26
"""A peer whose path has a larger intermediate than this is not run (2**26 float64 are 512 MiB)."""

MOST_OPERATIONS = 1e11
MOST_OBJECT_OPERATIONS = 1e8
"""Nor is one whose path has more operations than this, on numbers and on Python objects."""

SLOW = 2.0
"""Seconds; what takes longer is not called a second time."""


@dataclass
class Report:
    """Prints, counts the checks and remembers those that failed."""

    checks: int = 0
    failed: list[str] = field(default_factory=list)

    def section(self, title: str, *lines: str) -> None:
        """Print the title of a section and what it is about."""
        print(f"\n== {title} " + "=" * max(3, 76 - len(title)), *lines, sep="\n")

    def say(self, *lines: str) -> None:
        """Print `lines`."""
        print(*lines, sep="\n")

    def plan(self, plan: object, ends: int = 2) -> None:
        """Print a plan: its head, the first and last `ends` steps, and its summary."""
        head, titles, *steps, total = str(plan).split("\n")
        first, last = steps[:ends], steps[max(ends, len(steps) - ends) :]
        lines = _fitted(titles, first + last)
        between = len(steps) - len(first) - len(last)
        if between:
            lines.insert(1 + ends, f"  ... {between} more ...")
        print(head, *lines, total, sep="\n")

    def check(self, what: str, value: Any, truth: Any, *, by: str, within: float = 0.0) -> None:
        """Print `value` beside the `truth` found `by` another algorithm; they may differ by `within`.

        `within` is an absolute difference; with 0 the two have to be equal.
        """
        self.checks += 1
        difference = abs(value - truth)
        good = bool(difference <= within)
        if within == 0:
            verdict = "equal" if good else f"WRONG by {difference}"
        else:
            verdict = f"difference {difference:.1e}, {'allowed' if good else 'WRONG: allowed'} {within:.0e}"
        print(f"{what}: {_number(value)}", f"  {by}: {_number(truth)}  ({verdict})", sep="\n")
        if not good:
            self.failed.append(what)

    def small(self, what: str, difference: float, *, within: float) -> None:
        """Print the `difference` from a truth, which may be `within`."""
        self.checks += 1
        good = difference <= within
        print(f"{what}: {difference:.1e} ({'allowed' if good else 'WRONG: allowed'} {within:.0e})")
        if not good:
            self.failed.append(what)

    def race(self, calls: dict[str, Callable[[], Any]], beside: Arguments | str) -> dict[str, Any]:
        """Run `calls` and the peers, print the seconds of each, and return the values.

        The first call includes the search for a path; what took less than `SLOW` seconds is called again.

        Args:
            calls: by the name to print.
            beside: the network that the peers evaluate, or why they cannot.
        """
        values = {}
        print(f"{'seconds':<22}{'first call':>12}{'again':>12}")
        others = dict.fromkeys(PEERS, beside) if isinstance(beside, str) else peers(beside)
        for name, call in (*calls.items(), *others.items()):
            if isinstance(call, str):
                print(f"  {name:<20}{'-':>12}  {call}")
                continue
            values[name], first = timed(call)
            second = f"{timed(call)[1]:12.4f}" if first < SLOW else ""
            print(f"  {name:<20}{first:12.4f}{second}", flush=True)
        return values


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `call` returns, and the seconds it took."""
    start = perf_counter()
    value = call()
    return value, perf_counter() - start


def as_text(arguments: Arguments) -> tuple[str, list[Any]]:
    """Return the text form of an interleaved network, and its operands.

    Raises:
        ValueError: it has more modes than there are ASCII letters.
    """
    *pairs, output = arguments
    operands, terms = pairs[::2], pairs[1::2]
    numbers: dict[Hashable, int] = {}
    for term in terms:
        for label in term:
            numbers.setdefault(label, len(numbers))
    if len(numbers) > len(ascii_letters):
        raise ValueError(f"it has {len(ascii_letters)} letters, this network {len(numbers)} modes")

    def text(term: Sequence[Hashable]) -> str:
        return "".join(ascii_letters[numbers[label]] for label in term)

    return ",".join(map(text, terms)) + "->" + text(output), operands


def peers(arguments: Arguments) -> dict[str, Callable[[], Any] | str]:
    """Return how np.einsum and opt_einsum evaluate a network by their own paths, or why they do not."""
    return dict(zip(PEERS, (_numpy_call(arguments), _opt_einsum_call(arguments)), strict=True))


def _numpy_call(arguments: Arguments) -> Callable[[], Any] | str:
    try:
        text, operands = as_text(arguments)
    except ValueError as error:
        return str(error)
    _, printed = np.einsum_path(text, *operands, optimize="greedy")
    numbers = [re.search(rf"{title}:\s*([-+.e\d]+)", printed) for title in _NUMPY_TITLES]
    flops, largest = (float(found[1]) if found else 0.0 for found in numbers)
    too_much = _too_much(operands, flops, largest)
    return too_much or partial(np.einsum, text, *operands, optimize="greedy")


_NUMPY_TITLES = ("Optimized FLOP count", "Largest intermediate")
"""Where np.einsum_path prints what its path costs; it returns that nowhere."""


def _opt_einsum_call(arguments: Arguments) -> Callable[[], Any] | str:
    _, info = opt_einsum.contract_path(*arguments)
    too_much = _too_much(arguments[:-1:2], float(info.opt_cost), float(info.largest_intermediate))
    return too_much or partial(opt_einsum.contract, *arguments)


def _too_much(operands: Sequence[Any], flops: float, largest: float) -> str | None:
    """Return why a path is not run that costs `flops` operations with a `largest` intermediate, or None."""
    most = MOST_OBJECT_OPERATIONS if operands[0].dtype == object else MOST_OPERATIONS
    needs = [f"{flops:.1e} operations"] if flops > most else []
    needs += [f"an intermediate of 2^{log2(largest):.0f} elements"] if largest > MOST_ELEMENTS else []
    return f"not run: its path needs {' and '.join(needs)}" if needs else None


def _fitted(titles: str, rows: Sequence[str]) -> list[str]:
    """Return the lines of a step table with every column as wide as these rows need, within limits."""
    starts = [0, *(titles.index(title) for title in ("einsum", "result", "flops"))]
    ends: list[int | None] = [*starts[1:], None]
    spans = list(zip(starts, ends, strict=True))
    cells = [[_cut(row[a:b].rstrip(), 48) for a, b in spans] for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cut(text: str, width: int) -> str:
    """Return `text`, without its middle if it is wider than `width`."""
    if len(text) <= width:
        return text
    half = (width - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"


def _number(value: Any) -> str:
    """Return a number as people read it."""
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    return f"{complex(value):.15g}" if isinstance(value, (complex, np.complexfloating)) else f"{value:.15g}"
