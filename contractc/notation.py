"""The one parser: text and interleaved form -> Einsum."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any, NamedTuple, TypeGuard

from contractc import serial
from contractc.errors import EinsumError, pointed
from contractc.semirings import SEMIRINGS, semiring_named

ELLIPSIS = -1
"""Stands in a term for the axes an ellipsis covers; `bind` replaces it once ranks are known."""

BLANKS = " \t\n\r\f\v"
_NO_BLANKS = dict.fromkeys(map(ord, BLANKS))
_REFUSED = ("Cc", "Cf", "Cs")  # control, format and surrogate code points: invisible, or no character at all

Term = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Einsum:
    """An einsum expression without shapes.

    A mode is an int in order of first appearance (`ELLIPSIS` stands for the axes of an ellipsis). The
    user's labels and text are kept for printing and errors only, so `"ij,jk->ik"` and `"ab, bc -> ac"`
    are equal.
    """

    inputs: tuple[Term, ...]
    outputs: tuple[Term, ...]
    semiring: str = "sum_product"
    labels: tuple[str, ...] = field(default=(), compare=False)
    source: str = field(default="", compare=False, metadata={"stored": False})

    def __str__(self) -> str:
        return _render(self).text

    def faults(self) -> list[str]:
        """Return each rule this expression breaks, as a sentence; nothing means it is well formed."""
        found = []
        seen = dict.fromkeys(m for term in self.inputs for m in term if m != ELLIPSIS)
        if list(seen) != list(range(len(seen))):
            found.append("modes are not numbered in order of first appearance")
        if len(self.labels) not in (0, len(seen)):
            found.append(f"{len(self.labels)} labels for {len(seen)} modes")
        for term in (*self.inputs, *self.outputs):
            if term.count(ELLIPSIS) > 1:
                found.append(f"term {term} has more than one ellipsis")
        for term in self.outputs:
            found += [f"output mode {m} is in no operand" for m in term if m != ELLIPSIS and m not in seen]
        if not self.inputs or not self.outputs:
            found.append("no operands or no outputs")
        if self.semiring not in SEMIRINGS:
            found.append(f"no semiring is called {self.semiring!r}")
        return found

    def to_json(self) -> str:
        """Return this expression as canonical JSON, without the text it was written as."""
        return serial.dumps(self)

    @staticmethod
    def from_json(text: str) -> Einsum:
        """Return the expression in `text`; raises ValueError if it is none or breaks a rule."""
        expression: Einsum = serial.checked(serial.loads(text, (Einsum,)))
        return expression


class Written(NamedTuple):
    """An expression as text, and where in it each axis of each term stands.

    `axes[t][k]` is the position of axis k of term t, outputs counted after inputs; `starts[t]` is where
    term t begins.
    """

    text: str
    starts: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]


def parse(text: str, semiring: str = "sum_product") -> Einsum:
    """Return the expression that `text` denotes.

    Without `->` the output is every mode that occurs exactly once, in code-point order, after the ellipsis
    if there is one. Several outputs are separated by commas.

    Raises:
        EinsumError: with a caret under the offending characters.

    >>> str(parse("ij, jk"))
    'ij,jk->ik'
    """
    semiring_named(semiring)
    left, arrow, right = text.partition("->")
    if "->" in right:
        second = len(left) + 2 + right.index("->")
        raise EinsumError(pointed("more than one '->'", text, [len(left), len(left) + 1, second, second + 1]))
    numbers: dict[str, int] = {}
    inputs = _read_terms(text, 0, len(left), numbers)
    _check_letters(text, numbers)
    known = len(numbers)
    if arrow:
        outputs = _read_terms(text, len(left) + 2, len(text), numbers)
        for label in list(numbers)[known:]:
            at = text.index(label, len(left) + 2)
            if not _is_letter(label):
                raise EinsumError(pointed(_not_a_mode(label), text, [at]))
            raise EinsumError(pointed(f"output mode '{label}' is in no operand", text, [at]))
    else:
        outputs = (_implicit_output(inputs, numbers),)
    return Einsum(inputs, outputs, semiring, tuple(numbers), text)


def parse_interleaved(
    terms: Sequence[Iterable[Hashable | EllipsisType]],
    output: Iterable[Hashable | EllipsisType] | None = None,
    semiring: str = "sum_product",
) -> Einsum:
    """Return the expression of the interleaved form: one sequence of labels an operand.

    A label is anything hashable; `...` is the ellipsis. Without `output` the labels that occur exactly once
    form it, sorted, so they must be comparable then.

    Raises:
        EinsumError: an unhashable label, an output label that is in no operand, labels that cannot be sorted.

    >>> str(parse_interleaved([["left", "bond"], ["bond", "right"]]))
    'left bond, bond right -> left right'
    """
    semiring_named(semiring)
    numbers: dict[Hashable, int] = {}
    inputs = tuple(_number_labels(term, f"operand {k}", numbers) for k, term in enumerate(terms))
    known = len(numbers)
    if output is None:
        outputs = (_implicit_output(inputs, numbers),)
    else:
        outputs = (_number_labels(output, "the output", numbers),)
    expression = Einsum(inputs, outputs, semiring, tuple(display(label) for label in numbers))
    if len(numbers) > known:
        shown = written(expression)
        at = shown.axes[-1][outputs[0].index(known)]
        raise EinsumError(
            pointed(f"output mode '{expression.labels[known]}' is in no operand", shown.text, [at])
        )
    return expression


def labelled(expression: Einsum) -> Einsum:
    """Return `expression` with a label for each mode: `m0`, `m1`, ... if it has none."""
    if expression.labels:
        return expression
    return replace(expression, labels=tuple(f"m{k}" for k in range(1 + max((ELLIPSIS, *_modes(expression))))))


def written(expression: Einsum) -> Written:
    """Return `expression` as the user wrote it with the position of every axis (or normalised, if unwritten)."""
    return _scan(expression.source) if expression.source else _render(expression)


def numpy_refuses(expression: Einsum, *, in_range: bool = False) -> str | None:
    """Return why np.einsum refuses `expression` although contractc can evaluate it, or None.

    NumPy has one output without repeated modes, and (if `in_range`) labels from 0 to 51 in the interleaved
    form. Whether an ellipsis may be missing in the output depends on the ranks, so `network` tells that.
    """
    shown = written(expression)
    if in_range and not expression.source:
        for label in expression.labels:
            if not (label.isdecimal() and int(label) < 52):
                return pointed(f"label {label} is not one of 0 to 51; contract takes any", shown.text, ())
    if len(expression.outputs) > 1:
        second = shown.starts[len(expression.inputs) + 1]
        return pointed("einsum has one output; contract takes several", shown.text, [second - 1])
    (output,) = expression.outputs
    for mode, times in Counter(output).items():
        if times > 1:
            at = [shown.axes[-1][k] for k, m in enumerate(output) if m == mode]
            label = expression.labels[mode]
            return pointed(f"output mode '{label}' is repeated; contract accepts that", shown.text, at)
    return None


def _modes(expression: Einsum) -> Iterable[int]:
    return (m for term in expression.inputs for m in term)


def _read_terms(text: str, start: int, stop: int, numbers: dict[str, int]) -> tuple[Term, ...]:
    """Return the terms in `text[start:stop]`, giving every new letter the next number."""
    terms = []
    for raw in text[start:stop].split(","):
        if "." in raw:
            before, dots, after = raw.partition("...")
            if not dots or "." in before or "." in after:
                raise EinsumError(pointed(_bad_dots(raw), text, _dots(text, start, raw)))
            term = [_number(c, numbers) for c in before.translate(_NO_BLANKS)]
            term.append(ELLIPSIS)
            term += [_number(c, numbers) for c in after.translate(_NO_BLANKS)]
            terms.append(tuple(term))
        else:
            terms.append(tuple([_number(c, numbers) for c in raw.translate(_NO_BLANKS)]))
        start += len(raw) + 1
    return tuple(terms)


def _number(label: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(label, len(numbers))


def _bad_dots(raw: str) -> str:
    return "a term has at most one ellipsis" if raw.count("...") > 1 else "an ellipsis is three dots in a row"


def _dots(text: str, start: int, raw: str) -> list[int]:
    return [start + k for k, c in enumerate(raw) if c == "."]


def _check_letters(text: str, numbers: Iterable[str]) -> None:
    for label in numbers:
        if not _is_letter(label):
            raise EinsumError(pointed(_not_a_mode(label), text, [text.index(label)]))


def _not_a_mode(label: str) -> str:
    name = f"'{label}'" if label.isprintable() else f"U+{ord(label):04X}"
    return f"{name} is not a mode; modes are letters"


def _is_letter(label: str) -> bool:
    """Return whether `label` can be a mode in the text form."""
    if len(label) != 1:
        return False
    return label.isalpha() if label.isascii() else unicodedata.category(label) not in _REFUSED


def _number_labels(term: Iterable[Hashable | EllipsisType], where: str, numbers: dict[Hashable, int]) -> Term:
    if not _is_sequence(term):
        raise TypeError(f"the labels of {where} are {term!r:.80}, not a sequence")
    row = []
    for axis, label in enumerate(term):
        if label is Ellipsis:
            if ELLIPSIS in row:
                raise EinsumError(f"the labels of {where} have more than one ellipsis")
            row.append(ELLIPSIS)
            continue
        try:
            row.append(numbers.setdefault(label, len(numbers)))
        except TypeError:
            raise EinsumError(f"the label of {where}, axis {axis}, is not hashable: {label!r:.80}") from None
    return tuple(row)


def _is_sequence(term: object) -> TypeGuard[Iterable[Hashable]]:
    return isinstance(term, Iterable) and getattr(term, "shape", None) != ()


def _implicit_output(inputs: tuple[Term, ...], numbers: Mapping[Any, int]) -> Term:
    count = Counter(m for term in inputs for m in term)
    once = [label for label, mode in numbers.items() if count[mode] == 1]
    try:
        once.sort()
    except TypeError:
        raise EinsumError("these labels cannot be sorted, so the output has to be given") from None
    head = (ELLIPSIS,) if count[ELLIPSIS] else ()
    return (*head, *(numbers[label] for label in once))


def display(label: Hashable) -> str:
    """Return a label as one short printable word: labels are the user's, and not to be trusted."""
    text = "".join(c if c.isprintable() and c != " " else "?" for c in str(label)[:24])
    return text or "?"


