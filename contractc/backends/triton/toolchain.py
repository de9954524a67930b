"""What is asked of Triton itself; the one module that touches names of triton or torch that are not public.

It can be imported without Triton: kernels that are compiled already are launched by `driver`.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from contractc.backends.triton.emit import Source
from contractc.backends.triton.tiles import TileConfig
from contractc.errors import UnsupportedError

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, CompiledKernel
except ModuleNotFoundError:
    triton = None

POINTERS = {
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32",
    "float64": "*fp64",
    "complex64": "*fp32",
    "complex128": "*fp64",
    "int8": "*i8",
    "int16": "*i16",
    "int32": "*i32",
    "int64": "*i64",
    "uint8": "*u8",
    "bool": "*u8",
}
"""How a kernel takes a value: complex numbers as pairs of real ones, bools as bytes."""

SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that one program may use, by architecture (CUDA C programming guide, table of limits)."""

VERSION = None if triton is None else str(triton.__version__)
"""The version of Triton, or None where it is not installed."""

FAILURES: tuple[type[Exception], ...] = (RuntimeError, subprocess.CalledProcessError)
"""What a kernel that cannot be compiled raises."""
if triton is not None:
    FAILURES += (triton.CompilationError, triton.OutOfResources)

INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)
"""What TRITON_INTERPRET said when this was imported: kernels are loaded for good then."""

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Binary:
    """A kernel compiled for one architecture, and what it needs of the machine."""

    cubin: bytes
    ptx: str
    ttir: str
    ttgir: str
    metadata: str
    registers: int
    spills: int
    shared: int
    warps: int
    parameters: int
    name: str


def require() -> None:
    """Raise UnsupportedError if kernels cannot be compiled here, since Triton is not installed."""
    if triton is None:
        raise UnsupportedError("compiling kernels needs Triton, which is not installed")


def interpreted() -> bool:
    """Return whether Triton interprets kernels in this process, which is for tests of their numbers."""
    return INTERPRETED


@cache
def _folder() -> Path:
    """Return the folder of this process for generated sources; it is removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="contractc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _module(text: str) -> Any:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = _folder() / f"kernel_{digest}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # inspect.getsource looks it up
    spec.loader.exec_module(module)
    return module


def loaded(source: Source) -> Any:
    """Return the kernel of `source` as Triton's function; it lies in a file named by its digest."""
    with _lock:
        return _module(source.text).kernel


def signature_of(
    source: Source, kernel: Any, *, divisible: bool = True, numbers: Sequence[bool] | None = None
) -> tuple[dict[str, str], dict[Any, Any]]:
    """Return the types of the parameters and their attributes.

    With `divisible` pointers are multiples of 16 bytes. Run-time numbers are multiples of 16: those that `numbers`
    says, or all if the pointers are.
    """
    types = [POINTERS[t] for t in source.types]
    types += ["i32"] * len(source.extents) + ["i64"] * len(source.strides)
    signature = dict(zip(kernel.arg_names, types, strict=True))
    pointers = len(source.types)
    told = [divisible] * pointers + list(
        [divisible] * (len(types) - pointers) if numbers is None else numbers
    )
    attributes = {(k,): [["tt.divisibility", 16]] for k in range(len(types)) if told[k]}
    return signature, attributes


def compiled(
    source: Source,
    warps: int,
    stages: int,
    arch: int = 90,
    *,
    divisible: bool = True,
    numbers: Sequence[bool] | None = None,
) -> Binary:
    """Return `source` cross-compiled for a CUDA architecture; no GPU is needed. See `signature_of`."""
    kernel = loaded(source)
    signature, attributes = signature_of(source, kernel, divisible=divisible, numbers=numbers)
    target = GPUTarget("cuda", arch, 32)
    made = _compiled(ASTSource(kernel, signature, {}, attributes), target, warps, stages)
    cubin = made.asm["cubin"]
    registers, spills = resources(cubin)
    ptx = made.asm["ptx"]
    assert made.metadata.global_scratch_size == 0, "no launch here gives a kernel scratch memory"
    parameters = len(re.findall(r"\.param ", ptx.partition(".entry")[2].partition(")")[0]))
    return Binary(
        cubin,
        ptx,
        made.asm["ttir"],
        made.asm["ttgir"],
        next(Path(p).read_text() for n, p in made.metadata_group.items() if n.endswith(".json")),
        registers,
        spills,
        made.metadata.shared,
        made.metadata.num_warps,
        parameters,
        made.metadata.name,
    )


