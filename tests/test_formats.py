"""Factorized operands: every format against its dense array, built here by explicit loops."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats
from contractc.cost import step_costs
from contractc.formats import Factorized

Array = np.ndarray[Any, Any]


def drawn(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape)


def random_cp(rng: np.random.Generator, shape: Sequence[int], r: int) -> tuple[Factorized, Array]:
    factors, weights = [drawn(rng, n, r) for n in shape], drawn(rng, r)
    dense = np.zeros(shape)
    for k in range(r):
        term = weights[k]
        for factor in factors:
            term = np.multiply.outer(term, factor[:, k])
        dense += term
    return formats.cp(factors, weights), dense


def random_tucker(rng: np.random.Generator, shape: Sequence[int], r: int) -> tuple[Factorized, Array]:
    core = drawn(rng, *(r + k % 2 for k in range(len(shape))))
    factors = [drawn(rng, n, m) for n, m in zip(shape, core.shape, strict=True)]
    dense = core
    for axis, factor in enumerate(factors):
        dense = np.moveaxis(np.tensordot(factor, dense, (1, axis)), 0, axis)
    return formats.tucker(core, factors), dense


def random_tt(rng: np.random.Generator, shape: Sequence[int], r: int) -> tuple[Factorized, Array]:
    ranks = [1, *[r] * (len(shape) - 1), 1]
    cores = [drawn(rng, ranks[k], n, ranks[k + 1]) for k, n in enumerate(shape)]
    dense = np.zeros(shape)
    for position in np.ndindex(*shape):
        product = np.eye(1)
        for core, i in zip(cores, position, strict=True):
            product = product @ core[:, i]
        dense[position] = product[0, 0]
    return formats.tt(cores), dense


def random_tt_matrix(
    rng: np.random.Generator, rows: Sequence[int], columns: Sequence[int], r: int
) -> tuple[Factorized, Array]:
    train, dense = random_tt(rng, [m * n for m, n in zip(rows, columns, strict=True)], r)
    cores = [
        c.reshape(c.shape[0], m, n, c.shape[2]) for c, m, n in zip(train.factors, rows, columns, strict=True)
    ]
    d = len(rows)
    order = [2 * k for k in range(d)] + [2 * k + 1 for k in range(d)]
    paired = dense.reshape([n for pair in zip(rows, columns, strict=True) for n in pair]).transpose(order)
    return formats.tt_matrix(cores), paired.reshape(prod(rows), prod(columns))


def random_monarch(
    rng: np.random.Generator, rows: Sequence[int], columns: Sequence[int], r: int
) -> tuple[Factorized, Array]:
    (m, s), (n, q) = rows, columns
    left, right = drawn(rng, r, m, n, q), drawn(rng, r, m, s, q)
    dense = np.zeros((m, s, n, q))
    for a, b in np.ndindex(m, q):
        dense[a, :, :, b] = right[:, a, :, b].T @ left[:, a, :, b]
    return formats.monarch(left, right), dense.reshape(m * s, n * q)


def random_low_rank(
    rng: np.random.Generator, rows: Sequence[int], columns: Sequence[int], r: int
) -> tuple[Factorized, Array]:
    m, n = prod(rows), prod(columns)
    left, right, scale, diagonal = drawn(rng, m, r), drawn(rng, r, n), drawn(rng, r), drawn(rng, m)
    return formats.low_rank(left, right, scale, diagonal), diagonal[:, None] * ((left * scale) @ right)


def random_kronecker(
    rng: np.random.Generator, rows: Sequence[int], columns: Sequence[int], r: int
) -> tuple[Factorized, Array]:
    factors = [drawn(rng, r, m, n) for m, n in zip(rows, columns, strict=True)]
    dense = np.zeros((prod(rows), prod(columns)))
    for k in range(r):
        term = np.eye(1)
        for factor in factors:
            term = np.kron(term, factor[k])
        dense += term
    return formats.kronecker(*factors), dense


MATRICES = (random_tt_matrix, random_monarch, random_low_rank, random_kronecker)
ARRAYS = (random_cp, random_tucker, random_tt)
Maker = Callable[..., tuple[Factorized, Array]]

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ARRAYS), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 3), seeds)
def test_array_format_is_its_dense_array(make: Maker, shape: list[int], r: int, seed: int) -> None:
    made, dense = make(np.random.default_rng(seed), shape, r)
    assert made.shape == dense.shape
    assert made.faults() == []
    np.testing.assert_allclose(made.to_dense(), dense, atol=1e-10)
    letters = "abcd"[: len(shape)]
    np.testing.assert_allclose(
        contractc.contract(f"{letters},{letters}->", made, dense), (dense * dense).sum(), atol=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MATRICES), pairs, pairs, st.integers(1, 3), st.integers(0, 3), seeds)
def test_matrix_format_multiplies_like_its_dense_matrix(
    make: Maker, rows: tuple[int, int], columns: tuple[int, int], r: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    made, dense = make(rng, rows, columns, r)
    np.testing.assert_allclose(made.to_dense(), dense, atol=1e-10)
    x = drawn(rng, batch, dense.shape[1])
    expected = x @ dense.T
    np.testing.assert_allclose(contractc.contract("bi,oi->bo", x, made), expected, atol=1e-9)
    fixed = contractc.compile("bi,oi->bo", x, made, constants=(1,))
    np.testing.assert_allclose(fixed(x), expected, atol=1e-9)
    given_ = contractc.compile("bi,oi->bo", x, made)
    np.testing.assert_allclose(given_(x, made), expected, atol=1e-9)
    np.testing.assert_allclose(given_(x, *made.factors), expected, atol=1e-9)
    arrays = (x, *made.factors)
    for noun in (given_.plan.network, given_.plan, given_.program):
        assert noun.faults() == []
        assert type(noun).from_json(noun.to_json()) == noun
        np.testing.assert_allclose(noun.evaluate(*arrays)[0], expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MATRICES), pairs, pairs, st.integers(1, 3), st.integers(0, 3), st.booleans(), seeds)
def test_torch_factors_multiply_like_their_dense_matrix(
    make: Maker, rows: tuple[int, int], columns: tuple[int, int], r: int, batch: int, single: bool, seed: int
) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    made, dense = make(rng, rows, columns, r)
    dtype, within = (torch.float32, 1e-3) if single else (torch.float64, 1e-9)
    x, *factors = (
        torch.tensor(y, dtype=dtype, requires_grad=True)
        for y in (drawn(rng, batch, dense.shape[1]), *made.factors)
    )
    found = contractc.contract("bi,oi->bo", x, Factorized(made.layout, tuple(factors)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.detach(), x.detach() @ torch.tensor(dense, dtype=dtype).T, atol=within)
    (gradient,) = torch.autograd.grad(found.sum(), [x])
    np.testing.assert_allclose(gradient, np.ones((batch, len(dense))) @ dense, atol=within)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MATRICES), st.sampled_from(MATRICES), pairs, st.integers(1, 2), seeds)
def test_two_factorized_operands_meet(
    make: Maker, other: Maker, sizes: tuple[int, int], r: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    one, dense_one = make(rng, sizes, sizes, r)
    two, dense_two = other(rng, sizes, sizes, r)
    np.testing.assert_allclose(contractc.contract("ij,jk->ik", one, two), dense_one @ dense_two, atol=1e-9)
    np.testing.assert_allclose(
        contractc.contract("ij,ij->", one, two), (dense_one * dense_two).sum(), atol=1e-9
    )
    np.testing.assert_allclose(contractc.contract("ii->", one), np.trace(dense_one), atol=1e-9)
    np.testing.assert_allclose(contractc.contract("ii->i", one), np.diag(dense_one), atol=1e-9)


def test_different_splits_are_cut_into_common_pieces() -> None:
    rng = np.random.default_rng(0)
    fine, dense_fine = random_tt_matrix(rng, (2, 3, 2), (2, 3, 2), 2)
    coarse, dense_coarse = random_kronecker(rng, (6, 2), (2, 6), 1)
    np.testing.assert_allclose(
        contractc.contract("ij,jk->ik", fine, coarse), dense_fine @ dense_coarse, atol=1e-9
    )


SPLITS = ((3, 4), (4, 3), (2, 6), (6, 2), (12, 1))


@given(st.lists(st.sampled_from(SPLITS), min_size=2, max_size=3), st.booleans(), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_splits_without_common_pieces_meet_in_a_reshape(
    splits: list[tuple[int, int]], constant: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pairs = [random_kronecker(rng, split, split, 2) for split in splits]
    made, dense = [p[0] for p in pairs], [p[1] for p in pairs]
    x = rng.standard_normal((3, 12))
    letters = "ijkl"
    terms = [letters[k : k + 2] for k in range(len(splits))]
    last = letters[len(splits)]
    text = f"bi,{','.join(terms)}->b{last}"
    expected = np.linalg.multi_dot([x, *dense])
    np.testing.assert_allclose(contractc.contract(text, x, *made), expected, atol=1e-8)
    fixed = range(1, 1 + len(made)) if constant else ()
    compiled = contractc.compile(text, x, *made, constants=fixed)
    np.testing.assert_allclose(compiled(x, *(() if constant else made)), expected, atol=1e-8)
    plan = contractc.plan(text, x, *made)
    factors = [f for m in made for f in m.factors]
    np.testing.assert_allclose(plan.evaluate(x, *factors)[0], expected, atol=1e-8)
    if len(made) == 2:  # the slow evaluator holds all modes at a time
        np.testing.assert_allclose(plan.network.evaluate(x, *factors)[0], expected, atol=1e-8)


def test_a_reshape_between_splits_is_printed_and_runs_as_one() -> None:
    rng = np.random.default_rng(0)
    one, _ = random_kronecker(rng, (2, 3), (2, 3), 1)
    two, _ = random_kronecker(rng, (3, 2), (3, 2), 1)
    x = rng.standard_normal((4, 6))
    plan = contractc.plan("bi,ij,jk->bk", x, one, two)
    assert "unit matrix: a reshape" in str(plan.network)
    assert "%5: reshape of j.0 j.1 to j'.0 j'.1" in str(plan)
    step = next(line for line in str(plan).splitlines() if line.endswith("reshape"))
    place = next(k for k, ids in enumerate(plan.path) if 5 in ids)
    assert step.lstrip().startswith(f"%{6 + place} =")
    assert step_costs(plan.network, plan.path, plan.results)[place].flops == 0
    program = contractc.compile("bi,ij,jk->bk", x, one, two).program
    assert not program.constants and "reshape" in str(program)


def test_what_was_compiled_for_factors_takes_no_dense_array() -> None:
    made, dense = random_kronecker(np.random.default_rng(0), (2, 3), (2, 3), 1)
    x = np.ones((4, 6))
    with pytest.raises(
        contractc.OperandError, match="takes 3 arrays, not 2: it was compiled for operands held as factors"
    ):
        contractc.compile("bi,ij->bj", x, made)(x, dense)


def test_gradients_pass_a_reshape_between_splits() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    pairs = [random_kronecker(rng, split, split, 1) for split in ((2, 3), (3, 2))]
    factors = [torch.tensor(f, requires_grad=True) for p in pairs for f in p[0].factors]
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)

    def function(x: Any, *factors: Any) -> Any:
        one, two = (
            contractc.formats.Factorized(p[0].layout, factors[2 * k : 2 * k + 2]) for k, p in enumerate(pairs)
        )
        return contractc.contract("bi,ij,jk->bk", x, one, two)

    assert torch.autograd.gradcheck(function, (x, *factors))
    assert torch.autograd.gradgradcheck(function, (x, *factors))


def test_shape_mismatch_is_told_in_the_letters_of_the_dense_expression() -> None:
    made, _ = random_monarch(np.random.default_rng(0), (2, 3), (2, 2), 1)
    with pytest.raises(contractc.OperandError) as caught:
        contractc.contract("bi,oi->bo", np.ones((5, 7)), made)
    assert str(caught.value) == (
        "mode 'i' is 7 in operand 0 (axis 1) but 4 in operand 1 (axis 1)\n  bi,oi->bo\n   ^  ^"
    )


def test_dynamic_mode_cannot_be_split() -> None:
    made, _ = random_monarch(np.random.default_rng(0), (2, 3), (2, 2), 1)
    with pytest.raises(contractc.OperandError, match="mode 'i' is dynamic, but operand 1 splits it"):
        contractc.compile("bi,oi->bo", (5, 4), made, dynamic=("i",))


def test_plan_materialises_what_is_smaller_dense() -> None:
    rng = np.random.default_rng(0)
    wide, _ = random_low_rank(rng, (4, 4), (4, 4), 500)
    assert contractc.plan("bi,oi->bo", (3000, 16), wide).choices == ("materialised",)
    thin = formats.low_rank(drawn(rng, 1600, 1), drawn(rng, 1, 1600))
    assert contractc.plan("bi,oi->bo", (3, 1600), thin).choices == ("factored",)


def test_long_trains_meet_core_by_core() -> None:
    """Merging neighbours of one train first, as a greedy order does, takes five times the multiplications."""
    ten = (10,) * 10
    bonds = [1, *[10] * 9, 1]
    ends = list(zip(bonds, bonds[1:], strict=False))
    side = formats.tt([np.ones((a, 10, b)) for a, b in ends], split=(ten,))
    form = formats.tt_matrix([np.ones((a, 10, 10, b)) for a, b in ends])
    plan = contractc.plan("i,ij,j->", side, form, side)
    assert plan.flops <= 2 * 8 * 1.2e6 + 2 * 2 * 1.3e5
    assert plan.search == "a sweep"


def test_constant_factors_are_materialised_once() -> None:
    rng = np.random.default_rng(0)
    made, dense = random_tt_matrix(rng, (4, 4), (4, 4), 8)
    x = drawn(rng, 100, 16)
    fixed = contractc.compile("bi,oi->bo", x, made, constants=(1,))
    assert fixed.plan.choices == ("materialised once",)
    assert len(fixed.program.constants) == 1
    np.testing.assert_allclose(fixed(x), x @ dense.T)


def test_explain_says_what_was_made_of_the_factors_and_why() -> None:
    rng = np.random.default_rng(0)
    made, _ = random_tt_matrix(rng, (8, 8, 8), (8, 8, 8), 4)

    def told(batch: int, operand: Factorized, **options: Any) -> str:
        return contractc.explain(
            contractc.compile("bi,oi->bo", (batch, 512), operand, **options)
        ).splitlines()[1]

    line = told(4, made)
    assert re.fullmatch(r"  factors %1 %2 %3: factored; [0-9.]+ us predicted, partly merged [0-9.]+ us", line)
    assert told(4, formats.forced(made, "materialised")) == "  factors %1 %2 %3: materialised; as asked for"
    dear, _ = random_tt_matrix(rng, (8, 8, 8), (8, 8, 8), 16)
    once = told(4096, dear, constants=(1,))
    assert once.startswith("  factors %1 %2 %3: materialised once; ")
    assert "factors" not in contractc.explain(contractc.compile("bi,oi->bo", (4, 6), (5, 6)))


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(contractc.OperandError) as caught:
        formats.low_rank(np.ones((4, 2)), np.ones((3, 5)))
    assert str(caught.value) == (
        "factors 0 and 1 of a low rank share a mode, which is 2 in one and 3 (axis 0) in the other"
    )
    with pytest.raises(contractc.OperandError, match="the first rank of a TT is 1, not 2"):
        formats.tt([np.ones((2, 3, 1))])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: formats.cp([[1.0, 2.0]]), "factor 0 of a CP is a list, not an array"),
        (lambda: formats.cp([np.ones(3)], batch=1), "factor 0 of a CP has 3 axes, not 1"),
        (
            lambda: formats.tucker(np.ones((2, 2)), [np.ones((3, 2)), np.ones(2)]),
            "factor 2 of a Tucker has 2 axes",
        ),
        (lambda: formats.tensor_ring([np.ones(3)] * 2), "factor 0 of a tensor ring has 3 axes, not 1"),
        (
            lambda: formats.block_term(np.ones((1, 2)), [np.ones(3)]),
            "factor 1 of a block term has 3 axes, not 1",
        ),
        (
            lambda: formats.hierarchical_tucker([], []),
            "a leaf for each mode and one transfer less, not 0 and 0",
        ),
        (lambda: formats.tubal(1.0, 2.0), "factor 0 of a tubal is a float, not an array"),
        (lambda: formats.tt([1.0]), "factor 0 of a TT is a float, not an array"),
        (lambda: formats.kronecker([1.0]), "factor 0 of a Kronecker is a list, not an array"),
    ],
)
def test_what_is_no_factor_is_refused_by_its_number(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(contractc.OperandError, match=message):
        make()


def test_an_operand_held_as_factors_is_no_array_for_numpy() -> None:
    made = formats.low_rank(np.ones((4, 2)), np.ones((2, 5)))
    for use in (np.asarray, np.sum, lambda x: np.ones((3, 4)) @ x, lambda x: np.ones(5) + x):
        with pytest.raises(
            TypeError, match=r"^a low rank is no array; contract it, or take its to_dense\(\)$"
        ):
            use(made)


def test_factors_are_where_the_other_operands_are() -> None:
    """Torch multiplies a tensor of the CPU with one without memory, and gives back what was in memory."""
    torch = pytest.importorskip("torch")
    here, away = torch.ones(4, 2), torch.ones(2, 4, device="meta")
    message = "factor 1 of a low rank is on meta, factor 0 on cpu; move one of them"
    with pytest.raises(contractc.OperandError, match=message):
        formats.low_rank(here, away)
    weight = formats.low_rank(here.to("meta"), away)
    for call in (contractc.contract, contractc.compile, contractc.plan):
        with pytest.raises(contractc.OperandError, match="operand 1 is on meta, but others on cpu"):
            call("bi,oi->bo", torch.ones(3, 4), weight)
    assert contractc.contract("bi,oi->bo", torch.ones(3, 4, device="meta"), weight).shape == (3, 4)


def test_factors_of_two_dtypes_are_told_by_name() -> None:
    message = "not a low rank: its factors have different dtypes, float32 and float64"
    with pytest.raises(contractc.OperandError, match=message):
        formats.low_rank(np.ones((4, 2), "float32"), np.ones((2, 4)))


def test_only_operands_held_as_factors_are_saved(tmp_path: Path) -> None:
    with pytest.raises(contractc.OperandError, match="save writes operands held as factors, not a ndarray"):
        formats.save(tmp_path / "w", np.ones((2, 2)))  # type: ignore[arg-type]


def test_printed_form_tells_shape_and_parameters() -> None:
    made = formats.low_rank(np.ones((40, 2)), np.ones((2, 50)))
    assert str(made) == "low rank 40x50, 180 parameters (0.09 of dense): (40, 2), (2, 50)"


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 1e-8])
def test_from_dense_keeps_its_tolerance(tolerance: float) -> None:
    rng = np.random.default_rng(1)
    decay = np.exp(-np.arange(24.0) / 3)
    matrix = (np.linalg.qr(drawn(rng, 24, 24))[0] * decay) @ np.linalg.qr(drawn(rng, 24, 24))[0]
    rows, columns = (4, 6), (6, 4)
    for made in (
        formats.low_rank_from_dense(matrix, tolerance=tolerance),
        formats.tt_matrix_from_dense(matrix, (2, 3, 4), (4, 3, 2), tolerance=tolerance),
        formats.monarch_from_dense(matrix, rows, columns, tolerance=tolerance),
        formats.kronecker_from_dense(matrix, rows, columns, tolerance=tolerance),
        formats.tt_from_dense(matrix.reshape(4, 6, 6, 4), tolerance=tolerance),
        formats.tucker_from_dense(matrix.reshape(4, 6, 6, 4), tolerance=tolerance),
    ):
        error = np.linalg.norm(made.to_dense().reshape(24, 24) - matrix) / np.linalg.norm(matrix)
        assert error <= tolerance + 1e-12, made


@pytest.mark.parametrize("seed", range(3))
def test_from_dense_finds_planted_ranks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made, dense = random_monarch(rng, (4, 6), (6, 4), 2)
    found = formats.monarch_from_dense(dense, (4, 6), (6, 4), tolerance=1e-10)
    assert found.factors[0].shape == made.factors[0].shape
    np.testing.assert_allclose(found.to_dense(), dense, atol=1e-9)
    made, dense = random_kronecker(rng, (4, 6), (6, 4), 2)
    assert formats.kronecker_from_dense(dense, (4, 6), (6, 4), tolerance=1e-10).factors[0].shape[0] == 2
    made, dense = random_tt_matrix(rng, (2, 3, 2), (3, 2, 2), 2)
    found = formats.tt_matrix_from_dense(dense, (2, 3, 2), (3, 2, 2), tolerance=1e-10)
    assert [c.shape for c in found.factors] == [c.shape for c in made.factors]


def test_from_dense_wants_one_of_rank_and_tolerance() -> None:
    with pytest.raises(contractc.OperandError, match="give a rank or a tolerance, one of them"):
        formats.low_rank_from_dense(np.eye(3))
    with pytest.raises(contractc.OperandError) as caught:
        formats.kronecker_from_dense(np.eye(6), (4, 2), (3, 2), rank=1)
    assert str(caught.value) == "a matrix of shape (6, 6) cannot be split into rows (4, 2) and columns (3, 2)"
