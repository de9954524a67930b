"""Steps that run as compiled loops, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from contractc.backends import Compiled
from contractc.dtypes import to_numpy
from contractc.fused import unfused
from contractc.programs import Contract, Program
from contractc.providers import loops, providers
from contractc.providers.loops import COPIED, HOW, HOW_FIRST, ORDERED, STRIDED, UNIT, Library

NOTHING_BUILT: Mapping[str, loops.Variant] = MappingProxyType({})


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
    return loops.compiled(program, step, numpy_library(program, step))


def numpy_library(program: Program, step: Contract) -> Library:
    """Return how loops look at the arrays of `step` in NumPy."""
    known = program.values()
    dtype = to_numpy(step.out.dtype)
    return Library(
        _form,
        _address,
        _strides,
        np.ascontiguousarray,
        lambda shape: np.empty(shape, dtype),
        lambda size: np.empty(size, np.uint8),
        tuple(to_numpy(known[i].dtype) for i in step.inputs),
    )


def _pairwise(
    program: Program, step: Contract, compile_: Callable[[Program], Compiled]
) -> Callable[..., Any]:
    """Return the function that does `step` by the best ways of the libraries, one pair after the other."""
    from contractc.backends.steps.choose import arranged  # loaded by those who have to choose
    from contractc.providers.known import this_machine

    names, machine = providers(), this_machine()
    return compile_(arranged(unfused(program, step), machine, names)).run


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
    address: int = x.__array_interface__["data"][0]
    return address


def _strides(x: np.ndarray) -> Sequence[int]:
    item = x.itemsize
    return [s // item for s in x.strides]
