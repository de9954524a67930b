"""The Triton backend without a GPU: generated sources, cross-compilation, choices. Numbers are in tests/kernels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this run", allow_module_level=True)

import torch
import triton

import contractc
from benchmarks.ttir import overflows
from contractc.backends import triton as backend
from contractc.backends.triton import choose, toolchain
from contractc.backends.triton.backward import gradient_task, with_gradients
from contractc.backends.triton.choose import prepared, seconds_of, unfused
from contractc.backends.triton.emit import HEADER_LINES, SEMIRINGS, source_of
from contractc.backends.triton.gpus import like, measured, stored
from contractc.backends.triton.launch import Step
from contractc.backends.triton.model import Model
from contractc.backends.triton.prices import predicted_seconds
from contractc.backends.triton.problem import Problem, parts, runs_of
from contractc.backends.triton.ranking import RANKED, ranked
from contractc.backends.triton.rows import add, row_of
from contractc.backends.triton.steps import expanded, program_of
from contractc.backends.triton.tasks import Task, best, choice, pairwise_tasks, refusal, task_of
from contractc.backends.triton.tiles import TileConfig, parsed
from contractc.backends.triton.tuning import tuned
from contractc.errors import OperandError
from contractc.lower import lower
from contractc.machine import A100, H100, H200, Gpu, Target
from contractc.programs import Contract, Program, Value, with_precision
from contractc.serial import digest
from contractc.store import opened


def task(
    text: str,
    extents: dict[str, int],
    dtype: str = "float32",
    path: tuple[tuple[int, ...], ...] = (),
    **options: Any,
) -> Task:
    """Return the task of an expression; modes are numbered by first appearance."""
    inputs, out = text.split("->")
    letters = {c: k for k, c in enumerate(dict.fromkeys(c for c in text if c.isalpha()))}
    terms = tuple(tuple(letters[c] for c in t) for t in (*inputs.split(","), out))
    return Task(terms, (dtype,) * len(terms), tuple(extents[c] for c in letters), path=path, **options)


GOLDEN = {
    "pairwise": (task("abk,kcb->bca", {"a": 64, "b": 24, "c": 48, "k": 72}, "bfloat16"), 64),
    "permuted": (task("abcd,dbea->ec", dict.fromkeys("abcde", 48), "bfloat16"), 16),
    "reduce": (task("abc->ca", {"a": 100, "b": 30, "c": 64}), 32),
    "hadamard": (task("nc,nc->n", {"n": 1000, "c": 64}, "float64"), 32),
    "tiny": (task("zab,zbc->zac", {"z": 2**20, "a": 2, "b": 2, "c": 2}), 128),
    "gate": (task("hil,oi->hol", {"h": 64, "i": 2, "l": 1024, "o": 2}, "complex64"), 64),
    "tensor_train": (
        task("bij,iar,rjc->bac", {"b": 100, "i": 64, "j": 64, "a": 64, "r": 16, "c": 64}, "bfloat16", ((0, 1), (3, 2))),
        16,
    ),
    "coupling": (
        task("zui,zuj,ijk->zuk", {"z": 64, "u": 32, "i": 9, "j": 9, "k": 9}, "float32", ((0, 1), (3, 2))),
        16,
    ),
    "max_plus": (task("ij,jk->ik", {"i": 100, "j": 64, "k": 64}, semiring="max_plus"), 1),
    "complex": (task("ij,jk->ik", {"i": 64, "j": 64, "k": 48}, "complex64"), 32),
    "log_sum_exp": (task("ij,jk->ik", {"i": 100, "j": 64, "k": 64}, semiring="log_sum_exp"), 1),
    "dynamic": (task("bi,io->bo", {"b": 100, "i": 64, "o": 64}, "float16", dynamic=(0,)), 32),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_source_is_as_recorded(name: str, golden: Callable[[str, str], None]) -> None:
    given, block = GOLDEN[name]
    problem, _ = given.problem(given.in_order())
    blocks = []
    for r in runs_of(problem):
        whole = 1 << (problem.size(r.modes) - 1).bit_length()
        ordered = given.semiring != "sum_product"
        blocks.append((r.name, min(whole, block if not ordered or r.summed else 32)))
    persistent = {"resident": 2, "dots": 3} if name == "complex" else {}
    text = source_of(problem, TileConfig(tuple(blocks), **persistent)).text
    assert text.splitlines()[HEADER_LINES - 1] == ""
    golden(f"kernel_{name}", text)


CROSS = [
    ("mk,kn->mn", {"m": 512, "k": 512, "n": 512}, "bfloat16", (), True),
    ("mk,kn->mn", {"m": 512, "k": 512, "n": 512}, "float32", (), True),
    ("mk,kn->mn", {"m": 256, "k": 256, "n": 256}, "float64", (), True),
    ("mk,nk->mn", {"m": 256, "k": 256, "n": 256}, "int8", (), True),
    ("abcd,dbea->ec", dict.fromkeys("abcde", 24), "bfloat16", (), True),
    ("abc->ca", {"a": 100, "b": 30, "c": 64}, "float32", (), False),
    ("nc,nc->n", {"n": 4096, "c": 512}, "float32", (), False),
    ("hil,oi->hol", {"h": 64, "i": 2, "l": 1024, "o": 2}, "complex64", (), False),
    ("bij,iar,rjc->bac", {"b": 256, "i": 64, "j": 64, "a": 64, "r": 16, "c": 64}, "bfloat16", ((0, 1), (3, 2)), True),
    ("bi,oij,bj->bo", {"b": 256, "i": 64, "j": 64, "o": 64}, "bfloat16", ((0, 1), (3, 2)), True),
    ("ni,n,nj->ij", {"n": 10000, "i": 64, "j": 64}, "bfloat16", ((0, 1), (3, 2)), True),
    ("ij,jk->ik", {"i": 128, "j": 64, "k": 128}, "max_plus", (), False),
    ("ij,jk->ik", {"i": 128, "j": 64, "k": 128}, "log_sum_exp", (), False),
    ("ij,jk->ik", {"i": 128, "j": 128, "k": 128}, "complex64", (), True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "extents", "dtype", "path", "dots"), CROSS)
def test_kernel_compiles_for_hopper(
    text: str, extents: dict[str, int], dtype: str, path: tuple[tuple[int, ...], ...], dots: bool
) -> None:
    ring = {"semiring": dtype, "dtype": "float32"} if dtype in SEMIRINGS else {"dtype": dtype}
    given = task(text, extents, path=path, **ring)
    found = choice(given)
    problem, _ = given.problem(given.in_order())
    assert found.kernel is not None
    for config, _ in ranked(problem)[:4]:
        first = parts(problem, config.split)[0] if config.split > 1 else problem
        binary = toolchain.compiled(source_of(first, config), config.warps, config.stages)
        if binary.spills == 0:
            break
    assert binary.spills == 0
    assert binary.shared <= H200.shared
    assert bool(re.search(r"wgmma|mma\.sync", binary.ptx)) == dots
    assert binary.parameters == len(problem.inputs) + 1 + 2  # two hidden pointers


def test_offsets_beyond_32_bits_are_64_bit() -> None:
    large = task("ij,jk->ik", {"i": 2**17, "j": 2**15, "k": 64}, "bfloat16")
    problem, _ = large.problem(large.in_order())
    assert [problem.wide_offsets(at) for at in range(3)] == [True, False, False]
    config = best(problem)
    assert config is not None
    text = source_of(problem, config[0]).text
    assert "x = wide(x)" in text
    binary = toolchain.compiled(source_of(problem, config[0]), config[0].warps, config[0].stages)
    assert re.search(r"arith\.muli .*i64", binary.ttir)


def test_tile_config_round_trips() -> None:
    config = TileConfig((("m", 64), ("k1", 32)), 8, 4, 8, 16)
    assert str(config) == "tile m=64 k1=32 warps=8 stages=4 group=8 split=16"
    assert parsed(str(config)) == config
    other = replace(config, resident=2, dots=3)
    assert str(other) == f"{config} resident=2 dots=3" and parsed(str(other)) == other


NO_CONFIG = [
    "",
    "library",
    "tile m=3 warps=4 stages=2 group=8 split=1",
    "tile m=64",
    "tile m=64 warps=0 stages=1 group=1 split=1",
    "tile m=64 m=64 warps=4 stages=1 group=1 split=1",
    "tile __import__=1",
    "tile m=64 warps=4 stages=1 group=1 split=1 dots=5",
]


@pytest.mark.parametrize("text", NO_CONFIG)
def test_what_is_no_tile_config_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no tile config|no power of two"):
        parsed(text)


def test_ranking_fits_on_chip_and_is_sorted() -> None:
    given = task("mk,kn->mn", {"m": 4096, "k": 4096, "n": 4096}, "bfloat16")
    problem, _ = given.problem(given.in_order())
    found = ranked(problem)
    assert 0 < len(found) <= RANKED
    assert [p.seconds for _, p in found] == sorted(p.seconds for _, p in found)
    model = Model(problem, A100)
    assert all(model.predict(c) is not None for c, _ in ranked(problem, A100))


def test_library_wins_a_plain_product_and_loses_what_it_copies() -> None:
    square = dict.fromkeys("ijk", 4096)
    assert choice(task("ij,jk->ik", square, "float32", precision="strict")).how == "library"
    hadamard = choice(task("nc,nc->n", {"n": 65536, "c": 512}))
    assert hadamard.how.startswith("tile") and hadamard.kernel is not None
    assert hadamard.kernel < hadamard.library


def test_fusion_keeps_the_meaning_and_unfusing_undoes_it() -> None:
    given = task(
        "ij,jk,kl,lm->im",
        dict(zip("ijklm", (3, 4, 2, 5, 3), strict=True)),
        "float64",
        ((0, 1), (4, 2), (5, 3)),
    )
    program = program_of(given)
    (step,) = program.steps
    assert isinstance(step, Contract)
    apart = program_of(given).__class__(
        program.inputs, tuple(unfused(step, program, 10)), program.results, program.extents
    )
    assert not apart.faults()
    xs = [torch.randn([given.extents[m] for m in t], dtype=torch.float64).numpy() for t in given.terms[:-1]]
    torch.testing.assert_close(apart.evaluate(*xs), program.evaluate(*xs))
    again = prepared(apart.__class__(apart.inputs, tuple(
        Contract(s.out, s.inputs) for s in apart.steps if isinstance(s, Contract)
    ), apart.results, apart.extents), H200, checked=False)  # fmt: skip
    assert not again.faults()
    torch.testing.assert_close(again.evaluate(*xs), program.evaluate(*xs))


@pytest.mark.parametrize("at", range(4))
def test_gradient_task_is_the_adjoint(at: int) -> None:
    extents = dict(zip("ijklm", (3, 4, 2, 5, 3), strict=True))
    given = task("ij,jk,kl,lm->im", extents, "float64", ((0, 1), (2, 3), (4, 5)))
    xs = [torch.randn([given.extents[m] for m in t], dtype=torch.float64) for t in given.terms[:-1]]
    weight = torch.randn(3, 3, dtype=torch.float64)
    xs[at].requires_grad_()
    (expected,) = torch.autograd.grad((torch.linalg.multi_dot(xs) * weight).sum(), [xs[at]])
    adjoint, lone = gradient_task(given, at)
    others = [x.detach().numpy() for k, x in enumerate(xs) if k != at]
    assert lone == () and not program_of(adjoint).faults()
    (found,) = program_of(adjoint).evaluate(weight.numpy(), *others)
    torch.testing.assert_close(torch.as_tensor(found), expected)
    assert len(pairwise_tasks(adjoint)) == 3


def test_what_is_fused_gains_together_with_its_gradients() -> None:
    extents = {"x": 256, **dict.fromkeys("abcdef", 8), "r": 4, "s": 4}
    train = task("xabc,adr,rbes,scf->xdef", extents, "float32", ((0, 1), (4, 2), (5, 3)))
    program = expanded(program_of(train))
    every = [v.number for v in program.inputs]
    place = Target("triton", "cuda:90")
    alone = prepared(program, H200, checked=False)
    both = prepared(program, H200, checked=False, wanted=every)
    assert [len(step.inputs) for step in alone.steps] == [4]
    assert [len(step.inputs) for step in both.steps] == [2, 2, 2]
    assert not both.faults()
    assert predicted_seconds(program, place, every) < 0.8 * sum(
        seconds_of(t, H200) for t in with_gradients(train, range(4))
    )
    assert predicted_seconds(program, place) < 0.5 * sum(
        seconds_of(task_of(s, both), H200) for s in both.steps if isinstance(s, Contract)
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            task("ij,jk->ik", dict.fromkeys("ijk", 4), "int32", semiring="log_sum_exp"),
            "log_sum_exp is not made of int32",
        ),
        (task("ij,jk->ik", dict.fromkeys("ijk", 4), "uint32"), "no kernel has uint32"),
        (task("ij,jk->ik", {"i": 4, "j": 0, "k": 4}), "there is nothing to compute"),
        (task("i,i,i->i", {"i": 4}), "a step of several inputs needs its path"),
    ],
)
def test_what_has_no_kernel_says_why(given: Task, reason: str) -> None:
    assert refusal(given) == reason
    assert choice(given).how == "library"


def test_compiling_for_cuda_works_without_one_and_calling_says_so() -> None:
    executable = contractc.compile("nc,nc->n", (4096, 512), (4096, 512), dtype="float32", target="cuda:90")
    assert str(executable.target) == "triton:cuda:90"
    assert "kernel" in str(executable) and "tile" in str(executable.program)
    (artifact,) = backend.artifacts(executable.program, 90)
    assert artifact.cubin[:4] == b"\x7fELF" and artifact.launch.spills == 0
    assert "def kernel" in artifact.source
    if not torch.cuda.is_available():
        with pytest.raises(OperandError, match="operand 0 is on cpu; the kernels run on CUDA devices"):
            executable(torch.ones(4096, 512), torch.ones(4096, 512))


def test_tuning_drops_what_spills_times_the_rest_and_remembers(tmp_path: Path) -> None:
    given = task("nc,nc->n", {"n": 4096, "c": 512})
    program = prepared(program_of(given), H200, checked=False)
    database = tmp_path / "tuned.jsonl"
    calls: list[str] = []

    def measure(step: Step, tensors: Any) -> float:
        calls.append(step.how)
        assert [tuple(x.shape) for x in tensors] == [(4096, 512), (4096, 512)]
        return 1.0 if step.how == "library" else 1e-3 / len(calls)

    found = tuned(program, H200, measure, database, "cpu")
    (step,) = found.steps
    assert isinstance(step, Contract)
    assert calls[0] == "library" and step.how == calls[-1] and len(calls) > 8
    calls.clear()
    database.write_text(database.read_text() + "cut off by a cra")
    assert tuned(program, H200, measure, database, "cpu") == found and not calls
    database.write_text(database.read_text().replace('"generator": ', '"generator": 9'))
    tuned(program, H200, measure, database, "cpu")
    assert calls


def test_what_was_tuned_is_used_by_the_next_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path / "store"))
    gpu = replace(H200, name="a GPU")
    monkeypatch.setattr("contractc.backends.triton.tuning.gpu_name", lambda: gpu.name)
    given = task("bi,oij,bj->bo", {"b": 256, "i": 64, "j": 64, "o": 64}, "bfloat16", ((0, 1), (3, 2)))
    plain = program_of(given)
    program = prepared(plain, gpu, checked=True)
    (step,) = program.steps
    assert isinstance(step, Contract) and step.how.startswith("tile")
    wanted = ["none yet"]
    calls: list[str] = []

    def measure(tried: Step, tensors: Any) -> float:
        calls.append(tried.how)
        return 1e-9 if tried.how == wanted[0] else 1.0

    ranking = [str(c) for c, _ in ranked(given.problem(given.in_order())[0], gpu)]
    wanted[0] = ranking[3]
    assert tuned(program, gpu, measure, None, "cpu").steps[0] == replace(step, how=ranking[3])
    calls.clear()
    assert tuned(program, gpu, measure, None, "cpu").steps[0] == replace(step, how=ranking[3])
    assert not calls
    assert prepared(plain, gpu, checked=True).steps[0] == replace(step, how=ranking[3])
    assert prepared(plain, replace(gpu, name="another"), checked=True) == program
    store = opened(tmp_path / "store")
    (entry,) = [e for e in store.ls() if e.kind == "tuned"]
    before = store.read("tuned", entry.key)
    wanted[0] = "library"
    problem, _ = given.problem(given.in_order())
    add(None, problem, row_of(problem, gpu.name, "library", 1e-9))
    after = store.read("tuned", entry.key)
    assert before is not None and after is not None and after.startswith(before) and after.count(b"\n") == 2
    assert [s.how for s in prepared(plain, gpu, checked=True).steps if isinstance(s, Contract)] == [
        "library"
    ] * 2


def test_tuning_without_a_gpu_takes_what_compiles() -> None:
    given = task("nc,nc->n", {"n": 4096, "c": 512})
    program = prepared(program_of(given), H200, checked=False)
    found = backend.tune(program, Target("triton", "cuda:90"))
    assert "tile" in str(found) and not found.faults()


def test_version_of_triton_is_the_one_asked_for() -> None:
    assert triton.__version__ == os.environ.get("EXPECTED_TRITON", triton.__version__)


PRECISIONS = {
    "strict": (r"fma\.rn\.f32", r"mma"),
    "default": (r"mma\S*tf32", r"mma\S*bf16"),
    "fast": (r"mma\S*tf32", r"fma\.rn\.f32"),
}
"""For each precision what the code of a product of float32 has, and what it has not."""


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_decides_what_a_product_is_made_of(precision: str, arch: int) -> None:
    given = task("mk,kn->mn", dict.fromkeys("mkn", 64), precision=precision)
    problem, _ = given.problem(given.in_order())
    config = TileConfig((("m", 64), ("k", 16), ("n", 64)))
    binary = toolchain.compiled(source_of(problem, config), config.warps, config.stages, arch)
    there, missing = PRECISIONS[precision]
    assert re.search(there, binary.ptx) and not re.search(missing, binary.ptx)
    products = len(re.findall(r"mma\S*tf32", binary.ptx))
    if precision == "default":
        fast = source_of(replace(problem, precision="fast"), config)
        single = toolchain.compiled(fast, config.warps, config.stages, arch)
        assert products == 3 * len(re.findall(r"mma\S*tf32", single.ptx))


def test_precision_goes_from_the_call_to_the_kernel() -> None:
    shapes = [(64, 64, 64), (64, 64, 64), (64, 64)]
    made = {
        p: contractc.compile("abk,kcb,cd->bda", *shapes, dtype="float32", target="cuda:90", precision=p)
        for p in PRECISIONS
    }
    digests = {digest(x.program) for x in made.values()}
    assert len(digests) == 3
    assert "float32" not in str(made["default"].program).splitlines()[0]
    assert str(made["fast"].program).splitlines()[0].endswith(") in fast float32")
    for p, executable in made.items():
        assert Program.from_json(executable.program.to_json()) == executable.program
        kernels = backend.artifacts(executable.program, 90)
        assert kernels and all(f"{p}; tile" in a.source for a in kernels)
    with pytest.raises(ValueError, match="precision must be 'default', 'strict' or 'fast', not 'exact'"):
        contractc.compile("ij->ji", (2, 3), precision="exact")


def test_slices_have_the_precision_of_the_whole() -> None:
    shapes = [(16, 16, 16)] * 3
    plan = contractc.plan("abc,cde,ebf->adf", *shapes, memory_limit=400_000)
    program = with_precision(lower(plan, Target()), "strict")
    assert str(program).count("in strict float32") == 2


def test_a_library_set_to_tf32_is_not_used_for_more_precise_steps() -> None:
    given = task("ij,jk->ik", dict.fromkeys("ijk", 4096))
    rounding = replace(H200, library_tf32=True)
    assert choice(given, H200).library > choice(given, rounding).library
    assert choice(given, rounding).how.startswith("tile")
    assert choice(replace(given, precision="fast"), rounding).how == "library"


def test_rates_come_from_the_store_once_they_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path))
    assert stored("NVIDIA H100 80GB HBM3") is None
    sheet = like("NVIDIA H100 80GB HBM3", 90)
    assert sheet == H100 and "data sheet, not measured" in str(sheet)

    def clock(call: Callable[[], Any]) -> float:
        call()
        return 0.5

    found = measured(sheet, "NVIDIA H100 80GB HBM3", clock, "cpu", tiny=True)
    assert found.bandwidth == 8 * 2**10 / 0.5 and found.narrow == found.tf32 == 2 * 16**3 / 0.5
    assert found.int8 == pytest.approx(sheet.int8 * found.narrow / sheet.narrow) and found.l2 == sheet.l2
    assert stored("NVIDIA H100 80GB HBM3") == found and stored("NVIDIA H200") is None
    assert "measured" in str(found) and "sheet" not in str(found)


def test_a_gpu_without_a_data_sheet_has_the_rates_of_an_older_one() -> None:
    consumer = like("NVIDIA GeForce RTX 4090", 89)
    assert (consumer.arch, consumer.shared, consumer.tf32) == (89, 99 * 1024, A100.tf32)
    assert "rates of A100" in consumer.source
    assert like("", 90) == H200 and not consumer.faults()
    assert Gpu.from_json(H100.to_json()) == H100
    with pytest.raises(ValueError, match="a rate is 0"):
        Gpu.from_json(replace(H100, l2=0.0).to_json())
    executable = contractc.compile("nc,nc->n", (64, 8), (64, 8), dtype="float32", target="cuda:80")
    assert "microseconds are predicted for A100 (sm_80; 1.84 TB/s" in str(executable)


def test_only_the_kernels_that_gain_most_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRACTC_STORE", "off")
    monkeypatch.setattr(choose, "MOST_KERNELS", 1)
    sizes = (64, 2**12, 2**20)  # of mode m; mode 3 is summed
    inputs = tuple(Value(2 * m + k, (m, 3), "float32") for m in range(3) for k in range(2))
    steps = tuple(Contract(Value(6 + m, (m,), "float32"), (2 * m, 2 * m + 1)) for m in range(3))
    program = Program(inputs, steps, (6, 7, 8), (*sizes, 32))
    made = prepared(program, H200, checked=True)
    assert [s.how.split()[0] for s in made.steps if isinstance(s, Contract)] == ["library", "library", "tile"]
    first, second, third = choose.notes(made, H200)
    assert (
        "others gain more" in first and "others gain more" in second and third.startswith("kernel: kernel ")
    )
    free = prepared(program, H200, checked=False)
    assert [s.how.split()[0] for s in free.steps if isinstance(s, Contract)] == ["tile"] * 3


LARGE = [
    ("mk,kn->mn", (2**17, 2**15, 64), "bfloat16"),
    ("mk,kn->mn", (2**16, 64, 2**16), "bfloat16"),
    ("abc->b", (4096, 1024, 1024), "bfloat16"),
    ("hil,oi->hol", (2**15, 2, 2**15, 2), "complex64"),
]


@pytest.mark.parametrize(("text", "sizes", "dtype"), LARGE)
def test_arithmetic_of_addresses_does_not_overflow(
    text: str, sizes: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = dict.fromkeys(c for c in text if c.isalpha())
    given = task(text, dict(zip(letters, sizes, strict=True)), dtype)
    problem, _ = given.problem(given.in_order())

    def faults() -> list[str]:
        found = best(problem)
        assert found is not None
        config = replace(found[0], split=1, resident=0)
        source = source_of(problem, config)
        programs = toolchain.grid_of(source, problem.extents, config, torch.device("cpu"))
        return overflows(toolchain.compiled(source, config.warps, config.stages).ttir, programs, {})

    assert faults() == []
    monkeypatch.setattr(Problem, "wide_offsets", lambda self, at: False)
    broken = faults()
    assert broken and all("i32" in line for line in broken)


def test_a_lint_that_knows_nothing_of_a_number_says_so() -> None:
    ttir = """
    tt.func public @kernel(%a: !tt.ptr<f32>, %e0: i32) attributes {noinline = false} {
      %c1000_i32 = arith.constant 1000 : i32 loc(#loc1)
      %pid = tt.get_program_id x : i32 loc(#loc1)
      %far = arith.muli %pid, %c1000_i32 : i32 loc(#loc1)
      %unused = arith.muli %far, %c1000_i32 : i32 loc(#loc1)
      %near = arith.remsi %far, %e0 : i32 loc(#loc1)
      %p = tt.addptr %a, %near : !tt.ptr<f32>, i32 loc(#loc1)
    """
    assert overflows(ttir, 2**20, {"e0": (1, 100)}) == []
    assert overflows(ttir, 2**22, {"e0": (1, 100)}) == ["%far = arith.muli %pid, %c1000_i32 : i32"]
    scaled = ttir.replace("%near :", "%unused :")
    assert overflows(scaled, 2**10, {}) == []
    assert len(overflows(scaled, 2**12, {})) == 1
