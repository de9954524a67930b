"""`contractc bench`: a contraction, or a file of cases, beside every peer; and two runs compared."""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import get_clock_info
from typing import Any

from contractc.options import environment_with
from contractc.providers.threads import allowed, cores

SHORT = {"bf16": "bfloat16"} | {
    f"{short}{bits}": f"{long}{bits}"
    for short, long, widths in (
        ("f", "float", (16, 32, 64)),
        ("i", "int", (8, 16, 32, 64)),
        ("c", "complex", (64, 128)),
    )
    for bits in widths
}

EXAMPLES = """examples:
  contractc bench "bi,oij,bj->bo" --shapes 64,32 48,32,32 64,32 --dtype f32 f64
  contractc bench --cases benchmarks/cases --group tccg --rounds 5 --dtype f32
  contractc bench --cases benchmarks/cases/networks/lat2d_8x8.json --out after.jsonl
  contractc bench compare before.jsonl after.jsonl
  contractc bench report after.jsonl --html after.html
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments of `contractc bench`."""
    made = argparse.ArgumentParser(
        prog="contractc bench",
        description="Measure contractions beside every library that can run them: one fresh process, one core "
        "for each thread, interleaved rounds, outputs checked against float64.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("expression", nargs="?", help="an einsum text")
    made.add_argument(
        "--shapes", nargs="+", default=[], metavar="N,M", help="extents of each operand; scalar: -"
    )
    made.add_argument(
        "--dtype", nargs="+", default=[], metavar="f32", help="dtypes (of the cases: those to keep)"
    )
    made.add_argument(
        "--cases", nargs="+", default=[], type=Path, metavar="PATH", help="files or folders of cases"
    )
    made.add_argument("--group", nargs="+", default=[], help="only these groups")
    made.add_argument("--case", nargs="+", default=[], metavar="NAME", help="only cases whose names begin so")
    made.add_argument("--seed", type=int, default=0, help="another variant: other values and extents")
    made.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="only these contestants")
    made.add_argument("--rounds", type=int, default=21, help="rounds a case (21)")
    made.add_argument("--seconds", type=float, default=3.0, help="seconds a case may spend in rounds (3)")
    made.add_argument("--memory", type=float, default=2.0, metavar="GB", help="skip cases that need more (2)")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="threads of every library (1)")
    made.add_argument("--control", metavar="CORE", help="make every OpenBLAS use its kernels for this core")
    made.add_argument("--out", type=Path, metavar="FILE", help="append JSON lines to this file")
    made.add_argument("--html", type=Path, metavar="FILE", help="write a report")
    made.add_argument("--json", action="store_true", help="print JSON lines instead of the table")
    return made


def main(argv: Sequence[str]) -> int:
    """Run `contractc bench` and return the exit status: 0, 1 if it was cut short, 2 for arguments that make no sense.

    The measurement runs in a process of its own, on as many cores as threads.
    """
    if argv[:1] == ["compare"]:
        from contractc.bench.compare import main as compare

        return compare(argv[1:])
    if argv[:1] == ["report"]:
        return report(argv[1:])
    options = parser().parse_args(argv)
    problem = fault(options)
    if problem is not None:
        print(f"contractc bench: {problem}", file=sys.stderr)
        return 2
    changes = threads_only(options.threads) | (
        {"OPENBLAS_CORETYPE": options.control} if options.control else {}
    )
    command = [sys.executable, "-m", "contractc.bench", *argv]
    with tempfile.TemporaryDirectory() as folder:
        # an empty store: what another process has planned or tuned must not make first calls look cheap
        environment = environment_with(changes | {"CONTRACTC_STORE": folder})
        status = subprocess.run(command, env=environment, check=False).returncode
    if status < 0:
        print(f"contractc bench: the measuring process was ended by signal {-status}", file=sys.stderr)
    return status if status in (0, 1, 2) else 1


