"""Fits of dense arrays: planted factors are found, tolerances are kept, Ctrl-C keeps the best so far."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats
from contractc.formats import Progress, relative_error
from contractc.formats.arrays import LARGE, truncated

Array = np.ndarray[Any, Any]


def drawn(seed: int, *shape: int, imaginary: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0))


def planted(
    seed: int, shape: tuple[int, ...], r: int, *, imaginary: bool = False, positive: bool = False
) -> Array:
    factors = [drawn(seed + k, n, r, imaginary=imaginary) for k, n in enumerate(shape)]
    if positive:
        factors = [abs(f) for f in factors]
    return np.asarray(formats.cp(factors).to_dense())


@pytest.mark.parametrize("imaginary", [False, True])
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_planted_cp_is_found(seed: int, imaginary: bool) -> None:
    dense = planted(seed, (7, 6, 5), 3, imaginary=imaginary)
    found = formats.cp_from_dense(dense, tolerance=1e-6, iterations=2000)
    assert found.factors[0].shape == (3,)
    assert relative_error(found, dense) <= 1e-6
    for f in found.factors[1:]:
        np.testing.assert_allclose(np.linalg.norm(f, axis=0), 1)
    weights = np.abs(found.factors[0])
    assert (np.diff(weights) <= 1e-12).all()


@pytest.mark.parametrize("seed", range(6))
def test_planted_cp_is_found_where_sweeps_alone_crawl(seed: int) -> None:
    draw = np.random.default_rng(seed).standard_normal
    dense = formats.cp([draw((n, 3)) for n in (4, 3, 2, 5)]).to_dense()
    assert relative_error(formats.cp_from_dense(dense, rank=3), dense) < 1e-6


def test_rank_one_and_two_axes_are_matrices() -> None:
    dense = drawn(0, 8, 6)
    found = formats.cp_from_dense(dense, rank=2)
    best = formats.low_rank_from_dense(dense, rank=2)
    assert relative_error(found, dense) == pytest.approx(relative_error(best, dense), rel=1e-3)


def test_non_negative_cp_has_no_negative_entry() -> None:
    dense = planted(3, (6, 5, 4), 2, positive=True)
    found = formats.cp_from_dense(dense, rank=2, non_negative=True, iterations=1000)
    assert all((f >= 0).all() for f in found.factors)
    assert relative_error(found, dense) < 1e-3
    with pytest.raises(contractc.OperandError, match="needs real entries that are not negative"):
        formats.cp_from_dense(-dense, rank=2, non_negative=True)


def test_cp_of_a_matrix_over_its_modes() -> None:
    dense = planted(5, (4, 3, 6), 2)
    found = formats.cp_from_dense(dense.reshape(12, 6), rank=2, split=((4, 3), (6,)), iterations=1000)
    assert found.shape == (12, 6)
    assert relative_error(found, dense.reshape(12, 6)) < 1e-4


def test_tolerance_that_no_rank_meets_is_told() -> None:
    with pytest.raises(
        contractc.OperandError, match=r"no CP array of rank at most 3 is within 1e-08; the best"
    ):
        formats.cp_from_dense(drawn(0, 4, 3, 3), tolerance=1e-8, iterations=20)


def test_orthogonal_iterations_do_not_make_tucker_worse() -> None:
    dense = drawn(1, 8, 7, 6)
    start = formats.tucker_from_dense(dense, rank=(3, 2, 4), iterations=0)
    found = formats.tucker_from_dense(dense, rank=(3, 2, 4))
    assert relative_error(found, dense) <= relative_error(start, dense) + 1e-12


def test_kronecker_product_of_three_matrices_is_found() -> None:
    matrices = [drawn(k, m, n) for k, (m, n) in enumerate([(2, 3), (4, 2), (3, 3)])]
    dense = np.kron(np.kron(matrices[0], matrices[1]), matrices[2])
    found = formats.kronecker_from_dense(dense, (2, 4, 3), (3, 2, 3), tolerance=1e-8)
    assert [f.shape for f in found.factors] == [(1, 2, 3), (1, 4, 2), (1, 3, 3)]
    assert relative_error(found, dense) <= 1e-8


def test_train_through_rows_then_columns_has_the_rank_of_the_matrix() -> None:
    dense = drawn(0, 12, 2) @ drawn(1, 2, 10)
    found = formats.tt_from_dense(dense, tolerance=1e-10, split=((4, 3), (2, 5)))
    assert found.shape == (12, 10)
    assert found.factors[1].shape[-1] == 2
    assert relative_error(found, dense) < 1e-10


@pytest.mark.parametrize("imaginary", [False, True])
def test_complex_arrays_are_decomposed(imaginary: bool) -> None:
    dense = drawn(0, 12, 12, imaginary=imaginary)
    for found in (
        formats.low_rank_from_dense(dense, tolerance=0.1),
        formats.tt_matrix_from_dense(dense, (3, 4), (4, 3), tolerance=0.1),
        formats.monarch_from_dense(dense, (3, 4), (4, 3), tolerance=0.1),
        formats.kronecker_from_dense(dense, (3, 4), (4, 3), tolerance=0.1),
        formats.tucker_from_dense(dense.reshape(3, 4, 12), tolerance=0.1),
    ):
        assert relative_error(found, dense.reshape(found.shape)) <= 0.1
        assert found.dtype == dense.dtype


def test_torch_tensors_give_torch_factors() -> None:
    torch = pytest.importorskip("torch")
    dense = torch.tensor(drawn(0, 12, 12), dtype=torch.float32, requires_grad=True)
    for found in (
        formats.low_rank_from_dense(dense, rank=12),
        formats.tt_matrix_from_dense(dense, (3, 4), (4, 3), tolerance=1e-6),
        formats.tucker_from_dense(dense, tolerance=1e-6),
        formats.monarch_from_dense(dense, (3, 4), (4, 3), tolerance=1e-6),
    ):
        assert all(f.dtype == torch.float32 and not f.requires_grad for f in found.factors)
        torch.testing.assert_close(found.to_dense(), dense.detach(), atol=1e-4, rtol=1e-4)


def test_a_large_matrix_is_sampled_within_its_tolerance() -> None:
    n = LARGE + 40
    left, right = np.linalg.qr(drawn(0, n, 30))[0], np.linalg.qr(drawn(1, n + 10, 30))[0]
    matrix = (left * 0.7 ** np.arange(30)) @ right.T
    size = float(np.linalg.norm(matrix))
    u, s, v = truncated(matrix, None, 1e-2 * size)
    assert np.linalg.norm(matrix - (u * s) @ v) <= 1e-2 * size
    expected = np.linalg.svd(0.7 ** np.arange(30) * np.eye(30))[1]
    assert len(s) == int((np.sqrt(np.cumsum(expected[::-1] ** 2))[::-1] > 1e-2 * size).sum())
    np.testing.assert_allclose(s, expected[: len(s)], rtol=1e-6)
    u, s, v = truncated(matrix, 5, None)
    np.testing.assert_allclose(s, expected[:5], rtol=1e-6)


def test_progress_is_reported_and_interrupted_fits_keep_the_best() -> None:
    dense = planted(0, (6, 6, 6), 4)
    seen: list[Progress] = []

    def watched(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.warns(
        UserWarning, match=r"the fit of a CP of rank 2 was interrupted at a relative error of 0\."
    ):
        found = formats.cp_from_dense(dense, rank=2, progress=watched)
    assert [p.iteration for p in seen] == [1, 2, 3, 4, 5]
    assert relative_error(found, dense) == pytest.approx(min(p.error for p in seen), rel=1e-6)
    assert str(seen[0]).startswith("CP of rank 2: iteration 1 of 300, relative error 0.")


def test_an_interrupted_search_for_a_rank_keeps_the_best_of_all_ranks() -> None:
    dense = planted(0, (6, 6, 6), 4)
    errors: list[float] = []

    def watched(progress: Progress) -> None:
        errors.append(progress.error)
        if progress.fit == "CP of rank 3":
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="the fit of a CP of rank 3 was interrupted"):
        found = formats.cp_from_dense(dense, tolerance=1e-6, progress=watched)
    assert relative_error(found, dense) == pytest.approx(min(errors), rel=1e-6)


MATRIX_FITS: dict[str, Callable[..., Any]] = {
    "low rank": formats.low_rank_from_dense,
    "TT": formats.tt_from_dense,
    "Tucker": formats.tucker_from_dense,
    "CP": formats.cp_from_dense,
    "TT matrix": lambda x, **how: formats.tt_matrix_from_dense(x, (2, 3), (2, 3), **how),
    "Monarch": lambda x, **how: formats.monarch_from_dense(x, (2, 3), (2, 3), **how),
    "Kronecker": lambda x, **how: formats.kronecker_from_dense(x, (2, 3), (2, 3), **how),
}


@pytest.mark.parametrize("fit", MATRIX_FITS.values(), ids=MATRIX_FITS)
def test_what_is_no_rank_no_tolerance_or_no_number_is_refused(fit: Callable[..., Any]) -> None:
    eye = np.eye(6)
    for rank in (0, -1, 2.0, True):
        with pytest.raises(contractc.OperandError, match=f"a rank is a whole number from 1 on, not {rank}"):
            fit(eye, rank=rank)
    for tolerance in (-0.1, np.nan, np.inf):
        with pytest.raises(
            contractc.OperandError, match=f"a tolerance is a number from 0 on, not {tolerance}"
        ):
            fit(eye, tolerance=tolerance)
    for value in (np.nan, np.inf):  # LAPACK's SVD loops for ever on some matrices with infinite entries
        with pytest.raises(contractc.OperandError, match="values that are not finite cannot be decomposed"):
            fit(np.where(eye == 1, value, 0), rank=1)
    assert fit(eye, rank=np.int64(2)).shape == (6, 6)


@pytest.mark.parametrize("kind", [k for k in MATRIX_FITS if k != "CP"])
@pytest.mark.parametrize(("scale", "dtype"), [(1e200, "f8"), (1e-200, "f8"), (1e30, "f4"), (1e-30, "c8")])
def test_tolerances_are_kept_where_squares_overflow_or_vanish(kind: str, scale: float, dtype: str) -> None:
    dense = (drawn(3, 6, 6) * scale).astype(dtype)
    for tolerance in (0.5, 0.1):
        found = MATRIX_FITS[kind](dense, tolerance=tolerance)
        error = np.linalg.norm((found.to_dense() - dense) / scale) / np.linalg.norm(dense / scale)
        assert error <= tolerance
        assert relative_error(found, dense) == pytest.approx(error, rel=1e-3, abs=1e-6)


TOLERANCES = st.floats(-8, 0).map(lambda x: 10.0**x)
PIECES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3)
DTYPES = st.sampled_from(["float32", "float64", "complex64", "complex128"])
BOUNDED: dict[str, Callable[..., Any]] = {
    "low rank": lambda x, rows, columns, t: formats.low_rank_from_dense(x, tolerance=t),
    "TT": lambda x, rows, columns, t: formats.tt_from_dense(x, tolerance=t, split=(rows, columns)),
    "Tucker": lambda x, rows, columns, t: formats.tucker_from_dense(x, tolerance=t, split=(rows, columns)),
    "TT matrix": lambda x, rows, columns, t: formats.tt_matrix_from_dense(x, rows, columns, tolerance=t),
    "Monarch": lambda x, rows, columns, t: formats.monarch_from_dense(
        x, (rows[0], len(x) // rows[0]), (columns[0], x.shape[1] // columns[0]), tolerance=t
    ),
    "Kronecker": lambda x, rows, columns, t: formats.kronecker_from_dense(
        x, (rows[0], len(x) // rows[0]), (columns[0], x.shape[1] // columns[0]), tolerance=t
    ),
    "rounded TT matrix": lambda x, rows, columns, t: formats.rounded(
        formats.tt_matrix_from_dense(x, rows, columns, tolerance=0.0), tolerance=t
    ),
    "rounded Tucker": lambda x, rows, columns, t: formats.rounded(
        formats.tucker_from_dense(x, tolerance=0.0, split=(rows, columns)), tolerance=t
    ),
}
"""Fits whose tolerance is a bound by theory."""


def falling(seed: int, pieces: list[tuple[int, int]], dtype: str, decay: float) -> Array:
    """Return a matrix whose entries fall off along every one of its modes: unfoldings have all kinds of ranks."""
    rows, columns = zip(*pieces, strict=True)
    shape = (*rows, *columns)
    array = drawn(seed, *shape, imaginary=dtype.startswith("complex"))
    for axis, n in enumerate(shape):
        weights = np.exp(-decay * np.arange(n)).reshape([-1 if k == axis else 1 for k in range(len(shape))])
        array = array * weights
    return array.reshape(prod(rows), prod(columns)).astype(dtype)


def distance(found: Any, dense: Array) -> float:
    """Return the relative error of an operand in double precision."""
    wide = dense.astype(np.complex128)
    return float(np.linalg.norm(found.to_dense().reshape(dense.shape) - wide) / np.linalg.norm(wide))


@pytest.mark.parametrize("kind", BOUNDED)
@settings(max_examples=40, deadline=None)
@given(PIECES, DTYPES, TOLERANCES, st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_tolerances_are_bounds(
    kind: str, pieces: list[tuple[int, int]], dtype: str, tolerance: float, decay: float, seed: int
) -> None:
    dense = falling(seed, pieces, dtype, decay)
    rows, columns = zip(*pieces, strict=True)
    found = BOUNDED[kind](dense, rows, columns, tolerance)
    assert distance(found, dense) <= tolerance * (1 + 1e-6) + 50 * np.finfo(dtype).eps
    assert found.dtype == dense.dtype
    if kind == "low rank":  # and no smaller rank would do
        values = np.linalg.svd(dense.astype(np.complex128), compute_uv=False)
        r = found.factors[0].shape[1]
        assert r == 1 or np.linalg.norm(values[r - 1 :]) >= tolerance * np.linalg.norm(values) * (1 - 1e-3)


@settings(max_examples=25, deadline=None)
@given(PIECES, DTYPES, st.floats(-2, 0).map(lambda x: 10.0**x), st.booleans(), st.integers(0, 2**32 - 1))
def test_measured_tolerances_are_kept_or_told(
    pieces: list[tuple[int, int]], dtype: str, tolerance: float, product: bool, seed: int
) -> None:
    dense = falling(seed, pieces, dtype, 1.0)
    rows, columns = zip(*pieces, strict=True)
    fits: dict[bool, Callable[[], Any]] = {
        True: lambda: formats.kronecker_from_dense(dense, rows, columns, tolerance=tolerance),
        False: lambda: formats.cp_from_dense(
            dense, tolerance=tolerance, split=(rows, columns), iterations=30
        ),
    }
    told = ""
    try:
        error = distance(fits[product](), dense)
    except contractc.OperandError as refused:
        told, error = str(refused), 0.0
    assert not told or re.fullmatch(r"no CP array of rank .* is within .*; the best was at [0-9.e+-]+", told)
    assert error <= tolerance + 50 * np.finfo(dtype).eps


def test_arrays_without_elements_have_factors_without_elements() -> None:
    for fit in (formats.tt_from_dense, formats.tucker_from_dense, formats.cp_from_dense):
        found = fit(np.zeros((2, 0, 3)), rank=1)
        assert found.to_dense().shape == (2, 0, 3)
    assert formats.low_rank_from_dense(np.zeros((0, 3)), tolerance=0.1).to_dense().shape == (0, 3)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(contractc.OperandError, match="give a rank or a tolerance, one of them"):
        formats.cp_from_dense(np.ones((2, 2)), rank=1, tolerance=0.1)
    with pytest.raises(contractc.OperandError, match=r"the rank is one number, not \(1, 2, 1\)"):
        formats.tt_from_dense(np.eye(3), rank=(1, 2, 1))  # type: ignore[arg-type]
    with pytest.raises(contractc.OperandError, match="are split into one mode or more"):
        formats.kronecker_from_dense(np.ones((1, 1)), (), (), rank=1)
    with pytest.raises(contractc.OperandError, match="2 ranks for 3 modes"):
        formats.tucker_from_dense(np.ones((2, 2, 2)), rank=(1, 1))
    with pytest.raises(contractc.OperandError, match="rows and columns are split into 2 modes each, not 3"):
        formats.monarch_from_dense(np.eye(8), (2, 2, 2), (2, 2, 2), rank=1)  # type: ignore[arg-type]
