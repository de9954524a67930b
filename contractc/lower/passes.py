"""Passes: Program -> Program, each keeping the meaning. `PASSES` is their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

from contractc.grouping import groups
from contractc.notation import Term
from contractc.programs import Broadcast, Call, Constant, Contract, Loop, Program, Reshape, Step, Value


def pairwise(program: Program) -> Program:
    """Return `program` with each step of three or more inputs as steps of two, left to right; fused steps stay.

    Before:  %3 = contract %0 %1 %2
    After:   %4 = contract %0 %1,  %3 = contract %4 %2
    """
    known = dict(program.values())
    number = 1 + max(known)
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=pairwise(step.body))
        if not isinstance(step, Contract) or len(step.inputs) <= 2 or step.path:
            steps.append(step)
            continue
        flags = step.conj or (False,) * len(step.inputs)
        left, left_flag = step.inputs[0], flags[0]
        for k in range(1, len(step.inputs) - 1):
            needed = {m for i in step.inputs[k + 1 :] for m in known[i].modes} | set(step.out.modes)
            union = dict.fromkeys((*known[left].modes, *known[step.inputs[k]].modes))
            out = Value(number, tuple(m for m in union if m in needed), step.out.dtype)
            steps.append(Contract(out, (left, step.inputs[k]), (left_flag, flags[k])))
            known[number] = out
            left, left_flag, number = number, False, number + 1
        steps.append(Contract(step.out, (left, step.inputs[-1]), (left_flag, flags[-1])))
    return replace(program, steps=tuple(steps))


def merge_equal_steps(program: Program) -> Program:
    """Return `program` with equal contractions of equal values computed once (several outputs share work).

    Before:  %2 = contract %0 %1,  %3 = contract %0 %1,  %4 = contract %2 %3
    After:   %2 = contract %0 %1,  %4 = contract %2 %2
    """
    same: dict[int, int] = {}
    seen: dict[object, int] = {}
    steps: list[Step] = []
    for step in program.steps:
        step = replace(step, inputs=tuple(same.get(i, i) for i in step.inputs))
        if isinstance(step, Contract) and step.out.number not in program.results:
            key = (step.inputs, step.conj, step.out.modes, step.out.dtype)
            first = seen.setdefault(key, step.out.number)
            if first != step.out.number:
                same[step.out.number] = first
                continue
        steps.append(step)
    return replace(program, steps=tuple(steps))


MOST_APART = 48
"""Steps of a program whose results share nothing at most: their number grows with the square of the operands'."""


def unshared(program: Program) -> Program | None:
    """Return `program` with no intermediate read twice: what several steps read is computed for each of them.

    None if nothing is shared, or if that makes too many steps. Such a form can be fused into a few loops that each
    read the inputs once, as the gradients of a product of small matrices.

    Before:  %3 = contract %0 %1,  %4 = contract %3 %2,  %5 = contract %3 %0,  return %4 %5
    After:   %6 = contract %0 %1,  %4 = contract %6 %2,  %7 = contract %0 %1,  %5 = contract %7 %0,  return %4 %5
    """
    makers = {v.number: step for step in program.steps for v in step.outs}
    readers = [i for step in program.steps for i in step.inputs if i in makers]
    shared = len(set(readers)) < len(readers) or not makers.keys() - set(readers) >= set(program.results)
    if not shared or any(isinstance(step, Loop | Call) for step in program.steps):
        return None
    number = 1 + max(program.values())
    steps: list[Step] = []

    def copied(step: Step, out: int) -> None:
        nonlocal number
        assert isinstance(step, Contract | Reshape | Broadcast)
        inputs = []
        for i in step.inputs:
            inputs.append(i)
            if i in makers and len(steps) <= MOST_APART:
                inputs[-1] = number
                number += 1
                copied(makers[i], inputs[-1])
        steps.append(replace(step, out=replace(step.out, number=out), inputs=tuple(inputs)))

    for result in dict.fromkeys(program.results):
        if result in makers:
            copied(makers[result], result)
    return replace(program, steps=tuple(steps)) if len(steps) <= MOST_APART else None


