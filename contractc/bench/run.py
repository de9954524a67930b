"""One case measured: every contestant's first call, the checks, the interleaved rounds, one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from contractc.api import compile, plan
from contractc.bench import limits as machine_limits
from contractc.bench.cases import Array, Case, operands
from contractc.bench.measure import WARM, WARM_OPERAND, Call, Clock, interleaved, timed
from contractc.bench.peers import OURS, PEERS, Peer, error, in_order, put_in_order, to_array, truth
from contractc.bench.stats import Ratio, paired
from contractc.dtypes import itemsize
from contractc.executable import Executable
from contractc.lower.seconds import program_seconds
from contractc.plans import Plan
from contractc.providers.known import this_machine
from contractc.serial import digest

DROP_FACTOR = 4.0
"""A peer whose call takes this many times the best peer's so far cannot become the best, and is not timed further."""

SLOW = 0.1
"""Seconds from which on a call is made once before it is judged."""

DROP_SECONDS = 20.0
"""Nor is a peer timed whose first call takes this long."""


@dataclass(frozen=True, slots=True)
class Entry:
    """How one contestant did. Seconds of a call are (median, lower quartile, upper quartile) over the rounds.

    `first` is the seconds of planning, compiling and the first call. `raw` is for the result as the library
    returns it, `contiguous` for one in C order; the ratios are to `contract`, paired. `error` is the difference
    from the truth over what rounding explains. `out` says why a contestant was not timed; its `raw` then holds
    the seconds of the calls it made, if any.
    """

    name: str
    ours: bool = False
    first: float | None = None
    raw: tuple[float, float, float] | None = None
    contiguous: tuple[float, float, float] | None = None
    ratio: Ratio | None = None
    ratio_contiguous: Ratio | None = None
    error: float | None = None
    out: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A case and how its contestants did; `skipped` says why it was not measured at all.

    `program` is the digest of contractc's program, `ways` what its steps run as. `flops` and `traffic` (bytes) are
    those of its plan, `predicted` the seconds of its steps as they run, `read` and `written` the bytes of the operands
    (of a repeated mode the diagonal) and of the results.
    """

    case: Case
    entries: tuple[Entry, ...] = ()
    rounds: int = 0
    program: str = ""
    ways: tuple[str, ...] = ()
    flops: int = 0
    traffic: int = 0
    read: int = 0
    written: int = 0
    predicted: float = 0.0
    skipped: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def entry(self, name: str) -> Entry | None:
        """Return the contestant of that name, or None."""
        return next((e for e in self.entries if e.name == name), None)

    def best(self, *, contiguous: bool, without: Sequence[str] = ()) -> Entry | None:
        """Return the fastest peer that is not in `without`, or None if no peer was timed."""
        timed_ones = [
            (seconds, e)
            for e in self.entries
            if not e.ours and not e.out and e.name not in without
            for seconds in [e.contiguous if contiguous else e.raw]
            if seconds is not None
        ]
        return min(timed_ones, key=lambda pair: pair[0][0])[1] if timed_ones else None

    def fraction_of_limit(self) -> float | None:
        """Return the least seconds the machine could take over those of `contract` in C order, or None."""
        ours = self.entry(OURS)
        if ours is None or ours.contiguous is None or not self.limits:
            return None
        least = machine_limits.least_seconds(
            self.limits, self.flops, self.read, self.written, self.case.dtype
        )
        return least / ours.contiguous[0]

    def to_json(self) -> dict[str, Any]:
        """Return this result as JSON primitives, without what is empty."""
        found: dict[str, Any] = _pruned(asdict(self))
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Result:
        """Return the result that `to_json` turned into `data`."""
        case = dict(data["case"])
        case["shapes"] = tuple(map(tuple, case["shapes"]))
        rest = dict(data)
        rest["case"] = Case(**case)
        rest["entries"] = tuple(_entry(row) for row in data.get("entries", ()))
        rest["ways"] = tuple(data.get("ways", ()))
        return Result(**rest)


def _entry(row: Mapping[str, Any]) -> Entry:
    made = dict(row)
    made |= {key: tuple(made[key]) for key in ("raw", "contiguous") if key in made}
    made |= {key: Ratio(*made[key]) for key in ("ratio", "ratio_contiguous") if key in made}
    return Entry(**made)


def _pruned(data: Any) -> Any:
    """Return `data` without what the fields are anyway if nothing is given: None, False, empty texts and tables."""
    if isinstance(data, dict):
        kept = {key: _pruned(value) for key, value in data.items()}
        return {key: value for key, value in kept.items() if value or type(value) in (int, float)}
    return [_pruned(x) for x in data] if isinstance(data, list | tuple) else data


def measure_case(
    case: Case,
    *,
    rounds: int = 21,
    budget: float = 3.0,
    memory: int = 2 * 10**9,
    names: Sequence[str] = (),
    peers: Sequence[Peer] = PEERS,
    limits: Mapping[str, float] | None = None,
    conditions: Mapping[str, Any] | None = None,
    clock: Clock = perf_counter,
) -> Result:
    """Return how the contestants do on `case`.

    Args:
        rounds, budget: rounds at most, and the seconds they may take.
        memory: bytes that operands, result and intermediates may take together; a larger case is skipped.
        names: the contestants, all that are not slow to start if empty; `contract` always takes part.
        limits, conditions: stored with the result.
    """
    planned = plan(case.text, *case.shapes, dtype=case.dtype)
    network = planned.network
    about: dict[str, Any] = {
        "flops": planned.flops,
        "traffic": planned.traffic,
        "read": sum(network.size(set(t.modes)) * itemsize(t.dtype) for t in network.tensors),
        "written": sum(map(network.size, network.outputs)) * itemsize(network.dtype),
        "predicted": planned.seconds,
        "limits": dict(limits or {}),
        "conditions": dict(conditions or {}),
    }
    if planned.peak > memory:
        return Result(
            case, skipped=f"needs {planned.peak / 1e9:.3g} GB, more than {memory / 1e9:.3g}", **about
        )
    arrays = operands(case)
    try:
        expected = truth(case, arrays)
    except ValueError as reason:
        return Result(case, skipped=f"no truth to compare with: {reason}", **about)
    started, entries = _started(case, arrays, expected, names, peers, clock)
    compiled = compile(case.text, *arrays)
    about |= {"program": digest(compiled.program)[:16], "ways": compiled.notes}
    about["predicted"] = _predicted(compiled, planned)
    calls = {(name, kind): call for name, ways in started.items() for kind, call in ways.items()}
    found = interleaved(
        {f"{name}|{kind}": call for (name, kind), call in calls.items()},
        rounds,
        budget=budget,
        seed=case.seed,
        warm_seconds=WARM + WARM_OPERAND * len(case.shapes),
        clock=clock,
    )
    count = len(next(iter(found.values()), ()))
    return Result(case, tuple(_with_times(e, found) for e in entries), count, **about)


def _predicted(compiled: Executable, planned: Plan) -> float:
    """Return the predicted seconds of a call: of the NumPy program's steps as they run, else of the plan's."""
    if compiled.target.backend == "numpy":
        found = program_seconds(compiled.program, this_machine())
        if isfinite(found):
            return found
    return planned.seconds


def _started(
    case: Case,
    arrays: Sequence[Array],
    expected: Array,
    names: Sequence[str],
    peers: Sequence[Peer],
    clock: Clock,
) -> tuple[dict[str, dict[str, Call]], list[Entry]]:
    """Return the calls of each contestant that goes into the rounds, and what is known of all of them."""
    started: dict[str, dict[str, Call]] = {}
    entries: list[Entry] = []
    best = {"raw": float("inf"), "contiguous": float("inf")}
    for peer in peers:
        if peer.name != OURS and (peer.name not in names if names else peer.asked):
            continue
        reason = peer.absent(case)
        if reason is not None:
            entries.append(Entry(peer.name, peer.ours, out=reason))
            continue
        if (least := peer.least(case)) > DROP_FACTOR * max(best.values()):
            entries.append(Entry(peer.name, peer.ours, out=f"would take {least:.2g} s a call at least"))
            continue
        try:
            converted = peer.convert(arrays)
            (call, result), first = timed(lambda p=peer, x=converted: _first(p, case, x), clock)  # type: ignore[misc]
        except Exception as failure:
            # whatever a library raises for a case says why it takes no part
            message = f"{type(failure).__name__}: {failure}".splitlines()[0]
            entries.append(Entry(peer.name, peer.ours, out=f"refuses: {message:.160}"))
            continue
        wrong = error(case, to_array(result), expected)
        raw_in_order = in_order(result)
        del result
        entry = Entry(peer.name, peer.ours, first, error=wrong)
        if wrong > 1:
            entries.append(
                _leaving(entry, first, f"wrong: {wrong:.3g} times the error that rounding explains")
            )
            continue
        if not peer.ours and first > DROP_SECONDS:
            entries.append(_leaving(entry, first, f"its first call took {first:.3g} s"))
            continue
        ways = {"raw": call}
        if not raw_in_order:
            ways["contiguous"] = _ordered(peer, case, converted, call)
        again = {kind: _quickest(way, clock) for kind, way in ways.items()}
        ordered = again.get("contiguous", again["raw"])
        if not peer.ours:
            factor = min(again["raw"] / best["raw"], ordered / best["contiguous"])
            if factor > DROP_FACTOR:
                entries.append(_leaving(entry, again["raw"], f"takes {factor:.1f} times the best so far"))
                continue
            best["raw"] = min(best["raw"], again["raw"])
            best["contiguous"] = min(best["contiguous"], ordered)
        started[peer.name] = ways
        entries.append(entry)
    return started, entries


def _first(peer: Peer, case: Case, arrays: Sequence[Any]) -> tuple[Call, Any]:
    call = peer.start(case, arrays)
    return call, call()


def _quickest(call: Call, clock: Clock) -> float:
    """Return the seconds of the fastest of a few calls: of one if it is slow, since noise only adds."""
    seconds = timed(call, clock)[1]
    return seconds if seconds > SLOW else min(seconds, *(timed(call, clock)[1] for _ in range(3)))


def _ordered(peer: Peer, case: Case, arrays: Sequence[Any], call: Call) -> Call:
    """Return the call whose result is in C order: the peer's own way, or a copy after the call."""
    if peer.contiguous is not None:
        return peer.contiguous(case, arrays)
    return lambda: put_in_order(call())


def _leaving(entry: Entry, seconds: float, reason: str) -> Entry:
    return Entry(
        entry.name, entry.ours, entry.first, (seconds, seconds, seconds), error=entry.error, out=reason
    )


def _with_times(entry: Entry, found: Mapping[str, Sequence[float]]) -> Entry:
    """Return `entry` with its times and its ratios to `contract`; a raw result in order counts as contiguous."""
    raw = found.get(f"{entry.name}|raw")
    if raw is None:
        return entry
    ordered = found.get(f"{entry.name}|contiguous", raw)
    ours = found.get(f"{OURS}|raw")
    ours_ordered = found.get(f"{OURS}|contiguous", ours)
    return Entry(
        entry.name,
        entry.ours,
        entry.first,
        _summary(raw),
        _summary(ordered),
        paired(ours, raw) if ours else None,
        paired(ours_ordered, ordered) if ours_ordered else None,
        entry.error,
    )


def _summary(seconds: Sequence[float]) -> tuple[float, float, float]:
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return median(seconds), low, high
