"""Program -> Program: the gradients of one value of a program, from what the program computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from contractc.dtypes import is_complex
from contractc.programs import COPY, Broadcast, Contract, Program, Reshape, Step, Value


def backward(program: Program, of: int, wanted: Iterable[int]) -> Program | None:
    """Return the program of the gradients of value `of` by the inputs `wanted`; None for steps it has no rule for.

    Its inputs are the values of `program` that it reads, in the order of their numbers, then the cotangent; of
    complex values it takes conjugates, as torch does. Every value has one reader in a contraction tree, so
    nothing is added up: a program in which one has several, or in which dtypes differ, is refused.

    Before:  %3 = contract %0 %1,  %4 = contract %3 %2,  return %4
    After:   (%0, %1, %2, %3, %5) -> %6 = contract %5 %3,  %7 = contract %5 %2,  %8 = contract %7 %1,
             %9 = contract %0 %7,  return %8 %9 %6      the gradients by %0 %1 %2 of %4, %5 being the cotangent
    """
    known = program.values()
    makers = {step.outs[0].number: step for step in program.steps}
    readers = [i for step in program.steps for i in step.inputs]
    below = _below(makers, of)
    targets = [k for k in wanted if k in below]
    if len(set(readers)) != len(readers) or len({known[i].dtype for i in below}) != 1 or of not in makers:
        return None
    if any(not isinstance(makers[i], Contract | Reshape | Broadcast) for i in below if i in makers):
        return None
    needed = {of}
    for k in targets:
        needed |= _above(k, below, makers)
    cotangent = replace(known[of], number=1 + max(known))
    sweep = _Sweep(known, 2 + max(known), {of: cotangent})
    results = {}
    for step in reversed(program.steps):
        out = step.outs[0].number
        if out not in sweep.gradients:
            continue
        for at, i in enumerate(step.inputs):
            if i in targets or (i in needed and i in makers):
                sweep.down(step, at, final=i in targets)
        for i in step.inputs:
            if i in targets:
                results[i] = sweep.gradients[i].number
    read = {i for step in sweep.steps for i in step.inputs}
    given = [known[i] for i in sorted(read & known.keys())]
    constants = {c.value.number for c in program.constants}
    return replace(
        program,
        inputs=(*(v for v in given if v.number not in constants), cotangent),
        constants=tuple(c for c in program.constants if c.value.number in read),
        steps=tuple(sweep.steps),
        results=tuple(results[k] for k in targets),
    )


def _below(makers: dict[int, Step], of: int) -> set[int]:
    """Return the values that value `of` is made of, itself included."""
    found: set[int] = set()
    todo = [of]
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            todo += makers[i].inputs if i in makers else ()
    return found


def _above(value: int, below: set[int], makers: dict[int, Step]) -> set[int]:
    """Return the values on the way from `value` to the root."""
    found = {value}
    for step in makers.values():
        if step.outs[0].number in below and found.intersection(step.inputs):
            found.add(step.outs[0].number)
    return found


class _Sweep:
    """The steps of a backward program so far, and the gradient of each value reached.

    The gradient of an intermediate lacks modes along which it is constant.
    """

    def __init__(self, known: Mapping[int, Value], fresh: int, gradients: dict[int, Value]) -> None:
        self.known, self.fresh, self.gradients = known, fresh, gradients
        self.steps: list[Step] = []

    def value(self, modes: Iterable[int], dtype: str) -> Value:
        """Return a new value."""
        self.fresh += 1
        return Value(self.fresh - 1, tuple(modes), dtype)

    def down(self, step: Step, at: int, final: bool) -> None:
        """Add the steps for the gradient of input `at` of `step`; in full if it is `final`."""
        value, outer = self.known[step.inputs[at]], self.gradients[step.outs[0].number]
        if isinstance(step, Reshape):
            made = self._whole(outer, step.out)
            self.steps.append(Reshape(self.value(value.modes, value.dtype), (made.number,)))
            self.gradients[value.number] = self.steps[-1].outs[0]
            return
        others = [i for k, i in enumerate(step.inputs) if k != at]
        present = set(outer.modes).union(*(self.known[i].modes for i in others))
        own = tuple(m for m in dict.fromkeys(value.modes) if m in present)
        conj: tuple[bool, ...] = ()
        if is_complex(value.dtype):
            flags = (step.conj if isinstance(step, Contract) else ()) or (False,) * len(step.inputs)
            conj = (flags[at], *(flags[at] == f for k, f in enumerate(flags) if k != at))
        made = self.value(own if not final or set(own) != set(value.modes) else value.modes, value.dtype)
        how = COPY if isinstance(step, Contract) and step.how == COPY and not final else ""
        self.steps.append(Contract(made, (outer.number, *others), conj if any(conj) else (), (), how))
        self.gradients[value.number] = self._whole(made, value) if final else made

    def _whole(self, made: Value, like: Value) -> Value:
        """Return `made` with the modes of `like`: constant along those it lacks, zero off the diagonals."""
        own = tuple(dict.fromkeys(like.modes))
        if set(made.modes) != set(own):
            self.steps.append(Broadcast(self.value(own, like.dtype), (made.number,)))
            made = self.steps[-1].outs[0]
        if made.modes != like.modes:
            self.steps.append(Contract(self.value(like.modes, like.dtype), (made.number,)))
            made = self.steps[-1].outs[0]
        return made
