"""Other orders than that of a plan: for being timed, where the prediction is not to be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from contractc.cost import priced
from contractc.plans import Path, Plan

FEW = 5
"""Of so few tensors every tree is priced: there are 105."""


LARGER, SLACK = 2, 2**24
"""Another order may need so many times the peak of the plan, and so many bytes more."""


def candidates(plan: Plan, most: int = 6) -> tuple[Plan, ...]:
    """Return `plan` and the best of the other orders known, at most `most` in all, less predicted seconds first.

    Known are those that the search has kept in the plan, and of few tensors all. It is the plan alone where several
    outputs, slices, gradients or operands held as factors were decided on.
    """
    network, count = plan.network, len(plan.network.tensors)
    trained = any(t.trained for t in network.tensors)
    if len(network.outputs) > 1 or plan.sliced or network.groups or trained:
        return (plan,)
    paths = dict.fromkeys(plan.others)
    own = {tree(plan.path, count)}
    if 2 < count <= FEW:
        paths |= dict.fromkeys(trees(count))
    distinct = {tree(path, count): path for path in reversed(paths) if tree(path, count) not in own}
    allowed = LARGER * plan.peak + SLACK
    made = [
        priced(replace(plan, path=path, search=f"another order beside {plan.search}", moves=(), others=()))
        for path in distinct.values()
    ]
    made = [other for other in made if other.peak <= allowed]
    return (plan, *sorted(made, key=lambda other: (other.seconds, other.path))[: most - 1])


def trees(count: int) -> Iterator[Path]:
    """Yield every contraction tree of `count` tensors as a path."""
    for nested in _nested(tuple(range(count))):
        steps: list[tuple[int, int]] = []

        def build(node: Any, steps: list[tuple[int, int]] = steps) -> int:
            if isinstance(node, int):
                return node
            one, two = sorted(map(build, node))
            steps.append((one, two))
            return count + len(steps) - 1

        build(nested)
        yield tuple(steps)


def _nested(leaves: Sequence[int]) -> Iterator[Any]:
    """Yield every binary tree over `leaves` as nested pairs."""
    if len(leaves) == 1:
        yield leaves[0]
        return
    first, rest = leaves[0], leaves[1:]
    for chosen in range(2 ** len(rest) - 1):
        left = (first, *(leaf for k, leaf in enumerate(rest) if chosen >> k & 1))
        right = tuple(leaf for k, leaf in enumerate(rest) if not chosen >> k & 1)
        for one in _nested(left):
            for two in _nested(right):
                yield one, two


def tree(path: Path, count: int) -> frozenset[frozenset[int]]:
    """Return the sets of tensors that the steps of `path` contract: what tells trees apart, in whatever order."""
    sets = [frozenset((k,)) for k in range(count)]
    for ids in path:
        sets.append(frozenset().union(*(sets[i] for i in ids)))
    return frozenset(sets[count:])
