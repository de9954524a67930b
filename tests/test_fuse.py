"""The fusion pass: which steps become one, that the meaning stays, and what runs on NumPy and torch."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from math import inf
from typing import Any

import numpy as np
import pytest

import contractc
from contractc.backends import backend_named
from contractc.fused import unfused
from contractc.lower import translate
from contractc.lower.fuse import Fuser, fuse, fusers
from contractc.lower.passes import PASSES
from contractc.machine import Target
from contractc.programs import Constant, Contract, Loop, Program, Value
from contractc.providers import loops
from contractc.search import search
from expressions import EXPRESSIONS, Expression, random_operands
from test_stages import bound, same, truth

NUMPY = Target()
ALWAYS = Fuser("always", lambda program, step: 1e-3, lambda program, step: 1.0)
NEVER = Fuser("never", lambda program, step: inf, lambda program, step: 1.0)

with_loops = pytest.mark.skipif(not loops.installed(), reason="llvmlite is not installed (contractc[fast])")


def chain(flags: tuple[bool, ...] = (False,) * 4, results: tuple[int, ...] = (6,)) -> Program:
    """Return ((x0 x1) x2) x3 with 3x3 matrices, each step conjugating what `flags` say of its second input."""
    values = tuple(Value(k, (k, k + 1), "complex128") for k in range(4))
    steps = [Contract(Value(4, (0, 2), "complex128"), (0, 1), (flags[0], flags[1]))]
    steps.append(Contract(Value(5, (0, 3), "complex128"), (4, 2), (False, flags[2])))
    steps.append(Contract(Value(6, (0, 4), "complex128"), (5, 3), (flags[3], False)))
    return Program(values, tuple(steps), results, (3,) * 5)


@pytest.mark.parametrize("row", EXPRESSIONS, ids=str)
@pytest.mark.parametrize("optimize", ["auto", False])
def test_every_run_fused_keeps_the_meaning(row: Expression, optimize: Any) -> None:
    operands = random_operands(row)
    program = translate(search(bound(row, operands), optimize), NUMPY)
    for transform in PASSES:
        program = transform(program)
    program = fuse(program, (ALWAYS,))
    assert program.faults() == []
    same(program.evaluate(*operands), truth(row, operands))
    for step in program.steps:
        if isinstance(step, Contract) and step.path:
            known = program.values()
            rng = np.random.default_rng(0)
            arrays = [rng.random([program.extents[m] for m in known[i].modes]) for i in step.inputs]
            alone = Program(
                tuple(Value(k, known[i].modes, "float64") for k, i in enumerate(step.inputs)),
                (Contract(Value(99, step.out.modes, "float64"), tuple(range(len(step.inputs)))),),
                (99,),
                program.extents,
            )
            (found,), (exact,) = unfused(program, step).evaluate(*arrays), alone.evaluate(*arrays)
            np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_a_chain_becomes_one_step() -> None:
    fused = fuse(chain(), (ALWAYS,))
    assert str(fused).splitlines()[1:] == [
        "  %6: c128[m0=3, m4=3] = contract %0 %1 %2 %3 over m1 m2 m3  # fused: 0 1, 2 4, 3 5, always",
        "  return %6",
    ]


def test_conjugated_inputs_are_fused_and_conjugated_intermediates_are_not() -> None:
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3)) for _ in range(4)]
    for flags, steps in (((True, False, True, False), 1), ((False, False, False, True), 2)):
        program = chain(flags)
        fused = fuse(program, (ALWAYS,))
        assert len(fused.steps) == steps
        np.testing.assert_allclose(fused.evaluate(*x)[0], program.evaluate(*x)[0])


def test_what_is_a_result_or_is_read_twice_stays() -> None:
    assert [len(s.inputs) for s in fuse(chain(results=(6, 5)), (ALWAYS,)).steps] == [3, 2]
    program = chain()
    twice = Program(
        program.inputs,
        (*program.steps[:2], Contract(Value(6, (0,), "complex128"), (5, 5))),
        (6,),
        program.extents,
    )
    assert [len(s.inputs) for s in fuse(twice, (ALWAYS,)).steps] == [3, 2]


def test_what_depends_on_constants_only_stays_outside() -> None:
    program = chain()
    fixed = Program(
        program.inputs[2:],
        program.steps,
        (6,),
        program.extents,
        constants=tuple(Constant(v, "") for v in program.inputs[:2]),
    )
    assert [s.inputs for s in fuse(fixed, (ALWAYS,)).steps] == [(0, 1), (4, 2, 3)]


def test_steps_in_a_loop_are_fused() -> None:
    body = chain()
    outer = tuple(Value(10 + k, (5, *v.modes), "complex128") for k, v in enumerate(body.inputs))
    body = Program(body.inputs, body.steps, body.results, (3,) * 5 + (2,))
    loop = Loop((Value(20, (0, 4), "complex128"),), (10, 11, 12, 13), body, (5,))
    program = Program(outer, (loop,), (20,), (3,) * 5 + (2,))
    (fused,) = fuse(program, (ALWAYS,)).steps
    assert isinstance(fused, Loop) and len(fused.body.steps) == 1


def test_nothing_is_fused_that_does_not_fit_or_does_not_pay() -> None:
    slow = Fuser("slow", lambda program, step: 10.0, ALWAYS.alone)
    for way in (NEVER, slow):
        assert fuse(chain(), (way,)) == chain()
    assert fuse(chain(), ()) == chain()
    quick = Fuser("quick", lambda program, step: 0.0, lambda program, step: 1e-9)
    assert fuse(chain(), (quick,)) == chain()


def test_the_faster_of_two_ways_is_taken() -> None:
    better = Fuser("better", lambda program, step: 1e-4, ALWAYS.alone)
    (step,) = fuse(chain(), (ALWAYS, better)).steps
    assert isinstance(step, Contract) and step.how == "better"


def test_other_targets_have_no_loops() -> None:
    assert fusers(Target("array_api")) == fusers(Target("torch", "cuda")) == ()


def fused_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have steps fused that take twice as long so: on processors with short vectors loops are no gain."""
    for name in ("GAIN", "GAIN_ALONE"):
        monkeypatch.setattr(import_module("contractc.lower.fuse"), name, 0.5)


