"""How good the orders are that contractc and its peers find in a given time: `make bench-planner`.

    python benchmarks/planner.py [--cases rreg3_n300,...] [--who "numba 1 s",...] [--seeds 5] [--draw SEED] [--slices]

One process and one core for everybody, and one evaluator: log10 of the multiplications of all pairwise steps, and log2
of the elements of the largest intermediate; it is checked against cotengra's ContractionTree where that is installed.
Peers that are not installed are left out. Each result is a line of JSON; the table has medians over the seeds, and
below it stands which aims are kept (planner_bars.py). Lines of several runs add up: a new version wants a new --output.
With --processor-time the clock of contractc's searches is the time that their process has had, for a machine that is
shared with others; lines say so. Starting processes (cold) and peers are timed by the wall's clock in any case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from math import log2, log10
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import networkx
from planner_bars import bars  # type: ignore[import-not-found]

from contractc.bench.peers import versions as versions_of
from contractc.machine import processor
from contractc.network import Tensor, TensorNetwork
from contractc.options import Search
from contractc.search import anneal_python, search
from contractc.search.ask import Ask
from contractc.search.auto import anneal, auto
from contractc.search.clock import Clock, clock_of
from contractc.search.engines import engine
from contractc.search.graph import bits, graph_of, modes_of
from contractc.search.joint import sliced_jointly

FOLDER = Path(__file__).parent
NETWORKS = FOLDER / "cases" / "networks"
RESULTS = FOLDER / "results" / "planner.jsonl"
LIBRARIES = ("numpy", "numba", "opt_einsum", "cotengra", "kahypar", "cotengrust")

Steps = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A network by its name: the modes of its inputs and of its output, and their extents."""

    name: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    sizes: tuple[int, ...]

    def network(self) -> TensorNetwork:
        """Return the network of the case."""
        return TensorNetwork(
            tuple(Tensor(term, "float64") for term in self.inputs), (self.output,), self.sizes, "float64"
        )


def evaluated(case: Case, path: Steps, sliced: Sequence[int] = ()) -> tuple[float, float]:
    """Return log10 of the multiplications over all slices, and log2 of the elements of the largest intermediate.

    `path` is in SSA form. Modes of one tensor only that the output lacks are summed away free.
    """
    count = Counter(m for term in case.inputs for m in set(term))
    alive = {
        k: frozenset(m for m in term if count[m] > 1 or m in case.output)
        for k, term in enumerate(case.inputs)
    }
    sizes = [1 if m in sliced else n for m, n in enumerate(case.sizes)]
    holders = Counter(m for term in alive.values() for m in term)
    holders.update(case.output)
    total, largest = 0, 1
    for made_id, ids in enumerate(path, start=len(case.inputs)):
        terms = [alive.pop(i) for i in ids]
        touched = frozenset().union(*terms)
        for term in terms:
            holders.subtract(term)
        made = frozenset(m for m in touched if holders[m])
        holders.update(made)
        alive[made_id] = made
        total += _product(sizes, touched)
        largest = max(largest, _product(sizes, made))
    slices = _product(case.sizes, sliced)
    return log10(max(1, total * slices)), log2(largest)


def _product(sizes: Sequence[int], modes: Any) -> int:
    product = 1
    for m in modes:
        product *= sizes[m]
    return product


def checked(case: Case, path: Steps) -> None:
    """Compare the evaluator with cotengra's, if that is installed.

    Raises:
        AssertionError: they differ.
    """
    if find_spec("cotengra") is None or len(case.inputs) < 2:
        return
    from cotengra import ContractionTree

    tree = ContractionTree.from_path(*symbols(case), ssa_path=path)
    flops, size = evaluated(case, path)
    theirs = log10(max(1, tree.contraction_cost())), float(tree.contraction_width())
    assert abs(theirs[0] - flops) < 0.01 and size <= theirs[1] + 1e-6, (case.name, (flops, size), theirs)


def symbols(case: Case) -> tuple[list[tuple[str, ...]], tuple[str, ...], dict[str, int]]:
    """Return inputs, output and extents with strings for modes, as the peers have them."""
    names = [chr(0x4E00 + m) for m in range(len(case.sizes))]
    inputs = [tuple(dict.fromkeys(names[m] for m in term)) for term in case.inputs]
    used = {m for term in case.inputs for m in term}
    return inputs, tuple(names[m] for m in case.output), {names[m]: case.sizes[m] for m in used}


def ssa(linear: Steps, count: int) -> Steps:
    """Return a linear path in SSA form."""
    alive, found = list(range(count)), []
    for step in linear:
        found.append(tuple(alive[k] for k in step))
        for k in sorted(step, reverse=True):
            alive.pop(k)
        alive.append(count + len(found) - 1)
    return found


