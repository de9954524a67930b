"""Several outputs planned together: from one tree where that is cheaper, else each alone with equal values shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from contractc.cost import costs
from contractc.network import TensorNetwork
from contractc.notation import Term
from contractc.plans import Path, kept_terms
from contractc.search.sweep import Sweep, needed_steps, pairwise

Find = Callable[[TensorNetwork], tuple[Path, str]]
"""What orders the tensors of a network with one output: (its path, the name of the search)."""

MOST_ALONE = 64
"""If outputs times tensors are more than this, the first tree that serves is taken."""


def joint_path(network: TensorNetwork, find: Find, share: bool) -> tuple[Path, tuple[int, ...], str]:
    """Return one SSA path for all outputs, their ids, and the name of the search.

    Planned are every output alone, and all of them from one tree: that of an output that contracts every tensor
    any output does, or that of the contraction of all these tensors to a number. The plan of least predicted
    seconds wins, ties going to the first.

    Args:
        network: with one output or several, of all tensors or of some.
        find: orders the tensors for one output.
        share: whether outputs may be taken from one tree; not if the order was given for each.
    """
    if len(network.outputs) == 1 and not network.contracted:
        path, name = find(network)
        return path, (len(network.tensors) + len(path) - 1,), name
    alone = [_alone(network, o, find) for o in range(len(network.outputs))]
    found: list[tuple[Path, tuple[int, ...], str]] = []
    small = len(network.outputs) * len(network.tensors) <= MOST_ALONE
    if share and len(network.outputs) > 1:
        for tree, root, term, name in _trees(network, find):
            swept = from_one_tree(network, tree, root, term, alone)
            if swept is not None:
                found.append((*swept, f"{name}, outputs from one tree"))
                if not small:
                    break
    if not found or small:
        each = [search() for search in alone]
        found.insert(0, (*join_outputs(network, [path for path, _ in each]), each[0][1]))
    return min(found, key=lambda item: costs(network, item[0], item[1]).seconds)


def single_output(network: TensorNetwork, output: int) -> TensorNetwork:
    """Return the network of one output: the tensors it contracts, without modes that none of them has."""
    if len(network.outputs) == 1 and not network.contracted:
        return network
    members = network.members(output)
    tensors = tuple(network.tensors[k] for k in members)
    own = {m for t in tensors for m in t.modes}
    term = tuple(m for m in network.outputs[output] if m in own)
    fused = (network.fused[output],) if network.fused and term == network.outputs[output] else ()
    whole = len(members) == len(network.tensors)
    return replace(
        network,
        tensors=tensors,
        outputs=(term,),
        fused=fused,
        groups=network.groups if whole else (),
        forced=network.forced if whole else (),
        contracted=(),
        conjugated=(),
    )


def join_outputs(network: TensorNetwork, paths: Sequence[Path]) -> tuple[Path, tuple[int, ...]]:
    """Return one SSA path for all outputs, and their ids; `paths` are over all tensors of the network.

    Values of the same tensors that keep the same modes are equal, in whatever order they are made, so they are
    made once. The last step of each output is its own.
    """
    count = len(network.tensors)
    steps: list[tuple[int, ...]] = []
    results = []
    seen: dict[object, int] = {}
    for output, path in enumerate(paths):
        only = replace(network, outputs=(network.outputs[output],), fused=(), contracted=(), conjugated=())
        terms = kept_terms(only, path, (count + len(path) - 1,))
        ids = list(range(count))
        leaves = [1 << k for k in range(count)]
        for s, step in enumerate(path):
            leaves.append(0)
            for i in step:
                leaves[-1] |= leaves[i]
            key = (output, s) if s == len(path) - 1 else (leaves[-1], frozenset(terms[count + s]))
            if key not in seen:
                steps.append(tuple(sorted(ids[i] for i in step)))
                seen[key] = count + len(steps) - 1
            ids.append(seen[key])
        results.append(ids[-1])
    path, kept = needed_steps(count, steps, results)
    return path, kept


def from_one_tree(
    network: TensorNetwork, tree: Path, root: int, term: Term, alone: Sequence[Callable[[], tuple[Path, str]]]
) -> tuple[Path, tuple[int, ...]] | None:
    """Return the path and the ids of all outputs, taken from one tree over (some) tensors of the network.

    An output can be had from the tree if it contracts the tensors below a node, or all but these, or all: of the
    last kind, from the root if that keeps the modes (`term`), else at the smallest tensor that has them. Others
    are searched `alone`; None if all would be.
    """
    count = len(network.tensors)
    sweep = Sweep(count, tree, root, None)
    leaves = [1 << k for k in range(count)]
    for ids in tree:
        leaves.append(0)
        for i in ids:
            leaves[-1] |= leaves[i]
    node_of = {
        mask: node for node, mask in reversed(list(enumerate(leaves))) if node < count or node in sweep.parent
    }
    every = leaves[root]
    having: dict[int, list[int]] = {}
    for k, tensor in enumerate(network.tensors):
        for m in tensor.modes if every >> k & 1 else ():
            having.setdefault(m, []).append(k)
    results, taken = [], 0
    viewed: set[int] = set()

    def reduced(node: int | None, wanted: set[int], kept: set[int]) -> int:
        """Return an output that is a value of the sweep, or a sum of it; no two outputs share their memory."""
        assert node is not None
        if {m for m in kept - wanted if network.extents[m] != 1}:
            return sweep.result(node)
        if node in viewed and node >= count:
            return sweep.result(*sweep.steps[node - count])
        viewed.add(node)
        return sweep.result(node)

    for output, term_wanted in enumerate(network.outputs):
        wanted, mask = set(term_wanted), 0
        for k in network.members(output):
            mask |= 1 << k
        inside, outside = node_of.get(mask), node_of.get(every & ~mask)
        taken += 1
        if mask == every and wanted <= set(term):
            results.append(reduced(root, wanted, set(term)))
        elif mask == every and (place := _smallest(network, having, wanted)) is not None:
            results.append(sweep.result(sweep.environment(place), place))
        elif mask != every and inside is not None:
            results.append(reduced(inside, wanted, set()))
        elif mask & ~every == 0 and outside is not None and mask != every:
            results.append(reduced(sweep.environment(outside), wanted, set()))
        else:
            taken -= 1
            path, _ = alone[output]()
            names = list(range(count))
            for step in path:
                names.append(sweep.add(*(names[i] for i in step)))
            results.append(names[-1])
    return needed_steps(count, sweep.steps, results) if taken > 1 else None


def _alone(network: TensorNetwork, output: int, find: Find) -> Callable[[], tuple[Path, str]]:
    """Return a function giving the path of one output, over all tensors of the network; it is searched once."""
    kept: list[tuple[Path, str]] = []

    def search() -> tuple[Path, str]:
        if not kept:
            path, name = find(single_output(network, output))
            kept.append((_over_all(path, network.members(output), len(network.tensors)), name))
        return kept[0]

    return search


def _trees(network: TensorNetwork, find: Find) -> Iterator[tuple[Path, int, Term, str]]:
    """Yield trees from which outputs may be taken: path over all tensors, root, modes kept, name of the search."""
    count = len(network.tensors)
    every = sorted({k for o in range(len(network.outputs)) for k in network.members(o)})
    own = {m for k in every for m in network.tensors[k].modes}
    terms: list[Term] = [()]
    whole = [o for o in range(len(network.outputs)) if len(network.members(o)) == len(every)]
    if whole:
        widest = max(whole, key=lambda o: network.size(set(network.outputs[o])))
        terms.append(tuple(m for m in dict.fromkeys(network.outputs[widest]) if m in own))
    for term in dict.fromkeys(terms):
        base = replace(network, outputs=(term,), fused=(), contracted=(tuple(every),), conjugated=())
        path, name = find(single_output(base, 0))
        tree = pairwise(_over_all(path, every, count), count)
        yield tree, count + len(tree) - 1, term, name


def _over_all(path: Path, members: Sequence[int], count: int) -> Path:
    """Return a path over some tensors as one over all `count`."""
    shift = count - len(members)
    return tuple(tuple(sorted(members[i] if i < len(members) else i + shift for i in ids)) for ids in path)


def _smallest(network: TensorNetwork, having: dict[int, list[int]], wanted: set[int]) -> int | None:
    """Return the smallest tensor that has all modes `wanted`, or None; `having` lists the tensors of each mode."""
    if not wanted:
        return None
    fewest = min((having.get(m, []) for m in wanted), key=len)
    whole = [k for k in fewest if wanted.issubset(network.tensors[k].modes)]
    return min(whole, key=lambda k: (network.size(set(network.tensors[k].modes)), k), default=None)
