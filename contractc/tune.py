"""What measurement chooses, on NumPy arrays: ways to compute the steps of a program, and the order of contraction.

What was measured is kept in the store, so that the next process has the answers without measuring.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
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
from contractc.providers import known, loops, providers
from contractc.providers.known import this_machine
from contractc.serial import encode, sources_digest
from contractc.store import open_store

Clock = Callable[[], float]

Choose = Callable[[Mapping[str, Program], str, Sequence[Value], Sequence[int]], str]
"""Returns one of the ways of a step: of the programs by way, the model's choice, the operands, the extents."""

CHOOSER = ("tune.py", "backends/steps/*.py", "providers/**/*.py")
"""The modules that decide what is measured, and what it then takes."""

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
    return _with_ways(
        program,
        machine or this_machine(),
        providers() if names is None else names,
        lambda candidates, how, inputs, extents: _best(_measured(candidates, inputs, extents, clock), how),
    )


def remembered(program: Program) -> Program:
    """Return `tuned(program)`, with the answers from the store if this machine has measured them before.

    An answer is the word for one of the ways that would be measured; if one is not, all are measured again.
    """
    store = open_store()
    if store is None:
        return tuned(program)
    machine, names = this_machine(), providers()
    key = _key(program, machine, names)
    rows = _rows(store.read("tuned", key))
    if rows is not None:
        left = iter(rows)

        def stored(candidates: Mapping[str, Program], *_: Any) -> str:
            how = next(left, None)
            if how is None or how not in candidates:
                raise LookupError
            return how

        with suppress(LookupError):
            return _with_ways(program, machine, names, stored)
    chosen: list[str] = []

    def measured(
        candidates: Mapping[str, Program], how: str, inputs: Sequence[Value], extents: Sequence[int]
    ) -> str:
        chosen.append(_best(_measured(candidates, inputs, extents, time.perf_counter), how))
        return chosen[-1]

    found = _with_ways(program, machine, names, measured)
    store.write("tuned", key, json.dumps(chosen).encode())
    return found


def _key(program: Program, machine: Machine, names: Sequence[str]) -> str:
    """Return the digest of all that the answers depend on, but for the weather."""
    text = json.dumps([sources_digest(*CHOOSER), known.key(), list(names), encode(machine), encode(program)])
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(data: bytes | None) -> list[str] | None:
    """Return the words that the store has kept, None if there are none."""
    try:
        rows = None if data is None else json.loads(data)
    except ValueError:
        return None
    return rows if isinstance(rows, list) and all(isinstance(row, str) for row in rows) else None


def _with_ways(program: Program, machine: Machine, names: Sequence[str], choose: Choose) -> Program:
    """Return `program` with the ways of its steps that `choose` takes."""
    values = program.values()
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=_with_ways(step.body, machine, names, choose))
        elif isinstance(step, Contract) and step.how and not program.dynamic:
            step = _fastest(program, step, values, machine, names, choose)
        steps.append(step)
    whole = replace(program, steps=tuple(steps))
    if not any(isinstance(s, Contract) and s.path and not s.how for s in steps):
        return whole
    return arranged(_pairs(whole), machine, names)


def fastest(executables: Sequence[Executable], clock: Clock = time.perf_counter) -> Executable:
    """Return the executable that takes least on random numbers: the first, unless another is clearly faster.

    All compute the same network in different orders; what they took is among the remarks of the one returned.
    """
    return _with_remark(executables, _seconds_of(executables, clock))


def remembered_fastest(executables: Sequence[Executable]) -> Executable:
    """Return `fastest(executables)`, with their seconds from the store if this machine has measured them before."""
    store = open_store()
    if store is None:
        return fastest(executables)
    programs = [encode(executable.program) for executable in executables]
    key = hashlib.sha256(json.dumps([sources_digest(*CHOOSER), known.key(), programs]).encode()).hexdigest()
    rows = _rows(store.read("tuned", key))
    if rows is not None:
        with suppress(ValueError):
            seconds = [float(row) for row in rows]
            if len(seconds) == len(executables):
                return _with_remark(executables, seconds)
    seconds = _seconds_of(executables, time.perf_counter)
    store.write("tuned", key, json.dumps([repr(s) for s in seconds]).encode())
    return _with_remark(executables, seconds)


