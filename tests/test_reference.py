"""The test bed itself: the reference against answers worked out by hand and against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import reference
from expressions import EXPRESSIONS, Expression, random_operands
from strategies import LAYOUTS, Case, expressions, laid_out, numpy_cases, values
from tolerances import tolerance


def test_einsum_of_a_matrix_product_by_hand() -> None:
    product = reference.einsum("ij,jk->ik", [[1, 2], [3, 4]], [[5, 6], [7, 8]])
    assert product.tolist() == [[19, 22], [43, 50]]


def test_einsum_puts_repeated_output_modes_on_the_diagonal() -> None:
    assert reference.einsum("i->ii", [5, 7]).tolist() == [[5, 0], [0, 7]]
    assert reference.einsum("i->ii", [5.0, 7.0], semiring="max_plus").tolist() == [[5, -np.inf], [-np.inf, 7]]


def test_einsum_sums_an_ellipsis_that_is_left_out() -> None:
    assert reference.einsum("...i->i", [[1, 2], [3, 4]]).tolist() == [4, 6]


def test_einsum_of_several_outputs() -> None:
    product, rows = reference.einsum("ij,jk->ik,i", [[1, 2], [3, 4]], [[5, 6], [7, 8]])
    assert product.tolist() == [[19, 22], [43, 50]]
    assert rows.tolist() == [41, 93]


def test_einsum_broadcasts_extent_one_between_operands() -> None:
    assert reference.einsum("i,i->i", [2], [3, 4]).tolist() == [6, 8]
    assert reference.einsum("...,...", [[2], [3]], [5, 7]).tolist() == [[10, 14], [15, 21]]
    assert reference.einsum("i,i->", [2], [3, 4]).tolist() == 14


def test_einsum_sorts_an_implicit_output_by_code_point() -> None:
    assert reference.parse("ba...C") == ([("b", "a", Ellipsis, "C")], [(Ellipsis, "C", "a", "b")])
    assert reference.parse("ij,jk")[1] == [("i", "k")]


@pytest.mark.parametrize(
    ("semiring", "answer"),
    [("max_plus", 24.0), ("min_plus", 5.0), ("max_times", 80.0), ("or_and", True), ("sum_product", 84.0)],
)
def test_einsum_in_each_semiring_by_hand(semiring: str, answer: float) -> None:
    assert reference.einsum("i,i->", [4.0, 1.0], [20.0, 4.0], semiring=semiring).tolist() == answer


def test_einsum_in_log_sum_exp_does_not_overflow() -> None:
    assert float(reference.einsum("i->", [1e4, 1e4], semiring="log_sum_exp")[()]) == pytest.approx(
        1e4 + np.log(2)
    )
    assert reference.einsum("i->", np.zeros(0), semiring="log_sum_exp")[()] == -np.inf


def test_as_dtype_wraps_integers() -> None:
    exact = reference.einsum("i,i->", [2**62, 2**62], [2, 3])
    assert exact[()] == 5 * 2**62
    assert reference.as_dtype(exact, "int64")[()] == 2**62
    assert reference.as_dtype(np.array([300, -1], dtype=object), "uint8").tolist() == [44, 255]
    assert reference.as_dtype(np.array([200], dtype=object), "int8").tolist() == [-56]


def test_tolerance_grows_with_the_sum_and_is_zero_for_integers() -> None:
    assert tolerance("int32", 100, 3) == 0.0
    assert tolerance("float64", 100, 2) == (12 + 200) * 2.0**-52
    assert tolerance("float32", 1, 1) < tolerance("float32", 100, 1) < tolerance("float16", 100, 1)


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS)))
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0, 2), (2, 1, 3)])
def test_laid_out_keeps_shape_and_values(layout: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    array = values(rng, shape, "float64", "dyadic")
    result = np.asarray(laid_out(rng, array.copy(), layout))
    if layout == "list" and 0 in shape:
        return  # a nested list cannot say (2, 0, 2)
    assert result.shape == shape
    if layout not in ("broadcast", "window"):
        np.testing.assert_array_equal(result, array)


def test_layouts_are_what_they_are_called() -> None:
    rng = np.random.default_rng(1)
    array = values(rng, (2, 3), "float64", "dyadic")
    made = {layout: laid_out(rng, array.copy(), layout) for layout in LAYOUTS}
    assert made["F"].flags.f_contiguous
    assert made["reversed"].strides == (-24, -8)
    assert 0 in made["broadcast"].strides
    assert not made["read-only"].flags.writeable
    assert not made["unaligned"].flags.aligned
    assert not made["swapped"].dtype.isnative
    assert made["window"].strides == (8, 8)
    assert made["list"] == array.tolist()


@given(numpy_cases())
def test_reference_agrees_with_numpy(case: Case) -> None:
    try:
        expected = np.einsum(*case.arguments)
    except ValueError:
        return
    dtype = np.result_type(*map(np.asarray, case.operands))
    cast = [np.asarray(x).astype(dtype) for x in case.operands]
    (exact,) = reference.evaluate(case.inputs, case.terms, cast)
    (scale,) = reference.evaluate(case.inputs, case.terms, [np.abs(x) for x in cast])
    answer = reference.as_dtype(exact, dtype)
    assert answer.shape == expected.shape
    if dtype.kind in "biu":
        np.testing.assert_array_equal(answer, expected)
    else:
        length = reference.positions(case.inputs, [x.shape for x in cast])
        allowed = tolerance(dtype, length, len(cast), scale.astype(np.float64))
        assert np.all(abs(answer - expected) <= allowed)


@given(expressions(extended=True))
def test_vectorised_agrees_with_the_loop(drawn: tuple[Case, list[tuple[int, ...]]]) -> None:
    case, shapes = drawn
    rng = np.random.default_rng(3)
    operands = [values(rng, shape, "float64", "dyadic") for shape in shapes]
    loop = reference.evaluate(case.inputs, case.terms, operands)
    fast = reference.vectorised(case.inputs, case.terms, operands)
    for x, y in zip(loop, fast, strict=True):
        np.testing.assert_array_equal(x.astype(np.float64), y)


@pytest.mark.parametrize("row", EXPRESSIONS, ids=str)
def test_expressions_are_well_formed(row: Expression) -> None:
    operands = random_operands(row)
    inputs, outputs = reference.parse(row.text)
    answers = reference.vectorised(inputs, outputs, operands)
    assert len(answers) == len(outputs)
    if row.numpy:
        np.testing.assert_allclose(answers[0], np.einsum(row.text, *operands), atol=1e-12)
    else:
        with pytest.raises(ValueError, match=r"subscript|ascii"):
            np.einsum(row.text, *operands)


def test_expressions_are_all_different() -> None:
    assert len({(row.text, row.shapes) for row in EXPRESSIONS}) == len(EXPRESSIONS) >= 80
