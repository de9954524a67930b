"""Seconds from `import contractc` to a callable for a network of 200 tensors, and to its first result.

From a bundle whose machine code is trusted, from one that is not, and planned afresh.

Each is done in fresh interpreters, interleaved, without the store; the import of NumPy and contractc is not counted.
Results are appended to benchmarks/results/cold_start.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

import contractc

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cold_start.jsonl"
TENSORS = 200
ROUNDS = 5
BAR = 0.1
"""Seconds that loading is to take at most."""

TIMED = """
import sys, time
import numpy, contractc
{before}
start, own = time.perf_counter(), time.process_time()
executable = {call}
print(time.perf_counter() - start, time.process_time() - own)
"""
NETWORK = "from benchmarks.cold_start import network; text, shapes = network()"
FIRST = """
def called(executable):
    shape = executable.program.extents
    return executable(*[numpy.ones([shape[m] for m in v.modes]) for v in executable.program.inputs])
"""
CODES = {
    "load": TIMED.format(before="", call="contractc.load(sys.argv[1], trust=True)"),
    "load and call": TIMED.format(before=FIRST, call="called(contractc.load(sys.argv[1], trust=True))"),
    "load, no trust": TIMED.format(before="", call="contractc.load(sys.argv[1])"),
    "load and call, no trust": TIMED.format(before=FIRST, call="called(contractc.load(sys.argv[1]))"),
    "call again": TIMED.format(
        before=FIRST + "ready = contractc.load(sys.argv[1], trust=True); called(ready)", call="called(ready)"
    ),
    "compile": TIMED.format(before=NETWORK, call="contractc.compile(text, *shapes)"),
    "compile and call": TIMED.format(before=NETWORK + FIRST, call="called(contractc.compile(text, *shapes))"),
}


def network() -> tuple[str, list[tuple[int, ...]]]:
    """Return the expression and shapes of a closed network of 200 tensors: a grid of 10 by 20, extents 4."""
    rows, columns = 10, 20
    across = [(k, k + 1) for k in range(TENSORS) if (k + 1) % columns]
    down = [(k, k + columns) for k in range((rows - 1) * columns)]
    terms = [[m for m, ends in enumerate(across + down) if k in ends] for k in range(TENSORS)]
    text = ",".join("".join(chr(0x4E00 + m) for m in term) for term in terms) + "->"
    return text, [(4,) * len(term) for term in terms]


def seconds(code: str, *arguments: str) -> tuple[float, float]:
    """Return what `code` prints in a fresh interpreter: seconds that passed, and that it computed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CONTRACTC_STORE": "off"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    passed, computed = map(float, done.stdout.split())
    return passed, computed


def in_any_order(path: str, rng: random.Random) -> list[tuple[float, float]]:
    """Return the seconds of each of `CODES`; what runs after a long one finds colder caches, so the order varies."""
    names = list(CODES)
    rng.shuffle(names)
    found = {name: seconds(CODES[name], path) for name in names}
    return [found[name] for name in CODES]


def main() -> None:
    """Print the median of each with its quartiles, and keep them."""
    text, shapes = network()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.ccb"
        executable = contractc.compile(text, *shapes)
        executable.save(path)
        for code in CODES.values():
            seconds(code, str(path))
        rounds = [in_any_order(str(path), random.Random(k)) for k in range(ROUNDS)]
        size = path.stat().st_size
    print(
        f"{TENSORS} tensors, {len(executable.program.steps)} steps, bundle of {size} bytes, {ROUNDS} rounds"
    )
    row: dict[str, Any] = {
        "benchmark": "cold_start",
        "tensors": TENSORS,
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rounds": ROUNDS,
    }
    for k, name in enumerate(CODES):
        low, _, high = quantiles([r[k][0] for r in rounds], n=4)
        middle, computed = median(r[k][0] for r in rounds), median(r[k][1] for r in rounds)
        row[name] = {"median": middle, "quartiles": [low, high], "median_cpu": computed}
        spread = f"quartiles {low * 1e3:.1f} to {high * 1e3:.1f}; {computed * 1e3:.1f} ms of them computing"
        print(f"  {name:24} {middle * 1e3:7.1f} ms ({spread})")
    print(f"  loading is to take at most {BAR * 1e3:.0f} ms")
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
