"""The second fusion pass: steps that follow each other become one call, whatever their results are read by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from contractc.dtypes import itemsize
from contractc.lower.between import improved
from contractc.lower.fuse import Fuser
from contractc.notation import Term
from contractc.programs import Contract, Fused, Loop, Program, Step, Value

MOST_STEPS = 64
"""The most steps that become one call."""

GAIN = 1.1
"""How many times faster one call has to be by prediction. Of nests measured one by one the prediction is within a fifth
mostly; libraries take longer than predicted for steps as small as these."""

MOST_CANDIDATES = 3000
"""The most runs of steps whose seconds are predicted in one program."""

STEP, VIEW = 5.0e-7, 2.0e-7
"""Seconds that a step takes beside its product, and those that a transpose or a reshape of NumPy takes."""

LEAST_SAVED = 4.0e-6
"""Seconds a call that one call in place of several has to save: compiling it takes a tenth of a second."""

PIECES = (2**15, 2**16, 2**18)
"""Bytes of all that has the mode which is taken in pieces, for one piece: about what the first two caches hold."""

TINY = 2**15
"""Bytes of all values of some steps up to which they are not worth taking in pieces."""


def together(program: Program, kernels: Sequence[Fuser]) -> Program:
    """Return `program` with steps that follow each other done by one call where that is predicted to be faster.

    So tiny steps cost one call instead of many, and steps over a common mode (a value and its gradients over the batch)
    read what they share once, piece by piece, and keep what lies between them in cache.

    Before:  %3 = contract %0 %1,  %4 = contract %3 %2,  %5 = contract %3 %0,  return %4 %5
    After:   %4, %5 = fused %0 %1 %2 over b=5000, 200 at a time:  %3 = contract %0 %1,  ...
    """
    fuser = next((k for k in kernels if k.several is not None), None)
    if fuser is None:
        return program
    steps: list[Step] = [
        replace(s, body=together(s.body, kernels)) if isinstance(s, Loop) else s for s in program.steps
    ]
    program = replace(program, steps=tuple(steps))
    pass_ = _Pass(program, fuser)
    made: list[Step] = []
    for first, last in _stretches(program, fuser):
        made += pass_.best(first, last)
    return replace(program, steps=tuple(made))


def _stretches(program: Program, fuser: Fuser) -> Iterator[tuple[int, int]]:
    """Yield the positions of the first step and behind the last one of stretches of steps that may be one; all steps
    are in one of them, alone if need be."""
    constant = {c.value.number for c in program.constants}
    known = program.values()
    start = None
    for k, step in enumerate(program.steps):
        fixed = constant.issuperset(step.inputs)
        if fixed:
            constant |= {v.number for v in step.outs}
        fine = not fixed and isinstance(step, Contract) and _may_be_inside(program, step, known, fuser)
        if fine and start is None:
            start = k
        if not fine:
            if start is not None:
                yield start, k
                start = None
            yield k, k + 1
    if start is not None:
        yield start, len(program.steps)


def _may_be_inside(program: Program, step: Contract, known: dict[int, Value], fuser: Fuser) -> bool:
    modes = {m for i in step.inputs for m in known[i].modes}
    return step.how in ("", fuser.how) and not modes.intersection(program.dynamic)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A stretch of steps as one, and its predicted seconds."""

    step: Fused
    seconds: float


