"""Domino tilings of a chessboard: a mode is an edge between two squares, 1 where a domino covers both."""

from __future__ import annotations

from functools import partial
from math import ceil, cos, pi

import numpy as np

import contractc
from demo.report import Arguments, Report


def tilings(rows: int, columns: int) -> Arguments:
    """Return the network whose value is the number of ways to tile a board with dominoes.

    A square is a tensor over the edges to its neighbours: 1 where exactly one of them is used, 0 elsewhere.
    Every dark square is covered together with one of its at most four neighbours, and that settles all: with
    n dark squares no entry of an intermediate is above 4**n, on the 8x8 board (whose border has fewer
    neighbours) 2**36 * 3**12 * 2**2 < 2**58. So int64 cannot overflow.
    """
    arguments: Arguments = []
    for row in range(rows):
        for column in range(columns):
            here = _square(row, column)
            term = []
            if column > 0:
                term.append(_square(row, column - 1) + here)
            if column < columns - 1:
                term.append(here + _square(row, column + 1))
            if row > 0:
                term.append(_square(row - 1, column) + here)
            if row < rows - 1:
                term.append(here + _square(row + 1, column))
            arguments += [exactly_one(len(term)), tuple(term)]
    return [*arguments, ()]


def exactly_one(modes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the tensor of extents 2 that is 1 where exactly one of its `modes` is 1."""
    used = np.indices((2,) * modes).sum(axis=0)
    return np.asarray(used == 1, dtype=np.int64)


def kasteleyn(rows: int, columns: int) -> int:
    """Return the number of tilings by Kasteleyn's formula (1961), rounded from float64.

    The product over j <= rows/2 and k <= columns/2 of 4 cos^2(pi j / (rows+1)) + 4 cos^2(pi k / (columns+1)).
    """
    product = 1.0
    for j in range(1, ceil(rows / 2) + 1):
        for k in range(1, ceil(columns / 2) + 1):
            product *= 4 * cos(pi * j / (rows + 1)) ** 2 + 4 * cos(pi * k / (columns + 1)) ** 2
    return round(product)


def count_tilings(rows: int, columns: int) -> int:
    """Return the number of tilings by a broken profile: squares are filled one after the other.

    A state has a bit for each column: whether the next free square there is covered already.
    """
    states = {0: 1}
    for _ in range(rows):
        for column in range(columns):
            following: dict[int, int] = {}
            for covered, ways in states.items():
                bit, right = 1 << column, 2 << column
                if covered & bit:
                    found = [covered ^ bit]
                else:
                    found = [covered | bit]
                    if column < columns - 1 and not covered & right:
                        found.append(covered | right)
                for key in found:
                    following[key] = following.get(key, 0) + ways
            states = following
    return states.get(0, 0)


def _square(row: int, column: int) -> str:
    """Return the name of a square as chess players say it, such as e4."""
    return f"{chr(ord('a') + column)}{row + 1}"


def run(report: Report) -> None:
    """Print the section."""
    report.section(
        "dominoes: tilings of the 8x8 chessboard",
        "64 squares are tensors 'exactly one of my edges is used', 112 edges are modes (int64: below 2^58)",
    )
    arguments = tilings(8, 8)
    report.plan(contractc.plan(*arguments))
    values = report.race({"contractc": partial(contractc.contract, *arguments)}, arguments)
    report.check("tilings", values["contractc"], kasteleyn(8, 8), by="Kasteleyn's formula")
    report.check("tilings", values["contractc"], count_tilings(8, 8), by="broken profile")
