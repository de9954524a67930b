"""Memory for results and intermediates: blocks that nothing refers to any more are given out again.

The system hands out large blocks page by page, each set to zero when it is first touched, which costs up to
twice the time of writing to memory that is there. A block counts as free when only the list here refers to it:
an array, a view, a tensor or a memoryview made of it keeps it in use, so a result never shares memory with
anything but its own views.
"""

from __future__ import annotations

import sys
import threading
from math import prod

import numpy as np

LEAST = 2**19
"""Bytes from which memory is kept: smaller blocks are kept by the allocator of C, where all libraries share them."""

MOST = 2**28
"""Bytes kept at most, in all threads together; a block in use counts until it is found to be too much."""

_WASTE = 1.05
"""How much larger than asked a block may be that is given out: what is in memory at a time stays as predicted."""

_ALIGNMENT = 64

_blocks: list[np.ndarray] = []
_lock = threading.Lock()


def fresh(shape: tuple[int, ...], dtype: np.dtype, least: int = LEAST) -> np.ndarray:
    """Return a new array in C order whose values are arbitrary and whose memory nothing else refers to.

    `least` is for arrays of which several are made at a time: the allocator of C gives them back together.
    """
    size = prod(shape) * dtype.itemsize
    if not least <= size <= MOST // 2 or dtype.hasobject or _IDLE is None:
        return np.empty(shape, dtype)
    with _lock:
        block = _idle(size)
        if block is None:
            _make_room(size + _ALIGNMENT)
            block = np.empty(size + _ALIGNMENT, np.uint8)
            _blocks.append(block)
        start = -block.__array_interface__["data"][0] % _ALIGNMENT
        return block[start : start + size].view(dtype).reshape(shape)


def release() -> None:
    """Give back to the system the memory that is kept and not in use."""
    with _lock:
        _blocks[:] = [block for block in _blocks if sys.getrefcount(block) != _IDLE]


def kept() -> int:
    """Return the bytes of all blocks, in use or not."""
    with _lock:
        return sum(block.nbytes for block in _blocks)


def _idle(size: int) -> np.ndarray | None:
    """Return the block that fits `size` bytes best, of equals the one used last, moved to the end; or None."""
    best = None
    for k in range(len(_blocks)):
        found = _blocks[k].nbytes - _ALIGNMENT
        if size <= found <= size * _WASTE and (best is None or found <= _blocks[best].nbytes - _ALIGNMENT):
            block = _blocks[k]
            if sys.getrefcount(block) == _IDLE:
                best = k
            del block
    if best is None:
        return None
    _blocks.append(_blocks.pop(best))
    return _blocks[-1]


def _make_room(size: int) -> None:
    """Forget blocks, those used longest ago first, until `size` bytes more are not too much; arrays keep theirs.

    As many idle bytes go as come, so that there are never more than were in use at a time.
    """
    listed = 0 if _IDLE is None else _IDLE - 1  # references to a block that has no name here
    idle = [k for k in range(len(_blocks)) if sys.getrefcount(_blocks[k]) == listed]
    dropped = 0
    for at, k in enumerate(idle):
        if dropped >= size:
            break
        dropped += _blocks.pop(k - at).nbytes
    total = size + sum(block.nbytes for block in _blocks)
    while _blocks and total > MOST:
        total -= _blocks.pop(0).nbytes


def _references() -> int | None:
    """Return what sys.getrefcount says of a block in a list and in one name; None if it cannot be relied on."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    blocks = [np.empty(1, np.uint8)]
    block = blocks[0]
    return sys.getrefcount(block)


_IDLE = _references()
