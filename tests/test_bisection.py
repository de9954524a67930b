"""Bisections: trees of halves that share few modes, the same in both engines."""

from __future__ import annotations

from itertools import combinations
from math import inf

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contractc.cost import costs
from contractc.options import Search
from contractc.plans import Plan
from contractc.search import anneal_python, search
from contractc.search.anneal import HALVES, Job, Shares, _Crew, annealed
from contractc.search.anneal_python import bisections
from contractc.search.ask import Ask
from contractc.search.bisection import Cut, bisect, bisected, grow, improve, net_of
from contractc.search.clock import Clock
from contractc.search.graph import FLOPS, Graph, graph_of, masks
from contractc.search.greedy import greedy_pairs
from test_anneal import NETWORKS, hyper, needs_numba, regular
from test_search import of_terms


def graph_from(graph: networkx.Graph) -> Graph:
    """Return a graph with a tensor a node and a mode of extent 2 an edge."""
    leaves = [0] * len(graph)
    for m, (a, b) in enumerate(sorted(graph.edges)):
        leaves[a] |= 1 << m
        leaves[b] |= 1 << m
    return Graph(tuple(leaves), 0, (2,) * graph.number_of_edges())


@settings(max_examples=40)
@given(st.integers(2, 14), st.integers(0, 10**6))
def test_bisections_are_trees_and_the_same_every_time(count: int, seed: int) -> None:
    network = hyper(count, seed, (2, 3, 7))
    halve = bisections(graph_of(network))
    path = halve(seed)
    assert Plan(network, path, (2 * count - 2,)).faults() == []
    assert halve(seed) == path


@needs_numba
@pytest.mark.parametrize("name", NETWORKS)
def test_both_engines_halve_alike(name: str) -> None:
    from contractc.search import anneal_numba

    graph = graph_of(NETWORKS[name])
    slow, fast = bisections(graph), anneal_numba.bisections(graph)
    trees = [slow(seed) for seed in range(6)]
    assert [fast(seed) for seed in range(6)] == trees
    assert len(set(trees)) > 1


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_gains_and_cuts_stay_right_while_a_half_is_improved(seed: int) -> None:
    """A part of all tensors: the cut as counted, no dearer than before, halves about equal, every pass ends."""
    graph = graph_of(hyper(16, seed, (2, 5)))
    net = net_of(graph)
    count, modes = len(graph.leaves), len(net.weights)
    heads = 2 * (2 * net.heaviest + 1)
    cut = Cut(*[[0] * n for n in (*[count] * 8, 2 * modes, heads, count, count, count, count)])
    cut.order[:] = range(count)
    inner = range(2, count)  # two tensors are in another part
    cut.part[0] = cut.part[1] = 1

    def weighed() -> tuple[int, list[int]]:
        weight, inside = 0, [0] * (2 * modes)
        for m in range(modes):
            for p in range(net.pin_at[m], net.pin_at[m + 1]):
                v = net.pins[p]
                if v in inner:
                    inside[2 * m + cut.side[v]] += 1
            weight += net.weights[m] * (inside[2 * m] > 0 and inside[2 * m + 1] > 0)
        return weight, inside

    grow(net, cut, 2, count, 0, 2 + seed % (count - 2))
    before, inside = weighed()
    assert cut.inside == inside and sum(cut.side[v] == 0 for v in inner) == 7
    for _ in range(20):
        better = improve(net, cut, 2, count, 0)
        after, inside = weighed()
        assert cut.inside == inside
        assert after < before or (after == before and not better)
        assert 6 <= sum(cut.side[v] == 0 for v in inner) <= 8
        if not better:
            break
        before = after
    else:
        raise AssertionError("passes never ended")


def test_two_clusters_are_cut_at_their_bridge() -> None:
    graph = networkx.disjoint_union(networkx.complete_graph(6), networkx.complete_graph(6))
    graph.add_edge(2, 9)
    found = graph_from(graph)
    sets = masks(found, bisected(net_of(found), 5))
    root = bisected(net_of(found), 5)[-1]
    assert {sets[i].bit_count() for i in root} == {1}


def test_small_cuts_are_the_best_there_are() -> None:
    """The best of a few bisections of a small graph has the least cut in halves that there is, at the root."""
    graph = networkx.random_regular_graph(3, 12, seed=4)
    found = graph_from(graph)
    least = min(networkx.cut_size(graph, half) for size in (5, 6) for half in combinations(range(12), size))
    halve = bisections(found)
    roots = [masks(found, path)[path[-1][0]].bit_count() for path in map(halve, range(6))]
    assert min(roots) == least


def test_some_cuts_of_a_lattice_go_straight_across() -> None:
    side = 8
    graph = networkx.convert_node_labels_to_integers(networkx.grid_graph([side, side]), ordering="sorted")
    found = graph_from(graph)
    paths = map(bisections(found), range(8))
    assert min(masks(found, path)[path[-1][0]].bit_count() for path in paths) == side


@pytest.mark.parametrize("name", NETWORKS)
def test_bisect_is_a_search_of_its_own(name: str) -> None:
    network = NETWORKS[name]
    plan = search(network, Search("bisect", seed=2))
    assert plan.faults() == [] and plan.search == "the best of 8 bisections and greedy"
    assert search(network, Search("bisect", seed=2)) == plan
    greedy = search(network, "greedy")
    assert plan.flops <= greedy.flops * 1.01
    late = bisect(network, Ask(Search("bisect"), Clock(0.0)))
    assert late.search == "greedy, no time for a bisection"


def test_bisect_says_that_few_tensors_are_ordered_exactly() -> None:
    network = of_terms([(0, 1), (1, 2), (2, 3), (3, 0)], (), 4)
    found = bisect(network)
    assert found.search == "optimal, too few tensors to bisect"
    assert costs(network, found.path, (6,)).flops == search(network, "optimal").flops


def test_scouts_from_halves_take_part_and_repeat() -> None:
    graph = graph_of(regular(3, 120, 2))
    path = greedy_pairs(graph)
    crew = _Crew(graph, FLOPS, anneal_python, 3, 1, Clock(), halve=bisections(graph))
    runs = crew.run([Job(HALVES, path, 2_000, 2_000)] * 2, [])
    assert [run.made for run in runs] == [2_000, 2_000] and runs[0].tree != runs[1].tree
    found = annealed(graph, [path], 900_000, Clock(), 1)
    assert found == annealed(graph, [path], Shares(*found.moves), Clock(), 1)


def test_no_bisection_is_begun_that_would_be_late() -> None:
    graph = graph_of(regular(3, 120, 2))
    path = greedy_pairs(graph)
    crew = _Crew(graph, FLOPS, anneal_python, 3, 1, Clock(0.0), halve=bisections(graph), work=1e9, pace=1e6)
    (run,) = crew.run([Job(HALVES, path, 2_000, 2_000)], [])
    assert run.made == 0 and run.tree == path and run.cost == inf
