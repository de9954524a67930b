"""Program -> Program: runs of steps become one kernel where that is faster, and every step says how it is done."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from contractc.backends.triton import toolchain
from contractc.backends.triton.backward import with_gradients
from contractc.backends.triton.emit import source_of
from contractc.backends.triton.kept import kept
from contractc.backends.triton.model import Model
from contractc.backends.triton.problem import Problem, parts
from contractc.backends.triton.rows import known_rows
from contractc.backends.triton.tasks import (
    LIBRARY,
    MOST_INPUTS,
    TRIED,
    Choice,
    Task,
    aten_seconds,
    choice,
    chosen_config,
    kept_modes,
    library_is_coarser,
    refusal,
    task_of,
    trials,
)
from contractc.backends.triton.tiles import TileConfig, parsed
from contractc.machine import Gpu
from contractc.programs import Contract, Loop, Program, Step, Value
from contractc.serial import digest, sources_digest
from contractc.store import open_store

GAIN = 0.95
"""A fused step has to be predicted to take less than this share of its parts: predictions are not that exact."""


MOST_KERNELS = 16
"""Kernels that are compiled for one program at most, or half its steps if they are more.

Two at a time they take 0.2 s each on two cores, so a program of 30 steps waits for six seconds at most.
"""


def prepared(program: Program, device: Gpu, *, checked: bool, wanted: Sequence[int] = ()) -> Program:
    """Return `program` with its steps fused where that is predicted to be faster, each with how it is done.

    With `wanted`, inputs by the numbers of their values, it has to be faster together with the gradients by these.

    With `checked`, the kernels of what is fused by prediction are compiled, two at a time, and those that spill are
    not used: what was fused for one is fused anew without it. Then it is kept in the store, and taken from there by
    the next process.

    Before:  %3 = contract %0 %1,  %4 = contract %3 %2
    After:   %4 = contract %0 %1 %2  # fused: 0 1, 3 2, tile o=16 s=16 ...
    """
    store = open_store() if checked else None
    if store is None:
        return _prepared(program, device, checked=checked, wanted=wanted)
    versions = [sources_digest("backends/triton/*.py"), str(toolchain.VERSION)]
    key = digest([*versions, device, program, sorted(wanted)])
    stored = store.read("prepared", key)
    if stored is not None:
        with suppress(ValueError):
            found = Program.from_json(stored.decode())
            same = (found.inputs, found.results, found.constants)
            if same == (program.inputs, program.results, program.constants) and _holds(found, device):
                return _as_tuned(found, device)
    made = _prepared(program, device, checked=checked, wanted=wanted)
    store.write("prepared", key, made.to_json().encode())
    return _as_tuned(made, device)


def _as_tuned(program: Program, device: Gpu) -> Program:
    """Return a prepared program with the ways that were found by timing on a GPU of this name, where there are any."""
    known = known_rows(None, device.name)
    steps: list[Step] = []
    hows: dict[int, str] = {}
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=_as_tuned(step.body, device))
        if isinstance(step, Contract) and step.how.startswith("tile"):
            task = task_of(step, program)
            problem, _ = task.problem(task.in_order())
            row = known(problem)
            if row is not None and (row.config == LIBRARY or fits(problem, parsed(row.config), device)):
                hows[step.out.number] = row.config
        steps.append(step)
    return with_ways(replace(program, steps=tuple(steps)), hows)


def _holds(program: Program, device: Gpu) -> bool:
    """Return whether the kernels of a prepared program are there and none spills; what is missing is compiled."""
    made = []
    for step in program.steps:
        if isinstance(step, Loop) and not _holds(step.body, device):
            return False
        if isinstance(step, Contract) and step.how.startswith("tile"):
            task = task_of(step, program)
            problem, _ = task.problem(task.in_order())
            made.append((problem, parsed(step.how)))
    with ThreadPoolExecutor(2) as pool:
        return all(pool.map(lambda pair: fits(pair[0], pair[1], device), made))


def _prepared(program: Program, device: Gpu, *, checked: bool, wanted: Sequence[int]) -> Program:
    steps: list[Step] = []
    recorded = recorded_values(program, wanted)
    for step in program.steps:
        if isinstance(step, Loop):
            inside = sorted(recorded.intersection(step.inputs))
            step = replace(step, body=_prepared(step.body, device, checked=checked, wanted=inside))
        steps.append(step)
    whole, refused, tried = replace(program, steps=tuple(steps)), set[Task](), set[Task]()
    most = max(MOST_KERNELS, len(steps) // 2) if checked else sys.maxsize
    while True:
        program = fused_by_price(whole, device, refused, wanted)
        tasks = Counter(task_of(s, program) for s in program.steps if isinstance(s, Contract) and not s.how)
        tried |= set(_most_gained(tasks, device, tried, most))
        found = {t: choice(t, device) for t in tasks if t not in tried}
        found = {t: replace(c, how=LIBRARY) for t, c in found.items()}
        with ThreadPoolExecutor(2 if checked else 1) as pool:
            worth = [t for t in tasks if t in tried]
            made = pool.map(lambda t: chosen(t, device, checked=checked), worth)
            found |= dict(zip(worth, made, strict=True))
        worse = {t for t in worth if len(t.terms) > 3 and found[t].how == LIBRARY} - refused
        if not worse:
            break
        refused |= worse
    hows = {
        s.out.number: found[task_of(s, program)].how
        for s in program.steps
        if isinstance(s, Contract) and not s.how
    }
    return with_ways(program, hows)


def with_ways(program: Program, hows: Mapping[int, str]) -> Program:
    """Return `program` with how the steps are done whose results have these numbers.

    A fused step that the library does becomes pairwise steps.
    """
    steps: list[Step] = []
    number = 1 + max(program.values(), default=0)
    for step in program.steps:
        if isinstance(step, Contract) and step.out.number in hows:
            step = replace(step, how=hows[step.out.number])
            if step.how == LIBRARY and len(step.inputs) > 2 and step.path:
                expanded = unfused(step, program, number)
                number += len(expanded) - 1
                steps += expanded
                continue
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _most_gained(tasks: Counter[Task], device: Gpu, tried: Set[Task], most: int) -> list[Task]:
    """Return the tasks whose kernels are to be compiled beside those `tried`, `most` in all: those that gain most."""

    def gain(task: Task) -> float:
        found = choice(task, device)
        if found.how == LIBRARY or found.kernel is None:
            return 0.0
        if library_is_coarser(task, device):
            return float("inf")
        return (found.library - found.kernel) * tasks[task]

    new = {t: gain(t) for t in tasks if t not in tried}
    wanted = sorted((t for t in new if new[t] > 0), key=lambda t: -new[t])
    return wanted[: max(0, most - len(tried))]


@lru_cache(maxsize=4096)
def chosen(task: Task, device: Gpu, *, checked: bool) -> Choice:
    """Return how `task` is computed; with `checked` by the first tile config that does not spill, if any."""
    found = choice(task, device)
    if found.how == LIBRARY or not checked:
        return found
    problem, _ = task.problem(task.in_order())
    for config, prediction in trials(problem, device):
        if fits(problem, config, device):
            better = prediction.seconds <= found.library or library_is_coarser(task, device)
            return Choice(str(config) if better else LIBRARY, prediction.seconds, found.library)
    return Choice(LIBRARY, None, found.library, f"the first {TRIED} kernels spill")


def fits(problem: Problem, config: TileConfig, device: Gpu) -> bool:
    """Return whether a kernel compiles for `device` without spills and within its shared memory."""
    once = parts(problem, config.split)[0] if config.split > 1 else problem
    made = kept(source_of(once, config), config.warps, config.stages, device.arch)
    return made is not None and made.spills == 0 and made.shared <= device.shared


def unfused(step: Contract, program: Program, number: int) -> list[Contract]:
    """Return a fused step as pairwise steps; intermediates get the numbers from `number` on."""
    task = task_of(step, program)
    modes = tuple(dict.fromkeys(m for i in step.inputs for m in program.value(i).modes))
    terms = list(task.terms[:-1])
    numbers = list(step.inputs)
    flags = list(step.conj or (False,) * len(step.inputs))
    made: list[Contract] = []
    for s, ids in enumerate(step.path):
        last = s == len(step.path) - 1
        term = task.terms[-1] if last else kept_modes(task, s, terms)
        out = step.out if last else Value(number + s, tuple(modes[m] for m in term), step.out.dtype)
        conj = tuple(flags[i] for i in ids)
        made.append(Contract(out, tuple(numbers[i] for i in ids), conj if any(conj) else (), (), LIBRARY))
        terms.append(term)
        numbers.append(out.number)
        flags.append(False)
    return made


def fused_by_price(program: Program, device: Gpu, refused: Set[Task], wanted: Sequence[int] = ()) -> Program:
    """Return `program` with the pairs of steps merged that gain most, one after the other; none becomes `refused`.

    What counts is the value and the gradients by the inputs `wanted`, as autograd takes them.
    """
    recorded = recorded_values(program, wanted)
    while True:
        best: tuple[float, Contract, Contract, Contract] | None = None
        for first, second in _mergeable(program):
            merged = _merged(first, second)
            task = None if merged is None else task_of(merged, program)
            if merged is None or task is None or task in refused or refusal(task) is not None:
                continue
            parts = [with_gradients(task_of(s, program), _back(s, recorded)) for s in (first, second)]
            apart = sum([seconds_of(t, device) for tasks in parts for t in tasks])
            together = _merged_seconds(with_gradients(task, _back(merged, recorded)), device, GAIN * apart)
            if together is not None and (best is None or apart - together > best[0]):
                best = (apart - together, first, second, merged)
        if best is None:
            return program
        _, first, second, merged = best
        steps = [merged if s is second else s for s in program.steps if s is not first]
        program = replace(program, steps=tuple(steps))


def _merged_seconds(tasks: Sequence[Task], device: Gpu, most: float) -> float | None:
    """Return the predicted seconds of a fused task as a kernel and of its gradients, or None if they are over `most`.

    Nothing takes less than a launch, so what cannot be within `most` is not looked at.
    """
    if len(tasks) * device.launch > most:
        return None
    found = choice(tasks[0], device)
    if found.how == LIBRARY or found.kernel is None:
        return None
    total = found.kernel
    for done, task in enumerate(tasks[1:], 1):
        if total + (len(tasks) - done) * device.launch > most:
            return None
        total += seconds_of(task, device)
    return total if total <= most else None


def recorded_values(program: Program, wanted: Sequence[int]) -> set[int]:
    """Return the values that depend on the inputs `wanted`."""
    found = set(wanted)
    for step in program.steps:
        if not found.isdisjoint(step.inputs):
            found.update(v.number for v in step.outs)
    return found


def _back(step: Contract, recorded: Set[int]) -> list[int]:
    """Return the inputs of a step by whose gradients something is asked."""
    return [k for k, i in enumerate(step.inputs) if i in recorded]


def _mergeable(program: Program) -> list[tuple[Contract, Contract]]:
    """Return the pairs of steps whose first is read once, by the second."""
    readers: dict[int, list[Step]] = {}
    for step in program.steps:
        for i in step.inputs:
            readers.setdefault(i, []).append(step)
    found = []
    for step in program.steps:
        if not isinstance(step, Contract) or len(step.inputs) < 2 or step.out.number in program.results:
            continue
        read = readers.get(step.out.number, [])
        if len(read) == 1 and isinstance(read[0], Contract) and len(read[0].inputs) > 1:
            second = read[0]
            if not step.how and not second.how and len(step.inputs) + len(second.inputs) - 1 <= MOST_INPUTS:
                found.append((step, second))
    return found


def _merged(first: Contract, second: Contract) -> Contract | None:
    """Return one step for two, the inputs of `first` where `second` reads it; None if dtypes differ on the way."""
    if first.out.dtype != second.out.dtype:
        return None
    at = second.inputs.index(first.out.number)
    inputs = (*second.inputs[:at], *first.inputs, *second.inputs[at + 1 :])
    count, inner = len(inputs), len(first.inputs)
    flags = second.conj or (False,) * len(second.inputs)
    inside = first.conj or (False,) * inner
    conj = (*flags[:at], *(f ^ flags[at] for f in inside), *flags[at + 1 :])
    path: list[tuple[int, ...]] = []
    for ids in first.path or ((0, 1),):
        path.append(tuple(at + i if i < inner else count + i - inner for i in ids))
    made = count + len(path) - 1
    shift = len(path)
    outer = len(second.inputs)
    for ids in second.path or ((0, 1),):
        path.append(tuple(_moved(i, at, inner, outer, count, made, shift) for i in ids))
    return Contract(second.out, inputs, conj if any(conj) else (), tuple(path))


def _moved(i: int, at: int, inner: int, outer: int, count: int, made: int, shift: int) -> int:
    """Return the id in the merged path of id `i` of the second step's path."""
    if i >= outer:
        return count + shift + i - outer
    if i == at:
        return made
    return i if i < at else i + inner - 1


def seconds_of(task: Task, device: Gpu) -> float:
    """Return the predicted seconds of a task, by a kernel or by the library."""
    found = choice(task, device)
    return found.library if found.kernel is None else min(found.library, found.kernel)


def notes(program: Program, device: Gpu) -> Sequence[str]:
    """Return for each step what it runs as and what its candidates are predicted to take."""
    lines = []
    for step in program.steps:
        if isinstance(step, Contract) and step.how:
            lines.append(_note(task_of(replace(step, how=""), program), step.how, device))
        else:
            lines.append("")
    return lines


def _note(task: Task, how: str, device: Gpu) -> str:
    if how == LIBRARY:
        found = choice(task, device)
        missed = found.kernel is not None and found.how != LIBRARY
        return f"{LIBRARY}: {found}" + "; the kernel spills, or others gain more" * missed
    problem, _ = task.problem(task.in_order())
    config = chosen_config(how, problem, device)
    prediction = None if config is None else Model(problem, device).predict(config)
    seconds = None if prediction is None else prediction.seconds
    library = aten_seconds(task, problem, device)
    return f"kernel: {Choice(how, seconds, library, 'kernel not predicted')}"
