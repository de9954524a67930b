"""Tile configs, and the tree of tiles that a kernel computes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contractc.backends.triton.problem import Problem, Run
from contractc.dtypes import is_complex

DOTS = ("float16", "bfloat16", "float32", "float64", "int8", "bool", "complex64", "complex128")
"""The dtypes that a tile product is made for."""


@dataclass(frozen=True, slots=True)
class TileConfig:
    """How a kernel walks through its runs: the block of each, a power of two, and what the launch needs.

    `group` is how many tiles along m share a tile along n; `split` is into how many parts the outermost loop is cut,
    which a second kernel adds up in order. With `resident` the grid is persistent: so many programs stay on each
    processor and take one tile after the other; with 0 each tile has a program of its own. `dots` is how many real
    products make a product of complex tiles: 4, or 3 and some additions (Gauss).
    """

    blocks: tuple[tuple[str, int], ...]
    warps: int = 4
    stages: int = 3
    group: int = 8
    split: int = 1
    resident: int = 0
    dots: int = 4

    def __str__(self) -> str:
        words = ["tile", *(f"{name}={size}" for name, size in self.blocks)]
        words += [f"{name}={getattr(self, name)}" for name in _ALWAYS]
        words += [f"{n}={getattr(self, n)}" for n, usual in _SELDOM.items() if getattr(self, n) != usual]
        return " ".join(words)


_ALWAYS = ("warps", "stages", "group", "split")
_SELDOM = {"resident": 0, "dots": 4}
"""What is printed behind the blocks: always, and where it is not the usual number."""


def parsed(text: str) -> TileConfig:
    """Return the tile config that `str` wrote.

    Raises:
        ValueError: `text` is none.
    """
    words = text.split()
    if not re.fullmatch(r"tile( [a-z]\w*=\d{1,6})*", text) or words[:1] != ["tile"]:
        raise ValueError(f"{text!r:.60} is no tile config")
    pairs = [(name, int(size)) for name, _, size in (word.partition("=") for word in words[1:])]
    launch = {name: size for name, size in pairs if name in (*_ALWAYS, *_SELDOM)}
    if (
        not launch.keys() >= set(_ALWAYS)
        or launch.get("dots", 4) not in (3, 4)
        or len(dict(pairs)) != len(pairs)
        or 0 in dict(pairs).values()
    ):
        raise ValueError(f"{text!r:.60} is no tile config")
    blocks = tuple((name, size) for name, size in pairs if name not in launch)
    if any(size & (size - 1) for _, size in blocks):
        raise ValueError(f"{text!r:.60} has a block that is no power of two")
    return TileConfig(blocks, **launch)


@dataclass(frozen=True, slots=True)
class Node:
    """One contraction inside a kernel: its SSA number, what it reads, the runs it keeps and those it sums over."""

    number: int
    children: tuple[int, ...]
    kept: tuple[Run, ...]
    summed: tuple[Run, ...]


def nodes_of(problem: Problem, runs: Sequence[Run]) -> dict[int, Node]:
    """Return the nodes of a problem by SSA number: the inputs (which sum over nothing), then the steps of its path."""
    count = len(problem.inputs)
    nodes = {i: Node(i, (), tuple(r for r in runs if i in r.values), ()) for i in range(count)}
    under = {i: {i} for i in range(count)}
    for s, ids in enumerate(problem.path):
        number = count + s
        under[number] = set().union(*(under[i] for i in ids))
        present = {r.name for i in ids for r in nodes[i].kept}
        kept = tuple(r for r in runs if r.name in present and not r.values <= under[number])
        summed = tuple(r for r in runs if r.name in present and r.values <= under[number])
        nodes[number] = Node(number, _longest_first(problem, ids, nodes, kept), kept, summed)
    return nodes


def _longest_first(
    problem: Problem, ids: Sequence[int], nodes: Mapping[int, Node], kept: Sequence[Run]
) -> tuple[int, ...]:
    """Return `ids`, the input with more rows of its own first: tensor cores take 64 rows or more at once."""
    if len(ids) < 2:
        return tuple(ids)
    sides = [{r.name for r in nodes[i].kept} for i in ids]
    sizes = [
        problem.size([m for r in kept if r.name in a - b for m in r.modes]) for a, b in (sides, sides[::-1])
    ]
    return tuple(ids) if sizes[0] >= sizes[1] else (ids[1], ids[0])


@dataclass(frozen=True, slots=True)
class Roles:
    """The runs of a pairwise node: in both inputs and kept, in one and kept, in both and summed, in one and summed."""

    batch: tuple[Run, ...]
    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    shared: tuple[Run, ...]
    lone: tuple[Run, ...]


def roles_of(node: Node, nodes: Mapping[int, Node]) -> Roles:
    """Return the roles of the runs in `node`; a unary node has rows and lone runs only."""
    left = {r.name for r in nodes[node.children[0]].kept}
    right = {r.name for r in nodes[node.children[1]].kept} if len(node.children) == 2 else set()
    return Roles(
        tuple(r for r in node.kept if r.name in left and r.name in right),
        tuple(r for r in node.kept if r.name in left and r.name not in right),
        tuple(r for r in node.kept if r.name in right and r.name not in left),
        tuple(r for r in node.summed if r.name in left and r.name in right),
        tuple(r for r in node.summed if (r.name in left) != (r.name in right)),
    )


def span(runs: Sequence[Run], blocks: Mapping[str, int]) -> int:
    """Return the elements of a tile over `runs`."""
    product = 1
    for r in runs:
        product *= blocks[r.name]
    return product


def is_dot(problem: Problem, roles: Roles, blocks: Mapping[str, int]) -> bool:
    """Return whether a node with these blocks is a product of matrices on the tensor cores.

    Rows and columns have at least 16 and so has the sum (32 for int8): below, a tile product does not exist.
    """
    return (
        span(roles.rows, blocks) >= 16
        and span(roles.columns, blocks) >= 16
        and span(roles.shared, blocks) >= (32 if problem.dtype in ("int8", "bool") else 16)
        and span(roles.batch, blocks) == 1
        and can_dot(problem)
    )


def can_dot(problem: Problem) -> bool:
    """Return whether the values of a problem can be multiplied on tensor cores at all."""
    if problem.semiring not in ("sum_product", "or_and") or problem.dtype not in DOTS:
        return False
    if problem.dtype == "int8":
        return all(v.dtype in ("int8", "bool") for v in problem.inputs)
    return True


def parts_of(problem: Problem) -> int:
    """Return 2 if the tiles of a problem are pairs of real and imaginary parts, else 1."""
    return 2 if is_complex(problem.dtype) else 1
