"""Program -> Python function: steps with a tile config become kernels, the others torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from torch import Tensor

from contractc.backends import Compiled
from contractc.backends.emit import emit
from contractc.backends.torch import semirings
from contractc.backends.torch.dialect import Torch
from contractc.backends.triton import toolchain
from contractc.backends.triton.choose import notes, prepared, unfused
from contractc.backends.triton.gradients import recorded
from contractc.backends.triton.graphs import sliced
from contractc.backends.triton.launch import Step
from contractc.backends.triton.places import Places
from contractc.backends.triton.tasks import Task, task_of
from contractc.machine import Gpu
from contractc.programs import Contract, Loop, Program, Value
from contractc.programs import Step as AnyStep


def emitted(
    program: Program, device: Gpu, constants: Sequence[Any], loop: Callable[..., Any] = sliced
) -> Compiled:
    """Return the function of a prepared program; its notes say what each step runs as and why.

    `loop` runs the slices of loops.
    """
    made = emitted_with(
        program,
        constants,
        lambda step, inside: step_of(task_of(step, inside), step.how, device),
        loop,
    )
    said = notes(program, device)
    lines = (f"{note}: {why}" if why else note for note, why in zip(made.notes, said, strict=True))
    return made._replace(notes=tuple(lines))


def emitted_with(
    program: Program,
    constants: Sequence[Any],
    kernel_of: Callable[[Contract, Program], Any],
    loop: Callable[..., Any] = sliced,
) -> Compiled:
    """Return the function of a prepared program that calls `kernel_of(step, its program)` for steps with a tile."""
    known: dict[str, Any] = {}
    places: dict[int, Places] = {}

    def opening(names: Sequence[str], inside: Program) -> Sequence[str]:
        places[id(inside)] = found = Places(inside)
        for name, thing in found.globals().items():
            dialect.use(name, thing)
        return found.opening(names)

    def kernel(names: Sequence[str], out: Value, inside: Program) -> str | None:
        step = next(s for s in inside.steps if s.outs == (out,))
        assert isinstance(step, Contract)
        if not step.how.startswith("tile"):
            return product(names, step, inside)
        name = f"k{len(known)}"
        known[name] = kernel_of(step, inside)
        given = list(names)
        if inside.semiring == "max_times":
            dialect.use("not_negative", semirings.not_negative)
            given = [f"not_negative({x})" for x in given]
        dialect.use(name, known[name])
        return f"{name}({', '.join(given)}{places[id(inside)].told(step)})"

    def product(names: Sequence[str], step: Contract, inside: Program) -> str | None:
        found = places[id(inside)].product(step)
        if found is None:
            return None
        name = dialect.use(f"p{len(known)}", found)
        known[name] = found
        place = places[id(inside)].place(step.out.number)
        return f"{name}({', '.join(names)}, None if w is None else {place})"

    dialect = Torch(kernel, opening, loop)
    return emit(program, dialect, constants, "<contractc triton program>")


def step_of(task: Task, how: str, device: Gpu) -> Step:
    """Return the step that runs `task` as kernels."""
    kept = partial(recorded, partial(_computed, device), partial(_apart, device))
    return Step(task, how, plain_of(task), kept, device)


def aten(program: Program, constants: Sequence[Any]) -> Compiled:
    """Return the function of a program as torch's own operations only: what transforms and tracers see."""
    return emit(expanded(program), Torch(), constants, "<contractc torch program>")


def expanded(program: Program) -> Program:
    """Return `program` with its fused steps as pairwise steps, and no choices."""
    steps: list[AnyStep] = []
    number = 1 + max(program.values(), default=0)
    for step in program.steps:
        if isinstance(step, Loop):
            step = replace(step, body=expanded(step.body))
        if isinstance(step, Contract):
            step = replace(step, how="")
            if step.path and len(step.inputs) > 2:
                made = unfused(step, program, number)
                number += len(made)
                steps += [replace(s, how="") for s in made]
                continue
        steps.append(step)
    return replace(program, steps=tuple(steps))


def program_of(task: Task) -> Program:
    """Return the program of one step."""
    count = len(task.terms) - 1
    values = [
        Value(k, term, dtype) for k, (term, dtype) in enumerate(zip(task.terms, task.dtypes, strict=True))
    ]
    step = Contract(values[-1], tuple(range(count)), task.conj, task.path)
    return Program(
        tuple(values[:-1]),
        (step,),
        (count,),
        task.extents,
        task.semiring,
        task.dynamic,
        precision=task.precision,
    )


def plain_of(task: Task) -> Callable[..., Tensor]:
    """Return `task` as torch's own operations; they are put together at the first call."""
    return partial(_plain, task)


def _plain(task: Task, *tensors: Tensor) -> Tensor:
    return _plain_function(task)(*tensors)  # type: ignore[no-any-return]


@lru_cache(maxsize=1024)
def _plain_function(task: Task) -> Callable[..., Any]:
    return aten(program_of(task), ()).run


def _computed(device: Gpu, task: Task, *tensors: Tensor) -> Tensor:
    return _function(device, task)(*tensors)  # type: ignore[no-any-return]


@lru_cache(maxsize=1024)
def _function(device: Gpu, task: Task) -> Callable[..., Any]:
    """Return the function that computes `task` the way that is predicted to be fastest."""
    program = prepared(program_of(task), device, checked=not toolchain.interpreted())
    return emitted(program, device, ()).run


@lru_cache(maxsize=1024)
def _apart(device: Gpu, task: Task, needs: tuple[bool, ...]) -> Callable[..., Any] | None:
    """Return the function of a fused task as steps that are faster with the gradients that are needed, if any are."""
    if len(task.terms) <= 3:
        return None
    wanted = [k for k, needed in enumerate(needs) if needed]
    whole = expanded(program_of(task))
    program = prepared(whole, device, checked=not toolchain.interpreted(), wanted=wanted)
    return emitted(program, device, ()).run if len(program.steps) > 1 else None
