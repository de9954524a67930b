"""opt_einsum's interface over contractc: values, paths and tables, constants, limits, which route runs."""

from __future__ import annotations

import ast
import copy
import os
import pickle
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import opt_einsum
import pytest
from opt_einsum.sharing import count_cached_ops

import contractc
import contractc.compat.opt_einsum as oe
import reference
from contractc.compat import paths
from expressions import EXPRESSIONS, Expression, random_operands

CHAIN = "ea,fb,gc,hd,abcd->efgh"
SHAPES = [(3, 4), (5, 3), (2, 6), (4, 5), (4, 3, 6, 5)]

NAMES = [
    "auto",
    "auto-hq",
    "optimal",
    "branch-all",
    "branch-2",
    "branch-1",
    "greedy",
    "eager",
    "opportunistic",
]
NAMES += ["dp", "dynamic-programming", "AUTO"]


def drawn(shapes: Sequence[tuple[int, ...]], dtype: str = "float64") -> list[np.ndarray]:
    """Return arrays of quarters within 2, for which sums of these sizes are exact."""
    rng = np.random.default_rng(7)
    return [(rng.integers(-8, 9, shape) / 4).astype(dtype) for shape in shapes]


def truth(text: str, *operands: Any) -> np.ndarray:
    inputs, outputs = reference.parse(text)
    (found,) = reference.vectorised(inputs, outputs, [np.asarray(x, np.float64) for x in operands])
    return np.asarray(found)


# contract


@pytest.mark.parametrize("row", EXPRESSIONS, ids=str)
def test_contract_takes_and_refuses_what_opt_einsum_does(row: Expression) -> None:
    operands = random_operands(row)
    try:
        opt_einsum.contract(row.text, *operands)
    except ValueError:
        with pytest.raises(ValueError, match=r"output|operand|mode"):
            oe.contract(row.text, *operands)
        return
    found = oe.contract(row.text, *operands)
    np.testing.assert_allclose(found, truth(row.text, *operands), rtol=1e-12, atol=1e-12)
    assert np.shape(found) == truth(row.text, *operands).shape


@pytest.mark.parametrize(
    "optimize", [True, None, False, "contractc", *NAMES, "random-greedy", [(3, 4), (0, 1, 3), (0, 1)]]
)
def test_contract_with_each_way_to_find_a_path(optimize: Any) -> None:
    operands = drawn(SHAPES)
    np.testing.assert_array_equal(oe.contract(CHAIN, *operands, optimize=optimize), truth(CHAIN, *operands))


def test_contract_with_optimizers_of_opt_einsum() -> None:
    operands = drawn(SHAPES)
    for optimizer in (
        oe.RandomGreedy(max_repeats=4),
        oe.BranchBound(nbranch=2),
        oe.DynamicProgramming("size"),
    ):
        found = oe.contract(CHAIN, *operands, optimize=optimizer)
        np.testing.assert_array_equal(found, truth(CHAIN, *operands))
        path, _ = oe.contract_path(CHAIN, *operands, optimize=optimizer)
        assert len(path) == 4
    assert oe.contract_path(CHAIN, *operands, optimize=opt_einsum.paths.greedy)[0] == opt_einsum.paths.greedy(
        [frozenset(t) for t in ("ea", "fb", "gc", "hd", "abcd")],
        frozenset("efgh"),
        oe.contract_path(CHAIN, *operands)[1].size_dict,
    )


def test_contract_of_interleaved_operands() -> None:
    x, y = drawn([(2, 3), (3, 4)])
    np.testing.assert_array_equal(oe.contract(x, ["left", "bond"], y, ["bond", "right"]), x @ y)
    np.testing.assert_array_equal(oe.contract(x, [7, 5], y, [5, ...], [..., 7]), (x @ y).T)
    with pytest.raises(TypeError, match="hashable and comparable"):
        oe.contract(x, [[0], 1])
    with pytest.raises(TypeError):
        oe.contract(0, 0)


