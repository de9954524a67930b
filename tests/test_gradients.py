"""Gradients as programs: every stage against differences of a multilinear map, which are exact, and against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contractc
import reference
from contractc import OperandError, ResourceLimitError, UnsupportedError, formats
from contractc.lower import lower
from contractc.lower.passes import PASSES
from contractc.machine import Target
from contractc.network import TensorNetwork
from contractc.plans import Plan
from contractc.search import search, search_gradients
from contractc.search.sweep import with_cotangent
from expressions import EXPRESSIONS, Expression, random_operands
from messages import message_of
from strategies import Formal, formals
from test_stages import bound

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
ROWS = [row for row in EXPRESSIONS if len(reference.parse(row.text)[1]) == 1]
every_row = pytest.mark.parametrize("row", ROWS, ids=str)


def quarters(shape: Any, complex_: bool, seed: int = 1) -> np.ndarray:
    """Return small multiples of a quarter, for which sums are exact."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-8, 9, size=shape) / 4.0
    return np.asarray(drawn + 1j * rng.integers(-8, 9, size=shape) / 4.0 if complex_ else drawn)


def value_of(text: str, operands: list[np.ndarray], conj: tuple[int, ...]) -> np.ndarray:
    inputs, outputs = reference.parse(text)
    dtype: Any = np.result_type(*operands)
    arrays = [x.conj() if k in conj else x for k, x in enumerate(operands)]
    return reference.vectorised(inputs, outputs, arrays, dtype)[0]


def truth(
    text: str, operands: list[np.ndarray], cotangent: np.ndarray, conj: tuple[int, ...] = ()
) -> list[np.ndarray]:
    """Return the gradient by each operand, an element at a time: the value is linear in each operand.

    With v the value at an operand of one 1 and zeros, the derivative of the real part of sum(conj(g) v x) in
    the direction of x is g conj(v), or conj(g) v where the conjugate of the operand is meant.
    """
    found = []
    for k, x in enumerate(operands):
        gradient = np.zeros(x.shape, np.result_type(*operands))
        for place in np.ndindex(x.shape):
            unit = np.zeros_like(x)
            unit[place] = 1
            change = value_of(text, [*operands[:k], unit, *operands[k + 1 :]], conj)
            parts = cotangent.conj() * change if k in conj else cotangent * change.conj()
            gradient[place] = parts.sum()
        found.append(gradient)
    return found


def case(
    row: Expression, dtype: str
) -> tuple[list[np.ndarray], np.ndarray, tuple[int, ...], list[np.ndarray]]:
    """Return operands, a cotangent, the conjugated operands, and the value with all gradients."""
    operands = [np.asarray(x) for x in random_operands(row, dtype)]
    conj = (0,) if dtype == "complex128" else ()
    value = value_of(row.text, operands, conj)
    cotangent = quarters(value.shape, dtype == "complex128")
    return operands, cotangent, conj, [value, *truth(row.text, operands, cotangent, conj)]


def same(results: Any, expected: list[np.ndarray]) -> None:
    for found, exact in zip(results, expected, strict=True):
        assert np.shape(found) == exact.shape
        np.testing.assert_array_equal(found, exact)


# every stage


@every_row
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_every_stage_gives_the_gradients(row: Expression, dtype: str) -> None:
    operands, cotangent, conj, expected = case(row, dtype)
    network = bound(row, operands, conj=conj)
    for optimize in ("auto", False, [tuple(range(len(operands)))]):
        plan = search_gradients(network, range(len(operands)), optimize)
        assert plan.faults() == []
        assert Plan.from_json(plan.to_json()) == plan
        assert TensorNetwork.from_json(plan.network.to_json()) == plan.network
        same(plan.network.evaluate(*operands, cotangent), expected)
        same(plan.evaluate(*operands, cotangent), expected)
        program = lower(plan, Target())
        same(program.evaluate(*operands, cotangent), expected)
        for transform in PASSES:
            program = transform(program)
            assert program.faults() == []
        same(program.evaluate(*operands, cotangent), expected)
        value, found = contractc.gradients(
            row.text, *operands, cotangent=cotangent, conj=conj, optimize=optimize
        )
        same([value, *found], expected)


@every_row
def test_slices_give_the_same_gradients(row: Expression) -> None:
    operands, cotangent, _, expected = case(row, "float64")
    plan = search_gradients(bound(row, operands), range(len(operands)))
    for mode in range(min(3, len(plan.network.extents))):
        cut = Plan(plan.network, plan.path, plan.results, (mode,))
        assert cut.faults() == []
        same(cut.evaluate(*operands, cotangent), expected)
        same(lower(cut, Target()).evaluate(*operands, cotangent), expected)


