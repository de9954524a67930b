"""Generated kernels on a GPU: are they right, and how fast are they. For a machine that has one.

    python benchmarks/gpu.py test            correctness of every class and dtype, bytes around outputs untouched
    python benchmarks/gpu.py bench           paired times against torch.einsum, forward and backward
    TRITON_INTERPRET=1 python benchmarks/gpu.py test --tiny      the same code on small tensors of the CPU
    TRITON_INTERPRET=1 python benchmarks/gpu.py bench --tiny     (the times mean nothing and are not kept)

`bench` measures the bandwidth of a copy and the rate of a matrix product in the same run, gives the cache as flushed
before every launch, and takes medians of interleaved rounds with their quartiles. A case counts as lost when the
upper quartile of the paired ratio torch.einsum / contractc is below 0.95. Lines go to benchmarks/results/gpu.jsonl with
device and versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import torch
import triton

import contractc
from contractc.backends.triton import is_available
from contractc.backends.triton.emit import GENERATOR
from contractc.machine import Target

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
FLUSHED = 256 * 2**20
LOST = 0.95

CASES: tuple[tuple[str, str, str, str, bool], ...] = (
    ("plain product", "ik,kj->ij", "4096 4096 4096", "bfloat16", True),
    ("transposed batch", "bij,bkj->bki", "64 1024 64 1024", "bfloat16", True),
    ("Hadamard and reduce", "nc,nc->n", "1048576 64", "float32", True),
    ("permute", "abcd->dbca", "64 96 64 128", "float32", False),
    ("reduce", "abc->ca", "1024 256 512", "float32", False),
    ("many tiny modes", "zab,zbc->zac", "67108864 2 2 2", "float32", False),
    ("one-qubit gate", "hil,oi->hol", "16384 2 16384 2", "complex64", False),
    ("five-qubit gate", "hil,oi->hol", "8192 32 1024 32", "complex64", False),
    ("tensor train, two cores", "bij,iar,rjc->bac", "4096 64 64 64 16 64", "bfloat16", True),
    ("low rank", "bi,ir,ro->bo", "4096 1024 16 1024", "bfloat16", True),
    ("Monarch", "bij,jik,ikl->bkl", "4096 64 64 64 64", "bfloat16", True),
    ("bilinear", "bi,oij,bj->bo", "512 128 64 128", "bfloat16", True),
    ("Clebsch-Gordan", "zui,zuj,ijk->zuk", "4096 128 9 9 9", "float32", True),
    ("MTTKRP mode 1", "ijk,jr,kr->ir", "256 256 256 32", "float32", True),
    ("weighted Gram", "ni,n,nj->ij", "100000 64 64", "float32", True),
    ("linear-attention state", "bsd,bse,bte->btd", "64 1024 64 64 1024", "bfloat16", True),
)
"""Name, expression, extents in order of the modes, dtype, whether backward is timed too."""

Call = Callable[[], Any]


def shapes_of(text: str, extents: str, tiny: bool) -> list[tuple[int, ...]]:
    """Return the shapes of the operands; with `tiny` no extent is above 5."""
    modes = dict.fromkeys(c for c in text if c.isalpha())
    sizes = dict(zip(modes, (min(5, int(n)) if tiny else int(n) for n in extents.split()), strict=True))
    return [tuple(sizes[c] for c in term) for term in text.split("->")[0].split(",")]


def operands(text: str, extents: str, dtype: str, tiny: bool, where: str) -> list[torch.Tensor]:
    """Return random tensors for a case."""
    kind = getattr(torch, dtype)
    return [torch.randn(s, dtype=kind, device=where) / 4 for s in shapes_of(text, extents, tiny)]


def target() -> Target:
    """Return where kernels run."""
    return Target("triton", "cuda")


def tested(tiny: bool, where: str, draws: int) -> int:
    """Check every class and dtype, and the cases of the benchmark; return how many are wrong."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernels"))
    import drawn

    wrong = count = 0
    for kind in drawn.CLASSES:
        for dtype in drawn.DTYPES:
            rng = random.Random(f"{kind} {dtype}")
            for _ in range(draws):
                case = drawn.draw(rng, kind, dtype, most=200 if tiny else 3000)
                same = torch.equal(drawn.run(case, where).cpu(), drawn.truth(case))
                wrong, count = wrong + (not same), count + 1
                if not same:
                    print(f"WRONG {case}", flush=True)
    for name, text, extents, dtype, backward in CASES:
        xs = [x.requires_grad_(backward) for x in operands(text, extents, dtype, True, where)]
        made = contractc.compile(text, *xs, target=target())(*xs)
        exact = [
            x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_() for x in xs
        ]
        expected = torch.einsum(text, *exact)
        scale = 2**-6 if dtype == "bfloat16" else 2**-16
        good = bool(((made - expected).abs() <= scale * (1 + expected.abs())).all())
        if backward:
            made.sum().backward()
            expected.sum().backward()  # type: ignore[no-untyped-call]
            for x, y in zip(xs, exact, strict=True):
                assert x.grad is not None and y.grad is not None
                good = good and bool(((x.grad - y.grad).abs() <= scale * (4 + y.grad.abs())).all())
        wrong, count = wrong + (not good), count + 1
        print(f"{'ok' if good else 'WRONG'} {name}", flush=True)
    print(f"{count} contractions, {wrong} wrong, on {device_name(where)}")
    return wrong


