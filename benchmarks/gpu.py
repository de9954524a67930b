"""Generated kernels on a GPU: are they right, and how fast are they. For a machine that has one.

    python -m benchmarks.gpu test      correctness of every class and dtype, guard words around outputs untouched,
                                       and a small set under compute-sanitizer, where that is installed
    python -m benchmarks.gpu bench [--only TEXT] [--groups table tccg layers circuit] [--rounds 30]
    TRITON_INTERPRET=1 python -m benchmarks.gpu test --tiny      the same code on small tensors of the CPU
    TRITON_INTERPRET=1 python -m benchmarks.gpu bench --tiny     (the times mean nothing and are not kept)

`bench` measures the bandwidth of a copy and the rates of matrix products in the same run. Every case is timed with a
cache that is flushed before each launch (`cold`) and with one that is not (`warm`), in interleaved rounds, against
each library that is installed; why one is not there is part of the line. A floor is the slower of memory and
arithmetic at the rates measured. A case counts as lost when the upper 95 % bound of the paired ratio torch.einsum /
contractc is below 0.95 with a cold cache. Lines go to benchmarks/results/gpu.jsonl with device and versions, one as
soon as it is measured. jax takes most of the memory unless XLA_PYTHON_CLIENT_PREALLOCATE=false is set.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

import contractc
from benchmarks.gpu_cases import Case, cases, circuit
from benchmarks.gpu_peers import EINSUM, LIBRARIES, PEERS, Absent, Call, started
from contractc.backends.triton import is_available
from contractc.backends.triton.emit import GENERATOR
from contractc.bench.peers import versions
from contractc.bench.stats import geometric_mean, paired
from contractc.dtypes import is_complex
from contractc.machine import Target

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
FLUSHED = 256 * 2**20
LOST = 0.95
OURS = "contractc"
GROUPS = ("table", "tccg", "layers", "circuit")
LONGEST = 0.2
"""Seconds of one round from which on there are fewer rounds."""


def target() -> Target:
    """Return where kernels run."""
    return Target("triton", "cuda")


def drawn(shapes: Sequence[Sequence[int]], dtype: str, where: str, grad: bool = False) -> list[Tensor]:
    """Return random tensors."""
    kind = getattr(torch, dtype)
    return [(torch.randn(tuple(s), dtype=kind, device=where) / 4).requires_grad_(grad) for s in shapes]


def device_name(where: str) -> str:
    """Return what the kernels run on."""
    return torch.cuda.get_device_name() if where == "cuda" else "the interpreter"


def tested(tiny: bool, where: str, draws: int, *, sanitize: bool) -> int:
    """Check every class and dtype, and the cases of the benchmark; return how many are wrong."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernels"))
    import drawn as contractions

    wrong = count = 0
    for kind in contractions.CLASSES:
        for dtype in contractions.DTYPES:
            rng = random.Random(f"{kind} {dtype}")
            for _ in range(draws):
                case = contractions.draw(rng, kind, dtype, most=200 if tiny else 3000)
                same = torch.equal(contractions.run(case, where).cpu(), contractions.truth(case))
                wrong, count = wrong + (not same), count + 1
                if not same:
                    print(f"WRONG {case}", flush=True)
    for one in cases(True):
        good = right(one, where)
        wrong, count = wrong + (not good), count + 1
        if not good:
            print(f"WRONG {one.name} {one.dtype}", flush=True)
    print(f"{count} contractions, {wrong} wrong, on {device_name(where)}")
    return wrong + (sanitized(shutil.which) if sanitize else 0)


def right(case: Case, where: str) -> bool:
    """Return whether the result of a case, and its gradients, are those of torch.einsum in double precision."""
    xs = drawn(case.shapes, case.dtype, where, case.backward)
    made = contractc.compile(case.text, *xs, target=target())(*xs)
    wide = torch.complex128 if is_complex(case.dtype) else torch.float64
    exact = [x.detach().to(wide).requires_grad_(case.backward) for x in xs]
    expected = torch.einsum(case.text, *exact)
    pairs = [(made.detach(), expected.detach())]
    if case.backward:
        pairs += zip(
            torch.autograd.grad(made.sum(), xs), torch.autograd.grad(expected.sum(), exact), strict=True
        )
    unit = 2**-6 if case.dtype == "bfloat16" else 2**-16
    return all(bool(((x - y).abs() <= unit * (4 + y.abs())).all()) for x, y in pairs)


