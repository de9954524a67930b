"""Torch's matrix products in the program of a GPU: which steps are one, and that they write to planned memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

from contractc.backends.triton.places import Places  # noqa: E402
from contractc.backends.triton.products import product_of  # noqa: E402
from contractc.backends.triton.steps import emitted_with  # noqa: E402
from contractc.backends.triton.tasks import LIBRARY  # noqa: E402
from contractc.programs import Contract, Program, Value  # noqa: E402


def program_of(
    terms: Sequence[tuple[int, ...]], steps: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> Program:
    """Return a program of library steps, given as (ids, modes of the result); mode m has extent m + 2."""
    inputs = tuple(Value(k, term, "float64") for k, term in enumerate(terms))
    made = [
        Contract(Value(len(terms) + s, term, "float64"), ids, how=LIBRARY)
        for s, (ids, term) in enumerate(steps)
    ]
    extents = tuple(m + 2 for m in range(1 + max(m for t in terms for m in t)))
    return Program(inputs, tuple(made), (made[-1].out.number,), extents)


def tensors(program: Program) -> list[Any]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.normal(size=[program.extents[m] for m in v.modes])) for v in program.inputs]


def never(step: Contract, program: Program) -> Callable[..., Any]:
    raise AssertionError(f"{step} is no kernel")


CHAIN = ((0, 1), (1, 2), (2, 3), (3, 4))
IN_ORDER = (((0, 1), (0, 2)), ((4, 2), (3, 0)), ((5, 3), (0, 4)))


@pytest.mark.parametrize("recorded", [False, True])
def test_products_are_written_to_the_workspace(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(CHAIN, IN_ORDER)
    made = emitted_with(program, (), never)
    assert made.source.count("block_for(") == 1 and made.source.count("as_strided") == 2
    xs = tensors(program)
    if recorded:
        xs[0].requires_grad_()
    written: list[int] = []
    plain = torch.mm

    def mm(a: Any, b: Any, out: Any = None) -> Any:
        if out is not None:
            written.append(out.untyped_storage().data_ptr())
        return plain(a, b) if out is None else plain(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    found = made.run(*xs)
    (right,) = program.evaluate(*[x.detach().numpy() for x in xs])
    np.testing.assert_allclose(found.detach().numpy(), right)
    assert len(written) == (0 if recorded else 2) and len(set(written)) <= 1
    if recorded:
        (gradient,) = torch.autograd.grad(found.sum(), xs[0])
        torch.testing.assert_close(gradient, torch.einsum("bc,cd,de->b", *xs[1:]).expand(2, 3))


@given(
    st.randoms(use_true_random=False),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 2),
)
@settings(max_examples=150, deadline=None)
def test_a_product_is_the_contraction(random: Any, b: int, m: int, n: int, k: int) -> None:
    modes = list(range(b + m + n + k))
    random.shuffle(modes)
    batch, rows, columns, summed = modes[:b], modes[b : b + m], modes[b + m : b + m + n], modes[b + m + n :]

    def laid(*parts: list[int]) -> tuple[int, ...]:
        order = random.sample([p for p in parts if p], len([p for p in parts if p]))
        term = [mode for part in order for mode in part]
        if random.random() < 0.2:
            random.shuffle(term)
        return tuple(term)

    left, right, out = laid(batch, rows, summed), laid(batch, summed, columns), laid(batch, rows, columns)
    program = program_of([left, right], [((0, 1), out)])
    product = product_of(program.steps[0], program)
    x, y = tensors(program)
    (expected,) = program.evaluate(x.numpy(), y.numpy())
    if product is not None:
        memory = torch.full(expected.shape, torch.nan, dtype=torch.float64)
        np.testing.assert_allclose(product(x, y, memory).numpy(), expected)
        np.testing.assert_allclose(product(x, y, None).numpy(), expected)
        assert product(x, y, memory) is memory
    else:  # a group is in pieces, or in two orders
        pieces = [
            (left, [batch, rows, summed]),
            (right, [batch, summed, columns]),
            (out, [batch, rows, columns]),
        ]
        orders: dict[frozenset[int], set[tuple[int, ...]]] = {}
        for term, parts in pieces:
            for part in parts:
                at = [i for i, mode in enumerate(term) if mode in part]
                whole = not at or at[-1] - at[0] + 1 == len(at)
                orders.setdefault(frozenset(part), set()).add(tuple(term[i] for i in at) if whole else (-1,))
        assert any(len(found) > 1 or (-1,) in found for found in orders.values())


def test_what_is_no_product_is_left_to_torch() -> None:
    program = program_of([(0, 1), (1, 2)], [((0, 1), (0, 2))])
    (step,) = program.steps
    assert isinstance(step, Contract) and product_of(step, program) is not None
    for other in (
        replace(step, how=""),
        replace(step, conj=(True, False)),
        replace(step, out=replace(step.out, dtype="float32")),
    ):
        assert product_of(other, program) is None
    assert product_of(step, replace(program, dynamic=(1,))) is None
    assert product_of(step, replace(program, semiring="max_plus")) is None
    assert Places(program).size == 0  # a result is fresh memory
