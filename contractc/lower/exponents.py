"""Powers of two taken out of values, so that products of many numbers neither overflow nor vanish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log2

from contractc.dtypes import is_floating, wide
from contractc.programs import Broadcast, Call, Contract, Loop, Program, Reshape, Step, Value

VALUE_BITS = 4.0
"""Binary digits by which the numbers of an operand are taken to differ from 1."""

RANGE = {"float32": 127.0, "complex64": 127.0, "float16": 127.0, "bfloat16": 127.0}
"""The largest exponent of a dtype, of narrow ones that of float32; 1023 for all others."""

AT_THE_END = 2.5
"""How many times more digits than others values may have that no step reads: two factors have two thirds of all."""

LEAST = 1.5
"""How many times the range of its dtype a program has to be able to exceed to be guarded: sums of numbers of both signs
grow with the square root of their number."""


def split_exponents(program: Program) -> Program:
    """Return `program` with a power of two taken out of every input and of the result of every step.

    A float16 input stays as it is: its products fit in float32, and scaling would flush its smallest values.
    Narrow results are narrowed after their exponent is gone.

    Before:  %2 = contract %0 %1,  return %2
    After:   %3, %4 = split_exponent %0,  %5, %6 = split_exponent %1,  %2 = contract %3 %5,
             %7, %8 = split_exponent %2,  %9 = sum_exponents %4 %6 %8,  return %7 %9
    """
    scaling = _Scaling(program, None)
    scaling.inputs()
    scaling.body()
    totals = scaling.totals(program.results)
    results: list[int] = []
    for result in program.results:
        results += [scaling.narrowed(result), totals[result]]
    return replace(program, steps=tuple(scaling.steps), results=tuple(results))


def guard_range(program: Program) -> Program:
    """Return `program` with powers of two taken out on the way where its values could leave the range of the dtype.

    How large values can become is bounded as if the operands' were at most 2**`VALUE_BITS`; most programs cannot
    overflow, and stay as they are. An exponent is taken out where the bound has come to a third of the range, so that
    numbers may be a few times as many digits away from 1.

    Before:  %9 = contract %7 %8,  return %9
    After:   %10, %11 = split_exponent %7,  %9 = contract %10 %8,  %12 = times_power %9 %11,  return %12
    """
    known = program.values()
    dtypes = {known[i].dtype for i in program.results}
    if program.semiring != "sum_product" or len(dtypes) != 1 or not is_floating(*dtypes):
        return program
    largest = RANGE.get(wide(*dtypes), 1023.0)
    bits = _bits(program)
    if max((bits[i] for i in program.results), default=0.0) < LEAST * largest:
        return program
    scaling = _Scaling(program, largest / 3)
    scaling.body()
    totals = scaling.totals([result for result in program.results if result in scaling.scaled])
    results = []
    for result in program.results:
        if result not in scaling.scaled:
            results.append(result)
            continue
        mantissa = replace(scaling.current[result], number=scaling.fresh())
        call = Call((mantissa,), (scaling.renamed.get(result, result), totals[result]), "times_power")
        scaling.steps.append(call)
        scaling.renamed[result], scaling.current[result] = mantissa.number, mantissa
        results.append(scaling.narrowed(result))
    return replace(program, steps=tuple(scaling.steps), results=tuple(results))


def unguarded(program: Program) -> Program:
    """Return `program` without the exponents that `guard_range` takes out: there is a rule for its gradients then."""
    stands_for: dict[int, int] = {}
    steps: list[Step] = []
    for step in program.steps:
        if not isinstance(step, Call):
            steps.append(replace(step, inputs=tuple([stands_for.get(i, i) for i in step.inputs])))
        elif step.operation != "sum_exponents":
            stands_for[step.outs[0].number] = stands_for.get(step.inputs[0], step.inputs[0])
    if not stands_for:
        return program
    results = tuple([stands_for.get(i, i) for i in program.results])
    return replace(program, steps=tuple(steps), results=results)


def _bits(program: Program, given: Mapping[int, float] | None = None) -> dict[int, float]:
    """Return for every value by how many binary digits it may differ from 1; `given` has the inputs'."""
    known = program.values()
    bits = dict(given or {})
    for value in (*program.inputs, *(c.value for c in program.constants)):
        bits.setdefault(value.number, VALUE_BITS)
    for step in program.steps:
        bits |= _made_bits(program, step, known, bits)
    return bits


