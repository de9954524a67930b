"""compress finds planted structure behind any order of the modes, and keeps dense what has none."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats
from contractc.formats.compress import default_split
from contractc.formats.layouts import tuckers
from contractc.formats.spectra import least_ranks, rank, settled, unfoldings

Array = np.ndarray[Any, Any]
ROWS, COLUMNS = (2, 2, 3, 2, 2), (2, 3, 2, 2, 2)
SPLIT = (ROWS, COLUMNS)
SHAPE = (prod(ROWS), prod(COLUMNS))


def hidden(array: Array, seed: int) -> tuple[Array, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return a matrix of the modes of `array` in a random order, and the modes of its rows and columns."""
    order = np.random.default_rng(seed).permutation(array.ndim)
    shuffled = array.transpose(order)
    half = array.ndim // 2
    split = shuffled.shape[:half], shuffled.shape[half:]
    return shuffled.reshape(prod(split[0]), prod(split[1])), split


def planted(kind: str, seed: int) -> tuple[Array, int]:
    """Return an array of ten modes with structure, and the parameters it was made of."""
    draw = np.random.default_rng(seed).standard_normal
    modes = (*ROWS, *COLUMNS)
    if kind == "low rank":
        left, right = draw((24, 2)), draw((2, 96))
        modes = (2, 2, 3, 2, 2, 2, 2, 2, 2, 3)
        return (left @ right).reshape(modes), left.size + right.size
    if kind == "Kronecker":
        one, two = draw((2, 2, 3, 2)), draw((2, 2, 3, 2, 2, 2))
        return np.multiply.outer(one, two), one.size + two.size
    if kind == "TT matrix":
        ranks = [1, 2, 2, 2, 2, 1]
        cores = [draw((ranks[k], ROWS[k], COLUMNS[k], ranks[k + 1])) for k in range(5)]
        dense = cores[0]
        for core in cores[1:]:
            dense = np.tensordot(dense, core, (-1, 0))
        return dense.reshape([n for pair in zip(ROWS, COLUMNS, strict=True) for n in pair]), sum(
            c.size for c in cores
        )
    left, right = draw((12, 8, 6)), draw((12, 8, 6))  # Monarch: 12 = 2x2x3, 8 = 2x2x2 and 6 = 3x2
    dense = np.einsum("fac,fbc->fabc", left, right).reshape(12, 8, 8, 6)
    return dense.reshape(2, 2, 3, 2, 2, 2, 2, 2, 2, 6), left.size + right.size


@pytest.mark.parametrize(
    ("kind", "seed"), [("low rank", 0), ("Kronecker", 1), ("TT matrix", 2), ("Monarch", 3)]
)
def test_planted_structure_is_found_behind_any_order_of_the_modes(kind: str, seed: int) -> None:
    array, parameters = planted(kind, seed)
    matrix, split = hidden(array, seed + 10)
    found = formats.compress(matrix, tolerance=1e-8, split=split)
    assert formats.relative_error(found.operand, matrix) <= 1e-8
    assert found.operand.parameters <= parameters, found
    assert found.operand.shape == matrix.shape
    x = np.ones((3, matrix.shape[1]))
    np.testing.assert_allclose(contractc.contract("bi,oi->bo", x, found.operand), x @ matrix.T, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=5),
    st.sampled_from(["float64", "float32", "complex128"]),
    st.sampled_from([0.9, 0.3, 0.05, 1e-4]),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_least_ranks_are_lower_bounds(
    shape: list[int], dtype: str, tolerance: float, decay: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    array = np.asarray(
        rng.standard_normal(shape) + (1j if dtype[0] == "c" else 0) * rng.standard_normal(shape)
    )
    for axis, n in enumerate(shape):  # ranks of all kinds: noise, and what falls off along every mode
        array = array * np.exp(-decay * np.arange(n)).reshape(
            [-1 if k == axis else 1 for k in range(len(shape))]
        )
    u = unfoldings(array.astype(dtype), tolerance)
    full = 2 ** len(shape) - 1
    for cuts in (1, 3):
        fresh = unfoldings(array.astype(dtype), tolerance)
        bounds, tops = least_ranks(fresh, cuts), np.ones(full + 1)
        for mask in range(full + 1):
            rows = [m for m in range(len(shape)) if mask >> m & 1]
            columns = [m for m in range(len(shape)) if not mask >> m & 1]
            matrix = u.array.transpose(*rows, *columns).reshape(prod(shape[m] for m in rows), -1)
            values = np.linalg.svd(matrix, compute_uv=False)
            tails = np.sqrt(np.cumsum(values[::-1].astype(float) ** 2)[::-1])
            limit = tolerance * np.linalg.norm(values) / np.sqrt(cuts)
            least, most = (max(1, int((tails > limit * s).sum())) for s in (1 + 1e-3, 1 - 1e-3))
            tops[mask] = most
            assert bounds[mask] <= most
            assert least <= rank(u, mask, cuts) <= most
            assert settled(u, mask)
        for mask in rng.permutation(full + 1):  # what is known of one bounds the others
            rank(fresh, int(mask), cuts)
            assert (least_ranks(fresh, cuts) <= tops).all()


def test_ranks_of_long_unfoldings_are_sampled() -> None:
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    matrix = (draw((512, 20)) * 10.0 ** -np.arange(20)) @ draw((20, 512)) + 1e-13 * draw((512, 512))
    for tolerance in (1e-2, 1e-6, 1e-9):
        u = unfoldings(matrix, tolerance)
        values = np.linalg.svd(matrix, compute_uv=False)
        tails = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1])
        assert rank(u, 1, 1) == (tails > tolerance * tails[0]).sum()
        assert len(u.spectra[1]) < 512


