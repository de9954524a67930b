"""The Triton backend: steps become generated kernels where that is predicted to be faster than torch's own.

A program is two functions: one that launches kernels, for ordinary tensors on a GPU, and one of plain aten calls,
which is what torch.func, torch.compile, fake tensors, forward derivatives and autocast see. In Triton's interpreter
(`TRITON_INTERPRET=1`, for tests) the kernels run on tensors of the CPU.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from contractc.backends import Compiled
from contractc.backends import torch as aten_backend
from contractc.backends.torch import constant, from_portable, promote, to_bytes, to_portable
from contractc.backends.triton import toolchain
from contractc.backends.triton.choose import prepared as _prepared
from contractc.backends.triton.launch import Step, device_model, passes_of
from contractc.backends.triton.model import A100, H200, Device
from contractc.backends.triton.steps import aten, emitted
from contractc.backends.triton.tasks import LIBRARY, chosen_config, task_of
from contractc.backends.triton.tuning import timed, tuned
from contractc.errors import OperandError
from contractc.machine import Target
from contractc.programs import Contract, Loop, Program
from contractc.programs import Step as AnyStep
from contractc.recent import MISS

__all__ = [
    "Artifact", "Step", "artifacts", "as_array", "binaries", "compile", "constant", "from_portable", "is_available",
    "prepared", "promote", "refuses", "to_bytes", "to_portable", "tune", "unavailable", "version",
]  # fmt: skip

PRECISION = "default"
"""How float32 is multiplied where the program does not say."""


def as_array(x: Any, number: int, like: Any = None) -> Any:
    """Return operand `number` as a tensor that kernels can read.

    Raises:
        OperandError: it is no tensor, or not on a GPU.
    """
    array = aten_backend.as_array(x, number, like)
    if array.device.type not in ("cuda", "meta") and not toolchain.interpreted():
        raise OperandError(f"operand {number} is on {array.device}; the kernels run on CUDA devices")
    return array


def refuses(program: Program) -> str | None:
    """Return why `program` cannot run here, or None: steps without a kernel are torch's."""
    return aten_backend.refuses(program)


def prepared(program: Program, target: Target, *, ahead: bool = True) -> Program:
    """Return `program` with its steps fused and each step's way chosen, by prediction for the target's GPU.

    A program that is not made `ahead` of its calls is left as it is: choosing takes longer than a call is worth, and
    `compile` sees to it later.
    """
    if not ahead and not toolchain.interpreted():
        return program
    return _prepared(program, device_model(target.device), PRECISION, checked=not toolchain.interpreted())


def compile(program: Program, constants: Sequence[Any] = ()) -> Compiled:
    """Return `program` as a Python function on tensors.

    If no step says how it is done, torch's own operations run, and from the second call on kernels are prepared and
    compiled in a thread of their own; they take over when they are ready.
    """
    device = device_model("cuda")
    plain = aten(program, constants)
    if not any(isinstance(s, Contract) and s.how for s in steps_of(program)):
        later = Later(lambda: _in_background(program, device, constants), plain.run)
        notes = tuple(f"{note} (until its kernels are compiled)" for note in plain.notes)
        return Compiled(_switch(later, plain.run), plain.source, notes)
    kernels = emitted(program, device, PRECISION, constants)
    return Compiled(_switch(kernels.run, plain.run), kernels.source, kernels.notes)


def steps_of(program: Program) -> Iterator[AnyStep]:
    """Yield the steps of a program and of the bodies of its loops."""
    for step in program.steps:
        yield step
        if isinstance(step, Loop):
            yield from steps_of(step.body)


def _in_background(program: Program, device: Device, constants: Sequence[Any]) -> Callable[..., Any]:
    made = _prepared(program, device, PRECISION, checked=not toolchain.interpreted())
    return emitted(made, device, PRECISION, constants).run


class Later:
    """A function that is `plain` until what `make` returns is there; a thread makes it from the second call on."""

    __slots__ = ("calls", "lock", "made", "make", "plain", "thread")

    def __init__(self, make: Callable[[], Callable[..., Any]], plain: Callable[..., Any]) -> None:
        self.make, self.plain = make, plain
        self.made: Callable[..., Any] | None = None
        self.calls = 0
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def __call__(self, *operands: Any) -> Any:
        """Return what the function returns for `operands`."""
        made = self.made
        if made is not None:
            return made(*operands)
        self.calls += 1
        if self.calls > 1 and self.thread is None:
            with self.lock:
                if self.thread is None:
                    self.thread = threading.Thread(target=self._run, name="contractc kernels", daemon=True)
                    self.thread.start()
        return self.plain(*operands)

    def _run(self) -> None:
        self.made = self.make()