def ours(case: Case, seed: int, seconds: float, kernel: str) -> Steps:
    """Return what contractc finds in `seconds` with the engine of that name."""
    chosen = anneal_python if kernel == "python" else engine(1e9)
    options = Search(time_limit=seconds, seed=seed, minimize="flops")
    return auto(case.network(), Ask(options, clock_of(options), chosen)).path


def ours_in_moves(case: Case, seed: int, moves: int) -> Steps:
    """Return what contractc finds in so many moves: the same on every machine, however busy it is."""
    return auto(
        case.network(), Ask(Search(moves=moves, seed=seed, minimize="flops"), engine=engine(1e9))
    ).path


def opt_einsum(case: Case, seed: int, name: str, seconds: float) -> Steps:
    """Return the path of an algorithm of opt_einsum; random greedy searches for `seconds`."""
    import random

    from opt_einsum import RandomGreedy, paths

    random.seed(seed)
    function = (
        RandomGreedy(max_repeats=10**9, max_time=seconds)
        if name == "random-greedy"
        else paths.get_path_fn(name)
    )
    inputs, output, sizes = symbols(case)
    return ssa(function([frozenset(t) for t in inputs], frozenset(output), sizes, None), len(inputs))


def cotengra(case: Case, seed: int, name: str, seconds: float) -> Steps:
    """Return the path that cotengra finds."""
    import cotengra as ctg

    inputs, output, sizes = symbols(case)
    if name in ("greedy", "auto"):
        path = ctg.array_contract_path(inputs, output, size_dict=sizes, optimize=name)
        return ssa(path, len(inputs))
    options: dict[str, Any] = {"max_time": seconds, "max_repeats": 10**6, "parallel": False, "progbar": False}
    if name == "annealing":
        options |= {"methods": ["greedy"], "simulated_annealing_opts": {}}
    else:
        options |= {"methods": ["greedy", "kahypar"], "reconf_opts": {}}
    tree = ctg.HyperOptimizer(**options).search(inputs, output, sizes)
    return tuple(tuple(step) for step in tree.get_ssa_path())


def ours_cold(case: Case, seed: int, seconds: float) -> Steps:
    """Return what a process that starts now finds within `seconds`."""
    command = [
        sys.executable,
        str(FOLDER / "planner_cold.py"),
        str(time.monotonic()),
        str(seconds),
        str(seed),
    ]
    network = json.dumps([case.inputs, case.output, case.sizes])
    done = subprocess.run(command, input=network, capture_output=True, text=True, check=True)
    found: Steps = json.loads(done.stdout)
    return found


Run = Callable[[Case, int], Steps]

MOST = 60.0
"""Seconds after which a peer is stopped; some never return."""


