"""Slicing: loop over modes until a plan fits in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from contractc.cost import costs
from contractc.dtypes import itemsize
from contractc.errors import ResourceLimitError
from contractc.plans import Plan, exact_bytes_text, sliceable

MANY = 64
"""Of more modes than this, only those of the largest intermediate are tried."""

PATIENCE = 4
"""How many modes are sliced in a row although the peak stays (two intermediates may be equally large)."""


def sliced_to_fit(plan: Plan, memory_limit: int) -> Plan:
    """Return `plan` with as many sliced modes as it takes to keep its peak within `memory_limit` bytes.

    The order stays; of all modes (of many: of those of the largest intermediate) the one that gives the
    lowest peak is sliced next, ties going to fewer flops.

    Raises:
        ResourceLimitError: the limit cannot be kept, with the least peak found.
    """
    network = plan.network
    sliced = plan.sliced
    peak = costs(network, plan.path, plan.results, sliced).peak
    least = peak
    results = sum(network.size(term) for term in network.outputs) * itemsize(network.dtype)
    whole = network.bytes_of_inputs() + results
    if whole > memory_limit:
        raise ResourceLimitError(_refusal(whole, memory_limit))
    terms = plan.terms()[len(network.tensors) :]
    allowed = sliceable(network)
    modes: Iterable[int] = allowed
    idle = 0
    while peak > memory_limit and idle <= PATIENCE:
        if len(network.extents) > MANY:
            modes = set(max(terms, key=lambda term: network.size(m for m in set(term) if m not in sliced)))
        candidates = [
            m
            for m in modes
            if m in allowed and network.extents[m] > 1 and m not in (*sliced, *network.dynamic)
        ]
        priced = [(costs(network, plan.path, plan.results, (*sliced, m)), m) for m in candidates]
        if not priced:
            break
        found, mode = min(priced, key=lambda item: (item[0].peak, item[0].flops, item[1]))
        sliced, peak = (*sliced, mode), found.peak
        idle = idle + 1 if peak >= least else 0
        least = min(least, peak)
    if peak > memory_limit:
        raise ResourceLimitError(_refusal(least, memory_limit))
    return replace(plan, sliced=sliced)


def _refusal(needed: int, memory_limit: int) -> str:
    return (
        f"the contraction needs {exact_bytes_text(needed)} with its operands, "
        f"memory_limit is {exact_bytes_text(memory_limit)}"
    )
