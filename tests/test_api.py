"""The calls: every form and option of contract, einsum, einsum_path, compile and plan, and the cache."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import EinsumError, OperandError, ResourceLimitError, UnsupportedError, calls, formats, recent
from contractc.building import build
from contractc.machine import Target
from contractc.notation import parse
from contractc.options import Options, bytes_allowed, conjugated, frozen
from messages import message_of

rng = np.random.default_rng(0)
A, B, C = rng.random((3, 4)), rng.random((4, 5)), rng.random((5, 6))
Z, W = rng.random((3, 4)) + 1j * rng.random((3, 4)), rng.random((4, 5)) + 1j * rng.random((4, 5))


# forms of a call


@pytest.mark.parametrize(
    "call",
    [
        ("ij,jk->ik", A, B),
        ("ij,jk", A, B),
        ("ij,jk->ik", [A, B]),
        ("ij,jk->ik", (A, B)),
        (A, [0, 1], B, [1, 2], [0, 2]),
        (A, [0, 1], B, [1, 2]),
        (A, ["left", "bond"], B, ["bond", "right"], ["left", "right"]),
        (A, [("q", 0), None], B, [None, frozenset()], [("q", 0), frozenset()]),
        (parse("ij,jk->ik"), A, B),
        ("ij,jk->ik", A.tolist(), B.tolist()),
    ],
    ids=[
        "text",
        "implicit",
        "list",
        "tuple",
        "interleaved",
        "no output",
        "words",
        "hashable",
        "Einsum",
        "lists",
    ],
)
def test_contract_takes_every_form_of_a_call(call: tuple[Any, ...]) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(contractc.contract(*call), A @ B)


@pytest.mark.parametrize(
    ("text", "operands", "expected"),
    [
        (",->", (2, 3), 6),
        ("i,->i", ([1, 2], 3), [3, 6]),
        ("->", (np.float32(2),), 2),
        ("i->", ([True, False],), True),
        ("i->ii", ([1, 2],), [[1, 0], [0, 2]]),
        ("...i->i", (np.ones((2, 3)),), [2, 2, 2]),
        ("αβ->β", (np.ones((2, 3)),), [2, 2, 2]),
        ("", (5,), 5),
    ],
)
def test_contract_takes_lists_and_numbers(text: str, operands: tuple[Any, ...], expected: Any) -> None:
    np.testing.assert_array_equal(contractc.contract(text, *operands), expected)


def test_contract_returns_a_tuple_for_several_outputs() -> None:
    product, total, rows = contractc.contract("ij,jk->ik,,i", A, B)
    np.testing.assert_allclose(product, A @ B, rtol=1e-14)
    assert total == pytest.approx((A @ B).sum())
    np.testing.assert_allclose(rows, (A @ B).sum(1), rtol=1e-14)


def test_an_einsum_object_keeps_its_semiring_unless_one_is_given() -> None:
    best = (A[:, :, None] + B[None]).max(1)
    np.testing.assert_array_equal(contractc.contract(parse("ij,jk->ik", "max_plus"), A, B), best)
    np.testing.assert_array_equal(contractc.contract(parse("ij,jk->ik"), A, B, semiring="max_plus"), best)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            (A,),
            EinsumError,
            "no expression was given: einsum takes a text first, or operands with their labels",
        ),
        (("ij,jk->ik",), OperandError, "no operands were given"),
        (("ij,jk->ik", A), OperandError, "the expression has 2 terms but 1 operand was given\n  ij,jk->ik"),
        ((A, 3), TypeError, "the labels of operand 0 are 3, not a sequence"),
        ((A, [0, 1], 7), TypeError, "the labels of the output are 7, not a sequence"),
        (("i->", ["a"]), TypeError, "operand 0 has dtype <U1; einsum needs numbers, bool or object"),
        (("i->", None), OperandError, "operand 0 has 0 axes but its term has 1 mode\n  i->\n  ^"),
    ],
)
def test_contract_refuses_calls_that_mean_nothing(
    call: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    assert message_of(error, contractc.contract, *call) == message


def test_contract_without_arguments_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'expression'"):
        contractc.contract()  # type: ignore[call-arg]
    assert message_of(EinsumError, contractc.einsum) == (
        "no expression was given: einsum takes a text first, or operands with their labels"
    )


# dtypes


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("float32", "float64", "float64"),
        ("int8", "uint8", "int16"),
        ("int64", "uint64", "float64"),
        ("int16", "float16", "float32"),
        ("bool", "int8", "int8"),
        ("float64", "complex64", "complex128"),
        ("float64", "object", "object"),
    ],
)
def test_contract_promotes_as_numpy_does(one: str, other: str, found: str) -> None:
    result = contractc.contract("i,i->i", np.ones(2, one), np.ones(2, other))
    assert result.dtype == np.dtype(found) == np.result_type(one, other)


def test_dtype_is_what_is_computed_in() -> None:
    x = np.array([200, 100], "uint8")
    assert contractc.contract("i,i->", x, x) == np.uint8((200 * 200 + 100 * 100) % 256)
    result = contractc.contract("i,i->", x, x, dtype="int32")
    assert type(result) is np.int32
    assert result == 50000
    assert (
        contractc.contract("i,i->", A[0], A[0], dtype=np.complex64, casting="same_kind").dtype == np.complex64
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, "cannot cast operand 0 from float64 to float32 by the rule 'safe'"),
        (
            {"dtype": "int64", "casting": "same_kind"},
            "cannot cast operand 0 from float64 to int64 by the rule 'same_kind'",
        ),
        ({"casting": "no"}, "cannot cast operand 1 from float32 to float64 by the rule 'no'"),
        ({"casting": "equiv"}, "cannot cast operand 1 from float32 to float64 by the rule 'equiv'"),
        (
            {"out": np.empty((3, 5), "float32"), "casting": "safe"},
            "cannot cast the result from float64 to float32 by the rule 'safe'",
        ),
        ({"out": [1.0]}, "out must be an array, not list"),
        ({"dtype": "float99"}, "data type 'float99' not understood"),
    ],
)
@pytest.mark.parametrize("call", [contractc.contract, contractc.einsum])
def test_casting_is_checked_as_numpy_does(call: Any, options: dict[str, Any], message: str) -> None:
    assert message_of(TypeError, call, "ij,jk->ik", A, B.astype("float32"), **options) == message


def test_casting_allows_what_it_is_asked_to() -> None:
    x = np.array([1.6, 2.6])
    assert contractc.einsum("i->", x, dtype=int, casting="unsafe") == 3
    out = np.empty(2, "float32")
    assert contractc.einsum("i->i", x, out=out, casting="same_kind") is out
    np.testing.assert_array_equal(out, x.astype("float32"))
    with pytest.raises(ValueError, match="casting must be one of"):
        contractc.contract("i->", x, casting="maybe")


def test_preferred_element_type_is_that_of_the_result() -> None:
    x = np.full(5000, 0.5, "float16")
    assert contractc.contract("i,i->", x, x).dtype == np.float16
    result = contractc.contract("i,i->", 8 * x, 8 * x, preferred_element_type="float32")
    assert type(result) is np.float32
    assert result == 80000
    counts = contractc.contract("i,i->", [True, True], [True, True], preferred_element_type="int64")
    assert counts == 2
    out = np.empty((3, 5), "complex128")
    assert contractc.contract("ij,jk->ik", A, B, preferred_element_type="complex128", out=out) is out


def test_the_dtype_of_out_takes_part_in_the_promotion_as_in_numpy() -> None:
    x = np.array([2**24, 1], "float32")  # 2**24 + 1 is halfway between two of float32, in any order of adding
    out = np.empty((), "float64")
    contractc.contract("i->", x, out=out)
    assert out == 2**24 + 1 == np.einsum("i->", x, out=np.empty(()))
    contractc.contract("i->", x, preferred_element_type="float32", out=out)
    assert out == 2**24 == contractc.contract("i->", x)


def test_preferred_element_type_must_hold_the_values() -> None:
    assert message_of(OperandError, contractc.contract, "ij->", Z, preferred_element_type="float64") == (
        "preferred_element_type=float64 cannot hold complex128"
    )
    assert message_of(OperandError, contractc.contract, "ij->", A, preferred_element_type="int32") == (
        "preferred_element_type=int32 cannot hold float64"
    )


def test_out_of_a_semiring_has_the_dtype_of_its_result() -> None:
    out = np.empty((3, 5), bool)
    assert contractc.contract("ij,jk->ik", A, B, semiring="or_and", out=out) is out
    assert out.all()
    logs = np.empty((), "float64")
    zeros = np.zeros(2, "int8")
    contractc.contract("i->", zeros, semiring="log_sum_exp", out=logs)
    assert logs == contractc.contract("i->", zeros, semiring="log_sum_exp") == np.float32(np.log(2))


# conj


def test_conj_conjugates_the_operands_it_names() -> None:
    expected = Z.conj() @ W
    ways: list[Any] = [0, (0,), [0], np.int64(0), {0}]
    for conj in ways:
        np.testing.assert_allclose(contractc.contract("ij,jk->ik", Z, W, conj=conj), expected, rtol=1e-14)
    np.testing.assert_allclose(contractc.contract("ij,jk->ik", Z, W, conj=(0, 1)), (Z @ W).conj(), rtol=1e-14)
    np.testing.assert_array_equal(contractc.contract("ij,jk->ik", A, B, conj=(0, 1)), A @ B)


def test_conj_of_objects_calls_their_own() -> None:
    x = np.array([1 + 2j, 3], object)
    assert contractc.contract("i,i->", x, x, conj=0) == 14
    np.testing.assert_array_equal(contractc.contract("i->i", x, conj=0), [1 - 2j, 3])


@pytest.mark.parametrize(
    ("conj", "message"),
    [
        (2, "conj names operand 2; there are 2 operands"),
        ((0, -1), "conj names operand -1; there are 2 operands"),
    ],
)
def test_conj_of_an_operand_that_is_not_there_is_refused(conj: Any, message: str) -> None:
    assert message_of(OperandError, contractc.contract, "ij,jk->ik", Z, W, conj=conj) == message
    assert message_of(OperandError, conjugated, conj, 2) == message


# order and out


@pytest.mark.parametrize("call", [contractc.contract, contractc.einsum])
@pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk->ki"])
def test_order_is_the_memory_order_of_the_result(call: Any, text: str) -> None:
    for order in ("C", "c", "A", "a"):
        assert call(text, A, B, order=order).flags.c_contiguous
    assert call(text, A, B, order="F").flags.f_contiguous
    assert call(text, A.T.copy().T, B.T.copy().T, order="A").flags.f_contiguous
    np.testing.assert_array_equal(call(text, A, B, order="F"), call(text, A, B))


def test_order_is_that_of_every_result() -> None:
    results = contractc.contract("ij,jk->ik,ki", A, B, order="F")
    assert [x.flags.f_contiguous for x in results] == [True, True]
    mantissa, _ = contractc.contract("ij,jk->ik", A, B, order="F", strip_exponent=True)
    assert mantissa.flags.f_contiguous


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("Z", "order must be 'C', 'F', 'A' or 'K', not 'Z'"),
        ("", "order must be 'C', 'F', 'A' or 'K', not ''"),
        (None, "order must be 'C', 'F', 'A' or 'K', not None"),
    ],
)
@pytest.mark.parametrize("call", [contractc.contract, contractc.einsum])
def test_an_order_that_does_not_exist_is_refused(call: Any, order: Any, message: str) -> None:
    assert message_of(ValueError, call, "ij,jk->ik", A, B, order=order) == message


@pytest.mark.parametrize("call", [contractc.contract, contractc.einsum])
def test_out_is_written_and_returned(call: Any) -> None:
    out = np.full((5, 3), np.nan)
    assert call("ij,jk->ki", A, B, out=out) is out
    np.testing.assert_array_equal(out, (A @ B).T)
    strided = np.full((6, 10), np.nan)[::2, ::2]
    call("ij,jk->ik", A, B, out=strided)
    np.testing.assert_array_equal(strided, A @ B)
    scalar = np.empty(())
    assert call("ij->", A, out=scalar) is scalar
    x = np.arange(9.0).reshape(3, 3)
    call("ij->ji", x, out=x)
    np.testing.assert_array_equal(x, np.arange(9.0).reshape(3, 3).T)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("ij,jk->ik", (5, 3), "out has shape (5, 3), the result (3, 5)"),
        ("ij,jk->", (1,), "out has shape (1,), the result ()"),
        ("ij,jk->i,k", (3,), "out= takes one result; this expression has several"),
    ],
)
def test_out_of_another_shape_is_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    assert message_of(OperandError, contractc.contract, text, A, B, out=np.empty(shape)) == message


# strip_exponent


@pytest.mark.parametrize(
    ("text", "operands"),
    [
        ("ij,jk->ik", (A, B)),
        ("ij,jk->", (Z, W)),
        ("i->", (A[0].astype("float16"),)),
        ("i,i->i", (A[0].astype("longdouble"), A[1])),
        ("ij->ji", (A,)),
        ("i->", (np.zeros(3),)),
        ("i->", (np.zeros(0),)),
    ],
)
def test_strip_exponent_gives_a_mantissa_and_a_python_int(text: str, operands: tuple[Any, ...]) -> None:
    mantissa, exponent = contractc.contract(text, *operands, strip_exponent=True)
    value = contractc.contract(text, *operands)
    assert type(exponent) is int
    assert np.asarray(mantissa).dtype == np.asarray(value).dtype
    np.testing.assert_allclose(
        mantissa * 2.0**exponent, value, rtol=2e-3 if value.dtype == "float16" else 1e-14
    )
    assert np.max(np.abs([np.real(mantissa), np.imag(mantissa)])) < 1


def test_strip_exponent_reaches_beyond_the_range_of_floats() -> None:
    assert contractc.contract(",->", 1e300, 1e300, strip_exponent=True)[1] == 1994
    assert contractc.contract(",,->", *[1e-300] * 3, strip_exponent=True)[1] == -2989
    chain = [part for k in range(500) for part in (np.full((2, 2), 1e200), [k, k + 1])]
    mantissa, exponent = contractc.contract(*chain, [0, 500], strip_exponent=True)
    exact = 10 ** (200 * 500) * 2**499
    shift = exact.bit_length()
    assert exponent == shift
    np.testing.assert_allclose(mantissa, exact / 2**shift, rtol=1e-12)
    ones = np.ones(100_000, "float16")
    mantissa, exponent = contractc.contract("i,i->", ones, ones, strip_exponent=True)
    assert float(mantissa) * 2**exponent == pytest.approx(100_000, rel=1e-3)


def test_strip_exponent_gives_a_pair_for_each_output() -> None:
    (product, power), (total, other) = contractc.contract("ij,jk->ik,", A, B, strip_exponent=True)
    np.testing.assert_allclose(product * 2.0**power, A @ B, rtol=1e-14)
    assert total * 2.0**other == pytest.approx((A @ B).sum())


@pytest.mark.parametrize(
    ("operands", "options", "message"),
    [
        (
            ([1, 2],),
            {},
            "strip_exponent needs sums of products of floating numbers, not sum_product of int64",
        ),
        (
            (A[0],),
            {"semiring": "max_plus"},
            "strip_exponent needs sums of products of floating numbers, not max_plus of float64",
        ),
    ],
)
def test_strip_exponent_is_for_floats_and_sums(operands: Any, options: Any, message: str) -> None:
    assert (
        message_of(UnsupportedError, contractc.contract, "i->", *operands, strip_exponent=True, **options)
        == message
    )


def test_strip_exponent_in_slices() -> None:
    x = 1e200 * np.random.default_rng(2).standard_normal((2, 50))
    text = "ia,ja,ka,la->ijkl"
    peak = contractc.plan(text, *[x] * 4).peak
    assert contractc.plan(text, *[x] * 4, memory_limit=peak - 1).sliced
    mantissa, exponent = contractc.contract(text, *[x] * 4, strip_exponent=True, memory_limit=peak - 1)
    expected, power = contractc.contract(text, *[x] * 4, strip_exponent=True)
    assert exponent == power
    np.testing.assert_allclose(mantissa, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_strip_exponent_of_factorized_operands(dtype: str) -> None:
    cores = [rng.random((1, 3, 4, 2)).astype(dtype), rng.random((2, 5, 6, 1)).astype(dtype)]
    matrix = formats.tt_matrix(cores)
    x = rng.random((7, 24)).astype(dtype)
    mantissa, exponent = contractc.contract("bi,oi->bo", x, matrix, strip_exponent=True)
    assert (mantissa.dtype, mantissa.shape) == (np.dtype(dtype), (7, 15))
    np.testing.assert_allclose(
        mantissa.astype(float) * 2.0**exponent, contractc.contract("bi,oi->bo", x, matrix), rtol=5e-3
    )


def test_factorized_operands_are_refused_in_other_semirings() -> None:
    """Their dense array is a sum of products: contracting the factors by max and plus would be another one."""
    matrix = formats.low_rank(rng.random((3, 2)), rng.random((2, 4)))
    assert message_of(UnsupportedError, contractc.contract, "ij->i", matrix, semiring="max_plus") == (
        "low rank operands are sums of products, which max_plus cannot contract"
    )


# memory


def test_a_memory_limit_slices_and_changes_no_value() -> None:
    x, y, z = (rng.integers(-8, 9, shape) / 4 for shape in ((8, 20), (8, 20), (8, 20)))
    text = "ia,ja,ka->ijk"
    whole = contractc.plan(text, x, y, z)
    expected = contractc.contract(text, x, y, z)
    least = None
    for limit in range(whole.peak, 0, -256):
        try:
            plan = contractc.plan(text, x, y, z, memory_limit=limit)
        except ResourceLimitError:
            least = limit
            break
        assert plan.peak <= limit
        np.testing.assert_array_equal(contractc.contract(text, x, y, z, memory_limit=limit), expected)
    assert least is not None
    assert least < whole.peak - 256
    with pytest.raises(ResourceLimitError):
        contractc.contract(text, x, y, z, memory_limit=least)


@pytest.mark.parametrize("dtype", ["int64", "bool", "object", "complex128"])
@pytest.mark.parametrize("text", ["ia,ja,ka->ijk", "ia,ja,ka->", "ia,ja,ka->a,ii"])
def test_slices_give_the_same_values_in_every_dtype(dtype: str, text: str) -> None:
    operands = [rng.integers(0, 3, (4, 20)).astype(dtype) for _ in range(3)]
    plan = contractc.plan(text, *operands, memory_limit=contractc.plan(text, *operands).peak - 1)
    assert plan.sliced
    sliced = build(plan, Target(), Options())
    results, expected = sliced(*operands), contractc.contract(text, *operands)
    for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (results, expected)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sums_of_objects_over_slices_do_not_overflow() -> None:
    x = np.full((4, 4), 2**61, object)
    y = np.full((4, 4), 1, object)
    plan = contractc.plan("ij,jk->", x, y)
    found = None
    for limit in range(plan.peak - 1, 0, -8):
        try:
            found = contractc.contract("ij,jk->", x, y, memory_limit=limit)
        except ResourceLimitError:
            break
    assert found in (None, 64 * 2**61)


@pytest.mark.parametrize(
    ("limit", "inputs", "allowed"),
    [
        (None, (3, 4), None),
        (-1, (3, 4), None),
        ("max_input", (3, 4), 15),
        ("max_input", (), 0),
        (0, (3, 4), 0),
        (1e3, (), 1000),
        (np.int64(5), (), 5),
    ],
)
def test_bytes_allowed_reads_a_limit(limit: Any, inputs: Any, allowed: int | None) -> None:
    assert bytes_allowed(limit, inputs) == allowed


@pytest.mark.parametrize("limit", ["most", -2, "1GB"])
def test_a_memory_limit_that_is_no_number_of_bytes_is_refused(limit: Any) -> None:
    assert message_of(ValueError, contractc.contract, "ij,jk->ik", A, B, memory_limit=limit) == (
        f"memory_limit={limit!r} is no number of bytes, None, -1 or 'max_input'"
    )


@pytest.mark.parametrize("limit", [None, -1, 376, 10**9])
def test_a_memory_limit_that_is_kept_anyway_changes_nothing(limit: Any) -> None:
    np.testing.assert_array_equal(contractc.contract("ij,jk->ik", A, B, memory_limit=limit), A @ B)


def test_max_input_is_the_operands_and_twice_the_largest() -> None:
    np.testing.assert_array_equal(contractc.contract("ij,jk->ik", A, B, memory_limit="max_input"), A @ B)
    assert (
        message_of(ResourceLimitError, contractc.contract, "i,j->ij", A[0], B[0], memory_limit="max_input")
        == "the contraction needs 232 bytes with its operands, memory_limit is 152 bytes"
    )


@pytest.mark.parametrize("call", [contractc.contract, contractc.einsum])
def test_a_result_of_eight_terabytes_is_refused(call: Any) -> None:
    x = np.ones(10**6)
    message = message_of(ResourceLimitError, call, "i,j->ij", x, x)
    assert message.startswith("the contraction would allocate 8000000000000 bytes (8 TB), this machine has ")


def test_sizes_beyond_every_float_are_refused_in_words() -> None:
    vector = np.ones(10)
    pairs = [part for k in range(400) for part in (vector, [k])]
    message = message_of(ResourceLimitError, contractc.contract, *pairs, list(range(400)))
    assert message.startswith("the contraction would allocate 8e+400 bytes, this machine has ")
    message = message_of(ResourceLimitError, contractc.contract, *pairs, list(range(400)), memory_limit=10**6)
    assert message == (
        "the contraction needs 8e+400 bytes with its operands, memory_limit is 1000000 bytes (1 MB)"
    )


# einsum and einsum_path


@pytest.mark.parametrize(
    ("text", "operands", "message"),
    [
        ("i->ii", (A[0],), "output mode 'i' is repeated; contract accepts that\n  i->ii\n     ^^"),
        ("ij->i,j", (A,), "einsum has one output; contract takes several\n  ij->i,j\n       ^"),
        (
            "...i->i",
            (A,),
            "the output has no ellipsis for the axes that one covers; contract sums them\n  ...i->i",
        ),
    ],
)
def test_einsum_refuses_what_numpy_refuses(text: str, operands: tuple[Any, ...], message: str) -> None:
    for _ in range(2):
        assert message_of(EinsumError, contractc.einsum, text, *operands) == message
        contractc.contract(text, *operands)
    with pytest.raises(ValueError, match=r"multiple times|invalid subscript|no .* ellipsis provided"):
        np.einsum(text, *operands)


def test_einsum_accepts_an_ellipsis_left_out_that_covers_no_axes() -> None:
    np.testing.assert_array_equal(contractc.einsum("...i->i", A[0]), A[0])


@pytest.mark.parametrize(
    "optimize", [None, True, False, "greedy", "optimal", ("greedy", 1000), ["einsum_path", (0, 1), (0, 1)]]
)
def test_optimize_never_changes_the_value(optimize: Any) -> None:
    x, y, z = (rng.integers(-8, 9, shape).astype(float) for shape in ((3, 4), (4, 5), (5, 6)))
    expected = np.einsum("ij,jk,kl->il", x, y, z)
    np.testing.assert_array_equal(contractc.einsum("ij,jk,kl->il", x, y, z, optimize=optimize), expected)
    np.testing.assert_array_equal(contractc.contract("ij,jk,kl->il", x, y, z, optimize=optimize), expected)


def test_einsum_path_is_understood_by_numpy_and_by_us() -> None:
    path, text = contractc.einsum_path("ij,jk,kl->il", A, B, C)
    assert path == ["einsum_path", (1, 2), (0, 1)]
    assert text == str(contractc.plan("ij,jk,kl->il", A, B, C, optimize="greedy"))
    np.testing.assert_allclose(np.einsum("ij,jk,kl->il", A, B, C, optimize=path), A @ B @ C, rtol=1e-14)
    np.testing.assert_allclose(
        contractc.einsum("ij,jk,kl->il", A, B, C, optimize=path), A @ B @ C, rtol=1e-14
    )


def test_an_incomplete_path_is_completed_by_contract_and_refused_by_einsum() -> None:
    np.testing.assert_allclose(
        contractc.contract("ij,jk,kl->il", A, B, C, optimize=[(0, 1)]), A @ B @ C, rtol=1e-14
    )
    assert message_of(RuntimeError, contractc.einsum, "ij,jk,kl->il", A, B, C, optimize=[(0, 1)]) == (
        "the path leaves 2 of 3 operands uncontracted"
    )


# options


def test_frozen_makes_a_path_hashable() -> None:
    assert frozen([[0, 1], (0, 1)]) == ((0, 1), (0, 1))
    assert frozen(["einsum_path", (0, 1)]) == ("einsum_path", (0, 1))
    assert frozen(("greedy", 10**6)) == "greedy"
    assert frozen("greedy") == "greedy"
    assert frozen(False) is False


def test_options_are_hashable() -> None:
    assert hash(Options(frozen([(0, 1)]))) == hash(Options(((0, 1),)))


def test_a_backend_of_another_library_is_refused() -> None:
    np.testing.assert_array_equal(contractc.contract("ij,jk->ik", A, B, backend="numpy"), A @ B)
    np.testing.assert_array_equal(contractc.contract("ij,jk->ik", A, B, backend="auto"), A @ B)
    assert message_of(UnsupportedError, contractc.contract, "ij,jk->ik", A, B, backend="torch") == (
        "the operands belong to numpy; backend='torch' cannot run them"
    )


def test_an_unknown_semiring_is_refused() -> None:
    text = (
        "no semiring is called 'plus'; there are sum_product, max_plus, min_plus, max_times, "
        "or_and, log_sum_exp"
    )
    for call in (contractc.contract, contractc.compile, contractc.plan):
        assert message_of(EinsumError, call, "ij,jk->ik", A, B, semiring="plus") == text
    assert message_of(EinsumError, contractc.contract, parse("ij,jk->ik"), A, B, semiring="plus") == text


def test_plan_and_compile_take_shapes_arrays_and_both() -> None:
    plans = [contractc.plan("ij,jk->ik", *given) for given in ((A, B), ((3, 4), (4, 5)), (A, (4, 5)))]
    assert plans[0] == plans[1] == plans[2]
    for given in ((A, B), ((3, 4), (4, 5)), ([3, 4], (4, 5))):
        if isinstance(given[0], list):
            assert message_of(OperandError, contractc.plan, "ij,jk->ik", *given).startswith(
                "operand 0 has 1 axis"
            )
        else:
            np.testing.assert_array_equal(contractc.compile("ij,jk->ik", *given)(A, B), A @ B)
    assert contractc.plan("i->", (3,), dtype=np.float32).network.dtype == "float32"
    assert message_of(OperandError, contractc.plan, "i->", (-3,)) == (
        "the shape of operand 0 is -3 on axis 0; extents are 0 or more"
    )


def test_plan_runs_nothing() -> None:
    plan = contractc.plan("ij,jk,kl->il", *[(10**6, 10**6)] * 3)
    assert plan.flops == 2 * 2 * 10**18
    assert plan.peak > 8 * 10**12


# the cache


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the calls caches of their own, small ones."""
    monkeypatch.setattr(calls, "MOST_CACHED", 8)
    monkeypatch.setattr(calls, "_executables", type(calls._executables)())
    recent.latest.clear()
    recent.latest_einsum.clear()


