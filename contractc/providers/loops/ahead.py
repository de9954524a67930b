"""Compiled loops kept as machine code beside a program, so that another process runs them without compiling.

The code is what this processor had compiled, and gives the same bits wherever it runs: on every processor that has the
same instruction sets or more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from contractc import serial
from contractc.errors import UnsupportedError
from contractc.programs import Contract, Fused, Loop, Program, Step
from contractc.providers import loops
from contractc.providers.loops import image, native

__all__ = ["binaries", "built", "marked"]

CONVENTION = 1
"""Raised when the addresses and numbers that a function takes change."""

TOGETHER = 5
"""The arguments of a function of several results."""

_INDEX = "loops.json"


@dataclass(frozen=True, slots=True)
class Code:
    """A step as machine code: the member that holds it, its function, how many numbers that takes.

    `workspace` is in bytes; each of `extents` is a product of extents, each an (operand, axis).
    """

    member: str
    function: str
    arguments: int
    workspace: int
    extents: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Codes:
    """The machine code of the loops of a program, in the order of `_steps`, and the instruction sets it needs."""

    convention: int
    features: tuple[str, ...]
    steps: tuple[Code, ...]


def binaries(program: Program) -> dict[str, bytes]:
    """Return the machine code of all steps of `program` that are compiled loops, as named files.

    There are none where no code is made that could be placed in memory again: on other systems, without llvmlite.
    """
    steps = list(_steps(program))
    if not steps or image.here() is not None or not loops.installed():
        return {}
    codes: list[Code] = []
    files: dict[str, bytes] = {}
    for inside, step in steps:
        variant = loops.variant(inside, step)
        made = variant.native
        try:
            image.placed(made.code, made.function)
        except UnsupportedError:
            return {}
        member = f"{hashlib.sha256(made.code).hexdigest()[:16]}.o"
        files[member] = made.code
        codes.append(Code(member, made.function, made.arguments, variant.workspace, variant.extents))
    index = Codes(CONVENTION, tuple(sorted(image.features())), tuple(codes))
    return {_INDEX: serial.dumps(index).encode(), **files}


def built(program: Program, held: Mapping[str, bytes]) -> dict[str, loops.Variant]:
    """Return what `binaries` gave, ready to be called, by the `how` that `marked` gives the steps.

    Raises:
        UnsupportedError: the code is not for this processor or for another contractc.
        ValueError: it is damaged.
    """
    if _INDEX not in held:
        raise ValueError(f"there is no {_INDEX}")
    index: Codes = serial.loads(str(held[_INDEX], "utf-8"), (Codes, Code))
    if index.convention != CONVENTION:
        raise UnsupportedError("its machine code is called as another contractc calls it")
    missing = sorted({*index.features} - image.features())
    if missing:
        raise UnsupportedError(f"its machine code needs a processor with {', '.join(missing)}")
    steps = list(_steps(program))
    if len(steps) != len(index.steps):
        raise ValueError(f"machine code for {len(index.steps)} steps; the program has {len(steps)}")
    found = {}
    for k, (code, (inside, step)) in enumerate(zip(index.steps, steps, strict=True)):
        known = inside.values()
        axes = [len(known[i].modes) for i in step.inputs]
        for i, axis in (place for places in code.extents for place in places):
            if not (0 <= i < len(axes) and 0 <= axis < axes[i]):
                raise ValueError(f"machine code of step {k} asks for axis {axis} of operand {i}")
        together = isinstance(step, Fused)
        if code.arguments != (TOGETHER if together else len(axes) + 2 + len(code.extents)):
            raise ValueError(f"machine code of step {k} takes {code.arguments} numbers")
        if code.workspace < 0:
            raise ValueError(f"machine code of step {k} asks for {code.workspace} bytes")
        if code.member not in held:
            raise ValueError(f"there is no {code.member:.60}")
        data = held[code.member]
        placed = image.placed(data, code.function)
        result = native.RESULT if together else None
        made = native.called(placed.address, code.function, code.arguments, data, placed.memory, result)
        found[f"{loops.BUILT}{k}"] = loops.Variant(made, code.workspace, code.extents, ())
    return found


def marked(program: Program) -> Program:
    """Return `program` with a number in each step that is compiled loops, in the order of `built`."""
    numbers = iter(range(10**9))

    def numbered(program: Program) -> Program:
        steps: list[Step] = []
        for step in program.steps:
            if isinstance(step, Loop):
                step = replace(step, body=numbered(step.body))
            elif isinstance(step, Contract | Fused) and loops.is_loop(step.how):
                step = replace(step, how=f"{loops.BUILT}{next(numbers)}")
            steps.append(step)
        return replace(program, steps=tuple(steps))

    return numbered(program)


def _steps(program: Program) -> Iterator[tuple[Program, Contract | Fused]]:
    """Yield the steps that are compiled loops, each with the program or body it is in."""
    for step in program.steps:
        if isinstance(step, Loop):
            yield from _steps(step.body)
        elif isinstance(step, Contract | Fused) and loops.is_loop(step.how):
            yield program, step
