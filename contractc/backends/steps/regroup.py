"""A pass of the CPU: two large steps that share an intermediate, in the order of contraction that runs fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from contractc.backends.steps.choose import Prices, cheapest
from contractc.backends.steps.tasks import task_of
from contractc.cost import step_seconds
from contractc.plans import seconds_text
from contractc.programs import Contract, Program, Step, Value

WORTH_A_LOOK = 1.0e-3
"""Seconds of two steps below which other orders of contraction are not priced: that takes some 0.3 ms."""

GAIN = 1.05
"""How many times faster another order has to be by prediction."""

MOST_PAIRS = 16
"""Pairs of steps that are looked at in one program."""


def regrouped(program: Program, prices: Prices) -> Program:
    """Return `program` with (A B) C as A (B C) or B (A C) where two steps are predicted to be faster so.

    A search compares orders by products in the order that suits them; here the price is that of the ways the steps have
    in memory as it is. A Khatri-Rao product first, then one matrix product, is the case in mind.

    Before:  %3: [i, j, r] = contract %0: [i, j, k] %2: [k, r],  %4: [i, r] = contract %3 %1: [j, r]
    After:   %3: [j, k, r] = contract %2 %1,  %4: [i, r] = contract %0 %3
    """
    known = dict(program.values())
    readers = [i for step in program.steps for i in step.inputs] + list(program.results)
    constant = {c.value.number for c in program.constants}
    steps: list[Step] = []
    makers: dict[int, Contract] = {}
    left = MOST_PAIRS
    for step in program.steps:
        if constant.issuperset(step.inputs):
            constant |= {v.number for v in step.outs}
        elif isinstance(step, Contract):
            for number in step.inputs:
                first = makers.get(number)
                if first is None or readers.count(number) != 1 or left == 0 or not _plain(step):
                    continue
                left -= 1
                found = _faster(program, first, step, known, prices)
                if found is not None:
                    steps.remove(first)
                    makers.pop(number)
                    inner, step = found
                    steps.append(inner)
                    known[number] = inner.out
                    makers[number] = inner
                    break
            if _plain(step):
                makers[step.out.number] = step
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _plain(step: Contract) -> bool:
    """Return whether `step` is a pair of whose way nothing has been decided."""
    return len(step.inputs) == 2 and not (step.how or step.path) and len(set(step.inputs)) == 2


def orders_compared(program: Program, prices: Prices) -> dict[int, str]:
    """Return for large steps that read what one other step makes the orders of the two, by the number of the result."""
    known = program.values()
    plain = [replace(s, how="") if isinstance(s, Contract) else s for s in program.steps]
    readers = [i for step in plain for i in step.inputs] + list(program.results)
    makers = {s.out.number: s for s in plain if isinstance(s, Contract) and _plain(s)}
    found: dict[int, str] = {}
    for second in makers.values():
        for first in [makers[i] for i in second.inputs if i in makers and readers.count(i) == 1]:
            if _floor(program, (first, second), known, prices) < WORTH_A_LOOK:
                continue
            each = []
            for inner, outer in [(first, second), *_others(first, second, known)]:
                seconds = _seconds(program, inner, outer, {**known, inner.out.number: inner.out}, prices)
                a, b = inner.inputs
                (c,) = (i for i in outer.inputs if i != inner.out.number)
                each.append((seconds, f"(%{a} %{b}) %{c} {seconds_text(seconds)}"))
            found[second.out.number] = "; ".join(text for _, text in sorted(each))
    return found


def _faster(
    program: Program, first: Contract, second: Contract, known: Mapping[int, Value], prices: Prices
) -> tuple[Contract, Contract] | None:
    """Return the two steps in the other order of contraction that is predicted to be fastest, None for this one."""
    if _floor(program, (first, second), known, prices) < WORTH_A_LOOK:
        return None
    best, chosen = _seconds(program, first, second, known, prices) / GAIN, None
    for inner, outer in _others(first, second, known):
        values = {**known, inner.out.number: inner.out}
        if _floor(program, (inner, outer), values, prices) < best:
            seconds = _seconds(program, inner, outer, values, prices)
            if seconds < best:
                best, chosen = seconds, (inner, outer)
    return chosen


def _others(first: Contract, second: Contract, known: Mapping[int, Value]) -> list[tuple[Contract, Contract]]:
    """Return the other orders of contraction of two steps, the second of which reads what the first makes.

    There are none where a mode is repeated, or where what is between them is conjugated or narrowed.
    """
    flags = dict(zip(first.inputs, first.conj or (False, False), strict=True))
    own, other = second.inputs if second.inputs[0] == first.out.number else second.inputs[::-1]
    flags |= {i: f for i, f in zip(second.inputs, second.conj or (False, False), strict=True) if i == other}
    turned = second.conj and second.conj[second.inputs.index(own)]
    terms = [known[i].modes for i in flags]
    repeated = any(len(set(term)) != len(term) for term in (*terms, second.out.modes))
    if len(flags) != 3 or turned or repeated or first.out.dtype != second.out.dtype:
        return []
    found = []
    for outside in first.inputs:
        inside = tuple(i for i in flags if i != outside)
        needed = {*known[outside].modes, *second.out.modes}
        modes = dict.fromkeys(m for i in inside for m in known[i].modes if m in needed)
        conj = tuple(flags[i] for i in inside)
        inner = Contract(replace(first.out, modes=tuple(modes)), inside, conj if any(conj) else ())
        conj = (flags[outside], False)
        found.append((inner, Contract(second.out, (outside, own), conj if any(conj) else ())))
    return found


def _floor(program: Program, steps: Sequence[Contract], known: Mapping[int, Value], prices: Prices) -> float:
    """Return seconds that `steps` take at least, whatever the order of what they read and make."""
    tasks = [task_of(program, step, known) for step in steps]
    return sum(prices.floor(task) for task in tasks if task is not None)


def _seconds(
    program: Program, first: Contract, second: Contract, known: Mapping[int, Value], prices: Prices
) -> float:
    """Return the predicted seconds of two steps, the second of which reads what the first makes."""
    task = task_of(program, first, known)
    if task is not None:
        return cheapest(program, first, task, (second,), known, prices)[1]
    found = 0.0
    for step in (first, second):
        task = task_of(program, step, known)
        terms = [known[i].modes for i in step.inputs]
        found += (
            step_seconds(terms, step.out.modes, program.extents, step.out.dtype, prices.machine)
            if task is None
            else prices.suited(task)
        )
    return found
