"""Whether planning keeps its limits: deadlines over all networks, large and hostile networks, small ones, slices.

    python benchmarks/planner_limits.py [--runs 100] [--only deadlines large hostile small near] [--seconds 4]

Deadlines: the whole of `contractc.plan` from the interleaved form, under limits of 0.05 to 1 s, in a warm process;
kept is what takes at most 5 % and 10 ms longer. The plans of earlier processes are not used. Large networks have 1,000
to 10,000 tensors. Near: stored and drawn networks under limits of 4 and 8 bits less than the width of their own
order, each searched for `--seconds`; the multiplications over all slices are to be at most 1.5 times those of that
order. Lines of JSON go to benchmarks/results/planner_limits.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import log2
from pathlib import Path
from random import Random
from typing import Any

import networkx
from planner import (  # type: ignore[import-not-found]
    Case,
    _of_graph,
    drawn,
    evaluated,
    ours,
    sliced_ours,
    stored,
    versions,
    warmed,
)

import contractc
from contractc.search import search

RESULTS = Path(__file__).parent / "results" / "planner_limits.jsonl"
LIMITS = (0.05, 0.1, 0.2, 0.5, 1.0)
SIZES = (1_000, 3_000, 10_000)
NEARER, NEAR_ENOUGH = (4, 8), 1.5
"""Bits by which a limit is below the width of an order, and the multiplications allowed over that order's."""


def interleaved(case: Case) -> list[Any]:
    """Return a network as the arguments of a call, shapes in place of arrays."""
    found: list[Any] = []
    for term in case.inputs:
        found += [tuple(case.sizes[m] for m in term), list(term)]
    return [*found, list(case.output)]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `call` takes, and its result or error."""
    began = time.monotonic()
    try:
        found = call()
    except (ValueError, MemoryError) as error:
        found = error
    return time.monotonic() - began, found


def deadlines(runs: int) -> Iterator[dict[str, Any]]:
    """Yield a line for each run under a limit of time."""
    random, cases = Random(0), stored([])
    for k in range(runs):
        case, limit = cases[k % len(cases)], random.choice(LIMITS)
        call = interleaved(case)
        options = contractc.Search(time_limit=limit, seed=k)
        seconds, plan = timed(partial(contractc.plan, *call, optimize=options))
        yield {
            "kind": "deadline",
            "case": case.name,
            "limit": limit,
            "seconds": round(seconds, 4),
            "search": plan.search,
        }


def large() -> Iterator[dict[str, Any]]:
    """Yield a line for each large network: greedy alone, and the default with a second."""
    for n in SIZES:
        side = round(n**0.5)
        chain = Case(f"chain_{n}", tuple((k, k + 1) for k in range(n)), (0, n), (10,) * (n + 1))
        cases = [
            chain,
            _of_graph(f"lat2d_{side}x{side}", networkx.grid_graph([side, side])),
            _of_graph(f"rreg3_n{n}", networkx.random_regular_graph(3, n, seed=0)),
        ]
        for case in cases:
            call = interleaved(case)
            for name, options in (
                ("greedy", "greedy"),
                ("1 s", contractc.Search(time_limit=1.0)),
                ("default", None),
            ):
                seconds, plan = timed(partial(contractc.plan, *call, optimize=options))
                yield {
                    "kind": "large",
                    "case": case.name,
                    "tensors": len(case.inputs),
                    "who": name,
                    "seconds": round(seconds, 3),
                    "search": plan.search,
                }


def hostile() -> Iterator[dict[str, Any]]:
    """Yield a line for each network that is meant to hurt, all under a limit of a second where one can be given."""
    pairs = [(a, b) for a in range(60) for b in range(a)]
    terms = tuple(tuple(m for m, pair in enumerate(pairs) if k in pair) for k in range(60))
    cases = [
        (
            Case("60 fully connected, optimal", terms, (), (2,) * len(pairs)),
            contractc.Search("optimal", time_limit=1.0),
        ),
        (Case("20,000 scalars", ((),) * 20_000, (), ()), contractc.Search(time_limit=1.0)),
        (
            Case("3,000 matrices", tuple((k, k + 1) for k in range(3_000)), (0, 3_000), (5,) * 3_001),
            contractc.Search(time_limit=1.0),
        ),
        (
            Case("a mode of 5,000 tensors", tuple((0, k + 1) for k in range(5_000)), (0,), (2,) * 5_001),
            contractc.Search(time_limit=1.0),
        ),
    ]
    for case, options in cases:
        seconds, plan = timed(partial(contractc.plan, *interleaved(case), optimize=options))
        said = getattr(plan, "search", None) or str(plan)
        yield {
            "kind": "hostile",
            "case": case.name,
            "limit": 1.0,
            "seconds": round(seconds, 3),
            "search": said,
        }


def small() -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of the search alone for everyday networks, the best of 20."""
    dense = tuple(tuple(sorted({*range(k, 10), 10 + k})) for k in range(10))
    chains = [
        Case(f"chain of {n}", tuple((k, k + 1) for k in range(n)), (0, n), (30,) * (n + 1))
        for n in (3, 6, 10)
    ]
    for case in (*chains, Case("10 dense", dense, (), (3,) * 20), *stored(["oe_issue248"])):
        network = case.network()
        best = min(timed(partial(search, network))[0] for _ in range(20))
        yield {"kind": "small", "case": case.name, "tensors": len(case.inputs), "ms": round(1e3 * best, 3)}


