"""Plan: in which order the tensors of a network are contracted, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log10
from operator import index

from contractc import serial
from contractc.evaluation import Array, evaluate_einsum
from contractc.network import NETWORK_CLASSES, TensorNetwork, typed
from contractc.notation import Term

Path = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Alternative:
    """What may be done with the operands held as factors: a choice for each, and what it costs.

    The costs are those of the value, with the gradients where tensors of the network are trained; units as in
    `Plan`.
    """

    choices: tuple[str, ...]
    seconds: float
    flops: int
    traffic: int
    peak: int


@dataclass(frozen=True, slots=True)
class Plan:
    """An order of contraction.

    `path` is in SSA form: tensors have the ids 0..n-1, step s makes the id n+s from the ids it names; an id
    may be used by several steps. `results[o]` is the id of output o, made by a step of its own. Modes in
    `sliced` are looped over outside of all steps.

    Costs are predictions for all slices together: `seconds` on the machine model's machine; `flops` in
    opt_einsum's convention (a multiplication is 1, an addition is 1); `traffic` in bytes, every operand of a
    step read once and its result written once; `peak` in bytes of everything alive at once, inputs included.
    `moves` are those of annealing that find this plan again; empty if none were made.

    `others` are paths of other good orders that the search has met, for `tune=True` to time.

    `alternatives` are the choices for operands held as factors that were priced, the one taken among them. The
    seconds of the value are those that the one taken was priced at.
    """

    network: TensorNetwork
    path: Path
    results: tuple[int, ...]
    sliced: Term = ()
    choices: tuple[str, ...] = ()
    search: str = ""
    seconds: float = 0.0
    flops: int = 0
    traffic: int = 0
    peak: int = 0
    moves: tuple[int, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    others: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return step_table(self)

    def faults(self) -> list[str]:
        """Return each rule this plan breaks, as a sentence; nothing means it is well formed."""
        found = self.network.faults()
        count = len(self.network.tensors)
        used: set[int] = set()
        for s, ids in enumerate(self.path):
            if not ids:
                found.append(f"step {s} contracts nothing")
            found += [f"step {s} uses %{i} before it is made" for i in ids if not 0 <= i < count + s]
            if len(set(ids)) != len(ids):
                found.append(f"step {s} uses an id twice")
            used.update(ids)
        if len(self.results) != len(self.network.outputs):
            found.append(f"{len(self.results)} results for {len(self.network.outputs)} outputs")
        for o, i in enumerate(self.results):
            if not count <= i < count + len(self.path):
                found.append(f"output {o} is %{i}, which no step makes")
            elif i in used or self.results.count(i) > 1:
                found.append(f"%{i} is output {o} and something else; an output has a step of its own")
        for o, (covered, twice) in enumerate(_leaves(self)) if not found else ():
            if covered != _mask(self.network.members(o)) or twice:
                listed = [k for k in range(count) if covered >> k & 1]
                again = f", {[k for k in listed if twice >> k & 1]} more than once" * bool(twice)
                wanted = len(self.network.members(o))
                found.append(f"output {o} contracts the tensors {listed}{again}, not each of {wanted} once")
        for other in self.others if len(self.results) == 1 else ():
            root = count + len(other) - 1
            beside = replace(self, path=other, results=(root,), others=())
            found += [f"another order: {fault}" for fault in beside.faults()]
        dynamic = [m for m in self.sliced if m in self.network.dynamic]
        found += [
            f"sliced mode {m} does not exist"
            for m in self.sliced
            if m not in range(len(self.network.extents))
        ]
        found += [f"sliced mode {m} is dynamic" for m in dynamic]
        missing = {m for m in self.sliced if m in range(len(self.network.extents))}
        missing.difference_update(sliceable(self.network))
        found += [f"sliced mode {m} is in no tensor of some output" for m in sorted(missing)]
        return found

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs, slowly: step by step with the slow evaluator (slicing does not change values)."""
        network = self.network
        whole = network.with_units(arrays)
        values = [x.reshape(network.shape(t.modes)) for x, t in zip(whole, network.tensors, strict=True)]
        terms = self.terms()
        dtypes = [t.dtype for t in network.tensors]
        conj = [t.conj for t in network.tensors]
        for s, ids in enumerate(self.path):
            out = terms[len(network.tensors) + s]
            (value,) = evaluate_einsum(
                [terms[i] for i in ids],
                [out],
                network.extents,
                [values[i] for i in ids],
                dtypes=[network.dtype],
                semiring=network.semiring,
                conj=[i < len(conj) and conj[i] for i in ids],
            )
            values.append(value)
            dtypes.append(network.dtype)
        for o in network.conjugated:
            values[self.results[o]] = values[self.results[o]].conj()
        wanted = zip(self.results, network.results(), strict=True)
        return tuple(values[i].reshape(network.shape(term)) for i, term in wanted)

    def terms(self) -> tuple[Term, ...]:
        """Return the modes of every id: tensors as they are, then the result of each step.

        A step keeps the modes that an output, or another operand further on, still needs.
        """
        return kept_terms(self.network, self.path, self.results)

    def to_json(self) -> str:
        """Return this plan as canonical JSON.

        Beside the plan stands its path as opt_einsum writes it, under `opt_einsum_path`, for other programs to
        read; `optimize=` takes it. A path with shared steps has no such form, and none stands there.
        """
        text = serial.dumps(self)
        try:
            path = [list(step) for step in self.linear_path()]
        except ValueError:
            return text
        return f'{text[:-1]},"opt_einsum_path":{json.dumps(path, separators=(",", ":"))}}}'

    @staticmethod
    def from_json(text: str) -> Plan:
        """Return the plan in `text`; raises ValueError if it is none or breaks a rule."""
        plan: Plan = serial.checked(serial.loads(text, PLAN_CLASSES))
        return plan

    def linear_path(self) -> list[tuple[int, ...]]:
        """Return the path as opt_einsum and NumPy write it: positions in a list that shrinks.

        Raises:
            ValueError: an id is used more than once (several outputs), which that form cannot say.
        """
        alive = list(range(len(self.network.tensors)))
        path = []
        for s, ids in enumerate(self.path):
            try:
                places = tuple(sorted(alive.index(i) for i in ids))
            except ValueError:
                raise ValueError("a path with shared steps has no linear form") from None
            for place in reversed(places):
                alive.pop(place)
            alive.append(len(self.network.tensors) + s)
            path.append(places)
        return path


