"""Layers planned for kernels, in the interpreter; some tests are those of tests/test_nn.py once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from drawn import INTERPRETED, kernels_always_win

from contractc.backends.triton.launch import Step
from contractc.machine import Target
from contractc.nn import FactorizedLinear
from contractc.nn.planned import Planned
from contractc.nn.weights import FORMATS, Weight
from test_nn import (
    LAYERS,
    close,
    gradients,
    sample,
    test_layers_are_copied_pickled_and_restored,
    test_layers_without_values_get_them_later,
    test_layers_work_with_torch_func_and_export,
    test_mlp_is_one_graph_for_all_batches_from_the_second_size_on,
    test_mlp_works_under_autocast_and_checkpoint,
)

pytestmark = INTERPRETED

__all__ = [
    "test_layers_are_copied_pickled_and_restored",
    "test_layers_without_values_get_them_later",
    "test_layers_work_with_torch_func_and_export",
    "test_mlp_is_one_graph_for_all_batches_from_the_second_size_on",
    "test_mlp_works_under_autocast_and_checkpoint",
]

DOUBLE = torch.float64


@pytest.fixture(autouse=True, scope="module")
def planned_for_kernels() -> Iterator[None]:
    """Plan layers on the CPU for what runs on a GPU, which the interpreter can run there."""
    with kernels_always_win(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("contractc.nn.planned.where", lambda library, device: Target("triton", "cuda"))
        yield


@pytest.fixture(autouse=True)
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return a count of the kernels launched, by their source.

    An interpreted kernel takes 0.1 s and more, so torch computes what it would: memory in order that autograd does not
    know. Kernels run where the parameter says so.
    """
    found: Counter[str] = Counter()
    run = Step._run

    def counted(step: Step, variant: Any, tensors: Any, extents: Any, out: Any, partial: Any) -> torch.Tensor:
        found[variant.passes[0].source.text] += 1
        if hasattr(request, "param"):
            return run(step, variant, tensors, extents, out, partial)
        with torch.no_grad():
            made: torch.Tensor = step.plain(*tensors).clone(memory_format=torch.contiguous_format)
        return made if out is None else out.copy_(made)

    monkeypatch.setattr(Step, "_run", counted)
    return found


INTERPRET = pytest.mark.parametrize("launched", ["interpreted"], indirect=True)


def small(format: str) -> FactorizedLinear:
    return FactorizedLinear(4, 6, format=format, rank=2, split=((3, 2), (2, 2)), dtype=DOUBLE)


@INTERPRET
@pytest.mark.parametrize("format", FORMATS)
def test_linear_is_the_dense_layer_by_kernels_both_ways(format: str, launched: Counter[str]) -> None:
    layer = small(format)
    x = torch.randn(5, 4, dtype=DOUBLE, requires_grad=True)
    dense = layer.weight.operand().to_dense()
    expected = F.linear(x, dense, layer.bias)
    found = layer(x)
    close(found, expected)
    forward = launched.total()
    leaves = [x, *layer.parameters()]
    for one, two in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        close(one, two)
    assert 0 < forward < launched.total()
    for context in (torch.no_grad(), torch.inference_mode()):
        launched.clear()
        with context:
            close(layer(x), expected)
        assert launched


@pytest.mark.parametrize("format", FORMATS)
def test_layers_pass_gradcheck_by_kernels(format: str) -> None:
    layer = FactorizedLinear(4, 4, format=format, rank=2, split=((2, 2), (2, 2)), dtype=DOUBLE)
    x = torch.randn(3, 4, dtype=DOUBLE, requires_grad=True)
    factors = [f.detach().requires_grad_() for f in layer.weight.factors]
    assert torch.autograd.gradcheck(layer.planned.learning, (x, *factors), fast_mode=True)
    assert torch.autograd.gradgradcheck(layer.planned.learning, (x, *factors), fast_mode=True)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_are_those_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = LAYERS[name](), sample(name)
    kinds = {str(p.learning.target) for p in layer.modules() if isinstance(p, Planned)}
    assert kinds == (set() if name == "conv" else {"triton:cuda"})
    with monkeypatch.context() as patch:
        patch.setattr("contractc.nn.planned.where", lambda library, device: Target(library, device))
        other = LAYERS[name]()
    other.load_state_dict(layer.state_dict())
    for module in (*layer.modules(), *other.modules()):
        if isinstance(module, Weight):
            module.dropout = 0.5
    results = []
    for one in (layer, other):
        torch.manual_seed(3)
        found = one(x)
        trained = [p for p in one.parameters() if p.requires_grad]
        results.append([found, *gradients(found, trained)])
    for a, b in zip(*results, strict=True):
        close(a, b)
    close(layer.eval()(x), other.eval()(x))


def test_all_batches_run_the_same_kernels(launched: Counter[str]) -> None:
    layer = small("tt_matrix")
    planned = layer.planned.learning, layer.planned.inferring
    sources = []
    for size in (64, 7, 1, 0, 2, 1000):
        x = torch.randn(size, 4, dtype=DOUBLE, requires_grad=True)
        found, expected = layer(x), F.linear(x, layer.weight.operand().to_dense(), layer.bias)
        close(found, expected)
        leaves = [x, *layer.parameters()]
        for one, two in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
            close(one, two)
        sources.append(set(launched))
    assert (layer.planned.learning, layer.planned.inferring) == planned
    assert sources[1] == sources[-1]


def test_tracers_and_autocast_see_what_is_planned_for_calls(
    launched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = small("monarch")
    assert layer.planned.watched is not None
    assert {str(one.target) for one in layer.planned.watched} == {"torch"}
    x = torch.randn(5, 4, dtype=DOUBLE)
    for name, one in zip(("learning", "inferring"), layer.planned.watched, strict=True):
        assert [t.trained for t in one.plan.network.tensors] == [name == "learning"] * 3
    torch._dynamo.reset()
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = layer.float()(x.float())
        assert narrow.dtype == torch.bfloat16
    assert not launched
    found = traced(x.float())
    assert not launched
    torch.testing.assert_close(layer(x.float()), found)
    assert launched
    torch.testing.assert_close(narrow.float(), found, rtol=0.1, atol=0.1)
    monkeypatch.setattr(layer.planned, "watched", (lambda *_: "train", lambda *_: "infer"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.planned(x) == "train"
        assert layer.eval().planned(x) == "infer"
