"""TensorLy and TensorLy-Torch as independent truth, where they offer the format or the layer (`make test-peers`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contractc import formats
from contractc.formats import relative_error

tl = pytest.importorskip("tensorly", reason="TensorLy is not installed (requirements-peers.txt)")
tltorch = pytest.importorskip("tltorch", reason="TensorLy-Torch is not installed (requirements-peers.txt)")
torch = pytest.importorskip("torch")

from contractc import nn  # noqa: E402

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def numpy_backend() -> Any:
    tl.set_backend("numpy")
    yield
    tl.set_backend("numpy")


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.lists(st.integers(1, 3), min_size=5, max_size=5),
    st.sampled_from([np.float64, np.complex128]),
    st.integers(0, 2**32 - 1),
)
def test_dense_arrays_of_all_formats_agree(shape: list[int], ranks: list[int], dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    d, r = len(shape), ranks[0]

    def drawn(*shape: int) -> Array:
        real, imaginary = rng.standard_normal((2, *shape))
        return np.asarray(real + 1j * imaginary if dtype is np.complex128 else real)

    factors, weights = [drawn(n, r) for n in shape], drawn(r)
    near(formats.cp(factors, weights).to_dense(), tl.cp_to_tensor((weights, factors)))
    core, bases = drawn(*ranks[:d]), [drawn(n, k) for n, k in zip(shape, ranks, strict=False)]
    near(formats.tucker(core, bases).to_dense(), tl.tucker_to_tensor((core, bases)))
    bonds = [1, *ranks[: d - 1], 1]
    cores = [drawn(bonds[k], n, bonds[k + 1]) for k, n in enumerate(shape)]
    near(formats.tt(cores).to_dense(), tl.tt_to_tensor(cores))
    matrices = [drawn(bonds[k], n, n + 1, bonds[k + 1]) for k, n in enumerate(shape)]
    sizes = np.prod(shape), np.prod([n + 1 for n in shape])
    near(formats.tt_matrix(matrices).to_dense(), tl.tt_matrix_to_tensor(matrices).reshape(sizes))
    ring = [drawn(ranks[k], n, ranks[(k + 1) % d]) for k, n in enumerate(shape)]
    near(formats.tensor_ring(ring).to_dense(), tl.tr_to_tensor(ring))
    products = [drawn(n, n + 1) for n in shape]
    near(formats.kronecker(*products).to_dense(), tl.tenalg.kronecker(products))
    if dtype is np.float64:  # theirs does not conjugate
        near(formats.norm(formats.cp(factors, weights)), tl.cp_tensor.cp_norm((weights, factors)))
        near(formats.norm(formats.tt(cores)), np.sqrt(abs(tl.tenalg.inner(*[tl.tt_to_tensor(cores)] * 2))))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_fits_are_as_near(rank: int) -> None:
    array = drawn(6, 7, 8) + 3
    size = np.linalg.norm(array)

    def error(found: Array) -> float:
        return float(np.linalg.norm(found - array) / size)

    theirs = error(tl.cp_to_tensor(tl.decomposition.parafac(array, rank, n_iter_max=300, random_state=0)))
    assert relative_error(formats.cp_from_dense(array, rank=rank), array) <= theirs * 1.02
    theirs = error(tl.tucker_to_tensor(tl.decomposition.tucker(array, rank=[rank] * 3, random_state=0)))
    assert (
        relative_error(formats.tucker_from_dense(array, rank=rank, iterations=100), array) <= theirs * 1.001
    )
    theirs = error(tl.tt_to_tensor(tl.decomposition.tensor_train(array, rank=[1, rank, rank, 1])))
    assert relative_error(formats.tt_from_dense(array, rank=rank), array) <= theirs * (1 + 1e-9)
    positive = abs(array)
    fit = tl.decomposition.non_negative_parafac_hals(positive, rank, n_iter_max=300, init="svd")
    theirs = float(np.linalg.norm(tl.cp_to_tensor(fit) - positive) / np.linalg.norm(positive))
    ours = formats.cp_from_dense(positive, rank=rank, non_negative=True)
    assert relative_error(ours, positive) <= theirs * 1.03


LINEAR = [("CP", "cp"), ("Tucker", "tucker"), ("BlockTT", "tt_matrix")]


@pytest.mark.parametrize(("theirs", "ours"), LINEAR)
def test_linear_layers_agree(theirs: str, ours: str) -> None:
    tl.set_backend("pytorch")
    torch.manual_seed(0)
    layer = tltorch.FactorizedLinear((2, 3, 4), (4, 3, 2), factorization=theirs, rank=5, dtype=torch.float64)
    weight = layer.weight
    split = ((4, 3, 2), (2, 3, 4))
    if ours == "cp":
        operand = formats.cp([f.detach() for f in weight.factors], weight.weights.detach(), split=split)
    elif ours == "tucker":
        operand = formats.tucker(weight.core.detach(), [f.detach() for f in weight.factors], split=split)
    else:
        operand = formats.tt_matrix([f.detach() for f in weight.factors])
    made = nn.FactorizedLinear.from_factors(operand, layer.bias)
    x = torch.randn(7, 24, dtype=torch.float64)
    near(operand.to_dense(), weight.to_matrix().detach())
    near(made(x).detach(), layer(x).detach())
    weights = torch.linspace(-1, 1, 7 * 24, dtype=torch.float64).reshape(7, 24)
    gradients = [torch.autograd.grad((m(x) * weights).sum(), [m.bias]) for m in (made, layer)]
    near(gradients[0][0], gradients[1][0])


@pytest.mark.parametrize(("theirs", "ours"), [("CP", "cp"), ("Tucker", "tucker"), ("TT", "tt")])
def test_regression_layers_agree(theirs: str, ours: str) -> None:
    tl.set_backend("pytorch")
    layer = tltorch.TRL((4, 3), (5,), bias=True, factorization=theirs, rank=3, dtype=torch.float64)
    operand = of(layer.weight, ours)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    near(nn.TRL.from_factors(operand, layer.bias)(x).detach(), layer(x).detach())


@pytest.mark.parametrize(("theirs", "ours"), [("CP", "cp"), ("Tucker", "tucker"), ("TT", "tt")])
def test_convolutions_agree(theirs: str, ours: str) -> None:
    tl.set_backend("pytorch")
    torch.manual_seed(1)  # least squares stall before 1e-6 on some kernels, that of seed 0 among them
    layer = tltorch.FactorizedConv(
        4, 5, (3, 2), factorization=theirs, rank=3, implementation="reconstructed", dtype=torch.float64
    )
    layer.weight.normal_(0, 0.5)  # without, it is memory as it was found
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    dense = torch.nn.Conv2d(4, 5, (3, 2), bias=False, dtype=torch.float64)
    with torch.no_grad():
        kernel = layer.weight.to_tensor()
        dense.weight.copy_(kernel.movedim(-1, 0) if ours == "tt" else kernel)
    made = nn.FactorizedConv.from_layer(dense, format=ours, tolerance=1e-6)
    torch.testing.assert_close(made(x), layer(x), rtol=1e-4, atol=1e-5)


def test_contraction_layers_agree() -> None:
    tl.set_backend("pytorch")
    layer = tltorch.TCL((4, 3), (2, 5), dtype=torch.float64)
    made = nn.TCL((4, 3), (2, 5), bias=False, dtype=torch.float64)
    with torch.no_grad():
        for one, two in zip(made.factors, layer.factors, strict=True):
            one.copy_(two)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    near(made(x).detach(), layer(x).detach() - (0 if layer.bias is None else layer.bias.detach()))


def of(weight: Any, format: str) -> formats.Factorized:
    """Return a weight of TensorLy-Torch as an operand."""
    factors = [f.detach() for f in weight.factors]
    if format == "cp":
        return formats.cp(factors, weight.weights.detach())
    return formats.tt(factors) if format == "tt" else formats.tucker(weight.core.detach(), factors)