def growth(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield for each family and search the seconds by size, and the power of the size by which they grow."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in lines:
        if line["kind"] == "large":
            family = line["case"].split("_")[0]
            found.setdefault((family, line["who"]), []).append((line["tensors"], line["seconds"]))
    for (family, who), runs in found.items():
        (few, short), (many, long) = min(runs), max(runs)
        power = log2(long / short) / log2(many / few)
        shown = ", ".join(f"{n}: {seconds:.2f} s" for n, seconds in sorted(runs))
        yield f"{family}, {who}: {shown}; grows as n^{power:.2f}"


def near(seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a line for each network that has a width to spare and each limit a few bits below that width."""
    names = ("rreg3_n100", "rreg3_n300", "lat3d_6", "sat3_n60_a3", "rreg5_n60", "lat2d_16x16", "syc_6x7_d12")
    for case in (*stored(names), *drawn(1)):
        flops, width = evaluated(case, ours(case, 0, seconds, "numba"))
        for less in NEARER if width > 2 * max(NEARER) else ():
            path, modes = sliced_ours(case, 0, width - less, seconds)
            sliced, _ = evaluated(case, path, modes)
            yield {
                "kind": "near", "case": case.name, "width": width, "less": less, "log10_flops": round(flops, 3),
                "sliced": round(sliced, 3), "ratio": round(10 ** (sliced - flops), 2), "modes": len(modes),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=["small", "deadlines", "hostile", "large", "near"])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each search of the part `near`")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ["CONTRACTC_STORE"] = "off"
    warmed()
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "small": small, "deadlines": lambda: deadlines(given.runs), "hostile": hostile, "large": large,
        "near": lambda: near(given.seconds),
    }  # fmt: skip
    found = []
    with given.output.open("a", buffering=1) as file:
        file.write(json.dumps({"versions": versions()}) + "\n")
        for name, part in parts.items():
            for line in part() if name in given.only else ():
                found.append(line)
                print(json.dumps(line), flush=True)
                file.write(json.dumps(line) + "\n")
    over = [line["seconds"] - line["limit"] for line in found if line["kind"] == "deadline"]
    late = [
        line for line in found if line["kind"] == "deadline" and line["seconds"] > 1.05 * line["limit"] + 0.01
    ]
    if over:
        print(
            f"{len(over) - len(late)} of {len(over)} deadlines kept, the largest overshoot is {max(over):.3f} s"
        )
    print(*growth(found), sep="\n")
    ratios = [line["ratio"] for line in found if line["kind"] == "near"]
    if ratios:
        kept = sum(ratio <= NEAR_ENOUGH for ratio in ratios)
        print(
            f"{kept} of {len(ratios)} sliced plans within {NEAR_ENOUGH} of their own order, at most {max(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
