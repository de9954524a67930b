"""Steps of tiny modes and chains over factors on one core: fused, step by step, and by other libraries.

    python benchmarks/fusion.py [--rounds 15] [--out FILE] [case ...]

Every contestant is compiled or planned ahead, outputs are compared, rounds are interleaved in one process. Times are
medians; a ratio is the other's time over that of the fused program, as the median of the paired ratios with a 95 %
bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import opt_einsum
import torch

import contractc
from contractc.backends import backend_named
from contractc.building import conj_and_constant, network_of, plan_of
from contractc.lower import lower
from contractc.machine import processor
from contractc.operands import describe
from contractc.options import Options
from contractc.reading import read_ahead

HERE = Path(__file__).parent
CASES = (
    "batch_small_mm", "equiv_tp", "equiv_tp_w", "slides.tt_rnn", "tltorch.cp_linear", "tltorch.tucker_linear",
    "tltorch.embedding", "tt_rfnn", "ttlayer.vgg_fc6", "stnn", "lowrank_survey",
)  # fmt: skip


def pairwise(text: str, arrays: list[np.ndarray]) -> Callable[..., Any]:
    """Return the expression compiled for NumPy with nothing fused."""
    expression, _, target = read_ahead(text, arrays, "sum_product", None)
    operands = conj_and_constant([describe(x) for x in arrays], (), ())
    plan = plan_of(network_of(expression, operands, target, Options()), Options())
    run: Callable[..., Any] = backend_named("numpy").compile(lower(plan, target), ()).run
    return run


def contestants(text: str, arrays: list[np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Return the ways to compute a case, ours first."""
    tensors = [torch.from_numpy(x) for x in arrays]
    fused = contractc.compile(text, *arrays)
    stepwise = pairwise(text, arrays)
    planned = opt_einsum.contract_expression(text, *(x.shape for x in arrays), optimize="auto")
    return {
        "fused": lambda: fused(*arrays),
        "step by step": lambda: stepwise(*arrays),
        "opt_einsum": lambda: planned(*arrays),
        "opt_einsum on torch": lambda: planned(*tensors),
        "torch.einsum": lambda: torch.einsum(text, *tensors),
    }


def measured(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Return the seconds of each function in each of `rounds` interleaved rounds, in a new order every round."""
    seconds: list[list[float]] = [[] for _ in functions]
    order = list(range(len(functions)))
    for _ in range(rounds + 3):
        random.shuffle(order)
        for k in order:
            start = time.perf_counter()
            functions[k]()
            seconds[k].append(time.perf_counter() - start)
    return [s[3:] for s in seconds]


def ratio(ours: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of other / ours over paired rounds and its 95 % bootstrap interval."""
    pairs = [b / a for a, b in zip(ours, other, strict=True)]
    medians = sorted(median(random.choices(pairs, k=len(pairs))) for _ in range(500))
    return median(pairs), medians[12], medians[487]


def main() -> None:
    """Measure the cases and append the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fusion.jsonl")
    parser.add_argument("case", nargs="*", default=CASES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    rng = np.random.default_rng(0)
    machine = {"cpu": processor(), "numpy": np.__version__, "torch": torch.__version__, "threads": 1}
    for name in ("tiny-modes", "factor-chains"):
        for case in json.loads((HERE / "cases" / f"{name}.json").read_text())["cases"]:
            if case["name"] not in given.case:
                continue
            for dtype in case["dtypes"]:
                arrays = [
                    (rng.standard_normal(s) / max(1, s[-1]) ** 0.5).astype(dtype) for s in case["shapes"]
                ]
                ways = contestants(case["text"], arrays)
                exact = np.asarray(ways["step by step"]())
                for run in ways.values():
                    np.testing.assert_allclose(np.asarray(run()), exact, rtol=1e-2, atol=1e-3)
                seconds = dict(zip(ways, measured(list(ways.values()), given.rounds), strict=True))
                line: dict[str, Any] = {
                    "case": case["name"],
                    "dtype": dtype,
                    "rounds": given.rounds,
                } | machine
                line |= {f"{way} ms": round(median(s) * 1e3, 4) for way, s in seconds.items()}
                line |= {
                    f"{way} ratio": [round(r, 3) for r in ratio(seconds["fused"], s)]
                    for way, s in seconds.items()
                    if way != "fused"
                }
                with given.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                shown = "  ".join(f"{way} {line[f'{way} ratio'][0]:.2f}x" for way in list(ways)[1:])
                print(f"{case['name']:22} {dtype:9} {line['fused ms']:9.3f} ms  {shown}", flush=True)


if __name__ == "__main__":
    main()