def _seconds_of(executables: Sequence[Executable], clock: Clock) -> list[float]:
    """Return the least seconds of each, infinite where it is hopeless."""
    first = executables[0]
    inputs = [first.program.value(v.number) for v in first.program.inputs]
    calls = {str(k): executable.run for k, executable in enumerate(executables)}
    found = _timed(calls, inputs, first.program.extents, clock)
    return [found.get(name, inf) for name in calls]


def _with_remark(executables: Sequence[Executable], seconds: Sequence[float]) -> Executable:
    """Return the one to use of `executables`, which says what all took."""
    best = min(range(len(seconds)), key=seconds.__getitem__)
    chosen = best if seconds[best] < MARGIN * seconds[0] else 0
    others = ", ".join(seconds_text(s) for k, s in enumerate(seconds) if k != chosen and s < inf)
    remark = f"the order was timed: {seconds_text(seconds[chosen])}, others {others or 'hopeless'}"
    return replace(executables[chosen], remarks=(*executables[chosen].remarks, remark))


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
    values: Mapping[int, Value],
    machine: Machine,
    names: Sequence[str],
    choose: Choose,
) -> Contract:
    """Return `step` with the way that `choose` takes; a fused step without one where that is pair by pair."""
    candidates: dict[str, Program] = {step.how: _alone(program, step, values)}
    if step.how == loops.HOW:
        pairs = arranged(unfused(program, step), machine, names) if step.path else None
        if pairs is not None:
            candidates[""] = pairs
    elif step.how != NARROW:
        task = task_of(program, replace(step, how=""), values)
        for way in [] if task is None else ways(task, machine, names)[:MOST_CANDIDATES]:
            candidates.setdefault(way.how, _alone(program, replace(step, how=way.how), values))
    if len(candidates) < 2:
        return step
    best = choose(candidates, step.how, [values[i] for i in step.inputs], program.extents)
    return replace(step, how=best)


def _best(seconds: Mapping[str, float], how: str) -> str:
    """Return the way that took least, or `how`, the model's choice, if that took hardly more."""
    best = min(seconds, key=lambda way: seconds[way])
    return how if seconds[best] >= MARGIN * seconds[how] else best


def _alone(program: Program, step: Contract, values: Mapping[int, Value]) -> Program:
    """Return the program of one step of `program`; its operands are numbered in the order it reads them."""
    inputs = tuple(replace(values[i], number=k) for k, i in enumerate(step.inputs))
    out = replace(step.out, number=len(inputs))
    single = replace(step, inputs=tuple(range(len(inputs))), out=out)
    return replace(program, inputs=inputs, constants=(), steps=(single,), results=(out.number,))


def _measured(
    candidates: Mapping[str, Program], inputs: Sequence[Value], extents: Sequence[int], clock: Clock
) -> dict[str, float]:
    """Return the least seconds of each program; see `_timed`."""
    calls = {how: numpy_backend.compile(p).run for how, p in candidates.items()}
    return _timed(calls, inputs, extents, clock)


def _timed(
    calls: Mapping[str, Callable[..., Any]], inputs: Sequence[Value], extents: Sequence[int], clock: Clock
) -> dict[str, float]:
    """Return the least seconds of each call that is not hopeless, in interleaved rounds: other work only adds."""
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
    return {how: min(s) for how, s in found.items()} | {how: s for how, s in once.items() if how not in found}


def _numbers(rng: np.random.Generator, value: Value, extents: Sequence[int]) -> np.ndarray:
    """Return random numbers of the shape and dtype of `value`, small ones, so that products stay finite."""
    shape = [extents[m] for m in value.modes]
    dtype = to_numpy(value.dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return (rng.random(shape, np.float32) - 0.5).astype(dtype)
