"""Bundles: the same bits before and after, on machines that lack what made them; nothing else is read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import BundleError, Executable, archive, assembly, backends, bundle, formats, tensorfiles
from contractc.backends import numpy as numpy_backend
from contractc.errors import UnsupportedError
from contractc.machine import Target
from contractc.programs import Contract
from contractc.providers import loops
from contractc.providers.loops import image
from expressions import EXPRESSIONS, Expression, random_operands
from messages import message_of

ROOT = Path(__file__).resolve().parent.parent
rng = np.random.default_rng(0)
A, B, C = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=(5, 6))


def bits(result: Any) -> Any:
    """Return a result in a form that is equal only for the same dtypes, shapes and bits."""
    if isinstance(result, tuple):
        return [bits(x) for x in result]
    if hasattr(result, "detach"):
        result = result.detach().numpy()
    return type(result), np.asarray(result).dtype, np.shape(result), np.asarray(result).tobytes()


def moved(executable: Executable, folder: Path, **options: Any) -> Executable:
    path = folder / "net.ccb"
    executable.save(path)
    return contractc.load(path, **options)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a product with a constant."""
    path = tmp_path_factory.mktemp("bundles") / "product.ccb"
    contractc.compile("ij,jk,kl->il", (3, 4), B, C, constants=[1, 2]).save(path)
    return path


@pytest.mark.parametrize("row", EXPRESSIONS, ids=str)
def test_every_expression_gives_the_same_bits(row: Expression, tmp_path: Path) -> None:
    operands = random_operands(row)
    executable = contractc.compile(row.text, *operands)
    again = moved(executable, tmp_path)
    assert again.program == executable.program
    assert again.plan == executable.plan
    assert again.source == executable.source
    assert bits(again(*operands)) == bits(executable(*operands))


