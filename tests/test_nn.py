"""Modules with factorized weights against the same with dense weights."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import contractc
from contractc import formats
from contractc.nn import (
    TCL,
    TRL,
    Adapter,
    FactorizedConv,
    FactorizedEmbedding,
    FactorizedLinear,
    Weight,
    fresh,
)
from contractc.nn.weights import FORMATS, balanced, default_split

DOUBLE = torch.float64
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: FactorizedLinear(24, 12, rank=3, dtype=DOUBLE),
    "embedding": lambda: FactorizedEmbedding(24, 12, rank=3, dtype=DOUBLE),
    "conv": lambda: FactorizedConv(3, 4, (3, 3), rank=3, dtype=DOUBLE),
    "TCL": lambda: TCL((4, 3), (2, 5), dtype=DOUBLE),
    "TRL": lambda: TRL((4, 3), 5, rank=2, dtype=DOUBLE),
    "adapter": lambda: Adapter(nn.Linear(24, 12, dtype=DOUBLE), kind="aflora", rank=2),
}


def sample(name: str) -> torch.Tensor:
    torch.manual_seed(1)
    shapes = {"conv": (2, 3, 6, 5), "TCL": (2, 4, 3), "TRL": (2, 4, 3)}
    if name == "embedding":
        return torch.randint(24, (2, 5))
    return torch.randn(shapes.get(name, (2, 5, 24)), dtype=DOUBLE)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def gradients(output: torch.Tensor, parameters: Any) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), list(parameters), allow_unused=True))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("lead", [(), (1,), (7,), (0,), (2, 3)])
def test_linear_is_the_dense_layer(format: str, lead: tuple[int, ...]) -> None:
    layer = FactorizedLinear(24, 12, format=format, rank=3, dtype=DOUBLE)
    x = torch.randn(*lead, 24, dtype=DOUBLE, requires_grad=True)
    dense = layer.weight.operand().to_dense()
    found, expected = layer(x), F.linear(x, dense, layer.bias)
    close(found, expected)
    leaves = [x, *layer.parameters()]
    for one, two in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        close(one, two)


@pytest.mark.parametrize("format", FORMATS)
def test_fresh_weights_have_the_deviation_of_a_linear_layer(format: str) -> None:
    torch.manual_seed(0)
    operand = fresh(format, default_split(format, (256, 256)), 8)
    assert operand.to_dense().std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.4)


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_gives_rows_of_the_dense_table(format: str) -> None:
    layer = FactorizedEmbedding(24, 12, format=format, rank=2, dtype=DOUBLE)
    dense = layer.weight.operand().to_dense()
    for index in (torch.tensor(23), torch.randint(24, (3, 4)), torch.zeros(0, dtype=torch.long)):
        close(layer(index), dense[index])
    index = torch.tensor([0, 23, 0])
    leaves = list(layer.parameters())
    for one, two in zip(gradients(layer(index), leaves), gradients(dense[index], leaves), strict=True):
        close(one, two)


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_refuses_rows_that_are_not_there(format: str) -> None:
    layer = FactorizedEmbedding(24, 12, format=format, rank=2, dtype=DOUBLE)
    dense = layer.weight.operand().to_dense()
    close(layer(torch.tensor([-1, -24])), dense[[-1, -24]])
    for row in (24, 47, -25):
        with pytest.raises(IndexError):
            layer(torch.tensor([0, row]))
    for table in (nn.Embedding(24, 12, padding_idx=0), nn.Embedding(24, 12, max_norm=1.0)):
        with pytest.raises(contractc.OperandError, match="padding_idx, max_norm or scale_grad_by_freq"):
            FactorizedEmbedding.from_layer(table, format=format, rank=2)


@pytest.mark.parametrize("format", ["cp", "tucker", "tt"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolution_is_the_dense_one(format: str, axes: int) -> None:
    kernel, stride, padding, dilation = (3, 2, 1)[:axes], (2, 1, 1)[:axes], (1, 0, 1)[:axes], (1, 2, 1)[:axes]
    layer = FactorizedConv(
        4, 5, kernel, format=format, rank=3, stride=stride, padding=padding, dilation=dilation, dtype=DOUBLE
    )
    x = torch.randn(2, 4, *(7, 6, 5)[:axes], dtype=DOUBLE, requires_grad=True)
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    found = layer(x)
    expected = function(x, layer.kernel(), layer.bias, stride, padding, dilation)
    close(found, expected)
    leaves = [x, *layer.parameters()]
    for one, two in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        close(one, two)


def test_contraction_and_regression_layers_are_their_einsum() -> None:
    x = sample("TCL")
    layer = TCL((4, 3), (2, 5), dtype=DOUBLE)
    assert layer.bias is not None
    expected = torch.einsum("bcd,Cc,Dd->bCD", x, *layer.factors) + layer.bias
    close(layer(x), expected)
    for format in ("cp", "tucker", "tt"):
        regression = TRL((4, 3), 5, format=format, rank=2, dtype=DOUBLE)
        dense = regression.weight.operand().to_dense()
        assert regression.bias is not None
        close(regression(x), torch.einsum("bcd,cdo->bo", x, dense) + regression.bias)


@pytest.mark.parametrize("format", FORMATS)
def test_from_layer_keeps_its_tolerance(format: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 16, dtype=DOUBLE)
    tolerance = 0.5 if format == "cp" else 0.2
    made = FactorizedLinear.from_layer(layer, format=format, tolerance=tolerance, split=((4, 4), (3, 4)))
    dense = made.weight.operand().to_dense()
    assert (dense - layer.weight).norm() <= tolerance * layer.weight.norm()
    assert made.bias is not None
    assert torch.equal(made.bias, layer.bias)
    x = torch.randn(5, 12, dtype=DOUBLE)
    close(made(x), x @ dense.T + layer.bias)
    back = made.to_layer()
    close(back(x), made(x))
    assert all(p.requires_grad for p in back.parameters())


def test_from_layer_of_embeddings_and_convolutions() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(20, 6, dtype=DOUBLE)
    made = FactorizedEmbedding.from_layer(table, tolerance=1e-9, split=((4, 5), (2, 3)))
    close(made(torch.arange(20)), table.weight.detach())
    close(made.to_layer().weight, table.weight)
    convolution = nn.Conv2d(4, 5, 3, stride=2, padding=1, dtype=DOUBLE)
    x = torch.randn(2, 4, 7, 7, dtype=DOUBLE)
    for format in ("tucker", "tt"):
        close(FactorizedConv.from_layer(convolution, format=format, tolerance=1e-10)(x), convolution(x))
    with pytest.raises(contractc.OperandError, match="a convolution with groups"):
        FactorizedConv.from_layer(nn.Conv2d(4, 4, 3, groups=2), rank=1)


@pytest.mark.parametrize("kind", ["lora", "loretta", "aflora"])
def test_adapter_starts_at_zero_and_can_be_merged(kind: str) -> None:
    layer = nn.Linear(24, 12, dtype=DOUBLE)
    adapter = Adapter(layer, kind=kind, rank=2, scale=0.5)
    x = torch.randn(3, 24, dtype=DOUBLE)
    close(adapter(x), layer(x))
    trained = [name for name, p in adapter.named_parameters() if p.requires_grad]
    assert all(name.startswith("delta.") for name in trained)
    adapter(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.delta.parameters())
    with torch.no_grad():
        for p in adapter.delta.parameters():
            p.add_(torch.randn_like(p))
    close(adapter.merged()(x), adapter(x))
    close(adapter(x), layer(x) + 0.5 * x @ adapter.delta.weight.operand().to_dense().T)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_are_copied_pickled_and_restored(name: str) -> None:
    layer, x = LAYERS[name](), sample(name)
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(other(x), expected)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = LAYERS[name]()
    other.load_state_dict(torch.load(file, weights_only=True))
    close(other(x), expected)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_state_holds_factors_only(name: str) -> None:
    layer = LAYERS[name]()
    allowed = ("factors.", "bias", "layer.")
    names = [n.removeprefix("delta.").removeprefix("weight.") for n in layer.state_dict()]
    assert all(n.startswith(allowed) for n in names), names


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_change_dtype(name: str) -> None:
    layer, x = LAYERS[name](), sample(name)
    expected = layer(x)
    narrow = layer.float()(x.float() if x.is_floating_point() else x)
    torch.testing.assert_close(narrow, expected.float(), rtol=1e-4, atol=1e-4)
    assert layer.double()(x).dtype == DOUBLE


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_without_values_get_them_later(name: str) -> None:
    layer, x = LAYERS[name](), sample(name)
    expected = layer(x)
    state = copy.deepcopy(layer.state_dict())
    empty = layer.to("meta")
    assert empty(x.to("meta")).shape == expected.shape
    assigned = copy.deepcopy(empty)
    assigned.load_state_dict(state, assign=True)
    close(assigned(x), expected)
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(state)
    close(filled(x), expected)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_of_complex_numbers(name: str) -> None:
    torch.manual_seed(2)
    layer: Any = LAYERS[name]().to(torch.complex128)
    x = sample(name)
    x = x if name == "embedding" else x + 1j * x.flip(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    found = layer(x)
    assert found.dtype == torch.complex128
    if name in ("linear", "embedding", "TRL"):
        dense = layer.weight.operand().to_dense()
        text = {"linear": "...i,oi->...o", "embedding": "", "TRL": "bcd,cdo->bo"}[name]
        expected = torch.einsum(text, x, dense) + layer.bias if text else dense[x]
        close(found, expected)
    found.abs().square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)


@pytest.mark.parametrize("format", FORMATS)
def test_some_factors_may_be_frozen(format: str) -> None:
    layer = FactorizedLinear(24, 12, format=format, rank=3, dtype=DOUBLE)
    x = sample("linear")
    whole = torch.autograd.grad(layer(x).square().sum(), list(layer.weight.factors))
    for k, alone in enumerate(layer.weight.factors):
        layer.requires_grad_(False)
        alone.requires_grad_(True)
        close(torch.autograd.grad(layer(x).square().sum(), [alone])[0], whole[k])
    layer.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    assert leaf.grad is not None


class Squares(torch.utils.data.Dataset[torch.Tensor]):
    """A data set that keeps a module, which workers have to be sent."""

    def __init__(self) -> None:
        self.layer = FactorizedLinear(4, 4, rank=2, split=((2, 2), (2, 2))).requires_grad_(False)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> torch.Tensor:
        result: torch.Tensor = self.layer(torch.full((4,), float(k)))
        return result


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_layers_work_with_torch_func_and_export() -> None:
    layer = FactorizedLinear(24, 12, rank=3, dtype=DOUBLE)
    x = torch.randn(5, 24, dtype=DOUBLE)
    weight = layer.weight.operand().to_dense().detach()
    parameters = dict(layer.named_parameters())

    def called(values: Any, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(layer, values, rows)
        return result

    close(
        torch.func.jvp(lambda rows: called(parameters, rows), (x,), (torch.ones_like(x),))[1],
        torch.ones_like(x) @ weight.T,
    )
    each = torch.func.vmap(torch.func.grad(lambda values, row: called(values, row).sum()), (None, 0))(
        parameters, x
    )
    summed = torch.autograd.grad(layer(x).sum(), list(parameters.values()))
    for one, two in zip(each.values(), summed, strict=True):
        close(one.sum(0), two)
    doubled = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
    close(torch.func.vmap(called, (0, None))(doubled, x)[0], layer(x))
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("b")},)).module()
    close(exported(x[:3]), layer(x[:3]))


def test_layers_go_to_workers() -> None:
    data = Squares()
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=1)
    found = torch.cat(list(loader))
    torch.testing.assert_close(found, torch.stack([data[k] for k in range(4)]))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        FactorizedLinear(32, 64, rank=4, split=((8, 8), (4, 8))),
        nn.ReLU(),
        FactorizedLinear(64, 10, format="low_rank", rank=4),
    )


def test_mlp_is_one_graph_for_all_batches_from_the_second_size_on() -> None:
    torch._dynamo.reset()
    graphs = []

    def counted(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph

    model = mlp()
    compiled = torch.compile(model, fullgraph=True, backend=counted)
    for size in (64, 1000, 1, 2, 7, 333):
        x = torch.randn(size, 32)
        found, expected = compiled(x), model(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        parameters = list(model.parameters())
        pairs = zip(gradients(found, parameters), gradients(expected, parameters), strict=True)
        for one, two in pairs:
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        if size not in (64, 1):  # torch makes a graph of its own for a batch of one
            assert len(graphs) <= 3
    assert len(graphs) <= 3


def test_mlp_works_under_autocast_and_checkpoint() -> None:
    model = mlp()
    x = torch.randn(16, 32, requires_grad=True)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model(x)
        assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0.1, atol=0.1)
    saved = checkpoint(model, x, use_reentrant=False)
    parameters = [x, *model.parameters()]
    for one, two in zip(gradients(saved, parameters), gradients(expected, parameters), strict=True):
        torch.testing.assert_close(one, two)


DENSE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(24, 12),
    "embedding": lambda: nn.Embedding(24, 12),
    "conv": lambda: nn.Conv2d(3, 4, 3),
    "adapter": lambda: nn.Linear(24, 12),
}
"""What torch.nn has in place of a factorized layer; a TCL and a TRL are einsums, which autocast narrows too."""


@pytest.mark.parametrize(
    ("given", "traced"),
    [(torch.float32, False), (torch.float16, False), (torch.bfloat16, False), (torch.float32, True)],
)
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_have_the_dtypes_of_torch_under_autocast(name: str, given: torch.dtype, traced: bool) -> None:
    layer, x = LAYERS[name]().float(), sample(name)
    x = x if name == "embedding" else x.to(given).requires_grad_()
    run: Callable[..., Any] = layer
    if traced:
        torch._dynamo.reset()
        run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(x)
        dense = DENSE[name]()(x).dtype if name in DENSE else torch.bfloat16
    assert found.dtype == dense
    found.float().square().sum().backward()
    for leaf in (p for p in (x, *layer.parameters()) if p.requires_grad):
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
    wide = layer(x if name == "embedding" else x.detach().float())
    torch.testing.assert_close(found.float(), wide, rtol=0.1, atol=0.1)


def test_autocast_leaves_double_precision_alone() -> None:
    layer = FactorizedLinear(24, 12, rank=3, dtype=DOUBLE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(layer(sample("linear")), layer(sample("linear")))
        assert layer(sample("linear")).dtype == DOUBLE
        with pytest.raises(contractc.OperandError, match="operand 0 is float32, but was compiled as f64"):
            layer(sample("linear").float())


@pytest.mark.parametrize("format", FORMATS)
def test_layers_pass_gradcheck(format: str) -> None:
    layer = FactorizedLinear(4, 4, format=format, rank=2, split=((2, 2), (2, 2)), dtype=DOUBLE)
    x = torch.randn(3, 4, dtype=DOUBLE, requires_grad=True)
    factors = [f.detach().requires_grad_() for f in layer.weight.factors]
    assert torch.autograd.gradcheck(layer.planned.learning, (x, *factors))
    assert torch.autograd.gradgradcheck(layer.planned.learning, (x, *factors))


def test_dropout_leaves_ranks_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    weight = Weight(fresh("cp", ((6,), (5,)), 4, dtype=DOUBLE), dropout=0.5)
    dense = Weight(formats.cp([f.detach() for f in list(weight.factors)[1:]], weight.factors[0].detach()))
    expected = dense.operand().to_dense()
    drawn = torch.stack([weight.operand().to_dense().detach() for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0), expected.detach(), atol=0.05, rtol=0.05)
    assert len({round(float(x.norm()), 9) for x in drawn}) <= 2**4
    close(weight.eval().operand().to_dense(), expected)
    with pytest.raises(contractc.OperandError, match=r"dropout=1\.0 is no probability below 1"):
        Weight(weight.operand(), dropout=1.0)


@pytest.mark.parametrize("format", FORMATS)
def test_masked_ranks_are_gone(format: str) -> None:
    weight = Weight(fresh(format, ((4, 2), (2, 4)), 2, dtype=DOUBLE))
    mode, _ = weight.places[0]
    n = weight.layout.extents[mode]
    before = weight.operand().to_dense().detach()
    mask = torch.arange(n) > 0
    weight.mask(mode, mask)
    factors = [
        f.detach().index_select(t.index(mode), mask.nonzero()[:, 0]) if mode in t else f.detach()
        for f, t in zip(weight.factors, weight.layout.terms, strict=True)
    ]
    if n > 1:
        close(weight.operand().to_dense(), formats.with_factors(weight.layout, factors).to_dense())
        assert not torch.allclose(weight.operand().to_dense(), before)
    assert f"mask_{mode}" in weight.state_dict()
    fresh_one = Weight(fresh(format, ((4, 2), (2, 4)), 2, dtype=DOUBLE))
    fresh_one.load_state_dict(weight.state_dict())
    close(fresh_one.operand().to_dense(), weight.operand().to_dense())
    small = weight.pruned(0.0)
    close(small.operand().to_dense(), weight.operand().to_dense())
    assert small.layout.extents[mode] == max(n - 1, 1)
    with pytest.raises(contractc.OperandError, match="mode 99 is no rank"):
        weight.mask(99, mask)


@pytest.mark.parametrize("format", ["cp", "tt", "tucker", "tt_matrix", "monarch", "low_rank"])
def test_lasso_makes_ranks_vanish(format: str) -> None:
    weight = Weight(fresh(format, ((4, 2), (2, 4)), 2, dtype=DOUBLE), lasso=True)
    assert float(weight.penalty().detach()) == sum(weight.layout.extents[m] for m, _ in weight.places)
    with torch.no_grad():
        for scale in weight.scales.values():
            scale.copy_(torch.linspace(1e-9, 2, len(scale)))
    small = weight.pruned(1e-6)
    torch.testing.assert_close(small.operand().to_dense(), weight.operand().to_dense(), atol=1e-7, rtol=1e-7)
    assert small.operand().parameters < weight.operand().parameters
    assert not list(small.scales)
    weight.penalty().backward()  # type: ignore[no-untyped-call]
    assert all(s.grad is not None for s in weight.scales.values())
    with pytest.raises(contractc.OperandError, match="without lasso=True"):
        small.penalty()


def test_requests_that_make_no_layer_are_refused() -> None:
    with pytest.raises(contractc.OperandError, match="format='svd' is none of cp, tucker"):
        FactorizedLinear(4, 4, format="svd")
    with pytest.raises(contractc.OperandError, match=r"makes \(4, 8\), not \(4, 4\)"):
        FactorizedLinear(4, 4, split=((2, 2), (2, 4)))
    with pytest.raises(contractc.OperandError, match="x has 5 features, the layer takes 4"):
        FactorizedLinear(4, 4, rank=1)(torch.zeros(2, 5))
    with pytest.raises(contractc.OperandError, match="kind='dora' is none of lora, loretta, aflora"):
        Adapter(nn.Linear(4, 4), kind="dora")
    with pytest.raises(
        contractc.OperandError, match=r"this takes a layer of torch, an nn\.Linear, not a Conv2d"
    ):
        Adapter(nn.Conv2d(4, 4, 3))  # type: ignore[arg-type]
    for one in (0, -4, 4.0):
        with pytest.raises(contractc.OperandError, match=f"rows and columns from 1 on, not \\(4, {one}\\)"):
            FactorizedLinear(one, 4)  # type: ignore[arg-type]
    with pytest.raises(contractc.OperandError, match="x has no features, the layer takes 4"):
        FactorizedLinear(4, 4, rank=1)(torch.tensor(1.0))
    table = FactorizedEmbedding(200, 4, format="low_rank", rank=2)
    rows = table.to_layer().weight
    for kind in (torch.uint8, torch.int8, torch.int16):  # bytes are a mask to torch's own indexing
        numbers = torch.arange(200).remainder(100)
        torch.testing.assert_close(table(numbers.to(kind)), rows[numbers])
    for index in (torch.tensor([True]), torch.tensor([1.0])):
        with pytest.raises(contractc.OperandError, match="rows are named by whole numbers, not by torch"):
            FactorizedEmbedding(4, 4, rank=1)(index)
    kinds: list[tuple[Any, nn.Module, str]] = [
        (FactorizedLinear, nn.Conv2d(4, 4, 3), "Linear, not a Conv2d"),
        (FactorizedEmbedding, nn.Linear(4, 4), "Embedding, not a Linear"),
        (FactorizedConv, nn.Linear(4, 4), "Conv3d, not a Linear"),
    ]
    for made, given, name in kinds:
        with pytest.raises(contractc.OperandError, match=f"this takes a layer of torch, .*{name}"):
            made.from_layer(given, rank=1)
    cube = formats.tucker(torch.ones(1, 1, 1), [torch.ones(3, 1)] * 3)
    for layer, what in ((FactorizedLinear, "linear layer"), (FactorizedEmbedding, "table of rows")):
        with pytest.raises(contractc.OperandError, match=f"the weight of a {what} has 2 axes, not 3"):
            layer.from_factors(cube)
    with pytest.raises(contractc.OperandError, match="the factors of a layer are torch tensors"):
        FactorizedLinear.from_factors(formats.low_rank(np.ones((4, 1)), np.ones((1, 4))))
    with pytest.raises(contractc.OperandError, match="a rank is a whole number from 1 on, not 0"):
        FactorizedLinear(4, 4, rank=0)
    with pytest.raises(contractc.OperandError, match="1 ranks for 2 modes"):
        FactorizedLinear(4, 4, rank=(2,), format="tucker", split=((4,), (4,)))
    with pytest.raises(
        contractc.OperandError, match=r"the kernel is a number for each axis, such as \(3, 3\)"
    ):
        FactorizedConv(4, 4, 3)  # type: ignore[arg-type]
    with pytest.raises(contractc.OperandError, match="padding is given in numbers, not as 'same'"):
        FactorizedConv(4, 4, (3, 3), padding="same")  # type: ignore[arg-type]


def test_near_equal_factors() -> None:
    assert balanced(25088, 3) == (32, 28, 28)
    assert balanced(1, 2) == (1, 1)
    assert balanced(97, 3) == (97, 1, 1)


def test_a_layer_runs_what_was_planned_for_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FactorizedLinear(16, 16, format="monarch", rank=1)
    trained = [t.trained for t in layer.planned.learning.plan.network.tensors]
    assert all(trained) and not any(t.trained for t in layer.planned.inferring.plan.network.tensors)
    words = layer.planned
    monkeypatch.setattr(words, "learning", lambda *_: "train")
    monkeypatch.setattr(words, "inferring", lambda *_: "infer")
    assert words() == "train"
    with torch.no_grad():
        assert words() == "infer"
    layer.eval()
    assert words() == "infer"


def test_equal_layers_share_what_they_run() -> None:
    one, two, other = (FactorizedLinear(16, 16, format="monarch", rank=r) for r in (1, 1, 2))
    assert one.planned.learning is two.planned.learning is not one.planned.inferring
    assert one.planned.inferring is two.planned.inferring
    assert other.planned.learning is not one.planned.learning is not two.double().planned.learning
    assert two.float().planned.learning is one.planned.learning
    x = torch.randn(3, 16)
    torch.testing.assert_close(two(x), F.linear(x, two.weight.operand().to_dense(), two.bias))
    torch.testing.assert_close(one(x), F.linear(x, one.weight.operand().to_dense(), one.bias))