@needs_torch
@every_row
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_torch_runs_gradient_programs(row: Expression, dtype: str) -> None:
    operands, cotangent, conj, expected = case(row, dtype)
    tensors = [torch.from_numpy(x.copy()) for x in operands]
    value, found = contractc.gradients(row.text, *tensors, cotangent=torch.from_numpy(cotangent), conj=conj)
    same([x.resolve_conj().numpy() for x in (value, *found)], expected)


@needs_torch
@given(formals(max_operands=5), st.booleans(), st.integers(0, 31))
def test_random_expressions_have_the_gradients_of_torch(formal: Formal, complex_: bool, mask: int) -> None:
    shapes = [formal.shape(term) for term in formal.inputs]
    arrays = [quarters(shape, complex_, 3 + k) for k, shape in enumerate(shapes)]
    conj = tuple(k for k in range(len(arrays)) if complex_ and mask >> k & 1)
    cotangent = quarters(formal.shape(formal.output), complex_, 2)
    expected = truth(formal.text, arrays, cotangent, conj)
    value, found = contractc.gradients(formal.text, *arrays, cotangent=cotangent, conj=conj)
    np.testing.assert_array_equal(value, value_of(formal.text, arrays, conj))
    same(found, expected)
    tensors = [torch.from_numpy(x).requires_grad_() for x in arrays]
    result = contractc.contract(formal.text, *tensors, conj=conj)
    ours = torch.autograd.grad(result, tensors, torch.from_numpy(cotangent))
    same([x.resolve_conj().numpy() for x in ours], expected)


# what it costs


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("ab,bc,cd,de,ef->af", 12),
        ("ab,bc,cd,da->", 12),
        ("ioA,AjpB,Bkq,bijk->bopq", 6),
        ("rmnq,rmsq,bnq->bms", 6),
        ("ea,fb,abcd,gc,hd->efgh", 6),
        ("r,ir,jr,kr,ijk->", 8),
    ],
)
def test_all_gradients_cost_at_most_three_times_the_value(text: str, size: int) -> None:
    terms = text.partition("->")[0].split(",")
    row = Expression(text, tuple((size,) * len(term) for term in terms), "")
    network = bound(row, [np.ones(shape) for shape in row.shapes])
    value, both = search(network), search_gradients(network, range(len(terms)))
    assert both.flops <= 3 * value.flops
    assert len(both.path) <= 3 * len(value.path)
    alone = [search(with_cotangent(network, [k], value=False)) for k in range(len(terms))]
    if len(terms) > 3:
        assert both.flops < value.flops + sum(plan.flops for plan in alone)


def test_only_what_is_asked_for_is_computed() -> None:
    network = bound(Expression("ab,bc,cd->ad", ((4, 4),) * 3, ""), [np.ones((4, 4))] * 3)
    last = search_gradients(network, [2], optimize=[(0, 1), (0, 1)])
    assert [sorted(ids) for ids in last.path] == [[0, 1], [2, 4], [3, 4]]
    only = search_gradients(network, [2], optimize=[(0, 1), (0, 1)], value=False)
    assert [sorted(ids) for ids in only.path] == [[0, 1], [3, 4]]
    assert only.network.members(0) == (0, 1, 3)


def test_gradients_keep_a_memory_limit() -> None:
    rng = np.random.default_rng(3)
    operands = [rng.standard_normal(shape) for shape in ((3, 40), (3, 40), (4, 40), (4, 40))]
    text, order = "ia,ib,jb,ja->", [(0, 1), (0, 1), (0, 1)]
    whole = contractc.compile_gradients(text, *operands, optimize=order)
    limit = 22_000
    sliced = contractc.compile_gradients(text, *operands, optimize=order, memory_limit=limit)
    assert sliced.plan.sliced and sliced.plan.peak <= limit < whole.plan.peak
    for found, expected in zip(sliced(*operands, 1.0), whole(*operands, 1.0), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ResourceLimitError, match="the contraction needs"):
        contractc.compile_gradients(text, *operands, memory_limit=1000)


def test_a_mode_that_some_output_lacks_is_not_sliced() -> None:
    network = TensorNetwork(
        bound(Expression("ij,jk->ik", ((4, 4),) * 2, ""), [np.ones((4, 4))] * 2).tensors,
        ((0, 2), (0,)),
        (4, 4, 4),
        "float64",
        contracted=((0, 1), (0,)),
    )
    plan = search(network)
    assert Plan(network, plan.path, plan.results, (0,)).faults() == []
    broken = Plan(network, plan.path, plan.results, (2,))
    assert broken.faults() == ["sliced mode 2 is in no tensor of some output"]


# the calls