def test_contract_writes_to_out_with_dtype_and_order() -> None:
    x, y = drawn([(2, 3), (3, 4)])
    out = np.empty((2, 4))
    assert oe.contract("ij,jk->ik", x, y, out=out) is out
    np.testing.assert_array_equal(out, x @ y)
    single = oe.contract("ij,jk->ik", x, y, dtype="float32", casting="same_kind", order="F")
    assert single.dtype == np.float32
    assert single.flags.f_contiguous
    with pytest.raises(TypeError, match="contract has no option shapes, sizes"):
        oe.contract("ij->", x, sizes=1, shapes=True)


def test_contract_refuses_a_repeated_output_that_contractc_has_cached() -> None:
    x = np.ones(3)
    assert contractc.contract("u->uu", x).shape == (3, 3)
    for _ in range(2):
        with pytest.raises(contractc.EinsumError) as caught:
            oe.contract("u->uu", x)
    assert str(caught.value) == "output mode 'u' is repeated; contract accepts that\n  u->uu\n     ^^"


def test_contract_does_not_unpack_a_list_of_operands() -> None:
    with pytest.raises(contractc.OperandError) as caught:
        oe.contract("i,i", [[1, 2], [3, 4]])
    assert str(caught.value) == "the expression has 2 terms but 1 operand was given"


def test_contract_takes_every_symbol_opt_einsum_gives_out() -> None:
    x, y = drawn([(2, 3), (3, 4)])
    for k in (51, 52, 1395, 1396, 55295, 55296):
        i, j, m = (oe.get_symbol(n) for n in (k, k + 1, k + 2))
        text = f"{m}{j},{j}{i}"
        for given in (text, f"{text}->{i}{m}"):
            np.testing.assert_array_equal(oe.contract(given, x, y), (x @ y).T)
            np.testing.assert_array_equal(oe.contract(given, x, y, optimize="greedy"), (x @ y).T)
            np.testing.assert_array_equal(oe.contract_expression(given, (2, 3), (3, 4))(x, y), (x @ y).T)


def test_contract_of_python_objects_gives_an_array() -> None:
    x = np.array([Fraction(1, 3), Fraction(1, 6)], object)
    for backend in ("auto", "object"):
        found = oe.contract("i,i->", x, x, backend=backend)
        assert found.dtype == object
        assert found[()] == Fraction(5, 36)


def test_contract_does_not_know_an_algorithm() -> None:
    with pytest.raises(KeyError, match="optimall"):
        oe.contract("a,b,c", [1], [2], [3], optimize="optimall")
    with pytest.raises(KeyError, match="optimall"):
        oe.contract_path("a,b,c", [1], [2], [3], optimize="optimall")


# paths and tables


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [None, -1, "max_input", 200])
def test_contract_path_by_name_is_opt_einsums(name: str, limit: Any) -> None:
    path, info = oe.contract_path(CHAIN, *SHAPES, shapes=True, optimize=name, memory_limit=limit)
    theirs, table = opt_einsum.contract_path(
        CHAIN, *SHAPES, shapes=True, optimize=name.lower(), memory_limit=limit
    )
    assert path == theirs
    assert str(info) == str(table)


@pytest.mark.parametrize("use_blas", [True, False])
@pytest.mark.parametrize(
    "path", [[(0, 1, 2, 3, 4)], [(0, 4), (0, 3), (0, 2), (0, 1)], [(3, 4), (0, 1, 3), (0, 1)]]
)
def test_contract_path_prints_opt_einsums_table(path: list[tuple[int, ...]], use_blas: bool) -> None:
    operands = drawn(SHAPES)
    found, info = oe.contract_path(CHAIN, *operands, optimize=path, use_blas=use_blas)
    assert found == path
    table = opt_einsum.contract_path(CHAIN, *operands, optimize=path, use_blas=use_blas)[1]
    assert str(info) == str(table)
    assert type(info) is oe.PathInfo is opt_einsum.contract.__globals__["PathInfo"]