def device_name(where: str) -> str:
    """Return what the kernels run on."""
    return torch.cuda.get_device_name() if where == "cuda" else "the interpreter"


def seconds(call: Call, where: str, flush: torch.Tensor) -> float:
    """Return the seconds of one call with a flushed cache: by events on a GPU, by the clock elsewhere."""
    flush.zero_()
    if where != "cuda":
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


def paired(calls: dict[str, Call], where: str, rounds: int, flush: torch.Tensor) -> dict[str, list[float]]:
    """Return the seconds of each call, round by round in random order, after two calls to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in (*calls.values(), *calls.values()):
        call()
    rng = random.Random(0)
    for _ in range(rounds):
        for name in rng.sample(list(calls), len(calls)):
            times[name].append(seconds(calls[name], where, flush))
    return times


def floor_of(where: str, tiny: bool, flush: torch.Tensor) -> dict[str, float]:
    """Return the bandwidth of a copy and the rate of a bfloat16 product, measured here."""
    size = 2**10 if tiny else 2**28
    x = torch.empty(size, dtype=torch.float32, device=where)
    y = torch.empty_like(x)
    side = 16 if tiny else 8192
    a = torch.randn(side, side, device=where).to(torch.bfloat16)
    times = paired({"copy": lambda: y.copy_(x), "product": lambda: a @ a}, where, 5, flush)
    return {
        "copy_bytes_a_second": 8 * size / min(times["copy"]),
        "product_flops": 2 * side**3 / min(times["product"]),
    }


def benched(tiny: bool, where: str, rounds: int) -> int:
    """Time every case; return how many are lost."""
    flush = torch.empty(2**10 if tiny else FLUSHED, dtype=torch.int8, device=where)
    machine = {
        "device": device_name(where),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "generator": GENERATOR,
        "cache": "flushed",
        **floor_of(where, tiny, flush),
    }
    print(machine)
    lines, lost = [], 0
    for name, text, extents, dtype, backward in CASES:
        for train in (False, True)[: 1 + backward]:
            xs = [x.requires_grad_(train) for x in operands(text, extents, dtype, tiny, where)]
            executable = contractc.compile(text, *xs, target=target())
            calls = {"contractc": trained(executable, xs, train), "einsum": trained(einsum(text), xs, train)}
            times = paired(calls, where, rounds, flush)
            ratios = sorted(b / a for a, b in zip(times["contractc"], times["einsum"], strict=True))
            low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            traffic = sum(x.numel() * x.element_size() for x in xs)
            lost += high < LOST
            ours, theirs = min(times["contractc"]), min(times["einsum"])
            line = {
                "case": name,
                "what": "forward and backward" if train else "forward",
                "text": text,
                "extents": extents,
                "dtype": dtype,
                "seconds": ours,
                "einsum_seconds": theirs,
                "ratio": middle,
                "ratio_quartiles": [low, high],
                "input_bytes_a_second": traffic / ours,
                "steps": str(executable),
            }
            lines.append(line | machine)
            print(
                f"{name:26} {line['what']:20} {ours * 1e6:12.1f} us {middle:8.2f}x einsum",
                flush=True,
            )
    if not tiny:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    meaning = "; these times are the interpreter's and mean nothing" if where != "cuda" else ""
    print(f"{len(lines)} cases, {lost} lost to torch.einsum{meaning}")
    return lost if where == "cuda" else 0


def einsum(text: str) -> Callable[..., Any]:
    """Return torch.einsum of an expression."""
    return lambda *xs: torch.einsum(text, *xs)


def trained(function: Callable[..., Any], xs: Sequence[torch.Tensor], train: bool) -> Call:
    """Return a call of `function`, with the gradients of all operands if `train`."""
    if not train:
        return lambda: function(*xs)

    def both() -> Any:
        y = function(*xs)
        return torch.autograd.grad(y, xs, torch.ones_like(y))

    return both


def main() -> int:
    """Run what was asked for and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["test", "bench"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    if not is_available():
        print(
            "there is no CUDA device here; with TRITON_INTERPRET=1 and --tiny the interpreter stands in for one"
        )
        return 2
    where = "cuda" if torch.cuda.is_available() else "cpu"
    if where == "cpu" and not given.tiny:
        print("the interpreter is for --tiny only")
        return 2
    if given.what == "test":
        return int(tested(given.tiny, where, 1 if given.tiny else given.draws) > 0)
    return int(benched(given.tiny, where, 2 if given.tiny else given.rounds) > 0)


if __name__ == "__main__":
    sys.exit(main())
