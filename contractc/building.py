"""From an expression and operands to an Executable: every stage of the walk, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from contractc.assembly import executable_of
from contractc.backends import backend_named
from contractc.dtypes import is_floating, itemsize, widens
from contractc.errors import OperandError, ResourceLimitError, UnsupportedError
from contractc.executable import Executable
from contractc.expansion import expanded
from contractc.lower import NEGLIGIBLE, NO_ORDERS, fusers, lower
from contractc.lower.passes import hoist_constants
from contractc.machine import Target, physical_memory
from contractc.network import TensorNetwork, bind
from contractc.notation import Einsum
from contractc.operands import Operand, recorded
from contractc.options import Options, bytes_allowed
from contractc.plans import Plan, exact_bytes_text
from contractc.programs import Constant, Program, with_precision
from contractc.providers import loops
from contractc.providers.known import this_machine
from contractc.ranking import is_open, may_rank, ranked, to_rank
from contractc.remembering import remembered
from contractc.search import check_allocation
from contractc.several import Members, restricted

NUMPY = Target()

MOST_ANEW = 3
"""Tensors up to which plain calls that change to loops may change their order too: there are three."""

MOST_TIMED = 6
"""Orders that are timed where that is asked for: those whose programs are predicted to be fastest."""

LONG = 1e-4
"""Predicted seconds of a call from which on calls are timed, to plan them with compiled loops when they are many."""

MANY = 6
"""Steps of a program from which on so are shorter calls too: each of them is a few calls of NumPy."""


def network_of(
    expression: Einsum,
    operands: Sequence[Operand],
    target: Target,
    options: Options,
    dynamic: Iterable[Hashable] = (),
    members: Members = (),
) -> TensorNetwork:
    """Return the network of `expression`: operands promoted as the target's library does it.

    Args:
        members: for each output the operands it contracts; all of them where that is empty.
    """
    promote = backend_named(target.backend).promote
    dtype = options.dtype or (promote(operands) if operands else "float64")
    network = restricted(expanded(bind(expression, operands, dtype, dynamic), operands), members)
    if options.element_type is not None:
        if not widens(network.dtype, options.element_type):
            raise OperandError(f"preferred_element_type={options.element_type} cannot hold {network.dtype}")
        network = replace(network, dtype=options.element_type)
    if options.exponent and (not is_floating(network.dtype) or expression.semiring != "sum_product"):
        raise UnsupportedError(
            f"strip_exponent needs sums of products of floating numbers, not {expression.semiring} of {network.dtype}"
        )
    return network


def plan_of(
    network: TensorNetwork, options: Options, started: float | None = None, target: Target = NUMPY
) -> Plan:
    """Return the plan for `network` that the options ask for; a limit of time counts from `started` on."""
    return remembered(network, options.optimize, memory_allowed(network, options), started, target)


def memory_allowed(network: TensorNetwork, options: Options) -> int | None:
    """Return the memory limit in bytes, or None for no limit."""
    sizes = [network.size(t.modes) * itemsize(t.dtype) for t in network.tensors]
    return bytes_allowed(options.memory_limit, sizes)


def build(
    plan: Plan,
    target: Target,
    options: Options,
    constants: Sequence[Any] = (),
    orders: Mapping[int, Sequence[int]] = NO_ORDERS,
) -> Executable:
    """Return `plan` compiled for `target`.

    Args:
        orders: of operands that are not in C order in memory, their axes as `stored_orders` has them.
        constants: the arrays of the constant tensors, in order; steps that need nothing else run now.

    Raises:
        ResourceLimitError: running the plan would allocate more than this machine has.
        UnsupportedError: the backend cannot run the program, with the reason.
    """
    if target.device == "cpu":
        check_allocation(plan, physical_memory())
    backend = backend_named(target.backend)
    if options.tune and target.backend != "numpy":
        raise UnsupportedError(f"tune=True measures on NumPy arrays; on '{target}' use `contractc tune`")
    plan, program = orders_of(plan, target, options, orders)[0]
    program = with_precision(program, options.precision)
    arrays: Sequence[Any] = ()
    if program.constants:
        whole = _with_units(program, plan.network, constants, backend, target)
        prologue, program = hoist_constants(program)
        arrays = _run_prologue(prologue, backend, whole)
        digests = [hashlib.sha256(backend.to_bytes(x)).hexdigest() for x in arrays]
        program = replace(
            program,
            constants=tuple(Constant(c.value, d) for c, d in zip(program.constants, digests, strict=True)),
        )
    choose = getattr(backend, "prepared", None)
    if choose is not None:
        wanted = [k for k, t in enumerate(plan.network.tensors) if t.trained]
        program = choose(program, target, ahead=options.ahead, wanted=wanted)
    if options.tune:
        from contractc import tune  # loaded by those who tune

        program = tune.remembered(program)
    made = executable_of(program, plan, target, arrays, options.exponent, _saved, ahead=options.ahead)
    if options.ahead:  # what its plan prints is what is run
        return replace(made, plan=replace(plan, peak=made.peak)) if made.peak else made
    if options.memory_limit is not None or not _may_gain(program, plan, target):
        return made

    def with_loops() -> Callable[..., Any] | None:
        given = options.optimize if len(plan.network.tensors) <= MOST_ANEW else plan.path
        ahead = build(plan, target, replace(options, ahead=True, optimize=given), constants, orders)
        return ahead.run if ahead.program != program else None

    return replace(made, run=loops.later(made.run, with_loops, len(program.steps)))


def orders_of(
    plan: Plan,
    target: Target,
    options: Options,
    orders: Mapping[int, Sequence[int]] = NO_ORDERS,
) -> list[tuple[Plan, Program]]:
    """Return `plan` lowered, and before or after it other orders, the one predicted to be fastest first: see `ranked`.

    It is alone where an order or a memory limit is given, and on other targets than NumPy.
    """
    machine = this_machine()
    kernels = fusers(target, machine) if options.ahead else ()
    memory = memory_allowed(plan.network, options)

    def lowered(plan: Plan) -> Program:
        return lower(
            plan,
            target,
            exponents=options.exponent,
            ordered=options.ordered,
            machine=machine,
            kernels=kernels,
            orders=orders,
            memory=memory,
        )

    fixed = target.backend != "numpy" or memory is not None or not is_open(options)
    return ranked((plan,) if fixed else to_rank(plan, options, machine), lowered, machine)


def plan_compiled(plan: Plan, target: Target, options: Options) -> Plan:
    """Return the plan that `compile` runs in place of `plan`: another one where few tensors take long, see `ranked`.

    Where a limit of time is given that is for the search alone, so `plan` is what there is.
    """
    if target.backend != "numpy" or not may_rank(plan, options):
        return plan
    return orders_of(plan, target, replace(options, ahead=True))[0][0]


def _may_gain(program: Program, plan: Plan, target: Target) -> bool:
    """Return whether `program` is one that compiled loops might do faster."""
    on_cpu = target.device == "cpu" and target.backend in ("numpy", "torch")
    long = plan.seconds >= LONG or (len(program.steps) >= MANY and target.backend == "numpy")
    return on_cpu and long and not program.dynamic and not plan.sliced


def planned(
    network: TensorNetwork,
    target: Target,
    options: Options,
    constants: Sequence[Any] = (),
    started: float | None = None,
    orders: Mapping[int, Sequence[int]] = NO_ORDERS,
) -> Executable:
    """Return `network` planned and compiled for `target`; see `kept_within`.

    With `tune`, the best orders known are timed where the order is the search's to choose and no limit of memory.

    Args:
        started: from when on a limit of time counts for the first plan; another one has that time for itself.
    """
    allowed = memory_allowed(network, options)

    def find(limit: int | None) -> Plan:
        return remembered(network, options.optimize, limit, started if limit == allowed else None, target)

    if options.tune and allowed is None and not network.dynamic and is_open(options):
        made = []
        for plan, _ in orders_of(find(None), target, options, orders)[:MOST_TIMED]:
            given = replace(options, optimize=plan.path)  # this order, not one that is predicted to be faster
            made.append(build(plan, target, given, constants, orders))
        if len(made) == 1:
            return made[0]
        from contractc.tune import remembered_fastest  # loaded by those who tune

        return remembered_fastest(made)

    return kept_within(find, allowed, target, options, constants, orders)


def kept_within(
    find: Callable[[int | None], Plan],
    limit: int | None,
    target: Target,
    options: Options,
    constants: Sequence[Any] = (),
    orders: Mapping[int, Sequence[int]] = NO_ORDERS,
) -> Executable:
    """Return the plan that `find` makes for a memory limit in bytes compiled for `target`, within that limit.

    Where the program needs more than its plan foresaw, for copies or sums of slices, another is made for so much less.

    Raises:
        ResourceLimitError: the limit cannot be kept, with the least that was found.
    """
    if limit is None:
        return build(find(None), target, options, constants, orders)
    try:
        plan = find(limit)
    except ResourceLimitError as error:
        whole = _fused_whole(find, limit, target, options, constants, orders)
        if whole is None:
            raise error from None
        return whole
    if plan.sliced and len(plan.network.tensors) <= MOST_TENSORS:
        whole = _fused_whole(find, limit, target, options, constants, orders)
        if whole is not None:
            return whole
    executable = build(plan, target, options, constants, orders)
    least, allowed = executable.peak, limit
    for _ in range(MOST_PLANS):
        if executable.peak <= limit + NEGLIGIBLE:
            return executable
        allowed -= executable.peak - limit
        try:
            executable = build(find(max(0, allowed)), target, options, constants, orders)
        except ResourceLimitError:
            break
        least = min(least, executable.peak)
    if executable.peak <= limit + NEGLIGIBLE:
        return executable
    raise ResourceLimitError(
        f"the contraction needs {exact_bytes_text(least)} with its operands, "
        f"memory_limit is {exact_bytes_text(limit)}"
    )


def _fused_whole(
    find: Callable[[int | None], Plan],
    limit: int,
    target: Target,
    options: Options,
    constants: Sequence[Any],
    orders: Mapping[int, Sequence[int]],
) -> Executable | None:
    """Return the plan without a limit compiled for `target`, if fused steps keep it within `limit` bytes, else None.

    Plans count every intermediate; a fused step holds none of those between its own.
    """
    if not options.ahead or not fusers(target, this_machine()):
        return None
    try:
        made = build(find(None), target, options, constants, orders)
    except ResourceLimitError:
        return None
    return made if made.peak <= limit else None


MOST_PLANS = 4
"""Plans made anew for one memory limit."""

MOST_TENSORS = 16
"""Tensors of a network up to which another search beside that for slices takes no time to speak of."""


def _saved(path: str | PathLike[str], *executables: Executable) -> str:
    from contractc.bundle import save  # loaded by those who save

    return save(path, *executables)


def _with_units(
    program: Program, network: TensorNetwork, constants: Sequence[Any], backend: Any, target: Target
) -> list[Any]:
    """Return the arrays of the constants of `program`: those given, and the unit matrices that it reads.

    Raises:
        UnsupportedError: the backend takes no arrays of NumPy, of which these are made.
    """
    left = iter(constants)
    found = []
    for constant in program.constants:
        number = constant.value.number
        if not network.tensors[number].unit:
            found.append(next(left))
        elif not hasattr(backend, "from_portable"):
            raise UnsupportedError(f"'{target}' cannot join splits that have no common pieces")
        else:
            found.append(backend.from_portable(network.unit(number), target.device))
    return [*found, *left]


def _run_prologue(prologue: Program, backend: Any, constants: Sequence[Any]) -> list[Any]:
    """Return the results of the steps that depend on constants only: copies, in order in memory, for us alone."""
    copies = [backend.constant(x, v.number) for x, v in zip(constants, prologue.inputs, strict=True)]
    if not prologue.steps:
        numbers = [v.number for v in prologue.inputs]
        return [copies[numbers.index(i)] for i in prologue.results]
    made = getattr(backend, "compile_once", backend.compile)(prologue, ()).run(*copies)
    results = made if len(prologue.results) > 1 else (made,) if prologue.results else ()
    return [backend.constant(x, number) for x, number in zip(results, prologue.results, strict=True)]


def trained(operands: Sequence[Operand], given: Sequence[Any], mode: str | None) -> list[Operand]:
    """Return `operands` marked as trained: those of which gradients will be asked for.

    Args:
        given: the arrays, or shapes.
        mode: "train" for those that torch records, or, if it records none, all that are floating and not constant;
            "infer" for none; None for those that torch records.
    """
    if mode not in (None, "infer", "train"):
        raise ValueError(f"mode must be 'infer' or 'train', not {mode!r:.20}")
    marks = [mode != "infer" and not o.constant and recorded(x) for o, x in zip(operands, given, strict=True)]
    if mode == "train" and not any(marks):
        marks = [is_floating(o.dtype) and not o.constant for o in operands]
    return [replace(o, trained=mark) for o, mark in zip(operands, marks, strict=True)]


def conj_and_constant(
    operands: Sequence[Operand], conj: Sequence[int], constants: Sequence[int]
) -> list[Operand]:
    """Return `operands` marked as conjugated and constant where the numbers say so."""
    for k in constants:
        if not 0 <= k < len(operands):
            raise OperandError(f"constants names operand {k}; there are {len(operands)} operands")
    return [replace(o, conj=k in conj, constant=k in constants) for k, o in enumerate(operands)]
