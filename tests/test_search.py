"""Searches: the exact one against all trees there are, the others for valid plans, the same at every call."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opt_einsum import RandomGreedy
from opt_einsum.paths import BranchBound, PathOptimizer

import contractc
from contractc.cost import costs
from contractc.errors import ResourceLimitError
from contractc.network import TensorNetwork, bind
from contractc.notation import Einsum, parse
from contractc.operands import Operand
from contractc.options import Search
from contractc.plans import Path, Plan
from contractc.search import MOST_EXACT, SEARCHES, candidates, left_to_right, search
from contractc.search.ask import Ask
from contractc.search.auto import anneal
from contractc.search.candidates import trees
from contractc.search.exact import full, optimal
from contractc.search.graph import Objective, charge, graph_of, masks, weigher
from contractc.search.greedy import greedy, greedy_pairs
from contractc.search.outputs import join_outputs, single_output
from contractc.search.slice import sliced_to_fit
from messages import message_of

Terms = Sequence[tuple[int, ...]]


def network(text: str, *shapes: tuple[int, ...], dtype: str = "float64") -> TensorNetwork:
    return bind(parse(text), [Operand(shape, dtype) for shape in shapes], dtype)


def of_terms(terms: Terms, out: tuple[int, ...], extents: dict[int, int] | int) -> TensorNetwork:
    """Return a network whose modes are the numbers in `terms`, renumbered."""
    number: dict[int, int] = {}
    inputs = tuple(tuple(number.setdefault(m, len(number)) for m in term) for term in terms)
    outputs = (tuple(number[m] for m in out),)
    sizes = {number[m]: extents if isinstance(extents, int) else extents[m] for m in number}
    operands = [Operand(tuple(sizes[m] for m in term), "float64") for term in inputs]
    return bind(Einsum(inputs, outputs), operands, "float64")


@st.composite
def networks(draw: st.DrawFn, most: int = 6) -> TensorNetwork:
    """Draw a small network: hyperedges, repeated modes, scalars, lone modes, parts without a common mode."""
    count = draw(st.integers(2, most))
    terms = [tuple(draw(st.lists(st.integers(0, 6), max_size=3))) for _ in range(count)]
    present = sorted({m for term in terms for m in term})
    out = tuple(m for m in present if draw(st.integers(0, 3)) == 0)
    return of_terms(terms, out, {m: draw(st.integers(0, 5)) for m in present})


def price(found: TensorNetwork, path: Path) -> int:
    """Return what the exact search minimises: for each step, all positions it touches and its result."""
    alive: dict[int, frozenset[int]] = {k: frozenset(t.modes) for k, t in enumerate(found.tensors)}
    wanted = {m for term in found.outputs for m in term}
    total, made = 0, len(alive)
    for one, two in path:
        touched = alive.pop(one) | alive.pop(two)
        kept = frozenset(m for m in touched if m in wanted or any(m in other for other in alive.values()))
        total += math.prod(found.extents[m] for m in touched) + math.prod(found.extents[m] for m in kept)
        alive[made] = kept
        made += 1
    return total


def all_paths(alive: tuple[int, ...], made: int) -> Any:
    """Yield every pairwise SSA path over the tensors `alive`; each tree comes in all its orders."""
    if len(alive) == 1:
        yield ()
    for one, two in itertools.combinations(alive, 2):
        rest = tuple(i for i in alive if i not in (one, two))
        for path in all_paths((*rest, made), made + 1):
            yield ((one, two), *path)


@settings(max_examples=60)
@given(networks(5))
def test_optimal_is_the_best_of_all_trees(found: TensorNetwork) -> None:
    path, name = optimal(found)
    count = len(found.tensors)
    assert name == "optimal"
    assert price(found, path) == min(price(found, other) for other in all_paths(tuple(range(count)), count))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ab,bc,cd,de,ef,fa->", [(2, 3), (3, 4), (4, 2), (2, 5), (5, 3), (3, 2)]),
        ("sa,sb,sc,sd,se,sf->abcdef", [(3, 2)] * 6),
        ("aab,bcc,c,d,,ad->d", [(2, 2, 3), (3, 4, 4), (4,), (5,), (), (2, 5)]),
        ("a,b,c,d,e,f->", [(2,), (3,), (4,), (5,), (6,), (7,)]),
        ("a,b,ab,ab,c,c->ab", [(2,), (3,), (2, 3), (2, 3), (4,), (4,)]),
    ],
)
def test_optimal_is_the_best_of_all_trees_of_six_tensors(text: str, shapes: list[tuple[int, ...]]) -> None:
    found = network(text, *shapes)
    path, _ = optimal(found)
    assert price(found, path) == min(price(found, other) for other in all_paths(tuple(range(6)), 6))


@settings(max_examples=60)
@given(networks(6))
def test_exact_orders_without_outer_products_are_the_best_of_those(found: TensorNetwork) -> None:
    graph, count = graph_of(found), len(found.tensors)
    assume(count > 2 and all(graph.extents))
    without = []
    for path in all_paths(tuple(range(count)), count):
        nodes = masks(graph, path)
        if all(nodes[a] & nodes[b] for a, b in path):
            without.append(charge(graph, path, Objective(1.0, 0.0, 1.0)))
    best = full(graph.leaves, graph.wanted, graph.extents, outer=False)
    assert bool(best) == bool(without)
    if best:
        assert math.isclose(charge(graph, best, Objective(1.0, 0.0, 1.0)), min(without), abs_tol=1e-9)


@settings(max_examples=60)
@given(networks(6))
def test_greedy_contracts_the_pair_that_shrinks_memory_most(found: TensorNetwork) -> None:
    """Compared with a search that computes every score from the modes themselves."""
    graph = graph_of(found)
    alive, steps = dict(enumerate(graph.leaves)), list(greedy_pairs(graph))
    elements = weigher(graph.extents)
    for k, (a, b) in enumerate(steps):
        rest = graph.wanted
        for i, mask in alive.items():
            rest |= mask * (i not in (a, b))
        scores = {}
        for i, j in itertools.combinations(sorted(alive), 2):
            others = graph.wanted
            for other, mask in alive.items():
                others |= mask * (other not in (i, j))
            if alive[i] & alive[j]:
                made = (alive[i] | alive[j]) & others
                scores[i, j] = 2 ** elements(made) - 2 ** elements(alive[i]) - 2 ** elements(alive[j])
        equal = [pair for pair in scores if alive[pair[0]] == alive[pair[1]]]
        if scores and not equal:
            assert math.isclose(scores[a, b], min(scores.values()), rel_tol=1e-6, abs_tol=1e-6)
        alive[len(graph.leaves) + k] = (alive.pop(a) | alive.pop(b)) & rest


THC = {"i": 300, "j": 300, "s": 50, "t": 50, "a": 50, "b": 50, "P": 2000, "Q": 2000, "R": 2000, "S": 2000}


@pytest.mark.parametrize(
    "text",
    ["iP,sP,PQ,jQ,tQ,ti,sj->", "iP,aP,PQ,jQ,bQ,iR,bR,RS,jS,aS->"],
    ids=["opt_einsum issue 248", "exchange of THC-MP2"],
)
def test_chemistry_is_at_the_optimum_by_default(text: str) -> None:
    terms = text[:-2].split(",")
    found = network(text, *[tuple(THC[m] for m in term) for term in terms])
    graph = graph_of(found)
    best = full(graph.leaves, graph.wanted, graph.extents)
    assert price(found, search(found, Search(minimize="flops")).path) == price(found, best)


def test_optimal_takes_the_outer_product_that_pays() -> None:
    """Two small vectors are multiplied first although they share no mode."""
    found = network("ai,bj,abk->ijk", (2, 1), (2, 1), (2, 2, 1000))
    path, _ = optimal(found)
    assert path[0] == (0, 1)


def test_optimal_beyond_its_size_is_greedy_and_says_so() -> None:
    terms = [(k, k + 1) for k in range(MOST_EXACT + 1)]
    found = of_terms(terms, (0, MOST_EXACT + 1), 2)
    assert optimal(found) == (greedy(found)[0], f"greedy (optimal is for at most {MOST_EXACT} tensors)")


@given(networks())
@pytest.mark.parametrize("name", sorted(SEARCHES.keys() - {"anneal"}))
def test_every_search_finds_a_valid_plan_and_the_same_every_time(name: str, found: TensorNetwork) -> None:
    plan = search(found, name)
    assert plan.faults() == []
    assert len(plan.path) == max(1, len(found.tensors) - 1)
    assert search(TensorNetwork.from_json(found.to_json()), name) == plan


@settings(max_examples=30)
@given(networks())
def test_greedy_and_annealed_paths_cost_at_least_the_optimum(found: TensorNetwork) -> None:
    least = price(found, optimal(found)[0])
    for path in (greedy(found)[0], left_to_right(found)[0], anneal(found, Ask(Search(moves=200))).path):
        assert price(found, path) >= least


def chain(count: int) -> TensorNetwork:
    return of_terms([(k, k + 1) for k in range(count)], (0, count), 2)


def lattice(side: int) -> TensorNetwork:
    """Return a square lattice of bonds of extent 2, open at its border."""
    terms = []
    for x, y in itertools.product(range(side), repeat=2):
        right, left, down, up = (x, y, 0), (x - 1, y, 0), (x, y, 1), (x, y - 1, 1)
        here = [right] * (x + 1 < side) + [left] * (x > 0) + [down] * (y + 1 < side) + [up] * (y > 0)
        terms.append(tuple(100 * (side * a + b) + c for a, b, c in here))
    return of_terms(terms, (), 2)


@pytest.mark.parametrize(
    "found",
    [
        chain(3000),
        of_terms([()] * 20_000, (), 2),
        of_terms([(0,)] * 5000, (), 2),
        of_terms([(0, k) for k in range(1, 5001)], (0,), 2),
        lattice(30),
    ],
    ids=["chain", "scalars", "equal vectors", "star", "lattice"],
)
@pytest.mark.parametrize("optimize", ["greedy", False])
def test_large_networks_are_planned(found: TensorNetwork, optimize: Any) -> None:
    plan = search(found, optimize)
    assert plan.faults() == []
    assert len(plan.path) == len(found.tensors) - 1


def test_greedy_contracts_a_chain_without_large_intermediates() -> None:
    found = search(chain(300), "greedy")
    assert max(len(term) for term in found.terms()) == 2


def test_a_chain_of_three_thousand_matrices_is_contracted() -> None:
    matrix = np.array([[0, 1], [1, 1]], dtype=object)
    pairs = [part for k in range(3000) for part in (matrix, [k, k + 1])]
    result = contractc.contract(*pairs, [0, 3000])
    fibonacci = [0, 1]
    while len(fibonacci) < 3002:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert result[0, 1] == fibonacci[3000]
    assert result[1, 1] == fibonacci[3001]


def test_auto_is_optimal_for_few_tensors_and_greedy_for_many_cheap_ones() -> None:
    assert search(chain(8)).search == "optimal"
    assert search(chain(9)).search == "greedy"
    assert search(chain(1)).search == "nothing to search"
    assert search(chain(2), False).search == "left to right"


@pytest.mark.parametrize("sites", [20, 300])
def test_a_batch_of_trains_is_contracted_core_by_core(sites: int) -> None:
    """An MPS on a batch of product states: per site one matrix product and one product of vectors is the best known."""
    batch, rank, levels = 64, 10, 2
    operands: list[Any] = []
    for k in range(sites):
        bonds = [f"l{n}" for n in (k, k + 1) if 0 < n < sites]
        core = [rank] * len(bonds)
        operands += [
            (batch, levels),
            ["b", f"p{k}"],
            (*core[:1], levels, *core[1:]),
            [*bonds[:1], f"p{k}", *bonds[1:]],
        ]
    plan = contractc.plan(*operands, ["b"], dtype="float32")
    per_site = 2 * (batch * rank * levels * rank + batch * levels * rank)
    assert plan.flops <= sites * per_site


def test_left_to_right_follows_the_order_of_the_operands() -> None:
    assert search(chain(4), False).path == ((0, 1), (4, 2), (5, 3))
    assert search(chain(4), False).linear_path() == [(0, 1), (0, 2), (0, 1)]


# what `optimize` may be


@pytest.mark.parametrize(
    ("optimize", "name"),
    [
        (None, "optimal"),
        (True, "optimal"),
        ("auto", "optimal"),
        (False, "left to right"),
        ("greedy", "greedy"),
        ("opt_einsum:greedy", "opt_einsum's greedy"),
        ("opt_einsum:optimal", "opt_einsum's optimal"),
        ("dp", "opt_einsum's dp"),
        ("branch-2", "opt_einsum's branch-2"),
        ([(0, 1), (0, 1)], "the path given"),
        (((1, 2), (0, 1)), "the path given"),
        (["einsum_path", (0, 1), (0, 1)], "the path given"),
        ([], "the path given"),
        (RandomGreedy(max_repeats=2), "opt_einsum's RandomGreedy"),
        (BranchBound(nbranch=1), "opt_einsum's BranchBound"),
    ],
    ids=str,
)
def test_search_takes_what_optimize_may_be(optimize: Any, name: str) -> None:
    plan = search(network("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), optimize)
    assert plan.search == name
    assert plan.faults() == []


@pytest.mark.parametrize(
    ("optimize", "message"),
    [
        ("fastest", "no search is called 'fastest'"),
        ("x" * 100, f"no search is called '{'x' * 59}"),
        (3, "optimize=3 is no name, path or path optimizer"),
        (3.5, "optimize=3.5 is no name, path or path optimizer"),
        ([(0, 1), (0, 5)], "step 1 of the path contracts (0, 5) of 2 tensors"),
        ([0, 1], "step 0 of the path is 0, not positions of tensors"),
    ],
)
def test_search_refuses_what_optimize_may_not_be(optimize: Any, message: str) -> None:
    found = network("ij,jk,kl->il", (2, 3), (3, 4), (4, 5))
    assert message_of(ValueError, search, found, optimize) == message


def test_a_path_optimizer_gets_opt_einsums_arguments() -> None:
    class Recorder(PathOptimizer):  # type: ignore[misc]
        def __call__(self, inputs: Any, output: Any, sizes: Any, memory_limit: Any = None) -> Any:
            self.seen = (inputs, output, sizes, memory_limit)
            return [(0, 1)]

    recorder = Recorder()
    plan = search(network("iij,jk->ik", (2, 2, 3), (3, 4)), recorder)
    inputs, output, sizes, limit = recorder.seen
    assert [len(term) for term in inputs] == [2, 2]
    assert all(isinstance(term, frozenset) for term in (*inputs, output))
    assert sorted(sizes.values()) == [2, 3, 4]
    assert limit is None
    assert plan.path == ((0, 1),)


def test_search_refuses_a_broken_network() -> None:
    broken = replace(network("i->", (3,)), extents=(-1,))
    assert message_of(ValueError, search, broken) == "not a well-formed TensorNetwork: mode 0 has extent -1"


# several outputs


def test_equal_steps_of_several_outputs_are_shared() -> None:
    found = network("ij,jk,kl->il,li", (3, 4), (4, 5), (5, 6))
    paths: list[Path] = [((0, 1), (2, 3)), ((0, 1), (2, 3))]
    assert join_outputs(found, paths) == (((0, 1), (2, 3), (2, 3)), (4, 5))


def test_steps_that_keep_other_modes_are_not_shared() -> None:
    found = network("ij,jk,kl->il,", (3, 4), (4, 5), (5, 6))
    paths: list[Path] = [((0, 1), (2, 3)), ((0, 1), (2, 3))]
    assert join_outputs(found, paths) == (((0, 1), (2, 3), (0, 1), (2, 5)), (4, 6))


def test_each_output_has_a_step_of_its_own() -> None:
    found = network("i->i,i", (3,))
    assert search(found).path == ((0,), (0,))
    assert search(found).results == (1, 2)
    assert single_output(found, 1).outputs == ((0,),)


# memory


def all_slicings(plan: Plan) -> list[int]:
    """Return the peak of every way of slicing `plan`."""
    modes = range(len(plan.network.extents))
    subsets = itertools.chain.from_iterable(itertools.combinations(modes, r) for r in range(len(modes) + 1))
    return [costs(plan.network, plan.path, plan.results, tuple(s)).peak for s in subsets]


@settings(max_examples=60)
@given(networks(5))
def test_slices_reach_the_lowest_peak_there_is(found: TensorNetwork) -> None:
    plan = search(found)
    least = min(all_slicings(plan))
    sliced = sliced_to_fit(plan, least)
    assert costs(found, sliced.path, sliced.results, sliced.sliced).peak == least
    assert sliced.faults() == []


def test_a_plan_that_fits_is_not_sliced() -> None:
    found = network("ij,jk->ik", (3, 4), (4, 5))
    assert search(found, memory_limit=376).sliced == ()


def test_slices_are_what_the_limit_asks_for() -> None:
    found = network("ia,ja,ka,la->ijkl", *[(2, 50)] * 4)
    whole = search(found)
    plan = search(found, memory_limit=whole.peak - 1)
    assert plan.sliced == (1,)
    assert plan.peak < whole.peak
    assert plan.path == whole.path


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (375, "the contraction needs 376 bytes with its operands, memory_limit is 375 bytes"),
        (0, "the contraction needs 376 bytes with its operands, memory_limit is 0 bytes"),
    ],
)
def test_a_limit_below_operands_and_result_is_refused_at_once(limit: int, message: str) -> None:
    found = network("ij,jk->ik", (3, 4), (4, 5))
    assert message_of(ResourceLimitError, search, found, memory_limit=limit) == message


def test_a_limit_that_no_slicing_keeps_is_refused_with_the_least_peak() -> None:
    found = network("ij,jk,kl->il", (30, 40), (40, 50), (50, 60))
    least = min(all_slicings(search(found)))
    assert message_of(ResourceLimitError, search, found, memory_limit=least - 1) == (
        f"the contraction needs {least} bytes ({least / 1000:.3g} kB) with its operands, "
        f"memory_limit is {least - 1} bytes ({(least - 1) / 1000:.3g} kB)"
    )


def test_dynamic_modes_are_never_sliced() -> None:
    found = replace(network("ia,ja,ka,la->ijkl", *[(2, 50)] * 4), dynamic=(1,))
    for limit in range(search(found).peak, 3000, -100):
        try:
            assert 1 not in search(found, memory_limit=limit).sliced
        except ResourceLimitError:
            return
    raise AssertionError("the limit was never too low")


def test_an_unknown_search_is_refused_for_one_operand_too() -> None:
    with pytest.raises(ValueError, match="no search is called 'fastest'"):
        contractc.plan("ij->i", (2, 3), optimize="fastest")


@pytest.mark.parametrize(
    "text",
    ["ab,bcd,ce,dfe,fg->ag", "abc,ad,be,cf,dg,eh,fi,gj,hj,ik,k->", "ab,bc,cd,de,ef,fg,gh,hi,ij,jk,kl,la->"],
)
def test_other_orders_are_kept_beside_the_best(text: str) -> None:
    terms = text.partition("->")[0].split(",")
    network = bind(parse(text), [Operand((20,) * len(term), "float64") for term in terms], "float64")
    options = Search("anneal", moves=40_000) if len(terms) == 12 else None
    best, *others = candidates(search(network, options))
    assert best == search(network, options)
    assert len({plan.path for plan in (best, *others)}) == 1 + len(others) <= 6
    assert all(plan.faults() == [] and plan.network == network for plan in others)
    assert [plan.seconds for plan in others] == sorted(plan.seconds for plan in others)


@pytest.mark.parametrize(("count", "number"), [(2, 1), (3, 3), (4, 15), (5, 105)])
def test_trees_are_all_there_are(count: int, number: int) -> None:
    found = list(trees(count))
    assert len(found) == len(set(found)) == number
    network = of_terms([(k, 9) for k in range(count)], (9,), 2)
    root = (2 * count - 2,)
    assert all(Plan(network, path, root).faults() == [] for path in found)


def test_candidates_of_few_tensors_are_the_best_of_all_trees() -> None:
    network_ = network("abc,ai,bj,ck->ijk", (40, 40, 40), (40, 9), (40, 20), (40, 30))
    plan, *others = candidates(search(network_))
    seconds = sorted(costs(network_, path, (6,)).seconds for path in trees(4))
    assert [plan.seconds, *[other.seconds for other in others]] == pytest.approx(seconds[: 1 + len(others)])


def test_a_plan_with_a_wrong_path_beside_it_is_refused() -> None:
    plan = search(network("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)))
    wrong = replace(plan, others=(((0, 1), (2, 9)),))
    assert wrong.faults() == ["another order: step 1 uses %9 before it is made"]


def test_planning_counts_from_when_it_started() -> None:
    text = (
        ",".join(f"{a}{b}{c}" for a, b, c in zip("abcdefghij", "bcdefghija", "defghijabc", strict=True))
        + "->"
    )
    terms = text[:-2].split(",") * 2
    network = bind(parse(",".join(terms) + "->"), [Operand((9, 9, 9), "float64")] * 20, "float64")
    late = search(network, Search("anneal", time_limit=60.0), started=monotonic() - 100.0)
    assert late.faults() == []
    assert late.search == "greedy, no time for more"
