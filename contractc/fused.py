"""Fused steps: the terms of what they make on the way, and the pairwise program that means the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from contractc.grouping import groups
from contractc.notation import Term
from contractc.programs import Contract, Fused, Loop, Program, Step, Value


def ssa_terms(
    inputs: Sequence[Term], out: Term, path: Sequence[Sequence[int]]
) -> tuple[tuple[Term, ...], tuple[tuple[int, ...], ...]]:
    """Return the terms of the inputs and of the result of each step of `path`, and what each step reads.

    A step keeps what is read later or is in `out`: batch modes, rows, columns, the order in which a matrix
    product leaves them. Without a path there is one step, of all inputs.
    """
    terms = [*inputs]
    reads = tuple(tuple(ids) for ids in path) or (tuple(range(len(inputs))),)
    for s, ids in enumerate(reads):
        if s == len(reads) - 1:
            terms.append(out)
            continue
        later = {i for ids in reads[s + 1 :] for i in ids if i < len(terms)}
        needed = {m for i in later for m in terms[i]} | set(out)
        union = tuple(m for m in dict.fromkeys(m for i in ids for m in terms[i]) if m in needed)
        if len(ids) == 2:
            g = groups(terms[ids[0]], terms[ids[1]], union)
            union = (*g.batch, *g.rows, *g.columns)
        terms.append(union)
    return tuple(terms), reads


def unfused(program: Program, step: Contract) -> Program:
    """Return the program of the inputs of a fused `step` that contracts them pairwise along its path.

    Before:  %3 = contract %0 %1 %2  # fused: 0 1, 2 3
    After:   program (%0, %1, %2),  %3 = contract %0 %1,  %4 = contract %2 %3,  return %4
    """
    known = program.values()
    inputs = tuple(Value(k, known[i].modes, known[i].dtype) for k, i in enumerate(step.inputs))
    terms, reads = ssa_terms([v.modes for v in inputs], step.out.modes, step.path)
    flags = step.conj or (False,) * len(inputs)
    steps = []
    for s, ids in enumerate(reads):
        out = Value(len(inputs) + s, terms[len(inputs) + s], step.out.dtype)
        conj = tuple(i < len(inputs) and flags[i] for i in ids)
        steps.append(Contract(out, ids, conj if any(conj) else ()))
    return Program(
        inputs,
        tuple(steps),
        (steps[-1].out.number,),
        program.extents,
        program.semiring,
        program.dynamic,
        (),
        program.labels,
        program.precision,
    )


def _apart(program: Program) -> Iterator[Step]:
    """Yield the steps of `program`, those of a fused step of several results one by one."""
    for step in program.steps:
        if isinstance(step, Fused):
            yield from step.body.steps
        else:
            yield step


def all_unfused(program: Program) -> Program:
    """Return `program` with every fused step as the pairwise steps it is made of, those in loops too.

    Before:  %3 = contract %0 %1 %2  # fused: 0 1, 2 3
    After:   %4 = contract %0 %1,  %3 = contract %2 %4
    """
    program = replace(program, steps=tuple(_apart(program)))
    number = 1 + max(program.values())
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=all_unfused(step.body))
        if not isinstance(step, Contract) or not step.path:
            steps.append(step)
            continue
        names = list(step.inputs)
        inner = unfused(program, step)
        for part in inner.steps:
            assert isinstance(part, Contract)
            last = part is inner.steps[-1]
            names.append(step.out.number if last else number)
            out = step.out if last else replace(part.out, number=number)
            number += not last
            steps.append(replace(part, out=out, inputs=tuple(names[i] for i in part.inputs)))
    return replace(program, steps=tuple(steps))


class Names(NamedTuple):
    """The number of each mode and of each value in another program, by the number it has in this one."""

    modes: Mapping[int, int]
    values: Mapping[int, int]


def numbered_anew(step: Fused) -> tuple[Fused, Names]:
    """Return `step` with modes and values numbered as they occur and no extents but theirs, and their old numbers.

    Steps that differ by numbers alone, as they do all along a chain, are equal then, so what is found out about one of
    them holds for all.
    """
    known = step.body.values()
    modes = dict.fromkeys(m for v in known.values() for m in v.modes)
    body = step.body
    within = Program(
        (),
        (),
        (),
        tuple(body.extents[m] for m in modes),
        body.semiring,
        tuple(k for k, m in enumerate(modes) if m in body.dynamic),
    )
    there = Names({m: k for k, m in enumerate(modes)}, {n: k for k, n in enumerate(known)})
    return renamed(step, there, within), Names(dict(enumerate(modes)), dict(enumerate(known)))


def renamed(step: Fused, names: Names, within: Program) -> Fused:
    """Return `step` with the numbers that `names` gives, its body having the extents and labels of `within`."""
    modes, values = names

    def value(old: Value) -> Value:
        return Value(values[old.number], tuple([modes[m] for m in old.modes]), old.dtype)

    steps = tuple(
        replace(inner, out=value(inner.out), inputs=tuple([values[i] for i in inner.inputs]))
        for inner in step.body.steps
        if isinstance(inner, Contract)
    )
    inputs = tuple(map(value, step.body.inputs))
    results = tuple([values[i] for i in step.body.results])
    body = replace(within, inputs=inputs, constants=(), steps=steps, results=results)
    return replace(
        step,
        outs=tuple(map(value, step.outs)),
        inputs=tuple([values[i] for i in step.inputs]),
        body=body,
        modes=tuple([modes[m] for m in step.modes]),
    )