def _switch(kernels: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that launches kernels for ordinary tensors, and makes aten calls for all others."""

    def run(*operands: Any) -> Any:
        if toolchain.ordinary(operands):
            return kernels(*operands)
        if toolchain.misplaced(operands):
            return MISS  # which has the operands looked at, and refused
        return plain(*operands)

    return run


def tune(program: Program, target: Target, database: Path | None = None) -> Program:
    """Return a prepared program with each kernel's tile config chosen by timing; without a GPU, by compiling.

    What was timed is appended to `database` (JSON lines), and looked up there first.
    """
    device = device_model(target.device)
    measure = timed if torch.cuda.is_available() else None
    return tuned(program, device, PRECISION, measure, database)


class Artifact(NamedTuple):
    """One kernel compiled ahead of time, and what its launch needs.

    `grid` are (modes, block) of each axis of the grid, their product times `split` is the number of programs;
    `parameters` counts the hidden ones too.
    """

    name: str
    source: str
    cubin: bytes
    ptx: str
    metadata: dict[str, Any]


def artifacts(program: Program, arch: int = 90) -> list[Artifact]:
    """Return the kernels of a prepared program, compiled for a CUDA architecture; no GPU is needed.

    Operands lie in order in memory and are aligned to 16 bytes.
    """
    device: Device = A100 if arch < 90 else H200
    found: list[Artifact] = []
    for s, step in enumerate(program.steps):
        if isinstance(step, Loop):
            found += [a._replace(name=f"{s}.{a.name}") for a in artifacts(step.body, arch)]
        if not isinstance(step, Contract) or step.how in ("", LIBRARY):
            continue
        task = task_of(step, program, PRECISION)
        problem, parts = task.problem(task.in_order())
        config = chosen_config(step.how, problem, device)
        assert config is not None, f"{step.how} does not fit {problem}"
        for k, one in enumerate(passes_of(problem, config, device)):
            binary = toolchain.compiled(one.source, one.config.warps, one.config.stages, arch)
            about = {
                "step": s,
                "pass": k,
                "config": str(one.config),
                "warps": binary.warps,
                "shared": binary.shared,
                "registers": binary.registers,
                "spills": binary.spills,
                "parameters": binary.parameters,
                "split": one.config.split,
                "grid": [[list(run.modes), block] for run, block in one.source.grid],
                "extents": list(one.source.extents),
                "modes": [list(part) for part in parts],
            }
            found.append(Artifact(f"{s}.{k}", one.source.text, binary.cubin, binary.ptx, about))
    return found


def binaries(program: Program, device: str) -> Mapping[str, bytes]:
    """Return the kernels of a prepared program for `device` (`cuda:90`) as files of a bundle; no GPU is needed.

    Each is a cubin, and beside it the JSON of what its launch has to know. Without a number there are none.
    """
    arch = device.partition(":")[2]
    files: dict[str, bytes] = {}
    for a in artifacts(program, int(arch)) if arch.isdigit() else ():
        files[f"kernel{a.name}.cubin"] = a.cubin
        files[f"kernel{a.name}.json"] = json.dumps(a.metadata, sort_keys=True).encode()
    return files


def unavailable(device: str) -> str | None:
    """Return why kernels cannot run on `device` here, or None when they can."""
    if toolchain.interpreted():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    arch = device.partition(":")[2]
    major, minor = torch.cuda.get_device_capability()
    here = 10 * major + minor
    return f"the CUDA device here is cuda:{here}" if arch.isdigit() and int(arch) != here else None


def version() -> str:
    """Return the libraries and their versions, for people to read."""
    return f"torch {torch.__version__}, triton {metadata.version('triton')}"


def is_available() -> bool:
    """Return whether kernels can run here: on a CUDA device, or in Triton's interpreter."""
    return toolchain.interpreted() or torch.cuda.is_available()
