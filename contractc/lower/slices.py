"""Steps in slices: what depends on no sliced mode runs ahead of the loop, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from contractc.cost import flops
from contractc.notation import Term
from contractc.programs import COPY, Broadcast, Contract, Loop, Program, Step, Value
from contractc.slices import levels


def in_slices(program: Program, modes: Term, hoist: bool = True, pairs: bool = True) -> Program:
    """Return `program`, which has no loops, with its steps in loops over `modes`.

    A step is in the loop of a mode only if what it computes depends on that mode, unless an inner loop's mode
    keeps it there; a result always is. The mode with the least work that depends on it comes innermost, so that
    the most is done outside of that loop.

    Before:  %3 = contract %1 %2,  %4 = contract %0 %3,  return %4
    After:   %3 = contract %1 %2,  %4 = loop %0 %3 over i: (%4 = contract %0 %3, return %4),  return %4

    Args:
        modes: extents above 1, none dynamic.
        hoist: whether steps leave loops.
        pairs: whether slices are added in pairs, else one after the other.
    """
    if not modes:
        return program
    depends = _dependence(program, modes)
    if not hoist:
        depends |= {v.number: frozenset(modes) for step in program.steps for v in step.outs}
    known = program.values()
    work = [(depends[s.outs[0].number], _flops(program, known, s)) for s in program.steps]
    loops = levels(modes, work, program.extents)
    depth = {
        n: max((k + 1 for k, g in enumerate(loops) if own & set(g)), default=0) for n, own in depends.items()
    }
    return _Nest(program, loops, depth, pairs).level(0)


LARGE = 2**12
"""Elements from which a slice is copied to be read in order."""


def packed(program: Program, modes: Term) -> Program:
    """Return `program`, which has no loops, with copies of the operands whose slices over `modes` lie scattered.

    A matrix product would copy such a slice itself, or read it slowly, each time that it reads it.

    Before:  %3 = contract %0: [i, j] %1
    After:   %4: [i, j] = contract %0  # copy,  %3 = contract %4 %1      in a loop over j
    """
    readers = {i for step in program.steps if len(step.inputs) > 1 for i in step.inputs}
    number = 1 + max(program.values(), default=0)
    copies: dict[int, Value] = {}
    for value in (*program.inputs, *(c.value for c in program.constants)):
        rest = [m for m in value.modes if m not in modes and program.extents[m] > 1]
        own = [k for k, m in enumerate(value.modes) if m in modes]
        scattered = own and any(m in rest for m in value.modes[: max(own)])
        large = prod([program.extents[m] for m in rest]) >= LARGE
        if scattered and large and value.number in readers and len(set(value.modes)) == len(value.modes):
            copies[value.number] = replace(value, number=number + len(copies))
    steps: list[Step] = [Contract(v, (i,), how=COPY) for i, v in copies.items()]
    for step in program.steps:
        steps.append(replace(step, inputs=tuple(copies[i].number if i in copies else i for i in step.inputs)))
    return replace(program, steps=tuple(steps))


def _dependence(program: Program, modes: Iterable[int]) -> dict[int, frozenset[int]]:
    """Return for every value the modes among `modes` that it depends on."""
    every = frozenset(modes)
    given = (*program.inputs, *(c.value for c in program.constants))
    depends = {v.number: every.intersection(v.modes) for v in given}
    for step in program.steps:
        own = every.intersection(step.outs[0].modes).union(*(depends[i] for i in step.inputs))
        depends |= {v.number: own for v in step.outs}
    return depends | dict.fromkeys(program.results, every)


def _flops(program: Program, known: Mapping[int, Value], step: Step) -> int:
    terms = [known[i].modes for i in step.inputs]
    return flops(terms, step.outs[0].modes, program.extents) if isinstance(step, Contract) else 1


@dataclass(frozen=True, slots=True)
class _Nest:
    """The loops that the steps of `program` go into: the modes of each, and at which depth each value is made."""

    program: Program
    levels: tuple[Term, ...]
    depth: Mapping[int, int]
    pairs: bool

    def level(self, at: int) -> Program:
        """Return the body of loop number `at`, in which its modes have one position; 0 is outside of all."""
        program = self.program
        here = [s for s in program.steps if self.depth[s.outs[0].number] == at]
        deeper = [s for s in program.steps if self.depth[s.outs[0].number] > at]
        inside = {v.number for s in deeper for v in s.outs}
        steps: list[Step] = [self.cut(s, at) for s in here]
        if deeper:
            body = self.level(at + 1)
            known = program.values()
            given = dict.fromkeys(i for s in deeper for i in s.inputs if i not in inside)
            outs = tuple(self.value(known[i], at) for i in program.results)
            body = replace(body, inputs=tuple(self.value(known[i], at + 1) for i in given), constants=())
            steps.append(Loop(outs, tuple(given), body, self.levels[at], pairs=self.pairs))
        return replace(program, steps=tuple(steps))

    def value(self, value: Value, at: int) -> Value:
        """Return `value` as it is inside of `at` loops."""
        gone = {m for modes in self.levels[:at] for m in modes}
        return replace(value, modes=tuple(m for m in value.modes if m not in gone))

    def cut(self, step: Step, at: int) -> Step:
        """Return `step` as it is inside of `at` loops."""
        assert isinstance(step, Contract | Broadcast), step
        return replace(step, out=self.value(step.out, at))
