"""The harness: statistics against closed forms, rounds with a clock that counts, peers that lie, comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contractc
from contractc.bench import command, limits
from contractc.bench.cases import Case, extents, letter, operands, read_cases, selected, varied
from contractc.bench.compare import main as compare
from contractc.bench.lines import append_results, read_results
from contractc.bench.measure import interleaved, repeated, timed
from contractc.bench.peers import PEERS, Peer, error, in_order, put_in_order, to_array, truth
from contractc.bench.run import Entry, Result, measure_case
from contractc.bench.stats import Ratio, geometric_mean, median_interval, paired, rank_correlation
from contractc.bench.table import COLUMNS, case_line, is_lost, prediction, score, summary, total, total_ratio
from contractc.notation import parse

FOLDER = Path(__file__).parent.parent / "benchmarks" / "cases"
PRODUCT = Case("product", "ij,jk->ik", ((6, 5), (5, 4)), "float64", "gemm")


class Clock:
    """A clock that only the calls it times set forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> float:
        self.now += seconds
        return self.now


# statistics


def test_interval_of_the_median_has_the_ranks_of_the_binomial_distribution() -> None:
    # ranks of the tables in David and Nagaraja: n = 6: 1 and 6; n = 10: 2 and 9; n = 21: 6 and 16; n = 100: 40 and 61
    for n, low in ((6, 1), (10, 2), (21, 6), (100, 40)):
        found = median_interval([float(v) for v in range(1, n + 1)])
        assert (found.low, found.high) == (low, n + 1 - low)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_interval_covers_with_at_least_its_confidence(values: list[float]) -> None:
    found = median_interval(values)
    ordered = sorted(values)
    n, at = len(values), ordered.index(found.low)
    tail = sum(math.comb(n, k) for k in range(at + 1)) / 2**n
    assert found.low <= found.median <= found.high
    assert n < 6 or at > 0 or 2 * tail <= 0.05 or ordered[0] == ordered[at]


def test_paired_ratio_is_free_of_noise_that_both_share() -> None:
    noise = [1.0, 7.0, 3.0, 20.0, 2.0, 5.0]
    assert paired(noise, [2 * v for v in noise]) == Ratio(2.0, 2.0, 2.0)