def test_noise_stays_dense() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 64))
    found = formats.compress(matrix, tolerance=0.1, expression="bi,oi->bo", operands=((100, 64), matrix))
    assert found.operand is matrix
    assert [t.verdict for t in found.trials if t.layout == "dense"] == ["taken"]


def test_sum_of_few_products_is_found_as_cp() -> None:
    draw = np.random.default_rng(4).standard_normal
    factors = [draw((n, 4)) for n in (12, 10, 11)]
    array = np.einsum("ir,jr,kr->ijk", *factors)
    found = formats.compress(array, tolerance=1e-5, split=((12,), (10,), (11,)))
    assert "CP" in found.operand.layout.format
    assert found.operand.parameters == 4 * (12 + 10 + 11 + 1)
    assert formats.relative_error(found.operand, array) <= 1e-5


def test_sum_of_kronecker_products_is_found() -> None:
    draw = np.random.default_rng(5).standard_normal
    one, two = draw((6, 6)), draw((5, 5))
    matrix = np.kron(one, np.eye(5)) + np.kron(np.eye(6), two)
    found = formats.compress(matrix, tolerance=1e-10, split=((6, 5), (6, 5)))
    assert found.operand.parameters == 2 * (36 + 25)
    assert formats.relative_error(found.operand, matrix) <= 1e-10


def test_newton_kernel_has_small_ranks() -> None:
    n = 5
    points = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(points[:, None] - points[None] - 0.25, axis=-1)
    matrix = 1 / distance
    found = formats.compress(matrix, tolerance=1e-3, split=((n,) * 3, (n,) * 3))
    assert formats.relative_error(found.operand, matrix) <= 1e-3
    assert found.operand.parameters < matrix.size / 10, found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from(["float16", "float32", "float64", "complex64", "complex128"]),
    st.sampled_from([0.5, 0.1, 1e-2]),
    st.sampled_from(["noise", "product", "sum", "zero"]),
    st.integers(0, 2**32 - 1),
)
def test_what_is_found_keeps_the_tolerance(
    split: list[list[int]], dtype: str, tolerance: float, kind: str, seed: int
) -> None:
    draw = np.random.default_rng(seed).standard_normal
    modes = [n for axis in split for n in axis][:8]
    split = split if len(modes) == sum(map(len, split)) else [modes]
    array: Array = np.zeros(modes) if kind in ("zero", "sum") else np.ones(modes)
    if kind == "noise":
        array = draw(modes)
    for _ in range({"noise": 0, "zero": 0, "product": 1, "sum": 2}[kind]):
        term: Array = np.ones(())
        for n in modes:
            term = np.multiply.outer(term, draw(n))
        array = array + term if kind == "sum" else array * term
    dense = (array * (1 + 0.5j if dtype.startswith("complex") else 1)).reshape([prod(a) for a in split])
    dense = dense.astype(dtype)
    found = formats.compress(dense, tolerance=tolerance, split=split)
    (taken,) = [t for t in found.trials if t.verdict == "taken"]
    if found.operand is dense:
        assert taken.layout == "dense"
        return
    assert found.operand.dtype == dense.dtype
    assert found.operand.shape == dense.shape
    assert found.operand.parameters == taken.parameters < dense.size
    assert taken.error == formats.relative_error(found.operand, dense)
    assert taken.error <= tolerance


