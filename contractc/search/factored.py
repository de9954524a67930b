"""Which factorized operands are worth materialising: every way is planned and priced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import prod

from contractc.cost import BLAS, HUGE, Costs, bandwidth, costs
from contractc.dtypes import itemsize
from contractc.lower import finished, fusers, translate
from contractc.lower.joint import parts_for_numpy
from contractc.lower.passes import PASSES
from contractc.lower.seconds import program_seconds
from contractc.machine import DEFAULT_MACHINE, Target
from contractc.network import Tensor, TensorNetwork
from contractc.plans import Alternative, Path, Plan, kept_terms
from contractc.search.training import training_costs

MOST_GROUPS = 4
"""With more factorized operands than this, all of them stay factored or all are materialised."""

MOST_FACTORS = 8
"""A group of more factors is not merged step by step, and not made dense where that is hopeless: each of these choices
takes a search of its own, and the search for the network as it is merges factors too."""

WORTH_LOWERING = 3e-5
"""Seconds by flops and bytes of the cheapest choice from which on choices are priced step by step."""

HOPELESS = 20.0
"""How many times dearer than the cheapest by flops and bytes a choice is not looked at any closer."""


TIE = 1.03
"""How many times dearer by prediction a way to train may be that has less in memory, which is mostly kept bytes."""


def cheapest_layout(
    network: TensorNetwork, find: Callable[[TensorNetwork], tuple[Path, str]]
) -> tuple[Path, str, tuple[Alternative, ...]]:
    """Return the path with the least predicted seconds over all choices of operands to materialise.

    With it come the name of its search and the cheapest of each choice. `find` orders the tensors of each
    candidate: the network as it is (factors are contracted with whatever is cheapest, so they may stay apart or be
    merged in part), and the network in which some groups have been contracted to dense tensors first, or one group
    in part. For constant operands that costs nothing per call. What the user forced is not up for choice. Where
    tensors are trained, gradients count too.
    """
    forced = network.forced or ("",) * len(network.groups)
    dense = tuple(g for g, choice in enumerate(forced) if choice == "materialised")
    free = [g for g, choice in enumerate(forced) if not choice]
    apart = [network.groups[g] for g, choice in enumerate(forced) if choice == "factored"]
    found: dict[Path, tuple[Costs, str]] = {}

    def weigh(parts: dict[int, int | None]) -> None:
        """Note the path that first takes so many steps (None: all) towards making groups dense, and its costs."""
        groups = [(network.groups[g], most) for g, most in parts.items()]
        path, name = _with_dense(network, groups, apart, find)
        if path not in found:
            found[path] = _roofline(network, path), name

    for chosen in _choices(free):
        long = [network.groups[g] for g in chosen if len(network.groups[g]) > MOST_FACTORS]
        if (
            long
            and found
            and max(map(partial(_dense_seconds, network), long))
            > HOPELESS * min(cost.seconds for cost, _ in found.values())
        ):
            continue
        weigh(dict.fromkeys((*dense, *chosen)))
    for g in free if len(free) <= MOST_GROUPS else ():
        factors = len(network.groups[g])
        for most in range(1, factors - 1) if factors <= MOST_FACTORS else ():
            weigh({**dict.fromkeys(dense), g: most})
    least = min(cost.seconds for cost, _ in found.values())
    close = least > WORTH_LOWERING and len(found) > 1
    each: list[tuple[Alternative, Path, str]] = []
    for path, (cost, name) in found.items():
        if close and cost.seconds <= HOPELESS * least:
            cost = cost._replace(seconds=_lowered_seconds(network, path, cost.seconds))
        each.append((Alternative(layout_choices(network, path), *cost), path, name))
    least = min(way.seconds for way, _, _ in each)
    near = TIE * least if any(t.trained for t in network.tensors) else least
    taken, path, name = min(
        (item for item in each if item[0].seconds <= near), key=lambda item: (item[0].peak, item[0].seconds)
    )
    best = {taken.choices: taken}
    for way, _, _ in each:
        if way.choices not in best or (
            way.choices != taken.choices and way.seconds < best[way.choices].seconds
        ):
            best[way.choices] = way
    return path, name, tuple(best.values())


def _dense_seconds(network: TensorNetwork, group: tuple[int, ...]) -> float:
    """Return the least seconds that reading or writing the dense tensor of a group takes."""
    others = {m for term in network.outputs for m in term}
    others |= {m for k, t in enumerate(network.tensors) if k not in group for m in t.modes}
    modes = others & {m for k in group for m in network.tensors[k].modes}
    size = min(HUGE, prod(network.extents[m] for m in modes)) * itemsize(network.dtype)
    return size / bandwidth(DEFAULT_MACHINE, size)


def _roofline(network: TensorNetwork, path: Path) -> Costs:
    """Return what a path costs by flops and bytes, with the gradients by trained tensors."""
    last = (len(network.tensors) + len(path) - 1,)
    trained = any(t.trained for t in network.tensors)
    return (training_costs if trained else costs)(network, path, last)


def _lowered_seconds(network: TensorNetwork, path: Path, otherwise: float) -> float:
    """Return the predicted seconds of the steps that would run for a path, gradients by trained tensors included.

    Every operand of these steps has its place in memory, so copies and short products are paid for: what decides
    between factors and a dense operand. For dtypes and semirings without such prices it is `otherwise`.
    """
    if network.dtype not in BLAS or network.semiring != "sum_product":
        return otherwise
    program = translate(Plan(network, path, (len(network.tensors) + len(path) - 1,)), Target())
    for transform in PASSES:
        program = transform(program)
    trained = [k for k, t in enumerate(network.tensors) if t.trained]
    if not trained:
        return program_seconds(finished(program, Target(), kernels=fusers(Target())))
    parts = parts_for_numpy(program, trained, quick=True)
    return otherwise if parts is None else parts.seconds


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


def _choices(groups: Sequence[int]) -> Iterable[tuple[int, ...]]:
    """Return the sets of groups to materialise, none first."""
    if len(groups) > MOST_GROUPS:
        return [(), tuple(groups)]
    return [chosen for size in range(len(groups) + 1) for chosen in combinations(groups, size)]


def _with_dense(
    network: TensorNetwork,
    groups: Iterable[tuple[tuple[int, ...], int | None]],
    apart: Sequence[tuple[int, ...]],
    find: Callable[[TensorNetwork], tuple[Path, str]],
) -> tuple[Path, str]:
    """Return a path that first contracts each of `groups` to one tensor, and never one of `apart`.

    With a number beside it, only so many steps are taken towards that.
    """
    count = len(network.tensors)
    ids = list(range(count))
    tensors = list(network.tensors)
    steps: list[tuple[int, ...]] = []
    for group, most in groups:
        members = [network.tensors[k] for k in group]
        outside = {m for term in network.outputs for m in term}
        outside |= {m for k, t in enumerate(network.tensors) if k not in group for m in t.modes}
        kept = tuple(m for m in dict.fromkeys(m for t in members for m in t.modes) if m in outside)
        if len(group) == 1:
            continue
        inner = replace(network, tensors=tuple(members), outputs=(kept,), groups=(), forced=(), fused=())
        path, _ = find(inner)
        terms = kept_terms(inner, path, (len(members) + len(path) - 1,))
        local, fixed = list(group), [t.constant for t in members]
        for step in path[:most]:
            steps.append(tuple(sorted(local[i] for i in step)))
            local.append(count + len(steps) - 1)
            fixed.append(all(fixed[i] for i in step))
        used = {i for step in path[:most] for i in step}
        for place in sorted((ids.index(group[i]) for i in used if i < len(group)), reverse=True):
            ids.pop(place)
            tensors.pop(place)
        for i in range(len(group), len(local)):
            if i not in used:
                ids.append(local[i])
                tensors.append(Tensor(terms[i], network.dtype, fixed[i]))
    if len(tensors) == 1:
        return tuple(steps), "dense"
    rest = replace(network, tensors=tuple(tensors), groups=(), forced=(), fused=())
    path, name = _kept_apart(rest, [tuple(ids.index(k) for k in group) for group in apart], find)
    for step in path:
        steps.append(tuple(sorted(ids[i] for i in step)))
        ids.append(count + len(steps) - 1)
    return tuple(steps), name


def _kept_apart(
    network: TensorNetwork,
    groups: Sequence[tuple[int, ...]],
    find: Callable[[TensorNetwork], tuple[Path, str]],
) -> tuple[Path, str]:
    """Return a path that contracts none of `groups` to one tensor by itself.

    If the cheapest path does, a first step takes one factor out of the group, which then cannot be made whole: every
    factor with every tensor that it meets is tried.
    """
    path, name = find(network)
    count = len(network.tensors)
    covered = [frozenset([k]) for k in range(count)]
    for ids in path:
        covered.append(frozenset().union(*(covered[i] for i in ids)))
    whole = [g for g in groups if 1 < len(g) < count and frozenset(g) in covered[count:]]
    if not whole:
        return path, name
    group, best = whole[0], None
    others = [k for k in range(count) if k not in group]
    pairs = [
        (k, f) for k in others for f in group if set(network.tensors[k].modes) & set(network.tensors[f].modes)
    ]
    for pair in pairs or [(others[0], group[0])]:
        members = [network.tensors[k] for k in pair]
        left = [k for k in range(count) if k not in pair]
        needed = {m for term in network.outputs for m in term} | {
            m for k in left for m in network.tensors[k].modes
        }
        modes = tuple(m for m in dict.fromkeys(m for t in members for m in t.modes) if m in needed)
        made = Tensor(modes, network.dtype, all(t.constant for t in members))
        reduced = replace(network, tensors=(*(network.tensors[k] for k in left), made))
        remaining = [g for g in groups if not set(g) & set(pair)]
        inner, name = _kept_apart(reduced, [tuple(left.index(k) for k in g) for g in remaining], find)
        numbers = [*left, count]
        steps: list[tuple[int, ...]] = [tuple(sorted(pair))]
        for step in inner:
            steps.append(tuple(sorted(numbers[i] for i in step)))
            numbers.append(count + len(steps) - 1)
        seconds = costs(network, tuple(steps), (count + len(steps) - 1,)).seconds
        if best is None or seconds < best[0]:
            best = seconds, tuple(steps), name
    assert best is not None
    return best[1], best[2]
