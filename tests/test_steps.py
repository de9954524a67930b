"""Ways to compute a pairwise step: every one of them against the slow evaluator, whatever it is predicted to cost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc.api import compile as compile_expression
from contractc.backends import numpy as numpy_backend
from contractc.backends.steps import EINSUM, MATMUL, MULTIPLY, Task, regroup, tasks, understood, ways, words
from contractc.backends.steps.choose import Prices, arranged, choose, free_results, layout
from contractc.backends.steps.forms import COPIES, LEFT, form_of, fused, natural_orders
from contractc.lower.regroup import regrouped_plan
from contractc.machine import DEFAULT_MACHINE, GRID, Machine
from contractc.programs import Contract, Program, Value
from contractc.providers import NUMPY, TORCH, copies, memory
from contractc.providers.copies import converted, packed
from contractc.providers.measure import measure_machine

PROVIDERS = (NUMPY, TORCH) if find_spec("torch") else (NUMPY,)


@st.composite
def pairwise_steps(draw: st.DrawFn) -> Program:
    """Draw a program of one pairwise step with up to five modes, in any order in all three arrays."""
    kinds = draw(st.lists(st.sampled_from("bmnk"), min_size=1, max_size=5))
    extents = draw(st.lists(st.integers(1, 4), min_size=len(kinds), max_size=len(kinds)))
    left = [m for m, kind in enumerate(kinds) if kind in "bmk"]
    right = [m for m, kind in enumerate(kinds) if kind in "bnk"]
    out = [m for m, kind in enumerate(kinds) if kind in "bmn"]
    dtype = draw(st.sampled_from(("float64", "float32", "complex128", "int64")))
    values = [
        Value(number, tuple(draw(st.permutations(modes))), dtype)
        for number, modes in enumerate((left, right, out))
    ]
    return Program(tuple(values[:2]), (Contract(values[2], (0, 1)),), (2,), tuple(extents))


def arrays_for(program: Program, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [[program.extents[m] for m in v.modes] for v in program.inputs]
    found = [
        rng.integers(-4, 5, shape).astype(v.dtype) for v, shape in zip(program.inputs, shapes, strict=True)
    ]
    return [x + 1j * x[..., ::-1] if x.ndim and x.dtype.kind == "c" else x for x in found]


def compiled_if_possible(program: Program) -> Callable[..., np.ndarray] | None:
    """Return the code for `program`, or None if the way written into its step cannot compute it."""
    try:
        return numpy_backend.compile(program).run
    except ValueError as error:
        if "is no way to compute this step" not in str(error):
            raise
        return None


@settings(max_examples=100, deadline=None)
@given(pairwise_steps())
def test_every_way_agrees_with_the_slow_evaluator(program: Program) -> None:
    (step,) = program.steps
    assert isinstance(step, Contract)
    arrays = arrays_for(program)
    (expected,) = program.evaluate(*arrays)
    summed = any(m not in step.out.modes for m in program.inputs[0].modes if program.extents[m] > 1)
    hows = [words(EINSUM)]
    if not summed:
        hows += [words(MULTIPLY, provider=p) for p in PROVIDERS if p == NUMPY or step.out.dtype != "int64"]
    else:
        hows += [
            words(MATMUL, copies, p) for copies in COPIES for p in PROVIDERS if step.out.dtype != "int64"
        ]
    ran = 0
    for how in hows:
        written = replace(program, steps=(replace(step, how=how),))
        run = compiled_if_possible(written)
        if run is None:
            continue
        result = run(*arrays)
        np.testing.assert_array_equal(result, expected, err_msg=f"{how}\n{written}")
        ran += 1
    assert ran >= 1


@settings(max_examples=60, deadline=None)
@given(pairwise_steps())
def test_layout_and_choice_keep_the_meaning(program: Program) -> None:
    small, tasks.SMALL = tasks.SMALL, 0
    try:
        ordered = layout(free_results(program), DEFAULT_MACHINE, PROVIDERS)
        chosen = choose(ordered, DEFAULT_MACHINE, PROVIDERS)
    finally:
        tasks.SMALL = small
    assert chosen.faults() == []
    arrays = arrays_for(program, 1)
    (expected,) = program.evaluate(*arrays)
    np.testing.assert_array_equal(chosen.evaluate(*arrays)[0], expected)
    np.testing.assert_array_equal(numpy_backend.compile(chosen).run(*arrays), expected)


def test_what_a_step_whose_way_is_chosen_reads_stays_in_its_order() -> None:
    values = [Value(0, (0, 1), "float64"), Value(1, (1, 2), "float64"), Value(2, (0, 3), "float64")]
    between, out = Value(3, (0, 2), "float64"), Value(4, (3, 2), "float64")
    steps = (Contract(between, (0, 1)), Contract(out, (3, 2)))
    program = Program(tuple(values), steps, (4,), (400, 300, 200, 500))
    best = layout(program, DEFAULT_MACHINE, PROVIDERS).steps[0].outs[0].modes
    turned = replace(steps[0], out=replace(between, modes=best[::-1]))
    open_ = replace(program, steps=(turned, steps[1]))
    decided = replace(program, steps=(turned, replace(steps[1], how=MATMUL)))
    assert layout(open_, DEFAULT_MACHINE, PROVIDERS).steps[0] != turned
    assert layout(decided, DEFAULT_MACHINE, PROVIDERS) == decided


@st.composite
def two_steps(draw: st.DrawFn) -> Program:
    """Draw a program of three operands, the first two of which are contracted first."""
    members = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    kept = draw(st.lists(st.booleans(), min_size=len(members), max_size=len(members)))
    extents = draw(st.lists(st.integers(1, 3), min_size=len(members), max_size=len(members)))
    terms = [tuple(m for m, bits in enumerate(members) if bits >> k & 1) for k in range(3)]
    terms = [tuple(draw(st.permutations(term))) for term in terms]
    out = tuple(draw(st.permutations([m for m, keep in enumerate(kept) if keep])))
    between = tuple(m for m in dict.fromkeys(terms[0] + terms[1]) if m in terms[2] or m in out)
    dtype = draw(st.sampled_from(("float64", "complex128")))
    values = [Value(k, term, dtype) for k, term in enumerate((*terms, between, out))]
    conj = tuple(draw(st.booleans()) for _ in range(3))
    steps = (Contract(values[3], (0, 1), conj[:2]), Contract(values[4], (3, 2), (False, conj[2])))
    return Program(tuple(values[:3]), steps, (4,), tuple(extents))


@settings(max_examples=100, deadline=None)
@given(program=two_steps(), least=st.sampled_from([0, 2**14]))
def test_steps_in_another_order_keep_the_meaning(program: Program, least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "SMALL", least)
        patch.setattr(regroup, "WORTH_A_LOOK", 0.0)
        patch.setattr(regroup, "GAIN", 1e-9)
        prices = Prices(DEFAULT_MACHINE, PROVIDERS)
        turned = regroup.regrouped(free_results(program), prices)
        chosen = arranged(turned, DEFAULT_MACHINE, PROVIDERS, prices)
    assert chosen.faults() == []
    assert {chosen.steps[0].inputs, chosen.steps[0].inputs[::-1]}.isdisjoint({(0, 1)})
    arrays = arrays_for(program, 2)
    (expected,) = program.evaluate(*arrays)
    np.testing.assert_array_equal(chosen.evaluate(*arrays)[0], expected)
    np.testing.assert_array_equal(numpy_backend.compile(chosen).run(*arrays), expected)


def test_a_khatri_rao_product_comes_first_where_that_is_one_large_product() -> None:
    pytest.importorskip("torch")  # without its products the steps are one compiled loop
    shapes = (160, 160, 160), (160, 32), (160, 32)
    plan = contractc.plan("ijk,jr,kr->ir", *shapes, optimize=[(0, 2), (0, 1)])
    turned = regrouped_plan(plan, DEFAULT_MACHINE)
    assert turned.path == ((1, 2), (0, 3)) and turned.results == (4,)
    assert "two steps in the order that suits memory" in str(turned)
    assert "in order (%" in contractc.explain(compile_expression("ijk,jr,kr->ir", *shapes))
    arrays = [np.random.default_rng(k).integers(-3, 4, shape).astype(float) for k, shape in enumerate(shapes)]
    np.testing.assert_array_equal(
        compile_expression("ijk,jr,kr->ir", *arrays)(*arrays),
        np.einsum("ijk,jr,kr->ir", *arrays, optimize=True),
    )
    for asked in ({"memory_limit": 10**9}, {"optimize": [(0, 2), (0, 1)]}):  # an order, or memory, is kept to
        kept = compile_expression("ijk,jr,kr->ir", *shapes, **asked)
        assert kept.plan.path[0] in ((0, 1), (0, 2))


def test_a_step_too_small_to_matter_is_left_to_the_backend() -> None:
    (step,) = compile_expression("ij,jk->ik", (4, 4), (4, 4)).program.steps
    assert isinstance(step, Contract)
    assert step.how == ""


def test_a_large_product_is_one_of_matrices_without_copies() -> None:
    found = compile_expression("adb,cd->cba", (160, 160, 160), (24, 160), dtype="float32").program
    (first, *_) = found.steps
    assert isinstance(first, Contract)
    strategy, copies, _ = understood(first.how)
    assert (strategy, copies) == (MATMUL, frozenset())


def test_fused_joins_modes_that_are_neighbours_everywhere() -> None:
    assert fused(((0, 1, 2), (2, 3), (0, 1, 3))) == (((0, 1), (2,)), ((2,), (3,)), ((0, 1), (3,)))
    assert fused(((0, 1), (1, 0))) == (((0,), (1,)), ((1,), (0,)))


def test_form_of_needs_the_fastest_axis_in_the_matrix() -> None:
    assert form_of((1, 2, 0), (2, 3, 0), (0, 1, 3), (5,) * 4, frozenset()) is None
    form = form_of((0, 1, 2), (0, 2, 3), (0, 1, 3), (5,) * 4, frozenset())
    assert form is not None
    assert (form.rows, form.columns, form.summed, form.loops) == ((1,), (3,), (2,), ((0,),))


def test_natural_orders_keep_a_batch_last_where_nothing_is_summed() -> None:
    assert natural_orders((0, 2), (1, 2), (0, 1, 2)) == [(0, 1, 2), (1, 0, 2)]
    assert natural_orders((3, 0, 1), (3, 1, 2), (3, 0, 2)) == [(3, 0, 2), (3, 2, 0)]


@pytest.mark.parametrize("how", ["", "magic", "matmul, copy everything", "matmul, by magic"])
def test_understood_refuses_what_is_no_way(how: str) -> None:
    with pytest.raises(ValueError, match="is no way to compute a step"):
        understood(how)


def test_words_are_understood() -> None:
    for copied in COPIES:
        assert understood(words(MATMUL, copied, TORCH)) == (MATMUL, copied, TORCH)


def test_copying_the_small_operand_beats_copying_the_large_one() -> None:
    task = Task((0, 1, 2), (2, 3, 1), (0, 3), (64, 300, 300, 8), "float64")
    best = ways(task, DEFAULT_MACHINE, (NUMPY,))[0]
    assert LEFT not in understood(best.how)[1]


def test_a_thin_product_that_adds_up_rows_is_faster_than_one_that_adds_up_columns() -> None:
    def least(out: tuple[int, int]) -> float:
        found = ways(Task((0, 1), (0, 2), out, (512, 768, 5), "float32"), DEFAULT_MACHINE, (TORCH,))
        return next(way.seconds for way in found if way.how == words(MATMUL, provider=TORCH))

    assert least((1, 2)) > 2 * least((2, 1))


def test_results_leave_the_order_asked_for_only_where_that_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [Value(k, modes, "float32") for k, modes in enumerate(((0, 1), (0, 2), (1, 2)))]
    program = Program(tuple(values[:2]), (Contract(values[2], (0, 1)),), (2,), (512, 768, 5))

    def order() -> tuple[int, ...]:
        first, *_ = arranged(free_results(program), DEFAULT_MACHINE, (NUMPY, TORCH)).steps
        assert isinstance(first, Contract)
        return first.out.modes

    assert order() == (2, 1)  # rows are added up
    monkeypatch.setattr("contractc.backends.steps.choose.RESULT_GAIN", 0.0)
    assert order() == (1, 2)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))
def test_predicted_seconds_grow_with_the_work_beyond_the_grid(m: int, n: int, k: int) -> None:
    from contractc.cost import product_seconds

    once = product_seconds(DEFAULT_MACHINE, NUMPY, "float32", m, n, k + GRID[-1])
    twice = product_seconds(DEFAULT_MACHINE, NUMPY, "float32", m, n, 2 * (k + GRID[-1]))
    assert twice == pytest.approx(2 * once)


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(4)), st.tuples(*[st.integers(1, 40)] * 4))
def test_packed_copies_to_c_order(axes: list[int], shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape)).reshape(shape).transpose(axes)
    copy = packed(x)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, x)


def test_packed_returns_contiguous_arrays_themselves() -> None:
    x = np.ones((300, 300))
    assert packed(x) is x


def test_memory_in_use_is_never_given_out_again() -> None:
    shape = (memory.LEAST // 8,)
    first = memory.fresh(shape, np.dtype("float64"))
    view = first[5:]
    second = memory.fresh(shape, np.dtype("float64"))
    assert not np.shares_memory(first, second)
    del first
    third = memory.fresh(shape, np.dtype("float64"))
    assert not np.shares_memory(view, third)
    memory.release()


def test_memory_of_dropped_arrays_is_used_again() -> None:
    shape = (memory.LEAST // 8,)
    address = memory.fresh(shape, np.dtype("float64")).__array_interface__["data"]
    again = memory.fresh(shape, np.dtype("float64"))
    assert again.__array_interface__["data"] == address
    del again
    memory.release()
    assert memory.kept() == 0


def test_measured_machine_has_a_time_for_every_shape_and_survives_json() -> None:
    ticks = count()
    machine = measure_machine(lambda: next(ticks) * 1e-3, [NUMPY])
    assert [len(t.nanoseconds) for t in machine.products] == [len(GRID) ** 3] * 2
    assert all(t > 0 for table in machine.products for t in table.nanoseconds)
    assert Machine.from_json(machine.to_json()) == machine


def test_explain_prints_the_ways_compared_with_their_seconds() -> None:
    text = str(compile_expression("bij,bjk->bik", (30, 40, 50), (30, 50, 60)))
    assert "    of matmul" in text
    assert text.count(" us") >= 1


@pytest.mark.parametrize(("source", "target"), [("float16", "float32"), ("float32", "float16")])
@pytest.mark.parametrize("count", [10, 100_000])
def test_converted_rounds_as_numpy_does(source: str, target: str, count: int) -> None:
    x = np.random.default_rng(0).standard_normal(count).astype(source)
    x[:4] = np.inf, -np.inf, np.nan, 0
    np.testing.assert_array_equal(converted(x, np.dtype(target)), x.astype(target))


def test_executables_give_the_same_results_in_several_threads() -> None:
    run = compile_expression("abc,cd,de->abe", (40, 50, 60), (60, 70), (70, 80))
    rng = np.random.default_rng(0)
    inputs = [[rng.standard_normal(s) for s in ((40, 50, 60), (60, 70), (70, 80))] for _ in range(8)]
    expected = [run(*x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda x: run(*x), inputs * 4), expected * 4, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("equation", ["ab,bc->ac", "nab,nbc->nac"])
@pytest.mark.parametrize("mode", ["autocast", "fake tensors", "functionalize", "reversed"])
def test_what_torch_computes_for_numpy_does_not_depend_on_its_modes(equation: str, mode: str) -> None:
    """Reversed is an axis of extent 1: NumPy calls such an array contiguous, torch does not take it."""
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    from contractc.providers import torch_products

    rng = np.random.default_rng(3)
    shapes = [(1, 40), (40, 30)] if equation.startswith("ab") else [(2, 1, 40), (2, 40, 30)]
    x, y = (rng.integers(-4, 4, shape).astype(np.float16) for shape in shapes)
    x = np.flip(x, -2) if mode == "reversed" else x
    expected = np.matmul(x.astype(np.float32), y.astype(np.float32))
    wide = x.astype(np.float32)

    def check(given: object) -> object:
        np.testing.assert_array_equal(torch_products.torch_einsum(equation, x, y), expected)
        out, converted = np.zeros(expected.shape, np.float32), np.zeros(x.shape, np.float32)
        torch_products.torch_matmul(wide, y.astype(np.float32), out)
        np.testing.assert_array_equal(out, expected)
        torch_products.torch_convert(x, converted)
        np.testing.assert_array_equal(converted, wide)
        return given

    if mode == "functionalize":
        torch.func.functionalize(check)(torch.ones(()))
        return
    context = {"autocast": torch.autocast("cpu", dtype=torch.bfloat16), "fake tensors": FakeTensorMode()}
    with context.get(mode, torch.no_grad()):
        check(None)


@pytest.mark.parametrize(
    "equation", ["ab,bc->ac", "ba,bc->ac", "ab,cb->ac", "ba,cb->ca", "ab,bc->ca", "abc,acd->abd"]
)
def test_narrow_products_in_any_order_are_those_of_numpy(equation: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from contractc.providers.torch_products import torch_einsum

    extents = {"a": 5, "b": 7, "c": 3, "d": 2}
    rng = np.random.default_rng(0)
    terms = equation.partition("->")[0].split(",")
    x, y = (rng.integers(-3, 4, [extents[m] for m in term]).astype("float16") for term in terms)
    found = torch_einsum(equation, x, y)
    assert found.flags.c_contiguous and found.dtype == np.float16
    np.testing.assert_array_equal(found, np.einsum(equation, x, y))


MOVES: list[Any] = []
"""Code that has been compiled, so that equal code is not compiled for each example."""


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 7, 16, 19, 40]), min_size=1, max_size=5),
    dtype=st.sampled_from(["float32", "float64", "complex64", "complex128", "int64"]),
)
def test_compiled_copies_move_every_element(data: st.DataObject, shape: list[int], dtype: str) -> None:
    pytest.importorskip("llvmlite")
    moves = pytest.importorskip("contractc.providers.loops.moves")
    axes = data.draw(st.permutations(range(len(shape))))
    whole = np.arange(2 * prod(shape)).astype(dtype).reshape(2 * shape[0], *shape[1:])
    x = whole[:: data.draw(st.sampled_from([1, 2]))][: shape[0]].transpose(axes)  # rows may lie apart
    x = x[:: data.draw(st.sampled_from([1, -1]))]
    around = np.zeros(x.size + 64, dtype)
    out = around[32:-32].reshape(x.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "NEAR", 2**30)
        found = moves.planned(copies._fused_axes(x.shape, x.strides, out.strides), x.itemsize)
    if found is None:
        out[...] = x
    else:
        MOVES.append(found[0])
        table = np.array(found[1], np.int64)
        found[0].run(x.ctypes.data, out.ctypes.data, table.ctypes.data)
    np.testing.assert_array_equal(out, x)
    assert not around[:32].any()
    assert not around[-32:].any()


def test_copies_change_to_compiled_loops_when_they_have_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    x = np.arange(2.0**16).reshape(16, 64, 64).transpose(0, 2, 1)
    monkeypatch.setattr(copies, "_copy_in_tiles", lambda out, x: out.fill(-1.0))
    monkeypatch.setattr(copies._spent, "seconds", 0.0)
    assert (packed(x) == -1.0).all()
    monkeypatch.setattr(copies._spent, "seconds", 1.0)
    np.testing.assert_array_equal(packed(x), x)
