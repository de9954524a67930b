"""Hypothesis strategies: einsum expressions, extents, operands of every dtype and memory layout."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import reference
from reference import Label, Term

MAX_POSITIONS = 500
"""The reference loops over at most this many global positions; larger draws are shrunk to it."""

LETTERS: tuple[Sequence[Label], ...] = ("ijklmn", "zyxwvu", "aBcAbC", "bDdaZA")
NUMBERS: tuple[Sequence[Label], ...] = ((0, 1, 2, 3, 4, 5), (51, 3, 26, 25, 7, 0))
FOREIGN: tuple[Sequence[Label], ...] = ("αβγδεζ", "×é字Ωab", "αaβbZА")
HASHABLES: tuple[Sequence[Label], ...] = (
    ("row", "column", "rank", "x", "é", ""),
    (("q", 0), ("q", 1), -1, 10**20, b"raw", frozenset({1})),
)

BOOL = ("bool",)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
COMPLEX = ("complex64", "complex128")
DTYPES = BOOL + INTEGERS + FLOATS + COMPLEX
LAYOUTS = (
    "C", "C", "F", "permuted", "reversed", "step", "broadcast", "read-only", "unaligned", "swapped", "window",
    "list",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A call: `outputs` is None where it is implicit; `form` is text, list (of operands) or interleaved."""

    inputs: tuple[Term, ...]
    outputs: tuple[Term, ...] | None
    operands: tuple[Any, ...]
    form: str = "text"
    blanks: str = ""

    @property
    def terms(self) -> tuple[Term, ...]:
        """The output terms, also where they are implicit."""
        return self.outputs if self.outputs is not None else (reference.implicit(self.inputs),)

    @property
    def text(self) -> str:
        """The expression as text with `blanks` between its tokens."""
        tokens = [",".join(map(_word, self.inputs))]
        if self.outputs is not None:
            tokens += ["->", ",".join(map(_word, self.outputs))]
        if not self.blanks:
            return "".join(tokens)
        spread = "".join(tokens).replace("->", ">").replace("...", ".")
        spaced = self.blanks + self.blanks.join(spread) + self.blanks
        return spaced.replace(">", "->").replace(".", "...")

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The positional arguments of the call."""
        if self.form == "text":
            return (self.text, *self.operands)
        if self.form == "list":
            return (self.text, list(self.operands))
        pairs = [part for x, term in zip(self.operands, self.inputs, strict=True) for part in (x, list(term))]
        if self.outputs is not None:
            (output,) = self.outputs
            pairs.append(list(output))
        return tuple(pairs)

    def __repr__(self) -> str:
        lines = [f"{self.form}: {self.inputs} -> {self.outputs}"]
        if self.form != "interleaved":
            lines.append(f"text {self.text!r}")
        for x in self.operands:
            a = x if hasattr(x, "dtype") else np.asarray(x)
            strides = a.strides if isinstance(a, np.ndarray) else a.stride()
            values = a.tolist() if math.prod(a.shape) <= 12 else "..."
            lines.append(f"{type(x).__name__} {a.dtype} shape {tuple(a.shape)} strides {strides}: {values}")
        return "\n    ".join(lines)


def _word(term: Term) -> str:
    return "".join("..." if label is Ellipsis else str(label) for label in term)


@st.composite
def expressions(
    draw: st.DrawFn, *, extended: bool = False, broadcasting: bool = True, max_operands: int = 6
) -> tuple[Case, list[tuple[int, ...]]]:
    """Draw a call without operands, and the shapes its operands must have.

    `extended` adds what np.einsum refuses: repeated output modes, several outputs, an ellipsis left out of
    the output, letters beyond ASCII and any hashable labels.
    """
    form = draw(
        st.sampled_from(
            ("text", "text", "interleaved", "list") if extended else ("text", "text", "interleaved")
        )
    )
    alphabets = NUMBERS if form == "interleaved" else LETTERS
    if extended:
        alphabets += HASHABLES if form == "interleaved" else FOREIGN
    labels = draw(st.sampled_from(alphabets))
    count = draw(st.integers(1, max_operands))
    if form == "list" and count == 1:
        form = "text"  # a list of one array is one operand, as in np.einsum
    pool = draw(st.integers(1, len(labels)))
    terms = [
        [labels[k] for k in draw(st.lists(st.integers(0, pool - 1), max_size=4))]  # repeats are wanted
        for _ in range(count)
    ]
    extents: dict[Label, int] = {
        label: draw(st.sampled_from((2, 3, 4, 2, 3, 1, 1, 0))) for label in labels[:pool]
    }
    ranks = [0] * count
    inputs: list[Term] = [tuple(term) for term in terms]
    if draw(st.integers(0, 2)) == 0:
        rank = draw(st.integers(0, 2))
        extents |= {(Ellipsis, k + 1): draw(st.sampled_from((2, 3, 1, 2, 0))) for k in range(rank)}
        for n, term in enumerate(terms):
            ranks[n] = draw(st.integers(-1, rank))  # -1: no ellipsis in this term
            if ranks[n] >= 0:
                at = draw(st.integers(0, len(term)))
                inputs[n] = (*term[:at], Ellipsis, *term[at:])
    spelled = [
        [
            part
            for label in term
            for part in (
                [(Ellipsis, ranks[n] - k) for k in range(ranks[n])] if label is Ellipsis else [label]
            )
        ]
        for n, term in enumerate(inputs)
    ]
    _shrink(extents, {label for term in spelled for label in term})
    ones = draw(st.integers(0, 2 ** (3 * count) - 1)) if broadcasting and draw(st.integers(0, 2)) == 0 else 0
    shapes = []
    for term in spelled:
        single = {label for k, label in enumerate(dict.fromkeys(term)) if ones >> (k % 3) & 1}
        ones >>= 3
        shapes.append(tuple(1 if label in single else extents[label] for label in term))
    outputs = draw(_outputs(inputs, extents, ranks, form, extended))
    blanks = draw(st.sampled_from(("", "", " ", "  ")))
    return Case(tuple(inputs), outputs, (), form, blanks), shapes


def _shrink(extents: dict[Label, int], used: set[Label]) -> None:
    """Lower the largest extents until the reference has at most MAX_POSITIONS positions."""
    while math.prod(max(extents[label], 1) for label in used) > MAX_POSITIONS:
        largest = max(sorted(used, key=repr), key=lambda label: extents[label])
        extents[largest] -= 1


@st.composite
def _outputs(
    draw: st.DrawFn,
    inputs: list[Term],
    extents: dict[Label, int],
    ranks: list[int],
    form: str,
    extended: bool,
) -> tuple[Term, ...] | None:
    used = list(dict.fromkeys(label for term in inputs for label in term if label is not Ellipsis))
    dotted = max(ranks) > 0 or (any(Ellipsis in term for term in inputs) and draw(st.booleans()))
    kind = draw(st.integers(0, 9))
    if kind <= 1 and not any(isinstance(label, tuple | bytes | frozenset) for label in used):
        return None
    found: list[Term] = []
    for _ in range(draw(st.integers(2, 3)) if extended and kind == 9 and form != "interleaved" else 1):
        kept = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
        if extended and kind >= 7 and kept:
            kept = [*kept, kept[draw(st.integers(0, len(kept) - 1))]]
            if math.prod(extents[label] for label in kept) > 4 * MAX_POSITIONS:
                kept = kept[:-1]
        if dotted and not (extended and kind == 6):
            at = draw(st.integers(0, len(kept)))
            kept = [*kept[:at], Ellipsis, *kept[at:]]
        found.append(tuple(kept))
    return tuple(found)


def values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, style: str, bound: float = 2.0
) -> np.ndarray:
    """Return an array of `dtype`: `dyadic` quarters, `full` mantissas, or `extreme` integers (any there is).

    Floats and small integers lie within `bound`.
    """
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.asarray(rng.random(shape) < 0.6)
    if kind in "iu":
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if style == "extreme" else (max(info.min, -int(bound)), int(bound))
        return np.asarray(rng.integers(low, high, size=shape, dtype=dtype, endpoint=True))

    def real() -> np.ndarray:
        if style == "full":
            return rng.uniform(-bound, bound, size=shape)
        return rng.integers(-int(4 * bound), int(4 * bound), size=shape, endpoint=True) / 4.0

    return np.asarray(real() + 1j * real() if kind == "c" else real()).astype(dtype)


def laid_out(rng: np.random.Generator, array: np.ndarray, layout: str) -> Any:
    """Return `array` in another memory layout; `broadcast` and `window` repeat some of its values instead."""
    shape = array.shape
    if layout == "F":
        return np.asfortranarray(array) if array.ndim else array
    if layout == "permuted" and array.ndim:
        order = rng.permutation(array.ndim)
        return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    if layout == "reversed":
        flip = tuple(slice(None, None, -1) for _ in shape)
        return array[flip].copy()[flip] if array.ndim else array
    if layout == "step":
        steps = [int(rng.integers(1, 4)) for _ in shape]
        room = np.ones([extent * step for extent, step in zip(shape, steps, strict=True)], array.dtype)
        every: tuple[Any, ...] = tuple(slice(None, None, step) for step in steps)
        view = room[(*every, ...)]
        view[...] = array
        return view
    if layout == "broadcast" and array.ndim and array.size:
        axis = int(rng.integers(array.ndim))
        return np.broadcast_to(array.take([0], axis), shape)
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
        return array
    if layout == "unaligned" and array.size:
        room_of_bytes = np.zeros(array.nbytes + 1, np.uint8)
        view = room_of_bytes[1:].view(array.dtype).reshape(shape)
        view[...] = array
        return view
    if layout == "swapped":
        return array.astype(array.dtype.newbyteorder("S"))
    if layout == "window" and array.size:
        flat = array.ravel().copy()
        length = sum(extent - 1 for extent in shape) + 1
        return np.lib.stride_tricks.as_strided(np.resize(flat, length), shape, flat.strides * array.ndim)
    if layout == "list":
        return array.tolist()
    return array


@st.composite
def numpy_operands(draw: st.DrawFn, shapes: Sequence[tuple[int, ...]]) -> tuple[Any, ...]:
    """Draw NumPy operands (now and then a nested list or a Python scalar) of the given shapes."""
    if draw(st.booleans()):
        dtypes = [draw(st.sampled_from(DTYPES))] * len(shapes)
    else:
        dtypes = [draw(st.sampled_from(DTYPES)) for _ in shapes]
    layouts = [draw(st.sampled_from(LAYOUTS)) for _ in shapes]
    style = draw(st.sampled_from(("dyadic", "full", "extreme")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result = np.result_type(*dtypes)
    style = "full" if style == "extreme" and result.kind not in "iu" else style
    bound = 1.0 if result == np.float16 else 2.0
    return tuple(
        laid_out(rng, values(rng, shape, dtype, style, bound), _possible(layout, shape, dtype))
        for shape, dtype, layout in zip(shapes, dtypes, layouts, strict=True)
    )


def _possible(layout: str, shape: tuple[int, ...], dtype: str) -> str:
    """Return `layout`, or "C" where a nested list would lose the dtype or the shape."""
    listed = dtype in ("bool", "int64", "float64", "complex128") and 0 not in shape
    return "C" if layout == "list" and not listed else layout


@st.composite
def numpy_cases(draw: st.DrawFn, *, extended: bool = False) -> Case:
    """Draw a call with NumPy operands."""
    case, shapes = draw(expressions(extended=extended))
    return replace(case, operands=draw(numpy_operands(shapes)))


TORCH_DTYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
    "complex64", "complex128",
)  # fmt: skip
TORCH_LAYOUTS = ("contiguous", "permuted", "step", "expanded", "offset", "conjugated", "negated")


@st.composite
def torch_cases(draw: st.DrawFn, *, extended: bool = True) -> Case:
    """Draw a call with torch tensors, also with lazily conjugated and lazily negated ones."""
    case, shapes = draw(expressions(extended=extended))
    if draw(st.booleans()):
        dtypes = [draw(st.sampled_from(TORCH_DTYPES))] * len(shapes)
    else:
        dtypes = [draw(st.sampled_from(TORCH_DTYPES)) for _ in shapes]
    layouts = [draw(st.sampled_from(TORCH_LAYOUTS)) for _ in shapes]
    style = draw(st.sampled_from(("dyadic", "full")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = [
        torch_tensor(rng, shape, dtype, layout, style)
        for shape, dtype, layout in zip(shapes, dtypes, layouts, strict=True)
    ]
    return replace(case, operands=tuple(tensors))


def torch_tensor(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, layout: str, style: str
) -> Any:
    """Return a CPU tensor of small values in the given layout."""
    import torch

    kind = getattr(torch, dtype)
    drawn = values(rng, shape, "float32" if dtype == "bfloat16" else dtype, style, 1.0)
    tensor = torch.from_numpy(np.ascontiguousarray(drawn).reshape(shape)).to(kind)
    if layout == "permuted":
        order = [int(k) for k in rng.permutation(len(shape))]
        return tensor.permute(order).contiguous().permute([order.index(k) for k in range(len(shape))])
    if layout == "step":
        room = torch.ones([2 * extent for extent in shape], dtype=kind)
        every: tuple[Any, ...] = (slice(None, None, 2),) * len(shape)
        view = room[(*every, ...)]
        view.copy_(tensor)
        return view
    if layout == "expanded" and tensor.numel() and tensor.dim():
        axis = int(rng.integers(tensor.dim()))
        return tensor.narrow(axis, 0, 1).expand(shape)
    if layout == "offset":
        room = torch.ones(tensor.numel() + 3, dtype=kind)
        room[3:] = tensor.reshape(-1)
        return room[3:].view(shape)
    if layout == "conjugated" and kind.is_complex:
        return tensor.conj()
    if layout == "negated" and kind in (torch.float32, torch.float64):
        return torch.complex(tensor, tensor).conj().imag  # stays a lazy negation
    return tensor


@dataclass(frozen=True)
class Ring:
    """A semiring with the arrays its rules are tested on.

    `add` and `multiply` act on whole arrays; `exact` says that results are compared bit by bit, otherwise to
    a tolerance; `has_zero` that the dtype can hold the semiring's zero.
    """

    name: str
    semiring: str
    dtype: str
    add: Any
    multiply: Any
    zero: Any
    one: Any
    exact: bool = True
    idempotent: bool = False

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Return random values: quarters, for which float64 arithmetic of small expressions is exact."""
        size = tuple(shape)
        if self.dtype == "bool":
            return np.asarray(rng.random(size) < 0.6)
        if self.dtype in ("int64", "uint64"):
            return values(rng, size, self.dtype, "extreme")
        low = 0 if self.semiring == "max_times" else -8
        drawn = rng.integers(low, 8, size=size, endpoint=True) / 4.0
        if self.dtype == "complex128":
            drawn = drawn + 1j * (rng.integers(low, 8, size=size, endpoint=True) / 4.0)
        return np.asarray(drawn)

    def unit(self, extent: int) -> np.ndarray:
        """Return the unit matrix of this semiring."""
        unit = self.zeros([extent, extent])
        unit[np.arange(extent), np.arange(extent)] = self.one
        return unit

    def zeros(self, shape: Sequence[int]) -> np.ndarray:
        """Return an array of the semiring's zero."""
        return np.full(tuple(shape), self.zero, self.dtype)

    def ones(self, shape: Sequence[int]) -> np.ndarray:
        """Return an array of the semiring's one."""
        return np.full(tuple(shape), self.one, self.dtype)


