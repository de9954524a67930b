"""Products of many numbers: powers of two are taken out on the way where they could leave the range of floats."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc.backends import backend_named
from contractc.lower import lower, split_exponents, translate
from contractc.machine import Target
from contractc.operations import add_scaled, times_power
from contractc.plans import sliceable
from contractc.programs import Call, Loop, Program

NUMPY = Target()


def chain(count: int, size: int, dtype: str, scale: float) -> tuple[list[Any], list[np.ndarray]]:
    """Return the arguments of a product of random matrices, and the matrices."""
    rng = np.random.default_rng(count)
    matrices = []
    for _ in range(count):
        x = scale * rng.standard_normal((size, size))
        matrices.append((x + 1j * x.T if dtype.startswith("complex") else x).astype(dtype))
    arguments: list[Any] = []
    for k, x in enumerate(matrices):
        arguments += [x, [k, k + 1]]
    return [*arguments, [0, count]], matrices


def exact_product(matrices: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the product of matrices in float64 from left to right, and an exponent."""
    value, exponent = np.eye(len(matrices[0])), 0
    for x in matrices:
        value = value @ x.astype(np.result_type(x, np.float64))
        power = int(np.frexp(np.abs(value).max())[1])
        value, exponent = value / 2.0**power, exponent + power
    return value, exponent


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("count", "size", "dtype", "scale"),
    [(600, 8, "float64", 1 / 3), (600, 16, "float64", 1.0), (200, 6, "float32", 0.4), (300, 5, "complex128", 0.33)],
)  # fmt: skip
def test_a_chain_of_random_matrices_is_right(
    count: int, size: int, dtype: str, scale: float, library: str
) -> None:
    arguments, matrices = chain(count, size, dtype, scale)
    if library == "torch":
        torch = pytest.importorskip("torch")
        arguments = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in arguments]
    with np.errstate(over="ignore"):
        found = np.asarray(contractc.contract(*arguments))
        mantissa, exponent = exact_product(matrices)
        expected = times_power(mantissa, exponent).astype(dtype)
    assert found.dtype == expected.dtype
    near = 1e-3 if dtype in ("float32", "complex64") else 1e-11
    if np.isfinite(expected).all():
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=near * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(found, expected)


def test_a_plain_product_of_the_same_chain_overflows() -> None:
    arguments, matrices = chain(600, 16, "float64", 1.0)
    with np.errstate(all="ignore"):
        assert not np.isfinite(reduce(np.dot, matrices)).any()
    mantissa, exponent = contractc.contract(*arguments, strip_exponent=True)
    expected, power = exact_product(matrices)
    np.testing.assert_allclose(mantissa, times_power(expected, power - exponent), rtol=1e-9)


def test_what_returns_into_range_is_right_although_both_halves_leave_it() -> None:
    big, small = np.full((3, 3), 2.0**10), np.full((3, 3), 2.0**-10)
    arguments: list[Any] = []
    for k in range(500):
        arguments += [big if k < 250 else small, [k, k + 1]]
    found = contractc.contract(*arguments, [0, 500], optimize=False)
    np.testing.assert_allclose(found, np.full((3, 3), 3.0**499), rtol=1e-12)


def test_a_result_beyond_the_range_is_infinite_of_the_right_sign() -> None:
    arguments: list[Any] = []
    for k in range(700):
        arguments += [np.array([[4.0, 0.0], [0.0, -8.0]]), [k, k + 1]]
    with np.errstate(over="ignore"):
        found = contractc.contract(*arguments[:-2], [0, 699])
    np.testing.assert_array_equal(found, [[np.inf, 0.0], [0.0, -np.inf]])


def splits(program: Program) -> int:
    inner = sum(splits(step.body) for step in program.steps if isinstance(step, Loop))
    return inner + sum(isinstance(s, Call) and s.operation == "split_exponent" for s in program.steps)


def test_only_programs_that_may_overflow_have_exponents_and_few_of_them() -> None:
    shapes = [(4, 4)] * 20
    terms = [[k, k + 1] for k in range(300)]
    short = [x for shape, term in zip(shapes, terms, strict=False) for x in (shape, term)]
    assert splits(contractc.compile(*short, [0, 20]).program) == 0
    assert splits(contractc.compile("ij,jk->ik", (4096, 4096), (4096, 4096), dtype="float32").program) == 0
    long = [x for term in terms for x in ((16, 16), term)]
    assert 3 < splits(contractc.compile(*long, [0, 300]).program) < 20
    assert splits(contractc.compile(*long, [0, 300], dtype="int64").program) == 0
    assert splits(contractc.compile(*long, [0, 300], semiring="max_plus").program) == 0


