"""Kernels compiled ahead of time: launched through a driver that stands for CUDA's and computes what they would.

The kernels are real: cross-compiled, with their parameters read from the assembly.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

import contractc  # noqa: E402
from contractc import archive, bundle  # noqa: E402
from contractc.backends import triton as backend  # noqa: E402
from contractc.backends.triton import ahead, driver, toolchain  # noqa: E402
from contractc.backends.triton.launch import Pass  # noqa: E402
from contractc.errors import BundleError, UnsupportedError  # noqa: E402
from launches import compute, memory, tensors  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="there is a CUDA device, which these tests stand for"
    ),
    pytest.mark.skipif(toolchain.interpreted(), reason="Triton interprets kernels in this process"),
]

ROOT = Path(__file__).resolve().parent.parent


class Error(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209


class Driver:
    """The calls that a launch makes; `known` are the kernels by their cubins, `launches` what was asked for.

    A launch reads its operands where its pointers say, and writes where the last of them says.
    """

    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)

    def __init__(self) -> None:
        self.known: dict[bytes, Pass] = {}
        self.launches: list[Pass] = []
        self.shared: dict[bytes, int] = {}
        self.current = threading.local()
        self.refused = ""

    @property
    def context(self) -> int | None:
        """Return the context of this thread."""
        return getattr(self.current, "context", None)

    def cuDeviceGet(self, index: int) -> tuple[Error, int]:
        return Error.CUDA_SUCCESS, index

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Error, int]:
        return Error.CUDA_SUCCESS, 100 + device

    def cuCtxSetCurrent(self, context: int) -> tuple[Error]:
        self.current.context = context
        return (Error.CUDA_SUCCESS,)

    def cuModuleLoadData(self, cubin: bytes) -> tuple[Error, bytes]:
        if self.refused == "cuModuleLoadData":
            return Error.CUDA_ERROR_NO_BINARY_FOR_GPU, b""
        assert self.context == 100
        return Error.CUDA_SUCCESS, cubin

    def cuModuleGetFunction(self, module: bytes, name: bytes) -> tuple[Error, bytes]:
        assert name == b"kernel"
        return Error.CUDA_SUCCESS, module

    def cuFuncSetAttribute(self, function: bytes, attribute: int, value: int) -> tuple[Error]:
        assert attribute == 8
        self.shared[function] = value
        return (
            Error.CUDA_ERROR_INVALID_VALUE if self.refused == "cuFuncSetAttribute" else Error.CUDA_SUCCESS,
        )

    def cuLaunchKernel(self, function: bytes, *given: Any) -> tuple[Error]:
        *sizes, shared, stream, (values, types), extra = given
        if self.refused == "cuLaunchKernel":
            return (Error.CUDA_ERROR_INVALID_VALUE,)
        one = self.known[function]
        problem, source = one.problem, one.source
        assert extra == 0 and stream == 7 and self.context == 100
        assert shared <= 48 * 1024 or self.shared[function] == shared
        pointers = len(problem.values)
        assert all(p % 16 == 0 for p in values[:pointers])
        assert all(v == 0 for v in values[pointers + len(source.extents) + len(source.strides) :])
        extents = list(problem.extents)
        at = pointers
        for m in source.extents:
            extents[m] = values[at]
            at += 1
        told = dict(zip(source.strides, values[at:], strict=False))
        assert sizes == [
            toolchain.grid_of(source, extents, one.config, torch.device("cpu")),
            1,
            1,
            32 * one.config.warps,
            1,
            1,
        ]
        assert [ctypes.sizeof(t) for t in types] == parameter_sizes(one)
        arrays = []
        for k, (v, pointer) in enumerate(zip(problem.values, values, strict=False)):
            strides = [told[k, m] if s is None else s for m, s in zip(v.modes, v.strides, strict=True)]
            arrays.append(memory(pointer, [extents[m] for m in v.modes], strides, v.dtype))
        compute(one, arrays, extents)
        self.launches.append(one)
        return (Error.CUDA_SUCCESS,)


def parameter_sizes(one: Pass) -> list[int]:
    """Return the bytes of each parameter of a kernel, read from its assembly."""
    ptx = toolchain.compiled(one.source, one.config.warps, one.config.stages, 90).ptx
    head = ptx.partition(".entry")[2].partition(")")[0]
    return [int(bits) // 8 for bits in re.findall(r"\.param \.[a-z](\d+)", head)]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Return a driver whose device has the memory of the CPU."""
    made = Driver()
    build = ahead._artifact

    def recorded(name: str, one: Pass, *rest: Any) -> ahead.Artifact:
        found = build(name, one, *rest)
        made.known[found.cubin] = one
        return found

    @contextmanager
    def on(device: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(ahead, "_artifact", recorded)
    monkeypatch.setattr(driver, "driver", lambda: made)
    monkeypatch.setattr(
        backend, "unavailable", lambda device: None if device == "cuda:90" else "it is a cuda:90"
    )
    monkeypatch.setattr(toolchain, "ordinary", lambda operands: True)
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    return made


def compiled(text: str, *operands: Any, **options: Any) -> Any:
    return contractc.compile(text, *operands, target="triton:cuda:90", **options)


def loaded(tmp_path: Path, *executables: Any) -> Any:
    path = tmp_path / "net.ccb"
    executables[0].save(path, *executables[1:])
    return contractc.load(path, trust=True)


FUSED = "bi,bj,ijk->bk"
SHAPES = ((512, 16), (512, 16), (16, 16, 16))

CASES: dict[str, tuple[str, tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "fused": (FUSED, SHAPES, {}),
    "dynamic": (FUSED, SHAPES, {"dynamic": "b"}),
    "two dynamic": ("xbi,bxj,ij->bx", ((4, 512, 16), (512, 4, 16), (16, 16)), {"dynamic": "bx"}),
    "conjugated": (FUSED, SHAPES, {"dtype": "complex64", "conj": [1]}),
    "split": ("ki,kj,kl->ijl", ((8192, 8), (8192, 8), (8192, 4)), {}),
    "double": (FUSED, SHAPES, {"dtype": "float64"}),
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_launched_with_what_they_take(name: str, cuda: Driver, tmp_path: Path) -> None:
    text, shapes, options = CASES[name]
    options = {"dtype": "float32"} | options
    made = loaded(tmp_path, compiled(text, *shapes, **options))
    operands = tensors(*shapes, dtype=options["dtype"])
    conj = options.get("conj", ())
    flags = [x.conj() if k in conj else x for k, x in enumerate(operands)]
    torch.testing.assert_close(made(*operands), torch.einsum(text, *flags), rtol=1e-4, atol=1e-3)
    assert cuda.launches
    assert "us predicted" not in str(made)
    assert "kernel compiled ahead of time, tile" in str(made)
    assert "Triton" not in str(made)


def test_a_split_sum_is_two_launches(cuda: Driver, tmp_path: Path) -> None:
    text, shapes, _ = CASES["split"]
    loaded(tmp_path, compiled(text, *shapes, dtype="float32"))(*tensors(*shapes))
    assert [one.config.split > 1 for one in cuda.launches] == [True, False]


@pytest.mark.parametrize("count", [1, 7, 100, 513])
def test_dynamic_extents_need_no_other_kernel(count: int, cuda: Driver, tmp_path: Path) -> None:
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32", dynamic="b"))
    known = len(cuda.known)
    operands = tensors((count, 16), (count, 16), (16, 16, 16))
    torch.testing.assert_close(made(*operands), torch.einsum(FUSED, *operands), rtol=1e-4, atol=1e-3)
    assert len(cuda.launches) == 1 and len(cuda.known) == known


def test_a_thread_of_its_own_gets_the_context(cuda: Driver, tmp_path: Path) -> None:
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32"))
    operands = tensors(*SHAPES)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(made, *operands).result()
    assert torch.equal(found, made(*operands)) and len(cuda.launches) == 2


def test_nothing_to_compute_is_no_launch(cuda: Driver, tmp_path: Path) -> None:
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32", dynamic="b"))
    assert made(*tensors((0, 16), (0, 16), (16, 16, 16))).shape == (0, 16)
    assert cuda.launches == []


def test_operands_in_another_layout_are_copied(cuda: Driver, tmp_path: Path) -> None:
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32"))
    a, b, c = tensors(*SHAPES)
    right = torch.einsum(FUSED, a, b, c)
    turned = a.T.contiguous().T
    odd = torch.empty(512 * 16 + 1)[1:].view(512, 16)
    odd[...] = b
    assert odd.data_ptr() % 16 and not turned.is_contiguous()
    torch.testing.assert_close(made(turned, odd, c), right, rtol=1e-4, atol=1e-3)
    assert len(cuda.launches) == 1


def test_what_autograd_records_is_torchs(cuda: Driver, tmp_path: Path) -> None:
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32"))
    operands = tensors(*SHAPES)
    operands[2].requires_grad_(True)
    (found,) = torch.autograd.grad(made(*operands).sum(), operands[2])
    (right,) = torch.autograd.grad(torch.einsum(FUSED, *operands).sum(), operands[2])
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-3)
    assert cuda.launches == []


def test_extents_beyond_an_int32_are_torchs(
    cuda: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "MOST", 10_000)
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32", dynamic="b"))
    operands = tensors((400, 16), (400, 16), (16, 16, 16))
    torch.testing.assert_close(made(*operands), torch.einsum(FUSED, *operands), rtol=1e-4, atol=1e-3)
    assert cuda.launches == []


def test_kernels_inside_of_a_loop(cuda: Driver, tmp_path: Path) -> None:
    text, shapes = "ab,bc,cd,da->", [(64, 64)] * 4
    made = compiled(text, *shapes, dtype="float32", memory_limit=4 * 4 * 64 * 64 + 9000)
    assert made.plan.sliced
    operands = tensors(*shapes)
    right = torch.einsum(text, *operands)
    torch.testing.assert_close(loaded(tmp_path, made)(*operands), right, rtol=1e-3, atol=1e-2)
    assert len(cuda.launches) == 64


def test_constants_are_in_the_bundle(cuda: Driver, tmp_path: Path) -> None:
    a, b, c = tensors(*SHAPES)
    kernels = compiled(FUSED, a.shape, b.shape, c, dtype="float32", constants=[2], dynamic="b")
    numbers = contractc.compile(
        FUSED, a.shape, b.shape, c.numpy(), dtype="float32", constants=[2], dynamic="b"
    )
    path = tmp_path / "net.ccb"
    numbers.save(path, kernels)
    assert [n for n in archive.unpacked(path.read_bytes()) if "constants" in n] == ["constants.safetensors"]
    again = contractc.load(path, trust=True)
    assert str(again.target) == "triton:cuda:90"
    torch.testing.assert_close(
        again(a[:9], b[:9]), torch.einsum(FUSED, a[:9], b[:9], c), rtol=1e-4, atol=1e-3
    )
    assert cuda.launches


def test_steps_of_constants_run_when_compiling(cuda: Driver, tmp_path: Path) -> None:
    w, v = tensors((64, 32), (32, 64))
    made = loaded(
        tmp_path, compiled("bi,ij,jk->bk", (8, 64), w, v, dtype="float32", constants=[1, 2], dynamic="b")
    )
    (x,) = tensors((5, 64))
    torch.testing.assert_close(made(x), x @ w @ v, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_launches_describe_their_kernels(arch: int, cuda: Driver) -> None:
    made = contractc.compile(
        "xbi,bxj,ij->bx", (4, 512, 16), (512, 4, 16), (16, 16), dtype="float32", dynamic="bx",
        target=f"triton:cuda:{arch}",
    )  # fmt: skip
    files = backend.binaries(made.program, f"cuda:{arch}")
    cubins = [name for name in files if name.endswith(".cubin")]
    assert cubins
    for a in backend.artifacts(made.program, arch):
        launch = ahead.Launch.from_json(files[f"kernel{a.name}.json"].decode())
        assert launch == a.launch
        one = cuda.known[a.cubin]
        config = one.config
        ptx = toolchain.compiled(one.source, config.warps, config.stages, arch).ptx
        head = ptx.partition(".entry")[2].partition(")")[0]
        sizes = [int(bits) // 8 for bits in re.findall(r"\.param \.[a-z](\d+)", head)]
        _, types = driver.packed(
            launch, [0] * len(launch.values), [1] * len(launch.extents), [1] * len(launch.strides)
        )
        assert [ctypes.sizeof(t) for t in types] == sizes
        assert launch.parameters == len(sizes) and launch.spills == 0 and launch.alignment == 16
        assert f".target sm_{arch}" in ptx
        assert files[f"kernel{a.name}.cubin"][:4] == b"\x7fELF"
        assert files[f"kernel{a.name}.py"].decode() == a.source


def test_only_what_holds_for_every_extent_is_promised() -> None:
    made = compiled("xbi,bxj,ij->bx", (4, 512, 16), (512, 4, 16), (16, 16), dtype="float32", dynamic="bx")
    (a,) = [a for a in backend.artifacts(made.program) if a.launch.strides]
    promised = dict(zip(a.launch.strides, a.launch.divisible, strict=True))
    last = len(a.launch.values) - 1
    assert {wide for (at, _), wide in promised.items() if at != last} == {True}  # rows of 16
    assert {wide for (at, _), wide in promised.items() if at == last} == {False}  # rows of x, whatever it is


def test_a_launch_that_describes_too_few_parameters_is_refused() -> None:
    made = compiled(FUSED, *SHAPES, dtype="float32")
    (a,) = backend.artifacts(made.program)
    with pytest.raises(ValueError, match=r"a kernel of 2 parameters, of which 4 are described"):
        ahead.Launch.from_json(replace(a.launch, parameters=2).to_json())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("cuModuleLoadData", "cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        (
            "cuFuncSetAttribute",
            "cuFuncSetAttribute of 65536 bytes of shared memory: CUDA_ERROR_INVALID_VALUE",
        ),
    ],
)
def test_what_the_driver_refuses_is_compiled_again(
    call: str, reason: str, cuda: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = compiled(FUSED, *SHAPES, dtype="float32")
    path = tmp_path / "net.ccb"
    if call == "cuFuncSetAttribute":
        from_json = ahead.Launch.from_json
        monkeypatch.setattr(ahead.Launch, "from_json", lambda text: replace(from_json(text), shared=2**16))
    made.save(path)
    cuda.refused = call
    assert contractc.load(path, trust=True).remarks[1] == f"its binaries are not used: {reason}"


def test_a_launch_that_fails_is_an_error(cuda: Driver, tmp_path: Path) -> None:
    made = loaded(tmp_path, compiled(FUSED, *SHAPES, dtype="float32"))
    cuda.refused = "cuLaunchKernel"
    with pytest.raises(RuntimeError, match=r"^cuLaunchKernel: CUDA_ERROR_INVALID_VALUE for kernel compiled"):
        made(*tensors(*SHAPES))


@pytest.mark.parametrize(
    ("arch", "here", "runs"),
    [(80, 80, True), (80, 86, True), (86, 80, False), (80, 90, False), (90, 90, True), (100, 103, False)],
)
def test_cubins_run_where_cuda_says(arch: int, here: int, runs: bool) -> None:
    assert ahead.runs_on(arch, here) is runs


UNUSABLE = "its binaries are not used: cuda-bindings is not installed (pip install 'contractc[cuda]')"


def test_without_cuda_bindings_kernels_are_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "net.ccb"
    compiled(FUSED, *SHAPES, dtype="float32").save(path)
    monkeypatch.setattr(backend, "unavailable", lambda device: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    driver.driver.cache_clear()
    again = contractc.load(path, trust=True)
    assert str(again.target) == "triton:cuda:90"
    assert again.remarks[:2] == ("loaded from net.ccb", UNUSABLE)


WITHOUT_TRITON = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("triton", "cuda"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import torch, contractc
def show(*given, **options):
    try:
        print(contractc.load(sys.argv[1], *given, **options))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    print("--")
show(trust=True)
torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda: (9, 0)
show(trust=True)
show("cuda:90")
"""


def test_each_refusal_says_why(tmp_path: Path) -> None:
    path = tmp_path / "net.ccb"
    kernels = compiled(FUSED, *SHAPES, dtype="float32")
    numbers = contractc.compile(FUSED, *SHAPES, dtype="float32")
    numbers.save(path, kernels)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    command = [sys.executable, "-c", WITHOUT_TRITON, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    no_gpu, no_triton, no_trust, _ = done.stdout.split("--\n")
    uncompiled = "compiling kernels needs Triton, which is not installed"
    for text, reason in ((no_gpu, backend.unavailable("cuda:90")), (no_triton, f"{UNUSABLE}; {uncompiled}")):
        assert text.splitlines()[:3] == [
            f"runs on numpy; order found by {numbers.plan.search}",
            "loaded from net.ccb",
            f"not for triton:cuda:90: {reason}",
        ]
    trusted = "its binaries are not used: they are code, and need trust=True or sha256="
    assert no_trust == (
        f"BundleError: net.ccb cannot run here\n  not for triton:cuda:90: {trusted}; {uncompiled}\n"
    )


def test_the_real_driver_says_what_is_missing() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    with pytest.raises(UnsupportedError, match=r"^(there is no CUDA driver: |cuInit: CUDA_ERROR_NO_DEVICE)"):
        driver.driver.__wrapped__()


def test_the_metadata_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "net.ccb"
    compiled(FUSED, *SHAPES, dtype="float32").save(path)
    members = archive.unpacked(path.read_bytes())
    about = json.loads(bytes(members["triton-cuda-90/kernel0.0.json"]))["noun"]
    assert about["is"] == "Launch" and about["warps"] > 0 and about["alignment"] == 16
    assert bundle.contents(path).parts[0].binaries[0] == "triton-cuda-90/kernel0.0.cubin"


def test_without_a_target_here_a_bundle_of_kernels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.ccb"
    compiled(FUSED, *SHAPES, dtype="float32").save(path)
    with pytest.raises(
        BundleError, match=r"not for triton:cuda:90: (this torch was built without CUDA|there is no)"
    ):
        contractc.load(path, trust=True)


def test_a_persistent_grid_has_a_program_for_each_processor() -> None:
    (a,) = backend.artifacts(compiled(FUSED, *SHAPES, dtype="float32").program)
    assert a.launch.resident == 0 and a.launch.programs(a.launch.sizes, 3) > 6
    assert replace(a.launch, resident=2).programs(a.launch.sizes, 3) == 6