def test_gradients_have_the_dtype_of_their_operand() -> None:
    x, y = np.ones((2, 3), "float32"), quarters((3, 2), True)
    value, (by_x, by_y) = contractc.gradients("ij,ji->", x, y, cotangent=2.0)
    assert (value.dtype, by_x.dtype, by_y.dtype) == ("complex128", "float32", "complex128")
    np.testing.assert_array_equal(by_x, 2 * y.real.T)
    z = np.arange(3)
    assert contractc.gradients("i,i->", z, z + 0.5)[1][0].tolist() == [0, 1, 2]


def test_a_factorized_operand_has_a_gradient_for_each_factor() -> None:
    rng = np.random.default_rng(5)
    cores = [rng.standard_normal(s) for s in ((1, 2, 3, 2), (2, 3, 2, 2), (2, 2, 2, 1))]
    weight, x = formats.tt_matrix(cores), rng.standard_normal((4, 12))
    cotangent = rng.standard_normal((4, 12))
    value, (by_x, by_w) = contractc.gradients("bi,oi->bo", x, weight, cotangent=cotangent)
    np.testing.assert_allclose(value, x @ weight.to_dense().T)
    np.testing.assert_allclose(by_x, cotangent @ weight.to_dense())
    assert [g.shape for g in by_w] == [c.shape for c in cores]
    step = 1e-6 * rng.standard_normal(cores[1].shape)
    moved = formats.tt_matrix([cores[0], cores[1] + step, cores[2]]).to_dense()
    change = (cotangent * (x @ (moved - weight.to_dense()).T)).sum()
    np.testing.assert_allclose((by_w[1] * step).sum(), change, rtol=1e-6)


def test_a_dynamic_mode_may_have_any_extent() -> None:
    both = contractc.compile_gradients("bi,ij->j", (3, 4), (4, 5), dynamic=("b",), wrt=0)
    for size in (1, 7):
        x, w, g = np.ones((size, 4)), quarters((4, 5), False), quarters((5,), False)
        value, by_x = both(x, w, g)
        np.testing.assert_array_equal(value, (x @ w).sum(0))
        np.testing.assert_array_equal(by_x, np.broadcast_to(w @ g, (size, 4)))
        by_x += 1


def test_results_never_share_memory() -> None:
    for text in ("ij,jk->ik,ki,ij", "ij->i,j,ij,", "ij,jk,kl->il,li,ik"):
        operands = [np.ones((2, 2)) for _ in text.partition("->")[0].split(",")]
        found = contractc.contract(text, *operands)
        made = [x for x in found if not any(np.shares_memory(x, y) for y in operands)]
        assert not any(np.shares_memory(x, y) for k, x in enumerate(made) for y in made[:k])


@pytest.mark.parametrize(
    ("kind", "text", "options", "message"),
    [
        (OperandError, "ij,jk->ik", {}, "the value has shape (2, 2), so its gradients need a cotangent"),
        (OperandError, "ij,jk->", {"wrt": 2}, "wrt names operand 2; there are 2 operands"),
        (
            UnsupportedError,
            "ij,jk->i,j",
            {},
            "gradients are those of one output, not of 2",
        ),
        (
            OperandError,
            "ij,jk->ik",
            {"cotangent": np.ones(3)},
            "operand 2 has shape (3,), but was compiled as f64[i=2, k=2]",
        ),
    ],
)
def test_what_does_not_fit_is_said(kind: Any, text: str, options: Any, message: str) -> None:
    x = np.ones((2, 2))
    assert message_of(kind, contractc.gradients, text, x, x, **options) == message


def test_integers_and_other_semirings_have_no_gradients() -> None:
    x = np.ones((2, 2))
    text = message_of(OperandError, contractc.gradients, "ij,jk->", x, x.astype(int), wrt=1)
    assert text == "operand 1 is int64, which has no gradient"
    ring = contractc.notation.parse("ij,jk->", "max_plus")
    text = message_of(UnsupportedError, contractc.gradients, ring, x, x)
    assert text.startswith("max_plus has no gradients; marginals()")


# planning for training


def layer(batch: int = 64) -> tuple[Any, ...]:
    """Return the arguments of a plan of a tensor-train layer: its factors matter, its values do not."""
    cores = [np.ones(s, "float32") for s in ((1, 4, 4, 8), (8, 8, 8, 8), (8, 8, 8, 8), (8, 4, 4, 1))]
    return "bi,oi->bo", np.ones((batch, 1024), "float32"), formats.tt_matrix(cores)


