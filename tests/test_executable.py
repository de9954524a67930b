"""Executables: what they take and refuse, constants, dynamic modes, `out=`, threads, their source."""

from __future__ import annotations

import io
import itertools
import keyword
import pickle
import re
import subprocess
import sys
import threading
import tokenize
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import Executable, OperandError, ResourceLimitError, UnsupportedError
from contractc.backends import REGISTRY, backend_named
from contractc.building import build
from contractc.machine import Target
from contractc.options import Options
from contractc.programs import Program
from contractc.recent import MISS
from messages import message_of

rng = np.random.default_rng(0)
A, B, C = rng.random((3, 4)), rng.random((4, 5)), rng.random((5, 6))


def compiled(text: str = "ij,jk->ik", *shapes: Any, **options: Any) -> Executable:
    return contractc.compile(text, *(shapes or ((3, 4), (4, 5))), **options)


# operands


def test_an_executable_is_called_with_its_operands() -> None:
    product = compiled()
    np.testing.assert_array_equal(product(A, B), A @ B)
    np.testing.assert_allclose(product(A[::-1], B[:, ::-1]), A[::-1] @ B[:, ::-1], rtol=1e-15)


def test_lists_and_numbers_become_arrays_of_the_dtype_compiled_for() -> None:
    scale = compiled(",i->i", (), (3,))
    result = scale(2, [1, 2, 3])
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, [2, 4, 6])
    assert compiled("i,i->", (2,), (2,), dtype="uint8")([1, 2], [3, 4]) == 11
    assert type(compiled("i->", (2,), dtype="complex64")([1, 2.5])) is np.complex64


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        ((A,), "this executable takes 2 operands, not 1"),
        ((A, B, C), "this executable takes 2 operands, not 3"),
        ((A, B[:, :4]), "operand 1 has shape (4, 4), but was compiled as f64[j=4, k=5]"),
        ((A[0], B), "operand 0 has shape (4,), but was compiled as f64[i=3, j=4]"),
        ((A.astype("float32"), B), "operand 0 is float32, but was compiled as f64[i=3, j=4]"),
        ((A, B.astype(int)), "operand 1 is int64, but was compiled as f64[j=4, k=5]"),
        ((np.float32(1), B), "operand 0 is float32, but was compiled as f64[i=3, j=4]"),
        (([[1j] * 4] * 3, B), "operand 0 is complex128, but was compiled as f64[i=3, j=4]"),
        (([[None] * 4] * 3, B), "operand 0 is object, but was compiled as f64[i=3, j=4]"),
        ((2.0, B), "operand 0 has shape (), but was compiled as f64[i=3, j=4]"),
    ],
)
def test_operands_it_was_not_compiled_for_are_refused(operands: tuple[Any, ...], message: str) -> None:
    assert message_of(OperandError, compiled(), *operands) == message


def test_one_operand_too_few_is_said_in_the_singular() -> None:
    assert message_of(OperandError, compiled("i->", (3,))) == "this executable takes 1 operand, not 0"


def test_a_number_of_the_wrong_kind_in_a_list_is_refused() -> None:
    integers = compiled("i->i", (2,), dtype="int64")
    assert (
        message_of(OperandError, integers, [1.5, 2]) == "operand 0 is float64, but was compiled as i64[i=2]"
    )


def test_a_type_error_of_the_users_objects_surfaces() -> None:
    with pytest.raises(TypeError, match="can't multiply sequence by non-int of type 'str'"):
        compiled("i,i->", (1,), (1,), dtype="object")(np.array(["a"], object), np.array(["b"], object))


def test_subclasses_are_read_as_arrays() -> None:
    class Mine(np.ndarray):
        pass

    assert type(compiled()(A.view(Mine), B)) is np.ndarray


def test_results_without_axes_are_numpy_scalars_and_python_objects() -> None:
    assert type(compiled("i->", (2,))(np.ones(2))) is np.float64
    assert type(compiled("i,i->", (2,), (2,), dtype="bool")([True, False], [True, True])) is np.bool_
    for semiring in ("sum_product", "max_plus"):
        adds = compiled("i,i->", (2,), (2,), dtype="object", semiring=semiring)
        assert type(adds(np.array([1, 2], object), np.array([3, 4], object))) is int


