"""What a call costs beside its arithmetic: 4x4 float64 chains of 2, 3 and 5 operands, one thread.

    python benchmarks/overhead.py [--rounds 200]

Everything is measured in one process, in interleaved rounds of random order: a round calls each contestant often
enough to take about a millisecond. Times are medians over rounds; ratios are medians of paired ratios with a 95 %
interval. `by hand` is the same NumPy calls as the compiled expression, without any check of the operands.
Results are compared before they are timed. Lines are appended to benchmarks/results/overhead.jsonl.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import opt_einsum

import contractc
from contractc.bench import limits
from contractc.bench.measure import Call, interleaved
from contractc.bench.peers import versions
from contractc.bench.stats import median_interval
from contractc.serial import digest

RESULTS = Path(__file__).parent / "results" / "overhead.jsonl"
CASES = {2: "ij,jk->ik", 3: "ij,jk,kl->il", 5: "ij,jk,kl,lm,mn->in"}
ROUND_SECONDS = 1e-3
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def by_hand(executable: contractc.Executable) -> Callable[..., Any]:
    """Return the calls that the source of `executable` makes as one expression, without checks and names."""
    expressions: dict[str, str] = {}
    for line in executable.source.splitlines():
        found = re.fullmatch(r"    (x\d+) = (.+)", line)
        if found:
            name, code = found.groups()
            expressions[name] = re.sub(r"x\d+", lambda m: expressions.get(m.group(), m.group()), code)
    (result,) = executable.program.results
    inputs = ", ".join(f"x{value.number}" for value in executable.program.inputs)
    function: Callable[..., Any] = eval(f"lambda {inputs}: {expressions[f'x{result}']}")
    return function


def contestants(text: str) -> tuple[dict[str, Call], contractc.Executable]:
    """Return what is timed on the same operands, by name, and the compiled expression among it."""
    count = text.count(",") + 1
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal((4, 4)) for _ in range(count)]
    compiled = contractc.compile(text, *operands)
    hand = by_hand(compiled)
    expression = opt_einsum.contract_expression(text, *[(4, 4)] * count)
    calls: dict[str, Call] = {
        "contract": lambda: contractc.contract(text, *operands),
        "einsum": lambda: contractc.einsum(text, *operands),
        "compiled": lambda: compiled(*operands),
        "by hand": lambda: hand(*operands),
        "np.einsum": lambda: np.einsum(text, *operands),
        "np.einsum, optimize": lambda: np.einsum(text, *operands, optimize=True),
        "opt_einsum expression": lambda: expression(*operands),
        "opt_einsum.contract": lambda: opt_einsum.contract(text, *operands),
    }
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        tensors = [torch.from_numpy(x) for x in operands]
        calls["torch.einsum"] = lambda: torch.einsum(text, *tensors)
        # contract keeps the code it met last for a text, so the tensors get a text of their own
        other = text.upper()
        calls["contract on torch"] = lambda: contractc.contract(other, *tensors)
    expected = np.linalg.multi_dot(operands)
    for name, call in calls.items():
        np.testing.assert_allclose(np.asarray(call()), expected, rtol=1e-12, err_msg=name)
    return calls, compiled


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, versions, threads."""
    return {"cpu": limits.machine()["device"], **versions(), "threads": 1}


def main() -> None:
    """Measure, print a table, append the lines; starts again first if libraries could use several threads."""
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    lines = []
    verdicts = []
    for count, text in CASES.items():
        calls, compiled = contestants(text)
        found = interleaved(calls, rounds, round_seconds=ROUND_SECONDS)
        print(f"\n{count} operands, {text}, 4x4 float64, {rounds} rounds")
        print(
            f"  {'':22}  {'us':>7}  {'quartiles':>15}  {'/ contract':>10}  {'95 %':>15}  {'us above by hand':>16}"
        )
        for name, times in found.items():
            low, middle, high = (1e6 * q for q in quantiles(times, n=4))
            ratio = median_interval([t / c for t, c in zip(times, found["contract"], strict=True)])
            above = median_interval([1e6 * (t - h) for t, h in zip(times, found["by hand"], strict=True)])
            print(
                f"  {name:22}  {middle:7.2f}  {f'{low:.2f} .. {high:.2f}':>15}  {ratio[0]:10.2f}  "
                f"{f'{ratio[1]:.2f} .. {ratio[2]:.2f}':>15}  {above[0]:16.2f}"
            )
            lines.append(
                {
                    "case": text,
                    "operands": count,
                    "contestant": name,
                    "program": digest(compiled.program)[:16],
                    "us": round(middle, 4),
                    "quartiles_us": [round(low, 4), round(high, 4)],
                    "ratio_to_contract": [round(r, 4) for r in ratio],
                    "us_above_by_hand": [round(a, 4) for a in above],
                    "rounds": rounds,
                    **machine(),
                }
            )
            if name == "compiled":
                verdicts.append((f"compiled above by hand, {count} operands", above[2], 0.4, "us"))
            if (name == "np.einsum" and count == 2) or name == "opt_einsum.contract":
                bar = 1.0 if name == "np.einsum" else 0.1
                inverse = median_interval([c / t for t, c in zip(times, found["contract"], strict=True)])
                verdicts.append((f"contract / {name}, {count} operands", inverse[2], bar, ""))
    print("\nupper 95 % bounds beside the bars")
    for what, value, bar, unit in verdicts:
        print(f"  {'kept' if value <= bar else 'MISSED'}  {what}: {value:.3f} {unit} (bar {bar})".rstrip())
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
