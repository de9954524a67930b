"""Torch programs that run as the NumPy program where they can: its steps are chosen, laid out and fused by price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from contractc.backends import backend_named
from contractc.cost import BLAS
from contractc.fused import all_unfused
from contractc.machine import Target
from contractc.programs import Broadcast, Call, Contract, Loop, Program, Reshape, Step

NUMPY = Target()

LEAST_SECONDS = 3e-5
"""Predicted seconds from which on looking at the tensors as arrays, some microseconds, is made up for."""

LONG_SECONDS = 2e-4
"""Predicted seconds from which on torch's threads, if it may use several, are worth more than a better program."""

REMARK = "tensors of the CPU that neither autograd nor a tracer watches run as the numpy program"


def hostable(program: Program, target: Target) -> bool:
    """Return whether `program` for `target` may run as a NumPy program."""
    exponents = {v.number for s in program.steps if isinstance(s, Call) for v in s.outs if v.dtype == "int64"}
    return (
        target.backend == "torch"
        and target.device == "cpu"
        and program.semiring == "sum_product"
        and bool(program.inputs)
        and exponents.isdisjoint(program.results)
        and all(v.dtype in BLAS for n, v in program.values().items() if n not in exponents)
        and all(map(_known, program.steps))
    )


def worth_hosting(program: Program, target: Target, seconds: float) -> bool:
    """Return whether `program` for `target`, predicted to take `seconds`, is to run as a NumPy program."""
    return seconds >= LEAST_SECONDS and hostable(program, target)


def _known(step: Step) -> bool:
    """Return whether `step`, and what it loops over, is a step that the NumPy program of a network has too."""
    if isinstance(step, Loop):
        return not step.scaled and all(map(_known, step.body.steps))
    return isinstance(step, Contract | Reshape | Broadcast | Call)


def alone(program: Program, seconds: float) -> bool:
    """Return whether a hostable `program` runs as the NumPy program only where torch has one thread.

    Slices do so anywhere: a memory limit is kept by their NumPy program.
    """
    return seconds >= LONG_SECONDS and not any(isinstance(step, Loop) for step in program.steps)


def hosted(
    run: Callable[..., Any],
    program: Program,
    seconds: float,
    constants: Sequence[Any],
    backend: Any,
    ahead: bool,
) -> Callable[..., Any]:
    """Return the code `run` of a hostable `program` that runs as the NumPy program for tensors nobody watches.

    Programs of `LONG_SECONDS` do so only where torch has one thread (`alone`).

    Args:
        ahead: that program is made now, not when it is first needed.
    """

    def make() -> Callable[..., Any]:
        return compiled(for_numpy(program, ahead), backend.hosted.arrays(constants))

    made = make() if ahead else None
    both: Callable[..., Any] = backend.hosted.hosted(run, lambda: made or make(), alone(program, seconds))
    return both


def for_numpy(program: Program, ahead: bool = True) -> Program:
    """Return `program` fused, laid out and with a way for each step, for NumPy."""
    from contractc.lower import finished, fusers  # loading a bundle needs no lowering before its first call

    return finished(all_unfused(program), NUMPY, kernels=fusers(NUMPY) if ahead else ())


def compiled(program: Program, constants: Sequence[Any]) -> Callable[..., Any]:
    """Return the code of a program for NumPy."""
    run: Callable[..., Any] = backend_named("numpy").compile(program, constants).run
    return run
