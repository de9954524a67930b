"""Operands held as factors become tensors of the network: their axes are split into modes everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contractc.errors import OperandError, UnsupportedError
from contractc.network import Tensor, TensorNetwork
from contractc.notation import Term
from contractc.operands import Layout, Operand


def expanded(network: TensorNetwork, operands: Sequence[Operand]) -> TensorNetwork:
    """Return `network` with each tensor whose operand has a layout replaced by its factors.

    A mode that a factorized operand splits is split in every tensor and output that has it: into the coarsest
    pieces that all operands agree on. `Tensor.given` and `TensorNetwork.fused` keep the modes as the user's
    arrays have them; lowering reshapes at both ends. The factors of an operand form a group.

    Raises:
        UnsupportedError: the semiring is not the one in which factors make a dense array.
        OperandError: two operands split a mode in ways that have no common pieces, or a dynamic mode is split.
    """
    if all(o.layout is None for o in operands):
        return network
    if network.semiring != "sum_product":
        format_ = next(o.layout.format for o in operands if o.layout)
        raise UnsupportedError(
            f"{format_} operands are sums of products, which {network.semiring} cannot contract"
        )
    grown = _Grown(network)
    pieces = _pieces(grown, operands)
    tensors: list[Tensor] = []
    groups: list[Term] = []
    for number, (operand, tensor) in enumerate(zip(operands, network.tensors, strict=True)):
        if operand.layout is None:
            modes = _split(tensor.modes, pieces)
            tensors.append(replace(tensor, modes=modes, given=() if modes == tensor.modes else tensor.modes))
            continue
        factors = _factors(grown, operand.layout, tensor, pieces, number)
        groups.append(tuple(range(len(tensors), len(tensors) + len(factors))))
        tensors += factors
    choices = tuple(o.layout.choice for o in operands if o.layout)
    outputs = tuple(_split(term, pieces) for term in network.outputs)
    return replace(
        network,
        tensors=tuple(tensors),
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


def _pieces(grown: _Grown, operands: Sequence[Operand]) -> dict[int, Term]:
    """Return the new modes that each split mode becomes."""
    splits: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for number, (operand, tensor) in enumerate(zip(operands, grown.network.tensors, strict=True)):
        for axis, mode in enumerate(tensor.modes if operand.layout else ()):
            assert operand.layout is not None
            sizes = tuple(operand.layout.extents[m] for m in operand.layout.axes[axis])
            splits.setdefault(mode, []).append((sizes, number))
    pieces: dict[int, Term] = {}
    for mode, ways in splits.items():
        cuts = _cuts(grown, mode, ways)
        if len(cuts) > 1:
            if mode in grown.network.dynamic:
                label, by = grown.network.label(mode), ways[0][1]
                raise OperandError(f"mode '{label}' is dynamic, but operand {by} splits it")
            label = grown.network.label(mode)
            steps = zip([1, *cuts], cuts, strict=False)
            pieces[mode] = tuple(
                grown.add(high // low, f"{label}.{k}") for k, (low, high) in enumerate(steps)
            )
    return pieces


def _cuts(grown: _Grown, mode: int, ways: Sequence[tuple[tuple[int, ...], int]]) -> list[int]:
    """Return the products of extents, from the slowest on, at which a mode is cut by any operand."""
    found: dict[int, int] = {}
    for sizes, number in ways:
        product = 1
        for n in sizes:
            product *= n
            if n != 1:
                found.setdefault(product, number)
    cuts = sorted(found)
    for low, high in zip(cuts, cuts[1:], strict=False):
        if low == 0 or high % low:
            one, two = found[low], found[high]
            ways_of = {number: "x".join(map(str, sizes)) for sizes, number in ways}
            label = grown.network.label(mode)
            raise OperandError(
                f"mode '{label}' is split as {ways_of[one]} by operand {one} but as {ways_of[two]} by operand {two}, "
                "which have no common pieces; make one of them dense with to_dense()"
            )
    return cuts


def _factors(
    grown: _Grown, layout: Layout, tensor: Tensor, pieces: dict[int, Term], number: int
) -> list[Tensor]:
    """Return the tensors of a factorized operand."""
    inner: dict[int, Term] = {}
    for mode, axis in zip(tensor.modes, layout.axes, strict=True):
        left = list(pieces.get(mode, (mode,)))
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
