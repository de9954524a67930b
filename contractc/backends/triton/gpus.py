"""The rates of the GPU that a target names: measured ones from the store if there are, else those of a data sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from contractc.backends.triton import toolchain
from contractc.machine import GPUS, Gpu
from contractc.serial import digest
from contractc.store import open_store

Clock = Callable[[Callable[[], Any]], float]
"""Seconds that a call takes on the current GPU."""


def gpu_model(device: str) -> Gpu:
    """Return the rates for a target's device (`cuda`, `cuda:80`): of the GPU here, if the target names no other."""
    if torch.cuda.is_available() and ":" not in device:
        major, minor = torch.cuda.get_device_capability()
        name, arch = torch.cuda.get_device_name(), 10 * major + minor
        found = stored(name) or like(name, arch)
    else:
        found = like("", toolchain.architecture(device))
    return replace(found, library_tf32=toolchain.library_tf32())


def like(name: str, arch: int) -> Gpu:
    """Return the data sheet of a GPU, or that of the nearest one there is with its architecture and shared memory."""
    for gpu in GPUS:
        if gpu.name in name and gpu.arch == arch:
            return gpu
    nearest = next((gpu for gpu in GPUS if gpu.arch <= arch), GPUS[-1])
    if nearest.arch == arch:
        return nearest
    shared = toolchain.SHARED_LIMIT.get(arch, 99 * 1024)
    source = f"rates of {nearest.name}, {nearest.source}"
    return replace(nearest, name=f"sm_{arch}", arch=arch, shared=shared, source=source)


def stored(name: str) -> Gpu | None:
    """Return what was measured on a GPU of this name, or None."""
    store = open_store()
    text = None if store is None else store.read("gpu", digest(name))
    try:
        found = None if text is None else Gpu.from_json(text.decode())
    except ValueError:
        return None
    return found if found is not None and found.name == name else None


def measured(base: Gpu, name: str, clock: Clock, where: str = "cuda", *, tiny: bool = False) -> Gpu:
    """Return `base` with the rates measured by `clock`, and keep it in the store.

    The rate of int8 follows that of narrow products; those of the L2 cache and of a turn stay assumed.
    """
    size, side = (2**10, 16) if tiny else (2**28, 8192)
    x = torch.zeros(size, dtype=torch.float32, device=where)
    y = torch.empty_like(x)
    rows = x.view(64, -1, 16).permute(2, 0, 1)
    product = 2.0 * side**3

    def rate(dtype: torch.dtype, word: str = "ieee") -> float:
        a = torch.ones(side, side, dtype=dtype, device=where)
        with _float32_as(word):
            return product / clock(lambda: a @ a)

    narrow = rate(torch.bfloat16)
    found = replace(
        base,
        name=name,
        source="measured",
        bandwidth=8 * size / clock(lambda: y.copy_(x)),
        permuting=8 * size / clock(lambda: y.view(16, 64, -1).copy_(rows)),
        narrow=narrow,
        tf32=rate(torch.float32, "tf32"),
        float64=rate(torch.float64),
        scalar=rate(torch.float32),
        int8=base.int8 * narrow / base.narrow,
        launch=clock(lambda: y[:1].add_(1)),
        library_tf32=False,
    )
    store = open_store()
    if store is not None and not found.faults():
        store.write("gpu", digest(name), found.to_json().encode())
    return found


@contextmanager
def _float32_as(word: str) -> Iterator[None]:
    """Let torch multiply float32 in `word` (`ieee`, `tf32`) meanwhile: in all threads, so for measurements only."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = word
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