@pytest.mark.parametrize("n", [16, 24])
def test_newton_kernel_on_a_grid_is_tucker_with_ranks_logarithmic_in_n(n: int) -> None:
    i, j, k = np.ogrid[:n, :n, :n]
    tensor = 1 / np.sqrt((i + 0.5) ** 2 + (j + 0.5) ** 2 + (k + 0.5) ** 2)
    found = formats.compress(tensor, tolerance=1e-4, split=((n,),) * 3)
    (tried,) = [t for t in found.trials if t.layout == "Tucker i0 | j0 | k0"]
    assert tried.verdict == "taken"
    assert found.operand.layout.format == "Tucker"
    assert max(found.operand.factors[0].shape) <= 2 * np.log2(n)
    assert tried.parameters == found.operand.parameters < tensor.size / 2
    assert tried.error is not None
    assert formats.relative_error(found.operand, tensor) == tried.error <= 1e-4


def test_tucker_is_found_over_groups_of_modes_in_any_order() -> None:
    draw = np.random.default_rng(2).standard_normal
    core, groups = draw((3, 2, 3)), [draw((2, 3, 3)), draw((3, 2, 2)), draw((2, 2, 3))]
    array = np.einsum("abc,ija,klb,mnc->ikmjln", core, *groups)
    found = formats.compress(array.reshape(12, 12), tolerance=1e-8, split=((2, 3, 2), (3, 2, 2)))
    (tried,) = [t for t in found.trials if t.layout.startswith("Tucker")]
    assert tried.layout == "Tucker i0 j0 | i1 j1 | i2 | j2"  # i2 j2 of rank 3 in 4 has no factor of its own
    assert tried.parameters == 3 * 2 * 2 * 2 + 18 + 12
    if tried.verdict == "cannot be better":  # then it is not decomposed
        assert tried.error is None
        assert found.operand.parameters <= tried.parameters
    modes = array.reshape(2, 3, 2, 3, 2, 2)
    (candidate,) = tuckers(unfoldings(modes, 1e-8), ((2, 3, 2), (3, 2, 2)), modes, modes.size)
    made = candidate.make()
    assert made.layout == candidate.expected.layout
    assert made.parameters == tried.parameters
    assert formats.relative_error(made, array.reshape(12, 12)) <= 1e-8


@pytest.mark.parametrize("shape", [(), (1, 1), (0, 4)])
def test_what_has_no_structure_stays_as_it_is(shape: tuple[int, ...]) -> None:
    array = np.ones(shape)
    assert formats.compress(array, tolerance=0.1).operand is array


def test_hilbert_tensor_has_small_ranks() -> None:
    n = 12
    i, j, k = np.ogrid[:n, :n, :n]
    tensor = 1.0 / (i + j + k + 1)
    found = formats.compress(tensor, tolerance=1e-6, split=((n,), (n,), (n,)))
    assert formats.relative_error(found.operand, tensor) <= 1e-6
    assert found.operand.parameters < tensor.size / 2, found


def test_seconds_decide_with_an_expression_and_bytes_without() -> None:
    draw = np.random.default_rng(0).standard_normal
    matrix = np.kron(draw((8, 8)), draw((8, 8)))
    small = formats.compress(matrix, tolerance=1e-8)
    assert small.operand.parameters == 128
    found = formats.compress(matrix, tolerance=1e-8, expression="bi,oi->bo", operands=((4096, 64), matrix))
    (taken,) = [t for t in found.trials if t.verdict == "taken"]
    seconds = [t.seconds for t in found.trials if t.seconds is not None]
    assert taken.seconds is not None
    assert taken.seconds <= min(seconds) * 1.1


