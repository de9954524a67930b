"""What may be done with operands held as factors: every choice is in the plan, priced for where it will run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contractc
from contractc import formats
from contractc.lower import translate
from contractc.machine import H200, Target
from contractc.plans import Plan, choices_told
from contractc.search import lowered_seconds
from contractc.search.exact import optimal
from contractc.search.factored import cheapest_layout, layout_choices


def zeros(*shape: int, dtype: str = "float32") -> Any:
    """Return an array that takes no memory: plans do not look at values."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def train(rows: tuple[int, ...], columns: tuple[int, ...], rank: int) -> formats.Factorized:
    ranks = [1, *[rank] * (len(rows) - 1), 1]
    return formats.tt_matrix(
        [zeros(ranks[k], m, n, ranks[k + 1]) for k, (m, n) in enumerate(zip(rows, columns, strict=True))]
    )


def low_rank(rows: int, columns: int, rank: int) -> formats.Factorized:
    return formats.low_rank(zeros(rows, rank), zeros(rank, columns))


MODES = (4, 8, 8, 4)
EVERY = {("factored",), ("partly merged",), ("materialised",)}


def choices(plan: Plan) -> set[tuple[str, ...]]:
    """Return the choices a plan lists, after a look at what it says of itself."""
    assert plan.faults() == [] and Plan.from_json(plan.to_json()) == plan
    listed = [a.choices for a in plan.alternatives]
    assert len(set(listed)) == len(listed) and plan.choices in listed
    text = str(plan)
    assert text.count("\n  *  ") == 1
    for ways in listed:
        assert f"  {', '.join(ways)}  " in text
    return set(listed)


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (low_rank(64, 64, 60), EVERY - {("partly merged",)}),
        (low_rank(4096, 4096, 16), EVERY - {("partly merged",)}),
        (train(MODES, MODES, 8), EVERY),
        (train((4,) * 6, (2, 7, 8, 8, 7, 4), 4), EVERY),
        (formats.cp([zeros(n, 16) for n in (8, 8, 8, 8)], split=((8, 8), (8, 8))), EVERY),
        (train((2,) * 10, (2,) * 10, 3), EVERY),
    ],
)
def test_every_choice_there_is_is_listed(weight: Any, expected: set[tuple[str, ...]], mode: str) -> None:
    for batch in (16,) if mode == "train" else (1, 2000):
        plan = contractc.plan("bi,oi->bo", (batch, weight.shape[1]), weight, dtype="float32", mode=mode)
        assert choices(plan) == expected
        best = min(a.seconds for a in plan.alternatives)
        (taken,) = (a for a in plan.alternatives if a.choices == plan.choices)
        assert taken.seconds <= 1.03 * best
        assert mode == "train" or plan.seconds == taken.seconds


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from(["bi,oi->bo", "oi,oi->", "bi,oi,op->bp"])
)
@settings(max_examples=30)
def test_every_path_behind_a_choice_computes_the_value(seed: int, batch: int, text: str) -> None:
    rng = np.random.default_rng(seed)
    cores = [rng.normal(size=s) for s in ((1, 2, 3, 2), (2, 2, 1, 2), (2, 1, 2, 1))]
    one, two = formats.tt_matrix(cores), formats.low_rank(rng.normal(size=(4, 2)), rng.normal(size=(2, 6)))
    operands = {"bi,oi->bo": (rng.normal(size=(batch, 6)), one), "oi,oi->": (one, two)}.get(
        text, (rng.normal(size=(batch, 6)), one, two)
    )
    dense: list[Any] = [x.to_dense() if isinstance(x, formats.Factorized) else x for x in operands]
    network = contractc.plan(text, *operands).network
    found = cheapest_layout(network, optimal)
    arrays = [y for x in operands for y in (x.factors if isinstance(x, formats.Factorized) else (x,))]
    assert len(found.paths) == len(found.alternatives) > 1 and found.path in found.paths
    for way, path in zip(found.alternatives, found.paths, strict=True):
        plan = Plan(network, path, (len(network.tensors) + len(path) - 1,))
        assert plan.faults() == [] and layout_choices(network, path) == way.choices
        (value,) = plan.evaluate(*arrays)
        np.testing.assert_allclose(value, np.einsum(text, *dense), rtol=1e-9, atol=1e-9)


def test_a_constant_operand_is_made_dense_once() -> None:
    plan = contractc.plan("bi,oi->bo", (512, 1024), train(MODES, MODES, 8), constants=(1,), dtype="float32")
    assert choices(plan) == {("factored",), ("partly merged",), ("materialised once",)}


def test_an_operand_alone_has_one_choice() -> None:
    plan = contractc.plan("oi->oi", low_rank(64, 32, 4))
    assert choices(plan) == {("materialised",)}
    assert contractc.explain(contractc.compile("oi->oi", low_rank(64, 32, 4))).splitlines()[1] == (
        "  factors %0 %1: materialised; there is no other way"
    )


