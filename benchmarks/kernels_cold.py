"""How long networks of 30 steps are compiled for a GPU that is not there: with nothing in the store, and from it.

    python -m benchmarks.kernels_cold [--arch 90] [--dtype float32] [--seeds 0 1]

Each network is compiled by two processes, one after the other: the first has an empty store and Triton an empty
cache; the second has the store of the first, and Triton an empty cache again. Counted are the seconds of
`contractc.compile` (search, choice of kernels, kernels; in `cpu` those of all threads and child processes), not of the
imports. The second also makes every kernel ready for its launch, which ends at the CUDA driver: what that would do
is left out. Bars: 6 s with nothing in the store, 0.05 s for a kernel from it. Lines are appended to
benchmarks/results/kernels_cold.jsonl; the exit status says whether all bars are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "kernels_cold.jsonl"
MOST_COLD = 6.0
MOST_KEPT = 0.05
"""Seconds."""

NETWORKS = {
    "ring with chords, extents 2 to 4": ("ring", (2, 3, 4)),
    "ring with chords, extents 4 to 8": ("ring", (4, 6, 8)),
    "ring with chords, extents 4 to 16": ("ring", (4, 8, 12, 16)),
    "grid 5 by 6, extents 4 to 8": ("grid", (4, 6, 8)),
    "tensor train, extents 12 to 32": ("train", (12, 16, 20, 24, 32)),
}
"""Networks of 31 tensors: how their 30 first are connected, and the extents of their modes."""


def network(kind: str, extents: tuple[int, ...], seed: int) -> tuple[str, list[tuple[int, ...]]]:
    """Return an expression and its shapes: 30 connected tensors, and a vector or a matrix on an open mode."""
    rng = random.Random(seed)
    line = [(k, k + 1) for k in range(29)]
    edges = {
        "ring": [*line, (29, 0), *((k, k + 15) for k in range(15))],
        "grid": [*((a, b) for a, b in line if b % 6), *((k, k + 6) for k in range(24))],
        "train": line,
    }[kind]
    terms: list[list[int]] = [[] for _ in range(30)]
    sizes = []
    for mode, ends in enumerate(edges):
        sizes.append(rng.choice(extents))
        for end in ends:
            terms[end].append(mode)
    first, last, batch = len(edges), len(edges) + 1, len(edges) + 2
    sizes += [64, 64, 256]
    terms[0].append(first)
    terms[29].append(last)
    terms.append([first, batch])
    letters = [chr(0x4E00 + m) for m in range(len(sizes))]
    text = (
        ",".join("".join(letters[m] for m in term) for term in terms) + f"->{letters[batch]}{letters[last]}"
    )
    return text, [tuple(sizes[m] for m in term) for term in terms]


class NoDriver:
    """What Triton asks of its driver on the way to a launch, up to the calls of CUDA."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(
            load_binary=lambda name, cubin, shared, device: (cubin, cubin, 0, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
        )

    def get_current_device(self) -> int:
        return 0

    def get_current_target(self) -> Any:
        return SimpleNamespace(warp_size=32)

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        return lambda *given: None


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Return what one process measures for one network."""
    start = time.perf_counter()
    import triton

    import contractc
    from contractc.backends.triton import launch, toolchain
    from contractc.backends.triton.gpus import gpu_model
    from contractc.backends.triton.kept import kept
    from contractc.backends.triton.tasks import task_of
    from contractc.backends.triton.tiles import parsed
    from contractc.programs import Contract

    triton.runtime.driver.set_active(NoDriver())
    text, shapes = network(*NETWORKS[options.network], options.seed)
    ready, before = time.perf_counter(), sum(os.times()[:4])
    made = contractc.compile(text, *shapes, dtype=options.dtype, target=f"cuda:{options.arch}")
    done, after = time.perf_counter(), sum(os.times()[:4])
    device = gpu_model(f"cuda:{options.arch}")
    steps = [s for s in made.program.steps if isinstance(s, Contract) and s.how.startswith("tile")]
    kept.cache_clear()
    launch.kernel_pass.cache_clear()
    each = []
    for step in steps:
        begin = time.perf_counter()
        task = task_of(step, made.program)
        problem, _ = task.problem(task.in_order())
        config = parsed(step.how)
        for one in launch.passes_of(problem, config, device):
            found = kept(one.source, one.config.warps, one.config.stages, options.arch)
            assert found is not None
            toolchain.function_of(one.source, found.metadata, found.cubin)[1, 1, 1]
        each.append(time.perf_counter() - begin)
    return {
        "steps": len(made.plan.path),
        "kernels": len({task_of(s, made.program) for s in steps}),
        "import": ready - start,
        "compile": done - ready,
        "cpu": after - before,
        "kernel": max(each, default=0.0),
        "triton": triton.__version__,
    }


def run(options: argparse.Namespace, name: str, seed: int, store: Path, cache: Path) -> dict[str, Any]:
    """Return what a process of its own measures, with these folders for the store and for Triton's cache."""
    command = [sys.executable, "-m", "benchmarks.kernels_cold", "--network", name, "--seed", str(seed)]
    command += ["--arch", str(options.arch), "--dtype", options.dtype]
    paths = {"CONTRACTC_STORE": str(store), "TRITON_CACHE_DIR": str(cache)}
    found = subprocess.run(
        command, cwd=ROOT, env=os.environ | paths, stdout=subprocess.PIPE, text=True, check=True
    )
    measured: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return measured


def main() -> int:
    """Measure, print the table, append the lines, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--network", choices=NETWORKS, help="measure this one in this process, print JSON")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.network:
        print(json.dumps(child(options)))
        return 0
    lines, worst = [], [0.0, 0.0]
    print(f"{'network':36} seed kernels  cold s  cpu s  later s  longest kernel ms")
    for name in NETWORKS:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "store"
                cold = run(options, name, seed, store, Path(folder) / "first")
                later = run(options, name, seed, store, Path(folder) / "second")
            worst = [max(worst[0], cold["compile"]), max(worst[1], later["kernel"])]
            lines.append({"network": name, "seed": seed, "dtype": options.dtype, "arch": options.arch}
                         | {"cold": cold, "later": later})  # fmt: skip
            print(f"{name:36} {seed:4} {cold['kernels']:7} {cold['compile']:7.2f} {cold['cpu']:6.2f} "
                  f"{later['compile']:8.2f} {1000 * later['kernel']:8.1f}", flush=True)  # fmt: skip
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line | machine) + "\n" for line in lines)
    print(f"cold at most {worst[0]:.2f} s (bar {MOST_COLD}), a kernel from the store at most "
          f"{1000 * worst[1]:.1f} ms (bar {1000 * MOST_KEPT:.0f}); nothing was run on a GPU")  # fmt: skip
    return int(worst[0] > MOST_COLD or worst[1] > MOST_KEPT)


if __name__ == "__main__":
    sys.exit(main())
