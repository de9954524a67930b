"""One allocation a call for what kernels and matrix products write beside the results of a program."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from contractc.backends.triton.problem import ACCUMULATED
from contractc.backends.triton.products import Product, product_of
from contractc.backends.triton.tiles import parsed
from contractc.dtypes import is_complex, itemsize
from contractc.programs import Contract, Program, Step
from contractc.workspace import Block, alive, planned


def block_for(size: int, *tensors: Tensor) -> Tensor | None:
    """Return the workspace of one call, on the device and the stream of its tensors.

    None where autograd records: what is kept for the way back is not to be overwritten.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return None
    return torch.empty(size, dtype=torch.uint8, device=tensors[0].device)


class Places:
    """Where the kernels of one function write: the lines it starts with, and what its steps are told."""

    def __init__(self, program: Program) -> None:
        self.program = program
        blocks: dict[int, Block] = {}
        dtypes: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.products = {step.outs[0].number: product_of(step, program) for step in program.steps}
        living = alive(program, self._writes)
        for s, step in enumerate(program.steps):
            if not self._writes(step) or not isinstance(step, Contract):
                continue
            shape = tuple(program.extents[m] for m in step.out.modes)
            fixed = not set(step.out.modes) & set(program.dynamic) and prod(shape) > 0
            if fixed and step.out.number in living and len(set(step.out.modes)) == len(shape):
                dtypes[step.out.number] = step.out.dtype, shape
                blocks[step.out.number] = Block(
                    prod(shape) * itemsize(step.out.dtype), *living[step.out.number]
                )
            split = parsed(step.how).split if _is_kernel(step) else 1
            if fixed and split > 1:
                dtype = step.out.dtype
                dtype = dtype if is_complex(dtype) else ACCUMULATED.get(dtype, dtype)
                dtypes[-1 - s] = dtype, (split * prod(shape),)
                blocks[-1 - s] = Block(split * prod(shape) * itemsize(dtype), s, s)
        self.size, self.offsets = planned(blocks)
        self.dtypes = dtypes
        self.blocks = blocks

    def _writes(self, step: Step) -> bool:
        return _is_kernel(step) or self.products[step.outs[0].number] is not None

    def product(self, step: Contract) -> Product | None:
        """Return a step of the library as a product that is written to the workspace, or None."""
        placed = step.out.number in self.offsets and bool(self.program.inputs)
        return self.products[step.out.number] if placed else None

    def place(self, key: int) -> str:
        """Return the memory of value `key` as code; there is a workspace."""
        dtype, shape = self.dtypes[key]
        strides = [prod(shape[k + 1 :]) for k in range(len(shape))]
        return f"w_{dtype}.as_strided({shape}, {tuple(strides)}, {self.offsets[key] // itemsize(dtype)})"

    def opening(self, names: Sequence[str]) -> list[str]:
        """Return the lines that make the workspace, for inputs of these names."""
        if not self.size or not names:
            return []
        used = dict.fromkeys(dtype for dtype, _ in self.dtypes.values())
        views = [f"w_{d} = None if w is None else w.view({d})" for d in used]
        return [f"w = block_for({self.size}, {', '.join(names)})", *views]

    def told(self, step: Contract) -> str:
        """Return the further arguments of a kernel: where its result goes, and its partial sums."""
        s = self.program.steps.index(step)
        words = []
        for word, key in (("out", step.out.number), ("partial", -1 - s)):
            if key in self.offsets and self.program.inputs:
                words.append(f", {word}=None if w is None else {self.place(key)}")
        return "".join(words)

    def globals(self) -> dict[str, Any]:
        """Return what the lines of `opening` name."""
        found = {dtype: getattr(torch, dtype) for dtype, _ in self.dtypes.values()}
        return {"block_for": block_for, **found}


def _is_kernel(step: Step) -> bool:
    return isinstance(step, Contract) and step.how.startswith("tile")
