"""Steps that become one call: that nothing changes but the speed, on drawn programs and on gradients."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_size_t
from dataclasses import replace
from pathlib import Path
from threading import Thread
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc.backends import backend_named
from contractc.fused import Names, all_unfused, numbered_anew, renamed
from contractc.lower.between import improved
from contractc.lower.fuse import Fuser
from contractc.lower.memory import peak_bytes
from contractc.lower.together import MOST_STEPS, together
from contractc.machine import Target
from contractc.programs import Contract, Fused, Program, Value
from contractc.providers import loops
from contractc.providers.loops import arrays as layouts
from contractc.providers.loops import kernel, nests, schedule
from contractc.providers.loops.nests import nests_of
from tolerances import tolerance

NUMPY = Target()

with_loops = pytest.mark.skipif(not loops.installed(), reason="llvmlite is not installed (contractc[fast])")

DTYPES = ("float32", "float64", "complex64", "complex128", "int32", "int64", "bool")
EXTENTS = (1, 2, 3, 4, 7, 16, 17)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, list[np.ndarray]]:
    """Draw a program of pairwise steps that read each other's results, mode 0 leading where it occurs, and operands."""
    dtype = draw(st.sampled_from(DTYPES))
    rings = ["sum_product", "sum_product", "max_plus"] if dtype.startswith("float") else ["sum_product"]
    extents = tuple(draw(st.sampled_from(EXTENTS)) for _ in range(4))
    term = st.lists(st.integers(1, 3), max_size=2, unique=True)
    inputs = [(*([0] * draw(st.booleans())), *draw(term)) for _ in range(draw(st.integers(1, 4)))]
    values = [Value(k, t, dtype) for k, t in enumerate(inputs)]
    steps: list[Contract] = []
    for _ in range(draw(st.integers(2, 5))):
        reads = [draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 2)))]
        present = sorted({m for v in reads for m in v.modes})
        kept = [m for m in present if draw(st.integers(0, 3))]
        out = Value(
            len(values), (*(m for m in kept if m == 0), *draw(st.permutations([m for m in kept if m]))), dtype
        )
        flags = tuple(draw(st.booleans()) for _ in reads) if dtype.startswith("complex") else ()
        steps.append(Contract(out, tuple(v.number for v in reads), flags))
        values.append(out)
    made = [s.out.number for s in steps]
    results = (*(n for n in made[:-1] if draw(st.booleans())), made[-1])
    used = {i for s in steps for i in s.inputs}
    first = tuple(v for v in values[: len(inputs)] if v.number in used)
    program = Program(first, tuple(steps), results, extents, draw(st.sampled_from(rings)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    given_ = []
    for v in first:
        x = rng.integers(-2, 3, [extents[m] for m in v.modes])
        x = x + 1j * rng.integers(-2, 3, x.shape) if dtype.startswith("complex") else x
        given_.append(np.asarray(x).astype(dtype))
    return program, given_


def whole(program: Program, modes: tuple[int, ...] = (), piece: int = 0) -> Program:
    """Return `program` as one fused step."""
    known = program.values()
    outs = tuple(known[i] for i in program.results)
    return replace(
        program,
        steps=(Fused(outs, tuple(v.number for v in program.inputs), program, modes, piece, loops.HOW),),
    )


def cuts(program: Program) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield no pieces, and pieces of the first mode that divide it and that do not."""
    yield (), 0
    if any(0 in v.modes for v in program.inputs):
        yield from (((0,), piece) for piece in {1, 3, program.extents[0]} if piece <= program.extents[0])


def agree(found: np.ndarray, exact: np.ndarray) -> None:
    assert found.dtype == exact.dtype and found.shape == exact.shape
    if exact.dtype.kind in "biu":
        np.testing.assert_array_equal(found, exact)
    else:
        scale = np.maximum(np.abs(exact.astype(np.complex128)), 64.0)
        near = np.abs(found.astype(np.complex128) - exact) <= tolerance(exact.dtype.name, 4000, 8, scale)
        assert (near | (found == exact)).all()


@with_loops
@settings(max_examples=40, deadline=None)
@given(programs())
def test_drawn_programs_give_what_their_steps_give(case: tuple[Program, list[np.ndarray]]) -> None:
    program, operands = case
    assert not program.faults(), program
    exact = program.evaluate(*operands)
    tried = 0
    for modes, piece in cuts(program):
        fused = whole(program, modes, piece)
        assert not fused.faults(), fused.faults()
        step = fused.steps[0]
        assert isinstance(step, Fused)
        if nests_of(step, loops.native.vector_bytes()) is None:
            continue
        tried += 1
        found = backend_named("numpy").compile(fused).run(*operands)
        for one, two in zip(found if isinstance(found, tuple) else (found,), exact, strict=True):
            agree(np.asarray(one), np.asarray(two))
        assert all_unfused(fused).evaluate(*operands)[0].shape == exact[0].shape


def gradients_of_small_matrices(
    count: int = 1003,
) -> tuple[contractc.Executable, list[np.ndarray], list[np.ndarray]]:
    """Return the value and gradients of a product of small matrices as one call, operands, and what it has to give."""
    rng = np.random.default_rng(0)
    a, b, c, g = rng.standard_normal((4, count, 4, 4))
    both = contractc.compile_gradients("bij,bjk,bkl->bil", a, b, c)
    turned = [x.transpose(0, 2, 1) for x in (a, b, c)]
    exact = [a @ b @ c, g @ turned[2] @ turned[1], turned[0] @ g @ turned[2], turned[1] @ turned[0] @ g]
    return both, [a, b, c, g], exact


@with_loops
def test_gradients_of_small_matrices_are_one_call() -> None:
    both, operands, exact = gradients_of_small_matrices()
    (step,) = both.program.steps
    assert isinstance(step, Fused) and step.modes and step.piece < 1003
    assert f"compiled loops in one call, {step.piece} of b at a time" in str(both)
    assert both.program == Program.from_json(both.program.to_json())
    for found, expected in zip(both(*operands), exact, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    strided = [np.repeat(x, 2, axis=0)[::2] for x in operands]
    shared = {id(x) for x in both(*operands)}
    assert len(shared) == 4
    for found, expected in zip(both(*strided), exact, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@with_loops
def test_one_call_runs_in_threads() -> None:
    both, operands, exact = gradients_of_small_matrices()
    found: list[tuple[np.ndarray, ...]] = []
    threads = [Thread(target=lambda: found.append(both(*operands))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in found:
        for one, expected in zip(results, exact, strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-10)
    assert len(found) == 8


@with_loops
def test_one_call_goes_into_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, operands, exact = gradients_of_small_matrices()
    path = tmp_path / "both.contractc"
    digest = both.save(path)
    loaded = contractc.load(path, sha256=digest)
    assert "machine code built before" in str(loaded)
    monkeypatch.setattr(loops, "installed", lambda: False)
    pairwise = contractc.load(path)
    for executable in (loaded, pairwise):
        for found, expected in zip(executable(*operands), exact, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10)


@with_loops
def test_where_arrays_are_laid_out_in_another_way_steps_run_by_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, operands, exact = gradients_of_small_matrices()
    monkeypatch.setattr("contractc.backends.compiled.layout", lambda: None)
    monkeypatch.setattr(layouts, "layout", lambda: None)
    again = backend_named("numpy").compile(both.program).run(*operands)
    alone = contractc.compile("bij,bjk->bik", *operands[:2])
    np.testing.assert_allclose(alone(*operands[:2]), operands[0] @ operands[1])
    for found, expected in zip(again, exact, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert loops.together_seconds(whole(both.program.steps[0].body).steps[0]) == float("inf")  # type: ignore[union-attr, arg-type]


def test_the_layout_of_arrays_is_known_here() -> None:
    x = np.zeros((2, 3))
    found = layouts.layout()
    assert found is not None and found.items > found.data - object.__basicsize__
    assert c_size_t.from_address(id(x) + found.data).value == x.ctypes.data


def chain(count: int, extent: int) -> Program:
    """Return a chain of products of square matrices, the value of every second one a result."""
    values = tuple(Value(k, (k, k + 1), "float64") for k in range(count))
    steps = [Contract(Value(count, (0, 2), "float64"), (0, 1))]
    for k in range(2, count):
        steps.append(Contract(Value(count + k - 1, (0, k + 1), "float64"), (count + k - 2, k)))
    results = tuple(s.out.number for s in steps[1::2])
    return Program(values, tuple(steps), results, (extent,) * (count + 1))


@pytest.mark.parametrize("limit", [2, 4, 9])
def test_steps_are_cut_where_that_takes_least(limit: int) -> None:
    """Calls that do up to `limit` steps take as long as one step alone; longer ones are not possible."""
    program = chain(9, 3)

    def several(step: Fused) -> float:
        return 1e-6 if len(step.body.steps) <= limit else float("inf")

    fuser = Fuser("loops", lambda p, s: 1e-6, lambda p, s: 1e-5, several=several)
    made = together(program, (fuser,))
    assert made.faults() == []
    sizes = [len(s.body.steps) if isinstance(s, Fused) else 1 for s in made.steps]
    assert sum(sizes) == 8 and len(sizes) == -(-8 // limit) and max(sizes) <= limit
    operands = list(np.random.default_rng(0).standard_normal((9, 3, 3)))
    for one, two in zip(made.evaluate(*operands), program.evaluate(*operands), strict=True):
        np.testing.assert_allclose(one, two)


def test_without_gain_nothing_becomes_one_call() -> None:
    program = chain(5, 3)
    never = Fuser("loops", lambda p, s: 1e-6, lambda p, s: 1e-9, several=lambda step: 1e-6)
    assert together(program, (never,)) == program
    none = Fuser("loops", lambda p, s: 1e-6, lambda p, s: 1.0)
    assert together(program, (none,)) == program


def test_of_a_long_chain_like_runs_are_priced_once_and_all_of_it_is_fused() -> None:
    program = replace(chain(1000, 3), results=(1998,))
    priced: list[Fused] = []

    def several(step: Fused) -> float:
        priced.append(step)
        return 1e-6

    made = together(program, (Fuser("loops", lambda p, s: 1e-6, lambda p, s: 1e-5, several=several),))
    assert made.faults() == [] and all_unfused(made) == program
    assert len(made.steps) <= 999 // MOST_STEPS + 8
    assert len(priced) < 200, "chains that differ by their place alone were priced one by one"


@with_loops
def test_like_steps_share_one_function() -> None:
    rng = np.random.default_rng(0)
    sites = [rng.standard_normal((6, 2, 6)) / 3 for _ in range(300)]
    operands = [x for k, site in enumerate(sites) for x in (site, [k, f"p{k}", k + 1], np.ones(2), [f"p{k}"])]
    made = contractc.compile(*operands, [0, 300])
    fused = [step for step in made.program.steps if isinstance(step, Fused)]
    functions = [(numbered_anew(step)[0], loops.together(step).native) for step in fused]
    distinct = {step for step, _ in functions}
    assert len({id(native) for _, native in functions}) <= len(distinct) < len(fused)
    exact = np.linalg.multi_dot([site.sum(1) for site in sites])
    np.testing.assert_allclose(made(*operands[::2]), exact, rtol=1e-9)


def test_a_step_numbered_anew_is_the_same_step() -> None:
    both = together(
        chain(9, 3), (Fuser("loops", lambda p, s: 1e-6, lambda p, s: 1e-5, several=lambda s: 1e-6),)
    )
    (step,) = (s for s in both.steps if isinstance(s, Fused))
    anew, names = numbered_anew(step)
    assert renamed(anew, names, both) == step
    shifted = Names({m: m + 5 for m in range(10)}, {n: n + 7 for n in range(40)})
    other = renamed(step, shifted, replace(both, extents=(3,) * 15))
    assert other != step and numbered_anew(other)[0] == anew


def test_a_wrong_fused_step_is_a_fault() -> None:
    program = chain(5, 3)
    good = whole(program)
    (step,) = good.steps
    assert isinstance(step, Fused) and good.faults() == []
    for wrong, fault in (
        (replace(step, modes=(0,), piece=4), "step 0 takes 4 positions of (0,) at a time"),
        (replace(step, outs=step.outs[:1]), "step 0 has other results than its body"),
        (replace(step, body=replace(program, extents=(3,) * 5)), "step 0 has a body in which %4 has mode 5"),
        (replace(step, body=replace(program, semiring="max_plus")), "step 0 has a body with other extents"),
        (replace(step, inputs=(1, 0, 2, 3, 4)), "step 0 gives its body other inputs than it expects"),
    ):
        found = replace(good, steps=(wrong,)).faults()
        assert any(sentence.startswith(fault) for sentence in found), (fault, found)


@with_loops
@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("abc,dae,fgc,dib,gei,f->", [(2,) * 3] * 5 + [(2,)]),
        ("ab,bc,cd,de,ef,fg,gh,ha->", [(3, 3)] * 8),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "complex64", "int64"])
def test_many_tiny_steps_are_one_call(text: str, shapes: list[tuple[int, ...]], dtype: str) -> None:
    rng = np.random.default_rng(0)
    operands = [rng.integers(-2, 3, s).astype(dtype) for s in shapes]
    executable = contractc.compile(text, *operands)
    (step,) = executable.program.steps
    assert isinstance(step, Fused) and not step.modes
    exact = np.einsum(text, *operands, optimize=True)
    assert executable(*operands) == exact and executable(*map(np.asfortranarray, operands)) == exact


@with_loops
def test_the_peak_counts_what_lies_between_steps() -> None:
    both, _, _ = gradients_of_small_matrices()
    (step,) = both.program.steps
    assert isinstance(step, Fused)
    arrays = 8 * 1003 * 16 * 8
    assert arrays < peak_bytes(both.program, NUMPY) < arrays + 2**20


@with_loops
def test_the_peak_counts_what_a_step_of_several_packs() -> None:
    """Of a train's gradients: the second operand has the summed modes on both sides of those that stay."""
    o3, oo, ii, p, i3, q = range(6)
    left, right = Value(0, (o3, oo, ii, p), "float32"), Value(1, (ii, i3, q, oo), "float32")
    made, out = Value(2, (p, o3, i3, q), "float32"), Value(3, (p, o3), "float32")
    steps = (Contract(made, (0, 1)), Contract(out, (2,)))
    body = Program((left, right), steps, (2, 3), (4, 16, 112, 4, 8, 4), "sum_product")
    step = Fused((made, out), (0, 1), body, how=loops.HOW)
    predicted, taken = loops.together_workspace(step), loops.together(step).workspace
    assert abs(predicted - taken) <= kernel.ON_STACK + 128
    assert taken > 30_000 or loops.native.vector_bytes() < 32


@with_loops
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
def test_what_is_written_past_the_caches_is_the_same(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "STREAMED", 64)
    monkeypatch.setattr(nests, "STREAMED", 64)
    values = [Value(k, (1,) if k == 1 else (0, 1), dtype) for k in range(4)]
    steps = (Contract(values[2], (0, 1)), Contract(values[3], (0, 0)))
    sizes: list[tuple[int, int]] = [(9, 48), (7, 50), (2, 1008)]
    for extents in sizes:
        program = Program((values[0], values[1]), steps, (2, 3), extents)
        rng = np.random.default_rng(3)
        operands = [rng.integers(-4, 5, size).astype(dtype) for size in (extents, extents[1:])]
        alone = replace(program, steps=(replace(steps[0], how=loops.HOW),), results=(2,))
        text = loops.text_of(alone, steps[0], loops.native.vector_bytes())
        lanes = min(16, loops.native.vector_bytes() // operands[0].real.itemsize)
        whole_lines = extents[1] != 50 and lanes * operands[0].itemsize >= 64
        assert ("!nontemporal" in text) == whole_lines
        for case in (whole(program), whole(program, (0,), 3), alone):
            run = backend_named("numpy").compile(case).run
            for _ in range(8):  # results begin at a cache line or not
                found = run(*operands)
                for one, two in zip(
                    found if isinstance(found, tuple) else (found,), program.evaluate(*operands), strict=False
                ):
                    np.testing.assert_array_equal(one, two)


@with_loops
@settings(max_examples=15, deadline=None)
@given(programs())
def test_changes_of_what_lies_between_steps_change_no_result(case: tuple[Program, list[np.ndarray]]) -> None:
    program, operands = case
    exact = program.evaluate(*operands)
    for modes, piece in cuts(program):
        step = whole(program, modes, piece).steps[0]
        assert isinstance(step, Fused)

        def drawn(step: Fused) -> float:
            return 1 + crc32(repr((step.body.steps, step.piece)).encode()) / 2**32

        found = improved(step, drawn)
        assert drawn(found) <= drawn(step)
        changed = replace(program, steps=(found,))
        assert not changed.faults(), changed.faults()
        if nests_of(found, loops.native.vector_bytes()) is None:
            continue
        got = backend_named("numpy").compile(changed).run(*operands)
        for one, two in zip(got if isinstance(got, tuple) else (got,), exact, strict=True):
            agree(np.asarray(one), np.asarray(two))


def test_steps_of_three_inputs_inside_of_one_call_are_unfused_too() -> None:
    terms = [(0, 1), (1, 2), (2, 3), (0, 2), (0, 1), (2,)]
    values = [Value(k, term, "float64") for k, term in enumerate(terms)]
    whole = Contract(values[4], (3, 2, 1), path=((0, 1), (2, 3)))
    steps = (Contract(values[3], (0, 1)), whole, Contract(values[5], (3,)))
    body = Program(tuple(values[:3]), steps, (4, 5), (3, 4, 5, 6))
    step = Fused((values[4], values[5]), (0, 1, 2), body, (), 0, loops.HOW)
    program = Program(body.inputs, (step,), (4, 5), body.extents)
    apart = all_unfused(program)
    assert apart.faults() == [] and [len(s.inputs) for s in apart.steps] == [2, 2, 2, 1]
    operands = [np.random.default_rng(k).standard_normal((k + 3, k + 4)) for k in range(3)]
    for found, expected in zip(apart.evaluate(*operands), program.evaluate(*operands), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