def slowest_first(program: Program) -> Program:
    """Return `program` with vectors of one size contracted into an operand in the order of its modes, slowest first.

    Whichever comes first, the flops are the same; but adding whole rows up is the sum that memory is best at.

    Before:  %4 = contract %0: [i, j] %2: [j],  %3 = contract %4 %1: [i]
    After:   %4 = contract %0: [i, j] %1: [i],  %3 = contract %4 %2: [j]
    """
    if program.semiring != "sum_product":
        return program
    known = dict(program.values())
    leaves = {v.number for v in (*program.inputs, *(c.value for c in program.constants))}
    readers = [*program.results, *(i for step in program.steps for i in step.inputs)]
    makers = {s.out.number: k for k, s in enumerate(program.steps) if isinstance(s, Contract)}
    steps = [replace(s, body=slowest_first(s.body)) if isinstance(s, Loop) else s for s in program.steps]
    late = 0
    while late < len(steps):
        second = steps[late]
        places = [makers[i] for i in second.inputs if i in makers and readers.count(i) == 1]
        late += 1
        for early in places:
            turned = _turned(program, steps[early], second, known, leaves)
            if turned is not None:
                steps[early], steps[late - 1] = turned
                known[turned[0].out.number] = turned[0].out
                late = early  # what made the matrix of `first` may have a vector to give way too
                break
    return replace(program, steps=tuple(steps))


def _turned(
    program: Program, first: Step, second: Step, known: Mapping[int, Value], leaves: set[int]
) -> tuple[Contract, Contract] | None:
    """Return two steps that contract a vector each with their vectors exchanged, or None if that is no better."""
    assert isinstance(first, Contract)
    for made, vector, flag, other in _with_vectors(second, known):
        for matrix, before, kept, own in _with_vectors(first, known):
            if made != first.out.number or flag or not leaves.issuperset((before, vector)):
                continue
            order, terms = known[matrix].modes, [known[i].modes for i in (before, vector)]
            sizes = [prod([program.extents[m] for m in term]) for term in terms]
            if sizes[0] != sizes[1] or min(map(order.index, terms[0])) < min(map(order.index, terms[1])):
                continue
            out = replace(first.out, modes=tuple(m for m in order if m not in terms[1]))
            assert isinstance(second, Contract)
            return (
                Contract(out, (matrix, vector), (kept, other) if kept or other else ()),
                Contract(second.out, (made, before), (False, own) if own else ()),
            )
    return None


def _with_vectors(step: Step, known: Mapping[int, Value]) -> list[tuple[int, int, bool, bool]]:
    """Return each way to see the inputs of `step` as an array and a vector all of whose modes are summed.

    That is the numbers of both, and whether each is conjugated.
    """
    if not isinstance(step, Contract) or len(step.inputs) != 2 or step.path or step.how:
        return []
    (i, j), (flag, other) = step.inputs, step.conj or (False, False)
    found = []
    for way in ((i, j, flag, other), (j, i, other, flag)):
        matrix, vector = known[way[0]].modes, known[way[1]].modes
        distinct = len(set(matrix)) == len(matrix) and len(set(vector)) == len(vector) > 0
        if distinct and set(step.out.modes) == set(matrix).difference(vector) and set(vector) <= set(matrix):
            found.append(way)
    return found


def natural_layout(program: Program) -> Program:
    """Return `program` with the modes of each intermediate in an order a matrix product leaves them in.

    That is batch, rows, columns, or batch, columns, rows: the second if the first would end in a batch mode of
    the step that reads it, which then could not read rows or columns with unit stride. What depends on
    constants only, or is made ahead of a loop that reads it, is computed once, so it gets the order that its reader
    wants: batch, free, summed modes.

    Before:  %2: [i, b, j] = contract %0: [i, b, k] %1: [k, b, j]
    After:   %2: [b, i, j] = contract %0: [i, b, k] %1: [k, b, j]
    """
    known = dict(program.values())
    fixed = {
        *program.results,
        *(i for step in program.steps if isinstance(step, Reshape | Call) for i in step.inputs),
    }
    constant = {c.value.number for c in program.constants}
    readers = {i: step for step in program.steps if isinstance(step, Contract) for i in step.inputs}
    steps: list[Step] = []
    for step in program.steps:
        if constant.issuperset(step.inputs):
            constant |= {v.number for v in step.outs}
        if isinstance(step, Loop):
            given = tuple(
                replace(v, modes=tuple(m for m in known[i].modes if m not in step.modes))
                for i, v in zip(step.inputs, step.body.inputs, strict=True)
            )
            step = replace(step, body=natural_layout(replace(step.body, inputs=given)))
        elif isinstance(step, Contract) and len(step.inputs) == 2 and step.out.number not in fixed:
            reader = readers.get(step.out.number)
            inputs = [known[i].modes for i in step.inputs]
            once = step.out.number in constant and reader and not constant.issuperset(reader.inputs)
            read = [known[i].modes for i in reader.inputs if i != step.out.number] if reader else []
            wanted = reader.out.modes if reader else ()
            looped = None if reader else _reader_in_loop(program, step.out.number)
            if looped is not None:
                once, (read, wanted) = True, looped
            if once:
                order = _order_for_reader(step.out.modes, read, wanted)
            else:
                order = _product_order(inputs, step.out.modes, read, wanted)
            step = replace(step, out=replace(step.out, modes=order))
            known[step.out.number] = step.out
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _reader_in_loop(program: Program, number: int) -> tuple[list[Term], Term] | None:
    """Return of the step that reads value `number` inside of a loop the other terms and the one it makes."""
    for step in program.steps:
        if isinstance(step, Loop) and number in step.inputs:
            inner = step.body.inputs[step.inputs.index(number)].number
            known = step.body.values()
            for s in step.body.steps:
                if isinstance(s, Contract) and inner in s.inputs:
                    return [known[i].modes for i in s.inputs if i != inner], s.out.modes
            return _reader_in_loop(step.body, inner)
    return None


