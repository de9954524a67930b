"""bind and the network: ellipses, broadcasting, extents, and every message about operands that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import contractc
import reference
from contractc.errors import OperandError, ResourceLimitError, UnsupportedError
from contractc.network import MOST_TENSORS, Tensor, TensorNetwork, bind, ellipsis_left_out, typed
from contractc.notation import Einsum, parse, parse_interleaved
from contractc.operands import Operand, as_numpy, describe, is_shape, library_of, shape_of
from messages import message_of

Shape = tuple[int, ...]


def network(
    text: str, *shapes: Shape, dtype: str = "float64", semiring: str = "sum_product"
) -> TensorNetwork:
    """Return the network of `text` over operands of these shapes."""
    return bind(parse(text, semiring), [Operand(shape, dtype) for shape in shapes], dtype)


def test_bind_keeps_the_modes_of_the_expression() -> None:
    found = network("ij,jk->ik", (2, 3), (3, 4))
    assert found == TensorNetwork(
        (Tensor((0, 1), "float64"), Tensor((1, 2), "float64")), ((0, 2),), (2, 3, 4), "float64"
    )
    assert found.labels == ("i", "j", "k")
    assert found.faults() == []


@pytest.mark.parametrize(
    ("text", "shapes", "tensors", "outputs", "extents"),
    [
        ("...i->...", [(2, 3, 4)], [(1, 2, 0)], [(1, 2)], (4, 2, 3)),
        ("...i->i", [(2, 3)], [(1, 0)], [(0,)], (3, 2)),
        ("...,...->...", [(2, 3), (3,)], [(0, 1), (1,)], [(0, 1)], (2, 3)),
        ("i...,...->i...", [(5,), (2, 3)], [(0,), (1, 2)], [(0, 1, 2)], (5, 2, 3)),
        ("a...b,...b->a...", [(2, 3, 4, 5), (4, 5)], [(0, 2, 3, 1), (3, 1)], [(0, 2, 3)], (2, 5, 3, 4)),
        ("...->...", [()], [()], [()], ()),
        ("...i->i...,i", [(2, 3)], [(1, 0)], [(0, 1), (0,)], (3, 2)),
    ],
)
def test_bind_gives_the_axes_of_an_ellipsis_modes(
    text: str, shapes: list[Shape], tensors: list[Shape], outputs: list[Shape], extents: Shape
) -> None:
    found = network(text, *shapes)
    assert [t.modes for t in found.tensors] == tensors
    assert list(found.outputs) == outputs
    assert found.extents == extents


@pytest.mark.parametrize(
    ("text", "shapes", "tensors", "extents"),
    [
        ("i,i->i", [(1,), (3,)], [(1,), (0,)], (3, 1)),
        ("i,i->i", [(3,), (1,)], [(0,), (1,)], (3, 1)),
        ("i,i,i->i", [(1,), (3,), (1,)], [(1,), (0,), (2,)], (3, 1, 1)),
        ("ii,i->i", [(1, 1), (3,)], [(1, 1), (0,)], (3, 1)),
        ("i,i->i", [(1,), (0,)], [(1,), (0,)], (0, 1)),
        ("i,i->i", [(1,), (1,)], [(0,), (0,)], (1,)),
        ("...,...->...", [(1, 3), (2, 1)], [(2, 1), (0, 3)], (2, 3, 1, 1)),
    ],
)
def test_bind_gives_a_broadcast_axis_a_mode_of_its_own(
    text: str, shapes: list[Shape], tensors: list[Shape], extents: Shape
) -> None:
    found = network(text, *shapes)
    assert [t.modes for t in found.tensors] == tensors
    assert found.extents == extents
    assert len(found.labels) == len(extents)
    assert found.faults() == []


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (
            "ij,jk->ik",
            [(3, 4), (7, 5)],
            "mode 'j' is 4 in operand 0 (axis 1) but 7 in operand 1 (axis 0)\n  ij,jk->ik\n   ^ ^",
        ),
        (
            "i , i",
            [(1,), (0,), (2,)],
            "the expression has 2 terms but 3 operands were given\n  i , i",
        ),
        (
            "i,i,i",
            [(1,), (0,), (2,)],
            "mode 'i' is 0 in operand 1 (axis 0) but 2 in operand 2 (axis 0)\n  i,i,i\n    ^ ^",
        ),
        ("ii->i", [(2, 3)], "mode 'i' is 2 in operand 0 (axis 0) but 3 in operand 0 (axis 1)\n  ii->i\n  ^^"),
        ("ii->i", [(1, 3)], "mode 'i' is 1 in operand 0 (axis 0) but 3 in operand 0 (axis 1)\n  ii->i\n  ^^"),
        (
            "i...j,...j",
            [(2, 3, 4), (3, 5)],
            "mode 'j' is 4 in operand 0 (axis 2) but 5 in operand 1 (axis 1)\n  i...j,...j\n      ^    ^",
        ),
        (
            "...i,i...",
            [(2, 3, 4), (4, 2, 5)],
            "an ellipsis axis is 3 in operand 0 (axis 1) but 5 in operand 1 (axis 2)\n"
            "  ...i,i...\n  ^^^   ^^^",
        ),
        ("ij->j", [(3,)], "operand 0 has 1 axis but its term has 2 modes\n  ij->j\n  ^^"),
        ("i,j->j", [(3,), (3, 2)], "operand 1 has 2 axes but its term has 1 mode\n  i,j->j\n    ^"),
        ("i,->", [(3,), (3,)], "operand 1 has 1 axis but its term has 0 modes\n  i,->\n    ^"),
        ("...ij", [()], "operand 0 has 0 axes but its term has at least 2 modes\n  ...ij\n  ^  ^^"),
        ("ij", [], "no operands were given"),
        ("i", [(1,), (1,)], "the expression has 1 term but 2 operands were given\n  i"),
        ("i,j", [(1,)], "the expression has 2 terms but 1 operand was given\n  i,j"),
    ],
)
def test_bind_says_which_operands_do_not_fit(text: str, shapes: list[Shape], message: str) -> None:
    assert message_of(OperandError, network, text, *shapes) == message


def test_bind_points_into_the_interleaved_form() -> None:
    expression = parse_interleaved([["left", "bond"], ["bond", "right"]])
    operands = [Operand((2, 3), "float64"), Operand((4, 5), "float64")]
    assert message_of(OperandError, bind, expression, operands, "float64") == (
        "mode 'bond' is 3 in operand 0 (axis 1) but 4 in operand 1 (axis 0)\n"
        "  left bond, bond right -> left right\n"
        "       ^     ^"
    )


def test_bind_accepts_an_expression_without_labels() -> None:
    found = bind(Einsum(((0, 1), (1,)), ((0,),)), [Operand((2, 3), "int8"), Operand((3,), "int8")], "int8")
    assert found == network("ij,j->i", (2, 3), (3,), dtype="int8")
    assert found.labels == ("m0", "m1")


def test_bind_refuses_more_tensors_than_are_planned() -> None:
    count = MOST_TENSORS + 1
    expression = parse("," * (count - 1) + "->")
    operands = [Operand((), "float64")] * count
    assert message_of(ResourceLimitError, bind, expression, operands, "float64") == (
        "20001 operands; at most 20000 are planned"
    )


def test_bind_refuses_more_axes_than_are_planned() -> None:
    term = "".join(chr(0x4E00 + k) for k in range(50))
    operands = [Operand((1,) * 50, "float64")] * 2001
    assert message_of(
        ResourceLimitError, bind, parse(",".join([term] * 2001) + "->"), operands, "float64"
    ) == ("2001 operands with 100050 axes; at most 100000 axes are planned")


def test_bind_marks_dynamic_modes() -> None:
    operands = [Operand((2, 3), "float64")]
    assert bind(parse("bi->i"), operands, "float64", dynamic=["b"]).dynamic == (0,)
    assert bind(parse("bi->i"), operands, "float64", dynamic="ib").dynamic == (0, 1)
    assert bind(parse_interleaved([[7, 9]]), operands, "float64", dynamic=[9]).dynamic == (1,)
    assert message_of(OperandError, bind, parse("bi->i"), operands, "float64", dynamic=["z"]) == (
        "dynamic mode 'z' is in no operand\n  bi->i"
    )
    alike = parse_interleaved([["x" * 30 + "1", "x" * 30 + "2"]], [])
    assert message_of(OperandError, bind, alike, operands, "float64", dynamic=["x" * 30]) == (
        f"dynamic mode '{'x' * 24}' could be any of several modes that print alike\n"
        f"  {'x' * 24} {'x' * 24} ->"
    )


@pytest.mark.parametrize(
    ("semiring", "dtype", "result"),
    [
        ("sum_product", "int8", "int8"),
        ("sum_product", "bool", "bool"),
        ("sum_product", "complex64", "complex64"),
        ("max_plus", "int32", "int32"),
        ("max_times", "float16", "float16"),
        ("or_and", "complex128", "bool"),
        ("or_and", "int8", "bool"),
        ("log_sum_exp", "float32", "float32"),
        ("log_sum_exp", "int8", "float32"),
        ("log_sum_exp", "int64", "float64"),
        ("log_sum_exp", "bfloat16", "bfloat16"),
        ("min_plus", "object", "object"),
    ],
)
def test_bind_gives_the_results_the_dtype_of_the_semiring(semiring: str, dtype: str, result: str) -> None:
    assert network("i->", (3,), dtype=dtype, semiring=semiring).dtype == result


@pytest.mark.parametrize(
    ("semiring", "dtype", "message"),
    [
        ("max_plus", "complex64", "max_plus needs an order; complex64 has none"),
        ("log_sum_exp", "clongdouble", "log_sum_exp needs an order; clongdouble has none"),
        ("min_plus", "bool", "min_plus needs numbers, not bool"),
    ],
)
def test_bind_refuses_dtypes_that_the_semiring_cannot_add(semiring: str, dtype: str, message: str) -> None:
    assert message_of(OperandError, network, "i->", (3,), dtype=dtype, semiring=semiring) == message


def test_ellipsis_left_out_tells_whether_axes_are_summed_that_nobody_named() -> None:
    def left_out(text: str, *shapes: Shape) -> bool:
        return ellipsis_left_out(parse(text), [Operand(shape, "float64") for shape in shapes])

    assert left_out("...i->i", (2, 3))
    assert left_out("...i->i...,i", (2, 3))
    assert not left_out("...i->i", (3,))
    assert not left_out("...i->...", (2, 3))
    assert not left_out("i->", (3,))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [("ij,jk->ik", [(2, 3), (3, 4)]), ("...i,i->...", [(2, 3), (1,)]), ("i,j->ij,iij", [(2,), (3,)])],
)
def test_a_network_evaluates_to_what_the_loop_reference_says(text: str, shapes: list[Shape]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-5, 5, shape) for shape in shapes]
    inputs, outputs = reference.parse(text)
    found = network(text, *shapes, dtype="int64").evaluate(*arrays)
    for result, expected in zip(found, reference.evaluate(inputs, outputs, arrays), strict=True):
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, expected)


def test_a_network_prints_a_line_per_tensor() -> None:
    operands = [Operand((2, 3), "float32"), Operand((3, 4), "complex64", constant=True, conj=True)]
    found = bind(parse("ij,jk->ik"), operands, "complex64", dynamic=["i"])
    assert str(replace(found, groups=((1,),))) == (
        "network (2 tensors, 3 modes, sum_product)\n"
        "  0: f32[i=~2, j=3]\n"
        "  1: c64[j=3, k=4]  # constant, conj, factor of group 0\n"
        "  -> c64[i=~2, k=4]"
    )


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        ("float16", "f16"),
        ("bfloat16", "bf16"),
        ("uint8", "u8"),
        ("int64", "i64"),
        ("complex128", "c128"),
        ("bool", "bool"),
        ("object", "object"),
    ],
)
def test_typed_shortens_dtypes(dtype: str, shown: str) -> None:
    assert typed(dtype, (0,), network("i->", (3,))) == f"{shown}[i=3]"


def test_a_network_without_labels_prints_numbers() -> None:
    assert str(replace(network("i->", (3,)), labels=())) == (
        "network (1 tensor, 1 mode, sum_product)\n  0: f64[m0=3]\n  -> f64[]"
    )


GOOD = network("ij,jk->ik", (2, 3), (3, 4))


@pytest.mark.parametrize(
    ("broken", "faults"),
    [
        (replace(GOOD, extents=(2, 3), labels=()), ["tensor 1 has mode 2, which has no extent"]),
        (replace(GOOD, outputs=((0, 3),)), ["output mode 3 is in no tensor"]),
        (replace(GOOD, extents=(2, -3, 4)), ["mode 1 has extent -3"]),
        (replace(GOOD, extents=(2, 3.0, 4)), ["mode 1 has extent 3.0"]),  # type: ignore[arg-type]
        (replace(GOOD, extents=(2, True, 4)), ["mode 1 has extent True"]),
        (replace(GOOD, dynamic=(3,)), ["dynamic mode 3 does not exist"]),
        (replace(GOOD, groups=((0, 2),)), ["group member 2 does not exist"]),
        (replace(GOOD, tensors=(), outputs=((),)), ["no tensors or no outputs"]),
        (replace(GOOD, outputs=()), ["no tensors or no outputs"]),
        (replace(GOOD, labels=("i",)), ["1 labels for 3 modes"]),
        (replace(GOOD, dtype="f8"), ["the results have dtype 'f8'"]),
        (replace(GOOD, dtype="M8[s]"), ["the results have dtype 'M8[s]'"]),
        (replace(GOOD, semiring="plus"), ["no semiring is called 'plus'"]),
        (
            replace(GOOD, tensors=(Tensor((0, 1), "f,f"), GOOD.tensors[1])),
            ["tensor 0 has dtype 'f,f'"],
        ),
        (GOOD, []),
    ],
)
def test_faults_names_each_broken_rule(broken: TensorNetwork, faults: list[str]) -> None:
    assert broken.faults() == faults


@pytest.mark.parametrize(
    "found",
    [
        GOOD,
        replace(GOOD, dynamic=(0,), groups=((0, 1),), semiring="max_plus"),
        network("...,...->...", (1, 3), (2, 1)),
        network("i,j->ij,,i", (2,), (0,)),
    ],
    ids=str,
)
def test_a_network_survives_json(found: TensorNetwork) -> None:
    back = TensorNetwork.from_json(found.to_json())
    assert (back, back.labels) == (found, found.labels)


def test_sizes_are_python_ints_that_do_not_wrap() -> None:
    found = network(",".join("abcdefgh"), *[(2**40,)] * 8)
    assert found.size(range(8)) == 2**320
    assert found.shape((1, 0)) == (2**40, 2**40)
    assert found.bytes_of_inputs() == 8 * 8 * 2**40


def test_graph_is_a_bipartite_view() -> None:
    graph = network("iij,jk->ik", (2, 2, 3), (3, 4)).graph()
    assert set(graph.nodes) == {("tensor", 0), ("tensor", 1), ("mode", 0), ("mode", 1), ("mode", 2)}
    assert sorted(graph.edges(("tensor", 0), data="axis")) == [
        (("tensor", 0), ("mode", 0), 0),
        (("tensor", 0), ("mode", 0), 1),
        (("tensor", 0), ("mode", 1), 2),
    ]
    assert graph.nodes["mode", 2] == {"label": "k", "extent": 4, "bipartite": 1}
    assert graph.nodes["tensor", 1] == {"modes": (1, 2), "dtype": "float64", "bipartite": 0}


# what an operand is


def test_library_of_takes_the_arrays_word_for_it() -> None:
    assert library_of([]) == library_of([1, 2.0, True, 1j]) == "numpy"
    assert library_of([[1, 2], np.ones(3), 1.0]) == library_of([np.float64(1)]) == "numpy"


def test_library_of_refuses_to_mix() -> None:
    torch = pytest.importorskip("torch")
    assert library_of([1.0, torch.ones(1)]) == "torch"
    assert message_of(OperandError, library_of, [2, np.ones(2), torch.ones(2)]) == (
        "operand 1 is a ndarray of numpy but operand 2 a Tensor of torch; convert one of them"
    )
    assert message_of(OperandError, library_of, [torch.ones(2), [1, 2], np.float64(3)]) == (
        "operand 0 is a Tensor of torch but operand 2 a float64 of numpy; convert one of them"
    )


@pytest.mark.parametrize(
    ("thing", "found"),
    [
        ((), True),
        ((2, 3), True),
        ((np.int64(2),), True),
        ((2.0,), False),
        ((True,), False),
        ([2, 3], False),
        (((2,),), False),
        (3, False),
    ],
)
def test_is_shape_takes_tuples_of_ints(thing: Any, found: bool) -> None:
    assert is_shape(thing) == found


def test_shape_of_returns_python_ints() -> None:
    given: Any = (np.int8(2), 3)
    assert [type(n) for n in shape_of(given, 0)] == [int, int]
    assert message_of(OperandError, shape_of, (2, -1), 4) == (
        "the shape of operand 4 is -1 on axis 1; extents are 0 or more"
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a"]), "operand 3 has dtype <U1; einsum needs numbers, bool or object"),
        (np.array([b"a"]), "operand 3 has dtype |S1; einsum needs numbers, bool or object"),
        (np.zeros(1, "M8[s]"), "operand 3 has dtype datetime64[s]; einsum needs numbers, bool or object"),
        (
            np.zeros(1, "f4,i4"),
            "operand 3 has dtype [('f0', '<f4'), ('f1', '<i4')]; einsum needs numbers, bool or object",
        ),
    ],
)
def test_as_numpy_refuses_what_is_no_number(array: Any, message: str) -> None:
    assert message_of(TypeError, as_numpy, array, 3) == message


@pytest.mark.parametrize(
    "dtype", [">f8", ">i4", ">c8", "<f2", "q", "Q", "l", "g", np.dtype("f8", metadata={"a": 1})]
)
def test_as_numpy_gives_the_dtype_that_numpy_compares_by_identity(dtype: Any) -> None:
    """A byte-swapped array, one of longlong or one with metadata has a dtype object of its own."""
    given = np.arange(3).astype(dtype)
    array = as_numpy(given, 0)
    assert array.dtype is np.dtype(array.dtype.name)
    np.testing.assert_array_equal(array, given)
    assert contractc.contract("i,i->", given, given) == 5


def test_as_numpy_copies_only_what_is_byte_swapped() -> None:
    array = np.arange(6.0)[::-2]
    assert as_numpy(array, 0) is array
    assert np.shares_memory(as_numpy(np.arange(3, dtype="q"), 0), as_numpy(array, 0)) is False
    wide = np.arange(3, dtype="q")
    assert np.shares_memory(as_numpy(wide, 0), wide)


def test_describe_gives_python_ints_and_a_name() -> None:
    assert describe(np.zeros((2, 0), "f4"), conj=True) == Operand((2, 0), "float32", conj=True)


def test_bfloat16_without_its_package_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from contractc import dtypes

    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert message_of(UnsupportedError, dtypes.to_numpy.__wrapped__, "bfloat16") == (
        "bfloat16 on NumPy needs the package ml_dtypes"
    )


def test_to_numpy_refuses_a_name_that_numpy_does_not_know() -> None:
    from contractc.dtypes import to_numpy

    assert message_of(UnsupportedError, to_numpy, "float7") == "NumPy has no dtype 'float7'"


@pytest.mark.parametrize(
    ("dtype", "other", "found"),
    [
        ("bool", "int8", True),
        ("int64", "uint8", True),
        ("uint8", "bool", False),
        ("int64", "bfloat16", True),
        ("float64", "float16", True),
        ("float16", "int64", False),
        ("float64", "complex64", True),
        ("complex64", "float64", False),
        ("longdouble", "clongdouble", True),
        ("clongdouble", "longdouble", False),
        ("complex64", "object", True),
        ("object", "float64", False),
    ],
)
def test_widens_compares_kinds(dtype: str, other: str, found: bool) -> None:
    from contractc.dtypes import widens

    assert widens(dtype, other) == found