# constants


def test_constants_are_copied_and_what_depends_on_them_alone_is_computed_once() -> None:
    b, c = B.copy(), C.copy()
    chain = contractc.compile("ij,jk,kl->il", (3, 4), b, c, constants=(1, 2), optimize=[(1, 2), (0, 1)])
    assert len(chain.program.steps) == 1
    b[...] = c[...] = np.nan
    np.testing.assert_allclose(chain(A), A @ (B @ C), rtol=1e-14)


def test_constants_that_enter_late_are_copied_too() -> None:
    b = B.copy()
    product = contractc.compile("ij,jk->ik", (3, 4), b, constants=[1])
    b[...] = np.nan
    np.testing.assert_array_equal(product(A), A @ B)


@pytest.mark.parametrize("text", ["ij->ij", "ij->ji", "ij->i", "ij->ji,ij", "ij->"])
def test_a_result_of_constants_alone_is_fresh_at_every_call(text: str) -> None:
    fixed = contractc.compile(text, A, constants=[0])
    first = fixed()
    expected = contractc.contract(text, A)
    for part in first if isinstance(first, tuple) else (first,):
        if part.ndim:
            part[...] = np.nan
    for part, value in zip(*(x if isinstance(x, tuple) else (x,) for x in (fixed(), expected)), strict=True):
        np.testing.assert_array_equal(part, value)


def test_equal_constants_have_equal_digests() -> None:
    programs = [
        contractc.compile("ij,jk->ik", (3, 4), b, constants=[1]).program for b in (B, B.copy(), 2 * B)
    ]
    assert programs[0] == programs[1] != programs[2]


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ([1], "operand 1 is a constant, so its values are needed, not its shape"),
        ([2], "constants names operand 2; there are 2 operands"),
        ([-1], "constants names operand -1; there are 2 operands"),
    ],
)
def test_constants_that_are_not_there_are_refused(constants: list[int], message: str) -> None:
    assert message_of(OperandError, contractc.compile, "ij,jk->ik", A, (4, 5), constants=constants) == message


# dynamic modes


@pytest.mark.parametrize("planned", [1, 2, 7])
@pytest.mark.parametrize("extent", [0, 1, 2, 9])
@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("bi,ij->bj", ["b3", "34"]),
        ("bij,bjk->bik", ["b34", "b45"]),
        ("ibj,jbk->ikb", ["3b4", "4b5"]),
        ("bi,bj->ij", ["b3", "b4"]),
        ("b->", ["b"]),
        ("b->bb", ["b"]),
        ("bb->b", ["bb"]),
        ("bi,b,bj->i", ["b3", "b", "b4"]),
        ("ioA,Bkq,AjpB,bijk->bopq", ["232", "223", "2232", "b222"]),
    ],
)
def test_dynamic_modes_take_any_extent(text: str, shapes: list[str], planned: int, extent: int) -> None:
    def of_extent(n: int) -> list[tuple[int, ...]]:
        return [tuple(n if c == "b" else int(c) for c in shape) for shape in shapes]

    executable = compiled(text, *of_extent(planned), dynamic="b")
    assert executable.program.dynamic
    arrays = [np.random.default_rng(1).integers(-4, 5, shape).astype(float) for shape in of_extent(extent)]
    np.testing.assert_array_equal(executable(*arrays), contractc.contract(text, *arrays))


