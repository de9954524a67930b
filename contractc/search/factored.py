"""Which factorized operands are worth materialising: every way is planned and priced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import prod
from typing import NamedTuple

from contractc.cost import BLAS, HUGE, Costs, bandwidth, costs
from contractc.dtypes import itemsize
from contractc.lower import finished, fusers, translate
from contractc.lower.joint import parts_for_numpy
from contractc.lower.passes import PASSES
from contractc.lower.seconds import program_seconds
from contractc.machine import DEFAULT_MACHINE, Target
from contractc.network import Tensor, TensorNetwork
from contractc.plans import Alternative, Path, Plan, kept_terms
from contractc.search.clock import Clock
from contractc.search.front import FIRSTS, sweep
from contractc.search.graph import graph_of
from contractc.search.training import training_costs

CPU = Target()

Find = Callable[[TensorNetwork], tuple[Path, str]]
"""What orders the tensors of a network: (its path, the name of the search)."""

MOST_GROUPS = 4
"""With more factorized operands than this, all of them stay factored or all are materialised."""

MOST_FACTORS = 8
"""A group of more factors is not merged step by step, and not made dense where that is hopeless: each of these choices
takes a search of its own, and the search for the network as it is merges factors too."""

WORTH_LOWERING = 3e-5
"""Seconds by flops and bytes of the cheapest choice from which on choices are priced step by step."""

HOPELESS = 20.0
"""How many times dearer than the cheapest by flops and bytes a choice is not looked at any closer."""

NEAR, UNLIKELY = 2.0, 0.9
"""How many times as dear as the cheapest by a rough price a choice that was not searched for may be to be priced step
by step: where there are few tensors, and where that takes longer."""

FEW = 4
"""Paths of each choice that are priced by their kernels."""

TIE = 1.03
"""How many times dearer by prediction a way to train may be that has less in memory, which is mostly kept bytes."""


class Layouts(NamedTuple):
    """The path of the choice taken, the name of its search, the alternatives, and a path for each of these."""

    path: Path
    search: str
    alternatives: tuple[Alternative, ...]
    paths: tuple[Path, ...]


def cheapest_layout(network: TensorNetwork, find: Find, target: Target = CPU) -> Layouts:
    """Return the path with the least predicted seconds over all choices of operands to materialise.

    With it come the name of its search and the cheapest of each choice. `find` orders the tensors of each
    candidate: the network as it is (factors are contracted with whatever is cheapest, so they may stay apart or be
    merged in part), and the network in which some groups have been contracted to dense tensors first, or one group
    in part. For constant operands that costs nothing per call. What the user forced is not up for choice. Where
    tensors are trained, gradients count too. A choice that none of these searches ends in, or none was made for, is
    that of a sweep, so that what it costs can be told.
    """
    forced = network.forced or ("",) * len(network.groups)
    dense = dict.fromkeys(g for g, choice in enumerate(forced) if choice == "materialised")
    free = [g for g, choice in enumerate(forced) if not choice]
    apart = [network.groups[g] for g, choice in enumerate(forced) if choice == "factored"]
    found: dict[Path, tuple[Costs, str]] = {}

    def weigh(parts: dict[int, int | None]) -> None:
        """Note the path that first takes so many steps (None: all) towards making groups dense, and its costs."""
        groups = [(network.groups[g], most) for g, most in parts.items()]
        path, name = _with_dense(network, groups, apart, find, _kept_apart)
        if path not in found:
            found[path] = _roughly(network, path, target), name

    for chosen in _choices(free):
        long = [network.groups[g] for g in chosen if len(network.groups[g]) > MOST_FACTORS]
        if (
            long
            and found
            and max(map(partial(_dense_seconds, network), long))
            > HOPELESS * min(cost.seconds for cost, _ in found.values())
        ):
            continue
        weigh({**dense, **dict.fromkeys(chosen)})
    for g in free if len(free) <= MOST_GROUPS else ():
        factors = len(network.groups[g])
        for most in range(1, factors - 1) if factors <= MOST_FACTORS else ():
            weigh({**dense, g: most})
    shown: dict[Path, tuple[Costs, str]] = {}
    each_apart = [network.groups[g] for g in range(len(forced)) if g not in dense]
    for more in _missing(network, [layout_choices(network, path) for path in found], free):
        groups = [(network.groups[g], most) for g, most in {**dense, **more}.items()]
        path, name = _with_dense(network, groups, each_apart, _swept, _one_by_one)
        if path not in found:
            shown[path] = _roughly(network, path, target), name
    each = _weighed(network, found, shown, target)
    least = min(way.seconds for way, _, _ in each)
    near = TIE * least if any(t.trained for t in network.tensors) else least
    taken, path, name = min(
        (item for item in each if item[0].seconds <= near), key=lambda item: (item[0].peak, item[0].seconds)
    )
    best = {taken.choices: (taken, path)}
    for way, other, _ in each:
        if way.choices not in best or (
            way.choices != taken.choices and way.seconds < best[way.choices][0].seconds
        ):
            best[way.choices] = way, other
    return Layouts(path, name, tuple(way for way, _ in best.values()), tuple(p for _, p in best.values()))


Joint = tuple[Path, tuple[int, ...], str]
"""A path for several outputs, their ids, the name of the search."""


def joint_layouts(
    network: TensorNetwork, find: Callable[[TensorNetwork], Joint]
) -> tuple[Joint, tuple[Alternative, ...]]:
    """Return what `find` gives for the several outputs of `network` in the cheapest of some choices, and all of them.

    These are each group as is best for the outputs one by one, all factored, and all materialised; what the user
    forced stays.
    """
    best: dict[tuple[str, ...], tuple[float, Joint, Alternative]] = {}
    forced = network.forced or ("",) * len(network.groups)
    for word in ("", "factored", "materialised") if "" in forced else ("",):
        found = find(replace(network, forced=tuple(choice or word for choice in forced)))
        way = Alternative(layout_choices(network, found[0]), *costs(network, *found[:2]))
        if way.choices not in best or way.seconds < best[way.choices][0]:
            best[way.choices] = way.seconds, found, way
    _, taken, _ = min(best.values(), key=lambda item: item[0])
    return taken, tuple(way for _, _, way in best.values())


def _missing(
    network: TensorNetwork, found: Sequence[tuple[str, ...]], free: Sequence[int]
) -> Iterable[dict[int, int | None]]:
    """Return what no path has come to that some could: all groups factored, one merged in part or made dense.

    Args:
        found: the choices of the paths there are.
    """
    count = len(network.tensors)
    several = [g for g in free if 1 < len(network.groups[g]) < count]
    missing: list[dict[int, int | None]] = []
    seen = {g: {choices[g] for choices in found} for g in several}
    if any("factored" not in words for words in seen.values()):
        missing.append({})
    for g in several if len(free) <= MOST_GROUPS else ():
        if "partly merged" not in seen[g] and len(network.groups[g]) > 2:
            missing.append({g: 1})
        if seen[g].isdisjoint(("materialised", "materialised once")):
            missing.append({g: None})
    return missing


def _weighed(
    network: TensorNetwork,
    found: Mapping[Path, tuple[Costs, str]],
    shown: Mapping[Path, tuple[Costs, str]],
    target: Target,
) -> list[tuple[Alternative, Path, str]]:
    """Return the paths `found`, then those `shown`, as alternatives: near the cheapest priced by the steps that run.

    The other paths `found` keep their rough price. Of a long network those `shown` have theirs times what the steps of
    the cheapest take beyond its own, as long as they do not seem to be better than that.
    """
    rough = {path: cost.seconds for path, (cost, _) in found.items()}
    least = min(rough.values())
    close = (target.device != "cpu" or least > WORTH_LOWERING) and len(found) + len(shown) > 1
    exact: dict[Path, float] = {}
    for path in _near(network, rough, target) if close else ():
        exact[path] = lowered_seconds(network, path, rough[path], target)
    seconds = {**rough, **exact}
    cheapest = min(seconds.values())
    beyond = cheapest / min(rough[path] for path in seconds if seconds[path] == cheapest) if cheapest else 1.0
    short = len(network.tensors) <= MOST_FACTORS
    for path, (cost, _) in shown.items():
        guess = beyond * cost.seconds
        if close and guess < (NEAR if short else UNLIKELY) * cheapest:
            guess = lowered_seconds(network, path, cost.seconds, target)
        seconds[path] = guess
    return [
        (Alternative(layout_choices(network, path), *cost._replace(seconds=seconds[path])), path, name)
        for path, (cost, name) in (*found.items(), *shown.items())
    ]


def _near(network: TensorNetwork, rough: Mapping[Path, float], target: Target) -> list[Path]:
    """Return the paths to price by their steps: those not hopeless; for a GPU, where that takes long, some of each."""
    limit = HOPELESS * min(rough.values())
    near = sorted((path for path in rough if rough[path] <= limit), key=lambda path: rough[path])
    if target.device == "cpu":
        return near
    taken: Counter[tuple[str, ...]] = Counter()
    kept = []
    for path in near:
        choices = layout_choices(network, path)
        taken[choices] += 1
        if taken[choices] <= FEW:
            kept.append(path)
    return kept


def _dense_seconds(network: TensorNetwork, group: tuple[int, ...]) -> float:
    """Return the least seconds that reading or writing the dense tensor of a group takes, on this machine."""
    others = {m for term in network.outputs for m in term}
    others |= {m for k, t in enumerate(network.tensors) if k not in group for m in t.modes}
    modes = others & {m for k in group for m in network.tensors[k].modes}
    size = min(HUGE, prod(network.extents[m] for m in modes)) * itemsize(network.dtype)
    return size / bandwidth(DEFAULT_MACHINE, size)


def _roughly(network: TensorNetwork, path: Path, target: Target) -> Costs:
    """Return what a path costs by flops and bytes, on a GPU as torch's steps, with the gradients by trained tensors."""
    last = (len(network.tensors) + len(path) - 1,)
    trained = any(t.trained for t in network.tensors)
    found = (training_costs if trained else costs)(network, path, last)
    if not target.device.startswith("cuda"):
        return found
    seconds = lowered_seconds(network, path, found.seconds, Target("torch", target.device))
    return found._replace(seconds=seconds)