def test_memory_is_kept() -> None:
    draw = np.random.default_rng(0).standard_normal
    matrix = draw((64, 2)) @ draw((2, 64))
    need = 8 * (64 * 2 + 2 * 64 * 2 + 8)
    found = formats.compress(
        matrix, tolerance=1e-8, expression="bi,oi->bo", operands=((1, 64), matrix), memory=2 * need
    )
    assert found.operand.parameters == 256
    assert {t.verdict for t in found.trials if t.layout == "dense"} == {"does not fit into memory"}
    with pytest.raises(contractc.ResourceLimitError, match=r"no layout within 1e-08 fits into 100 bytes"):
        formats.compress(
            matrix, tolerance=1e-8, expression="bi,oi->bo", operands=((1, 64), matrix), memory=100
        )


def test_torch_weights_are_compressed_to_torch_factors() -> None:
    torch = pytest.importorskip("torch")
    matrix = torch.kron(torch.randn(8, 4), torch.randn(4, 8))
    found = formats.compress(matrix, tolerance=1e-5, expression="bi,oi->bo", operands=((10, 32), matrix))
    assert found.operand.dtype == torch.float32
    torch.testing.assert_close(found.operand.to_dense(), matrix, atol=1e-4, rtol=1e-4)


def test_interrupted_search_returns_the_best_so_far() -> None:
    draw = np.random.default_rng(0).standard_normal
    matrix = np.kron(draw((8, 8)), draw((8, 8)))

    def stop(line: str) -> None:
        if line.startswith("looking for trains"):
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="the search was interrupted: what it found so far is returned"):
        assert formats.compress(matrix, tolerance=1e-8, progress=stop).operand is matrix


def test_layouts_that_cannot_be_the_best_are_listed_but_not_decomposed() -> None:
    draw = np.random.default_rng(0).standard_normal
    seen: list[str] = []
    found = formats.compress(np.kron(draw((8, 8)), draw((8, 8))), tolerance=1e-8, progress=seen.append)
    assert sum(line.startswith("decomposing as") for line in seen) == 1
    assert {t.verdict for t in found.trials if t.error is None} == {"cannot be better"}
    assert all(t.parameters >= found.operand.parameters for t in found.trials)
    assert [t.verdict for t in found.trials if t.error is not None] == ["", "taken"]


def test_report_is_a_table_of_what_was_tried() -> None:
    matrix = np.kron(np.arange(4.0).reshape(2, 2), np.arange(1, 5.0).reshape(2, 2))
    lines = str(formats.compress(matrix, tolerance=1e-6, split=((2, 2), (2, 2)))).splitlines()
    assert lines[0] == "layouts within a relative error of 1e-06"
    assert lines[1].split() == ["layout", "error", "parameters", "bytes", "seconds"]
    assert lines[2].split()[:3] == ["dense", "0", "16"]
    taken = [line for line in lines if line.endswith("taken")]
    assert len(taken) == 1
    assert taken[0].split()[:2] == ["Kronecker", "i0"]


def test_requests_that_do_not_fit_are_refused() -> None:
    matrix = np.eye(8)
    with pytest.raises(contractc.OperandError, match="the array itself once"):
        formats.compress(matrix, tolerance=0.1, expression="bi,oi->bo", operands=((1, 8), (8, 8)))
    with pytest.raises(contractc.OperandError, match=r"shape \(8, 8\) cannot be split into"):
        formats.compress(matrix, tolerance=0.1, split=((2, 2), (2, 4)))
    with pytest.raises(contractc.OperandError, match="12 modes; at most 10 are searched over"):
        formats.compress(np.eye(64), tolerance=0.1, split=((2,) * 6, (2,) * 6))


def test_default_split_has_few_modes() -> None:
    assert default_split((1024, 1024)) == ((4, 4, 4, 4, 4), (4, 4, 4, 4, 4))
    assert [prod(axis) for axis in default_split((25088, 4096))] == [25088, 4096]
    assert default_split((97, 6)) == ((97,), (2, 3))
