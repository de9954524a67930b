"""Torch tensors of the CPU given to the NumPy program: the same results and gradients, only where nobody watches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import calls, formats, recent
from contractc.lower import lower
from contractc.lower.seconds import program_seconds
from contractc.machine import Target
from contractc.programs import Contract
from contractc.search import search

torch = pytest.importorskip("torch")

import contractc.hosted as hosting  # noqa: E402
import contractc.training as training  # noqa: E402
from contractc.backends.torch import hosted  # noqa: E402

TEXTS = (
    "ij,jk,kl->il",
    "bnq,rmnq,rmsq->bms",
    "ab,abc,cd->dd",
    "iij,jk,kl->li",
    "i,j->ij",
    "ij->ji",
    "ij,ij->",
)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Have every contraction run as a NumPy program where it may, and count the tensors that come out."""
    count: list[int] = []
    plain = hosted._tensor

    def tensor(x: Any) -> Any:
        count.append(1)
        return plain(x)

    def forget() -> None:
        for kept in (recent.latest, recent.latest_einsum, calls._latest_asked, calls._executables):
            kept.clear()

    forget()
    monkeypatch.setattr(hosted, "_tensor", tensor)
    monkeypatch.setattr(hosting, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(training, "LEAST_SECONDS", 0.0)
    yield count
    forget()


def drawn(text: str, dtype: Any = torch.float64, extent: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randn((extent,) * len(t), dtype=dtype, generator=generator)
        for t in text[: text.index("->")].split(",")
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize("text", TEXTS)
def test_results_are_those_of_aten_calls(text: str, dtype: Any, counted: list[int]) -> None:
    operands = drawn(text, dtype)
    expected = contractc.contract(text, *(x.numpy() for x in operands))
    found = contractc.contract(text, *operands)
    assert counted and isinstance(found, torch.Tensor) and found.dtype == dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("text", ["ij,jk,kl->il", "bnq,rmnq,rmsq->bms", "iij,jk,kl->li"])
def test_value_and_gradients_run_there_and_are_differentiable_again(
    text: str, dtype: Any, counted: list[int]
) -> None:
    operands = [x.requires_grad_() for x in drawn(text, dtype, 2)]
    assert torch.autograd.gradcheck(lambda *xs: contractc.contract(text, *xs), operands)
    assert len(counted) > len(operands)
    assert torch.autograd.gradgradcheck(lambda *xs: contractc.contract(text, *xs), operands)


def test_views_and_conjugate_bits_are_read_as_they_are(counted: list[int]) -> None:
    x, y = drawn("ij,jk->ik", torch.complex128, 4)
    left, right = x.t()[::2], y.conj()
    found = contractc.contract("ij,jk->ik", left, right)
    assert counted
    torch.testing.assert_close(found, left @ right)


def test_modes_of_torch_see_aten_calls(counted: list[int]) -> None:
    x, y = drawn("ij,jk->ik", torch.float32)
    compiled = contractc.compile("ij,jk->ik", x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(x, y).dtype == torch.bfloat16
    batched = torch.func.vmap(lambda a: contractc.contract("ij,jk->ik", a, y))(torch.stack([x, x]))
    meta = compiled(x.to("meta"), y.to("meta"))
    assert not counted and batched.shape == (2, 3, 3) and meta.device.type == "meta"
    assert compiled(x, y).dtype == torch.float32 and counted


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("text", TEXTS)
def test_graphs_of_torch_jit_are_made_of_aten_calls(text: str, counted: list[int]) -> None:
    xs = drawn(text)
    executable = contractc.compile(text, *xs)
    for recorded in (False, True):
        given = [x.clone().requires_grad_(recorded) for x in xs]
        counted.clear()
        traced = torch.jit.trace(lambda *ys: executable(*ys), tuple(given), check_trace=False)
        assert not counted
        others = [(x.detach() + 1).requires_grad_(recorded) for x in given]
        found, expected = traced(*others), executable(*others)
        torch.testing.assert_close(found, expected)
        if recorded:
            ours, theirs = (torch.autograd.grad(y.square().sum(), others) for y in (found, expected))
            torch.testing.assert_close(ours, theirs)


def test_explain_says_that_tensors_may_run_as_the_numpy_program(counted: list[int]) -> None:
    x, y = drawn("ij,jk->ik")
    assert hosting.REMARK in str(contractc.compile("ij,jk->ik", x, y))
    integers = contractc.compile("ij,jk->ik", x.to(torch.int64), y.to(torch.int64))
    assert hosting.REMARK not in str(integers)


def test_seconds_of_a_program_count_the_copies_between_products() -> None:
    shapes = ((19200, 158, 4), (158, 158, 4), (158, 4, 4))
    network = contractc.plan("biq,oiq,osq->bos", *shapes, dtype="float32").network
    program = lower(search(network, [(0, 1), (0, 1)]), Target())
    ordered = contractc.plan("ib,oi->ob", (632, 19200), (632, 632), dtype="float32").network
    product = lower(search(ordered), Target())
    flops = (2 * 19200 * 158 * 158 * 4, 2 * 19200 * 632 * 632)
    assert program_seconds(program) / flops[0] > 2 * program_seconds(product) / flops[1]


def test_choices_are_priced_by_the_steps_that_would_run() -> None:
    weight = formats.monarch(np.ones((1, 158, 158, 4), np.float32), np.ones((1, 158, 4, 4), np.float32))
    found = contractc.plan("bi,oi->bo", (19200, 632), weight, dtype="float32", mode="train")
    assert {a.choices for a in found.alternatives} == {("factored",), ("materialised",)}
    least = min(found.alternatives, key=lambda a: a.seconds)
    assert least.choices == found.choices


def test_long_programs_leave_it_to_torch_where_it_has_threads(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    operands = drawn("ij,jk,kl->il")
    for seconds, threads, runs_there in ((0.0, 2, False), (0.0, 1, True), (1.0, 2, True)):
        monkeypatch.setattr(hosting, "LONG_SECONDS", seconds)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        executable = contractc.compile("ij,jk,kl->il", *operands)
        counted.clear()
        found = executable(*operands)
        assert bool(counted) == runs_there
        torch.testing.assert_close(found, torch.einsum("ij,jk,kl->il", *operands))


def test_slices_run_there_whatever_the_threads_and_within_what_is_printed(counted: list[int]) -> None:
    operands = drawn("iab,jbc,kca->ijk", extent=24)
    whole = contractc.compile("iab,jbc,kca->ijk", *operands)
    limit = 4 * 8 * 24**3 + (whole.peak - 4 * 8 * 24**3) // 2
    sliced = contractc.compile("iab,jbc,kca->ijk", *operands, memory_limit=limit)
    assert sliced.plan.sliced and sliced.plan.peak == sliced.peak <= limit
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = sliced(*operands)
    finally:
        torch.set_num_threads(threads)
    assert counted
    np.testing.assert_allclose(found.numpy(), whole(*operands).numpy(), rtol=1e-12, atol=1e-10)
    recorded = [x.clone().requires_grad_() for x in operands]
    again = sliced(*recorded)
    again.sum().backward()
    assert recorded[0].grad is not None
    torch.testing.assert_close(again.detach(), found, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_is_for_new_tensors_only(device: str, counted: list[int]) -> None:
    text = "iab,jbc,kca->ijk"
    operands = drawn(text, extent=24)
    whole = contractc.compile(text, *operands)
    sliced = contractc.compile(text, *operands, memory_limit=whole.peak - 8 * 24**3)
    tropical = contractc.compile(text, *operands, semiring="max_plus", memory_limit=whole.peak - 8 * 24**3)
    expected = [run(*operands) for run in (whole, sliced, tropical)]
    before = len(counted)
    torch.set_default_device(device)
    try:
        found = [run(*operands) for run in (whole, sliced, tropical)]
    finally:
        torch.set_default_device(None)
    assert len(counted) > before
    assert all(x.device.type == "cpu" and torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_loops_of_torch_write_to_memory_here_whatever_the_default_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(hosting, "LEAST_SECONDS", math.inf)  # so that torch runs them, not the NumPy program
    operands = [torch.rand(4000, 4, 4), torch.rand(4000, 4, 4).transpose(1, 2)]
    executable = contractc.compile("bnm,bmk->bnk", *operands)
    assert any("loops" in getattr(step, "how", "") for step in executable.program.steps)
    torch.set_default_device("meta")
    try:
        found = executable(*operands)
    finally:
        torch.set_default_device(None)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, operands[0] @ operands[1])


def test_torch_puts_slices_of_other_semirings_in_their_places() -> None:
    operands = [torch.arange(20.0**3).reshape(20, 20, 20) % 7 - k for k in range(3)]
    whole = contractc.compile("iab,jbc,kca->ijk", *operands, semiring="max_plus")
    sliced = contractc.compile(
        "iab,jbc,kca->ijk", *operands, semiring="max_plus", memory_limit=whole.peak // 2
    )
    assert sliced.plan.sliced and sliced.peak <= whole.peak // 2
    assert torch.equal(sliced(*operands), whole(*operands))


def test_loops_of_torch_wait_for_calls_that_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    made: list[int] = []
    from contractc.providers.loops import native

    compiled = native.native

    def counting(*given: Any) -> Any:
        made.append(1)
        return compiled(*given)

    monkeypatch.setattr(native, "native", counting)
    text, shapes = "bnm,bmk->bnk", [(4000, 4, 4), (4000, 4, 4)]
    executable = contractc.compile(text, *map(torch.ones, shapes))
    assert any("loops" in getattr(step, "how", "") for step in executable.program.steps)
    assert len(made) == 1  # that of the NumPy program


def test_lines_that_outer_loops_use_in_parts_cost_seconds() -> None:
    from contractc.providers.loops.forms import ORDERED
    from contractc.providers.loops.problem import problem_of
    from contractc.providers.loops.schedule import _line_seconds

    shapes = ((2**14, 64, 4), (64, 4, 4))
    program = lower(search(contractc.plan("boc,oci->boi", *shapes, dtype="float32").network), Target())
    step = next(s for s in program.steps if isinstance(s, Contract) and len(s.inputs) == 2)
    problem = problem_of(program, step, [ORDERED, ORDERED])
    b, o, _ = program.inputs[0].modes
    assert _line_seconds(problem, (b,)) == 0.0
    assert _line_seconds(problem, (o,)) >= 2**20 * 1.2e-8


@pytest.mark.parametrize("kind", ["freed", "freed view", "zeros not written out", "functional"])
@pytest.mark.parametrize("least", [0.0, math.inf])
def test_tensors_without_memory_are_left_to_torch(
    kind: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(hosting, "LEAST_SECONDS", least)
    operands = [torch.rand(4000, 4, 4), torch.rand(4000, 4, 4)]
    executable = contractc.compile("bnm,bmk->bnk", *operands)
    if kind == "functional":
        found = torch.func.functionalize(executable)(*operands)
        torch.testing.assert_close(found, operands[0] @ operands[1])
    elif kind == "zeros not written out":
        found = executable(torch._efficientzerotensor((4000, 4, 4)), operands[1])
        assert not torch.any(found)
    else:
        freed = torch.rand(5000, 4, 4)[1000 if kind == "freed view" else 0 :][:4000]
        freed.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="not allocated"):
            executable(freed, operands[1])
