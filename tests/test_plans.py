"""Plans: what a path means, its other notations, its rules, and how it prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opt_einsum.paths import linear_to_ssa, ssa_to_linear

import contractc
import reference
from contractc.network import TensorNetwork
from contractc.plans import (
    Path,
    Plan,
    bytes_text,
    count_text,
    exact_bytes_text,
    kept_terms,
    seconds_text,
    ssa_from_linear,
)
from expressions import EXPRESSIONS, Expression, random_operands
from messages import message_of

CHAIN = contractc.plan("ij,jk,kl->il", (3, 4), (4, 5), (5, 6))
SHARED = contractc.plan("ij,jk,kl->il,ik", (3, 4), (4, 5), (5, 6))
HYPER = contractc.plan("r,ir,jr,kr->ijk", (3,), (2, 3), (4, 3), (5, 3))


def network(text: str, *shapes: tuple[int, ...]) -> TensorNetwork:
    return contractc.plan(text, *shapes).network


def by_hand(found: TensorNetwork, path: Path, results: tuple[int, ...] = ()) -> Plan:
    return Plan(found, path, results or (len(found.tensors) + len(path) - 1,))


@st.composite
def linear_paths(draw: st.DrawFn) -> tuple[int, list[tuple[int, ...]]]:
    """Draw a number of tensors and a linear path that leaves one of them."""
    count = alive = draw(st.integers(2, 12))
    path = []
    while alive > 1:
        size = draw(st.integers(2, min(3, alive)))
        path.append(tuple(sorted(draw(st.permutations(range(alive)))[:size])))
        alive -= size - 1
    return count, path


@given(linear_paths())
def test_ssa_from_linear_agrees_with_opt_einsum(drawn: tuple[int, list[tuple[int, ...]]]) -> None:
    count, path = drawn
    ssa = ssa_from_linear(path, count)
    assert [set(step) for step in ssa] == [set(step) for step in linear_to_ssa(path)]
    assert [set(step) for step in ssa_to_linear(ssa)] == [set(step) for step in path]


@given(linear_paths())
def test_linear_path_is_the_inverse_of_ssa_from_linear(drawn: tuple[int, list[tuple[int, ...]]]) -> None:
    count, path = drawn
    found = network(",".join("i" * count) + "->", *[(2,)] * count)
    plan = by_hand(found, ssa_from_linear(path, count))
    assert plan.faults() == []
    assert plan.linear_path() == path


@pytest.mark.parametrize(
    ("path", "count", "ssa"),
    [
        ([], 1, ((0,),)),
        ([], 3, ((0, 1, 2),)),
        ([(0, 1)], 3, ((0, 1), (2, 3))),
        ([(0,), (0, 1)], 2, ((0,), (1, 2))),
        ([(-1, -2)], 3, ((1, 2), (0, 3))),
        ([[np.int64(0), np.int8(1)]], 2, ((0, 1),)),
    ],
)
def test_ssa_from_linear_finishes_what_is_left(path: Path, count: int, ssa: Path) -> None:
    assert ssa_from_linear(path, count) == ssa


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([(0, 3)], "step 0 of the path contracts (0, 3) of 3 tensors"),
        ([(0, 1), (0, 2)], "step 1 of the path contracts (0, 2) of 2 tensors"),
        ([(0, -4)], "step 0 of the path contracts (0, -4) of 3 tensors"),
        ([(1, 1)], "step 0 of the path contracts (1, 1) of 3 tensors"),
        ([(0, -3)], "step 0 of the path contracts (0, -3) of 3 tensors"),
        ([()], "step 0 of the path contracts () of 3 tensors"),
        ([0, 1], "step 0 of the path is 0, not positions of tensors"),
        ([("a", "b")], "step 0 of the path is ('a', 'b'), not positions of tensors"),
        ([(0.0, 1.0)], "step 0 of the path is (0.0, 1.0), not positions of tensors"),
    ],
)
def test_ssa_from_linear_refuses_steps_that_do_not_fit(path: Path, message: str) -> None:
    assert message_of(ValueError, ssa_from_linear, path, 3) == message


def test_a_plan_with_shared_steps_has_no_linear_path() -> None:
    assert message_of(ValueError, SHARED.linear_path) == "a path with shared steps has no linear form"


@pytest.mark.parametrize(
    ("text", "path", "terms"),
    [
        ("ij,jk,kl->il", ((0, 1), (2, 3)), ["ik", "il"]),
        ("ij,jk,kl->il", ((0, 2), (1, 3)), ["ijkl", "il"]),
        ("ij,jk,kl->il", ((0, 1, 2),), ["il"]),
        ("sa,sb,sc->abc", ((0, 1), (2, 3)), ["sab", "abc"]),
        ("sa,sb,sc->", ((0, 1), (2, 3)), ["s", ""]),
        ("iij,jk->ki", ((0,), (1, 2)), ["ij", "ki"]),
        ("i,i->ii", ((0, 1),), ["ii"]),
    ],
)
def test_terms_keep_the_modes_that_are_needed_further_on(text: str, path: Path, terms: list[str]) -> None:
    shapes = [(2,) * len(term) for term in text.partition("->")[0].split(",")]
    found = network(text, *shapes)
    made = kept_terms(found, path, (len(found.tensors) + len(path) - 1,))[len(found.tensors) :]
    assert ["".join(found.label(m) for m in term) for term in made] == terms


@pytest.mark.parametrize(
    ("broken", "faults"),
    [
        (replace(CHAIN, path=((0, 1), (2, 3), ()), results=(4,)), ["step 2 contracts nothing"]),
        (
            replace(CHAIN, path=((0, 4), (2, 3))),
            [
                "step 0 uses %4 before it is made",
                "%4 is output 0 and something else; an output has a step of its own",
            ],
        ),
        (replace(CHAIN, path=((0, 0), (2, 3))), ["step 0 uses an id twice"]),
        (replace(CHAIN, results=()), ["0 results for 1 outputs"]),
        (
            replace(CHAIN, results=(4, 4), network=replace(CHAIN.network, outputs=((0,), (3,)))),
            [f"%4 is output {o} and something else; an output has a step of its own" for o in (0, 1)],
        ),
        (replace(CHAIN, results=(2,)), ["output 0 is %2, which no step makes"]),
        (replace(CHAIN, results=(5,)), ["output 0 is %5, which no step makes"]),
        (
            replace(CHAIN, results=(3,)),
            ["%3 is output 0 and something else; an output has a step of its own"],
        ),
        (replace(CHAIN, path=((0, 1), (3,))), ["output 0 contracts the tensors [0, 1], not each of 3 once"]),
        (
            replace(CHAIN, path=((0, 1), (0, 2, 3))),
            ["output 0 contracts the tensors [0, 1, 2], [0] more than once, not each of 3 once"],
        ),
        (replace(CHAIN, sliced=(9,)), ["sliced mode 9 does not exist"]),
        (
            replace(CHAIN, network=replace(CHAIN.network, dynamic=(1,)), sliced=(1,)),
            ["sliced mode 1 is dynamic"],
        ),
        (replace(CHAIN, network=replace(CHAIN.network, dtype="f8")), ["the results have dtype 'f8'"]),
        (replace(CHAIN, sliced=(1, 2)), []),
        (SHARED, []),
    ],
)
def test_faults_names_each_broken_rule(broken: Plan, faults: list[str]) -> None:
    assert broken.faults() == faults


@pytest.mark.parametrize("row", EXPRESSIONS, ids=str)
def test_every_order_evaluates_to_the_same(row: Expression) -> None:
    operands = [
        x.astype("int64") for x in random_operands(Expression(row.text, row.shapes, row.why), "float64")
    ]
    inputs, outputs = reference.parse(row.text)
    if reference.positions(inputs, row.shapes) > 3000:
        return
    expected = reference.evaluate(inputs, outputs, operands)
    for optimize in (False, "greedy", [tuple(range(len(operands)))]):
        plan = contractc.plan(row.text, *operands, optimize=optimize)
        assert plan.faults() == []
        for result, exact in zip(plan.evaluate(*operands), expected, strict=True):
            np.testing.assert_array_equal(result, exact)


@pytest.mark.parametrize(
    "plan", [CHAIN, SHARED, HYPER, replace(CHAIN, sliced=(1,), choices=("stay",))], ids=str
)
def test_a_plan_survives_json(plan: Plan) -> None:
    back = Plan.from_json(plan.to_json())
    assert back == plan
    assert str(back) == str(plan)


def test_a_plan_with_a_fault_is_not_read() -> None:
    assert message_of(ValueError, Plan.from_json, replace(CHAIN, results=(3,)).to_json()) == (
        "not a well-formed Plan: %3 is output 0 and something else; an output has a step of its own"
    )


def test_a_plan_prints_its_step_table() -> None:
    assert str(CHAIN) == (
        "plan by optimal: 2 steps, sum_product, float64\n"
        "  step        einsum     result         flops\n"
        "  %3 = %0 %1  ij,jk->ik  f64[i=3, k=5]  120\n"
        "  %4 = %2 %3  kl,ik->il  f64[i=3, l=6]  180\n"
        "300 flops, 880 bytes traffic, 760 bytes peak, 0.871 us predicted"
    )


def test_a_plan_prints_slices_and_labels_of_several_letters() -> None:
    plan = contractc.plan(np.ones((3, 4)), ["row", 0], np.ones((4, 5)), [0, "column"], ["row", "column"])
    assert str(replace(plan, sliced=(0, 2), search="")).splitlines()[:3] == [
        "plan by hand: 1 step, sum_product, float64, in 15 slices over row=3 column=5",
        "  step        einsum                      result                flops",
        "  %2 = %0 %1  row 0,0 column->row column  f64[row=3, column=5]  120",
    ]


@pytest.mark.parametrize(
    ("name", "text", "shapes"),
    [
        ("plan_matrix_product", "ij,jk->ik", [(3, 4), (4, 5)]),
        ("plan_cp", "r,ir,jr,kr->ijk", [(3,), (2, 3), (4, 3), (5, 3)]),
        (
            "plan_tensor_train_layer",
            "ioA,AjpB,Bkq,bijk->bopq",
            [(4, 5, 2), (2, 4, 5, 2), (2, 4, 5), (8, 4, 4, 4)],
        ),
        ("plan_several_outputs", "ij,jk,kl->il,ik,", [(20, 30), (30, 40), (40, 20)]),
        ("plan_ellipsis", "...ij,...jk->...ik", [(1, 2, 3), (5, 3, 4)]),
    ],
)
def test_plans_print_as_before(
    golden: Callable[[str, str], None], name: str, text: str, shapes: list[tuple[int, ...]]
) -> None:
    golden(name, str(contractc.plan(text, *shapes)))


@pytest.mark.parametrize(
    ("count", "text", "exact"),
    [
        (0, "0 bytes", "0 bytes"),
        (999, "999 bytes", "999 bytes"),
        (1000, "1 kB", "1000 bytes (1 kB)"),
        (1_536_000, "1.54 MB", "1536000 bytes (1.54 MB)"),
        (8 * 10**12, "8 TB", "8000000000000 bytes (8 TB)"),
        (10**20, "100 EB", "100000000000000000000 bytes (100 EB)"),
        (10**21, "1e+21 bytes", "1e+21 bytes"),
        (2 * 10**400, "2e+400 bytes", "2e+400 bytes"),
        (10**9999, "1e+9999 bytes", "1e+9999 bytes"),
    ],
    ids=["none", "bytes", "kB", "MB", "TB", "EB", "ZB", "400 digits", "9999 digits"],
)
def test_bytes_are_written_in_powers_of_1000(count: int, text: str, exact: str) -> None:
    assert bytes_text(count) == text
    assert exact_bytes_text(count) == exact


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (120, "120"), (1234, "1.23e+03"), (10**299, "1e+299"), (2 * 10**5000, "2e+5000")],
    ids=["0", "120", "1234", "299 zeros", "5000 zeros"],
)
def test_counts_have_three_digits(count: int, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5, "2.5 s"),
        (1.0, "1 s"),
        (0.0123, "12.3 ms"),
        (1e-3, "1 ms"),
        (4.2e-6, "4.2 us"),
        (1e-9, "0.001 us"),
        (0.0, "0 us"),
    ],
)
def test_seconds_are_written_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
