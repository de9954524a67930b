"""The memory that contractions take beside what was predicted: the peak of a child process, and a run under a cap.

    python benchmarks/memory.py [--only TEXT] [--out FILE]

For each network a child process compiles it, notes its memory, makes the operands, runs it, and tells by how much
its peak (VmHWM of /proc, which counts BLAS and torch too) has grown: `measured`. `printed` is `executable.peak`,
`plan` what the plan said. The second child has its address space capped (RLIMIT_AS) at what it has before the operands
are made, plus the memory limit (or, without one, the printed peak), plus 10 %: `capped` tells whether it finished.
Lines go to benchmarks/results/memory.jsonl.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import contractc
from contractc.bench.limits import machine
from contractc.cost import priced
from contractc.formats import tt_matrix
from contractc.options import environment_with
from contractc.plans import Plan
from contractc.providers.memory import release

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"


class Case(NamedTuple):
    """A network: its text, the extent of each mode, the dtype, and the memory limit as a share of what it needs else.

    The share is of what is beyond operands and results. With `gradients` the value and all gradients are computed.
    `cores` are the shapes of a TT matrix by which the last operand is held; a mode of it then is a product of extents.
    """

    text: str
    extents: dict[str, int]
    dtype: str = "float64"
    share: float = 1.0
    gradients: bool = False
    cores: tuple[tuple[int, ...], ...] = ()


CASES = {
    "product": Case("ij,jk->ik", {"i": 3000, "j": 3000, "k": 3000}),
    "chain": Case("ij,jk,kl,lm->im", {"i": 2000, "j": 3000, "k": 2500, "l": 2000, "m": 1500}, "float32"),
    "outer product": Case("i,j,k->ijk", {"i": 300, "j": 300, "k": 300}),
    "reduction": Case("ijk->j", {"i": 300, "j": 300, "k": 300}),
    "batched product": Case("bij,bjk->bik", {"b": 60, "i": 500, "j": 500, "k": 500}, "float32"),
    "batch last": Case("ijb,jkb->ikb", {"b": 40, "i": 500, "j": 500, "k": 500}, "float32"),
    "transposed": Case("adb,cd->cba", {"a": 300, "d": 300, "b": 300, "c": 60}),
    "interleaved": Case("abcd,cbea->de", {"a": 70, "b": 80, "c": 70, "d": 60, "e": 40}, "float32"),
    "MTTKRP": Case("ijk,jr,kr->ir", {"i": 300, "j": 300, "k": 300, "r": 40}),
    "hyperedge": Case("abx,bcx,cdx->adx", {"a": 400, "b": 400, "c": 400, "d": 400, "x": 20}),
    "integers": Case("ij,jk->ik", {"i": 2000, "j": 2000, "k": 2000}, "int64"),
    "complex": Case("abc,cd,be->ade", {"a": 200, "b": 200, "c": 200, "d": 150, "e": 150}, "complex64"),
    "CP, sliced": Case("ia,ja,ka,la->ijkl", {"i": 60, "j": 60, "k": 60, "l": 60, "a": 40}, "float64", 0.6),
    "ring, sliced": Case("ab,bc,cd,da->", dict.fromkeys("abcd", 2000), "float64", 0.4),
    "ring, sliced more": Case("ab,bc,cd,da->", dict.fromkeys("abcd", 1600), "float64", 0.1),
    "tree, sliced": Case("abx,cdx,acy,bdy->", {**dict.fromkeys("abcd", 100), "x": 100, "y": 100}, "float64", 0.3),
    "tree, sliced more": Case("abx,cdx,acy,bdy->", {**dict.fromkeys("abcd", 140), "x": 140, "y": 140}, "float32", 0.2),
    "kept modes, sliced": Case("iab,jbc,kca->ijk", dict.fromkeys("ijkabc", 128), "float64", 0.1),
    "lattice, sliced": Case("ab,acd,bef,cg,dgh,eh,f->", dict.fromkeys("abcdefgh", 160), "float64", 0.5),
    "hyperedge, sliced": Case("axy,bxy,cxz,dyz->abcd", dict.fromkeys("abcdxyz", 56), "float32", 0.5),
    "gradients of a chain": Case("ij,jk,kl->il", dict.fromkeys("ijkl", 1600), "float64", 1.0, True),
    "gradients, sliced": Case("abx,cdx,acy,bdy->", dict.fromkeys("abcdxy", 90), "float64", 0.3, True),
    "TT matrix layer": Case(
        "bi,oi->bo", {"b": 20000, "i": 1024, "o": 1024}, "float32", cores=((1, 32, 32, 8), (8, 32, 32, 1))),
    "TT matrix layer, three cores": Case(
        "bi,oi->bo", {"b": 30000, "i": 512, "o": 512}, "float32", cores=((1, 8, 8, 4), (4, 8, 8, 4), (4, 8, 8, 1))),
}  # fmt: skip


def shapes(case: Case) -> list[tuple[int, ...]]:
    """Return the shapes of the operands of `case`."""
    return [tuple(case.extents[c] for c in term) for term in case.text.partition("->")[0].split(",")]


def limit_of(case: Case) -> int | None:
    """Return the memory limit of `case` in bytes, or None."""
    if case.share == 1.0:
        return None
    plan = contractc.compile_gradients(case.text, *shapes(case)).plan if case.gradients else planned(case)
    network = plan.network
    fixed = network.bytes_of_inputs()
    fixed += sum(network.size(term) for term in network.outputs) * np.dtype(case.dtype).itemsize
    return fixed + int(case.share * (plan.peak - fixed))


def planned(case: Case) -> Plan:
    """Return the plan of the value of `case`, without a limit."""
    return contractc.plan(case.text, *shapes(case), dtype=case.dtype)


def drawn(shape: tuple[int, ...], dtype: str, backend: str) -> Any:
    """Return an operand, made without memory that is not its own."""
    x = np.empty(shape, dtype)
    for block in np.array_split(x.reshape(-1), max(1, x.nbytes // 2**18)):
        block[...] = np.arange(block.size) % 7 - 3
    if backend == "numpy":
        return x
    import torch

    return torch.from_numpy(x)


def operands(case: Case, backend: str) -> list[Any]:
    """Return the operands of `case`, the factors of the last in its place if it is held as such."""
    made = shapes(case)[:-1] + list(case.cores) if case.cores else shapes(case)
    return [drawn(shape, case.dtype, backend) for shape in made]


def compiled(case: Case, backend: str, limit: int | None) -> contractc.Executable:
    """Return `case` compiled; without arrays, but for factors, of which there is little."""
    given: list[Any] = shapes(case)
    if case.cores:
        given[-1] = tt_matrix([drawn(shape, case.dtype, backend) for shape in case.cores])
    build = contractc.compile_gradients if case.gradients else contractc.compile
    return build(case.text, *given, dtype=case.dtype, target=backend, memory_limit=limit)


def status(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def run(executable: contractc.Executable, case: Case, backend: str) -> None:
    """Make operands and the cotangent, if there is one, and call `executable`."""
    given = operands(case, backend)
    if case.gradients:
        value = executable.program.inputs[-1]
        given.append(drawn(tuple(executable.program.extents[m] for m in value.modes), case.dtype, backend))
    executable(*given)


def child(name: str, backend: str, cap: int | None) -> dict[str, Any]:
    """Return what running a case here takes; with `cap` in an address space of so many bytes more than now."""
    case = CASES[name]
    held = set(case.text.partition("->")[0].rpartition(",")[2]) if case.cores else set()
    half = case._replace(extents={m: n if m in held else n // 2 for m, n in case.extents.items()})
    run(compiled(half, backend, None), half, backend)  # what is loaded, and what BLAS allocates, once
    release()
    for dtype in ("float32", "float64", "complex64"):
        square = drawn((2500, 2500), dtype, backend)
        for rows in (square, drawn((20000, 2500), dtype, backend)):
            rows[:, :1000] @ square[:1000, :1000].T
        square @ square
        del square, rows
    limit = limit_of(case)
    executable = compiled(case, backend, limit)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, or it would be given to the operands
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    if cap is not None:
        most = status("VmSize") + cap
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    run(executable, case, backend)
    return {
        "measured": status("VmHWM") - before,
        "printed": executable.peak,
        "plan": priced(executable.plan).peak,
        "limit": limit,
        "slices": executable.plan.network.size(executable.plan.sliced),
    }


def run_child(name: str, backend: str, cap: int | None) -> dict[str, Any]:
    """Return what `child` returns in a process of its own, or its last words under `error`."""
    words = [sys.executable, __file__, "--child", name, "--backend", backend]
    words += [] if cap is None else ["--cap", str(cap)]
    path = os.pathsep.join(sys.path)
    made = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment_with({"PYTHONPATH": path})
    )
    if made.returncode:
        return {"error": made.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--backend", choices=("numpy", "torch", "both"), default="both")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cap", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child, given.backend, given.cap)))
        return
    print(
        f"{'case':20} {'':6} {'slices':>8} {'limit':>9} {'plan':>9} {'printed':>9} {'measured':>9}  ratio  capped"
    )
    for name in (n for n in CASES if given.only in n):
        for backend in ("numpy", "torch") if given.backend == "both" else (given.backend,):
            free = run_child(name, backend, None)
            if "error" in free:
                print(f"{name:20} {backend:6} {free['error']}", flush=True)
                continue
            allowed = free["limit"] or free["printed"]
            capped = run_child(name, backend, allowed + allowed // 10)
            numbers = [free["limit"], free["plan"], free["printed"], free["measured"]]
            cells = " ".join(f"{n / 1e6:7.1f}MB" if n else f"{'-':>9}" for n in numbers)
            ratio = free["measured"] / free["printed"]
            end = "finished" if "error" not in capped else str(capped["error"])
            print(f"{name:20} {backend:6} {free['slices']:8} {cells}  {ratio:.3f}  {end}", flush=True)
            if given.out:
                line = {"case": name, "text": CASES[name].text, "backend": backend, **free, "capped": end}
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "machine": machine()}) + "\n")


if __name__ == "__main__":
    main()
