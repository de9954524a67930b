"""The torch backend: values against the loop reference, and everything that torch does with a function."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contractc
import reference
from contractc import OperandError, UnsupportedError
from expressions import EXPRESSIONS, Expression, random_operands
from tolerances import tolerance

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

from contractc.backends import torch as backend  # noqa: E402
from contractc.backends.torch import operations, semirings  # noqa: E402
from contractc.operands import Operand  # noqa: E402

INTEGERS = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
ORDERED = ("max_plus", "min_plus", "max_times", "log_sum_exp")
CHAIN = "ij,jk,kl->il"
LAYER = "bi,ij,jk->bk"


def tensors(row: Expression, dtype: str = "float64") -> list[Any]:
    """Return the operands of `row` as tensors of `dtype`."""
    if dtype == "bfloat16":
        return [x.to(torch.bfloat16) for x in tensors(row, "float32")]
    if dtype in INTEGERS:
        return [torch.from_numpy(np.asarray((x * 4).astype(dtype))) for x in random_operands(row)]
    return [torch.from_numpy(np.asarray(x)) for x in random_operands(row, dtype)]


def draw(*shapes: tuple[int, ...], dtype: Any = None, grad: bool = False, seed: int = 7) -> list[Any]:
    """Return normal random tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    kind = dtype or torch.float64
    drawn = [torch.randn(shape, generator=generator, dtype=kind) for shape in shapes]
    return [x.requires_grad_() for x in drawn] if grad else drawn


