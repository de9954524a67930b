"""Kernels that were compiled ahead of time, launched through the CUDA driver (cuda-bindings): without Triton."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from contractc.backends import Compiled
from contractc.backends.triton import toolchain
from contractc.backends.triton.ahead import Launch
from contractc.backends.triton.launch import inner_modes, unwritten
from contractc.backends.triton.steps import emitted_with, plain_of
from contractc.backends.triton.tasks import LIBRARY, Task, task_of
from contractc.errors import UnsupportedError
from contractc.programs import Contract, Loop, Program, Step

MOST = 2**31
"""What an int32 holds is below."""

NEEDS_NO_ASKING = 48 * 1024
"""Bytes of shared memory that a program may have without being asked for (CUDA C programming guide)."""

WARP = 32
"""Threads of a warp on every CUDA device."""


def launched(program: Program, constants: Sequence[Any], held: Mapping[str, bytes]) -> Compiled:
    """Return the function of a program whose kernels are the cubins in `held`, by the names `binaries` gave them.

    Raises:
        UnsupportedError: there is no driver, or a kernel cannot be loaded, with the reason.
    """
    api = driver()
    kernels = dict(_kernels(program, held, api))
    for kernel in kernels.values():
        kernel.load()
    made = emitted_with(program, constants, lambda step, inside: kernels[inside, step.out.number])
    notes = [
        f"{note}: {kernels[program, step.outs[0].number]}" if _is_kernel(step) else note
        for step, note in zip(program.steps, made.notes, strict=True)
    ]
    return made._replace(notes=tuple(notes))


@cache
def driver() -> Any:
    """Return the CUDA driver as Python calls it.

    Raises:
        UnsupportedError: cuda-bindings is not installed, or there is no driver.
    """
    try:
        from cuda.bindings import driver as found
    except ImportError:
        raise UnsupportedError("cuda-bindings is not installed (pip install 'contractc[cuda]')") from None
    try:
        _done("cuInit", found.cuInit(0))
    except UnsupportedError:
        raise
    except RuntimeError as error:  # where there is no driver to call
        raise UnsupportedError(f"there is no CUDA driver: {error}") from None
    return found


def _kernels(program: Program, held: Mapping[str, bytes], api: Any, prefix: str = "kernel") -> Any:
    """Yield (program, number of the result) and its kernel for each step that has one, those inside loops too."""
    for s, step in enumerate(program.steps):
        if isinstance(step, Loop):
            yield from _kernels(step.body, held, api, f"{prefix}{s}.")
        if not isinstance(step, Contract) or not _is_kernel(step):
            continue
        passes: list[Pass] = []
        while f"{prefix}{s}.{len(passes)}.cubin" in held:
            name = f"{prefix}{s}.{len(passes)}"
            launch = Launch.from_json(held[f"{name}.json"].decode())
            passes.append(Pass(launch, held[f"{name}.cubin"]))
        if not passes:
            raise UnsupportedError(f"there is no cubin for %{step.out.number}")
        task = task_of(step, program)
        yield (program, step.out.number), Kernel(task, tuple(passes), plain_of(task), api)


def _is_kernel(step: Step) -> bool:
    return isinstance(step, Contract) and step.how not in ("", LIBRARY)


@dataclass(frozen=True, slots=True)
class Pass:
    """A cubin and how it is launched."""

    launch: Launch
    cubin: bytes = field(repr=False)


@dataclass(slots=True, eq=False)
class Kernel:
    """A step that runs as kernels compiled ahead of time; `plain` computes the same with torch's own operations.

    `functions` are the driver's handles of the passes by the number of the device; `lock` guards making them.
    """

    task: Task
    passes: tuple[Pass, ...]
    plain: Callable[..., Tensor]
    api: Any = field(repr=False)
    functions: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def __str__(self) -> str:
        first = self.passes[0].launch
        return f"kernel compiled ahead of time, {first.config}"

    def __call__(self, *tensors: Tensor, out: Tensor | None = None, partial: Tensor | None = None) -> Tensor:
        """Return the contraction of `tensors`, in the memory `out` and with `partial` for partial sums, if given.

        Torch's own operations compute it where autograd records it, where there is nothing to compute, and where the
        extents are beyond what the kernel was compiled for. Tensors that do not lie in order in memory, or not at
        a multiple of the alignment, are copied.
        """
        extents = self._extents(tensors)
        first, device = self.passes[0].launch, tensors[0].device
        sizes = tuple(prod(extents[m] for m in modes) for modes in first.stands_for)
        recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if recorded or 0 in extents or not self._reaches(extents, sizes):
            plain = self.plain(*tensors)
            return (
                plain if len(tensors) > 1 or recorded else plain.clone()
            )  # a view of what may be overwritten
        strides = self._strides(extents)
        given = [in_order(x, first.alignment) for x in tensors]
        with torch.cuda.device(device):
            context, *functions = self.load(device)
            self.api.cuCtxSetCurrent(context)  # a new thread has none
            result = unwritten(self.task, extents, device) if out is None else out
            if len(self.passes) == 1:
                self._launch(functions[0], first, [*given, result], sizes, strides)
                return result
            if partial is None or partial.numel() < first.partial_size:
                partial = torch.empty(first.partial_size, dtype=getattr(torch, first.partial), device=device)
            self._launch(functions[0], first, [*given, partial], sizes, strides)
            second = self.passes[1].launch
            self._launch(functions[1], second, [partial, result], second.sizes, [])
            return result

    def load(self, device: torch.device | None = None) -> tuple[Any, ...]:
        """Return the driver's handles on `device` (None: the current one): of torch's context, and of each pass.

        Raises:
            UnsupportedError: the driver refuses a kernel, with its reason.
        """
        index = torch.cuda.current_device() if device is None or device.index is None else device.index
        with self.lock:
            if index not in self.functions:
                context = _context(self.api, index)
                self.functions[index] = (context, *(_function(self.api, p) for p in self.passes))
            return self.functions[index]

    def _extents(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        extents = list(self.task.extents)
        if self.task.dynamic:
            for term, x in zip(self.task.terms, tensors, strict=False):
                for m, n in zip(term, x.shape, strict=True):
                    extents[m] = n
        return tuple(extents)

    def _reaches(self, extents: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
        """Return whether offsets and coordinates for these extents fit into the int32 that the kernel has for them.

        What does not vary was taken care of when the kernel was made.
        """
        if not self.task.dynamic:
            return True
        numbers = [2 * prod(extents[m] for m in term) for term in self.task.terms]  # pairs, if complex
        return max(*numbers, self.passes[0].launch.programs(sizes, 1)) < MOST

    def _strides(self, extents: Sequence[int]) -> list[int]:
        """Return the strides that the kernel is told: those of values in order, summed over the axes of a mode."""
        first, terms = self.passes[0].launch, self.task.terms
        return [
            sum(
                prod(extents[m] for m in inner)
                for inner in inner_modes(terms[at], first.stands_for[mode][-1])
            )
            for at, mode in first.strides
        ]

    def _launch(
        self,
        function: Any,
        launch: Launch,
        tensors: Sequence[Tensor],
        sizes: tuple[int, ...],
        strides: Sequence[int],
    ) -> None:
        """Run one pass on the stream of its tensors."""
        parameters = packed(
            launch, [x.data_ptr() for x in tensors], [sizes[m] for m in launch.extents], strides
        )
        device = tensors[0].device
        grid = (launch.programs(sizes, toolchain.processors(device)), 1, 1)
        block = (WARP * launch.warps, 1, 1)
        stream = torch.cuda.current_stream(device).cuda_stream
        (error,) = self.api.cuLaunchKernel(function, *grid, *block, launch.shared, stream, parameters, 0)
        if int(error):
            raise RuntimeError(f"cuLaunchKernel: {getattr(error, 'name', error)} for {self}")


def packed(
    launch: Launch, pointers: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Return the parameters of a launch and their C types; the hidden ones, which no kernel reads, are null."""
    given = (*pointers, *extents, *strides)
    hidden = launch.parameters - len(given)
    types = (
        *(ctypes.c_void_p for _ in pointers),
        *(ctypes.c_int32 for _ in extents),
        *(ctypes.c_int64 for _ in strides),
        *(ctypes.c_void_p for _ in range(hidden)),
    )
    return (*given, *(0 for _ in range(hidden))), types