COMPLEX = A + 1j * rng.normal(size=(3, 4))
CASES: dict[str, tuple[Callable[[], Executable], tuple[Any, ...]]] = {
    "constants": (lambda: contractc.compile("ij,jk,kl->il", (3, 4), B, C, constants=[1, 2]), (A,)),
    "a complex constant": (
        lambda: contractc.compile("ij,ij->i", A, COMPLEX, constants=[1], conj=[1]),
        (A,),
    ),
    "nothing but constants": (lambda: contractc.compile("ij,jk->ik", A, B, constants=[0, 1]), ()),
    "dynamic": (lambda: contractc.compile("ij,jk->ik", (7, 4), B, constants=[1], dynamic="i"), (A,)),
    "exponents": (lambda: contractc.compile("ij,jk->ik", A, B, strip_exponent=True), (A * 1e300, B)),
    "slices": (lambda: contractc.compile("ij,jk->ik", A, B, memory_limit=400), (A, B)),
    "several outputs": (lambda: contractc.compile("ij,jk->ik,i", A, B), (A, B)),
    "max_plus": (lambda: contractc.compile("ij,jk->ik", A, B, semiring="max_plus"), (A, B)),
    "or_and": (lambda: contractc.compile("ij,jk->ik", A > 0, B > 0, semiring="or_and"), (A > 0, B > 0)),
    "narrow": (
        lambda: contractc.compile("ij,jk->ik", (3, 4), (4, 5), dtype="float16"),
        (A.astype("float16"), B.astype("float16")),
    ),
    "factors": (
        lambda: contractc.compile("ij,jk->ik", A, formats.low_rank(B[:, :2], C[:2, :]), constants=[1]),
        (A,),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_feature_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    make, operands = CASES[name]
    executable = make()
    again = moved(executable, tmp_path)
    assert again.program == executable.program
    assert bits(again(*operands)) == bits(executable(*operands))


def test_dynamic_extents_are_honoured(tmp_path: Path) -> None:
    again = moved(contractc.compile("bi,ij->bj", (2, 4), B, dynamic="b", constants=[1]), tmp_path)
    for batch in (0, 1, 2, 9):
        x = rng.normal(size=(batch, 4))
        np.testing.assert_allclose(again(x), x @ B)


def test_a_loaded_executable_can_be_saved_again(product: Path, tmp_path: Path) -> None:
    contractc.load(product).save(tmp_path / "again.ccb")
    assert (tmp_path / "again.ccb").read_bytes() == product.read_bytes()


def test_save_returns_the_digest_that_load_expects(product: Path, tmp_path: Path) -> None:
    digest = contractc.load(product).save(tmp_path / "net.ccb")
    assert digest == hashlib.sha256(product.read_bytes()).hexdigest()
    assert contractc.load(tmp_path / "net.ccb", sha256=digest.upper())(A).shape == (3, 6)
    wrong = "0" * 64
    assert message_of(BundleError, contractc.load, product, sha256=wrong) == (
        f"product.ccb is not a bundle to be read: its SHA-256 is {digest}, not {wrong}"
    )


def test_a_save_that_fails_leaves_what_was_there(product: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.ccb"
    path.write_bytes(b"before")
    things = contractc.compile("i,i->i", np.array([1, None], object), (2,), constants=[0], dtype="object")
    assert message_of(BundleError, things.save, path) == (
        "constant %0 cannot be saved: array '' is object, which safetensors does not have"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["net.ccb"]
    assert path.read_bytes() == b"before"


# what is not a bundle


def test_every_flipped_byte_is_refused(product: Path, tmp_path: Path) -> None:
    data = bytearray(product.read_bytes())
    path = tmp_path / "net.ccb"
    for at in range(0, len(data), 7):
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(BundleError, match=r"^net.ccb is not a bundle to be read: it"):
            contractc.load(path)
        data[at] ^= 1


def test_every_truncation_is_refused(product: Path, tmp_path: Path) -> None:
    data = product.read_bytes()
    path = tmp_path / "net.ccb"
    for size in range(0, len(data), 31):
        path.write_bytes(data[:size])
        with pytest.raises(BundleError, match=r"^net.ccb is not a bundle to be read: it"):
            contractc.load(path)


def rewritten(path: Path, folder: Path, changed: dict[str, bytes], **manifest: Any) -> Path:
    """Return a bundle with other members, under right digests: what somebody who knows the format would forge."""
    members = {name: bytes(x) for name, x in archive.unpacked(path.read_bytes()).items()} | changed
    listed = json.loads(members.pop("manifest.json"))
    listed["noun"] |= manifest
    listed["noun"]["members"] = [
        {"is": "Member", "name": name, "sha256": hashlib.sha256(x).hexdigest()} for name, x in members.items()
    ]
    (folder / "forged.ccb").write_bytes(
        archive.packed({"manifest.json": json.dumps(listed).encode(), **members})
    )
    return folder / "forged.ccb"


def program_of(path: Path) -> dict[str, Any]:
    text = bytes(archive.unpacked(path.read_bytes())["numpy/program.json"])
    found: dict[str, Any] = json.loads(text)
    return found


def test_source_is_never_run_but_generated_again(product: Path, tmp_path: Path) -> None:
    members = archive.unpacked(product.read_bytes())
    source = bytes(members["numpy/source.py"]) + b"raise SystemExit('run')\n"
    forged = rewritten(product, tmp_path, {"numpy/source.py": source})
    expected = "forged.ccb is damaged: numpy/source.py is not what its program generates"
    assert message_of(BundleError, contractc.load, forged) == expected
    forged = rewritten(product, tmp_path, {"numpy/source.py": source}, generator="0" * 64)
    again = contractc.load(forged)
    assert str(again).splitlines()[1:3] == [
        "loaded from forged.ccb",
        f"its source was generated anew: contractc {bundle._version()} generated another one",
    ]
    assert bits(again(A)) == bits(contractc.load(product)(A))


def test_a_forged_program_is_checked(product: Path, tmp_path: Path) -> None:
    program = program_of(product)
    program["noun"]["results"] = [99]
    forged = rewritten(product, tmp_path, {"numpy/program.json": json.dumps(program).encode()})
    assert message_of(BundleError, contractc.load, forged) == (
        "forged.ccb is damaged: not a well-formed Program: result %99 is never set"
    )
    program["noun"]["results"] = ["__import__('os')"]
    forged = rewritten(product, tmp_path, {"numpy/program.json": json.dumps(program).encode()})
    with pytest.raises(BundleError, match=r"results of Program is .* which has the wrong type"):
        contractc.load(forged)


@pytest.mark.parametrize("member", ["numpy/program.json", "plan.json"])
@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"format":2,"noun":' * 5000, b"\xff\xfe", b"", b"null"])
def test_json_that_is_deep_or_none_is_refused(
    product: Path, tmp_path: Path, member: str, text: bytes
) -> None:
    with pytest.raises(BundleError, match=r"^forged.ccb is damaged: "):
        contractc.load(rewritten(product, tmp_path, {member: text}))


def test_json_that_is_long_is_not_parsed(product: Path, tmp_path: Path) -> None:
    forged = rewritten(product, tmp_path, {"plan.json": b" " * (2**24 + 1)})
    assert message_of(BundleError, contractc.load, forged) == (
        "forged.ccb is damaged: plan.json has 16777217 bytes, more than 16777216"
    )


def test_forged_constants_are_refused(product: Path, tmp_path: Path) -> None:
    held, _ = tensorfiles.unpacked(archive.unpacked(product.read_bytes())["constants.safetensors"])
    name, good = next(iter(held.items()))
    changes: list[tuple[dict[str, Any], str]] = [
        ({name: good + 1}, "has other values than its digest says"),
        ({name: good[0]}, "there is no constant"),
        ({name: good.astype("float32")}, "there is no constant"),
        ({name[:-1]: good}, "there is no constant"),
    ]
    for change, message in changes:
        kept = {k: x for k, x in held.items() if k != name} | change
        forged = rewritten(product, tmp_path, {"constants.safetensors": tensorfiles.packed(kept)})
        with pytest.raises(BundleError, match=message):
            contractc.load(forged)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"bundle": 2}, "it has layout 2, this contractc reads layout 1"),
        ({"parts": []}, "it has 0 parts for 0 targets"),
        ({"parts": [1]}, "parts of Manifest is (1,), which has the wrong type"),
        ({"more": 1}, None),
    ],
)
def test_a_forged_manifest_is_refused(
    product: Path, tmp_path: Path, manifest: dict[str, Any], message: str | None
) -> None:
    found = message_of(BundleError, contractc.load, rewritten(product, tmp_path, {}, **manifest))
    assert found.startswith(f"forged.ccb is not a bundle to be read: {message or 'Manifest with fields'}")


