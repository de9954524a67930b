"""Compiled loops: every schedule of drawn steps against the slow evaluator, and what they refuse."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from threading import Event, Thread, get_ident
from time import sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
import strategies
from contractc.backends import backend_named, compiled
from contractc.backends.compiled import numpy_library
from contractc.dtypes import wide
from contractc.programs import Contract, Program, Value
from contractc.providers import loops, threads
from contractc.providers.loops import native, problem, schedule, text
from contractc.store import opened
from tolerances import tolerance

pytestmark = pytest.mark.skipif(not loops.installed(), reason="llvmlite is not installed (contractc[fast])")

EXTENTS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33)
DTYPES = (
    "bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
LAYOUTS = ("C", "C", "C", "F", "permuted", "reversed", "step", "broadcast", "unaligned", "window")


def step_of(
    inputs: list[tuple[int, ...]],
    out: tuple[int, ...],
    extents: list[int],
    dtypes: list[str],
    result: str,
    path: tuple[tuple[int, ...], ...] = (),
    conj: tuple[bool, ...] = (),
    semiring: str = "sum_product",
    dynamic: tuple[int, ...] = (),
) -> tuple[Program, Contract]:
    """Return a program of one step, and the step."""
    count = len(inputs)
    values = tuple(Value(k, t, d) for k, (t, d) in enumerate(zip(inputs, dtypes, strict=True)))
    step = Contract(Value(count, out, result), tuple(range(count)), conj, path)
    program = Program(values, (step,), (count,), tuple(extents), semiring, dynamic)
    assert not program.faults(), program.faults()
    return program, step


@st.composite
def steps(draw: st.DrawFn) -> tuple[Program, Contract, list[np.ndarray]]:
    """Draw a step of one to four inputs, with a path if there are more than two, and arrays for it."""
    count = draw(st.integers(1, 4))
    modes = draw(st.integers(1, 5))
    extents = [draw(st.sampled_from(EXTENTS)) for _ in range(modes)]
    inputs = [tuple(draw(st.lists(st.integers(0, modes - 1), max_size=3))) for _ in range(count)]
    while np.prod([extents[m] for m in {m for t in inputs for m in t}], dtype=float) > 3e4:
        extents[extents.index(max(extents))] = 2
    present = sorted({m for t in inputs for m in t})
    out = tuple(draw(st.permutations(present)))[: draw(st.integers(0, len(present)))]
    semiring = draw(st.sampled_from(["sum_product"] * 4 + ["max_plus", "min_plus"]))
    if semiring == "sum_product":
        result = draw(st.sampled_from(DTYPES))
        dtypes = [result] * count
    else:
        result = draw(st.sampled_from(["float32", "float64"]))
        dtypes = [draw(st.sampled_from([result, "float32", "int32"])) for _ in range(count)]
    if result in ("float64", "complex64", "complex128") and draw(st.booleans()):
        dtypes[0] = draw(st.sampled_from(["float32", "int16", "bool"]))
    ids = list(range(count))
    path: list[tuple[int, ...]] = []
    while count > 2 and len(ids) > 1:
        pair = sorted(draw(st.permutations(ids))[:2])
        ids = [i for i in ids if i not in pair] + [count + len(path)]
        path.append(tuple(pair))
    conj = tuple(draw(st.booleans()) for _ in range(count)) if "complex" in result else ()
    dynamic = tuple(m for m in present if draw(st.integers(0, 5)) == 0)
    program, step = step_of(inputs, out, extents, dtypes, result, tuple(path), conj, semiring, dynamic)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    arrays = []
    real = [draw(st.sampled_from([n, n, n + 3, 1, 0])) if m in dynamic else n for m, n in enumerate(extents)]
    for term, dtype in zip(inputs, dtypes, strict=True):
        x = (rng.integers(-8, 9, [real[m] for m in term]) / 4).astype(dtype)
        if dtype.startswith("complex"):
            x = (x + 1j * rng.integers(-8, 9, x.shape) / 4).astype(dtype)
        laid = strategies.laid_out(rng, x, draw(st.sampled_from(LAYOUTS)) if x.ndim and x.size else "C")
        arrays.append(np.asarray(laid))
    return program, step, arrays


def expected(program: Program, step: Contract, arrays: list[np.ndarray]) -> np.ndarray:
    """Return the value of the step by the slow evaluator, for the extents that the arrays have."""
    extents = list(program.extents)
    for value, x in zip(program.inputs, arrays, strict=True):
        for m, n in zip(value.modes, x.shape, strict=True):
            extents[m] = n
    actual = Program(program.inputs, (step,), program.results, tuple(extents), program.semiring)
    return np.asarray(actual.evaluate(*arrays)[0])


def agree(found: np.ndarray, exact: np.ndarray, step: Contract) -> None:
    assert found.dtype == exact.dtype and found.shape == exact.shape
    assert found.flags.c_contiguous
    scale = np.maximum(np.abs(exact.astype(np.complex128)), 64.0)
    bound = tolerance(step.out.dtype, 4000, len(step.inputs), scale)
    if np.dtype(found.dtype).kind in "biu":
        np.testing.assert_array_equal(found, exact)
        return
    a, b = found.astype(np.complex128), exact.astype(np.complex128)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.abs(a - b) <= bound)
    assert same.all(), f"{found[~same][:3]} is not {exact[~same][:3]}"


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(0, 30), st.sampled_from([16, 32, 64]))
def test_every_schedule_computes_what_the_slow_evaluator_does(
    drawn: tuple[Program, Contract, list[np.ndarray]], nth: int, width: int
) -> None:
    program, step, arrays = drawn
    if problem.refused(program, step) is not None:
        return

    def pick(asked: problem.Problem, widest: int) -> Any:
        found = list(schedule.schedules(asked, min(width, widest)))
        return found[nth % len(found)] if found else None

    if pick(problem.problem_of(program, step, [loops.ORDERED] * len(arrays)), 64) is None:
        return
    run = loops.compiled(program, step, numpy_library(program, step), pick)
    agree(run(*arrays), expected(program, step, arrays), step)


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from([1, 7, 48]), st.sampled_from([16, 32, 64]))
def test_the_best_schedule_is_found_without_pricing_all(
    drawn: tuple[Program, Contract, list[np.ndarray]], times: int, width: int
) -> None:
    program, step, arrays = drawn
    program = replace(program, extents=tuple(n * times for n in program.extents))
    if problem.refused(program, step) is not None:
        return
    asked = problem.problem_of(program, step, [loops.ORDERED] * len(arrays))
    priced = list(schedule.schedules(asked, width))
    best = min(priced, key=lambda s: (s.seconds, s.lane, s.columns), default=None)
    assert schedule.best_schedule(asked, width) == best
    assert all(schedule.least_seconds(asked, width) <= s.seconds for s in priced)


def khatri_rao(columns: int) -> problem.Problem:
    """Return the problem of all products of rows, 200 of each matrix."""
    values = tuple(Value(k, modes, "float32") for k, modes in enumerate(((0, 2), (1, 2), (0, 1, 2))))
    program = Program(values[:2], (Contract(values[2], (0, 1)),), (2,), (200, 200, columns))
    (step,) = program.steps
    assert isinstance(step, Contract)
    return problem.problem_of(program, step, [loops.ORDERED] * 2)


def test_a_large_result_is_written_in_whole_rows_past_the_caches() -> None:
    asked = khatri_rao(64)
    best = schedule.best_schedule(asked, 64)
    assert best is not None
    assert best.width * best.columns == 64
    assert schedule.is_streamed(asked, best.lane, best.width, best.unpacked)
    beside = khatri_rao(63)  # its rows do not begin at cache lines
    other = schedule.best_schedule(beside, 64)
    assert other is not None
    assert not schedule.is_streamed(beside, other.lane, other.width, other.unpacked)
    assert other.seconds > 1.5 * best.seconds


def test_prices_are_those_of_the_processor_before_llvmlite_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    program = contractc.compile("ir,jr->ijr", (200, 64), (200, 64), dtype="float32").program
    step = next(s for s in program.steps if isinstance(s, Contract) and len(s.inputs) == 2)
    seconds = {}
    for width in (16, 32, 64):
        monkeypatch.setattr(native, "vector_bytes", lambda width=width: width)
        seconds[width] = loops.predicted(program, replace(step, how=""))
    monkeypatch.setattr(native, "loaded", lambda: False)
    two = {"fpu", "avx2", "fma"}
    known = {64: {*two, "avx512f", "avx512dq", "avx512vl"}, 32: two, 16: {"fpu", "sse2"}}
    for width, features in known.items():
        monkeypatch.setattr(loops, "processor_features", lambda features=features: frozenset(features))
        assert loops.predicted(program, replace(step, how="")) == seconds[width]
    monkeypatch.setattr(loops, "processor_features", frozenset)
    assert loops.predicted(program, replace(step, how="")) == seconds[32]
    assert len(set(seconds.values())) == 3


def in_threads(patch: pytest.MonkeyPatch, count: int) -> None:
    """Let `count` threads share every step that can be shared, however small it is."""
    patch.setattr(threads, "allowed", lambda: count)
    patch.setattr(compiled, "WORTH_A_THREAD", 1e-12)
    patch.setattr(compiled, "MORE_ROOM", 1e12)


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(2, 5))
def test_threads_that_share_a_step_compute_what_the_slow_evaluator_does(
    drawn: tuple[Program, Contract, list[np.ndarray]], count: int
) -> None:
    program, step, arrays = drawn
    if loops.refuses(program, step) is not None:
        return
    step = replace(step, how=loops.HOW)
    with pytest.MonkeyPatch.context() as patch:
        in_threads(patch, count)
        run = compiled.numpy_loops(program, step, backend_named("numpy").compile)
        agree(run(*arrays), expected(program, step, arrays), step)


def test_each_thread_computes_a_part_and_none_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    program, step = step_of([(0, 1), (1, 2)], (0, 2), [11, 40, 20], ["float64"] * 2, "float64")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((11, 40)), rng.standard_normal((40, 20))
    taken = []
    library = numpy_library(program, step)

    def address(array: np.ndarray) -> int:
        taken.append((get_ident(), array.shape))
        return library.address(array)

    in_threads(monkeypatch, 3)
    monkeypatch.setattr(compiled, "numpy_library", lambda *_: library._replace(address=address))
    run = compiled.numpy_loops(program, replace(step, how=loops.HOW), backend_named("numpy").compile)
    agree(run(x, y), expected(program, step, [x, y]), step)
    parts = [shape[0] for _, shape in taken if shape[1:] == (40,)]
    assert sorted(parts) == [3, 4, 4] and len({thread for thread, _ in taken}) > 1
    with threads.lent(3) as given_back:
        assert given_back == 3


def test_bfloat16_is_read_wide_and_rounded_once() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    program, step = step_of([(0, 1), (1, 2)], (0, 2), [5, 40, 20], ["bfloat16"] * 2, "bfloat16")
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((5, 40), (40, 20)))
    found = loops.compiled(program, step, numpy_library(program, step))(x, y)
    exact = x.astype(np.float64) @ y.astype(np.float64)
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_place(special: float) -> None:
    """The lanes behind the end of the last tile hold copies; none of them may reach a sum."""
    program, step = step_of([(0, 1), (0, 2)], (1, 2), [19, 3, 5], ["float64"] * 2, "float64")
    x, y = np.ones((19, 3)), np.ones((19, 5))
    x[18, 1] = y[18, 4] = special
    run = loops.compiled(program, step, numpy_library(program, step), summed_lanes)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(run(x, y), np.einsum("bi,bj->ij", x, y))


def summed_lanes(asked: problem.Problem, widest: int) -> Any:
    found = [s for s in schedule.schedules(asked, widest) if s.lane not in asked.out]
    return found[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_process_forked_while_a_thread_compiles_can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Event()

    def slow(*given: Any) -> native.Native:
        begun.set()
        sleep(0.2)
        return native.Native("other", 0, int, b"", None)

    monkeypatch.setattr(native, "_built", slow)
    thread = Thread(target=native.native, args=("define void @other()", "other"))
    thread.start()
    assert begun.wait(10)
    child = os.fork()
    if child == 0:
        there = native._lock.acquire(timeout=10)
        os._exit(0 if there else 1)
    thread.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_mode_planned_to_be_empty_may_be_longer_when_it_is_called() -> None:
    shapes = [(0, 256), (256, 256), (256, 256)]
    executable = contractc.compile("zi,ij,jk->zk", *shapes, dynamic="z", optimize=[(1, 2), (0, 1)])
    for extent in (0, 3):
        operands = [np.ones((extent, 256)), np.ones((256, 256)), np.ones((256, 256))]
        np.testing.assert_array_equal(executable(*operands), np.full((extent, 256), 256.0**2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"semiring": "log_sum_exp"}, "loops do not compute in log_sum_exp"),
        ({"out": (0, 0)}, "the result repeats a mode"),
        ({"dtypes": ["object", "object"], "result": "object"}, "loops do not know object"),
        ({"extents": [4, 0, 4]}, "there is nothing to loop over"),
        (
            {"semiring": "max_plus", "dtypes": ["int64"] * 2, "result": "int64"},
            "loops in max_plus are for floating numbers",
        ),
        ({"dtypes": ["complex64", "float64"]}, "complex64 would lose its meaning as float64"),
        ({"extents": [1, 1, 1]}, "no tile of it fits in cache"),
    ],
)  # fmt: skip
def test_refuses_says_why(change: dict[str, Any], reason: str) -> None:
    given_: dict[str, Any] = {
        "inputs": [(0, 1), (1, 2)], "out": (0, 2), "extents": [4, 4, 4], "dtypes": ["float64"] * 2, "result": "float64"
    }  # fmt: skip
    program, step = step_of(**(given_ | change))
    assert loops.refuses(program, step) == reason
    assert loops.predicted(program, step) == float("inf")


def test_equal_steps_share_machine_code() -> None:
    from contractc.providers.loops import native

    program, step = step_of([(0, 1), (1, 2)], (0, 2), [6, 4, 4], ["float64"] * 2, "float64")
    text = loops.text_of(program, step, native.vector_bytes())
    one, two = native.native(text, "loops"), native.native(text, "loops")
    assert one is two


def test_many_layouts_are_served_by_copies() -> None:
    program, step = step_of(
        [(0, 1), (1, 2), (2, 3)], (0, 3), [6, 4, 4, 6], ["float64"] * 3, "float64", ((0, 1), (2, 3))
    )
    run = loops.compiled(program, step, numpy_library(program, step))
    rng = np.random.default_rng(0)
    x, y, z = rng.random((6, 4)), rng.random((4, 4)), rng.random((4, 6))
    ways = [[a, np.asfortranarray(a), np.repeat(a, 2, 0)[::2]] for a in (x, y, z)]
    for given_ in product(*ways):
        np.testing.assert_allclose(run(*given_), np.asarray(x @ y @ z), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64", "complex64"])
@pytest.mark.parametrize("lanes", [1, 2, 5, 9, 17, 33])
def test_a_last_vector_of_one_lane_is_transposed_like_all_others(dtype: str, lanes: int) -> None:
    program, step = step_of([(0,), (2, 1)], (0, 1, 2), [3, 4, lanes], [dtype] * 2, dtype)
    run = loops.compiled(program, step, numpy_library(program, step))
    x, y = np.arange(1, 4).astype(dtype), np.arange(4 * lanes).reshape(lanes, 4).astype(dtype)
    np.testing.assert_array_equal(run(x, y), np.einsum("d,fa->daf", x, y))


def test_wide_of_every_known_dtype_is_known() -> None:
    assert {wide(d) for d in text.DTYPES} <= set(text.DTYPES)


@pytest.mark.parametrize("result", ["float32", "complex128"])
def test_all_schedules_of_a_gradient_add_up_their_tiles(result: str) -> None:
    terms: list[tuple[int, ...]] = [(0, 1), (0, 2), (2, 3)]
    path = ((0, 1), (2, 3))
    program, step = step_of(terms, (1, 3), [37, 5, 3, 18], [result] * 3, result, path)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, s).astype(result) for s in ((37, 5), (37, 3), (3, 18))]
    single, one = step_of([(0, 1), (0, 2)], (1, 2), [37, 5, 3], [result] * 2, result)
    for program_, step_, given_ in ((program, step, arrays), (single, one, arrays[:2])):
        asked = problem.problem_of(program_, step_, [loops.ORDERED] * len(given_))
        exact = expected(program_, step_, given_)
        for made in list(schedule.schedules(asked, 32)):
            library = numpy_library(program_, step_)
            run = loops.compiled(program_, step_, library, partial(_this, made))
            np.testing.assert_array_equal(run(*given_), exact)


def _this(made: schedule.Schedule, asked: problem.Problem, widest: int) -> schedule.Schedule:
    return made


def test_machine_code_is_in_the_store_for_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path / "store"))
    program, step = step_of([(0, 1), (1, 2)], (0, 2), [5, 7, 16], ["float64"] * 2, "float64")
    text = loops.text_of(program, step, native.vector_bytes())
    made = native._machine_code(text, native._machine())
    (entry,) = opened(tmp_path / "store").ls()
    assert entry.kind == "loops"
    monkeypatch.setattr(native, "_compile", lambda text, machine: b"compiled again")
    assert native._machine_code(text, native._machine()) == made
    x, y = np.arange(35.0).reshape(5, 7), np.arange(112.0).reshape(7, 16)
    run = loops.compiled(program, step, numpy_library(program, step))
    np.testing.assert_allclose(run(x, y), x @ y)
    (path,) = (tmp_path / "store").glob("*/loops-*")
    path.write_bytes(path.read_bytes()[:-1])
    assert native._machine_code(text, native._machine()) == b"compiled again"


def test_a_loop_made_at_the_first_call_is_announced_only_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, step = step_of([(0, 1), (1, 2)], (0, 2), [4, 4, 4], ["float64"] * 2, "float64")
    first = replace(step, how=loops.HOW_FIRST)
    assert loops.note(program, first) == "compiled loop, made at the first call"
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(loops, "installed", lambda: False)
    assert loops.note(program, first).startswith("pairwise: compiled loops need llvmlite")
