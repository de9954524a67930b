"""Operands held as factors become tensors of the network: their axes are split into modes everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from contractc.errors import OperandError, UnsupportedError
from contractc.network import Tensor, TensorNetwork
from contractc.notation import Term
from contractc.operands import Layout, Operand


def expanded(network: TensorNetwork, operands: Sequence[Operand]) -> TensorNetwork:
    """Return `network` with each tensor whose operand has a layout replaced by its factors.

    A mode that a factorized operand splits is split in every tensor and output that has it: into the coarsest
    pieces that all operands agree on. `Tensor.given` and `TensorNetwork.fused` keep the modes as the user's
    arrays have them; lowering reshapes at both ends. The factors of an operand form a group.

    Where operands split a mode in ways that have no common pieces, such as 4x6 and 6x4, each has pieces of its own,
    and a unit tensor joins them: it is the reshape from one to the other, which the plan puts where it costs least.

    Raises:
        UnsupportedError: the semiring is not the one in which factors make a dense array.
        OperandError: a dynamic mode is split.
    """
    if all(o.layout is None for o in operands):
        return network
    if network.semiring != "sum_product":
        format_ = next(o.layout.format for o in operands if o.layout)
        raise UnsupportedError(
            f"{format_} operands are sums of products, which {network.semiring} cannot contract"
        )
    grown = _Grown(network)
    pieces, own, units = _pieces(grown, operands)
    tensors: list[Tensor] = []
    groups: list[Term] = []
    for number, (operand, tensor) in enumerate(zip(operands, network.tensors, strict=True)):
        if operand.layout is None:
            modes = _split(tensor.modes, pieces)
            tensors.append(replace(tensor, modes=modes, given=() if modes == tensor.modes else tensor.modes))
            continue
        factors = _factors(grown, operand.layout, tensor, own, number)
        groups.append(tuple(range(len(tensors), len(tensors) + len(factors))))
        tensors += factors
    choices = tuple(o.layout.choice for o in operands if o.layout)
    outputs = tuple(_split(term, pieces) for term in network.outputs)
    return replace(
        network,
        tensors=(*tensors, *units),
        outputs=outputs,
        fused=() if outputs == network.outputs else network.outputs,
        groups=tuple(groups),
        forced=choices if any(choices) else (),
        extents=tuple(grown.extents),
        labels=tuple(grown.labels),
    )


class _Grown:
    """The modes of a network while new ones are added."""

    def __init__(self, network: TensorNetwork) -> None:
        self.network = network
        self.extents = list(network.extents)
        self.labels = list(network.labels)

    def add(self, extent: int, label: str) -> int:
        """Add a mode and return its number."""
        self.extents.append(extent)
        self.labels.append(label)
        return len(self.extents) - 1


def _split(term: Term, pieces: dict[int, Term]) -> Term:
    return tuple(piece for m in term for piece in pieces.get(m, (m,)))


Own = dict[tuple[int, int], Term]
"""The pieces of each axis of a factorized operand, by the numbers of both."""


def _pieces(grown: _Grown, operands: Sequence[Operand]) -> tuple[dict[int, Term], Own, list[Tensor]]:
    """Return the new modes that each split mode becomes, those that an axis has, and the unit tensors between them."""
    splits: dict[int, dict[tuple[int, int], tuple[int, ...]]] = {}
    for number, (operand, tensor) in enumerate(zip(operands, grown.network.tensors, strict=True)):
        for axis, mode in enumerate(tensor.modes if operand.layout else ()):
            assert operand.layout is not None
            sizes = tuple(operand.layout.extents[m] for m in operand.layout.axes[axis])
            splits.setdefault(mode, {})[number, axis] = sizes
    pieces: dict[int, Term] = {}
    own: Own = {}
    units: list[Tensor] = []
    for mode, ways in splits.items():
        families: list[list[int]] = []
        member = {place: _joined(families, _cuts(sizes)) for place, sizes in ways.items()}
        if len(families) == 1 and len(families[0]) < 2:
            own |= dict.fromkeys(ways, (mode,))
            continue
        label = grown.network.label(mode)
        if mode in grown.network.dynamic:
            raise OperandError(f"mode '{label}' is dynamic, but operand {next(iter(ways))[0]} splits it")
        terms: list[list[Term]] = []
        every = _runs(families)
        for f, runs in enumerate(every):
            terms.append([])
            for r, cuts in enumerate(runs):
                if f and cuts == every[0][r]:
                    terms[f].append(terms[0][r])
                    continue
                start = sum(map(len, terms[f]))
                steps = enumerate(zip(cuts, cuts[1:], strict=False), start)
                name = label + "'" * f
                run = tuple(grown.add(high // low, f"{name}.{k}") for k, (low, high) in steps)
                units += [_unit(grown, terms[0][r], run, label)] if f else []
                terms[f].append(run)
        whole = [tuple(m for run in runs for m in run) for runs in terms]
        pieces[mode] = whole[0]
        own |= {place: whole[f] for place, f in member.items()}
    return pieces, own, units


def _runs(families: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Return the cuts of each family, from one cut that all have to the next, with both ends."""
    common = [1, *sorted(set(families[0]).intersection(*families[1:]))]
    return [
        [
            [low, *(c for c in cuts if low < c < high), high]
            for low, high in zip(common, common[1:], strict=False)
        ]
        for cuts in families
    ]


def _unit(grown: _Grown, one: Term, other: Term, label: str) -> Tensor:
    """Return the tensor that is one where the positions along `one` and along `other` are the same element."""
    extent = prod(grown.extents[m] for m in one)
    rows, columns = (grown.add(extent, f"{label}.{k}") for k in "rc")
    return Tensor((*one, *other), grown.network.dtype, constant=True, given=(rows, columns), unit=True)


def _cuts(sizes: Sequence[int]) -> list[int]:
    """Return the products of extents, from the slowest on, at which an axis is cut; of an empty axis only its end."""
    found = list(dict.fromkeys(prod(sizes[: k + 1]) for k, n in enumerate(sizes) if n != 1))
    return [0] if 0 in found else found


def _joined(families: list[list[int]], cuts: list[int]) -> int:
    """Return the place of the first of `families` with which `cuts` have common pieces, having joined it."""
    for f, family in enumerate(families):
        both = sorted({*family, *cuts})
        if all(low and high % low == 0 for low, high in zip(both, both[1:], strict=False)):
            families[f] = both
            return f
    families.append(cuts)
    return len(families) - 1


def _factors(grown: _Grown, layout: Layout, tensor: Tensor, pieces: Own, number: int) -> list[Tensor]:
    """Return the tensors of a factorized operand."""
    inner: dict[int, Term] = {}
    for place, axis in enumerate(layout.axes):
        left = list(pieces[number, place])
        for m in axis:
            own: list[int] = []
            size = 1
            while size < layout.extents[m] and left:
                own.append(left.pop(0))
                size *= grown.extents[own[-1]]
            inner[m] = tuple(own)
        inner[axis[-1]] += tuple(left)  # pieces of extent 1, which no mode had to take
    given: dict[int, int] = {}
    for m, extent in enumerate(layout.extents):
        if m not in inner:
            given[m] = grown.add(extent, f"{number}.{m}")
            inner[m] = (given[m],)
        elif len(inner[m]) == 1:
            given[m] = inner[m][0]
        else:
            given[m] = grown.add(extent, f"{number}.{m}")
    made = []
    for term in layout.terms:
        modes = tuple(piece for m in term for piece in inner[m])
        own_modes = tuple(given[m] for m in term)
        made.append(replace(tensor, modes=modes, given=() if modes == own_modes else own_modes))
    return made
