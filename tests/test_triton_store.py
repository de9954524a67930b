"""Kernels from the store, launched through a driver that stands for Triton's: nothing is compiled a second time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this run", allow_module_level=True)

import contractc  # noqa: E402
from contractc.backends import triton as backend  # noqa: E402
from contractc.backends.triton import choose, launch, toolchain  # noqa: E402
from contractc.backends.triton.kept import KIND, Kept, kept  # noqa: E402
from contractc.store import opened  # noqa: E402
from launches import compute, memory, tensors  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a CUDA device, which these tests stand for"
)

FUSED = "bi,bj,ijk->bk"
SHAPES = ((512, 16), (512, 16), (16, 16, 16))


class Active:
    """What Triton asks of its driver for a launch, on the memory of the CPU; `launches` are the passes launched."""

    def __init__(self) -> None:
        self.launches: list[launch.Pass] = []
        self.current: launch.Pass | None = None
        self.loaded: list[bytes] = []
        self.utils = SimpleNamespace(
            load_binary=self.load_binary, get_device_properties=lambda device: {"max_shared_mem": 227 * 1024}
        )

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 7

    def get_current_target(self) -> Any:
        return SimpleNamespace(warp_size=32)

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[Any, ...]:
        assert name == "kernel" and cubin[:4] == b"\x7fELF"
        self.loaded.append(cubin)
        return cubin, cubin, 32, 0, 1024

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        def launched(x: int, y: int, z: int, stream: int, function: bytes, *rest: Any) -> None:
            _, _, _, _, *given = rest
            one = self.current
            assert one is not None and y == z == 1 and stream == 7 and function in self.loaded
            assert list(src.signature) == src.fn.arg_names and len(given) == len(src.signature)
            problem, source = one.problem, one.source
            numbers = given[len(problem.values) :]
            for (k,), told in src.attrs.items():
                assert told == [["tt.divisibility", 16]]
                assert (given[k].data_ptr() if k < len(problem.values) else given[k]) % 16 == 0
            extents = list(problem.extents)
            for m, n in zip(source.extents, numbers, strict=False):
                extents[m] = n
            strides = dict(zip(source.strides, numbers[len(source.extents) :], strict=True))
            assert x == toolchain.grid_of(source, extents, one.config, torch.device("cpu"))
            arrays = []
            for k, (v, pointed) in enumerate(zip(problem.values, given, strict=False)):
                steps = [strides[k, m] if s is None else s for m, s in zip(v.modes, v.strides, strict=True)]
                arrays.append(memory(pointed.data_ptr(), [extents[m] for m in v.modes], steps, v.dtype))
            compute(one, arrays, extents)
            self.launches.append(one)

        return launched


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Active]:
    """Return a driver that stands for Triton's; store and Triton's own cache are empty folders."""
    made = Active()
    build = launch._function

    def remembered(one: launch.Pass, *given: Any) -> Any:
        made.current = one
        return build(one, *given)

    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(launch, "_function", remembered)
    monkeypatch.setattr(backend, "unavailable", lambda device: None)
    monkeypatch.setattr(toolchain, "ordinary", lambda operands: True)
    monkeypatch.setattr(toolchain, "current_device", lambda device: (0, 90))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(triton.runtime.driver, "_active", made)
    forget()
    yield made
    forget()


def forget() -> None:
    """Let this process know of compiled kernels what a later one does: nothing."""
    for cached in (kept, launch.kernel_pass, choose.chosen):
        cached.cache_clear()


def compiled(**options: Any) -> Any:
    return contractc.compile(FUSED, *SHAPES, dtype="float32", target="triton:cuda:90", **options)


def never(*given: Any, **named: Any) -> Any:
    raise AssertionError("something is compiled")


def test_a_later_process_compiles_nothing(
    active: Active, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = compiled()
    forget()
    monkeypatch.setattr(triton, "compile", never)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "another"))
    again = compiled()
    assert again.program == made.program
    operands = tensors(*SHAPES)
    torch.testing.assert_close(again(*operands), torch.einsum(FUSED, *operands), rtol=1e-4, atol=1e-3)
    assert len(active.launches) == 1 and len(active.loaded) == 1
    assert not (tmp_path / "another").exists()


def test_a_damaged_kernel_is_compiled_again(active: Active, tmp_path: Path) -> None:
    compiled()
    store = opened(tmp_path / "store")
    whole = {e.key: store.read(KIND, e.key) for e in store.ls() if e.kind == KIND}
    for key, data in whole.items():
        assert data is not None
        store.write(KIND, key, data[:100])  # whole for the store, but no kernel
    forget()
    operands = tensors(*SHAPES)
    torch.testing.assert_close(compiled()(*operands), torch.einsum(FUSED, *operands), rtol=1e-4, atol=1e-3)
    for key in whole:
        path = tmp_path / "store" / key[0] / f"{KIND}-{key}"
        path.write_bytes(path.read_bytes()[:-1])
        assert store.read(KIND, key) is None
    forget()
    compiled()
    kernels = {key: Kept.from_bytes(data) for key, data in whole.items() if data is not None}
    used = {key: whole[key] for key, kernel in kernels.items() if kernel is not None and not kernel.spills}
    assert used and {key: store.read(KIND, key) for key in used} == used


def test_a_dynamic_extent_has_two_kernels(active: Active) -> None:
    made = compiled(dynamic="b")
    for size, known in ((512, 1), (100, 2), (1, 2), (48, 2), (1000, 2), (7, 2)):
        operands = tensors((size, 16), (size, 16), (16, 16, 16))
        torch.testing.assert_close(made(*operands), torch.einsum(FUSED, *operands), rtol=1e-4, atol=1e-3)
        assert len(active.loaded) == known
    assert len(active.launches) == 6


def test_pointers_that_are_not_aligned_have_a_kernel_of_their_own(active: Active) -> None:
    made = compiled()
    a, b, c = tensors(*SHAPES)
    odd = torch.empty(512 * 16 + 1)[1:].view(512, 16)
    odd[...] = a
    for x in (a, odd, a, odd):
        torch.testing.assert_close(made(x, b, c), torch.einsum(FUSED, a, b, c), rtol=1e-4, atol=1e-3)
    assert len(active.loaded) == 2


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[1]\n\x7fELF", b'["kernel", 4, 0, 32, 0, 5, "{}"]\nno code', b"{\n"]
)
def test_what_is_no_kernel_is_refused(data: bytes) -> None:
    if data == b"null":
        assert Kept.from_bytes(data) is None
    else:
        with pytest.raises(ValueError, match=r"describes no kernel|Expecting|delimiter"):
            Kept.from_bytes(data)
