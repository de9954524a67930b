"""Every row of the table of expressions through every stage, each compared with the truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

import reference
from contractc.building import build, conj_and_constant, network_of
from contractc.executable import Executable
from contractc.lower import lower, translate
from contractc.lower.passes import PASSES
from contractc.machine import Target
from contractc.network import TensorNetwork
from contractc.notation import Einsum, parse
from contractc.operands import describe
from contractc.options import Options
from contractc.plans import Plan
from contractc.programs import Program
from contractc.search import search
from expressions import EXPRESSIONS, Expression, random_operands
from tolerances import tolerance

NUMPY = Target()
ORDERS: tuple[Any, ...] = ("auto", "greedy", False)

every_row = pytest.mark.parametrize("row", EXPRESSIONS, ids=str)


def bound(
    row: Expression, operands: list[np.ndarray], semiring: str = "sum_product", **use: Any
) -> TensorNetwork:
    described = conj_and_constant(
        [describe(x) for x in operands], use.get("conj", ()), use.get("constants", ())
    )
    return network_of(parse(row.text, semiring), described, NUMPY, Options(semiring=semiring))


def truth(row: Expression, operands: list[np.ndarray]) -> list[np.ndarray]:
    """Return what the tests' own evaluator says: exact, since operands are small multiples of a quarter."""
    inputs, outputs = reference.parse(row.text)
    dtype: Any = np.complex128 if any(x.dtype.kind == "c" for x in operands) else np.float64
    return reference.vectorised(inputs, outputs, operands, dtype)


def same(results: Any, expected: list[np.ndarray], dtype: str = "float64") -> None:
    """Fail unless `results` are exactly `expected`, in dtype and shape too."""
    results = results if isinstance(results, tuple) else (results,)
    for result, exact in zip(results, expected, strict=True):
        assert np.asarray(result).dtype == np.dtype(dtype)
        assert np.shape(result) == exact.shape
        np.testing.assert_array_equal(result, exact)


def run(plan: Plan, constants: Any = ()) -> Executable:
    return build(plan, NUMPY, Options(), constants)


@every_row
def test_an_expression_is_well_formed(row: Expression) -> None:
    expression = parse(row.text)
    assert expression.faults() == []
    assert Einsum.from_json(expression.to_json()) == parse(str(expression)) == expression


@every_row
def test_a_network_evaluates_to_the_truth(row: Expression) -> None:
    operands = random_operands(row)
    network = bound(row, operands)
    assert network.faults() == []
    assert TensorNetwork.from_json(network.to_json()) == network
    same(network.evaluate(*operands), truth(row, operands))


@every_row
@pytest.mark.parametrize("optimize", ORDERS)
def test_a_plan_evaluates_to_the_truth(row: Expression, optimize: Any) -> None:
    operands = random_operands(row)
    plan = search(bound(row, operands), optimize)
    assert plan.faults() == []
    assert Plan.from_json(plan.to_json()) == plan
    same(plan.evaluate(*operands), truth(row, operands))


@every_row
@pytest.mark.parametrize("optimize", ORDERS)
def test_a_program_evaluates_to_the_truth_before_and_after_every_pass(row: Expression, optimize: Any) -> None:
    operands = random_operands(row)
    expected = truth(row, operands)
    program = translate(search(bound(row, operands), optimize), NUMPY)
    for transform in (lambda program: program, *PASSES):
        program = transform(program)
        assert program.faults() == []
        same(program.evaluate(*operands), expected)
    assert Program.from_json(program.to_json()) == program


@every_row
@pytest.mark.parametrize("optimize", [*ORDERS, "all at once"])
def test_an_executable_computes_the_truth(row: Expression, optimize: Any) -> None:
    operands = random_operands(row)
    if optimize == "all at once":
        optimize = [tuple(range(len(operands)))]
    same(run(search(bound(row, operands), optimize))(*operands), truth(row, operands))


