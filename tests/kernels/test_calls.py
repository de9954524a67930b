"""The Triton backend from end to end, in the interpreter: numbers, derivatives, transforms, dynamic modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from drawn import INTERPRETED, kernels_always_win
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import contractc
from contractc import formats
from contractc.backends import triton as backend
from contractc.backends.triton.launch import Step
from contractc.lower import lower
from contractc.machine import Target

pytestmark = INTERPRETED


@pytest.fixture(autouse=True)
def kernels_win() -> Iterator[None]:
    with kernels_always_win():
        yield


def tensors(shapes: Any, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(s, dtype=dtype, generator=generator).requires_grad_(grad) for s in shapes]


def compiled(text: str, xs: list[torch.Tensor], **options: Any) -> contractc.Executable:
    executable = contractc.compile(text, *xs, target="triton", **options)
    assert "kernel" in str(executable), executable
    return executable


LAYERS = [
    ("ij,jk->ik", [(5, 8), (8, 9)]),
    ("bij,iar,rjc->bac", [(6, 4, 3), (4, 3, 2), (2, 3, 5)]),
    ("zui,zuj,ijk->zuk", [(3, 4, 3), (3, 4, 2), (3, 2, 5)]),
    ("ni,n,nj->ij", [(9, 3), (9,), (9, 4)]),
    ("ijk,jr,kr->ir", [(4, 3, 5), (3, 2), (5, 2)]),
    ("ij,jk,kl,lm->im", [(3, 4), (4, 2), (2, 5), (5, 3)]),
    ("ab,cb->a", [(4, 3), (2, 3)]),
]


@pytest.mark.parametrize(("text", "shapes"), LAYERS)
def test_gradients_are_those_of_einsum(text: str, shapes: Any) -> None:
    xs = tensors(shapes, grad=True)
    found = compiled(text, xs)(*xs)
    expected = torch.einsum(text, *xs)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weight).sum(), xs)
    theirs = torch.autograd.grad((expected * weight).sum(), xs)
    torch.testing.assert_close(ours, theirs)


def test_second_derivatives_are_right() -> None:
    xs = tensors([(2, 3), (3, 2)], grad=True)
    assert torch.autograd.gradgradcheck(compiled("ij,jk->ik", xs), xs)


def test_complex_gradients_follow_torch() -> None:
    xs = tensors([(2, 1), (1, 2), (2, 1)], torch.complex128, grad=True)
    executable = compiled("ij,jk,kl->il", xs, conj=(1,))
    torch.testing.assert_close(executable(*xs), torch.einsum("ij,jk,kl->il", xs[0], xs[1].conj(), xs[2]))
    assert torch.autograd.gradcheck(executable, xs)


def test_transforms_see_plain_operations() -> None:
    xs = tensors([(4, 3), (3, 5)])
    executable = compiled("ij,jk->ik", xs)
    expected = xs[0] @ xs[1]
    batched = torch.func.vmap(lambda x: executable(x, xs[1]))(torch.stack([xs[0], 2 * xs[0]]))
    torch.testing.assert_close(batched, torch.stack([expected, 2 * expected]))
    jvp: Any = torch.func.jvp
    _, tangent = jvp(lambda x: executable(x, xs[1]), (xs[0],), (xs[0],))
    torch.testing.assert_close(tangent, expected)
    forward: Any = torch.autograd.forward_ad
    with forward.dual_level():
        dual = forward.make_dual(xs[0], xs[0])
        made = forward.unpack_dual(executable(dual, xs[1]))
        torch.testing.assert_close(made.tangent, expected)
    gradient = torch.func.grad(lambda x: executable(x, xs[1]).sum())(xs[0])
    torch.testing.assert_close(gradient, xs[1].sum(1).expand(4, 3))


def test_fake_tensors_and_graphs_see_plain_operations() -> None:
    xs = tensors([(4, 3), (3, 5)])
    executable = compiled("ij,jk->ik", xs)
    with FakeTensorMode() as mode:
        made = executable(*(mode.from_tensor(x) for x in xs))
        assert tuple(made.shape) == (4, 5)
    graph = torch.compile(executable.run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(*xs), xs[0] @ xs[1])


def test_dynamic_extents_that_outgrow_the_offsets_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    xs = tensors([(6, 4), (4, 5)])
    executable = compiled("bi,ij->bj", xs, dynamic="b")
    launched: list[int] = []
    run = Step._run

    def counted(*given: Any) -> torch.Tensor:
        launched.append(1)
        return run(*given)

    monkeypatch.setattr(Step, "_run", counted)
    monkeypatch.setattr("contractc.backends.triton.launch.MOST_OFFSET", 200)
    for batch, in_kernel in ((6, True), (30, False), (7, True)):
        launched.clear()
        x = tensors([(batch, 4)])[0]
        torch.testing.assert_close(executable(x, xs[1]), x @ xs[1])
        assert bool(launched) == in_kernel


def test_dynamic_extent_is_a_number_of_the_launch() -> None:
    xs = tensors([(6, 4, 3), (4, 3, 2), (2, 3, 5)])
    executable = compiled("bij,iar,rjc->bac", xs, dynamic="b")
    (step,) = [x for x in _globals(executable).values() if isinstance(x, Step)]
    functions = set()
    for size in (6, 1, 17, 0):
        x = torch.randn(size, 4, 3, dtype=torch.float64)
        torch.testing.assert_close(executable(x, *xs[1:]), torch.einsum("bij,iar,rjc->bac", x, *xs[1:]))
        functions |= {p.source.text for v in step.variants.values() if v is not None for p in v.passes}
    assert len(functions) == 1


def test_constants_and_slices_run_as_kernels() -> None:
    xs = tensors([(4, 3), (3, 5), (5, 4)])
    executable = compiled("ij,jk,kl->il", xs, constants=[1])
    torch.testing.assert_close(executable(xs[0], xs[2]), xs[0] @ xs[1] @ xs[2])
    ys = tensors([(8, 8, 8), (8, 8, 8), (8, 8, 8)])
    text = "abc,cde,ebf->adf"
    sliced = contractc.compile(text, *ys, target="triton", memory_limit=60_000)
    assert "loop" in str(sliced.program) and "tile" in str(sliced.program)
    torch.testing.assert_close(sliced(*ys), torch.einsum(text, *ys))


def test_views_of_other_strides_get_kernels_of_their_own() -> None:
    xs = tensors([(9, 8), (8, 6)])
    executable = compiled("ij,jk->ik", xs)
    views = [torch.randn(8, 9, dtype=torch.float64).T, torch.randn(8, 12, dtype=torch.float64)[:, 1::2]]
    torch.testing.assert_close(executable(*views), views[0] @ views[1])


def test_narrow_results_are_rounded_once() -> None:
    xs = tensors([(9, 40), (40, 7)], torch.bfloat16)
    made = compiled("ij,jk->ik", xs)(*xs)
    expected = (xs[0].double() @ xs[1].double()).to(torch.bfloat16)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made, expected, rtol=2**-7, atol=0.05)


def test_contract_takes_the_backend_by_name() -> None:
    xs = tensors([(4, 3), (4, 3)])
    made = contractc.contract("nc,nc->n", *xs, backend="triton")
    torch.testing.assert_close(made, (xs[0] * xs[1]).sum(1))


def test_repeated_output_and_ordered_semiring() -> None:
    (x,) = tensors([(5,)])
    torch.testing.assert_close(compiled("i->ii", [x])(x), torch.diag(x))
    xs = tensors([(5, 4), (4, 6)])
    made = compiled("ij,jk->ik", xs, semiring="max_plus")(*xs)
    np.testing.assert_array_equal(made, (xs[0][:, :, None] + xs[1]).amax(1))


def test_kernels_take_over_when_they_are_ready() -> None:
    calls: list[str] = []

    def kernels(x: int) -> int:
        calls.append("kernel")
        return 2 * x

    def plain(x: int) -> int:
        calls.append("plain")
        return 2 * x

    later = backend.Later(lambda: kernels, plain)
    assert later(1) == 2
    assert later.thread is None
    assert later(2) == 4
    assert later.thread is not None
    later.thread.join()
    assert later(3) == 6
    assert calls[0] == "plain" and calls[-1] == "kernel"


def test_a_program_without_choices_is_made_in_the_background() -> None:
    xs = tensors([(6, 4, 3), (4, 3, 2), (2, 3, 5)])
    plan = contractc.plan("bij,iar,rjc->bac", *xs)
    program = lower(plan, Target("triton", "cuda"))
    run = backend.compile(program).run
    for _ in range(3):
        torch.testing.assert_close(run(*xs), torch.einsum("bij,iar,rjc->bac", *xs))
    (later,) = [c.cell_contents for c in run.__closure__ or () if isinstance(c.cell_contents, backend.Later)]
    assert later.thread is not None
    later.thread.join()
    assert later.made is not None
    torch.testing.assert_close(run(*xs), torch.einsum("bij,iar,rjc->bac", *xs))


def _globals(executable: contractc.Executable) -> dict[str, Any]:
    """Return the names that the generated function of kernels sees."""
    switch: Any = executable.run
    kernels = switch.__closure__[[*switch.__code__.co_freevars].index("kernels")].cell_contents
    found: dict[str, Any] = kernels.__globals__
    return found


@pytest.mark.parametrize("precision", ["strict", "default", "fast"])
def test_every_precision_computes_the_contraction(precision: str) -> None:
    xs = tensors([(20, 18), (18, 17)], torch.float32, grad=True)
    executable = compiled("ij,jk->ik", xs, precision=precision)
    (step,) = [x for x in _globals(executable).values() if isinstance(x, Step)]
    assert step.task.precision == precision
    made = executable(*xs)
    torch.testing.assert_close(made, xs[0] @ xs[1])
    gradients = torch.autograd.grad(made.sum(), xs)
    torch.testing.assert_close(gradients, torch.autograd.grad((xs[0] @ xs[1]).sum(), xs))
    again = contractc.contract("ij,jk->ik", *xs, backend="triton", precision=precision)
    torch.testing.assert_close(again, made)


CHAIN = "ab,bc,cd,de,ef->af"


def _unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    from contractc.backends.triton import choose

    monkeypatch.setattr(choose, "_mergeable", lambda program: [])


def test_intermediates_share_one_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    _unfused(monkeypatch)
    xs = tensors([(7, 6), (6, 5), (5, 8), (8, 4), (4, 9)])
    executable = compiled(CHAIN, xs)
    assert "block_for(" in executable.source and executable.source.count("out=") == 3
    expected = torch.einsum(CHAIN, *xs)
    made = executable(*xs)
    torch.testing.assert_close(made, expected)
    assert made.untyped_storage().size() == made.numel() * made.element_size()
    again = executable(*[2 * x for x in xs])
    torch.testing.assert_close(made, expected)  # the second call has not written into the first result
    torch.testing.assert_close(again, 32 * expected)


def test_what_autograd_keeps_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    _unfused(monkeypatch)
    xs = tensors([(7, 6), (6, 5), (5, 8), (8, 4), (4, 9)])
    executable = compiled(CHAIN, xs)
    xs[4].requires_grad_()  # the others' product is kept for its gradient
    made = torch.autograd.grad(executable(*xs).square().sum(), xs[4])
    torch.testing.assert_close(made, torch.autograd.grad(torch.einsum(CHAIN, *xs).square().sum(), xs[4]))


def test_slices_have_a_workspace_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _unfused(monkeypatch)
    ys = tensors([(3, 3, 3)] * 4)
    text = "abc,cde,efg,gbh->adfh"
    sliced = contractc.compile(text, *ys, target="triton", memory_limit=2_200)
    assert "loop" in str(sliced.program) and sliced.source.count("block_for(") == 1
    torch.testing.assert_close(sliced(*ys), torch.einsum(text, *ys))
    both = backend.over_devices(sliced, ["cpu", "cpu"])
    torch.testing.assert_close(both(*ys), torch.einsum(text, *ys))


def drawn_weight(
    format: str, sizes: tuple[int, int, int, int], r: int, b: tuple[int, ...], dtype: torch.dtype
) -> formats.Factorized:
    """Return a matrix, or a batch of them, of rows m s and columns n q in a format of the first tier."""
    m, s, n, q = sizes
    split, batch = ((m, s), (n, q)), len(b)

    def drawn(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
        return tensors([(*b, *shape) for shape in shapes], dtype)

    if format == "kronecker sum":
        return formats.kronecker(*drawn((r, m, n), (r, s, q)), batch=batch)
    if format == "cp":
        *factors, weights = drawn((m, r), (s, r), (n, r), (q, r), (r,))
        return formats.cp(factors, weights, split=split, batch=batch)
    if format == "tucker":
        core, *factors = drawn((r, 2, 1, 2), (m, r), (s, 2), (n, 1), (q, 2))
        return formats.tucker(core, factors, split=split, batch=batch)
    if format == "tt":
        return formats.tt(drawn((1, m, 2), (2, s, r), (r, n, 2), (2, q, 1)), split=split, batch=batch)
    if format == "tt matrix":
        return formats.tt_matrix(drawn((1, m, n, r), (r, s, q, 1)), batch=batch)
    if format == "block tt":
        return formats.monarch(*drawn((r, m, n, q), (r, m, s, q)), batch=batch)
    return formats.low_rank(*drawn((m * s, r), (r, n * q), (r,), (m * s,)), batch=batch)


@pytest.mark.parametrize(
    "format", ["cp", "tucker", "tt", "tt matrix", "block tt", "low rank", "kronecker sum"]
)
@settings(max_examples=8, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.integers(1, 3),
    st.sampled_from([(), (2,)]),
    st.integers(1, 5),
    st.sampled_from([torch.float64, torch.float32]),
)
@example((4, 2, 3, 2), 3, (), 5, torch.float64)
def test_operands_held_as_factors_run_in_kernels(
    format: str,
    sizes: tuple[int, int, int, int],
    r: int,
    b: tuple[int, ...],
    rows: int,
    dtype: torch.dtype,
) -> None:
    weight = formats.forced(drawn_weight(format, sizes, r, b, dtype), "factored")
    labelled = [y for f, t in zip(weight.factors, weight.layout.terms, strict=True) for y in (f, list(t))]
    modes = [m for axis in weight.layout.axes for m in axis]
    dense = torch.einsum(*labelled, modes).reshape(weight.shape)
    (x,) = tensors([(*b, rows, dense.shape[-1])], dtype)
    text = "zbi,zoi->zbo" if b else "bi,oi->bo"
    found = compiled(text, [x, weight])(x, *weight.factors)  # type: ignore[list-item]
    torch.testing.assert_close(found, x @ dense.mT)


def test_a_fused_step_is_taken_apart_where_gradients_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from contractc.backends.triton import choose, steps

    xs = tensors([(4, 3), (3, 5), (5, 2)], grad=True)
    executable = compiled("ij,jk,kl->il", xs, mode="infer")
    (step,) = [x for x in _globals(executable).values() if isinstance(x, Step)]
    assert len(step.task.terms) == 4
    asked: list[Any] = []

    def never_fused(program: Any, device: Any, refused: Any, wanted: Any = ()) -> Any:
        asked.append(wanted)
        return program

    monkeypatch.setattr(choose, "fused_by_price", never_fused)
    steps._apart.cache_clear()
    xs[1].requires_grad_(False)
    found = executable(*xs)
    assert asked == [[0, 2]]
    assert found.grad_fn is not None and len(found.grad_fn.next_functions) == 2  # inputs, not three
    expected = torch.einsum("ij,jk,kl->il", *xs)
    torch.testing.assert_close(found, expected)
    leaves = [xs[0], xs[2]]
    ours, theirs = (torch.autograd.grad(y.square().sum(), leaves) for y in (found, expected))
    torch.testing.assert_close(ours, theirs)
