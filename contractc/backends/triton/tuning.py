"""Tuning: the tile configs that the model ranks highest, compiled, those that spill dropped, the best few timed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from contractc.backends.triton import toolchain
from contractc.backends.triton.choose import fits
from contractc.backends.triton.emit import GENERATOR
from contractc.backends.triton.launch import Step
from contractc.backends.triton.problem import Problem
from contractc.backends.triton.steps import step_of
from contractc.backends.triton.tasks import LIBRARY, Task, candidates, task_of
from contractc.backends.triton.tiles import parsed
from contractc.machine import Gpu
from contractc.programs import Contract, Loop, Program
from contractc.programs import Step as AnyStep
from contractc.serial import digest

FIRST = 8
"""Configs that are timed in any case."""

ENOUGH = 0.7
"""The share of the predicted memory floor at which timing stops after the first few."""

FLUSHED = 256 * 2**20
"""Bytes written between two launches, so that the cache holds none of the operands."""

Measure = Callable[[Step, Sequence[Any]], float]
"""Seconds that a step takes on tensors."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one task: the config and its seconds, on which GPU, by which generator and Triton.

    `key` is the digest of the problem: a canonical contraction with its strides, after fusion. Operands are aligned.
    """

    key: str
    gpu: str
    generator: int
    triton: str | None
    config: str
    seconds: float


def tuned(
    program: Program,
    device: Gpu,
    measure: Measure | None,
    database: Path | None = None,
    where: str = "cuda",
) -> Program:
    """Return `program` with the tile config of each kernel step that was fastest, and the library's where that was.

    Without `measure` (no GPU) it is the first of the ranking that compiles without spilling. What is found is
    appended to `database`, and looked up there first; lines of another generator, Triton or GPU are not trusted.
    """
    known = read(database, gpu_name()) if database is not None else {}
    steps: list[AnyStep] = []
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=tuned(step.body, device, measure, database, where))
        if isinstance(step, Contract) and step.how.startswith("tile"):
            task = task_of(step, program)
            problem, _ = task.problem(task.in_order())
            found = known.get(key_of(problem))
            if found is None:
                found = _fastest(task, problem, device, measure, where)
                if database is not None and measure is not None and found is not None:
                    append(database, found)
            if found is not None:
                step = replace(step, how=found.config)
        steps.append(step)
    return replace(program, steps=tuple(steps))


def key_of(problem: Problem) -> str:
    """Return the digest that a problem is looked up by."""
    return digest(problem)


def gpu_name() -> str:
    """Return the name of the current GPU, or what stands in for one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"none, {platform.machine()}"


def read(database: Path, gpu: str) -> dict[str, Tuned]:
    """Return the lines of a database that hold here, by key; the last one of a key counts.

    A line that is none (cut off by a crash, say) or whose config cannot be read is passed over.
    """
    found: dict[str, Tuned] = {}
    if not database.exists():
        return found
    for line in database.read_text(encoding="utf-8").splitlines():
        try:
            row = Tuned(**json.loads(line))
            valid = row.config == LIBRARY or bool(parsed(row.config))
        except (ValueError, TypeError):
            continue
        if valid and (row.gpu, row.generator, row.triton) == (gpu, GENERATOR, toolchain.VERSION):
            found[row.key] = row
    return found


def append(database: Path, row: Tuned) -> None:
    """Add one line to a database."""
    database.parent.mkdir(parents=True, exist_ok=True)
    fields = {name: getattr(row, name) for name in Tuned.__slots__}
    with database.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def _fastest(task: Task, problem: Problem, device: Gpu, measure: Measure | None, where: str) -> Tuned | None:
    ranking = candidates(problem, device)
    with ThreadPoolExecutor(2) as pool:
        holds = list(pool.map(lambda pair: fits(problem, pair[0], device), ranking))
    fitting = [pair for pair, good in zip(ranking, holds, strict=True) if good]

    def row(config: str, seconds: float) -> Tuned:
        return Tuned(key_of(problem), gpu_name(), GENERATOR, toolchain.VERSION, config, seconds)

    if measure is None:
        return row(str(fitting[0][0]), fitting[0][1].seconds) if fitting else None
    tensors = operands(task, where)
    best = row(LIBRARY, measure(step_of(task, LIBRARY, device), tensors))
    floor = min((p.traffic for _, p in fitting), default=0.0) / device.bandwidth
    for number, (config, _) in enumerate(fitting):
        if number >= FIRST and floor > ENOUGH * best.seconds:
            break
        seconds = measure(step_of(task, str(config), device), tensors)
        if seconds < best.seconds:
            best = row(str(config), seconds)
    return best


def operands(task: Task, where: str) -> list[torch.Tensor]:
    """Return tensors for a task: numbers between -1 and 1, or small integers."""
    made = []
    for term, dtype in zip(task.terms[:-1], task.dtypes[:-1], strict=True):
        kind = getattr(torch, dtype)
        shape = [task.extents[m] for m in term]
        if kind.is_floating_point or kind.is_complex:
            made.append(torch.randn(shape, dtype=kind, device=where) / 2)
        else:
            made.append(torch.randint(0, 2, shape, device=where).to(kind))
    return made


def timed(step: Step, tensors: Sequence[torch.Tensor], rounds: int = 20) -> float:
    """Return the median seconds of a step on the current GPU, with a flushed cache."""
    return clocked(lambda: step.launch(*tensors), rounds)


def clocked(call: Callable[[], Any], rounds: int = 20) -> float:
    """Return the median seconds of a call on the current GPU, with a flushed cache, by events."""
    flush = torch.empty(FLUSHED, dtype=torch.int8, device="cuda")
    times: list[float] = []
    for _ in range(3):
        call()
    for _ in range(rounds):
        flush.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    return sorted(times)[rounds // 2]