def sanitized(find: Callable[[str], str | None]) -> int:
    """Run a small set under compute-sanitizer and return whether it found anything; say so where there is none."""
    tool = find("compute-sanitizer") or find("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        print("compute-sanitizer is not installed, so nothing was run under it")
        return 0
    command = [
        tool,
        "--error-exitcode",
        "3",
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "test",
        "--tiny",
        "--inside",
    ]
    status = subprocess.run(command, check=False).returncode
    print(f"compute-sanitizer ended with {status}")
    return int(status != 0)


def seconds(call: Call, where: str, flush: Tensor | None, waiting: bool) -> float:
    """Return the seconds of one call: by events on a GPU, by the clock elsewhere and for calls that wait."""
    if flush is not None:
        flush.zero_()
    if where != "cuda" or waiting:
        if where == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    event: Any = torch.cuda.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000


def interleaved(
    calls: dict[str, Call], where: str, rounds: int, flush: Tensor | None, waiting: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return the seconds of each call, round by round in random order; all were called before."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng = random.Random(0)
    start = time.monotonic()
    for done in range(rounds):
        if done >= 3 and time.monotonic() - start > rounds * LONGEST:
            break
        for name in rng.sample(list(calls), len(calls)):
            times[name].append(seconds(calls[name], where, flush, name in waiting))
    return times


def measured_rates(where: str, tiny: bool, flush: Tensor) -> dict[str, float]:
    """Return the bandwidth of a copy and the rates of matrix products by dtype, measured here."""
    size, side = (2**10, 16) if tiny else (2**28, 8192)
    x = torch.zeros(size, dtype=torch.float32, device=where)
    y = torch.empty_like(x)
    calls: dict[str, Call] = {"copy": lambda: y.copy_(x)}
    for dtype in ("bfloat16", "float32", "float64"):
        a = torch.ones(side, side, dtype=getattr(torch, dtype), device=where)
        calls[dtype] = lambda a=a: a @ a  # type: ignore[misc]
    for call in calls.values():
        call()
    times = interleaved(calls, where, 5, flush)
    rates = {f"{n}_flops": 2 * side**3 / min(times[n]) for n in calls if n != "copy"}
    return {"copy_bytes_a_second": 8 * size / min(times["copy"]), **rates}


def floor_seconds(case: Case, result: Tensor, flops: float, rates: dict[str, float]) -> float:
    """Return the seconds that memory and arithmetic take at least, at the rates measured.

    float32 by default is three products of tf32, which may beat the float32 rate that is taken here.
    """
    width = result.element_size()
    moved = sum(width * int(torch.Size(s).numel()) for s in case.shapes) + result.numel() * width
    real = {"complex64": "float32", "complex128": "float64"}.get(case.dtype, case.dtype)
    arithmetic = flops * (4 if is_complex(case.dtype) else 1) / rates[f"{real}_flops"]
    return max(moved / rates["copy_bytes_a_second"], arithmetic)


def plain_calls(
    case: Case, train: bool, tiny: bool, where: str
) -> tuple[dict[str, Call], dict[str, str], Any, Tensor]:
    """Return the calls for a case by name, why others are absent, the executable and its result."""
    xs = drawn(case.shapes, case.dtype, where, train)
    executable = contractc.compile(case.text, *xs, target=target(), precision=case.precision)
    result = executable(*xs).detach()
    calls = {OURS: trained(executable, xs, train)}
    absent: dict[str, str] = {}
    for peer in PEERS:
        if train and not peer.recorded:
            absent[peer.name] = "torch does not differentiate it"
            continue
        try:
            call = started(peer, case.text, xs, tiny)
        except Absent as reason:
            absent[peer.name] = str(reason)
            continue
        calls[peer.name] = trained(lambda *_, call=call: call(), xs, train)
    return calls, absent, executable, result


def trained(function: Callable[..., Any], xs: Sequence[Tensor], train: bool) -> Call:
    """Return a call of `function`, with the gradients of all operands if `train`."""
    if not train:
        return lambda: function(*xs)

    def both() -> Any:
        y = function(*xs)
        return torch.autograd.grad(y, xs, torch.ones_like(y))

    return both


def lines_of_plain(
    options: argparse.Namespace, where: str, rates: dict[str, float], flush: Tensor
) -> Iterator[Any]:
    """Yield a line for each case of plain tensors."""
    for case in cases(options.tiny):
        if case.group not in options.groups or options.only not in case.name:
            continue
        for train in (False, True)[: 1 + case.backward]:
            calls, absent, executable, result = plain_calls(case, train, options.tiny, where)
            difference = float("nan")
            if EINSUM in calls and not train:
                theirs = calls[EINSUM]()
                difference = float((theirs - result).abs().max() / theirs.abs().max().clamp(min=1e-30))
            about = {
                "group": case.group,
                "case": case.name,
                "what": "forward and backward" if train else "forward",
                "text": case.text,
                "shapes": case.shapes,
                "dtype": case.dtype,
                "precision": case.precision,
                "difference": difference,
                "steps": str(executable),
            }
            floor = floor_seconds(case, result, executable.plan.flops, rates) if not train else None
            yield from measured(about, calls, absent, options, where, flush, floor)


def lines_of_layers(options: argparse.Namespace, where: str, flush: Tensor) -> Iterator[Any]:
    """Yield a line for each layer whose weight is held as factors, against the dense layer and pairwise evaluation."""
    if "layers" not in options.groups:
        return
    try:
        from benchmarks import factorized
    except ImportError as error:
        print(f"layers are not measured: {error.name} is not installed")
        return
    listed = factorized.cases() if not options.tiny else []
    if options.tiny:
        listed = [factorized.linear("TT matrix 9 rank 2", factorized.train((3, 3), (3, 3), 2), 3, "tiny")]
    for case in listed:
        if options.only not in case.name:
            continue
        for train in (False, True):
            found = factorized.ways(case, train, where, target())
            calls = {name: trained(way, xs, train) for name, (way, xs) in found.items()}
            about = {
                "group": "layers",
                "case": case.name,
                "what": "forward and backward" if train else "forward",
                "text": case.expression,
                "steps": str(found[OURS][0]),
            }
            for call in calls.values():
                call()
            yield from measured(about, calls, {}, options, where, flush, None)


def lines_of_circuit(options: argparse.Namespace, where: str, flush: Tensor) -> Iterator[Any]:
    """Yield the line of the sliced circuit: contractc, the same plan as aten calls, and cotengra with torch."""
    name, text, shapes, limit = circuit(options.tiny)
    if "circuit" not in options.groups or options.only not in name:
        return
    xs = drawn(shapes, "complex64", where)
    executable = contractc.compile(text, *xs, target=target(), memory_limit=limit)
    path = executable.plan.linear_path()
    plain = contractc.compile(text, *xs, target=Target("torch", where), memory_limit=limit, optimize=path)
    calls: dict[str, Call] = {OURS: lambda: executable(*xs), "contractc by aten calls": lambda: plain(*xs)}
    absent = {}
    try:
        import cotengra
    except ImportError:
        absent["cotengra on torch"] = "cotengra is not installed"
    else:
        inputs, _, output = text.partition("->")
        terms = [tuple(t) for t in inputs.split(",")]
        sizes = {c: n for t, s in zip(terms, shapes, strict=True) for c, n in zip(t, s, strict=True)}
        most = (
            2 ** int(limit / 8 / 4).bit_length()
        )  # elements of the largest intermediate, of several that are alive
        tree = cotengra.HyperOptimizer(
            max_time=1 if options.tiny else 60, slicing_reconf_opts={"target_size": most}
        ).search(terms, tuple(output), sizes)
        calls["cotengra on torch"] = lambda: tree.contract(xs)
    for call in calls.values():
        call()
    about = {
        "group": "circuit",
        "case": name,
        "what": "forward",
        "memory_limit": limit,
        "plan": str(executable.plan),
    }
    yield from measured(about, calls, absent, options, where, flush, None)


def measured(
    about: dict[str, Any],
    calls: dict[str, Call],
    absent: dict[str, str],
    options: argparse.Namespace,
    where: str,
    flush: Tensor,
    floor: float | None,
) -> Iterator[dict[str, Any]]:
    """Yield a line with the times of `calls` for a cold and for a warm cache."""
    waiting = [peer.name for peer in PEERS if peer.waiting]
    for cache, used in (("cold", flush), ("warm", None)):
        times = interleaved(calls, where, options.rounds, used, waiting)
        middle = {name: median(found) for name, found in times.items()}
        line = about | {
            "cache": cache,
            "rounds": len(times[OURS]),
            "seconds": middle,
            "quartiles": {n: quantiles(f, n=4) if len(f) > 1 else f * 3 for n, f in times.items()},
            "ratio": {n: list(paired(times[OURS], f)) for n, f in times.items() if n != OURS},
            "absent": absent,
        }
        if floor is not None:
            line |= {"floor_seconds": floor, "share_of_floor": floor / middle[OURS]}
        yield line


def shown(line: dict[str, Any]) -> str:
    """Return a line as text: our time, the share of the floor, and what the others take relative to us."""
    share = f"{line['share_of_floor']:4.0%} of the floor" if "share_of_floor" in line else " " * 16
    ratios = ", ".join(f"{name} {r[0]:.2f}" for name, r in line["ratio"].items())
    return (
        f"{line['case'][:34]:34} {line.get('dtype', ''):9} {line['what'][:20]:20} {line['cache']} "
        f"{line['seconds'][OURS] * 1e6:11.1f} us {share}  {ratios}"
    )


def benched(options: argparse.Namespace, where: str) -> int:
    """Measure every case; return how many are lost."""
    flush = torch.empty(2**10 if options.tiny else FLUSHED, dtype=torch.int8, device=where)
    rates = measured_rates(where, options.tiny, flush)
    machine = {
        "device": device_name(where),
        "python": platform.python_version(),
        "versions": versions(LIBRARIES),
        "generator": GENERATOR,
        **rates,
    }
    print(machine)
    lines: list[dict[str, Any]] = []
    every = (
        lines_of_plain(options, where, rates, flush),
        lines_of_layers(options, where, flush),
        lines_of_circuit(options, where, flush),
    )
    for line in (line for group in every for line in group):
        lines.append(line)
        print(shown(line), flush=True)
        if not options.tiny:
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | machine) + "\n")
    print(summary(lines, where))
    return len(lost(lines)) if where == "cuda" else 0