def test_path_info_has_opt_einsums_attributes_and_units() -> None:
    _, info = oe.contract_path("ij,jk,kl->il", (10, 20), (20, 30), (30, 40), shapes=True)
    assert (info.eq, info.path, info.shapes) == (
        "ij,jk,kl->il",
        [(0, 1), (0, 1)],
        [(10, 20), (20, 30), (30, 40)],
    )
    assert info.opt_cost == 2 * 10 * 20 * 30 + 2 * 10 * 30 * 40
    assert info.naive_cost == 3 * 10 * 20 * 30 * 40
    assert info.speedup == info.naive_cost / info.opt_cost
    assert info.largest_intermediate == 400
    assert info.scale_list == [3, 3]
    assert info.size_dict == {"i": 10, "j": 20, "k": 30, "l": 40}


@pytest.mark.parametrize("optimize", [True, None, "contractc"])
def test_contract_path_is_contractcs_by_default(optimize: Any) -> None:
    path, info = oe.contract_path(CHAIN, *SHAPES, shapes=True, optimize=optimize)
    plan = contractc.plan(CHAIN, *SHAPES)
    assert path == plan.linear_path()
    assert info.opt_cost == plan.flops


def test_contract_path_takes_interleaved_shapes() -> None:
    path, info = oe.contract_path((2, 3), "ab", (3, 4), "bc", (4, 5), "cd", shapes=True)
    assert (path, info.eq) == ([(0, 1), (0, 1)], "ab,bc,cd->ad")