def _render(expression: Einsum) -> Written:
    """Return the normal text: without blanks if every label is a letter, else labels with blanks between."""
    labels = labelled(expression).labels
    compact = all(map(_is_letter, labels))
    comma, arrow, gap = (",", "->", "") if compact else (", ", " -> ", " ")
    pieces: list[str] = []
    starts: list[int] = []
    axes: list[tuple[int, ...]] = []
    length = 0
    for number, term in enumerate((*expression.inputs, *expression.outputs)):
        if number:
            pieces.append(arrow if number == len(expression.inputs) else comma)
            length += len(pieces[-1])
        starts.append(length)
        row = []
        for place, mode in enumerate(term):
            pieces += [gap if place else "", "..." if mode == ELLIPSIS else labels[mode]]
            row.append(length + len(pieces[-2]))
            length = row[-1] + len(pieces[-1])
        axes.append(tuple(row))
    return Written("".join(pieces).rstrip(), tuple(starts), tuple(axes))


def _scan(text: str) -> Written:
    """Return where each axis of each term stands in a text that `parse` accepted."""
    starts, axes = [0], []
    row: list[int] = []
    at = 0
    while at < len(text):
        c = text[at]
        if c == ",":
            axes.append(tuple(row))
            row = []
            starts.append(at + 1)
        elif c == "-":
            axes.append(tuple(row))
            row = []
            at += 1
            starts.append(at + 1)
        elif c == ".":
            row.append(at)
            at += 2
        elif c not in BLANKS:
            row.append(at)
        at += 1
    axes.append(tuple(row))
    return Written(text, tuple(starts), tuple(axes))
