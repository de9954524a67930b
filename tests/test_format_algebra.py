"""Algebra of factorized operands against the same on their dense arrays, NumPy and torch, real and complex."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats
from contractc.formats import Factorized, with_factors
from contractc.search import factored

Array = np.ndarray[Any, Any]
Draw = Callable[..., Array]


def train(draw: Draw, sizes: tuple[tuple[int, ...], ...], r: int, b: tuple[int, ...] = ()) -> list[Array]:
    ranks = [1, *[r] * (len(sizes) - 1), 1]
    return [draw(*b, ranks[k], *n, ranks[k + 1]) for k, n in enumerate(sizes)]


Sizes = tuple[int, int, int, int]

MATRICES: dict[str, Callable[..., Factorized]] = {
    "TT matrix": lambda d, r, b, z=(4, 3, 2, 3): formats.tt_matrix(
        train(d, ((z[0], z[2]), (z[1], 1), (1, z[3])), r, b), batch=len(b)
    ),
    "TT": lambda d, r, b, z=(2, 6, 3, 2): formats.tt(
        train(d, ((z[0],), (z[1],), (z[2],), (z[3],)), r, b), split=(z[:2], z[2:]), batch=len(b)
    ),
    "CP": lambda d, r, b, z=(4, 3, 2, 3): formats.cp(
        [d(*b, n, r) for n in (z[0], z[1], z[2] * z[3])],
        d(*b, r),
        split=(z[:2], (z[2] * z[3],)),
        batch=len(b),
    ),
    "Tucker": lambda d, r, b, z=(4, 3, 2, 3): formats.tucker(
        d(*b, r, r + 1, 2),
        [d(*b, z[0], r), d(*b, z[1], r + 1), d(*b, z[2] * z[3], 2)],
        split=(z[:2], (z[2] * z[3],)),
        batch=len(b),
    ),
    "Monarch": lambda d, r, b, z=(4, 3, 2, 3): formats.monarch(
        d(*b, r, z[0], z[2], z[3]), d(*b, r, z[0], z[1], z[3]), batch=len(b)
    ),
    "low rank": lambda d, r, b, z=(4, 3, 2, 3): formats.low_rank(
        d(*b, z[0] * z[1], r), d(*b, r, z[2] * z[3]), d(*b, r), d(*b, z[0] * z[1]), batch=len(b)
    ),
    "Kronecker": lambda d, r, b, z=(4, 3, 2, 3): formats.kronecker(
        d(*b, r, z[0], z[2]), d(*b, r, z[1], z[3]), batch=len(b)
    ),
    "Kronecker product": lambda d, r, b, z=(4, 3, 2, 3): formats.kronecker(
        d(*b, z[0], z[2]), d(*b, z[1], z[3]), batch=len(b)
    ),
}
"""Matrices of rank about r, with batch axes b in front, [12, 6] or of rows z[0] z[1] and columns z[2] z[3]."""

ROUNDED = [name for name in MATRICES if name not in ("CP",)]
kinds = st.sampled_from(sorted(MATRICES))
ranks = st.integers(1, 3)
seeds = st.integers(0, 2**32 - 1)
batches = st.sampled_from([(), (), (2,), (2, 1)])
sizes = st.tuples(*[st.integers(1, 4)] * 4)


def drawing(seed: int, imaginary: bool = False) -> Draw:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-8, rtol=1e-8)


def dense(x: Factorized) -> Array:
    """Return the dense array by np.einsum, which shares nothing with contractc."""
    modes = [m for axis in x.layout.axes for m in axis]
    arguments = [y for f, t in zip(x.factors, x.layout.terms, strict=True) for y in (np.asarray(f), list(t))]
    return np.asarray(np.einsum(*arguments, modes)).reshape(x.shape)


@settings(max_examples=60, deadline=None)
@given(kinds, sizes, ranks, ranks, batches, st.booleans(), seeds)
def test_sums_and_products_are_those_of_the_dense_arrays(
    kind: str, z: Sizes, r: int, s: int, b: tuple[int, ...], imaginary: bool, seed: int
) -> None:
    draw = drawing(seed, imaginary)
    x, y = MATRICES[kind](draw, r, b, z), MATRICES[kind](draw, s, b, z)
    near(x.to_dense(), dense(x))
    near(dense(formats.add(x, y)), dense(x) + dense(y))
    near(dense(formats.hadamard(x, y)), dense(x) * dense(y))
    near(dense(formats.scale(x, -2.5)), -2.5 * dense(x))
    near(dense(formats.scale(x, 2j)), 2j * dense(x))
    near(formats.inner(x, y), np.vdot(dense(x), dense(y)))
    near(formats.norm(x), np.linalg.norm(dense(x)))
    order = (*range(len(b)), len(b) + 1, len(b))
    near(dense(formats.transpose(x, order)), dense(x).transpose(order))
    near(formats.transpose(x, order).to_dense(), dense(x).transpose(order))


def swapped(x: Factorized) -> Factorized:
    """Return each matrix of a batch transposed."""
    return formats.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


@settings(max_examples=80, deadline=None)
@given(kinds, kinds, sizes, ranks, batches, seeds)
def test_products_of_matrices(one: str, two: str, z: Sizes, r: int, b: tuple[int, ...], seed: int) -> None:
    draw = drawing(seed, seed % 2 == 0)
    x, y = MATRICES[one](draw, r, b, z), swapped(MATRICES[two](draw, r, b, z))
    between = [[z.layout.extents[m] for m in z.layout.axes[k]] for z, k in ((x, -1), (y, -2))]
    if between[0] == between[1] or "low rank" in (one, two):
        found = formats.matmul(swapped(y), swapped(x))
        near(dense(found), dense(swapped(y)) @ dense(swapped(x)))
        near(found.to_dense(), dense(found))
    else:
        with pytest.raises(contractc.UnsupportedError, match="split the mode between the matrices as"):
            formats.matmul(swapped(y), swapped(x))
    if one == two:
        near(dense(formats.matmul(y, x)), dense(y) @ dense(x))


@pytest.mark.parametrize("b", [(), (2,), (2, 1)])
@pytest.mark.parametrize("kind", ["TT matrix", "Kronecker", "low rank"])
def test_products_keep_their_format(kind: str, b: tuple[int, ...]) -> None:
    x, y = MATRICES[kind](drawing(0), 2, b), MATRICES[kind](drawing(1), 3, b)
    made = formats.matmul(x, swapped(y))
    assert made.layout.format == kind
    near(dense(made), dense(x) @ dense(swapped(y)))
    near(dense(formats.rounded(made, tolerance=1e-9)), dense(made))


@settings(max_examples=50, deadline=None)
@given(kinds, sizes, ranks, batches, st.data())
def test_rows_and_columns_are_taken(
    kind: str, z: Sizes, r: int, b: tuple[int, ...], data: st.DataObject
) -> None:
    x = MATRICES[kind](drawing(data.draw(seeds)), r, b, z)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.shape[axis]
    part = data.draw(st.slices(n) | st.lists(st.integers(-n, n - 1), max_size=4))
    numbers = part if isinstance(part, list) else list(range(*part.indices(n)))
    expected = np.take(dense(x), numbers, axis)
    found = formats.take(x, part, axis)
    assert found.shape == expected.shape
    near(dense(found), expected)


@pytest.mark.parametrize("kind", sorted(MATRICES))
def test_the_algebra_forms_no_dense_array(kind: str) -> None:
    x, y = (MATRICES[kind](drawing(k), 2, (), (40, 60, 60, 40)) for k in range(2))
    rows = [0, 7, 2399]
    tracemalloc.start()
    total = formats.add(x, y)
    made = [
        formats.scale(x, 2.0),
        formats.hadamard(x, y),
        formats.transpose(x),
        formats.matmul(x, swapped(y)),
        formats.take(total, rows),
        formats.take(total, slice(0, 5)),
    ]
    if kind in ROUNDED:
        made.append(formats.rounded(total, tolerance=1e-6))
    sizes = [formats.norm(total), formats.inner(x, y)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = 8 * 2400**2
    assert peak < whole
    assert all(8 * each.parameters < whole / 4 for each in made)
    wide = dense(x), dense(y)
    near(sizes[0] / np.linalg.norm(wide[0] + wide[1]), 1)
    near(sizes[1] / np.vdot(*wide), 1)
    near(made[4].to_dense(), (wide[0] + wide[1])[rows])


def test_rows_of_an_embedding_are_gathered_without_the_others() -> None:
    cores = train(drawing(0), ((20, 4), (50, 4), (40, 4)), 3)
    table = formats.tt_matrix(cores)
    found = formats.take(table, [39_999, 0, 123])
    assert [f.shape for f in found.factors] == [(3, 1, 4, 3), (3, 3, 4, 3), (3, 3, 4, 1)]
    rows = np.einsum("pacb,pbed,pdfg->pcef", *found.factors).reshape(3, 64)
    near(found.to_dense(), rows)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ROUNDED), sizes, ranks, batches, st.booleans(), seeds)
def test_rounding_finds_the_ranks_again(
    kind: str, z: Sizes, r: int, b: tuple[int, ...], imaginary: bool, seed: int
) -> None:
    x = MATRICES[kind](drawing(seed, imaginary), r, b, z)
    twice = formats.add(x, formats.scale(x, 0.5))
    found = formats.rounded(twice, tolerance=1e-9)
    near(dense(found), 1.5 * dense(x))
    assert found.parameters <= x.parameters + (0 if kind != "Kronecker product" else 10**9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ROUNDED), sizes, st.floats(-4, 0).map(lambda x: 10.0**x), seeds)
def test_rounding_keeps_its_tolerance(kind: str, z: Sizes, tolerance: float, seed: int) -> None:
    draw = drawing(seed)
    x = formats.add(MATRICES[kind](draw, 3, (), z), formats.scale(MATRICES[kind](draw, 3, (), z), 0.05))
    found = formats.rounded(x, tolerance=tolerance)
    assert (
        np.linalg.norm(dense(found) - dense(x)) <= tolerance * np.linalg.norm(dense(x)) * (1 + 1e-9) + 1e-12
    )
    small = formats.rounded(x, rank=1)
    assert small.parameters <= found.parameters or kind == "Tucker"


@pytest.mark.parametrize("kind", ROUNDED)
def test_narrow_factors_are_rounded_in_single_precision(kind: str) -> None:
    torch = pytest.importorskip("torch")
    x = MATRICES[kind](drawing(0), 2, ())
    for dtype in (torch.float16, torch.bfloat16):
        held = Factorized(x.layout, tuple(torch.tensor(f).to(dtype) for f in x.factors))
        found = formats.rounded(formats.add(held, held), tolerance=1e-3)
        assert found.dtype == dtype
        expected = 2 * held.to_dense().double().numpy()
        error = np.linalg.norm(found.to_dense().double().numpy() - expected) / np.linalg.norm(expected)
        assert error < (0.005 if dtype == torch.float16 else 0.04)


def test_values_that_are_not_finite_are_not_rounded() -> None:
    x = formats.low_rank(np.full((4, 2), np.inf), np.ones((2, 4)))
    with pytest.raises(contractc.OperandError, match="values that are not finite"):
        formats.rounded(x, tolerance=0.1)


@pytest.mark.parametrize(("m", "r", "n"), [(0, 2, 3), (3, 0, 4), (3, 2, 0)])
def test_operands_without_elements_go_through_the_algebra(m: int, r: int, n: int) -> None:
    x = formats.low_rank(np.ones((m, r)), np.ones((r, n)))
    expected = np.ones((m, r)) @ np.ones((r, n))
    for made in (x, formats.rounded(x, tolerance=0.1), formats.take(x, slice(None))):
        near(made.to_dense(), expected)
    near(formats.add(x, x).to_dense(), 2 * expected)
    near(formats.hadamard(x, x).to_dense(), expected**2)
    near(formats.norm(x), 0 if 0 in (m, n) else np.linalg.norm(expected))
    near(formats.matmul(x, formats.transpose(x)).to_dense(), expected @ expected.T)


def test_rounding_of_cp_is_refused() -> None:
    with pytest.raises(contractc.UnsupportedError, match="a CP has no rounding; fit a smaller one"):
        formats.rounded(MATRICES["CP"](drawing(0), 2, ()), rank=1)


def test_kronecker_sum_is_the_laplacian_of_a_product() -> None:
    matrices = [drawing(k)(n, n) for k, n in enumerate((2, 3, 4))]
    one, two, three = matrices
    expected = np.kron(np.kron(one, np.eye(3)), np.eye(4)) + np.kron(np.kron(np.eye(2), two), np.eye(4))
    expected = expected + np.kron(np.eye(6), three)
    near(dense(formats.kronecker_sum(*matrices)), expected)
    near(dense(formats.kronecker_sum(one)), one)
    with pytest.raises(contractc.OperandError, match=r"matrix 0 of a Kronecker sum has shape \(2, 3\)"):
        formats.kronecker_sum(np.ones((2, 3)))


def test_long_trains_are_planned_by_few_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []
    search = factored._with_dense

    def counted(*arguments: Any) -> Any:
        if arguments[-1] is factored._kept_apart:  # the others are sweeps, which take no search
            searched.append(arguments)
        return search(*arguments)

    monkeypatch.setattr(factored, "_with_dense", counted)
    one, two = (train(drawing(k), ((3,),) * 20, 2) for k in range(2))
    expected = np.ones((1, 1))
    for a, b in zip(one, two, strict=True):
        expected = np.einsum("ab,anc,bnd->cd", expected, a, b)
    near(formats.inner(formats.tt(one), formats.tt(two)), expected[0, 0])
    assert len(searched) == 1  # neither merged step by step nor made dense: 3**20 elements each


def test_inner_products_of_different_formats_and_splits() -> None:
    draw = drawing(4, True)
    operands = [formats.kronecker(draw(3, 2), draw(4, 3)), formats.kronecker(draw(4, 3), draw(3, 2))]
    operands += [MATRICES[kind](draw, 2, ()) for kind in sorted(MATRICES)]
    for x in operands:
        for y in operands[:3]:
            near(formats.inner(x, y), np.vdot(dense(x), dense(y)))


def test_operands_that_do_not_go_together_are_refused() -> None:
    x = MATRICES["TT matrix"](drawing(0), 2, ())
    with pytest.raises(contractc.UnsupportedError) as caught:
        formats.add(x, MATRICES["CP"](drawing(0), 2, ()))
    assert str(caught.value).startswith("add needs two operands of one format and split, not TT matrix 12x6")
    with pytest.raises(contractc.OperandError, match=r"shapes \(12, 6\) and \(12, 6\) cannot be multiplied"):
        formats.matmul(x, x)
    y = MATRICES["TT matrix"](drawing(0), 2, (2,))
    with pytest.raises(
        contractc.OperandError, match=r"shapes \(12, 6\) and \(2, 6, 12\) cannot be multiplied"
    ):
        formats.matmul(x, swapped(y))
    with pytest.raises(contractc.OperandError, match="a mode that is part of an axis has extent 0"):
        formats.kronecker(np.ones((0, 3)), np.ones((2, 2)))
    with pytest.raises(contractc.OperandError, match="an index is outside of 0 to 11"):
        formats.take(x, [12])
    with pytest.raises(
        contractc.OperandError, match="the split 3x4 and 6 is not that of the factors of the CP"
    ):
        formats.cp([np.ones((n, 1)) for n in (4, 3, 6)], split=((3, 4), (6,)))


def test_torch_factors_stay_torch_and_get_gradients() -> None:
    torch = pytest.importorskip("torch")
    for kind, make in MATRICES.items():
        x = make(drawing(0), 2, ())
        leaves = tuple(torch.tensor(f, requires_grad=True) for f in x.factors)
        held = Factorized(x.layout, leaves)
        doubled = formats.add(held, formats.scale(held, 2.0))
        product = formats.hadamard(doubled, doubled)
        near(product.to_dense().detach(), (3 * dense(x)) ** 2)
        near(formats.take(held, [1, 5]).to_dense().detach(), dense(x)[[1, 5]])
        near(formats.take(held, slice(None, 2, -2)).to_dense().detach(), dense(x)[:2:-2])
        near(
            formats.take(held, torch.tensor([1, 5], dtype=torch.uint8)).to_dense().detach(), dense(x)[[1, 5]]
        )
        formats.inner(held, held).backward()
        size = np.linalg.norm(dense(x)) ** 2
        slopes = [
            float((f.grad * f.detach()).sum()) for f in leaves
        ]  # each factor is homogeneous of degree 1
        near(slopes, [2 * size] * len(slopes))
        if kind in ROUNDED:
            near(formats.rounded(doubled, tolerance=1e-9).to_dense().detach(), 3 * dense(x))


@pytest.mark.parametrize("kind", sorted(MATRICES))
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_operands_are_saved_and_loaded(kind: str, dtype: str, tmp_path: Path) -> None:
    x = MATRICES[kind](drawing(3, dtype == "complex128"), 2, (2,))
    x = formats.forced(with_factors(x.layout, [f.astype(dtype) for f in x.factors]), "factored")
    path = tmp_path / "w.safetensors"
    formats.save(path, x)
    found = formats.load(path)
    assert found.layout == x.layout
    for one, two in zip(found.factors, x.factors, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype


def test_torch_operands_are_saved_and_loaded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    x = formats.low_rank(torch.randn(4, 2).bfloat16().requires_grad_(), torch.randn(2, 5).bfloat16())
    formats.save(tmp_path / "w", x)
    found = formats.load(tmp_path / "w", library="torch")
    for one, two in zip(found.factors, x.factors, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, two.detach())


def test_damaged_operand_is_refused(tmp_path: Path) -> None:
    from contractc import tensorfiles

    path = tmp_path / "w"
    formats.save(path, formats.low_rank(np.ones((4, 2)), np.ones((2, 5))))
    arrays, notes = tensorfiles.load(path)
    tensorfiles.save(path, {**arrays, "factor.1": np.ones((3, 5))}, notes)
    with pytest.raises(ValueError, match=r"factor 1 has shape \(3, 5\), its term \(2, 5\)"):
        formats.load(path)
    tensorfiles.save(path, arrays, {"contractc.layout": notes["contractc.layout"].replace("[0,2]", "[0,7]")})
    with pytest.raises(ValueError, match="mode 7 has no extent"):
        formats.load(path)
    tensorfiles.save(path, arrays)
    with pytest.raises(ValueError, match="holds arrays, but no factorized operand"):
        formats.load(path)


@settings(max_examples=30, deadline=None)
@given(kinds, sizes, ranks, batches, st.integers(0, 4), seeds)
def test_a_batch_of_matrices_is_contracted(
    kind: str, z: Sizes, r: int, b: tuple[int, ...], n: int, seed: int
) -> None:
    draw = drawing(seed)
    w = MATRICES[kind](draw, r, b, z)
    x = draw(*b, n, w.shape[-1])
    near(contractc.contract("...ni,...oi->...no", x, w), np.einsum("...ni,...oi->...no", x, dense(w)))


@settings(max_examples=25, deadline=None)
@given(kinds, ranks, batches, st.integers(0, 4), seeds)
def test_a_batch_of_torch_matrices_is_contracted_and_differentiated(
    kind: str, r: int, b: tuple[int, ...], n: int, seed: int
) -> None:
    torch = pytest.importorskip("torch")
    draw = drawing(seed)
    w = MATRICES[kind](draw, r, b)
    leaves = [torch.tensor(f, requires_grad=True) for f in (draw(*b, n, 6), *w.factors)]
    held = Factorized(w.layout, tuple(leaves[1:]))
    modes = [m for axis in w.layout.axes for m in axis]
    labelled = [y for f, t in zip(leaves[1:], w.layout.terms, strict=True) for y in (f, list(t))]
    whole = torch.einsum(*labelled, modes).reshape(w.shape)
    found = contractc.contract("...ni,...oi->...no", leaves[0], held)
    expected = leaves[0] @ whole.mT
    near(found.detach(), expected.detach())
    cotangent = torch.tensor(draw(*found.shape))
    for one, two in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        near(one, two)


def test_kronecker_sums_of_a_batch() -> None:
    one, two = drawing(9)(2, 3, 3), drawing(10)(2, 2, 2)
    expected = [np.kron(a, np.eye(2)) + np.kron(np.eye(3), b) for a, b in zip(one, two, strict=True)]
    near(formats.kronecker_sum(one, two, batch=1).to_dense(), expected)


@pytest.mark.parametrize("batch", [1, 3000])
@pytest.mark.parametrize("kind", sorted(MATRICES))
def test_a_forced_choice_is_kept(kind: str, batch: int) -> None:
    draw = drawing(7)
    w = MATRICES[kind](draw, 2, ())
    x = draw(batch, 6)
    for choice in ("factored", "materialised"):
        held = formats.forced(w, choice)
        for constants in ((), (1,)):
            layer = contractc.compile("bi,oi->bo", x, held, constants=constants)
            (word,) = layer.plan.choices
            assert word.startswith("materialised") == (choice == "materialised"), layer.plan
            near(layer(x) if constants else layer(x, held), x @ dense(w).T)
    assert formats.forced(formats.forced(w, "factored"), "").layout == w.layout
    with pytest.raises(contractc.OperandError, match="choice='dense' is none of"):
        formats.forced(w, "dense")


def test_forced_choices_of_two_operands_are_kept() -> None:
    draw = drawing(8)
    one = formats.forced(MATRICES["TT matrix"](draw, 2, ()), "materialised")
    two = formats.forced(MATRICES["TT matrix"](draw, 2, ()), "factored")
    found = contractc.plan("ij,kj->ik", one, two)
    assert found.choices[0] == "materialised"
    assert not found.choices[1].startswith("materialised")
    near(contractc.contract("ij,kj->ik", one, two), dense(one) @ dense(two).T)
