"""Two structured layers of a neural network, 1024 to 1024 features, beside the dense layer they stand for.

Both hold far fewer numbers than the 1024x1024 matrix, and both are one einsum of a batch and their factors.
Fewer operations are not fewer seconds: evaluated pairwise, such layers write large intermediates to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import opt_einsum

import contractc
from demo.report import Report, timed

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Structured:
    """A layer: its einsum over the batch [b, in...] and the factors, and its matrix [in, out]."""

    name: str
    expression: str
    batch: Shape
    factors: tuple[Shape, ...]
    dense: Callable[[Sequence[torch.Tensor]], torch.Tensor]


def tt_matrix(batch: int, sizes: Sequence[int], rank: int) -> Structured:
    """Return the tensor-train layer with four cores [rank, in, out, rank] of `sizes` in and out."""
    first, second, third, fourth = sizes
    cores = (
        (first, first, rank),
        (rank, second, second, rank),
        (rank, third, third, rank),
        (rank, fourth, fourth),
    )
    features = first * second * third * fourth
    name = f"TT-matrix {features}x{features}, cores of {'x'.join(map(str, sizes))}, rank {rank}"
    return Structured(name, "bijkl,ipx,xjqy,ykrz,zls->bpqrs", (batch, *sizes), cores, _tt_dense)


def monarch(batch: int, blocks: int, size: int) -> Structured:
    """Return the block-TT (Monarch) layer: block-diagonal, transposed, block-diagonal again.

    Dao et al. 2022: features are a grid [block, place]; the first factor mixes the places of each block, the
    second the blocks at each place.
    """
    factors = ((blocks, size, size), (size, blocks, blocks))
    features = blocks * size
    name = f"block-TT (Monarch) {features}x{features}, {blocks} blocks of {size}x{size}"
    return Structured(name, "bki,kij,jkl->bjl", (batch, blocks, size), factors, _monarch_dense)


def _tt_dense(cores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the matrix [in, out] of a tensor train, by joining core after core."""
    joined = cores[0]
    for core in cores[1:]:
        core = core if core.ndim == 4 else core[..., None]
        rank, inner, outer, last = core.shape
        a, b, _ = joined.shape
        product = joined.reshape(a * b, rank) @ core.reshape(rank, -1)
        joined = product.reshape(a, b, inner, outer, last).permute(0, 2, 1, 3, 4)
        joined = joined.reshape(a * inner, b * outer, last)
    return joined[..., 0]


def _monarch_dense(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the matrix [in, out] of a Monarch layer: (k i, j l) is first[k, i, j] * second[j, k, l]."""
    first, second = factors
    entries = first[:, :, :, None] * second.permute(1, 0, 2)[:, None, :, :]
    k, i, j, ell = entries.shape
    return entries.reshape(k * i, j * ell)


def tensors(layer: Structured, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """Return a random batch and random factors that require gradients."""
    import torch

    random = torch.Generator().manual_seed(seed)
    shapes = (layer.batch, *layer.factors)
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def evaluations(layer: Structured, dtype: str) -> dict[str, Callable[..., torch.Tensor]]:
    """Return the ways to evaluate a layer, each compiled ahead: functions of the batch and the factors."""
    shapes = (layer.batch, *layer.factors)
    return {
        "contractc": contractc.compile(layer.expression, *shapes, dtype=dtype, target="torch"),
        "opt_einsum": opt_einsum.contract_expression(layer.expression, *shapes),
    }


def check(report: Report, layer: Structured, evaluate: Callable[..., torch.Tensor]) -> None:
    """Check the layer and its gradients in float64 against the dense layer."""
    import torch

    given = tensors(layer, torch.float64)
    output = evaluate(*given)
    weight = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(output, given, weight)
    expected = given[0].flatten(1) @ layer.dense(given[1:])
    truths = torch.autograd.grad(expected, given, weight.reshape(expected.shape))
    pairs = zip((output.flatten(1), *gradients), (expected, *truths), strict=True)
    with torch.no_grad():
        worst = max(float((value - truth).abs().max() / truth.abs().max()) for value, truth in pairs)
    what = f"output and {len(gradients)} gradients in float64"
    report.small(f"{what}, largest relative difference from the dense layer's", worst, within=1e-12)


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each of `calls`, all called in every round, each in turn first."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = timed(calls[name])[1]
            if turn:
                seconds[name].append(taken)
    return {name: median(taken) for name, taken in seconds.items()}


def compare(report: Report, layer: Structured, rounds: int) -> None:
    """Print the milliseconds of the layer, forward and in training, beside the dense layer's."""
    import torch

    given = tensors(layer, torch.float32)
    with torch.no_grad():
        matrix = layer.dense(given[1:]).contiguous()
    matrix.requires_grad_()
    batch = given[0].detach().flatten(1).contiguous().requires_grad_()
    operands: dict[str, list[torch.Tensor]] = {"dense": [batch, matrix]}
    functions: dict[str, Callable[..., torch.Tensor]] = {"dense": torch.matmul}
    for name, evaluate in evaluations(layer, "float32").items():
        operands[name], functions[name] = given, evaluate
    weights = {name: torch.ones_like(functions[name](*operands[name])) for name in functions}

    def forward(name: str) -> Callable[[], Any]:
        def call() -> Any:
            with torch.no_grad():
                return functions[name](*operands[name])

        return call

    def training(name: str) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(functions[name](*operands[name]), operands[name], weights[name])

    report.say(f"{'milliseconds':<14}{'forward':>10}{'of dense':>10}{'forward+backward':>18}{'of dense':>10}")
    once = medians({name: forward(name) for name in functions}, rounds)
    both = medians({name: training(name) for name in functions}, rounds)
    for name in functions:
        parts = [1e3 * once[name], once[name] / once["dense"], 1e3 * both[name], both[name] / both["dense"]]
        report.say(f"  {name:<12}{parts[0]:10.2f}{parts[1]:10.2f}{parts[2]:18.2f}{parts[3]:10.2f}")


def run(report: Report, batch: int = 256, rounds: int = 30) -> None:
    """Print the section."""
    report.section(
        "layers: structured weights on torch",
        f"Batch {batch}, one thread, float32, medians of {rounds} interleaved rounds; all compiled ahead,",
        "results in any order of strides",
    )
    try:
        import torch
    except ImportError:
        report.say("skipped: torch is not installed (pip install contractc[torch])")
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for layer in (tt_matrix(batch, (4, 8, 8, 4), 8), monarch(batch, 32, 32)):
            report.say("", f"{layer.name}: {layer.expression}")
            report.plan(contractc.plan(layer.expression, layer.batch, *layer.factors, dtype="float32"))
            compare(report, layer, rounds)
            check(report, layer, evaluations(layer, "float64")["contractc"])
    finally:
        torch.set_num_threads(threads)
