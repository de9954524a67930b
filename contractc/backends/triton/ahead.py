"""Kernels compiled ahead of time: cubins for an architecture, and what their launch has to know."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from contractc.backends.triton.gpus import like
from contractc.backends.triton.kept import kept
from contractc.backends.triton.launch import Pass, even_numbers, passes_of
from contractc.backends.triton.problem import ALIGNMENT
from contractc.backends.triton.tasks import LIBRARY, Task, chosen_config, task_of
from contractc.errors import UnsupportedError
from contractc.notation import Term
from contractc.programs import Contract, Loop, Program
from contractc.serial import dumps, loads


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of the grid: the modes that it walks through, `block` positions at a time."""

    modes: tuple[int, ...]
    block: int


@dataclass(frozen=True, slots=True)
class Launch:
    """What the launch of a compiled kernel has to know. Values lie in order in memory; so do all results.

    The parameters are pointers to the `values` (inputs, then output; each a multiple of `alignment` bytes), the
    extents of the modes in `extents` (int32), `strides` (int64) as (value, mode), multiples of `alignment` where
    `divisible` says so, and pointers that nothing is read from: `parameters` in all.

    Modes are those of the kernel. In the first pass over a step, mode m stands for the modes `stands_for[m]` of the
    step and its extent is their product; the second pass, which adds the partial sums of a `split` sum, has the
    extents `sizes`. A first pass of two writes `partial_size` numbers of dtype `partial`. With `resident` there are
    at most so many programs for each processor of the device, which walk through the grid.
    """

    name: str
    config: str
    warps: int
    shared: int
    registers: int
    spills: int
    parameters: int
    alignment: int
    values: tuple[str, ...]
    extents: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    divisible: tuple[bool, ...]
    stands_for: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    grid: tuple[Axis, ...]
    split: int
    resident: int
    partial: str
    partial_size: int

    def to_json(self) -> str:
        """Return this as JSON."""
        return dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Launch:
        """Return what `to_json` wrote; raises ValueError if the text is none."""
        found: Launch = loads(text, (cls, Axis))
        known = len(found.values) + len(found.extents) + len(found.strides)
        if found.parameters < known or len(found.divisible) != len(found.strides):
            raise ValueError(f"a kernel of {found.parameters} parameters, of which {known} are described")
        return found

    def programs(self, extents: tuple[int, ...], processors: int) -> int:
        """Return the number of programs for the extents of the kernel's modes on a device of so many processors."""
        count = self.split * prod(-(-prod(extents[m] for m in a.modes) // a.block) for a in self.grid)
        return min(count, self.resident * processors) if self.resident else count


class Artifact(NamedTuple):
    """One kernel compiled ahead of time: the name of its files, its source, code and launch."""

    name: str
    source: str
    cubin: bytes
    launch: Launch


def artifacts(program: Program, arch: int = 90) -> list[Artifact]:
    """Return the kernels of a prepared program, compiled for a CUDA architecture; no GPU is needed.

    They are named `<step>.<pass>`, those of the body of a loop `<step>.<step>.<pass>`.
    """
    device = like("", arch)
    found: list[Artifact] = []
    for s, step in enumerate(program.steps):
        if isinstance(step, Loop):
            found += [a._replace(name=f"{s}.{a.name}") for a in artifacts(step.body, arch)]
        if not isinstance(step, Contract) or step.how in ("", LIBRARY):
            continue
        task = task_of(step, program)
        problem, stands_for = task.problem(task.in_order())
        config = chosen_config(step.how, problem, device)
        assert config is not None, f"{step.how} does not fit {problem}"
        passes = passes_of(problem, config, device)
        for k, one in enumerate(passes):
            partial = one.problem.out.dtype if k < len(passes) - 1 else ""
            found.append(_artifact(f"{s}.{k}", one, task, () if k else stands_for, partial, arch))
    return found


def _artifact(
    name: str, one: Pass, task: Task, stands_for: tuple[Term, ...], partial_dtype: str, arch: int
) -> Artifact:
    problem, source, config = one.problem, one.source, one.config
    numbers = even_numbers(source, problem, task, stands_for)
    binary = kept(source, config.warps, config.stages, arch, numbers=numbers or None)
    if binary is None:
        raise UnsupportedError(f"a kernel of {config} does not compile for sm_{arch}")
    launch = Launch(
        binary.name,
        str(config),
        binary.warps,
        binary.shared,
        binary.registers,
        binary.spills,
        binary.parameters,
        ALIGNMENT,
        source.types,
        source.extents,
        source.strides,
        numbers[len(source.extents) :],
        stands_for,
        problem.extents,
        tuple(Axis(run.modes, block) for run, block in source.grid),
        config.split,
        config.resident,
        partial_dtype,
        config.split * problem.size(problem.out.modes) if partial_dtype else 0,
    )
    return Artifact(name, source.text, binary.cubin, launch)


def binaries(program: Program, device: str) -> dict[str, bytes]:
    """Return the kernels of a prepared program for `device` (`cuda:90`) as files of a bundle; no GPU is needed.

    Each is a cubin, beside it the JSON of its `Launch`, and its source for reading. Without a number there are none.
    """
    arch = device.partition(":")[2]
    files: dict[str, bytes] = {}
    for a in artifacts(program, int(arch)) if arch.isdigit() else ():
        files[f"kernel{a.name}.cubin"] = a.cubin
        files[f"kernel{a.name}.json"] = a.launch.to_json().encode()
        files[f"kernel{a.name}.py"] = a.source.encode()
    return files


def runs_on(arch: int, here: int) -> bool:
    """Return whether cubins for `arch` (90 is 9.0) run on a device of compute capability `here`.

    Those for 8.x run on every 8.y with y >= x (CUDA C programming guide, binary compatibility). From 9.0 on kernels
    are compiled for the features of one architecture (sm_90a) and run on that one.
    """
    return arch == here or (arch // 10 == here // 10 < 9 and arch < here)
