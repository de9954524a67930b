"""What generated kernels need of a GPU, found by cross-compilation alone: no GPU, and nothing about speed.

    python -m benchmarks.kernels_static [--groups tccg drawn fused rings wide] [--arch 80 90] [--minutes 20]

For each case the first of at most six ranked tile configs that compiles without spills is taken, as `compile` does.
Asserted for each: no spills, shared memory under the architecture's limit, tensor-core instructions where a product
of matrices is, loads as wide as predicted, no 32-bit arithmetic on the way to an address that can leave 32 bits
(`benchmarks/ttir.py`). The exit status says whether all hold; the last line is the summary. Lines are appended to
benchmarks/results/kernels_static.jsonl.
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
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.ttir import overflows
from contractc.backends.triton import toolchain
from contractc.backends.triton.emit import GENERATOR, source_of
from contractc.backends.triton.gpus import gpu_model
from contractc.backends.triton.model import Model
from contractc.backends.triton.problem import Problem, parts
from contractc.backends.triton.tasks import Task, trials
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

RINGS: tuple[tuple[str, str], ...] = (
    ("max_plus", "float32"),
    ("max_plus", "float64"),
    ("max_plus", "int64"),
    ("min_plus", "float32"),
    ("min_plus", "int32"),
    ("max_times", "float32"),
    ("log_sum_exp", "float32"),
    ("log_sum_exp", "float64"),
    ("or_and", "bool"),
    ("sum_product", "int64"),
    ("sum_product", "int32"),
    ("sum_product", "int8"),
)
"""Semirings and dtypes without a product of matrices for all of them."""

IN_RINGS: tuple[tuple[str, str, str, tuple[tuple[int, ...], ...]], ...] = (
    ("product", "mk,kn->mn", "4096 4096 4096", ()),
    ("batched, permuted", "bkm,bnk->nbm", "32 256 512 384", ()),
    ("reduce", "abc->ca", "512 300 512", ()),
    ("Hadamard and reduce", "nc,nc->n", "1048576 64", ()),
    ("chain", "bi,ij,jk->bk", "1000 48 20 100", ((0, 1), (3, 2))),
)

WIDE: tuple[tuple[str, str, str, str], ...] = (
    ("product with a large input", "mk,kn->mn", "131072 32768 64", "bfloat16"),
    ("product with a large result", "mk,kn->mn", "65536 64 65536", "bfloat16"),
    ("permutation", "abc->cab", "2048 1024 2048", "float16"),
    ("reduce", "abc->b", "4096 1024 1024", "bfloat16"),
    ("Hadamard and reduce", "nc,nc->n", "67108864 64", "bfloat16"),
    ("one-qubit gate", "hil,oi->hol", "32768 2 32768 2", "complex64"),
    ("just within", "mk,kn->mn", "65536 32767 64", "bfloat16"),
)
"""Name, expression, extents, dtype: values with more than 2**31 elements, and one with a few less."""


@dataclass(frozen=True)
class Case:
    """One contraction to compile."""

    group: str
    name: str
    task: Task


def task_of_text(
    text: str,
    extents: Sequence[int],
    dtype: str,
    precision: str,
    path: Any = (),
    semiring: str = "sum_product",
) -> Task:
    """Return the task of an expression; `extents` are in the order in which its modes appear."""
    inputs, out = text.split("->")
    letters = {c: k for k, c in enumerate(dict.fromkeys(c for c in text if c.isalpha()))}
    terms = tuple(tuple(letters[c] for c in t) for t in (*inputs.split(","), out))
    count = len(terms) - 1
    if count > 2 and not path:
        path = ((0, 1), *((count + s, s + 2) for s in range(count - 2)))
    dtypes = (dtype,) * len(terms)
    return Task(terms, dtypes, tuple(extents), path=tuple(path), semiring=semiring, precision=precision)


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
    if "rings" in groups:
        for semiring, dtype in RINGS:
            for name, text, extents, path in IN_RINGS:
                task = task_of_text(text, [*map(int, extents.split())], dtype, "default", path, semiring)
                yield Case("rings", f"{name} in {semiring}", task)
    if "wide" in groups:
        for name, text, extents, dtype in WIDE:
            yield Case("wide", name, task_of_text(text, [*map(int, extents.split())], dtype, "default"))


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
        source = source_of(once, config)
        try:
            binary = toolchain.compiled(source, config.warps, config.stages, arch)
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
        programs = toolchain.grid_of(source, once.extents, replace(config, resident=0), torch.device("cpu"))
        failed += [f"can overflow: {line}" for line in overflows(binary.ttir, programs, {})[:1]]
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


def elsewhere(every: int) -> Iterator[dict[str, Any]]:
    """Yield what becomes of the fused classes compiled for sm_100 and gfx942: for the record, nothing is asserted."""
    targets = (("sm_100", ("cuda", 100, 32)), ("gfx942", ("hip", "gfx942", 64)))
    for case in list(cases(["fused"], 0))[::every]:
        problem, _ = case.task.problem(case.task.in_order())
        config = trials(problem)[0][0]
        once = parts(problem, config.split)[0] if config.split > 1 else problem
        for name, target in targets:
            row = {"group": "elsewhere", "case": case.name, "dtype": case.task.dtypes[-1], "arch": name}
            try:
                toolchain.compiled_elsewhere(source_of(once, config), config.warps, config.stages, target)
                yield row | {"config": str(config), "failed": []}
            except Exception as error:  # whatever a compiler raises is what there is to say
                lines = str(error).strip().splitlines() or [""]
                yield row | {"config": str(config), "failed": [f"{type(error).__name__}: {lines[-1][:160]}"]}


def main() -> int:
    """Compile, print the table, append the lines, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="*", default=["fused", "tccg", "drawn", "rings", "wide"])
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every n-th case only")
    given = parser.parse_args()
    stop = time.monotonic() + 60 * given.minutes
    rows, left = [], 0
    versions = {"triton": triton.__version__, "generator": GENERATOR, "python": platform.python_version()}
    print(f"{'case':44} {'dtype':9} {'prec':8} sm  regs shared load dot tried compile us(model) config")
    for case in list(cases(given.groups, given.seed))[:: given.every]:
        for arch in given.arch:
            if time.monotonic() > stop:
                left += 1
                continue
            row = examined(case, arch)
            rows.append(row | versions)
            values = [row.get(k, "-") for k in COLUMNS]
            said = [row.get("config", ""), *(f"FAILED {x}" for x in row["failed"])]
            print(
                f"{case.name[:44]:44} {row['dtype']:9} {row['precision']:8} {arch}",
                *values,
                *said,
                flush=True,
            )
    others = [row | versions for row in elsewhere(given.every)]
    for row in others:
        print(
            f"{row['case'][:44]:44} {row['dtype']:9} {row['arch']}: {'; '.join(row['failed']) or 'compiles'}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in (*rows, *others))
    failed = [row for row in rows if row["failed"]]
    print(f"elsewhere {len(others) - sum(bool(r['failed']) for r in others)} of {len(others)} compile")
    print(
        f"{len(rows)} kernels compiled by triton {triton.__version__}, {len(rows) - len(failed)} hold all asserts, "
        f"{len(failed)} fail, {left} not reached; nothing was run"
    )
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
