"""Slicing: loop over modes until a plan fits in memory."""

from __future__ import annotations

from dataclasses import replace

from contractc.cost import costs
from contractc.errors import ResourceLimitError
from contractc.plans import Plan, exact_bytes_text


def sliced_to_fit(plan: Plan, memory_limit: int) -> Plan:
    """Return `plan` with as many sliced modes as it takes to keep its peak within `memory_limit` bytes.

    The order stays; of the modes of the largest intermediate the one that gives the lowest peak is sliced next,
    ties going to fewer flops.

    Raises:
        ResourceLimitError: the limit cannot be kept, with the least peak found.
    """
    network = plan.network
    sliced = plan.sliced
    peak = costs(network, plan.path, plan.results, sliced).peak
    least = peak
    terms = plan.terms()[len(network.tensors) :]
    while peak > memory_limit:
        largest = max(terms, key=lambda term: network.size(m for m in set(term) if m not in sliced))
        candidates = [
            m for m in set(largest) if network.extents[m] > 1 and m not in sliced and m not in network.dynamic
        ]
        priced = [(costs(network, plan.path, plan.results, (*sliced, m)), m) for m in candidates]
        if not priced:
            break
        found, mode = min(priced, key=lambda item: (item[0].peak, item[0].flops, item[1]))
        if found.peak >= peak and sliced:
            break
        sliced, peak = (*sliced, mode), found.peak
        least = min(least, peak)
    if peak > memory_limit:
        raise ResourceLimitError(
            f"the contraction needs {exact_bytes_text(least)} with its operands, "
            f"memory_limit is {exact_bytes_text(memory_limit)}"
        )
    return replace(plan, sliced=sliced)