def lowered_seconds(network: TensorNetwork, path: Path, otherwise: float, target: Target = CPU) -> float:
    """Return the predicted seconds of the steps that would run for a path, gradients by trained tensors included.

    Every operand of these steps has its place in memory, so copies and short products are paid for: what decides
    between factors and a dense operand. On a GPU they are those of kernels and of torch's own operations there. For
    dtypes and semirings without such prices it is `otherwise`.
    """
    host, gpu = target.device == "cpu", target.device.startswith("cuda")
    priced = network.dtype in BLAS and network.semiring == "sum_product"
    if not (gpu or (host and priced)):
        return otherwise
    last = len(network.tensors) + len(path) - 1
    program = translate(Plan(network, path, (last,)), CPU if host else target)
    for transform in PASSES:
        program = transform(program)
    trained = [k for k, t in enumerate(network.tensors) if t.trained]
    if gpu:
        from contractc.backends.triton.prices import predicted_seconds  # which loads torch

        return predicted_seconds(program, target, trained)
    if not trained:
        return program_seconds(finished(program, CPU, kernels=fusers(CPU)))
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
    find: Find,
    order: Callable[[TensorNetwork, Sequence[tuple[int, ...]], Find], tuple[Path, str]],
) -> tuple[Path, str]:
    """Return a path that first contracts each of `groups` to one tensor, and never one of `apart`.

    With a number beside it, only so many steps are taken towards that. What is left is contracted in the `order` that
    keeps some of it apart.
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
    covered = [frozenset([k]) for k in range(count)]
    for step in steps:
        covered.append(frozenset().union(*(covered[i] for i in step)))
    left = [tuple(k for k, i in enumerate(ids) if covered[i] <= set(group)) for group in apart]
    path, name = order(rest, left, find)
    for step in path:
        steps.append(tuple(sorted(ids[i] for i in step)))
        ids.append(count + len(steps) - 1)
    return tuple(steps), name


def _kept_apart(network: TensorNetwork, groups: Sequence[tuple[int, ...]], find: Find) -> tuple[Path, str]:
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
        left = [k for k in range(count) if k not in pair]
        remaining = [g for g in groups if not set(g) & set(pair)]
        inner, name = _kept_apart(
            _merged(network, pair), [tuple(left.index(k) for k in g) for g in remaining], find
        )
        steps = _behind(pair, inner, count)
        seconds = costs(network, steps, (count + len(steps) - 1,)).seconds
        if best is None or seconds < best[0]:
            best = seconds, steps, name
    assert best is not None
    return best[1], best[2]


def _merged(network: TensorNetwork, pair: tuple[int, int]) -> TensorNetwork:
    """Return `network` with two tensors contracted, which then are the last; no groups are left."""
    members = [network.tensors[k] for k in pair]
    left = [t for k, t in enumerate(network.tensors) if k not in pair]
    needed = {m for term in network.outputs for m in term} | {m for t in left for m in t.modes}
    modes = tuple(m for m in dict.fromkeys(m for t in members for m in t.modes) if m in needed)
    made = Tensor(modes, network.dtype, all(t.constant for t in members))
    return replace(network, tensors=(*left, made), groups=(), forced=())


def _behind(pair: tuple[int, int], path: Path, count: int) -> Path:
    """Return the path of `count` tensors that contracts `pair`, then goes on with the path of what `_merged` left."""
    numbers = [k for k in range(count) if k not in pair] + [count]
    steps: list[tuple[int, ...]] = [tuple(sorted(pair))]
    for step in path:
        steps.append(tuple(sorted(numbers[i] for i in step)))
        numbers.append(count + len(steps) - 1)
    return tuple(steps)


def _swept(network: TensorNetwork, first: int = 0) -> tuple[Path, str]:
    """Return the path that takes one tensor after the other, from `first` on."""
    path = sweep(graph_of(network), first, Clock())
    assert path is not None  # there is no limit of time
    return path, "a sweep"


def _one_by_one(network: TensorNetwork, groups: Sequence[tuple[int, ...]], find: Find) -> tuple[Path, str]:
    """Return the cheapest of some sweeps that contract no two tensors of one of `groups` by themselves.

    They start outside of the groups or, where there is nothing, with tensors of two of them.
    """
    count = len(network.tensors)
    inside = {k: g for g, group in enumerate(groups) for k in group}
    outside = [k for k, t in enumerate(network.tensors) if k not in inside and not t.unit]
    paths = [_swept(network, k)[0] for k in outside[:FIRSTS]]
    if not paths:
        modes = [set(t.modes) for t in network.tensors]
        apart = [pair for pair in combinations(range(count), 2) if inside.get(pair[0]) != inside.get(pair[1])]
        pairs = [pair for pair in apart if modes[pair[0]] & modes[pair[1]]] or apart
        paths = [_behind(p, _swept(_merged(network, p), count - 2)[0], count) for p in pairs[:FIRSTS]]
    if not paths:
        return find(network)
    return min(paths, key=lambda path: costs(network, path, (count + len(path) - 1,)).seconds), "a sweep"