def test_a_text_keeps_code_for_several_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "xy,yz->xz"
    pairs = [(np.ones((n, 3)), np.ones((3, 2))) for n in range(1, 6)]
    for x, y in pairs:
        contractc.contract(text, x, y)
        contractc.einsum(text, x, y)
    monkeypatch.setattr("contractc.calls.contract_anew", None)
    monkeypatch.setattr("contractc.calls.einsum_anew", None)
    for x, y in pairs * 2:
        np.testing.assert_array_equal(contractc.contract(text, x, y), x @ y)
        np.testing.assert_array_equal(contractc.einsum(text, x, y), x @ y)


@pytest.mark.usefixtures("empty_cache")
def test_a_full_cache_forgets_the_oldest_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_CACHED", 3)
    texts = ["i->", "i->i", "i,i->i", "i,i->"]
    for text in texts:
        contractc.contract(text, *[np.ones(2)] * (1 + text.count(",")))
    assert set(recent.latest) == set(texts[1:])


def test_results_are_made_in_c_order_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.ones((40, 50, 60)), np.ones((60, 30))
    made = np.einsum("abc,cd->dba", x, y)
    np.testing.assert_array_equal(contractc.contract("abc,cd->dba", x, y), made)
    monkeypatch.setattr("contractc.calls._delivered", lambda result, *given: result)
    for call in (contractc.contract, contractc.einsum):
        result = call("abc,cd->dba", x, y, order="C")
        np.testing.assert_array_equal(result, made)
        assert result.flags.c_contiguous


