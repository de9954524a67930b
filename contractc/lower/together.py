"""The second fusion pass: steps that follow each other become one call, whatever their results are read by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import ceil, sqrt

from contractc.cost import BLAS, flops
from contractc.fused import Names, numbered_anew, renamed
from contractc.lower.between import improved
from contractc.lower.fuse import Fuser
from contractc.machine import DEFAULT_MACHINE
from contractc.notation import Term
from contractc.programs import Contract, Fused, Loop, Program, Step, Value

MOST_STEPS = 64
"""The most steps that become one call."""

GAIN = 1.1
"""How many times faster one call has to be by prediction. Of nests measured one by one the prediction is within a fifth
mostly; libraries take longer than predicted for steps as small as these."""

MOST_CANDIDATES = 3000
"""About the most runs of steps that are looked at in one program: of many steps not all begin or end one."""

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


def _may_be_inside(program: Program, step: Contract, known: Mapping[int, Value], fuser: Fuser) -> bool:
    modes = {m for i in step.inputs for m in known[i].modes}
    return step.how in ("", fuser.how) and not modes.intersection(program.dynamic)


class _Pass:
    """One program, and what its steps take one by one."""

    def __init__(self, program: Program, fuser: Fuser) -> None:
        assert fuser.several is not None
        self.program, self.fuser, self.several = program, fuser, fuser.several
        self.known = program.values()
        self.fresh = 1 + max(self.known)
        self.priced: dict[Fused, tuple[float, int]] = {}
        self.better: dict[Fused, Fused] = {}
        candidates = len(program.steps) * min(MOST_STEPS, len(program.steps))
        self.apart = ceil(sqrt(candidates / MOST_CANDIDATES))
        last = {i: k for k, s in enumerate(program.steps) for i in s.inputs}
        self.last = last | dict.fromkeys(program.results, len(program.steps))

    def best(self, first: int, last: int) -> list[Step]:
        """Return the steps from `first` until before `last` with runs of them as one: the cut that takes least."""
        steps = self.program.steps[first:last]
        if len(steps) < 2:
            return list(steps)
        alone = [self._alone(step) for step in steps]
        floors = [0.0, *accumulate(self._floor(step) for step in steps)]
        spent = [0.0]
        chosen: list[tuple[int, int]] = [(0, -1)]
        for end in range(1, len(steps) + 1):
            best, how = spent[end - 1] + alone[end - 1], (end - 1, -1)
            if end % self.apart == 0 or end == len(steps):
                latest = (end - 2) // self.apart * self.apart
                for begin in range(latest, max(-1, end - MOST_STEPS - 1), -self.apart):
                    least = min((best - spent[begin]) / GAIN, sum(alone[begin:end]) - LEAST_SAVED)
                    if floors[end] - floors[begin] >= least:
                        continue
                    seconds, form = self._together(first + begin, first + end)
                    if seconds < least:
                        best, how = spent[begin] + GAIN * seconds, (begin, form)
            spent.append(best)
            chosen.append(how)
        made: list[Step] = []
        end = len(steps)
        while end:
            begin, form = chosen[end]
            made.insert(0, steps[begin] if form < 0 else self._made(first + begin, first + end, form))
            end = begin
        return made

    def _made(self, first: int, last: int, form: int) -> Fused:
        """Return the steps from `first` until before `last` as one in that form, improved; copies get new numbers."""
        step, names = numbered_anew(self._whole(first, last))
        cut = self._forms(step)[form]
        if cut not in self.better:
            self.better[cut] = improved(cut, self.several)
        step = self.better[cut]
        copies = [n for n in step.body.values() if n not in names.values]
        values = {**names.values, **{n: self.fresh + k for k, n in enumerate(copies)}}
        self.fresh += len(copies)
        return renamed(step, Names(names.modes, values), self.program)

    def _alone(self, step: Step) -> float:
        """Return the predicted seconds of a step by itself, the views that it takes included."""
        assert isinstance(step, Contract)
        if step.how:
            return self.fuser.seconds(self.program, replace(step, how=""))
        terms = [*(self.known[i].modes for i in step.inputs), step.out.modes]
        views = 2 * sum(len(t) > 2 for t in terms) if len(terms) > 2 else 0
        return self.fuser.alone(self.program, step) + STEP + views * VIEW

    def _floor(self, step: Step) -> float:
        """Return seconds that no kernel does the arithmetic of a step in."""
        assert isinstance(step, Contract)
        terms = [self.known[i].modes for i in step.inputs]
        done = flops(terms, step.out.modes, self.program.extents) if len(terms) > 1 else 0
        return done / DEFAULT_MACHINE.rate(step.out.dtype) if step.out.dtype in BLAS else 0.0

    def _together(self, first: int, last: int) -> tuple[float, int]:
        """Return the least predicted seconds of the steps from `first` until before `last` as one, and the form."""
        step, _ = numbered_anew(self._whole(first, last))
        if step not in self.priced:
            self.priced[step] = min((self.several(cut), form) for form, cut in enumerate(self._forms(step)))
        return self.priced[step]

    def _whole(self, first: int, last: int) -> Fused:
        """Return the steps from `first` until before `last` as one, as they stand."""
        steps = [s for s in self.program.steps[first:last] if isinstance(s, Contract)]
        made = {s.out.number: s.out for s in steps}
        outs = tuple(v for n, v in made.items() if self.last.get(n, -1) >= last)
        inputs = tuple(dict.fromkeys(i for step in steps for i in step.inputs if i not in made))
        body = replace(
            self.program,
            inputs=tuple(self.known[i] for i in inputs),
            constants=(),
            steps=tuple(replace(s, how="") for s in steps),
            results=tuple(v.number for v in outs),
        )
        return Fused(outs, inputs, body, (), 0, self.fuser.how)

    @staticmethod
    def _forms(step: Fused) -> list[Fused]:
        """Return the ways to do `step`: the orders of what lies between, a mode in pieces, and their length."""
        return [replace(step, body=body, modes=m, piece=piece) for body, m, piece in _cuts(step.body)]


def _cuts(body: Program) -> Iterator[tuple[Program, Term, int]]:
    """Yield forms of `body`, each with the mode that is taken in pieces, if any, and the length of a piece."""
    yield body, (), 0
    known = body.values()
    sizes = {n: body.bytes_of(v) for n, v in known.items()}
    if sum(sizes.values()) <= TINY:
        return
    outside = [v for v in (*body.inputs, *(known[i] for i in body.results)) if v.modes]
    for m in dict.fromkeys(v.modes[0] for v in outside):
        if any(m in v.modes[1:] for v in outside) or not any(m in v.modes for v in body.inputs):
            continue
        extent, turned = body.extents[m], _with_last(body, m)
        for form in (body, turned, _with_copies(turned, m)):
            whole = sum(body.bytes_of(v) for v in form.values().values() if m in v.modes)
            for piece in dict.fromkeys(_piece(extent, whole, most) for most in PIECES):
                if 1 < piece < extent:
                    yield form, (m,), piece


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
