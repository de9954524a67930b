"""What generated kernels need of a GPU, found by cross-compilation alone: no GPU, and nothing about speed.

    python benchmarks/kernels_static.py [--groups tccg drawn fused] [--arch 80 90] [--minutes 20] [--seed 0]

For each case the first of at most six ranked tile configs that compiles without spills is taken, as `compile` does.
Asserted for each: no spills, shared memory under the architecture's limit, tensor-core instructions where a product
of matrices is, loads as wide as predicted, 64-bit offsets where 32 bits do not reach. The exit status says whether
all hold; the last line is the summary. Lines are appended to benchmarks/results/kernels_static.jsonl.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import triton

from contractc.backends.triton import toolchain
from contractc.backends.triton.emit import GENERATOR, source_of
from contractc.backends.triton.gpus import gpu_model
from contractc.backends.triton.model import Model
from contractc.backends.triton.problem import Problem, parts
from contractc.backends.triton.tasks import Task, candidates, trials
from contractc.backends.triton.tiles import TileConfig, is_dot, span
from contractc.dtypes import itemsize

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "kernels_static.jsonl"
COLUMNS = ("registers", "shared", "load", "dot", "tried", "compile_seconds", "predicted_us")
PRECISIONS = (("bfloat16", "default"), ("float32", "fast"), ("float32", "default"), ("float64", "default"))

FUSED: tuple[tuple[str, str, str, tuple[tuple[int, ...], ...]], ...] = (
    ("tensor train 64^4 r16", "bijkl,iar,rjcs,sket,tlg->baceg", "16 64 64 64 64 64 16 64 16 64 16 64", ()),
    ("tensor train, two cores", "bij,iar,rjc->bac", "4096 64 64 64 16 64", ((0, 1), (3, 2))),
    ("Monarch", "bij,jik,ikl->bkl", "4096 64 64 64 64", ((0, 1), (3, 2))),
    ("low rank", "bi,ir,ro->bo", "4096 1024 16 1024", ((0, 1), (3, 2))),
    ("low rank with a diagonal", "bi,ir,r,ro->bo", "4096 1024 16 1024", ((0, 1), (4, 2), (5, 3))),
    ("Tucker", "bi,ir,ors,js->bjo", "1024 256 16 16 16 256", ((0, 1), (4, 2), (5, 3))),
    ("CP", "bi,ir,jr,bj->br", "1024 256 32 256", ((0, 1), (2, 3), (4, 5))),
    ("bilinear", "bi,oij,bj->bo", "512 128 64 128", ((0, 1), (3, 2))),
    ("trilinear", "bi,bj,bk,ijk->b", "4096 32 32 32", ((0, 3), (4, 1), (5, 2))),
    ("MTTKRP mode 1", "ijk,jr,kr->ir", "256 256 256 32", ((1, 2), (0, 3))),
    ("MTTKRP mode 2", "ijk,ir,kr->jr", "256 256 256 32", ((1, 2), (0, 3))),
    ("weighted Gram", "ni,n,nj->ij", "100000 64 64", ((0, 1), (3, 2))),
    ("Clebsch-Gordan", "zui,zuj,ijk->zuk", "4096 128 9 9 9", ((0, 2), (3, 1))),
    ("linear-attention state", "bsd,bse,bte->btd", "64 1024 64 64 1024", ((0, 1), (3, 2))),
    ("five-qubit gate", "hil,oi->hol", "8192 32 1024 32", ()),
    ("one-qubit gate", "hil,oi->hol", "16384 2 16384 2", ()),
    ("many tiny modes", "zab,zbc->zac", "67108864 2 2 2", ()),
    ("Hadamard and reduce", "nc,nc->n", "1048576 64", ()),
)
"""Name, expression, extents in order of the modes, path (left to right if none is given)."""


@dataclass(frozen=True)
class Case:
    """One contraction to compile."""

    group: str
    name: str
    task: Task


def task_of_text(text: str, extents: Sequence[int], dtype: str, precision: str, path: Any = ()) -> Task:
    """Return the task of an expression; `extents` are in the order in which its modes appear."""
    inputs, out = text.split("->")
    letters = {c: k for k, c in enumerate(dict.fromkeys(c for c in text if c.isalpha()))}
    terms = tuple(tuple(letters[c] for c in t) for t in (*inputs.split(","), out))
    count = len(terms) - 1
    if count > 2 and not path:
        path = ((0, 1), *((count + s, s + 2) for s in range(count - 2)))
    return Task(terms, (dtype,) * len(terms), tuple(extents), path=tuple(path), precision=precision)


def cases(groups: Sequence[str], seed: int) -> Iterator[Case]:
    """Yield the contractions of the groups asked for."""
    if "fused" in groups:
        for name, text, extents, path in FUSED:
            for dtype, precision in (("bfloat16", "default"), ("float32", "default")):
                real = dtype if "gate" not in name else "complex64"
                if real == dtype or dtype == "float32":
                    yield Case(
                        "fused", name, task_of_text(text, [*map(int, extents.split())], real, precision, path)
                    )
    if "tccg" in groups:
        for item in json.loads((HERE / "cases" / "tccg.json").read_text())["cases"]:
            letters: dict[str, int] = {}
            for term, shape in zip(item["text"].split("->")[0].split(","), item["shapes"], strict=True):
                letters |= dict(zip(term, shape, strict=True))
            order = dict.fromkeys(c for c in item["text"] if c.isalpha())
            for dtype, precision in PRECISIONS:
                yield Case(
                    "tccg",
                    item["name"],
                    task_of_text(item["text"], [letters[c] for c in order], dtype, precision),
                )
    if "drawn" in groups:
        yield from drawn(seed)


def drawn(seed: int) -> Iterator[Case]:
    """Yield 50 pairwise contractions with extents and orders of modes drawn from a seed."""
    rng = random.Random(seed)
    for number in range(50):
        kinds = [rng.randint(0, 1), rng.randint(1, 2), rng.randint(1, 2), rng.randint(1, 2)]
        names = iter("abcdefgh")
        b, m, n, k = ([next(names) for _ in range(count)] for count in kinds)
        terms = [[*b, *m, *k], [*b, *k, *n], [*b, *m, *n]]
        for term in terms:
            rng.shuffle(term)
        text = f"{''.join(terms[0])},{''.join(terms[1])}->{''.join(terms[2])}"
        order = dict.fromkeys(c for c in text if c.isalpha())
        extents = [rng.choice((3, 7, 16, 20, 24, 32, 48, 64, 71, 72, 100, 128)) for _ in order]
        dtype, precision = rng.choice(PRECISIONS)
        yield Case("drawn", f"drawn{number:02} {text}", task_of_text(text, extents, dtype, precision))


def widest_load(ptx: str) -> int:
    """Return the bytes of the widest load from memory in a kernel."""
    copies = re.findall(r"cp\.async\.\w+\.shared\.global[.\w:]* \[[^\]]*\], \[[^\]]*\], 0x([0-9a-f]+)", ptx)
    found = [int(n, 16) for n in copies]
    for count, bits in re.findall(r"ld\.global[.\w:]*?(?:\.v(\d))?\.[bfsu](\d+)", ptx):
        found.append(int(count or 1) * int(bits) // 8)
    return max(found, default=0)


def predicted_load(problem: Problem, config: TileConfig) -> int:
    """Return the bytes of the widest load that extents, strides and blocks allow, of all inputs.

    Along the run with stride 1 a thread reads what divides the block, the extent (where a tile ends inside) and all
    other strides; a tile of fewer elements than threads is read one by one.
    """
    model = Model(problem)
    blocks = dict(config.blocks)
    widest = 0
    for at, access in enumerate(problem.inputs):
        size = itemsize(access.dtype)
        tile = span([r for r in model.runs if at in r.values], blocks)
        lanes = max(1, tile // (32 * config.warps))
        unit = access.unit
        run = next(
            (r for r in model.runs if unit is not None and unit in r.modes and r.modes[-1] == unit), None
        )
        vector = 1
        if run is not None and unit is not None:
            vector = gcd(16 // min(16, size), blocks[run.name])
            if len(run.modes) > 1 or problem.extents[unit] % blocks[run.name]:
                vector = gcd(vector, problem.extents[unit])
            for m, s in zip(access.modes, access.strides, strict=True):
                vector = gcd(vector, s or 0) if m != unit else vector
        widest = max(widest, min(vector, lanes) * size)
    return widest


def examined(case: Case, arch: int) -> dict[str, Any]:
    """Return what a case needs on an architecture, and which asserts fail."""
    device = gpu_model(f"cuda:{arch}")
    problem, _ = case.task.problem(case.task.in_order())
    ranking = trials(problem, device)
    row: dict[str, Any] = {
        "group": case.group,
        "case": case.name,
        "dtype": case.task.dtypes[-1],
        "precision": case.task.precision,
        "arch": arch,
        "failed": [],
    }
    if not ranking:
        return row | {"failed": ["no tile fits"]}
    first: dict[str, Any] | None = None
    for tried, (config, prediction) in enumerate(ranking, 1):
        start = time.perf_counter()
        once = parts(problem, config.split)[0] if config.split > 1 else problem
        try:
            binary = toolchain.compiled(source_of(once, config), config.warps, config.stages, arch)
        except toolchain.FAILURES as error:
            first = first or row | {"failed": [f"does not compile: {type(error).__name__}"], "tried": tried}
            continue
        seconds = time.perf_counter() - start
        model = Model(once, device)
        dot = any(is_dot(once, model.roles[n], dict(config.blocks)) for n in model.roles)
        failed = []
        if binary.spills:
            failed.append(f"spills {binary.spills} bytes")
        if binary.shared > device.shared:
            failed.append(f"shared memory {binary.shared}")
        if dot and not re.search(r"wgmma\.mma|mma\.sync", binary.ptx):
            failed.append("no tensor-core instruction")
        expected, found = predicted_load(once, config), widest_load(binary.ptx)
        if found < expected:
            failed.append(f"loads of {found} bytes, {expected} predicted")
        if any(once.wide_offsets(at) for at in range(len(once.values))) and "i64" not in binary.ttir:
            failed.append("32-bit offsets")
        made = row | {
            "config": str(config),
            "tried": tried,
            "registers": binary.registers,
            "spills": binary.spills,
            "shared": binary.shared,
            "load": found,
            "predicted_load": expected,
            "dot": dot,
            "wgmma": "wgmma" in binary.ptx,
            "compile_seconds": round(seconds, 2),
            "predicted_us": round(prediction.seconds * 1e6, 1),
            "failed": failed,
        }
        if not binary.spills and binary.shared <= device.shared:
            return made
        first = first or made
    assert first is not None
    return first


def elsewhere() -> str:
    """Return what becomes of a kernel compiled for sm_100 and gfx942: for the record, nothing is asserted."""
    task = task_of_text("mk,kn->mn", [512, 512, 512], "bfloat16", "default")
    problem, _ = task.problem(task.in_order())
    config = candidates(problem)[0][0]
    said = []
    for name, target in (("sm_100", ("cuda", 100, 32)), ("gfx942", ("hip", "gfx942", 64))):
        try:
            toolchain.compiled_elsewhere(source_of(problem, config), config.warps, config.stages, target)
            said.append(f"{name}: compiles")
        except Exception as error:
            said.append(
                f"{name}: {type(error).__name__} {str(error).strip().splitlines()[-1][:80] if str(error) else ''}"
            )
    return "; ".join(said)


def main() -> int:
    """Compile, print the table, append the lines, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", default=["fused", "tccg", "drawn"])
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every n-th case only")
    given = parser.parse_args()
    stop = time.monotonic() + 60 * given.minutes
    rows, left = [], 0
    print(f"{'case':44} {'dtype':9} {'prec':8} sm  regs shared load dot tried compile us(model) config")
    for case in list(cases(given.groups, given.seed))[:: given.every]:
        for arch in given.arch:
            if time.monotonic() > stop:
                left += 1
                continue
            row = examined(case, arch)
            versions = {
                "triton": triton.__version__,
                "generator": GENERATOR,
                "python": platform.python_version(),
            }
            rows.append(row | versions)
            values = [row.get(k, "-") for k in COLUMNS]
            said = [row.get("config", ""), *(f"FAILED {x}" for x in row["failed"])]
            print(
                f"{case.name[:44]:44} {row['dtype']:9} {row['precision']:8} {arch}",
                *values,
                *said,
                flush=True,
            )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    failed = [row for row in rows if row["failed"]]
    print(elsewhere())
    print(
        f"{len(rows)} kernels compiled by triton {triton.__version__}, {len(rows) - len(failed)} hold all asserts, "
        f"{len(failed)} fail, {left} not reached; nothing was run"
    )
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
