"""Where the intermediates of a program lie in one block of memory, planned from when each of them is alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from contractc.programs import Contract, Program, Step

ALIGNMENT = 256
"""Bytes that every offset is a multiple of: as much as the allocators of GPUs give."""


@dataclass(frozen=True, slots=True)
class Block:
    """Memory that is needed from step `first` to step `last`: its size in bytes."""

    size: int
    first: int
    last: int


def planned(blocks: Mapping[int, Block]) -> tuple[int, dict[int, int]]:
    """Return the bytes of a workspace and the offset of each block in it; blocks alive together never overlap.

    The largest first, each in the smallest gap that it fits between those placed before it: greedy by size, from
    Y. Pisarchyk, J. Lee, "Efficient memory management for deep neural net inference" (2020).
    """
    offsets: dict[int, int] = {}
    whole = 0
    for key in sorted(blocks, key=lambda k: (-blocks[k].size, blocks[k].first, k)):
        block = blocks[key]
        size = _rounded(block.size)
        taken = sorted(
            (offsets[k], offsets[k] + _rounded(other.size))
            for k, other in blocks.items()
            if k in offsets and other.first <= block.last and block.first <= other.last
        )
        gaps, end = [], 0
        for start, stop in taken:
            if start - end >= size:
                gaps.append((start - end, end))
            end = max(end, stop)
        offsets[key] = min(gaps)[1] if gaps else end
        whole = max(whole, offsets[key] + size)
    return whole, offsets


def alive(program: Program, writes: Callable[[Step], bool]) -> dict[int, tuple[int, int]]:
    """Return for each intermediate that a step for which `writes` holds makes its first and its last step.

    Missing are those that results may share memory with. A step of one input may give a view of it, and so may a
    loop or a call; a product never does.
    """
    roots: dict[int, set[int]] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for s, step in enumerate(program.steps):
        read = set[int]().union(*(roots.get(i, set()) for i in step.inputs))
        last |= dict.fromkeys(read, s)
        for out in step.outs:
            if writes(step):
                roots[out.number] = {out.number}
                first[out.number] = last[out.number] = s
            elif not isinstance(step, Contract) or len(step.inputs) == 1:
                roots[out.number] = read
    kept = set[int]().union(*(roots.get(i, set()) for i in program.results))
    return {i: (first[i], last[i]) for i in first if i not in kept}


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