def _order_for_reader(modes: Term, others: Sequence[Term], wanted: Term) -> Term:
    """Return `modes` as the step that contracts them with `others` to `wanted` reads them without a copy."""
    elsewhere = {m for term in others for m in term}
    batch = tuple(m for m in modes if m in elsewhere and m in wanted)
    free = tuple(m for m in modes if m not in elsewhere)
    return (*batch, *free, *(m for m in modes if m not in batch and m not in free))


def _product_order(inputs: Sequence[Term], modes: Term, others: Sequence[Term], wanted: Term) -> Term:
    """Return `modes` in the order in which the product of two `inputs` has them at no cost."""
    g = groups(inputs[0], inputs[1], modes)
    if not g.summed:
        fast = g.batch and inputs[0][-1] in g.batch and inputs[1][-1] in g.batch
        return (*g.rows, *g.columns, *g.batch) if fast else modes
    batch = {m for term in others for m in term if m in wanted}
    if g.rows and g.columns and g.columns[-1] in batch and g.rows[-1] not in batch:
        return (*g.batch, *g.columns, *g.rows)
    return (*g.batch, *g.rows, *g.columns)


def as_stored(program: Program, orders: Mapping[int, Sequence[int]]) -> Program:
    """Return `program` reading some inputs through a view whose axes have the order of the memory.

    Steps take the modes of a value for its memory order; a transposed array is then read as it lies, not copied.

    Args:
        orders: for the number of an input, its axes from the slowest to the fastest.

    Before:  (%0: [i, j, k]),  %2 = contract %0 %1 over k
    After:   (%0: [i, j, k]),  %3: [k, i, j] = contract %0,  %2 = contract %3 %1 over k
    """
    number = 1 + max(program.values())
    views: list[Step] = []
    renamed: dict[int, int] = {}
    for value in program.inputs:
        order = orders.get(value.number)
        if order is None or len(order) != len(set(value.modes)) or len(order) != len(value.modes):
            continue
        view = Value(number, tuple(value.modes[axis] for axis in order), value.dtype)
        views.append(Contract(view, (value.number,)))
        renamed[value.number] = number
        number += 1
    steps = [
        replace(s, inputs=tuple(renamed.get(i, i) for i in s.inputs)) if isinstance(s, Contract) else s
        for s in program.steps
    ]
    return replace(program, steps=(*views, *steps))


PASSES: tuple[Callable[[Program], Program], ...] = (
    pairwise,
    merge_equal_steps,
    slowest_first,
    natural_layout,
)
"""The order in which `lower` applies them. Adding a pass means adding it here, and nowhere else."""


def hoist_constants(program: Program) -> tuple[Program, Program]:
    """Return the part of `program` that depends on constants only, and the rest.

    The results of the first are the constants of the second, in order; values keep their numbers. The
    constants of `program` are the inputs of the first.

    Before:  %0 input, %1 %2 constants,  %3 = contract %1 %2,  %4 = contract %0 %3
    After:   (%1, %2) -> %3 = contract %1 %2, return %3   and   %0 input, %3 constant, %4 = contract %0 %3
    """
    known = program.values()
    fixed = {c.value.number for c in program.constants}
    early = []
    late = []
    for step in program.steps:
        outs = {v.number for v in step.outs}
        if fixed.issuperset(step.inputs):
            fixed |= outs
            early.append(step)
        else:
            late.append(step)
    wanted = dict.fromkeys([i for step in late for i in step.inputs if i in fixed])
    wanted |= dict.fromkeys([i for i in program.results if i in fixed])
    prologue = replace(
        program,
        inputs=tuple(c.value for c in program.constants),
        constants=(),
        steps=tuple(early),
        results=tuple(wanted),
    )
    main = replace(program, constants=tuple(Constant(known[i], "") for i in wanted), steps=tuple(late))
    return prologue, main
