"""The array-API backend: nothing beyond the standard, the right values, traced by JAX, refusals in words."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import contractc
import reference
from expressions import EXPRESSIONS, Expression, random_operands

strict = pytest.importorskip("array_api_strict")


@pytest.fixture(autouse=True)
def standard_without_extensions() -> Iterator[None]:
    """Nothing but the 2023.12 standard: no extensions, no shapes or values that data decide."""
    with strict.ArrayAPIStrictFlags(
        api_version="2023.12", enabled_extensions=(), data_dependent_shapes=False, boolean_indexing=False
    ):
        yield


def arrays(row: Expression, dtype: str = "float64", of: Callable[[Any], Any] = strict.asarray) -> list[Any]:
    return [of(x) for x in random_operands(row, dtype)]


def truth(text: str, *operands: Any) -> Any:
    """Return the exact answer, or a tuple of them."""
    inputs, outputs = reference.parse(text)
    found = reference.vectorised(inputs, outputs, [np.asarray(x) for x in operands])
    return found[0] if len(found) == 1 else tuple(found)


def check(found: Any, expected: Any, relative: float = 0.0) -> None:
    many = found if isinstance(found, tuple) else (found,)
    answers = expected if isinstance(expected, tuple) else (expected,)
    for x, y in zip(many, answers, strict=True):
        assert x.shape == np.shape(y)
        np.testing.assert_allclose(np.asarray(x), y, rtol=relative, atol=relative)


@pytest.mark.parametrize("row", EXPRESSIONS, ids=str)
def test_contract_keeps_to_the_standard_and_the_truth(row: Expression) -> None:
    operands = arrays(row)
    found = contractc.contract(row.text, *operands)
    check(found, truth(row.text, *random_operands(row)), relative=1e-12)
    for result in found if isinstance(found, tuple) else (found,):
        assert type(result) is type(operands[0])
        assert result.dtype == strict.float64


MATMULS = ["ij,jk->ik", "bij,bjk->bki", "i,i->", "bi,bi->b", "ij,j->i", "iij,jk->ik", "i->ii", "ij,jk,kl->il"]


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "uint64", "float32", "complex64", "complex128"],
)
@pytest.mark.parametrize("text", MATMULS)
def test_contract_in_each_dtype(text: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    terms = text.partition("->")[0].split(",")
    low = -3 if np.dtype(dtype).kind in "ifc" else 0
    extents = {"b": 2, "i": 3, "j": 4, "k": 5, "l": 2}
    operands = [rng.integers(low, 4, [extents[m] for m in t]).astype(dtype) for t in terms]
    if np.dtype(dtype).kind == "c":
        operands = [x + np.asarray(1j, dtype) for x in operands]
    found = contractc.contract(text, *map(strict.asarray, operands))
    exact = reference.einsum(text, *operands)
    assert str(found.dtype).endswith(dtype)
    np.testing.assert_array_equal(np.asarray(found), reference.as_dtype(exact, dtype))


def test_contract_of_bool_does_not_saturate() -> None:
    many = strict.ones((2, 70000), dtype=strict.bool)
    assert np.asarray(contractc.contract("ij,kj->ik", many, many)).tolist() == [[True, True], [True, True]]
    none = strict.zeros((2, 70000), dtype=strict.bool)
    assert not np.asarray(contractc.contract("ij,kj->ik", many, none)).any()


def test_contract_conjugates_operands() -> None:
    x, y = (np.array([1 + 2j, 3 - 1j]), np.array([2 - 1j, 1j]))
    found = contractc.contract("i,i->", strict.asarray(x), strict.asarray(y), conj=0)
    assert complex(found) == np.vdot(x, y)


@pytest.mark.parametrize(
    ("one", "two", "dtype"),
    [
        ("float32", "float64", "float64"),
        ("float32", "complex64", "complex64"),
        ("complex64", "float64", "complex128"),
        ("int8", "uint8", "int16"),
        ("uint32", "int64", "int64"),
    ],
)
def test_contract_promotes_as_the_standard_does(one: str, two: str, dtype: str) -> None:
    x = strict.ones((2, 3), dtype=getattr(strict, one))
    y = strict.ones((3, 2), dtype=getattr(strict, two))
    found = contractc.contract("ij,jk->ik", x, y)
    assert found.dtype == getattr(strict, dtype) == strict.result_type(x, y)
    np.testing.assert_array_equal(np.asarray(found), np.full((2, 2), 3))


@pytest.mark.parametrize(
    ("one", "two"), [("int64", "float32"), ("uint64", "int64"), ("bool", "int8"), ("bool", "float64")]
)
def test_contract_refuses_what_the_standard_does_not_promote(one: str, two: str) -> None:
    x = strict.ones(3, dtype=getattr(strict, one))
    y = strict.ones(3, dtype=getattr(strict, two))
    with pytest.raises(TypeError):
        strict.result_type(x, y)
    with pytest.raises(contractc.OperandError) as caught:
        contractc.contract("i,i->", x, y)
    message = f"{one}, {two} have no common dtype in the array API standard; convert some operands"
    assert str(caught.value) == message


def test_contract_takes_lists_and_numbers_beside_arrays() -> None:
    x = strict.asarray([[1.0, 2.0], [3.0, 4.0]], dtype=strict.float32)
    found = contractc.contract("ij,j,->i", x, [10, 100], 2)
    assert found.dtype == strict.float32
    assert np.asarray(found).tolist() == [420.0, 860.0]
    turned = contractc.contract("ij,->ij", x, 1j)
    assert turned.dtype == strict.complex64
    assert np.asarray(turned).tolist() == [[1j, 2j], [3j, 4j]]
    with pytest.raises(contractc.OperandError, match=r"int64, float64 have no common dtype"):
        contractc.contract("i,->i", strict.asarray([1, 2]), 0.5)
    with pytest.raises(TypeError, match="operand 1 has dtype <U1"):
        contractc.contract("i,i->i", x[0, :], ["a", "b"])


def test_contract_spreads_zeros_off_the_diagonal_also_beside_nan() -> None:
    found = np.asarray(contractc.contract("i->ii", strict.asarray([np.nan, np.inf])))
    assert found[0, 1] == found[1, 0] == 0.0
    assert np.isnan(found[0, 0])
    assert found[1, 1] == np.inf
    cube = np.asarray(contractc.contract("ij->jiji", strict.asarray([[1.0, 2.0], [3.0, 4.0]])))
    np.testing.assert_array_equal(cube, truth("ij->jiji", [[1.0, 2.0], [3.0, 4.0]]))


def test_contract_sums_and_takes_diagonals_of_nothing() -> None:
    empty = strict.zeros((0, 0, 3))
    assert np.asarray(contractc.contract("iij->j", empty)).tolist() == [0.0, 0.0, 0.0]
    assert contractc.contract("iij->ij", empty).shape == (0, 3)
    assert contractc.contract("i->ii", strict.zeros(0)).shape == (0, 0)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ab,bc,cd,da->", [(6, 6)] * 4),
        ("ab,bc,cd->ad", [(6, 7), (7, 8), (8, 5)]),
        ("ai,bi,ci->abc", [(6, 5), (7, 5), (8, 5)]),
        ("ab,bc,cd->da,a", [(6, 7), (7, 8), (8, 5)]),
        ("ab,bc,cd->aa", [(8, 7), (7, 9), (9, 5)]),
    ],
)
def test_contract_in_slices(text: str, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(5)
    operands = [rng.integers(-4, 5, shape) / 4 for shape in shapes]
    limit = least_limit(text, operands)
    assert contractc.plan(text, *operands, memory_limit=limit).sliced
    found = contractc.contract(text, *map(strict.asarray, operands), memory_limit=limit)
    check(found, truth(text, *operands), relative=1e-12)


def least_limit(text: str, operands: list[Any]) -> int:
    """Return the least number of bytes within which the planner can contract, to one part in a hundred."""
    limit = contractc.plan(text, *operands).peak
    while True:
        try:
            contractc.plan(text, *operands, memory_limit=limit * 99 // 100)
        except contractc.ResourceLimitError:
            return limit
        limit = limit * 99 // 100


def test_compile_holds_copies_of_constants() -> None:
    weights = strict.asarray([[1.0, 2.0], [3.0, 4.0]])
    shift = strict.asarray([10.0, 100.0])
    layer = contractc.compile("bi,ij,j->bj", (3, 2), weights, shift, constants=[1, 2])
    weights[...] = strict.zeros((2, 2))
    x = strict.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert np.asarray(layer(x)).tolist() == [[10.0, 200.0], [30.0, 400.0], [40.0, 600.0]]
    assert str(layer.target) == "array_api"
    (held,) = layer.program.constants
    products = ([[10.0, 30.0], [200.0, 400.0]], [[10.0, 30.0], [200.0, 401.0]])  # summed modes last
    same, other = (
        contractc.compile("bi,ji->bj", (3, 2), strict.asarray(x), constants=[1]).program.constants[0]
        for x in products
    )
    assert same.digest == held.digest != other.digest


def test_compile_with_a_dynamic_mode_takes_any_extent() -> None:
    layer = contractc.compile("bi,ij->bj", (4, 2), (2, 3), dynamic=["b"], target="array_api")
    weights = np.arange(6.0).reshape(2, 3)
    for batch in (4, 1, 7):
        x = np.arange(2.0 * batch).reshape(batch, 2)
        found = layer(strict.asarray(x), strict.asarray(weights))
        np.testing.assert_array_equal(np.asarray(found), x @ weights)
    with pytest.raises(contractc.OperandError, match="operand 0 has shape"):
        layer(strict.ones((4, 3)), strict.ones((2, 3)))


def test_compile_shows_functions_of_the_standard() -> None:
    product = contractc.compile("ij,kj->ik", (2, 3), (4, 3), target="array_api")
    assert product.source == (
        "def contracted(x0, x1):\n"
        "    if not fits(x0, 'float64', (2, 3)):\n"
        "        return MISS\n"
        "    if not fits(x1, 'float64', (4, 3)) or not same_library(x0, x1):\n"
        "        return MISS\n"
        "    x2 = matmul(x0, permute(x1, (1, 0)))\n"
        "    return x2\n"
    )


def test_cached_code_is_not_used_for_another_library() -> None:
    ours, numpys = strict.ones((2, 2)), np.ones((2, 2))
    for _ in range(2):
        assert type(contractc.contract("pq,qr->pr", ours, ours)) is type(ours)
        assert type(contractc.contract("pq,qr->pr", numpys, numpys)) is np.ndarray


def test_arrays_of_two_libraries_are_refused() -> None:
    with pytest.raises(contractc.OperandError) as caught:
        contractc.contract("i,i->", strict.ones(3), np.ones(3))
    assert str(caught.value) == (
        "operand 0 is a Array of array_api but operand 1 a ndarray of numpy; convert one of them"
    )
    dot = contractc.compile("i,i->", (3,), (3,), target="array_api")
    with pytest.raises(contractc.OperandError) as caught:
        dot(strict.ones(3), np.ones(3))
    assert str(caught.value) == "operand 1 is a ndarray of another array library; convert it"
    with pytest.raises(contractc.OperandError) as caught:
        dot([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert str(caught.value) == "operand 0 is a list; one operand has to be an array"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"semiring": "max_plus"},
            "max_plus needs NumPy or torch; other arrays have sum_product",
        ),
        ({"strip_exponent": True}, "exponents are split off on NumPy or torch only"),
    ],
)
def test_refuses_says_why(options: dict[str, Any], reason: str) -> None:
    x = strict.ones((2, 2))
    with pytest.raises(contractc.UnsupportedError) as caught:
        contractc.contract("ij,jk->ik", x, x, **options)
    first, program = str(caught.value).split("\n", 1)
    assert first == f"backend 'array_api' cannot run this: {reason}"
    assert program.startswith("program (%0: f64[i=2, j=2], ")


def test_refuses_dtypes_beyond_the_standard() -> None:
    with pytest.raises(
        contractc.UnsupportedError, match="%0 is object, which the array API standard does not"
    ):
        contractc.compile("i->", (3,), dtype="object", target="array_api")


def test_absence_of_array_api_compat_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "contractc.backends.array_api", raising=False)
    monkeypatch.setitem(sys.modules, "array_api_compat", None)
    with pytest.raises(contractc.UnsupportedError) as caught:
        contractc.contract("i->", strict.ones(3))
    assert str(caught.value) == "arrays of this library need the package array-api-compat"
    monkeypatch.undo()
    importlib.import_module("contractc.backends.array_api")


TRACED = [
    "ij,jk->ik",
    "ii->i",
    "i->ii",
    "bij,bjk,bkl->bil",
    "i,j,ij->",
    "ijk,ikj->ij",
    "ij,jk->ik,i",
    "...ij,...jk->...ik",
]


@pytest.mark.parametrize("text", TRACED)
def test_contract_is_traced_by_jax(text: str) -> None:
    jax = pytest.importorskip("jax")
    extents = dict.fromkeys("bijkl", 3)
    shapes = [tuple(extents[m] for m in t.replace("...", "b")) for t in text.partition("->")[0].split(",")]
    rng = np.random.default_rng(11)
    operands = [(rng.integers(-8, 9, shape) / 4).astype("float32") for shape in shapes]
    jitted = jax.jit(lambda *xs: contractc.contract(text, *xs))(*operands)
    eager = contractc.contract(text, *map(jax.numpy.asarray, operands))
    for found in (jitted, eager):
        check(found, truth(text, *operands), relative=1e-6)
        assert all(isinstance(x, jax.Array) for x in (found if isinstance(found, tuple) else (found,)))


def test_contract_is_differentiated_and_batched_by_jax() -> None:
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(13)
    a, b, c = ((rng.integers(-8, 9, shape) / 4).astype("float32") for shape in ((3, 4), (4, 5), (5, 3)))

    def trace(a: Any, b: Any, c: Any) -> Any:
        return contractc.contract("ij,jk,ki->", a, b, c)

    gradient = jax.jit(jax.grad(trace, argnums=1))(*map(jax.numpy.asarray, (a, b, c)))
    np.testing.assert_allclose(gradient, (c @ a).T, rtol=1e-6)
    stacked = np.stack([a, 2 * a])
    batched = jax.vmap(trace, in_axes=(0, None, None))(*map(jax.numpy.asarray, (stacked, b, c)))
    np.testing.assert_allclose(batched, [np.trace(a @ b @ c), 2 * np.trace(a @ b @ c)], rtol=1e-6)


def test_contract_of_narrow_floats_accumulates_in_float32() -> None:
    jax = pytest.importorskip("jax")
    many = jax.numpy.ones((1, 4096), "bfloat16")
    found = contractc.contract("ij,kj->ik", many, many)
    assert str(found.dtype) == "bfloat16"
    assert float(found[0, 0]) == 4096.0


def test_arrays_of_jax_and_of_another_library_are_refused() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(contractc.OperandError) as caught:
        contractc.contract("i,i->", jax.numpy.ones(3), strict.ones(3))
    assert str(caught.value) == "operand 1 is a Array of another array library; convert it"
