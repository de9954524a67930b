"""Training through one backward program beside torch differentiating each call: CPU, one thread.

    python benchmarks/training.py [--rounds 60]

Times are medians of interleaved rounds in one process, the ratio the median of the paired ratios with its 95 %
bootstrap interval. `kept` are the bytes that either way keeps between forward and backward. Lines go to
benchmarks/results/training.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import contractc
from contractc import formats, training
from contractc.bench.limits import machine
from contractc.bench.measure import interleaved
from contractc.bench.stats import paired
from contractc.operands import flattened

RESULTS = Path(__file__).parent / "results" / "training.jsonl"


def drawn(*shape: int) -> torch.Tensor:
    scale: float = shape[-1] ** -0.5
    return torch.randn(shape) * scale


def cases() -> dict[str, tuple[str, list[Any]]]:
    """Return expressions with operands, by name."""
    return {
        "product 64": ("ij,jk->ik", [drawn(64, 64), drawn(64, 64)]),
        "chain 128": ("ij,jk,kl->il", [drawn(128, 128)] * 3),
        "Monarch 1024x1024, batch 256": (
            "bi,oi->bo",
            [drawn(256, 1024), formats.monarch(drawn(1, 32, 32, 32), drawn(1, 32, 32, 32))],
        ),
        "block TT 512x512 rank 4, batch 64": (
            "bi,oi->bo",
            [drawn(64, 512), formats.monarch(drawn(4, 16, 32, 16), drawn(4, 16, 32, 16))],
        ),
        "low rank 4096x4096 rank 16, batch 256": (
            "bi,oi->bo",
            [drawn(256, 4096), formats.low_rank(drawn(4096, 16), drawn(16, 4096))],
        ),
        "Kronecker 1024x1024, batch 256": (
            "bi,oi->bo",
            [drawn(256, 1024), formats.kronecker(drawn(1, 32, 32), drawn(1, 32, 32))],
        ),
    }


def kept(function: Callable[..., Any], operands: list[Any]) -> int:
    """Return the bytes of all storages that `function` of `operands` keeps for the backward pass."""
    found: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = function(*operands)
    assert result.requires_grad
    return sum(found.values())


def compiled(text: str, operands: list[Any]) -> dict[str, Any]:
    """Return the expression compiled in either way, and as contractc chooses."""
    usual = training.LEAST_SECONDS, training._copies_batches
    ways = {"chosen": contractc.compile(text, *operands, mode="train")}
    try:
        training._copies_batches = lambda program: True
        for way, least in (("joint", 0.0), ("each call", float("inf"))):
            training.LEAST_SECONDS = least
            ways[way] = contractc.compile(text, *operands, mode="train")
    finally:
        training.LEAST_SECONDS, training._copies_batches = usual
    return ways


def run(name: str, text: str, operands: list[Any], rounds: int) -> list[dict[str, Any]]:
    """Return the measurements of one case, with and without the gradient of the first operand."""
    ways, lines = compiled(text, operands), []
    for first in (True, False):
        given = [x.clone().requires_grad_(bool(k) or first) for k, x in enumerate(flattened(operands))]
        wanted = [x for x in given if x.requires_grad]
        cotangent = torch.randn_like(ways["joint"](*given))
        joint = "_Contraction" in type(ways["chosen"](*given).grad_fn).__name__

        def trained(way: str, given: Any = given, wanted: Any = wanted, cotangent: Any = cotangent) -> Any:
            return lambda: torch.autograd.grad(ways[way](*given), wanted, cotangent)

        calls = {way: trained(way) for way in ("joint", "each call")}
        for one, other in zip(calls["joint"](), calls["each call"](), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        seconds = interleaved(calls, rounds)
        bound = paired(seconds["joint"], seconds["each call"])
        line: dict[str, Any] = {"case": name, "gradient of the first operand": first}
        line |= {"chosen": "joint" if joint else "each call", "ratio": [round(r, 3) for r in bound]}
        for way in calls:
            line[f"{way} ms"] = round(median(seconds[way]) * 1e3, 4)
            line[f"{way} kept"] = kept(ways[way], given)
        lines.append(line)
        print(
            f"{name:38} {'all' if first else 'weights':8} joint {line['joint ms']:8.3f} ms, each call "
            f"{line['each call ms']:8.3f} ms, {bound}x, kept {line['joint kept']} and {line['each call kept']} "
            f"bytes, chosen: {line['chosen']}"
        )
    return lines


def main() -> None:
    """Measure all cases and write the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    where = {**machine(), "torch": torch.__version__, "threads": 1, "rounds": rounds}
    lines = [line | where for name, (text, xs) in cases().items() for line in run(name, text, xs, rounds)]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
