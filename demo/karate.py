"""Zachary's karate club: counting and optimising on a graph, as networks whose modes are its vertices.

A vertex is a mode; an edge is a tensor that has the modes of its two ends. The mode of a vertex of degree
five is shared by five tensors: a hyperedge. No vertex needs a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

import contractc
from demo.report import Arguments, Report

Edges = Sequence[tuple[int, int]]


def independent_sets(edges: Edges) -> Arguments:
    """Return the network whose value is the number of sets of vertices without an edge inside.

    A mode says whether its vertex is chosen. All entries of all intermediates count assignments to at most
    n vertices, so they are at most 2**n: int64 cannot overflow for up to 62 vertices.
    """
    not_both = np.array([[1, 1], [1, 0]])
    arguments: Arguments = []
    for u, v in edges:
        arguments += [not_both, (u, v)]
    return [*arguments, ()]


def colourings(edges: Edges, colours: int) -> Arguments:
    """Return the network whose value is the number of colourings with different colours along every edge.

    An entry of an intermediate can be as large as colours**n; 5**34 does not fit into int64, so the entries
    are Python integers (dtype object), which have no largest value.
    """
    different = np.array([[int(a != b) for b in range(colours)] for a in range(colours)], dtype=object)
    arguments: Arguments = []
    for u, v in edges:
        arguments += [different, (u, v)]
    return [*arguments, ()]


def cut(edges: Edges) -> Arguments:
    """Return the network whose value in the semiring max_plus is the most edges between two sides."""
    counts_if_cut = np.array([[0, 1], [1, 0]])
    arguments: Arguments = []
    for u, v in edges:
        arguments += [counts_if_cut, (u, v)]
    return [*arguments, ()]


def count_independent_sets(edges: Edges) -> int:
    """Return the number of independent sets, by branching on a vertex of highest degree.

    Sets without the vertex are those of the graph without it; sets with it are those of the graph without it
    and its neighbours. Separate components multiply.
    """
    neighbours = _neighbours(edges)

    def count(alive: frozenset[int]) -> int:
        if not alive:
            return 1
        first = _component(alive, neighbours)
        if first != alive:
            return count(first) * count(alive - first)
        vertex = max(sorted(alive), key=lambda v: len(neighbours[v] & alive))
        return count(alive - {vertex}) + count(alive - {vertex} - neighbours[vertex])

    return count(frozenset(neighbours))


def count_colourings(edges: Edges, colours: int) -> int:
    """Return the number of proper colourings, by colouring vertex after vertex.

    Only the coloured vertices that still have an uncoloured neighbour matter (the frontier), and of those
    only which have equal colours: a state is a partition of the frontier, however many colours there are.
    """
    neighbours = _neighbours(edges)
    todo = set(neighbours)
    states: dict[frozenset[frozenset[int]], int] = {frozenset(): 1}
    for vertex in _sweep(edges):
        todo.discard(vertex)
        following: dict[frozenset[frozenset[int]], int] = {}
        for parts, ways in states.items():
            joined = [(parts - {part}) | {part | {vertex}} for part in parts if not part & neighbours[vertex]]
            choices = [(found, ways) for found in joined]
            choices.append((parts | {frozenset({vertex})}, ways * max(0, colours - len(parts))))
            for found, number in choices:
                alive = (frozenset(v for v in part if neighbours[v] & todo) for part in found)
                key = frozenset(part for part in alive if part)
                following[key] = following.get(key, 0) + number
        states = following
    return sum(states.values())


def maximum_cut(edges: Edges) -> int:
    """Return the most edges between two sides, by placing vertex after vertex.

    For every way in which the frontier can be placed only the best cut so far matters.
    """
    neighbours = _neighbours(edges)
    todo = set(neighbours)
    best: dict[frozenset[tuple[int, bool]], int] = {frozenset(): 0}
    for vertex in _sweep(edges):
        todo.discard(vertex)
        following: dict[frozenset[tuple[int, bool]], int] = {}
        for placed, value in best.items():
            for side in (False, True):
                gained = sum(other != side for v, other in placed if v in neighbours[vertex])
                key = frozenset((v, s) for v, s in placed | {(vertex, side)} if neighbours[v] & todo)
                following[key] = max(following.get(key, 0), value + gained)
        best = following
    return max(best.values())


def _neighbours(edges: Edges) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for u, v in edges:
        found.setdefault(u, set()).add(v)
        found.setdefault(v, set()).add(u)
    return found


def _component(alive: frozenset[int], neighbours: dict[int, set[int]]) -> frozenset[int]:
    """Return the vertices of `alive` that hang together with the first of them."""
    seen: set[int] = set()
    todo = [min(alive)]
    while todo:
        vertex = todo.pop()
        if vertex not in seen:
            seen.add(vertex)
            todo += neighbours[vertex] & alive
    return frozenset(seen)


def _sweep(edges: Edges) -> list[int]:
    """Return the vertices in an order that keeps the frontier small: the next leaves least behind."""
    neighbours = _neighbours(edges)
    done: list[int] = []
    todo = set(neighbours)
    while todo:
        # the frontier if v came next: vertices done with a neighbour still to do
        sizes = {v: sum(bool(neighbours[u] & (todo - {v})) for u in (*done, v)) for v in sorted(todo)}
        vertex = min(sizes, key=sizes.__getitem__)
        todo.discard(vertex)
        done.append(vertex)
    return done


def run(report: Report) -> None:
    """Print the section."""
    import networkx

    graph = networkx.karate_club_graph()
    edges = [(int(u), int(v)) for u, v in graph.edges]
    report.section(
        "karate: counting on Zachary's karate club",
        f"{graph.number_of_nodes()} members are modes, {len(edges)} friendships are tensors of two modes; "
        f"a mode is shared by up to {max(d for _, d in graph.degree)} tensors.",
    )

    report.say("", "Independent sets (int64: no entry is above 2^34)")
    arguments = independent_sets(edges)
    report.plan(contractc.plan(*arguments))
    values = report.race({"contractc": partial(contractc.contract, *arguments)}, arguments)
    truth = count_independent_sets(edges)
    report.check("independent sets", values["contractc"], truth, by="branching")

    for colours in (5, 4):
        report.say("", f"Proper {colours}-colourings (Python integers: {colours}^34 does not fit into int64)")
        arguments = colourings(edges, colours)
        if colours == 5:
            report.plan(contractc.plan(*arguments))
        values = report.race({"contractc": partial(contractc.contract, *arguments)}, arguments)
        by = "colouring vertex by vertex"
        report.check(f"{colours}-colourings", values["contractc"], count_colourings(edges, colours), by=by)
    report.say("  (0 with four colours: five members are all friends with each other)")

    report.say("", "Maximum cut (the same network in max_plus: sums become maxima, products become sums)")
    arguments = cut(edges)
    report.plan(contractc.plan(*arguments, semiring="max_plus"))
    contract = partial(contractc.contract, *arguments, semiring="max_plus")
    values = report.race({"contractc": contract}, "it has sums of products only")
    report.check("maximum cut", values["contractc"], maximum_cut(edges), by="placing vertex by vertex")
