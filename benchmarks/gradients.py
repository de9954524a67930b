"""How many times longer than the value the value and all gradients take: seconds, flops, predicted seconds.

    python benchmarks/gradients.py [--rounds 15] [--out FILE]

Both are compiled for NumPy arrays of float64 and timed in interleaved rounds, by the processor's time of this process:
other work takes a shared core for milliseconds, which strikes calls of some milliseconds only. Run it with one thread.
`flops` is the ratio that the plans say; a program may do more, where it computes again what value and gradients share
because fused loops are predicted to be faster. Lines go to benchmarks/results/gradients.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np

import contractc
from contractc.bench.limits import machine
from contractc.bench.measure import interleaved
from contractc.bench.stats import paired
from contractc.lower.seconds import program_seconds

RESULTS = Path(__file__).parent / "results" / "gradients.jsonl"

CASES: dict[str, tuple[str, dict[str, int]]] = {
    "chain": ("ij,jk,kl,lm->im", dict.fromkeys("ijklm", 300)),
    "MPS": ("apb,bqc,crd,dse->apqrse", {**dict.fromkeys("abcde", 24), **dict.fromkeys("pqrs", 4)}),
    "CP": ("ia,ja,ka->ijk", {**dict.fromkeys("ijk", 60), "a": 20}),
    "MTTKRP": ("ijk,jr,kr->ir", {**dict.fromkeys("ijk", 80), "r": 16}),
    "4x4, three": ("bij,bjk,bkl->bil", {"b": 5000, **dict.fromkeys("ijkl", 4)}),
    "4x4, four": ("bij,bjk,bkl,blm->bim", {"b": 5000, **dict.fromkeys("ijklm", 4)}),
    "hyperedge": ("abx,bcx,cdx->adx", dict.fromkeys("abcdx", 40)),
    "factor chain": ("bi,ir,jr,kr->bjk", {"b": 500, "i": 64, "r": 16, "j": 32, "k": 32}),
    "TT layer": ("bxy,xpr,yqr->bpq", {"b": 500, **dict.fromkeys("xypq", 16), "r": 4}),
    "TT layer, three": ("bxyz,xpr,ryqs,szt->bpqt", {"b": 300, **dict.fromkeys("xyzpqt", 8), "r": 4, "s": 4}),
    "Tucker core": ("ia,ja,ka,la,ijkl->", {**dict.fromkeys("ijkl", 24), "a": 8}),
    "product of vectors": ("i,i,i->", {"i": 10**6}),
    "Clebsch-Gordan": ("bi,bj,ijk->bk", {"b": 5000, "i": 5, "j": 5, "k": 7}),
    "Clebsch-Gordan, weighted": (
        "bui,bvj,ijk,uvw->bwk", {"b": 300, **dict.fromkeys("uvw", 8), "i": 5, "j": 3, "k": 5}),
    "quadratic forms": ("bi,ij,bj->b", {"b": 2000, "i": 64, "j": 64}),
}  # fmt: skip


def run(name: str, rounds: int) -> dict[str, Any]:
    """Return the measurements of one case."""
    text, extents = CASES[name]
    terms, _, out = text.partition("->")
    rng = np.random.default_rng(0)
    *operands, cotangent = (rng.standard_normal([extents[c] for c in t]) for t in (*terms.split(","), out))
    value = contractc.compile(text, *operands)
    both = contractc.compile_gradients(text, *operands)
    calls = {"value": lambda: value(*operands), "both": lambda: both(*operands, cotangent)}
    np.testing.assert_allclose(calls["both"]()[0], calls["value"](), rtol=1e-9, atol=1e-7)
    seconds = interleaved(calls, rounds, clock=process_time)
    return {
        "case": name,
        "text": text,
        "value ms": round(median(seconds["value"]) * 1e3, 4),
        "both ms": round(median(seconds["both"]) * 1e3, 4),
        "ratio": [round(r, 3) for r in paired(seconds["value"], seconds["both"])],
        "flops": round(both.plan.flops / value.plan.flops, 3),
        "predicted": round(program_seconds(both.program) / program_seconds(value.program), 3),
        "machine": machine(),
    }


def main() -> None:
    """Measure all cases and write the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    for name in CASES:
        line = run(name, given.rounds)
        print(
            f"{name:26} value {line['value ms']:8.3f} ms, with gradients {line['both ms']:8.3f} ms, {line['ratio']}x, "
            f"flops {line['flops']}x, predicted {line['predicted']}x",
            flush=True,
        )
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