def test_dynamic_modes_leave_one_program_for_all_extents() -> None:
    executable = compiled("bi,ij->bj", (2, 3), (3, 4), dynamic=["b"])
    assert "d0 = x0.shape[0]" in executable.source or "x0.shape != (2, 3)" not in executable.source
    assert executable(np.ones((50, 3)), np.ones((3, 4))).shape == (50, 4)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(5, 3), (6, 4)], "dynamic mode 'b' is 5 in operand 0 but 6 in operand 1"),
        ([(5, 2), (5, 4)], "operand 0 has shape (5, 2), but was compiled as f64[b=~2, i=3]"),
        ([(5,), (5, 4)], "operand 0 has shape (5,), but was compiled as f64[b=~2, i=3]"),
    ],
)
def test_dynamic_modes_are_checked_at_every_call(shapes: list[tuple[int, ...]], message: str) -> None:
    executable = compiled("bi,bj->ij", (2, 3), (2, 4), dynamic="b")
    assert message_of(OperandError, executable, *map(np.ones, shapes)) == message


# out=


def test_out_is_written_and_returned() -> None:
    out = np.full((3, 5), np.nan)
    assert compiled()(A, B, out=out) is out
    np.testing.assert_array_equal(out, A @ B)
    scalar = np.empty(())
    assert compiled("ij->", (3, 4))(A, out=scalar) is scalar
    assert scalar == A.sum()


@pytest.mark.parametrize("text", ["ij->ij", "ij->ji", "ij,jk->ik", "ij,jk->ki", "ij,ij->ji", "ii->ii"])
def test_out_may_overlap_the_operands(text: str) -> None:
    x = rng.integers(0, 9, (4, 4)).astype(float)
    operands = [x] * (text.count(",") + 1)
    expected = contractc.contract(text, *[x.copy()] * len(operands))
    executable = compiled(text, *[(4, 4)] * len(operands))
    np.testing.assert_array_equal(executable(*operands, out=x[::-1]), expected)
    np.testing.assert_array_equal(x[::-1], expected)


def test_out_may_overlap_an_operand_in_part() -> None:
    buffer = np.arange(6.0)
    compiled("i->i", (5,))(buffer[:5], out=buffer[1:])
    np.testing.assert_array_equal(buffer, [0, 0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("executable", "operands", "out", "error", "message"),
    [
        (compiled(), (A, B), np.empty((7, 3, 5)), OperandError, "out has shape (7, 3, 5), the result (3, 5)"),
        (compiled(), (A, B), np.empty((5, 3)), OperandError, "out has shape (5, 3), the result (3, 5)"),
        (
            compiled("ij->", (3, 4), dtype="object"),
            (A.astype(object),),
            np.empty(1, object),
            OperandError,
            "out has shape (1,), the result ()",
        ),
        (
            compiled("ij,jk->ik,ik"),
            (A, B),
            np.empty((2, 3, 5)),
            OperandError,
            "out= takes one result; this expression has several",
        ),
        (
            compiled(),
            (A, B),
            np.empty((3, 5), int),
            TypeError,
            "Cannot cast array data from dtype('float64') to dtype('int64') "
            "according to the rule 'same_kind'",
        ),
    ],
    ids=["broadcast", "transposed", "object", "several", "integers"],
)
def test_out_that_does_not_fit_is_refused(
    executable: Executable, operands: tuple[Any, ...], out: Any, error: type[Exception], message: str
) -> None:
    assert message_of(error, executable, *operands, out=out) == message


def test_a_result_never_aliases_another_result() -> None:
    product = compiled()
    first = product(A, B)
    kept = first.copy()
    product(2 * A, B)
    np.testing.assert_array_equal(first, kept)


# printing


def test_explain_says_what_every_step_runs_as() -> None:
    chain = compiled("ij,jk,kl->il", (3, 4), (4, 5), (5, 6))
    assert (
        contractc.explain(chain)
        == str(chain)
        == ("runs on numpy; order found by optimal\n  %3: gemm: x0.dot(x1)\n  %4: gemm: x3.dot(x2)")
    )


def test_miss_prints_its_name() -> None:
    assert repr(MISS) == "MISS"
    assert compiled().run(A, B[:, :2]) is MISS


# backends


def test_every_backend_is_named_in_one_table() -> None:
    assert list(REGISTRY) == ["numpy", "torch", "array_api", "triton"]
    assert message_of(UnsupportedError, backend_named, "fortran") == (
        "no backend is called 'fortran'; there are numpy, torch, array_api, triton"
    )
    assert message_of(UnsupportedError, contractc.compile, "i->", (3,), target="fortran") == (
        "no backend is called 'fortran'; there are numpy, torch, array_api, triton"
    )


def test_a_target_can_be_given_as_text_or_target() -> None:
    assert compiled(target="numpy").target == compiled(target=Target()).target == Target("numpy", "cpu")


def test_more_axes_than_numpy_has_are_refused_with_the_program() -> None:
    labels = [[k] for k in range(65)]
    pairs = [part for term in labels for part in ((1,), term)]
    message = message_of(UnsupportedError, contractc.compile, *pairs, list(range(65)), optimize=False)
    assert message.startswith(
        "backend 'numpy' cannot run this: %128 has 65 axes, NumPy arrays have at most 64\n"
        "program (%0: f64[0=1], "
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "object"}, "%2 is made of 68 modes of objects, np.einsum takes 52"),
        ({"semiring": "max_plus"}, "%2 is made of 68 modes, NumPy arrays have at most 64 axes"),
    ],
    ids=["objects", "max_plus"],
)
def test_more_modes_than_can_be_brought_together_are_refused(options: dict[str, Any], reason: str) -> None:
    left, right = list(range(36)), list(range(32, 68))
    message = message_of(
        UnsupportedError, contractc.compile, (1,) * 36, left, (1,) * 36, right, [0, 67], **options
    )
    assert message.splitlines()[0] == f"backend 'numpy' cannot run this: {reason}"


