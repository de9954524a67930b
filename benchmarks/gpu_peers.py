"""Who is measured on a GPU beside contractc: each library's call of an einsum, or why it cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


class Absent(Exception):
    """Why a peer does not take part in a case."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run an einsum: `start(text, tensors, tiny)` does what its user does once, and returns the call.

    Those that torch differentiates are `recorded`. A call that returns when its result is there is `waiting`: it is
    timed by the clock, all others by events on torch's stream. With `tiny` a CPU may stand in for the GPU.
    """

    name: str
    start: Callable[[str, Sequence[Tensor], bool], Call]
    recorded: bool = True
    waiting: bool = False


def started(peer: Peer, text: str, tensors: Sequence[Tensor], tiny: bool) -> Call:
    """Return the call of a peer that has been made once.

    Raises:
        Absent: its library is not installed, or fails for these operands.
    """
    try:
        call = peer.start(text, tensors, tiny)
        call()
    except Absent:
        raise
    except Exception as error:  # whatever a library raises is why it does not take part
        lines = str(error).strip().splitlines()
        raise Absent(f"{type(error).__name__}: {lines[0][:100] if lines else ''}") from error
    return call


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Absent(f"{name.partition('.')[0]} is not installed") from error


def _einsum(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    """Return torch.einsum from left to right."""

    def call() -> Any:
        with torch.backends.opt_einsum.flags(enabled=False):
            return torch.einsum(text, *xs)

    return call


def _einsum_in_order(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    """Return torch.einsum in opt_einsum's order: the same thing for two operands."""
    if len(xs) < 3:
        raise Absent("two operands have one order")
    if not torch.backends.opt_einsum.is_available():
        raise Absent("opt_einsum is not installed")
    return lambda: torch.einsum(text, *xs)


def _compiled(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    """Return torch.compile of torch.einsum; tiny sizes are traced, and not compiled."""
    torch._dynamo.reset()
    run = torch.compile(
        lambda *x: torch.einsum(text, *x), dynamic=False, backend="aot_eager" if tiny else "inductor"
    )
    return lambda: run(*xs)


def _opt_einsum(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    run = _library("opt_einsum").contract_expression(text, *(tuple(x.shape) for x in xs))
    return lambda: run(*xs)


def _jax(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    jax = _library("jax")
    if not tiny and jax.default_backend() != "gpu":
        raise Absent("this jax has no GPU")
    jax.config.update("jax_enable_x64", True)
    arrays = [jax.dlpack.from_dlpack(x.detach().contiguous()) for x in xs]
    run = jax.jit(lambda *x: jax.numpy.einsum(text, *x))
    return lambda: run(*arrays).block_until_ready()


def _cupy(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    cupy = _library("cupy")
    if tiny:
        raise Absent("cupy has no CPU")
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
    with stream:
        arrays = [cupy.from_dlpack(x.detach()) for x in xs]

    def call() -> Any:
        with stream:
            return cupy.einsum(text, *arrays, optimize=True)

    return call


def _cutensor(text: str, xs: Sequence[Tensor], tiny: bool) -> Call:
    module = _library("cuquantum")
    if tiny:
        raise Absent("cuTENSOR has no CPU")
    contract = module.contract if hasattr(module, "contract") else _library("cuquantum.tensornet").contract
    given = [x.detach() for x in xs]
    return lambda: contract(text, *given)


EINSUM = "torch.einsum"
PEERS = (
    Peer(EINSUM, _einsum),
    Peer("torch.einsum, opt_einsum's order", _einsum_in_order),
    Peer("torch.compile", _compiled),
    Peer("opt_einsum on torch", _opt_einsum),
    Peer("jax", _jax, recorded=False, waiting=True),
    Peer("cupy", _cupy, recorded=False),
    Peer("cuTENSOR", _cutensor, recorded=False),
)

LIBRARIES = (
    "torch",
    "triton",
    "numpy",
    "opt_einsum",
    "jax",
    "cupy-cuda12x",
    "cuquantum-python-cu12",
    "cotengra",
)