def lost(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the cases lost to torch.einsum with a cold cache."""
    cold = [line for line in lines if line["cache"] == "cold" and EINSUM in line["ratio"]]
    return [f"{line['case']} ({line['what']})" for line in cold if line["ratio"][EINSUM][2] < LOST]


def summary(lines: Sequence[dict[str, Any]], where: str) -> str:
    """Return the geometric means by group, who was absent and why, and what is lost."""
    text = [f"{len(lines)} lines"]
    for group in dict.fromkeys(line["group"] for line in lines):
        cold = [line for line in lines if line["group"] == group and line["cache"] == "cold"]
        names = dict.fromkeys(name for line in cold for name in line["ratio"])
        for name in names:
            ratios = [line["ratio"][name][0] for line in cold if name in line["ratio"]]
            text.append(
                f"  {group}: {name} takes {geometric_mean(ratios):.2f} times as long over {len(ratios)} lines"
            )
    for name in dict.fromkeys(name for line in lines for name in line["absent"]):
        reasons = dict.fromkeys(line["absent"][name] for line in lines if name in line["absent"])
        text.append(f"  {name} is missing where: {'; '.join(list(reasons)[:3])}")
    text += [f"  lost to torch.einsum: {name}" for name in lost(lines)]
    if where != "cuda":
        text.append("these times are the interpreter's and mean nothing")
    return "\n".join(text)


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["test", "bench"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--inside", action="store_true", help="a run under compute-sanitizer")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--only", default="", help="measure the cases whose name has this text")
    parser.add_argument("--groups", nargs="+", default=GROUPS, choices=GROUPS)
    options = parser.parse_args(given)
    if not is_available():
        print(
            "there is no CUDA device here; with TRITON_INTERPRET=1 and --tiny the interpreter stands in for one"
        )
        return 2
    where = "cuda" if torch.cuda.is_available() else "cpu"
    if where == "cpu" and not options.tiny:
        print("the interpreter is for --tiny only")
        return 2
    if options.what == "test":
        sanitize = where == "cuda" and not options.inside
        return int(tested(options.tiny, where, 1 if options.tiny else options.draws, sanitize=sanitize) > 0)
    options.rounds = 1 if options.tiny else options.rounds
    return int(benched(options, where) > 0)


if __name__ == "__main__":
    sys.exit(main())
