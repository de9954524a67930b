"""What a plan costs: flops, traffic, peak bytes, predicted seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import exp2, log2
from typing import NamedTuple

from contractc.dtypes import is_floating, itemsize, wide
from contractc.machine import DEFAULT_MACHINE, GRID, Machine
from contractc.network import TensorNetwork
from contractc.notation import Term
from contractc.plans import Path, Plan, kept_terms

_GRID_STEP = 2
"""The binary logarithm of the ratio of neighbours in `GRID`."""

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


def seconds(
    flop_count: int, traffic: int, dtype: str, matmul: bool, machine: Machine = DEFAULT_MACHINE
) -> float:
    """Return the predicted seconds of one step: the slower of arithmetic and memory, plus one call.

    A step that is no matrix product (nothing summed over two operands) runs at memory speed.
    """
    arithmetic = min(flop_count, 10**300) / machine.rate(dtype) if matmul else 0.0
    return max(arithmetic, min(traffic, 10**300) / machine.bandwidth) + machine.call


def stream_seconds(
    terms: Sequence[Term], out: Term, extents: Sequence[int], dtype: str, machine: Machine = DEFAULT_MACHINE
) -> float:
    """Return the predicted seconds of a step that a library does at the speed of memory, or of its one scalar loop.

    Those are small steps, permutations, reductions, and sums of products in dtypes that BLAS does not have.
    """
    traffic = sum(_size(t, extents) for t in (*terms, out)) * itemsize(dtype)
    rate = bandwidth(machine, traffic)
    if len(terms) == 1 and tuple(m for m in terms[0] if m in out) != out:
        rate = min(rate, machine.permuting)
    summed = not {m for t in terms for m in t} <= set(out)
    arithmetic = flops(terms, out, extents) / machine.flops_other if len(terms) > 1 and summed else 0.0
    if is_floating(dtype):
        arithmetic /= 16
    return max(arithmetic, traffic / rate) + machine.call


def written_seconds(size: int, machine: Machine = DEFAULT_MACHINE) -> float:
    """Return the extra seconds of making an array of `size` bytes: large ones come from the system each time."""
    return size * machine.fresh if size >= 2**22 else 0.0


def _size(term: Iterable[int], extents: Sequence[int]) -> int:
    size = 1
    for m in set(term):
        size *= extents[m]
    return size


def product_seconds(machine: Machine, provider: str, dtype: str, m: int, n: int, k: int) -> float:
    """Return the predicted seconds of one matrix product [m, k] x [k, n] whose operands are in cache.

    Between the extents of `machine.GRID` the logarithm of the time is interpolated, above them the time grows
    with the work. A complex product counts as four real ones.
    """
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    for table in machine.products:
        if table.provider == provider and table.dtype == real:
            seconds_ = _interpolated(table.nanoseconds, m, n, k)
            return seconds_ if real == dtype else 4 * seconds_
    return 2.0 * m * n * k / machine.rate(dtype) + 1e-7


def _interpolated(nanoseconds: Sequence[float], m: int, n: int, k: int) -> float:
    corners = [(0, 1.0)]
    scale = 1e-9
    for extent in (m, n, k):
        if extent >= GRID[-1]:
            scale *= extent / GRID[-1]
            corners = [(at * len(GRID) + len(GRID) - 1, weight) for at, weight in corners]
            continue
        place = log2(max(1, extent)) / _GRID_STEP
        low = int(place)
        part = place - low
        corners = [
            (at * len(GRID) + low + up, weight * share)
            for at, weight in corners
            for up, share in ((0, 1 - part), (1, part))
            if share
        ]
    return scale * exp2(sum(weight * log2(max(nanoseconds[at], 1e-3)) for at, weight in corners))


def bandwidth(machine: Machine, size: float) -> float:
    """Return the bytes a second at which `size` bytes are read or written in order, by the cache they fit in."""
    for working_set, rate in machine.copying:
        if size <= working_set:
            return rate
    return machine.copying[-1][1]


def call_seconds(machine: Machine, provider: str) -> float:
    """Return the seconds that one call of a product costs, whatever its size."""
    return next((table.call for table in machine.products if table.provider == provider), machine.call)


def fresh_seconds(machine: Machine, size: int) -> float:
    """Return the extra seconds of writing to `size` bytes that come from the system: smaller blocks are used again."""
    return size * machine.fresh if size >= FRESH else 0.0


def costs(
    network: TensorNetwork,
    path: Path,
    results: Sequence[int],
    sliced: Term = (),
    machine: Machine = DEFAULT_MACHINE,
) -> Costs:
    """Return the costs of contracting `network` along an SSA `path`, looping over the modes `sliced`."""
    each = step_costs(network, path, results, sliced, machine)
    highest = max((step.peak for step in each), default=0)
    if sliced:
        highest += sum(network.size(term) for term in network.outputs) * itemsize(wide(network.dtype))
    peak = highest + network.bytes_of_inputs()
    slices = network.size(sliced)
    total_seconds = sum(step.seconds for step in each)
    total_flops, total_traffic = sum(step.flops for step in each), sum(step.traffic for step in each)
    return Costs(total_seconds * min(slices, 10**300), total_flops * slices, total_traffic * slices, peak)


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
    width = itemsize(wide(network.dtype))

    def size(term: Iterable[int]) -> int:
        product = 1
        for m in term:
            product *= extents[m]
        return product

    last = {i: s for s, ids in enumerate(path) for i in ids}
    live = 0
    each = []
    held: dict[int, int] = {}
    fixed = [
        t.constant and not sliced for t in network.tensors
    ]  # in a loop over slices nothing is done ahead
    for s, ids in enumerate(path):
        out = terms[count + s]
        made = size(out) * (itemsize(network.dtype) if count + s in results else width)
        reads = [size(terms[i]) * (itemsize(network.tensors[i].dtype) if i < count else width) for i in ids]
        step_flops = flops([terms[i] for i in ids], out, extents)
        step_traffic = sum(reads) + made
        shared = len(ids) > 1 and not {m for i in ids for m in terms[i]} <= set(out)
        arranged = [fixed[i] and i >= count for i in ids]  # computed ahead, in the order that suits this step
        copies = sum(
            size(terms[i])
            for i, free in zip(ids, arranged, strict=True)
            if not free and _copied(terms[i], [terms[j] for j in ids if j != i], out)
        )
        fixed.append(all(fixed[i] for i in ids))
        spent = 0.0
        if fixed[-1]:
            step_flops = step_traffic = 0
        else:
            if (
                count + s in results
                and network.fused
                and not _natural(
                    [
                        _along(out, terms[i]) if free else terms[i]
                        for i, free in zip(ids, arranged, strict=True)
                    ],
                    out,
                )
            ):
                copies += size(out)
            spent = seconds(step_flops, step_traffic, network.dtype, shared, machine)
            spent += min(2 * copies * width, 10**300) / machine.permuting
        each.append(Costs(spent, step_flops, step_traffic, live + made + copies * width))
        live += made
        held[count + s] = made
        for i in ids:
            if last[i] == s and i in held:
                live -= held.pop(i)
    return each


def priced(plan: Plan, machine: Machine = DEFAULT_MACHINE) -> Plan:
    """Return `plan` with its predicted costs filled in."""
    found = costs(plan.network, plan.path, plan.results, plan.sliced, machine)
    return replace(plan, seconds=found.seconds, flops=found.flops, traffic=found.traffic, peak=found.peak)


_BATCH = 3
"""The group of a mode that is in another operand and in the result."""


def _copied(term: Term, others: Sequence[Term], out: Term) -> bool:
    """Return whether a matrix product needs `term` copied.

    It does if batch, summed and free modes are interleaved, or if batch modes come last.
    """
    if len(term) < 2 or not others:
        return False
    elsewhere = {m for t in others for m in t}
    groups = [(m in elsewhere) * 2 + (m in out) for m in dict.fromkeys(term)]
    if len(groups) > 1 and groups[-1] == _BATCH and set(groups) != {_BATCH}:
        return True
    runs = sum(1 for k, g in enumerate(groups) if k == 0 or groups[k - 1] != g)
    return runs > len(set(groups)) or len(set(term)) != len(term)


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
