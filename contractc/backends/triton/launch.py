"""Steps that run as kernels: strides in, kernels chosen and kept by them, tensors out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from contractc.backends.triton import toolchain
from contractc.backends.triton.choose import fits
from contractc.backends.triton.emit import Source, source_of
from contractc.backends.triton.kept import kept
from contractc.backends.triton.problem import ALIGNMENT, Problem, contiguous, parts
from contractc.backends.triton.tasks import LIBRARY, Task, candidates, chosen_config, trials
from contractc.backends.triton.tiles import TileConfig
from contractc.dtypes import zero_of
from contractc.machine import H200, Gpu
from contractc.notation import Term

MOST_VARIANTS = 64
"""Kernels that one step keeps for different strides; beyond, torch computes it."""


MOST_OFFSET = 2**31
"""What an int32 holds is below: offsets into larger values are computed in 64 bits, where that was foreseen."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One launch: the kernel, how its programs are counted, and where each mode of its problem comes from.

    `functions` grows with the devices and the alignments that it meets.
    """

    problem: Problem
    config: TileConfig
    source: Source
    functions: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Variant:
    """What a step launches for operands of certain strides: one pass, or two when the sum is split.

    `parts` are the modes that each mode of the problem stands for, `even` which run-time numbers of the first pass
    are multiples of `ALIGNMENT` in values in order in memory.
    """

    passes: tuple[Pass, ...]
    parts: tuple[Term, ...]
    even: tuple[bool, ...]


@lru_cache(maxsize=4096)
def kernel_pass(problem: Problem, config: TileConfig) -> Pass:
    """Return the launch of one kernel; its source is generated, loaded and compiled at its first launch."""
    return Pass(problem, config, source_of(problem, config, interpret=toolchain.interpreted()))


def passes_of(problem: Problem, config: TileConfig, device: Gpu = H200) -> tuple[Pass, ...]:
    """Return the launches of a problem: one, or partial sums and their sum."""
    if config.split == 1:
        return (kernel_pass(problem, config),)
    first, second = parts(problem, config.split)
    found = candidates(second, device)
    assert found, f"no tile fits the sum of partial results of {problem}"
    unsplit = [c for c, _ in found if c.split == 1]
    return kernel_pass(first, config), kernel_pass(second, unsplit[0])


@dataclass(slots=True, eq=False)
class Step:
    """A contraction that runs as kernels; `plain` computes the same with torch's own operations.

    `variants` grows with the strides it meets; a lost race computes one of them twice.
    """

    task: Task
    how: str
    plain: Callable[..., Any]
    recorded: Callable[..., Tensor]
    device: Gpu = H200
    variants: dict[object, Variant | None] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, *tensors: Tensor, out: Tensor | None = None, partial: Tensor | None = None) -> Tensor:
        """Return the contraction of `tensors`, recorded for autograd where one of them requires grad."""
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return self.recorded(self, *tensors)
        return self.launch(*tensors, out=out, partial=partial)

    def launch(self, *tensors: Tensor, out: Tensor | None = None, partial: Tensor | None = None) -> Tensor:
        """Return the contraction of `tensors` from kernels, in the memory `out` if it is given.

        `partial` is memory for the partial results of a split sum. What no kernel computes is fresh memory.
        """
        strides = tuple(x.stride() for x in tensors)
        shapes = tuple(x.shape for x in tensors) if self.task.dynamic else ()
        key = (strides, shapes)
        variant = self.variants.get(key)
        if variant is None and key not in self.variants:
            with self.lock:
                variant = self._variant(strides) if len(self.variants) < MOST_VARIANTS or shapes else None
                if len(self.variants) >= 16 * MOST_VARIANTS:
                    self.variants.clear()
                self.variants[key] = variant
        extents = self._extents(tensors)
        if variant is None or 0 in extents or not self._reaches(variant, tensors, extents):
            plain: Tensor = self.plain(*tensors)
            return plain if len(tensors) > 1 else plain.clone()  # a view of what may be overwritten
        return self._run(variant, tensors, extents, out, partial)

    def _reaches(self, variant: Variant, tensors: Sequence[Tensor], extents: tuple[int, ...]) -> bool:
        """Return whether offsets into all values are as wide as they need to be: dynamic extents may have grown."""
        if not self.task.dynamic:
            return True
        problem = variant.passes[0].problem
        reached = [sum(s * (n - 1) for s, n in zip(x.stride(), x.shape, strict=True)) for x in tensors]
        reached.append(prod([extents[m] for m in self.task.terms[-1]]))
        return all(
            2 * reach < MOST_OFFSET
            or 2 * problem.size(access.modes) >= MOST_OFFSET  # two to a complex number
            for reach, access in zip(reached, problem.values, strict=True)
        )

    def _extents(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        if not self.task.dynamic:
            return self.task.extents
        extents = list(self.task.extents)
        for term, x in zip(self.task.terms, tensors, strict=False):
            for m, n in zip(term, x.shape, strict=True):
                extents[m] = n
        return tuple(extents)

    def _variant(self, strides: Sequence[Sequence[int]]) -> Variant | None:
        """Return the kernels for operands with these strides, or None if none fits on chip."""
        task = self.task
        if self.how == LIBRARY:
            return None
        written = [
            literal(term, given, task.extents, task.dynamic)
            for term, given in zip(task.terms, strides, strict=False)
        ]
        out = contiguous(task.terms[-1], task.extents, task.dynamic)
        problem, modes = task.problem([*written, out])
        if any(s is not None and s < 0 for v in problem.values for s in v.strides):
            return None
        config = chosen_config(self.how, problem, self.device)
        if config is not None and not toolchain.interpreted() and torch.cuda.is_available():
            ranking = (config, *(c for c, _ in trials(problem, self.device) if c != config))
            config = next((c for c in ranking if fits(problem, c, self.device)), None)
        if config is None:
            return None
        passes = passes_of(problem, config, self.device)
        return Variant(passes, modes, even_numbers(passes[0].source, problem, task, modes))

    def _run(
        self,
        variant: Variant,
        tensors: Sequence[Tensor],
        extents: tuple[int, ...],
        out: Tensor | None,
        partial: Tensor | None,
    ) -> Tensor:
        like = tensors[0]
        result = unwritten(self.task, extents, like.device) if out is None else out
        sizes = []
        for part in variant.parts:
            size = 1
            for m in part:
                size *= extents[m]
            sizes.append(size)
        first = variant.passes[0]
        target = result
        if len(variant.passes) == 2:
            width = getattr(torch, first.problem.out.dtype)
            size = first.config.split * first.problem.size(first.problem.out.modes)
            if partial is not None and partial.dtype == width and partial.numel() >= size:
                target = partial
            else:
                target = torch.empty(size, dtype=width, device=like.device)
        numbers = [self._stride(at, m, variant, tensors, result) for at, m in first.source.strides]
        launch(first, (*tensors, target), sizes, numbers, variant.even)
        if len(variant.passes) == 2:
            second = variant.passes[1]
            launch(second, (target, result), second.problem.extents, [])
        return result

    def _stride(self, at: int, mode: int, variant: Variant, tensors: Sequence[Tensor], out: Tensor) -> int:
        """Return the stride in value `at` of a mode of the problem: the sum over the axes that have it."""
        (inner,) = variant.parts[mode][-1:]
        x = tensors[at] if at < len(tensors) else out
        return sum(s for m, s in zip(self.task.terms[at], x.stride(), strict=True) if m == inner)


def unwritten(task: Task, extents: Sequence[int], device: torch.device) -> Tensor:
    """Return memory for the result of a task, zero where its modes repeat and a kernel writes the diagonal only."""
    term, dtype = task.terms[-1], getattr(torch, task.dtypes[-1])
    shape = [extents[m] for m in term]
    if len(set(term)) < len(term):
        return torch.full(shape, zero_of(task.semiring, task.dtypes[-1]), dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, device=device)


def literal(
    term: Term, strides: Sequence[int], extents: Sequence[int], dynamic: Sequence[int]
) -> tuple[int | None, ...]:
    """Return which of the `strides` of an operand are part of its kernel; None for those given at run time.

    Without dynamic modes all are. With them those are that have to be in an operand in order in memory whatever
    the dynamic extents, and 0 and 1.
    """
    if not dynamic:
        return tuple(strides)
    expected = contiguous(term, extents, dynamic)
    return tuple(s if s == e or s in (0, 1) else None for s, e in zip(strides, expected, strict=True))


def even_numbers(
    source: Source, problem: Problem, task: Task, stands_for: Sequence[Term]
) -> tuple[bool, ...]:
    """Return which run-time numbers of a kernel are multiples of `ALIGNMENT` whatever the dynamic extents.

    That is said of values in order in memory. The extents come first and are none; then come the strides.
    """
    strides = (
        all(
            prod(task.extents[n] for n in inner if n not in task.dynamic) % ALIGNMENT == 0
            for inner in inner_modes(task.terms[at], stands_for[mode][-1])
        )
        for at, mode in source.strides
    )
    return (*(False for _ in source.extents), *strides)


def inner_modes(term: Term, mode: int) -> list[Term]:
    """Return for each axis of `term` that has `mode` the modes of the axes inside of it.

    The product of their extents is the axis's stride in a value in order in memory.
    """
    return [term[axis + 1 :] for axis, m in enumerate(term) if m == mode]


def launch(
    one: Pass,
    tensors: Sequence[Tensor],
    extents: Sequence[int],
    strides: Sequence[int],
    even: tuple[bool, ...] = (),
) -> None:
    """Run one kernel on the stream and the device of its tensors; for `even` see `Variant`."""
    given = [_as_parameter(x) for x in tensors]
    numbers = (*(extents[m] for m in one.source.extents), *strides)
    device, config = tensors[0].device, one.config
    grid = (toolchain.grid_of(one.source, extents, config, device), 1, 1)
    if toolchain.interpreted():
        function = toolchain.loaded(one.source)
        function[grid](*given, *numbers, num_warps=config.warps, num_stages=config.stages)
    elif device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            _function(one, given, numbers, even)[grid](*given, *numbers)
    else:
        _function(one, given, numbers, even)[grid](*given, *numbers)


def _function(one: Pass, given: Sequence[Tensor], numbers: tuple[int, ...], even: tuple[bool, ...]) -> Any:
    """Return what launches a kernel for operands that are aligned like these, on the current device.

    There are three kernels at most for each alignment of the pointers, whatever the dynamic extents: where all
    numbers are multiples of `ALIGNMENT`, where those are that always should be, and where none has to be.
    """
    pointers = all(x.data_ptr() % ALIGNMENT == 0 for x in given)
    told = tuple(n % ALIGNMENT == 0 for n in numbers)
    if not all(told):
        held = all(t or not e for t, e in zip(told, even, strict=False))
        told = even if held and even else (False,) * len(numbers)
    key = (given[0].device.index, pointers, told)
    found = one.functions.get(key)
    if found is None:
        source, config = one.source, one.config
        _, arch = toolchain.current_device(given[0].device)
        promised = None if pointers and all(told) else told
        made = kept(source, config.warps, config.stages, arch, divisible=pointers, numbers=promised)
        if made is None:
            raise RuntimeError(f"a kernel of {config} does not compile for sm_{arch}")
        found = toolchain.function_of(source, made.metadata, made.cubin, divisible=pointers, numbers=promised)
        one.functions[key] = found
    return found


def _as_parameter(x: Tensor) -> Tensor:
    """Return `x` as a kernel takes it: conjugates and negatives resolved, complex as pairs, bools as bytes."""
    x = x.resolve_conj().resolve_neg() if x.is_conj() or x.is_neg() else x
    if x.is_complex():
        return torch.view_as_real(x)
    return x.view(torch.uint8) if x.dtype == torch.bool else x