def in_order(x: Tensor, alignment: int) -> Tensor:
    """Return `x`, or a copy of it, in order in memory and at a multiple of `alignment` bytes."""
    x = x.resolve_conj().resolve_neg()
    if x.is_contiguous() and x.data_ptr() % alignment == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _context(api: Any, index: int) -> Any:
    """Return the context that torch uses on device `index`, which is made the current one."""
    number = _done("cuDeviceGet", api.cuDeviceGet(index))
    context = _done("cuDevicePrimaryCtxRetain", api.cuDevicePrimaryCtxRetain(number))
    _done("cuCtxSetCurrent", api.cuCtxSetCurrent(context))
    return context


def _function(api: Any, one: Pass) -> Any:
    """Return the driver's handle of a kernel in the current context."""
    module = _done("cuModuleLoadData", api.cuModuleLoadData(one.cubin))
    function = _done("cuModuleGetFunction", api.cuModuleGetFunction(module, one.launch.name.encode()))
    if one.launch.shared > NEEDS_NO_ASKING:
        attribute = api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        outcome = api.cuFuncSetAttribute(function, attribute, one.launch.shared)
        _done(f"cuFuncSetAttribute of {one.launch.shared} bytes of shared memory", outcome)
    return function


def _done(what: str, outcome: tuple[Any, ...]) -> Any:
    """Return what a call of the driver returned behind its error; raises UnsupportedError if there is one."""
    error, *rest = outcome
    if int(error):
        raise UnsupportedError(f"{what}: {getattr(error, 'name', error)}")
    return rest[0] if rest else None