def test_calls_with_options_find_their_code_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, out = np.arange(6.0).reshape(2, 3), np.ones((3, 2)), np.empty((2, 2))
    text = "pq,qr->pr"
    calls_with: list[dict[str, Any]] = [
        {"optimize": "greedy"},
        {"order": "F"},
        {"out": out},
        {"semiring": "max_plus"},
        {"dtype": "float64", "casting": "same_kind"},
    ]
    first = [np.array(contractc.contract(text, x, y, **options)) for options in calls_with]
    monkeypatch.setattr("contractc.calls.read", None)
    for options, value in zip(calls_with, first, strict=True):
        again = contractc.contract(text, x, y, **options)
        np.testing.assert_array_equal(again, value)
        assert again.flags.f_contiguous or "order" not in options
    assert contractc.contract(text, x, y, out=out) is out
    with pytest.raises(TypeError, match="not callable"):  # other dtypes are another call
        contractc.contract(text, x.astype("float32"), y.astype("float32"), optimize="greedy")


def test_operands_with_equal_factors_and_other_layouts_are_told_apart() -> None:
    left, right = np.arange(4.0).reshape(2, 2), np.arange(4.0, 8.0).reshape(2, 2)
    x = np.arange(8.0).reshape(2, 4)
    for _ in range(2):
        product = contractc.contract("bi,oi->bo", x[:, :2], formats.low_rank(left, right))
        np.testing.assert_allclose(product, x[:, :2] @ (left @ right).T)
        product = contractc.contract("bi,oi->bo", x, formats.kronecker(left, right))
        np.testing.assert_allclose(product, x @ np.kron(left, right).T)