class _Pass:
    """One program, and what its steps take one by one."""

    def __init__(self, program: Program, fuser: Fuser) -> None:
        assert fuser.several is not None
        self.program, self.fuser, self.several = program, fuser, fuser.several
        self.known = program.values()
        self.fresh = 1 + max(self.known)
        self.left = MOST_CANDIDATES
        last = {i: k for k, s in enumerate(program.steps) for i in s.inputs}
        self.last = last | dict.fromkeys(program.results, len(program.steps))

    def best(self, first: int, last: int) -> list[Step]:
        """Return the steps from `first` until before `last` with runs of them as one: the cut that takes least."""
        steps = self.program.steps[first:last]
        if len(steps) < 2:
            return list(steps)
        alone = [self._alone(step) for step in steps]
        spent = [0.0]
        chosen: list[tuple[int, Fused | None]] = [(0, None)]
        for end in range(1, len(steps) + 1):
            best = spent[end - 1] + alone[end - 1]
            how: tuple[int, Fused | None] = (end - 1, None)
            for begin in range(end - 2, max(-1, end - MOST_STEPS - 1), -1):
                if self.left <= 0:
                    break
                self.left -= 1
                least = best - spent[begin]
                least = min(least / GAIN, sum(alone[begin:end]) - LEAST_SAVED)
                found = self._together(first + begin, first + end, least)
                if found is not None:
                    best, how = spent[begin] + GAIN * found.seconds, (begin, found.step)
            spent.append(best)
            chosen.append(how)
        made: list[Step] = []
        end = len(steps)
        while end:
            begin, step = chosen[end]
            made.insert(0, steps[begin] if step is None else self._own(improved(step, self.several)))
            end = begin
        return made

    def _own(self, step: Fused) -> Fused:
        """Return `step` with numbers of its own for the copies in it."""
        names = {}
        for number in step.body.values():
            if number not in self.known:
                names[number], self.fresh = self.fresh, self.fresh + 1
        steps = tuple(
            replace(
                s,
                out=replace(s.out, number=names.get(s.out.number, s.out.number)),
                inputs=tuple(names.get(i, i) for i in s.inputs),
            )
            for s in _contracts(step.body)
        )
        return replace(step, body=replace(step.body, steps=steps))

    def _alone(self, step: Step) -> float:
        """Return the predicted seconds of a step by itself, the views that it takes included."""
        assert isinstance(step, Contract)
        if step.how:
            return self.fuser.seconds(self.program, replace(step, how=""))
        terms = [*(self.known[i].modes for i in step.inputs), step.out.modes]
        views = 2 * sum(len(t) > 2 for t in terms) if len(terms) > 2 else 0
        return self.fuser.alone(self.program, step) + STEP + views * VIEW

    def _together(self, first: int, last: int, least: float) -> _Candidate | None:
        """Return the steps from `first` until before `last` as one in the best way, or None if there is none."""
        steps = self.program.steps[first:last]
        made = {v.number: v for step in steps for v in step.outs}
        outs = tuple(v for n, v in made.items() if self.last.get(n, -1) >= last)
        inputs = tuple(dict.fromkeys(i for step in steps for i in step.inputs if i not in made))
        contracts = tuple(replace(s, how="") for s in steps if isinstance(s, Contract))
        body = replace(
            self.program,
            inputs=tuple(self.known[i] for i in inputs),
            constants=(),
            steps=contracts,
            results=tuple(v.number for v in outs),
        )
        best = None
        for form, modes, piece in self._forms(body):
            step = Fused(outs, inputs, form, modes, piece, self.fuser.how)
            seconds = self.several(step)
            if seconds < (least if best is None else best.seconds):
                best = _Candidate(step, seconds)
        return best

    def _forms(self, body: Program) -> Iterator[tuple[Program, Term, int]]:
        """Yield ways to do `body`: the orders of what lies between its steps, a mode in pieces, and their length."""
        yield body, (), 0
        known = body.values()
        sizes = {n: self._size(v) for n, v in known.items()}
        if sum(sizes.values()) <= TINY:
            return
        outside = [v for v in (*body.inputs, *(known[i] for i in body.results)) if v.modes]
        for m in dict.fromkeys(v.modes[0] for v in outside):
            if any(m in v.modes[1:] for v in outside) or not any(m in v.modes for v in body.inputs):
                continue
            extent, turned = body.extents[m], _with_last(body, m)
            for form in (body, turned, _with_copies(turned, m)):
                whole = sum(self._size(v) for v in form.values().values() if m in v.modes)
                for piece in dict.fromkeys(_piece(extent, whole, most) for most in PIECES):
                    if 1 < piece < extent:
                        yield form, (m,), piece

    def _size(self, value: Value) -> int:
        return prod([self.program.extents[m] for m in value.modes]) * itemsize(value.dtype)


def _piece(extent: int, whole: int, most: int) -> int:
    """Return a number of positions, `most` bytes of `whole` at most: whole vectors that divide `extent` if any do."""
    wanted = max(8, min(extent, most * extent // max(1, whole)))
    wanted -= wanted % 8
    return next((n for n in range(wanted, wanted // 2, -8) if extent % n == 0), wanted)


def _with_copies(body: Program, mode: int) -> Program:
    """Return `body` with operands that several of its steps read copied, `mode` last: they are turned once."""
    readers = [i for step in body.steps for i in step.inputs]
    number = 1 + max(body.values())
    copies: list[Step] = []
    renamed: dict[int, int] = {}
    for value in body.inputs:
        if mode in value.modes[:-1] and readers.count(value.number) > 1:
            turned = (*(m for m in value.modes if m != mode), mode)
            copies.append(Contract(Value(number, turned, value.dtype), (value.number,)))
            renamed[value.number] = number
            number += 1
    steps = [replace(s, inputs=tuple(renamed.get(i, i) for i in s.inputs)) for s in _contracts(body)]
    return replace(body, steps=(*copies, *steps))


def _contracts(body: Program) -> list[Contract]:
    return [step for step in body.steps if isinstance(step, Contract)]


def _with_last(body: Program, mode: int) -> Program:
    """Return `body` with `mode` last in what lies between its steps: it runs along the lanes of vectors."""
    steps = []
    for step in _contracts(body):
        out = step.out
        if out.number not in body.results and mode in out.modes:
            out = replace(out, modes=(*(m for m in out.modes if m != mode), mode))
        steps.append(replace(step, out=out))
    return replace(body, steps=tuple(steps))
