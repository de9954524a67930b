"""Memory: what a program says it takes, what a child process takes, limits that hold, blocks that go back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contractc
from contractc.building import build
from contractc.errors import ResourceLimitError
from contractc.lower import NEGLIGIBLE, lower, peak_bytes
from contractc.machine import Target
from contractc.options import Options, environment_with
from contractc.plans import Plan
from contractc.programs import Loop, Program
from contractc.providers import memory

ROOT = Path(__file__).resolve().parent.parent
NOISE = 4 * 10**6
"""Bytes that an interpreter, an allocator and BLAS take or give back while a contraction runs."""

CHILD = """
import ctypes, gc, json, resource, sys
import numpy as np
import contractc

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

text, shapes, limit = json.loads(sys.argv[1])
shapes = [tuple(shape) for shape in shapes]
warm = np.ones((1200, 1200))
warm = warm @ warm
del warm
small = [(2,) * len(shape) for shape in shapes]
contractc.compile(text, *small)(*map(np.ones, small))
executable = contractc.compile(text, *shapes, memory_limit=limit)
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
if limit is not None:
    most = status("VmSize") + limit + limit // 10
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
executable(*[np.ones(shape) for shape in shapes])
print(json.dumps([executable.peak, status("VmHWM") - before, executable.plan.sliced != ()]))
"""


def in_child(text: str, shapes: list[list[int]], limit: int | None) -> tuple[int, int, bool]:
    """Return what the executable says it takes, what a child process took, and whether it ran in slices.

    With a limit the child may have no more memory than that, and 10 %, beside what it has before the operands.
    """
    environment = environment_with({"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})
    words = [sys.executable, "-c", CHILD, json.dumps([text, shapes, limit])]
    made = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert made.returncode == 0, made.stderr
    said, taken, sliced = json.loads(made.stdout)
    return said, taken, sliced


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux to see the peak of a process"
)
@pytest.mark.parametrize(
    ("text", "shapes", "limit"),
    [
        ("ij,jk->ik", [[2000, 2000], [2000, 2000]], None),
        ("ijb,jkb->ikb", [[400, 400, 20], [400, 400, 20]], None),
        ("xab,bc,cd,dxa->", [[4, 250, 1000], [1000, 1000], [1000, 1000], [1000, 4, 250]], 38_500_000),
    ],
)
def test_a_child_process_takes_what_was_said(text: str, shapes: list[list[int]], limit: int | None) -> None:
    said, taken, sliced = in_child(text, shapes, limit)
    assert sliced == (limit is not None)
    assert limit is None or said <= limit
    assert abs(taken - said) <= NOISE + said // 20


def plan(text: str, extents: dict[str, int], dtype: str = "float64", **options: Any) -> Plan:
    shapes = [tuple(extents[c] for c in term) for term in text.partition("->")[0].split(",")]
    return contractc.plan(text, *shapes, dtype=dtype, **options)


def test_peak_counts_operands_what_is_alive_and_copies() -> None:
    chain = plan("ij,jk,kl->il", {"i": 100, "j": 200, "k": 300, "l": 50}, optimize=[(0, 1), (0, 1)])
    given = 100 * 200 + 200 * 300 + 300 * 50
    assert peak_bytes(lower(chain, Target()), Target()) == 8 * (given + 100 * 300 + 100 * 50)
    narrow = plan("ij,jk->ik", {"i": 100, "j": 200, "k": 300}, "float16")
    wide = 4 * (100 * 200 + 200 * 300 + 100 * 300)
    small = 2 * (100 * 200 + 200 * 300 + 100 * 300)
    assert peak_bytes(lower(narrow, Target()), Target()) == small + wide


def test_the_peak_of_a_constant_counts_the_copy_that_is_handed_over() -> None:
    x = np.ones((64, 32))
    assert contractc.compile("ij->ji", x, constants=(0,)).peak == 2 * x.nbytes
    assert contractc.compile("ij,jk->ik", x, x.T, constants=(0, 1)).peak == 2 * 64 * 64 * 8


def loops(program: Program) -> list[Loop]:
    return [step for step in program.steps if isinstance(step, Loop)]


def test_sums_of_slices_wait_in_pairs_only_where_there_is_room() -> None:
    whole = plan("ax,bx,cx,dx->abcd", {**dict.fromkeys("abcd", 24), "x": 64})
    sliced = contractc.plans.Plan(whole.network, whole.path, whole.results, (1,))
    result = 8 * 24**4
    roomy = lower(sliced, Target(), memory=20 * result)
    tight = lower(sliced, Target(), memory=4 * result)
    assert [loop.pairs for loop in loops(roomy)] == [True]
    assert [loop.pairs for loop in loops(tight)] == [False]
    assert peak_bytes(tight, Target()) + 4 * result < peak_bytes(roomy, Target())
    arrays = [np.random.default_rng(k).integers(-3, 4, (24, 64)).astype(float) for k in range(4)]
    for found in (roomy, tight):
        (value,) = found.evaluate(*arrays)
        np.testing.assert_array_equal(value, np.einsum("ax,bx,cx,dx->abcd", *arrays))


@pytest.mark.parametrize("share", [0.1, 0.05])
def test_a_limit_holds_for_the_program(share: float) -> None:
    text, extents = "abx,cdx,acy,bdy->", {**dict.fromkeys("abcd", 24), "x": 24, "y": 24}
    whole = plan(text, extents)
    fixed = whole.network.bytes_of_inputs()
    limit = fixed + int(share * (whole.peak - fixed))
    shapes = [whole.network.shape(t.modes) for t in whole.network.tensors]
    arrays = [np.random.default_rng(k).integers(-2, 3, shape).astype(float) for k, shape in enumerate(shapes)]
    executable = contractc.compile(text, *arrays, memory_limit=limit)
    assert executable.peak <= limit + NEGLIGIBLE < whole.peak
    assert executable(*arrays) == contractc.contract(text, *arrays)
    plan_ = contractc.plan(text, *arrays, memory_limit=limit)  # fused steps may keep the limit without slices
    sliced = build(plan_, Target(), Options())
    assert plan_.sliced and sliced.peak <= limit + NEGLIGIBLE
    assert sliced(*arrays) == contractc.contract(text, *arrays)


def test_fused_steps_keep_a_limit_that_pairs_would_be_sliced_for() -> None:
    pytest.importorskip("llvmlite")
    text, extents = "ijk,jr,kr->ir", {"i": 40, "j": 60, "k": 60, "r": 16}
    shapes = [(40, 60, 60), (60, 16), (60, 16)]
    free = contractc.compile(text, *shapes)
    assert plan(text, extents).peak > free.peak + NEGLIGIBLE
    kept = contractc.compile(text, *shapes, memory_limit=free.peak)
    assert kept.program == free.program and not kept.plan.sliced


def test_a_limit_that_the_program_cannot_keep_is_refused() -> None:
    with pytest.raises(ResourceLimitError, match="memory_limit is 200000 bytes"):
        contractc.compile("ij,jk->ik", (100, 100), (100, 100), memory_limit=200_000)


@pytest.mark.parametrize(
    ("text", "extents", "share"),
    [
        ("abx,cdx,acy,bdy->", dict.fromkeys("abcdxy", 20), 0.3),
        ("ab,ac,ad,ae->bcde", {"a": 40, **dict.fromkeys("bcde", 12)}, 0.5),
    ],
)
def test_gradients_keep_a_limit(text: str, extents: dict[str, int], share: float) -> None:
    shapes = [tuple(extents[c] for c in term) for term in text.partition("->")[0].split(",")]
    free = contractc.compile_gradients(text, *shapes)
    network = free.plan.network
    fixed = network.bytes_of_inputs() + sum(network.size(term) * 8 for term in network.outputs)
    limit = fixed + int(share * (free.peak - fixed))
    kept = contractc.compile_gradients(text, *shapes, memory_limit=limit)
    assert kept.plan.sliced and not free.plan.sliced
    assert kept.peak <= limit + NEGLIGIBLE < free.peak
    rng = np.random.default_rng(3)
    values = [rng.integers(-2, 3, v.shape).astype(float) for v in map(np.empty, shapes)]
    cotangent = rng.integers(-2, 3, network.shape(network.tensors[-1].modes)).astype(float)
    for x, y in zip(kept(*values, cotangent), free(*values, cotangent), strict=True):
        np.testing.assert_array_equal(x, y)


def test_idle_blocks_make_room_for_new_ones() -> None:
    memory.release()
    size = memory.LEAST // 8
    first = memory.fresh((size,), np.dtype("float64"))
    del first
    second = memory.fresh((2 * size,), np.dtype("float64"))
    assert memory.kept() < second.nbytes + memory.LEAST
    del second
    memory.release()