@pytest.mark.usefixtures("empty_cache")
def test_the_cache_keeps_the_latest() -> None:
    for n in range(1, 30):
        assert contractc.contract("i->", np.ones(n)) == n
        assert contractc.einsum("i->", np.ones(n)) == n
    assert len(calls._executables) == 8
    first = next(iter(calls._executables.values()))
    contractc.contract("i->", np.ones(22), semiring="sum_product", optimize="auto")
    assert contractc.contract("i->", np.ones(22)) == 22
    assert first.program.extents == (22,)


@pytest.mark.usefixtures("empty_cache")
def test_texts_of_one_expression_do_not_grow_the_cache() -> None:
    """Blanks and letters are free, so one executable has any number of texts."""
    for k in range(100):
        assert contractc.contract(" " * k + "i->", [1.0]) == 1
        assert contractc.einsum(chr(ord("a") + k % 26) + " " * k + "->", [1.0]) == 1
    assert len(calls._executables) <= 8
    assert len(recent.latest) <= 8
    assert len(recent.latest_einsum) <= 8


@pytest.mark.usefixtures("empty_cache")
def test_equal_expressions_share_one_executable() -> None:
    contractc.contract("ij,jk->ik", A, B)
    contractc.contract("ab, bc -> ac", A, B)
    contractc.contract(A, [0, 1], B, [1, 2])
    contractc.einsum("ij,jk", A, B)
    assert len(calls._executables) == 1
    contractc.contract("ij,jk->ik", A, B, semiring="max_plus")
    contractc.contract("ij,jk->ik", A, B, optimize="greedy")
    assert len(calls._executables) == 3


