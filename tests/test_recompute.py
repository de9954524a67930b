"""Plans that compute some steps a second time to keep a limit of memory: the meaning, the peak, what is given up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import contractc
from contractc.cost import costs, priced
from contractc.errors import ResourceLimitError
from contractc.lower import lower, peak_bytes
from contractc.machine import Target
from contractc.plans import Plan
from contractc.programs import Program
from contractc.search import search_gradients
from contractc.search.recompute import recomputed
from expressions import Expression
from test_stages import bound

CHAIN = Expression("ab,bc,cd,de,ef,fg,gh->ah", ((40, 40),) * 7, "")


def gradients(row: Expression) -> Plan:
    network = bound(row, [np.ones(shape) for shape in row.shapes])
    return search_gradients(network, range(len(row.shapes)))


def test_a_plan_within_the_limit_stays() -> None:
    plan = gradients(CHAIN)
    assert recomputed(plan, plan.peak) is plan


@pytest.mark.parametrize("waiting", [4, 3])
def test_steps_again_keep_the_limit_and_the_meaning(waiting: int) -> None:
    """Operands, cotangent, value and gradients are 16 arrays; what waits for the way back comes on top."""
    plan = gradients(CHAIN)
    size = 8 * 40 * 40
    limit = (16 + waiting) * size
    again = recomputed(plan, limit)
    assert again is not None and again.peak <= limit < plan.peak
    assert again.faults() == [] and again.seconds > plan.seconds and again.flops > plan.flops
    assert "steps again" in again.search and len(again.path) > len(plan.path)
    assert recomputed(plan, limit) == again
    assert again.peak == costs(again.network, again.path, again.results).peak
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-2, 3, (40, 40)).astype(float) for _ in range(8)]
    program = lower(again, Target())
    assert peak_bytes(program, Target()) <= limit
    for plain, one in zip(lower(plan, Target()).evaluate(*arrays), program.evaluate(*arrays), strict=True):
        np.testing.assert_array_equal(plain, one)


def test_less_memory_costs_more_seconds() -> None:
    plan = gradients(CHAIN)
    found = [recomputed(plan, (16 + waiting) * 8 * 40 * 40) for waiting in (5, 4, 3)]
    seconds = [p.seconds for p in found if p is not None]
    assert len(seconds) == 3 and sorted(seconds) == seconds and seconds[0] < seconds[-1]


def test_of_equal_values_the_first_is_given_up() -> None:
    plan = gradients(CHAIN)
    again = recomputed(plan, plan.peak - 1)
    assert again is not None and again.peak < plan.peak
    extra = [ids for k, ids in enumerate(again.path) if ids in again.path[:k]]
    assert extra[:1] == [plan.path[0]]


def test_what_is_cheapest_by_the_byte_is_given_up() -> None:
    """The product over a short mode goes, not the one over a long mode that is as large."""
    shapes = ((40, 8), (8, 40), (40, 2000), (2000, 40), (40, 40), (40, 40), (40, 40))
    row = Expression("ab,bc,cd,de,ef,fg,gh->ah", shapes, "")
    network = bound(row, [np.ones(shape) for shape in shapes])
    order = [(0, 1), (0, 1), (0, 4), (0, 3), (0, 2), (0, 1)]
    plan = search_gradients(network, range(7), optimize=order)
    again = recomputed(plan, plan.peak - 1)
    assert again is not None
    extra = [ids for k, ids in enumerate(again.path) if ids in again.path[:k]]
    assert (2, 3) not in extra and extra


def test_what_cannot_be_kept_is_refused() -> None:
    plan = gradients(CHAIN)
    assert recomputed(plan, 16 * 8 * 40 * 40) is None
    with pytest.raises(ResourceLimitError, match="memory_limit is"):
        contractc.compile_gradients(CHAIN.text, *CHAIN.shapes, memory_limit=16 * 8 * 40 * 40)


def test_gradients_compute_again_what_there_is_no_room_for() -> None:
    shapes = [(200, 200)] * 7
    rng = np.random.default_rng(0)
    operands = [rng.integers(-2, 3, s).astype(float) for s in shapes]
    whole = contractc.compile_gradients(CHAIN.text, *operands)
    limit = int(0.9 * whole.peak)
    again = contractc.compile_gradients(CHAIN.text, *operands, memory_limit=limit)
    assert not again.plan.sliced and again.peak <= limit < whole.peak
    assert isinstance(again.program, Program) and "steps again" in str(again)
    for one, two in zip(again(*operands, operands[0]), whole(*operands, operands[0]), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_peak_of_sliced_gradients_is_that_of_their_program() -> None:
    """Gradients that have one sliced mode and lack another are there twice: side by side, and in sums."""
    row = Expression("bi,ij,jk,ko->bo", ((200, 100), (100, 100), (100, 100), (100, 100)), "")
    plan = gradients(row)
    modes = [plan.network.labels.index(label) for label in "iok"]
    sliced = priced(replace(plan, sliced=tuple(modes)))
    program = peak_bytes(lower(sliced, Target(), memory=0), Target())
    assert program <= 1.05 * sliced.peak <= 1.1 * program
