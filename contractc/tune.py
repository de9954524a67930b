"""What measurement chooses, on NumPy arrays: ways to compute the steps of a program, and the order of contraction."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from contractc.backends import numpy as numpy_backend
from contractc.backends.steps import NARROW, ways
from contractc.backends.steps.choose import arranged
from contractc.backends.steps.tasks import task_of
from contractc.dtypes import to_numpy
from contractc.executable import Executable
from contractc.fused import all_unfused, unfused
from contractc.machine import Machine
from contractc.plans import seconds_text
from contractc.programs import Contract, Loop, Program, Step, Value
from contractc.providers import loops, providers
from contractc.providers.known import this_machine

Clock = Callable[[], float]

MOST_CANDIDATES = 3
"""Ways of a step that are measured: those predicted to be fastest."""

ROUNDS = 5
"""Each candidate runs so often, all in turn, in a new order each round, so that noise falls on all alike."""

HOPELESS = 4.0
"""A candidate whose first call takes so many times the best first call is not run again."""

MARGIN = 0.9
"""What another way has to take of the seconds of the model's choice to replace it: closer ones are noise."""

_ROUND = 2e-4
"""Seconds for which a short call is repeated in a round."""


def tuned(
    program: Program,
    machine: Machine | None = None,
    names: Sequence[str] | None = None,
    clock: Clock = time.perf_counter,
) -> Program:
    """Return `program` with the fastest of the best predicted ways of each large step, measured on random numbers.

    Fused steps are measured against the same steps one by one. The answer is data: the words in `Contract.how`.

    Args:
        machine, names: what the ways are priced by, and the providers they may use.
        clock: returns seconds; an argument so that tests need no time.

    Before:  %2: [i, k] = contract %0 %1 over j  # gemm, matmul, by torch
    After:   %2: [i, k] = contract %0 %1 over j  # gemm, matmul
    """
    machine, names = machine or this_machine(), providers() if names is None else names
    known = program.values()
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=tuned(step.body, machine, names, clock))
        elif isinstance(step, Contract) and step.how and not program.dynamic:
            step = _fastest(program, step, known, machine, names, clock)
        steps.append(step)
    whole = replace(program, steps=tuple(steps))
    if not any(isinstance(s, Contract) and s.path and not s.how for s in steps):
        return whole
    return arranged(_pairs(whole), machine, names)


def fastest(executables: Sequence[Executable], clock: Clock = time.perf_counter) -> Executable:
    """Return the executable that takes least on random numbers: the first, unless another is clearly faster.

    All compute the same network in different orders; what they took is among the remarks of the one returned.
    """
    first = executables[0]
    inputs = [first.program.value(v.number) for v in first.program.inputs]
    calls = {str(k): executable.run for k, executable in enumerate(executables)}
    seconds = _timed(calls, inputs, first.program.extents, clock)
    best = min(seconds, key=lambda name: seconds[name])
    chosen = best if seconds[best] < MARGIN * seconds["0"] else "0"
    others = ", ".join(seconds_text(s) for name, s in seconds.items() if name != chosen)
    remark = f"  the order was timed: {seconds_text(seconds[chosen])}, others {others}"
    return replace(executables[int(chosen)], remarks=(*executables[int(chosen)].remarks, remark))


def _pairs(program: Program) -> Program:
    """Return `program` with the fused steps that lost their `how` as pairwise steps; the others stay."""
    kept = {s.out.number: s for s in program.steps if isinstance(s, Contract) and s.path and s.how}
    plain = [
        replace(s, path=()) if isinstance(s, Contract) and s.out.number in kept else s for s in program.steps
    ]
    made = all_unfused(replace(program, steps=tuple(plain)))
    return replace(made, steps=tuple(kept.get(s.outs[0].number, s) for s in made.steps))


def _fastest(
    program: Program,
    step: Contract,
    known: Mapping[int, Value],
    machine: Machine,
    names: Sequence[str],
    clock: Clock,
) -> Contract:
    """Return `step` with the way that took least; a fused step without one if its pairs took less."""
    candidates: dict[str, Program] = {step.how: _alone(program, step, known)}
    if step.how == loops.HOW:
        pairs = arranged(unfused(program, step), machine, names) if step.path else None
        if pairs is not None:
            candidates[""] = pairs
    elif step.how != NARROW:
        task = task_of(program, replace(step, how=""), known)
        for way in [] if task is None else ways(task, machine, names)[:MOST_CANDIDATES]:
            candidates.setdefault(way.how, _alone(program, replace(step, how=way.how), known))
    if len(candidates) < 2:
        return step
    seconds = _measured(candidates, [known[i] for i in step.inputs], program.extents, clock)
    best = min(seconds, key=lambda how: seconds[how])
    if seconds[best] >= MARGIN * seconds[step.how]:
        return step
    return replace(step, how=best)


def _alone(program: Program, step: Contract, known: Mapping[int, Value]) -> Program:
    """Return the program of one step of `program`; its operands are numbered in the order it reads them."""
    inputs = tuple(replace(known[i], number=k) for k, i in enumerate(step.inputs))
    out = replace(step.out, number=len(inputs))
    single = replace(step, inputs=tuple(range(len(inputs))), out=out)
    return replace(program, inputs=inputs, constants=(), steps=(single,), results=(out.number,))


def _measured(
    candidates: Mapping[str, Program], inputs: Sequence[Value], extents: Sequence[int], clock: Clock
) -> dict[str, float]:
    """Return the median seconds of each program; see `_timed`."""
    calls = {how: numpy_backend.compile(p).run for how, p in candidates.items()}
    return _timed(calls, inputs, extents, clock)


def _timed(
    calls: Mapping[str, Callable[..., Any]], inputs: Sequence[Value], extents: Sequence[int], clock: Clock
) -> dict[str, float]:
    """Return the median seconds of each call that is not hopeless, in interleaved rounds."""
    rng = np.random.default_rng(0)
    arrays = [_numbers(rng, v, extents) for v in inputs]

    def seconds(run: Callable[..., Any], times: int) -> float:
        start = clock()
        for _ in range(times):
            run(*arrays)
        return (clock() - start) / times

    once = {how: min(seconds(run, 1), seconds(run, 1)) for how, run in calls.items()}
    limit = HOPELESS * min(once.values())
    times = {how: max(1, min(100, int(_ROUND / max(s, 1e-7)))) for how, s in once.items() if s <= limit}
    found: dict[str, list[float]] = {how: [] for how in times}
    order = list(times)
    shuffle = random.Random(0).shuffle
    for _ in range(ROUNDS):
        shuffle(order)
        for how in order:
            found[how].append(seconds(calls[how], times[how]))
    return {how: median(s) for how, s in found.items()} | {
        how: s for how, s in once.items() if how not in found
    }


def _numbers(rng: np.random.Generator, value: Value, extents: Sequence[int]) -> np.ndarray:
    """Return random numbers of the shape and dtype of `value`, small ones, so that products stay finite."""
    shape = [extents[m] for m in value.modes]
    dtype = to_numpy(value.dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return (rng.random(shape, np.float32) - 0.5).astype(dtype)
