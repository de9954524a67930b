"""The slow evaluator, which is the specification, against the loop reference of the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from contractc.dtypes import zero_of
from contractc.errors import ResourceLimitError, UnsupportedError
from contractc.evaluation import LIMIT, evaluate_einsum
from contractc.semirings import SEMIRINGS
from messages import message_of

Term = tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """Terms, outputs and extents by mode, and small integers as operands."""

    terms: list[Term]
    outputs: list[Term]
    extents: list[int]
    arrays: list[np.ndarray]


@st.composite
def drawn(draw: st.DrawFn, least: int = 0) -> Drawn:
    """Draw up to four operands over four modes: repeated modes, extents 0 and 1, one or two outputs."""
    terms = [tuple(draw(st.lists(st.integers(0, 3), max_size=3))) for _ in range(draw(st.integers(1, 4)))]
    present = sorted({m for term in terms for m in term})
    output = st.lists(st.sampled_from(present), max_size=3) if present else st.just([])
    outputs = [tuple(draw(output)) for _ in range(draw(st.integers(1, 2)))]
    extents = [draw(st.integers(0 if draw(st.integers(0, 5)) == 0 else 1, 3)) for _ in range(4)]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = [np.asarray(rng.integers(least, 5, [extents[m] for m in term])) for term in terms]
    return Drawn(terms, outputs, extents, arrays)


def evaluated(
    case: Drawn, dtype: str, semiring: str, conj: list[bool] | None = None
) -> tuple[np.ndarray, ...]:
    return evaluate_einsum(
        case.terms,
        case.outputs,
        case.extents,
        case.arrays,
        dtypes=[dtype] * len(case.outputs),
        semiring=semiring,
        conj=conj or (),
    )


def expected(case: Drawn, semiring: str) -> list[np.ndarray]:
    return reference.evaluate(case.terms, case.outputs, case.arrays, semiring)


@settings(max_examples=150)
@given(drawn(least=-4))
def test_sums_of_products_agree_with_the_reference(case: Drawn) -> None:
    for result, exact in zip(
        evaluated(case, "int64", "sum_product"), expected(case, "sum_product"), strict=True
    ):
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, exact)


@settings(max_examples=60)
@given(drawn())
@pytest.mark.parametrize("semiring", sorted(SEMIRINGS.keys() - {"sum_product"}))
def test_other_semirings_agree_with_the_reference(semiring: str, case: Drawn) -> None:
    dtype = "bool" if semiring == "or_and" else "float64"
    case = Drawn(case.terms, case.outputs, case.extents, [x.astype(dtype) for x in case.arrays])
    for result, exact in zip(evaluated(case, dtype, semiring), expected(case, semiring), strict=True):
        assert result.dtype == np.dtype(dtype)
        np.testing.assert_allclose(result, exact.astype(dtype), rtol=1e-13, atol=1e-13)


def one(text: str, *arrays: Any, dtype: str, semiring: str = "sum_product", conj: Any = ()) -> np.ndarray:
    """Return the single output of an einsum whose modes are letters."""
    left, _, right = text.partition("->")
    number = {label: k for k, label in enumerate(dict.fromkeys(left.replace(",", "")))}
    terms = [tuple(number[c] for c in term) for term in left.split(",")]
    held = [np.asarray(x) for x in arrays]
    extents = {m: n for x, term in zip(held, terms, strict=True) for m, n in zip(term, x.shape, strict=True)}
    out = tuple(number[c] for c in right)
    (result,) = evaluate_einsum(terms, [out], extents, held, dtypes=[dtype], semiring=semiring, conj=conj)
    return result


def test_integers_wrap() -> None:
    x = np.array([100, 100], "int8")
    assert one("i,i->", x, x, dtype="int8") == np.int8(20000 % 256)


def test_bool_is_or_of_and() -> None:
    x, y = np.array([True, True, False]), np.array([True, True, True])
    assert one("i,i->", x, y, dtype="bool") == np.True_
    assert one("i,i->", x, ~y, dtype="bool") == np.False_


def test_or_and_takes_what_is_not_zero_as_true() -> None:
    x = np.array([0.0, np.nan, -1.0])
    np.testing.assert_array_equal(one("i->i", x, dtype="bool", semiring="or_and"), [False, True, True])


def test_float16_accumulates_in_float32() -> None:
    x = np.full(5000, 0.5, "float16")
    result = one("i,i->", x, x, dtype="float16")
    assert result.dtype == np.float16
    assert result == 1250
    large, small = np.full(2, 300, "float16"), np.full(2, 2.0**-10, "float16")
    assert one("i,i,i->", large, large, small, dtype="float16") == np.float16(2 * 90000 / 1024)


def test_operands_are_converted_before_they_are_multiplied() -> None:
    x = np.array([2**20], "int32")
    assert one("i,i->", x, x, dtype="int64") == 2**40
    assert one("i,i->", x, x, dtype="float32") == np.float32(2**40)


def test_objects_stay_python_numbers() -> None:
    x = np.array([2**70, 3], object)
    assert one("i,i->", x, x, dtype="object") == 2**140 + 9
    np.testing.assert_array_equal(one("i->ii", x, dtype="object"), [[2**70, 0], [0, 3]])


def test_conj_conjugates_the_operands_it_names() -> None:
    x, y = np.array([1 + 2j]), np.array([3 - 1j])
    assert one("i,i->", x, y, dtype="complex128", conj=[True, False]) == np.vdot(x, y)
    assert one("i,i->", x, y, dtype="complex128", conj=[False, True]) == np.vdot(y, x)
    assert one("i->", np.array([1 + 2j], object), dtype="object", conj=[True]) == 1 - 2j
    assert one("->", np.array(1 + 2j, object), dtype="object", conj=[True]) == 1 - 2j
    assert one("i->", np.array([3.0]), dtype="float64", conj=[True]) == 3.0


@pytest.mark.parametrize(
    ("semiring", "zero"),
    [
        ("sum_product", 0.0),
        ("max_plus", -np.inf),
        ("min_plus", np.inf),
        ("max_times", 0.0),
        ("or_and", False),
        ("log_sum_exp", -np.inf),
    ],
)
def test_an_empty_sum_and_what_is_off_the_diagonal_are_the_semirings_zero(semiring: str, zero: Any) -> None:
    dtype = "bool" if semiring == "or_and" else "float32"
    assert one("i->", np.ones(0, dtype), dtype=dtype, semiring=semiring) == zero
    spread = one("i->ii", np.ones(2, dtype), dtype=dtype, semiring=semiring)
    np.testing.assert_array_equal(spread, np.array([[1, zero], [zero, 1]], dtype))


def test_a_zero_that_the_dtype_cannot_hold_is_refused() -> None:
    message = "the zero of max_plus is -inf, which int64 cannot hold"
    assert message_of(UnsupportedError, zero_of, "max_plus", "int64") == message
    empty, full = np.ones(0, int), np.ones(2, int)
    assert message_of(UnsupportedError, one, "i->", empty, dtype="int64", semiring="max_plus") == message
    assert message_of(UnsupportedError, one, "i->ii", full, dtype="int64", semiring="max_plus") == message
    assert message_of(UnsupportedError, zero_of, "min_plus", "uint8") == (
        "the zero of min_plus is inf, which uint8 cannot hold"
    )


def test_no_zero_is_needed_where_none_is_stored() -> None:
    assert one("i->ii", np.ones(1, int), dtype="int64", semiring="max_plus") == [[1]]
    assert one("ij->iji", np.ones((1, 3), int), dtype="int64", semiring="max_plus").shape == (1, 3, 1)
    assert one("i->ii", np.ones(0, int), dtype="int64", semiring="max_plus").shape == (0, 0)
    assert one("ij->j", np.ones((0, 0), int), dtype="int64", semiring="max_plus").shape == (0,)


def test_more_than_the_limit_is_refused_before_it_is_allocated() -> None:
    x = np.broadcast_to(np.float64(1), (2**13,))
    assert message_of(ResourceLimitError, one, "i,j->ij", x, x, dtype="float64") == (
        f"the slow evaluator would hold {2**26} elements, more than {LIMIT}"
    )


def test_several_outputs_have_dtypes_of_their_own() -> None:
    results = evaluate_einsum([(0,)], [(0,), ()], [3], [np.arange(3)], dtypes=["int64", "float32"])
    assert [x.dtype.name for x in results] == ["int64", "float32"]
