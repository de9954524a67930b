"""Steps that run as compiled loops, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_size_t
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from contractc.backends import Compiled
from contractc.dtypes import to_numpy
from contractc.fused import all_unfused, unfused
from contractc.programs import Contract, Fused, Program
from contractc.providers import loops, providers
from contractc.providers.loops import COPIED, HOW, HOW_FIRST, ORDERED, STRIDED, UNIT, Library
from contractc.providers.loops.arrays import layout
from contractc.providers.memory import LEAST, fresh
from contractc.providers.threads import lent, side_by_side

MAPPED = 2**17
"""Bytes from which the allocator of C takes memory from the system and gives it back, unless told otherwise."""

NOTHING_BUILT: Mapping[str, loops.Variant] = MappingProxyType({})

WORTH_A_THREAD = 4.0e-4
"""Predicted seconds of loops for each thread: to hand work to one and wait for it took 19 us on idle cores, 170 on a
shared one."""

MORE_ROOM = 0.1
"""Bytes that more threads may take for packed inputs, for a byte of inputs and result: so near is the printed peak."""


def numpy_loops(
    program: Program,
    step: Contract,
    compile_: Callable[[Program], Compiled],
    built: Mapping[str, loops.Variant] = NOTHING_BUILT,
) -> Callable[..., Any]:
    """Return the function of arrays that computes `step`: compiled now or at the first call, or pairwise.

    Machine code that is at hand is in `built`, by the `how` of its step.
    """
    if step.how in built:
        return loops.compiled(program, step, numpy_library(program, step), built=built[step.how])
    if step.how == HOW_FIRST:
        now = replace(step, how=HOW)
        return loops.at_first_call(lambda: numpy_loops(program, now, compile_))
    if not loops.installed() or loops.refuses(program, step) is not None:
        return _pairwise(program, step, compile_)
    library = numpy_library(program, step)
    run = loops.compiled(program, step, library)
    return _in_threads(program, step, library, run) or run


def _in_threads(
    program: Program, step: Contract, library: Library, run: Callable[..., Any]
) -> Callable[..., Any] | None:
    """Return `run` with the positions of the first mode of the result shared by threads; None where they cannot be.

    There are as many threads as NumPy's BLAS may use, and each has the same loops for its part.
    """
    known = program.values()
    terms = [known[i].modes for i in step.inputs]
    dynamic = any(m in program.dynamic for m in step.out.modes)
    if not step.out.modes or dynamic or any(t.count(step.out.modes[0]) > 1 for t in terms):
        return None
    first, count = step.out.modes[0], program.extents[step.out.modes[0]]
    most = min(count, int(loops.predicted(program, step) / WORTH_A_THREAD))
    part = replace(program, dynamic=(*program.dynamic, first))
    if most < 2 or loops.refuses(part, step) is not None:
        return None
    shape = tuple(program.extents[m] for m in step.out.modes)
    size = sum(program.bytes_of(v) for v in (step.out, *(known[i] for i in step.inputs)))
    most = min(most, 1 + int(size * MORE_ROOM / max(1, loops.room(part, step))))
    axes = [t.index(first) if first in t else -1 for t in terms]
    run_part = loops.at_first_call(lambda: loops.compiled(part, step, library))

    def run_in_threads(*arrays: Any) -> Any:
        with lent(most) as workers:
            if workers == 1:
                return run(*arrays)
            result = library.empty(shape)

            def work(start: int, stop: int) -> None:
                places = [(*(slice(None),) * axis, slice(start, stop)) for axis in axes]
                here = [x if axis < 0 else x[at] for x, axis, at in zip(arrays, axes, places, strict=True)]
                run_part(*here, into=result[start:stop])

            side_by_side(work, count, workers)
            return result

    return run_in_threads


def numpy_together(
    program: Program,
    step: Fused,
    compile_: Callable[[Program], Compiled],
    built: Mapping[str, loops.Variant] = NOTHING_BUILT,
) -> Callable[..., Any]:
    """Return the function of arrays that computes the results of `step`: see `numpy_loops`."""
    offsets = layout()
    if offsets is None or (step.how not in built and not loops.installed()):
        return _by_libraries(step.body, compile_)
    if step.how == HOW_FIRST:
        now = replace(step, how=HOW)
        return loops.at_first_call(lambda: numpy_together(program, now, compile_))
    variant = built[step.how] if step.how in built else loops.together(step)
    native, in_order = variant.native, np.ascontiguousarray
    empty: Callable[..., Any] = np.empty
    shapes: list[tuple[Any, ...]]
    shapes = [(tuple(program.extents[m] for m in v.modes), to_numpy(v.dtype)) for v in step.outs]
    shapes.append(((variant.workspace,), np.dtype(np.uint8)))
    given = {v.number for v in (*program.inputs, *(c.value for c in program.constants))}
    made_here = [(k, to_numpy(v.dtype)) for k, v in enumerate(step.body.inputs) if v.number not in given]
    single = len(step.outs) == 1
    if sum(prod(shape) * dtype.itemsize for shape, dtype in shapes) >= LEAST:
        empty, shapes = fresh, [(shape, dtype, MAPPED) for shape, dtype in shapes]

    def run_all(*arrays: Any) -> Any:
        if made_here:
            arrays = _arrays(arrays, made_here)
        made = tuple([empty(*how) for how in shapes])
        if native.run(id(arrays), id(made), *offsets):
            arrays = tuple(map(in_order, arrays))
            native.run(id(arrays), id(made), *offsets)
        return made[0] if single else made[:-1]

    return run_all


def _arrays(arrays: Sequence[Any], made_here: Sequence[tuple[int, Any]]) -> tuple[Any, ...]:
    """Return `arrays`, those that steps made here as arrays where NumPy gave numbers, of the dtypes compiled for."""
    found = list(arrays)
    for k, dtype in made_here:
        found[k] = x = np.asarray(found[k])
        assert x.dtype == dtype, f"{x.dtype} came where {dtype} was compiled for"
    return tuple(found)


def numpy_library(program: Program, step: Contract) -> Library:
    """Return how loops look at the arrays of `step` in NumPy."""
    known = program.values()
    dtype = to_numpy(step.out.dtype)
    return Library(
        _form,
        _address,
        _strides,
        np.ascontiguousarray,
        lambda shape: fresh(shape, dtype),
        lambda size: np.empty(size, np.uint8),
        tuple(to_numpy(known[i].dtype) for i in step.inputs),
    )


def _pairwise(
    program: Program, step: Contract, compile_: Callable[[Program], Compiled]
) -> Callable[..., Any]:
    """Return the function that does `step` by the best ways of the libraries, one pair after the other."""
    return _by_libraries(unfused(program, step), compile_)


def _by_libraries(program: Program, compile_: Callable[[Program], Compiled]) -> Callable[..., Any]:
    """Return `program` run by the best ways of the libraries."""
    from contractc.backends.steps.choose import arranged  # loaded by those who have to choose
    from contractc.providers.known import this_machine

    return compile_(arranged(all_unfused(program), this_machine(), providers())).run


def _form(x: np.ndarray) -> int:
    if type(x) is not np.ndarray:  # a number, as NumPy returns sums over all axes
        return COPIED
    if x.flags.c_contiguous:
        return ORDERED
    item = x.itemsize
    if any(s % item for s in x.strides):
        return COPIED
    return UNIT if x.strides[-1] == item else STRIDED


def _address(x: np.ndarray) -> int:
    offsets = layout()
    if offsets is None:
        return int(x.__array_interface__["data"][0])
    return c_size_t.from_address(id(x) + offsets.data).value


def _strides(x: np.ndarray) -> Sequence[int]:
    item = x.itemsize
    return [s // item for s in x.strides]
