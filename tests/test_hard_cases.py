"""Hard einsum cases, each with its answer or its policy, stated for contractc.einsum.

`data/hard_cases.json` holds the cases; an operand is described by shape, dtype, `init` (how its values are
made) and `view` (how its memory is laid out).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

import contractc

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "hard_cases.json").read_text(encoding="utf-8")
)["cases"]
BY_ID = {case["id"]: case for case in CASES}

RELATIVE = {"float64": 1e-11, "complex128": 1e-11, "float32": 1e-5, "float16": 1e-2}

ELLIPSIS_LEFT_OUT = {"P07"}
"""np.einsum refuses an ellipsis that is left out of the output, so einsum does; `contract` sums it."""

LABELS_BEYOND_51 = {"X02", "X05", "I03"}
"""Labels of the interleaved form that NumPy's own tests require einsum to refuse with optimize=False."""

DEPENDS_ON_THE_ORDER = {"Z06", "N04"}
"""Empty sums beside NaN, and overflow: two answers are right."""

HEAVY = {case["id"] for case in CASES if case["heavy"] in ("gpu", "mem", "time")}


def ids(kind: str) -> list[str]:
    """Return the cases of one kind that are run here and now."""
    elsewhere = HEAVY | DEPENDS_ON_THE_ORDER | ELLIPSIS_LEFT_OUT
    return [c["id"] for c in CASES if c["expect"]["kind"] == kind and c["id"] not in elsewhere]


def made(
    init: Any, shape: tuple[int, ...], dtype: str, rng: np.random.Generator, previous: Any
) -> np.ndarray:
    """Return the values of an operand in plain C order."""
    if isinstance(init, list):
        numbers = [float(x) if isinstance(x, str) else x for x in init]
        return np.array(numbers).astype(dtype).reshape(shape)
    if init == "rng":
        drawn = np.asarray(rng.integers(-8, 9, size=shape) / 4.0)
        if dtype.startswith("complex"):
            drawn = drawn + 1j * (rng.integers(-8, 9, size=shape) / 4.0)
        return drawn.astype(dtype)
    if init == "bits":
        return rng.integers(0, 2, size=shape).astype(dtype)
    if init == "conj_of_prev":
        return np.array(previous.conj())
    if init == "eye":
        return np.eye(shape[0], dtype=dtype)
    if init == "bcast1":
        return np.broadcast_to(np.float64(1.0), shape)
    fill = {"ones": 1, "zeros": 0, "nines": 9, "tenth": 0.1, "nan": np.nan}
    return np.full(shape, fill[init], dtype)


def viewed(array: np.ndarray, view: str | None, seed: int) -> np.ndarray:
    """Return the same values (for `bcast0` and `window`: some of them, repeated) in another layout."""
    shape = array.shape
    if view == "neg":
        flip = tuple(slice(None, None, -1) for _ in shape)
        return array[flip].copy()[flip]
    if view == "bcast0":
        return np.broadcast_to(array[:1], shape)
    if view == "window":
        base = np.random.default_rng(seed).integers(-8, 9, size=(2, 3)) / 4.0
        rows, columns = base.strides
        return np.lib.stride_tricks.as_strided(base, (2, 2, 2), (rows, columns, columns))
    if view == "T":
        return array.T
    if view == "unaligned":
        room = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(shape)
        room[...] = array
        return room
    if view == "readonly":
        array = array.copy()
        array.flags.writeable = False
        return array
    if view == "strided":
        room = np.zeros((*shape, 2), array.dtype)
        room[..., 0] = array
        return room[..., 0]
    assert view is None, view
    return array