CASES: list[tuple[str, list[tuple[int, ...]]]] = [
    ("zui,zvj,uvw,ijk->zwk", [(64, 8, 5), (64, 8, 5), (8, 8, 8), (5, 5, 5)]),
    ("bij,bjk->bik", [(1500, 4, 4), (1500, 4, 4)]),
    ("zi,zj,ijk->zk", [(5000, 5), (5000, 3), (5, 3, 7)]),
]


@with_loops
@pytest.mark.parametrize(("text", "shapes"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_numpy_and_torch_run_fused_steps(
    text: str, shapes: list[tuple[int, ...]], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    fused_anywhere(monkeypatch)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, s).astype(dtype) for s in shapes]
    exact = np.einsum(text, *arrays, optimize=True)
    for given in (arrays, [torch.from_numpy(x) for x in arrays]):
        executable = contractc.compile(text, *given)
        assert "loops" in str(executable.program) and "compiled loop" in str(executable)
        np.testing.assert_array_equal(np.asarray(executable(*given)), exact)
        views = [x[::2] for x in given[:1]] + list(given[1:])
        if len(shapes) == 3:
            half = contractc.compile(text, *views[:1], given[1][::2], given[2])
            np.testing.assert_array_equal(np.asarray(half(views[0], given[1][::2], given[2])), exact[::2])


@with_loops
def test_a_dynamic_mode_takes_any_extent() -> None:
    executable = contractc.compile(
        "zi,zj,ijk->zk", (5000, 5), (5000, 3), (5, 3, 7), dynamic="z", dtype="float32"
    )
    assert "loops" in str(executable.program)
    rng = np.random.default_rng(0)
    for n in (0, 1, 15, 16, 17, 100):
        x, y, z = (rng.integers(-4, 5, s).astype("float32") for s in ((n, 5), (n, 3), (5, 3, 7)))
        np.testing.assert_array_equal(executable(x, y, z), np.einsum("zi,zj,ijk->zk", x, y, z))


@with_loops
def test_torch_sees_aten_calls_where_it_watches() -> None:
    torch = pytest.importorskip("torch")
    text, shapes = CASES[0]
    given = [torch.randint(-4, 5, s).double() for s in shapes]
    executable = contractc.compile(text, *given)
    exact = torch.einsum(text, *given)
    leaves = [x.clone().requires_grad_() for x in given]
    executable(*leaves).sum().backward()
    others = [x.clone().requires_grad_() for x in given]
    torch.einsum(text, *others).sum().backward()
    for one, two in zip(leaves, others, strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    tangent = torch.func.jvp(lambda x: executable(x, *given[1:]), (given[0],), (given[0],))[1]
    torch.testing.assert_close(tangent, exact)
    stacked = torch.func.vmap(lambda x: executable(x, *given[1:]))(torch.stack([given[0]] * 2))
    torch.testing.assert_close(stacked[1], exact)
    traced = torch.compile(lambda *x: executable(*x), fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(*given), exact)


def test_later_changes_to_what_is_made_when_calls_were_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "COMPILING", 0.0)
    monkeypatch.setattr(loops, "COMPILING_STEP", 0.0)
    monkeypatch.setattr(loops, "IMPORTING", 0.0)
    monkeypatch.setattr(loops, "installed", lambda: True)
    run = loops.later(lambda x: x, lambda: lambda x: x + 1, 1)
    assert [run(1), run(1), run(1)] == [1, 2, 2]
    kept = loops.later(lambda x: x, lambda: None, 1)
    assert [kept(1), kept(1)] == [1, 1]


def test_a_plain_call_runs_pairs_and_makes_no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> bool:
        raise AssertionError("one short call asked for the compiler")

    monkeypatch.setattr(loops, "installed", never)
    monkeypatch.setattr(loops, "COMPILING", 1e9)
    x = np.ones((3001, 4, 4))
    assert contractc.contract("bij,bjk->bik", x, x)[0, 0, 0] == 4


@with_loops
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_slow_calls_are_planned_with_loops(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMPILING", "COMPILING_STEP", "IMPORTING"):
        monkeypatch.setattr(loops, name, 0.0)
    text, shapes = CASES[2]
    shapes = [(20003, *shapes[0][1:]), (20003, *shapes[1][1:]), shapes[2]]
    made: list[object] = []
    make = loops.compiled

    def counted(program: Program, step: Contract, library: loops.Library) -> Any:
        made.append(step)
        return make(program, step, library)

    monkeypatch.setattr(loops, "compiled", counted)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, s).astype(dtype) for s in shapes]
    exact = np.einsum(text, *arrays, optimize=True)
    for _ in range(3):
        np.testing.assert_array_equal(contractc.contract(text, *arrays), exact)
    assert len(made) == 1