@pytest.mark.usefixtures("empty_cache")
def test_an_unhashable_optimizer_is_used_and_not_kept() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, inputs: Any, output: Any, sizes: Any, memory_limit: Any) -> Any:
            return [(0, 1)]

    np.testing.assert_array_equal(contractc.contract("ij,jk->ik", A, B, optimize=Unhashable()), A @ B)
    assert len(calls._executables) == 0


def test_the_cache_tells_shapes_dtypes_and_options_apart() -> None:
    for n in (3, 4, 3):
        assert contractc.contract("i,i->", np.ones(n), np.ones(n)) == n
    for dtype in ("float32", "int64", "complex64", "float32"):
        assert contractc.contract("i,i->", np.ones(3, dtype), np.ones(3, dtype)).dtype == dtype
    assert contractc.contract("i->", np.ones(3), semiring="max_plus") == 1
    assert contractc.contract("i->", np.ones(3)) == 3
    assert contractc.contract("...i->i", A).shape == (4,)
    assert message_of(EinsumError, contractc.einsum, "...i->i", A).startswith("the output has no ellipsis")


def test_the_cache_keeps_no_operand_alive() -> None:
    class Tracked(np.ndarray):
        pass

    x = np.ones((3, 4)).view(Tracked)
    contractc.contract("ij,jk->ik", x, B)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None