def built(description: dict[str, Any], seed: int, previous: Any = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = tuple(description["shape"])
    array = made(description["init"], shape, description["dtype"], rng, previous)
    return viewed(array, description.get("view"), seed)


def operands_of(case: dict[str, Any]) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for k, description in enumerate(case["operands"]):
        arrays.append(built(description, 100 + k, arrays[-1] if arrays else None))
    return arrays


def arguments_of(case: dict[str, Any]) -> list[Any]:
    operands = operands_of(case)
    if case["interleaved"] is None:
        return [case["equation"], *operands]
    terms = [[Ellipsis if label == "..." else label for label in term] for term in case["interleaved"]]
    pairs = [part for x, term in zip(operands, terms, strict=False) for part in (x, term)]
    return [*pairs, *terms[len(operands) :]]


def call(function: Callable[..., Any], case: dict[str, Any], **more: Any) -> Any:
    options = dict(case["kwargs"]) | more
    if case["out"]:
        options["out"] = built(case["out"], 99)
    result = function(*arguments_of(case), **options)
    if case["out"]:
        assert result is options["out"]
    return result


def check(case: dict[str, Any], result: Any) -> None:
    """Fail unless shape, dtype and values are as stated."""
    expect = case["expect"]
    shape, dtype = tuple(expect["shape"]), expect["dtype"]
    assert np.shape(result) == shape
    assert result.dtype == (case["out"]["dtype"] if case["out"] else dtype)
    exact = np.dtype(dtype).kind in "biu"
    tolerance: dict[str, Any] = {"rel": 0.0, "abs": 0.0} if exact else {"rel": RELATIVE[dtype], "abs": 1e-14}
    flat = np.asarray(result).ravel().tolist()
    if "values" in expect:
        assert flat == pytest.approx(numbers(expect["values"]), nan_ok=True, **tolerance)
    else:
        assert flat[:8] == pytest.approx(expect["first8"], **tolerance)
        assert sum(flat) == pytest.approx(expect["sum"], **tolerance)
        assert sum(map(abs, flat)) == pytest.approx(expect["abs_sum"], **tolerance)


def numbers(values: list[Any]) -> list[Any]:
    """Return numbers from JSON: "nan" and "inf" are texts there, a complex number is a pair."""
    texts = [float(v) if isinstance(v, str) else v for v in values]
    return [complex(*v) if isinstance(v, list) else v for v in texts]


def test_cases_are_all_covered() -> None:
    run = set(ids("value")) | set(ids("error")) | DEPENDS_ON_THE_ORDER | ELLIPSIS_LEFT_OUT | HEAVY
    assert run == set(BY_ID)
    assert len(CASES) == 79


@pytest.mark.parametrize("optimize", [None, False, "greedy"])
@pytest.mark.parametrize("case", ids("value"))
def test_einsum_gives_the_stated_value(case: str, optimize: Any) -> None:
    if optimize is False and case in LABELS_BEYOND_51:
        with pytest.raises(contractc.EinsumError, match="label"):
            call(contractc.einsum, BY_ID[case], optimize=False)
        return
    check(
        BY_ID[case],
        call(contractc.einsum, BY_ID[case], **({} if optimize is None else {"optimize": optimize})),
    )


@pytest.mark.parametrize("case", ids("value"))
def test_contract_gives_the_stated_value(case: str) -> None:
    check(BY_ID[case], call(contractc.contract, BY_ID[case]))


@pytest.mark.parametrize("optimize", [None, False, "greedy", "optimal"])
def test_z06_an_empty_sum_beside_nan_is_zero_or_nan_and_always_the_same(optimize: Any) -> None:
    results = [call(contractc.einsum, BY_ID["Z06"], optimize=optimize) for _ in range(3)]
    for result in results:
        assert result.shape == (2, 2)
        assert np.all((result == 0) | np.isnan(result))
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("optimize", [None, False, "greedy"])
def test_n04_an_overflow_depends_on_the_order_but_never_gives_nan(optimize: Any) -> None:
    result = call(contractc.einsum, BY_ID["N04"], optimize=optimize)
    assert result in (1e308, math.inf)


def test_p07_an_ellipsis_left_out_is_summed_by_contract_and_refused_by_einsum() -> None:
    case = BY_ID["P07"]
    for optimize in (None, False, "greedy"):
        check(case, call(contractc.contract, case, optimize=optimize))
        with pytest.raises(contractc.EinsumError, match="ellipsis"):
            call(contractc.einsum, case, optimize=optimize)


LETTERS = "a" * 100
REFUSALS: dict[str, tuple[type[Exception], str]] = {
    "B06": (
        contractc.OperandError,
        "mode 'i' is 1 in operand 0 (axis 0) but 3 in operand 0 (axis 1)\n  ii->i\n  ^^",
    ),
    "O06": (ValueError, "assignment destination is read-only"),
    "M04": (
        contractc.OperandError,
        f"operand 0 has 1 axis but its term has 20000 modes\n  {LETTERS} ...\n  {'^' * 100}",
    ),
    "E01": (contractc.EinsumError, "output mode 'l' is in no operand\n  ij,jk->il\n          ^"),
    "E02": (contractc.EinsumError, "output mode 'i' is repeated; contract accepts that\n  ij->ii\n      ^^"),
    "E04": (contractc.OperandError, "operand 0 has 2 axes but its term has 3 modes\n  ijk,jk->ik\n  ^^^"),
    "E05": (contractc.EinsumError, "more than one '->'\n  ij->i->j\n    ^^ ^^"),
    "E07": (contractc.EinsumError, "a term has at most one ellipsis\n  ...i...->i\n  ^^^ ^^^"),
    "E08": (
        contractc.OperandError,
        "mode 'j' is 3 in operand 0 (axis 1) but 4 in operand 1 (axis 0)\n  ij,jk->ik\n   ^ ^",
    ),
    "E10": (contractc.EinsumError, "U+0000 is not a mode; modes are letters\n  i?j,jk->ik\n   ^"),
    "E11": (contractc.EinsumError, "U+202E is not a mode; modes are letters\n  i?j,jk->ik\n   ^"),
    "E13": (contractc.OperandError, "no operands were given"),
}


@pytest.mark.parametrize("optimize", [None, False, True])
@pytest.mark.parametrize("case", ids("error"))
def test_einsum_refuses_in_words(case: str, optimize: Any) -> None:
    kind, message = REFUSALS[case]
    with pytest.raises(kind) as caught:
        call(contractc.einsum, BY_ID[case], optimize=optimize)
    assert str(caught.value) == message


@pytest.mark.parametrize("function", [contractc.einsum, contractc.contract], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("case", "needed"), [("M01", 8 * 100**6), ("M02", 8 * 2**64)])
def test_an_impossible_result_is_refused_by_its_bytes(function: Any, case: str, needed: int) -> None:
    with pytest.raises(contractc.ResourceLimitError) as caught:
        call(function, BY_ID[case])
    stated = [int(n) for n in re.findall(r"(\d+) bytes", str(caught.value).replace(",", ""))]
    assert stated and needed <= stated[0] <= 1.05 * needed


@pytest.mark.parametrize("optimize", [None, "optimal", "greedy"])
def test_m03_a_network_too_large_for_exhaustive_search_still_gets_a_plan(optimize: Any) -> None:
    graph = networkx.random_regular_graph(3, 60, seed=1)
    edges = {frozenset(edge): k for k, edge in enumerate(graph.edges)}
    terms = [[edges[frozenset((node, other))] for other in graph[node]] for node in graph]
    interleaved = [part for term in terms for part in ((2,) * len(term), term)]
    plan = contractc.plan(*interleaved, [], optimize=optimize)
    assert plan.faults() == []
    assert len(plan.path) == 59
    assert 0 < plan.flops < 2**40


@pytest.mark.parametrize("case", [c["id"] for c in CASES if c["heavy"] == "gpu"])
def test_planning_counts_past_32_bits(case: str) -> None:
    """Offsets or positions of these cases pass 2**31: sizes are Python ints, so nothing wraps in the plan."""
    described = BY_ID[case]
    shapes = [tuple(o["shape"]) for o in described["operands"]]
    dtype = described["operands"][0]["dtype"]
    plan = contractc.plan(described["equation"], *shapes, dtype=dtype)
    terms, output = described["equation"].split("->")
    extents = {
        c: n
        for term, shape in zip(terms.split(","), shapes, strict=True)
        for c, n in zip(term, shape, strict=True)
    }
    sizes = [math.prod(shape) for shape in (*shapes, [extents[c] for c in output])]
    inner = math.prod(extents.values())
    assert max(inner, *sizes) > 2**31
    assert plan.faults() == []
    assert plan.traffic == plan.peak == np.dtype(dtype).itemsize * sum(sizes)
    assert plan.flops == inner * (1 if inner == sizes[-1] else 2)
    assert f"{plan.flops:.3g} flops" in str(plan)
