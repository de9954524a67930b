"""Factorized layers on torch, CPU, one thread: contractc's choice beside the dense layer and pairwise evaluation.

    python benchmarks/factorized.py [--rounds 30]

Times are medians of interleaved rounds in one process; a ratio is the other's time over contractc's, as the median
of the paired ratios with its 95 % interval. Results are checked against the dense layer in float64. Lines go
to benchmarks/results/factorized.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import opt_einsum
import torch

import contractc
from contractc import formats
from contractc.bench import limits
from contractc.bench.measure import interleaved
from contractc.bench.stats import paired
from contractc.formats import Factorized

RESULTS = Path(__file__).parent / "results" / "factorized.jsonl"


@dataclass(frozen=True, slots=True)
class Case:
    """A linear layer y = x W^T with a factorized W, and the einsum of its pairwise evaluation by other libraries."""

    name: str
    weight: Factorized
    batch: int
    pairwise: str
    split: tuple[int, ...]


def drawn(*shape: int) -> torch.Tensor:
    scale: float = shape[-1] ** -0.5
    return torch.randn(shape) * scale


def tensor_train(name: str, rows: Sequence[int], columns: Sequence[int], rank: int, batch: int) -> Case:
    d = len(rows)
    ranks = [1, *[rank] * (d - 1), 1]
    cores = [drawn(ranks[k], rows[k], columns[k], ranks[k + 1]) for k in range(d)]
    bonds, out, inner = "zyxwvut", "ABCDEFG", "abcdefg"
    terms = [bonds[k] + out[k] + inner[k] + bonds[k + 1] for k in range(d)]
    pairwise = f"n{inner[:d]},{','.join(terms)}->n{out[:d]}"
    return Case(name, formats.tt_matrix(cores), batch, pairwise, tuple(columns))


def cases() -> list[Case]:
    """Return the layers; sizes are those of the papers and issues they come from."""
    monarch = formats.monarch(drawn(1, 32, 32, 32), drawn(1, 32, 32, 32))
    block = formats.monarch(drawn(4, 16, 32, 16), drawn(4, 16, 32, 16))
    lora = formats.low_rank(drawn(4096, 16), drawn(16, 4096))
    kronecker = formats.kronecker(drawn(1, 32, 32), drawn(1, 32, 32))
    blocks = "bnq,rmnq,rmsq->bms"
    return [
        tensor_train("TT 1024x1024 rank 8, batch 256", (4, 8, 8, 4), (4, 8, 8, 4), 8, 256),
        tensor_train("TT 4096x25088 rank 4, batch 100", (4,) * 6, (2, 7, 8, 8, 7, 4), 4, 100),
        Case("Monarch 1024x1024, batch 256", monarch, 256, blocks, (32, 32)),
        Case("block TT 512x512 rank 4, batch 64", block, 64, blocks, (32, 16)),
        Case("low rank 4096x4096 rank 16, batch 256", lora, 256, "bi,or,ri->bo", (4096,)),
        Case("Kronecker 1024x1024, batch 256", kronecker, 256, "bjm,sij,slm->bil", (32, 32)),
    ]


def layers(
    case: Case,
) -> tuple[dict[str, Callable[[torch.Tensor], torch.Tensor]], list[torch.Tensor], torch.Tensor]:
    """Return the three ways to compute a layer, the factors and the dense matrix, which are their parameters."""
    factors = [x.clone().requires_grad_() for x in case.weight.factors]
    dense = case.weight.to_dense().detach().clone().requires_grad_()
    size = dense.shape[1]
    layer = contractc.compile("bi,oi->bo", torch.empty(case.batch, size), case.weight)
    pairwise = opt_einsum.contract_expression(
        case.pairwise, (case.batch, *case.split), *(x.shape for x in factors), optimize="optimal"
    )
    print(f"\n{case.name}: {layer.plan.choices[0]}")
    return (
        {
            "contractc": lambda x: layer(x, *factors),
            "dense": lambda x: x @ dense.T,
            "pairwise": lambda x: pairwise(x.reshape(case.batch, *case.split), *factors).reshape(
                case.batch, -1
            ),
        },
        factors,
        dense,
    )


def checked(case: Case) -> None:
    """Raise AssertionError if the layer or a gradient in float64 is not that of the dense layer."""
    factors = [x.double().requires_grad_() for x in case.weight.factors]
    weight = Factorized(case.weight.layout, tuple(factors))
    x = torch.randn(case.batch, weight.shape[1], dtype=torch.float64)
    cotangent = torch.randn(case.batch, weight.shape[0], dtype=torch.float64)
    results = []
    for y in (contractc.contract("bi,oi->bo", x, weight), x @ weight.to_dense().T):
        results.append([y.detach(), *torch.autograd.grad((y * cotangent).sum(), factors)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def run(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Return the measurements of one case, forward and forward with backward, and print them."""
    checked(case)
    ways, factors, dense = layers(case)
    x = torch.randn(case.batch, case.weight.shape[1])
    cotangent = torch.randn(case.batch, case.weight.shape[0])

    def trained(name: str) -> Callable[[], object]:
        parameters = [dense] if name == "dense" else factors
        return lambda: torch.autograd.grad(ways[name](x), parameters, cotangent)

    def inferred(name: str) -> Callable[[], object]:
        def once() -> object:
            with torch.no_grad():
                return ways[name](x)

        return once

    lines = []
    for kind, make in (("forward", inferred), ("forward+backward", trained)):
        seconds = interleaved({name: make(name) for name in ways}, rounds, round_seconds=0.0)
        line: dict[str, Any] = {"case": case.name, "kind": kind}
        line |= {f"{name}_ms": round(median(s) * 1e3, 4) for name, s in seconds.items()}
        for name in ("dense", "pairwise"):
            line[f"{name}_ratio"] = [round(r, 3) for r in paired(seconds["contractc"], seconds[name])]
        lines.append(line)
        shown = "  ".join(
            f"{name} {line[f'{name}_ms']:8.3f} ms ({r[0]:.2f}x, {r[1]:.2f} to {r[2]:.2f})"
            for name in ("dense", "pairwise")
            for r in [line[f"{name}_ratio"]]
        )
        print(f"  {kind:17} contractc {line['contractc_ms']:8.3f} ms  {shown}")
    return lines


def main() -> None:
    """Measure all cases and write the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    machine = {"cpu": limits.machine()["device"], "torch": torch.__version__, "threads": 1, "rounds": rounds}
    lines = [line | machine for case in cases() for line in run(case, rounds)]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