def test_two_operands_are_listed_with_each_choice_of_each() -> None:
    weight = train(MODES, MODES, 8)
    for text, others in (("bi,oi,op->bp", ((256, 1024),)), ("oi,oi->", ())):
        found = choices(contractc.plan(text, *others, weight, weight, dtype="float32"))
        for g in (0, 1):
            assert {(ways[g],) for ways in found} == EVERY


def test_several_outputs_are_priced_together() -> None:
    weight = train(MODES, MODES, 8)
    plan = contractc.plan(["bi,oi->bo", "bi,oi->b"], (4096, 1024), weight, dtype="float32")
    assert len(choices(plan)) > 1
    (taken,) = (a for a in plan.alternatives if a.choices == plan.choices)
    assert (taken.seconds, taken.flops, taken.peak) == (plan.seconds, plan.flops, plan.peak)
    assert taken.seconds == min(a.seconds for a in plan.alternatives)


def test_a_memory_limit_takes_the_choice_that_is_fastest_within_it() -> None:
    layer = ("bi,oi->bo", (4096, 1024), train(MODES, MODES, 8))
    free = contractc.plan(*layer, dtype="float32")
    peaks = {a.choices: a.peak for a in free.alternatives}
    limit = 36_000_000
    within = contractc.plan(*layer, dtype="float32", memory_limit=limit)
    assert within.peak <= limit < peaks[free.choices]
    given = [within.seconds]
    for choice in ("factored", "materialised"):
        forced = formats.forced(layer[2], choice)
        given.append(contractc.plan(*layer[:2], forced, dtype="float32", memory_limit=limit).seconds)
    assert min(given) >= 0.99 * within.seconds


def test_explain_says_why_a_dearer_choice_was_taken() -> None:
    layer = ("bi,oi->bo", (4096, 1024), train(MODES, MODES, 8))
    plan = contractc.plan(*layer, dtype="float32", memory_limit=36_000_000)
    (line,) = choices_told(plan)
    cheaper = min(plan.alternatives, key=lambda a: a.seconds)
    (taken,) = (a for a in plan.alternatives if a.choices == plan.choices)
    assert (cheaper.seconds < taken.seconds) == (" at its peak" in line)


def test_an_order_that_was_asked_for_is_told_as_such() -> None:
    made = contractc.compile("bi,oi->bo", (8, 64), low_rank(64, 64, 4), optimize="greedy", dtype="float32")
    assert contractc.explain(made).splitlines()[1].endswith("; as the order asked for has it")


# where it will run


def on(target: str, mode: str, batch: int = 256) -> Plan:
    pytest.importorskip("torch")
    weight = train(MODES, MODES, 8)
    return contractc.plan("bi,oi->bo", (batch, 1024), weight, dtype="float32", mode=mode, target=target)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_gpu_makes_dense_what_a_cpu_leaves_in_parts(mode: str) -> None:
    """On a GPU, steps take launches and dense products hardly longer: two large steps are faster than six small."""
    here, there = on("numpy", mode), on("torch:cuda:90", mode)
    assert here.choices == ("partly merged",) and there.choices == ("materialised",)
    assert {a.choices for a in here.alternatives} == {a.choices for a in there.alternatives} == EVERY
    ways = {a.choices: a.seconds for a in there.alternatives}
    assert 1e-5 < ways["materialised",] < ways["partly merged",] < 1e-3


@pytest.mark.parametrize("target", ["torch:cuda:90", "cuda:90"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_prices_are_those_of_the_target(target: str, mode: str) -> None:
    plan = on(target, mode)
    place = Target("torch" if target.startswith("torch") else "triton", "cuda:90")
    (taken,) = (a for a in plan.alternatives if a.choices == plan.choices)
    assert taken.seconds == lowered_seconds(plan.network, plan.path, 0.0, place)
    assert taken.seconds < 0.1 * lowered_seconds(plan.network, plan.path, 0.0)
    assert (plan.seconds < taken.seconds) == (mode == "train")


def test_gradients_are_priced_as_autograd_takes_them_on_a_gpu() -> None:
    plan = on("torch:cuda:90", "train")
    from contractc.backends.triton.prices import predicted_seconds

    place = Target("torch", "cuda:90")
    program = translate(plan, place)
    numbers = [v.number for v in program.inputs]
    value = predicted_seconds(program, place)
    each = [predicted_seconds(program, place, [k]) for k in numbers]
    both = predicted_seconds(program, place, numbers)
    assert value < min(each) and max(each) < both <= 3.2 * value


def test_rates_decide_and_not_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """With launches for nothing the factors stay in parts on the same GPU: fewer flops."""
    pytest.importorskip("torch")
    from contractc.backends.triton import prices

    fast = replace(H200, launch=1e-12, bandwidth=1e18, permuting=1e18)
    monkeypatch.setattr(prices, "gpu_model", lambda device: fast)
    assert on("torch:cuda:90", "train").choices == ("partly merged",)
