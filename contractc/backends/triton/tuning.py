"""Tuning: the tile configs that the model ranks highest, compiled, those that spill dropped, the best few timed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from contractc.backends.triton.choose import fits, with_ways
from contractc.backends.triton.launch import Step
from contractc.backends.triton.problem import Problem
from contractc.backends.triton.rows import Tuned, add, known_rows, row_of
from contractc.backends.triton.steps import step_of
from contractc.backends.triton.tasks import LIBRARY, Task, candidates, task_of
from contractc.machine import Gpu
from contractc.programs import Contract, Loop, Program
from contractc.programs import Step as AnyStep

FIRST = 8
"""Configs that are timed in any case."""

ENOUGH = 0.7
"""The share of the predicted memory floor at which timing stops after the first few."""

FLUSHED = 256 * 2**20
"""Bytes written between two launches, so that the cache holds none of the operands."""

Measure = Callable[[Step, Sequence[Any]], float]
"""Seconds that a step takes on tensors."""


def tuned(
    program: Program,
    device: Gpu,
    measure: Measure | None,
    database: Path | None = None,
    where: str = "cuda",
) -> Program:
    """Return `program` with the tile config of each kernel step that was fastest, and the library's where that was.

    Without `measure` (no GPU) it is the first of the ranking that compiles without spilling. What was timed is added
    to the file `database`, or to the store if that is None, and looked up there first.
    """
    known = known_rows(database, gpu_name())
    steps: list[AnyStep] = []
    hows: dict[int, str] = {}
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=tuned(step.body, device, measure, database, where))
        if isinstance(step, Contract) and step.how.startswith("tile"):
            task = task_of(step, program)
            problem, _ = task.problem(task.in_order())
            found = known(problem) if measure is not None else None
            if found is None:
                found = _fastest(task, problem, device, measure, where)
                if measure is not None and found is not None:
                    add(database, problem, found)
            if found is not None:
                hows[step.out.number] = found.config
        steps.append(step)
    return with_ways(replace(program, steps=tuple(steps)), hows)


def gpu_name() -> str:
    """Return the name of the current GPU, or what stands in for one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"none, {platform.machine()}"


def _fastest(task: Task, problem: Problem, device: Gpu, measure: Measure | None, where: str) -> Tuned | None:
    ranking = candidates(problem, device)
    with ThreadPoolExecutor(2) as pool:
        holds = list(pool.map(lambda pair: fits(problem, pair[0], device), ranking))
    fitting = [pair for pair, good in zip(ranking, holds, strict=True) if good]

    if measure is None:
        return row_of(problem, gpu_name(), str(fitting[0][0]), fitting[0][1].seconds) if fitting else None
    tensors = operands(task, where)
    best = row_of(problem, gpu_name(), LIBRARY, measure(step_of(task, LIBRARY, device), tensors))
    floor = min((p.traffic for _, p in fitting), default=0.0) / device.bandwidth
    for number, (config, _) in enumerate(fitting):
        if number >= FIRST and floor > ENOUGH * best.seconds:
            break
        seconds = measure(step_of(task, str(config), device), tensors)
        if seconds < best.seconds:
            best = row_of(problem, gpu_name(), str(config), seconds)
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
