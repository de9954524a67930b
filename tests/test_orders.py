"""Operands that are transposed arrays: read as they lie in memory, in whatever order their axes are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

import contractc
from contractc.lower.passes import as_stored
from contractc.operands import stored_orders
from contractc.programs import Contract, Program, Value


def test_stored_orders_lists_axes_from_the_slowest_to_the_fastest() -> None:
    x = np.zeros((32, 33, 34))
    assert stored_orders([x, x.transpose(2, 0, 1), x[::2], x[0, 0], x.T.tolist()]) == {1: (1, 2, 0)}


def test_stored_orders_leaves_small_arrays_and_those_with_gaps_alone() -> None:
    x = np.zeros((64, 64, 64))
    assert stored_orders([np.zeros((4, 4)).T, x.T[:, :, ::2], np.broadcast_to(x[0], x.shape).T]) == {}


def test_as_stored_reads_an_input_through_a_view() -> None:
    inputs = Value(0, (0, 1, 2), "float64"), Value(1, (2, 3), "float64")
    program = Program(inputs, (Contract(Value(2, (0, 1, 3), "float64"), (0, 1)),), (2,), (2, 3, 4, 5))
    found = as_stored(program, {0: (2, 0, 1)})
    assert found.faults() == []
    assert found.steps[0] == Contract(Value(3, (2, 0, 1), "float64"), (0,))
    assert found.steps[1].inputs == (3, 1)
    rng = np.random.default_rng(0)
    arrays = rng.random((2, 3, 4)), rng.random((4, 5))
    np.testing.assert_array_equal(found.evaluate(*arrays)[0], program.evaluate(*arrays)[0])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_transposed_operand_is_not_copied(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 30, 20)).transpose(order), rng.random((x_last := (40, 30, 20)[order[2]], 16))
    assert y.shape[0] == x_last
    found = contractc.compile("abc,cd->abd", x, y)
    np.testing.assert_allclose(found(x, y), np.einsum("abc,cd->abd", x, y))
    read = next(s for s in found.program.steps if isinstance(s, Contract) and len(s.inputs) == 2)
    assert "copy left" not in read.how
    again = np.ascontiguousarray(x)
    np.testing.assert_allclose(found(again, y), np.einsum("abc,cd->abd", x, y))
    np.testing.assert_allclose(
        contractc.contract("abc,cd->abd", x, y), contractc.contract("abc,cd->abd", again, y)
    )