def test_jax_can_call_contract_path(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(opt_einsum, "contract_path", oe.contract_path)
    operands = drawn(SHAPES, "float32")
    np.testing.assert_array_equal(
        jax.numpy.einsum(CHAIN, *operands, optimize="greedy"), truth(CHAIN, *operands)
    )


# memory limits, in elements


@pytest.mark.parametrize("limit", [1, 7, 40, 300, "max_input"])
@pytest.mark.parametrize("optimize", [True, "greedy", "optimal", [(0, 1), (0, 1, 2), (0, 1)]])
def test_contract_within_a_limit_of_elements(optimize: Any, limit: Any) -> None:
    operands = drawn([(3, 3), (2, 3), (2, 4), (4, 2), (3, 3, 4, 2)])
    found = oe.contract(CHAIN, *operands, optimize=optimize, memory_limit=limit)
    np.testing.assert_array_equal(found, truth(CHAIN, *operands))


@pytest.mark.parametrize("limit", [1, 5, 30, 200, 10**9])
@pytest.mark.parametrize(
    ("text", "extent"), [(CHAIN, 4), ("ab,bc,cd,de,ef->af", 9), ("ai,bi,ci,di->abcd", 5)]
)
def test_limited_plans_stay_within_their_limit(text: str, extent: int, limit: int) -> None:
    shapes = [(extent,) * len(term) for term in text.partition("->")[0].split(",")]
    plan = contractc.plan(text, *shapes)
    merged = paths.merged(plan, limit)
    assert merged.faults() == []
    assert largest(merged) <= limit
    again = paths.sliced_within(paths.pairwise(merged), limit)
    assert again.faults() == []
    assert largest(again) <= limit
    assert all(len(step) <= 2 for step in again.path)
    if limit == 10**9:
        assert (merged.path, again.path, again.sliced) == (plan.path, plan.path, ())
    operands = drawn(shapes)
    (value,) = again.evaluate(*operands)
    np.testing.assert_array_equal(value, truth(text, *operands))


def largest(plan: contractc.Plan) -> int:
    """Return the elements of the largest intermediate of `plan` in one slice, the results not counted."""
    inner = [
        t for i, t in enumerate(plan.terms()) if i >= len(plan.network.tensors) and i not in plan.results
    ]
    return max((plan.network.size(m for m in set(t) if m not in plan.sliced) for t in inner), default=0)


def test_contract_refuses_limits_opt_einsum_refuses() -> None:
    operands = drawn(SHAPES)
    with pytest.raises(ValueError, match="must be larger than 0"):
        oe.contract(CHAIN, *operands, memory_limit=0)
    with pytest.raises(ValueError, match="max_input"):
        oe.contract(CHAIN, *operands, memory_limit="max_output")
    with pytest.raises(contractc.UnsupportedError, match="memory_limit cannot be combined with dtype"):
        oe.contract(CHAIN, *operands, memory_limit=100, dtype="float64")


# expressions


def test_expression_prints_like_opt_einsums() -> None:
    path = [(0, 1), (0, 1)]
    weights = np.ones((2, 3))
    ours = oe.contract_expression(
        "ij,jk,kl->il", weights, (3, 4), (4, 5), constants=[0], optimize=path, dtype="float64"
    )
    theirs = opt_einsum.contract_expression(
        "ij,jk,kl->il", weights, (3, 4), (4, 5), constants=[0], optimize=path, dtype="float64"
    )
    assert repr(ours) == repr(theirs) == "<ContractExpression('[ij],jk,kl->il', constants=[0])>"
    assert str(ours) == str(theirs)
    assert isinstance(ours, type(theirs))
    assert (ours.num_args, ours.contraction, ours.contraction_list) == (
        2,
        theirs.contraction,
        theirs.contraction_list,
    )


def test_expression_takes_other_shapes_dtypes_and_out() -> None:
    expression = oe.contract_expression("ij,jk,kl->il", (2, 3), (3, 4), (4, 5))
    for dtype in ("float64", "float32", "int64", "complex128"):
        for shapes in ([(2, 3), (3, 4), (4, 5)], [(6, 1), (1, 7), (7, 2)]):
            x, y, z = drawn(shapes, dtype)
            for _ in range(2):
                found = expression(x, y, z)
                np.testing.assert_array_equal(found, x @ y @ z)
                assert found.dtype == dtype
            out = np.zeros_like(found)
            assert expression(x, y, z, out=out) is out
            np.testing.assert_array_equal(out, x @ y @ z)
    assert expression([[1.0]], [[2.0]], [[3.0]]).tolist() == [[6.0]]


def test_expression_says_what_is_wrong_as_opt_einsum_does() -> None:
    expression = oe.contract_expression("ij,jk->ik", (2, 3), (3, 4))
    x, y = drawn([(2, 3), (3, 4)])
    expression(x, y)
    with pytest.raises(
        ValueError, match=r"^This `ContractExpression` takes exactly 2 array arguments but received 1.$"
    ):
        expression(x)
    for operands, out, why in (
        ((x, y[0]), None, "operand 1 has 1 axis but its term has 2 modes"),
        ((x.T, y), None, "mode 'j' is 2 in operand 0"),
        ((x, y), np.empty((2, 4, 6)), "out has shape"),
    ):
        with pytest.raises(
            ValueError, match="Internal error while evaluating `ContractExpression`"
        ) as caught:
            expression(*operands, out=out)
        assert why in str(caught.value)
    for options in ({"optimize": False}, {"out": y}, {"backend": "torch"}):
        with pytest.raises(ValueError, match=r"optimized contractions|should only be specified"):
            oe.contract_expression("ij,jk->ik", (2, 3), (3, 4), **options)
    partial = oe.contract_expression("ij,jk,->ik", (2, 3), (3, 4), (), optimize=[(0, 1)])
    with pytest.raises(ValueError, match="the path leaves 2 operands over"):
        partial(x, y, 2.0)


@pytest.mark.parametrize("constants", [[0], [1, 2], [0, 2], [0, 1, 2, 3], [3, 4], [0, 1, 2, 3, 4]])
def test_expression_computes_with_constants_once(constants: list[int]) -> None:
    operands = drawn(SHAPES)
    expected = truth(CHAIN, *operands)
    given = [x if k in constants else x.shape for k, x in enumerate(operands)]
    rest = [x for k, x in enumerate(operands) if k not in constants]
    expression = oe.contract_expression(CHAIN, *given, constants=constants)
    assert expression.num_args == len(rest)
    expression.evaluate_constants()
    for k in range(2):
        np.testing.assert_array_equal(expression(*rest), expected)
        if k == 0 and rest:
            for c in constants:
                operands[c][...] = np.nan


def test_expression_hoists_every_constant_step() -> None:
    a, b, c, d = drawn([(2, 3), (3, 4), (4, 5), (5, 6)])
    path = [(0, 1), (0, 1), (0, 1)]
    expression = oe.contract_expression(
        "ij,jk,kl,lm->im", a.shape, b, c, d, constants=[1, 2, 3], optimize=[(2, 3), (1, 2), (0, 1)]
    )
    np.testing.assert_array_equal(expression(a), a @ b @ c @ d)
    assert oe.explain(expression, a).splitlines()[2:] == [oe.explain(expression, a).splitlines()[-1]]
    middle = oe.contract_expression("ij,jk,kl,lm->im", a.shape, b, c, d, constants=[1, 2, 3], optimize=path)
    np.testing.assert_array_equal(middle(a), a @ b @ c @ d)


def test_expression_is_pickled_and_copied() -> None:
    x, y, z = drawn([(2, 3), (3, 4), (4, 5)])
    expression = oe.contract_expression("ij,jk,kl->il", x, y, z.shape, constants=[0, 1])
    expected = expression(z)
    for other in (pickle.loads(pickle.dumps(expression)), copy.deepcopy(expression)):
        np.testing.assert_array_equal(other(z), expected)


def test_expression_keeps_code_for_so_many_shapes() -> None:
    expression = oe.contract_expression("ij,jk->ik", (2, 3), (3, 4))
    for n in range(1, oe.MOST_SHAPES + 9):
        x, y = drawn([(n, 2), (2, 3)])
        np.testing.assert_array_equal(expression(x, y), x @ y)
    assert len(expression._executables) == oe.MOST_SHAPES


# torch


def test_torch_tensors_are_contracted_by_contractc() -> None:
    torch = pytest.importorskip("torch")
    operands = drawn(SHAPES)
    tensors = [torch.from_numpy(x) for x in operands]
    for found in (
        oe.contract(CHAIN, *tensors),
        oe.contract(CHAIN, *tensors, backend="torch", optimize="greedy", memory_limit=200),
        oe.contract_expression(CHAIN, *SHAPES)(*tensors),
    ):
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), truth(CHAIN, *operands))
    assert oe.explain(CHAIN, *tensors).startswith(
        "contractc, because the operands are torch tensors\nruns on torch;"
    )