@every_row
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int64", "uint16", "float16", "float32", "complex64", "complex128", "object"]
)
def test_an_executable_computes_in_every_dtype(row: Expression, dtype: str) -> None:
    """The quarters are scaled up to integers for dtypes that have no fractions; int8 wraps."""
    whole = dtype in ("bool", "int8", "int64", "uint16", "object")
    quarters = random_operands(row, "float64" if whole else dtype)
    operands = [np.asarray(4 * x, "int64").astype(dtype) for x in quarters] if whole else quarters
    results = run(search(bound(row, operands)))(*operands)
    results = results if isinstance(results, tuple) else (results,)
    inputs, outputs = reference.parse(row.text)
    if whole:
        exact = reference.vectorised(inputs, outputs, [x.astype("int64") for x in operands], "int64")
        for result, value in zip(results, exact, strict=True):
            assert np.asarray(result).dtype == np.dtype(dtype) or type(result) is int
            np.testing.assert_array_equal(result, value.astype(dtype))
        return
    exact = reference.vectorised(inputs, outputs, operands, "complex128")
    sizes = reference.vectorised(inputs, outputs, [abs(x) for x in operands])
    length = reference.positions(inputs, row.shapes)
    for result, value, size in zip(results, exact, sizes, strict=True):
        assert np.asarray(result).dtype == np.dtype(dtype)
        assert np.all(np.abs(result - value) <= tolerance(dtype, length, len(operands), size))


@every_row
@pytest.mark.parametrize("mode", range(3))
def test_slices_give_the_same_values(row: Expression, mode: int) -> None:
    operands = random_operands(row)
    plan = search(bound(row, operands))
    for sliced in ((mode,), (mode, mode + 1)):
        if max(sliced) >= len(plan.network.extents):
            return
        cut = replace(plan, sliced=sliced)
        assert cut.faults() == []
        program = lower(cut, NUMPY)
        assert Program.from_json(program.to_json()) == program
        same(program.evaluate(*operands), truth(row, operands))
        same(run(cut)(*operands), truth(row, operands))


@every_row
def test_constants_give_the_same_values(row: Expression) -> None:
    operands = random_operands(row)
    count = len(operands)
    for chosen in ([0], [count - 1], list(range(count)), list(range(1, count))):
        executable = run(search(bound(row, operands, constants=chosen)), [operands[k] for k in chosen])
        rest = [x for k, x in enumerate(operands) if k not in chosen]
        for _ in range(2):
            same(executable(*rest), truth(row, operands))


@every_row
def test_conjugates_give_the_same_values(row: Expression) -> None:
    operands = random_operands(row, "complex128")
    for conj, path in product(([0], list(range(len(operands)))), (None, [tuple(range(len(operands)))])):
        plan = search(bound(row, operands, conj=conj), path)
        expected = truth(row, [x.conj() if k in conj else x for k, x in enumerate(operands)])
        same(plan.evaluate(*operands), expected, "complex128")
        same(lower(plan, NUMPY).evaluate(*operands), expected, "complex128")
        same(run(plan)(*operands), expected, "complex128")


@every_row
@pytest.mark.parametrize("semiring", ["max_plus", "min_plus", "max_times", "or_and", "log_sum_exp"])
def test_other_semirings_agree_with_the_slow_evaluator_and_the_reference(
    row: Expression, semiring: str
) -> None:
    operands = [np.abs(x) for x in random_operands(row)]
    plan = search(bound(row, operands, semiring))
    results = run(plan)(*operands)
    results = results if isinstance(results, tuple) else (results,)
    inputs, outputs = reference.parse(row.text)
    quick = reference.positions(inputs, row.shapes) <= 1500
    exact = reference.evaluate(inputs, outputs, operands, semiring) if quick else [None] * len(outputs)
    for result, slow, value in zip(results, lower(plan, NUMPY).evaluate(*operands), exact, strict=True):
        assert np.asarray(result).dtype == slow.dtype
        np.testing.assert_allclose(result, slow, rtol=1e-13, atol=1e-13)
        if value is not None:
            np.testing.assert_allclose(result, value.astype(slow.dtype), rtol=1e-13, atol=1e-13)


@every_row
@pytest.mark.parametrize("layout", ["F", "reversed", "step", "broadcast", "swapped", "read-only"])
def test_any_strides_give_the_same_values(row: Expression, layout: str) -> None:
    operands = random_operands(row)
    if layout == "broadcast":
        operands = [
            np.broadcast_to(x.ravel()[:1].reshape((1,) * x.ndim), x.shape) if x.size else x for x in operands
        ]
    expected = truth(row, operands)
    given = [laid_out(x, layout) for x in operands]
    for x, y in zip(given, operands, strict=True):
        np.testing.assert_array_equal(x, y)
    same(run(search(bound(row, operands)))(*given), expected)


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """Return an array equal to `x` with another layout in memory."""
    if layout == "F":
        return np.array(x, order="F")
    if layout == "reversed":
        return np.flip(np.array(np.flip(x)))
    if layout == "step":
        return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    if layout == "swapped":
        return x.astype(x.dtype.newbyteorder())
    if layout == "read-only":
        x = x.copy()
        x.flags.writeable = False
    return x