def _made_bits(
    program: Program, step: Step, known: Mapping[int, Value], bits: Mapping[int, float]
) -> dict[int, float]:
    """Return the same for what `step` makes."""
    if isinstance(step, Loop):
        inside = {v.number: bits[i] for i, v in zip(step.inputs, step.body.inputs, strict=True)}
        body = _bits(step.body, inside)
        return {
            v.number: body[i] + _summed(program, step.modes, v)
            for v, i in zip(step.outs, step.body.results, strict=True)
        }
    present = dict.fromkeys(m for i in step.inputs for m in known[i].modes)
    own = sum(bits[i] for i in step.inputs)
    if isinstance(step, Contract):
        own += _summed(program, tuple(present), step.out)
    return {v.number: own for v in step.outs}


def _summed(program: Program, modes: tuple[int, ...], out: Value) -> float:
    return sum(log2(max(1, program.extents[m])) for m in modes if m not in out.modes)


class _Scaling:
    """The steps of a program with exponents so far.

    `current` are the values as the steps have them, `renamed` the numbers under which they go on without their
    exponent, `exponents` the values that hold the exponents taken out of each, `made_of` what it was made of, `scaled`
    the values out of which, or out of what they were made of, exponents were taken.
    With `most`, only values that may differ from 1 by as many binary digits are split; `ends` are those no step reads.
    """

    def __init__(self, program: Program, most: float | None, bits: Mapping[int, float] | None = None) -> None:
        self.program, self.most = program, most
        self.known = program.values()
        self.number = 1 + max(self.known, default=0)
        self.steps: list[Step] = []
        self.current: dict[int, Value] = {
            v.number: v for v in (*program.inputs, *(c.value for c in program.constants))
        }
        self.renamed: dict[int, int] = {}
        self.exponents: dict[int, list[int]] = {}
        self.made_of: dict[int, tuple[int, ...]] = {}
        self.scaled: set[int] = set()
        self.ends = set(program.results).difference(i for step in program.steps for i in step.inputs)
        self.bits: dict[int, float] = dict.fromkeys(self.current, VALUE_BITS) | dict(bits or {})

    def fresh(self) -> int:
        """Return a new number."""
        self.number += 1
        return self.number - 1

    def split(self, value: Value) -> None:
        """Take the exponent out of `value`."""
        scaled = replace(value, number=self.fresh())
        exponent = Value(self.fresh(), (), "int64")
        self.steps.append(Call((scaled, exponent), (value.number,), "split_exponent"))
        self.renamed[value.number] = scaled.number
        self.exponents.setdefault(value.number, []).append(exponent.number)
        self.scaled.add(value.number)
        self.bits[value.number] = 0.0

    def inputs(self) -> None:
        """Take exponents out of all inputs and constants."""
        for value in list(self.current.values()):
            if is_floating(value.dtype) and value.dtype != "float16":
                self.split(value)

    def body(self) -> None:
        """Add all steps."""
        for step in self.program.steps:
            self.bits |= _made_bits(self.program, step, self.known, self.bits)
            inputs = tuple(self.renamed.get(i, i) for i in step.inputs)
            if isinstance(step, Loop):
                self.loop(step, inputs)
                continue
            assert isinstance(step, Contract | Reshape | Broadcast), step
            dtype = self.current[step.inputs[0]].dtype
            if isinstance(step, Contract):
                dtype = wide(step.out.dtype) if self.scales(step) else step.out.dtype
            out = replace(step.out, dtype=dtype)
            self.steps.append(replace(step, out=out, inputs=inputs))
            self.current[out.number] = out
            self.made(out.number, step.inputs)
            if isinstance(step, Contract) and self.large(out.number):
                self.split(out)

    def scales(self, step: Step) -> bool:
        """Return whether what `step` makes carries an exponent, so that it has to be as wide as sums are."""
        return self.most is None or not self.scaled.isdisjoint(step.inputs) or self.large(step.outs[0].number)

    def made(self, number: int, inputs: tuple[int, ...]) -> None:
        """Take down what value `number` was made of."""
        self.made_of[number] = inputs
        if not self.scaled.isdisjoint(inputs):
            self.scaled.add(number)

    def large(self, number: int) -> bool:
        """Return whether an exponent is to be taken out of a value; what no step reads is multiplied no further."""
        return self.most is None or self.bits[number] >= self.most * (
            AT_THE_END if number in self.ends else 1
        )

    def loop(self, step: Loop, inputs: tuple[int, ...]) -> None:
        """Add a loop, with exponents in its body if any value there is to be split."""
        given = tuple(
            replace(v, dtype=self.current[i].dtype)
            for i, v in zip(step.inputs, step.body.inputs, strict=True)
        )
        bits = {v.number: self.bits[i] for i, v in zip(step.inputs, given, strict=True)}
        inner = _Scaling(replace(step.body, inputs=given), self.most, bits)
        inner.body()
        if not any(inner.exponents.values()):
            self.steps.append(replace(step, inputs=inputs, body=replace(step.body, inputs=given)))
            self.current |= {v.number: v for v in step.outs}
            for v, result in zip(step.outs, step.body.results, strict=True):
                self.made(v.number, _reached(step, result))
                self._split_if_large(v)
            return
        outs: list[Value] = []
        results: list[int] = []
        for result in step.body.results:
            if result not in inner.scaled:
                inner.split(inner.current[result])
        totals = inner.totals(step.body.results)
        for v, result in zip(step.outs, step.body.results, strict=True):
            results += [inner.renamed.get(result, result), totals[result]]
            value, exponent = replace(v, dtype=wide(v.dtype)), Value(self.fresh(), (), "int64")
            outs += [value, exponent]
            self.current[v.number] = value
            self.made(v.number, _reached(step, result))
            self.exponents[v.number] = [exponent.number]
            self.scaled.add(v.number)
        body = replace(inner.program, steps=tuple(inner.steps), results=tuple(results))
        self.steps.append(replace(step, outs=tuple(outs), inputs=inputs, body=body, scaled=True))
        for value in outs[::2]:
            self.bits[value.number] = _summed(self.program, step.modes, value)
            self._split_if_large(value)

    def _split_if_large(self, value: Value) -> None:
        if self.large(value.number):
            self.split(value)

    def totals(self, results: Sequence[int]) -> dict[int, int]:
        """Return for each of `results` the value that holds the sum of all exponents taken out of it on the way.

        What several of them are made of is added up once.
        """
        needed = self._needed(results)
        uses = Counter(results) + Counter(i for n in needed for i in self.made_of.get(n, ()))
        held: dict[int, list[int]] = {}
        for number in needed:
            parts = [*self.exponents.get(number, ())]
            for i in self.made_of.get(number, ()):
                before = held[i] if uses[i] > 1 else held.pop(i)
                parts, before = (
                    (before, parts) if uses[i] == 1 and len(before) > len(parts) else (parts, before)
                )
                parts += before
            held[number] = [self._sum(parts)] if len(parts) > 1 and uses[number] > 1 else parts
        return {number: self._sum(held[number]) for number in dict.fromkeys(results)}

    def _needed(self, results: Sequence[int]) -> list[int]:
        """Return `results` and what they were made of, all that a value was made of before it."""
        reached: set[int] = set()
        todo = [*results]
        while todo:
            number = todo.pop()
            if number not in reached:
                reached.add(number)
                todo += self.made_of.get(number, ())
        return [n for n in self.current if n in reached]

    def _sum(self, exponents: Sequence[int]) -> int:
        """Return the value that holds the sum of some exponents."""
        total = Value(self.fresh(), (), "int64")
        self.steps.append(Call((total,), tuple(sorted(exponents)), "sum_exponents"))
        return total.number

    def narrowed(self, number: int) -> int:
        """Return value `number` without its exponent in the dtype that it had in the program."""
        mantissa, wanted = self.renamed.get(number, number), self.known[number]
        if self.current[number].dtype == wanted.dtype:
            return mantissa
        narrow = replace(wanted, number=self.fresh())
        self.steps.append(Contract(narrow, (mantissa,)))
        return narrow.number


def _reached(loop: Loop, result: int) -> tuple[int, ...]:
    """Return the inputs of `loop` that a result of its body is made of, each as often as it is used."""
    outer = {v.number: i for i, v in zip(loop.inputs, loop.body.inputs, strict=True)}
    made: dict[int, tuple[int, ...]] = {}
    for step in loop.body.steps:
        if isinstance(step, Loop):
            made |= {v.number: _reached(step, i) for v, i in zip(step.outs, step.body.results, strict=True)}
        else:
            made |= {v.number: step.inputs for v in step.outs}
    found, todo = [], [result]
    while todo:
        i = todo.pop()
        found += [outer[i]] if i in outer else []
        todo += made.get(i, ())
    return tuple(found)
