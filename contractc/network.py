"""TensorNetwork: an expression bound to operands, with broadcasting and ellipses resolved."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from contractc import serial
from contractc.dtypes import is_dtype, itemsize, result_dtype, to_numpy
from contractc.errors import OperandError, ResourceLimitError, pointed
from contractc.evaluation import Array, evaluate_einsum
from contractc.notation import ELLIPSIS, Einsum, Term, display, labelled, written
from contractc.operands import CHOICES, Operand
from contractc.semirings import SEMIRINGS

if TYPE_CHECKING:
    import networkx


MOST_TENSORS = 20_000
"""More tensors than this are refused: planning them would take longer than anybody waits."""

MOST_AXES = 100_000
"""More axes of all tensors together than this are refused, for the same reason."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A node of the network: its modes axis by axis (a mode may be repeated), dtype, and how it is used.

    `given` are the modes of the user's array where they differ: an axis may be split into several modes. Of
    `trained` tensors the gradient will be asked for, which is part of what an order costs. A `unit` tensor is no
    operand: it is the unit matrix of its two given modes, and joins two ways to split one mode.
    """

    modes: Term
    dtype: str
    constant: bool = False
    conj: bool = False
    given: Term = ()
    trained: bool = False
    unit: bool = False


@dataclass(frozen=True, slots=True)
class TensorNetwork:
    """Tensors that share modes, and the outputs wanted of them.

    Mode m has extent `extents[m]` in every tensor that has it: an axis that broadcasts has a mode of its
    own, of extent 1. `dynamic` modes vary from call to call; their extent here is for planning only.
    `groups` lists the tensors that are the factors of one factorized operand; `fused` are the outputs as the
    user's arrays have them, where modes were split for such operands. `forced` has for each group the choice that
    the user made for it ("" for none; empty if there is none at all).

    Output o contracts the tensors `contracted[o]`, all of them where that is empty; along a mode that none of
    these has it is constant. The conjugate is meant of the outputs `conjugated`: so are gradients written.
    """

    tensors: tuple[Tensor, ...]
    outputs: tuple[Term, ...]
    extents: tuple[int, ...]
    dtype: str
    semiring: str = "sum_product"
    dynamic: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    fused: tuple[Term, ...] = ()
    forced: tuple[str, ...] = ()
    contracted: tuple[tuple[int, ...], ...] = ()
    conjugated: tuple[int, ...] = ()
    labels: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        tensors, modes = len(self.tensors), len(self.extents)
        head = f"{tensors} tensor{'s' * (tensors != 1)}, {modes} mode{'s' * (modes != 1)}, {self.semiring}"
        lines = [f"network ({head})"]
        for k, tensor in enumerate(self.tensors):
            notes = [
                word
                for word, on in (
                    ("constant", tensor.constant and not tensor.unit),
                    ("conj", tensor.conj),
                    ("trained", tensor.trained),
                    ("unit matrix: a reshape", tensor.unit),
                )
                if on
            ]
            notes += [f"factor of group {g}" for g, members in enumerate(self.groups) if k in members]
            tail = f"  # {', '.join(notes)}" if notes else ""
            lines.append(f"  {k}: {typed(tensor.dtype, tensor.modes, self)}{tail}")
        for o, term in enumerate(self.outputs):
            notes = [f"of {' '.join(map(str, self.members(o)))}"] if self.contracted else []
            notes += ["conj"] if o in self.conjugated else []
            lines.append(f"  -> {typed(self.dtype, term, self)}{'  # ' * bool(notes)}{', '.join(notes)}")
        return "\n".join(lines)

    def faults(self) -> list[str]:
        """Return each rule this network breaks, as a sentence; nothing means it is well formed."""
        found = []
        known = range(len(self.extents))
        present = {m for t in self.tensors for m in t.modes}
        for k, tensor in enumerate(self.tensors):
            found += [f"tensor {k} has mode {m}, which has no extent" for m in tensor.modes if m not in known]
            found += [f"tensor {k} has dtype {tensor.dtype!r}"] * (not is_dtype(tensor.dtype))
        for term in self.outputs:
            found += [f"output mode {m} is in no tensor" for m in term if m not in present]
        found += [
            f"mode {m} has extent {n}" for m, n in enumerate(self.extents) if type(n) is not int or n < 0
        ]
        found += [f"the results have dtype {self.dtype!r}"] * (not is_dtype(self.dtype))
        found += [f"no semiring is called {self.semiring!r}"] * (self.semiring not in SEMIRINGS)
        found += [f"dynamic mode {m} does not exist" for m in self.dynamic if m not in known]
        found += [
            f"group member {t} does not exist" for g in self.groups for t in g if t >= len(self.tensors)
        ]
        if self.forced and len(self.forced) != len(self.groups):
            found.append(f"{len(self.forced)} choices for {len(self.groups)} groups")
        found += [f"{choice!r:.20} is no choice" for choice in self.forced if choice not in CHOICES]
        for k, tensor in enumerate(self.tensors):
            if tensor.given and self.size(tensor.given) != self.size(tensor.modes):
                found.append(
                    f"tensor {k} has {self.size(tensor.given)} elements but its modes {tensor.modes} another number"
                )
            if tensor.unit and not (tensor.constant and len(tensor.given) == 2):
                found.append(f"unit tensor {k} is no constant matrix")
        if self.fused and [self.size(t) for t in self.fused] != [self.size(t) for t in self.outputs]:
            found.append("the fused outputs have another number of elements than the outputs")
        if not self.tensors or not self.outputs:
            found.append("no tensors or no outputs")
        if self.contracted and len(self.contracted) != len(self.outputs):
            found.append(f"tensors of {len(self.contracted)} outputs for {len(self.outputs)} outputs")
        for o, members in enumerate(self.contracted):
            whole = members and list(members) == sorted(set(members)) and members[-1] < len(self.tensors)
            found += [f"output {o} contracts the tensors {members}, which are not some of them"] * (not whole)
        found += [
            f"output {o}, which is conjugated, does not exist"
            for o in self.conjugated
            if not 0 <= o < len(self.outputs)
        ]
        if self.labels and len(self.labels) != len(self.extents):
            found.append(f"{len(self.labels)} labels for {len(self.extents)} modes")
        return found

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs, slowly: tensors are combined in input order. The meaning of a network."""
        whole = self.with_units(arrays)
        tensors = [x.reshape(self.shape(t.modes)) for x, t in zip(whole, self.tensors, strict=True)]

        def contraction(members: Sequence[int], outputs: Sequence[Term]) -> tuple[Array, ...]:
            return evaluate_einsum(
                [self.tensors[k].modes for k in members],
                outputs,
                self.extents,
                [tensors[k] for k in members],
                dtypes=[self.dtype] * len(outputs),
                semiring=self.semiring,
                conj=[self.tensors[k].conj for k in members],
            )

        if self.contracted:
            results = [contraction(self.members(o), [term])[0] for o, term in enumerate(self.outputs)]
        else:
            results = list(contraction(range(len(tensors)), self.outputs))
        results = [x.conj() if o in self.conjugated else x for o, x in enumerate(results)]
        return tuple(x.reshape(self.shape(term)) for x, term in zip(results, self.results(), strict=True))

    def with_units(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the arrays of all tensors: those of the operands, and the unit matrices."""
        left = iter(arrays)
        whole = [self.unit(k) if t.unit else next(left) for k, t in enumerate(self.tensors)]
        return [*whole, *left]

    def unit(self, number: int) -> Array:
        """Return the array of a unit tensor, as it is given."""
        tensor = self.tensors[number]
        return np.eye(self.extents[tensor.given[0]], dtype=to_numpy(tensor.dtype))

    def unit_halves(self, number: int) -> tuple[Term, Term]:
        """Return the modes of a unit tensor's rows and of its columns."""
        tensor, half = self.tensors[number], 1
        while self.size(tensor.modes[:half]) < self.extents[tensor.given[0]]:
            half += 1
        return tensor.modes[:half], tensor.modes[half:]

    def reshaped(self, ids: Sequence[int], terms: Sequence[Term], out: Term) -> tuple[int, Term, Term] | None:
        """Return what a step only reshapes: the place of that operand in `ids`, its modes that go, those that come.

        So it is with a unit tensor and another one that has all modes of one half of it. None if the step does more.
        """
        count = len(self.tensors)
        at = next((k for k, i in enumerate(ids) if i < count and self.tensors[i].unit), None)
        if at is None or len(ids) != 2:
            return None
        term = terms[ids[1 - at]]
        halves = self.unit_halves(ids[at])
        for one, two in (halves, halves[::-1]):
            found = (*(m for m in term if m not in one), *two)
            plain = all(len(set(modes)) == len(modes) for modes in (term, out, found))
            if plain and set(one) <= set(term) and set(out) == set(found):
                return 1 - at, one, two
        return None

    def members(self, output: int) -> tuple[int, ...]:
        """Return the tensors that an output contracts."""
        return self.contracted[output] if self.contracted else tuple(range(len(self.tensors)))

    def results(self) -> tuple[Term, ...]:
        """Return the outputs as the user's arrays have them: modes that were split are whole again."""
        return self.fused or self.outputs

    def label(self, mode: int) -> str:
        """Return the user's label of `mode`."""
        return self.labels[mode] if self.labels else f"m{mode}"

    def shape(self, modes: Term) -> tuple[int, ...]:
        """Return the extents of `modes`."""
        return tuple([self.extents[m] for m in modes])

    def size(self, modes: Iterable[int]) -> int:
        """Return the number of elements of a tensor with these `modes` (a Python int: it cannot wrap)."""
        size = 1
        for m in modes:
            size *= self.extents[m]
        return size

    def bytes_of_inputs(self) -> int:
        """Return the bytes of all operands together, as if each were dense in memory; unit tensors are none."""
        return sum(self.size(t.modes) * itemsize(t.dtype) for t in self.tensors if not t.unit)

    def graph(self) -> networkx.Graph:
        """Return a networkx view: nodes `("tensor", k)` and `("mode", label)`, an edge per incidence."""
        import networkx

        graph = networkx.MultiGraph()
        for k, tensor in enumerate(self.tensors):
            graph.add_node(("tensor", k), modes=tensor.modes, dtype=tensor.dtype, bipartite=0)
        for mode, extent in enumerate(self.extents):
            graph.add_node(("mode", mode), label=self.label(mode), extent=extent, bipartite=1)
        for k, tensor in enumerate(self.tensors):
            for axis, mode in enumerate(tensor.modes):
                graph.add_edge(("tensor", k), ("mode", mode), axis=axis)
        return graph

    def to_json(self) -> str:
        """Return this network as canonical JSON."""
        return serial.dumps(self)

    @staticmethod
    def from_json(text: str) -> TensorNetwork:
        """Return the network in `text`; raises ValueError if it is none or breaks a rule."""
        network: TensorNetwork = serial.checked(serial.loads(text, NETWORK_CLASSES))
        return network


NETWORK_CLASSES = (TensorNetwork, Tensor)


_SHORT = {"float": "f", "int": "i", "uint": "u", "complex": "c", "bfloat": "bf"}


def typed(dtype: str, modes: Term, network: Any) -> str:
    """Return a tensor's type as printed everywhere, such as `f32[i=3, j=4]`; a dynamic extent has `~`."""
    kind = dtype.rstrip("0123456789")
    short = _SHORT.get(kind, kind) + dtype[len(kind) :]
    dynamic = set(network.dynamic)
    axes = (f"{network.label(m)}={'~' if m in dynamic else ''}{network.extents[m]}" for m in modes)
    return f"{short}[{', '.join(axes)}]"


def bind(
    expression: Einsum, operands: Sequence[Operand], dtype: str, dynamic: Iterable[Hashable] = ()
) -> TensorNetwork:
    """Return the network of `expression` over `operands` whose dtypes promote to `dtype`.

    Here, and only here, ellipses get their modes and extent 1 is broadcast: an axis of extent 1 whose mode
    is larger in another operand gets a mode of its own, of extent 1. Inside one term nothing broadcasts.

    Args:
        dynamic: labels of the modes whose extent varies from call to call.

    Raises:
        OperandError: count, ranks or extents do not fit, with both sides in the user's labels.
        ResourceLimitError: more than `MOST_TENSORS` operands, or `MOST_AXES` axes.
    """
    expression = labelled(expression)
    if len(operands) != len(expression.inputs):
        wanted, given = len(expression.inputs), len(operands)
        verb = "operand was" if given == 1 else "operands were"
        message = f"the expression has {wanted} term{'s' * (wanted != 1)} but {given} {verb} given"
        raise OperandError(
            pointed(message, written(expression).text, ()) if given else "no operands were given"
        )
    check_count(len(operands), sum(len(o.shape) for o in operands))
    terms, labels = _expand_ellipses(expression, operands)
    extents = _unify(expression, operands, terms, labels)
    tensors = []
    for operand, term in zip(operands, terms, strict=True):
        modes = list(term)
        fresh: dict[int, int] = {}
        for axis, (mode, extent) in enumerate(zip(term, operand.shape, strict=True)):
            if extent == 1 and extents[mode] != 1:
                modes[axis] = fresh.setdefault(mode, len(extents) + len(fresh))
        extents += [1] * len(fresh)
        labels += [labels[mode] for mode in fresh]
        tensors.append(
            Tensor(tuple(modes), operand.dtype, operand.constant, operand.conj, trained=operand.trained)
        )
    varying = {t.modes[axis] for t, o in zip(tensors, operands, strict=True) for axis in o.varying}
    first = len(expression.labels)
    covered = tuple(range(first, first + _ellipsis_rank(expression, operands)))
    outputs = tuple(_expand(term, covered) for term in expression.outputs)
    return TensorNetwork(
        tuple(tensors),
        outputs,
        tuple(extents),
        result_dtype(expression.semiring, dtype),
        expression.semiring,
        tuple(sorted({*_dynamic_modes(expression, dynamic), *varying})),
        labels=tuple(labels),
    )


def check_count(operands: int, axes: int = 0) -> None:
    """Raise ResourceLimitError if there are more operands, or axes of all of them together, than are planned."""
    if operands > MOST_TENSORS:
        raise ResourceLimitError(f"{operands} operands; at most {MOST_TENSORS} are planned")
    if axes > MOST_AXES:
        raise ResourceLimitError(
            f"{operands} operands with {axes} axes; at most {MOST_AXES} axes are planned"
        )


def ellipsis_left_out(expression: Einsum, operands: Sequence[Operand]) -> bool:
    """Return whether an ellipsis covers axes that the output does not mention (np.einsum refuses that)."""
    in_output = all(ELLIPSIS in term for term in expression.outputs)
    return not in_output and _ellipsis_rank(expression, operands) > 0


def _ellipsis_rank(expression: Einsum, operands: Sequence[Operand]) -> int:
    """Return how many axes the longest ellipsis covers."""
    covered = (
        len(operand.shape) - len(term) + 1
        for term, operand in zip(expression.inputs, operands, strict=True)
        if ELLIPSIS in term
    )
    return max(covered, default=0)


def _expand(term: Term, covered: Term) -> Term:
    if ELLIPSIS not in term:
        return term
    at = term.index(ELLIPSIS)
    return (*term[:at], *covered, *term[at + 1 :])


def _expand_ellipses(expression: Einsum, operands: Sequence[Operand]) -> tuple[list[Term], list[str]]:
    """Return the term of each operand with one mode an axis, and the labels of all modes."""
    rank = _ellipsis_rank(expression, operands)
    first = len(expression.labels)
    terms = []
    for number, (term, operand) in enumerate(zip(expression.inputs, operands, strict=True)):
        axes, least = len(operand.shape), len(term) - (ELLIPSIS in term)
        if axes < least or (axes > least and ELLIPSIS not in term):
            raise OperandError(_rank_message(expression, number, axes, least))
        terms.append(_expand(term, tuple(range(first + rank - (axes - least), first + rank))))
    return terms, [*expression.labels, *(f"...{k}" for k in range(rank))]


def _rank_message(expression: Einsum, number: int, axes: int, modes: int) -> str:
    shown = written(expression)
    marks = shown.axes[number] or (shown.starts[number],)
    plural = "es" if axes != 1 else "is"
    at_least = "at least " if ELLIPSIS in expression.inputs[number] else ""
    message = (
        f"operand {number} has {axes} ax{plural} but its term has {at_least}{modes} mode{'s' * (modes != 1)}"
    )
    return pointed(message, shown.text, marks)


def _unify(
    expression: Einsum, operands: Sequence[Operand], terms: Sequence[Term], labels: Sequence[str]
) -> list[int]:
    """Return the extent of each mode; 1 gives way to any other extent of another operand."""
    extents = [1] * len(labels)
    where: list[tuple[int, int] | None] = [None] * len(labels)
    for number, (term, operand) in enumerate(zip(terms, operands, strict=True)):
        own: dict[int, int] = {}
        for axis, (mode, extent) in enumerate(zip(term, operand.shape, strict=True)):
            if own.setdefault(mode, axis) != axis and operand.shape[own[mode]] != extent:
                raise OperandError(
                    _extent_message(expression, operands, mode, (number, own[mode]), (number, axis))
                )
            if extent == 1:
                where[mode] = where[mode] or (number, axis)
            elif extents[mode] == 1:
                extents[mode], where[mode] = extent, (number, axis)
            elif extents[mode] != extent:
                first = where[mode]
                assert first is not None
                raise OperandError(_extent_message(expression, operands, mode, first, (number, axis)))
    return extents


def _extent_message(
    expression: Einsum, operands: Sequence[Operand], mode: int, one: tuple[int, int], two: tuple[int, int]
) -> str:
    """Return the message for a mode with different extents at (operand, axis) `one` and `two`."""
    shown = written(expression)
    named = mode < len(expression.labels)
    name = f"mode '{expression.labels[mode]}'" if named else "an ellipsis axis"
    marks = []
    for number, axis in (one, two):
        term = expression.inputs[number]
        at = term.index(ELLIPSIS) if ELLIPSIS in term else len(term)
        if not named:
            marks += [shown.axes[number][at] + dot for dot in range(3)]
        else:
            covered = len(operands[number].shape) - len(term) + 1
            marks.append(shown.axes[number][axis if axis < at else axis - covered + 1])
    sides = [
        f"{operands[number].shape[axis]} in operand {number} (axis {axis})" for number, axis in (one, two)
    ]
    return pointed(f"{name} is {sides[0]} but {sides[1]}", shown.text, marks)


def _dynamic_modes(expression: Einsum, dynamic: Iterable[Hashable]) -> Term:
    modes = []
    for label in dynamic:
        name = display(label)
        found = [m for m, other in enumerate(expression.labels) if other == name]
        if len(found) != 1:
            problem = "is in no operand" if not found else "could be any of several modes that print alike"
            raise OperandError(pointed(f"dynamic mode '{name}' {problem}", written(expression).text, ()))
        modes += found
    return tuple(sorted(set(modes)))
