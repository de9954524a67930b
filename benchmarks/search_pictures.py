"""The pictures of docs/search.md, drawn from searches made here: `python benchmarks/search_pictures.py`.

`search_schedules.svg`: how cheap the best tree of each schedule is after so many moves, on a lattice and on an
expander, medians of five seeds. `search_trees.svg`: a greedy tree and an annealed one of a 6 x 6 lattice; an edge is as
wide as its tensor is large. `search_halves.svg`: the bonds of a 12 x 12 lattice that its first three cuts go
through, and how cheap the trees of 100 scouts are on an expander, from hot and from halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path
from statistics import median
from typing import Any

from planner import Case, _of_graph, stored  # type: ignore[import-not-found]

from contractc.search.anneal import HALVES, LOCAL, SCOUTS, SWEPT, Job, _Crew
from contractc.search.anneal_python import bisections
from contractc.search.clock import Clock
from contractc.search.engines import engine
from contractc.search.front import best_sweep
from contractc.search.graph import FLOPS, Graph, Pairs, charge, graph_of, masks
from contractc.search.greedy import greedy_pairs

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
MOVES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
COLORS = {"local moves": "#3b6fb6", "walks": "#c4572e", "local moves from a sweep": "#4b8f4b"}
EDGE = 'stroke="#3b6fb6" stroke-linecap="round" stroke-opacity="0.75"'
WIDTH, HEIGHT, LEFT, TOP = 330, 250, 46, 34


def curves(case: Case) -> dict[str, list[float]]:
    """Return for each schedule log10 of the multiplications after each number of `MOVES`."""
    graph = graph_of(case.network())
    greedy, (swept, _, _) = greedy_pairs(graph), best_sweep(graph, Clock())
    assert swept is not None
    found: dict[str, list[float]] = {}
    for name, schedule, start in (
        ("local moves", LOCAL, greedy),
        ("walks", SCOUTS, greedy),
        ("local moves from a sweep", SWEPT, swept),
    ):
        found[name] = [
            median(_after(graph, Job(schedule, start, moves, moves), seed) for seed in range(5))
            for moves in MOVES
        ]
    return found


def _after(graph: Graph, job: Job, seed: int) -> float:
    (ran,) = _Crew(graph, FLOPS, engine(1e9), seed, 1, Clock()).run([job], [])
    return ran.cost * log10(2.0)


def chart(title: str, lines: dict[str, list[float]], left: int) -> list[str]:
    """Return one chart: logarithmic moves to the right, log10 of the multiplications up."""
    every = [y for ys in lines.values() for y in ys]
    low, high = min(every), max(every)
    pad = 0.08 * (high - low)
    low, high = low - pad, high + pad

    def place(moves: float, y: float) -> tuple[float, float]:
        across = (log10(moves) - log10(MOVES[0])) / (log10(MOVES[-1]) - log10(MOVES[0]))
        return left + LEFT + across * (WIDTH - LEFT - 14), TOP + (high - y) / (high - low) * (
            HEIGHT - TOP - 40
        )

    found = [_text(left + LEFT, 18, title, weight="bold")]
    for moves in MOVES[::2]:
        x, y = place(moves, low)
        found.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        found.append(_text(x, y + 15, f"{moves:,}", "middle"))
    for k in range(5):
        value = low + pad + k * (high - low - 2 * pad) / 4
        _, y = place(MOVES[0], value)
        found.append(_text(left + LEFT - 6, y + 4, f"{value:.1f}", "end"))
    for name, ys in lines.items():
        points = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in (place(m, v) for m, v in zip(MOVES, ys, strict=True))
        )
        found.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>')
    return found


def schedules() -> str:
    """Return the picture of the schedules."""
    names = {"rreg3_n300": "random cubic graph, 300 tensors", "lat3d_6": "lattice, 6 x 6 x 6"}
    body: list[str] = []
    for k, case in enumerate(stored(list(names))):
        body += chart(names[case.name], curves(case), k * WIDTH)
    for k, (name, color) in enumerate(COLORS.items()):
        x = LEFT + k * 150
        body.append(
            f'<line x1="{x}" y1="{HEIGHT + 12}" x2="{x + 22}" y2="{HEIGHT + 12}" stroke="{color}" stroke-width="3"/>'
        )
        body.append(_text(x + 28, HEIGHT + 16, name))
    body.append(_text(LEFT + 480, HEIGHT + 16, "log10 multiplications over moves"))
    return _svg(2 * WIDTH + 30, HEIGHT + 30, body)


def trees() -> str:
    """Return the picture of two trees of one network."""
    import networkx

    graph = graph_of(_of_graph("lattice", networkx.grid_graph([6, 6])).network())
    start = greedy_pairs(graph)
    (ran,) = _Crew(graph, FLOPS, engine(1e9), 0, 1, Clock()).run([Job(LOCAL, start, 400_000, 400_000)], [])
    body: list[str] = []
    for k, (name, path) in enumerate((("greedy", start), ("annealed", ran.tree))):
        title = f"{name}: 10^{charge(graph, path) * log10(2.0):.2f} multiplications"
        body += _tree(graph, path, k * WIDTH, title)
    return _svg(2 * WIDTH, HEIGHT + 10, body)


def halves() -> str:
    """Return the picture of cuts and of scouts."""
    import networkx

    side, levels = 12, 3
    lattice = networkx.grid_graph([side, side])
    graph = graph_of(_of_graph("lattice", lattice).network())
    halve = bisections(graph)
    path = min(map(halve, range(8)), key=lambda tree: charge(graph, tree))
    count, places, step = len(graph.leaves), list(lattice.nodes), (HEIGHT - TOP - 14) / (side - 1)
    level = dict.fromkeys(range(count), 0)  # which of the eight parts a tensor is in
    parts = [count + len(path) - 1]
    for _ in range(levels):
        parts = [child for i in parts for child in path[i - count]]
    for k, part in enumerate(parts):
        todo = [part]
        while todo:
            i = todo.pop()
            if i < count:
                level[i] = k
            else:
                todo += path[i - count]
    body = [_text(14, 18, "lattice, 12 x 12: three rounds of cuts", weight="bold")]
    number = {place: i for i, place in enumerate(places)}
    for a, b in lattice.edges:
        (x1, y1), (x2, y2) = ((14 + step * x, TOP + step * y) for x, y in (a, b))
        apart = (level[number[a]] ^ level[number[b]]).bit_length()
        stroke = ("#ccc", "#4b8f4b", "#3b6fb6", "#c4572e")[apart]
        body.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
            f'stroke-width="{1 + 1.2 * apart:.1f}"/>'
        )
    body += [
        f'<circle cx="{14 + step * x:.1f}" cy="{TOP + step * y:.1f}" r="2.5" fill="#222"/>' for x, y in places
    ]
    body += _scouts(WIDTH)
    return _svg(2 * WIDTH, HEIGHT + 10, body)


def _scouts(left: int, number: int = 100) -> list[str]:
    """Return how cheap the trees of scouts are, the cheapest first, from hot and from halves."""
    (case,) = stored(["rreg3_n1000"])
    graph = graph_of(case.network())
    start, fast = greedy_pairs(graph), engine(1e9)
    length = 400 * len(graph.leaves)
    found = {}
    for name, schedule, color in (("from hot", SCOUTS, "#c4572e"), ("from halves", HALVES, "#3b6fb6")):
        crew = _Crew(graph, FLOPS, fast, 0, 1, Clock(), halve=fast.bisections(graph))
        runs = crew.run([Job(schedule, start, length, length)] * number, [])
        found[name] = (sorted(run.cost * log10(2.0) for run in runs), color)
    every = [y for ys, _ in found.values() for y in ys]
    low, high = min(every) - 0.3, max(every) + 0.3
    body = [_text(left + LEFT, 18, "scouts, random cubic graph, 1,000 tensors", weight="bold")]
    for k in range(5):
        value = low + k * (high - low) / 4
        y = TOP + (high - value) / (high - low) * (HEIGHT - TOP - 40)
        body.append(_text(left + LEFT - 6, y + 4, f"{value:.1f}", "end"))
    for at, (name, (ys, color)) in enumerate(found.items()):
        for k, value in enumerate(ys):
            x = left + LEFT + 6 + k * (WIDTH - LEFT - 24) / number
            y = TOP + (high - value) / (high - low) * (HEIGHT - TOP - 40)
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"/>')
        body.append(f'<circle cx="{left + LEFT + 6 + 100 * at}" cy="{HEIGHT - 22}" r="3.5" fill="{color}"/>')
        body.append(_text(left + LEFT + 14 + 100 * at, HEIGHT - 18, name))
    body.append(_text(left + LEFT, HEIGHT, "log10 multiplications of 100 trees each, cheapest first"))
    return body


def _tree(graph: Graph, path: Pairs, left: int, title: str) -> list[str]:
    """Return a tree with its leaves at the bottom; its nodes are as high as the tree below them is deep."""
    count, nodes = len(graph.leaves), masks(graph, path)
    order: list[int] = []
    todo = [count + len(path) - 1]
    while todo:
        i = todo.pop()
        if i < count:
            order.append(i)
        else:
            todo += path[i - count][::-1]
    x = {leaf: (k + 0.5) / count for k, leaf in enumerate(order)}
    depth = dict.fromkeys(range(count), 0)
    for s, (a, b) in enumerate(path):
        x[count + s] = (x[a] + x[b]) / 2
        depth[count + s] = 1 + max(depth[a], depth[b])
    tallest = max(depth.values())

    def place(i: int) -> tuple[float, float]:
        return left + 14 + x[i] * (WIDTH - 28), HEIGHT - 6 - depth[i] / tallest * (HEIGHT - TOP - 10)

    found = [_text(left + 14, 18, title, weight="bold")]
    for s, pair in enumerate(path):
        for child in pair:
            (x1, y1), (x2, y2) = place(child), place(count + s)
            width = 0.5 + 0.55 * nodes[child].bit_count()
            found.append(
                f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke-width="{width:.1f}" {EDGE}/>'
            )
    return found


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="11" font-weight="{weight}" fill="#222">{text}</text>'


def _svg(width: int, height: int, body: Sequence[Any]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *body, "</svg>", ""])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "search_trees.svg").write_text(trees())
    (FOLDER / "search_halves.svg").write_text(halves())
    (FOLDER / "search_schedules.svg").write_text(schedules())


if __name__ == "__main__":
    main()
