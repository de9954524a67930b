"""Which tile configs are worth trying for a problem, the fastest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from contractc.backends.triton.model import Model, Prediction
from contractc.backends.triton.problem import Problem, Run
from contractc.backends.triton.tiles import Node, TileConfig, can_dot, is_dot, roles_of, span
from contractc.dtypes import is_complex
from contractc.machine import H200, Gpu

RANKED = 24
"""How many configs a ranking keeps."""

WORTH_DOT = 8
"""The extent from which on rows, columns and sums are padded to the 16 of a tile product."""


def ranked(problem: Problem, device: Gpu = H200, most: int = RANKED) -> list[tuple[TileConfig, Prediction]]:
    """Return the best tile configs and what they are predicted to take, the fastest first; none if none fits.

    Blocks are found by descent from several starts, one run or two at a time; everything met takes part. What can
    be a product of matrices is one, unless no tile of that kind fits.
    """
    model = Model(problem, device)
    dots = [
        node
        for node in model.nodes.values()
        if len(node.children) == 2 and _worth_dot(problem, node, model.nodes)
    ]
    found = _descended(problem, model, dots)
    return (found or _descended(problem, model, []))[:most]


def _descended(problem: Problem, model: Model, dots: Sequence[Node]) -> list[tuple[TileConfig, Prediction]]:
    """Return the tile configs met, the fastest first; in all of them the nodes `dots` are products of matrices."""
    limits = {r.name: _limits(problem, r, model.nodes) for r in model.runs}
    met: dict[TileConfig, Prediction | None] = {}
    scores: dict[tuple[int, ...], float] = {}

    def score(blocks: Mapping[str, int]) -> float:
        key = tuple(blocks.values())
        if key not in scores:
            scores[key] = float("inf")
            if not all(is_dot(problem, model.roles[node.number], blocks) for node in dots):
                return scores[key]
            for config in _launches(model, blocks):
                found = met[config] = model.predict(config)
                scores[key] = min(scores[key], found.seconds if found else float("inf"))
        return scores[key]

    for start in _starts(model, limits):
        here, seconds = start, score(start)
        improved = True
        while improved:
            improved = False
            for trial in _neighbours(here, limits):
                value = score(trial)
                if value < seconds:
                    here, seconds, improved = trial, value, True
                    break
    fitting = [(c, p) for c, p in met.items() if p is not None]
    fitting.sort(key=lambda pair: (pair[1].seconds, str(pair[0])))
    return fitting


def _neighbours(here: Mapping[str, int], limits: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, int]]:
    """Yield what one change makes of the blocks: one twice or half as large, or one traded for another."""
    for name, (low, high) in limits.items():
        for block in (here[name] * 2, here[name] // 2, here[name] * 4):
            if low <= block <= high:
                yield {**here, name: block}
    for one, (_, high) in limits.items():
        for two, (low, _) in limits.items():
            if one != two and here[one] * 2 <= high and here[two] // 2 >= low:
                yield {**here, one: here[one] * 2, two: here[two] // 2}


def _limits(problem: Problem, run: Run, nodes: Mapping[int, Node]) -> tuple[int, int]:
    """Return the smallest and the largest block worth trying for a run."""
    extent = problem.size(run.modes)
    whole = 1 << max(0, extent - 1).bit_length()
    if problem.semiring not in ("sum_product", "or_and") and run.summed and len(problem.inputs) > 1:
        return 1, 1  # larger blocks of products would spill, and no padding is neutral in them
    low, high, dots = 1, min(2048, whole), False
    for node in nodes.values():
        if len(node.children) == 2 and _worth_dot(problem, node, nodes):
            roles = roles_of(node, nodes)
            if run in roles.batch:
                return 1, 1
            dots = dots or run in (*roles.rows, *roles.columns, *roles.shared)
    if dots:
        deep = 32 if problem.dtype in ("int8", "bool") else 16
        high = min(256, max(deep, whole))
    return low, high


def _worth_dot(problem: Problem, node: Node, nodes: Mapping[int, Node]) -> bool:
    """Return whether a node is large enough in all directions for products of matrices."""
    roles = roles_of(node, nodes)
    sides = [
        problem.size([m for r in part for m in r.modes]) for part in (roles.rows, roles.columns, roles.shared)
    ]
    return can_dot(problem) and min(sides) >= WORTH_DOT


def _starts(model: Model, limits: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, int]]:
    """Yield assignments to start from: small tiles, those of matrix products, and whole runs where they are short."""

    def bounded(block: int, name: str) -> int:
        low, high = limits[name]
        return max(low, min(high, block))

    for target in (1, 16, 64):
        yield {name: bounded(target, name) for name in limits}
    for side, depth in ((64, 32), (128, 64)):
        yield {r.name: bounded(depth if r.summed else side, r.name) for r in model.runs}
    yield {name: high if high <= 64 else bounded(16, name) for name, (_, high) in limits.items()}


def _launches(model: Model, blocks: Mapping[str, int]) -> Iterator[TileConfig]:
    """Yield the tile configs with these blocks: warps, stages and split follow from them."""
    shape = tuple(blocks.items())
    root = model.nodes[model.root]
    dot = len(root.children) == 2 and is_dot(model.problem, model.roles[model.root], blocks)
    turns, programs = 1, 1
    for r in model.runs:
        tiles = -(-model.sizes[r.name] // blocks[r.name])
        turns *= tiles if r in root.summed else 1
        programs *= 1 if r.summed else tiles
    splits = [1]
    if turns >= 8 and programs < model.device.processors and model.splittable:
        wanted = 2 * model.device.processors // programs
        splits.append(min(turns // 4, 1 << max(1, wanted.bit_length() - 1)))
    warps = 8 if span(root.kept, blocks) >= (128 * 128 if dot else 4096) else 4
    problem = model.problem
    gauss = dot and model.parts == 2 and problem.precision != "strict"
    gauss = gauss and all(is_complex(v.dtype) for v in problem.inputs)
    for split in splits:
        yield TileConfig(shape, warps, 3 if dot else 2, 8, split)
        if dot:
            yield TileConfig(shape, warps, 4, 8, split)
        if dot and programs * split > 2 * model.device.processors:
            yield TileConfig(
                shape, warps, 3, 8, split, resident=1
            )  # as predicted no faster; for those who measure
        if gauss:
            yield TileConfig(shape, warps, 3, 8, split, dots=3)