def test_a_member_that_is_not_listed_is_refused(product: Path, tmp_path: Path) -> None:
    members = {name: bytes(x) for name, x in archive.unpacked(product.read_bytes()).items()}
    path = tmp_path / "net.ccb"
    path.write_bytes(archive.packed(members | {"more": b""}))
    expected = "net.ccb is not a bundle to be read: its manifest does not list its members"
    assert message_of(BundleError, contractc.load, path) == expected
    del members["numpy/source.py"]
    path.write_bytes(archive.packed(members))
    assert message_of(BundleError, contractc.load, path) == expected


def test_a_part_without_its_members_is_refused(product: Path, tmp_path: Path) -> None:
    part = json.loads(bytes(archive.unpacked(product.read_bytes())["manifest.json"]))["noun"]["parts"][0]
    forged = rewritten(product, tmp_path, {}, parts=[part | {"program": "absent"}])
    assert message_of(BundleError, contractc.load, forged) == "forged.ccb is damaged: there is no absent"


def test_a_link_is_not_followed(product: Path, tmp_path: Path) -> None:
    (tmp_path / "link.ccb").symlink_to(product)
    assert message_of(BundleError, contractc.load, tmp_path / "link.ccb") == (
        "link.ccb is not a bundle to be read: it is a symbolic link; name the file it points to"
    )


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        contractc.load(tmp_path / "absent.ccb")


# targets


def test_a_target_that_is_not_there_is_refused(product: Path) -> None:
    message = message_of(BundleError, contractc.load, product, "torch")
    assert message == "product.ccb has nothing for torch; it has numpy"
    assert contractc.load(product, Target()).target == Target()


def test_only_executables_of_one_expression_go_together(tmp_path: Path) -> None:
    product = contractc.compile("ij,jk->ik", A, B)
    other = contractc.compile("ij,jk->ki", A, B)
    path = tmp_path / "net.ccb"
    assert message_of(BundleError, product.save, path, other) == (
        "numpy and numpy were compiled from different expressions"
    )
    assert message_of(BundleError, product.save, path, product) == (
        "two executables for numpy; a bundle has one for each target"
    )


