"""Gradients and environments from one contraction tree: up the tree for the value, down again for the rest.

The environment of a node of the tree is the contraction of everything outside of it: that of its parent times
its siblings. So all environments together take two more contractions for each of the tree, over the same modes.
(The chain rule in reverse: S. Linnainmaa, "The representation of the cumulative rounding error of an algorithm"
(1970); on contraction trees, message passing: G. Shafer, P. Shenoy, "Probability propagation" (1990).)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from contractc.dtypes import is_complex
from contractc.network import Tensor, TensorNetwork
from contractc.plans import Path


class Sweep:
    """The steps of one tree and of the environments asked for, in single assignment.

    `seed` is the id that the root's environment starts with (a cotangent), None where there is none: the
    environment of the root is then the number 1, and `environment` gives None for it.
    """

    def __init__(self, count: int, path: Path, root: int, seed: int | None) -> None:
        self.count = count
        self.steps = list(path)
        self.parent: dict[int, tuple[int, ...]] = {}
        self.of: dict[int, int | None] = {root: seed}
        for s in range(len(path)):
            for i in path[s]:
                self.parent[i] = (count + s, *(k for k in path[s] if k != i))

    def add(self, *ids: int) -> int:
        """Return the id of a new step."""
        self.steps.append(tuple(sorted(ids)))
        return self.count + len(self.steps) - 1

    def environment(self, node: int) -> int | None:
        """Return the id of the environment of a node of the tree, after adding the steps it takes."""
        way = []
        while node not in self.of:
            way.append(node)
            node = self.parent[node][0]
        for below in reversed(way):
            above, *siblings = self.parent[below]
            outer = self.of[above]
            ids = siblings if outer is None else [outer, *siblings]
            self.of[below] = ids[0] if len(ids) == 1 else self.add(*ids) if ids else None
        return self.of[way[0]] if way else self.of[node]

    def result(self, *ids: int | None) -> int:
        """Return the id of an output made of `ids`, by a step of its own."""
        return self.add(*(i for i in ids if i is not None))


def pairwise(path: Path, count: int) -> Path:
    """Return `path` with steps of three or more ids as steps of two, left to right."""
    steps: list[tuple[int, ...]] = []
    names = list(range(count))
    for ids in path:
        mine = [names[i] for i in ids]
        while len(mine) > 2:
            steps.append(tuple(sorted(mine[:2])))
            mine = [count + len(steps) - 1, *mine[2:]]
        steps.append(tuple(sorted(mine)))
        names.append(count + len(steps) - 1)
    return tuple(steps)


def with_cotangent(network: TensorNetwork, wanted: Iterable[int], value: bool = True) -> TensorNetwork:
    """Return the network of the gradients of `network`'s one output by the tensors `wanted`, after the output.

    Its last tensor is the cotangent, with the modes of the output. The gradient by a tensor contracts all
    others and the cotangent to the modes of the tensor: a mode twice in there keeps the diagonal only, and along
    one that nothing else has it is constant. Of complex tensors it is the conjugate, as in torch: the direction
    in which a real function of the output grows.

    Args:
        value: whether the output itself comes first.
    """
    (term,) = network.outputs
    count = len(network.tensors)
    complex_ = is_complex(network.dtype)
    given = network.fused[0] if network.fused else ()
    cotangent = Tensor(term, network.dtype, conj=complex_, given=() if given == term else given)
    wanted = tuple(wanted)
    terms = [network.tensors[k].modes for k in wanted]
    whole = [network.tensors[k].given or network.tensors[k].modes for k in wanted]
    members = [tuple(i for i in range(count + 1) if i != k) for k in wanted]
    conjugated = [k for k in wanted if complex_ and not network.tensors[k].conj]
    if value:
        terms, whole = [term, *terms], [given or term, *whole]
        members = [tuple(range(count)), *members]
    return replace(
        network,
        tensors=(*network.tensors, cotangent),
        outputs=tuple(terms),
        fused=() if whole == terms else tuple(whole),
        contracted=tuple(members),
        conjugated=tuple(wanted.index(k) + value for k in conjugated),
    )


def gradient_path(
    network: TensorNetwork, path: Path, wanted: Sequence[int], value: bool = True
) -> tuple[Path, tuple[int, ...]]:
    """Return the path and the results of `with_cotangent(network, wanted, value)` that share the tree `path`.

    The path of the value comes first, step by step, its ids one higher behind the cotangent.
    """
    count = len(network.tensors)
    tree = pairwise(path, count)
    shifted = tuple(tuple(i + (i >= count) for i in ids) for ids in tree)
    root = count + len(shifted)
    sweep = Sweep(count + 1, shifted, root, count)
    results = [root] if value else []
    for k in wanted:
        results.append(_leaf_gradient(sweep, k))
    return needed_steps(count + 1, sweep.steps, results)


def _leaf_gradient(sweep: Sweep, leaf: int) -> int:
    """Return the id of the environment of a leaf, in a step of its own."""
    above, *siblings = sweep.parent[leaf]
    return sweep.result(sweep.environment(above), *siblings)


def needed_steps(
    count: int, steps: Sequence[tuple[int, ...]], results: Sequence[int]
) -> tuple[Path, tuple[int, ...]]:
    """Return `steps` without those that no result needs, and the new ids of the `results`."""
    needed = set(results)
    for s in range(len(steps) - 1, -1, -1):
        if count + s in needed:
            needed.update(steps[s])
    names = dict(zip(range(count), range(count), strict=True))
    kept: list[tuple[int, ...]] = []
    for s, ids in enumerate(steps):
        if count + s in needed:
            names[count + s] = count + len(kept)
            kept.append(tuple(sorted(names[i] for i in ids)))
    return tuple(kept), tuple(names[r] for r in results)
