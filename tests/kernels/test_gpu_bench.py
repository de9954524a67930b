"""The benchmark for GPUs from end to end in the interpreter, so that it fails for no silly reason on a GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import INTERPRETED

from benchmarks import gpu
from benchmarks.gpu_cases import amplitude, cases, circuit
from benchmarks.gpu_peers import EINSUM, PEERS, Absent, started

pytestmark = INTERPRETED


@pytest.mark.parametrize("tiny", [False, True])
def test_every_case_is_an_einsum(tiny: bool) -> None:
    listed = list(cases(tiny))
    assert len(listed) == 21 + 2 * 48
    for case in listed:
        xs = [torch.empty(s, dtype=getattr(torch, case.dtype), device="meta") for s in case.shapes]
        assert torch.einsum(case.text, *xs).numel() > 0
        assert case.products() >= torch.einsum(case.text, *xs).numel()


def test_circuit_has_its_wires_between_two_gates() -> None:
    terms = amplitude(4, 4, 8)
    wires = [m for term in terms for m in term]
    assert {wires.count(m) for m in wires} == {2} and max(map(len, terms)) == 4
    _, text, shapes, _ = circuit(False)
    assert len(text.split(",")) == len(shapes) == 180


def test_peers_run_or_say_why_not() -> None:
    xs = [torch.randn(3, 4), torch.randn(4, 5), torch.randn(5, 2)]
    said = {}
    for peer in PEERS:
        try:
            found = torch.as_tensor(started(peer, "ij,jk,kl->il", xs, True)())
        except Absent as reason:
            said[peer.name] = str(reason)
        else:
            torch.testing.assert_close(found, torch.linalg.multi_dot(xs))
    assert EINSUM not in said and all(said.values())
    with pytest.raises(Absent, match="RuntimeError: "):
        started(PEERS[0], "ij,jk->ik", [xs[0], xs[0]], True)


@pytest.mark.parametrize(
    "only",
    ["bilinear", "tccg01", "one-qubit", "TT matrix", "ring"],
    ids=lambda text: str(text).replace(" ", "_"),
)
def test_bench_runs_from_end_to_end(
    only: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[dict[str, Any]] = []
    shown = gpu.shown

    def kept(line: dict[str, Any]) -> str:
        lines.append(line)
        return shown(line)

    monkeypatch.setattr(gpu, "shown", kept)
    before = gpu.RESULTS.read_bytes() if gpu.RESULTS.exists() else None
    assert gpu.main(["bench", "--tiny", "--only", only]) == 0
    assert lines and {line["cache"] for line in lines} == {"cold", "warm"}
    for line in lines:
        assert line["seconds"][gpu.OURS] > 0 and line["ratio"] and only in line["case"]
        assert line.get("difference", 0.0) < 0.05 or line["what"] != "forward"
    text = capsys.readouterr().out
    assert "mean nothing" in text and (
        "jax is missing where" in text or lines[0]["group"] in ("layers", "circuit")
    )
    assert (gpu.RESULTS.read_bytes() if gpu.RESULTS.exists() else None) == before


def test_lost_cases_are_those_below_the_bar() -> None:
    def line(high: float, cache: str) -> dict[str, Any]:
        return {"case": "x", "what": "forward", "cache": cache, "ratio": {EINSUM: [0.9, 0.8, high]}}

    assert gpu.lost([line(0.94, "cold"), line(0.96, "cold"), line(0.5, "warm")]) == ["x (forward)"]


def test_results_of_small_cases_are_right() -> None:
    for case in cases(True):
        if case.name in ("Hadamard and reduce", "complex product", "weighted Gram"):
            assert gpu.right(case, "cpu")


def test_sanitizer_is_run_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu.sanitized(lambda name: None) == 0 and not commands
    assert gpu.sanitized(lambda name: f"/tools/{Path(name).name}") == 1
    assert commands[0][:3] == ["/tools/compute-sanitizer", "--error-exitcode", "3"]
    assert commands[0][-3:] == ["test", "--tiny", "--inside"]