def several(result: Any) -> tuple[Any, ...]:
    """Return the results of an expression with one or several outputs as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def numpy(x: Any) -> np.ndarray:
    """Return a tensor as a NumPy array, bfloat16 as float32."""
    x = x.detach().resolve_conj()
    return np.asarray((x.float() if x.dtype == torch.bfloat16 else x).numpy())


def close(found: Any, expected: Any) -> None:
    """Check tensors (or tuples of them) against each other: shape, dtype and values."""
    torch.testing.assert_close(found, expected)


# values


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, *FLOATS])
def test_contract_agrees_with_the_reference(dtype: str) -> None:
    exact = dtype == "bool" or dtype in INTEGERS
    for row in EXPRESSIONS:
        operands = tensors(row, dtype)
        found = several(contractc.contract(row.text, *operands))
        arrays = [numpy(x) for x in operands]
        inputs, outputs = reference.parse(row.text)
        truths = reference.evaluate(inputs, outputs, arrays)
        sizes = reference.evaluate(inputs, outputs, [abs(x) for x in arrays]) if not exact else truths
        for result, truth, size in zip(found, truths, sizes, strict=True):
            assert result.dtype == operands[0].dtype, row
            assert tuple(result.shape) == truth.shape, row
            if exact:
                np.testing.assert_array_equal(result.numpy(), reference.as_dtype(truth, dtype), row.text)
                continue
            length = reference.positions(inputs, [x.shape for x in arrays])
            allowed = tolerance(dtype, length, len(arrays), size.astype(float))
            wide = "complex128" if dtype.startswith("complex") else "float64"
            assert np.all(abs(numpy(result).astype(wide) - truth.astype(wide)) <= allowed), row


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("text", ["i->", "i,i->", "bi,bi->b", "bi,ij->bj", "bi,bij->bj", "bi,i->b"])
def test_narrow_floats_accumulate_in_float32(text: str, dtype: str) -> None:
    kind = getattr(torch, dtype)
    extents = {"i": 20_000, "b": 2, "j": 3}
    terms = text.partition("->")[0].split(",")
    operands = [torch.full([extents[m] for m in term], 0.125, dtype=kind) for term in terms]
    found = contractc.contract(text, *operands)
    assert torch.all(found == torch.tensor(20_000 * 0.125 ** len(terms)).to(kind))


def test_narrow_floats_accumulate_in_float32_over_slices() -> None:
    operands = draw(*((8, 8),) * 4, dtype=torch.float32)
    sliced = contractc.compile("ab,cd,ac,bd->", *(x.half() for x in operands), memory_limit=750)
    assert sliced.plan.sliced
    found = sliced(*(torch.full((8, 8), 1 + 2.0**-9).half() for _ in operands))
    assert abs(found.item() - (1 + 2.0**-9) ** 4 * 4096) <= 8


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("text", ["ij,jk->ik", "bij,bjk->bik", "ij,j->i", "j,j->", "ij,ij->i", "ij->"])
def test_integers_wrap_as_in_numpy(text: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    extents = {"b": 2, "i": 3, "j": 5, "k": 4}
    shapes = [[extents[m] for m in term] for term in text.partition("->")[0].split(",")]
    arrays = [rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True) for shape in shapes]
    found = contractc.contract(text, *map(torch.from_numpy, arrays))
    np.testing.assert_array_equal(found.numpy(), contractc.contract(text, *arrays))


@pytest.mark.parametrize("most", [1, 3, 10, 40, 1000])
@pytest.mark.parametrize(
    "shapes", [((4, 5), (5, 3)), ((2, 4, 5), (2, 5, 3)), ((5,), (5,)), ((5,), (5, 3)), ((4, 5), (5,))]
)
def test_matmul_in_blocks_agrees_with_matmul(shapes: Any, most: int) -> None:
    x, y = (torch.arange(np.prod(shape)).reshape(shape) - 7 for shape in shapes)
    close(operations.matmul_in_blocks(x, y, most), torch.matmul(x, y))


@pytest.mark.parametrize(
    "shapes", [((0, 5), (5, 3)), ((4, 0), (0, 3)), ((4, 5), (5, 0)), ((0, 4, 5), (0, 5, 3))]
)
def test_matmul_in_blocks_takes_empty_matrices(shapes: Any) -> None:
    x, y = (torch.zeros(shape, dtype=torch.int32) for shape in shapes)
    close(operations.matmul_in_blocks(x, y, 1), torch.matmul(x, y))


def test_conj_is_lazy_and_right() -> None:
    x, y = draw((3, 4), (4, 5), dtype=torch.complex128)
    close(contractc.contract("ij,jk->ik", x, y, conj=1), x @ y.conj())
    close(contractc.contract("ij,jk->ik", x.conj(), y, conj=(0, 1)), x @ y.conj())
    close(contractc.contract("ij,jk->ik", x, y.conj().imag.to(x.dtype)), x @ y.conj().imag.to(x.dtype))


@pytest.mark.parametrize("one", ["bool", "int8", "int64", "float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3,), ()), ((), (3,)), ((), ())])
def test_result_dtype_is_that_of_torch(one: str, shapes: Any) -> None:
    terms = ["i" if shape else "" for shape in shapes]
    for other in ("bool", "uint8", "int32", "float16", "bfloat16", "float64", "complex128"):
        x, y = (torch.ones(s, dtype=getattr(torch, d)) for s, d in zip(shapes, (one, other), strict=True))
        expected = torch.result_type(x, y)
        if expected == torch.complex32:
            with pytest.raises(OperandError, match="float16 and complex numbers give complex32"):
                contractc.contract(f"{terms[0]},{terms[1]}->", x, y)
            continue
        found = contractc.contract(f"{terms[0]},{terms[1]}->", x, y)
        assert found.dtype == expected, other
        assert found == (1 if shapes == ((), ()) or found.dtype == torch.bool else 3)


def test_promote_of_several_operands_weighs_axes_first() -> None:
    many = [
        Operand((), "complex128"),
        Operand((3,), "float32"),
        Operand((), "int64"),
        Operand((2,), "float16"),
    ]
    assert backend.promote(many) == "complex64"
    with pytest.raises(OperandError) as caught:
        backend.promote([Operand((2,), "uint64"), Operand((3,), "int32")])
    assert str(caught.value) == "torch has no common dtype for uint64, int32; convert some operands"


def test_preferred_element_type_and_dtype() -> None:
    x, y = draw((3, 4), (4, 5), dtype=torch.bfloat16)
    close(contractc.contract("ij,jk->ik", x, y, preferred_element_type="float32"), x.float() @ y.float())
    close(contractc.contract("ij,jk->ik", x, y, dtype=torch.float64), x.double() @ y.double())
    with pytest.raises(UnsupportedError, match="would lose its imaginary part"):
        contractc.contract("ij->i", x.to(torch.complex64), dtype="float32")


def test_results_without_axes_are_tensors() -> None:
    (x,) = draw((3, 3))
    for text, operands in (("ii->", [x]), ("ij,ij->", [x, x]), (",->", [x[0, 0], 2.0]), ("->", [x[0, 0]])):
        found = contractc.contract(text, *operands)
        assert isinstance(found, torch.Tensor)
        assert found.shape == ()


def test_lists_and_numbers_become_tensors() -> None:
    x = torch.ones(3, dtype=torch.float32)
    close(contractc.contract("i,i->", x, [1.0, 2.0, 3.0]), torch.tensor(6.0))
    close(contractc.contract("i,->i", x, 2), 2 * x)
    compiled = contractc.compile("i,i->", x.double(), x.double())
    close(compiled(x.double(), [1, 2, 3]), torch.tensor(6.0, dtype=torch.float64))


def test_out_is_written_and_may_overlap() -> None:
    (x,) = draw((3, 3))
    expected, out = x @ x, x.clone()
    assert contractc.contract("ij,jk->ik", out, out, out=out) is out
    close(out, expected)
    square = x.clone()
    contractc.contract("ij->ji", square, out=square)
    close(square, x.t())


# the call


def test_numpy_arrays_and_tensors_do_not_mix() -> None:
    x = np.ones((2, 2))
    with pytest.raises(OperandError) as caught:
        contractc.contract("ij,jk->ik", torch.ones(2, 2), x)
    message = "operand 0 is a Tensor of torch but operand 1 a ndarray of numpy; convert one of them"
    assert str(caught.value) == message
    compiled = contractc.compile("ij,jk->ik", torch.ones(2, 2), torch.ones(2, 2))
    for operands in ((x, x), (torch.ones(2, 2), x)):
        with pytest.raises(OperandError, match="is a ndarray, not a torch tensor; convert it"):
            compiled(*operands)


def test_an_executable_says_what_does_not_fit() -> None:
    compiled = contractc.compile("bi,ij->bj", torch.ones(2, 3), torch.ones(3, 4), dynamic=("b",))
    x, y = torch.ones(5, 3), torch.ones(3, 4)
    close(compiled(x, y), x @ y)
    with pytest.raises(
        OperandError, match=r"operand 1 has shape \(4, 3\), but was compiled as f32\[i=3, j=4\]"
    ):
        compiled(x, y.t())
    with pytest.raises(OperandError, match=r"operand 0 is float64, but was compiled as f32\[b=~2, i=3\]"):
        compiled(x.double(), y)
    with pytest.raises(OperandError, match="this executable takes 2 operands, not 1"):
        compiled(x)


def test_transforms_of_torch_write_into_out() -> None:
    x, y = torch.rand(4, 4), torch.rand(4, 4)

    def written(x: Any) -> Any:
        return contractc.contract("ij,jk->ik", x, y, out=x.clone())

    torch.testing.assert_close(torch.func.functionalize(written)(x), x @ y)
    torch.testing.assert_close(torch.func.vmap(written)(torch.stack([x, y])), torch.stack([x @ y, y @ y]))
    found = torch.func.grad(lambda x: written(x).sum())(x)
    torch.testing.assert_close(found, y.sum(1).expand(4, 4))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_sparse_and_nested_tensors_are_refused() -> None:
    with pytest.raises(OperandError) as caught:
        contractc.contract("ij,j->i", torch.eye(3).to_sparse(), torch.ones(3))
    assert str(caught.value) == "operand 0 is a tensor of layout torch.sparse_coo, not a dense one"
    with pytest.raises(OperandError) as caught:
        contractc.contract("ij,j->i", torch.nested.nested_tensor([torch.ones(3)]), torch.ones(3))
    assert str(caught.value) == "operand 0 is a nested tensor, not a dense one"


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(OperandError) as caught:
        contractc.contract(
            "ij,jk,kl->li", torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2, device="meta")
        )
    assert str(caught.value) == "operand 2 is on meta, but others on cpu; move one of them"


def test_meta_tensors_give_meta_results() -> None:
    size = 10**6  # far more than fits in memory: nothing is allocated
    x, y = torch.empty(size, size, device="meta"), torch.empty(size, device="meta")
    for semiring in ("sum_product", "max_times"):
        found = contractc.contract("ij,j->i", x[:10], y, semiring=semiring)
        assert (found.device.type, found.shape, found.dtype) == ("meta", (10,), torch.float32)
    assert contractc.contract("ij,jk->ik", x, x).shape == (size, size)
    assert contractc.contract("i->ii", y).shape == (size, size)


def test_the_default_device_does_not_matter() -> None:
    (x,) = draw((3,))
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        found = contractc.contract("i,,->ii", x, 2.0, torch.tensor(3.0, device="cpu"))
    finally:
        torch.set_default_device(before)
    close(found, torch.diag(6 * x))


def test_parameters_subclasses_and_modules_pass() -> None:
    class Marked(torch.Tensor):  # type: ignore[misc, name-defined]
        pass

    x, y = draw((3, 4), (4, 5))
    compiled = contractc.compile("ij,jk->ik", x, y)
    close(compiled(torch.nn.Parameter(x), y), torch.nn.Parameter(x) @ y)
    assert type(compiled(x.as_subclass(Marked), y)) is Marked

    class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.contraction = torch.nn.Parameter(y), compiled

        def forward(self, x: Any) -> Any:
            return self.contraction(x, self.weight)

    layer = copy.deepcopy(Layer())
    layer(x).sum().backward()
    assert layer.weight.grad.shape == (4, 5)


def test_executables_are_called_from_several_threads() -> None:
    operands = draw((30, 40), (40, 50), (50, 20))
    compiled = contractc.compile(CHAIN, *operands)
    expected = compiled(*operands)
    found: list[Any] = []

    def call() -> None:
        found.extend(compiled(*operands) for _ in range(50))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(torch.equal(x, expected) for x in found)


def test_constants_are_copied_and_never_require_grad() -> None:
    x, y, z = draw((30, 4), (4, 5), (5, 6))
    expected = x @ (y @ z)
    compiled = contractc.compile(CHAIN, x, y, z, constants=(1, 2))
    assert [set(c.value.modes) for c in compiled.program.constants] == [{1, 3}]
    y.zero_()
    close(compiled(x), expected)
    z.requires_grad_()
    message = "operand 1 requires grad, so it cannot be a constant; detach it, or give it at each call"
    with pytest.raises(OperandError) as caught:
        contractc.compile("ij,jk->ik", y, z, constants=(1,))
    assert str(caught.value) == message


def test_constants_of_every_dtype_have_distinct_bytes() -> None:
    seen = set()
    for dtype in ("bool", *INTEGERS, *FLOATS):
        for shape in ((), (1,), (2, 2), (0,)):
            x = torch.ones(shape, dtype=getattr(torch, dtype))
            seen.add(backend.to_bytes(x))
    assert len(seen) == 15 * 4
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert backend.to_bytes(z.conj()) == backend.to_bytes(z.conj().resolve_conj()) != backend.to_bytes(z)
    assert backend.to_bytes(z.conj().imag) == backend.to_bytes(-z.imag)
    assert backend.to_bytes(torch.eye(3)[:, ::2]) == backend.to_bytes(torch.eye(3)[:, ::2].contiguous())


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("bij,bjk->bik", ["x2 = bmm(x0, x1)"]),
        ("abij,abjk->abik", ["x2 = bmm(x0.reshape(6, 4, 5), x1.reshape(6, 5, 7)).reshape(2, 3, 4, 7)"]),
        ("nc,nc->n", ["x2 = mul(x0, x1).sum(1)"]),
        ("ji,kj->ik", ["x2 = matmul(x0.t(), x1.t())"]),
        ("bi,i->b", ["x2 = matmul(x0, x1)"]),
    ],
)
def test_source_is_what_one_would_write_by_hand(text: str, lines: list[str]) -> None:
    extents = {"a": 2, "b": 3, "i": 4, "j": 5, "k": 7, "n": 6, "c": 2}
    shapes = [torch.ones([extents[m] for m in term]) for term in text.partition("->")[0].split(",")]
    source = contractc.compile(text, *shapes).source
    assert [line.strip() for line in source.splitlines() if " = " in line] == lines


# semirings


@pytest.mark.parametrize("semiring", [*ORDERED, "or_and"])
def test_semirings_agree_with_the_reference(semiring: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in EXPRESSIONS if len(row.shapes) <= 3]
    for block in (2**20, 7):
        monkeypatch.setattr(semirings, "BLOCK", block)
        for row in rows:
            operands = [x.abs() if semiring == "max_times" else x for x in tensors(row)]
            arrays = [x.numpy() for x in operands]
            truths = several(reference.einsum(row.text, *arrays, semiring=semiring))
            for found, truth in zip(
                several(contractc.contract(row.text, *operands, semiring=semiring)), truths, strict=True
            ):
                assert found.dtype == (torch.bool if semiring == "or_and" else torch.float64)
                np.testing.assert_allclose(
                    found.numpy(), truth.astype(found.numpy().dtype), rtol=1e-12, atol=1e-12
                )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint16", "float16", "bfloat16", "float32"])
def test_semirings_agree_with_numpy_in_every_dtype(dtype: str) -> None:
    x, y = (z % 5 for z in (torch.arange(12).reshape(3, 4), torch.arange(20).reshape(4, 5)))
    kind = getattr(torch, dtype)
    for semiring in ORDERED:
        expected = contractc.contract("ij,jk->ik", x.numpy(), y.numpy(), semiring=semiring)
        found = contractc.contract("ij,jk->ik", x.to(kind), y.to(kind), semiring=semiring)
        assert found.dtype == (
            kind if semiring != "log_sum_exp" or kind.is_floating_point else torch.float32
        ) or (semiring == "log_sum_exp" and found.dtype.is_floating_point)
        np.testing.assert_allclose(numpy(found), expected, rtol=2e-2)


def test_semirings_without_a_zero_refuse() -> None:
    x = torch.ones(3, dtype=torch.int64)
    for text, operands in (("i->ii", [x]), ("ij->i", [torch.ones(3, 0, dtype=torch.int64)])):
        with pytest.raises(UnsupportedError, match="the zero of max_plus is -inf, which int64 cannot hold"):
            contractc.contract(text, *operands, semiring="max_plus")
    close(contractc.contract("i->ii", x[:1], semiring="max_plus"), x[:1, None])
    with pytest.raises(OperandError, match="max_times needs values that are not negative"):
        contractc.contract("i->", -x, semiring="max_times")


@pytest.mark.parametrize("semiring", ORDERED)
@pytest.mark.parametrize("block", [2**20, 5])
def test_semirings_have_gradients(semiring: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semirings, "BLOCK", block)
    operands = [x.detach().abs().requires_grad_() for x in draw((3, 4), (4, 2), (2, 3))]

    def function(*operands: Any) -> Any:
        return contractc.contract("ij,jk,ki->i", *operands, semiring=semiring)

    assert torch.autograd.gradcheck(function, operands)
    if semiring == "log_sum_exp":
        assert torch.autograd.gradgradcheck(function, operands)


def test_gradient_of_max_plus_is_the_best_position() -> None:
    x = torch.tensor([[0.0, 5.0], [7.0, 1.0]], requires_grad=True)
    contractc.contract("ij->", x, semiring="max_plus").backward()
    assert x.grad.tolist() == [[0, 0], [1, 0]]


def test_gradient_of_log_sum_exp_of_nothing_is_zero() -> None:
    x = torch.full((2, 3), -torch.inf, dtype=torch.float64)
    x[1] = torch.tensor([0.0, 0.0, -torch.inf])
    x.requires_grad_()
    found = contractc.contract("ij->i", x, semiring="log_sum_exp")
    close(found, torch.tensor([-torch.inf, np.log(2)], dtype=torch.float64))
    found.sum().backward()
    assert x.grad.tolist() == [[0, 0, 0], [0.5, 0.5, 0]]


# derivatives and transforms


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    "text",
    [
        "ij,jk->ik",
        "bij,bjk->bik",
        "ij,ij->i",
        "ii,ij->j",
        "i,j->ij",
        "ij,jk,kl,li->",
        "i->ii",
        "ij,j->iji",
        "ij,jk->ik,i",
    ],
)
def test_gradients_are_right(text: str, dtype: str) -> None:
    terms = text.partition("->")[0].split(",")
    operands = draw(*((2,) * len(term) for term in terms), dtype=getattr(torch, dtype), grad=True)

    def function(*operands: Any) -> Any:
        return contractc.contract(text, *operands, conj=0)

    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)


@pytest.mark.parametrize(("text", "limit"), [("abc,ade,bdf->cef", 3500), ("ab,cd,ac,bd->", 950)])
def test_slices_have_values_and_gradients(text: str, limit: int) -> None:
    terms = text.partition("->")[0].split(",")
    operands = draw(*((4,) * len(term) if len(term) == 3 else (5,) * len(term) for term in terms), grad=True)
    compiled = contractc.compile(text, *operands, memory_limit=limit)
    assert compiled.plan.sliced
    close(compiled(*operands), torch.einsum(text, *operands))
    assert torch.autograd.gradcheck(compiled, operands)
    traced = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    close(traced(*operands), compiled(*operands))


@pytest.mark.parametrize("semiring", ["max_plus", "or_and", "log_sum_exp"])
def test_slices_in_semirings(semiring: str) -> None:
    operands = draw(*((8, 8),) * 4, dtype=torch.float32)
    limit = 1100 if semiring == "or_and" else 1300
    compiled = contractc.compile("ab,cd,ac,bd->", *operands, memory_limit=limit, semiring=semiring)
    assert compiled.plan.sliced
    close(compiled(*operands), contractc.contract("ab,cd,ac,bd->", *operands, semiring=semiring))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_strip_exponent_keeps_what_overflows(dtype: str) -> None:
    kind = getattr(torch, dtype)
    big = 2.0**12 if dtype == "float16" else 2.0**100
    x = torch.full((4, 4), big, dtype=kind)
    mantissa, exponent = contractc.contract("ab,bc,cd,de,ef,fg,gh,hi,ij,ja->", *[x] * 10, strip_exponent=True)
    assert type(exponent) is int
    assert (mantissa.dtype, mantissa.abs().item()) == (kind, 0.5)
    assert exponent == 10 * round(np.log2(big)) + 21
    for value in (0.0, float("inf")):
        (m, e) = contractc.contract("i->", torch.tensor([value], dtype=kind), strip_exponent=True)
        assert (m.real.item(), e) == (value, 0)
    assert contractc.contract("i->", torch.ones(0, dtype=kind), strip_exponent=True) == (0, 0)


def test_split_exponent_is_exact_at_both_ends() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        info = torch.finfo(dtype)
        for x in (info.max, -info.max, info.tiny, info.smallest_normal * 2**-5, 1.0, -3.0):
            tensor = torch.tensor([x, 0.0], dtype=dtype)
            mantissa, exponent = operations.split_exponent(tensor)
            expected = np.frexp(float(tensor[0]))
            assert (mantissa.dtype, mantissa[0].item(), exponent.item()) == (dtype, *expected)


def test_strip_exponent_has_gradients_of_the_mantissa() -> None:
    x, y = draw((3, 4), (4, 3), grad=True)
    mantissa, exponent = contractc.contract("ij,ji->", x, y, strip_exponent=True)
    mantissa.backward()
    close(x.grad * 2.0**exponent, y.t().detach())


def test_functions_of_torch_func() -> None:
    x, y, z = draw((5, 3, 4), (4, 4), (4,))

    def ours(x: Any) -> Any:
        return contractc.contract("ij,jk,k,ik->", x, y, z, x)

    def theirs(x: Any) -> Any:
        return (x @ (y * z) * x).sum()

    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd, torch.func.jacrev):
        close(transform(ours)(x[0]), transform(theirs)(x[0]))
        close(torch.func.vmap(transform(ours))(x), torch.func.vmap(transform(theirs))(x))
    close(torch.func.vmap(ours)(x), torch.func.vmap(theirs)(x))
    close(torch.func.jvp(ours, (x[0],), (x[1],)), torch.func.jvp(theirs, (x[0],), (x[1],)))


def test_vmap_of_everything_that_is_not_a_plain_sum() -> None:
    x, y = draw((5, 3, 4), (4, 3))

    def outputs(x: Any) -> Any:
        return (
            *(
                contractc.contract("ij,jk->ik", x, y, semiring=semiring)
                for semiring in ("max_plus", "log_sum_exp")
            ),
            contractc.contract("ij,jk->ik", x.abs(), y.abs(), semiring="max_times"),
            contractc.contract("ij->iji", x),
            contractc.contract("ij,jk->ik", x > 0, y > 0),
            contractc.contract("ij,jk->ik", x.int(), y.int()),
        )

    close(torch.func.vmap(outputs)(x), tuple(map(torch.stack, zip(*map(outputs, x), strict=True))))
    chunked = torch.func.vmap(outputs, chunk_size=2)(x)
    close(chunked, torch.func.vmap(outputs)(x))


def test_checkpoint_recomputes() -> None:
    operands = draw((3, 4), (4, 5), (5, 6), grad=True)
    results = []
    for recompute in (False, True):
        for x in operands:
            x.grad = None
        if recompute:
            result = checkpoint(
                lambda *xs: contractc.contract(CHAIN, *xs).sin(), *operands, use_reentrant=False
            )
        else:
            result = contractc.contract(CHAIN, *operands).sin()
        result.sum().backward()
        results.append([result, *(x.grad for x in operands)])
    close(*results)


@pytest.mark.parametrize("text", ["ij,jk->ik", CHAIN, "bij,bjk->bik", "ij,j->i", "bi,ij,bj->b"])
def test_autocast_gives_what_einsum_gives(text: str) -> None:
    extents = {"b": 3, "i": 4, "j": 5, "k": 6, "l": 7}
    shapes = [tuple(extents[m] for m in term) for term in text.partition("->")[0].split(",")]
    operands = draw(*shapes, dtype=torch.float32, grad=True)
    compiled = contractc.compile(text, *operands)
    for ahead in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = compiled(*operands) if ahead else contractc.contract(text, *operands)
            expected = torch.einsum(text, *operands)
            mixed = contractc.contract(text, operands[0].bfloat16(), *operands[1:])
        torch.testing.assert_close(found.float(), expected.float(), rtol=0.1, atol=0.1)
        torch.testing.assert_close(mixed.float(), expected.float(), rtol=0.1, atol=0.1)
        found.float().sum().backward()
        assert operands[0].grad.dtype == torch.float32
        if text != "bi,ij,bj->b":  # it ends with an elementwise product, which autocast leaves in float32
            assert found.dtype == torch.bfloat16


# torch.compile and torch.export


class Counter:
    """A backend for torch.compile that counts graphs, and gives them to `aot_eager`."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return torch._dynamo.backends.registry.lookup_backend("aot_eager")(graph, inputs)


