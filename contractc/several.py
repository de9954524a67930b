"""Several expressions over the same operands as one network, so that they share what they have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from contractc.errors import EinsumError, OperandError, UnsupportedError
from contractc.network import TensorNetwork
from contractc.notation import ELLIPSIS, Einsum, Term, labelled, parse

Members = tuple[tuple[int, ...], ...]
"""For each output the numbers of the operands it contracts."""


def is_several(expression: Any) -> TypeGuard[list[Any]]:
    """Return whether `expression` is a list of expressions: of texts, or of texts with the numbers of operands."""
    if not isinstance(expression, list) or not expression:
        return False
    texts = [item[0] if isinstance(item, tuple) and item else item for item in expression]
    return all(isinstance(text, str | Einsum) for text in texts)


def joined(expressions: Sequence[Any], count: int, semiring: str) -> tuple[Einsum, Members]:
    """Return one expression of all outputs, and which operands each output contracts.

    Args:
        expressions: each a text or an Einsum over all operands, or a pair of that and the numbers of the operands
            that its terms are. An operand has the same term wherever it is named.
        count: how many operands there are.

    Raises:
        EinsumError: an expression is wrong, or has not as many terms as operands.
        OperandError: an operand that no expression names, that is named twice, or has different terms.
    """
    terms: dict[int, tuple[Hashable, ...]] = {}
    first: dict[int, int] = {}
    outputs: list[tuple[Hashable, ...]] = []
    members: list[tuple[int, ...]] = []
    for k, item in enumerate(expressions):
        expression, numbers = item if isinstance(item, tuple) else (item, range(count))
        if isinstance(expression, str):
            expression = parse(expression, semiring)
        expression = labelled(expression)
        numbers = tuple(numbers)
        if len(numbers) != len(expression.inputs):
            raise EinsumError(
                f"expression {k} ({expression}) has {len(expression.inputs)} terms for {len(numbers)} operands"
            )
        for number, term in zip(numbers, expression.inputs, strict=True):
            if type(number) is not int or not 0 <= number < count:
                raise OperandError(f"expression {k} names operand {number}; there are {count} operands")
            if numbers.count(number) > 1:
                raise OperandError(f"expression {k} names operand {number} twice")
            mine = _labels(expression, term)
            if terms.setdefault(number, mine) != mine:
                raise OperandError(
                    f"operand {number} is '{_text(terms[number])}' in expression {first[number]} but '{_text(mine)}' "
                    f"in expression {k}; what is planned together has one term an operand"
                )
            first.setdefault(number, k)
        outputs += [_labels(expression, term) for term in expression.outputs]
        members += [tuple(sorted(numbers))] * len(expression.outputs)
    for number in range(count):
        if number not in terms:
            raise OperandError(f"operand {number} is in no expression")
    names = dict.fromkeys(label for number in range(count) for label in terms[number] if label is not ...)
    modes: dict[Hashable, int] = {label: m for m, label in enumerate(names)} | {...: ELLIPSIS}
    inputs = tuple(tuple(modes[label] for label in terms[number]) for number in range(count))
    wanted = tuple(tuple(modes[label] for label in term) for term in outputs)
    everything = tuple(range(count))
    whole = all(own == everything for own in members)
    if not whole and any(ELLIPSIS in term for term in inputs):
        raise EinsumError("an ellipsis needs all operands in every expression that is planned together")
    return Einsum(inputs, wanted, semiring, tuple(map(str, names))), () if whole else tuple(members)


def restricted(network: TensorNetwork, members: Members) -> TensorNetwork:
    """Return `network` with output o contracting the operands `members[o]` only; all of them if `members` is empty.

    Raises:
        UnsupportedError: operands held as factors, some of which are left out.
        OperandError: an output keeps a mode that is 1 in its own operands and larger in others.
    """
    if not members:
        return network
    if network.groups:
        raise UnsupportedError(
            "operands held as factors cannot be left out of an expression planned with others"
        )
    for own, term in zip(members, network.outputs, strict=True):
        held = {m for k in own for m in network.tensors[k].modes}
        for m in term:
            if m not in held:
                raise OperandError(
                    f"mode '{network.label(m)}' of an output is 1 in the operands {list(own)} but "
                    f"{network.extents[m]} in others; broadcast it first, or plan that expression alone"
                )
    return replace(network, contracted=members)


def _labels(expression: Einsum, term: Term) -> tuple[Hashable, ...]:
    return tuple(... if m == ELLIPSIS else expression.labels[m] for m in term)


def _text(term: Sequence[Hashable]) -> str:
    labels = ["..." if label is ... else str(label) for label in term]
    return ("" if all(len(label) == 1 or label == "..." for label in labels) else " ").join(labels)
