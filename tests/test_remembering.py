"""Plans in the store: found once, read by the next process, never for another network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contractc
from contractc import formats, remembering
from contractc.building import network_of
from contractc.machine import Machine, Target
from contractc.network import TensorNetwork
from contractc.notation import parse
from contractc.operands import Operand
from contractc.options import Options
from contractc.plans import Plan
from contractc.providers import loops
from contractc.remembering import remembered
from contractc.search import search
from contractc.store import Store, opened


def chain(count: int, extent: int = 3) -> TensorNetwork:
    letters = [chr(0x4E00 + k) for k in range(count + 1)]
    text = (
        ",".join(a + b for a, b in zip(letters, letters[1:], strict=False)) + f"->{letters[0]}{letters[-1]}"
    )
    operands = [Operand((extent, extent), "float64")] * count
    return network_of(parse(text), operands, Target(), Options())


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CONTRACTC_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(remembering, "WORTH_KEEPING", 0.0)
    return opened(tmp_path / "store")


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets an item for every search."""
    made: list[Any] = []

    def counted(*given: Any) -> Plan:
        made.append(given)
        return search(*given)

    monkeypatch.setattr(remembering, "search", counted)
    return made


@pytest.mark.parametrize("optimize", [None, True, "auto", "greedy", "anneal"])
def test_the_second_search_of_a_large_network_is_read(
    room: Store, searches: list[Any], optimize: Any
) -> None:
    network = chain(30)
    first = remembered(network, optimize)
    assert remembered(network, optimize) == first
    assert len(searches) == 1
    assert [e.kind for e in room.ls()] == ["plan"]


def test_labels_are_not_part_of_the_key(room: Store, searches: list[Any]) -> None:
    network = chain(30)
    other = replace(network, labels=tuple(f"x{k}" for k in range(31)))
    remembered(network)
    assert remembered(other).network.labels == other.labels
    assert len(searches) == 1


def test_another_question_has_another_answer(
    room: Store, searches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = chain(30)
    questions = [
        (network, None, None),
        (network, "greedy", None),
        (network, None, 10**6),
        (chain(31), None, None),
        (chain(30, 4), None, None),
        (replace(network, dynamic=(0,)), None, None),
    ]
    for question in questions:
        remembered(*question)
    assert len(searches) == len(questions)
    monkeypatch.setattr(remembering, "DEFAULT_MACHINE", Machine(permuting=1.0))
    remembered(network)
    assert len(searches) == len(questions) + 1
    assert len(room.ls()) == len(questions) + 1


@pytest.mark.parametrize(
    ("network", "optimize"),
    [(chain(3), None), (chain(30), False), (chain(20), [(0, 1)] * 19), (chain(20), "opt_einsum:greedy")],
    ids=["small", "no search", "a path", "opt_einsum"],
)
def test_what_is_soon_found_does_not_touch_the_disk(
    network: TensorNetwork, optimize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched() -> None:
        raise AssertionError("the store was opened")

    monkeypatch.setattr(remembering, "open_store", touched)
    assert remembered(network, optimize).faults() == []
    with pytest.raises(AssertionError, match="the store was opened"):
        remembered(chain(30))


def test_a_search_that_was_soon_done_is_not_kept(room: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "WORTH_KEEPING", 1e9)
    remembered(chain(30))
    assert room.ls() == []


def test_a_plan_of_another_network_or_nonsense_is_a_miss(room: Store, searches: list[Any]) -> None:
    network = chain(30)
    good = remembered(network)
    (entry,) = room.ls()
    wrong = replace(good, path=good.path[:-1]).to_json()
    other = remembered(chain(31)).to_json()
    for payload in (b"\xff", b"{}", b"[" * 10**5, wrong.encode(), other.encode()):
        room.write("plan", entry.key, payload)
        before = len(searches)
        assert remembered(network) == good
        assert len(searches) == before + 1


def test_the_api_plans_from_the_store(room: Store, searches: list[Any]) -> None:
    letters = [chr(0x4E00 + k) for k in range(21)]
    text = (
        ",".join(a + b for a, b in zip(letters, letters[1:], strict=False)) + f"->{letters[0]}{letters[-1]}"
    )
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(3, 3)) for _ in range(20)]
    found = contractc.plan(text, *matrices)
    compiled = contractc.compile(text, *matrices)
    assert replace(compiled.plan, peak=found.peak) == found  # its peak is that of the program
    assert len(searches) == 1
    np.testing.assert_allclose(compiled(*matrices), np.linalg.multi_dot(matrices))


def test_choices_for_a_gpu_are_read_while_its_rates_are_the_same(
    room: Store, searches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from contractc.backends.triton import gpus

    weight = formats.low_rank(np.ones((64, 4), np.float32), np.ones((4, 64), np.float32))

    def planned(target: str) -> Plan:
        return contractc.plan("bi,oi->bo", (32, 64), weight, dtype="float32", target=target, mode="train")

    first = planned("torch:cuda:90")
    assert first.alternatives and planned("torch:cuda:90") == first and len(searches) == 1
    planned("torch:cuda:80")
    assert len(searches) == 2
    known = gpus.like
    monkeypatch.setattr(gpus, "like", lambda *given: replace(known(*given), launch=1e-6))
    assert planned("torch:cuda:90").seconds < first.seconds
    assert len(searches) == 3


def test_choices_are_read_while_vectors_and_libraries_are_the_same(
    room: Store, searches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = formats.tt([np.ones(s, np.float32) for s in ((1, 8, 2), (2, 8, 2), (2, 8, 1))])

    def planned() -> Plan:
        return contractc.plan("bijk,ijk->b", (32, 8, 8, 8), weight, dtype="float32", mode="train")

    first = planned()
    assert first.alternatives and planned() == first and len(searches) == 1
    monkeypatch.setattr(remembering, "providers", lambda: ("another",))
    planned()
    assert len(searches) == 2

    def found(*given: Any) -> Plan:
        searches.append(given)
        return first

    monkeypatch.setattr(remembering, "search", found)
    monkeypatch.setattr(remembering, "find_spec", lambda name: name)
    for count, width in enumerate((8, 1024), 3):
        monkeypatch.setattr(loops, "vector_bytes", lambda width=width: width)
        assert planned() == planned() == first
        assert len(searches) == count