PLAN_CLASSES = (Plan, Alternative, *NETWORK_CLASSES)


def kept_terms(network: TensorNetwork, path: Path, results: Sequence[int]) -> tuple[Term, ...]:
    """Return the modes of every id of an SSA `path` over `network`; see `Plan.terms`."""
    count = len(network.tensors)
    covered = [_mask(t.modes) for t in network.tensors]
    for ids in path:
        mask = 0
        for i in ids:
            mask |= covered[i]
        covered.append(mask)
    needed = [0] * len(covered)
    for i, term in zip(results, network.outputs, strict=True):
        needed[i] |= _mask(term)
    for s in range(len(path) - 1, -1, -1):
        ids, above = path[s], needed[count + s]
        before = 0
        after = [0] * len(ids)
        for k in range(len(ids) - 2, -1, -1):
            after[k] = after[k + 1] | covered[ids[k + 1]]
        for k, i in enumerate(ids):
            needed[i] |= (above | before | after[k]) & covered[i]
            before |= covered[i]
    terms: list[Term] = [t.modes for t in network.tensors]
    outputs = dict(zip(results, network.outputs, strict=True))
    for s, ids in enumerate(path):
        if count + s in outputs:
            terms.append(outputs[count + s])
            continue
        mask = needed[count + s]
        terms.append(tuple(dict.fromkeys(m for i in ids for m in terms[i] if mask >> m & 1)))
    return tuple(terms)


def ssa_from_linear(path: Sequence[Sequence[int]], count: int) -> Path:
    """Return the SSA form of a linear path (opt_einsum's, NumPy's) over `count` tensors.

    Tensors left over at the end are contracted in one last step; negative positions count from the end.

    Raises:
        ValueError: a step names a position that does not exist, or one twice.
    """
    alive = list(range(count))
    steps: list[tuple[int, ...]] = []
    for at, step in enumerate(path):
        try:
            places = sorted({index(k) + len(alive) * (index(k) < 0) for k in step})
        except TypeError:
            raise ValueError(f"step {at} of the path is {step!r:.60}, not positions of tensors") from None
        if not places or len(places) != len(step) or not 0 <= places[0] <= places[-1] < len(alive):
            raise ValueError(f"step {at} of the path contracts {tuple(step)!r:.60} of {len(alive)} tensors")
        steps.append(tuple(alive[k] for k in places))
        for k in reversed(places):
            alive.pop(k)
        alive.append(count + at)
    if len(alive) > 1 or not steps:
        steps.append(tuple(alive))
    return tuple(steps)


