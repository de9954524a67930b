"""Bayesian networks: evidence, marginals and most probable explanation, beside pgmpy's variable elimination.

    python benchmarks/bayesian.py [--networks pigs link] [--questions evidence] [--evidence 8] [--seconds 60]

The networks are those that pgmpy ships. Evidence is drawn: a sample of the network, seen at some of its leaves. Three
questions: the logarithm of the probability of the evidence; given it, the marginals of all variables (pgmpy answers
one variable at a time: it is asked for five, and its time is for those); given it, the most probable values of all
variables. Every answer is computed in a process of its own with a limit of time and of memory; what takes longer, or
more, is reported as such, with the reason. Times are those of a first call, planning included, and of the best of the
next three; importing and reading files are not counted. Answers are compared. Lines go to
benchmarks/results/bayesian.jsonl; those of networks and questions that are not asked stay there.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import contractc
from contractc.bench.limits import machine

RESULTS = Path(__file__).parent / "results" / "bayesian.jsonl"
NETWORKS = ("asia", "alarm", "hepar2", "win95pts", "andes", "pigs", "link", "munin1", "munin")
QUESTIONS = ("evidence", "marginals", "explanation")
QUERIES = 5
MEMORY = 4 * 10**9
"""Most bytes of tensors alive at once."""

ALLOCATED = 10 * 10**9
"""Most bytes that a process may allocate, whoever answers: libraries, files read and tensors."""


@dataclass(frozen=True)
class Model:
    """A network: a table for each variable over itself and its parents, and what was seen."""

    pgmpy: Any
    tables: list[tuple[np.ndarray[Any, Any], list[str]]]
    evidence: dict[str, int]
    ancestors: set[str]


def model(name: str, seen: int) -> Model:
    """Return a network of pgmpy with evidence at `seen` of its leaves."""
    from pgmpy.utils import get_example_model

    network = get_example_model(name)
    rng = np.random.default_rng(len(network.nodes()))
    tables = []
    for cpd in network.get_cpds():
        factor = cpd.to_factor()
        tables.append((np.asarray(factor.values, float), list(factor.variables)))
    table_of = {cpd.variable: table for cpd, table in zip(network.get_cpds(), tables, strict=True)}
    drawn: dict[str, int] = {}
    parents = {v: set(network.predecessors(v)) for v in network.nodes()}
    while len(drawn) < len(parents):
        for v in parents:
            if v not in drawn and parents[v] <= drawn.keys():
                values, modes = table_of[v]
                column = values[tuple(slice(None) if m == v else drawn[m] for m in modes)]
                drawn[v] = int(rng.choice(len(column), p=column / column.sum()))
    leaves = sorted(v for v in parents if not list(network.successors(v)))
    chosen = sorted(rng.choice(leaves, min(seen, len(leaves)), replace=False).tolist())
    ancestors, todo = set(), list(chosen)
    while todo:
        v = todo.pop()
        ancestors.add(v)
        todo += parents[v] - ancestors
    return Model(network, tables, {v: drawn[v] for v in chosen}, ancestors)


def interleaved_form(found: Model, only: set[str] | None = None, log: bool = False) -> list[Any]:
    """Return the tables as operands of the interleaved form: those of the variables `only`, cut at the evidence."""
    operands: list[Any] = []
    for values, modes in found.tables:
        if only is not None and modes[0] not in only:
            continue
        cut = values[tuple(found.evidence.get(m, slice(None)) for m in modes)]
        with np.errstate(divide="ignore"):
            operands.append(np.array(np.log(cut) if log else cut, order="C"))
        operands.append([m for m in modes if m not in found.evidence])
    return operands


def ours(found: Model, question: str) -> Callable[[], Any]:
    """Return a function that answers `question` with contractc."""
    if question == "evidence":
        operands = interleaved_form(found, found.ancestors)
        return lambda: float(np.log(contractc.contract(*operands, [], memory_limit=MEMORY)))
    if question == "marginals":
        operands = interleaved_form(found)

        def marginals() -> Any:
            made = contractc.marginals(*operands, [], memory_limit=MEMORY)
            return {m: (x / x.sum()).tolist() for m, x in made.items()}

        return marginals
    operands = interleaved_form(found, log=True)

    def explanation() -> Any:
        value, places = contractc.best_assignment(*operands, [])
        return [float(value), places]

    return explanation


def theirs(found: Model, question: str) -> Callable[[], Any]:
    """Return a function that answers `question` with pgmpy."""
    from pgmpy.inference import VariableElimination

    states = {v: found.pgmpy.get_cpds(v).state_names[v] for v in found.pgmpy.nodes()}
    evidence = {v: states[v][k] for v, k in found.evidence.items()}
    hidden = sorted(set(found.pgmpy.nodes()) - evidence.keys())
    elimination = VariableElimination(found.pgmpy)
    if question == "evidence":

        def probability() -> float:
            table = elimination.query(list(evidence), show_progress=False)
            return float(np.log(table.get_value(**evidence)))

        return probability
    if question == "marginals":
        asked = hidden[:: max(1, len(hidden) // QUERIES)][:QUERIES]

        def marginals() -> Any:
            made = {}
            for v in asked:
                table = elimination.query([v], evidence=evidence, show_progress=False)
                made[v] = [float(table.get_value(**{v: s})) for s in states[v]]
            return made

        return marginals

    def explanation() -> Any:
        best = elimination.map_query(hidden, evidence=evidence, show_progress=False)
        return [None, {v: states[v].index(s) for v, s in best.items()}]

    return explanation


def answer(name: str, question: str, who: str, seen: int, limit: float) -> dict[str, Any]:
    """Return the answer and the seconds it took, first and later."""
    found = model(name, seen)
    contractc.marginals("ab,b->", np.ones((2, 2)), np.ones(2))  # the modules are loaded at the first use
    contractc.best_assignment("ab,b->", np.ones((2, 2)), np.ones(2))
    function = (ours if who == "contractc" else theirs)(found, question)
    signal.setitimer(signal.ITIMER_REAL, limit)
    seconds = []
    result = None
    start = time.perf_counter()
    for _ in range(4):
        one = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - one)
        if time.perf_counter() - start > limit / 4:
            break
    signal.setitimer(signal.ITIMER_REAL, 0)
    line: dict[str, Any] = {"answer": result, "first": seconds[0], "later": min(seconds[1:], default=None)}
    if question == "explanation":
        places = {**result[1], **found.evidence}  # type: ignore[index]
        logs = [np.log(values[tuple(places[m] for m in modes)]) for values, modes in found.tables]
        line["log probability"] = float(sum(logs))
    line["variables"] = len(found.tables)
    return line


def asked(name: str, question: str, who: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a process of its own answers, or why there is no answer."""
    command = [sys.executable, __file__, "--child", name, question, who, "--evidence", str(options.evidence)]
    command += ["--seconds", str(options.seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGALRM:
        return {"refused": f"no answer in {options.seconds} s"}
    if done.returncode or not done.stdout:
        reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"refused": reason[:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(question: str, one: dict[str, Any], two: dict[str, Any]) -> float | None:
    """Return how far two answers are from each other: of explanations, in logarithms of their probabilities."""
    if "refused" in one or "refused" in two:
        return None
    if question == "evidence":
        return float(abs(one["answer"] - two["answer"]))
    if question == "marginals":
        both = [(one["answer"][v], x) for v, x in two["answer"].items()]
        return max(float(np.abs(np.subtract(a, b)).max()) for a, b in both)
    return float(abs(one["log probability"] - two["log probability"]))


def main() -> None:
    """Ask all questions of all networks, and write the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--questions", nargs="*", default=QUESTIONS)
    parser.add_argument("--evidence", type=int, default=8, help="leaves seen")
    parser.add_argument("--seconds", type=float, default=120, help="limit of time for each question")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        warnings.filterwarnings("ignore")
        logging.disable()
        name, question, who = options.child
        resource.setrlimit(resource.RLIMIT_DATA, (ALLOCATED, ALLOCATED))
        print(json.dumps(answer(name, question, who, options.evidence, options.seconds)))
        return
    RESULTS.parent.mkdir(exist_ok=True)
    written = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    lines = {(line["network"], line["question"]): line for line in map(json.loads, written)}
    for name in options.networks:
        for question in options.questions:
            found = {who: asked(name, question, who, options) for who in ("contractc", "pgmpy")}
            gap = difference(question, *found.values())
            line = {"network": name, "question": question, "seen": options.evidence, "difference": gap}
            if question == "marginals":
                line["asked of pgmpy"] = QUERIES
            for who, result in found.items():
                kept = ("first", "later", "refused", "log probability", "variables")
                line[who] = {k: result[k] for k in kept if k in result}
            lines[name, question] = line | machine()
            shown = "   ".join(f"{who} {_shown(result)}" for who, result in found.items())
            print(
                f"{name:10} {question:12} {shown}   difference {gap if gap is None else f'{gap:.1e}'}",
                flush=True,
            )
            RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))


def _shown(result: dict[str, Any]) -> str:
    if "refused" in result:
        return str(result["refused"])
    later = result["later"]
    return f"{result['first']:8.3f} s, then {'-' if later is None else f'{later:8.4f} s'}"


if __name__ == "__main__":
    main()
