"""The Triton backend: steps become generated kernels where that is predicted to be faster than torch's own.

A program is two functions: one that launches kernels, for ordinary tensors on a GPU, and one of plain aten calls,
which is what torch.func, torch.compile, fake tensors, forward derivatives and autocast see. In Triton's interpreter
(`TRITON_INTERPRET=1`, for tests) the kernels run on tensors of the CPU.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contractc.backends import Compiled
from contractc.backends import torch as aten_backend
from contractc.backends.torch import promote, to_bytes, to_portable
from contractc.backends.triton import toolchain
from contractc.backends.triton.ahead import Artifact, artifacts, binaries, runs_on
from contractc.backends.triton.choose import prepared as _prepared
from contractc.backends.triton.driver import launched
from contractc.backends.triton.gpus import gpu_model, measured, stored
from contractc.backends.triton.graphs import sliced_over
from contractc.backends.triton.launch import Step
from contractc.backends.triton.steps import aten, emitted
from contractc.backends.triton.tuning import clocked, timed, tuned
from contractc.errors import OperandError, UnsupportedError
from contractc.executable import Executable
from contractc.machine import Gpu, Target
from contractc.programs import Contract, Loop, Program
from contractc.programs import Step as AnyStep
from contractc.recent import MISS

__all__ = [
    "Artifact", "Step", "artifacts", "as_array", "as_given", "binaries", "compile", "compile_once", "constant",
    "from_binaries", "from_portable", "is_available", "over_devices", "prepared", "promote", "refuses", "remark",
    "to_bytes", "to_portable", "tune", "unavailable", "version",
]  # fmt: skip


_log = logging.getLogger("contractc")


def as_array(x: Any, number: int, like: Any = None) -> Any:
    """Return operand `number` as a tensor that kernels can read.

    Raises:
        OperandError: it is no tensor, or not on a GPU.
    """
    array = aten_backend.as_array(x, number, like)
    if array.device.type not in ("cuda", "meta") and not toolchain.interpreted():
        raise OperandError(f"operand {number} is on {array.device}; the kernels run on CUDA devices")
    return array


as_given = aten_backend.as_array
"""What is compiled for a GPU may be described by tensors of the CPU."""

compile_once = aten_backend.compile
"""What depends on constants only is computed once, on the device they are on, by torch's own operations."""


def constant(x: torch.Tensor, number: int) -> torch.Tensor:
    """Return a copy of constant operand `number`, on the GPU if there is one; see the torch backend."""
    return aten_backend.constant(x, number).to(_place(x.device))


def from_portable(x: np.ndarray, device: str) -> torch.Tensor:
    """Return the constant that `to_portable` gave, on the GPU if there is one: without, it can be compiled for."""
    return aten_backend.from_portable(x, "cpu").to(_place(torch.device("cpu")))


def _place(given: torch.device) -> torch.device:
    """Return where a constant goes that is on `given`: the number in `cuda:90` is an architecture, not a device."""
    move = given.type == "cpu" and torch.cuda.is_available() and not toolchain.interpreted()
    return torch.device("cuda") if move else given


def refuses(program: Program) -> str | None:
    """Return why `program` cannot run here, or None: steps without a kernel are torch's."""
    return aten_backend.refuses(program)


def prepared(program: Program, target: Target, *, ahead: bool = True, wanted: Sequence[int] = ()) -> Program:
    """Return `program` with its steps fused and each step's way chosen, by prediction for the target's GPU.

    With `wanted`, inputs by the numbers of their values, that is for the value and the gradients by these together. A
    program that is not made `ahead` of its calls is left as it is: choosing takes longer than a call is worth, and
    `compile` sees to it later.
    """
    if not ahead and not toolchain.interpreted():
        return program
    toolchain.require()
    device, checked = gpu_model(target.device), not toolchain.interpreted()
    return _prepared(program, device, checked=checked, wanted=wanted)