@pytest.fixture
def compiled_by_torch() -> Callable[[Any], tuple[Any, Counter]]:
    """Return a function giving torch.compile(function, fullgraph=True) and the counter of its graphs."""
    torch._dynamo.reset()

    def build(function: Any) -> tuple[Any, Counter]:
        counter = Counter()
        return torch.compile(function, fullgraph=True, backend=counter), counter

    return build


Build = Callable[[Any], tuple[Any, Counter]]


@pytest.mark.parametrize("kind", ["executable", "contract", "einsum", "ellipsis"])
def test_one_graph_serves_all_batches_from_the_second_size_on(kind: str, compiled_by_torch: Build) -> None:
    x, y, z = draw((3, 4), (4, 5), (5, 6))
    ahead = contractc.compile(LAYER, x, y, z, dynamic=("b",))
    contractc.contract(LAYER, x, y, z)  # what an earlier call left in the cache must not be met in the graph
    functions = {
        "executable": lambda *xs: ahead(*xs).sin(),
        "contract": lambda *xs: contractc.contract(LAYER, *xs).sin(),
        "einsum": lambda *xs: contractc.einsum(LAYER, *xs).sin(),
        "ellipsis": lambda *xs: contractc.contract("...i,ij,jk->...k", *xs).sin(),
    }
    function, counter = compiled_by_torch(functions[kind])
    for size in (1, 2, 3, 64, 1000):
        (x,) = draw((size, 4), grad=True, seed=size)
        found, expected = function(x, y, z), (x @ y @ z).sin()
        close(found, expected)
        close(torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), x))
    assert counter.graphs == 2


