"""The two-dimensional Ising model: its partition function as a network whose modes are the spins.

Z is the sum over all spins s = +-1 of exp(beta * sum of s_i s_j over neighbours): a mode for each spin,
shared by the up to four 2x2 tensors exp(beta s t) between it and its neighbours.
"""

from __future__ import annotations

from functools import partial
from math import exp, log, sqrt
from typing import Any

import numpy as np

import contractc
from demo.report import Arguments, Report, timed

CRITICAL = 2 / log(1 + sqrt(2))
"""Temperature of the phase transition of the infinite lattice (Onsager 1944)."""


def ising(rows: int, columns: int, beta: float, *, torus: bool) -> Arguments:
    """Return the network whose value is Z at inverse temperature `beta`.

    On a `torus` the last row and column are neighbours of the first, else the border is open.
    """
    bond = np.exp(beta * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    arguments: Arguments = []
    for row in range(rows):
        for column in range(columns):
            here = f"{row}.{column}"
            if torus or row < rows - 1:
                arguments += [bond, (here, f"{(row + 1) % rows}.{column}")]
            if torus or column < columns - 1:
                arguments += [bond, (here, f"{row}.{(column + 1) % columns}")]
    return [*arguments, ()]


def kaufman(rows: int, columns: int, beta: float) -> float:
    """Return ln Z of the torus, exact for every size.

    B. Kaufman, Physical Review 76 (1949) 1232: with cosh g_k = cosh(2 beta) coth(2 beta) - cos(pi k / n) and
    g_0 = 2 beta + ln tanh beta,
    2 Z = (2 sinh 2 beta)^(m n / 2) * [P(cosh, odd k) + P(sinh, odd k) + P(cosh, even k) + P(sinh, even k)],
    where P(f, ks) is the product of 2 f(m g_k / 2) over the n odd or even k below 2 n. Above the critical
    temperature g_0 is negative, and so is the last term.
    """
    m, n = rows, columns
    ratio = np.cosh(2 * beta) / np.tanh(2 * beta)
    gamma = np.arccosh(np.maximum(ratio - np.cos(np.pi * np.arange(2 * n) / n), 1.0))
    gamma[0] = 2 * beta + log(np.tanh(beta))
    logs, signs = [], []
    for first in (1, 0):
        half = m * gamma[first::2] / 2
        logs += [np.sum(np.logaddexp(half, -half)), np.sum(_log_of_2_sinh(np.abs(half)))]
        signs += [1.0, float(np.prod(np.sign(half)))]
    top = max(logs)
    total = sum(sign * exp(value - top) for sign, value in zip(signs, logs, strict=True))
    return m * n / 2 * log(2 * np.sinh(2 * beta)) + float(top) + log(total) - log(2)


def transfer(rows: int, columns: int, beta: float) -> float:
    """Return ln Z of the lattice with open border, adding spin after spin in logarithms.

    The state has an axis for each column: ln of the sum over all spins so far but the latest of each column.
    """
    aligned = beta * np.array([[1.0, -1.0], [-1.0, 1.0]])
    state = np.zeros((2,) * columns)
    for row in range(rows):
        for column in range(columns):
            old = np.moveaxis(state, column, 0)
            if row > 0:
                new = np.stack([np.logaddexp(old[0] + aligned[0, t], old[1] + aligned[1, t]) for t in (0, 1)])
            else:
                new = old.copy()
            state = np.moveaxis(new, 0, column)
            if column > 0:
                pair = (1,) * (column - 1) + (2, 2) + (1,) * (columns - column - 1)
                state = state + aligned.reshape(pair)
    top = float(state.max())
    return top + log(float(np.exp(state - top).sum()))


def log_value(mantissa: Any, exponent: int) -> float:
    """Return ln of mantissa * 2**exponent."""
    return log(float(mantissa)) + exponent * log(2)


def _log_of_2_sinh(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return ln(2 sinh x) for x >= 0, -inf at 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(x + np.log(-np.expm1(-2 * x)))


def run(report: Report) -> None:
    """Print the section."""
    report.section("ising: magnets on a grid", "Spins are modes of extent 2, neighbours are 2x2 tensors.")
    _torus(report, 12)
    _open_lattice(report, 16, temperature=0.5)


def _torus(report: Report, size: int) -> None:
    report.say("", f"{size}x{size} torus at three temperatures, planned and compiled once")
    arguments = ising(size, size, 1.0, torus=True)
    shapes = [x.shape if k % 2 == 0 else x for k, x in enumerate(arguments[:-1])]
    compiled, seconds = timed(partial(contractc.compile, *shapes, arguments[-1], strip_exponent=True))
    report.plan(compiled.plan)
    report.say(f"search and compilation: {seconds:.2f} s")
    for name, temperature in (("below", 1.8), ("at", CRITICAL), ("above", 3.0)):
        arguments = ising(size, size, 1 / temperature, torus=True)
        (mantissa, exponent), seconds = timed(partial(compiled, *arguments[:-1:2]))
        where = f"{name} the transition (T = {temperature:.4f})"
        truth = kaufman(size, size, 1 / temperature)
        report.check(f"ln Z {where}", log_value(mantissa, exponent), truth, by="Kaufman", within=1e-10)
        report.say(f"  contractc: {seconds:.2f} s, mantissa {float(mantissa):.15f}, exponent {exponent}")
    report.race({}, arguments)


def _open_lattice(report: Report, size: int, temperature: float) -> None:
    report.say("", f"{size}x{size} with open border at T = {temperature}, where Z is too large for float64")
    arguments = ising(size, size, 1 / temperature, torus=False)
    report.plan(contractc.plan(*arguments))
    with np.errstate(over="ignore", invalid="ignore"):
        exact = partial(contractc.contract, *arguments, strip_exponent=True)
        plain = partial(contractc.contract, *arguments)
        values = report.race({"with exact exponent": exact, "contractc": plain}, arguments)
    for name in ("contractc", "opt_einsum"):
        report.say(f"plain value by {name}: {values[name]}")
    mantissa, exponent = values["with exact exponent"]
    report.say(f"with exact exponent: {float(mantissa):.15f} * 2^{exponent}")
    truth = transfer(size, size, 1 / temperature)
    value = log_value(mantissa, exponent)
    report.check("ln Z", value, truth, by="transfer matrix in logarithms", within=1e-10)