def function_of(
    source: Source,
    metadata: str,
    cubin: bytes,
    *,
    divisible: bool = True,
    numbers: Sequence[bool] | None = None,
) -> Any:
    """Return what launches a compiled kernel on the current device: `f[grid](*parameters)`, by Triton's own launcher.

    The code is loaded at the first launch. Nothing is parsed or compiled, and no folder of Triton's is looked at.
    """
    kernel = loaded(source)
    signature, attributes = signature_of(source, kernel, divisible=divisible, numbers=numbers)
    folder = _folder() / hashlib.sha256(cubin + metadata.encode()).hexdigest()[:32]
    files = {"kernel.json": metadata.encode(), "kernel.cubin": cubin}
    with _lock:  # Triton reads the files at once; another thread may be writing the same
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        group = {name: str(folder / name) for name in files}
        return CompiledKernel(ASTSource(kernel, signature, {}, attributes), group, folder.name)


def current_device(device: torch.device) -> tuple[int, int]:
    """Return the number of a CUDA device (of the current one, if it names none) and its architecture."""
    index = torch.cuda.current_device() if device.index is None else device.index
    major, minor = torch.cuda.get_device_capability(index)
    return index, 10 * major + minor


def resources(cubin: bytes) -> tuple[int, int]:
    """Return the registers of a thread and the bytes that it spills to local memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listed = subprocess.run(
            [str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    numbers = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", listed.stdout)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def library_tf32() -> bool:
    """Return whether torch may multiply float32 as tf32 on a GPU; it is set for a whole process."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def architecture(device: str, default: int = 90) -> int:
    """Return the architecture that a target's device names (`cuda:80` is 80), or `default`."""
    _, _, number = device.partition(":")
    return int(number) if number.isdigit() and int(number) >= 70 else default


def grid_of(source: Source, extents: Sequence[int], config: TileConfig, device: torch.device) -> int:
    """Return the number of programs of a launch; `extents` by mode of the problem."""
    programs = config.split
    for run, block in source.grid:
        size = 1
        for m in run.modes:
            size *= extents[m]
        programs *= -(-size // block)
    return min(programs, config.resident * processors(device)) if config.resident else programs


@cache
def processors(device: torch.device) -> int:
    """Return how many processors a GPU has; three where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def transformed() -> bool:
    """Return whether a transform, a tracer, a dispatch mode or forward differentiation is active."""
    return bool(
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


def ordinary(operands: Sequence[Any]) -> bool:
    """Return whether kernels may be launched on `operands`: plain tensors, outside of every transform and tracer."""
    if transformed():
        return False
    where = ("cpu", "cuda") if interpreted() else ("cuda",)
    for x in operands:
        if type(x) is not Tensor and type(x) is not Parameter:
            return False
        if x.device.type not in where or torch.is_autocast_enabled(x.device.type):
            return False
    return True


def misplaced(operands: Sequence[Any]) -> bool:
    """Return whether an operand is a plain tensor on a device that kernels cannot read, and nothing is traced."""
    if interpreted() or transformed():
        return False
    return any((type(x) is Tensor or type(x) is Parameter) and x.device.type == "cpu" for x in operands)


def compiled_elsewhere(source: Source, warps: int, stages: int, target: tuple[str, Any, int]) -> Any:
    """Return what Triton makes of `source` for another kind of GPU: (kind, architecture, threads of a warp)."""
    kernel = loaded(source)
    signature, attributes = signature_of(source, kernel)
    return _compiled(ASTSource(kernel, signature, {}, attributes), GPUTarget(*target), warps, stages)


def _compiled(source: ASTSource, target: GPUTarget, warps: int, stages: int) -> Any:
    """Return what Triton makes of `source`.

    Triton parses Python, and CPython counts the depth of `ast.parse` for all threads together: two at a time may fail
    with a SystemError, whatever they parse. Then it is tried again.
    """
    options = {"num_warps": warps, "num_stages": stages}
    for _ in range(PARSED):
        try:
            return triton.compile(source, target=target, options=options)
        except SystemError:
            continue
    return triton.compile(source, target=target, options=options)


PARSED = 3
"""How often parsing is tried again."""
