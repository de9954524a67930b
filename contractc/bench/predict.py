"""Predicted seconds of a compiled expression: of its steps as they run, not as the search priced them."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, prod

from contractc.executable import Executable
from contractc.lower.fuse import library_seconds
from contractc.machine import Machine
from contractc.programs import Contract, Loop, Program
from contractc.providers import loops, providers
from contractc.providers.known import this_machine


def predicted_seconds(executable: Executable, machine: Machine | None = None) -> float | None:
    """Return the predicted seconds of `executable` on a CPU, or None where a step has no price.

    A step of compiled loops is priced by their schedule, any other by the best way of the libraries.
    """
    if executable.target.backend != "numpy":
        return None
    found = _seconds(executable.program, machine or this_machine())
    return found if isfinite(found) else None


def _seconds(program: Program, machine: Machine) -> float:
    total = 0.0
    for step in program.steps:
        if isinstance(step, Loop):
            total += prod(program.extents[m] for m in step.modes) * _seconds(step.body, machine)
        elif not isinstance(step, Contract):
            total += machine.call
        elif step.how in (loops.HOW, loops.HOW_FIRST):
            total += loops.predicted(program, step)
        else:
            total += library_seconds(program, replace(step, how=""), machine, providers())
    return total
