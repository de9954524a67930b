"""One backward program for a contraction on torch: derivatives of every order, transforms, what is kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import calls, formats, recent
from contractc.fused import all_unfused
from contractc.lower import lower
from contractc.lower.backward import backward
from contractc.lower.joint import as_it_is, cut, joined, parts_for_numpy
from contractc.lower.pack import pack
from contractc.lower.passes import natural_layout
from contractc.machine import Target
from contractc.plans import Plan
from contractc.programs import COPY, Call, Contract, Program, Value
from contractc.search import search, search_gradients
from expressions import Expression
from test_gradients import ROWS, case, same
from test_stages import bound

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import contractc.training as training  # noqa: E402
from contractc.backends.torch import joint  # noqa: E402

TEXTS = (
    "ij,jk,kl->il",
    "ij,jk,kl,li->",
    "iij,jk,kl->li",
    "bnq,rmnq,rmsq->bms",
    "ab,bc,cd,ef->a",
    "ij,jk,kl->ill",
    "ab,abc,cd->dd",
    "i,j,k->ijk",
)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Have every contraction differentiate as a whole, and count how often one does.

    Code of other tests is forgotten before, and code made here after.
    """
    count: list[int] = []
    plain = joint._Contraction.forward

    def forward(ctx: Any, *given: Any) -> Any:
        count.append(1)
        return plain(ctx, *given)

    def forget() -> None:
        for kept in (recent.latest, recent.latest_einsum, calls._latest_asked, calls._executables):
            kept.clear()

    forget()

    monkeypatch.setattr(joint._Contraction, "forward", staticmethod(forward))
    monkeypatch.setattr(training, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(training, "_copies_batches", lambda program: True)
    monkeypatch.setattr("contractc.lower.pack.SMALL", 1)
    yield count
    forget()


def drawn(text: str, dtype: Any = torch.float64, extent: int = 2) -> list[Any]:
    generator = torch.Generator().manual_seed(5)
    terms = text.partition("->")[0].split(",")
    return [torch.randn((extent,) * len(t), dtype=dtype, generator=generator) for t in terms]


# the programs


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_backward_programs_give_the_gradients(row: Expression, dtype: str) -> None:
    operands, cotangent, conj, (_, *expected) = case(row, dtype)
    program = lower(search(bound(row, operands, conj=conj)), Target())
    back = backward(program, program.results[0], range(len(operands)))
    assert back is not None
    held = {v.number: x for v, x in zip(program.inputs, operands, strict=True)}
    numbers = tuple(v.number for step in program.steps for v in step.outs)
    values = contractc.Program(
        program.inputs, program.steps, numbers, program.extents, labels=program.labels
    ).evaluate(*operands)
    held |= dict(zip(numbers, values, strict=True))
    for transform in (lambda p: p, pack):
        back = transform(back)
        assert back.faults() == []
        arrays = [held[v.number] for v in back.inputs[:-1]]
        same(back.evaluate(*arrays, cotangent), expected)


def test_backward_refuses_what_it_has_no_rule_for() -> None:
    network = bound(Expression("ab,bc,cd->ad", ((4, 4),) * 3, ""), [np.ones((4, 4))] * 3)
    sliced = lower(Plan(network, search(network).path, (4,), (0,)), Target())
    assert backward(sliced, sliced.results[0], [0]) is None
    shared = lower(search_gradients(network, [0, 1, 2]), Target())
    assert backward(shared, shared.results[0], [0]) is None


def test_pack_copies_once_what_two_products_read() -> None:
    operands = [np.ones(s) for s in ((32, 8, 32), (8, 4), (32, 32, 4))]
    network = bound(Expression("bic,ik,bck->", tuple(x.shape for x in operands), ""), operands)
    program = all_unfused(lower(search(network, [(0, 1), (0, 1)]), Target()))
    back = backward(program, program.results[0], [0, 1])
    assert back is not None
    packed = pack(back)
    copies = [s for s in packed.steps if isinstance(s, Contract) and s.how == COPY]
    assert len({(s.inputs, s.out.modes) for s in copies}) == len(copies)
    assert "# permute, copy" in str(packed)


# derivatives


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("text", TEXTS)
def test_derivatives_of_first_and_second_order(text: str, dtype: Any, counted: list[int]) -> None:
    conj = (0,) if dtype.is_complex else ()
    operands = drawn(text, dtype)
    count = len(operands)
    for mask in range(1, 2**count):
        given = [x.clone().requires_grad_(bool(mask >> k & 1)) for k, x in enumerate(operands)]
        needed = [x for x in given if x.requires_grad]

        def function(*some: Any, given: Any = given) -> Any:
            values = iter(some)
            full = [next(values) if x.requires_grad else x for x in given]
            return contractc.contract(text, *full, conj=conj)

        before = len(counted)
        assert torch.autograd.gradcheck(function, needed)
        assert len(counted) > before
        if mask in (3, 2**count - 1):
            assert torch.autograd.gradgradcheck(function, needed)


@pytest.mark.parametrize("mask", range(1, 8))
def test_gradients_recorded_or_watched_on_the_way_back_know_the_operands_of_what_was_kept(
    mask: int, counted: list[int]
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tensors = [torch.randn(64, 64).requires_grad_(bool(mask >> k & 1)) for k in range(3)]
    needed = [x for x in tensors if x.requires_grad]
    values = [f(*tensors) for f in (ours, plainly)]
    assert counted
    expected = torch.autograd.grad(values[1].sin().sum(), needed, create_graph=True)
    made = torch.autograd.grad(values[0].sin().sum(), needed, create_graph=True)
    close = {"rtol": 1e-4, "atol": 1e-2}
    torch.testing.assert_close(made, expected, **close)
    second = [
        torch.autograd.grad(sum(g.square().mean() for g in found), needed, retain_graph=True)
        for found in (made, expected)
    ]
    torch.testing.assert_close(*second, rtol=1e-3, atol=1.0)
    with FlopCounterMode(display=False):
        watched = torch.autograd.grad(values[0].sin().sum(), needed)
    torch.testing.assert_close(watched, tuple(g.detach() for g in expected), **close)


@pytest.mark.parametrize("change", ["in place", "inference"])
def test_operands_that_nothing_is_asked_of_may_be_gone_on_the_way_back(
    change: str, counted: list[int]
) -> None:
    """Only the product of the first two is kept, as torch keeps it; for gradients of gradients they are needed."""
    with torch.inference_mode(change == "inference"):
        first, second = torch.randn(64, 64), torch.randn(64, 64)
    third = torch.randn(64, 64, requires_grad=True)
    value = ours(first, second, third)
    assert counted
    expected = (first @ second).t() @ torch.ones(64, 64)
    if change == "in place":
        first.zero_()
    (found,) = torch.autograd.grad(value.sum(), third, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    if change == "in place":
        with pytest.raises(RuntimeError, match="operand 0 was changed in place"):
            torch.autograd.grad(value.sum(), third, create_graph=True)


def test_one_tensor_in_two_places_gets_both_gradients(counted: list[int]) -> None:
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, y: contractc.contract("ij,jk,kl->il", x, y, x), (x, y))
    assert counted


def test_small_contractions_differentiate_as_a_whole_after_some_calls() -> None:
    operands = [x.requires_grad_() for x in drawn("ij,jk,kl->il", extent=3)]
    compiled = contractc.compile("ij,jk,kl->il", *operands)
    single = contractc.compile("ij,jk->ik", *operands[:2])
    names = []
    for _ in range(training.CALLS_BEFORE + 2):
        result = compiled(*operands)
        names.append("_Contraction" in type(result.grad_fn).__name__)
        made = torch.autograd.grad(result.sin().sum(), operands)
        torch.testing.assert_close(made, torch.autograd.grad(plainly(*operands).sin().sum(), operands))
        assert "_Contraction" not in type(single(*operands[:2]).grad_fn).__name__
    assert names == [False] * training.CALLS_BEFORE + [True] * 2


def test_gradients_that_are_not_needed_are_not_computed(counted: list[int]) -> None:
    text = "ab,bc,cd->ad"
    operands = drawn(text)
    operands[1].requires_grad_()
    compiled = contractc.compile(text, *operands)
    result = compiled(*operands)
    node = result.grad_fn
    assert node.joint.targets == (1,)
    assert len(node.saved_tensors) == 2


def test_no_more_is_kept_than_torch_keeps_for_the_same_calls(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = formats.monarch(torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8, 8))
    x = torch.randn(32, 64, requires_grad=True)
    factors = [f.requires_grad_() for f in weight.factors]
    kept: list[dict[int, int]] = []
    for seconds in (1e9, 0.0):
        monkeypatch.setattr(training, "LEAST_SECONDS", seconds)
        layer = contractc.compile("bi,oi->bo", x.detach(), weight)
        found: dict[int, int] = {}

        def keep(t: Any, found: dict[int, int] = found) -> Any:
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            result = layer(x, *factors)
        kept.append(found)
        del result
    assert counted and sum(kept[1].values()) <= sum(kept[0].values())


def test_writing_to_what_was_kept_is_noticed(counted: list[int]) -> None:
    text = "ab,bc,cd->ad"
    operands = [x.requires_grad_() for x in drawn(text)]
    result = contractc.contract(text, *operands)
    with torch.no_grad():
        operands[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


# whatever else takes part


def plainly(*operands: Any) -> Any:
    return torch.einsum("ij,jk,kl->il", *operands)


def ours(*operands: Any) -> Any:
    return contractc.contract("ij,jk,kl->il", *operands)


def test_transforms_of_torch_see_plain_calls(counted: list[int]) -> None:
    x, y, z = [x.requires_grad_() for x in drawn("ij,jk,kl->il", extent=3)]
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd, torch.func.jacrev):
        made = [transform(lambda x, f=f: f(x, y, z).sin().sum())(x) for f in (ours, plainly)]
        torch.testing.assert_close(*made)
    made = [torch.func.vmap(f, (None, None, 0))(x, y, torch.stack([z, z + 1])) for f in (ours, plainly)]
    torch.testing.assert_close(*made)
    made = [torch.func.jvp(lambda x, f=f: f(x, y, z), (x,), (y,)) for f in (ours, plainly)]
    torch.testing.assert_close(*made)
    assert not counted
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, y)
        made = [torch.autograd.forward_ad.unpack_dual(f(dual, y, z)).tangent for f in (ours, plainly)]
    torch.testing.assert_close(*made)
    assert not counted
    grad = [torch.autograd.grad(f(x, y, z).sin().sum(), (x, z)) for f in (ours, plainly)]
    torch.testing.assert_close(*grad)
    assert counted


@pytest.mark.parametrize("mask", range(1, 8))
def test_many_cotangents_at_a_time(mask: int, counted: list[int]) -> None:
    tensors = [x.requires_grad_(bool(mask >> k & 1)) for k, x in enumerate(drawn("ij,jk,kl->il"))]
    needed = [x for x in tensors if x.requires_grad]
    values = [f(*tensors) for f in (ours, plainly)]
    assert counted
    cotangents = torch.randn(5, *values[0].shape, dtype=values[0].dtype)
    made = [torch.autograd.grad(y, needed, cotangents, is_grads_batched=True) for y in values]
    torch.testing.assert_close(*made)


def test_autocast_checkpoint_and_compile(counted: list[int]) -> None:
    operands = [x.float().detach().requires_grad_() for x in drawn("ij,jk,kl->il", extent=3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(*operands).dtype == torch.bfloat16
    assert not counted
    made = [
        torch.autograd.grad(f(*operands).sin().sum(), operands)
        for f in (plainly, lambda *xs: checkpoint(ours, *xs, use_reentrant=False))
    ]
    torch.testing.assert_close(*made)
    assert counted
    torch._dynamo.reset()
    before = len(counted)
    traced = torch.compile(lambda *xs: ours(*xs).sin().sum(), fullgraph=True, backend="aot_eager")
    ahead = contractc.compile("ij,jk,kl->il", *operands)
    also = torch.compile(lambda *xs: ahead(*xs).sin().sum(), fullgraph=True, backend="aot_eager")
    for function in (traced, also):
        torch.testing.assert_close(torch.autograd.grad(function(*operands), operands), made[0])
    assert len(counted) == before


def test_other_operands_miss_and_dynamic_extents_pass(counted: list[int]) -> None:
    x, y, z = [x.requires_grad_() for x in drawn("bi,ij,jk->bk", extent=3)]
    layer = contractc.compile("bi,ij,jk->bk", x.detach(), y.detach(), z.detach(), dynamic=("b",))
    for size in (1, 3, 7):
        batch = torch.ones(size, 3, dtype=torch.float64)
        torch.testing.assert_close(
            torch.autograd.grad(layer(batch, y, z).sin().sum(), (y, z)),
            torch.autograd.grad(plainly(batch, y, z).sin().sum(), (y, z)),
        )
    assert len(counted) == 3
    with pytest.raises(contractc.OperandError, match="operand 1 has shape"):
        layer(x, y[:2], z)


def test_constants_are_part_of_the_backward_code(counted: list[int]) -> None:
    x, y, z = drawn("ij,jk,kl->il", extent=3)
    fixed = contractc.compile("ij,jk,kl->il", x, y, z, constants=(1,))
    given = [x.clone().requires_grad_(), z.clone().requires_grad_()]
    made = torch.autograd.grad(fixed(*given).sin().sum(), given)
    torch.testing.assert_close(made, torch.autograd.grad(plainly(given[0], y, given[1]).sin().sum(), given))
    assert counted


def test_large_batched_products_differentiate_as_a_whole() -> None:
    weight = formats.monarch(torch.randn(1, 32, 32, 32), torch.randn(1, 32, 32, 32))
    x = torch.randn(256, 1024)
    factors = [f.clone().requires_grad_() for f in weight.factors]
    layer = contractc.compile("bi,oi->bo", x, weight)
    assert "_Contraction" in type(layer(x, *factors).grad_fn).__name__
    small = contractc.compile("ij,jk,kl->il", *drawn("ij,jk,kl->il"))
    assert (
        "_Contraction"
        not in type(small(*[f.requires_grad_() for f in drawn("ij,jk,kl->il")]).grad_fn).__name__
    )


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("packing", [as_it_is, pack])
def test_value_and_gradients_cut_in_two_give_both(row: Expression, packing: Any) -> None:
    operands, cotangent, conj, expected = case(row, "complex128")
    program = lower(search(bound(row, operands, conj=conj)), Target())
    numbers = [v.number for v in program.inputs]
    both = joined(program, numbers, packing)
    assert both is not None
    forward, back = cut(both)
    assert [p.faults() for p in (both, forward, back)] == [[], [], []]
    same(both.evaluate(*operands, cotangent), expected)
    results = dict(zip(forward.results, forward.evaluate(*operands), strict=True))
    known = dict(zip(numbers, operands, strict=True)) | results
    gradients = back.evaluate(*(known[v.number] for v in back.inputs[:-1]), cotangent)
    same((results[forward.results[0]], *gradients), expected)


def test_what_inputs_give_cheaply_is_not_kept() -> None:
    plan = contractc.plan("bijk,io,oj->bk", (64, 32, 32, 32), (32, 8), (8, 32))
    program = lower(plan, Target(backend="torch"))
    both = joined(program, [v.number for v in program.inputs], pack)
    assert both is not None
    made = {v.number: step for step in both.steps for v in step.outs}
    copies = {n for n, step in made.items() if isinstance(step, Contract) and step.how == COPY}
    forward, back = cut(both)
    assert copies and not copies.intersection(forward.results)
    assert {v.number for v in back.inputs[:-1]} <= {v.number for v in program.inputs} | {*forward.results[1:]}


def test_what_only_autograd_watched_can_be_watched_on_the_way_back(counted: list[int]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tensors = [torch.randn(64, 64, requires_grad=True) for _ in range(3)]
    first = torch.autograd.grad(contractc.contract("ij,jk,kl->il", *tensors).sum(), tensors)
    value = contractc.contract("ij,jk,kl->il", *tensors).sum()
    with FlopCounterMode(display=False) as counter:
        again = torch.autograd.grad(value, tensors)
    assert counted and counter.get_total_flops() >= 4 * 2 * 64**3
    torch.testing.assert_close(again, first)


def test_peak_in_training_is_what_forward_and_backward_hold_together() -> None:
    """The peak of value and gradients counts what is kept between the two, once.

    The arrays are smaller than those whose memory is used again, which would not be traced.
    """
    cores = [torch.randn(s, requires_grad=True) for s in ((1, 16, 16, 8), (8, 16, 16, 1))]
    x = torch.randn(400, 256, requires_grad=True)
    compiled = contractc.compile("bi,oi->bo", x, formats.tt_matrix(cores))
    cotangent = torch.ones(400, 256)

    def call() -> Any:
        return torch.autograd.grad(compiled(x, *cores), (x, *cores), cotangent)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, long programs are torch's, whose memory is not traced
    try:
        for _ in range(training.CALLS_BEFORE + 1):
            call()
        tracemalloc.start()
        call()
        made = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        torch.set_num_threads(threads)
    given = sum(t.nbytes for t in (x, *cores, cotangent))
    printed = training.peak_in_training(compiled.program, [v.number for v in compiled.program.inputs])
    assert printed == pytest.approx(given + made, rel=0.1)


def test_results_made_again_that_no_step_reads_come_last() -> None:
    known = [Value(0, (0, 1), "float64"), Value(1, (1, 0), "float64"), Value(2, (0, 0), "float64")]
    view, product = Value(3, (1, 0), "float64"), Value(4, (0,), "float64")
    steps = (Contract(view, (0,)), Contract(product, (3, 1)), Contract(Value(5, (0, 0), "float64"), (2,)))
    both = Program(tuple(known), steps, (4, 5, 3), (70, 80))
    assert both.faults() == []
    forward, back = cut(both)
    assert [s.outs[0].number for s in forward.steps] == [3, 4] and forward.results == (4,)
    assert [s.outs[0].number for s in back.steps] == [5, 3] and back.results == (5, 3)
    assert [p.faults() for p in (forward, back)] == [[], []]


# values whose range is guarded


CHAIN = 56


def guarded_chain(dtype: Any) -> tuple[list[Any], list[Any]]:
    """Return matrices whose product is near 1 while that of the first half overflows, and the arguments of it."""
    generator = torch.Generator().manual_seed(3)
    matrices = []
    for k in range(CHAIN):
        x = torch.randn(2, 2, dtype=dtype, generator=generator) * 2.0 ** (6 if k < CHAIN // 2 else -6)
        matrices.append(x.requires_grad_())
    return matrices, [part for k, x in enumerate(matrices) for part in (x, [k, k + 1])] + [[0, CHAIN]]


def derivatives(product: Any, matrices: list[Any]) -> list[Any]:
    """Return a product, its gradients, and gradients of a function of these; all in double precision, at most 1."""
    found = [product]
    firsts = torch.autograd.grad(product.sum().abs(), matrices, create_graph=True)
    found += firsts
    scaled = sum((g * m).sum().abs() ** 2 for g, m in zip(firsts, matrices, strict=True))
    found += torch.autograd.grad(scaled, matrices)
    wide = torch.complex128 if product.is_complex() else torch.float64
    return [x.detach().to(wide) for x in found]


def test_derivatives_of_chains_that_leave_the_range_on_the_way(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contractc.hosted.LONG_SECONDS", 1.0)
    matrices, arguments = guarded_chain(torch.complex64)
    executable = contractc.compile(*arguments)
    assert sum(isinstance(step, Call) for step in executable.program.steps) > 2
    found = derivatives(executable(*matrices), matrices)
    assert counted
    exact = [x.detach().to(torch.complex128).requires_grad_() for x in matrices]
    expected = derivatives(reduce(torch.matmul, exact), exact)
    for mine, right in zip(found, expected, strict=True):
        assert 0 < right.abs().max() < 1e30
        torch.testing.assert_close(mine, right, rtol=0, atol=2e-4 * float(right.abs().max()))


def test_guarded_value_and_gradients_run_as_programs_with_exponents() -> None:
    matrices, arguments = guarded_chain(torch.float32)
    program = contractc.compile(*arguments).program
    numbers = [v.number for v in program.inputs]
    parts = parts_for_numpy(natural_layout(all_unfused(program)), numbers)
    assert parts is not None
    for part in (parts.forward, parts.back):
        assert part.faults() == [] and any(isinstance(step, Call) for step in part.steps)
    arrays = [x.detach().numpy() for x in matrices]
    made = dict(zip(parts.forward.results, parts.forward.evaluate(*arrays), strict=True))
    known = dict(zip(numbers, arrays, strict=True)) | made
    ones = np.ones((2, 2), np.float32)
    gradients = parts.back.evaluate(*(known[v.number] for v in parts.back.inputs[:-1]), ones)
    exact = [x.detach().double().requires_grad_() for x in matrices]
    product = reduce(torch.matmul, exact)
    expected = torch.autograd.grad(product, exact, torch.ones_like(product))
    pairs = zip((made[parts.forward.results[0]], *gradients), (product, *expected), strict=True)
    for mine, right in pairs:
        exactly = right.detach().numpy()
        np.testing.assert_allclose(mine, exactly, rtol=0, atol=2e-4 * np.abs(exactly).max())


def test_mantissas_have_gradients_and_exponents_none(counted: list[int]) -> None:
    matrices, arguments = guarded_chain(torch.float64)
    mantissa, exponent = contractc.contract(*arguments, strip_exponent=True)
    assert isinstance(exponent, int)
    found = torch.autograd.grad((mantissa * 2.0**exponent).sum(), matrices)
    expected = torch.autograd.grad(reduce(torch.matmul, matrices).sum(), matrices)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9 * float(right.abs().max()))