def test_torch_computes_for_numpy_arrays_when_asked() -> None:
    pytest.importorskip("torch")
    operands = drawn(SHAPES)
    expression = oe.contract_expression(CHAIN, *operands[:2], *SHAPES[2:], constants=[0, 1])
    found = expression(*operands[2:], backend="torch")
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, truth(CHAIN, *operands))
    np.testing.assert_array_equal(expression(*operands[2:]), truth(CHAIN, *operands))


def test_torch_constants_that_require_grad_get_it() -> None:
    torch = pytest.importorskip("torch")
    x, w, v = (torch.from_numpy(x) for x in drawn([(2, 3), (3, 4), (4, 5)]))
    v.requires_grad_()
    expression = oe.contract_expression(
        "ij,jk,kl->", (2, 3), w, v, constants=[1, 2], optimize=[(0, 1), (0, 1)]
    )
    for _ in range(2):
        v.grad = None
        expression(x).backward()
        np.testing.assert_array_equal(v.grad.numpy(), np.repeat((x @ w).sum(0).numpy()[:, None], 5, 1))


# other libraries


class FakeArray:
    """An array of a library that contractc knows nothing of."""

    __module__ = "fakearrays.core"

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape = self.values.shape


@pytest.fixture
def fakearrays(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """A library with just what opt_einsum asks for, counting the calls."""
    calls: Counter[str] = Counter()
    module = types.ModuleType("fakearrays")

    def tensordot(x: FakeArray, y: FakeArray, axes: Any) -> FakeArray:
        calls["tensordot"] += 1
        return FakeArray(np.tensordot(x.values, y.values, axes))

    def transpose(x: FakeArray, axes: Any) -> FakeArray:
        return FakeArray(x.values.transpose(axes))

    def einsum(text: str, *operands: FakeArray) -> FakeArray:
        calls[text] += 1
        return FakeArray(np.einsum(text, *(x.values for x in operands)))

    for function in (tensordot, transpose, einsum):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "fakearrays", module)
    yield calls
    for known in (opt_einsum.backends.dispatch._has_einsum, opt_einsum.backends.dispatch._has_tensordot):
        known.pop("fakearrays", None)


