"""What is run on a GPU: the classes of kernels, the TCCG contractions, layers held as factors, a sliced circuit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

FOLDER = Path(__file__).parent / "cases"
TINY = 3
"""The largest extent of tiny cases, which an interpreter runs."""


@dataclass(frozen=True, slots=True)
class Case:
    """One contraction: its group and name, text, shapes, dtype; whether it is differentiated too."""

    group: str
    name: str
    text: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    backward: bool = False
    precision: str = "default"

    def products(self) -> int:
        """Return the products that a loop over all modes forms."""
        terms = self.text.partition("->")[0].split(",")
        return prod(
            {
                m: n for t, s in zip(terms, self.shapes, strict=True) for m, n in zip(t, s, strict=True)
            }.values()
        )


TABLE: tuple[tuple[str, str, str, str, bool], ...] = (
    ("plain product", "ik,kj->ij", "4096 4096 4096", "bfloat16", True),
    ("transposed batch", "bij,bkj->bki", "64 1024 64 1024", "bfloat16", True),
    ("attention scores", "bshd,bthd->bhst", "4 2048 16 64 2048", "bfloat16", True),
    ("Hadamard and reduce", "nc,nc->n", "1048576 64", "float32", True),
    ("permute", "abcd->dbca", "64 96 64 128", "float32", False),
    ("reduce", "abc->ca", "1024 256 512", "float32", False),
    ("many tiny modes", "zab,zbc->zac", "67108864 2 2 2", "float32", False),
    ("one-qubit gate", "hil,oi->hol", "16384 2 16384 2", "complex64", False),
    ("five-qubit gate", "hil,oi->hol", "8192 32 1024 32", "complex64", False),
    ("complex product", "ij,jk->ik", "4096 4096 4096", "complex64", False),
    (
        "tensor train 64^4",
        "bijkl,iar,rjcs,sket,tlg->baceg",
        "16 64 64 64 64 64 16 64 16 64 16 64",
        "bfloat16",
        True,
    ),
    ("tensor train, two cores", "bij,iar,rjc->bac", "4096 64 64 64 16 64", "bfloat16", True),
    ("low rank", "bi,ir,ro->bo", "4096 1024 16 1024", "bfloat16", True),
    ("Monarch", "bij,jik,ikl->bkl", "4096 64 64 64 64", "bfloat16", True),
    ("bilinear", "bi,oij,bj->bo", "512 128 64 128", "bfloat16", True),
    ("Clebsch-Gordan", "zui,zuj,ijk->zuk", "4096 128 9 9 9", "float32", True),
    ("MTTKRP mode 1", "ijk,jr,kr->ir", "256 256 256 32", "float32", True),
    ("MTTKRP mode 2", "ijk,ir,kr->jr", "256 256 256 32", "float32", True),
    ("weighted Gram", "ni,n,nj->ij", "100000 64 64", "float32", True),
    ("ternary", "ig,ij,jg->g", "4096 4096 256", "float32", True),
    ("linear-attention state", "bsd,bse,bte->btd", "64 1024 64 64 1024", "bfloat16", True),
)
"""Name, expression, extents in order of the modes, dtype, whether backward is timed too."""

CIRCUIT = (6, 6, 12)
"""Rows and columns of qubits, and cycles, of the circuit of which one amplitude is contracted."""

CIRCUIT_LIMIT = 2**31
"""Bytes in which it is contracted, so that it is sliced."""


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the contractions of plain tensors; with `tiny` no extent is above `TINY`."""
    for name, text, extents, dtype, backward in TABLE:
        modes = dict.fromkeys(c for c in text if c.isalpha())
        sizes = dict(zip(modes, map(int, extents.split()), strict=True))
        yield _case("table", name, text, sizes, dtype, tiny, backward)
    for item in json.loads((FOLDER / "tccg.json").read_text())["cases"]:
        sizes = {}
        for term, shape in zip(item["text"].partition("->")[0].split(","), item["shapes"], strict=True):
            sizes |= dict(zip(term, shape, strict=True))
        for dtype in ("float32", "bfloat16"):
            yield _case("tccg", item["name"], item["text"], sizes, dtype, tiny)


def _case(
    group: str, name: str, text: str, sizes: dict[str, int], dtype: str, tiny: bool, backward: bool = False
) -> Case:
    shapes = tuple(
        tuple(min(TINY, sizes[c]) if tiny else sizes[c] for c in term)
        for term in text.partition("->")[0].split(",")
    )
    return Case(group, name, text, shapes, dtype, backward)


def circuit(tiny: bool) -> tuple[str, str, list[tuple[int, ...]], int]:
    """Return name, text, shapes and memory limit of the circuit; with `tiny` of a ring of three small tensors."""
    if tiny:
        return "ring", "abc,cde,eba->d", [(2,) * 3] * 3, 300
    rows, columns, cycles = CIRCUIT
    terms = amplitude(rows, columns, cycles)
    text = ",".join("".join(chr(0x4E00 + m) for m in term) for term in terms) + "->"
    return f"circuit {rows}x{columns}, {cycles} cycles", text, [(2,) * len(t) for t in terms], CIRCUIT_LIMIT


def amplitude(rows: int, columns: int, cycles: int) -> list[tuple[int, ...]]:
    """Return the modes of the tensors of one amplitude of a circuit on a grid of qubits.

    Each cycle has gates of two qubits on every second bond of one direction, in the order ABCDCDAB of F. Arute et
    al., "Quantum supremacy using a programmable superconducting processor" (2019); gates of one qubit are part of
    them, and the states at both ends part of the first and the last gate of a qubit.
    """
    wires: dict[int, int] = {}
    gates: list[list[int]] = []
    fresh = 0
    for cycle in range(cycles):
        side, odd = {"A": (0, 0), "B": (0, 1), "C": (1, 0), "D": (1, 1)}["ABCDCDAB"[cycle % 8]]
        for r in range(rows):
            for c in range(columns):
                other = (r + 1, c) if side == 0 else (r, c + 1)
                if other[0] >= rows or other[1] >= columns or (r + c) % 2 != odd:
                    continue
                gate = []
                for q in (r * columns + c, other[0] * columns + other[1]):
                    gate += [wires[q]] if q in wires else []
                    wires[q], fresh = fresh, fresh + 1
                    gate.append(wires[q])
                gates.append(gate)
    last = set(wires.values())
    return [tuple(m for m in gate if m not in last) for gate in gates]