def test_more_modes_than_axes_are_fine_in_a_matrix_product() -> None:
    left, right = list(range(36)), list(range(32, 68))
    x, y = np.full((1,) * 36, 2.0), np.full((1,) * 36, 3.0)
    assert contractc.contract(x, left, y, right, [0, 67]) == [[6.0]]


def test_log_sum_exp_of_objects_is_refused() -> None:
    message = message_of(UnsupportedError, compiled, "i->", (3,), dtype="object", semiring="log_sum_exp")
    assert message == (
        "backend 'numpy' cannot run this: log_sum_exp has no meaning for Python objects\n"
        "program (%0: object[i=3]) in log_sum_exp\n"
        "  %1: object[] = contract %0 over i  # reduce\n"
        "  return %1"
    )


def test_negative_values_in_max_times_are_refused_when_they_come() -> None:
    product = compiled(semiring="max_times")
    np.testing.assert_array_equal(product(A, B), (A[:, :, None] * B[None]).max(1))
    assert message_of(OperandError, product, -A, B) == "max_times needs values that are not negative"


def test_a_plan_too_large_for_the_machine_is_refused_before_it_is_compiled() -> None:
    plan = contractc.plan("i,j->ij", (10**6,), (10**6,))
    message = message_of(ResourceLimitError, build, plan, Target(), Options())
    assert message.startswith("the contraction would allocate 8000000000000 bytes (8 TB), this machine has ")


# what reaches the source

HOSTILE = [
    "');import os;('",
    "\n    import os\n",
    "__import__('os').system('true')",
    "x0",
    "ndarray",
    "\u202e",
    "a" * 10_000,
    0,
    -1,
    None,
    ("q", 1),
]
"""Labels that would do harm, or be mistaken for names, if they reached the source."""

WORDS = """
    def if is not or return del None for in len type shape dtype contracted MISS ndarray
    matmul multiply einsum dot T transpose reshape sum any conj astype view diagonal
    blas_ready spread sliced contract_blocked object_einsum split_exponent sum_exponents
    total exact_matmul converted packed fresh torch_matmul torch_multiply torch_accumulate summed
    sum_product max_plus log_sum_exp float64 float32 float16 int64 complex64 complex128 object bool
"""
PLAIN = set(WORDS.split())
"""Every name that generated source has, beside those of values."""