def test_without_llvmlite_the_same_program_runs_pairwise(monkeypatch: pytest.MonkeyPatch) -> None:
    text, shapes = CASES[2]
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, s).astype("float64") for s in shapes]
    program = Program(
        (Value(0, (0, 1), "float64"), Value(1, (0, 2), "float64"), Value(2, (1, 2, 3), "float64")),
        (Contract(Value(3, (0, 3), "float64"), (0, 1, 2), (), ((0, 1), (2, 3)), loops.HOW),),
        (3,),
        (5000, 5, 3, 7),
    )
    monkeypatch.setattr(loops, "installed", lambda: False)
    compiled = backend_named("numpy").compile(program)
    assert compiled.notes[0].startswith(
        "pairwise: compiled loops need llvmlite, which contractc[fast] installs"
    )
    np.testing.assert_allclose(compiled.run(*arrays), np.einsum(text, *arrays))


@with_loops
def test_explain_prints_the_seconds_of_a_fused_step_beside_those_of_its_pairs() -> None:
    made = contractc.compile("ia,ib,ic,abc->i", *[(20000, 8)] * 3, (8, 8, 8))
    (line,) = [text for text in contractc.explain(made).splitlines() if text.startswith("    of loops ")]
    assert re.fullmatch(r"    of loops [\d.e-]+ [mun]?s; pair by pair [\d.e-]+ [mun]?s", line)


def test_explain_says_when_loops_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fused_anywhere(monkeypatch)
    monkeypatch.setattr(loops, "installed", lambda: False)
    text, shapes = CASES[2]
    executable = contractc.compile(text, *shapes, dtype="float64")
    assert "loops" not in str(executable.program)
    said = "with the steps before it, would run as a compiled loop: install contractc[fast]"
    assert [note.endswith(said) for note in executable.notes] == [False, True, False]


@with_loops
def test_a_permutation_stays_a_view() -> None:
    x = np.ones((200, 100, 50))
    assert np.shares_memory(contractc.compile("ijk->kji", x)(x), x)


def test_array_api_refuses_fused_steps() -> None:
    pytest.importorskip("array_api_compat")
    reason = backend_named("array_api").refuses(fuse(chain(), (ALWAYS,)))
    assert reason == "a fused step runs on NumPy or torch only"


def test_candidates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("contractc.lower.fuse"), "MOST_CANDIDATES", 0)
    assert fuse(chain(), (ALWAYS,)) == chain()


def test_what_large_intermediates_cost_between_steps_decides() -> None:
    """A run that is dearer than its steps is taken if what they hand on costs more than that."""
    dear = Fuser("dear", lambda program, step: 2.8, ALWAYS.alone)
    assert fuse(chain(), (dear,)) == chain()
    spilling = replace(dear, spilled=lambda size: 10.0)
    (step,) = fuse(chain(), (spilling,)).steps
    assert isinstance(step, Contract) and step.how == "dear"