def fault(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments, or None."""
    if options.expression is None and not options.cases:
        return "give an expression with --shapes, or --cases"
    if options.expression is not None and options.cases:
        return "give an expression or --cases, not both"
    if not 1 <= options.threads <= cores():
        return f"--threads {options.threads}, where this process may use {cores()}"
    missing = [str(path) for path in options.cases if not path.exists()]
    if missing:
        return f"there is no {', '.join(missing)}"
    if options.expression is not None:
        try:
            [shape_of(text) for text in options.shapes]
        except ValueError as error:
            return str(error)
        wanted = options.expression.partition("->")[0].count(",") + 1
        if len(options.shapes) != wanted:
            return f"the expression has {wanted} operand{'s' * (wanted > 1)}, --shapes gives {len(options.shapes)}"
    return None


def shape_of(text: str) -> tuple[int, ...]:
    """Return the shape in a text such as `32,64` or `32x64`; `-` is that of a scalar."""
    if text == "-":
        return ()
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise ValueError(f"--shapes {text!r} is not a list of extents such as 32,64") from None


def threads_only(count: int) -> dict[str, str]:
    """Return the variables for `count` threads; libraries read them when they are loaded, hence another process."""
    names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
    many = str(count > 1).lower()  # jax takes one thread, or one for each core
    return {**dict.fromkeys(names, str(count)), "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={many}"}


def stay_on(count: int) -> None:
    """Keep this process on `count` of the cores it may use, so that no library starts more threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def measure(argv: Sequence[str]) -> int:
    """Measure in this process, print as cases are done, and return the exit status."""
    options = parser().parse_args(argv)
    stay_on(options.threads)
    from contractc.bench import cases, limits, lines, peers, run, table

    dtypes = [SHORT.get(d, d) for d in options.dtype]
    if options.expression is not None:
        shapes = tuple(shape_of(text) for text in options.shapes)
        found = [cases.Case(options.expression, options.expression, shapes, d) for d in dtypes or ["float64"]]
    else:
        files = [
            f for path in options.cases for f in (sorted(path.glob("*.json")) if path.is_dir() else [path])
        ]
        found = [c for f in files for c in cases.read_cases(f)]
        found = cases.selected(found, options.group, options.case, dtypes)
    known = {p.name for p in peers.PEERS}
    unknown = [*(set(options.peers) - known)]
    if not found or unknown:
        problem = f"no contestant is called {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        print(f"contractc bench: {problem if unknown else 'no such case'}", file=sys.stderr)
        return 2
    measured = limits.measured()
    conditions: dict[str, Any] = {
        **limits.machine(),
        "versions": peers.versions(),
        "threads": allowed(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "control": options.control,
        "openblas": limits.openblas_core(),
        "clock": get_clock_info("perf_counter").implementation,
    }
    if not options.json:
        print(f"{conditions['device']}: " + ", ".join(f"{n} {r / 1e9:.4g} G/s" for n, r in measured.items()))
    results = []
    run.measure_case(
        cases.Case("warm-up", "ab,bc->ac", ((8, 8), (8, 8)), "float32"), rounds=1, names=options.peers
    )
    gc.freeze()  # collecting what was imported takes longer than most cases
    for case in found:
        results.append(
            run.measure_case(
                cases.varied(case, options.seed),
                rounds=options.rounds,
                budget=options.seconds,
                memory=int(options.memory * 1e9),
                names=options.peers,
                limits=measured,
                conditions=conditions,
            )
        )
        if options.out:  # at once, so that a run that is stopped keeps what it has
            lines.append_results(options.out, results[-1:])
        print(lines.as_line(results[-1]) if options.json else table.case_line(results[-1]), flush=True)
    if not options.json:
        print(table.summary(results) if len(results) > 2 else contestants(results))
    if options.html:
        write_page(results, options.html)
    return 0


def contestants(results: Iterable[Any]) -> str:
    """Return a table of every contestant of each result."""
    from contractc.plans import seconds_text

    lines = []
    for result in results:
        lines += ["", f"{result.case.text} {result.case.dtype}: {'; '.join(result.ways)}"]
        for e in result.entries:
            if e.out and e.raw is None:
                lines.append(f"  {e.name:20} {e.out}")
                continue
            times = [seconds_text(e.raw[0]), f"first {seconds_text(e.first)}"]
            if e.ratio is not None:
                times.append(f"{e.ratio}; in order {e.ratio_contiguous}")
            lines.append(f"  {e.name:20} {times[0]:>9}  {times[1]:>15}  {' '.join(times[2:])}{e.out}")
    return "\n".join(lines)


def report(argv: Sequence[str]) -> int:
    """Print the tables of stored results, and write their page with --html; return the exit status."""
    made = argparse.ArgumentParser(
        prog="contractc bench report", description="Tables of results that were stored."
    )
    made.add_argument("results", nargs="+", type=Path)
    made.add_argument("--html", type=Path, metavar="FILE", help="write a report")
    options = made.parse_args(argv)
    from contractc.bench import lines, table

    results = [r for path in options.results for r in lines.read_results(path)]
    print(table.summary(results))
    if options.html:
        write_page(results, options.html)
    return 0


def write_page(results: Sequence[Any], path: Path) -> None:
    """Write the report of `results` as one HTML file."""
    from contractc.bench.page import bench_page

    path.write_text(bench_page(results), encoding="utf-8")
