"""Sums through products with ones, and products of integers through floats, against NumPy's own loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contractc.providers import reductions
from contractc.providers.reductions import exact_matmul, total


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.sampled_from("dD"), st.data())
def test_total_is_the_sum_over_the_axes(shape: list[int], kind: str, data: st.DataObject) -> None:
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    x = np.arange(np.prod(shape)).astype(kind).reshape(shape)
    x = x * (1 - 2j) if kind == "D" else x
    before = reductions.SMALL, reductions._VECTOR
    reductions.SMALL, reductions._VECTOR = 0, data.draw(st.sampled_from([0, before[1]]))
    try:
        found = total(x, axes if len(axes) > 1 else axes[0], x.dtype)
    finally:
        reductions.SMALL, reductions._VECTOR = before
    np.testing.assert_array_equal(found, x.sum(axes))


@pytest.mark.parametrize("axes", [0, 1, (0, 1)])
def test_total_of_infinity_is_infinite(axes: int | tuple[int, ...]) -> None:
    x = np.full((300, 300), 1, complex)
    x[0, 0] = np.inf
    found = np.ravel(total(x, axes, x.dtype))
    assert np.isinf(found[0].real)
    assert found[0].imag == 0


def test_total_of_a_long_row_keeps_its_digits() -> None:
    x = np.full((2, 2**22), 0.1, np.float32)
    np.testing.assert_allclose(total(x, 1, x.dtype), 2**22 * np.float64(x[0, 0]), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 30, 40), (12, 30, 1024), (13, 30, 40), (4, 30, 1025), (4, 5, 6, 64)])
def test_total_over_the_slowest_and_the_fastest_axis(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=float).reshape(shape)
    axes = (0, len(shape) - 1)
    np.testing.assert_array_equal(
        total(np.tile(x, (1, 40, *(1,) * (len(shape) - 2))), axes, x.dtype),
        np.concatenate([x.sum(axes)] * 40),
    )


def test_total_of_nothing_is_zero() -> None:
    assert total(np.ones((0, 3)), 0, np.dtype(float)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "bool"])
@pytest.mark.parametrize("largest", [1, 100, 2**31, 2**62])
def test_exact_matmul_wraps_as_numpy_does(dtype: str, largest: int) -> None:
    rng = np.random.default_rng(0)
    if dtype == "bool":
        x, y = rng.random((40, 50)) < 0.02, rng.random((3, 50, 40)) < 0.02
    else:
        most = min(largest, np.iinfo(dtype).max)
        least = max(-most, np.iinfo(dtype).min)
        x, y = (rng.integers(least, most, s, dtype, endpoint=True) for s in ((40, 50), (3, 50, 40)))
    found = exact_matmul(x, y)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, np.matmul(x, y))
    np.testing.assert_array_equal(exact_matmul(x, y[0].T.copy().T), np.matmul(x, y[0]))
