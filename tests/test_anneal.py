"""Annealing: both engines make the same moves, sums stay right, seeds and moves repeat, limits hold."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from math import inf, isclose
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc.cost import costs, priced
from contractc.errors import ResourceLimitError
from contractc.network import Tensor, TensorNetwork, bind
from contractc.notation import parse
from contractc.operands import Operand
from contractc.options import Search
from contractc.plans import Path, Plan
from contractc.search import anneal_python, search
from contractc.search.anneal import SCHEDULES, Shares, annealed
from contractc.search.auto import measured
from contractc.search.clock import Clock, Progress
from contractc.search.exact import full, pruned
from contractc.search.front import best_sweep, sweep
from contractc.search.graph import (
    FLOPS,
    Graph,
    Objective,
    Pairs,
    bits,
    charge,
    frugal,
    graph_of,
    log2_sum,
    masks,
    weigher,
)
from contractc.search.greedy import greedy, greedy_pairs
from contractc.search.joint import sliced_jointly
from contractc.search.reconfigure import reconfigured
from contractc.search.reduce import reduced, whole_path
from contractc.search.slice import sliced_to_fit
from messages import message_of

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")

OBJECTIVES = [FLOPS, Objective(1.0, 64.0, 64.0), Objective(0.0, 0.0, 1.0), Objective(0.0, 0.0, 1.0, 4.0)]


def regular(degree: int, count: int, seed: int, extents: tuple[int, ...] = (2,)) -> TensorNetwork:
    """Return a random regular graph with a mode an edge, of the given extents in turn; one edge in 20 is open."""
    graph = networkx.random_regular_graph(degree, count, seed=seed)
    terms: list[list[int]] = [[] for _ in range(count)]
    for m, (a, b) in enumerate(sorted(graph.edges)):
        terms[a].append(m)
        terms[b].append(m)
    modes = graph.number_of_edges()
    sizes = tuple(extents[m % len(extents)] for m in range(modes))
    return TensorNetwork(
        tuple(Tensor(tuple(term), "float64") for term in terms),
        (tuple(range(0, modes, 20)),),
        sizes,
        "float64",
    )


def hyper(count: int, seed: int, extents: tuple[int, ...] = (2,)) -> TensorNetwork:
    """Return a connected network of hyperedges: each tensor has two to four of `count` modes."""
    random = np.random.RandomState(seed)
    terms = [
        {k, (k + 1) % count, *random.randint(0, count, random.randint(0, 3)).tolist()} for k in range(count)
    ]
    sizes = tuple(extents[m % len(extents)] for m in range(count))
    tensors = tuple(Tensor(tuple(sorted(term)), "float64") for term in terms)
    return TensorNetwork(tensors, ((0, 1),), sizes, "float64")


def chain(count: int) -> TensorNetwork:
    tensors = tuple(Tensor((k, k + 1), "float64") for k in range(count))
    return TensorNetwork(tensors, ((0, count),), (2,) * (count + 1), "float64")


def start(network: TensorNetwork) -> Pairs:
    """Return the greedy path, which is one of pairs."""
    return tuple((a, b) for a, b in greedy(network)[0])


NETWORKS = {
    "one word": regular(3, 30, 1),
    "three words": regular(3, 120, 2),
    "several extents": regular(3, 60, 3, (2, 3, 64)),
    "hyperedges": hyper(40, 4, (2, 5)),
}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_sums_stay_what_the_tree_is_charged(name: str, objective: Objective) -> None:
    network = NETWORKS[name]
    graph = graph_of(network)
    tree = anneal_python.Tree(graph, start(network), objective)
    draws = np.random.RandomState(5).random_sample((300, 2))
    for beta in (0.5, 5.0, 50.0):
        tree.begin()
        tree.local(draws, beta)
        assert isclose(tree.cost(), charge(graph, tree.path(), objective), abs_tol=1e-9)
        tree.begin()
        tree.walk(draws, beta)
        assert isclose(tree.cost(), charge(graph, tree.path(), objective), abs_tol=1e-9)
        assert isclose(tree.offset + np.log2(tree.total), tree.cost(), abs_tol=1e-6)


@needs_numba
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_both_engines_make_the_same_moves(name: str, objective: Objective) -> None:
    from contractc.search import anneal_numba

    network = NETWORKS[name]
    graph, path = graph_of(network), start(network)
    trees: list[Any] = [engine.Tree(graph, path, objective) for engine in (anneal_python, anneal_numba)]
    for beta, seed in ((0.0, 1), (3.0, 2), (20.0, 3)):
        draws = np.random.RandomState(seed).random_sample((400, 2))
        for tree in trees:
            tree.begin()
            tree.local(draws, beta)
            tree.walk(draws, beta)
        assert trees[0].get() == trees[1].get()
        assert isclose(trees[0].cost(), trees[1].cost(), abs_tol=1e-9)


@needs_numba
@pytest.mark.parametrize("name", NETWORKS)
def test_both_engines_find_the_same_tree(name: str) -> None:
    from contractc.search import anneal_numba

    network = NETWORKS[name]
    graph, path = graph_of(network), start(network)
    slow = annealed(graph, [path], 40_000, Clock(), 3, engine=anneal_python)
    fast = annealed(graph, [path], 40_000, Clock(), 3, engine=anneal_numba)
    assert (fast.path, fast.schedule, fast.moves) == (slow.path, slow.schedule, slow.moves)


@pytest.mark.parametrize("name", NETWORKS)
def test_annealing_improves_on_where_it_starts_and_reports_its_cost(name: str) -> None:
    network = NETWORKS[name]
    graph, path = graph_of(network), start(network)
    found = annealed(graph, [path], 5_000, Clock())
    assert found.cost <= charge(graph, path) + 1e-9
    assert isclose(found.cost, charge(graph, found.path), abs_tol=1e-9)
    assert Plan(network, found.path, (2 * len(network.tensors) - 2,)).faults() == []
    assert annealed(graph, [path], 5_000, Clock()) == found
    assert annealed(graph, [path], 5_000, Clock(), seed=1).path != found.path


@needs_numba
def test_any_number_of_threads_finds_the_same_tree() -> None:
    from contractc.search import anneal_numba

    graph, path = graph_of(NETWORKS["one word"]), start(NETWORKS["one word"])
    alone = annealed(graph, [path], 2_000_000, Clock(), 3, engine=anneal_numba)
    together = annealed(graph, [path], 2_000_000, Clock(), 3, engine=anneal_numba, threads=3)
    assert Shares(*alone.moves).other > 1 and alone == together


def test_a_search_on_two_threads_repeats_on_one() -> None:
    network = NETWORKS["three words"]
    plan = search(network, Search("anneal", moves=100_000, threads=2))
    assert plan.moves and search(network, Search("anneal", moves=plan.moves)).path == plan.path


def test_pilots_that_were_stopped_repeat() -> None:
    graph, path = graph_of(NETWORKS["three words"]), start(NETWORKS["three words"])
    moves = Shares(pilot=20_000, scouting=80_000, made=25_000)
    found = annealed(graph, [path], moves, Clock())
    assert found.moves == moves and annealed(graph, [path], moves, Clock()) == found
    assert found.cost < charge(graph, path)


def test_walks_and_sweeps_take_part() -> None:
    graph = graph_of(NETWORKS["three words"])
    swept, _, sweeps = best_sweep(graph, Clock())
    assert swept is not None and sweeps == 8
    starts = [start(NETWORKS["three words"]), swept]
    found = annealed(graph, starts, 40_000, Clock())
    assert found.schedule in {s.name for s in SCHEDULES}
    shares = Shares(*found.moves)
    assert shares.pilot == 2000 and shares.rest == shares.made
    assert 2 * 2000 + shares.scouting + shares.made == 40_000
    assert annealed(graph, starts, found.moves, Clock()).path == found.path
    assert found.cost < charge(graph, starts[0]) - 2


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_sweeps_are_trees_and_the_same_every_time(seed: int) -> None:
    network = hyper(12, seed)
    graph = graph_of(network)
    path = sweep(graph, seed % 12, Clock())
    assert path is not None
    assert Plan(network, path, (22,)).faults() == []
    assert sweep(graph, seed % 12, Clock()) == path


def test_a_sweep_of_a_ladder_keeps_a_narrow_front() -> None:
    graph = networkx.ladder_graph(40)
    number = {edge: m for m, edge in enumerate(sorted(graph.edges))}
    terms = [tuple(m for edge, m in number.items() if node in edge) for node in sorted(graph.nodes)]
    network = TensorNetwork(tuple(Tensor(t, "float64") for t in terms), ((),), (2,) * len(number), "float64")
    path = sweep(graph_of(network), 0, Clock())
    assert path is not None
    assert max(len(term) for term in Plan(network, path, (2 * 80 - 2,)).terms()[80:]) == 3


def test_log2_sum_does_not_overflow() -> None:
    assert log2_sum([5000.0, 5000.0]) == 5001.0
    assert log2_sum([]) == -inf


def test_charges_beyond_all_floats_are_annealed() -> None:
    network = regular(4, 40, 1, (2**60,))
    graph, path = graph_of(network), start(network)
    found = annealed(graph, [path], 40_000, Clock())
    assert charge(graph, path) > 1024
    assert found.cost < charge(graph, path)


def test_the_graph_leaves_out_what_does_not_matter() -> None:
    tensors = (Tensor((0, 1, 1, 2), "float64"), Tensor((1, 3), "float64"), Tensor((4,), "float64"))
    graph = graph_of(TensorNetwork(tensors, ((3,),), (7, 5, 1, 3, 0), "float64"))
    assert graph == Graph((0b10, 0b11, 0), 0b01, (3, 5))
    assert weigher(graph.extents)(0b11) == np.log2(3) + np.log2(5)


# limits, seeds, interruptions


def test_a_plan_that_had_a_time_limit_is_found_again_by_its_moves() -> None:
    network = NETWORKS["three words"]
    plans = (search(network, Search("anneal", time_limit=seconds, seed=5)) for seconds in (0.3, 3.0, 30.0))
    plan = next(plan for plan in plans if plan.moves)  # a busy machine may cut the first one short
    again = search(network, Search("anneal", moves=plan.moves, seed=5))
    assert len(plan.moves) == 9
    assert (again.path, again.moves) == (plan.path, plan.moves)


def test_without_time_the_plan_says_so() -> None:
    network = NETWORKS["three words"]
    for method in ("auto", "anneal"):
        plan = search(network, Search(method, time_limit=0.0))
        assert plan.faults() == [] and plan.search == "greedy, no time for more"
    plan = search(chain(1500), Search(time_limit=0.0))
    assert plan.faults() == [] and plan.search == "greedy, then any neighbours, cut short"


def test_an_interruption_gives_the_best_so_far() -> None:
    network = NETWORKS["three words"]
    calls: list[Progress] = []

    def interrupt(state: Progress) -> None:
        calls.append(state)
        raise KeyboardInterrupt

    plan = search(network, Search("anneal", moves=10**9, progress=interrupt))
    assert plan.faults() == []
    assert len(calls) == 1
    assert plan.search.endswith("cut short") and plan.moves == ()


def test_progress_is_reported() -> None:
    calls: list[Progress] = []
    search(NETWORKS["one word"], Search("anneal", time_limit=0.3, progress=calls.append))
    assert calls
    assert all(0 <= s.share <= 1 and s.log10_flops > 0 for s in calls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimize": "time"}, "minimize='time' is none of seconds, flops, size, write"),
        ({"threads": 0}, "threads=0 is no number of threads"),
        ({"time_limit": -1}, "time_limit=-1 is no number of seconds"),
        ({"time_limit": float("nan")}, "time_limit=nan is no number of seconds"),
        ({"moves": -1}, "moves=-1 is no number of moves and no plan's moves"),
        ({"moves": (1,)}, "moves=(1,) is no number of moves and no plan's moves"),
    ],
)
def test_search_options_are_checked(options: dict[str, Any], message: str) -> None:
    assert message_of(ValueError, Search, **options) == message


def test_search_options_reach_every_call() -> None:
    network = regular(3, 16, 4)
    terms = ["".join(chr(97 + m) for m in t.modes) for t in network.tensors]
    text = ",".join(terms) + "->" + "".join(chr(97 + m) for m in network.outputs[0])
    shapes = [network.shape(t.modes) for t in network.tensors]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    options = Search("anneal", moves=500, seed=2)
    plan = contractc.plan(text, *shapes, optimize=options)
    assert plan.search.startswith("annealing by local moves, 500 moves in ")
    compiled = contractc.compile(text, *shapes, optimize=options)
    assert replace(compiled.plan, peak=plan.peak) == plan  # its peak is that of the program
    result = contractc.contract(text, *arrays, optimize=options)
    np.testing.assert_allclose(result, contractc.contract(text, *arrays, optimize="greedy"), rtol=1e-9)
    assert search(plan.network, options).path == plan.path


@pytest.mark.parametrize("minimize", ["seconds", "flops", "size", "write"])
@pytest.mark.parametrize("name", ["one word", "several extents"])
def test_each_objective_is_served_at_least_as_well_by_its_own_search(name: str, minimize: str) -> None:
    network = NETWORKS[name]
    own = search(network, Search("anneal", moves=40_000, minimize=minimize))
    flops = search(network, Search("anneal", moves=40_000, minimize="flops"))
    assert measured(network, own.path, minimize) <= 1.02 * measured(network, flops.path, minimize)


def test_a_small_network_is_ordered_by_what_is_minimised() -> None:
    network = bind(
        parse("ij,jk,kl->il"), [Operand(s, "float64") for s in ((2, 999), (999, 999), (999, 3))], "float64"
    )
    for minimize in ("seconds", "flops", "size", "write"):
        plan = search(network, Search(minimize=minimize))
        best = min(
            measured(network, path, minimize)
            for path in (((0, 1), (2, 3)), ((1, 2), (0, 3)), ((0, 2), (1, 3)))
        )
        assert measured(network, plan.path, minimize) == best


# simplification, and the exact search of nine tensors and more


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left_after_simplifying_gives_a_whole_path(name: str) -> None:
    network = NETWORKS[name]
    reduction = reduced(graph_of(network))
    path = whole_path(reduction, [greedy_pairs(part.graph) for part in reduction.parts])
    assert Plan(network, path, (2 * len(network.tensors) - 2,)).faults() == []


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 14))
def test_simplified_random_networks_have_whole_paths(seed: int, count: int) -> None:
    random = np.random.RandomState(seed)
    terms = [tuple(set(random.randint(0, count + 2, random.randint(0, 4)).tolist())) for _ in range(count)]
    used = sorted({m for term in terms for m in term})
    output = tuple(m for m in used if random.randint(4) == 0)
    sizes = tuple(random.randint(0, 4, count + 2).tolist())
    network = TensorNetwork(tuple(Tensor(t, "float64") for t in terms), (output,), sizes, "float64")
    reduction = reduced(graph_of(network))
    trees = [full(part.graph.leaves, part.graph.wanted, part.graph.extents) for part in reduction.parts]
    path = whole_path(reduction, trees)
    assert Plan(network, path, (2 * count - 2,)).faults() == []


def test_simplifying_leaves_nothing_of_chains_and_tells_parts_apart() -> None:
    pairs = [(k, k + 1) for k in range(5)] + [(k, k + 1) for k in range(10, 14)]
    tensors = tuple(Tensor(t, "float64") for t in pairs)
    network = TensorNetwork(tensors, ((0, 5, 10, 14),), (2,) * 15, "float64")
    reduction = reduced(graph_of(network))
    assert [len(part.ids) for part in reduction.parts] == [1, 1]
    assert len(reduction.steps) == 7


def test_parallel_bonds_become_one() -> None:
    terms = ((0, 1, 2), (0, 1, 3), (2, 3, 4), (4,))
    tensors = tuple(Tensor(t, "float64") for t in terms)
    reduction = reduced(graph_of(TensorNetwork(tensors, ((4,),), (8, 8, 2, 2, 8), "float64")))
    extents = [part.graph.extents for part in reduction.parts]
    assert all(len(set(own)) <= 3 for own in extents)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_pruned_search_finds_the_optimum(seed: int) -> None:
    graph = graph_of(hyper(7, seed, (2, 3, 7)))
    path = pruned(graph.leaves, graph.wanted, graph.extents, greedy_pairs(graph), 10**6)
    best = full(graph.leaves, graph.wanted, graph.extents)
    assert path is not None
    assert isclose(charge(graph, path, PRICE), charge(graph, best, PRICE), abs_tol=1e-12)


def test_pruned_search_gives_up_when_it_would_take_too_long() -> None:
    graph = graph_of(NETWORKS["one word"])
    assert pruned(graph.leaves, graph.wanted, graph.extents, start(NETWORKS["one word"]), 1000) is None
    assert search(NETWORKS["one word"], "optimal").search == "greedy (optimal is for at most 16 tensors)"


PRICE = Objective(1.0, 0.0, 1.0)
"""What the exact search minimises: multiplications, and the elements of all results."""


# order and slices together


def peak_of(plan: Plan) -> int:
    return costs(plan.network, plan.path, plan.results, plan.sliced).peak


@pytest.mark.parametrize("objective", OBJECTIVES[:2], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_reconfigured_trees_are_cheaper_and_stay_so(name: str, objective: Objective) -> None:
    graph, path = graph_of(NETWORKS[name]), start(NETWORKS[name])
    first, tried = reconfigured(graph, path, 1, Clock(), objective)
    found, more = reconfigured(graph, path, 1000, Clock(), objective)
    assert sorted(i for step in found for i in step) == list(range(2 * len(path)))
    assert (
        charge(graph, found, objective) <= charge(graph, first, objective) <= charge(graph, path, objective)
    )
    assert charge(graph, found, objective) < charge(graph, path, objective)
    assert tried == 1 < more < 1000
    assert reconfigured(graph, path, 1000, Clock(deadline=0.0), objective) == (path, 0)


@settings(max_examples=30)
@given(st.integers(3, 14), st.integers(0, 10_000))
def test_reconfigured_trees_are_never_dearer_and_are_left_alone_afterwards(count: int, seed: int) -> None:
    graph = graph_of(hyper(count, seed, (2, 3, 5)))
    path: Pairs = ((0, 1), *((k, count + k - 2) for k in range(2, count)))
    found, _ = reconfigured(graph, path, 1000, Clock())
    assert charge(graph, found) <= charge(graph, path)
    assert reconfigured(graph, found, 1000, Clock())[0] == found


@pytest.mark.parametrize("name", NETWORKS)
def test_joint_slices_keep_the_limit_of_elements(name: str) -> None:
    network = NETWORKS[name]
    graph, path = graph_of(network), start(network)
    widest = max(weigher(graph.extents)(mask) for mask in masks(graph, path)[len(graph.leaves) :])
    found = sliced_jointly(graph, [path], widest / 2, Clock(), anneal_python, rounds=3)
    assert found is not None
    weight = weigher(graph.extents)
    inner = masks(graph, found.path)[len(graph.leaves) :]
    assert max(weight(mask & ~found.modes) for mask in inner) <= widest / 2 + 1e-6
    touched = [masks(graph, found.path)[a] | masks(graph, found.path)[b] for a, b in found.path]
    total = log2_sum([weight(mask & ~found.modes) for mask in touched]) + weight(found.modes)
    assert isclose(found.cost, total, abs_tol=1e-9)
    assert sliced_jointly(graph, [path], widest / 2, Clock(), anneal_python, rounds=3) == found
    alone = sliced_jointly(graph, [path], widest / 2, Clock(), anneal_python, rounds=0)
    assert alone is not None and alone.cost >= found.cost


def test_no_slice_is_needless() -> None:
    graph, path = graph_of(NETWORKS["one word"]), start(NETWORKS["one word"])
    found = sliced_jointly(graph, [path], 6.0, Clock(), anneal_python, rounds=3)
    assert found is not None
    for b in bits(found.modes):
        inner = masks(graph, found.path)[len(graph.leaves) :]
        assert max((mask & ~(found.modes ^ 1 << b)).bit_count() for mask in inner) > 6


def test_a_memory_limit_is_kept_at_a_lower_cost_than_by_slices_alone() -> None:
    network = NETWORKS["three words"]
    whole = search(network, Search("anneal", moves=20_000))
    limit = network.bytes_of_inputs() + (whole.peak - network.bytes_of_inputs()) // 200
    plan = search(network, Search("anneal", moves=20_000), limit)
    assert plan.faults() == []
    assert plan.peak == peak_of(plan) <= limit
    assert plan.flops < priced(sliced_to_fit(whole, limit)).flops
    assert "rounds of slicing" in plan.search
    again = search(network, Search("anneal", moves=plan.moves), limit)
    assert (again.path, again.sliced, again.moves) == (plan.path, plan.sliced, plan.moves)


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_four_bits_below_the_width_of_an_expander_costs_at_most_half_as_much_again(seed: int) -> None:
    """With hoisting (`flops`) and without; lattices cost several times as much, see docs/benchmarks.md."""
    network = regular(5, 30, seed)
    whole = search(network, Search("anneal", moves=30_000))
    inputs = network.bytes_of_inputs()
    plan = search(network, Search("anneal", moves=30_000), inputs + (whole.peak - inputs) // 16)
    every = costs(network, plan.path, plan.results, plan.sliced).flops
    assert network.size(plan.sliced) >= 16
    assert plan.flops <= every <= 1.5 * whole.flops


def test_what_fits_is_not_sliced_and_what_cannot_fit_is_refused() -> None:
    network = NETWORKS["one word"]
    whole = search(network, Search("anneal", moves=2_000))
    assert search(network, Search("anneal", moves=2_000), whole.peak) == whole
    with pytest.raises(
        ResourceLimitError, match=r"the contraction needs .* with its operands, memory_limit is"
    ):
        search(network, Search("anneal", moves=2_000), network.bytes_of_inputs() + 30)


def test_a_sliced_network_is_contracted() -> None:
    network = regular(3, 24, 7, (2, 3))
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(network.shape(t.modes)) for t in network.tensors]
    pairs = [part for x, t in zip(arrays, network.tensors, strict=True) for part in (x, list(t.modes))]
    options = Search("anneal", moves=2_000)
    expected = contractc.contract(*pairs, list(network.outputs[0]), optimize=options)
    whole = search(network, options)
    limit = (whole.peak - network.bytes_of_inputs()) // 3 + network.bytes_of_inputs()
    found = search(network, options, limit)
    assert found.sliced
    sliced = contractc.contract(*pairs, list(network.outputs[0]), optimize=options, memory_limit=limit)
    np.testing.assert_allclose(sliced, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def alive(network: TensorNetwork, path: Path) -> int:
    """Return the most elements of results that are alive at once."""
    count = len(network.tensors)
    sizes = [network.size(set(term)) for term in Plan(network, path, (2 * count - 2,)).terms()]
    live = most = 0
    for s, ids in enumerate(path):
        most = max(most, live + sizes[count + s])
        live += sizes[count + s] - sum(sizes[i] for i in ids if i >= count)
    return most


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_the_frugal_order_of_a_tree_keeps_least_alive(seed: int) -> None:
    network = hyper(7, seed, (2, 5))
    graph, path = graph_of(network), start(network)
    found = frugal(graph, path)
    count = len(path) + 1
    assert Plan(network, found, (2 * count - 2,)).faults() == []
    assert alive(network, found) <= alive(network, path)
    assert alive(network, found) == min(alive(network, other) for other in orders(path, count))


def orders(path: Path, count: int) -> list[Path]:
    """Return the tree in every order in which a subtree is finished before another one begins."""

    def build(i: int) -> list[list[int]]:
        if i < count:
            return [[]]
        a, b = path[i - count]
        pairs = [(x, y) for x in build(a) for y in build(b)]
        return [[*first, *second, i] for x, y in pairs for first, second in ((x, y), (y, x))]

    found = []
    for order in build(2 * count - 2):
        ids = list(range(count)) + [0] * count
        for made, i in enumerate(order):
            ids[i] = count + made
        found.append(tuple(tuple(sorted(ids[k] for k in path[i - count])) for i in order))
    return found
