"""Plan -> Program: lowering, then the passes, in one visible order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from contractc.backends.steps.choose import Prices, arranged, free_results, layout
from contractc.dtypes import wide
from contractc.lower import fuse, together  # modules: functions of these names would hide them
from contractc.lower.exponents import guard_range, split_exponents
from contractc.lower.fuse import Fuser, fusers, loops_missed
from contractc.lower.memory import NEGLIGIBLE, peak_bytes, with_threads
from contractc.lower.passes import PASSES, as_stored, merge_equal_steps, unshared
from contractc.lower.seconds import program_seconds
from contractc.lower.slices import in_slices, packed
from contractc.machine import DEFAULT_MACHINE, Machine, Target
from contractc.network import TensorNetwork
from contractc.notation import Term
from contractc.plans import Plan
from contractc.programs import Broadcast, Constant, Contract, Program, Reshape, Step, Value
from contractc.providers import providers
from contractc.serial import checked

__all__ = [
    "NEGLIGIBLE",
    "finished",
    "fusers",
    "loops_missed",
    "lower",
    "peak_bytes",
    "split_exponents",
    "translate",
]


GAIN_APART = 1.25
"""How many times faster a program that computes shared intermediates again has to be by prediction."""

GAIN_LAYOUT = 1.1
"""How many times faster a program whose runs are found with orders chosen before has to be by prediction."""

WORTH_TWICE = 1e-3
"""Predicted seconds from which on runs are looked for twice: as steps are given, and with orders chosen before."""

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
    memory: int | None = None,
) -> Program:
    """Return the program of `plan` for `target`, after all passes.

    Args:
        exponents: take a power of two out of every intermediate; the program then returns each result and
            its exponent. The caller has made sure that the dtype is floating and the semiring the usual one.
        ordered: results are wanted in C order; else they may be views of arrays in an order that is cheaper to make.
        orders: for inputs that are not in C order in memory, their axes from the slowest to the fastest.
        kernels: how the target runs fused steps (`fusers`); without, nothing is fused.
        memory: bytes that slices keep to: steps leave a loop, and slices run side by side, as far as there is room.
    """

    def made(hoist: bool, pairs: bool) -> Program:
        program = translate(plan, target, hoist, pairs)
        for transform in PASSES:
            if transform is not merge_equal_steps or not _again(plan):
                program = transform(program)
        if exponents:
            return split_exponents(program)
        if target.backend in ("numpy", "torch"):
            program = guard_range(program)
        program = as_stored(program, orders) if orders else program
        return finished(program, target, ordered=ordered, machine=machine, kernels=kernels)

    program = made(True, True)
    if plan.sliced:
        for hoist, pairs in ((True, False), (False, True), (False, False)):
            if memory is None or peak_bytes(program, target) <= memory + NEGLIGIBLE:
                break
            program = min((program, made(hoist, pairs)), key=lambda p: peak_bytes(p, target))
        seconds = plan.seconds / max(1, plan.network.size(plan.sliced))
        program = with_threads(program, target, seconds, memory)
    assert not program.faults(), f"{program.faults()}\n{program}"
    return program


def _again(plan: Plan) -> bool:
    """Return whether `plan` computes values a second time, for want of memory to keep them."""
    count = len(plan.network.tensors)
    steps = [ids for s, ids in enumerate(plan.path) if count + s not in plan.results]
    return len(set(steps)) < len(steps)


def finished(
    program: Program,
    target: Target,
    *,
    ordered: bool = False,
    machine: Machine = DEFAULT_MACHINE,
    kernels: Sequence[Fuser] = (),
) -> Program:
    """Return a pairwise `program` with runs of steps fused and, for NumPy, orders and ways chosen; see `lower`."""
    if target.backend != "numpy" or program.semiring != "sum_product":
        return fuse.fuse(program, kernels)

    def made(form: Program) -> Program:
        form = together.together(fuse.fuse(form, kernels), kernels)
        form = form if ordered else free_results(form)
        return arranged(form, machine, providers(), prices)

    prices = Prices(machine, tuple(providers()))
    best, apart = made(program), unshared(program) if kernels else None
    if kernels and program_seconds(best, machine) >= WORTH_TWICE:
        other = made(layout(program, machine, providers()))
        if program_seconds(other, machine) * GAIN_LAYOUT < program_seconds(best, machine):
            best = other
    if apart is not None:
        apart = made(apart)
        if program_seconds(apart, machine) * GAIN_APART < program_seconds(best, machine):
            return apart
    return best


def translate(plan: Plan, target: Target, hoist: bool = True, pairs: bool = True) -> Program:
    """Return `plan` as a program, one Contract a step; sliced modes become loops around those that depend on them.

    Where a factorized operand splits modes, arrays are reshaped at both ends. Constants have no digest yet:
    their arrays are not known here.

    On NumPy, narrow floats are widened by the first step that reads them and narrowed by the last; torch's
    own kernels accumulate wide and keep intermediates narrow, so there they stay as they are.
    """
    checked(plan)
    network, terms = plan.network, plan.terms()
    count = len(network.tensors)
    inner = wide(network.dtype) if target.backend == "numpy" else network.dtype
    sliced = tuple(m for m in plan.sliced if network.extents[m] > 1)
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
        term = distinct(terms[count + s]) if sliced else terms[count + s]
        flip = count + s in conjugated  # the conjugate of a product is that of its factors
        flags = tuple((i < count and network.tensors[i].conj) != flip for i in ids)
        out = Value(count + s, term, network.dtype if count + s in final else inner)
        reshape = None if sliced else _reshape(network, ids, numbers, terms, flip, out, fresh)
        if reshape is not None:
            fresh += len(reshape)
            steps += reshape
            continue
        step = Contract(out, tuple(numbers[i] for i in ids), flags if any(flags) else ())
        made = _with_broadcast(step, {m for i in ids for m in terms[i]}, fresh)
        fresh += len(made) - 1
        steps += made
    results = plan.results
    if sliced:
        whole = Program(
            tuple(leaves),
            tuple(steps),
            results,
            network.extents,
            network.semiring,
            network.dynamic,
            (),
            network.labels,
        )
        if target.backend in ("numpy", "torch"):
            whole = packed(whole, sliced)
        fresh = max(fresh, 1 + max(whole.values()))
        finals = tuple(Value(fresh + o, term, network.dtype) for o, term in enumerate(network.outputs))
        fresh += len(finals)
        steps = list(in_slices(whole, sliced, hoist, pairs).steps)
        steps += [Contract(v, (i,)) for v, i in zip(finals, results, strict=True)]
        results = tuple(v.number for v in finals)
    for o, term in enumerate(network.fused):
        steps.append(Reshape(Value(fresh + o, term, network.dtype), (results[o],)))
    if network.fused:
        results = tuple(range(fresh, fresh + len(results)))
    read = {i for step in steps for i in step.inputs}
    unread = [t.unit and numbers[k] not in read for k, t in enumerate(network.tensors)]
    split = [step for step in split if not unread[step.inputs[0]]]
    inputs = tuple(v for v in inputs if not unread[v.number])
    constant = [network.tensors[v.number].constant for v in inputs]
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


def _reshape(
    network: TensorNetwork,
    ids: Sequence[int],
    numbers: Sequence[int],
    terms: Sequence[Term],
    flip: bool,
    out: Value,
    fresh: int,
) -> list[Step] | None:
    """Return the steps of a contraction with a unit tensor that only reshapes the other operand; None if it does more.

    Before:  %5: [i, c, d] = contract %3: [a, i, b] %4: [a, b, c, d]      %4 is the unit matrix of [a b] by [c d]
    After:   %6: [i, a, b] = contract %3,  %7: [i, c, d] = reshape %6,  %5: [i, c, d] = contract %7
    """
    found = network.reshaped(ids, terms, out.modes)
    if found is None:
        return None
    place, one, two = found
    other, count = ids[place], len(network.tensors)
    rest = tuple(m for m in terms[other] if m not in one)
    flag = (other < count and network.tensors[other].conj) != flip
    return [
        Contract(Value(fresh, (*rest, *one), out.dtype), (numbers[other],), (True,) if flag else ()),
        Reshape(Value(fresh + 1, (*rest, *two), out.dtype), (fresh,)),
        Contract(out, (fresh + 1,)),
    ]


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
