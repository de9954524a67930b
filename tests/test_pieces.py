"""Steps over a common mode taken in pieces: the same values, what refuses, what is kept and held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats, training
from contractc.hosted import compiled
from contractc.lower import finished, joint, lower, pieces
from contractc.lower.joint import as_it_is, cut, joined, parts_for_numpy, reusable
from contractc.lower.memory import made_bytes
from contractc.lower.pieces import in_pieces, modes_for_pieces, spilled
from contractc.machine import Target
from contractc.operands import flattened
from contractc.programs import PIECES, Contract, Fused, Program, Value


def program_of(text: str, *shapes: tuple[int, ...]) -> Program:
    """Return the program of an expression from left to right, its steps without ways."""
    return lower(contractc.plan(text, *shapes, optimize=False), Target(backend="torch"))


def as_given(body: Program) -> Program:
    return body


def with_ways(body: Program) -> Program:
    return finished(body, Target(), ordered=True)


CHAINS = (
    ("bi,ij,jk->bk", ((40, 3), (3, 4), (4, 5)), 0),
    ("bi,ij,jk,kl->lb", ((40, 3), (3, 4), (4, 5), (5, 6)), 0),
    ("bi,bj,ijk->bk", ((40, 3), (40, 4), (3, 4, 5)), 0),
    ("bi,ij,bk->jk", ((40, 3), (3, 4), (40, 5)), 0),
    ("bij,jk,kl->ibl", ((40, 2, 3), (3, 4), (4, 5)), 0),
)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(CHAINS), st.integers(1, 40), st.booleans())
def test_pieces_of_any_length_give_the_values_of_the_steps(chain: Any, piece: int, chosen: bool) -> None:
    text, shapes, mode = chain
    program = program_of(text, *shapes)
    made = in_pieces(program, mode, piece, with_ways if chosen else as_given)
    assert made is not None and not made.faults()
    assert Program.from_json(made.to_json()) == made
    rng = np.random.default_rng(piece)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    (expected,) = program.evaluate(*arrays)
    np.testing.assert_allclose(made.evaluate(*arrays)[0], expected, rtol=1e-12)
    np.testing.assert_allclose(compiled(made, ())(*arrays), expected, rtol=1e-12, atol=1e-12)


def test_gradients_by_weights_are_summed_over_the_pieces() -> None:
    program = program_of("bi,ij,jk->bk", (40, 3), (3, 4), (4, 5))
    both = joined(program, (0, 1, 2), as_it_is)
    assert both is not None
    made = in_pieces(cut(both, pieces=True)[1], 0, 16, as_given)
    assert made is not None
    (step,) = [s for s in made.steps if isinstance(s, Fused)]
    assert (step.modes, step.piece, step.how) == ((0,), 16, PIECES)
    assert [0 in v.modes for v in step.outs].count(False) == 2
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal([made.extents[m] for m in v.modes]) for v in made.inputs]
    for found, expected in zip(compiled(made, ())(*arrays), made.evaluate(*arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_waits_for_a_sum_over_all_pieces_is_not_taken_in_pieces() -> None:
    x, y = Value(0, (0, 1), "float64"), Value(1, (0,), "float64")
    summed = Contract(Value(2, (1,), "float64"), (0, 1))
    again = Contract(Value(3, (0, 1), "float64"), (0, 2))
    scaled = Contract(Value(3, (1, 0), "float64"), (0, 1))
    assert in_pieces(Program((x, y), (summed, again), (3,), (40, 3)), 0, 8, as_given) is None
    assert in_pieces(Program((x, y), (summed, scaled), (2, 3), (40, 3)), 0, 8, as_given) is not None


def test_a_step_needs_another_to_share_a_piece_with() -> None:
    assert in_pieces(program_of("bi,ij->bj", (40, 3), (3, 4)), 0, 8, as_given) is None


@pytest.mark.parametrize("batch", [0, 1, 7, 16, 40, 100])
def test_a_mode_of_any_extent_is_taken_in_pieces_of_the_arrays_there_are(batch: int) -> None:
    plan = contractc.compile("bi,ij,jk->bk", (40, 3), (3, 4), (4, 5), dynamic=("b",), optimize=False).plan
    made = in_pieces(lower(plan, Target(backend="torch")), 0, 16, with_ways)
    assert made is not None
    x, y, z = (np.random.default_rng(0).standard_normal(s) for s in ((batch, 3), (3, 4), (4, 5)))
    np.testing.assert_allclose(compiled(made, ())(x, y, z), x @ y @ z, rtol=1e-12)


def test_pieces_are_of_the_one_mode_of_any_extent() -> None:
    plan = contractc.compile("bi,ij,jk->bk", (4000, 300), (300, 400), (400, 500), dynamic=("b",)).plan
    program = lower(plan, Target(backend="torch"))
    assert modes_for_pieces(program) == [0]
    assert modes_for_pieces(replace(program, dynamic=(0, 1))) == []


SIZES = (8000, 25, 25, 81, 153)
"""Rows, modes and rank of a product held as CP, whose intermediates of rows by rank are larger than a cache."""


def test_large_intermediates_are_taken_in_pieces_and_need_less_memory() -> None:
    rows, *modes, rank = SIZES
    x, y = (np.ones((rows, n), np.float32) for n in modes[:2])
    table = formats.cp([np.ones((n, rank), np.float32) for n in modes], np.ones(rank, np.float32))
    program = lower(contractc.plan("zi,zj,ijk->zk", x, y, table), Target(backend="torch"))
    wanted = [v.number for v in program.inputs]
    parts = parts_for_numpy(program, wanted)
    whole = joined(program, wanted, as_it_is)
    assert parts is not None and whole is not None
    for part, other in zip((parts.forward, parts.back), cut(finished(whole, Target())), strict=True):
        assert [step.how for step in part.steps if isinstance(step, Fused)] == [PIECES]
        assert spilled(part) == 0.0 < spilled(other)
        assert made_bytes(part, Target()) < made_bytes(other, Target())


def test_training_in_pieces_gives_the_gradients_of_the_dense_operand() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    rows, *modes, rank = SIZES
    x, y = (torch.randn(rows, n, requires_grad=True) for n in modes[:2])
    factors = [torch.randn(n, rank, requires_grad=True) for n in modes]
    weights = torch.randn(rank, requires_grad=True)
    table = formats.cp(factors, weights)
    tensors = [x, y, *flattened([table])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer = contractc.compile("zi,zj,ijk->zk", x, y, table)
        found = layer(*tensors)
        grads = torch.autograd.grad(found, tensors, torch.ones_like(found))
        (twice,) = torch.autograd.grad(layer(*tensors).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(twice.sum(), y)
    finally:
        torch.set_num_threads(threads)
    dense = table.to_dense()
    expected = torch.einsum("zi,zj,ijk->zk", x, y, dense)
    reference = torch.autograd.grad(expected, tensors, torch.ones_like(expected), retain_graph=True)
    (twice,) = torch.autograd.grad(expected.square().sum(), x, create_graph=True)
    (other,) = torch.autograd.grad(twice.sum(), y)
    for one, true in zip((found, *grads, second), (expected, *reference, other), strict=True):
        torch.testing.assert_close(one, true, rtol=1e-3, atol=1e-3 * float(true.detach().abs().max()))


def test_values_whose_memory_is_not_given_out_again_are_made_in_pieces_and_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    factors = [torch.randn(1, 24, 24, 24, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = torch.randn(640, 576, dtype=torch.float64, requires_grad=True)
    weight = formats.monarch(*factors)
    program = lower(contractc.plan("bi,oi->bo", x, weight), Target(backend="torch"))
    wanted = [v.number for v in program.inputs]
    whole = parts_for_numpy(program, wanted)
    assert whole is not None and len(whole.forward.results) > 1 and reusable(whole)
    monkeypatch.setattr("contractc.lower.joint.MOST", 2**21)  # a quarter of what the intermediates need
    assert not reusable(whole)
    parts = parts_for_numpy(program, wanted)
    assert parts is not None and len(parts.forward.results) == 1 and reusable(parts)
    monkeypatch.setattr("contractc.hosted.LONG_SECONDS", 1.0)
    found = contractc.contract("bi,oi->bo", x, weight)
    dense = weight.to_dense()
    expected = x @ dense.t()
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(found)
    grads = torch.autograd.grad(found, (x, *factors), cotangent)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, (x, *factors), cotangent))


LAYERS = {
    "cp": lambda d: formats.cp([d(2, 3), d(4, 3), d(3, 3), d(2, 3)], d(3), split=((2, 4), (3, 2))),
    "tt_matrix": lambda d: formats.tt_matrix([d(1, 2, 3, 3), d(3, 4, 2, 1)]),
    "monarch": lambda d: formats.monarch(d(1, 4, 2, 3), d(1, 4, 2, 3)),
    "low_rank": lambda d: formats.low_rank(d(8, 3), d(3, 6), d(3), d(8)),
    "tucker": lambda d: formats.tucker(d(3, 2), [d(8, 3), d(6, 2)]),
}
"""Layers 6 -> 8, of factors that a function draws."""


@pytest.mark.parametrize("format", LAYERS)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_derivatives_in_pieces_are_those_of_differences(
    format: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First and second derivatives, by the input and every factor, of layers small enough for differences."""
    torch = pytest.importorskip("torch")
    for module, name, value in (
        (pieces, "LARGE", 1),
        (joint, "LARGE", 1),
        (pieces, "HELD", tuple(2**k for k in range(10, 16))),
        (joint, "GAIN_PIECES", 0.0),
        (joint, "fusers", lambda target: ()),
        (training, "LEAST_SECONDS", 0.0),
    ):
        monkeypatch.setattr(module, name, value)
    taken: list[str] = []

    def watched(program: Program, wanted: Any) -> Any:
        parts = parts_for_numpy(program, wanted)
        for part in () if parts is None else (parts.forward, parts.back):
            taken.extend(step.how for step in part.steps if isinstance(step, Fused))
        return parts

    monkeypatch.setattr(training, "parts_for_numpy", watched)
    torch.manual_seed(0)

    def drawn(*shape: int) -> Any:
        return torch.randn(shape, dtype=getattr(torch, dtype), requires_grad=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, weight = drawn(33, 6), LAYERS[format](drawn)
        layer = contractc.compile("bi,oi->bo", x, weight)
        tensors = (x, *weight.factors)
        assert torch.autograd.gradcheck(layer, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(layer, tensors, fast_mode=True)
    finally:
        torch.set_num_threads(threads)
    assert set(taken) == {PIECES}
    torch.testing.assert_close(layer(*tensors), x @ weight.to_dense().T)