def test_every_form_of_a_call_compiles_to_one_graph(compiled_by_torch: Build) -> None:
    x, y = draw((3, 4), (4, 5))
    out = torch.zeros(3, 5, dtype=torch.float64)

    def forms(x: Any, y: Any, out: Any) -> Any:
        contractc.contract("ij,jk->ik", x, y, out=out)
        return (
            contractc.contract(x, [0, 1], y, [1, 2], [0, 2], optimize="greedy"),
            contractc.einsum("ij,jk", [x, y]),
            contractc.contract("ij,jk->ik,i", x, y, dtype=torch.float32, conj=1)[0].double(),
            contractc.contract("ij,jk->ik", x, y, optimize=[(0, 1)], memory_limit=10**6),
            out + 0,
        )

    function, counter = compiled_by_torch(forms)
    found = function(x, y, out)
    close(found[:2] + found[3:], (x @ y,) * 4)
    torch.testing.assert_close(found[2], x @ y, rtol=1e-5, atol=1e-5)
    close(out, x @ y)
    assert counter.graphs == 1


def test_everything_that_is_not_a_plain_sum_compiles(compiled_by_torch: Build) -> None:
    x, y = draw((3, 4), (4, 3))
    apart = contractc.compile("ij,jk->ik", x, y, dynamic=("i",), semiring="log_sum_exp")
    spread = contractc.compile("ij->iji", x, dynamic=("i",))

    def everything(x: Any) -> Any:
        return (
            apart(x, y),
            spread(x),
            contractc.contract("ij,jk->ik", x, y, semiring="max_plus"),
            contractc.contract("ij,jk->ik", x > 0, y > 0),
            contractc.contract("ij,jk->ik", x.int(), y.int()),
        )

    function, counter = compiled_by_torch(everything)
    for size in (2, 3, 5):
        (x,) = draw((size, 4), seed=size)
        close(function(x), everything(x))
    assert counter.graphs == 2


