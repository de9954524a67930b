"""What stands for launches on a GPU: the memory that a kernel reads and writes, and what it computes."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
import torch

from contractc.backends.triton.launch import Pass
from contractc.dtypes import to_numpy

rng = np.random.default_rng(0)


def memory(pointer: int, shape: list[int], strides: list[int], dtype: str) -> np.ndarray:
    """Return the numbers at an address as an array that can be written to."""
    kind = to_numpy("uint8" if dtype == "bool" else dtype)
    reach = 1 + sum(s * (n - 1) for s, n in zip(strides, shape, strict=True))
    raw = (ctypes.c_byte * (reach * kind.itemsize)).from_address(pointer)
    flat: np.ndarray = np.frombuffer(memoryview(raw), kind)
    return np.lib.stride_tricks.as_strided(flat, shape, [s * kind.itemsize for s in strides])


def compute(one: Pass, arrays: list[np.ndarray], extents: list[int]) -> None:
    """Write what the kernel would; partial sums all in the first part, the others zero."""
    problem = one.problem
    terms = [list(v.modes) for v in problem.values]
    inputs = [x.conj() if v.conj else x for v, x in zip(problem.inputs, arrays, strict=False)]
    flat = [z for pair in zip(inputs, terms[:-1], strict=True) for z in pair]
    found = np.einsum(*flat, terms[-1])
    if one.config.split > 1:
        count = prod(extents[m] for m in problem.out.modes)
        rest = arrays[-1].ctypes.data + count * arrays[-1].itemsize
        memory(rest, [(one.config.split - 1) * count], [1], problem.out.dtype)[:] = 0
    arrays[-1][...] = found


def tensors(*shapes: tuple[int, ...], dtype: str = "float32") -> list[Any]:
    made = []
    for shape in shapes:
        x = rng.normal(size=shape)
        made.append(
            torch.from_numpy((x + 1j * rng.normal(size=shape) if "complex" in dtype else x).astype(dtype))
        )
    return made
