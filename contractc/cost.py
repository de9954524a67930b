"""What a plan costs: flops, traffic, peak bytes, predicted seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import exp2, log2, prod
from typing import NamedTuple

from contractc.dtypes import is_floating, itemsize, wide
from contractc.machine import DEFAULT_MACHINE, GRID, Machine
from contractc.network import TensorNetwork
from contractc.notation import Term
from contractc.plans import Path, Plan, kept_terms
from contractc.slices import repeats

ALWAYS = ("numpy",)
"""The libraries of matrix products that every installation has."""

BLAS = ("float32", "float64", "complex64", "complex128")
"""The dtypes of which BLAS has a matrix product."""

HUGE = 10**300
"""Counts of plans nobody will run end here, so that they are still floats."""

APART = 5e-9
"""Seconds to read an element of a diagonal: each is in a cache line, and a page, of its own."""

COMPLEX = {"torch": 3.0}
"""How many real products a complex one takes the time of: in OpenBLAS 3 to 5 (in the middle 4), in MKL 2 to 4."""

_GRID_STEP = 2
"""The binary logarithm of the ratio of neighbours in `GRID`."""

LARGE = 2**22
"""Bytes from which an array neither stays in the caches nor lies in memory that was used just before."""

FRESH = 2**27
"""Bytes from which an array is memory that the system has just given; smaller blocks are used again."""


class Costs(NamedTuple):
    """Predicted costs of a whole plan, or of a step; units as in `Plan`."""

    seconds: float
    flops: int
    traffic: int
    peak: int


def flops(terms: Sequence[Iterable[int]], out: Iterable[int], extents: Sequence[int]) -> int:
    """Return the floating-point operations of one contraction of `terms` to `out`.

    One multiplication is 1, one addition is 1, so a matrix product of shapes [m, k] and [k, n] costs 2*m*n*k
    and an outer product m*n: opt_einsum's convention (`opt_einsum.helpers.flop_count`), kept so that costs
    can be compared with published paths. The count is for real numbers; a Python int, it cannot overflow.
    """
    inner = {m for term in terms for m in term}
    size = 1
    for m in inner:
        size *= extents[m]
    return size * (max(1, len(terms) - 1) + (not inner <= set(out)))


def stream_seconds(
    terms: Sequence[Term], out: Term, extents: Sequence[int], dtype: str, machine: Machine = DEFAULT_MACHINE
) -> float:
    """Return the predicted seconds of a step that a library does at the speed of memory, or of its one scalar loop.

    Those are small steps, permutations, reductions, and sums of products in dtypes that BLAS does not have.
    """
    width = itemsize(dtype)
    read, written = (min(HUGE, sum([_size(t, extents) for t in ts]) * width) for ts in (terms, (out,)))
    moving = memory_seconds(machine, read, written)
    if len(terms) == 1 and tuple(m for m in terms[0] if m in out) != out:
        moving = max(moving, (read + written) / machine.permuting)
    summed = not {m for t in terms for m in t} <= set(out)
    products = min(HUGE, flops(terms, out, extents)) if len(terms) > 1 and summed else 0
    arithmetic = products / machine.flops_other / (16 if is_floating(dtype) else 1)
    apart = sum([_size(t, extents) for t in terms if len(set(t)) != len(t)])
    return max(arithmetic, moving, min(apart, HUGE) * APART) + machine.call


def spilled_seconds(size: int, machine: Machine = DEFAULT_MACHINE) -> float:
    """Return the extra seconds of writing an intermediate of `size` bytes and reading it again, beyond the caches.

    Rates of products are those of operands in cache. What lies between two steps was there if it is small; a large one
    goes to memory and comes back.
    """
    return 2 * size / machine.copying[-1][1] if size >= LARGE else 0.0


def _size(term: Iterable[int], extents: Sequence[int]) -> int:
    size = 1
    for m in set(term):
        size *= extents[m]
    return size


def product_seconds(machine: Machine, provider: str, dtype: str, m: float, n: float, k: float) -> float:
    """Return the predicted seconds of one matrix product [m, k] x [k, n] whose operands are in cache.

    Between the extents of `machine.GRID` the logarithm of the time is interpolated, above them the time grows
    with the work. A complex product counts as four real ones, or as `COMPLEX` says.
    """
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    for table in machine.products:
        if table.provider == provider and table.dtype == real:
            seconds_ = _interpolated(table.nanoseconds, m, n, k)
            return seconds_ if real == dtype else COMPLEX.get(provider, 4.0) * seconds_
    return 2.0 * m * n * k / machine.rate(dtype) + 1e-7


def _interpolated(nanoseconds: Sequence[float], m: float, n: float, k: float) -> float:
    """Return the seconds at (m, n, k) in a table over `GRID` cubed."""
    scale = 1e-9
    stride = len(GRID) ** 3
    corners = [0]
    parts: list[float] = []
    for extent in (m, n, k):
        stride //= len(GRID)
        if extent >= GRID[-1]:
            scale *= extent / GRID[-1]
            low = len(GRID) - 1
        else:
            place = log2(max(1, extent)) / _GRID_STEP
            low = int(place)
            if place > low:
                parts.append(place - low)
                corners += [at + stride for at in corners]
        if low:
            corners = [at + low * stride for at in corners]
    logs = [log2(nanoseconds[at] or 1e-3) for at in corners]
    while parts:
        part, half = parts.pop(), len(logs) // 2
        logs = [logs[x] + part * (logs[x + half] - logs[x]) for x in range(half)]
    return scale * exp2(logs[0])


def bandwidth(machine: Machine, size: float) -> float:
    """Return the bytes a second at which `size` bytes are read or written in order; between those of the table the
    logarithm is interpolated, since caches are shared with what lay in them before."""
    before, faster = machine.copying[0]
    for working_set, rate in machine.copying:
        if size <= working_set:
            if size <= before:
                return rate
            return float(faster * (rate / faster) ** (log2(size / before) / log2(working_set / before)))
        before, faster = working_set, rate
    return faster


READ, WRITTEN = 0.6, 1.5
"""Seconds of a byte that is read from memory, and of one that is written there, as parts of those of a byte copied: a
line is read before it is written to, and goes back. Of 16 to 64 MB 15 to 22 GB/s were read and 6.6 to 8.6 written."""

_CACHED, _BEYOND = 2**22, 2**24
"""Bytes up to which writing takes as long as reading, and from which on `READ` and `WRITTEN` hold."""


def memory_seconds(machine: Machine, read: float, written: float, working_set: float = 0.0) -> float:
    """Return the seconds to read and to write so many bytes in order; `working_set` is their sum if not given."""
    size = working_set or read + written
    moved = read + written
    if size > _CACHED:
        beyond = min(1.0, log2(size / _CACHED) / log2(_BEYOND / _CACHED))
        moved += beyond * ((READ - 1) * read + (WRITTEN - 1) * written)
    return moved / bandwidth(machine, size)


def call_seconds(machine: Machine, provider: str) -> float:
    """Return the seconds that one call of a product costs, whatever its size."""
    return next((table.call for table in machine.products if table.provider == provider), machine.call)


def fresh_seconds(machine: Machine, size: int) -> float:
    """Return the extra seconds of writing to `size` bytes that come from the system: smaller blocks are used again."""
    return size * machine.fresh if size >= FRESH else 0.0


def pair_seconds(
    left: Term,
    right: Term,
    out: Term,
    extents: Sequence[int],
    dtype: str,
    machine: Machine = DEFAULT_MACHINE,
    providers: Sequence[str] = ALWAYS,
) -> float:
    """Return the predicted seconds of multiplying two tensors whose arrays lie in the order that suits a library.

    The batch, row, column and summed modes are one axis each, so that it is a batch of matrix products; memory
    hides behind half of their arithmetic. Ways that copy are slower by their copies, and none is much faster.
    """
    made, other = set(out), set(right)
    batch = rows = columns = summed = 1.0
    for m in set(left):
        if m not in other:
            rows *= extents[m] if m in made else 1
        elif m in made:
            batch *= extents[m]
        else:
            summed *= extents[m]
    for m in other.difference(left):
        columns *= extents[m] if m in made else 1
    batch, rows, columns, summed = (
        min(batch, _MOST),
        min(rows, _MOST),
        min(columns, _MOST),
        min(summed, _MOST),
    )
    busy = batch * min([product_seconds(machine, p, dtype, rows, columns, summed) for p in providers])
    width = itemsize(dtype)
    read, written = batch * (rows + columns) * summed * width, batch * rows * columns * width
    return busy + max(0.0, memory_seconds(machine, read, written, 2 * (read + written)) - busy / 2)


_MOST = 1e60
"""Times, sizes and flops of plans nobody will run end here, so that products of four of them are still numbers."""


def step_seconds(
    terms: Sequence[Term], out: Term, extents: Sequence[int], dtype: str, machine: Machine = DEFAULT_MACHINE
) -> float:
    """Return the predicted seconds of a step on one or two tensors that lie in the order that suits it.

    Products of integers go through floats where that is exact, as it mostly is: twice the time.
    """
    made = set(out)
    if len(terms) == 1 and made.issuperset(terms[0]):
        return machine.call / 4  # a view
    if len(terms) != 2 or dtype == "object" or made.issuperset((*terms[0], *terms[1])):
        return stream_seconds(terms, out, extents, dtype, machine)
    left, right = terms
    alone = made.union(set(left).intersection(right))
    for term in terms:
        if not alone.issuperset(term):  # summed before
            kept = tuple(m for m in term if m in alone)
            return stream_seconds([term], kept, extents, dtype, machine) + step_seconds(
                [kept if t is term else t for t in terms], out, extents, dtype, machine
            )
    call = call_seconds(machine, *ALWAYS)
    if not is_floating(dtype):
        return 2 * pair_seconds(left, right, out, extents, "float64", machine) + call
    found = pair_seconds(left, right, out, extents, dtype, machine) + call
    if made.issubset(left) or made.issubset(right):
        return min(found, stream_seconds(terms, out, extents, dtype, machine))
    return found


def costs(
    network: TensorNetwork,
    path: Path,
    results: Sequence[int],
    sliced: Term = (),
    machine: Machine = DEFAULT_MACHINE,
) -> Costs:
    """Return the costs of contracting `network` along an SSA `path`, all of it in each slice over `sliced`.

    What a search compares: `priced` counts a step less often where slices share it.
    """
    each = step_costs(network, path, results, sliced, machine)
    highest = max((step.peak for step in each), default=0)
    if sliced:
        highest += sum(_collected(network, term, sliced) for term in network.outputs) * itemsize(
            wide(network.dtype)
        )
    peak = highest + network.bytes_of_inputs()
    slices = network.size(sliced)
    total_seconds = sum(step.seconds for step in each)
    total_flops, total_traffic = sum(step.flops for step in each), sum(step.traffic for step in each)
    return Costs(total_seconds * min(slices, HUGE), total_flops * slices, total_traffic * slices, peak)


def _collected(network: TensorNetwork, term: Term, sliced: Term) -> int:
    """Return the elements in which the slices of one output come together: side by side, and in sums not yet complete.

    An output that has one sliced mode and lacks one ahead of it needs both.
    """
    looped = sorted(m for m in sliced if network.extents[m] > 1)  # as one loop has them
    size = network.size(set(term))
    summed = [k for k, m in enumerate(looped) if m not in term]
    before = [m for k, m in enumerate(looped) if m in term and not (summed and k > summed[0])]
    whole = size if any(m in term for m in looped) else 0
    return whole + (size // max(1, network.size(before)) if summed else 0)


def step_costs(
    network: TensorNetwork,
    path: Path,
    results: Sequence[int],
    sliced: Term = (),
    machine: Machine = DEFAULT_MACHINE,
) -> list[Costs]:
    """Return the costs of each step of an SSA `path` in one slice; the peak is without the operands of the network.

    Steps on constants alone run once, ahead of all calls, so only their memory counts. The peak counts every
    tensor alive during a step and a copy of each operand of the step that a matrix product may need in another
    order; intermediates are freed after their last use.
    """
    terms = kept_terms(network, path, results)
    count = len(network.tensors)
    extents = list(network.extents)
    for m in sliced:
        extents[m] = min(1, extents[m])
    dtype = wide(network.dtype)
    width = itemsize(dtype)
    sizes = [prod([extents[m] for m in term]) for term in terms]
    last = {i: s for s, ids in enumerate(path) for i in ids}
    live = 0
    each = []
    held: dict[int, int] = {}
    # in a loop over slices nothing is done ahead
    fixed = [t.constant and not sliced for t in network.tensors]
    reshapes = not sliced and any(t.unit for t in network.tensors)
    for s, ids in enumerate(path):
        number = count + s
        out, read = terms[number], [terms[i] for i in ids]
        made = sizes[number] * (itemsize(network.dtype) if number in results else width)
        ready = [fixed[i] and i >= count for i in ids]  # computed ahead, in the order that suits this step
        copied = sum(
            [
                sizes[i]
                for k, i in enumerate(ids)
                if not ready[k] and _copied(read[k], [*read[:k], *read[k + 1 :]], out)
            ]
        )
        fixed.append(all(fixed[i] for i in ids))
        step = (0.0, 0, 0)
        reshaped = network.reshaped(ids, terms, out) if reshapes else None
        if reshaped is not None:
            copied = 0
            if not fixed[-1]:
                moved = made + sizes[ids[reshaped[0]]] * width
                step = (machine.call + moved / bandwidth(machine, moved), 0, moved)
        elif not fixed[-1]:
            if number in results and network.fused:
                suiting = [_along(out, term) if r else term for term, r in zip(read, ready, strict=True)]
                copied += 0 if _natural(suiting, out) else sizes[number]
            moved = made + sum(
                [sizes[i] * (itemsize(network.tensors[i].dtype) if i < count else width) for i in ids]
            )
            spent = step_seconds(read, out, extents, dtype, machine)
            moving = 2 * min(copied, HUGE) * width
            spent += moving / bandwidth(machine, moving)
            step = (spent, flops(read, out, extents), moved)
        if reshaped is None:
            copied += sum([sizes[i] for i in ids if i < count and network.tensors[i].unit])  # made for this
        each.append(Costs(*step, live + made + copied * width))
        live += made
        held[number] = made
        for i in ids:
            if last[i] == s and i in held:
                live -= held.pop(i)
    return each


def priced(plan: Plan, machine: Machine = DEFAULT_MACHINE) -> Plan:
    """Return `plan` with its predicted costs filled in; a step counts as often as it runs, see `step_times`."""
    found = costs(plan.network, plan.path, plan.results, plan.sliced, machine)
    if plan.sliced:
        each = step_costs(plan.network, plan.path, plan.results, plan.sliced, machine)
        times = step_times(plan)
        found = found._replace(
            seconds=sum([step.seconds * min(n, HUGE) for step, n in zip(each, times, strict=True)]),
            flops=sum([step.flops * n for step, n in zip(each, times, strict=True)]),
            traffic=sum([step.traffic * n for step, n in zip(each, times, strict=True)]),
        )
    return replace(plan, seconds=found.seconds, flops=found.flops, traffic=found.traffic, peak=found.peak)


def step_times(plan: Plan) -> list[int]:
    """Return how often each step of `plan` runs: once for all slices that give it the same operands.

    So it is where memory does not forbid it; a program that is short of memory repeats more.
    """
    network, count = plan.network, len(plan.network.tensors)
    sliced = tuple(m for m in plan.sliced if network.extents[m] > 1)
    if not sliced:
        return [1] * len(plan.path)
    every, terms = frozenset(sliced), plan.terms()
    depends = [every.intersection(tensor.modes) for tensor in network.tensors]
    work = []
    for number, ids in enumerate(plan.path, count):
        own = every.intersection(terms[number]).union(*[depends[i] for i in ids])
        depends.append(every if number in plan.results else own)
        work.append(flops([terms[i] for i in ids], terms[number], network.extents))
    return repeats(depends[count:], work, sliced, network.extents)


_BATCH = 3
"""The group of a mode that is in another operand and in the result."""


def _copied(term: Term, others: Sequence[Term], out: Term) -> bool:
    """Return whether a matrix product needs `term` copied.

    It does if batch, summed and free modes are interleaved, or if batch modes come last.
    """
    if len(term) < 2 or not others:
        return False
    elsewhere, made = set().union(*others), set(out)
    groups = [(m in elsewhere) * 2 + (m in made) for m in term]
    if len(set(term)) != len(term):
        return True
    kinds = set(groups)
    if groups[-1] == _BATCH and len(kinds) > 1:
        return True
    return 1 + sum([a != b for a, b in pairwise(groups)]) > len(kinds)


def _along(out: Term, term: Term) -> Term:
    """Return the modes of `term` in the order they have in `out`, the others last."""
    return (*(m for m in dict.fromkeys(out) if m in term), *(m for m in term if m not in out))


def _natural(terms: Sequence[Term], out: Term) -> bool:
    """Return whether a matrix product leaves its result in the order `out`, rows before columns or after."""
    if len(terms) != 2 or len(set(out)) != len(out):
        return False
    for left, right in (terms, terms[::-1]):
        batch = [m for m in left if m in right and m in out]
        rows = [m for m in left if m in out and m not in right]
        columns = [m for m in right if m in out and m not in left]
        if [*batch, *rows, *columns] == list(out):
            return True
    return False
