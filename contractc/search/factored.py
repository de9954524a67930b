"""Which factorized operands are worth materialising: every way is planned and priced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations

from contractc.cost import costs
from contractc.network import Tensor, TensorNetwork
from contractc.plans import Path

MOST_GROUPS = 4
"""With more factorized operands than this, all of them stay factored or all are materialised."""


def cheapest_layout(
    network: TensorNetwork, find: Callable[[TensorNetwork], tuple[Path, str]]
) -> tuple[Path, str]:
    """Return the path with the least predicted seconds over all choices of operands to materialise.

    `find` orders the tensors of each candidate: the network as it is (factors are contracted with whatever is
    cheapest, so they may stay apart or be merged in part), and the network in which some groups have been
    contracted to dense tensors first. For constant operands that costs nothing per call.
    """
    count = len(network.tensors)
    best = None
    for chosen in _choices(len(network.groups)):
        path, name = _with_dense(network, [network.groups[g] for g in chosen], find)
        seconds = costs(network, path, (count + len(path) - 1,)).seconds
        if best is None or seconds < best[0]:
            best = seconds, path, name
    assert best is not None
    return best[1], best[2]


def layout_choices(network: TensorNetwork, path: Path) -> tuple[str, ...]:
    """Return for each group what `path` makes of it: factored, partly merged or materialised."""
    if not network.groups:
        return ()
    count = len(network.tensors)
    covered = [frozenset([k]) for k in range(count)]
    for ids in path:
        covered.append(frozenset().union(*(covered[i] for i in ids)))
    made = set(covered[count:])
    words = []
    for group in network.groups:
        whole = frozenset(group)
        if whole in made:
            once = all(network.tensors[k].constant for k in group)
            words.append("materialised once" if once else "materialised")
        else:
            words.append("partly merged" if any(len(c) > 1 and c < whole for c in made) else "factored")
    return tuple(words)


def _choices(groups: int) -> Iterable[tuple[int, ...]]:
    """Return the sets of groups to materialise, none first."""
    if groups > MOST_GROUPS:
        return [(), tuple(range(groups))]
    return [chosen for size in range(groups + 1) for chosen in combinations(range(groups), size)]


def _with_dense(
    network: TensorNetwork,
    groups: Iterable[tuple[int, ...]],
    find: Callable[[TensorNetwork], tuple[Path, str]],
) -> tuple[Path, str]:
    """Return a path that first contracts each of `groups` to one tensor."""
    count = len(network.tensors)
    ids = list(range(count))
    tensors = list(network.tensors)
    steps: list[tuple[int, ...]] = []
    for group in groups:
        members = [network.tensors[k] for k in group]
        outside = {m for term in network.outputs for m in term}
        outside |= {m for k, t in enumerate(network.tensors) if k not in group for m in t.modes}
        kept = tuple(m for m in dict.fromkeys(m for t in members for m in t.modes) if m in outside)
        if len(group) == 1:
            continue
        inner = replace(network, tensors=tuple(members), outputs=(kept,), groups=(), fused=())
        path, _ = find(inner)
        local = list(group)
        for step in path:
            steps.append(tuple(sorted(local[i] for i in step)))
            local.append(count + len(steps) - 1)
        places = [ids.index(k) for k in group]
        for place in sorted(places, reverse=True):
            ids.pop(place)
            tensors.pop(place)
        ids.append(local[-1])
        constant = all(t.constant for t in members)
        tensors.append(Tensor(kept, network.dtype, constant))
    if len(tensors) == 1:
        return tuple(steps), "dense"
    path, name = find(replace(network, tensors=tuple(tensors), groups=(), fused=()))
    for step in path:
        steps.append(tuple(sorted(ids[i] for i in step)))
        ids.append(count + len(steps) - 1)
    return tuple(steps), name
