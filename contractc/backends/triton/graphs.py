"""Slices as replays of one recorded run: what is launched for each slice is the same, only the numbers differ.

The recorder is a parameter, so that what is done with it is tested without a GPU; the one for CUDA graphs is below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from contractc.backends.torch import operations
from contractc.backends.triton import toolchain
from contractc.notation import Term

LEAST_SLICES = 16
"""Slices from which on recording is worth it: it takes about as long as launching a few of them."""

Recorder = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Takes a call; returns what launches again everything that the call launches, and the call's results: memory that is
written by each replay, and not before. The call itself may compute nothing."""


def recorded_on_cuda(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Record `call` as a CUDA graph on a stream of its own, without waiting for the GPU; see `Recorder`.

    Other threads may go on using CUDA meanwhile.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            results = call()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, results


class Replayed:
    """The `body` of one run of a loop: launched for the first slice, recorded for the second, then replayed.

    Slices are copied to memory that the recorded launches read; inputs that do not vary are read where they are.
    The first slice runs on that memory too, so that every kernel is compiled when the recording starts.
    """

    __slots__ = ("body", "given", "record", "replay", "results", "varying")

    def __init__(self, body: Callable[..., Any], varying: Sequence[bool], record: Recorder) -> None:
        self.body, self.varying, self.record = body, tuple(varying), record
        self.given: list[Tensor] = []
        self.replay: Callable[[], None] | None = None
        self.results: Any = None

    def __call__(self, *slices: Tensor) -> Any:
        """Return the body's results for one slice, in memory that later slices leave alone."""
        if not self.given:
            self.given = [
                x.clone(memory_format=torch.contiguous_format) if v else x
                for x, v in zip(slices, self.varying, strict=True)
            ]
            return _copied(self.body(*self.given))
        for here, x, v in zip(self.given, slices, self.varying, strict=True):
            if v:
                here.copy_(x)
        if self.replay is None:
            self.replay, self.results = self.record(lambda: self.body(*self.given))
        self.replay()
        return _copied(self.results)


def _copied(results: Any) -> Any:
    return tuple(x.clone() for x in results) if isinstance(results, tuple) else results.clone()


def sliced(
    body: Callable[..., Any],
    arrays: Sequence[Tensor],
    terms: Sequence[Term],
    modes: dict[int, int],
    total: operations.Sum,
    record: Recorder | None = None,
) -> Any:
    """Return what `operations.sliced` does, its slices replayed where there are many of them on a GPU.

    Where autograd records, every slice is launched; inside a recording of the caller's they are recorded there.
    """
    record = record or (recorded_on_cuda if _recordable(arrays) else None)
    watched = torch.is_grad_enabled() and any(x.requires_grad for x in arrays)
    if record is not None and not watched and prod(modes.values()) >= LEAST_SLICES:
        body = Replayed(body, [bool(modes.keys() & set(term)) for term in terms], record)
    return operations.sliced(body, arrays, terms, modes, total)


def _recordable(arrays: Sequence[Tensor]) -> bool:
    return all(x.is_cuda for x in arrays) and not torch.cuda.is_current_stream_capturing()


def sliced_over(
    devices: Sequence[str],
    body: Callable[..., Any],
    arrays: Sequence[Tensor],
    terms: Sequence[Term],
    modes: dict[int, int],
    total: operations.Sum,
) -> Any:
    """Return what `sliced` does, each device computing a range of the outermost loop mode.

    Operands are copied to each device and results to that of the operands, where they are put together in the order
    of the ranges: the value does not depend on which device is done first, but its last bits on how many there are.
    Where autograd records, one device computes all.
    """
    mode, extent = next(iter(modes.items()))
    count = min(len(devices), extent)
    if count < 2 or (torch.is_grad_enabled() and any(x.requires_grad for x in arrays)):
        return sliced(body, arrays, terms, modes, total)
    edges = [extent * d // count for d in range(count + 1)]
    summed = total._replace(dtypes=[(wide, wide) for _, wide in total.dtypes])

    def part(number: int) -> tuple[Tensor, ...]:
        start, size = edges[number], edges[number + 1] - edges[number]
        given = [
            x.narrow(term.index(mode), start, size) if mode in term else x
            for x, term in zip(arrays, terms, strict=True)
        ]
        device = torch.device(devices[number])
        with torch.no_grad(), torch.cuda.device(device if device.type == "cuda" else -1):
            found = sliced(body, [x.to(device) for x in given], terms, {**modes, mode: size}, summed)
        return found if isinstance(found, tuple) else (found,)

    with ThreadPoolExecutor(1 if toolchain.interpreted() else count) as pool:  # interpreted one at a time
        parts = list(pool.map(part, range(count)))
    results = []
    for k, (out, (narrow, _)) in enumerate(zip(total.outs, total.dtypes, strict=True)):
        moved = [found[k].to(arrays[0].device) for found in parts]
        whole = torch.cat(moved, out.index(mode)) if mode in out else reduce(total.add, moved)
        results.append(whole.to(narrow))
    return results[0] if len(total.outs) == 1 else tuple(results)