def foreign(source: str) -> set[str]:
    """Return the tokens of `source` that no generated source may have."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            known = token.string in PLAIN or re.fullmatch(r"(x|c|d|t|body|step)\d+", token.string)
            if not known or token.string in {"import", "exec", "eval", "lambda", "global"}:
                found.add(token.string)
        elif token.type == tokenize.STRING:
            if not re.fullmatch(r"'[a-zA-Z,]*->[a-zA-Z]*'", token.string):
                found.add(token.string)
        elif token.type == tokenize.NUMBER:
            if not token.string.isdigit():
                found.add(token.string)
        elif token.type == tokenize.OP:
            if token.string not in "()[]{}:,.=!=*":
                found.add(token.string)
        elif token.type not in (
            tokenize.NEWLINE,
            tokenize.NL,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        ):
            found.add(token.string)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "object"},
        {"dtype": "complex64", "conj": 0},
        {"dtype": "float16", "strip_exponent": True},
        {"semiring": "max_plus"},
        {"semiring": "log_sum_exp", "memory_limit": 900},
        {"memory_limit": 900},
    ],
    ids=str,
)
def test_no_label_reaches_the_source(options: dict[str, Any]) -> None:
    for one, two, three in itertools.permutations(HOSTILE, 3):
        executable = contractc.compile(
            (2, 3, 3), [one, two, two], (3, 4), [two, three], (2, 4), [one, three], [three, one], **options
        )
        assert foreign(executable.source) == set()
        if one != HOSTILE[0]:
            break


@pytest.mark.parametrize("label", HOSTILE)
def test_dynamic_labels_do_not_reach_the_source_either(label: Any) -> None:
    shown = contractc.plan((2,), [label]).network.labels
    terms = [label, "other"], ["other", "third"]
    executable = contractc.compile((2, 3), terms[0], (3, 3), terms[1], [label, "third"], dynamic=shown)
    assert foreign(executable.source) == set()
    assert not keyword.iskeyword(executable.source.split()[1].split("(")[0])


def test_foreign_finds_what_does_not_belong() -> None:
    assert foreign("def contracted(x0):\n    return x0.sum(0, float64)\n") == set()
    assert foreign("import os; x0 = -'a;b' + 1e3\n") == {"import", "os", ";", "-", "+", "'a;b'", "1e3"}


def test_no_text_of_a_stored_program_reaches_the_source() -> None:
    text = compiled().program.to_json()
    numbers = re.findall(r"(?<=[\[:,])\d+(?=[\],}])", text)
    assert len(numbers) > 10
    for k in range(len(numbers)):
        parts = re.split(r"(?<=[\[:,])(\d+)(?=[\],}])", text)
        parts[2 * k + 1] = '"0)or print(666"'
        assert re.search(
            "wrong type|format|well-formed", message_of(ValueError, Program.from_json, "".join(parts))
        )


# threads


PICKLED = """
import pickle, sys
executable, operands = pickle.load(sys.stdin.buffer)
again = pickle.loads(pickle.dumps(executable))
assert str(again) == str(executable), (str(again), str(executable))
pickle.dump(executable(*operands), sys.stdout.buffer)
"""


@pytest.mark.parametrize("options", [{"constants": (1,)}, {"strip_exponent": True}, {"dynamic": ("i",)}])
def test_another_process_gets_an_executable_by_pickling_and_the_same_bits(options: dict[str, Any]) -> None:
    x, y = rng.random((9, 12)), rng.random((12, 30))
    executable = compiled("ij,jk->ik", x.shape, y if "constants" in options else y.shape, **options)
    operands = (x,) if "constants" in options else (x, y)
    sent = pickle.dumps((executable, operands))
    made = subprocess.run([sys.executable, "-c", PICKLED], input=sent, capture_output=True, check=True)
    assert pickle.dumps(executable(*operands)) == made.stdout


def test_one_executable_is_called_from_several_threads() -> None:
    chain = compiled("ij,jk,kl->il", (3, 4), (4, 5), (5, 6))
    wrong = []

    def work(seed: int) -> None:
        own = np.random.default_rng(seed)
        for _ in range(200):
            x, y, z = own.random((3, 4)), own.random((4, 5)), own.random((5, 6))
            if not np.allclose(chain(x, y, z), x @ y @ z):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
