"""Formats of the second tier: described and contracted, alone and where two of them meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats
from contractc.formats import Factorized

Array = np.ndarray[Any, Any]
Draw = Callable[..., Array]
seeds = st.integers(0, 2**32 - 1)


def drawing(seed: int, imaginary: bool = False) -> Draw:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-8, rtol=1e-8)


SECOND = ("tensor ring", "hierarchical Tucker", "block term", "tubal", "network")
Shape = tuple[int, int, int]


def random_network(kind: str, draw: Draw, shape: Shape = (4, 3, 6), r: int = 2) -> tuple[Factorized, Array]:
    """Return an operand of the second tier and its dense array by an einsum written down here."""
    m, n, p = shape
    if kind == "tensor ring":
        a, b, c = draw(r, m, 3), draw(3, n, 1), draw(1, p, r)
        return formats.tensor_ring([a, b, c]), np.einsum("aib,bjc,cka->ijk", a, b, c)
    if kind == "hierarchical Tucker":
        leaves, one, top = [draw(m, r), draw(n, 3), draw(p, 2)], draw(r, 3, 4), draw(4, 2)
        made = formats.hierarchical_tucker(leaves, [one, top])
        return made, np.einsum("ia,jb,kc,abe,ec->ijk", *leaves, one, top)
    if kind == "block term":
        core, factors = draw(2, r, 1, 3), [draw(2, m, r), draw(2, n, 1), draw(2, p, 3)]
        return formats.block_term(core, factors), np.einsum("sabc,sia,sjb,skc->ijk", core, *factors)
    if kind == "tubal":
        left, right = draw(m, r, p), draw(r, n, p)
        product = np.fft.ifft(np.einsum("ikw,kjw->ijw", np.fft.fft(left), np.fft.fft(right)))
        return formats.tubal(left, right), product if np.iscomplexobj(left) else product.real
    a, b = draw(m, n, r), draw(r, p)
    return formats.network([a, b], ["ijr", "rk"], ["i", "j", "k"]), np.einsum("ijr,rk->ijk", a, b)


def paired(kind: str, draw: Draw, shape: Shape, r: int) -> tuple[Factorized, Array]:
    """Return an operand of either tier [m, n, p] and its dense array."""
    if kind in SECOND:
        return random_network(kind, draw, shape, r)
    m, n, p = shape
    if kind == "CP":
        made = formats.cp([draw(k, r) for k in shape], draw(r))
    elif kind == "Tucker":
        made = formats.tucker(draw(r, 2, 1), [draw(m, r), draw(n, 2), draw(p, 1)])
    else:
        made = formats.tt([draw(1, m, r), draw(r, n, 2), draw(2, p, 1)])
    letters = [x for f, t in zip(made.factors, made.layout.terms, strict=True) for x in (f, list(t))]
    return made, np.einsum(*letters, [m for axis in made.layout.axes for m in axis])


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(SECOND),
    st.sampled_from([*SECOND, "CP", "Tucker", "TT"]),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.integers(1, 3),
    st.booleans(),
    seeds,
)
def test_second_tier_in_expressions(
    one: str, two: str, shape: Shape, r: int, imaginary: bool, seed: int
) -> None:
    draw = drawing(seed, imaginary)
    (v, dense_v), (w, dense_w) = (paired(kind, draw, shape, r) for kind in (one, two))
    near(v.to_dense(), dense_v)
    x = draw(5, *shape[:2])
    near(contractc.contract("bij,ijk->bk", x, v), np.einsum("bij,ijk->bk", x, dense_v))
    near(contractc.contract("ijk,ijl->kl", v, w), np.einsum("ijk,ijl->kl", dense_v, dense_w))
    near(contractc.contract("ijk,ijk->k", v, w), np.einsum("ijk,ijk->k", dense_v, dense_w))
    near(contractc.contract("bij,ijk,ljk->bl", x, v, w), np.einsum("bij,ijk,ljk->bl", x, dense_v, dense_w))
    fixed = contractc.compile("bij,ijk,ljk->bl", x, v, w, constants=(1, 2))
    near(fixed(x), np.einsum("bij,ijk,ljk->bl", x, dense_v, dense_w))
    plan = contractc.plan("bij,ijk->bk", x, v)
    near(plan.evaluate(x, *v.factors)[0], np.einsum("bij,ijk->bk", x, dense_v))


@pytest.mark.parametrize("kind", SECOND)
def test_gradients_reach_all_factors_of_the_second_tier(kind: str) -> None:
    torch = pytest.importorskip("torch")
    w, _ = random_network(kind, drawing(2), (3, 2, 4))
    (x,) = (torch.tensor(drawing(3)(5, 3, 2), requires_grad=True),)
    factors = [torch.tensor(f, requires_grad=True) for f in w.factors]

    def function(x: Any, *factors: Any) -> Any:
        return contractc.contract("bij,ijk->bk", x, Factorized(w.layout, factors))

    assert torch.autograd.gradcheck(function, (x, *factors))


@pytest.mark.parametrize("kind", SECOND)
def test_second_tier_is_contracted(kind: str) -> None:
    draw = drawing(5)
    w, expected = random_network(kind, draw)
    assert w.shape == (4, 3, 6)
    near(w.to_dense(), expected)
    x = draw(5, 4, 3)
    near(contractc.contract("bij,ijk->bk", x, w), np.einsum("bij,ijk->bk", x, expected))
    near(formats.norm(w), np.linalg.norm(expected))
    near(formats.take(w, [1, 0], 2).to_dense(), expected[:, :, [1, 0]])
    near(formats.transpose(w).to_dense(), expected.T)
    near(formats.add(w, w).to_dense(), 2 * expected)
    near(formats.hadamard(w, w).to_dense(), expected**2)


@pytest.mark.parametrize("kind", ["tensor ring", "hierarchical Tucker", "block term", "tubal"])
def test_second_tier_with_batch_modes(kind: str) -> None:
    draw = drawing(8)
    singles = [random_network(kind, draw) for _ in range(6)]
    stacked = [
        np.stack(x).reshape(2, 3, *x[0].shape) for x in zip(*(w.factors for w, _ in singles), strict=True)
    ]
    expected = np.stack([dense for _, dense in singles]).reshape(2, 3, 4, 3, 6)
    made = {
        "tensor ring": lambda f: formats.tensor_ring(f, batch=2),
        "hierarchical Tucker": lambda f: formats.hierarchical_tucker(f[:3], f[3:], batch=2),
        "block term": lambda f: formats.block_term(f[0], f[1:], batch=2),
        "tubal": lambda f: formats.tubal(f[0], f[1], batch=2),
    }[kind](stacked)
    near(made.to_dense(), expected)
    x = draw(2, 3, 5, 4)
    near(contractc.contract("xybi,xyijk->xybjk", x, made), np.einsum("xybi,xyijk->xybjk", x, expected))


def test_hierarchical_tucker_of_four_leaves() -> None:
    draw = drawing(6)
    leaves = [draw(n, 2) for n in (2, 3, 4, 5)]
    transfers = [draw(2, 2, 3), draw(2, 2, 2), draw(3, 2)]
    w = formats.hierarchical_tucker(leaves, transfers, split=((2, 3), (4, 5)))
    expected = np.einsum("ia,jb,kc,ld,abe,cdf,ef->ijkl", *leaves, *transfers).reshape(6, 20)
    near(w.to_dense(), expected)