def test_other_arrays_run_through_opt_einsum_along_contractcs_path(fakearrays: Counter[str]) -> None:
    text = "ab,bc,bcd,d->ab"
    shapes = [(6, 2), (2, 3), (2, 3, 4), (4,)]
    operands = drawn(shapes)
    found = oe.contract(text, *map(FakeArray, operands))
    assert isinstance(found, FakeArray)
    np.testing.assert_array_equal(found.values, truth(text, *operands))
    _, info = oe.contract_path(text, *shapes, shapes=True)
    assert info.path == contractc.plan(text, *shapes).linear_path()
    steps = [(c[2], c[-1]) for c in info.contraction_list]
    expected = Counter("tensordot" if blas and "EINSUM" not in blas else step for step, blas in steps)
    assert fakearrays == expected
    told = oe.explain(text, *map(FakeArray, operands))
    assert told == (
        "opt_einsum's dispatch to fakearrays, because operand 0 is of type fakearrays.core.FakeArray; "
        "order found by contractc\n" + "\n".join(f"  {step}: {blas or 'einsum'}" for step, blas in steps)
    )
    fakearrays.clear()
    expression = oe.contract_expression(text, *shapes)
    np.testing.assert_array_equal(expression(*map(FakeArray, operands)).values, truth(text, *operands))
    assert fakearrays == expected
    np.testing.assert_array_equal(expression(*operands), truth(text, *operands))
    assert fakearrays == expected


def test_arrays_with_a_unit_keep_it() -> None:
    class Metres(np.ndarray):
        def __array_function__(self, function: Any, kinds: Any, arguments: Any, options: Any) -> Any:
            plain = [np.asarray(x) if isinstance(x, Metres) else x for x in arguments]
            return function(*plain, **options).view(Metres)

    x = np.ones((2, 2)).view(Metres)
    assert type(oe.contract("ij,jk->ik", x, x)) is Metres
    assert type(oe.contract("ij,jk->ik", np.ones((2, 2)), np.ones((2, 2)))) is np.ndarray


def test_jax_arrays_run_through_opt_einsum() -> None:
    jax = pytest.importorskip("jax")
    operands = drawn(SHAPES, "float32")
    arrays = [jax.numpy.asarray(x) for x in operands]
    expression = oe.contract_expression(CHAIN, *SHAPES)
    for found in (
        oe.contract(CHAIN, *arrays, optimize="greedy"),
        expression(*arrays),
        jax.jit(expression)(*arrays),
        expression(*operands, backend="jax"),
    ):
        np.testing.assert_array_equal(np.asarray(found), truth(CHAIN, *operands))
    assert isinstance(expression(*arrays), jax.Array)
    assert type(expression(*operands, backend="jax")) is np.ndarray
    told = oe.explain(CHAIN, *arrays, optimize="greedy").splitlines()[0]
    assert told.startswith("opt_einsum's dispatch to jax")
    assert told.endswith("; order found by opt_einsum's greedy")
    told = oe.explain(CHAIN, *operands, backend="jax").splitlines()[0]
    assert (
        told == "opt_einsum's dispatch to jax, because backend='jax' was asked for; order found by contractc"
    )


def test_arrays_without_einsum_run_on_the_array_api() -> None:
    strict = pytest.importorskip("array_api_strict")
    text = "ab,bc,bcd,d->ab"
    operands = drawn([(6, 2), (2, 3), (2, 3, 4), (4,)])
    arrays = [strict.asarray(x) for x in operands]
    with pytest.raises(AttributeError, match="function einsum"):
        opt_einsum.contract(text, *arrays)
    for found in (
        oe.contract(text, *arrays),
        oe.contract_expression(text, *(x.shape for x in operands))(*arrays),
    ):
        assert type(found) is type(arrays[0])
        np.testing.assert_array_equal(np.asarray(found), truth(text, *operands))
    assert oe.explain(text, *arrays).splitlines()[:2] == [
        "contractc, because operand 0 is of type array_api_strict._array_object.Array, "
        "for which opt_einsum knows no einsum",
        "runs on array_api; order found by contractc",
    ]


