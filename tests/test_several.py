"""Several expressions over the same operands: planned together, each as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc.errors import EinsumError, OperandError, UnsupportedError
from contractc.formats import cp
from messages import message_of

MTTKRP = [
    ("ijk,jr,kr->ir", [0, 2, 3]),
    ("ijk,ir,kr->jr", [0, 1, 3]),
    ("ijk,ir,jr->kr", [0, 1, 2]),
]
SHAPES = ((30, 31, 32), (30, 8), (31, 8), (32, 8))


def arrays(*shapes: tuple[int, ...], dtype: str = "float64") -> list[Any]:
    """Return arrays of random numbers."""
    random = np.random.default_rng(0)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def alone(expressions: list[Any], operands: list[Any]) -> list[Any]:
    """Return what np.einsum makes of each expression."""
    found = []
    for item in expressions:
        text, numbers = item if isinstance(item, tuple) else (item, range(len(operands)))
        found.append(np.einsum(text, *(operands[k] for k in numbers)))
    return found


@pytest.mark.parametrize(
    ("expressions", "shapes"),
    [
        (MTTKRP, SHAPES),
        (["ij,jk->ik", ("ij->i", [0]), ("jk->k", [1]), "ij,jk->"], ((3, 4), (4, 5))),
        ([("ab,bc->ac", [0, 1]), ("bc,cd->bd", (1, 2)), "ab,bc,cd->ad"], ((3, 4), (4, 5), (5, 6))),
        (["ij,jk->ik", "ij,jk->ki"], ((3, 4), (4, 5))),
        ([("i->i", [0]), ("j->j", [1])], ((3,), (4,))),
        (["...i,i->...", "...i,i->i..."], ((2, 3, 4), (4,))),
    ],
)
def test_each_result_is_what_the_expression_gives_alone(expressions: list[Any], shapes: Any) -> None:
    operands = arrays(*shapes)
    results = contractc.compile(expressions, *shapes)(*operands)
    assert type(results) is tuple and len(results) == len(expressions)
    for result, wanted in zip(results, alone(expressions, operands), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-12)
    plan = contractc.plan(expressions, *shapes)
    assert plan.faults() == [] and contractc.Plan.from_json(plan.to_json()) == plan
    for value, wanted in zip(plan.evaluate(*operands), alone(expressions, operands), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(st.data())
def test_random_parts_of_a_ring(data: st.DataObject) -> None:
    letters = "abcdef"
    terms = [letters[k] + letters[(k + 1) % 6] for k in range(6)]
    shapes = [(2 + k % 3, 2 + (k + 1) % 3) for k in range(6)]
    expressions: list[Any] = [",".join(terms) + "->"]
    for _ in range(data.draw(st.integers(1, 4))):
        numbers = sorted(data.draw(st.sets(st.integers(0, 5), min_size=1)))
        own = sorted({m for k in numbers for m in terms[k]})
        kept = data.draw(st.lists(st.sampled_from(own), max_size=2, unique=True))
        expressions.append((",".join(terms[k] for k in numbers) + "->" + "".join(kept), numbers))
    operands = arrays(*shapes)
    results = contractc.compile(expressions, *shapes)(*operands)
    for result, wanted in zip(results, alone(expressions, operands), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-10, atol=1e-10)


def test_matricized_products_share_their_work() -> None:
    together = contractc.plan(MTTKRP, *SHAPES, optimize=contractc.Search(minimize="flops"))
    separately = sum(contractc.plan(text, *(SHAPES[k] for k in numbers)).flops for text, numbers in MTTKRP)
    assert together.flops < 0.8 * separately


def test_a_saved_executable_gives_the_same_tuple(tmp_path: Path) -> None:
    operands = arrays(*SHAPES)
    made = contractc.compile(MTTKRP, *SHAPES)
    made.save(tmp_path / "all.contractc")
    loaded = contractc.load(tmp_path / "all.contractc")
    for one, two in zip(made(*operands), loaded(*operands), strict=True):
        assert np.array_equal(one, two)


def test_the_best_values_of_parts_in_another_semiring() -> None:
    x, y = arrays((3, 4), (4, 5))
    best, row = contractc.compile(["ij,jk->ik", ("ij->i", [0])], x, y, semiring="max_plus")(x, y)
    np.testing.assert_allclose(best, (x[:, :, None] + y).max(1))
    np.testing.assert_allclose(row, x.max(1))


def test_constants_are_left_out_of_the_call() -> None:
    x, y = arrays((3, 4), (4, 5))
    results = contractc.compile(["ij,jk->ik", ("jk->k", [1])], (3, 4), y, constants=[1])(x)
    np.testing.assert_allclose(results[0], x @ y)
    np.testing.assert_allclose(results[1], y.sum(0))


@pytest.mark.parametrize(
    ("expressions", "shapes", "error", "message"),
    [
        (
            ["ij,jk->ik", "ij,kj->ik"],
            ((3, 4), (4, 5)),
            OperandError,
            "operand 1 is 'jk' in expression 0 but 'kj' in expression 1; what is planned together has one term an "
            "operand",
        ),
        (
            ["ij,jk->ik", "ij->i"],
            ((3, 4), (4, 5)),
            EinsumError,
            "expression 1 (ij->i) has 1 terms for 2 operands",
        ),
        (
            ["ij,jk->ik", ("ij->i", [2])],
            ((3, 4), (4, 5)),
            OperandError,
            "expression 1 names operand 2; there are 2 operands",
        ),
        ([("ij,ij->", [0, 0])], ((3, 4),), OperandError, "expression 0 names operand 0 twice"),
        ([("ij->i", [0])], ((3, 4), (4, 5)), OperandError, "operand 1 is in no expression"),
        (
            ["ij,j->ij", ("ij->j", [0])],
            ((3, 1), (5,)),
            OperandError,
            "mode 'j' of an output is 1 in the operands [0] but 5 in others; broadcast it first, or plan that "
            "expression alone",
        ),
        (
            ["...j,j->...", ("...j->...", [0])],
            ((3, 4), (4,)),
            EinsumError,
            "an ellipsis needs all operands in every expression that is planned together",
        ),
    ],
)
def test_what_cannot_be_planned_together_is_refused(
    expressions: list[Any], shapes: Any, error: type[Exception], message: str
) -> None:
    assert message_of(error, contractc.compile, expressions, *shapes) == message


def test_factors_cannot_be_left_out() -> None:
    x = cp([np.ones((3, 2)), np.ones((4, 2))])
    message = "operands held as factors cannot be left out of an expression planned with others"
    assert message_of(UnsupportedError, contractc.compile, ["ij,j->i", ("j->", [1])], x, (4,)) == message
