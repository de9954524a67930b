"""The command: prints the str() of the stages, gives the API's messages, and ends with the right status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import opt_einsum
import pytest

import contractc
from contractc import Plan, Program, tensorfiles
from contractc.cli import commands as commands_module
from contractc.cli import main
from contractc.cli.commands import COMMANDS
from contractc.cli.parser import parser
from contractc.options import colors_wanted
from contractc.search.clock import Progress
from contractc.store import opened

ROOT = Path(__file__).resolve().parent.parent
rng = np.random.default_rng(0)
A, B = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
CHAIN = ["ij,jk,kl->il", "--shapes", "3,4", "4,5", "5,6"]

Capture = pytest.CaptureFixture[str]


def said(capsys: Capture, *argv: str, status: int = 0) -> tuple[str, str]:
    """Return what the command prints to stdout and stderr, after checking its exit status."""
    assert main(argv) == status
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def chain() -> contractc.Executable:
    return contractc.compile("ij,jk,kl->il", (3, 4), (4, 5), (5, 6))


# help


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(name: str, capsys: Capture, golden: Callable[[str, str], None]) -> None:
    out, _ = said(capsys, *([name] if name else []), "--help")
    golden(f"cli-help-{name or 'contractc'}", out)


def test_bench_has_a_help_of_its_own(capsys: Capture) -> None:
    assert main(["bench", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: contractc bench")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "usage: contractc [-h] command ..."),
        (["fly"], "invalid choice: 'fly'"),
        (["plan", "--fast"], "unrecognized arguments: --fast"),
        (["plan"], "contractc plan: give an expression with --shapes, or --network\n"),
        (
            ["plan", "i->", "--shapes", "three"],
            "contractc plan: --shapes 'three' is not a list of extents such as 32,64\n",
        ),
        (["cache", "prune", "--bytes", "-1"], "contractc cache: --bytes -1 is less than nothing\n"),
        (["run", "net.ccb", "x.npz", "--quick"], "unrecognized arguments: --quick"),
        (
            ["plan", "i->", "--network", "x"],
            "contractc plan: give an expression with --shapes, or --network\n",
        ),
        (
            ["compile", "i->", "--shapes", "3", "--constant", "x"],
            "contractc compile: --constant 'x' is not an",
        ),
        (
            ["run", "i->", "operands.txt"],
            "contractc run: operands.txt is no .npy, .npz or .safetensors file\n",
        ),
        (["cache", "ls", "--bytes", "3"], "contractc cache: --bytes goes with prune\n"),
    ],
)
def test_arguments_that_make_no_sense_end_with_2(
    argv: list[str], message: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path))
    out, err = said(capsys, *argv, status=2)
    assert out == ""
    assert message in err


# plan


def test_plan_prints_the_plan(capsys: Capture) -> None:
    assert said(capsys, "plan", *CHAIN) == (f"{chain().plan}\n", "")


def test_plan_as_json_can_be_read(capsys: Capture, tmp_path: Path) -> None:
    out, _ = said(capsys, "plan", *CHAIN, "--json")
    assert Plan.from_json(out) == chain().plan
    assert json.loads(out)["opt_einsum_path"] == [list(step) for step in chain().plan.linear_path()]
    (tmp_path / "plan.json").write_text(out)
    again, _ = said(capsys, "plan", *CHAIN, "--path", str(tmp_path / "plan.json"), "--json")
    assert Plan.from_json(again).path == Plan.from_json(out).path
    path, _ = opt_einsum.contract_path("ij,jk,kl->il", *[np.ones(s) for s in ((3, 4), (4, 5), (5, 6))])
    (tmp_path / "path.json").write_text(json.dumps(path))
    again, _ = said(capsys, "plan", *CHAIN, "--path", str(tmp_path / "path.json"), "--json")
    assert json.loads(again)["opt_einsum_path"] == [list(step) for step in path]


def test_opt_einsum_takes_the_path_of_a_plan() -> None:
    data = json.loads(chain().plan.to_json())
    path = [tuple(step) for step in data["opt_einsum_path"]]
    arrays = [rng.normal(size=s) for s in ((3, 4), (4, 5), (5, 6))]
    found, _ = opt_einsum.contract_path("ij,jk,kl->il", *arrays, optimize=path)
    assert found == path
    np.testing.assert_allclose(opt_einsum.contract("ij,jk,kl->il", *arrays, optimize=path), chain()(*arrays))


def test_a_plan_with_shared_steps_carries_no_linear_path() -> None:
    plan = contractc.plan("ij,jk,kl->il,ikl", (3, 4), (4, 5), (5, 6))
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(ValueError, match="shared steps"):
        plan.linear_path()
    assert "opt_einsum_path" not in json.loads(plan.to_json())


def test_plan_takes_every_option(capsys: Capture) -> None:
    given = ["abc,cd->abd", "--shapes", "8,8,8", "8x4", "--dtype", "c64", "--memory-limit", "7000"]
    out, _ = said(capsys, "plan", *given, "--dynamic", "d", "--conj", "1", "--optimize", "greedy")
    plan = contractc.plan(
        "abc,cd->abd",
        (8, 8, 8),
        (8, 4),
        dtype="complex64",
        memory_limit=7000,
        dynamic="d",
        conj=1,
        optimize="greedy",
    )
    assert out == f"{plan}\n"
    out, _ = said(
        capsys, "plan", "i->", "--shapes", "3", "--semiring", "max_plus", "--memory-limit", "max_input"
    )
    assert "max_plus" in out


NETWORK = {"expression": "ij,jk->ik", "shapes": [[3, 4], [4, 5]], "dtype": "f32", "dynamic": ["i"]}


def test_a_network_is_read_from_json(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = contractc.plan("ij,jk->ik", (3, 4), (4, 5), dtype="float32", dynamic="i")
    path = tmp_path / "net.json"
    for text in (json.dumps(NETWORK), plan.network.to_json()):
        path.write_text(text)
        assert said(capsys, "plan", "--network", str(path)) == (f"{plan}\n", "")
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert said(capsys, "plan", "--network", "-") == (f"{plan}\n", "")
        out, _ = said(capsys, "compile", "--network", str(path), "--show", "program")
        assert out.startswith("program (%0: f32[i=~3, j=4], %1: f32[j=4, k=5])\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "ValueError: net.json holds no network: it is no JSON object\n"),
        ("{}", "ValueError: net.json holds no network: it needs an expression and shapes\n"),
        (json.dumps(NETWORK | {"shapes": [3]}), "ValueError: net.json holds no network: it needs an"),
        (json.dumps(NETWORK | {"dynamic": 5}), "ValueError: net.json holds no network: dynamic is no list"),
        (json.dumps(NETWORK | {"more": 1}), "ValueError: net.json holds no network: it needs an"),
        ("[" * 10**5, "ValueError: net.json is nested too deep\n"),
        ("nonsense", "ValueError: net.json is no JSON: Expecting value"),
        (
            '{"format":2,"noun":{"is":"Plan"}}',
            "ValueError: expected one of TensorNetwork, Tensor, got 'Plan'",
        ),
        ('{"format":2,"noun":{"is":"Tensor"}}', "ValueError: Tensor with fields []"),
    ],
)
def test_what_is_no_network_is_refused(
    text: str, message: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.json").write_text(text)
    _, err = said(capsys, "plan", "--network", "net.json", status=1)
    assert err.startswith(message)


# errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["ij,jk->im", "--shapes", "3,4", "4,5"],
            "EinsumError: output mode 'm' is in no operand\n  ij,jk->im\n",
        ),
        (
            ["ij,jk->ik", "--shapes", "3,4", "5,6"],
            "OperandError: mode 'j' is 4 in operand 0 (axis 1) but 5 in",
        ),
        (["i->", "--shapes", "3", "--dtype", "f99"], "TypeError: data type 'f99' not understood\n"),
        (
            ["i,j->ij", "--shapes", "9", "9", "--memory-limit", "10"],
            "ResourceLimitError: the contraction needs",
        ),
        (
            ["i->", "--shapes", "3", "--memory-limit", "x"],
            "ValueError: memory_limit='x' is no number of bytes",
        ),
        (["i->", "--shapes", "3", "--optimize", "x"], "ValueError: no search is called 'x'"),
        (["--network", "absent.json"], "FileNotFoundError: absent.json: No such file or directory\n"),
        (["--network", "."], "IsADirectoryError: .: Is a directory\n"),
    ],
)
def test_errors_are_those_of_the_api_and_end_with_1(argv: list[str], message: str, capsys: Capture) -> None:
    out, err = said(capsys, "plan", *argv, status=1)
    assert out == ""
    assert err.startswith(message)


def test_carets_stand_under_the_expression(capsys: Capture) -> None:
    _, err = said(capsys, "plan", "ij,jk->im", "--shapes", "3,4", "4,5", status=1)
    with pytest.raises(contractc.EinsumError) as caught:
        contractc.plan("ij,jk->im", (3, 4), (4, 5))
    assert err == f"EinsumError: {caught.value}\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colors_are_for_terminals_that_want_them(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colors_wanted(Terminal()) and not colors_wanted(io.StringIO())
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    main(["plan", "i->j", "--shapes", "3"])
    assert screen.getvalue().startswith("\x1b[1;31mEinsumError\x1b[0m: output mode")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            patch.setattr(sys, "stderr", screen := Terminal())
            main(["plan", "i->j", "--shapes", "3"])
            assert screen.getvalue().startswith("EinsumError: output mode")


def test_progress_is_shown_on_a_terminal_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    commands_module._show(Progress(0.5, 0.25, 9.0))
    assert screen.getvalue().startswith("\rplanning  25%, 10^9.00 flops")
    assert main(["plan", *CHAIN]) == 0
    assert capsys.readouterr().out == f"{chain().plan}\n"
    assert screen.getvalue().endswith("\r")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    assert main(["plan", *CHAIN, "--json"]) == 0
    assert screen.getvalue() == ""


# compile and run


@pytest.mark.parametrize("stage", ["network", "plan", "program", "source", "executable"])
def test_compile_prints_a_stage(stage: str, capsys: Capture) -> None:
    out, _ = said(capsys, "compile", *CHAIN, "--show", stage)
    made = chain()
    expected = {
        "network": made.plan.network,
        "plan": made.plan,
        "program": made.program,
        "source": made.source,
        "executable": made,
    }[stage]
    assert out == str(expected).rstrip("\n") + "\n"


def test_compile_as_json_can_be_read(capsys: Capture, tmp_path: Path) -> None:
    out, _ = said(capsys, "compile", *CHAIN, "--json", "--save", str(tmp_path / "net.ccb"))
    data = json.loads(out)
    assert Program.from_json(json.dumps(data["program"])) == chain().program
    assert data["targets"] == ["numpy"]
    assert contractc.load(tmp_path / "net.ccb", sha256=data["sha256"]).program == chain().program


def test_compile_and_run(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("B.npy", B)
    np.savez("x.npz", x=A)
    compiled = ["compile", "bi,ij->bj", "--shapes", "9,4", "4,5", "--dynamic", "b", "--constant", "1=B.npy"]
    out, _ = said(capsys, *compiled, "--save", "net.ccb")
    digest, name = out.splitlines()[-1].split()
    assert name == "net.ccb"
    for suffix in ("npz", "safetensors"):
        out, err = said(
            capsys, "run", "net.ccb", "x.npz", "--sha256", digest, "--out", f"y.{suffix}", "--json"
        )
        assert (json.loads(out)["results"], err) == ([{"name": "0", "dtype": "float64", "shape": [3, 5]}], "")
    with np.load("y.npz") as found:
        np.testing.assert_allclose(found["0"], A @ B)
    np.testing.assert_array_equal(tensorfiles.load("y.safetensors")[0]["0"], A @ B)
    _, err = said(capsys, "run", "net.ccb", "x.npz", "--sha256", "0" * 64, status=1)
    assert err.startswith("BundleError: net.ccb is not a bundle to be read: its SHA-256 is ")


def test_run_an_expression(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(3.0))
    tensorfiles.save("b.safetensors", {"b": np.array([1.0, 0.0, 2.0])})
    assert said(capsys, "run", "i,i->", "a.npy", "b.safetensors") == ("4.0\n", "")
    assert said(capsys, "run", "i,i->i,", "a.npy", "b.safetensors") == ("[0. 0. 4.]\n4.0\n", "")
    np.save("c.npy", np.array([{}], object), allow_pickle=True)
    _, err = said(capsys, "run", "i->", "c.npy", status=1)
    assert err == "ValueError: c.npy is damaged, or holds Python objects, which are not read\n"
    Path("d.npz").write_bytes(b"PK\3\4" + bytes(100))
    _, err = said(capsys, "run", "i->", "d.npz", status=1)
    assert err == "ValueError: d.npz is damaged, or holds Python objects, which are not read\n"
    _, err = said(capsys, "run", "i->", "a.npy", "--out", "x.txt", status=2)
    assert err == "contractc run: --out x.txt is no .npz or .safetensors file\n"


def test_run_a_bundle_of_torch(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    np.save("B.npy", B)
    np.savez("x.npz", x=A)
    said(
        capsys, "compile", "bi,ij->bj", "--shapes", "3,4", "4,5", "--constant", "1=B.npy", "--target", "torch", "numpy",
        "--save", "net.ccb",
    )  # fmt: skip
    said(capsys, "run", "net.ccb", "x.npz", "--out", "y.npz")
    said(capsys, "run", "net.ccb", "x.npz", "--out", "z.npz", "--target", "numpy")
    with np.load("y.npz") as y, np.load("z.npz") as z:
        np.testing.assert_allclose(y["0"], A @ B)
        np.testing.assert_allclose(z["0"], A @ B)


def test_tune_says_what_has_nothing_to_tune(capsys: Capture) -> None:
    _, err = said(capsys, "tune", *CHAIN, "--target", "numpy", status=1)
    assert err == "UnsupportedError: backend 'numpy' has nothing to tune\n"


def test_tune_prints_the_program_with_its_tiles(capsys: Capture) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    problem = ["bi,bj,ijk->bk", "--shapes", "512,16", "512,16", "16,16,16", "--dtype", "f32"]
    out, _ = said(capsys, "tune", *problem, "--target", "triton:cuda:90")
    assert "# fused: " in out and ", tile " in out


# the store


def test_cache_lists_shrinks_and_checks(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path / "store"))
    store = opened(tmp_path / "store")
    for k in range(3):
        store.write("plan", f"{k}" * 64, b"x")
        os.utime(store._path("plan", f"{k}" * 64), (1e9 + k,) * 2)
    out, _ = said(capsys, "cache", "ls")
    assert out.splitlines() == [f"{store}", *map(str, store.ls())]
    assert [e["key"][0] for e in json.loads(said(capsys, "cache", "ls", "--json")[0])["entries"]] == list(
        "210"
    )
    out, _ = said(capsys, "cache", "prune", "--bytes", "8192")
    assert out.splitlines()[0] == f"removed 1 entries; {store}"
    assert len(store.ls()) == 2
    store._path("plan", "1" * 64).write_bytes(b"damaged")
    out, _ = said(capsys, "cache", "verify", status=1)
    assert out.startswith("removed 1 damaged entries; ")
    assert said(capsys, "cache", "verify")[0] == f"removed 0 damaged entries; {store}\n"


def test_without_a_store_there_is_nothing_to_list(capsys: Capture) -> None:
    _, err = said(capsys, "cache", "ls", status=1)
    assert err == "StoreError: there is no store; CONTRACTC_STORE names its folder, and `off` none\n"


# doctor, and the process


def test_doctor_tells_what_works(capsys: Capture) -> None:
    out, _ = said(capsys, "doctor", "--quick")
    assert f"  numpy             {np.__version__}" in out.splitlines()
    assert "  numpy             works" in out.splitlines()
    assert "store: off (CONTRACTC_STORE)" in out.splitlines()
    data = json.loads(said(capsys, "doctor", "--json")[0])
    assert data["targets"]["numpy"] is None
    assert all(rate > 0 for rate in data["rates"].values()) and set(data["rates"]) >= {"float32", "copy"}


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "contractc", *argv],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_in_a_process_of_its_own() -> None:
    done = command("plan", *CHAIN)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{chain().plan}\n", "")
    done = command("plan", "ij->k", "--shapes", "3,4")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "EinsumError: output mode 'k' is in no operand\n  ij->k\n      ^\n"
    assert command("fly").returncode == 2


def test_every_command_has_a_line_of_help() -> None:
    text = parser().format_help()
    assert all(f"    {name} " in text for name in (*COMMANDS, "bench"))


def test_files_of_run_may_stand_behind_its_options(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.arange(3.0))
    contractc.compile("i->", (3,)).save("net.ccb")
    assert said(capsys, "run", "net.ccb", "--target", "numpy", "x.npz") == ("3.0\n", "")
    Path("net.ccb").rename("net")
    assert said(capsys, "run", "net", "x.npz") == ("3.0\n", "")


def test_a_constant_of_another_shape_is_refused(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("b.npy", np.ones((4, 5)))
    argv = ["compile", "ij,jk->ik", "--shapes", "3,4", "4,6", "--constant", "1=b.npy"]
    out, err = said(capsys, *argv, status=2)
    assert (out, err) == (
        "",
        "contractc compile: the constant for operand 1 has shape (4, 5), --shapes says (4, 6)\n",
    )


@pytest.mark.parametrize("what", ["compare", "report"])
def test_files_that_hold_no_results_are_refused(what: str, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    for content in (b"\x93NUMPY", b"{}", b"[1]"):
        file.write_bytes(content)
        _, err = said(capsys, "bench", what, str(file), *([str(file)] if what == "compare" else []), status=1)
        assert err.startswith(f"ValueError: {file} holds no results of contractc bench: ")


def test_a_file_that_cannot_be_written_is_named(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "absent" / "net.ccb"
    _, err = said(capsys, "compile", "i->", "--shapes", "3", "--save", str(path), status=1)
    assert err == f"FileNotFoundError: {path}: No such file or directory\n"


def damaged_npz(kind: str) -> bytes:
    """Return an npz file of two arrays that is wrong in one way."""
    made = io.BytesIO()
    first = np.array([1, None], object) if kind == "objects" else rng.normal(size=(50, 60))
    np.savez_compressed(made, first, np.ones((60, 5)))
    data = bytearray(made.getvalue())
    listed = data.find(b"PK\1\2")
    if kind == "encrypted":
        data[6] |= 1
        data[listed + 8] |= 1
    elif kind == "a compression of nobody":
        data[8] = data[listed + 10] = 99
    elif kind == "changed":
        data[200:260] = bytes(b ^ 255 for b in data[200:260])
    return bytes(data)


@pytest.mark.parametrize("kind", ["objects", "encrypted", "a compression of nobody", "changed"])
def test_a_damaged_npz_is_an_error_not_a_traceback(
    kind: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.npz").write_bytes(damaged_npz(kind))
    _, err = said(capsys, "run", "ij,jk->ik", "x.npz", status=1)
    assert err == "ValueError: x.npz is damaged, or holds Python objects, which are not read\n"


def test_an_npz_larger_than_memory_is_refused_before_it_is_read(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez_compressed("x.npz", np.zeros(10**5))
    monkeypatch.setattr(commands_module, "physical_memory", lambda: 10**5)
    _, err = said(capsys, "run", "i->", "x.npz", status=1)
    assert err == "MemoryError: x.npz holds 800128 bytes, more than there is memory\n"


STARTED = """
import sys
import contractc.cli
assert not {"numpy", "argparse", "contractc.cli.commands", "contractc.cli.parser"} & set(sys.modules)
"""


def in_a_process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_what_takes_long_to_load_is_loaded_where_an_interrupt_is_caught() -> None:
    in_a_process("-c", STARTED)


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    plan = ["-m", "contractc", "plan", "\u03b1\u03b2->\u03b2", "--shapes", "3,4"]
    done = in_a_process(*plan, PYTHONIOENCODING="ascii")
    assert "\\u03b1" in done.stdout


def test_an_interrupted_measurement_has_one_line_to_say(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, signal, sys; os.kill(os.getpid(), signal.SIGKILL)"
    run = subprocess.run
    monkeypatch.setattr(
        "contractc.bench.command.subprocess.run",
        lambda *a, **k: run([sys.executable, "-c", code], check=False),
    )
    assert main(["bench", "i->", "--shapes", "3"]) == 1
    assert capfd.readouterr().err == "contractc bench: the measuring process was ended by signal 9\n"