def test_shared_intermediates_are_opt_einsums() -> None:
    x, y, z = drawn([(2, 3), (3, 4), (4, 5)])
    expression = oe.contract_expression("ab,bc,cd->ad", x.shape, y.shape, z.shape, optimize=[(0, 1), (0, 1)])
    expression(x, y, z)
    with oe.shared_intermediates() as cache:
        np.testing.assert_array_equal(expression(x, y, z), x @ y @ z)
        once = count_cached_ops(cache)
        np.testing.assert_array_equal(
            oe.contract("ab,bc,cd->ad", x, y, z, optimize=[(0, 1), (0, 1)]), x @ y @ z
        )
        assert count_cached_ops(cache) == once
        assert once["tensordot"] == 2
        assert oe.explain(expression, x, y, z).startswith(
            "opt_einsum's dispatch to numpy, because intermediates are shared, which is opt_einsum's work; "
        )


# explain


def test_explain_tells_the_route_the_order_and_the_steps() -> None:
    operands = drawn([(2, 3), (3, 4), (4, 5)])
    assert oe.explain("ij,jk,kl->il", *operands, optimize="greedy").splitlines()[:2] == [
        "contractc, because the operands are NumPy arrays",
        "runs on numpy; order found by opt_einsum's greedy",
    ]
    assert oe.explain("ij,jk,kl->il", *operands, optimize=[(0, 1), (0, 1)]) == (
        "contractc, because the operands are NumPy arrays\n"
        "runs on numpy; order found by the path given\n"
        "  %3: gemm: x0.dot(x1)\n"
        "  %4: gemm: x3.dot(x2)"
    )
    assert "order found by left to right\n" in oe.explain("ij,jk,kl->il", *operands, optimize=False)
    assert oe.explain("ij,jk,kl->il", *operands, optimize=False, backend="jax") == (
        "opt_einsum's dispatch to jax, because backend='jax' was asked for; order found by no search\n"
        "  kl,jk,ij->il: einsum"
    )
    assert "a loop over slices" in oe.explain("ij,jk,kl->il", *operands, memory_limit=2)
    constant = oe.contract_expression("ij,jk->", operands[0], operands[1], constants=[0, 1])
    assert oe.explain(constant, backend="numpy") == "nothing left to run on numpy: all operands are constant"


# the search inside opt_einsum


@pytest.fixture
def registered() -> Iterator[None]:
    oe.register()
    yield
    del opt_einsum.paths._PATH_OPTIONS["contractc"]


@pytest.mark.usefixtures("registered")
def test_register_makes_the_search_usable_inside_opt_einsum() -> None:
    operands = drawn(SHAPES)
    path, info = opt_einsum.contract_path(CHAIN, *operands, optimize="contractc")
    plan = contractc.plan(CHAIN, *operands)
    assert path == plan.linear_path()
    assert info.opt_cost == plan.flops
    np.testing.assert_array_equal(
        opt_einsum.contract(CHAIN, *operands, optimize="contractc"), truth(CHAIN, *operands)
    )
    limit = largest(plan) - 1
    limited, info = opt_einsum.contract_path(CHAIN, *operands, optimize="contractc", memory_limit=limit)
    assert info.largest_intermediate <= max(limit, truth(CHAIN, *operands).size)
    assert max(map(len, limited)) > 2
    found = opt_einsum.contract(CHAIN, *operands, optimize="contractc", memory_limit=limit)
    np.testing.assert_array_equal(found, truth(CHAIN, *operands))


@pytest.mark.usefixtures("registered")
def test_register_twice_changes_nothing_and_takes_no_name_of_others() -> None:
    oe.register()
    assert opt_einsum.paths.get_path_fn("contractc") is oe.search_path
    with pytest.raises(KeyError, match="greedy"):
        oe.register("greedy")


def test_search_path_depends_on_nothing_but_the_network() -> None:
    program = (
        "import opt_einsum, contractc.compat.opt_einsum as oe; oe.register();"
        "eq, shapes = 'abc,cde,efa,bdg,gh,hf,ai,ij,jb->', [(2,) * k for k in (3, 3, 3, 3, 2, 2, 2, 2, 2)];"
        "print(opt_einsum.contract_path(eq, *shapes, shapes=True, optimize='contractc')[0])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1
    assert len(ast.literal_eval(answers.pop())) == 8