def compile(program: Program, constants: Sequence[Any] = ()) -> Compiled:
    """Return `program` as a Python function on tensors.

    If no step says how it is done, torch's own operations run, and from the second call on kernels are prepared and
    compiled in a thread of their own; they take over when they are ready.
    """
    toolchain.require()
    device = gpu_model("cuda")
    plain = aten(program, constants)
    if not any(isinstance(s, Contract) and s.how for s in steps_of(program)):
        later = Later(lambda: _in_background(program, device, constants), plain.run)
        notes = tuple(f"{note} (until its kernels are compiled)" for note in plain.notes)
        return Compiled(_switch(later, plain.run), plain.source, notes)
    kernels = emitted(program, device, constants)
    return Compiled(_switch(kernels.run, plain.run), kernels.source, kernels.notes)


def from_binaries(
    program: Program, constants: Sequence[Any], held: Mapping[str, bytes], device: str
) -> Compiled:
    """Return `program` with the kernels that `binaries` gave, launched through the CUDA driver: without Triton.

    Raises:
        UnsupportedError: cuda-bindings, the driver or a kernel is missing, or cannot be used, with the reason.
    """
    plain = aten(program, constants)
    kernels = launched(program, constants, held)
    return Compiled(_switch(kernels.run, plain.run), kernels.source, kernels.notes)


def steps_of(program: Program) -> Iterator[AnyStep]:
    """Yield the steps of a program and of the bodies of its loops."""
    for step in program.steps:
        yield step
        if isinstance(step, Loop):
            yield from steps_of(step.body)


def _in_background(program: Program, device: Gpu, constants: Sequence[Any]) -> Callable[..., Any]:
    made = _prepared(program, device, checked=not toolchain.interpreted())
    return emitted(made, device, constants).run


class Later:
    """A function that is `plain` until what `make` returns is there; a thread makes it from the second call on.

    If that raises, the function stays `plain`, and why is logged.
    """

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
        try:
            self.made = self.make()
        except Exception as error:  # there is nobody to raise it to
            _log.warning("kernels cannot be compiled, torch's own operations run instead: %s", error)


def _switch(kernels: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that launches kernels for ordinary tensors, and makes aten calls for all others."""

    def run(*operands: Any) -> Any:
        if toolchain.ordinary(operands):
            return kernels(*operands)
        if toolchain.misplaced(operands):
            return MISS  # which has the operands looked at, and refused
        return plain(*operands)

    return run


def over_devices(executable: Executable, devices: Sequence[str]) -> Executable:
    """Return `executable` with the slices of its loops shared out to `devices`, by ranges of the outermost mode.

    Operands are given, and results come, on one device, the same for all.

    Raises:
        UnsupportedError: it returns exponents, which are not put together from ranges.
    """
    if executable.exponent:
        raise UnsupportedError("slices that carry exponents run on one device")
    program, constants = executable.program, executable.constants
    loop = partial(sliced_over, tuple(devices))
    kernels = emitted(program, gpu_model("cuda"), constants, loop)
    run = _switch(kernels.run, aten(program, constants).run)
    return replace(executable, run=run, source=kernels.source, notes=kernels.notes)


def tune(program: Program, target: Target, database: Path | None = None) -> Program:
    """Return a prepared program with each kernel's tile config chosen by timing; without a GPU, by compiling.

    What was timed is added to the store, or to the file `database` (JSON lines), and looked up there first; what is
    in the store is used by `compile` from then on. The rates of a GPU are measured when something is tuned on it for
    the first time, and used from then on.
    """
    device = gpu_model(target.device)
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        device = stored(name) or measured(device, name, clocked)
        return tuned(program, device, timed, database)
    return tuned(program, device, None, database)


def remark(target: Target) -> str:
    """Return what the predicted microseconds are for, as `explain` says it."""
    return f"microseconds are predicted for {gpu_model(target.device)}"


def unavailable(device: str) -> str | None:
    """Return why kernels cannot run on `device` here, or None when they can."""
    if toolchain.interpreted():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device" if torch.version.cuda else "this torch was built without CUDA"
    arch = device.partition(":")[2]
    major, minor = torch.cuda.get_device_capability()
    here = 10 * major + minor
    return f"the CUDA device here is cuda:{here}" if arch.isdigit() and not runs_on(int(arch), here) else None


def version() -> str:
    """Return the libraries and their versions, for people to read."""
    return f"torch {torch.__version__}, triton {toolchain.VERSION or 'not installed'}"


def is_available() -> bool:
    """Return whether kernels can run here: on a CUDA device, or in Triton's interpreter."""
    return toolchain.interpreted() or torch.cuda.is_available()