@pytest.mark.usefixtures("empty_cache")
def test_eight_threads_share_the_cache() -> None:
    """A cache of 8 for 24 shapes: every call evicts what another thread is about to use."""
    wrong: list[object] = []

    def work(seed: int) -> None:
        own = np.random.default_rng(seed)
        try:
            for _ in range(60):
                n = int(own.integers(1, 25))
                x, y = own.random((n, 3)), own.random((3, n))
                if not np.allclose(contractc.contract("ij,jk->ik", x, y), x @ y):
                    wrong.append((seed, n))
                if not np.allclose(contractc.einsum(f"i{' ' * n}j->j", x), x.sum(0)):
                    wrong.append((seed, -n))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(calls._executables) <= 8


# untrusted input


def test_an_unpickled_array_is_an_array() -> None:
    x = pickle.loads(pickle.dumps(A))
    for _ in range(2):
        np.testing.assert_array_equal(contractc.contract("ij,jk->ik", x, B), A @ B)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a" * 1_000_000 + "->a", OperandError),
        ("," * 999_990 + "->", OperandError),
        ("..." * 333_333, EinsumError),
        ("ab," * 333_333, OperandError),
        ("\n" * 999_990 + "i->", None),
    ],
    ids=["letters", "commas", "dots", "terms", "blanks"],
)
def test_a_million_characters_are_answered_or_refused(text: str, error: type[Exception] | None) -> None:
    if error is None:
        assert contractc.contract(text, np.ones(3)) == 3
    else:
        with pytest.raises(error):
            contractc.contract(text, np.ones(3))


