"""Lowering: translation and each pass alone; what they mean is compared in test_stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import contractc
from contractc.lower import lower, split_exponents, translate
from contractc.lower.passes import (
    MOST_APART,
    PASSES,
    hoist_constants,
    merge_equal_steps,
    natural_layout,
    pairwise,
    slowest_first,
    unshared,
)
from contractc.machine import Target
from contractc.plans import Plan
from contractc.programs import Constant, Contract, Loop, Program, Value
from messages import message_of

NUMPY, TORCH = Target(), Target("torch")


def steps(program: Program) -> list[str]:
    """Return the printed steps of `program` without types, which the layout tests look at alone."""
    lines = [line.strip() for line in str(program).splitlines()[1:-1]]
    return [line.partition(":")[0] + line.partition("]")[2].partition("  #")[0] for line in lines]


def plan(text: str, *shapes: tuple[int, ...], **options: Any) -> Plan:
    return contractc.plan(text, *shapes, **{"optimize": False, **options})


def test_translate_makes_one_contract_a_step() -> None:
    program = translate(plan("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), NUMPY)
    assert str(program) == (
        "program (%0: f64[i=2, j=3], %1: f64[j=3, k=4], %2: f64[k=4, l=5])\n"
        "  %3: f64[i=2, k=4] = contract %0 %1 over j  # gemm\n"
        "  %4: f64[i=2, l=5] = contract %3 %2 over k  # gemm\n"
        "  return %4"
    )


def test_translate_puts_loops_around_what_depends_on_them() -> None:
    sliced = replace(plan("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), sliced=(1, 3))
    assert str(translate(sliced, NUMPY, hoist=False)) == (
        "program (%0: f64[i=2, j=3], %1: f64[j=3, k=4], %2: f64[k=4, l=5])\n"
        "  %4: f64[i=2, l=5] = loop %0 %1 %2 over j=3 l=5\n"
        "    program (%0: f64[i=2], %1: f64[k=4], %2: f64[k=4])\n"
        "      %3: f64[i=2, k=4] = contract %0 %1  # outer product\n"
        "      %4: f64[i=2] = contract %3 %2 over k  # gemv\n"
        "      return %4\n"
        "  %5: f64[i=2, l=5] = contract %4  # view\n"
        "  return %5"
    )
    assert str(translate(sliced, NUMPY)) == (
        "program (%0: f64[i=2, j=3], %1: f64[j=3, k=4], %2: f64[k=4, l=5])\n"
        "  %4: f64[i=2, l=5] = loop %0 %1 %2 over j=3\n"
        "    program (%0: f64[i=2], %1: f64[k=4], %2: f64[k=4, l=5])\n"
        "      %3: f64[i=2, k=4] = contract %0 %1  # outer product\n"
        "      %4: f64[i=2, l=5] = loop %3 %2 over l=5\n"
        "        program (%3: f64[i=2, k=4], %2: f64[k=4])\n"
        "          %4: f64[i=2] = contract %3 %2 over k  # gemv\n"
        "          return %4\n"
        "      return %4\n"
        "  %5: f64[i=2, l=5] = contract %4  # view\n"
        "  return %5"
    )


def test_translate_leaves_out_loops_of_one_or_no_position() -> None:
    sliced = replace(plan("ij,jk,k->i", (2, 1), (1, 0), (0,)), sliced=(1, 2))
    assert not any(isinstance(step, Loop) for step in translate(sliced, NUMPY).steps)


def test_translate_spreads_repeated_outputs_after_the_loop() -> None:
    sliced = replace(plan("ij,j->ii", (2, 3), (3,)), sliced=(0,))
    assert steps(translate(sliced, NUMPY)) == [
        "%2 = loop %0 %1 over i=2",
        "program (%0, %1: f64[j=3])",
        "%2 = contract %0 %1 over j",
        "return %2",
        "%3 = contract %2",
    ]


@pytest.mark.parametrize(
    ("target", "dtypes"), [(NUMPY, ["float32", "float32", "float16"]), (TORCH, ["float16"] * 3)]
)
def test_translate_widens_narrow_floats_where_the_library_does_not(target: Target, dtypes: list[str]) -> None:
    program = translate(plan("ij,jk,kl,lm->im", (2, 3), (3, 4), (4, 5), (5, 6), dtype="float16"), target)
    assert [out.dtype for step in program.steps for out in step.outs] == dtypes


def test_translate_marks_the_operands_that_are_conjugated() -> None:
    program = translate(plan("ij,jk,kl->il", (2, 3), (3, 4), (4, 5), dtype="complex64", conj=1), NUMPY)
    assert [step.conj for step in program.steps if isinstance(step, Contract)] == [(False, True), ()]


def test_translate_refuses_a_broken_plan() -> None:
    broken = replace(plan("ij,jk->ik", (2, 3), (3, 4)), results=(0,))
    assert message_of(ValueError, translate, broken, NUMPY) == (
        "not a well-formed Plan: output 0 is %0, which no step makes"
    )


def test_the_passes_are_these() -> None:
    assert (pairwise, merge_equal_steps, slowest_first, natural_layout) == PASSES


def test_pairwise_splits_steps_of_three_or_more() -> None:
    before = translate(plan("ij,jk,kl,i->l", (2, 3), (3, 4), (4, 5), (2,), optimize=[(0, 1, 2, 3)]), NUMPY)
    assert steps(before) == ["%4 = contract %0 %1 %2 %3 over i j k"]
    assert steps(pairwise(before)) == [
        "%5 = contract %0 %1 over j",
        "%6 = contract %5 %2 over k",
        "%4 = contract %6 %3 over i",
    ]


def test_pairwise_goes_into_loops_and_keeps_conjugates() -> None:
    whole = plan("ij,jk,kl->il", (2, 3), (3, 4), (4, 5), dtype="complex64", conj=(0, 2), optimize=[(0, 1, 2)])
    program = pairwise(translate(replace(whole, sliced=(1,)), NUMPY))
    (loop, _) = program.steps
    assert isinstance(loop, Loop)
    assert [step.inputs for step in loop.body.steps] == [(0, 1), (4, 2)]
    assert [step.conj for step in loop.body.steps if isinstance(step, Contract)] == [
        (True, False),
        (False, True),
    ]
    assert program.faults() == []


def test_merge_equal_steps_computes_equal_contractions_once() -> None:
    product = Value(2, (0, 2), "float64")
    program = Program(
        (Value(0, (0, 1), "float64"), Value(1, (1, 2), "float64")),
        (
            Contract(product, (0, 1)),
            Contract(replace(product, number=3), (0, 1)),
            Contract(replace(product, number=4), (1, 0)),
            Contract(replace(product, number=5, dtype="float32"), (0, 1)),
            Contract(replace(product, number=6), (0, 1), (True, False)),
            Contract(replace(product, number=7), (2, 3, 4, 5, 6)),
            Contract(replace(product, number=8), (0, 1)),
        ),
        (7, 8),
        (2, 3, 4),
        labels=("i", "j", "k"),
    )
    assert steps(merge_equal_steps(program)) == [
        "%2 = contract %0 %1 over j",
        "%4 = contract %1 %0 over j",
        "%5 = contract %0 %1 over j",
        "%6 = contract %0* %1 over j",
        "%7 = contract %2 %2 %4 %5 %6",
        "%8 = contract %0 %1 over j",
    ]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("ijk,i,j,k->", [(0, 1), (4, 2), (5, 3)]),
        ("ijk,k,j,i->", [(0, 3), (4, 2), (5, 1)]),
        ("ijk,i,k->j", [(0, 1), (3, 2)]),
        ("ijk,ij,k->", [(0, 1), (3, 2)]),
        ("ijk,jk,i->", [(0, 1), (2, 3)]),
    ],
)
def test_slowest_first_sums_the_slowest_mode_first(text: str, order: list[tuple[int, int]]) -> None:
    terms = text.partition("->")[0].split(",")
    before = translate(plan(text, *((5,) * len(t) for t in terms), dtype="complex128", conj=(1,)), NUMPY)
    after = slowest_first(before)
    assert after.faults() == []
    assert [tuple(sorted(step.inputs)) for step in after.steps] == [tuple(sorted(ids)) for ids in order]
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-3, 4, (5,) * len(t)) + 1j * rng.integers(-3, 4, (5,) * len(t)) for t in terms]
    assert np.array_equal(after.evaluate(*arrays), before.evaluate(*arrays))


def test_slowest_first_keeps_the_order_that_costs_less() -> None:
    program = translate(plan("ijk,i,k->j", (3, 5, 6), (3,), (6,)), NUMPY)
    assert slowest_first(program) == program


def test_natural_layout_puts_the_batch_first() -> None:
    program = translate(plan("ibk,kbj,bij->", (2, 3, 4), (4, 3, 5), (3, 2, 5)), NUMPY)
    after = natural_layout(program)
    assert [program.label(m) for m in program.value(3).modes] == ["i", "b", "j"]
    assert [program.label(m) for m in after.value(3).modes] == ["b", "i", "j"]


def test_natural_layout_leaves_results_alone() -> None:
    program = translate(plan("ibk,kbj->ibj", (2, 3, 4), (4, 3, 5)), NUMPY)
    assert natural_layout(program) == program


def with_constants(program: Program, fixed: tuple[int, ...]) -> Program:
    """Return `program` with the inputs `fixed` as constants."""
    return replace(
        program,
        inputs=tuple(v for v in program.inputs if v.number not in fixed),
        constants=tuple(Constant(v, "") for v in program.inputs if v.number in fixed),
    )


def test_hoist_constants_parts_what_depends_on_constants_only() -> None:
    program = lower(plan("ij,jk,kl->il", (2, 3), (3, 4), (4, 5), optimize=[(1, 2), (0, 1)]), NUMPY)
    early, late = hoist_constants(with_constants(program, (1, 2)))
    assert steps(early) == ["%3 = contract %1 %2 over k"]
    assert (early.results, [v.number for v in early.inputs]) == ((3,), [1, 2])
    assert steps(late)[1:] == ["%4 = contract %0 %3 over j"]
    assert ([c.value.number for c in late.constants], late.results) == ([3], (4,))
    x, y, z = (np.random.default_rng(0).random(v.modes and program_shape(program, v)) for v in program.inputs)
    np.testing.assert_allclose(late.evaluate(x, constants=early.evaluate(y, z))[0], x @ y @ z)


def program_shape(program: Program, value: Value) -> tuple[int, ...]:
    return tuple(program.extents[m] for m in value.modes)


def test_hoist_constants_of_constants_only_leaves_nothing_to_do() -> None:
    program = lower(plan("ij,jk->ik", (2, 3), (3, 4)), NUMPY)
    early, late = hoist_constants(with_constants(program, (0, 1)))
    assert len(early.steps) == 1
    assert (late.steps, late.inputs, late.results) == ((), (), (2,))
    assert (early.faults(), late.faults()) == ([], [])


@pytest.mark.parametrize("text", ["bij,bjk,bkl->bil", "ij,jk->ik", "i,ij,j->", "iij,jk,kl->li"])
def test_unshared_computes_shared_values_for_each_reader(text: str) -> None:
    shapes = [(3,) * len(term) for term in text.partition("->")[0].split(",")]
    gradients = contractc.compile_gradients(text, *shapes).plan
    shared = translate(gradients, NUMPY)
    apart = unshared(shared)
    readers = [i for step in shared.steps for i in step.inputs if i >= len(shared.inputs)]
    assert (apart is None) == (len(set(readers)) == len(readers))
    if apart is not None:
        assert not apart.faults()
        read = [i for step in apart.steps for i in step.inputs if i >= len(apart.inputs)]
        assert len(set(read)) == len(read) and not set(read) & set(apart.results)
        arrays = [
            np.random.default_rng(v.number).integers(-3, 4, (3,) * len(v.modes)) * 1.0 for v in shared.inputs
        ]
        for found, exact in zip(apart.evaluate(*arrays), shared.evaluate(*arrays), strict=True):
            np.testing.assert_array_equal(found, exact)


def test_unshared_gives_up_where_steps_become_too_many() -> None:
    chain = ",".join(chr(97 + k) + chr(98 + k) for k in range(12))
    program = translate(contractc.compile_gradients(chain + "->am", *[(2, 2)] * 12).plan, NUMPY)
    assert len(program.steps) < MOST_APART and unshared(program) is None


def test_split_exponents_takes_powers_of_two_out_of_inputs_and_steps() -> None:
    program = split_exponents(lower(plan("ij,jk,k->i", (2, 3), (3, 4), (4,)), NUMPY))
    assert str(program) == (
        "program (%0: f64[i=2, j=3], %1: f64[j=3, k=4], %2: f64[k=4])\n"
        "  %5: f64[i=2, j=3], %6: i64[] = split_exponent %0\n"
        "  %7: f64[j=3, k=4], %8: i64[] = split_exponent %1\n"
        "  %9: f64[k=4], %10: i64[] = split_exponent %2\n"
        "  %3: f64[i=2, k=4] = contract %5 %7 over j  # gemm\n"
        "  %11: f64[i=2, k=4], %12: i64[] = split_exponent %3\n"
        "  %4: f64[i=2] = contract %11 %9 over k  # gemv\n"
        "  %13: f64[i=2], %14: i64[] = split_exponent %4\n"
        "  %15: i64[] = sum_exponents %6 %8 %10 %12 %14\n"
        "  return %13 %15"
    )
    assert program.faults() == []


def test_split_exponents_narrows_the_mantissa_last() -> None:
    program = lower(plan("i,i->", (2,), (2,), dtype="float16"), NUMPY, exponents=True)
    assert [out.dtype for step in program.steps for out in step.outs] == [
        "float32",
        "float32",
        "int64",
        "int64",
        "float16",
    ]
    mantissa, exponent = program.evaluate(*[np.full(2, 60000, "float16")] * 2)
    assert mantissa.dtype == np.float16
    assert float(mantissa) * 2.0 ** int(exponent) == pytest.approx(2 * 60000.0**2, rel=1e-3)


def test_split_exponents_evaluates_to_the_value() -> None:
    program = lower(plan("ij,jk,kl->il,", (2, 3), (3, 4), (4, 5)), NUMPY, exponents=True)
    rng = np.random.default_rng(1)
    x, y, z = 1e200 * rng.random((2, 3)), 1e200 * rng.random((3, 4)), 1e-250 * rng.random((4, 5))
    matrix, power, total, other = program.evaluate(x, y, z)
    exact = (x / 1e200) @ (y / 1e200) @ (z / 1e-250)
    scale = 1e150 / 2.0**400
    np.testing.assert_allclose(np.ldexp(matrix, int(power) - 400), exact * scale, rtol=1e-13)
    np.testing.assert_allclose(np.ldexp(total, int(other) - 400), exact.sum() * scale, rtol=1e-13)
    assert 0.5 <= np.max(np.abs(matrix)) < 1


REPRESENTATIVE: dict[str, tuple[str, list[tuple[int, ...]], dict[str, Any]]] = {
    "matrix_product": ("ij,jk->ik", [(3, 4), (4, 5)], {}),
    "batched_diagonal": ("iaaj,ijb->bai", [(2, 3, 3, 4), (2, 4, 5)], {}),
    "cp": ("r,ir,jr,kr->ijk", [(3,), (2, 3), (4, 3), (5, 3)], {}),
    "tensor_train_layer": (
        "ioA,AjpB,Bkq,bijk->bopq",
        [(4, 5, 2), (2, 4, 5, 2), (2, 4, 5), (8, 4, 4, 4)],
        {"dynamic": "b"},
    ),
    "several_outputs": ("ij,jk,kl->il,li,", [(20, 30), (30, 40), (40, 20)], {}),
    "repeated_output": ("ij,jk->ikk", [(2, 3), (3, 4)], {"dtype": "float16"}),
    "max_plus": ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], {"semiring": "max_plus", "dtype": "int64"}),
    "slices": ("ia,ja,ka->ijk", [(2, 50), (3, 50), (4, 50)], {"memory_limit": 4400}),
    "exponents": ("ij,jk->ik", [(3, 4), (4, 5)], {"strip_exponent": True}),
    "conjugate": ("bi,bj,b->ij", [(2, 3), (2, 4), (2,)], {"dtype": "complex64", "conj": (0,)}),
}


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_programs_and_sources_are_as_before(golden: Callable[[str, str], None], name: str) -> None:
    text, shapes, options = REPRESENTATIVE[name]
    executable = contractc.compile(text, *shapes, **options)
    golden(f"program_{name}", str(executable.program))
    golden(f"source_{name}", executable.source)