def limited(run: Run, case: Case, seed: int) -> tuple[Steps | None, float]:
    """Return what a peer finds in a process of its own, and its seconds; None if it was stopped after `MOST`."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def child() -> None:
        os.setsid()  # with the processes that the peer may start, so that all of them are stopped
        signal.alarm(int(MOST) + 1)  # if nobody is left to stop it
        began = time.monotonic()
        path = run(case, seed)
        theirs.send(([tuple(step) for step in path], time.monotonic() - began))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    found: tuple[Steps | None, float] = (None, MOST)
    if mine.poll(MOST):
        try:
            found = mine.recv()
        except EOFError:
            found = (None, 0.0)
    assert process.pid
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return found


OURS: dict[str, Run] = {
    "numba 1 s": partial(ours, seconds=1.0, kernel="numba"),
    "numba 0.1 s": partial(ours, seconds=0.1, kernel="numba"),
    "cold 2 s": partial(ours_cold, seconds=2.0),
    "Python 1 s": partial(ours, seconds=1.0, kernel="python"),
    "12 M moves": partial(ours_in_moves, moves=12_000_000),
    "1.2 M moves": partial(ours_in_moves, moves=1_200_000),
}

PEERS: dict[str, tuple[str, Run]] = {
    "opt_einsum auto": ("opt_einsum", partial(opt_einsum, name="auto", seconds=0.0)),
    "opt_einsum random-greedy 10 s": ("opt_einsum", partial(opt_einsum, name="random-greedy", seconds=10.0)),
    "opt_einsum auto-hq": ("opt_einsum", partial(opt_einsum, name="auto-hq", seconds=0.0)),
    "cotengra greedy": ("cotengra", partial(cotengra, name="greedy", seconds=0.0)),
    "cotengra auto": ("cotengra", partial(cotengra, name="auto", seconds=0.0)),
    "cotengra hyper 10 s": ("cotengra", partial(cotengra, name="hyper", seconds=10.0)),
    "cotengra annealing 10 s": ("cotengra", partial(cotengra, name="annealing", seconds=10.0)),
}

SLICED = tuple((name, limit) for name in ("rreg3_n300", "lat3d_6", "sat3_n60_a3") for limit in (20, 27))
"""Networks and log2 of the elements that no intermediate may exceed."""


def sliced_ours(case: Case, seed: int, limit: float, seconds: float = 10.0) -> tuple[Steps, tuple[int, ...]]:
    """Return path and sliced modes that contractc finds in `seconds`."""
    network, began = case.network(), time.monotonic()
    graph = graph_of(network)
    found = anneal(
        network,
        Ask(Search(time_limit=0.35 * seconds, seed=seed, minimize="flops"), Clock(began + 0.35 * seconds)),
    )
    paths = [tuple((a, b) for a, b in path) for path in (found.path, *found.others)]
    fast = engine(1e9)
    sliced = sliced_jointly(graph, paths, limit, Clock(began + seconds), fast, None, seed)
    assert sliced is not None
    return sliced.path, tuple(modes_of(network)[b] for b in bits(sliced.modes))


def sliced_cotengra(
    case: Case, seed: int, limit: float, seconds: float = 10.0
) -> tuple[Steps, tuple[int, ...]]:
    """Return path and sliced modes that cotengra finds in `seconds`, slicing and reconfiguring each trial."""
    import cotengra as ctg

    inputs, output, sizes = symbols(case)
    optimizer = ctg.HyperOptimizer(
        methods=["greedy", "kahypar"],
        slicing_reconf_opts={"target_size": 2 ** int(limit)},
        max_time=seconds,
        max_repeats=10**6,
        parallel=False,
        progbar=False,
    )
    tree = optimizer.search(inputs, output, sizes)
    return tuple(tuple(s) for s in tree.get_ssa_path()), tuple(
        ord(name) - 0x4E00 for name in tree.sliced_inds
    )


def stored(names: Sequence[str]) -> list[Case]:
    """Return the cases in `benchmarks/cases/networks`, or those with these names."""
    found = [json.loads(path.read_text()) for path in sorted(NETWORKS.glob("*.json"))]
    return [
        Case(d["name"], tuple(map(tuple, d["inputs"])), tuple(d["output"]), tuple(d["sizes"]))
        for d in found
        if not names or d["name"] in names
    ]


def drawn(seed: int) -> list[Case]:
    """Return fresh networks of the same families: regular graphs, lattices, SAT, Ising models with hyperedges."""
    random = Random(seed)
    found = []
    for degree, low, high in ((3, 80, 400), (5, 30, 80)):
        n = 2 * random.randint(low // 2, high // 2)
        found.append(
            _of_graph(f"rreg{degree}_n{n}_seed{seed}", networkx.random_regular_graph(degree, n, seed=seed))
        )
    a, b = random.randint(8, 18), random.randint(8, 18)
    found.append(_of_graph(f"lat2d_{a}x{b}", networkx.grid_graph([a, b])))
    a, b, c = (random.randint(3, 6) for _ in range(3))
    found.append(_of_graph(f"lat3d_{a}x{b}x{c}", networkx.grid_graph([a, b, c])))
    n = random.randint(40, 80)
    clauses = tuple(tuple(random.sample(range(n), 3)) for _ in range(3 * n))
    found.append(Case(f"sat3_n{n}_seed{seed}", clauses, (), (2,) * n))
    graph = networkx.random_regular_graph(3, 2 * random.randint(40, 80), seed=seed)
    terms = tuple((int(u), int(v)) for u, v in graph.edges) + tuple((int(u),) for u in graph.nodes)
    found.append(Case(f"ising_rr3_{len(graph)}_seed{seed}", terms, (), (2,) * len(graph)))
    return found


def _of_graph(name: str, graph: Any) -> Case:
    """Return a network with a tensor a node and a bond of extent 2 an edge."""
    number = {frozenset(edge): m for m, edge in enumerate(graph.edges)}
    terms = tuple(tuple(number[frozenset((u, v))] for v in graph.neighbors(u)) for u in graph.nodes)
    return Case(name, terms, (), (2,) * len(number))


def versions() -> dict[str, str]:
    """Return what the results depend on."""
    return {**versions_of(LIBRARIES), "processor": processor()}


def warmed() -> ModuleType:
    """Load the compiled engine and let it run once, as in a warm process."""
    fast = engine(1e9)
    for case in stored(["rreg3_n100", "randeq_n40_s2"]):
        search(case.network(), Search("anneal", time_limit=0.2))
    return fast


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="", help="names, with commas between them")
    parser.add_argument("--who", default="", help="names of contestants, with commas between them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=1)
    parser.add_argument("--draw", type=int, default=None, help="draw fresh networks with this seed instead")
    parser.add_argument(
        "--slices", action="store_true", help="slices under a limit of elements instead of orders"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="lines are added to this file")
    parser.add_argument("--processor-time", action="store_true", help="see above")
    parser.add_argument("--table", action="store_true", help="only print the table of the lines there are")
    given = parser.parse_args()
    if given.processor_time:
        for room in ("clock", "auto", "anneal", "joint"):
            vars(import_module(f"contractc.search.{room}"))["monotonic"] = time.process_time
    if not given.table:
        cases = (
            stored([name for name in given.cases.split(",") if name])
            if given.draw is None
            else drawn(given.draw)
        )
        with given.output.open("a", buffering=1) as file:
            file.write(json.dumps({"versions": versions()}) + "\n")
            for line in sliced_lines(cases, given) if given.slices else lines(cases, given):
                print(json.dumps(line), flush=True)
                file.write(json.dumps(line) + "\n")
    print(table([json.loads(text) for text in given.output.read_text().splitlines()]))
    print(*bars(cells([json.loads(text) for text in given.output.read_text().splitlines()])), sep="\n")


def lines(cases: Sequence[Case], given: Any) -> Any:
    """Yield a result for each case, contestant and seed."""
    wanted = [name for name in given.who.split(",") if name]
    watch = time.process_time if given.processor_time else time.monotonic
    more = {"clock": "processor"} if given.processor_time else {}
    runs = [(name, run, given.seeds) for name, run in OURS.items()]
    runs += [(name, run, given.peer_seeds) for name, (module, run) in PEERS.items() if find_spec(module)]
    if not wanted or any(name.startswith("numba") for name in wanted):
        warmed()
    for module in {module for module, _ in PEERS.values() if find_spec(module)}:
        import_module(module)  # a process that is forked for a peer has it already
    for case in cases:
        for name, run, seeds in runs:
            if wanted and name not in wanted:
                continue
            for seed in range(seeds):
                if name in OURS:
                    began = watch()
                    path: Steps | None = run(case, seed)
                    taken = watch() - began
                else:
                    path, taken = limited(run, case, seed)
                if path is None:
                    yield {
                        "case": case.name,
                        "who": name,
                        "seed": seed,
                        "seconds": round(taken, 1),
                        "failed": True,
                    }
                    continue
                flops, width = evaluated(case, path)
                if seed == 0:
                    checked(case, path)
                yield {
                    "case": case.name, "who": name, "seed": seed, "seconds": round(taken, 4),
                    "log10_flops": round(flops, 4), "log2_size": round(width, 2), **(more if name in OURS else {}),
                }  # fmt: skip


def sliced_lines(cases: Sequence[Case], given: Any) -> Any:
    """Yield a result for each network and limit of `SLICED`."""
    by_name = {case.name: case for case in cases}
    warmed()
    runs: list[tuple[str, Any, int]] = [("contractc 10 s", sliced_ours, given.seeds)]
    if find_spec("cotengra"):
        runs.append(("cotengra 10 s", sliced_cotengra, given.peer_seeds))
    wanted = [name for name in given.who.split(",") if name]
    for name, limit in SLICED:
        for who, run, seeds in runs:
            if name not in by_name or (wanted and who not in wanted):
                continue
            for seed in range(seeds):
                began = time.monotonic()
                path, modes = run(by_name[name], seed, limit)
                taken = time.monotonic() - began
                flops, width = evaluated(by_name[name], path, modes)
                assert width <= limit + 1e-6, (who, name, limit, width)
                yield {
                    "case": f"{name} in 2^{limit}", "who": who, "seed": seed, "seconds": round(taken, 4),
                    "log10_flops": round(flops, 4), "log2_size": round(width, 2), "slices": len(modes),
                }  # fmt: skip


def cells(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Return log10 flops of all seeds, by case and contestant; of ours the last run of each seed, of peers all."""
    last = {
        (line["case"], line["who"], line["seed"] if line["who"] in (*OURS, "contractc 10 s") else k): line[
            "log10_flops"
        ]
        for k, line in enumerate(results)
        if "log10_flops" in line
    }
    found: dict[tuple[str, str], list[float]] = {}
    for (case, who, _), flops in last.items():
        found.setdefault((case, who), []).append(flops)
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return log10 flops in Markdown, a row a case, a column a contestant: our medians, the peers' best runs."""
    found = cells(results)
    cases = list(dict.fromkeys(case for case, _ in found))
    columns = [
        w for w in (*OURS, *PEERS, "contractc 10 s", "cotengra 10 s") if any(who == w for _, who in found)
    ]
    rows = [f"| network | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for case in cases:
        row = []
        for who in columns:
            runs = found.get((case, who))
            best = min if who in PEERS or who.startswith("cotengra") else statistics.median
            row.append(f"{best(runs):.2f}" if runs else "")
        rows.append(f"| {case} | {' | '.join(row)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