def test_geometric_mean_and_rank_correlation_in_closed_form() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(geometric_mean([]))
    assert rank_correlation([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with d = 1, 1, 0, 0
    assert rank_correlation([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(1 - 12 / 60)
    assert rank_correlation([1, 1, 2], [1, 1, 2]) == pytest.approx(1.0)
    assert math.isnan(rank_correlation([1, 1], [1, 2]))


# rounds


def test_timed_and_repeated_count_the_clock() -> None:
    clock = Clock()
    assert timed(lambda: clock.spend(0.25), clock) == (0.25, 0.25)
    assert repeated(lambda: clock.spend(0.5), 4, clock) == 0.5
    ticks = count()
    assert repeated(lambda: None, 4, lambda: float(next(ticks))) == 0.25


def test_interleaved_takes_everybody_once_in_every_round_in_a_changing_order() -> None:
    clock, log = Clock(), list[str]()

    def contestant(name: str, seconds: float) -> Any:
        def call() -> None:
            log.append(name)
            clock.spend(seconds)

        return call

    calls = {name: contestant(name, s) for name, s in (("a", 5.0), ("b", 6.0), ("c", 7.0))}
    found = interleaved(calls, 8, round_seconds=1.0, clock=clock)
    assert {name: set(s) for name, s in found.items()} == {"a": {5.0}, "b": {6.0}, "c": {7.0}}
    rounds = ["".join(log[k : k + 3]) for k in range(6, len(log), 3)]
    assert len(rounds) == 8 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1


def test_interleaved_repeats_short_calls_and_keeps_to_the_budget() -> None:
    clock, calls = Clock(), [0]

    def short() -> None:
        calls[0] += 1
        clock.spend(0.125)

    assert len(interleaved({"short": short}, 4, round_seconds=1.0, clock=clock)["short"]) == 4
    assert calls[0] == 2 + 8 + 4 * (16 + 8)
    assert len(interleaved({"short": short}, 100, round_seconds=1.0, budget=22.5, clock=clock)["short"]) == 7
    assert len(interleaved({"short": short}, 100, round_seconds=1.0, budget=0.0, clock=clock)["short"]) == 5


def test_calls_that_find_the_caches_cold_are_not_measured() -> None:
    clock, last = Clock(), [""]

    def contestant(name: str) -> Any:
        def call() -> None:
            clock.spend(2.0 if last[0] != name else 1.0)
            last[0] = name

        return call

    found = interleaved({"a": contestant("a"), "b": contestant("b")}, 8, round_seconds=1.0, clock=clock)
    assert {name: set(s) for name, s in found.items()} == {"a": {1.0}, "b": {1.0}}


# cases


def test_every_file_of_cases_is_read_and_fits_its_shapes() -> None:
    files = [*FOLDER.glob("*.json"), *(FOLDER / "networks").glob("*.json")]
    cases = [c for f in files for c in read_cases(f)]
    assert len(cases) > 350
    assert len({str(c) + c.group for c in cases}) == len(cases)
    for case in cases:
        assert case.why and case.origin, case
        sizes = extents(case)
        terms = case.text.partition("->")[0].split(",")
        assert [tuple(sizes[m] for m in t) for t in terms] == list(case.shapes), case


def test_read_cases_refuses_another_file(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="has neither 'cases' nor a network's"):
        read_cases(path)


def test_letters_are_distinct_modes() -> None:
    letters = [letter(k) for k in range(3000)]
    assert letters[:53] == [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "À"]
    assert len(set(letters)) == 3000
    assert parse(",".join(letters)).labels == tuple(letters)


@given(st.integers(1, 50))
def test_variants_keep_small_extents_and_stay_near_the_others(seed: int) -> None:
    case = Case("gate", "ab,bij->aij", ((2, 2), (2, 100, 8)), "float32")
    found = varied(case, seed)
    (a, b), (b2, i, j) = found.shapes
    assert (a, b, b2) == (2, 2, 2) and 80 <= i <= 125 and 6 <= j <= 10
    assert varied(case, seed) == found and found.seed == seed
    assert varied(case, 0) == case


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64", "int32", "uint8", "bool"])
def test_operands_have_their_dtype_and_results_of_size_one(dtype: str) -> None:
    case = Case("chain", "ij,jk,kl->il", ((40, 50), (50, 60), (60, 30)), dtype)
    arrays = operands(case)
    assert [x.shape for x in arrays] == list(case.shapes) and {x.dtype.name for x in arrays} == {dtype}
    assert all(np.array_equal(x, y) for x, y in zip(arrays, operands(case), strict=True))
    assert not np.array_equal(arrays[0], operands(replace(case, seed=1))[0])
    if arrays[0].dtype.kind in "fc":
        assert 0.5 < float(np.std(truth(case, arrays))) < 2


def test_selected_filters_by_group_name_and_dtype() -> None:
    cases = [replace(PRODUCT, name=n, dtype=d) for n in ("mm", "mv") for d in ("float32", "float64")]
    assert selected(cases, [], [], []) == cases
    assert [str(c) for c in selected(cases, ["gemm"], ["mv"], ["float32"])] == ["mv float32"]
    assert selected(cases, ["tccg"], [], []) == []


# truth


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64", "bool"])
def test_error_lets_rounding_pass_and_nothing_else(dtype: str) -> None:
    case = replace(PRODUCT, dtype=dtype, text="ij,jk->ik", shapes=((30, 200), (200, 20)))
    arrays = operands(case)
    expected = truth(case, arrays)
    right = contractc.contract(case.text, *arrays)
    assert error(case, right, expected) < 1
    wrong = right.copy()
    wrong[3, 4] = ~wrong[3, 4] if dtype == "bool" else wrong[3, 4] + (1 if dtype == "int64" else 1e-2)
    assert error(case, wrong, expected) > 1
    assert error(case, right[:, :-1], expected) == math.inf
    if dtype.startswith("float"):
        assert error(case, np.where(right == right[0, 0], np.nan, right), expected) == math.inf


def test_truth_refuses_what_would_take_too_long() -> None:
    huge = Case("huge", "abcde,fghij->abcdefghij", ((99,) * 5, (99,) * 5), "float64")
    with pytest.raises(ValueError, match="in float64 it would make an intermediate of"):
        truth(huge, [])


# one case


def peer(name: str, function: Any, **more: Any) -> Peer:
    return Peer(name, "numpy", lambda case, arrays: lambda: function(*arrays), **more)


OURS = peer("contract", np.matmul, ours=True)


def test_a_peer_that_lies_is_disqualified() -> None:
    liar = peer("liar", lambda a, b: a @ b + 1e-6)
    found = measure_case(PRODUCT, rounds=6, peers=[OURS, liar, peer("honest", np.dot)])
    entry = found.entry("liar")
    assert entry is not None and entry.out.startswith("wrong: ") and entry.ratio is None
    best = found.best(contiguous=False)
    assert best is not None and best.name == "honest"
    assert "WRONG: liar" in case_line(found)


def test_our_own_wrong_result_is_a_lost_case() -> None:
    found = measure_case(
        PRODUCT, rounds=6, peers=[peer("contract", lambda a, b: a @ b * 2, ours=True), peer("x", np.dot)]
    )
    assert all(is_lost(found, column) for column in COLUMNS)
    assert "LOST: contract wrong" in case_line(found)


def test_peers_that_refuse_fail_or_are_absent_say_so() -> None:
    def failing(a: Any, b: Any) -> Any:
        raise RuntimeError("no kernel\nfor this")

    absent = Peer("absent", "no_such_library", lambda case, arrays: lambda: None)
    unwilling = peer("unwilling", np.dot, refuses=lambda case: "not today")
    hopeless = peer("hopeless", np.dot, least=lambda case: 1e9)
    peers = [OURS, peer("x", np.dot), absent, unwilling, hopeless, peer("failing", failing)]
    found = {e.name: e.out for e in measure_case(PRODUCT, rounds=6, peers=peers).entries}
    assert found == {
        "contract": "",
        "x": "",
        "absent": "no_such_library is not installed",
        "unwilling": "not today",
        "hopeless": "would take 1e+09 s a call at least",
        "failing": "refuses: RuntimeError: no kernel",
    }


def test_hopeless_and_slow_to_start_peers_are_dropped_and_nobody_waits_for_ours() -> None:
    clock = Clock()

    def taking(seconds: float, first: float = 0.0) -> Any:
        def start(case: Case, arrays: Sequence[Any]) -> Any:
            clock.spend(first)

            def call() -> Any:
                clock.spend(seconds)
                return np.matmul(*arrays)

            return call

        return start

    peers = [
        Peer("contract", "numpy", taking(0.001), ours=True),
        Peer("good", "numpy", taking(1.0)),
        Peer("hopeless", "numpy", taking(5.0)),
        Peer("late", "numpy", taking(0.5, first=100.0)),
        Peer("asked for", "numpy", taking(1.0), asked=True),
    ]
    found = measure_case(PRODUCT, rounds=6, budget=1e9, peers=peers, clock=clock)
    assert {e.name: e.out for e in found.entries} == {
        "contract": "",
        "good": "",
        "hopeless": "takes 5.0 times the best so far",
        "late": "its first call took 100 s",
    }
    ratio = score(found, COLUMNS[0])
    assert ratio is not None and ratio.median == pytest.approx(1000.0)
    good = found.entry("good")
    assert good is not None and total(good, 10) == pytest.approx(10.0)
    assert total_ratio(found, 10) == pytest.approx(1000.0)
    named = measure_case(PRODUCT, rounds=6, budget=1e9, names=["asked for"], peers=peers, clock=clock)
    assert [e.name for e in named.entries] == ["contract", "asked for"]


def test_raw_and_ordered_results_are_scored_apart() -> None:
    clock = Clock()

    def start(case: Case, arrays: Sequence[Any]) -> Any:
        clock.spend(1.0)
        return lambda: (clock.spend(1.0), np.matmul(*arrays).T.copy().T)[1]

    def ordered(case: Case, arrays: Sequence[Any]) -> Any:
        return lambda: (clock.spend(3.0), np.matmul(*arrays))[1]

    ours = Peer("contract", "numpy", start, contiguous=ordered, ours=True)
    other = Peer("other", "numpy", lambda c, a: lambda: (clock.spend(6.0), np.matmul(*a))[1])
    found = measure_case(PRODUCT, rounds=6, budget=1e9, peers=[ours, other], clock=clock)
    raw, in_c_order = score(found, COLUMNS[0]), score(found, COLUMNS[2])
    assert raw is not None and in_c_order is not None
    assert [raw.median, in_c_order.median] == pytest.approx([6.0, 2.0])


def test_a_case_that_is_too_large_is_skipped() -> None:
    found = measure_case(replace(PRODUCT, shapes=((10**4, 10**4), (10**4, 10**4))))
    assert found.skipped == "needs 2.4 GB, more than 2" and not found.entries
    assert "skipped: needs" in case_line(found)


@pytest.mark.parametrize("one", [p for p in PEERS if not p.asked], ids=lambda p: p.name)
def test_every_peer_computes_the_truth(one: Peer) -> None:
    for dtype in ("float32", "complex128", "bfloat16"):
        case = Case("tensor", "abc,dcb->ad", ((3, 4, 5), (6, 5, 4)), dtype)
        if one.absent(case) is not None:
            continue
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        arrays = operands(case)
        try:
            call = one.start(case, one.convert(arrays))
            result = call()
        except (TypeError, NotImplementedError):
            # NumPy knows bfloat16 by ml_dtypes only, and some libraries not at all: the table says so
            assert dtype == "bfloat16", one.name
            continue
        assert error(case, to_array(result), truth(case, arrays)) < 1
        assert in_order(put_in_order(result))


def test_peers_that_would_loop_over_everything_refuse() -> None:
    chain = Case(
        "chain", ",".join(letter(k) + letter(k + 1) for k in range(40)) + "->ab", ((9, 9),) * 40, "float64"
    )
    refusing = {p.name: p.refuses(chain) for p in PEERS if p.name.startswith("np.einsum")}
    assert "would take about" in str(refusing["np.einsum"])


# limits


def test_least_seconds_is_the_slower_of_memory_and_arithmetic() -> None:
    rates = {
        "copy": 10.0,
        "read": 20.0,
        "copy in cache": 40.0,
        "read in cache": 40.0,
        "a float32": 5.0,
        "b float64": 2.0,
    }
    large = 2**22
    assert limits.least_seconds(rates, 0, large, 0, "float32") == pytest.approx(large / 20)
    # a copy of a byte takes 2 / 10 seconds, of which 1 / 20 is the reading
    assert limits.least_seconds(rates, 0, large, large, "float32") == pytest.approx(large * 0.2)
    assert limits.least_seconds(rates, 10**9, 8, 8, "float64") == pytest.approx(5e8)
    assert limits.least_seconds(rates, 10**9, 8, 8, "complex64") == pytest.approx(8e8)
    assert limits.least_seconds(rates, 10**9, 40, 0, "int64") == pytest.approx(1.0)


# tables, lines, comparison


def result(
    name: str, ratio: float, device: str = "a", *, spread: float = 0.1, predicted: float = 1.0
) -> Result:
    around = Ratio(ratio, ratio - spread, ratio + spread)
    one = Ratio(1.0, 1.0, 1.0)
    entries = (
        Entry("contract", True, 0.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), one, one, 0.0),
        Entry("compiled", True, 0.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), one, one, 0.0),
        Entry("jax", False, 9.0, (ratio, ratio, ratio), (ratio, ratio, ratio), around, around, 0.0),
    )
    case = replace(PRODUCT, name=name)
    return Result(
        case, entries, 6, "0" * 16, ("gemm",), 10, 10, 8, 8, predicted, conditions={"device": device}
    )


def test_lost_means_that_even_the_upper_bound_is_below_the_bar() -> None:
    assert is_lost(result("x", 0.8), COLUMNS[1])
    assert not is_lost(result("x", 0.86), COLUMNS[1])
    assert score(result("x", 0.8), COLUMNS[0]) is None  # without jax nobody is left
    assert not is_lost(result("x", 0.8), COLUMNS[0])


def test_summary_names_means_worst_lost_and_the_quality_of_predictions() -> None:
    rows = [result("one", 0.5, predicted=1.5), result("two", 2.0, predicted=0.5), result("three", 8.0)]
    text = summary(rows)
    assert "2.00  worst 0.50  lost 1" in text
    assert "  one float64: 0.50 (0.40 to 0.60) of jax (raw, in order); runs gemm" in text
    assert "median error 50 %" in prediction(rows)
    assert "not measured" in summary([*rows, Result(PRODUCT, skipped="too large")])


def test_results_survive_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    rows = [result("one", 0.5), result("two", 2.0), Result(PRODUCT, skipped="too large")]
    append_results(path, rows)
    assert read_results(path) == rows
    append_results(path, [result("one", 4.0)])
    assert score(read_results(path)[0], COLUMNS[1]) == Ratio(4.0, 3.9, 4.1)
    assert len(path.read_text().splitlines()) == 4
    real = measure_case(PRODUCT, rounds=6, peers=[OURS, peer("x", np.dot)])
    assert Result.from_json(json.loads(json.dumps(real.to_json()))) == real


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(name: str, rows: Sequence[Result]) -> str:
        append_results(tmp_path / name, rows)
        return str(tmp_path / name)

    return write


def test_compare_refuses_different_devices(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = files("a", [result("x", 1.0, "a")]), files("b", [result("x", 1.0, "b")])
    assert compare([before, after]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"contractc bench compare: {before} was measured on a, {after} on b; "
        "times of different devices do not compare\n"
    )


def test_compare_shows_what_got_slower_first(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = files("a", [result("same", 1.0), result("slow", 1.0), result("fast", 1.0), result("gone", 1.0)])
    after = files("b", [result("same", 1.1), result("slow", 0.5), result("fast", 3.0), result("new", 1.0)])
    assert command.main(["compare", before, after]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["slow", "same", "fast"]
    assert ["SLOWER" in line for line in lines[1:-1]] == [True, False, False]
    assert lines[-1].startswith("3 cases in both: 1 slower, 1 faster (intervals apart); geometric mean 1.18")
    assert command.main(["compare", before, before]) == 0


# command


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give an expression with --shapes, or --cases"),
        (["ij->i"], "the expression has 1 operand, --shapes gives 0"),
        (["ij,j->i", "--shapes", "2,3"], "the expression has 2 operands, --shapes gives 1"),
        (["ij->i", "--shapes", "2,z"], "--shapes '2,z' is not a list of extents such as 32,64"),
        (["--cases", "nowhere.json"], "there is no nowhere.json"),
        (["ij->i", "--cases", "."], "give an expression or --cases, not both"),
    ],
)
def test_arguments_that_make_no_sense_end_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(argv) == 2
    assert capsys.readouterr().err == f"contractc bench: {message}\n"


def test_shape_of_reads_commas_crosses_and_scalars() -> None:
    assert [command.shape_of(text) for text in ("3,4", "3x4", "7", "-")] == [(3, 4), (3, 4), (7,), ()]


def test_command_measures_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "lines.jsonl", tmp_path / "page.html"
    peers = ["--peers", "np.einsum"]
    argv = ["bi,oij->bo", "--shapes", "4,3", "5,3,2", "--dtype", "f32", "--rounds", "5", *peers]
    assert command.main([*argv, "--out", str(out), "--html", str(page)]) == 0
    (row,) = read_results(out)
    assert {e.name for e in row.entries} == {"contract", "np.einsum"} and row.case.dtype == "float32"
    assert row.conditions["threads"] == 1 and row.limits["copy"] > 0 and len(row.program) == 16
    assert "np.einsum" in capfd.readouterr().out
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert command.main(["report", str(out)]) == 0
    assert "by group" not in capfd.readouterr().out