def test_a_million_operands_are_refused() -> None:
    assert message_of(ResourceLimitError, contractc.contract, "," * 999_999 + "->", [1.0] * 1_000_000) == (
        "1000000 operands; at most 20000 are planned"
    )


def test_a_view_of_a_broadcast_array_allocates_nothing() -> None:
    huge = np.broadcast_to(0.0, (10**6, 10**6))
    assert contractc.contract("ij->ji", huge).shape == (10**6, 10**6)
    assert contractc.contract("ii->i", huge).shape == (10**6,)
    with pytest.raises(ResourceLimitError):
        contractc.contract("ij,ij->ij", huge, huge)


def test_a_numpy_executable_refuses_a_torch_tensor() -> None:
    torch = pytest.importorskip("torch")
    double = contractc.compile("i,->i", (2,), ())
    assert message_of(OperandError, double, torch.ones(2, dtype=torch.float64), 2.0) == (
        "operand 0 is a tensor of torch, but this was compiled for NumPy"
    )


@pytest.mark.parametrize("function", [contractc.compile, contractc.plan])
def test_a_shape_alone_is_one_operand(function: Any) -> None:
    with pytest.raises(OperandError) as caught:
        function("ij,jk->ik", (3, 4))
    assert str(caught.value) == "the expression has 2 terms but 1 operand was given\n  ij,jk->ik"
    assert str(function("ij,jk->ik", ((3, 4), (4, 5)))) == str(function("ij,jk->ik", (3, 4), (4, 5)))
