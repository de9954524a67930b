"""Plan -> Program: lowering, then the passes, in one visible order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from contractc.backends.steps.choose import arranged, free_results
from contractc.dtypes import is_floating, wide
from contractc.lower.fuse import Fuser, fuse, fusers, loops_missed
from contractc.lower.passes import PASSES, as_stored
from contractc.machine import DEFAULT_MACHINE, Machine, Target
from contractc.plans import Plan
from contractc.programs import Broadcast, Call, Constant, Contract, Loop, Program, Reshape, Step, Value
from contractc.providers import providers
from contractc.serial import checked

__all__ = ["fusers", "loops_missed", "lower", "split_exponents", "translate"]


NO_ORDERS: Mapping[int, Sequence[int]] = MappingProxyType({})


def lower(
    plan: Plan,
    target: Target,
    *,
    exponents: bool = False,
    ordered: bool = False,
    machine: Machine = DEFAULT_MACHINE,
    kernels: Sequence[Fuser] = (),
    orders: Mapping[int, Sequence[int]] = NO_ORDERS,
) -> Program:
    """Return the program of `plan` for `target`, after all passes.

    Args:
        exponents: take a power of two out of every intermediate; the program then returns each result and
            its exponent. The caller has made sure that the dtype is floating and the semiring the usual one.
        ordered: results are wanted in C order; else they may be views of arrays in an order that is cheaper to make.
        orders: for inputs that are not in C order in memory, their axes from the slowest to the fastest.
        kernels: how the target runs fused steps (`fusers`); without, nothing is fused.
    """
    program = translate(plan, target)
    for transform in PASSES:
        program = transform(program)
    if exponents:
        program = split_exponents(program)
    else:
        program = as_stored(program, orders) if orders else program
        program = fuse(program, kernels)
        if target.backend == "numpy" and program.semiring == "sum_product":
            names = providers()
            program = program if ordered else free_results(program)
            program = arranged(program, machine, names)
    assert not program.faults(), f"{program.faults()}\n{program}"
    return program


def translate(plan: Plan, target: Target) -> Program:
    """Return `plan` as a program, one Contract a step; sliced modes become one Loop around all of them.

    Where a factorized operand splits modes, arrays are reshaped at both ends. Constants have no digest yet:
    their arrays are not known here.

    On NumPy, narrow floats are widened by the first step that reads them and narrowed by the last; torch's
    own kernels accumulate wide and keep intermediates narrow, so there they stay as they are.
    """
    checked(plan)
    network, terms = plan.network, plan.terms()
    count = len(network.tensors)
    inner = wide(network.dtype) if target.backend == "numpy" else network.dtype
    sliced = set(plan.sliced)
    inputs = tuple(Value(k, t.given or t.modes, t.dtype) for k, t in enumerate(network.tensors))
    fresh = count + len(plan.path)
    split: list[Step] = []
    leaves = list(inputs)
    for k, tensor in enumerate(network.tensors):
        if tensor.given:
            leaves[k] = Value(fresh, tensor.modes, tensor.dtype)
            split.append(Reshape(leaves[k], (k,)))
            fresh += 1
    numbers = [*(v.number for v in leaves), *range(count, count + len(plan.path))]
    steps: list[Step] = []
    conjugated = {plan.results[o] for o in network.conjugated}
    final = set() if sliced else set(plan.results)
    for s, ids in enumerate(plan.path):
        modes = tuple(m for m in terms[count + s] if m not in sliced)
        flip = count + s in conjugated  # the conjugate of a product is that of its factors
        flags = tuple((i < count and network.tensors[i].conj) != flip for i in ids)
        out = Value(count + s, modes, network.dtype if count + s in final else inner)
        step = Contract(out, tuple(numbers[i] for i in ids), flags if any(flags) else ())
        made = _with_broadcast(step, {m for i in ids for m in terms[i]}, fresh)
        fresh += len(made) - 1
        steps += made
    results = plan.results
    if sliced:
        body_inputs = tuple(
            Value(v.number, tuple(m for m in v.modes if m not in sliced), v.dtype) for v in leaves
        )
        body = Program(
            body_inputs,
            tuple(steps),
            results,
            network.extents,
            network.semiring,
            network.dynamic,
            (),
            network.labels,
        )
        whole = tuple(Value(fresh + o, distinct(term), inner) for o, term in enumerate(network.outputs))
        fresh += len(whole)
        finals = tuple(Value(fresh + o, term, network.dtype) for o, term in enumerate(network.outputs))
        fresh += len(finals)
        steps = [Loop(whole, tuple(v.number for v in leaves), _with_distinct_results(body), plan.sliced)]
        steps += [Contract(v, (w.number,)) for v, w in zip(finals, whole, strict=True)]
        results = tuple(v.number for v in finals)
    for o, term in enumerate(network.fused):
        steps.append(Reshape(Value(fresh + o, term, network.dtype), (results[o],)))
    if network.fused:
        results = tuple(range(fresh, fresh + len(results)))
    constant = [t.constant for t in network.tensors]
    return Program(
        tuple(v for v, fixed in zip(inputs, constant, strict=True) if not fixed),
        (*split, *steps),
        results,
        network.extents,
        network.semiring,
        network.dynamic,
        tuple(Constant(v, "") for v, fixed in zip(inputs, constant, strict=True) if fixed),
        network.labels,
    )


def _with_broadcast(step: Contract, present: set[int], fresh: int) -> list[Step]:
    """Return `step` with the modes that no input has (the inputs have those in `present`) added afterwards.

    New values are numbered from `fresh`.
    """
    own = tuple(m for m in distinct(step.out.modes) if m in present)
    whole = distinct(step.out.modes)
    if own == whole:
        return [step]
    narrow = Value(fresh, own, step.out.dtype)
    if whole == step.out.modes:
        return [replace(step, out=narrow), Broadcast(step.out, (fresh,))]
    wide_ = Value(fresh + 1, whole, step.out.dtype)
    return [replace(step, out=narrow), Broadcast(wide_, (fresh,)), Contract(step.out, (fresh + 1,))]


def distinct(term: tuple[int, ...]) -> tuple[int, ...]:
    """Return the modes of `term`, each once."""
    return tuple(dict.fromkeys(term))


def _with_distinct_results(body: Program) -> Program:
    """Return `body` with results that have each mode once; a repeated output is spread after the loop."""
    steps = [
        replace(s, out=replace(s.out, modes=distinct(s.out.modes)))
        for s in body.steps
        if isinstance(s, Contract | Broadcast)
    ]
    return replace(body, steps=tuple(steps))


def split_exponents(program: Program) -> Program:
    """Return `program` with a power of two taken out of every input and of the result of every step.

    A float16 input stays as it is: its products fit in float32, and scaling would flush its smallest values.
    Narrow results are narrowed after their exponent is gone.

    Before:  %2 = contract %0 %1,  return %2
    After:   %3, %4 = split_exponent %0,  %5, %6 = split_exponent %1,  %2 = contract %3 %5,
             %7, %8 = split_exponent %2,  %9 = sum_exponents %4 %6 %8,  return %7 %9
    """
    number = 1 + max(program.values())
    renamed: dict[int, int] = {}
    exponents: dict[int, int] = {}
    made_of: dict[int, tuple[int, ...]] = {}
    steps: list[Step] = []

    def split(value: Value) -> None:
        nonlocal number
        scaled = Value(number, value.modes, value.dtype)
        exponent = Value(number + 1, (), "int64")
        steps.append(Call((scaled, exponent), (value.number,), "split_exponent"))
        renamed[value.number] = scaled.number
        exponents[value.number] = exponent.number
        number += 2

    for value in (*program.inputs, *(c.value for c in program.constants)):
        if is_floating(value.dtype) and value.dtype != "float16":
            split(value)
    for step in program.steps:
        made_of[step.outs[0].number] = step.inputs
        if isinstance(step, Reshape):
            (source,) = step.inputs
            dtype = wide(step.out.dtype) if source in made_of and source in renamed else step.out.dtype
            steps.append(Reshape(replace(step.out, dtype=dtype), (renamed.get(source, source),)))
            continue
        assert isinstance(step, Contract), step
        out = replace(step.out, dtype=wide(step.out.dtype))
        steps.append(Contract(out, tuple(renamed.get(i, i) for i in step.inputs), step.conj))
        split(out)
    known = program.values()
    results: list[int] = []
    for result in program.results:
        total = Value(number, (), "int64")
        found, todo = [], [result]
        while todo:
            i = todo.pop()
            found += [exponents[i]] if i in exponents else []
            todo += made_of.get(i, ())
        steps.append(Call((total,), tuple(sorted(found)), "sum_exponents"))
        mantissa, number = renamed.get(result, result), number + 1
        if wide(known[result].dtype) != known[result].dtype:
            narrow = replace(known[result], number=number)
            steps.append(Contract(narrow, (mantissa,)))
            mantissa, number = narrow.number, number + 1
        results += [mantissa, total.number]
    return Program(
        program.inputs,
        tuple(steps),
        tuple(results),
        program.extents,
        program.semiring,
        program.dynamic,
        program.constants,
        program.labels,
    )