RINGS = (
    Ring("real", "sum_product", "float64", np.add, np.multiply, 0.0, 1.0),
    Ring("max_plus", "max_plus", "float64", np.maximum, np.add, -math.inf, 0.0, idempotent=True),
    Ring("min_plus", "min_plus", "float64", np.minimum, np.add, math.inf, 0.0, idempotent=True),
    Ring("max_times", "max_times", "float64", np.maximum, np.multiply, 0.0, 1.0, idempotent=True),
    Ring("or_and", "or_and", "bool", np.logical_or, np.logical_and, False, True, idempotent=True),
    Ring("log_sum_exp", "log_sum_exp", "float64", np.logaddexp, np.add, -math.inf, 0.0, exact=False),
    Ring("int64", "sum_product", "int64", np.add, np.multiply, 0, 1),
    Ring("uint64", "sum_product", "uint64", np.add, np.multiply, 0, 1),
    Ring("complex", "sum_product", "complex128", np.add, np.multiply, 0.0, 1.0),
)
"""The semirings of the rules; int64 and uint64 are the integers modulo 2**64."""


@dataclass(frozen=True)
class Formal:
    """An expression of the formal language: one output, single-letter modes, equal extents, no ellipsis."""

    inputs: tuple[str, ...]
    output: str
    extents: dict[str, int]
    seed: int

    @property
    def text(self) -> str:
        return ",".join(self.inputs) + "->" + self.output

    @property
    def symbols(self) -> list[str]:
        """Every symbol once, in order of first appearance."""
        return list(dict.fromkeys("".join(self.inputs)))

    def fresh(self, count: int) -> list[str]:
        """Return `count` letters that are not in use."""
        return [c for c in string.ascii_letters if c not in self.extents][:count]

    def shape(self, term: str) -> tuple[int, ...]:
        return tuple(self.extents[c] for c in term)

    def operands(self, ring: Ring) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        return [ring.draw(rng, self.shape(term)) for term in self.inputs]


@st.composite
def formals(
    draw: st.DrawFn,
    *,
    min_operands: int = 1,
    max_operands: int = 4,
    symbols: str = "abcde",
    extents: Sequence[int] = (2, 3, 1, 2),
    repeated_output: bool = True,
    same_extent: bool = False,
    min_order: int = 0,
) -> Formal:
    """Draw a formal expression, with repeats inside terms and (if wanted) inside the output."""
    pool = symbols[: draw(st.integers(1, len(symbols)))]
    count = draw(st.integers(min_operands, max_operands))
    word = st.text(alphabet=pool, min_size=min_order, max_size=3)
    inputs = tuple(draw(word) for _ in range(count))
    used = list(dict.fromkeys("".join(inputs)))
    one = draw(st.sampled_from(tuple(extents)))
    sizes = {c: one if same_extent else draw(st.sampled_from(tuple(extents))) for c in used}
    output = "".join(draw(st.permutations(used)))[: draw(st.integers(0, min(3, len(used))))]
    if repeated_output and output and draw(st.integers(0, 2)) == 0:
        output += output[draw(st.integers(0, len(output) - 1))]
    return Formal(inputs, output, sizes, draw(st.integers(0, 2**32 - 1)))
