"""The fusion pass: runs of steps become one step where one kernel is predicted to do them faster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from contractc.backends.steps import ways
from contractc.backends.steps.forms import natural_orders
from contractc.backends.steps.tasks import is_view, task_of
from contractc.cost import spilled_seconds, step_seconds
from contractc.dtypes import wide
from contractc.machine import DEFAULT_MACHINE, Machine, Target
from contractc.programs import Contract, Fused, Loop, Program, Step
from contractc.providers import TORCH, loops, providers

MOST_STEPS = 8
"""The most steps that become one."""

MOST_CANDIDATES = 400
"""The most runs whose seconds are predicted in one program."""

GAIN, GAIN_ALONE = 1.1, 1.2
"""How many times faster a fused step, and one step as a kernel, have to be by prediction: a run saves intermediates for
certain (four layers chosen by 1.1 and not by 1.2 are 1.09 to 1.7 times faster), one step is better if both predictions
hold (four products of chemistry chosen by 1.2 and not by 1.3 take 1.5 ms instead of 4.2)."""

WORTH_A_LOOK = 2.0e-5
"""Seconds of a run of steps below which its calls are all there is to it."""


@dataclass(frozen=True, slots=True)
class Fuser:
    """What a backend can do with a fused step.

    `how` is written into the step, `seconds` predicts how long it takes so (infinite where it cannot be done that
    way), and `alone` how long a step takes that is not fused. A step of one or two inputs is offered too: it may be
    faster as a kernel of its own. `at_least` gives seconds that `seconds` is not below: a run that cannot pay is not
    looked at any closer. `spilled` gives what so many bytes cost between two steps, beyond what these are priced at.
    `several` predicts the seconds of a fused step of several results, where there are such (`together`).
    """

    how: str
    seconds: Callable[[Program, Contract], float]
    alone: Callable[[Program, Contract], float]
    at_least: Callable[[Program, Contract], float] = lambda program, step: 0.0
    spilled: Callable[[int], float] = lambda size: 0.0
    several: Callable[[Fused], float] | None = None


def fusers(target: Target, machine: Machine = DEFAULT_MACHINE) -> tuple[Fuser, ...]:
    """Return the ways in which `target` runs fused steps.

    That is for code made ahead of the calls. Plain calls run pairwise steps first, and are planned with loops once they
    have taken as much time as that costs: see `building.build`.
    """
    return _loops(target, machine) if loops.installed() else ()


def _loops(target: Target, machine: Machine) -> tuple[Fuser, ...]:
    if target.backend not in ("numpy", "torch") or target.device != "cpu":
        return ()
    libraries = providers() if target.backend == "numpy" else (TORCH,)

    def alone(program: Program, step: Contract) -> float:
        return library_seconds(program, step, machine, libraries)

    def spilled(size: int) -> float:
        return spilled_seconds(size, machine)

    several = loops.together_seconds if target.backend == "numpy" else None
    return (Fuser(loops.HOW, loops.predicted, alone, loops.at_least, spilled, several),)


def loops_missed(program: Program, target: Target, machine: Machine = DEFAULT_MACHINE) -> dict[int, str]:
    """Return for the results of steps what to say of compiled loops that would do them, if only they were there."""
    if loops.installed():
        return {}
    plain = [replace(s, how="") if isinstance(s, Contract) and not s.path else s for s in program.steps]
    fused = fuse(replace(program, steps=tuple(plain)), _loops(target, machine))
    said = {}
    for step in fused.steps:
        if isinstance(step, Contract) and step.how == loops.HOW and step not in program.steps:
            word = "with the steps before it, " if step.path else ""
            said[step.out.number] = f"; {word}would run as a compiled loop: install contractc[fast]"
    return said


def library_seconds(program: Program, step: Contract, machine: Machine, libraries: Sequence[str]) -> float:
    """Return the predicted seconds of a step that one of `libraries` does, its result in the order that suits it."""
    known = program.values()
    if is_view(program, step):
        return machine.call
    task = task_of(program, step, known)
    if task is None:
        terms = [known[i].modes for i in step.inputs]
        return step_seconds(terms, step.out.modes, program.extents, step.out.dtype, machine)
    orders = dict.fromkeys([task.out, *natural_orders(task.left, task.right, task.out)])
    return min(ways(replace(task, out=out), machine, libraries)[0].seconds for out in orders)


def fuse(program: Program, kernels: Sequence[Fuser]) -> Program:
    """Return `program` with runs of steps merged into one step each, where that is predicted to be faster.

    A run is a step and those steps before it whose results only the run reads. What depends on constants only
    stays outside of runs: it is computed once.

    Before:  %3: [b, r] = contract %0 %1 over i,  %4: [b, o] = contract %2 %3 over r
    After:   %4: [b, o] = contract %0 %1 %2 over i r  # fused: 0 1, 2 3, loops
    """
    if not kernels:
        return program
    steps: list[Step] = [
        replace(s, body=fuse(s.body, kernels)) if isinstance(s, Loop) else s for s in program.steps
    ]
    program = replace(program, steps=tuple(steps))
    makers = _makers(program)
    if not makers:
        return program
    best: dict[int, float] = {}
    chosen: dict[int, tuple[Contract, Fuser, tuple[int, ...]]] = {}
    left = MOST_CANDIDATES

    def handed(number: int) -> float:
        """Return the seconds until a step has read value `number`: what only a run reads never leaves the caches."""
        if number not in makers:
            return 0.0
        out = makers[number].step.out
        return best[number] + kernels[0].spilled(program.bytes_of(out))

    for number, maker in makers.items():
        step = maker.step
        alone = kernels[0].alone(program, step)
        best[number] = alone + sum(map(handed, step.inputs))
        spent = alone
        for run in _runs(number, makers):
            if left == 0:
                break
            merged = _merged(program, run, makers)
            if merged is None:
                break
            spent += 0.0 if len(run) == 1 else kernels[0].alone(program, makers[run[-1]].step)
            if spent < WORTH_A_LOOK:
                continue
            left -= 1
            before = sum(map(handed, merged.inputs))
            gain = GAIN if len(run) > 1 else GAIN_ALONE
            for way in kernels:
                if gain * way.at_least(program, merged) + before >= best[number]:
                    continue
                seconds = gain * way.seconds(program, merged)
                if seconds + before < best[number]:
                    best[number] = seconds + before
                    chosen[number] = replace(merged, how=way.how), way, run
    return _with(program, makers, chosen)


@dataclass(frozen=True, slots=True)
class _Maker:
    """A step that may be in a run: where it stands, and whether anything but one step reads what it makes."""

    step: Contract
    position: int
    shared: bool


def _makers(program: Program) -> dict[int, _Maker]:
    """Return the steps that may be in a run, by the number of what they make."""
    constant = {c.value.number for c in program.constants}
    readers = Counter(i for step in program.steps for i in step.inputs)
    results = set(program.results)
    found = {}
    for position, step in enumerate(program.steps):
        if constant.issuperset(step.inputs):
            constant |= {v.number for v in step.outs}
        elif isinstance(step, Contract) and not (step.how or step.path) and len(step.inputs) <= 2:
            number = step.out.number
            shared = readers[number] != 1 or number in results
            found[number] = _Maker(step, position, shared)
    return found


def _runs(number: int, makers: Mapping[int, _Maker]) -> Iterator[tuple[int, ...]]:
    """Yield the runs that end in step `number`, each with one more step than the one before, the nearest first."""
    run = [number]
    while True:
        yield tuple(run)
        ahead = [
            i
            for n in run
            for i in makers[n].step.inputs
            if i in makers and i not in run and not makers[i].shared
        ]
        if not ahead or len(run) == MOST_STEPS:
            return
        run.append(max(ahead, key=lambda i: makers[i].position))


def _merged(program: Program, run: Sequence[int], makers: Mapping[int, _Maker]) -> Contract | None:
    """Return the steps of `run` as one, or None if what is between them is conjugated, narrowed or no pair."""
    root = makers[run[0]].step
    if len(run) == 1:
        return root
    order = sorted(run, key=lambda n: makers[n].position)
    steps = [makers[n].step for n in order]
    inputs = [i for step in steps for i in step.inputs if i not in run]
    conj: list[bool] = []
    path: list[tuple[int, ...]] = []
    for step in steps:
        flags = step.conj or (False,) * len(step.inputs)
        ids = []
        for i, flag in zip(step.inputs, flags, strict=True):
            if i in run:
                if flag or makers[i].step.out.dtype != wide(root.out.dtype):
                    return None
                ids.append(len(inputs) + order.index(i))
            else:
                ids.append(len(conj))
                conj.append(flag)
        if len(ids) != 2:
            return None
        path.append(tuple(sorted(ids)))
    return Contract(root.out, tuple(inputs), tuple(conj) if any(conj) else (), tuple(path))


def _with(
    program: Program,
    makers: Mapping[int, _Maker],
    chosen: Mapping[int, tuple[Contract, Fuser, tuple[int, ...]]],
) -> Program:
    """Return `program` with the chosen runs merged, last steps first: what a run swallows is in no other."""
    gone: set[int] = set()
    merged: dict[int, Contract] = {}
    for number in sorted(makers, key=lambda n: makers[n].position, reverse=True):
        if number in gone or number not in chosen:
            continue
        step, _, run = chosen[number]
        merged[number] = step
        gone |= set(run[1:])
    steps: list[Step] = []
    for s in program.steps:
        number = s.outs[0].number
        if number not in gone:
            steps.append(merged.get(number, s))
    return replace(program, steps=tuple(steps))