def test_gradients_of_a_long_chain_add_up_shared_exponents_once() -> None:
    rng = np.random.default_rng(0)
    sites = [rng.standard_normal((4, 4)) * 2.0 ** (7 if k < 200 else -9) for k in range(400)]
    operands = [x for k, site in enumerate(sites) for x in (site, [k, k + 1])]
    both = contractc.compile_gradients(*operands, [0, 400])
    sums = [s for s in both.program.steps if isinstance(s, Call) and s.operation == "sum_exponents"]
    assert sum(len(s.inputs) for s in sums) < 4 * len(both.program.steps)
    cotangent = rng.standard_normal((4, 4))
    value, *gradients = both(*sites, cotangent)
    before, after = [np.eye(4)], [cotangent]
    for x in sites:
        y = before[-1] @ x
        before.append(y / np.abs(y).max())
    for x in reversed(sites):
        y = after[-1] @ x.T
        after.append(y / np.abs(y).max())
    for k in (0, 1, 150, 399):
        exact = before[k].T @ after[399 - k]
        ratio = gradients[k] / exact  # the numbers taken out are the same for all of it
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
        assert np.vdot(gradients[k], sites[k]) == pytest.approx(np.vdot(cotangent, value), rel=1e-9)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@given(st.sampled_from(["ab,bc,cd,da->", "ab,bc,cd->ad", "abx,bcx->xa", "ab,bc,cd->a,d"]), st.data())
@settings(max_examples=12, deadline=None)
def test_exponents_in_slices(backend: str, text: str, data: st.DataObject) -> None:
    if backend == "torch":
        torch = pytest.importorskip("torch")
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    terms = text.partition("->")[0].split(",")
    arrays = [rng.integers(-2, 3, [3] * len(term)).astype("float64") for term in terms]
    plan = contractc.plan(text, *arrays)
    modes = data.draw(
        st.lists(st.sampled_from(sorted(sliceable(plan.network))), min_size=1, max_size=3, unique=True)
    )
    plan = replace(plan, sliced=tuple(modes))
    program = lower(plan, Target(backend), exponents=True)
    powers = data.draw(st.lists(st.sampled_from([-900, 0, 900]), min_size=len(terms), max_size=len(terms)))
    given_ = [np.ldexp(x, p) for x, p in zip(arrays, powers, strict=True)]
    slow = program.evaluate(*given_)
    if backend == "torch":
        given_ = [torch.from_numpy(x) for x in given_]
    found = [np.asarray(x) for x in backend_named(backend).compile(program, ()).run(*given_)]
    for k, expected in enumerate(plan.evaluate(*arrays)):
        for values in (slow, found):
            mantissa, exponent = values[2 * k], int(values[2 * k + 1])
            shift = exponent - sum(powers) if np.any(expected) else 0
            np.testing.assert_array_equal(times_power(np.asarray(mantissa), shift), expected)


def test_guarded_slices_mean_the_same() -> None:
    terms = [[k, k + 1] for k in range(120)]
    arrays = [np.random.default_rng(k).integers(-2, 3, (2, 2)).astype("float32") * 2.0**4 for k in range(120)]
    pairs = [x for array, term in zip(arrays, terms, strict=True) for x in (array.astype("float32"), term)]
    plan = contractc.plan(*pairs, [0, 120], optimize=False)
    plan = replace(plan, sliced=(3, 60, 119))
    program = lower(plan, NUMPY)
    assert splits(program) > 0 and program.faults() == []
    (found,) = [backend_named("numpy").compile(program, ()).run(*pairs[::2])]
    with np.errstate(over="ignore"):
        mantissa, exponent = exact_product(arrays)
        np.testing.assert_allclose(found, times_power(mantissa, exponent).astype("float32"), rtol=1e-4)
    plain = translate(replace(plan, sliced=()), NUMPY)
    assert split_exponents(plain).faults() == []


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-1200, 1200)), min_size=2, max_size=5))
def test_add_scaled_adds_numbers_with_exponents(parts: list[tuple[int, int]]) -> None:
    total = (np.array([float(parts[0][0])]), parts[0][1])
    for x, e in parts[1:]:
        total = add_scaled(total, (np.array([float(x)]), e))
    least = min(e for _, e in parts)
    exact = sum(x * 2 ** (e - least) for x, e in parts)
    mantissa, exponent = float(total[0][0]), total[1]
    scale = max((abs(x) * 2 ** (e - least) for x, e in parts), default=0)
    value = int(mantissa * 2**60) * 2 ** max(0, exponent - least) >> 60 if exponent >= least else 0
    assert abs(value - exact) <= max(scale >> 40, 0) + 1
