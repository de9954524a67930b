"""What lies between the steps of one call: the orders of its modes, and which operands are copied into another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from contractc.programs import Contract, Fused, Program, Value

MOST_TRIED, SHORT = 600, 16
"""The most changes of one call whose seconds are predicted; fewer for more steps than `SHORT`, as each takes longer."""

GAIN = 1.01
"""How many times faster a change has to make the call."""

WORTH_A_LOOK = 2.0e-5
"""Seconds of a call below which it stays as it is: compiling takes a tenth of a second already."""


def improved(step: Fused, seconds: Callable[[Fused], float]) -> Fused:
    """Return `step` with what lies between its steps in the orders that are predicted to take least.

    One change after the other is kept if it is faster: the last mode of an intermediate, or of all of them, is another
    one; some readers of a value read a copy of it, in its own order (at the beginning of a cache line) or with another
    mode last; there is no such copy; pieces have twice or half the length.

    Before:  %3: [x, r, b] = contract %0 %1,  %4: [x, p] = contract %2 %3     %2: [b, p]
    After:   %3: [b, r, x] = contract %0 %1,  %4: [x, p] = contract %2 %3     no array is turned to be added up over b
    """
    best = seconds(step)
    tried, since = 0, 0
    most = MOST_TRIED * SHORT // max(SHORT, len(step.body.steps))
    while best > WORTH_A_LOOK:
        changes = list(_changes(step))
        for at in range(since, since + len(changes)):
            change = changes[at % len(changes)]
            tried += 1
            found = seconds(change)
            if found * GAIN < best:
                step, best, since = change, found, at % len(changes)
                break
            if tried == most:
                return step
        else:
            return step
    return step


def _changes(step: Fused) -> Iterator[Fused]:
    """Yield `step` with one thing changed."""
    body = step.body
    steps = [s for s in body.steps if isinstance(s, Contract)]
    known = body.values()
    copies = {s.out.number for s in steps if _is_copy(s, known)} - set(body.results)
    between = {s.out.number for s in steps} - set(body.results)
    for m in dict.fromkeys(m for s in steps if s.out.number in between for m in s.out.modes):
        yield _with(step, [_last(s, m) if s.out.number in between else s for s in steps])
    for k, inner in enumerate(steps):
        out = inner.out
        if out.number in body.results:
            continue
        for m in out.modes[:-1]:
            yield _with(step, [*steps[:k], _last(inner, m), *steps[k + 1 :]])
        if out.number in copies:
            yield _with(step, [_reading(s, out.number, inner.inputs[0]) for s in steps if s is not inner])
    for value in known.values():
        readers = [k for k, s in enumerate(steps) if value.number in s.inputs and s.out.number not in copies]
        if value.number in copies or not readers or not value.modes:
            continue
        for chosen in ([k] for k in readers) if len(readers) > 1 else ():
            yield from _copied(step, steps, value, chosen)
        yield from _copied(step, steps, value, readers)
    if step.modes:
        extent = body.extents[step.modes[0]]
        for piece in (step.piece * 2, step.piece // 2):
            if 1 < piece < extent:
                yield replace(step, piece=piece)


def _copied(step: Fused, steps: list[Contract], value: Value, readers: list[int]) -> Iterator[Fused]:
    """Yield `step` with a copy of `value` made for some of its `readers`, each mode last in turn."""
    number = 1 + max(v for v in step.body.values())
    for m in dict.fromkeys(value.modes):
        if value.modes.count(m) > 1:
            continue
        out = replace(value, number=number, modes=(*(n for n in value.modes if n != m), m))
        copy = Contract(out, (value.number,))
        made = [_reading(s, value.number, number) if k in readers else s for k, s in enumerate(steps)]
        yield _with(step, [*made[: readers[0]], copy, *made[readers[0] :]])


def _last(step: Contract, mode: int) -> Contract:
    """Return `step` with `mode` last in what it makes, if it is there."""
    out = step.out
    if mode not in out.modes:
        return step
    return replace(step, out=replace(out, modes=(*(m for m in out.modes if m != mode), mode)))


def _is_copy(step: Contract, known: Mapping[int, Value]) -> bool:
    """Return whether `step` gives what it reads in another order."""
    if len(step.inputs) != 1 or any(step.conj):
        return False
    read = known[step.inputs[0]]
    return sorted(read.modes) == sorted(step.out.modes) and read.dtype == step.out.dtype


def _reading(step: Contract, old: int, new: int) -> Contract:
    """Return `step` with value `new` in place of `old`."""
    return replace(step, inputs=tuple(new if i == old else i for i in step.inputs))


def _with(step: Fused, steps: list[Contract]) -> Fused:
    body: Program = replace(step.body, steps=tuple(steps))
    return replace(step, body=body)