def step_table(plan: Plan) -> str:
    """Return the table that `print(plan)` shows: one line a step, then the totals."""
    network, terms = plan.network, plan.terms()
    count = len(network.tensors)
    rows: list[tuple[str, ...]] = [("step", "einsum", "result", "flops")]
    text = _term_writer(network)
    for s, ids in enumerate(plan.path):
        einsum = ",".join(text(terms[i]) for i in ids) + "->" + text(terms[count + s])
        result = typed(network.dtype, terms[count + s], network)
        inner = {m for i in ids for m in terms[i]}
        if not plan.sliced and network.reshaped(ids, terms, terms[count + s]) is not None:
            rows.append((f"%{count + s} = {' '.join(f'%{i}' for i in ids)}", einsum, result, "reshape"))
            continue
        flops = network.size(inner) * (max(1, len(ids) - 1) + (not inner <= set(terms[count + s])))
        rows.append((f"%{count + s} = {' '.join(f'%{i}' for i in ids)}", einsum, result, count_text(flops)))
    widths = [max(len(row[c]) for row in rows) for c in range(3)]
    lines = [
        "  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    plural = "s" * (len(plan.path) != 1)
    head = (
        f"plan by {plan.search or 'hand'}: {len(plan.path)} step{plural}, {network.semiring}, {network.dtype}"
    )
    if plan.sliced:
        slices = count_text(network.size(plan.sliced))
        names = " ".join(f"{network.label(m)}={network.extents[m]}" for m in plan.sliced)
        head += f", in {slices} slices over {names}"
    for group, choice in zip(network.groups, plan.choices, strict=False):
        head += f"\n  factors {' '.join(f'%{k}' for k in group)}: {choice}"
    for k, tensor in enumerate(network.tensors):
        if tensor.unit:
            one, two = (" ".join(map(network.label, half)) for half in network.unit_halves(k))
            head += f"\n  %{k}: reshape of {one} to {two}"
    if plan.alternatives:
        head += _alternatives_text(plan)
    total = (
        f"{count_text(plan.flops)} flops, {bytes_text(plan.traffic)} traffic, {bytes_text(plan.peak)} peak, "
        f"{seconds_text(plan.seconds)} predicted"
    )
    return "\n".join([head, *lines, total])


def _alternatives_text(plan: Plan) -> str:
    """Return a line for each choice that was priced, the least seconds first; the one taken has a star."""
    both = " with gradients" * any(t.trained for t in plan.network.tensors)
    rows = [("", "choice", f"predicted{both}", "flops", "traffic", "peak")]
    for a in sorted(plan.alternatives, key=lambda a: a.seconds):
        costs = seconds_text(a.seconds), count_text(a.flops), bytes_text(a.traffic), bytes_text(a.peak)
        rows.append(("*" * (a.choices == plan.choices), ", ".join(a.choices), *costs))
    widths = [max(len(row[c]) for row in rows) for c in range(6)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "".join(f"\n  {line}" for line in lines)


def choices_told(plan: Plan) -> list[str]:
    """Return a line for each operand held as factors: what is made of it, and why that."""
    network, lines = plan.network, []
    with_gradients = " with gradients" * any(t.trained for t in network.tensors)
    for g, (group, choice) in enumerate(zip(network.groups, plan.choices, strict=False)):
        others = [a for a in plan.alternatives if a.choices[g] != choice]
        if network.forced and network.forced[g]:
            why = "as asked for"
        elif others:
            taken = min(
                (a.seconds for a in plan.alternatives if a.choices == plan.choices), default=plan.seconds
            )
            best = min(others, key=lambda a: a.seconds)
            why = f"{seconds_text(taken)} predicted{with_gradients}, {best.choices[g]} {seconds_text(best.seconds)}"
            why += f", but {bytes_text(best.peak)} at its peak" * (best.seconds < taken)
        elif plan.alternatives:
            why = "there is no other way"
        else:
            why = "as the order asked for has it"
        lines.append(f"factors {' '.join(f'%{k}' for k in group)}: {choice}; {why}")
    return lines


def count_text(count: int) -> str:
    """Return a number with three digits, such as `1.2e+07`; unlike a float it may have thousands of them."""
    if count < 10**300:
        return f"{count:.3g}"
    exponent = int(log10(count))
    return f"{10 ** (log10(count) - exponent):.3g}e+{exponent}"


def bytes_text(count: int) -> str:
    """Return a number of bytes as people read it, such as `1.5 MB` (powers of 1000)."""
    if count >= 10**21:
        return f"{count_text(count)} bytes"
    scaled, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"]
    while scaled >= 1000 and len(units) > 1:
        scaled /= 1000
        units.pop(0)
    return f"{scaled:.3g} {units[0]}"


def exact_bytes_text(count: int) -> str:
    """Return a number of bytes in full and as people read it, such as `1500000 bytes (1.5 MB)`."""
    return f"{count} bytes ({bytes_text(count)})" if 1000 <= count < 10**21 else bytes_text(count)


def seconds_text(seconds: float) -> str:
    """Return a time as people read it, such as `12 us`."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def _term_writer(network: TensorNetwork) -> Callable[[Term], str]:
    labels = [network.label(m) for m in range(len(network.extents))]
    gap = "" if all(len(label) == 1 or label.startswith("...") for label in labels) else " "
    return lambda term: gap.join(labels[m] for m in term)


def _mask(modes: Term) -> int:
    mask = 0
    for m in modes:
        mask |= 1 << m
    return mask


def sliceable(network: TensorNetwork) -> range | set[int]:
    """Return the modes that a loop around all outputs may run over.

    An output that has no tensor with the mode, and does not keep it, would be added up once for each position.
    """
    modes: range | set[int] = range(len(network.extents))
    for o, term in enumerate(network.outputs if network.contracted else ()):
        own = {m for k in network.members(o) for m in network.tensors[k].modes}
        modes = (own | set(term)).intersection(modes)
    return modes


def _leaves(plan: Plan) -> list[tuple[int, int]]:
    """Return for each output the set of tensors it contracts, and of those it contracts more than once."""
    covered = [(1 << k, 0) for k in range(len(plan.network.tensors))]
    for ids in plan.path:
        leaves = twice = 0
        for i in ids:
            twice |= leaves & covered[i][0] | covered[i][1]
            leaves |= covered[i][0]
        covered.append((leaves, twice))
    return [covered[i] for i in plan.results]
