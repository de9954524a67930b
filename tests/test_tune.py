"""Choosing ways by measurement: with a clock of our own, so that what is measured is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import ranking, tune
from contractc.backends import numpy as numpy_backend
from contractc.backends.steps import understood
from contractc.errors import UnsupportedError
from contractc.lower import fuse
from contractc.lower.seconds import program_seconds
from contractc.machine import DEFAULT_MACHINE, Target
from contractc.plans import Plan
from contractc.programs import Contract, Program
from contractc.providers import NUMPY, known, loops
from contractc.providers.known import this_machine
from contractc.search import candidates
from contractc.store import opened
from contractc.tune import fastest, tuned


def program_of(text: str, *shapes: tuple[int, ...]) -> Program:
    return contractc.compile(text, *shapes, dtype="float32").program


def measured_as(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str], float]) -> list[set[str]]:
    """Make every way take `seconds(how)`, and return a list that fills with what is measured together."""
    seen: list[set[str]] = []

    def measured(candidates: dict[str, Program], *rest: object) -> dict[str, float]:
        seen.append(set(candidates))
        return {how: seconds(how) for how in candidates}

    monkeypatch.setattr(tune, "_measured", measured)
    return seen


def test_the_fastest_way_is_written_into_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of("abc,cd->abd", (40, 40, 40), (40, 40))
    step = program.steps[0]
    assert isinstance(step, Contract)
    seen = measured_as(monkeypatch, lambda how: 1.0 if "copy left" in how else 2.0)
    step_of = tuned(program, names=(NUMPY,)).steps[0]
    assert isinstance(step_of, Contract)
    assert all(len(hows) <= tune.MOST_CANDIDATES + 1 for hows in seen)
    if any("copy left" in how for hows in seen for how in hows):
        assert understood(step_of.how)[1]
    else:
        assert step_of == step


def test_a_way_that_is_hardly_faster_does_not_replace_the_choice_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = program_of("abcd,ebad,ce->abe", (12, 12, 12, 12), (12, 12, 12, 12), (12, 12))
    hows = {s.how for s in program.steps if isinstance(s, Contract)}
    measured_as(monkeypatch, lambda how: 1.0 if how in hows else 0.95)
    assert tuned(program) == program


@pytest.mark.skipif(not loops.installed(), reason="llvmlite is not installed")
def test_fused_steps_that_lose_run_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    text, shapes = "ij,ij,ij->ij", [(900, 900)] * 3
    monkeypatch.setattr(fuse, "GAIN", 0.1)  # whatever the processor
    program = program_of(text, *shapes)
    assert any(isinstance(s, Contract) and s.path for s in program.steps)
    measured_as(monkeypatch, lambda how: 2.0 if how == loops.HOW else 1.0)
    found = tuned(program)
    assert found.faults() == []
    assert not any(isinstance(s, Contract) and s.path for s in found.steps)
    arrays = [np.random.default_rng(k).random(s, np.float32) for k, s in enumerate(shapes)]
    np.testing.assert_allclose(
        numpy_backend.compile(found).run(*arrays), arrays[0] * arrays[1] * arrays[2], rtol=1e-6
    )


def test_tuned_by_the_real_clock_keeps_the_meaning() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.random((30, 40, 20)), rng.random((20, 50)), rng.random((50, 30))
    found = contractc.compile("abc,cd,da->abd", x, y, z, tune=True)
    np.testing.assert_allclose(found(x, y, z), np.einsum("abc,cd,da->abd", x, y, z, optimize=True))
    assert not found.program.faults()


def test_orders_are_timed_and_the_fastest_is_taken() -> None:
    shapes = (8, 9), (9, 10), (10, 11)
    orders = [contractc.compile("ab,bc,cd->ad", *shapes, optimize=path) for path in ([(0, 1)], [(1, 2)])]
    ticks = iter([0.0, 3.0, 0.0, 3.0, *[0.0, 0.5] * (2 + tune.ROUNDS)])
    found = fastest(orders, lambda: next(ticks))
    assert found.plan == orders[1].plan
    assert str(found).splitlines()[1] == "the order was timed: 500 ms, others 3 s"


def test_tuned_orders_keep_the_meaning_and_say_so() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.random((60, 50, 40)), rng.random((50, 30)), rng.random((40, 30))
    found = contractc.compile("abc,bd,cd->ad", x, y, z, tune=True)
    np.testing.assert_allclose(found(x, y, z), np.einsum("abc,bd,cd->ad", x, y, z, optimize=True))
    assert "the order was timed: " in str(found)
    assert "timed" not in str(contractc.compile("abc,bd,cd->ad", x, y, z, optimize="optimal", tune=True))


def test_a_hopeless_candidate_runs_twice_only() -> None:
    program = program_of("ab,bc->ac", (64, 64), (64, 64))
    seconds = iter([1.0, 1.0, 9.0, 9.0, *[1.0] * 100])
    now = [0.0]
    reads = [0]

    def clock() -> float:
        reads[0] += 1
        if reads[0] % 2 == 0:
            now[0] += next(seconds)
        return now[0]

    values = [program.value(i) for i in (0, 1)]
    found = tune._measured({"a": program, "b": program}, values, program.extents, clock)
    assert found == {"a": 1.0, "b": 9.0}
    assert reads[0] == 2 * (4 + tune.ROUNDS)


def test_tune_is_for_numpy() -> None:
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="tune=True measures on NumPy arrays"):
        contractc.compile("ij,jk->ik", (3, 4), (4, 5), target=Target("torch"), tune=True)


def test_a_measured_machine_is_that_of_later_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    store = opened(tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(known, "open_store", lambda: store)
    known.this_machine.cache_clear()
    try:
        assert known.this_machine() is DEFAULT_MACHINE
        other = replace(DEFAULT_MACHINE, call=2e-6, products=DEFAULT_MACHINE.products[:1])
        assert known.keep(other)
        known.this_machine.cache_clear()
        found = known.this_machine()
        assert found.call == 2e-6
        assert {t.provider for t in found.products} == {t.provider for t in DEFAULT_MACHINE.products}
        assert store.write("machine", known.key(), b"{}")
        known.this_machine.cache_clear()
        assert known.this_machine() is DEFAULT_MACHINE
    finally:
        known.this_machine.cache_clear()


def test_answers_of_an_earlier_process_are_taken_from_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    monkeypatch.setattr(tune, "open_store", lambda: store)
    program = program_of("abc,cd->abd", (40, 40, 40), (40, 40))
    hows = {s.how for s in program.steps if isinstance(s, Contract)}
    seen = measured_as(monkeypatch, lambda how: 2.0 if how in hows else 1.0)
    first = tune.remembered(program)
    once = len(seen)
    assert once and first != program
    assert tune.remembered(program) == first
    assert len(seen) == once
    (entry,) = store.ls()
    for damaged in (b"", b"{}", b"[1]", b"[]", b'["a way of nobody"]'):
        assert store.write("tuned", entry.key, damaged)
        assert tune.remembered(program) == first
    assert len(seen) == 6 * once
    monkeypatch.setattr(tune, "open_store", lambda: None)
    assert tune.remembered(program) == first
    assert len(seen) == 7 * once


def test_the_order_that_an_earlier_process_timed_is_taken_from_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    monkeypatch.setattr(tune, "open_store", lambda: store)
    shapes = (30, 40), (40, 20), (20, 10)
    orders = [
        contractc.compile("ij,jk,kl->il", *shapes, optimize=path)
        for path in ([(0, 1), (0, 1)], [(1, 2), (0, 1)])
    ]
    seen = []

    def timed(calls: dict[str, object], *_: object) -> dict[str, float]:
        seen.append(len(calls))
        return {"0": 2.0, "1": 1.0}

    monkeypatch.setattr(tune, "_timed", timed)
    first = tune.remembered_fastest(orders)
    assert first.program is orders[1].program and "the order was timed: 1 s, others 2 s" in str(first)
    assert tune.remembered_fastest(orders).remarks == first.remarks and seen == [2]
    (entry,) = store.ls()
    for k, damaged in enumerate((b"{}", b'["x", "y"]', b'["1.0"]')):
        assert store.write("tuned", entry.key, damaged)
        assert tune.remembered_fastest(orders).program is orders[1].program and len(seen) == 2 + k


def test_answers_are_for_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of("ab,bc->ac", (64, 64), (64, 64))
    key = tune._key(program, DEFAULT_MACHINE, (NUMPY,))
    assert key != tune._key(program, replace(DEFAULT_MACHINE, call=1.0), (NUMPY,))
    assert key != tune._key(program, DEFAULT_MACHINE, (NUMPY, "torch"))
    monkeypatch.setattr(known, "key", lambda: "another processor")
    assert key != tune._key(program, DEFAULT_MACHINE, (NUMPY,))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("pqrs,pa,qb,rc->abcs", ((24,) * 4, (24, 12), (24, 12), (24, 12))),
        ("bij,bj,i->b", ((200, 60, 60), (200, 60), (60,))),
    ],
)
def test_the_plan_is_the_one_that_is_compiled_and_its_program_the_fastest_of_several(
    text: str, shapes: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "WORTH_RANKING", 0.0)
    compiled = contractc.compile(text, *shapes)
    assert contractc.plan(text, *shapes).path == compiled.plan.path
    plan = contractc.plan(text, *shapes, optimize="optimal")
    seconds = program_seconds(compiled.program, this_machine())
    for other in candidates(plan, ranking.LEAST_RANKED):
        given = contractc.compile(text, *shapes, optimize=other.linear_path())
        assert seconds <= ranking.GAIN * program_seconds(given.program, this_machine())


def test_an_order_has_to_be_predicted_clearly_faster_than_that_of_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = contractc.plan("ij,jk,kl->il", (30, 40), (40, 50), (50, 60))
    first, *others = candidates(plan)
    taken = {first.path: 1.0} | {other.path: 0.97 for other in others}
    monkeypatch.setattr(ranking, "program_seconds", lambda program, machine: taken[program])

    def path(plan: Plan) -> Any:
        return plan.path

    assert ranking.ranked((first, *others), path, DEFAULT_MACHINE)[0][0] is first
    taken |= {other.path: 0.9 for other in others}
    assert ranking.ranked((first, *others), path, DEFAULT_MACHINE)[0][0] is others[0]
