"""Long chains beside the loops that people write for them: CPU, one thread.

    python benchmarks/chains.py [--rounds 15]

An expression of hundreds of operands is compiled once; a loop in Python goes along the chain with one NumPy or torch
call after the other, in the best order there is. `value` is on NumPy arrays, `training` is the value and the gradients
of all operands on torch tensors. Times are medians of interleaved rounds in one process, the ratio is the median of the
paired ratios with its 95 % interval; results are checked against the loop. Lines go to benchmarks/results/chains.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

import contractc
from contractc.bench.limits import machine
from contractc.bench.measure import interleaved
from contractc.bench.stats import paired

RESULTS = Path(__file__).parent / "results" / "chains.jsonl"

Terms = list[list[Any]]


class Chain(NamedTuple):
    """Operands with their terms and those of the output, and the loop that people write, on either library."""

    operands: list[np.ndarray]
    terms: Terms
    output: list[Any]
    by_hand: Callable[[Any, list[Any]], Any]


def mps_on_a_batch(sites: int, rank: int, batch: int) -> Chain:
    """Return a matrix product state on a batch of product states: a classifier of `sites` pixels."""
    rng = np.random.default_rng(0)
    operands, terms = [], []
    for k in range(sites):
        bonds = [f"l{n}" for n in (k, k + 1) if 0 < n < sites]
        near = np.eye(rank)[:, None].repeat(2, 1) + 0.01 * rng.standard_normal((rank, 2, rank))
        core = near if len(bonds) == 2 else near[0] if not k else near[:, :, 0]
        operands += [rng.random((batch, 2)), core]
        terms += [["b", f"p{k}"], [*bonds[: bool(k)], f"p{k}", *bonds[bool(k) :]]]

    def by_hand(library: Any, arrays: list[Any]) -> Any:
        front = arrays[0] @ arrays[1]
        for x, core in zip(arrays[2:-2:2], arrays[3:-2:2], strict=True):
            site = library.tensordot(x, core, ([1], [1]))
            front = library.matmul(front[:, None], site)[:, 0]
        return library.einsum("bl,bp,lp->b", front, arrays[-2], arrays[-1])

    return Chain(operands, terms, ["b"], by_hand)


def norm_of_mps(sites: int, rank: int) -> Chain:
    """Return the norm of a matrix product state of qubits, squared."""
    rng = np.random.default_rng(0)
    operands, terms = [], []
    for k in range(sites):
        left, right = 1 if not k else rank, 1 if k == sites - 1 else rank
        core = rng.standard_normal((left, 2, right)) / (2 * rank) ** 0.5
        operands += [core, core]
        terms += [[f"{side}{k}", f"p{k}", f"{side}{k + 1}"] for side in "ab"]

    def by_hand(library: Any, arrays: list[Any]) -> Any:
        front = library.ones((1, 1)) if library is np else library.ones((1, 1), dtype=arrays[0].dtype)
        for one, two in zip(arrays[::2], arrays[1::2], strict=True):
            half = library.tensordot(front, one, 1)
            front = library.tensordot(half, two, ([0, 1], [0, 1]))
        return front.sum()

    return Chain(operands, terms, [], by_hand)


def hidden_markov_model(steps: int, states: int) -> Chain:
    """Return the likelihood of observations under a hidden Markov model whose transitions differ from step to step."""
    rng = np.random.default_rng(0)
    operands, terms = [rng.random(states)], [["s0"]]
    for k in range(steps):
        operands += [rng.random((states, states)) / states * 2, rng.random(states)]
        terms += [[f"s{k}", f"s{k + 1}"], [f"s{k + 1}"]]

    def by_hand(library: Any, arrays: list[Any]) -> Any:
        front = arrays[0]
        for transition, seen in zip(arrays[1::2], arrays[2::2], strict=True):
            front = (front @ transition) * seen
        return front.sum()

    return Chain(operands, terms, [], by_hand)


CHAINS: dict[str, tuple[Callable[[], Chain], str]] = {
    "MPS of 784 sites, rank 10, batch 64": (lambda: mps_on_a_batch(784, 10, 64), "float32"),
    "MPS of 100 sites, rank 32, batch 64": (lambda: mps_on_a_batch(100, 32, 64), "float32"),
    "norm of an MPS of 100 sites, rank 32": (lambda: norm_of_mps(100, 32), "float64"),
    "hidden Markov model, 500 steps, 16 states": (lambda: hidden_markov_model(500, 16), "float64"),
}


def run(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return the lines of one chain."""
    chain, dtype = CHAINS[name][0](), CHAINS[name][1]
    arrays = [x.astype(dtype) for x in chain.operands]
    tensors = [torch.from_numpy(x.copy()).requires_grad_() for x in arrays]
    start = perf_counter()
    compiled = contractc.compile(*pairs([x.shape for x in arrays], chain), dtype=dtype)
    took = perf_counter() - start
    trained = contractc.compile(*pairs(tensors, chain), mode="train")
    cotangent = torch.ones_like(chain.by_hand(torch, tensors))

    def gradients(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(), tensors, cotangent)

    ways: dict[str, dict[str, Callable[[], Any]]] = {
        "value": {"contractc": lambda: compiled(*arrays), "by hand": lambda: chain.by_hand(np, arrays)},
        "training": {
            "contractc": gradients(lambda: trained(*tensors)),
            "by hand": gradients(lambda: chain.by_hand(torch, tensors)),
        },
    }
    lines = []
    for kind, calls in ways.items():
        for _ in range(6):  # the backward code is made after some calls
            calls["contractc"]()
        same(*(call() for call in calls.values()))
        seconds = interleaved(calls, rounds)
        ratio = paired(seconds["contractc"], seconds["by hand"])
        line = {
            "chain": name,
            "kind": kind,
            "dtype": dtype,
            "ratio": [round(r, 2) for r in ratio],
            "compile s": round(took, 2),
        }
        line |= {f"{way} ms": round(median(found) * 1e3, 3) for way, found in seconds.items()}
        lines.append(line)
        print(
            f"{name:42} {kind:8} contractc {line['contractc ms']:8.2f} ms, by hand {line['by hand ms']:8.2f} ms, "
            f"{ratio}; compiled in {took:.1f} s",
            flush=True,
        )
    return lines


def pairs(given: list[Any], chain: Chain) -> list[Any]:
    """Return operands and terms in turn, and the output."""
    return [x for pair in zip(given, chain.terms, strict=True) for x in pair] + [chain.output]


def same(found: Any, expected: Any) -> None:
    """Check that two results, or two tuples of gradients, are the same numbers."""
    some = isinstance(found, tuple)
    for one, other in zip(found if some else [found], expected if some else [expected], strict=True):
        a, b = np.asarray(one), np.asarray(other)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(b).max()))


def main() -> None:
    """Measure all chains and write the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    where = {**machine(), "numpy": np.__version__, "torch": torch.__version__, "threads": 1, "rounds": rounds}
    lines = [line | where for name in CHAINS for line in run(name, rounds)]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