def test_training_prices_value_and_gradients() -> None:
    infer, train = (contractc.plan(*layer(), mode=mode) for mode in ("infer", "train"))
    assert not any(t.trained for t in infer.network.tensors)
    assert all(t.trained for t in train.network.tensors)
    assert Plan.from_json(train.to_json()) == train
    costs = {a.choices: a for a in infer.alternatives}
    for both in train.alternatives:
        assert both.flops >= 2.9 * costs[both.choices].flops
        assert both.seconds > costs[both.choices].seconds
        assert both.peak >= costs[both.choices].peak
    for plan in (infer, train):
        assert {("materialised",)} < set(costs)
        assert plan.choices == min(plan.alternatives, key=lambda a: a.seconds).choices
        assert f"  *  {plan.choices[0]}" in str(plan)
    assert "predicted with gradients" in str(train) and "with gradients" not in str(infer)


def test_a_group_may_be_merged_in_part() -> None:
    cores = [np.ones(s) for s in ((1, 2, 64, 3), (3, 2, 2, 40), (40, 2, 2, 3), (3, 64, 2, 1))]
    plan = contractc.plan("bi,oi->bo", np.ones((5, 512)), formats.tt_matrix(cores), mode="train")
    assert plan.faults() == []
    assert len({a.choices for a in plan.alternatives}) == len(plan.alternatives) >= 2


def test_mode_is_one_of_two() -> None:
    text = message_of(ValueError, contractc.plan, "ij,jk->ik", (2, 2), (2, 2), mode="fit")
    assert text == "mode must be 'infer' or 'train', not 'fit'"


@needs_torch
def test_what_torch_records_is_trained() -> None:
    text, x, weight = layer(4)
    factors = [torch.from_numpy(f).requires_grad_() for f in weight.factors]
    given = torch.from_numpy(x), type(weight)(weight.layout, tuple(factors))
    assert [t.trained for t in contractc.compile(text, *given).plan.network.tensors] == [False, *[True] * 4]
    with torch.no_grad():
        plan = contractc.compile(text, *given).plan
    assert not any(t.trained for t in plan.network.tensors)
    assert not any(t.trained for t in contractc.compile(text, *given, mode="infer").plan.network.tensors)
    from contractc.calls import _executables

    for record in (True, False, True):
        with torch.set_grad_enabled(record):
            value = contractc.contract(text, *given)
        assert value.requires_grad == record
    plans = [e.plan.network.tensors for e in _executables.values() if e.plan.network.groups]
    assert {any(t.trained for t in tensors) for tensors in plans} == {True, False}


@needs_torch
def test_constants_are_not_trained() -> None:
    plan = contractc.compile("ij,jk->ik", (2, 2), np.ones((2, 2)), constants=(1,), mode="train").plan
    assert [t.trained for t in plan.network.tensors] == [True, False]


# lists of outputs


@given(formals(min_operands=2, max_operands=5), st.integers(0, 2**16))
def test_outputs_planned_together_are_those_planned_alone(formal: Formal, seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = formal.symbols
    outputs = ["".join(rng.permutation(symbols)[: rng.integers(0, 3)]) for _ in range(rng.integers(2, 5))]
    operands = [quarters(formal.shape(term), False, k) for k, term in enumerate(formal.inputs)]
    text = ",".join(formal.inputs) + "->" + ",".join(outputs)
    plan = contractc.plan(text, *operands)
    assert plan.faults() == []
    inputs, terms = reference.parse(text)
    expected = reference.vectorised(inputs, terms, operands)
    same(plan.evaluate(*operands), expected)
    same(contractc.contract(text, *operands), expected)


def mttkrps(extents: tuple[int, ...], rank: int) -> TensorNetwork:
    """Return the network of all matricized tensors times Khatri-Rao products: each leaves one factor out."""
    shapes = (extents, *((n, rank) for n in extents))
    found = bound(Expression("ijkl,ir,jr,kr,lr->ir", shapes, ""), [np.ones(s) for s in shapes])
    return TensorNetwork(
        found.tensors,
        tuple(found.tensors[k].modes for k in range(1, 5)),
        found.extents,
        found.dtype,
        contracted=tuple(tuple(i for i in range(5) if i != k) for k in range(1, 5)),
    )


def test_matricized_products_share_what_they_can() -> None:
    network = mttkrps((30, 31, 32, 33), 8)
    plan = search(network)
    assert plan.faults() == []
    alone = [
        search(TensorNetwork(network.tensors, (term,), network.extents, "float64", contracted=(members,)))
        for term, members in zip(network.outputs, network.contracted, strict=True)
    ]
    assert plan.flops < 0.7 * sum(p.flops for p in alone)
    small = mttkrps((3, 4, 5, 2), 2)
    rng = np.random.default_rng(2)
    values = [rng.standard_normal(small.shape(t.modes)) for t in small.tensors]
    for path in (plan, search(small)):
        found = Plan(small, path.path, path.results).evaluate(*values)
        for one, exact in zip(found, small.evaluate(*values), strict=True):
            np.testing.assert_allclose(one, exact, rtol=1e-12)
