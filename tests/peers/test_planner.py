"""Plans to and from the real opt_einsum, cotengra and quimb; run by `make test-peers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import contractc
from contractc.compat import cotengra as compat
from contractc.compat.opt_einsum import register
from contractc.compat.paths import linear_from_ssa, search_path
from contractc.cost import costs
from contractc.options import Search
from contractc.plans import Plan

ctg = pytest.importorskip("cotengra")
opt_einsum = pytest.importorskip("opt_einsum")


def equation(seed: int) -> tuple[list[tuple[str, ...]], tuple[str, ...], dict[str, int]]:
    """Return a random network of 12 tensors with hyperedges."""
    inputs, output, _, sizes = ctg.utils.rand_equation(
        12, 3, n_out=2, n_hyper_in=2, n_hyper_out=1, d_min=2, d_max=4, seed=seed
    )
    return [tuple(term) for term in inputs], tuple(output), sizes


def arrays(inputs: Any, sizes: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal([sizes[x] for x in term]) for term in inputs]


def as_text(inputs: Any, output: Any) -> str:
    return ",".join("".join(term) for term in inputs) + "->" + "".join(output)


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_of_cotengra_becomes_a_plan_of_the_same_cost_and_value(seed: int) -> None:
    inputs, output, sizes = equation(seed)
    tree = ctg.array_contract_tree(inputs, output, sizes, optimize="greedy")
    tree.slice_(target_slices=4)
    plan = compat.from_tree(tree)
    assert plan.faults() == []
    assert plan.network.size(plan.sliced) == tree.multiplicity
    values = arrays(inputs, sizes)
    np.testing.assert_allclose(plan.evaluate(*values)[0], tree.contract(values), rtol=1e-8)
    again = compat.from_tree(compat.to_tree(plan))
    whole = [costs(made.network, made.path, made.results, made.sliced).flops for made in (plan, again)]
    assert again.sliced != () and whole[0] == whole[1] and again.flops == plan.flops


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_becomes_a_tree_of_the_same_value(seed: int) -> None:
    inputs, output, sizes = equation(seed)
    shapes = [tuple(sizes[x] for x in term) for term in inputs]
    plan = contractc.plan(as_text(inputs, output), *shapes, optimize=Search("anneal", moves=2_000))
    tree = compat.to_tree(plan)
    values = arrays(inputs, sizes)
    expected = contractc.contract(as_text(inputs, output), *values)
    np.testing.assert_allclose(tree.contract(values), expected, rtol=1e-8)
    assert Plan.from_json(plan.to_json()) == plan


def test_contractc_plans_inside_of_opt_einsum_and_cotengra() -> None:
    inputs, output, sizes = equation(1)
    values = arrays(inputs, sizes)
    text = as_text(inputs, output)
    expected = contractc.contract(text, *values)
    register()
    compat.register()
    np.testing.assert_allclose(opt_einsum.contract(text, *values, optimize="contractc"), expected, rtol=1e-8)
    np.testing.assert_allclose(ctg.einsum(text, *values, optimize="contractc"), expected, rtol=1e-8)
    np.testing.assert_allclose(ctg.einsum(text, *values, optimize=search_path), expected, rtol=1e-8)


def test_contractc_plans_inside_of_quimb() -> None:
    qtn = pytest.importorskip("quimb.tensor")
    compat.register()
    network = qtn.TN_rand_reg(20, 3, 2, seed=1)
    expected = network.contract(optimize="greedy")
    np.testing.assert_allclose(network.contract(optimize="contractc"), expected, rtol=1e-8)


def test_paths_of_cotengra_are_taken() -> None:
    inputs, output, sizes = equation(2)
    values, text = arrays(inputs, sizes), as_text(inputs, output)
    tree = ctg.array_contract_tree(inputs, output, sizes, optimize="greedy")
    expected = contractc.contract(text, *values)
    for path in (tree.get_path(), linear_from_ssa(tree.get_ssa_path(), len(inputs))):
        np.testing.assert_allclose(contractc.contract(text, *values, optimize=path), expected, rtol=1e-8)