def test_transforms_inside_of_torch_compile(compiled_by_torch: Build) -> None:
    x, y, z = draw((3, 4), (4, 5), (7, 3, 4))

    def contraction(x: Any) -> Any:
        return contractc.contract("ij,jk->ik", x, y).sin()

    def everything(x: Any, z: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            narrow = contractc.contract("ij,jk->ik", x.float(), y.float())
        return (
            torch.func.vmap(contraction)(z),
            torch.func.grad(lambda x: contraction(x).sum())(x),
            checkpoint(contraction, x, use_reentrant=False),
            narrow,
        )

    function, counter = compiled_by_torch(everything)
    found, expected = function(x, z), everything(x, z)
    close(found, expected)
    assert found[-1].dtype == torch.bfloat16
    assert counter.graphs == 1


def test_numpy_arrays_inside_of_torch_compile_stay_numpy_arrays() -> None:
    torch._dynamo.reset()
    x, y = np.ones((3, 4)), np.ones((4, 5))
    function = torch.compile(lambda x, y: contractc.contract("ij,jk->ik", x, y), backend="eager")
    assert isinstance(function(x, y), np.ndarray)


def test_errors_inside_of_torch_compile_keep_their_message(compiled_by_torch: Build) -> None:
    function, _ = compiled_by_torch(lambda x, y: contractc.contract("ij,jk->ik", x, y))
    with pytest.raises(Exception, match="mode 'j' is 4 in operand 0"):
        function(*draw((3, 4), (5, 6)))


class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A linear layer whose product is a function that contractc made."""

    def __init__(self, contraction: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(draw((4, 5))[0])
        self.contraction = contraction

    def forward(self, x: Any) -> Any:
        return self.contraction(x, self.weight).sin()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ["executable", "constant", "bundle", "contract"])
def test_export_round_trip_with_any_batch(kind: str, strict: bool, tmp_path: Path) -> None:
    x, w, c = draw((3, 4), (4, 5), (5, 5))
    contractc.contract("bi,ij->bj", x, w)  # what an earlier call left in the cache must not fix the batch
    constant = contractc.compile("bi,ij,jk->bk", x, w, c, dynamic=("b",), constants=(2,))
    constant.save(tmp_path / "net.ccb")
    contraction = {
        "executable": contractc.compile("bi,ij->bj", x, w, dynamic=("b",)),
        "constant": constant,
        "bundle": contractc.load(tmp_path / "net.ccb"),
        "contract": lambda x, w: contractc.contract("bi,ij->bj", x, w),
    }[kind]
    layer = Layer(contraction)
    sizes = {"x": {0: torch.export.Dim("b", min=2, max=4000)}}
    exported = torch.export.export(layer, (x,), dynamic_shapes=sizes, strict=strict)
    assert {n.target.namespace for n in exported.graph.nodes if n.op == "call_function"} == {"aten"}
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for size in (2, 9, 1000):
        (x,) = draw((size, 4), seed=size)
        close(loaded(x), layer(x))


def test_tracing_leaves_nothing_in_the_cache_that_slows_later_calls() -> None:
    torch._dynamo.reset()
    text = "xi,ij,jk->xk"
    operands = draw((3, 4), (4, 5), (5, 6))
    function = torch.compile(
        lambda *xs: contractc.contract(text, *xs), fullgraph=True, backend="aot_eager", dynamic=True
    )
    close(function(*operands), contractc.contract(text, *operands))
    from contractc import recent

    source = recent.latest[text][1].__code__.co_varnames
    assert not [name for name in source if name.startswith("d")]
