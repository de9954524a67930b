"""Slices: the tree they are added up in, what leaves the loop, threads, odd extents; against the slow evaluator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from time import sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc.backends import backend_named
from contractc.backends import sliced as numpy_slices
from contractc.cost import priced, step_times
from contractc.lower import lower, translate
from contractc.machine import Target
from contractc.plans import Plan, sliceable
from contractc.programs import Contract, Loop, Program, Step
from contractc.providers import threads
from contractc.semirings import SEMIRINGS
from contractc.slices import Node, Sums, positions, pushed, total, waiting

NUMPY, TORCH = Target(), Target("torch")


def bracketed(x: str, y: str) -> str:
    return f"({x}{y})"


@pytest.mark.parametrize(
    ("count", "tree"),
    [(1, "0"), (2, "(01)"), (3, "((01)2)"), (6, "(((01)(23))(45))"), (7, "(((01)(23))((45)6))")],
)
def test_parts_are_added_in_pairs_and_pairs_again(count: int, tree: str) -> None:
    nodes: list[Node] = []
    most = 0
    for k in range(count):
        most = max(most, len(nodes) + 1)
        pushed(nodes, Node(0, k, str(k)), bracketed)
    assert total(nodes, bracketed) == tree
    assert most <= waiting(count)


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(0, 60), max_size=4),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_the_tree_is_the_same_for_any_division_among_threads(
    i: int, j: int, k: int, cuts: list[int], data: st.DataObject
) -> None:
    modes = {0: i, 1: j, 2: k}
    outs = data.draw(st.lists(st.sampled_from([(), (0,), (1,), (2, 0), (0, 1, 2)]), min_size=1, max_size=3))

    def added(edges: list[int]) -> list[tuple[int, tuple[int, ...], str]]:
        found: list[tuple[int, tuple[int, ...], str]] = []

        def done(out: int, at: dict[int, int], text: str) -> None:
            found.append((out, tuple(at.values()), text))

        runs = []
        for a, b in zip(edges, edges[1:], strict=False):
            sums = Sums(modes, outs, bracketed, done)
            for at in positions(modes, a, b):
                for out in range(len(outs)):
                    sums.put(out, at, "".join(map(str, at.values())))
            runs.append(sums)
        whole = Sums(modes, outs, bracketed, done)
        for sums in runs:
            whole.join(sums)
        assert not any(nodes for sums in (*runs, whole) for nodes in sums.nodes)
        return sorted(found)

    count = i * j * k
    edges = sorted({0, count, *(cut % (count + 1) for cut in cuts)})
    assert added(edges) == added([0, count])


# What leaves the loop


CASES = [
    "ab,bc,cd,de,ef->af",
    "ab,bc,cd,da->",
    "abx,bcx,cdx,dax->x",
    "ab,ac,ad,ae->bcde",
    "ab,bc,cd->a,d",
    "ab,ab,bc->abc",
    "abc,cd,de,be->a",
    "a,b,c,ab,bc->cc",
    "ab,bc,cd->da",
    "abc,cd,de->eca",
]


def arrays_for(text: str, extents: dict[str, int], dtype: str = "float64", seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for term in text.partition("->")[0].split(","):
        x = rng.integers(-3, 4, [extents[c] for c in term])
        found.append((x + (1j * x[::-1] if dtype.startswith("complex") else 0)).astype(dtype))
    return found


@st.composite
def sliced_plans(
    draw: st.DrawFn, semiring: str = "sum_product", dtype: str = "float64"
) -> tuple[Plan, list[Any]]:
    """Draw a plan with sliced modes, small extents (1 among them), and operands of small integers."""
    text = draw(st.sampled_from(CASES))
    if SEMIRINGS[semiring].ordered and text.endswith("cc"):
        text = CASES[0]
    letters = sorted(set(text) & set("abcdefx"))
    extents = {c: draw(st.integers(1, 3)) for c in letters}
    arrays = arrays_for(text, extents, dtype, draw(st.integers(0, 99)))
    plan = contractc.plan(text, *arrays, semiring=semiring)
    modes = sorted(sliceable(plan.network))
    sliced = draw(st.lists(st.sampled_from(modes), min_size=1, max_size=4, unique=True))
    return priced(replace(plan, sliced=tuple(sliced))), arrays


def run(program: Program, arrays: list[Any], backend: str = "numpy") -> list[Any]:
    compiled = backend_named(backend).compile(program, ())
    found = compiled.run(*arrays)
    return list(found) if isinstance(found, tuple) else [found]


@given(sliced_plans(), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_sliced_programs_mean_what_their_plan_means(
    drawn: tuple[Plan, list[Any]], hoist: bool, pairs: bool
) -> None:
    plan, arrays = drawn
    expected = plan.evaluate(*arrays)
    program = translate(plan, NUMPY, hoist, pairs)
    assert program.faults() == []
    for found, value in zip(program.evaluate(*arrays), expected, strict=True):
        np.testing.assert_array_equal(found, value)
    lowered = lower(plan, NUMPY, memory=None if pairs else 1)
    for found, value in zip(run(lowered, arrays), expected, strict=True):
        np.testing.assert_array_equal(found, value)
    assert Program.from_json(lowered.to_json()) == lowered


@pytest.mark.parametrize(
    ("semiring", "dtype"),
    [("max_plus", "float64"), ("min_plus", "int64"), ("max_times", "float32"), ("or_and", "bool"),
     ("log_sum_exp", "float64"), ("sum_product", "bool"), ("sum_product", "int8"), ("sum_product", "complex64"),
     ("sum_product", "float16")],
)  # fmt: skip
@given(st.data())
@settings(max_examples=5, deadline=None)
def test_slices_in_semirings_and_dtypes(semiring: str, dtype: str, data: st.DataObject) -> None:
    plan, arrays = data.draw(sliced_plans(semiring, dtype))
    arrays = [np.abs(x) for x in arrays] if semiring == "max_times" else arrays
    for found, value in zip(run(lower(plan, NUMPY), arrays), plan.evaluate(*arrays), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-13 if semiring == "log_sum_exp" else 0)
        assert np.asarray(found).dtype == value.dtype


@given(sliced_plans())
@settings(max_examples=8, deadline=None)
def test_slices_on_torch(drawn: tuple[Plan, list[Any]]) -> None:
    torch = pytest.importorskip("torch")
    plan, arrays = drawn
    tensors = [torch.from_numpy(x) for x in arrays]
    assert_same_on_torch(plan, tensors)


def assert_same_on_torch(plan: Plan, tensors: list[Any]) -> None:
    """Assert the values of `plan` on torch: with exponents too, and watched, where slices are kept till the end."""
    values = plan.evaluate(*[x.numpy() for x in tensors])
    for found, value in zip(run(lower(plan, TORCH), tensors, "torch"), values, strict=True):
        np.testing.assert_array_equal(found.numpy(), value)
    scaled = run(lower(plan, TORCH, exponents=True), tensors, "torch")
    for mantissa, exponent, value in zip(scaled[::2], scaled[1::2], values, strict=True):
        np.testing.assert_array_equal(mantissa.numpy() * 2.0 ** int(exponent), value)
    watched = [x.requires_grad_() for x in tensors]
    for found, value in zip(run(lower(plan, TORCH), watched, "torch"), values, strict=True):
        assert found.requires_grad
        np.testing.assert_array_equal(found.detach().numpy(), value)


@pytest.mark.parametrize("extents", [{"a": 2, "d": 3}, {"a": 3, "d": 3}])
@pytest.mark.parametrize("text", ["ab,bd->da", "ab,bcd->acd", "ab,bcd->dca"])
def test_slices_on_torch_stand_where_the_output_has_their_modes(text: str, extents: dict[str, int]) -> None:
    torch = pytest.importorskip("torch")
    arrays = arrays_for(text, {"b": 2, "c": 2, **extents})
    plan = contractc.plan(text, *arrays)
    sliced = tuple(map(plan.network.labels.index, "ad"))
    assert_same_on_torch(priced(replace(plan, sliced=sliced)), [torch.from_numpy(x) for x in arrays])


def inner_steps(program: Program) -> Iterator[tuple[int, Step]]:
    """Yield every step with how often it runs."""
    for step in program.steps:
        yield 1, step
        if isinstance(step, Loop):
            times = int(np.prod([program.extents[m] for m in step.modes]))
            yield from ((times * n, s) for n, s in inner_steps(step.body))


def test_what_depends_on_no_sliced_mode_runs_once_and_what_depends_on_some_as_often_as_they_have_positions() -> (
    None
):
    arrays = arrays_for("ab,bc,cd,de,ef->af", {"a": 2, "b": 3, "c": 4, "d": 2, "e": 5, "f": 2})
    found = contractc.plan("ab,bc,cd,de,ef->af", *arrays, optimize=[(3, 4), (0, 1), (0, 1), (0, 1)])
    for sliced, expected in (((1, 2), [1, 12, 4, 12]), ((1, 4), [5, 15, 5, 15])):  # b and c; b and e
        plan = replace(found, sliced=sliced)
        counts = {
            s.outs[0].number: n for n, s in inner_steps(translate(plan, NUMPY)) if isinstance(s, Contract)
        }
        assert [counts[n] for n in (5, 6, 7, 8)] == expected  # de,ef  ab,bc  cd,df  ac,cf
        assert step_times(plan) == expected
        np.testing.assert_array_equal(run(lower(plan, NUMPY), arrays)[0], plan.evaluate(*arrays)[0])


# Threads


@contextmanager
def forced(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[None]:
    """Allow `count` threads, whatever this machine has."""
    with monkeypatch.context() as patch:
        patch.setattr(threads, "allowed", lambda: count)
        yield


def in_threads(program: Program, most: int) -> Program:
    """Return `program` with loops that may run `most` slices at a time."""
    steps = tuple(
        replace(s, body=in_threads(s.body, most), threads=most) if isinstance(s, Loop) else s
        for s in program.steps
    )
    return replace(program, steps=steps)


@pytest.mark.parametrize("text", ["ab,bc,cd,da->", "abx,bcx,cdx,dax->x", "ab,bc,cd->a,d"])
def test_results_have_the_same_bits_for_any_number_of_threads(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    terms = text.partition("->")[0].split(",")
    arrays = [rng.standard_normal([7] * len(term)).astype("float32") for term in terms]
    plan = contractc.plan(text, *arrays, dtype="float32")
    plan = replace(plan, sliced=tuple(sorted(sliceable(plan.network))[:3]))
    program = in_threads(lower(plan, NUMPY), 8)
    expected = plan.evaluate(*arrays)
    found = []
    for count in (1, 2, 4, 5):
        with forced(monkeypatch, count):
            found.append([np.asarray(x) for x in run(program, arrays)])
    for other in found:
        for x, y, value in zip(other, found[0], expected, strict=True):
            assert x.tobytes() == y.tobytes()
            np.testing.assert_allclose(x, value, rtol=1e-3, atol=1e-2)


def test_an_executable_runs_in_many_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    plan = contractc.plan("ab,bc,cd,da->", *[(12, 12)] * 4)
    program = in_threads(lower(replace(plan, sliced=(0, 2)), NUMPY), 3)
    compiled = backend_named("numpy").compile(program, ())
    inputs = [[rng.standard_normal((12, 12)) for _ in range(4)] for _ in range(24)]
    alone = [compiled.run(*arrays) for arrays in inputs]
    with forced(monkeypatch, 4), ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda arrays: compiled.run(*arrays), inputs))
    assert [float(x) for x in together] == [float(x) for x in alone]


def test_an_error_in_a_slice_is_raised_and_threads_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(x: Any) -> Any:
        if x[0] == 5:
            raise ValueError("slice 5")
        return x.sum()

    before = threads.allowed()
    outs = [((), np.dtype("float64"), False)]
    with forced(monkeypatch, 3), pytest.raises(ValueError, match="slice 5"):
        numpy_slices.sliced(
            body, [np.arange(8.0)[:, None]], [(0, 1)], {0: 8}, outs, SEMIRINGS["sum_product"], True, 4
        )
    assert threads.allowed() == before
    with threads.lent(1) as given_:
        assert given_ == 1


def test_what_fails_in_a_thread_is_raised_when_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def work(start: int, stop: int) -> int:
        if start == 2:
            raise ValueError(f"{start} to {stop}")
        done.append(start)
        return start

    with pytest.raises(ValueError, match="2 to 4"):
        threads.side_by_side(work, 8, 4)
    assert sorted(done) == [0, 4, 6]
    assert threads.side_by_side(lambda a, b: (a, b), 7, 3) == [(0, 2), (2, 4), (4, 7)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    threads.side_by_side(lambda a, b: a, 4, 2)
    child = os.fork()
    if not child:
        os._exit(0 if threads.side_by_side(lambda a, b: a, 4, 2) == [0, 2] else 1)
    for _ in range(500):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        sleep(0.02)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it does not have")
    assert status == 0


def test_threads_are_lent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with forced(monkeypatch, 4):
        with threads.lent(3) as first, threads.lent(3) as second, threads.lent(3) as third:
            assert (first, second, third) == (3, 1, 1)
        with threads.lent(9) as again:
            assert again == 4


def test_a_slice_that_is_a_view_of_an_operand_is_not_written_to() -> None:
    x = np.arange(12.0).reshape(3, 4)
    plan = replace(contractc.plan("ij->j", x), sliced=(0,))
    before = x.copy()
    np.testing.assert_array_equal(run(lower(plan, NUMPY), [x])[0], before.sum(0))
    np.testing.assert_array_equal(x, before)
