"""Costs: against opt_einsum's counts and numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opt_einsum.helpers import flop_count

import contractc
from contractc.cost import Costs, costs, flops, pair_seconds, priced, step_seconds
from contractc.machine import DEFAULT_MACHINE, Machine, Target, physical_memory
from contractc.plans import Plan
from contractc.search import check_allocation
from messages import message_of

SLOW = Machine(
    flops_float32=4e3, flops_float64=1e3, flops_other=10.0, call=1.0, products=(), copying=((0, 100.0),)
)
"""A machine of round numbers without tables, slow enough that nothing is lost in rounding."""


def planned(text: str, *shapes: tuple[int, ...], dtype: str = "float64", sliced: str = "") -> Plan:
    """Return the left-to-right plan of `text`, sliced over the letters `sliced`."""
    plan = contractc.plan(text, *shapes, dtype=dtype, optimize=False)
    return replace(plan, sliced=tuple(plan.network.labels.index(label) for label in sliced))


def cost_of(plan: Plan) -> Costs:
    return costs(plan.network, plan.path, plan.results, plan.sliced, SLOW)


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=4),
    st.sets(st.sampled_from("abcdef")),
    st.lists(st.integers(0, 9), min_size=6, max_size=6),
)
def test_flops_follow_opt_einsums_convention(
    terms: list[list[str]], out: set[str], extents: list[int]
) -> None:
    present = {m for term in terms for m in term}
    kept = out & present
    number = {letter: k for k, letter in enumerate("abcdef")}
    ours = flops([[number[m] for m in term] for term in terms], [number[m] for m in kept], extents)
    theirs = flop_count(present, bool(present - kept), len(terms), dict(zip("abcdef", extents, strict=True)))
    assert ours == theirs


@pytest.mark.parametrize(
    ("terms", "out", "count"),
    [
        ([(0, 1), (1, 2)], (0, 2), 2 * 3 * 4 * 5),
        ([(0,), (1,)], (0, 1), 3 * 4),
        ([(0, 1)], (1, 0), 3 * 4),
        ([(0, 1)], (0,), 2 * 3 * 4),
        ([(0, 0)], (0,), 3),
        ([()], (), 1),
        ([(0,), (0,), (0,)], (), 3 * 3),
    ],
)
def test_flops_of_what_can_be_counted_by_hand(
    terms: list[tuple[int, ...]], out: tuple[int, ...], count: int
) -> None:
    assert flops(terms, out, (3, 4, 5)) == count


def test_flops_do_not_wrap() -> None:
    assert flops([range(5), range(5)], (), [10**9] * 5) == 2 * 10**45


def test_a_product_hides_memory_behind_half_of_its_arithmetic() -> None:
    left, right, out, extents = (0, 1), (1, 2), (0, 2), (100, 200, 300)
    moved = 8 * (100 * 200 + 200 * 300 + 100 * 300) / 100
    busy = 2 * 100 * 200 * 300 / 1e3
    assert pair_seconds(left, right, out, extents, "float64", SLOW) == pytest.approx(busy + moved - busy / 2)
    quick = replace(SLOW, copying=((0, 1e12),))
    assert pair_seconds(left, right, out, extents, "float64", quick) == pytest.approx(busy)
    assert step_seconds([left, right], out, extents, "float64", quick) == pytest.approx(1.0 + busy)


def test_a_product_takes_as_long_in_any_order_of_its_arrays() -> None:
    extents = (3, 50, 60, 70)
    seconds = pair_seconds((0, 1, 2), (0, 2, 3), (0, 1, 3), extents, "float32")
    assert seconds == pytest.approx(
        pair_seconds((2, 0, 1), (3, 2, 0), (3, 0, 1), extents, "float32"), rel=0.5
    )
    assert seconds == pytest.approx(3 * pair_seconds((1, 2), (2, 3), (1, 3), extents, "float32"), rel=0.5)


def test_a_view_costs_a_call_and_a_multiplication_its_traffic() -> None:
    assert step_seconds([(0, 1)], (1, 0), (1000, 1000), "float64", SLOW) == 0.25
    assert step_seconds([(0, 0)], (0,), (1000,), "float64", SLOW) == 0.25
    assert step_seconds([(0,), (0,)], (0,), (10,), "float64", SLOW) == 1.0 + 8 * 30 / 100


def test_what_one_operand_alone_sums_is_summed_before() -> None:
    extents = (10, 20, 30)
    whole = step_seconds([(0, 1), (1, 2)], (0,), extents, "float64", SLOW)
    product = step_seconds([(0, 1), (1,)], (0,), extents, "float64", SLOW)
    assert whole == pytest.approx(product + 1.0 + 8 * (20 * 30 + 20) / 100)


def test_products_of_integers_cost_two_in_float64() -> None:
    shapes = (0, 1), (1, 2), (0, 2), (100, 200, 300)
    product = pair_seconds(*shapes, "float64", SLOW)
    assert step_seconds(shapes[:2], shapes[2], shapes[3], "int32", SLOW) == pytest.approx(1.0 + 2 * product)


def test_seconds_of_a_hopeless_step_are_a_number() -> None:
    many = tuple(range(400))
    assert 1e50 < step_seconds([many, many[1:]], many[:1], (10,) * 400, "float64") < float("inf")
    assert 1e50 < step_seconds([many], many[1:], (10,) * 400, "float64") < float("inf")


@pytest.mark.parametrize(
    ("dtype", "rate"),
    [
        ("float32", 4e3),
        ("float16", 4e3),
        ("bfloat16", 4e3),
        ("float64", 1e3),
        ("complex64", 1e3),
        ("complex128", 250.0),
        ("int64", 10.0),
        ("object", 10.0),
        ("longdouble", 10.0),
    ],
)
def test_a_machine_has_a_rate_for_every_dtype(dtype: str, rate: float) -> None:
    assert SLOW.rate(dtype) == rate


def test_a_matrix_product_costs_what_is_counted_by_hand() -> None:
    found = cost_of(planned("ij,jk->ik", (3, 4), (4, 5)))
    moved, busy = 8 * (3 * 4 + 4 * 5 + 3 * 5), 2 * 3 * 4 * 5 / 1e3
    assert found.seconds == pytest.approx(1 + busy + moved / 100 - busy / 2)
    assert found[1:] == (120, moved, moved)


def test_a_chain_frees_intermediates_after_their_last_use() -> None:
    found = cost_of(planned("ab,bc,cd,de->ae", (2, 3), (3, 4), (4, 5), (5, 6)))
    inputs, ac, ad, ae = 2 * 3 + 3 * 4 + 4 * 5 + 5 * 6, 2 * 4, 2 * 5, 2 * 6
    assert found.flops == 2 * (2 * 3 * 4 + 2 * 4 * 5 + 2 * 5 * 6)
    assert found.traffic == 8 * (inputs + ac + ac + ad + ad + ae)
    assert found.peak == 8 * (inputs + max(ac + ad, ad + ae))


def test_the_peak_counts_a_copy_where_a_matrix_product_needs_one() -> None:
    straight = cost_of(planned("bij,bjk->bik", (2, 3, 4), (2, 4, 5)))
    crossed = cost_of(planned("ibj,bjk->bik", (3, 2, 4), (2, 4, 5)))
    interleaved = cost_of(planned("jak,kaj->a", (3, 2, 4), (4, 2, 3)))
    assert straight.peak == 8 * (24 + 40 + 30)
    assert crossed.peak == 8 * (24 + 40 + 30)
    assert interleaved.peak == 8 * (24 + 24 + 2 + 24 + 24)


def test_narrow_floats_count_as_float32_between_steps() -> None:
    found = cost_of(planned("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5), dtype="float16"))
    inputs = 2 * (6 + 12 + 20)
    assert found.traffic == inputs + 4 * 8 + 4 * 8 + 2 * 10
    assert found.peak == inputs + 4 * 8 + 2 * 10


def test_slices_repeat_the_work_that_does_not_depend_on_them() -> None:
    whole = cost_of(planned("ij,jk->ik", (3, 4), (4, 5)))
    sliced = cost_of(planned("ij,jk->ik", (3, 4), (4, 5), sliced="j"))
    assert sliced.flops == whole.flops
    assert sliced.traffic == 4 * 8 * (3 + 5 + 15)
    assert sliced.peak == 8 * (12 + 20 + 15 + 15)
    assert cost_of(planned("ij,jk,kl->il", (3, 4), (4, 5), (5, 6), sliced="l")).flops == 6 * (120 + 30)


def test_a_plan_of_several_outputs_counts_shared_steps_once() -> None:
    plan = planned("ij,jk,kl->il,li", (3, 4), (4, 5), (5, 6))
    assert plan.path == ((0, 1), (2, 3), (2, 3))
    assert plan.flops == 120 + 180 + 180


def test_empty_extents_cost_nothing() -> None:
    found = cost_of(planned("ij,jk->ik", (0, 4), (4, 5)))
    assert (found.flops, found.traffic, found.peak) == (0, 160, 160)


def test_costs_of_a_hopeless_plan_are_python_ints() -> None:
    plan = contractc.plan(",".join(map(chr, range(0x4E00, 0x4E00 + 400))), *[(10,)] * 400, optimize="greedy")
    assert 10**400 < plan.flops < 2 * 10**400
    assert plan.peak > 8 * 10**400
    assert plan.seconds > 1e280
    assert "1e+400 flops" in str(plan)


def test_priced_fills_in_the_costs() -> None:
    plan = planned("ij,jk->ik", (3, 4), (4, 5))
    again = priced(replace(plan, seconds=0.0, flops=0, traffic=0, peak=0), SLOW)
    assert (again.seconds, again.flops, again.traffic, again.peak) == cost_of(plan)


def test_check_allocation_refuses_what_the_machine_does_not_have() -> None:
    plan = contractc.plan("i,j->ij", (1000,), (1000,))
    check_allocation(plan, None)
    check_allocation(plan, 8_000_000)
    assert message_of(contractc.ResourceLimitError, check_allocation, plan, 7_999_999) == (
        "the contraction would allocate 8000000 bytes (8 MB), this machine has 7999999 bytes (8 MB)"
    )


def test_physical_memory_is_a_number_of_bytes_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    found = physical_memory()
    assert found is None or found > 10**8
    monkeypatch.delattr("os.sysconf", raising=False)
    assert physical_memory() is None


def test_a_target_prints_its_backend_and_device() -> None:
    assert str(Target()) == "numpy"
    assert str(Target("torch", "cuda")) == "torch:cuda"


def test_costs_of_random_plans_are_the_sum_of_their_steps() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        terms = ["".join(rng.choice(list("abcde"), 2, replace=False)) for _ in range(4)]
        extents = dict(zip("abcde", rng.integers(1, 6, 5).tolist(), strict=True))
        text = ",".join(terms) + "->" + terms[0]
        plan = contractc.plan(text, *[tuple(extents[c] for c in term) for term in terms])
        kept = plan.terms()
        each = [
            flops([kept[i] for i in ids], kept[4 + s], plan.network.extents)
            for s, ids in enumerate(plan.path)
        ]
        assert plan.flops == sum(each)
        assert plan.seconds > len(plan.path) * min(table.call for table in DEFAULT_MACHINE.products)