def test_torch_and_numpy_share_constants_and_plan(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    use: Any = {"constants": [1], "conj": [1], "dynamic": "i"}
    numbers = contractc.compile("ij,ij->i", (3, 4), COMPLEX, dtype="complex128", **use)
    tensors = contractc.compile(
        "ij,ij->i", (3, 4), torch.tensor(COMPLEX), dtype="complex128", target="torch", **use
    )
    path = tmp_path / "net.ccb"
    numbers.save(path, tensors)
    assert set(archive.unpacked(path.read_bytes())) == {
        "manifest.json",
        "plan.json",
        "constants.safetensors",
        *(f"{target}/{name}" for target in ("numpy", "torch") for name in ("program.json", "source.py")),
    }
    x = rng.normal(size=(5, 4)) + 0j
    assert message_of(contractc.OperandError, contractc.load(path), x) == (
        "operand 0 has shape (5, 4), but was compiled as c128[i=~3, j=4]"
    )
    x = COMPLEX * 2
    assert bits(contractc.load(path)(x)) == bits(numbers(x))
    assert bits(contractc.load(path, "torch")(torch.tensor(x))) == bits(tensors(torch.tensor(x)))


def test_narrow_constants_of_torch_come_back(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("ml_dtypes", reason="bfloat16 in files needs ml_dtypes")
    for dtype in (torch.bfloat16, torch.float16, torch.bool, torch.int8):
        weights = torch.tensor(B * 3).to(dtype)
        executable = contractc.compile("ij,jk->ik", torch.tensor(A).to(dtype), weights, constants=[1])
        again = moved(executable, tmp_path)
        x = torch.tensor(A).to(dtype)
        assert torch.equal(again(x), executable(x))
        assert again(x).dtype == executable(x).dtype


CLEAN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "triton", "numba", "llvmlite", "networkx", "cuda"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
import contractc
executable = contractc.load(sys.argv[1], trust=True)
np.save(sys.argv[3], executable(np.load(sys.argv[2])))
assert not {"contractc.search", "contractc.lower", "contractc.building"} & set(sys.modules)
print(executable)
"""


def in_a_clean_place(path: Path, x: np.ndarray, folder: Path) -> tuple[str, np.ndarray]:
    """Return what a process prints and computes that has NumPy and contractc, and nothing else."""
    np.save(folder / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, str(path), str(folder / "x.npy"), str(folder / "y.npy")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, np.load(folder / "y.npy")


def test_a_bundle_runs_without_what_made_it(product: Path, tmp_path: Path) -> None:
    text, found = in_a_clean_place(product, A, tmp_path)
    executable = contractc.compile("ij,jk,kl->il", (3, 4), B, C, constants=[1, 2])
    assert bits(found) == bits(executable(A))
    first, *steps = str(executable).splitlines()
    assert text.splitlines() == [first, "loaded from product.ccb", *steps]


def test_torch_first_falls_back_to_numpy_and_says_why(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors = contractc.compile("ij,jk->ik", (3, 4), torch.tensor(B), constants=[1])
    path = tmp_path / "net.ccb"
    numbers = contractc.compile("ij,jk->ik", (3, 4), B, constants=[1])
    tensors.save(path, numbers)
    text, found = in_a_clean_place(path, A, tmp_path)
    assert text.splitlines()[1:3] == ["loaded from net.ccb", "not for torch: No module named 'torch'"]
    assert bits(found) == bits(numbers(A))


def accelerator(*, device: str | None = None, broken: str | None = None) -> SimpleNamespace:
    """Return a backend that stands for one with binaries: the NumPy one, with code that says it was loaded."""

    def binaries(program: Any, device: str) -> dict[str, bytes]:
        return {"kernel0.cubin": b"\x7fELF" + device.encode(), "kernel0.json": b"{}"}

    def from_binaries(program: Any, constants: Any, held: Mapping[str, bytes], device: str) -> Any:
        if broken:
            raise UnsupportedError(broken)
        assert held == binaries(program, device)
        return numpy_backend.compile(program, constants)._replace(
            notes=("from a cubin",) * len(program.steps)
        )

    names = vars(numpy_backend)
    kept = (
        "refuses",
        "compile",
        "promote",
        "as_array",
        "constant",
        "to_bytes",
        "to_portable",
        "from_portable",
    )
    return SimpleNamespace(
        **{name: names[name] for name in kept},
        binaries=binaries,
        from_binaries=from_binaries,
        unavailable=lambda wanted: None if wanted == device else f"there is no {wanted} here",
        version=lambda: "accelerator 1",
    )


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a bundle for an accelerator and NumPy, and then loads as on a device."""

    def make(**use: Any) -> Path:
        monkeypatch.setitem(backends.REGISTRY, "accelerator", "accelerator")
        monkeypatch.setitem(sys.modules, "accelerator", accelerator())
        path = tmp_path / "net.ccb"
        numbers = contractc.compile("ij,jk->ik", (3, 4), B, constants=[1])
        made = [
            contractc.compile("ij,jk->ik", (3, 4), B, constants=[1], target=f"accelerator:cuda:{n}")
            for n in (80, 90)
        ]
        numbers.save(path, *made)
        monkeypatch.setitem(sys.modules, "accelerator", accelerator(**use))
        return path

    return make


def test_binaries_are_used_only_with_trust(accelerated: Callable[..., Path]) -> None:
    path = accelerated(device="cuda:90")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for trusted in (contractc.load(path, trust=True), contractc.load(path, sha256=digest)):
        assert str(trusted).splitlines() == [
            "runs on accelerator:cuda:90; order found by optimal",
            "loaded from net.ccb",
            "not for accelerator:cuda:80: there is no cuda:80 here",
            "  %2: from a cubin",
        ]
    assert str(contractc.load(path, "cuda:90")).splitlines() == [
        "runs on accelerator:cuda:90; order found by optimal",
        "loaded from net.ccb",
        "its binaries are not used: they are code, and need trust=True or sha256=",
        "  %2: gemm: x0.dot(c1)",
    ]


def test_binaries_that_cannot_be_loaded_are_made_again(accelerated: Callable[..., Path]) -> None:
    path = accelerated(device="cuda:90", broken="the driver is too old")
    again = contractc.load(path, trust=True)
    assert again.target == Target("accelerator", "cuda:90")
    assert again.remarks[2:] == ("its binaries are not used: the driver is too old",)


def test_without_a_device_numpy_runs_it_and_says_why(accelerated: Callable[..., Path]) -> None:
    path = accelerated()
    again = contractc.load(path)
    assert str(again).splitlines() == [
        "runs on numpy; order found by optimal",
        "loaded from net.ccb",
        "not for accelerator:cuda:80: there is no cuda:80 here",
        "not for accelerator:cuda:90: there is no cuda:90 here",
        "  %2: gemm: x0.dot(c1)",
    ]
    assert message_of(BundleError, contractc.load, path, "cuda:90", trust=True) == (
        "net.ccb cannot run here\n  not for accelerator:cuda:90: there is no cuda:90 here"
    )


def test_contents_are_printed(accelerated: Callable[..., Path]) -> None:
    lines = str(bundle.contents(accelerated())).splitlines()
    assert lines[0].startswith("bundle of contractc ")
    assert [line.partition(" (")[0] for line in lines[1:]] == [
        "  numpy: numpy/program.json",
        "  accelerator:cuda:80: accelerator-cuda-80/program.json, 2 binaries",
        "  accelerator:cuda:90: accelerator-cuda-90/program.json, 2 binaries",
    ]
    assert lines[1].endswith(f"numpy {np.__version__})") and lines[2].endswith("accelerator 1)")


def test_kernels_for_a_gpu_that_is_not_here_are_in_the_bundle(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    text = "bi,bj,ijk->bk"
    x, *given = (rng.normal(size=s).astype("float32") for s in ((512, 16), (512, 16), (16, 16, 16)))
    numbers = contractc.compile(text, x.shape, *given, dtype="float32", constants=[1, 2], target="numpy")
    tensors = [torch.from_numpy(c) for c in given]
    kernels = contractc.compile(
        text, x.shape, *tensors, dtype="float32", constants=[1, 2], target="triton:cuda:90"
    )
    path = tmp_path / "net.ccb"
    numbers.save(path, kernels)
    members = archive.unpacked(path.read_bytes())
    cubins = [name for name in members if name.endswith(".cubin")]
    assert cubins and all(bytes(members[name][:4]) == b"\x7fELF" for name in cubins)
    again = contractc.load(path, trust=True)
    reason = backends.backend_named("triton").unavailable("cuda:90")
    assert again.remarks == ("loaded from net.ccb", f"not for triton:cuda:90: {reason}")
    assert bits(again(x)) == bits(numbers(x))
    said, found = in_a_clean_place(path, x, tmp_path)
    assert said.splitlines()[2] == "not for triton:cuda:90: No module named 'torch'"
    np.testing.assert_allclose(
        found, numbers(x), rtol=1e-4, atol=1e-4
    )  # torch may have made one, NumPy the other


def test_fused_steps_with_constants_run_without_llvmlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not loops.installed():
        pytest.skip("llvmlite is not installed (contractc[fast])")
    x, *given = (rng.normal(size=s).astype("float32") for s in ((512, 16), (512, 16), (16, 16, 16)))
    made = contractc.compile("bi,bj,ijk->bk", x.shape, *given, dtype="float32", constants=[1, 2])
    path = tmp_path / "net.ccb"
    made.save(path)
    assert "loops" in str(made.program)
    said, found = in_a_clean_place(path, x, tmp_path)
    if image.here() is None:
        assert "compiled loop, machine code built before" in said
        assert bits(found) == bits(made(x))
    monkeypatch.setattr(loops, "installed", lambda: False)
    again = contractc.load(path)
    assert all(c.dtype is np.dtype("float32") for c in again.constants)
    np.testing.assert_allclose(again(x), made(x), rtol=1e-3, atol=1e-4)


HOSTILE_WAYS = [
    "__import__('os').abort()",
    "matmul, by x'); import os #",
    "matmul, copy left, copy left",
    "loops built 0",
    "loops",
    "loops later",
    "narrow",
    "permute result",
    "by torch",
    "\n",
]

HARMLESS = ("loops built 0", "loops", "loops later", "matmul, copy left, copy left")


@pytest.mark.parametrize("how", HOSTILE_WAYS)
def test_a_forged_way_of_a_step_is_refused_or_harmless(how: str, product: Path, tmp_path: Path) -> None:
    program = program_of(product)
    for step in program["noun"]["steps"]:
        step["how"] = how
    forged = rewritten(product, tmp_path, {"numpy/program.json": json.dumps(program).encode()}, generator="0")
    if how not in HARMLESS:
        with pytest.raises(BundleError, match=r"^forged.ccb is damaged: .* is no way to compute"):
            contractc.load(forged, trust=True)
        return
    np.testing.assert_allclose(contractc.load(forged, trust=True)(A), A @ B @ C)


def test_parts_are_few_and_their_binaries_there(product: Path, tmp_path: Path) -> None:
    part = json.loads(bytes(archive.unpacked(product.read_bytes())["manifest.json"]))["noun"]["parts"][0]
    for parts, message in (
        ([part, part], "forged.ccb is not a bundle to be read: it has 2 parts for 1 targets"),
        (
            [part | {"device": f"cpu{k}"} for k in range(65)],
            "forged.ccb is not a bundle to be read: it has 65 parts for 65 targets",
        ),
        (
            [part | {"binaries": ["numpy/gone.o"]}],
            "forged.ccb is damaged: its binaries are not all there, or two have one name",
        ),
        (
            [part | {"binaries": ["plan.json"]}],
            "forged.ccb is damaged: there is no loops.json",
        ),
    ):
        forged = rewritten(product, tmp_path, {}, parts=parts)
        assert message_of(BundleError, contractc.load, forged, trust=True) == message


def test_products_of_torch_are_numpys_where_torch_is_not(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    x = rng.normal(size=(600, 512)).astype("float32")
    y = rng.normal(size=(512, 8)).astype("float32")
    executable = contractc.compile("ij,jk->ik", x.shape, y, dtype="float32", constants=[1])
    steps = tuple(
        replace(s, how="matmul, by torch") if isinstance(s, Contract) and len(s.inputs) == 2 else s
        for s in executable.program.steps
    )
    program = replace(executable.program, steps=steps)
    assert executable.saver is not None
    made = assembly.executable_of(
        program, executable.plan, executable.target, executable.constants, False, executable.saver
    )
    path = tmp_path / "torch.ccb"
    made.save(path)
    said, found = in_a_clean_place(path, x, tmp_path)
    assert "what is by torch NumPy does here: torch is not installed" in said.splitlines()
    assert "torch is not installed" not in str(contractc.load(path))
    np.testing.assert_allclose(found, x @ y, rtol=1e-4, atol=1e-4)
