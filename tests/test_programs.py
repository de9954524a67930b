"""Programs: what their steps mean, the rules they keep, how they print."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import contractc
from contractc.grouping import Groups, groups, kind
from contractc.operations import OPERATIONS
from contractc.programs import Call, Constant, Contract, Loop, Program, Reshape, Value
from contractc.providers import loops
from messages import message_of

X, Y = Value(0, (0, 1), "float64"), Value(1, (1, 2), "float64")
PRODUCT = Program(
    (X, Y), (Contract(Value(2, (0, 2), "float64"), (0, 1)),), (2,), (2, 3, 4), labels=("i", "j", "k")
)
BODY = Program(
    (Value(0, (0,), "float64"), Value(1, (2,), "float64")),
    (Contract(Value(2, (0, 2), "float64"), (0, 1)),),
    (2,),
    (2, 3, 4),
    labels=("i", "j", "k"),
)
SLICED = replace(PRODUCT, steps=(Loop((Value(3, (0, 2), "float64"),), (0, 1), BODY, (1,)),), results=(3,))


def the_loop() -> Loop:
    (step,) = SLICED.steps
    assert isinstance(step, Loop)
    return step


def with_body(**fields: Any) -> Loop:
    """Return the Loop of the sliced product with other fields in its body."""
    return replace(the_loop(), body=replace(BODY, **fields))


def a_step(step: Any, **fields: Any) -> Program:
    """Return the product with another step."""
    return replace(PRODUCT, steps=(step,), **fields)


def looped(**fields: Any) -> Program:
    """Return the sliced product with a Loop that has other fields."""
    return replace(SLICED, steps=(replace(the_loop(), **fields),))


@pytest.mark.parametrize(
    ("left", "right", "out", "found"),
    [
        ((0, 1), (1, 2), (0, 2), Groups((), (0,), (2,), (1,), (), ())),
        ((0, 1, 2), (0, 2, 3), (0, 1, 3), Groups((0,), (1,), (3,), (2,), (), ())),
        ((0, 1), (0, 2), (0,), Groups((0,), (), (), (), (1,), (2,))),
        ((2, 1, 0), (0, 1, 2), (0, 1), Groups((1, 0), (), (), (2,), (), ())),
        ((0, 0, 1), (1, 1), (0,), Groups((), (0,), (), (1,), (), ())),
        ((), (), (), Groups((), (), (), (), (), ())),
    ],
)
def test_groups_are_the_coordinates_of_a_batched_matrix_product(
    left: Any, right: Any, out: Any, found: Groups
) -> None:
    assert groups(left, right, out) == found


@pytest.mark.parametrize(
    ("terms", "out", "word"),
    [
        ([(0, 1)], (0, 1), "view"),
        ([(0, 1)], (1, 0), "permute"),
        ([(0, 0)], (0,), "diagonal"),
        ([(0, 1)], (0,), "reduce"),
        ([(0, 0)], (), "reduce"),
        ([(0,)], (0, 0), "spread on a diagonal"),
        ([(0,), (0,), (0,)], (0,), "n-ary"),
        ([(0,), (1,)], (0, 1), "outer product"),
        ([(0,), (0,)], (0,), "multiply"),
        ([(), (0,)], (0,), "multiply"),
        ([(0,), (0,)], (), "inner product"),
        ([(0, 1), (0, 1)], (0,), "multiply and reduce"),
        ([(0, 1), (1, 2)], (0, 2), "gemm"),
        ([(0, 1), (1,)], (0,), "gemv"),
        ([(3, 0, 1), (3, 1, 2)], (3, 0, 2), "batched gemm"),
        ([(3, 0, 1), (3, 1)], (3, 0), "batched gemv"),
    ],
)
def test_kind_says_what_a_contraction_amounts_to(terms: Any, out: Any, word: str) -> None:
    assert kind(terms, out) == word


@pytest.mark.parametrize(
    ("broken", "faults"),
    [
        (PRODUCT, []),
        (SLICED, []),
        (replace(PRODUCT, inputs=(X, X)), ["%0 is an input twice", "step 0 reads %1 before it is set"]),
        (replace(PRODUCT, constants=(Constant(Y, ""),)), ["%1 is an input twice"]),
        (
            replace(PRODUCT, extents=(2, 3)),
            ["%1 has mode 2, which has no extent", "%2 has mode 2, which has no extent"],
        ),
        (replace(PRODUCT, extents=(2, -1, 4)), ["mode 1 has extent -1"]),
        (replace(PRODUCT, extents=(2, True, 4)), ["mode 1 has extent True"]),
        (a_step(Contract(Value(2, (0,), "float64"), (0, 7))), ["step 0 reads %7 before it is set"]),
        (a_step(Contract(Value(0, (0, 1), "float64"), (0,)), results=(0,)), ["step 0 sets %0 a second time"]),
        (a_step(Contract(Value(2, (), "float64"), ())), ["step 0 contracts nothing"]),
        (
            a_step(Contract(Value(2, (0,), "float64"), (0, 1), (True,))),
            ["step 0 has 1 conj flags for 2 inputs"],
        ),
        (a_step(Contract(Value(2, (2,), "float64"), (0,))), ["step 0 keeps mode 2, which no input has"]),
        (replace(PRODUCT, results=(9,)), ["result %9 is never set"]),
        (replace(PRODUCT, semiring="plus"), ["no semiring is called 'plus'"]),
        (replace(PRODUCT, dynamic=(5,)), ["dynamic mode 5 has no extent"]),
        (a_step(Contract(Value(2, (0.0,), "float64"), (0,))), ["%2 has mode 0.0, which has no extent"]),  # type: ignore[arg-type]
        (
            a_step(Contract(Value("2);x=(1", (0,), "float64"), (0,)), results=()),  # type: ignore[arg-type]
            ["a value has the number '2);x=(1'"],
        ),
        (a_step(Contract(Value(-2, (0,), "float64"), (0,)), results=()), ["a value has the number -2"]),
        (a_step(Contract(Value(2, (0,), "f4,f4"), (0,))), ["%2 has dtype 'f4,f4'"]),
        (
            a_step(Reshape(Value(2, (0,), "float64"), (0,))),
            ["step 0 makes %2 with another number of elements or dtype"],
        ),
        (
            a_step(Reshape(Value(2, (1, 0), "float32"), (0,))),
            ["step 0 makes %2 with another number of elements or dtype"],
        ),
        (a_step(Reshape(Value(2, (1, 0), "float64"), (0,))), []),
        (
            a_step(Call((Value(2, (), "int64"),), (0,), "os.system")),
            ["step 0 calls 'os.system', which is no operation"],
        ),
        (
            a_step(Call((Value(2, (0,), "int64"),), (0,), "sum_exponents")),
            ["step 0 has outputs that sum_exponents does not make"],
        ),
        (replace(SLICED, dynamic=(1,)), ["step 0 loops over mode 1, which is dynamic"]),
        (
            looped(body=replace(BODY, results=(8,))),
            ["step 0 has a body in which result %8 is never set"],
        ),
        (looped(inputs=(0,)), ["step 0 has another number of inputs or results than its body"]),
        (
            looped(outs=()),
            ["step 0 has another number of inputs or results than its body", "result %3 is never set"],
        ),
        (
            looped(body=replace(BODY, extents=(2, 9, 4))),
            ["step 0 has a body with other extents or another semiring"],
        ),
        (
            looped(outs=(Value(3, (0,), "float64"),)),
            ["step 0 makes %3 with other modes than its body gives"],
        ),
        (
            looped(modes=(0,)),
            [
                "step 0 gives its body %0 with other modes than it expects",
                "step 0 gives its body %1 with other modes than it expects",
                "step 0 makes %3 with other modes than its body gives",
            ],
        ),
        (
            replace(SLICED, extents=(2, 3, 4, 5), steps=(replace(the_loop(), modes=(1, 3)),)),
            [
                "step 0 loops over mode 3, which no input has",
                "step 0 has a body with other extents or another semiring",
            ],
        ),
    ],
)
def test_faults_names_each_broken_rule(broken: Program, faults: list[str]) -> None:
    assert broken.faults() == faults


def test_a_program_prints_a_line_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "installed", lambda: False)
    operands = np.ones((2, 3), complex), np.ones((3, 4), complex), np.ones((4, 2), complex)
    order = [(1, 2), (0, 1)]
    program = contractc.compile(
        "ij,jk,kl->il,", *operands, constants=(1,), conj=(0, 2), optimize=order
    ).program
    constant = program.constants[0]
    assert str(program) == (
        "program (%0: c128[i=2, j=3], %2: c128[k=4, l=2])\n"
        f"  %1: c128[j=3, k=4] = constant sha256 {constant.digest[:12]}\n"
        "  %3: c128[j=3, l=2] = contract %1 %2* over k  # gemm\n"
        "  %4: c128[i=2, l=2] = contract %0* %3 over j  # gemm\n"
        "  %5: c128[j=3] = contract %1 %2* over k l  # gemv\n"
        "  %6: c128[] = contract %0* %5 over i j  # inner product\n"
        "  return %4 %6"
    )


def test_a_loop_prints_its_body_and_other_semirings_their_name() -> None:
    ring = "max_plus"
    step = with_body(semiring=ring, dynamic=(0,))
    assert str(replace(SLICED, semiring=ring, dynamic=(0,), steps=(step,))) == (
        "program (%0: f64[i=~2, j=3], %1: f64[j=3, k=4]) in max_plus\n"
        "  %3: f64[i=~2, k=4] = loop %0 %1 over j=3\n"
        "    program (%0: f64[i=~2], %1: f64[k=4]) in max_plus\n"
        "      %2: f64[i=~2, k=4] = contract %0 %1  # outer product\n"
        "      return %2\n"
        "  return %3"
    )


def test_a_program_without_labels_prints_numbers() -> None:
    assert str(replace(PRODUCT, labels=())).splitlines()[1] == (
        "  %2: f64[m0=2, m2=4] = contract %0 %1 over m1  # gemm"
    )


@pytest.mark.parametrize(
    "program", [PRODUCT, SLICED, a_step(Reshape(Value(2, (1, 0), "float64"), (0,)))], ids=str
)
def test_a_program_survives_json(program: Program) -> None:
    back = Program.from_json(program.to_json())
    assert (back, back.labels) == (program, program.labels)


def test_a_program_with_a_fault_is_not_read() -> None:
    text = PRODUCT.to_json().replace('"extents":[2,3,4]', '"extents":["2,*print(666)",3,4]')
    assert message_of(ValueError, Program.from_json, text) == (
        "extents of Program is ('2,*print(666)', 3, 4), which has the wrong type"
    )
    assert message_of(ValueError, Program.from_json, replace(PRODUCT, results=(9,)).to_json()) == (
        "not a well-formed Program: result %9 is never set"
    )


def test_value_finds_a_value_by_its_number() -> None:
    assert PRODUCT.value(1) is Y
    assert list(SLICED.values()) == [0, 1, 3]
    with pytest.raises(KeyError):
        PRODUCT.value(5)


# what steps mean


def test_a_loop_adds_up_what_it_does_not_keep() -> None:
    x, y = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(SLICED.evaluate(x, y)[0], x @ y)


def test_a_loop_puts_slices_of_kept_modes_side_by_side() -> None:
    body = replace(
        BODY,
        inputs=(Value(0, (1,), "float64"), Value(1, (1, 2), "float64")),
        steps=(Contract(Value(2, (2,), "float64"), (0, 1)),),
    )
    step = Loop((Value(3, (0, 2), "float64"),), (0, 1), body, (0,))
    program = replace(PRODUCT, steps=(step,), results=(3,))
    assert program.faults() == []
    x, y = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(program.evaluate(x, y)[0], x @ y)


@pytest.mark.parametrize(
    ("semiring", "dtype"), [("max_plus", "int64"), ("min_plus", "int64"), ("log_sum_exp", "float64")]
)
def test_a_loop_adds_up_in_the_semiring(semiring: str, dtype: str) -> None:
    def typed(value: Value) -> Value:
        return replace(value, dtype=dtype)

    body = replace(
        BODY,
        semiring=semiring,
        inputs=tuple(map(typed, BODY.inputs)),
        steps=(Contract(Value(2, (0, 2), dtype), (0, 1)),),
    )
    whole = replace(
        PRODUCT,
        semiring=semiring,
        inputs=(typed(X), typed(Y)),
        steps=(Contract(Value(2, (0, 2), dtype), (0, 1)),),
    )
    sliced = replace(whole, steps=(Loop((Value(3, (0, 2), dtype),), (0, 1), body, (1,)),), results=(3,))
    assert sliced.faults() == []
    x, y = np.arange(6).reshape(2, 3).astype(dtype), np.arange(12).reshape(3, 4).astype(dtype)
    np.testing.assert_allclose(sliced.evaluate(x, y)[0], whole.evaluate(x, y)[0], rtol=1e-14)


def test_a_loop_over_nothing_is_the_semirings_zero() -> None:
    extents = (2, 0, 4)
    program = replace(SLICED, extents=extents, steps=(with_body(extents=extents),))
    assert program.faults() == []
    np.testing.assert_array_equal(program.evaluate(np.ones((2, 0)), np.ones((0, 4)))[0], np.zeros((2, 4)))


def test_reshape_keeps_the_elements_in_order() -> None:
    x = np.arange(6.0).reshape(2, 3)
    program = a_step(Reshape(Value(2, (1, 0), "float64"), (0,)))
    np.testing.assert_array_equal(program.evaluate(x, np.ones((3, 4)))[0], x.reshape(3, 2))


@pytest.mark.parametrize(
    ("array", "scaled", "exponent"),
    [
        ([8.0, -3.0], [0.5, -3 / 16], 4),
        ([0.75], [0.75], 0),
        ([2.0**-1074], [0.5], -1073),
        ([1e308, 1.0], [np.ldexp(1e308, -1024), 2.0**-1024], 1024),
        ([0.0, 0.0], [0.0, 0.0], 0),
        ([], [], 0),
        ([np.inf, 4.0], [np.inf, 4.0], 0),
        ([3 + 8j], [3 / 16 + 0.5j], 4),
    ],
)
def test_split_exponent_takes_the_power_of_two_out(array: Any, scaled: Any, exponent: int) -> None:
    found, power = OPERATIONS["split_exponent"].evaluate([np.array(array)])
    np.testing.assert_array_equal(found, scaled)
    assert power.dtype == np.int64
    assert power == exponent


def test_split_exponent_keeps_nan_and_the_dtype() -> None:
    found, power = OPERATIONS["split_exponent"].evaluate([np.array([np.nan, 2.0], "float32")])
    assert found.dtype == np.float32
    assert power == 0
    np.testing.assert_array_equal(found, [np.nan, 2.0])


def test_sum_exponents_adds_any_number() -> None:
    (total,) = OPERATIONS["sum_exponents"].evaluate([np.array(k) for k in (5, -7, 2000)])
    assert total == 1998
    assert OPERATIONS["sum_exponents"].evaluate([]) == [0]


FUSED = Contract(Value(3, (0, 3), "float64"), (0, 1, 2), path=((0, 1), (3, 2)), how="one kernel")
CHAIN = Program(
    (X, Y, Value(2, (2, 3), "float64")), (FUSED,), (3,), (2, 3, 4, 5), labels=("i", "j", "k", "l")
)


def test_fused_step_prints_its_order_and_keeps_its_value() -> None:
    assert "contract %0 %1 %2 over j k  # fused: 0 1, 3 2, one kernel" in str(CHAIN)
    assert Program.from_json(CHAIN.to_json()) == CHAIN
    arrays = [np.arange(1.0 + np.prod(shape))[1:].reshape(shape) for shape in ((2, 3), (3, 4), (4, 5))]
    (value,) = CHAIN.evaluate(*arrays)
    np.testing.assert_allclose(value, arrays[0] @ arrays[1] @ arrays[2])


@pytest.mark.parametrize(
    "path", [((0, 1),), ((0, 1), (0, 2)), ((0, 1, 2),), ((0, 3), (1, 2)), ((0, 0), (3, 2))]
)
def test_fused_step_has_a_path_that_joins_all_inputs(path: Any) -> None:
    (fault,) = replace(CHAIN, steps=(replace(FUSED, path=path),)).faults()
    assert "does not contract its 3 inputs pairwise" in fault
