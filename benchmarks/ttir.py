"""A lint over Triton's first IR: 32-bit arithmetic on the way to an address that can leave 32 bits.

Every integer gets the interval of the numbers it would be without a limit: program ids from the size of the grid, the
number of a loop from its bounds, everything else from those. An addition or multiplication of 32-bit integers whose
interval is wider than 32 bits is a fault if an address depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf

Interval = tuple[float, float]
"""The least and the largest number that there can be."""

EVERYTHING: Interval = (-inf, inf)
NARROW: Interval = (-(2.0**31), 2.0**31 - 1)

_RESULT = re.compile(r"(%[\w$.-]+)(?::\d+)? = \"?([a-z_]+\.[a-z_]+)\"?\s*(.*)")
_FOR = re.compile(r"scf\.for (%[\w$.-]+) = (%[\w$.-]+) to (%[\w$.-]+) step (%[\w$.-]+)")
_NAME = re.compile(r"%[\w$.-]+")
_WIDTH = re.compile(r"(?:x|: |to |<)i(\d+)\b")
_SAME = {"tt.splat", "tt.expand_dims", "tt.broadcast", "tt.reshape", "tt.trans", "arith.extsi", "arith.extui"}
_COMPUTED = {"arith.addi", "arith.subi", "arith.muli"}


def overflows(ttir: str, programs: int, arguments: Mapping[str, Interval]) -> list[str]:
    """Return the lines of `ttir` with 32-bit arithmetic that can overflow on the way to an address.

    Args:
        programs: how many there are.
        arguments: the numbers that integer parameters can be, by their names; others can be anything.
    """
    known: dict[str, Interval] = {f"%{name}": interval for name, interval in arguments.items()}
    reads: dict[str, list[str]] = {}
    faults: dict[str, str] = {}
    addressed: list[str] = []
    for line in ttir.splitlines():
        text = re.sub(r" loc\(.*", "", line.strip())
        loop = _FOR.search(text)
        if loop:
            number, first, last, _ = loop.groups()
            known[number] = (known.get(first, EVERYTHING)[0], known.get(last, EVERYTHING)[1] - 1)
            reads[number] = [first, last]
            continue
        found = _RESULT.match(text)
        if found is None:
            continue
        name, op, rest = found.groups()
        given = _NAME.findall(rest.partition(" : ")[0])
        if op == "tt.addptr":
            addressed.append(given[1])
            continue
        reads[name] = given
        known[name] = _interval(op, rest, [known.get(x, EVERYTHING) for x in given], programs)
        widths = _WIDTH.findall(rest)
        low, high = known[name]
        if op in _COMPUTED and widths and widths[-1] == "32" and not NARROW[0] <= low <= high <= NARROW[1]:
            faults[name] = text
    seen: set[str] = set()
    while addressed:
        name = addressed.pop()
        if name not in seen:
            seen.add(name)
            addressed += reads.get(name, [])
    return [text for name, text in faults.items() if name in seen]


def _interval(op: str, rest: str, given: list[Interval], programs: int) -> Interval:
    """Return the numbers that an operation can give."""
    if op == "arith.constant":
        number = re.match(r"(?:dense<)?(-?\d+)(?:>| :)", rest)
        return EVERYTHING if number is None else (float(number[1]),) * 2
    if op == "tt.get_program_id":
        return 0, programs - 1
    if op == "tt.get_num_programs":
        return 1, programs
    if op == "tt.make_range":
        end, start = (int(re.search(rf"{word} = (\d+)", rest)[1]) for word in ("end", "start"))  # type: ignore[index]
        return start, end - 1
    if op in _SAME and given:
        return given[0]
    if len(given) != 2:
        return EVERYTHING
    (a, b), (c, d) = given
    if op == "arith.addi":
        return a + c, b + d
    if op == "arith.subi":
        return a - d, b - c
    if op == "arith.muli":
        products = [x * y if x and y else 0.0 for x in (a, b) for y in (c, d)]  # 0 times infinity is 0 here
        return min(products), max(products)
    if op == "arith.minsi":
        return min(a, c), min(b, d)
    if op == "arith.maxsi":
        return max(a, c), max(b, d)
    if op == "arith.divsi" and a >= 0 and d >= 1:
        return a // d if d < inf else 0.0, b // max(c, 1) if b < inf else inf
    if op == "arith.remsi" and a >= 0:
        return 0, max(0, min(b, d - 1))
    return EVERYTHING
