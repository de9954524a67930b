"""Copies into the order of a matrix product as steps of their own, so that several products share one."""

from __future__ import annotations

from dataclasses import replace

from contractc.grouping import groups
from contractc.lower.seconds import program_size
from contractc.notation import Term
from contractc.programs import COPY, Contract, Program, Step, Value

SMALL = 2**12
"""Elements up to which a copy costs hardly more than the call that makes it."""


def pack(program: Program) -> Program:
    """Return `program` with the operands that matrix products would copy copied in a step before, once for all.

    Before:  %4: [b, k] = contract %0: [b, j, i, k] ...  two products that read %0 as a matrix of [b i] by [j k]
    After:   %5: [b, i, j, k] = contract %0  # permute, copy, and both products read %5
    """
    known = dict(program.values())
    number = 1 + max(known)
    made: dict[tuple[int, Term], int] = {}
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Contract) and len(step.inputs) == 2 and not step.how:
            inputs = list(step.inputs)
            for k, order in enumerate(_orders([known[i].modes for i in inputs], step.out.modes, program)):
                value = known[inputs[k]]
                if order == value.modes or program_size(program, order) <= SMALL:
                    continue
                key = (value.number, order)
                if key not in made:
                    made[key] = number
                    known[number] = Value(number, order, value.dtype)
                    steps.append(Contract(known[number], (value.number,), (), (), COPY))
                    number += 1
                inputs[k] = made[key]
            step = replace(step, inputs=tuple(inputs))
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _orders(terms: list[Term], out: Term, program: Program) -> tuple[Term, Term]:
    """Return the orders in which the operands of a matrix product are read without a copy, for each the nearest.

    An order that keeps the last mode is copied in runs, several times faster than one that does not.
    """
    left, right = terms
    g = groups(left, right, out)
    plain = len(set(left)) == len(left) and len(set(right)) == len(right) and not (g.left or g.right)
    if not plain or not g.summed or not (g.rows or g.columns):
        return left, right
    best = None
    for first in terms:
        batch = tuple(m for m in first if m in g.batch)
        for other in terms:
            summed = tuple(m for m in other if m in g.summed)
            orders, copied = [], 0
            for term, rows in ((left, g.rows), (right, g.columns)):
                own = tuple(m for m in term if m in rows)
                ways = ((*batch, *own, *summed), (*batch, *summed, *own))
                orders.append(term if term in ways else ways[ways[1][-1] == term[-1]])
                copied += program_size(program, term) * (term not in ways)
            if best is None or copied < best[0]:
                best = copied, (orders[0], orders[1])
    assert best is not None
    return best[1]
