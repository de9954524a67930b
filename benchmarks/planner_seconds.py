"""Whether the orders chosen are the fast ones: every order of `cases/chains.json` run as contractc runs it.

    python benchmarks/planner_seconds.py [--cases mttkrp3,...] [--dtype float64] [--rounds 15]

Orders: the one of fewest multiplications, cotengra's for flops and writes together (`combo`), opt_einsum's greedy one,
contractc's own, and contractc's with `tune=True`. All are compiled by contractc and timed in interleaved rounds; the
same order is run once. Kept is what takes at most 1.05 times the best of the first four; `tune=True` is to be at least
1.15 times faster than the fewest multiplications in geometric mean. A line of JSON each goes to
benchmarks/results/planner_seconds.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from planner import versions  # type: ignore[import-not-found]

import contractc
from contractc.plans import Plan

CASES = Path(__file__).parent / "cases" / "chains.json"
RESULTS = Path(__file__).parent / "results" / "planner_seconds.jsonl"

Linear = Sequence[tuple[int, ...]]

ROUND = 0.01
"""Seconds for which a short call is repeated in a round."""


def fewest(text: str, shapes: Sequence[tuple[int, ...]]) -> Linear:
    """Return the order of fewest multiplications."""
    return contractc.plan(text, *shapes, optimize=contractc.Search("optimal", minimize="flops")).linear_path()


def combo(text: str, shapes: Sequence[tuple[int, ...]]) -> Linear:
    """Return cotengra's order for flops and writes together."""
    from cotengra.pathfinders.path_basic import optimize_optimal

    inputs, output = text.split("->")
    sizes = {
        m: n
        for term, shape in zip(inputs.split(","), shapes, strict=True)
        for m, n in zip(term, shape, strict=True)
    }
    path = optimize_optimal(inputs.split(","), output, sizes, minimize="combo")
    return [tuple(step) for step in path]


def opt_einsum_greedy(text: str, shapes: Sequence[tuple[int, ...]]) -> Linear:
    """Return opt_einsum's greedy order."""
    from opt_einsum import contract_path

    path, _ = contract_path(text, *shapes, shapes=True, optimize="greedy")
    return [tuple(step) for step in path]


ORDERS: dict[str, tuple[str, Callable[[str, Sequence[tuple[int, ...]]], Linear]]] = {
    "fewest flops": ("contractc", fewest),
    "cotengra combo": ("cotengra", combo),
    "opt_einsum greedy": ("opt_einsum", opt_einsum_greedy),
}


def tree(plan: Plan) -> frozenset[frozenset[int]]:
    """Return what tells the orders of two plans apart: the sets of tensors that their steps contract."""
    sets = [frozenset((k,)) for k in range(len(plan.network.tensors))]
    for ids in plan.path:
        sets.append(frozenset().union(*(sets[i] for i in ids)))
    return frozenset(sets[len(plan.network.tensors) :])


def seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the seconds of each call, all in turn in a new order each round: the lower quartile of the rounds.

    What else runs on the machine only adds; a median of few rounds on a shared one tells more of that than of a call.
    """
    times = {}
    for name, call in calls.items():
        call()
        began = time.perf_counter()
        call()
        times[name] = max(1, int(ROUND / (time.perf_counter() - began)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            began = time.perf_counter()
            for _ in range(times[name]):
                calls[name]()
            found[name].append((time.perf_counter() - began) / times[name])
    return {name: statistics.quantiles(each, n=4)[0] for name, each in found.items()}


def line(case: dict[str, Any], dtype: str, rounds: int) -> dict[str, Any]:
    """Return the seconds of every order of a case."""
    text, shapes = case["text"], [tuple(shape) for shape in case["shapes"]]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    made = {
        name: contractc.compile(text, *arrays, optimize=list(order(text, shapes)))
        for name, (module, order) in ORDERS.items()
        if find_spec(module)
    }
    made["contractc"] = contractc.compile(text, *arrays)
    same: dict[Any, str] = {}
    for name, executable in made.items():
        same.setdefault(tree(executable.plan), name)
    calls: dict[str, Callable[[], Any]] = {name: partial(made[name], *arrays) for name in same.values()}
    calls["tuned"] = partial(contractc.compile(text, *arrays, tune=True), *arrays)
    taken = seconds(calls, rounds)
    found = {name: taken[same[tree(executable.plan)]] for name, executable in made.items()}
    return {
        "case": case["name"],
        "dtype": dtype,
        "seconds": {**found, "tuned": taken["tuned"]},
        "orders": len(same),
    }


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown: contractc's seconds over the best, fewest flops over tuned; and what is kept."""
    rows = ["| case | orders | contractc / best | fewest flops / tuned |", "|---|---|---|---|"]
    chosen, gains = [], []
    for found in lines:
        taken = dict(found["seconds"])
        tuned = taken.pop("tuned")
        chosen.append(taken["contractc"] / min(taken.values()))
        gains.append(taken["fewest flops"] / tuned)
        rows.append(
            f"| {found['case']} {found['dtype']} | {found['orders']} | {chosen[-1]:.2f} | {gains[-1]:.2f} |"
        )
    late = sum(ratio > 1.05 for ratio in chosen)
    rows.append(f"\nat most 1.05 times the best order: {len(chosen) - late} of {len(chosen)} cases")
    rows.append(
        f"tune=True over fewest flops: {statistics.geometric_mean(gains):.2f} in geometric mean (aim 1.15)"
    )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="", help="names, with commas between them")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS, help="lines are added to this file")
    given = parser.parse_args()
    names = [name for name in given.cases.split(",") if name]
    lines = []
    with given.output.open("a", buffering=1) as file:
        file.write(json.dumps({"versions": versions()}) + "\n")
        for case in json.loads(CASES.read_text())["cases"]:
            if not names or case["name"] in names:
                lines.append(line(case, given.dtype, given.rounds))
                print(json.dumps(lines[-1]), flush=True)
                file.write(json.dumps(lines[-1]) + "\n")
    print(summary(lines))


if __name__ == "__main__":
    main()
